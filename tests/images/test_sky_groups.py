from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from astroformer.errors import UserError
from astroformer.images.sky_groups import friends_of_friends, group_overlapping_boxes

RNG = np.random.default_rng(3)


def separation(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """(N, N) angles in arcsec, by the haversine formula."""
    ra, dec = np.radians(ra), np.radians(dec)
    half = np.sin((dec[:, None] - dec) / 2) ** 2
    half = half + np.cos(dec[:, None]) * np.cos(dec) * np.sin((ra[:, None] - ra) / 2) ** 2
    return np.degrees(2 * np.arcsin(np.sqrt(np.minimum(half, 1)))) * 3600


def by_hand(ra: np.ndarray, dec: np.ndarray, link: np.ndarray) -> np.ndarray:
    """Groups by walking from friend to friend over all pairs."""
    near = separation(ra, dec) <= (link[:, None] + link) / 2
    group = np.full(len(ra), -1)
    for i in range(len(ra)):
        todo = [i] if group[i] < 0 else []
        while todo:
            j = todo.pop()
            if group[j] < 0:
                group[j] = i
                todo += np.flatnonzero(near[j]).tolist()
    return group


def places(kind: str, n: int = 250) -> tuple[np.ndarray, np.ndarray]:
    """Crowded places, so that some are linked and some not."""
    width = 600 / 3600
    if kind == "whole sky":
        return RNG.uniform(0, 360, n), np.degrees(np.arcsin(RNG.uniform(-1, 1, n)))
    if kind == "0 and 360":
        return RNG.uniform(-width, width, n) % 360, RNG.uniform(-width, width, n)
    if kind == "high declination":
        return RNG.uniform(-10 * width, 10 * width, n) % 360, 84 + RNG.uniform(-width, width, n)
    sign = 1 if kind == "north pole" else -1
    return RNG.uniform(0, 360, n), sign * (90 - width * np.sqrt(RNG.uniform(0, 1, n)))


@pytest.mark.parametrize("kind", ["0 and 360", "high declination", "north pole", "south pole", "whole sky"])
@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_friends_of_friends_against_all_pairs(kind: str, scale: float) -> None:
    ra, dec = places(kind)
    typical = 80_000 if kind == "whole sky" else 67
    link = scale * typical * RNG.choice([1.0, 0.5, 1.2], len(ra))
    if link.max() >= 90 * 3600:
        link *= 0.9 * 90 * 3600 / link.max()
    expected = by_hand(ra, dec, link)
    assert 1 < len(np.unique(expected)) < len(ra) or scale == 3.0 or kind == "whole sky"
    np.testing.assert_array_equal(friends_of_friends(ra, dec, link), expected)
    one = np.full(len(ra), scale * 60.0)
    np.testing.assert_array_equal(friends_of_friends(ra, dec, scale * 60.0), by_hand(ra, dec, one))


def test_the_same_place_the_link_itself_and_a_chain() -> None:
    assert friends_of_friends(np.array([0.0, 360.0, 10]), np.array([5.0, 5, 5]), 1e-3).tolist() == [0, 0, 2]
    assert friends_of_friends(np.array([0.0, 180, 7]), np.array([90.0, 90, 89]), 0.01).tolist() == [0, 0, 2]
    ra = np.arange(6) * 67 / 3600  # each one link from the next, in an order that hides it
    order = np.array([3, 0, 5, 1, 4, 2])
    assert friends_of_friends(ra[order], np.zeros(6), 67.0).tolist() == [0] * 6
    assert friends_of_friends(ra[order], np.zeros(6), 66.9).tolist() == [0, 1, 2, 3, 4, 5]
    assert friends_of_friends(np.empty(0), np.empty(0), 1.0).tolist() == []


@pytest.mark.parametrize(
    ("ra", "dec", "link", "sentence"),
    [
        (np.nan, 0, 1, "right ascension of place 0 is nan"),
        (0, 91, 1, "declination of place 0 is 91"),
        (0, 0, 0, "linking length of place 0 is 0"),
    ],
)
def test_what_is_no_place(ra: float, dec: float, link: float, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        friends_of_friends(np.array([ra]), np.array([dec]), link)


def test_a_crowd_takes_time_and_no_memory() -> None:
    """Of n places that all show the same sky there are n² / 2 pairs, which are never in memory together."""
    n = 4000
    tracemalloc.start()
    groups = friends_of_friends(RNG.uniform(0, 1e-6, n), RNG.uniform(0, 1e-6, n), 5.0)
    boxes = group_overlapping_boxes(RNG.integers(0, 9, (n, 2)), 10)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not groups.any()
    assert not boxes.any()
    assert peak < 400e6  # to find n² / 2 pairs at once takes 640e6
