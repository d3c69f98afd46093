"""Which images show the same patch of the sky, from their coordinates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray

from astroformer.errors import UserError

_SMALLEST_CELL = 2e-6  # of the unit sphere, 0.4 arcsec: cell numbers stay within 64 bits
_AT_ONCE = 1 << 21  # pairs in memory; of many places in one cell there are many more
Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]


def known_places(positions_N2: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(N,) whether these are places: two numbers, and not 0 and 0, which tables have where nobody knows them.

    Examples:
        >>> import numpy as np
        >>> known_places(np.array([[0.0, 10.0], [0.0, 0.0], [5.0, np.nan]])).tolist()
        [True, False, False]
    """
    return np.asarray(np.isfinite(positions_N2).all(1) & positions_N2.any(1))


def friends_of_friends(
    ra_N: NDArray[np.floating], dec_N: NDArray[np.floating], link: float | NDArray[np.floating]
) -> NDArray[np.int64]:
    """Groups of places that are linked, directly or through others (Huchra & Geller 1982, ApJ 257, 423).

    Args:
        ra_N, dec_N, link: as for `near_pairs`.

    Returns:
        (N,) int64: for each place the lowest index in its group.

    Raises:
        UserError: a coordinate or a link is out of range.
    """
    return _lowest_connected(len(ra_N), _near_pairs(ra_N, dec_N, link))


def near_pairs(ra_N: NDArray[np.floating], dec_N: NDArray[np.floating], link: float | NDArray[np.floating]) -> Pairs:
    """Indices of both places of each pair that is linked.

    Two places are linked when the angle between them is at most `link`, or the mean of their two links. Angles are
    chords between unit vectors, so that 0° and 360° meet and the poles are places like any other. Neighbours are looked
    for in the cells of a grid as wide as the largest link: no two linked places are further apart than one cell.

    Args:
        ra_N, dec_N: (N,) right ascension and declination in degrees.
        link: linking length in arcsec, one or (N,), more than 0 and less than 90°.

    Raises:
        UserError: a coordinate or a link is out of range.
    """
    return _joined(_near_pairs(ra_N, dec_N, link))


def _near_pairs(
    ra_N: NDArray[np.floating], dec_N: NDArray[np.floating], link: float | NDArray[np.floating]
) -> Iterator[Pairs]:
    ra, dec = np.asarray(ra_N, np.float64), np.asarray(dec_N, np.float64)
    link_N = np.broadcast_to(np.asarray(link, np.float64), ra.shape)
    for name, values, good in (
        ("right ascension", ra, np.isfinite(ra)),
        ("declination", dec, np.abs(dec) <= 90),
        ("linking length", link_N, (link_N > 0) & (link_N < 90 * 3600)),
    ):
        if not good.all():
            i = int(np.argmin(good))
            raise UserError(f"the {name} of place {i} is {values[i]}; degrees are needed, of links arcsec.")
    if not len(ra):
        return
    ra, dec = np.radians(ra), np.radians(dec)
    xyz_N3 = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)
    for first, second in _pairs_within_a_cell(xyz_N3, max(float(_chord_of(link_N.max())), _SMALLEST_CELL)):
        apart = np.linalg.norm(xyz_N3[first] - xyz_N3[second], axis=1)
        linked = apart <= _chord_of((link_N[first] + link_N[second]) / 2)
        yield first[linked], second[linked]


def group_overlapping_cutouts(
    ra_N: NDArray[np.floating], dec_N: NDArray[np.floating], side_N: NDArray[np.floating]
) -> NDArray[np.int64]:
    """Groups of cutouts that show the same sky: centres lie within a cutout's side, or are linked through others.

    A cutout whose place or side is not known stands alone.

    Args:
        ra_N, dec_N: (N,) right ascension and declination of the centres in degrees.
        side_N: (N,) side of each cutout in arcsec.

    Returns:
        (N,) int64: for each cutout the lowest index in its group.
    """
    known = np.flatnonzero(np.isfinite(ra_N) & np.isfinite(dec_N) & np.isfinite(side_N) & (side_N > 0))
    groups = np.arange(len(ra_N))
    groups[known] = known[friends_of_friends(ra_N[known], dec_N[known], side_N[known])]
    return groups


