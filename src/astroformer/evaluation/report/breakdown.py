"""Where a model fails: how the share of images that it calls right goes with something else that is known of them.

Shape letters: N images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astroformer.intervals import Interval, share_interval

Array = NDArray[Any]
MOST = 12  # things that are broken down
_BINS = 5  # of numbers
_BIN_IMAGES = 20  # that a bin of numbers holds at least
_TEXTS = 12  # different ones of a column


@dataclass(frozen=True)
class Part:
    """Images that are alike in something.

    Attributes:
        label: in what, as a person reads it.
        n: how many.
        accuracy: the share of them that is called right, with its interval.
    """

    label: str
    n: int
    accuracy: Interval


@dataclass(frozen=True)
class Breakdown:
    """How accuracy goes with one thing.

    Attributes:
        name: of the thing.
        ordered: whether the parts are in the order of a number.
        parts: all images, in two parts or more.
    """

    name: str
    ordered: bool
    parts: Sequence[Part]

    @property
    def best(self) -> Part:
        return max(self.parts, key=lambda part: part.accuracy.value)

    @property
    def worst(self) -> Part:
        return min(self.parts, key=lambda part: part.accuracy.value)

    @property
    def spread(self) -> float:
        """The difference of the best part's accuracy and the worst one's."""
        return self.best.accuracy.value - self.worst.accuracy.value

    @property
    def apart(self) -> bool:
        """Whether the intervals of the best and of the worst part have nothing in common."""
        return self.worst.accuracy.high < self.best.accuracy.low

    def to_dict(self) -> dict[str, Any]:
        parts = [{"label": part.label, "n": part.n, "accuracy": part.accuracy.to_dict()} for part in self.parts]
        return {"name": self.name, "ordered": self.ordered, "parts": parts}


def broken_down(
    quantities: Mapping[str, Sequence[Any]], right_N: Array, groups_N: Array | None = None
) -> tuple[list[Breakdown], dict[str, str]]:
    """Each of the first `MOST` things that can be broken down, and why others are not.

    Numbers are cut into at most five bins of an equal number of images; equal values stay together. Texts have a part
    each, where there are few of them. Images without a value are a part of their own.

    Args:
        quantities: by name, N values each: numbers or texts, None or NaN where there is none.
        right_N: (N,) whether an image is called right.
        groups_N: (N,) numbers; images with the same one belong together.

    Examples:
        >>> right_N = np.array([True, True, False, False])
        >>> [found], _ = broken_down({"telescope": ["A", "A", "B", None]}, right_N)
        >>> [(part.label, part.n, part.accuracy.value) for part in found.parts]
        [('A', 2, 1.0), ('B', 1, 0.0), ('no value', 1, 0.0)]
    """
    found: list[Breakdown] = []
    left_out: dict[str, str] = {}
    for name, values in quantities.items():
        parts = _parted(values) if not _are_ids(name, values) else "a number of its own for each image"
        if isinstance(parts, str):
            left_out[name] = parts
        elif len(found) == MOST:
            left_out[name] = f"the first {MOST} are shown"
        else:
            found.append(_breakdown(name, parts, right_N, groups_N))
    return found, left_out


@dataclass(frozen=True)
class _Parts:
    """To which part each image belongs, and what these are called."""

    part_N: Array
    labels: list[str]
    ordered: bool


def _parted(values: Sequence[Any]) -> _Parts | str:
    """The parts of images by their values, or why there are none."""
    numbers_N = _as_numbers(values)
    if numbers_N is not None:
        there_N = np.isfinite(numbers_N)
        inner = _inner_edges(numbers_N[there_N])
        part_N = np.searchsorted(inner, numbers_N, side="left")
        ends = [numbers_N[there_N & (part_N == part)] for part in range(len(inner) + 1)]
        labels = [_range(float(some.min()), float(some.max())) for some in ends if len(some)]
    else:
        texts = ["" if value is None else str(value).strip() for value in values]
        there_N = np.array([text != "" for text in texts])
        labels = sorted({text for text in texts if text})
        if len(labels) > _TEXTS:
            return f"{len(labels):,} different texts; at most {_TEXTS} are shown"
        part_N = np.array([labels.index(text) if text else 0 for text in texts])
    if not there_N.all() and there_N.any():
        part_N = np.where(there_N, part_N, len(labels))
        labels = [*labels, "no value"]
    if len(labels) < 2:
        return "the same for all images" if there_N.any() else "no image has a value"
    return _Parts(part_N, labels, numbers_N is not None)


def _are_ids(name: str, values: Sequence[Any]) -> bool:
    """Whether values are names of the images: whole numbers, all different, of something that is called an id."""
    called_so = name.lower().startswith("id") or name.lower().endswith("id")
    numbers_N = _as_numbers(values) if called_so else None
    return numbers_N is not None and bool((numbers_N % 1 == 0).all()) and len(np.unique(numbers_N)) == len(numbers_N)


def _as_numbers(values: Sequence[Any]) -> Array | None:
    """Values as float64, NaN where there is none; None if they are not all numbers."""
    numbers = []
    for value in values:
        if value is None or (isinstance(value, str) and not value.strip()):
            numbers.append(math.nan)
            continue
        if isinstance(value, bool | np.bool_):
            return None
        try:
            numbers.append(float(value))
        except (TypeError, ValueError, OverflowError):
            return None
    return np.array(numbers, np.float64) if numbers else None


def _inner_edges(numbers: Array) -> Array:
    """Where one bin ends and the next begins, so that each holds about as many images: a value belongs to the bin that
    it ends."""
    bins = max(2, min(_BINS, len(numbers) // _BIN_IMAGES))
    order = np.sort(numbers)
    last = [int(part[-1]) for part in np.array_split(np.arange(len(order)), bins) if len(part)]
    edges = np.unique(order[last])
    return edges[:-1]


def _range(low: float, high: float) -> str:
    """Numbers from one to the other, as a person reads it."""
    if low == high:
        return f"{low:.4g}"
    digits = 3
    while f"{low:.{digits}g}" == f"{high:.{digits}g}" and digits < 12:
        digits += 1
    return f"{low:.{digits}g} to {high:.{digits}g}"


def _breakdown(name: str, parts: _Parts, right_N: Array, groups_N: Array | None) -> Breakdown:
    found = []
    for part, label in enumerate(parts.labels):
        chosen_N = parts.part_N == part
        n, hits = int(chosen_N.sum()), int(right_N[chosen_N].sum())
        if n:
            found.append(Part(label, n, share_interval(hits, n, None if groups_N is None else groups_N[chosen_N])))
    return Breakdown(name, parts.ordered, found)
