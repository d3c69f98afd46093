"""Curves of predicted probabilities and the figures that come off them: ROC, precision and recall, reliability.

Each is measured on weighted images, so that `metrics.bootstrapped` gives its interval. Numpy alone.

Shape letters: N images, K classes, T distinct scores, M bins of confidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroformer.errors import UserError

Array = NDArray[Any]


class Curve(NamedTuple):
    """Points (x, y) in the order that they are drawn in."""

    x_T: Array
    y_T: Array

    def thinned(self, most: int = 100) -> Curve:
        """At most so many of the points, spread evenly along the curve, with both ends."""
        if len(self.x_T) <= most:
            return self
        kept = self.kept(most)
        return Curve(self.x_T[kept], self.y_T[kept])

    def kept(self, most: int) -> Array:
        """The positions of those points."""
        if len(self.x_T) <= most:
            return np.arange(len(self.x_T))
        steps_T = np.abs(np.diff(self.x_T)) + np.abs(np.diff(self.y_T))
        along_T = np.concatenate([[0.0], np.cumsum(steps_T)])
        kept = np.unique(np.searchsorted(along_T, np.linspace(0, along_T[-1], most)).clip(0, len(along_T) - 1))
        return np.unique([0, *kept, len(along_T) - 1])


@dataclass(frozen=True)
class Ranking:
    """Images in the order of a score, the highest first; those of one score come together.

    Attributes:
        order_N: (N,) positions of the images.
        positive_N: (N,) whether each is of the class, in that order.
        last_T: (T,) place of the last image of each distinct score.

    Examples:
        >>> ranking = Ranking.of(np.array([True, False, True]), np.array([0.9, 0.8, 0.1]))
        >>> ranking.roc_auc(), round(ranking.average_precision(), 4)
        (0.5, 0.8333)
    """

    order_N: Array
    positive_N: Array
    last_T: Array

    @classmethod
    def of(cls, positive_N: Array, score_N: Array) -> Ranking:
        """Those of images of which some are of a class (`positive_N`, bool), by a score that says so."""
        order_N = np.argsort(-score_N, kind="stable")
        changes_T = np.flatnonzero(np.diff(score_N[order_N]))
        return cls(order_N, np.asarray(positive_N, bool)[order_N], np.append(changes_T, len(order_N) - 1))

    def _counts(self, times_N: Array | None) -> tuple[Array, Array]:
        """(T,) how many of the class, and how many others, have at least each score."""
        times_N = np.ones(len(self.order_N)) if times_N is None else times_N[self.order_N]
        return np.cumsum(times_N * self.positive_N)[self.last_T], np.cumsum(times_N * ~self.positive_N)[self.last_T]

    def roc(self, times_N: Array | None = None) -> Curve | None:
        """Share of the others (x) and of the class (y) that have at least a score; None where there is none of either.

        Args:
            times_N: (N,) how many times each image counts; None: once.
        """
        hits_T, false_T = self._counts(times_N)
        if not hits_T[-1] or not false_T[-1]:
            return None
        return Curve(np.append(0.0, false_T / false_T[-1]), np.append(0.0, hits_T / hits_T[-1]))

    def roc_auc(self, times_N: Array | None = None) -> float:
        """The area under `roc`: how probably an image of the class has a higher score than another one, ties counting
        half (Hanley & McNeil 1982). NaN where there is no curve."""
        curve = self.roc(times_N)
        return float("nan") if curve is None else float(np.trapezoid(curve.y_T, curve.x_T))

    def precision_recall(self, times_N: Array | None = None) -> Curve | None:
        """Of the images with at least a score: the share of the class that is among them (x), and the share of them
        that is of the class (y). None where there is no image of the class."""
        hits_T, false_T = self._counts(times_N)
        if not hits_T[-1]:
            return None
        called_T = hits_T + false_T
        there_T = called_T > 0
        return Curve(hits_T[there_T] / hits_T[-1], hits_T[there_T] / called_T[there_T])

    def average_precision(self, times_N: Array | None = None) -> float:
        """Σ_t (recall_t − recall_{t−1}) · precision_t over the distinct scores, without interpolation, as
        `sklearn.metrics.average_precision_score`. NaN where there is no image of the class."""
        curve = self.precision_recall(times_N)
        return float("nan") if curve is None else float(np.diff(curve.x_T, prepend=0.0) @ curve.y_T)


class ReliabilityBin(NamedTuple):
    """Images whose confidence lies in (`low`, `high`].

    Attributes:
        low, high: of the confidence.
        n: images.
        confidence: their mean confidence; None where there are none.
        right: how many of them are called right.
    """

    low: float
    high: float
    n: int
    confidence: float | None
    right: int


@dataclass(frozen=True)
class Reliability:
    """Whether confidence is what it says: images by their confidence, in bins.

    The confidence of an image is the probability of the class that it is called.

    Attributes:
        edges: M + 1 limits from 0 to 1; bin m holds the confidences in (edges[m], edges[m + 1]].
        bin_N: (N,) the bin of each image.
        confidence_N: (N,) its confidence.
        right_N: (N,) whether it is called right.

    Examples:
        >>> probabilities = np.array([[0.75, 0.25], [0.75, 0.25], [0.75, 0.25], [0.75, 0.25]])
        >>> Reliability.equal_width(np.array([0, 0, 0, 1]), probabilities).error()
        0.0
        >>> Reliability.equal_number(np.array([0, 0, 0, 0]), probabilities).error()
        0.25
    """

    edges: Array
    bin_N: Array
    confidence_N: Array
    right_N: Array

    @classmethod
    def equal_width(cls, labels_N: Array, probabilities_NK: Array, bins: int = 15) -> Reliability:
        """M bins of equal width, whose `error` is `metrics.expected_calibration_error`."""
        _check_bins(bins)
        confidence_N = probabilities_NK.max(1)
        bin_N = np.clip(np.ceil(confidence_N * bins).astype(np.int64) - 1, 0, bins - 1)
        edges = np.linspace(0, 1, bins + 1)
        return cls(edges, bin_N, confidence_N, probabilities_NK.argmax(1) == labels_N)

    @classmethod
    def equal_number(cls, labels_N: Array, probabilities_NK: Array, bins: int = 15) -> Reliability:
        """At most M bins of as equal a number of images as can be; those of one confidence stay together. Their `error`
        is the adaptive calibration error of the top class (Nguyen & O'Connor 2015, arXiv 1508.05154; Nixon et al.
        2019, arXiv 1904.01685): confidence lies where the images are, and bins of equal width are mostly empty."""
        _check_bins(bins)
        confidence_N = probabilities_NK.max(1)
        order_N = np.sort(confidence_N)
        last = [int(part[-1]) for part in np.array_split(np.arange(len(order_N)), bins) if len(part)]
        inner = np.unique(order_N[last])[:-1]
        edges = np.array([0.0, *inner, 1.0])
        bin_N = np.searchsorted(inner, confidence_N, side="left")
        return cls(edges, bin_N, confidence_N, probabilities_NK.argmax(1) == labels_N)

    def error(self, times_N: Array | None = None) -> float:
        """Σ_m n_m / N · |accuracy_m − confidence_m|, a share from 0 (calibrated) to 1.

        Args:
            times_N: (N,) how many times each image counts; None: once.
        """
        times_N = np.ones(len(self.bin_N)) if times_N is None else times_N
        gap_M = np.bincount(self.bin_N, times_N * (self.right_N - self.confidence_N))
        return float(np.abs(gap_M).sum() / times_N.sum())

    def bins(self) -> list[ReliabilityBin]:
        """What is in each bin."""
        m = len(self.edges) - 1
        n_M, right_M = np.bincount(self.bin_N, minlength=m), np.bincount(self.bin_N, self.right_N, m)
        sum_M = np.bincount(self.bin_N, self.confidence_N, m)
        return [
            ReliabilityBin(low, high, n, total / n if n else None, int(right))
            for low, high, n, right, total in zip(
                self.edges[:-1].tolist(), self.edges[1:].tolist(), n_M.tolist(), right_M, sum_M.tolist(), strict=True
            )
        ]


def _check_bins(bins: int) -> None:
    if bins < 1:
        raise UserError(f"bins is {bins}; at least 1 is needed.")
