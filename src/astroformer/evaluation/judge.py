"""`Judge`: what a user wishes to know of predictions beside the probabilities: sets of classes, where to abstain, and
what other shares of the classes change.

Shape letters: N calibration images, M images, K classes.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from astroformer.errors import UserError, brief
from astroformer.predictions import Predictions
from astroformer.summaries import percent, some_of
from astroformer.terminal import fitted, widest
from astroformer.trust.conformal import ConformalSets
from astroformer.trust.priors import SCORES, ClassCounts, check_countable, corrected
from astroformer.trust.thresholds import CutCurve, abstained, wish_text

if TYPE_CHECKING:
    from astroformer.classifier import Classifier

Array = NDArray[Any]
ESTIMATE = "estimate"  # shares of classes, from the images themselves
SEPARATOR = "|"  # of the classes of a set
_MOST = 30  # classes of a table
_WIDTH = 80
_NAME = 20  # columns of the longest name


class Wishes(TypedDict, total=False):
    """What `Judge` may be asked for, by its words."""

    coverage: float | None
    sets: str
    by_class: bool
    purity: float | None
    priors: str | None


class Judge:
    """Adds what is wished for to predictions, part by part.

    Args:
        classes: the K names.
        labels_N: classes of the calibration images, which the model was not trained on.
        probabilities_NK: theirs.
        coverage: how often a set holds the true class; None: no column `prediction_set`.
        sets: of which kind, see `ConformalSets`.
        by_class: whether the coverage is of each class.
        purity: how often an image that is not abstained on is called right, in each class; None: no column `abstain`.
        priors: "estimate", or the shares of the classes as `spiral=0.3,smooth=0.7`; None: those of before.

    Raises:
        UserError: so many calibration images can't hold a wish; the shares are none; or other shares are stated beside
            a wish that holds for those of before only.

    Examples:
        >>> import numpy as np
        >>> labels = np.arange(40) % 2
        >>> probabilities = np.where(labels[:, None] == np.arange(2), 0.8, 0.2)
        >>> judge = Judge(("disc", "ring"), labels, probabilities, coverage=0.9, purity=0.9)
        >>> two = Predictions(["a.png", "b.png"], ("disc", "ring"), np.array([[0.9, 0.1], [0.6, 0.4]]), ["", ""])
        >>> judge.judged(two).added
        {'prediction_set': ['disc', ''], 'abstain': [False, True]}
    """

    def __init__(
        self,
        classes: tuple[str, ...],
        labels_N: Array,
        probabilities_NK: Array,
        *,
        coverage: float | None = None,
        sets: str = "lac",
        by_class: bool = False,
        purity: float | None = None,
        priors: str | None = None,
    ) -> None:
        check_together(coverage, sets, by_class, purity, priors)
        self._classes, self._labels_N, self._probabilities_NK = classes, labels_N, probabilities_NK
        self._coverage, self._kind, self._by_class, self._purity = coverage, sets, by_class, purity
        self._old_K = probabilities_NK.mean(0, dtype=np.float64)
        self._new_K = None if priors in (None, ESTIMATE) else stated_shares(priors, classes)
        self._counts: tuple[ClassCounts, ClassCounts] | None = None  # by each kind of scores
        self._sets = self._fit_sets()
        self._curves = [] if purity is None else CutCurve.of_classes(labels_N, probabilities_NK)
        self._cuts = [] if purity is None else [curve.cut_for_purity(purity) for curve in self._curves]
        # Of the images that were judged: how many sets have each size; and of each class, how many are called it, and
        # how many of them are kept.
        self._sizes = np.zeros(len(classes) + 1, np.int64)
        self._called, self._kept = np.zeros(len(classes), np.int64), np.zeros(len(classes), np.int64)
        self.estimates = priors == ESTIMATE
        if self.estimates:
            check_countable(labels_N, classes)  # before all images are predicted, which takes long

    @classmethod
    def of(cls, model: Classifier, **wishes: Unpack[Wishes]) -> Self:
        """That of a model, by the images that were held out of its training.

        Raises:
            UserError: as `Judge`; or the model has no such images.
        """
        if (held_out := model.trust.held_out) is None:
            raise UserError(
                "coverage, purity and priors need the answers to images that were held out of the training, and this "
                "model has none: it was trained by an older version or is asked with another symmetry than its own. "
                "Train it again, or leave the symmetry out."
            )
        return cls(model.classes, held_out.labels_N, model.trust.of_held_out(), **wishes)

    @property
    def added(self) -> list[str]:
        """The columns that it adds."""
        wishes = {"prediction_set": self._coverage, "abstain": self._purity}
        return [name for name, wish in wishes.items() if wish is not None]

    def estimate(self, parts: Sequence[Predictions]) -> None:
        """Learns the shares of the classes from all predictions, which have to be there before any is judged."""
        readable = [part.probabilities_NK[part.readable_N] for part in parts]
        new_MK = np.concatenate([self._probabilities_NK[:0], *readable])
        if not len(new_MK):
            return  # there is nothing to correct
        words = (self._labels_N, self._probabilities_NK, new_MK)
        first, second = (ClassCounts.of(*words, scores, classes=self._classes) for scores in SCORES)
        self._counts, self._new_K = (first, second), np.array(first.by_em)
        self._sets = self._fit_sets()

    def _fit_sets(self) -> ConformalSets | None:
        if self._coverage is None:
            return None
        if named := [name for name in self._classes if SEPARATOR in name]:
            raise UserError(f"class '{named[0]}' has a '{SEPARATOR}', which separates the classes of a set.")
        p_NK = self._corrected(self._probabilities_NK)
        return ConformalSets.fit(
            self._labels_N, p_NK, self._coverage, self._kind, self._by_class, classes=self._classes
        )

    def _corrected(self, probabilities_MK: Array) -> Array:
        return probabilities_MK if self._new_K is None else corrected(probabilities_MK, self._old_K, self._new_K)

    def judged(self, part: Predictions) -> Predictions:
        """The same predictions with probabilities for the new shares, and with the columns `added`."""
        readable_M = part.readable_N
        probabilities_MK = part.probabilities_NK.copy()
        p_MK = self._corrected(probabilities_MK[readable_M])
        probabilities_MK[readable_M] = p_MK
        values: dict[str, list[Any]] = {}
        self._called += np.bincount(p_MK.argmax(1), minlength=len(self._classes))
        if self._sets is not None:
            sets_MK = self._sets.sets_NK(p_MK)
            self._sizes += np.bincount(sets_MK.sum(1), minlength=len(self._sizes))
            values["prediction_set"] = [
                SEPARATOR.join(name for name, held in zip(self._classes, row, strict=True) if held)
                for row in sets_MK.tolist()
            ]
        if self._purity is not None:
            abstained_M = abstained(p_MK, [None if cut is None else cut.cut for cut in self._cuts])
            self._kept += np.bincount(p_MK.argmax(1)[~abstained_M], minlength=len(self._classes))
            values["abstain"] = abstained_M.tolist()
        added = dict(part.added)
        for name, column in values.items():
            rows = iter(column)
            added[name] = [next(rows) if readable else None for readable in readable_M]
        return replace(part, probabilities_NK=probabilities_MK, added=added)

    # -- as text -----------------------------------------------------------------------------------------------------

    def text(self) -> str:
        """What was found of the calibration images and of the predictions that were judged, in 80 columns."""
        parts = []
        if self._new_K is not None:
            parts.append(self._shares_text() if self._counts is None else self._counts_text(self._counts[0]))
        if self._sets is not None:
            parts.append(self._sets_text(self._sets))
        if self._purity is not None:
            parts.append(self._cuts_text(self._purity))
        return "\n\n".join(parts)

    def warning(self) -> str | None:
        """What to say where more than the shares of the classes has changed, as far as can be seen."""
        if self._counts is None:
            return None
        rows = zip(self._classes, *(found.counts for found in self._counts), strict=True)
        apart = [
            f"{name} {round(other.low):,} to {round(other.high):,}"
            for name, count, other in rows
            if other.low > count.high + 0.5 or other.high < count.low - 0.5
        ]
        if not apart:
            return None
        return (
            f"the confusion matrix gives other numbers of images ({some_of(apart)}): more than the shares of the "
            "classes has changed, so do not trust the estimated shares"
        )

    def _name_width(self) -> int:
        return max(widest(list(self._classes), _NAME), len("class"))

    def _rows(self, weights_K: Array) -> list[int]:
        """The classes of a table: all, or of many those with the highest weights."""
        if len(self._classes) <= _MOST:
            return list(range(len(self._classes)))
        return np.argsort(-weights_K, kind="stable")[:_MOST].tolist()

    def _more(self, rows: list[int]) -> list[str]:
        left = len(self._classes) - len(rows)
        return [f"and {left:,} more classes"] if left else []

    def _shares_text(self) -> str:
        assert self._new_K is not None
        width, rows = self._name_width(), self._rows(self._new_K)
        lines = ["probabilities for other shares of the classes"]
        lines.append(f"{'class':<{width}}{'before':>10}{'now':>10}{'called':>10}")
        for k in rows:
            shares = "".join(f"{percent(share_K[k]):>10}" for share_K in (self._old_K, self._new_K))
            lines.append(f"{fitted(self._classes[k], width)}{shares}{self._called[k]:>10,}")
        return "\n".join([*lines, *self._more(rows)])

    def _counts_text(self, found: ClassCounts) -> str:
        width, rows = self._name_width(), self._rows(np.array([count.value for count in found.counts]))
        lines = [f"images of each class, estimated with {len(self._labels_N):,} calibration images"]
        lines.append(f"{'class':<{width}}{'before':>10}{'now':>10}{'images':>10}   95 % interval")
        for k in rows:
            count = found.counts[k]
            shares = f"{percent(found.old[k]):>10}{percent(count.value / found.n):>10}"
            interval = f"{round(count.low):,} to {round(count.high):,}"
            lines.append(f"{fitted(self._classes[k], width)}{shares}{round(count.value):>10,}   {interval}")
        return "\n".join([*lines, *self._more(rows)])

    def _sets_text(self, sets: ConformalSets) -> str:
        total = int(self._sizes.sum())
        of_what = "images of each class" if sets.by_class else "images"
        first = (
            f"sets that hold the true class of {wish_text(sets.coverage)} of {of_what} ({sets.kind}, by {sets.n:,} "
            "calibration images)"
        )
        if not total:
            return _wrapped(first)
        mean = float(self._sizes @ np.arange(len(self._sizes))) / total
        lines = [_wrapped(f"{first}: {mean:.2f} classes on average, one for {self._sizes[1]:,} of {total:,} images")]
        if self._sizes[0]:
            lines.append(
                _wrapped(
                    f"{self._sizes[0]:,} sets are empty: no class is sure enough. A higher --coverage leaves fewer."
                )
            )
        return "\n".join(lines)

    def _cuts_text(self, wish: float) -> str:
        width, rows = self._name_width(), self._rows(self._called)
        lines = [f"cuts for a purity of {wish_text(wish)}, by {len(self._labels_N):,} calibration images"]
        lines.append(f"{'class':<{width}}{'cut':>8}{'purity':>9}   {'95 % interval':<20}{'kept':>8}{'of images':>12}")
        for k in rows:
            name, cut = fitted(self._classes[k], width), self._cuts[k]
            if cut is None:
                found = f"{'none':>8}   {self._curves[k].why_no_cut(wish):<29}"
            else:
                interval = f"{percent(cut.purity.low)} to {percent(cut.purity.high)}"
                found = f"{cut.cut:>8.4f}{percent(cut.purity.value):>9}   {interval:<20}"
            lines.append(f"{name}{found}{self._kept[k]:>8,}{self._called[k]:>12,}")
        lines += self._more(rows)
        if None in self._cuts:
            lines.append("none: all images that are called so are abstained on")
        return "\n".join(lines)


def judge(model: Classifier, predictions: Predictions, **wishes: Unpack[Wishes]) -> Predictions:
    """Predictions with sets of classes, with the answers to leave out, or for other shares of the classes.

    As `astroformer predict` does with `--coverage`, `--purity` and `--priors`.

    Args:
        model: that made them.
        predictions: of all images.
        wishes: `coverage` (how often a set holds the true class, such as 0.9), `sets` ("lac", "aps" or "raps"),
            `by_class` (hold the coverage in each class), `purity` (abstain so that this share of the other images of
            each class is called right), `priors` ("estimate", or shares of the classes: "spiral=0.3,smooth=0.7").

    Returns:
        The same with the columns `prediction_set` and `abstain` in `added`, as far as they are wished for.

    Raises:
        UserError: a wish can't be held by so many held-out images, or the model has none; see `Judge`.

    Examples:
        >>> import astroformer
        >>> recipe = astroformer.Recipe(epochs=1, image_size=32, crop=1.0, device="cpu")
        >>> model = astroformer.train("mock-galaxies:100x32", recipe).classifier
        >>> told = astroformer.judge(model, model.predict("mock-galaxies:20x32"), coverage=0.8)
        >>> len(told.added["prediction_set"])
        20
    """
    told = Judge.of(model, **wishes)
    if told.estimates:
        told.estimate([predictions])
    return told.judged(predictions)


def check_together(coverage: float | None, sets: str, by_class: bool, purity: float | None, priors: str | None) -> None:
    """Raises `UserError` where wishes, as in `Judge`, are none or can't be had together."""
    if coverage is None and (by_class or sets != "lac"):
        word = "--by-class" if by_class else f"--sets {sets}"
        raise UserError(f"{word} is of sets; state how often they hold the true class, such as --coverage 0.9.")
    for name, wish in (("coverage", coverage), ("purity", purity)):
        if wish is not None and not 0 < wish < 1:
            raise UserError(f"--{name} is {wish}; a share between 0 and 1 is needed, such as 0.9.")
    holds = "holds where the classes have the shares of the calibration images, and --priors says that they have others"
    if priors is not None and purity is not None:
        raise UserError(f"--purity {holds}; leave out one of the two.")
    if priors is not None and coverage is not None and not by_class:
        raise UserError(f"--coverage {holds}; add --by-class, whose promise does not depend on the shares.")


