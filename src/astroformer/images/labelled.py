"""Labelled images: how many there are, what they are called, and what reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypedDict, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from astroformer.images.bands import Bands
from astroformer.images.hashes import hash_array, hash_text, new_hash
from astroformer.images.reading import Array, UnreadableImage
from astroformer.images.stated import Stated

Reader = Callable[[int], Array]
"""Decodes image i to `(H, W, C)`, as `read_image` does. It raises `UnreadableImage` if it can't."""


@runtime_checkable
class HashingReader(Protocol):
    """A `Reader` that says what its images contain without decoding them."""

    def __call__(self, i: int, /) -> Array: ...

    def digests(self, indices: NDArray[np.int64], cache: Path | None) -> Iterable[bytes]:
        """One digest (see `hashes`) for each of these images, in their order.

        Args:
            cache: folder in which digests may be remembered.
        """


class SetRecord(TypedDict, total=False):
    """What a run's record keeps of a published set."""

    name: str
    part: str
    licence: str
    citation: str
    homepage: str
    split: str
    revision: str
    """Of a set of Hugging Face: the commit that was read."""
    sha256: dict[str, str]
    """The checksum of each file, by the file's name."""


class Boxes(NamedTuple):
    """Squares of a mosaic.

    Attributes:
        layers: the file and the number of the HDU of each band.
        corner_N2: (N, 2) row and column of the first pixel of each square.
        side: of the squares in pixels.
        reach: largest distance in arcsec, along a side, of the centres of two squares that share pixels.
        placed_N: (N,) whether an image has a square in the mosaic.
    """

    layers: frozenset[tuple[str, int]]
    corner_N2: NDArray[np.int64]
    side: int
    reach: float
    placed_N: NDArray[np.bool_]


class Named(NamedTuple):
    """The groups that a column of a catalog names.

    Attributes:
        column: its name.
        value_N: (N,) of text.
    """

    column: str
    value_N: NDArray[np.str_]


@dataclass(frozen=True)
class Whereabouts:
    """What tells that an image shows what one of another source does (`shared.py`), beside its position.

    Attributes:
        boxes: the squares of a mosaic that the images are.
        same_sky: distance in arcsec up to which two images show the same sky; None where nobody says.
        named: the groups that the images are of.
    """

    boxes: Boxes | None = None
    same_sky: float | None = None
    named: Named | None = None

    def subset(self, chosen: NDArray[np.int64]) -> Whereabouts:
        """Those of the images at these positions of the list."""
        boxes, named = self.boxes, self.named
        if boxes is not None:
            boxes = boxes._replace(corner_N2=boxes.corner_N2[chosen], placed_N=boxes.placed_N[chosen])
        return replace(self, boxes=boxes, named=named and named._replace(value_N=named.value_N[chosen]))


