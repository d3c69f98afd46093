"""Published data sets by name: where they lie, who made them, how they are split, and how their files are read.

Readers are our own and small: the formats are plain records, and torchvision's reader of CIFAR loads pickles, which
could run code. Checksums and sizes are those that the places named beside them publish.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import struct
import tarfile
import threading
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray

from astroformer.cache import default_cache
from astroformer.errors import UserError, unknown_name
from astroformer.images import mock_galaxies
from astroformer.images.contact_sheet import draw_contact_sheet
from astroformer.images.dealing import deal
from astroformer.images.download import Listener, Resource, fetch
from astroformer.images.reading import Array, UnreadableImage, read_image
from astroformer.images.sky import friends_of_friends

_KRIZHEVSKY = ("https://www.cs.toronto.edu/~kriz", "https://cave.cs.toronto.edu/kriz")
_FASHION = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
)
_CITE_TINY_IMAGES = "A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, technical report, 2009"


@dataclass(frozen=True)
class Content:
    """The images of one part of a set, before they are `LabelledImages`.

    Attributes:
        images: (N, H, W) or (N, C, H, W) uint8, or what reads image i.
        labels: (N,) int64, positions in `classes`.
        files: N names, each once.
        groups: (N,) int64, images with the same number show the same place; None where each stands alone.
    """

    images: Array | Callable[[int], Array]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    files: list[str]
    groups: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class NamedSet(ABC):
    """A published data set. A kind of its own for each says how its files are read.

    Attributes:
        name: the word for it.
        title: its full name.
        resources: its files.
        licence: as its authors state it.
        citation: what to cite.
        homepage: where its authors describe it.
        classes: class names in the order of the labels; empty if only the files hold them.
        number_of_classes, images: how many of each, with the images a part.
        split: how the parts come about.
    """

    name: str
    title: str
    resources: tuple[Resource, ...]
    licence: str
    citation: str
    homepage: str
    number_of_classes: int
    images: dict[str, int]
    split: str
    classes: tuple[str, ...] = ()

    @abstractmethod
    def read(self, files: Sequence[Path], part: str, digest: str) -> Content:
        """The images of one part.

        Args:
            files: of `resources`, in their order, checked.
            part: a key of `images`.
            digest: stands for what is in the files.

        Raises:
            UserError: the files do not hold what they should.
        """

    def folder(self) -> Path:
        """Where its files lie."""
        return default_cache() / "data-sets" / self.name

    def open(self, part: str | None, listener: Listener | None = None) -> tuple[Content, dict[str, Any]]:
        """The images of one part, downloaded if need be, and what a record keeps of where they are from.

        Raises:
            UserError: no such part; the files can't be had, or do not hold what they should.
        """
        parts = " or ".join(f"{self.name}:{name}" for name in self.images)
        if part is None:
            raise UserError(f"'{self.name}' has several parts; write {parts}.")
        if part not in self.images:
            raise unknown_name(f"part of {self.name}", part, self.images)
        self.prepare()
        found = self._files(listener)
        digest = hashlib.sha256(" ".join(sha256 for _, sha256 in found).encode()).hexdigest()
        content = self.read([path for path, _ in found], part, digest)
        about = {
            "name": self.name,
            "part": part,
            "licence": self.licence,
            "citation": self.citation,
            "homepage": self.homepage,
            "split": self.split,
            "sha256": {path.name: sha256 for path, sha256 in found},
        }
        return content, about

    def prepare(self) -> None:  # noqa: B027 (most need nothing)
        """Raises `UserError` if reading the set needs something that is missing, before it is downloaded."""

    def _files(self, listener: Listener | None) -> list[tuple[Path, str]]:
        folder = self.folder()
        if listener is not None and not all((folder / resource.name).is_file() for resource in self.resources):
            listener.say(f"{self.title}, to '{folder}'. Licence: {self.licence}. Cite: {self.citation}.")
        return [fetch(resource, folder, listener) for resource in self.resources]

    def plot(self, path: Path, part: str = "train", listener: Listener | None = None) -> None:
        """Writes a picture of the first image of each class."""
        content, _ = self.open(part, listener)
        chosen = [int(np.flatnonzero(content.labels == k)[0]) for k in np.unique(content.labels)]
        images = [content.images(i) if callable(content.images) else _upright(content.images[i]) for i in chosen]
        draw_contact_sheet(images, [content.classes[content.labels[i]] for i in chosen], path)

    def to_dict(self) -> dict[str, Any]:
        """What is declared of it, for JSON."""
        return {
            "name": self.name,
            "title": self.title,
            "images": self.images,
            "classes": self.number_of_classes,
            "class_names": list(self.classes),
            "split": self.split,
            "bytes": sum(resource.size for resource in self.resources),
            "licence": self.licence,
            "citation": self.citation,
            "homepage": self.homepage,
            "files": [
                {
                    "name": r.name,
                    "urls": list(r.urls),
                    "bytes": r.size,
                    "exact": r.exact,
                    "sha256": r.sha256,
                    "md5": r.md5,
                }
                for r in self.resources
            ],
            "folder": str(self.folder()),
        }


def _upright(image: Array) -> Array:
    return image[:, :, None] if image.ndim == 2 else image.transpose(1, 2, 0)


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"'{path}' is damaged ({why}). Remove it, to have it downloaded again.")


# CIFAR ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Cifar(NamedSet):
    """The binary version: records of one or two label bytes and 3,072 of pixels (red, green, blue; row by row)."""

    label_bytes: int = 1
    class_file: str = ""
    members: ClassVar[dict[str, tuple[str, ...]]] = {}

    def read(self, files: Sequence[Path], part: str, digest: str) -> Content:
        archive, record = files[0], self.label_bytes + 3072
        parts = self.members[part]
        data = _tar_members(archive, (self.class_file, *parts))
        names = tuple(data[self.class_file].decode("utf-8", "replace").split())
        if names != self.classes:
            raise _damaged(archive, f"{self.class_file} names other classes")
        for member in parts:
            if not data[member] or len(data[member]) % record:
                raise _damaged(archive, f"{member} has {len(data[member]):,} bytes, no multiple of {record:,}")
        rows = np.frombuffer(b"".join(data[member] for member in parts), np.uint8).reshape(-1, record)
        labels = rows[:, self.label_bytes - 1].astype(np.int64)  # of two, the second is the fine one
        if labels.max() >= len(self.classes):
            raise _damaged(archive, f"a label is {labels.max()}, of {len(self.classes)} classes")
        images = rows[:, self.label_bytes :].reshape(-1, 3, 32, 32)
        return Content(images, labels, self.classes, [f"{self.name}-{part}-{i}" for i in range(len(labels))])


class Cifar10(_Cifar):
    members: ClassVar[dict[str, tuple[str, ...]]] = {
        "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        "test": ("test_batch.bin",),
    }


class Cifar100(_Cifar):
    members: ClassVar[dict[str, tuple[str, ...]]] = {"train": ("train.bin",), "test": ("test.bin",)}


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
        raise _damaged(path, str(error) or type(error).__name__) from None
    missing = [name for name in names if name not in found]
    if missing:
        raise _damaged(path, f"{', '.join(missing)} is not in it")
    return found


# Fashion-MNIST ----------------------------------------------------------------------------------------------


class FashionMnist(NamedSet):
    """Four IDX files (http://yann.lecun.com/exdb/mnist); Debian's package `dataset-fashion-mnist` has them too."""

    installed: ClassVar[Path] = Path("/usr/share/datasets/fashion-mnist")

    def _files(self, listener: Listener | None) -> list[tuple[Path, str]]:
        there = [self.installed / resource.name for resource in self.resources]
        if not all(path.is_file() for path in there):
            return super()._files(listener)
        # Debian packs them anew, so that their checksums differ; its package manager has checked its own.
        return [(path, hashlib.sha256(path.read_bytes()).hexdigest()) for path in there]

    def read(self, files: Sequence[Path], part: str, digest: str) -> Content:
        chosen = {path.name: path for path in files}
        prefix = "train" if part == "train" else "t10k"
        images = _read_idx(chosen[f"{prefix}-images-idx3-ubyte.gz"], 3)
        labels = _read_idx(chosen[f"{prefix}-labels-idx1-ubyte.gz"], 1).astype(np.int64)
        if len(images) != len(labels) or not len(labels):
            raise _damaged(files[0].parent, f"{len(images):,} images of '{part}' have {len(labels):,} labels")
        if labels.max() >= len(self.classes):
            raise _damaged(files[0].parent, f"a label of '{part}' is {labels.max()}, of {len(self.classes)} classes")
        return Content(images, labels, self.classes, [f"{self.name}-{part}-{i}" for i in range(len(labels))])


def _read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The array of an IDX file: 0, 0, 8 (unsigned byte), number of dimensions, sizes (big-endian uint32), values."""
    try:
        with gzip.open(path, "rb") as file:
            data = file.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path, str(error) or type(error).__name__) from None
    begin = 4 + 4 * dimensions
    if len(data) < begin or data[:4] != bytes((0, 0, 8, dimensions)):
        raise _damaged(path, f"no IDX file of {dimensions} dimension{'s' * (dimensions > 1)}")
    shape = struct.unpack(f">{dimensions}I", data[4:begin])
    size = int(np.prod([int(n) for n in shape], dtype=object))
    if len(data) - begin != size:
        raise _damaged(path, f"{' × '.join(map(str, shape))} values are announced, {len(data) - begin:,} are there")
    return np.frombuffer(data, np.uint8, offset=begin).reshape(shape)


# Tiny ImageNet ----------------------------------------------------------------------------------------------


class TinyImageNet(NamedSet):
    """A zip of JPEGs; the classes are WordNet ids.

    The labels of its own test images were never published: `test` is what it calls `val`, as in published figures.
    """

    def read(self, files: Sequence[Path], part: str, digest: str) -> Content:
        path = files[0]
        try:
            with ZipFile(path) as archive:
                members = archive.namelist()
                root = members[0].partition("/")[0] + "/"
                classes = tuple(sorted(archive.read(root + "wnids.txt").decode().split()))
                if part == "train":
                    inside = [name.removeprefix(root).split("/") for name in members]
                    found = [(parts[1], "/".join(parts)) for parts in inside
                             if len(parts) == 4 and parts[0] == "train" and parts[3].endswith(".JPEG")]  # fmt: skip
                    found.sort(key=lambda pair: (pair[0], len(pair[1]), pair[1]))  # n01443537_9 before n01443537_10
                else:
                    text = archive.read(root + "val/val_annotations.txt").decode()
                    rows = [row.split("\t") for row in text.splitlines() if row.strip()]
                    found = [(row[1], f"val/images/{row[0]}") for row in rows]
        except (BadZipFile, KeyError, IndexError, UnicodeDecodeError, zlib.error, EOFError) as error:
            raise _damaged(path, str(error).strip("'\"")) from None
        position = {name: k for k, name in enumerate(classes)}
        stray = sorted({name for name, _ in found if name not in position})
        missing = sorted({file for _, file in found} - {name.removeprefix(root) for name in members})
        if stray or missing or not found:
            raise _damaged(path, f"{(stray or missing or ['any image'])[0]} is not in it")
        labels = np.array([position[name] for name, _ in found], np.int64)
        names = [file for _, file in found]
        return Content(ZipReader(path, root, tuple(names), digest), labels, classes, names)


class ZipReader:
    """Reads image i, a member of a zip, from several threads at once."""

    def __init__(self, path: Path, root: str, names: tuple[str, ...], digest: str) -> None:
        self.path, self.root, self.names, self.digest = path, root, names, digest
        self._archive: ZipFile | None = None
        self._opening = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.root, self.names, self.digest)

    def __call__(self, i: int) -> Array:
        name = self.names[i]
        with self._opening:
            if self._archive is None:
                self._archive = ZipFile(self.path)
        try:
            data = self._archive.read(self.root + name)
        except (BadZipFile, KeyError, zlib.error, EOFError, OSError) as error:
            raise UnreadableImage(name, f"damaged in '{self.path}' ({error})") from None
        return read_image(data, name=name)

    def digests(self, indices: NDArray[np.int64], cache: Path | None) -> Iterator[bytes]:
        return (_hash(f"{self.digest} {self.names[int(i)]}") for i in indices)


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


# Galaxy10 DECaLS --------------------------------------------------------------------------------------------


class Galaxy10Decals(NamedSet):
    """One HDF5 file: `images` (N, H, W, 3) uint8, and (N,) of `ans` (label), `ra`, `dec` (degrees), `pxscale` (arcsec a
    pixel), `redshift`. Its authors publish no split."""

    test_share: ClassVar[float] = 0.2

    def prepare(self) -> None:
        if importlib.util.find_spec("h5py") is None:
            raise UserError(f"{self.name} needs the extra [astro]: pip install 'astroformer[astro]'.")

    def read(self, files: Sequence[Path], part: str, digest: str) -> Content:
        import h5py

        path, columns = files[0], {}
        try:
            with h5py.File(path, "r") as file:
                shape, kind = file["images"].shape, file["images"].dtype
                for name in ("ans", "ra", "dec", "pxscale"):
                    columns[name] = np.asarray(file[name][()])
        except (OSError, KeyError, AttributeError, TypeError) as error:
            raise _damaged(path, str(error).strip("'\"")) from None
        n = shape[0] if len(shape) == 4 else 0
        if not n or shape[3] != 3 or kind != np.uint8 or any(column.shape != (n,) for column in columns.values()):
            raise _damaged(path, f"'images' is {shape} of {kind}, and {n} values of each column are needed")
        labels = columns["ans"].astype(np.int64)
        if labels.min() < 0 or labels.max() >= len(self.classes):
            raise _damaged(path, f"labels are {labels.min()} to {labels.max()}, of {len(self.classes)} classes")
        groups = sky_groups(columns["ra"], columns["dec"], columns["pxscale"] * max(shape[1:3]))
        chosen = sky_split(labels, groups, columns["ra"], columns["dec"], self.test_share)[part]
        reader = Hdf5Reader(path, chosen, digest)
        names = [f"{self.name}-{i}" for i in chosen]
        return Content(reader, labels[chosen], self.classes, names, groups[chosen])


def sky_groups(
    ra_N: NDArray[np.floating], dec_N: NDArray[np.floating], side_N: NDArray[np.floating]
) -> NDArray[np.int64]:
    """(N,) groups of cutouts that show the same sky: centres within a cutout's side (arcsec), or linked through others.

    One whose place or side is not known stands alone.
    """
    known = np.flatnonzero(np.isfinite(ra_N) & np.isfinite(dec_N) & np.isfinite(side_N) & (side_N > 0))
    groups = np.arange(len(ra_N))
    groups[known] = known[friends_of_friends(ra_N[known], dec_N[known], side_N[known])]
    return groups


def sky_split(
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    ra_N: NDArray[np.floating],
    dec_N: NDArray[np.floating],
    share: float,
) -> dict[str, NDArray[np.int64]]:
    """Indices of `train` and `test`, each sorted: no group is in both, and of each class about `share` is in `test`.

    Who goes where follows from the positions (hashed to 1e-6 degrees) alone, whichever order the file has.
    """
    rank = np.argsort([_hash(f"{ra:.6f} {dec:.6f}") for ra, dec in zip(ra_N, dec_N, strict=True)], kind="stable")
    order = np.empty(len(labels), np.int64)
    order[rank] = np.arange(len(labels))
    part = deal(labels, groups, (1 - share, share), order)
    return {"train": np.flatnonzero(part == 0), "test": np.flatnonzero(part == 1)}


class Hdf5Reader:
    """Reads image `rows[i]` of the file's `images`, in the file's own blocks, of which it keeps the latest two.

    A compressed file has to be unpacked a block of many images at a time; in order, each is unpacked once.
    """

    _KEPT = 2
    _BLOCK = 64  # images, where the file has no blocks

    def __init__(self, path: Path, rows: NDArray[np.int64], digest: str) -> None:
        self.path, self.rows, self.digest = path, rows, digest
        self._file: Any = None
        self._blocks: dict[int, Array] = {}
        self._one_at_a_time = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.rows, self.digest)

    def __call__(self, i: int) -> Array:
        row = int(self.rows[i])
        try:
            with self._one_at_a_time:
                return self._read(row)
        except (OSError, KeyError, IndexError, ValueError) as error:
            raise UnreadableImage(f"{self.path.name}#{row}", f"damaged ({error})") from None

    def _read(self, row: int) -> Array:
        import h5py

        if self._file is None:
            self._file = h5py.File(self.path, "r")
        images = self._file["images"]
        length = images.chunks[0] if images.chunks else self._BLOCK
        number = row // length
        if number not in self._blocks:
            while len(self._blocks) >= self._KEPT:
                del self._blocks[next(iter(self._blocks))]
            self._blocks[number] = images[number * length : (number + 1) * length]
        image: Array = self._blocks[number][row % length].copy()
        return image

    def digests(self, indices: NDArray[np.int64], cache: Path | None) -> Iterator[bytes]:
        return (_hash(f"{self.digest} {self.rows[int(i)]}") for i in indices)


# The sets ---------------------------------------------------------------------------------------------------


def _mirrored(name: str, places: Sequence[str], size: int, sha256: str, md5: str | None = None) -> Resource:
    return Resource(name, tuple(f"{place}/{name}" for place in places), size, sha256, md5)


_CIFAR100_CLASSES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
"""

NAMED_SETS: dict[str, NamedSet] = {
    declared.name: declared
    for declared in (
        Galaxy10Decals(
            name="galaxy10-decals",
            title="Galaxy10 DECaLS",
            # SHA-256 and size: its authors (github.com/henrysky/Galaxy10), the size as "2.54 GB". MD5: Zenodo's record.
            resources=(
                Resource(
                    "Galaxy10_DECals.h5",
                    (
                        "https://zenodo.org/records/10845026/files/Galaxy10_DECals.h5",
                        "https://www.astro.utoronto.ca/~hleung/shared/Galaxy10/Galaxy10_DECals.h5",
                    ),
                    2_540_000_000,
                    "19aefc477c41bb7f77ff07599a6b82a038dc042f889a111b0d4d98bb755c1571",
                    "c6b7b4db82b3a5d63d6a7e3e5249b51c",
                    exact=False,
                ),
            ),
            licence="not checked by us; see doi.org/10.5281/zenodo.10845026",
            citation="H. Leung, J. Bovy, Galaxy10 DECaLS, Zenodo, 2024, doi:10.5281/zenodo.10845026; labels: Galaxy "
            "Zoo (Lintott et al. 2008, 2011; Walmsley et al. 2021); images: DESI Legacy Surveys (Dey et al. 2019)",
            homepage="https://github.com/henrysky/Galaxy10",
            number_of_classes=10,
            images={"train": 14_187, "test": 3_549},
            split="ours (none is official): a fifth of each class to test, cutouts less than a side apart together",
            classes=mock_galaxies.CLASSES,  # which are made in these ten
        ),
        Cifar10(
            name="cifar10",
            title="CIFAR-10, binary version",
            # MD5: the homepage. SHA-256 and size: tensorflow_datasets/url_checksums/cifar10.txt.
            resources=(
                _mirrored(
                    "cifar-10-binary.tar.gz",
                    _KRIZHEVSKY,
                    170_052_171,
                    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                    "c32a1d4ab5d03f1284b67883e8d87530",
                ),
            ),
            licence="none stated",
            citation=_CITE_TINY_IMAGES,
            homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
            number_of_classes=10,
            images={"train": 50_000, "test": 10_000},
            split="official",
            classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
            class_file="batches.meta.txt",
        ),
        Cifar100(
            name="cifar100",
            title="CIFAR-100, binary version, fine labels",
            # MD5: the homepage. SHA-256 and size: tensorflow_datasets/url_checksums/cifar100.txt.
            resources=(
                _mirrored(
                    "cifar-100-binary.tar.gz",
                    _KRIZHEVSKY,
                    168_513_733,
                    "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
                    "03b5dce01913d631647c71ecec9e9cb8",
                ),
            ),
            licence="none stated",
            citation=_CITE_TINY_IMAGES,
            homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
            number_of_classes=100,
            images={"train": 50_000, "test": 10_000},
            split="official",
            classes=tuple(_CIFAR100_CLASSES.split()),
            label_bytes=2,
            class_file="fine_label_names.txt",
        ),
        TinyImageNet(
            name="tiny-imagenet",
            title="Tiny ImageNet",
            # Its authors publish no checksum. MD5, SHA-256 and size: what several projects independently found.
            resources=(
                _mirrored(
                    "tiny-imagenet-200.zip",
                    ("http://cs231n.stanford.edu", "https://cs231n.stanford.edu"),
                    248_100_043,
                    "6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821",
                    "90528d7ca1a48142e341f4ef8d21d0de",
                ),
            ),
            licence="none stated (its images are ImageNet's, whose terms allow non-commercial research and education)",
            citation="Y. Le, X. Yang, Tiny ImageNet Visual Recognition Challenge, Stanford CS 231N, 2015",
            homepage="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
            number_of_classes=200,
            images={"train": 100_000, "test": 10_000},
            split="official; test is its val, whose labels are published",
        ),
        FashionMnist(
            name="fashion-mnist",
            title="Fashion-MNIST",
            # MD5: the homepage. SHA-256 and sizes: tensorflow_datasets/url_checksums/fashion_mnist.txt.
            resources=(
                _mirrored(
                    "train-images-idx3-ubyte.gz",
                    _FASHION,
                    26_421_880,
                    "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                    "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                ),
                _mirrored(
                    "train-labels-idx1-ubyte.gz",
                    _FASHION,
                    29_515,
                    "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                    "25c81989df183df01b3e8a0aad5dffbe",
                ),
                _mirrored(
                    "t10k-images-idx3-ubyte.gz",
                    _FASHION,
                    4_422_102,
                    "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                    "bef4ecab320f06d8554ea6380940ec79",
                ),
                _mirrored(
                    "t10k-labels-idx1-ubyte.gz",
                    _FASHION,
                    5_148,
                    "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
                    "bb300cfdad3c16e7a12a480ee83cd310",
                ),
            ),
            licence="MIT",
            citation="H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine "
            "Learning Algorithms, arXiv 1708.07747, 2017",
            homepage="https://github.com/zalandoresearch/fashion-mnist",
            number_of_classes=10,
            images={"train": 60_000, "test": 10_000},
            split="official",
            classes=(
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
            ),
        ),
    )
}
"""The published sets by name."""
