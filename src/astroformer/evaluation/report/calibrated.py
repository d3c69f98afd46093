"""What a report says of probabilities: whether they are as high as answers are right, before calibration and after it.

Shape letters: N images, K classes, M bins of confidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astroformer.curves import Reliability, ReliabilityBin
from astroformer.intervals import Interval, Measure, bootstrapped, share_interval
from astroformer.metrics import brier_N, nll_N, votes_brier_N, votes_cross_entropy_N

Array = NDArray[Any]


@dataclass(frozen=True)
class CalibrationBin:
    """Images of about the same confidence, and what is right of them.

    Attributes:
        images: their number and mean confidence.
        accuracy: the share of them that is called right, with its interval; against votes, the mean share of the votes
            for the class that they are called. None where there are no images.
    """

    images: ReliabilityBin
    accuracy: Interval | None

    def to_dict(self) -> dict[str, Any]:
        words = self.images._asdict()
        del words["right"]
        return {**words, "accuracy": None if self.accuracy is None else self.accuracy.to_dict()}


@dataclass(frozen=True)
class OwnProbabilities:
    """What the network's own probabilities score, beside the calibrated ones that a report is about.

    Attributes:
        metrics: by name, of the network's own.
        changes: how much more the calibrated ones have of each, with the 95 % interval of the difference on the same
            images: below 0 calibration helped.
        bins: of equal width of their confidence.
    """

    metrics: Mapping[str, Interval]
    changes: Mapping[str, Interval]
    bins: Sequence[CalibrationBin]

    @classmethod
    def measured(
        cls,
        labels_N: Array,
        own_NK: Array,
        calibrated_NK: Array,
        *,
        votes_NK: Array | None,
        groups_N: Array | None,
        resamples: int,
    ) -> OwnProbabilities:
        """Of the network's own probabilities (N, K) and the calibrated ones of the same images."""
        before, after = (judging_measures(labels_N, p_NK, votes_NK) for p_NK in (own_NK, calibrated_NK))
        changes: dict[str, Measure] = {
            f"change {name}": lambda times_N, name=name: after[name](times_N) - before[name](times_N)  # type: ignore[misc]
            for name in before
        }
        found = bootstrapped({**before, **changes}, len(labels_N), groups_N, resamples=resamples)
        return cls(
            {name: found[name] for name in before},
            {name: found[f"change {name}"] for name in before},
            calibration_bins(Reliability.equal_width(labels_N, own_NK), groups_N),
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "metrics": {name: found.to_dict() for name, found in self.metrics.items()},
            "changes": {name: found.to_dict() for name, found in self.changes.items()},
            "calibration": [each.to_dict() for each in self.bins],
        }


def judging_measures(labels_N: Array, probabilities_NK: Array, votes_NK: Array | None = None) -> dict[str, Measure]:
    """The figures that judge probabilities, as functions of how many times each image counts."""
    losses = {"nll": nll_N(labels_N, probabilities_NK), "brier": brier_N(labels_N, probabilities_NK)}
    errors = {
        "ece": Reliability.equal_width(labels_N, probabilities_NK),
        "adaptive_ece": Reliability.equal_number(labels_N, probabilities_NK),
    }
    if votes_NK is not None:
        losses["votes_cross_entropy"] = votes_cross_entropy_N(votes_NK, probabilities_NK)
        losses["votes_brier"] = votes_brier_N(votes_NK, probabilities_NK)
        errors["votes_ece"] = against_votes(errors["ece"], votes_NK, probabilities_NK)
    means: dict[str, Measure] = {
        name: lambda times_N, loss_N=loss_N: float(times_N @ loss_N / times_N.sum())  # type: ignore[misc]
        for name, loss_N in losses.items()
    }
    return {**means, **{name: reliability.error for name, reliability in errors.items()}}


def against_votes(reliability: Reliability, votes_NK: Array, probabilities_NK: Array) -> Reliability:
    """The same bins, with the share of the votes for the class that an image is called in place of right or wrong."""
    share_N = votes_NK[np.arange(len(votes_NK)), probabilities_NK.argmax(1)]
    return replace(reliability, right_N=share_N.astype(np.float64))


def calibration_bins(reliability: Reliability, groups_N: Array | None) -> list[CalibrationBin]:
    """The bins with the share that is right in each."""
    return [
        CalibrationBin(images, share_of(images.right, reliability.bin_N == m, groups_N))
        for m, images in enumerate(reliability.bins())
    ]


def votes_bins(reliability: Reliability, groups_N: Array | None, resamples: int) -> list[CalibrationBin]:
    """The bins of `against_votes` with the mean share of votes in each, whose interval is of a bootstrap."""
    bins, share_N = reliability.bins(), reliability.right_N

    def mean_in(m: int) -> Measure:
        inside_N = reliability.bin_N == m

        def measure(times_N: Array) -> float:
            weight = times_N[inside_N].sum()
            return float(times_N[inside_N] @ share_N[inside_N] / weight) if weight else float("nan")

        return measure

    there = {str(m): mean_in(m) for m, each in enumerate(bins) if each.n}
    means = bootstrapped(there, len(share_N), groups_N, resamples=resamples)
    return [CalibrationBin(each, means.get(str(m))) for m, each in enumerate(bins)]


def share_of(hits: int, chosen_N: Array, groups_N: Array | None) -> Interval | None:
    """The share of the chosen images that are hits, if there are any."""
    n = int(chosen_N.sum())
    return share_interval(hits, n, None if groups_N is None else groups_N[chosen_N]) if n else None
