"""What a report says of answers that are held back: risk and coverage, cuts for a purity, and sets of classes.

Cuts and sets are made of the model's calibration images, as `astroformer predict` makes them, and measured on the
images of the report. An image that is a calibration image itself is measured by what the other folds say.

Shape letters: N images, R calibration images, K classes, T distinct confidences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroformer.curves import Curve
from astroformer.errors import UserError
from astroformer.evaluation.report.calibrated import share_of
from astroformer.intervals import Interval, bootstrapped
from astroformer.trust.conformal import ConformalSets, SetScores
from astroformer.trust.thresholds import Band, CutCurve, abstained

Array = NDArray[Any]
COVERAGES = (0.8, 0.9, 0.95)
PURITIES = (0.9, 0.95, 0.99)
MOST_POINTS = 200  # that are drawn of the curve of all classes
_POINTS = 60  # of a curve of a class


class CalibrationImages(NamedTuple):
    """The R images that a model keeps to say how far to trust it.

    Attributes:
        labels_R: true classes.
        probabilities_RK: the model's, each by a calibration that was fitted without it.
        fold_R: which fold each is of.
        votes: whether the model learned shares of votes, and these images have some.
    """

    labels_R: Array
    probabilities_RK: Array
    fold_R: Array
    votes: bool = False


@dataclass(frozen=True)
class Line:
    """A share and its 95 % band along a line of points x."""

    x_T: Array
    band: Band

    @property
    def curve(self) -> Curve:
        return Curve(self.x_T, self.band.value_T)

    def thinned(self, most: int) -> Line:
        kept = self.curve.kept(most)
        return Line(self.x_T[kept], Band(*(end_T[kept] for end_T in self.band)))

    def interval(self, t: int) -> Interval:
        """That of a point."""
        return Interval(*(float(end_T[t]) for end_T in self.band))

    def to_dict(self, x: str) -> dict[str, list[float]]:
        columns = {x: self.x_T, "value": self.band.value_T, "low": self.band.low_T, "high": self.band.high_T}
        return {name: [round(value, 5) for value in column_T.tolist()] for name, column_T in columns.items()}


@dataclass(frozen=True)
class RiskCoverage:
    """How wrong the surest images are.

    Attributes:
        area: AURC, see `CutCurve.aurc`.
        excess: E-AURC, see `CutCurve.excess_aurc`.
        best: the area of the best order, in which all wrong images come last.
        errors: the share that is wrong of all images, which is the area of an order that says nothing.
        line: the share that is wrong of those that are kept, over the share that is kept.
    """

    area: Interval
    excess: Interval
    best: float
    errors: float
    line: Line

    @classmethod
    def measured(cls, labels_N: Array, probabilities_NK: Array, groups_N: Array | None, resamples: int) -> RiskCoverage:
        by_times = CutCurve.by_times(labels_N, probabilities_NK)
        measures = {
            "area": lambda times_N: by_times(times_N).aurc(),
            "excess": lambda times_N: by_times(times_N).excess_aurc(),
        }
        found = bootstrapped(measures, len(labels_N), groups_N, resamples=resamples)
        curve = CutCurve.of_all(labels_N, probabilities_NK, groups_N)
        purity = curve.purity()
        risk = Band(1 - purity.value_T, 1 - purity.high_T, 1 - purity.low_T)
        best = found["area"].value - found["excess"].value
        errors = (curve.called - int(curve.right_T[-1])) / curve.called
        return cls(found["area"], found["excess"], best, errors, Line(curve.share().value_T, risk))

    def at(self, coverage: float) -> tuple[float, Interval]:
        """The share that is kept, at least `coverage`, and the share of it that is wrong."""
        t = int(np.searchsorted(self.line.x_T, coverage - 1e-9).clip(0, len(self.line.x_T) - 1))
        return float(self.line.x_T[t]), self.line.interval(t)

    def to_dict(self) -> dict[str, Any]:
        return {
            "aurc": self.area.to_dict(),
            "excess_aurc": self.excess.to_dict(),
            "best_aurc": self.best,
            "errors": self.errors,
            "curve": self.line.thinned(MOST_POINTS).to_dict("coverage"),
        }


@dataclass(frozen=True)
class Kept:
    """What a wished purity keeps of some images.

    Attributes:
        wish: the purity.
        cut: the lowest probability that is kept, as all calibration images say; None where none holds the wish, and of
            all classes together, which have a cut each.
        why: why there is no cut, in a few words.
        n: how many images are kept.
        purity: the share of them that is right; None where none is kept.
        completeness: right and kept of all that are of the class; None where there are none.
        share: kept of those that are called so; None where none is.
    """

    wish: float
    cut: float | None
    why: str | None
    n: int
    purity: Interval | None
    completeness: Interval | None
    share: Interval | None

    def to_dict(self) -> dict[str, Any]:
        ends = {"purity": self.purity, "completeness": self.completeness, "share": self.share}
        words = {"wish": self.wish, "cut": self.cut, "why_no_cut": self.why, "kept": self.n}
        return {**words, **{name: None if found is None else found.to_dict() for name, found in ends.items()}}


@dataclass(frozen=True)
class ClassCuts:
    """What a cut keeps of the images that are called a class.

    Attributes:
        purity, completeness, share: over the cut, of these images; None where none is called so, and completeness
            where none is of the class.
        kept: what each of `PURITIES` keeps; empty without calibration images.
    """

    purity: Line | None
    completeness: Line | None
    share: Line | None
    kept: Sequence[Kept]

    def to_dict(self) -> dict[str, Any]:
        lines = {"purity": self.purity, "completeness": self.completeness, "share": self.share}
        return {
            **{name: None if line is None else line.to_dict("cut") for name, line in lines.items()},
            "wishes": [each.to_dict() for each in self.kept],
        }


@dataclass(frozen=True)
class Sets:
    """Sets of classes that should hold the true one as often as was wished.

    Attributes:
        wish: how often.
        alone: how many images that stand alone say as much as those of the report: as many, but for groups.
        scores: what they are on the images of the report; None where there are no such sets.
        why: why not, as a sentence.
    """

    wish: float
    alone: int
    scores: SetScores | None
    why: str | None

    def to_dict(self, classes: Sequence[str]) -> dict[str, Any]:
        words: dict[str, Any] = {"wish": self.wish, "why_none": self.why}
        if (found := self.scores) is not None:
            by_class = {
                name: None if share is None else share.to_dict()
                for name, share in zip(classes, found.by_class, strict=True)
            }
            words |= {"coverage": found.coverage.to_dict(), "size": found.size, "single": found.single}
            words |= {"empty": found.empty, "classes": by_class}
        return words


@dataclass(frozen=True)
class Selective:
    """What is gained and lost by holding answers back.

    Attributes:
        risk: of all images.
        calibration_images: how many the cuts and sets are made of; 0 where the model keeps none.
        learned_votes: whether these have votes; None where there are none.
        among_them: how many images of the report are such themselves.
        by_class: what cuts keep of each class.
        kept: what each of `PURITIES` keeps of all images, each class by its own cut; empty without calibration images.
        sets: of each of `COVERAGES`; empty without calibration images.
    """

    risk: RiskCoverage
    calibration_images: int
    learned_votes: bool | None
    among_them: int
    by_class: Sequence[ClassCuts]
    kept: Sequence[Kept]
    sets: Sequence[Sets]

    @classmethod
    def measured(
        cls,
        labels_N: Array,
        probabilities_NK: Array,
        *,
        calibration_images: CalibrationImages | None,
        fold_N: Array | None,
        groups_N: Array | None,
        resamples: int,
    ) -> Selective:
        """Args are those of `Facts.measured`."""
        fold_N = np.full(len(labels_N), -1) if fold_N is None else fold_N
        risk = RiskCoverage.measured(labels_N, probabilities_NK, groups_N, resamples)
        by_wish: list[tuple[Kept, list[Kept]]] = []
        sets: list[Sets] = []
        if calibration_images is not None:
            words = (calibration_images, fold_N, labels_N, probabilities_NK, groups_N)
            by_wish = _kept(*words)
            sets = [_sets(wish, *words) for wish in COVERAGES]
        curves = CutCurve.of_classes(labels_N, probabilities_NK, groups_N)
        return cls(
            risk,
            0 if calibration_images is None else len(calibration_images.labels_R),
            None if calibration_images is None else calibration_images.votes,
            int((fold_N >= 0).sum()),
            [_class_cuts(curve, [classes[c] for _, classes in by_wish]) for c, curve in enumerate(curves)],
            [every for every, _ in by_wish],
            sets,
        )

    def to_dict(self, classes: Sequence[str]) -> dict[str, Any]:
        return {
            "risk_coverage": self.risk.to_dict(),
            "calibration_images": self.calibration_images,
            "among_them": self.among_them,
            "cuts": {
                "all": [each.to_dict() for each in self.kept],
                "classes": {name: each.to_dict() for name, each in zip(classes, self.by_class, strict=True)},
            },
            "sets": [each.to_dict(classes) for each in self.sets],
        }


def _class_cuts(curve: CutCurve, kept: Sequence[Kept]) -> ClassCuts:
    if not curve.called:
        return ClassCuts(None, None, None, kept)
    # All three at the same cuts: where the purity changes most, or the share does.
    bands = (curve.purity(), curve.completeness(), curve.share())
    changing = [Curve(curve.cuts_T, band.value_T).kept(_POINTS // 2) for band in (bands[0], bands[2])]
    chosen = np.unique(np.concatenate(changing))
    purity, completeness, share = (
        Line(curve.cuts_T[chosen], Band(*(end_T[chosen] for end_T in band))) for band in bands
    )
    return ClassCuts(purity, completeness if curve.positives else None, share, kept)


def _by_fold(
    calibration: CalibrationImages, fold_N: Array, make: Callable[[Array, Array], Any]
) -> Iterator[tuple[Array, Any]]:
    """Which images are measured together, and what is made of the calibration images that are not among them.

    Args:
        make: is given labels and probabilities of calibration images.
    """
    for fold in np.unique(fold_N):
        others_R = calibration.fold_R != fold
        yield fold_N == fold, make(calibration.labels_R[others_R], calibration.probabilities_RK[others_R])


def _kept(
    calibration: CalibrationImages, fold_N: Array, labels_N: Array, probabilities_NK: Array, groups_N: Array | None
) -> list[tuple[Kept, list[Kept]]]:
    """What each of `PURITIES` keeps of all images, and of those that are called each class."""
    k = probabilities_NK.shape[1]
    called_N = probabilities_NK.argmax(1)
    right_N = called_N == labels_N

    def curves(labels_R: Array, probabilities_RK: Array) -> list[CutCurve]:
        return CutCurve.of_classes(labels_R, probabilities_RK) if len(labels_R) else []

    by_fold = list(_by_fold(calibration, fold_N, curves))
    whole = curves(calibration.labels_R, calibration.probabilities_RK)

    def measured(wish: float, kept_N: Array, own_N: Array, called_so_N: Array, curve: CutCurve | None) -> Kept:
        mine_N = kept_N & called_so_N
        n, right = int(mine_N.sum()), int((mine_N & right_N).sum())
        cut = None if curve is None else curve.cut_for_purity(wish)
        return Kept(
            wish,
            None if cut is None else cut.cut,
            None if curve is None else curve.why_no_cut(wish),
            n,
            share_of(right, mine_N, groups_N),
            share_of(right, own_N, groups_N),
            share_of(n, called_so_N, groups_N),
        )

    found = []
    every_N = np.ones(len(labels_N), bool)
    for wish in PURITIES:
        kept_N = np.zeros(len(labels_N), bool)
        for chosen_N, of_classes in by_fold:
            cuts = [curve.cut_for_purity(wish) for curve in of_classes] or [None] * k
            limits = [None if cut is None else cut.cut for cut in cuts]
            kept_N[chosen_N] = ~abstained(probabilities_NK[chosen_N], limits)
        classes = [measured(wish, kept_N, labels_N == c, called_N == c, curve) for c, curve in enumerate(whole)]
        found.append((measured(wish, kept_N, every_N, every_N, None), classes))
    return found


def _sets(
    wish: float,
    calibration: CalibrationImages,
    fold_N: Array,
    labels_N: Array,
    probabilities_NK: Array,
    groups_N: Array | None,
) -> Sets:
    sets_NK = np.zeros(probabilities_NK.shape, bool)
    size_G = np.ones(len(labels_N)) if groups_N is None else np.unique(groups_N, return_counts=True)[1]
    alone = round(size_G.sum() ** 2 / (size_G**2).sum())
    try:
        made = _by_fold(calibration, fold_N, lambda labels_R, p_RK: ConformalSets.fit(labels_R, p_RK, wish))
        for chosen_N, found in made:
            sets_NK[chosen_N] = found.sets_NK(probabilities_NK[chosen_N])
    except UserError as error:  # too few calibration images
        return Sets(wish, alone, None, str(error))
    return Sets(wish, alone, SetScores.of(labels_N, sets_NK, groups_N), None)
