"""What is gained and lost by keeping only the images that a model is sure of.

Images are kept where the probability of the class that they are called is at least a cut. Of those that are kept, the
purity is the share that is of this class (precision), the completeness is how many of all images of the class are among
them (recall). Both, and the cut that a purity needs, come from images that the model was not trained on.

Shape letters: N images, K classes, T distinct probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from astroformer.errors import UserError
from astroformer.intervals import Interval, share_limits
from astroformer.metrics import check_answers, check_probabilities
from astroformer.summaries import percent

Array = NDArray[Any]
_ROUNDED = 1e-9  # images


class Band(NamedTuple):
    """A share at each of T cuts, and the ends of its 95 % interval (Wilson)."""

    value_T: Array
    low_T: Array
    high_T: Array


class Cut(NamedTuple):
    """What is kept by a cut.

    Attributes:
        cut: the lowest probability that is kept.
        kept: how many images are.
        right: how many of these are of the class that they are called.
        purity: right of those that are kept.
        completeness: right of all that are of the class; None where there are none.
        share: those that are kept of all that are called so.
    """

    cut: float
    kept: int
    right: int
    purity: Interval
    completeness: Interval | None
    share: Interval


@dataclass(frozen=True, eq=False)
class CutCurve:
    """What each cut keeps: of the images that are called one class, or of all images.

    Attributes:
        cuts_T: (T,) the distinct probabilities of the class that an image is called, falling.
        kept_T: (T,) how many images have at least this one.
        right_T: (T,) how many of them are of the class that they are called.
        positives: how many images are of the class; of all classes, all images.
        effective_T: (T,) how many images that stand alone say as much of the purity as the `kept_T` do: as many, but
            for groups of images that belong together (`intervals.share_interval`).
        effective_positives: the same of `positives`.

    Examples:
        >>> import numpy as np
        >>> from astroformer.trust.thresholds import CutCurve
        >>> probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4], [0.2, 0.8]])
        >>> curve = CutCurve.of_class(np.array([0, 0, 1, 0, 0]), probabilities, 0)
        >>> curve.kept_T.tolist(), curve.right_T.tolist(), curve.positives
        ([1, 2, 3, 4], [1, 2, 2, 3], 4)
        >>> curve.at(0.75).purity.value, curve.at(0.75).completeness.value
        (1.0, 0.5)
        >>> curve.cut_for_purity(0.6).cut  # of 4 images, one more that is wrong would leave 3 of 5
        0.6
    """

    cuts_T: Array
    kept_T: Array
    right_T: Array
    positives: int
    effective_T: Array
    effective_positives: float

    @classmethod
    def of_class(cls, labels_N: Array, probabilities_NK: Array, k: int, groups_N: Array | None = None) -> Self:
        """Of the images that are called class k.

        Args:
            labels_N: (N,) true classes, integers in [0, K).
            probabilities_NK: (N, K) probabilities; rows sum to 1.
            k: number of the class.
            groups_N: (N,) numbers; images with the same one belong together, which widens the intervals. None: each
                stands alone.

        Raises:
            UserError: there is no image, a label is no class, or the rows are no probabilities.
        """
        _check(labels_N, probabilities_NK)
        return cls._of_class(labels_N, probabilities_NK, probabilities_NK.argmax(1), k, groups_N)

    @classmethod
    def of_classes(cls, labels_N: Array, probabilities_NK: Array, groups_N: Array | None = None) -> list[Self]:
        """`of_class` of each of the K classes."""
        _check(labels_N, probabilities_NK)
        said_N = probabilities_NK.argmax(1)
        classes = range(probabilities_NK.shape[1])
        return [cls._of_class(labels_N, probabilities_NK, said_N, k, groups_N) for k in classes]

    @classmethod
    def _of_class(cls, labels_N: Array, probabilities_NK: Array, said_N: Array, k: int, groups_N: Array | None) -> Self:
        called_N, own_N = said_N == k, labels_N == k
        groups = None if groups_N is None else groups_N[called_N]
        order = _Order.of(probabilities_NK[called_N, k], own_N[called_N])
        found = cls._of(order, None, int(own_N.sum()), groups)
        return found if groups_N is None else replace(found, effective_positives=_effective(groups_N[own_N]))

    @classmethod
    def of_all(cls, labels_N: Array, probabilities_NK: Array, groups_N: Array | None = None) -> Self:
        """Of all images, whatever they are called.

        Args:
            labels_N, probabilities_NK, groups_N: see `of_class`.

        Raises:
            UserError: as `of_class`.
        """
        _check(labels_N, probabilities_NK)
        order = _Order.of(probabilities_NK.max(1), probabilities_NK.argmax(1) == labels_N)
        found = cls._of(order, None, len(labels_N), groups_N)
        return found if groups_N is None else replace(found, effective_positives=_effective(groups_N))

    @classmethod
    def by_times(cls, labels_N: Array, probabilities_NK: Array) -> Callable[[Array], Self]:
        """`of_all` as a function of (N,) how many times each image counts, for a bootstrap: the images are put into
        their order once.

        Raises:
            UserError: as `of_class`.
        """
        _check(labels_N, probabilities_NK)
        order = _Order.of(probabilities_NK.max(1), probabilities_NK.argmax(1) == labels_N)
        return lambda times_N: cls._of(order, times_N, int(times_N.sum()), None)

    @classmethod
    def _of(cls, order: _Order, times_N: Array | None, positives: int, groups_N: Array | None) -> Self:
        times_N = np.ones(len(order.right_N)) if times_N is None else np.asarray(times_N, np.float64)
        t = len(order.cuts_T)
        kept_T = np.bincount(order.place_N, times_N, t)
        right_T = np.bincount(order.place_N, times_N * order.right_N, t)
        there_T = kept_T > 0
        kept_T, right_T = (np.rint(np.cumsum(some_T[there_T])).astype(np.int64) for some_T in (kept_T, right_T))
        effective_T = kept_T.astype(np.float64)
        if groups_N is not None:
            effective_T = kept_T**2 / np.maximum(np.cumsum(_squares(order, groups_N)), 1)
        return cls(order.cuts_T[there_T], kept_T, right_T, positives, effective_T, float(positives))

    @property
    def called(self) -> int:
        """How many images there are to be kept."""
        return int(self.kept_T[-1]) if len(self.kept_T) else 0

    # -- shares ------------------------------------------------------------------------------------------------------

    def purity(self) -> Band:
        """Right of those that are kept, at each cut. Each interval is of its cut alone, not of the curve."""
        return _band(self.right_T, self.kept_T, self.effective_T)

    def completeness(self) -> Band:
        """Right of all that are of the class, at each cut; NaN where there are none."""
        n, effective = (np.full(len(self.right_T), some) for some in (self.positives, self.effective_positives))
        return _band(self.right_T, n, effective)

    def share(self) -> Band:
        """Those that are kept of all that are called so, at each cut."""
        n, effective = (np.full(len(self.kept_T), some_T[-1]) for some_T in (self.kept_T, self.effective_T))
        return _band(self.kept_T, n, effective)

    # -- cuts --------------------------------------------------------------------------------------------------------

    def at(self, cut: float) -> Cut | None:
        """What a cut keeps; None where it keeps nothing."""
        t = int((self.cuts_T >= cut).sum()) - 1
        if t < 0:
            return None
        kept, right = int(self.kept_T[t]), int(self.right_T[t])
        purity, completeness, share = (
            Interval(*(float(end_T[t]) for end_T in shares()))
            for shares in (self.purity, self.completeness, self.share)
        )
        return Cut(float(self.cuts_T[t]), kept, right, purity, completeness if self.positives else None, share)

    def cut_for_purity(self, wish: float) -> Cut | None:
        """The lowest cut whose purity holds a wish, so that it keeps most; None where none does.

        A cut holds the wish if it would with one wrong image more: (wrong + 1) / (kept + 1) ≤ 1 − wish. The image more
        is the one that will be classified. Without it the rule would take the luckiest of many cuts, and of few images:
        the two surest ones are most often right, and say nothing of 99 %. It has two effects. At least
        `least_kept(wish)` images must be kept, 99 for a wish of 0.99. And the purity of new images holds the wish on
        average over calibration images, although the cut was chosen by its own purity, where nothing kept counts as
        nothing wrong. (The same count controls false discoveries: Barber & Candès 2015, arXiv 1404.5609, as
        knockoff+; Jin & Candès 2023, arXiv 2210.01408.) How far the truth may be off for this cut is its interval.

        Args:
            wish: a share between 0 and 1.

        Raises:
            UserError: the wish is no such share.
        """
        _check_wish(wish)
        allowed_T = (1 - wish) * (self.kept_T + 1) + _ROUNDED
        holds_T = np.flatnonzero(self.kept_T - self.right_T + 1 <= allowed_T)
        return self.at(float(self.cuts_T[holds_T[-1]])) if len(holds_T) else None

    def why_no_cut(self, wish: float) -> str | None:
        """Why no cut holds a wish, in a few words; None where one does.

        Examples:
            >>> import numpy as np
            >>> from astroformer.trust.thresholds import CutCurve
            >>> CutCurve.of_class(np.array([0, 0]), np.array([[0.9, 0.1], [0.8, 0.2]]), 0).why_no_cut(0.9)
            'needs 9 images, has 2'
        """
        if self.cut_for_purity(wish) is not None:
            return None
        least, called = least_kept(wish), self.called
        if called < least:
            return f"needs {least:,} image{'s' * (least != 1)}, has {called:,}"
        enough_T = self.kept_T >= least
        purity_T = self.right_T[enough_T] / self.kept_T[enough_T]
        best = int(purity_T.argmax())
        return f"{percent(float(purity_T[best]))} in the purest {int(self.kept_T[enough_T][best]):,}"

    # -- risk and coverage -------------------------------------------------------------------------------------------

    def aurc(self) -> float:
        """The area under the risk–coverage curve: the share of wrong images among the i surest ones, averaged over i
        from 1 to n (Geifman & El-Yaniv 2017, arXiv 1705.08500; Geifman et al. 2019, arXiv 1805.08206, section 3).

        The curve itself is 1 − `purity` over `share`. Images of one probability count in the mean of their orders.
        Lower is better: 0 where nothing is wrong, and the share of errors where confidence says nothing.

        Examples:
            >>> import numpy as np
            >>> from astroformer.trust.thresholds import CutCurve
            >>> probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
            >>> area = CutCurve.of_all(np.array([0, 0, 0, 1]), probabilities).aurc()
            >>> round(area, 6)  # (0 + 0 + 0 + 1 / 4) / 4
            0.0625
        """
        if not self.called:
            return math.nan
        wrong_T = self.kept_T - self.right_T
        n_T, w_T = np.diff(self.kept_T, prepend=0), np.diff(wrong_T, prepend=0)
        # Among n images of one probability, w of them wrong, behind m of which v are wrong, the j-th has on average
        # the risk (v + j w / n) / (m + j). The sum over j has harmonic numbers in it.
        harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, self.called + 1))])
        m_T, v_T = self.kept_T - n_T, wrong_T - w_T
        area_T = w_T + (v_T - m_T * w_T / n_T) * (harmonic[self.kept_T] - harmonic[m_T])
        return float(area_T.sum() / self.called)

    def excess_aurc(self) -> float:
        """E-AURC: how much `aurc` exceeds that of the best order, in which all wrong images come last (Geifman et al.
        2019, equation 4). It is 0 for the best order, whatever the accuracy."""
        if not self.called:
            return math.nan
        right = int(self.right_T[-1])
        last = np.arange(right + 1, self.called + 1)
        return self.aurc() - float(((last - right) / last).sum() / self.called)


def least_kept(wish: float) -> int:
    """How many images a cut must keep at least to hold a purity, if none of them is wrong.

    Examples:
        >>> from astroformer.trust.thresholds import least_kept
        >>> least_kept(0.9), least_kept(0.99)
        (9, 99)
    """
    _check_wish(wish)
    return max(1, math.ceil(1 / (1 - wish) - 1 - _ROUNDED))


def abstained(probabilities_NK: Array, cuts: Sequence[float | None]) -> NDArray[np.bool_]:
    """(N,) whether an image is less probable than the cut of the class that it is called.

    Args:
        probabilities_NK: (N, K) of any images.
        cuts: of each class; None keeps none of its images.

    Raises:
        UserError: the rows are no probabilities, or there are not K cuts.

    Examples:
        >>> import numpy as np
        >>> from astroformer.trust.thresholds import abstained
        >>> abstained(np.array([[0.9, 0.1], [0.6, 0.4], [0.1, 0.9]]), (0.8, None)).tolist()
        [False, True, True]
    """
    check_probabilities(probabilities_NK)
    if len(cuts) != probabilities_NK.shape[1]:
        raise UserError(f"there are {len(cuts)} cuts for {probabilities_NK.shape[1]} classes; one a class is needed.")
    cut_K = np.array([math.inf if cut is None else cut for cut in cuts])
    return np.asarray(probabilities_NK.max(1) < cut_K[probabilities_NK.argmax(1)])


def _check(labels_N: Array, probabilities_NK: Array) -> None:
    check_probabilities(probabilities_NK)
    check_answers(labels_N, probabilities_NK, probabilities_NK.shape[1])


def _check_wish(wish: float) -> None:
    if not 0 < wish < 1:
        raise UserError(f"purity is {wish}; it must lie between 0 and 1, as 0.99 does: a share of the images.")


def wish_text(wish: float) -> str:
    """A wish as a person reads it, with as many digits as it has, at most 4.

    Examples:
        >>> from astroformer.trust.thresholds import wish_text
        >>> wish_text(0.9), wish_text(0.9995)
        ('90 %', '99.95 %')
    """
    return percent(wish, next((d for d in range(4) if abs(100 * wish - round(100 * wish, d)) < _ROUNDED), 4))


def _band(hits_T: Array, n_T: Array, effective_T: Array) -> Band:
    value_T = np.divide(hits_T, n_T, out=np.full(len(n_T), math.nan), where=n_T > 0)
    return Band(value_T, *share_limits(np.where(hits_T == n_T, effective_T, value_T * effective_T), effective_T))


class _Order(NamedTuple):
    """N images by their confidence: the T distinct ones, falling, the place of each image among them, and whether it
    is right."""

    cuts_T: Array
    place_N: Array
    right_N: Array

    @classmethod
    def of(cls, confidence_N: Array, right_N: Array) -> Self:
        negative_T, place_N = np.unique(-confidence_N.astype(np.float64), return_inverse=True)
        return cls(-negative_T, place_N, right_N)


def _squares(order: _Order, groups_N: Array) -> Array:
    """(T,) by how much the images of each confidence raise Σ m² over the sizes m of the groups of those that are kept:
    the one behind m others of its group by (m + 1)² − m²."""
    by_place = np.lexsort((order.place_N, groups_N))
    group_N = groups_N[by_place]
    first_N = np.append(True, group_N[1:] != group_N[:-1]) if len(group_N) else np.empty(0, bool)
    number_N = np.arange(len(group_N))
    before_N = number_N - np.maximum.accumulate(np.where(first_N, number_N, 0))
    return np.bincount(order.place_N[by_place], 2 * before_N + 1, len(order.cuts_T))


def _effective(groups_N: Array) -> float:
    """(Σ m)² / Σ m² over the sizes m of groups; 0 of none."""
    size_G = np.unique(groups_N, return_counts=True)[1]
    return float(size_G.sum() ** 2 / (size_G**2).sum()) if len(size_G) else 0.0
