"""Arrays of images and what goes with them, in whichever file they lie: shapes, types, labels, classes and bands."""

from __future__ import annotations

import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from astroformer.errors import UserError, unknown_name
from astroformer.images.bands import Bands
from astroformer.images.floats import why_not_float32
from astroformer.images.formats.positions import positions_in_arrays, with_same_sky
from astroformer.images.hashes import hash_array, hash_bytes, hash_text
from astroformer.images.labelled import LabelledImages, Reader
from astroformer.images.names import class_name, encode_labels
from astroformer.images.reading import MAX_BYTES, Array, UnreadableImage
from astroformer.images.unlabelled import NO_LABEL, SKIP, UNLABELLED, standing_for_none
from astroformer.images.votes import voted

_KEPT_BYTES = 64_000_000  # of the blocks of an array that are kept, if two of them are no more
_READ_BYTES = 1_000_000  # that are read at a time, if a block of the file is less
_MOST_IMAGES = 100_000_000
_MOST_NAMED = 4  # arrays that a sentence suggests
LAYOUTS = ("NHWC", "NCHW")


class Images(Protocol):
    """N images of one shape: an array, or what reads one of them from a file. The latter can be pickled and called from
    several threads, and raises `UnreadableImage` where it can't read one."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __getitem__(self, i: int, /) -> Array: ...


@dataclass(frozen=True)
class ArrayReader:
    """Reads image i from images `(N, H, W)`, `(N, H, W, C)` or, if `channels_first`, `(N, C, H, W)`."""

    name: str
    images: Images
    channels_first: bool

    def __call__(self, i: int) -> Array:
        image = self._as_stored(i)
        if image.dtype == np.bool_:
            image = image.astype(np.uint8) * 255
        elif image.dtype.kind == "f":
            if (why := why_not_float32(image)) is not None:
                raise UnreadableImage(f"{self.name}#{i}", why)
            image = image.astype(np.float32)
        if image.ndim == 2:
            return image[:, :, None]
        return np.ascontiguousarray(image.transpose(1, 2, 0)) if self.channels_first else image

    def _as_stored(self, i: int) -> Array:
        """Image i in its own type, in the machine's byte order."""
        image = self.images[i]
        return image.astype(image.dtype.newbyteorder("="), copy=False)

    def digests(self, indices: NDArray[np.int64], cache: Path | None) -> Iterator[bytes]:
        """Of the values alone, so that the same images have the same digests in every kind of file."""
        layout = b"CHW" if self.channels_first else b"HWC"
        for i in indices:
            try:
                yield hash_bytes(layout + hash_array(self._as_stored(int(i))))
            except UnreadableImage as error:
                yield hash_text(error.reason)


class Blocks:
    """Images of an array that a file keeps in blocks of many, which can only be unpacked whole.

    The latest blocks are kept: images that are asked for in their order unpack each of them once.
    """

    def __init__(
        self, path: Path, read: Callable[[int, int], Array], shape: tuple[int, ...], dtype: Any, sizes: BlockSizes
    ) -> None:
        """
        Args:
            path: of the file, for messages.
            read: gives the images from one number up to another. It can be pickled, and leaves nothing open: a file
                that is open can't be written, and what is open is of no use to another process.
            shape: of the array; its images come first.
            dtype: of the array.
            sizes: how many images are read at a time.
        """
        self.path, self.read = path, read
        self.shape, self.dtype, self.sizes = shape, np.dtype(dtype), sizes
        self._kept = _Kept()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.read, self.shape, self.dtype, self.sizes)

    def __getitem__(self, i: int, /) -> Array:
        kept = self._kept
        if kept.process != os.getpid():  # a fork may find the lock of its parent closed, and then for ever
            kept = self._kept = _Kept()
        try:
            with kept.one_at_a_time:
                return self._image(kept.blocks, i)
        except UserError:
            raise
        except Exception as error:  # damaged bytes make decoders raise nearly anything
            why = "not enough memory to read it" if isinstance(error, MemoryError) else f"damaged ({said(error)})"
            raise UnreadableImage(f"{self.path.name}#{i}", why) from None

    def _image(self, blocks: dict[int, Array], i: int) -> Array:
        number, place = divmod(i, self.sizes.at_once)
        if number not in blocks:
            try:
                block = self._rows(number, self.sizes.at_once)
            except Exception:  # one of the file's blocks is damaged: the others are whole
                number, place = divmod(i, self.sizes.of_file)
                return self._rows(number, self.sizes.of_file)[place].copy()
            while len(blocks) > 1 and sum(b.nbytes for b in blocks.values()) + block.nbytes > _KEPT_BYTES:
                del blocks[next(iter(blocks))]
            blocks[number] = block
        return blocks[number][place].copy()

    def _rows(self, number: int, length: int) -> Array:
        start, stop = number * length, min((number + 1) * length, self.shape[0])
        rows = self.read(start, stop)
        if rows.shape != (stop - start, *self.shape[1:]) or rows.dtype != self.dtype:
            raise ValueError("the file has changed since it was opened")
        return rows


