"""Intervals of measured figures: by the bootstrap, over images or groups of them, and by Wilson's score for shares.

Shape letters: N images, G groups of images, T shares.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Measure = Callable[[Array], float]
"""A figure as a function of (N,) weights: how many times each image counts. NaN where these images have none."""

_Z = 1.959963984540054  # standard deviations of a normal distribution on each side that hold 95 % of it


@dataclass(frozen=True)
class Interval:
    """A measured `value` and the 95 % interval [`low`, `high`] around it."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high}


def drawn(n: int, groups_N: Array | None = None, *, resamples: int = 1000, seed: int = 0) -> Iterator[Array]:
    """Bootstrap resamples, each as (N,) float64: how many times an image is drawn.

    Of N images as many are drawn with replacement; where there are groups, as many groups as there are, each with all
    of its images: images of one object, patient or field are no independent witnesses (Davison & Hinkley 1997,
    section 3.8).

    Args:
        n: N.
        groups_N: (N,) numbers; images with the same one belong together. None: each stands alone.
        resamples: how many.
        seed: of the draws, which follow from it alone.

    Examples:
        >>> [int(times_N.sum()) for times_N in drawn(5, resamples=2)]
        [5, 5]
        >>> next(drawn(3, np.array([0, 7, 7]), resamples=1)).tolist()  # images 1 and 2 are drawn together
        [0.0, 2.0, 2.0]
    """
    generator = np.random.default_rng(seed)
    place_N = np.arange(n) if groups_N is None else np.unique(groups_N, return_inverse=True)[1]
    g = int(place_N.max()) + 1
    for _ in range(resamples):
        yield np.bincount(generator.integers(0, g, g), minlength=g)[place_N].astype(np.float64)


def bootstrapped(
    measures: Mapping[str, Measure],
    n: int,
    groups_N: Array | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Several figures of N images, each with its 95 % percentile-bootstrap interval (Efron & Tibshirani 1993, ch. 13).

    Args:
        measures: by name.
        n, groups_N, resamples, seed: see `drawn`. A resample that has no such figure counts for nothing.

    Examples:
        >>> right_N = np.array([1.0, 1.0, 0.0, 1.0])
        >>> found = bootstrapped({"accuracy": lambda times_N: times_N @ right_N / times_N.sum()}, 4)
        >>> found["accuracy"]
        Interval(value=0.75, low=0.25, high=1.0)
    """
    values = {name: float(measure(np.ones(n))) for name, measure in measures.items()}
    samples: dict[str, list[float]] = {name: [] for name in measures}
    for times_N in drawn(n, groups_N, resamples=resamples, seed=seed):
        for name, measure in measures.items():
            samples[name].append(float(measure(times_N)))
    found = {}
    for name, value in values.items():
        there = [sample for sample in samples[name] if not math.isnan(sample)]
        low, high = np.quantile(there, [0.025, 0.975]) if there else (value, value)
        # A figure that chance can only raise, as a calibration error, may lie outside of its resamples.
        found[name] = Interval(value, min(float(low), value), max(float(high), value))
    return found


def share_limits(hits_T: Array, n_T: Array) -> tuple[Array, Array]:
    """The ends of the 95 % intervals of shares, by Wilson's score (1927): of any number of shares at once.

    They are the p with |hits / n − p| = 1.96 · √(p (1 − p) / n). Where all or none of a few are hits, the interval
    keeps its width, and its coverage is near 95 % for every n (Brown, Cai & DasGupta 2001, doi 10.1214/ss/1009213286).

    Args:
        hits_T: (T,) hits, each of `n_T` images.
        n_T: (T,) images; where there are 0 nothing is known, and the interval is [0, 1].

    Examples:
        >>> low, high = share_limits(np.array([5, 0]), np.array([5, 0]))
        >>> low.round(4).tolist(), high.tolist()
        ([0.5655, 0.0], [1.0, 1.0])
    """
    n_T = np.asarray(n_T, np.float64)
    some_T = np.maximum(n_T, 1.0)
    share_T, z2 = hits_T / some_T, _Z**2
    middle_T = (share_T + z2 / (2 * some_T)) / (1 + z2 / some_T)
    half_T = _Z / (1 + z2 / some_T) * np.sqrt(share_T * (1 - share_T) / some_T + z2 / (4 * some_T**2))
    low_T = np.where(hits_T > 0, np.maximum(middle_T - half_T, 0.0), 0.0)
    high_T = np.where(hits_T < n_T, np.minimum(middle_T + half_T, 1.0), 1.0)
    return low_T, np.where(n_T > 0, high_T, 1.0)


def share_interval(hits: int, n: int, groups_N: Array | None = None) -> Interval:
    """A share and its 95 % interval by `share_limits`.

    Args:
        hits: of n images.
        n: at least 1.
        groups_N: (N,) numbers; images with the same one belong together, and count as if they were copies of one
            another, so that the interval is that of (Σ m)² / Σ m² images over the sizes m of the groups (Kish 1965).

    Examples:
        >>> found = share_interval(1, 2)
        >>> found.value, round(found.low, 4), round(found.high, 4)
        (0.5, 0.0945, 0.9055)
    """
    size_G = np.ones(n) if groups_N is None else np.unique(groups_N, return_counts=True)[1]
    effective = float(size_G.sum() ** 2 / (size_G**2).sum())
    low, high = share_limits(np.array([effective if hits == n else hits / n * effective]), np.array([effective]))
    return Interval(hits / n, float(low[0]), float(high[0]))
