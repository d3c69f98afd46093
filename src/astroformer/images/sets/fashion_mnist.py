"""Fashion-MNIST."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from astroformer.files import sha256_of
from astroformer.images.sets.declared import Content, NamedSet, damaged, mirrored
from astroformer.images.sets.download import Listener

_PLACES = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
)


class FashionMnist(NamedSet):
    """70,000 grey pictures of clothes, of 28 × 28 pixels, in ten classes.

    They lie in four IDX files (http://yann.lecun.com/exdb/mnist). Debian's package `dataset-fashion-mnist` has them as
    well.

    Attributes:
        installed: the folder of Debian's package.
    """

    name = "fashion-mnist"
    title = "Fashion-MNIST"
    # MD5: the homepage. SHA-256 and sizes: tensorflow_datasets/url_checksums/fashion_mnist.txt.
    resources = (
        mirrored(
            "train-images-idx3-ubyte.gz",
            _PLACES,
            26_421_880,
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        ),
        mirrored(
            "train-labels-idx1-ubyte.gz",
            _PLACES,
            29_515,
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "25c81989df183df01b3e8a0aad5dffbe",
        ),
        mirrored(
            "t10k-images-idx3-ubyte.gz",
            _PLACES,
            4_422_102,
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "bef4ecab320f06d8554ea6380940ec79",
        ),
        mirrored(
            "t10k-labels-idx1-ubyte.gz",
            _PLACES,
            5_148,
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
    )
    licence = "MIT"
    citation = (
        "H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning "
        "Algorithms, arXiv 1708.07747, 2017"
    )
    homepage = "https://github.com/zalandoresearch/fashion-mnist"
    classes = (
        "T-shirt/top",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    )
    number_of_classes = 10
    images: ClassVar[Mapping[str, int]] = {"train": 60_000, "test": 10_000}

    installed: ClassVar[Path] = Path("/usr/share/datasets/fashion-mnist")

    def find_files(self, listener: Listener | None) -> list[tuple[Path, str]]:
        there = [self.installed / resource.name for resource in self.resources]
        if not all(path.is_file() for path in there):
            return super().find_files(listener)
        # Debian compresses them anew, so their checksums differ. Its package manager has checked them.
        return [(path, sha256_of(path)) for path in there]

    def read(self, files: Sequence[Path], part: str, digest: str) -> Content:
        chosen = {path.name: path for path in files}
        prefix = "train" if part == "train" else "t10k"
        images = _read_idx(chosen[f"{prefix}-images-idx3-ubyte.gz"], 3)
        labels = _read_idx(chosen[f"{prefix}-labels-idx1-ubyte.gz"], 1).astype(np.int64)
        if len(images) != len(labels) or not len(labels):
            raise damaged(files[0].parent, f"{len(images):,} images of '{part}' have {len(labels):,} labels")
        if labels.max() >= len(self.classes):
            raise damaged(files[0].parent, f"a label of '{part}' is {labels.max()}, of {len(self.classes)} classes")
        return Content(images, labels, self.classes, [f"{self.name}-{part}-{i}" for i in range(len(labels))])


def _read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The array of an IDX file: 0, 0, 8 (unsigned byte), number of dimensions, sizes (big-endian uint32), values."""
    try:
        with gzip.open(path, "rb") as file:
            data = file.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise damaged(path, str(error) or type(error).__name__) from None
    begin = 4 + 4 * dimensions
    if len(data) < begin or data[:4] != bytes((0, 0, 8, dimensions)):
        raise damaged(path, f"no IDX file of {dimensions} dimension{'s' * (dimensions > 1)}")
    shape = struct.unpack(f">{dimensions}I", data[4:begin])
    size = int(np.prod([int(n) for n in shape], dtype=object))
    if len(data) - begin != size:
        raise damaged(path, f"{' × '.join(map(str, shape))} values are announced, {len(data) - begin:,} are there")
    return np.frombuffer(data, np.uint8, offset=begin).reshape(shape)