@dataclass
class _Kept:
    """The latest blocks, by their numbers, and the lock under which they change, of one process."""

    process: int = field(default_factory=os.getpid)
    one_at_a_time: Any = field(default_factory=threading.Lock)
    blocks: dict[int, Array] = field(default_factory=dict)


def said(error: Exception) -> str:
    """What an error of a library says, in one line."""
    return " ".join(str(error).strip("'\"").split()) or type(error).__name__


class BlockSizes(NamedTuple):
    """How many images are read at once, and how many a block of the file holds."""

    at_once: int
    of_file: int


def block_sizes(
    path: Path, named: str, shape: tuple[int, ...], dtype: Any, chunk: tuple[int, ...] | None
) -> BlockSizes:
    """How many images of an array are read at a time, from the shape of the file's own blocks.

    Raises:
        UserError: an image, or what has to be unpacked for one, is larger than any that is read.
    """
    if shape[0] > _MOST_IMAGES:
        raise UserError(f"'{path}': {named} claims {shape[0]:,} images, more than {_MOST_IMAGES:,}.")
    image = _size(shape[1:], dtype)
    if image > MAX_BYTES:
        raise UserError(
            f"'{path}': an image of {named} takes {image:,} bytes, more than {MAX_BYTES:,}; cut it into smaller images."
        )
    if chunk is not None and (size := _size(chunk, dtype)) > MAX_BYTES:
        raise UserError(
            f"'{path}': {named} is stored in blocks of shape {chunk}, of which each takes {size:,} bytes, more than "
            f"{MAX_BYTES:,}; write it in smaller blocks (chunks), of about 1 MB."
        )
    # Whole blocks of the file, several where they are small; part of one where all images of a block are too much.
    of_file = max(1, min(1 if chunk is None else chunk[0], shape[0], MAX_BYTES // image))
    several = of_file * max(1, _READ_BYTES // (of_file * image))
    return BlockSizes(min(several, shape[0]), of_file)


def _size(shape: tuple[int, ...], dtype: Any) -> int:
    size = int(np.dtype(dtype).itemsize)
    for n in shape:
        size *= int(n)
    return size


@dataclass(frozen=True)
class Beside:
    """What lies beside the images in a file of arrays; None where the file has no such thing.

    Attributes:
        has: what the file has, as half a sentence.
        labels: (N,), whole numbers or names.
        classes: names of the classes.
        bands: names of the bands, or one text with commas between them.
        units: one for each band, or one for all of them.
        ignored: what of the file is not read, with why.
        votes: (N, K), numbers or shares of votes, which stand for labels where there are none.
        possible: names of other arrays that could be the labels.
        places: arrays that may be positions, by name.
    """

    has: str
    labels: Array | None = None
    classes: Array | None = None
    bands: Array | None = None
    units: Array | None = None
    ignored: tuple[str, ...] = ()
    votes: Array | None = None
    possible: tuple[str, ...] = ()
    places: Mapping[str, Array] = field(default_factory=dict)


def could_be_labels(shapes: Mapping[str, tuple[int, ...]], n: int) -> tuple[str, ...]:
    """The names of the arrays, of these shapes, that have one value for each of n images."""
    return tuple(name for name, shape in shapes.items() if shape in ((n,), (n, 1)))[:_MOST_NAMED]


def open_arrays(
    path: Path, images: Images, named: str, beside: Beside, labelled: bool, options: Mapping[str, str]
) -> LabelledImages:
    """The images of a file of arrays, with their labels if these are asked for.

    Args:
        path: of the file.
        images: of it.
        named: what a sentence calls the images: `'images'`.
        beside: what else the file holds.
        labelled: whether labels are needed.
        options: of the source: `layout` of the images, `NHWC` or `NCHW`, if somebody states it, and what labels mean.

    Raises:
        UserError: images, labels, classes or bands are not what they should be.
    """
    check_images(path, named, images.shape, images.dtype)
    bands, ignored = _bands(path, beside)
    first = _is_channels_first(path, named, images.shape, options.get("layout"), bands)
    opened = with_labels(path, ArrayReader(path.name, images, first), images.shape[0], beside, labelled, options)
    return replace(opened, bands=bands, ignored=opened.ignored + ignored)


def placed(path: Path, images: LabelledImages, beside: Beside, options: Mapping[str, str]) -> LabelledImages:
    """N images with the positions that lie beside them, and with the groups of those of the same sky on demand."""
    positions_N2 = positions_in_arrays(beside.places, len(images))
    images = images if positions_N2 is None else replace(images, positions_N2=positions_N2)
    advice = "save them, in degrees, as 'ra' and 'dec' beside the images"
    return with_same_sky(images, options, str(path), advice)


def with_labels(
    path: Path, reader: Reader, n: int, beside: Beside, labelled: bool, options: Mapping[str, str]
) -> LabelledImages:
    """The n images of a reader, with the labels that lie beside them if these are asked for."""
    files = [f"{path.name}#{i}" for i in range(n)]
    ignored = [f"{path.name}: {what}" for what in beside.ignored]
    images = placed(path, LabelledImages("", files, None, (), reader, ignored), beside, options)
    if not labelled:
        return images
    if beside.labels is None and beside.votes is not None:
        images = replace(images, source=str(path))
        classes = _classes_of_votes(path, beside.votes, beside.classes)
        return voted(images, beside.votes, classes, skip=UNLABELLED in options)
    if beside.labels is None:
        which = " or ".join(f"@labels={name}" for name in beside.possible)
        hint = f" If it holds the labels, say {which} after the path." if which else ""
        raise UserError(f"'{path}' has no 'labels'; {beside.has}.{hint}")
    labels, classes = _labels(path, beside.labels, beside.classes, n, standing_for_none(options))
    return replace(images, labels=labels, classes=classes)


def check_images(path: Path, named: str, shape: tuple[int, ...], dtype: Any) -> None:
    """Raises a `UserError` where an array of this shape and type is none of images."""
    if len(shape) not in (3, 4) or 0 in shape:
        raise UserError(f"'{path}': {named} has shape {shape}; (N, H, W), (N, H, W, C) or (N, C, H, W) is read.")
    kind = dtype.newbyteorder("=")
    if kind not in (np.uint8, np.uint16, np.bool_) and kind.kind != "f":
        raise UserError(
            f"'{path}': {named} is {kind}; uint8, uint16 and floats are read. Save signed or wider whole "
            "numbers as images.astype('float32')."
        )


def _is_channels_first(path: Path, named: str, shape: tuple[int, ...], layout: str | None, bands: Bands | None) -> bool:
    if layout not in (None, *LAYOUTS):
        raise unknown_name("layout", layout, LAYOUTS)
    if len(shape) == 3 and layout is not None:
        raise UserError(f"'{path}': {named} has shape {shape}, without channels; leave @layout={layout} out.")
    channels = {"NHW": 1} if len(shape) == 3 else {"NHWC": shape[3], "NCHW": shape[1]}
    possible = list(channels) if layout is None else [layout]
    if bands is not None:
        possible = [name for name in possible if channels[name] == len(bands)]
        if not possible:
            raise UserError(
                f"'{path}': {named} has shape {shape}{'' if layout is None else f' and @layout={layout}'}, and "
                f"{len(bands)} bands are named: {bands}. Name as many as there are."
            )
    if len(possible) == 1:
        return possible[0] == "NCHW"
    usual = [name for name in possible if channels[name] in (1, 3, 4)]
    if not usual:
        raise UserError(
            f"'{path}': {named} has shape {shape}, and no axis of 1, 3 or 4 that would be the channels; say "
            "@layout=NHWC or @layout=NCHW after the path."
        )
    return usual[0] == "NCHW"


def _bands(path: Path, beside: Beside) -> tuple[Bands | None, list[str]]:
    """The bands, None if the file names none, and what of it is not read."""
    names, units = beside.bands, beside.units
    if names is None:
        return None, [] if units is None else [f"{path.name}: units (not read: no 'bands' are named)"]
    if names.ndim == 0 and names.dtype.kind in "iu":
        return None, [f"{path.name}: bands (not read: a number, and no names)"]
    texts = [_text(path, "bands", name) for name in names.reshape(-1)]
    if len(texts) == 1:
        texts = [part.strip() for part in texts[0].split(",")]
    units_of = () if units is None else tuple(_text(path, "units", unit) for unit in units.reshape(-1))
    try:
        return Bands(tuple(texts), units_of * len(texts) if len(units_of) == 1 else units_of), []
    except UserError as error:
        raise UserError(f"'{path}': {error}") from None


def _text(path: Path, key: str, value: Any) -> str:
    if isinstance(value, str | bytes | int | np.integer):
        return class_name(value)
    raise UserError(f"'{path}': '{key}' holds {type(value).__name__}, where text is needed.")


def _names(path: Path, classes: Array) -> tuple[str, ...]:
    names = tuple(class_name(c) for c in classes.reshape(-1))
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise UserError(f"'{path}': 'classes' names '{repeated[0]}' twice; give every class its own name.")
    return names


def _classes_of_votes(path: Path, votes: Array, classes: Array | None) -> tuple[str, ...]:
    """The names of the classes that the columns of votes are for: by default their numbers."""
    if votes.ndim != 2 or votes.dtype.kind not in "iufb":
        raise UserError(
            f"'{path}': 'votes' is {votes.dtype} of shape {votes.shape}; numbers of shape (images, classes) are needed."
        )
    names = tuple(map(str, range(votes.shape[1]))) if classes is None else _names(path, classes)
    if len(names) != votes.shape[1]:
        raise UserError(f"'{path}': 'classes' has {len(names)} names, and 'votes' {votes.shape[1]} columns.")
    return names


def _labels(
    path: Path, labels: Array, classes: Array | None, n: int, for_none: frozenset[str] | None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels and classes. If `for_none` is given, NaN becomes `NO_LABEL`, and numbers in it are classes too."""
    if labels.shape == (n, 1):
        labels = labels[:, 0]
    if labels.shape == (n,) and labels.dtype.kind == "f" and (unknown_N := np.isnan(labels)).any():
        if for_none is None:
            raise UserError(
                f"'{path}': {unknown_N.sum():,} of {n:,} labels are NaN; @{UNLABELLED}={SKIP} after the path leaves "
                "these images out."
            )
        return _some_labels(path, labels, classes, ~unknown_N, for_none)
    whole = labels.dtype.kind == "f" and np.isfinite(labels).all() and (labels == np.floor(labels)).all()
    if labels.shape != (n,) or not (labels.dtype.kind in "iuUSb" or whole):
        raise UserError(
            f"'{path}': 'labels' is {labels.dtype} of shape {labels.shape}; one whole number or name for each of the "
            f"{n} images is needed (one-hot rows: labels.argmax(1))."
        )
    names = None if classes is None else _names(path, classes)
    if labels.dtype.kind in "US":
        return encode_labels([class_name(v) for v in labels], names, str(path))
    if names is None:
        return encode_labels([str(int(v)) for v in labels], None, str(path))
    numbers = labels.astype(np.int64)
    for word in sorted(filter(_is_whole, for_none or ())):
        if not 0 <= int(word) < len(names) and (numbers == int(word)).any():
            numbers[numbers == int(word)] = len(names)
            names = (*names, word)
    if n and (numbers.min() < 0 or numbers.max() >= len(names)):
        bad = int(numbers[(numbers < 0) | (numbers >= len(names))][0])
        raise UserError(
            f"'{path}': the label {bad} has no class; 'classes' names {len(names)}, so labels are 0 to "
            f"{len(names) - 1}. If it stands for no label, @{UNLABELLED}={bad} after the path leaves its images out."
        )
    return numbers, names


def _some_labels(
    path: Path, labels: Array, classes: Array | None, known_N: NDArray[np.bool_], for_none: frozenset[str]
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels of which some are known."""
    found = np.full(len(labels), NO_LABEL)
    found[known_N], names = _labels(path, labels[known_N], classes, int(known_N.sum()), for_none)
    return found, names


def _is_whole(text: str) -> bool:
    return re.fullmatch(r"[+-]?[0-9]{1,18}", text) is not None
