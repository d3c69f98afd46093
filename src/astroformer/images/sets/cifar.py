"""CIFAR-10 and CIFAR-100, in their binary version."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from astroformer.images.sets.declared import Content, NamedSet, damaged, mirrored

_PLACES = ("https://www.cs.toronto.edu/~kriz", "https://cave.cs.toronto.edu/kriz")


class _Cifar(NamedSet):
    """Records of one or two label bytes and 3,072 bytes of pixels (red, green, blue; row by row).

    Attributes:
        label_bytes: label bytes a record; of two, the second is the fine label.
        class_file: the member of the archive that names the classes.
        members: the members that hold each part.
    """

    licence = "none stated"
    citation = "A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, technical report, 2009"
    homepage = "https://www.cs.toronto.edu/~kriz/cifar.html"
    images: ClassVar[Mapping[str, int]] = {"train": 50_000, "test": 10_000}

    label_bytes: ClassVar[int]
    class_file: ClassVar[str]
    members: ClassVar[Mapping[str, tuple[str, ...]]]

    def read(self, files: Sequence[Path], part: str, digest: str) -> Content:
        archive, record = files[0], self.label_bytes + 3072
        parts = self.members[part]
        data = _tar_members(archive, (self.class_file, *parts))
        names = tuple(data[self.class_file].decode("utf-8", "replace").split())
        if names != self.classes:
            raise damaged(archive, f"{self.class_file} names other classes")
        for member in parts:
            if not data[member] or len(data[member]) % record:
                raise damaged(archive, f"{member} has {len(data[member]):,} bytes, no multiple of {record:,}")
        rows = np.frombuffer(b"".join(data[member] for member in parts), np.uint8).reshape(-1, record)
        labels = rows[:, self.label_bytes - 1].astype(np.int64)
        if labels.max() >= len(self.classes):
            raise damaged(archive, f"a label is {labels.max()}, of {len(self.classes)} classes")
        images = rows[:, self.label_bytes :].reshape(-1, 3, 32, 32)
        return Content(images, labels, self.classes, [f"{self.name}-{part}-{i}" for i in range(len(labels))])


class Cifar10(_Cifar):
    """60,000 photographs of 32 × 32 pixels in ten classes."""

    name = "cifar10"
    title = "CIFAR-10, binary version"
    # MD5: the homepage. SHA-256 and size: tensorflow_datasets/url_checksums/cifar10.txt.
    resources = (
        mirrored(
            "cifar-10-binary.tar.gz",
            _PLACES,
            170_052_171,
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            "c32a1d4ab5d03f1284b67883e8d87530",
        ),
    )
    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    number_of_classes = 10
    label_bytes = 1
    class_file = "batches.meta.txt"
    members: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        "test": ("test_batch.bin",),
    }


_CIFAR100_CLASSES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
"""


class Cifar100(_Cifar):
    """60,000 photographs of 32 × 32 pixels in a hundred classes, with the fine labels."""

    name = "cifar100"
    title = "CIFAR-100, binary version, fine labels"
    # MD5: the homepage. SHA-256 and size: tensorflow_datasets/url_checksums/cifar100.txt.
    resources = (
        mirrored(
            "cifar-100-binary.tar.gz",
            _PLACES,
            168_513_733,
            "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            "03b5dce01913d631647c71ecec9e9cb8",
        ),
    )
    classes = tuple(_CIFAR100_CLASSES.split())
    number_of_classes = 100
    label_bytes = 2
    class_file = "fine_label_names.txt"
    members: ClassVar[Mapping[str, tuple[str, ...]]] = {"train": ("train.bin",), "test": ("test.bin",)}


def _tar_members(path: Path, names: Sequence[str]) -> dict[str, bytes]:
    """What the members of these names hold, in whichever folder of the archive they lie."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r|gz") as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                if name in names and member.isfile() and (file := archive.extractfile(member)):
                    found[name] = file.read()
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise damaged(path, str(error) or type(error).__name__) from None
    missing = [name for name in names if name not in found]
    if missing:
        raise damaged(path, f"{', '.join(missing)} is not in it")
    return found
