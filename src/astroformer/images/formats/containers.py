"""What HDF5 and Zarr have in common: named arrays in groups, with attributes, kept in blocks of many images."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from astroformer.errors import UserError, unknown_name
from astroformer.images.formats.arrays import Beside, Blocks, block_sizes, check_images, could_be_labels, open_arrays
from astroformer.images.formats.positions import is_position
from astroformer.images.labelled import LabelledImages
from astroformer.images.names import shortened
from astroformer.images.reading import MAX_BYTES, Array

OPTIONS = ("layout", "images", "labels", "unwritten", "same-sky")
"""Words that may follow the path: how the images lie, which arrays are images and labels, what is read where nothing
was written, and how far apart two images show the same sky."""


class Written(NamedTuple):
    """How an array is stored: the shape of its blocks (None: it is in one piece), how many it should have and has, and
    what is read where one is not there."""

    block: tuple[int, ...] | None
    expected: int
    there: int
    fill: object


class Container(ABC):
    """A file with named arrays. A name is a path within the file, without a slash at its ends.

    Attributes:
        path: of the file.
        noun: what a sentence calls one of its arrays.
    """

    noun: ClassVar[str]

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def arrays(self) -> dict[str, tuple[int, ...]]:
        """The names and shapes of the arrays in the file."""

    @abstractmethod
    def find(self, name: str) -> Any | None:
        """The array of this name, with `shape`, `dtype` and `attrs`; None if there is none.

        Raises:
            UserError: the name leads out of the file, or is that of a group.
        """

    @abstractmethod
    def group(self, name: str) -> tuple[list[str], Mapping[str, Any]]:
        """The names of what lies in a group, without that of the group, and the group's attributes."""

    @abstractmethod
    def check(self, array: Any, named: str) -> None:
        """Raises a `UserError` where an array can't be read, or lies in another file."""

    def check_texts(self) -> None:  # noqa: B027  # most files have nothing to look at
        """Raises an error where texts can't be read without harm."""

    @abstractmethod
    def written(self, array: Any) -> Written:
        """How an array is stored."""

    @abstractmethod
    def reader(self, array: Any) -> Callable[[int, int], Array]:
        """Reads the rows of the array from one number up to another; see `Blocks`."""

    @abstractmethod
    def values(self, array: Any) -> Array:
        """All values of an array; text as str or bytes."""


def open_container(container: Container, labelled: bool, options: Mapping[str, str]) -> LabelledImages:
    """The images of a file with named arrays.

    They are in the array `images`, or the only one of three or four dimensions, or the one that `options` names.
    Beside it, in the same group, lie `labels` or, in their place, `votes`, and `classes`, `bands` and `units`; the last
    three may be attributes as well, of the images, the labels, their group or the file.

    Raises:
        UserError: it is not so.
    """
    path = container.path
    fill = options.get("unwritten")
    if fill not in (None, "fill"):
        raise unknown_name("word for @unwritten", fill, ["fill"])
    name = options["images"].strip("/") if "images" in options else _images_in(container)
    images = _find(container, name)
    named = f"'{name}'" if name else "its array"
    check_images(path, named, images.shape, images.dtype)
    _check(container, images, named, fill is not None)
    sizes = block_sizes(path, named, images.shape, images.dtype, container.written(images).block)
    blocks = Blocks(path, container.reader(images), images.shape, images.dtype, sizes)

    container.check_texts()
    folder = name.rpartition("/")[0]
    beside, attributes = container.group(folder)
    inside = {key: f"{folder}/{key}".strip("/") for key in beside}
    owners = [images.attrs, attributes]
    labels, votes = None, None
    label_name = options["labels"].strip("/") if "labels" in options else inside.get("labels")
    votes_name = inside.get("votes") if label_name is None else None
    if labelled and label_name is not None:
        found = _find(container, label_name)
        owners.append(found.attrs)
        labels = _values(container, found, f"'{label_name}'", fill is not None)
    elif labelled and votes_name is not None:
        votes = _values(container, _find(container, votes_name), f"'{votes_name}'", fill is not None)
    if folder:
        owners.append(container.group("")[1])
    words = {}
    for key in ("bands", "units", *(["classes"] if labelled else [])):
        said = [np.asarray(owner[key]) for owner in owners if key in owner]
        if key in inside:
            said.append(_values(container, _find(container, inside[key]), f"'{inside[key]}'", fill is not None))
        if any(one.reshape(-1).tolist() != said[0].reshape(-1).tolist() for one in said):
            raise UserError(f"'{path}' says in two places what the {key} are, and differently; keep one of them.")
        words[key] = said[0] if said else None
    places = _places(container, inside, images.shape[0], options)
    known = {name, label_name, votes_name, *(inside[key] for key in places)}
    known |= {inside.get(key) for key in ("classes", "bands", "units")}
    stored = Beside(
        f"it has {_list_of(container)}" if labelled and labels is None else "",
        labels,
        words.get("classes"),
        words["bands"],
        words["units"],
        ignored=tuple(f"{key} (an array that is not read)" for key in beside if inside[key] not in known),
        votes=votes,
        places=places,
        possible=could_be_labels(_but(container.arrays(), name), images.shape[0]) if labelled else (),
    )
    return open_arrays(path, blocks, named, stored, labelled, options)