def stated_shares(text: str, classes: Sequence[str]) -> Array:
    """(K,) the shares that a text states, such as `spiral=0.3,smooth=0.7`.

    Raises:
        UserError: a part of it is no share, a name is no class, a class has none or two, or they do not sum to 1.

    Examples:
        >>> stated_shares("ring=0.25,disc=0.75", ("disc", "ring")).tolist()
        [0.75, 0.25]
    """
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, equals, number = part.rpartition("=")
        name = name.strip()
        try:
            share = float(number)
        except ValueError:
            share = -1.0
        if not equals or not 0 <= share <= 1:
            raise UserError(
                f"--priors has {brief(part)}; '{ESTIMATE}' or a share from 0 to 1 of each class is needed, such as "
                f"{classes[0]}=0.3."
            )
        if name not in classes:
            raise UserError(f"--priors names '{name}', which is no class of the model. Allowed: {some_of(classes)}.")
        if name in shares:
            raise UserError(f"--priors states the share of '{name}' twice.")
        shares[name] = share
    if missing := [name for name in classes if name not in shares]:
        raise UserError(
            f"--priors states no share of {some_of(missing)}; state one of each class, 0 for those that are not there."
        )
    total = sum(shares.values())
    if abs(total - 1) > 1e-3:
        raise UserError(f"the shares of --priors sum to {total:.6g}; they must sum to 1.")
    return np.array([shares[name] for name in classes]) / total


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _WIDTH, subsequent_indent="  ", break_long_words=False)