def group_overlapping_boxes(corner_N2: NDArray[np.integer], side: int) -> NDArray[np.int64]:
    """Groups of square boxes of one grid of pixels that share a pixel, directly or through others.

    Args:
        corner_N2: (N, 2) row and column of the first pixel of each box.
        side: of all boxes, in pixels.

    Returns:
        (N,) int64: for each box the lowest index in its group.

    Examples:
        >>> import numpy as np
        >>> group_overlapping_boxes(np.array([[0, 0], [9, 9], [19, 9]]), 10).tolist()
        [0, 0, 2]
    """
    return _lowest_connected(len(corner_N2), _overlapping_pairs(corner_N2, np.full(len(corner_N2), side)))


def overlapping_pairs(corner_N2: NDArray[np.integer], side_N: NDArray[np.integer]) -> Pairs:
    """Indices of both boxes of each pair that shares a pixel.

    Args:
        corner_N2: (N, 2) row and column of the first pixel of each square box, on one grid of pixels.
        side_N: (N,) in pixels.

    Examples:
        >>> import numpy as np
        >>> first, second = overlapping_pairs(np.array([[0, 0], [9, 9], [20, 0]]), np.array([10, 30, 4]))
        >>> sorted(zip(first.tolist(), second.tolist()))
        [(0, 1)]
    """
    return _joined(_overlapping_pairs(corner_N2, side_N))


def _overlapping_pairs(corner_N2: NDArray[np.integer], side_N: NDArray[np.integer]) -> Iterator[Pairs]:
    if not len(corner_N2):
        return
    largest = int(side_N.max())
    scale = float(np.abs(corner_N2).max()) + largest  # the grid of cells below is made for numbers from -1 to 1
    flat_N3 = np.column_stack([corner_N2 / scale, np.zeros(len(corner_N2))])
    for first, second in _pairs_within_a_cell(flat_N3, max(largest / scale, _SMALLEST_CELL)):
        ahead = corner_N2[second] - corner_N2[first]
        linked = ((ahead < side_N[first, None]) & (-ahead < side_N[second, None])).all(axis=1)
        yield first[linked], second[linked]


def _joined(pairs: Iterable[Pairs]) -> Pairs:
    """All pairs, one after the other."""
    none = np.empty(0, np.int64)
    first, second = zip((none, none), *pairs, strict=True)
    return np.concatenate(first), np.concatenate(second)


def _chord_of(arcsec: NDArray[np.float64] | np.float64) -> NDArray[np.float64]:
    # A billionth more, so that an angle equal to the link still counts after rounding.
    return np.asarray(2 * np.sin(np.radians(arcsec / 3600) / 2) * (1 + 1e-9))


def _pairs_within_a_cell(xyz_N3: NDArray[np.float64], cell: float) -> Iterator[Pairs]:
    """Indices of each pair of places that lie in the same or in touching cells, once; some of them at a time."""
    side = np.int64(2 / cell) + 4
    place_N3 = np.floor((xyz_N3 + 1) / cell).astype(np.int64) + 1
    number = (place_N3[:, 0] * side + place_N3[:, 1]) * side + place_N3[:, 2]
    order = np.argsort(number, kind="stable")
    cells, begin, count = np.unique(number[order], return_index=True, return_counts=True)
    for dx, dy, dz in product((-1, 0, 1), repeat=3):
        step = (dx * side + dy) * side + dz
        if step < 0:
            continue  # these pairs are found from the other cell
        at = np.minimum(np.searchsorted(cells, number + step), len(cells) - 1)
        size = np.where(cells[at] == number + step, count[at], 0)
        cuts = np.searchsorted(np.cumsum(size), np.arange(0, size.sum(), _AT_ONCE), side="right")
        for start, stop in pairwise([*np.unique(cuts), len(number)]):
            some = size[start:stop]
            first = np.repeat(np.arange(start, stop), some)
            within = np.arange(len(first)) - np.repeat(np.cumsum(some) - some, some)
            second = order[np.repeat(begin[at[start:stop]], some) + within]
            once = first < second if step == 0 else np.ones(len(first), bool)
            yield first[once], second[once]


def _lowest_connected(n: int, pairs: Iterable[Pairs]) -> NDArray[np.int64]:
    """For each of n points the lowest index that it is connected with, directly or through others."""
    lowest = np.arange(n)
    for first, second in pairs:
        first, second = lowest[first], lowest[second]
        apart = first != second
        if apart.any():
            lowest = _connected(n, first[apart], second[apart])[lowest]
    return lowest


def _connected(n: int, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same by some of the pairs."""
    lowest = np.arange(n)
    while True:
        before = lowest.copy()
        least = np.minimum(lowest[first], lowest[second])
        for end in (first, second):
            np.minimum.at(lowest, lowest[end], least)
            np.minimum.at(lowest, end, least)
        lowest = lowest[lowest]
        if np.array_equal(before, lowest):
            return lowest