def _places(container: Container, inside: Mapping[str, str], n: int, options: Mapping[str, str]) -> dict[str, Array]:
    """The arrays that may be positions of n images, by name. Where nobody asked for them, nothing is wrong if one of
    them can't be read."""
    shapes, places = container.arrays(), {}
    for key, name in inside.items():
        if is_position(key) and shapes.get(name) in ((n,), (n, 1)):
            try:
                places[key] = _values(container, _find(container, name), f"'{name}'", "unwritten" in options)
            except UserError:
                if "same-sky" in options:
                    raise
    return places


def _but(arrays: Mapping[str, tuple[int, ...]], name: str) -> dict[str, tuple[int, ...]]:
    return {other: shape for other, shape in arrays.items() if other != name}


def _images_in(container: Container) -> str:
    """The name of the images where nobody states it."""
    arrays = container.arrays()
    if "images" in arrays or "images" in container.group("")[0]:
        return "images"
    possible = [name for name, shape in arrays.items() if len(shape) in (3, 4)]
    if len(possible) == 1:
        return possible[0]
    why = (
        f"{shortened(possible)} could all be the images"
        if possible
        else f"no {container.noun} has three or four dimensions"
    )
    raise UserError(
        f"'{container.path}' has no 'images', and {why}; say which with '{container.path}@images=NAME'. It has "
        f"{_list_of(container)}."
    )


def _list_of(container: Container) -> str:
    return shortened(f"{name or 'one array'} {shape}" for name, shape in container.arrays().items()) or "nothing"


def _find(container: Container, name: str) -> Any:
    found = container.find(name)
    if found is None:
        raise unknown_name(f"{container.noun} in '{container.path}'", name, container.arrays())
    return found


def _check(container: Container, array: Any, named: str, fill: bool) -> None:
    """Raises a `UserError` where an array can't be read whole."""
    container.check(array, named)
    stored = container.written(array)
    if stored.there < stored.expected and not fill:
        missing = stored.expected - stored.there
        raise UserError(
            f"'{container.path}': {named} lacks {missing:,} of its {stored.expected:,} blocks: they were never "
            f"written, or are lost, and would be read as {stored.fill}. If they are meant to hold that, say "
            "@unwritten=fill after the path."
        )


def _values(container: Container, array: Any, named: str, fill: bool) -> Array:
    """All values of labels or names."""
    _check(container, array, named, fill)
    size = math.prod(map(int, array.shape)) * array.dtype.itemsize
    if size > MAX_BYTES:
        raise UserError(f"'{container.path}': {named} takes {size:,} bytes, more than {MAX_BYTES:,}.")
    values = container.values(array)
    if values.dtype.kind == "U" and values.size and _largest_letter(values) > 0x10FFFF:
        raise UserError(f"'{container.path}': {named} is damaged: it holds letters that there are not.")
    return values


def as_text(path: Path, named: str, texts: Iterable[Any], shape: tuple[int, ...]) -> Array:
    """An array of texts of any length; they are refused where one of them is so long that the array has no place."""
    kept = [text if isinstance(text, str | bytes) else str(text) for text in texts]
    longest = max(map(len, kept), default=0)
    if 4 * longest * len(kept) > MAX_BYTES:
        raise UserError(f"'{path}': {named} has texts of up to {longest:,} letters; names of classes are needed.")
    return np.array(kept).reshape(shape)


def _largest_letter(texts: Array) -> int:
    """The largest code point in an array of texts; damaged ones go beyond those that there are."""
    return int(np.ascontiguousarray(texts, texts.dtype.newbyteorder("=")).view(np.uint32).max())