@dataclass(frozen=True)
class LabelledImages:
    """N images, their labels and where they come from. Nothing is decoded until `read` is called.

    Examples:
        >>> import numpy as np
        >>> pixels = np.zeros((3, 32, 32, 1), np.uint8)
        >>> images = LabelledImages("three", ["a", "b", "c"], np.array([0, 1, 1]), ("cat", "dog"), pixels.__getitem__)
        >>> images.counts()
        {'cat': 1, 'dog': 2}
        >>> images.subset([2, 0]).files
        ['c', 'a']
        >>> images.read(1).shape
        (32, 32, 1)

    Attributes:
        source: what the user named, for messages.
        files: N names, each once: the path within the folder, the catalog's entry, or `FILE.npz#17`.
        labels: (N,) int64, positions in `classes`; None if the images have no labels.
        classes: class names in the order of the labels.
        reader: decodes image i. Every reader of this package can be pickled and called from several threads, and is a
            `HashingReader`.
        ignored: files that were found and are no images, as `name (why)`.
        groups: (N,) int64; images with the same number show the same thing, and a split never parts them. None where
            each image stands alone.
        about: of a published set: its name, part, licence, citation and checksums, for the record.
        columns: other columns of a catalog that somebody asked for, by name: N values each, as the catalog has them.
        bands: what the bands of every image are; None where the source says nothing of them.
        masks: whether the source marks pixels without a value. The reader gives float32 with NaN there. Training then
            fills them by default; NaN in images of other sources is refused unless somebody asks for that.
        votes_NK: (N, K) float64, the share of people who called image i a k; rows sum to 1, and the label is the class
            with most of them (`votes.voted` makes them of counts). None where a label is all there is.
        weights_N: (N,) float64 ≥ 0, how much an image counts in the loss of training; None: all alike. Evaluation
            counts every image once.
        positions_N2: (N, 2) float64, right ascension and declination in degrees, NaN where an image has none; None
            where they are not known.
        whereabouts: what tells that images of another source show the same.
        stated: what the source states of the sky that its images show, and of their values.
        notes: sentences that whoever uses the images should read: which bands were chosen, what is missing.
    """

    source: str
    files: list[str]
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...]
    reader: Reader
    ignored: list[str] = field(default_factory=list)
    groups: NDArray[np.int64] | None = None
    about: SetRecord = field(default_factory=lambda: SetRecord())
    columns: dict[str, list[Any]] = field(default_factory=dict)
    bands: Bands | None = None
    masks: bool = False
    votes_NK: NDArray[np.float64] | None = None
    weights_N: NDArray[np.float64] | None = None
    positions_N2: NDArray[np.float64] | None = None
    whereabouts: Whereabouts = field(default_factory=Whereabouts)
    stated: Stated = field(default_factory=Stated)
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.files)

    def read(self, i: int) -> Array:
        """Image i, `(H, W, C)`. Raises `UnreadableImage` if it cannot be decoded."""
        return self.reader(i)

    def subset(self, indices: Sequence[int] | NDArray[np.integer]) -> LabelledImages:
        """The images at these positions, in this order. Classes stay, also those left without an image."""
        chosen = np.asarray(indices, np.int64)
        return replace(
            self,
            files=[self.files[i] for i in chosen],
            labels=None if self.labels is None else self.labels[chosen],
            reader=_Subset(self.reader, chosen),
            groups=None if self.groups is None else self.groups[chosen],
            votes_NK=None if self.votes_NK is None else self.votes_NK[chosen],
            weights_N=None if self.weights_N is None else self.weights_N[chosen],
            positions_N2=None if self.positions_N2 is None else self.positions_N2[chosen],
            whereabouts=self.whereabouts.subset(chosen),
            columns={name: [values[i] for i in chosen] for name, values in self.columns.items()},
        )

    def counts(self) -> dict[str, int]:
        """Images a class, in the order of `classes`; empty if there are no labels."""
        if self.labels is None:
            return {}
        counted = np.bincount(self.labels, minlength=len(self.classes))
        return {name: int(n) for name, n in zip(self.classes, counted, strict=True)}

    def amounts(self) -> dict[str, float]:
        """How much there is of each class: images, or of votes the sum of shares; empty without labels."""
        if self.votes_NK is None:
            return dict(self.counts())
        return dict(zip(self.classes, self.votes_NK.sum(0).tolist(), strict=True))

    def fingerprint(self, cache: Path | None = None) -> str:
        """Hash of what the images contain, in their order; names, labels and times of change do not enter.

        Image files are hashed whole. Hashes are kept in `cache` (a folder) and reused while a file stays as it is by
        its inode, size and times of change. Images whose reader is no `HashingReader` are decoded and hashed.
        """
        total = new_hash()
        total.update(f"{len(self)} images".encode())
        for digest in digests_of(self.reader, np.arange(len(self)), cache):
            total.update(digest)
        return total.hexdigest()


@dataclass(frozen=True)
class _Subset:
    """Reads some of another reader's images."""

    reader: Reader
    indices: NDArray[np.int64]

    def __call__(self, i: int) -> Array:
        return self.reader(int(self.indices[i]))

    def digests(self, indices: NDArray[np.int64], cache: Path | None) -> Iterable[bytes]:
        return digests_of(self.reader, self.indices[indices], cache)


def digests_of(reader: Reader, indices: NDArray[np.int64], cache: Path | None) -> Iterable[bytes]:
    """A digest for each of these images of a reader; one that does not make digests has its images decoded."""
    if isinstance(reader, HashingReader):
        return reader.digests(indices, cache)
    return (_digest_decoded(reader, int(i)) for i in indices)


def _digest_decoded(reader: Reader, i: int) -> bytes:
    try:
        return hash_array(reader(i))
    except UnreadableImage as error:
        return hash_text(error.reason)
