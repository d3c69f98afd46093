"""The numbers of a report: what is measured of answers whose true classes are known. No HTML, no pictures.

Shape letters: N images, K classes, T points of a curve.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astroformer.curves import Curve, Ranking, Reliability
from astroformer.evaluation.mistakes import Mistake, worst_mistakes
from astroformer.evaluation.report.breakdown import Breakdown, broken_down
from astroformer.evaluation.report.calibrated import (
    CalibrationBin,
    OwnProbabilities,
    against_votes,
    calibration_bins,
    judging_measures,
    share_of,
    votes_bins,
)
from astroformer.evaluation.report.novel import NovelImages
from astroformer.evaluation.report.selective import CalibrationImages, Selective
from astroformer.intervals import Interval, bootstrapped
from astroformer.metrics import ClassScores, Evaluation
from astroformer.summaries import metric_text, percent

Array = NDArray[Any]
SHOWN = 24  # mistakes, and doubtful images
_RESAMPLES = 1000
_RESAMPLES_OF_MANY = 200  # of the areas of classes, where these are many: 1,000 would take minutes
_MANY = 200_000  # images times classes


@dataclass(frozen=True)
class ClassFacts:
    """What is measured of one class against all others.

    Attributes:
        scores: the numbers of its images, and its precision, recall and F1.
        precision, recall: with their intervals; None where there are no images to be a share of.
        roc_auc, average_precision: areas under its curves; None where a curve lacks images.
        roc: share of the other images (x) and of its own (y) whose probability of the class is at least so high.
        precision_recall: recall (x) and precision (y) of those whose probability of the class is at least so high.
    """

    scores: ClassScores
    precision: Interval | None
    recall: Interval | None
    roc_auc: Interval | None
    average_precision: Interval | None
    roc: Curve | None
    precision_recall: Curve | None

    @property
    def name(self) -> str:
        return self.scores.name

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; the words of `Evaluation.to_dict` have the same values."""
        _, n, called, precision, recall, f1 = self.scores
        shares = {"n": n, "called": called, "precision": precision, "recall": recall, "f1": f1}
        intervals = {
            "precision_interval": self.precision,
            "recall_interval": self.recall,
            "roc_auc": self.roc_auc,
            "average_precision": self.average_precision,
        }
        curves = {"roc": self.roc, "precision_recall": self.precision_recall}
        return {
            **shares,
            **{name: None if found is None else found.to_dict() for name, found in intervals.items()},
            **{name: None if curve is None else _points(curve) for name, curve in curves.items()},
        }


@dataclass(frozen=True)
class Facts:
    """What a report says in numbers of N images that could be read.

    Attributes:
        evaluation: as `Classifier.evaluate` measures it.
        groups: how many groups of images the intervals are over; None where each image stands alone.
        metrics: those of the evaluation, and `brier`, `ece`, `adaptive_ece`, `aurc` and of votes `votes_ece`, with 95 %
            intervals.
        classes: K.
        calibration: bins of equal width of the confidence.
        calibration_by_number: bins of an equal number of images.
        calibration_by_votes: bins of equal width against the share of votes; None where there are no votes.
        own: the same of the network's own probabilities; None where these are not known, or are what is reported.
        selective: risk and coverage, cuts, and sets of classes.
        where: how accuracy goes with other things.
        not_shown: other things that were left out of `where`, with the reason.
        mistakes: the surest ones.
        doubtful: positions of the images whose two most probable classes are the closest, the closest first.
        novel: those that are unlike the training images; None where the model does not know these.
        class_resamples: how many draws the intervals of areas under curves are from.
    """

    evaluation: Evaluation
    groups: int | None
    metrics: Mapping[str, Interval]
    classes: Sequence[ClassFacts]
    calibration: Sequence[CalibrationBin]
    calibration_by_number: Sequence[CalibrationBin]
    calibration_by_votes: Sequence[CalibrationBin] | None
    own: OwnProbabilities | None
    selective: Selective
    where: Sequence[Breakdown]
    not_shown: Mapping[str, str]
    mistakes: Sequence[Mistake]
    doubtful: Sequence[int]
    novel: NovelImages | None
    class_resamples: int

    @classmethod
    def measured(
        cls,
        evaluation: Evaluation,
        labels_N: Array,
        probabilities_NK: Array,
        *,
        votes_NK: Array | None = None,
        groups_N: Array | None = None,
        quantities: Mapping[str, Sequence[Any]] | None = None,
        own_NK: Array | None = None,
        calibration_images: CalibrationImages | None = None,
        fold_N: Array | None = None,
        novelty_N: Array | None = None,
    ) -> Facts:
        """Measures all that there is.

        Args:
            evaluation: of these images.
            labels_N: (N,) true classes, integers in [0, K).
            probabilities_NK: (N, K) predicted probabilities, rows that sum to 1.
            votes_NK: (N, K) shares of votes, where the labels are their majority.
            groups_N: (N,) numbers; images with the same one belong together.
            quantities: by name, a value for each image that accuracy may depend on: numbers or texts, None or NaN where
                there is none.
            own_NK: (N, K) the network's own probabilities, where others are reported.
            calibration_images: those that the model keeps, of which cuts and sets are made.
            fold_N: (N,) the fold of an image that is one of them, −1 of any other; None where none is.
            novelty_N: (N,) how unlike the training images each is, see `Predictions.novelty_N`.
        """
        n = len(labels_N)
        right_N = probabilities_NK.argmax(1) == labels_N
        width = Reliability.equal_width(labels_N, probabilities_NK)
        number = Reliability.equal_number(labels_N, probabilities_NK)
        measures = judging_measures(labels_N, probabilities_NK, votes_NK)
        wanted = {name: measure for name, measure in measures.items() if name not in evaluation.metrics}
        judging = bootstrapped(wanted, n, groups_N, resamples=_RESAMPLES)
        resamples = _RESAMPLES if probabilities_NK.size <= _MANY else _RESAMPLES_OF_MANY
        selective = Selective.measured(
            labels_N,
            probabilities_NK,
            calibration_images=calibration_images,
            fold_N=fold_N,
            groups_N=groups_N,
            resamples=resamples,
        )
        words: Any = {"votes_NK": votes_NK, "groups_N": groups_N, "resamples": _RESAMPLES}
        own = None if own_NK is None else OwnProbabilities.measured(labels_N, own_NK, probabilities_NK, **words)
        of_votes = None if votes_NK is None else against_votes(width, votes_NK, probabilities_NK)
        where, not_shown = broken_down(quantities or {}, right_N, groups_N)
        return cls(
            evaluation=evaluation,
            groups=None if groups_N is None else len(np.unique(groups_N)),
            metrics={**evaluation.metrics, **judging, "aurc": selective.risk.area},
            classes=_classes(evaluation, labels_N, probabilities_NK, groups_N, resamples),
            calibration=calibration_bins(width, groups_N),
            calibration_by_number=calibration_bins(number, groups_N),
            calibration_by_votes=None if of_votes is None else votes_bins(of_votes, groups_N, _RESAMPLES),
            own=own,
            selective=selective,
            where=where,
            not_shown=not_shown,
            mistakes=worst_mistakes(labels_N, probabilities_NK, SHOWN),
            doubtful=_doubtful(probabilities_NK),
            novel=None if novelty_N is None else NovelImages.measured(novelty_N, right_N, groups_N),
            class_resamples=resamples,
        )

    @property
    def n(self) -> int:
        return self.evaluation.n

    @property
    def drawn(self) -> str:
        """What the intervals of scores are over, in words."""
        return "images" if self.groups is None else f"{self.groups:,} groups of images"

    @property
    def resampled(self) -> str:
        """How the intervals of the scores were made, in words."""
        return (
            f"accuracy, balanced accuracy and macro F1: a Bayesian bootstrap, which gives each of the {self.drawn} a "
            f"random weight, {_RESAMPLES:,} times; the other scores: a bootstrap, which draws as many {self.drawn} "
            f"with replacement, {_RESAMPLES:,} times; shares of classes, bins, parts, cuts and sets: Wilson's score "
            "interval" + ("" if self.groups is None else ", with a group counting as copies of one image")
        )

    def said(self, metric: str) -> str:
        """A metric and its interval, as a sentence names them.

        Example: "86.8 % (95 % interval 83.5 % to 89.8 %)"
        """
        value, low, high = (metric_text(metric, each) for each in _ends(self.metrics[metric]))
        return f"{value} (95 % interval {low} to {high})"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: all numbers, by name."""
        return {
            **self.evaluation.to_dict(),
            **{name: interval.to_dict() for name, interval in self.metrics.items()},
            "intervals": {"made": self.resampled, "draws_of_class_areas": self.class_resamples},
            "groups": self.groups,
            "classes": {facts.name: facts.to_dict() for facts in self.classes},
            "calibration": [each.to_dict() for each in self.calibration],
            "calibration_by_number": [each.to_dict() for each in self.calibration_by_number],
            "calibration_by_votes": (
                None if self.calibration_by_votes is None else [each.to_dict() for each in self.calibration_by_votes]
            ),
            "before_calibration": None if self.own is None else self.own.to_dict(),
            **self.selective.to_dict(self.evaluation.classes),
            "novelty": None if self.novel is None else self.novel.to_dict(),
            "where": [each.to_dict() for each in self.where],
            "where_not_shown": dict(self.not_shown),
        }


def most_telling(where: Sequence[Breakdown]) -> str | None:
    """The thing that accuracy differs most with, as a sentence; None where no two intervals are apart."""
    apart = [each for each in where if each.apart]
    if not apart:
        return None
    most = max(apart, key=lambda each: each.spread)
    best, worst = most.best, most.worst
    return (
        f"Accuracy differs most with {most.name}: {percent(worst.accuracy.value)} of {worst.n:,} images are right "
        f"where it is {worst.label}, and {percent(best.accuracy.value)} of {best.n:,} where it is {best.label}."
    )


def _ends(interval: Interval) -> tuple[float, float, float]:
    return interval.value, interval.low, interval.high


def _points(curve: Curve) -> list[list[float]]:
    return [[round(x, 6), round(y, 6)] for x, y in zip(curve.x_T.tolist(), curve.y_T.tolist(), strict=True)]


def _classes(
    evaluation: Evaluation, labels_N: Array, probabilities_NK: Array, groups_N: Array | None, resamples: int
) -> list[ClassFacts]:
    rankings = [Ranking.of(labels_N == k, probabilities_NK[:, k]) for k in range(len(evaluation.classes))]
    areas = bootstrapped(
        {
            name: measure
            for k, ranking in enumerate(rankings)
            for name, measure in ((f"roc {k}", ranking.roc_auc), (f"precision {k}", ranking.average_precision))
        },
        len(labels_N),
        groups_N,
        resamples=resamples,
    )
    said_N = probabilities_NK.argmax(1)
    found = []
    for k, (scores, ranking) in enumerate(zip(evaluation.by_class(), rankings, strict=True)):
        hits = int(evaluation.confusion_KK[k, k])
        roc, precision_recall = ranking.roc(), ranking.precision_recall()
        found.append(
            ClassFacts(
                scores,
                share_of(hits, said_N == k, groups_N),
                share_of(hits, labels_N == k, groups_N),
                _there(areas[f"roc {k}"]),
                _there(areas[f"precision {k}"]),
                None if roc is None else roc.thinned(),
                None if precision_recall is None else precision_recall.thinned(),
            )
        )
    return found


def _there(interval: Interval) -> Interval | None:
    return None if math.isnan(interval.value) else interval


def _doubtful(probabilities_NK: Array) -> list[int]:
    """Images whose two most probable classes are the closest."""
    two_N2 = np.partition(probabilities_NK, -2, axis=1)[:, -2:]
    return np.argsort(two_N2[:, 1] - two_N2[:, 0], kind="stable")[:SHOWN].tolist()
