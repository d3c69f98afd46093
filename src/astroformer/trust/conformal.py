"""Sets of classes that hold the true one as often as was wished (conformal prediction).

Images that the model was not trained on, the calibration images, tell how far down its list of classes one has to go.
The promise holds for any model and any probabilities: a new image that is drawn as the calibration images were has its
class in its set with at least the wished probability, on average over both draws (Vovk et al. 2005; Angelopoulos &
Bates 2023, arXiv 2107.07511, appendix D). With `by_class` it holds for the images of each class (Mondrian).

An image's set is { class k : score_k ≤ threshold }. The kinds differ in the score of a class with probability p_k,
where `above` is the sum of the probabilities that are higher than p_k, and `rank` is 1 + the number of them:

- `lac`: 1 − p_k. It gives the smallest sets on average (Sadinle et al. 2019, arXiv 1609.00451).
- `aps`: above. Sets are large where the model doubts, and small where it is sure (Romano et al. 2020, arXiv
  2006.02544).
- `raps`: above + λ · max(0, rank − k_reg). As `aps`, without the tail of improbable classes (Angelopoulos et al. 2021,
  arXiv 2009.14193).

Shape letters: N images, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from astroformer.errors import UserError, unknown_name
from astroformer.intervals import Interval, share_interval
from astroformer.metrics import check_answers, check_probabilities
from astroformer.summaries import some_of

Array = NDArray[Any]
KINDS = ("lac", "aps", "raps")
_PENALTIES = (0.001, 0.01, 0.1, 0.2, 0.5)  # λ that Angelopoulos et al. try
_TUNING = 5  # one of so many calibration images chooses λ and k_reg, and is no calibration image any more
_TUNING_SEED = 0


@dataclass(frozen=True)
class ConformalSets:
    """What makes sets of classes out of probabilities.

    A set of `lac` may be empty: no class is probable enough. This happens where the model is right more often than
    was wished. To miss the class of one image in ten, as a wish of 0.9 allows, a model that is wrong about one in
    fifty has to leave out classes that are right, and it does so where it is least sure. An empty set is kept empty.
    It says "none of the classes is sure enough", which is true; filled with the most probable class, the doubtful
    images would look like the surest ones, and the coverage would not be the one that was asked for. A higher wish
    leaves fewer empty sets.

    Sets of `aps` and `raps` are never empty: the most probable class has the score 0, as in equation 4 of Romano et
    al. So where a model is right more often than was wished, they hold the true class as often as the model is right.
    The same image always has the same set. The randomized score of the papers, above + u · p_k with a random number u
    for each image, holds the wish exactly there as well, at the price of sets that are empty by chance, and most often
    where the model is surest. It is used where `uniforms_N` are given.

    Attributes:
        kind: "lac", "aps" or "raps".
        coverage: the wish.
        by_class: whether it is promised for the images of each class.
        n: number of calibration images that the thresholds are from.
        thresholds: K numbers, the highest score of each class that is in a set; all alike without `by_class`.
        penalty: λ of `raps`.
        k_reg: the rank above which it is paid.
        randomized: whether the scores of `aps` and `raps` have a random part.

    Examples:
        >>> import numpy as np
        >>> from astroformer.trust.conformal import ConformalSets
        >>> labels = np.array([0, 0, 0, 1, 1])
        >>> probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7], [0.2, 0.8]])
        >>> sets = ConformalSets.fit(labels, probabilities, coverage=0.8)
        >>> sets.thresholds  # the fifth of five scores: ceil((5 + 1) · 0.8)
        (0.6, 0.6)
        >>> sets.sets_NK(np.array([[0.95, 0.05], [0.5, 0.5]])).tolist()
        [[True, False], [True, True]]
    """

    kind: str
    coverage: float
    by_class: bool
    n: int
    thresholds: tuple[float, ...]
    penalty: float = 0.0
    k_reg: int = 0
    randomized: bool = False

    @classmethod
    def fit(
        cls,
        labels_N: Array,
        probabilities_NK: Array,
        coverage: float = 0.9,
        kind: str = "lac",
        by_class: bool = False,
        *,
        classes: Sequence[str] | None = None,
        uniforms_N: Array | None = None,
    ) -> Self:
        """The sets of one wish, from calibration images.

        Of n images the threshold is the ceil((n + 1) · coverage)-th smallest score of the true classes. `raps` chooses
        k_reg and λ on a fifth of the images, drawn at random with a fixed seed, and takes the threshold from the
        others: those that chose can't be counted as new ones, so the promise holds. k_reg is the rank that holds the
        wish, λ what makes the sets smallest, as in the paper.

        Args:
            labels_N: (N,) true classes, integers in [0, K).
            probabilities_NK: (N, K) probabilities of images that the model was not trained on; rows sum to 1.
            coverage: the wished share of sets that hold the true class, between 0 and 1.
            kind: "lac", "aps" or "raps".
            by_class: promise it for the images of each class.
            classes: the K names, for messages.
            uniforms_N: (N,) numbers in [0, 1), one an image, for the randomized `aps` and `raps`. So that an image
                keeps its set, make them of its `pixel_digest`, as int64: `uniforms(seed, 0, digests, Stream.SETS, 1)`
                of `randomness`.

        Raises:
            UserError: there are too few images for the wish, of all classes or of one; or what is given does not fit.
        """
        check_probabilities(probabilities_NK)
        k = probabilities_NK.shape[1]
        check_answers(labels_N, probabilities_NK, k)
        if kind not in KINDS:
            raise unknown_name("kind of sets", kind, KINDS)
        _check_uniforms(uniforms_N, kind, uniforms_N is not None, len(labels_N))
        names = [f"class {c}" for c in range(k)] if classes is None else [f"'{name}'" for name in classes]
        group_N = labels_N if by_class else np.zeros_like(labels_N)
        counts = np.bincount(group_N, minlength=k if by_class else 1)
        _check_enough(counts.tolist(), coverage, kind, names if by_class else None)
        penalty, k_reg, chosen_N = 0.0, 0, np.zeros(len(labels_N), bool)
        if kind == "raps":
            chosen_N = _tuning_images(group_N)
            some_N = None if uniforms_N is None else uniforms_N[chosen_N]
            penalty, k_reg = _tuned(labels_N[chosen_N], probabilities_NK[chosen_N], coverage, some_N)
        scores_NK = _scores(kind, probabilities_NK, penalty, k_reg, uniforms_N)
        true_N = scores_NK[np.arange(len(labels_N)), labels_N]
        thresholds = [quantile(true_N[(group_N == group) & ~chosen_N], coverage) for group in range(len(counts))]
        n, every = int((~chosen_N).sum()), tuple(thresholds if by_class else thresholds * k)
        return cls(kind, float(coverage), by_class, n, every, penalty, k_reg, uniforms_N is not None)

    def sets_NK(self, probabilities_NK: Array, uniforms_N: Array | None = None) -> NDArray[np.bool_]:
        """(N, K) whether each class is in the set of each image.

        Args:
            probabilities_NK: (N, K) of any images; rows sum to 1.
            uniforms_N: (N,) numbers in [0, 1), needed where the sets are randomized.

        Raises:
            UserError: the shapes do not fit, or a row is no probabilities.
        """
        check_probabilities(probabilities_NK)
        n, k = probabilities_NK.shape
        if k != len(self.thresholds):
            raise UserError(f"probabilities are of {k} classes, and these sets of {len(self.thresholds)}.")
        _check_uniforms(uniforms_N, self.kind, self.randomized, n)
        scores_NK = _scores(self.kind, probabilities_NK, self.penalty, self.k_reg, uniforms_N)
        return np.asarray(scores_NK <= np.array(self.thresholds))


@dataclass(frozen=True)
class SetScores:
    """How good sets are, on images whose classes are known and that the sets were not fitted on.

    Attributes:
        n: number of images.
        coverage: the share of sets that hold the true class, with its 95 % interval (Wilson).
        by_class: the same of the images of each class; None where there are none.
        size: the mean number of classes in a set.
        single: how many sets are one class.
        empty: how many sets are empty.

    Examples:
        >>> import numpy as np
        >>> from astroformer.trust.conformal import SetScores
        >>> found = SetScores.of(np.array([0, 1]), np.array([[True, True], [True, False]]))
        >>> found.coverage.value, found.size, found.single, found.empty
        (0.5, 1.5, 1, 0)
    """

    n: int
    coverage: Interval
    by_class: tuple[Interval | None, ...]
    size: float
    single: int
    empty: int

    @classmethod
    def of(cls, labels_N: Array, sets_NK: Array, groups_N: Array | None = None) -> Self:
        """Those of `sets_NK` (N, K), bool, of images of the classes `labels_N` (N,).

        Args:
            groups_N: (N,) numbers; images with the same one belong together, see `share_interval`.

        Raises:
            UserError: there is no image, or the shapes do not fit.
        """
        n, k = len(labels_N), sets_NK.shape[-1]
        check_answers(labels_N, sets_NK, k)
        right_N, size_N = sets_NK[np.arange(n), labels_N], sets_NK.sum(1)

        def share(chosen_N: Array) -> Interval | None:
            groups = None if groups_N is None else groups_N[chosen_N]
            m = int(chosen_N.sum())
            return share_interval(int(right_N[chosen_N].sum()), m, groups) if m else None

        every = share(np.ones(n, bool))
        assert every is not None
        single, empty = int((size_N == 1).sum()), int((size_N == 0).sum())
        return cls(n, every, tuple(share(labels_N == c) for c in range(k)), float(size_N.mean()), single, empty)


def quantile(scores_N: Array, coverage: float) -> float:
    """The ceil((n + 1) · coverage)-th smallest of n scores, below which a new one lies with at least that probability.

    Examples:
        >>> import numpy as np
        >>> from astroformer.trust.conformal import quantile
        >>> quantile(np.arange(1, 20), 0.9)  # the 18th of 19
        18.0
    """
    return float(np.sort(scores_N)[_place(len(scores_N), coverage) - 1])


def least_images(coverage: float, kind: str = "lac") -> int:
    """The least number of calibration images that hold a wish; with `by_class` of each class.

    Examples:
        >>> from astroformer.trust.conformal import least_images
        >>> least_images(0.9), least_images(0.99), least_images(0.99, "raps")
        (9, 99, 123)
    """
    wish = _exact(coverage)
    least = math.ceil(wish / (1 - wish))  # the smallest n with ceil((n + 1) · wish) ≤ n
    return least + (least - 1) // (_TUNING - 1) if kind == "raps" else least


def _exact(coverage: float) -> Fraction:
    """A wish as it is written: in floats (99 + 1) · 0.55 is more than 55, which would cost an image."""
    if not 0 < coverage < 1:
        raise UserError(f"coverage is {coverage}; it must lie between 0 and 1, as 0.9 does: a share of the images.")
    return Fraction(repr(float(coverage)))


def _place(n: int, coverage: float) -> int:
    return math.ceil((n + 1) * _exact(coverage))


def _check_enough(counts: Sequence[int], coverage: float, kind: str, names: Sequence[str] | None) -> None:
    """Raises `UserError` where there are too few images for the wish; by class, `names` are those of the classes."""
    least = least_images(coverage, kind)
    if min(counts) >= least:
        return
    if names is None:
        [n] = counts
        there = f"{n:,} {'is' if n == 1 else 'are'} there"
        used = n - n // _TUNING if kind == "raps" else n
        most = math.floor(1000 * used / (used + 1)) / 1000
        raise UserError(
            f"sets ({kind}) of coverage {coverage} need at least {least:,} calibration images, and {there}; wish for "
            f"at most {most}, or hold out more images."
        )
    few = some_of(f"{name} ({n:,})" for name, n in zip(names, counts, strict=True) if n < least)
    raise UserError(
        f"sets ({kind}) of coverage {coverage} by class need at least {least:,} calibration images of each class, and "
        f"there are fewer of {few}; wish for less, hold out more images, or leave out by_class."
    )


def _check_uniforms(uniforms_N: Array | None, kind: str, randomized: bool, n: int) -> None:
    if randomized and kind == "lac":
        raise UserError("uniforms_N are for aps and raps: lac has no randomized sets.")
    if randomized != (uniforms_N is not None):
        what = "needs" if randomized else "takes no"
        raise UserError(f"these sets are {'' if randomized else 'not '}randomized, and sets_NK {what} uniforms_N.")
    if uniforms_N is not None and not (uniforms_N.shape == (n,) and bool(((uniforms_N >= 0) & (uniforms_N < 1)).all())):
        raise UserError(f"uniforms_N must be {n} numbers from 0 to below 1, one an image.")


def _scores(kind: str, probabilities_NK: Array, penalty: float, k_reg: int, uniforms_N: Array | None) -> Array:
    """(N, K) the score of each class of each image, see the head of this file."""
    p_NK = np.asarray(probabilities_NK, np.float64)
    if kind == "lac":
        return np.asarray(1 - p_NK)
    above_NK, rank_NK = _above(p_NK)
    if uniforms_N is not None:
        above_NK = above_NK + np.asarray(uniforms_N, np.float64)[:, None] * p_NK
    return np.asarray(above_NK + penalty * np.maximum(rank_NK - k_reg, 0))


def _above(p_NK: Array) -> tuple[Array, Array]:
    """(N, K) the sum of the probabilities of an image that are higher than each, and 1 + the number of them.

    Classes of equal probability have the same of both, so that no order of the classes matters.
    """
    order_NK = np.argsort(-p_NK, axis=1, kind="stable")
    sorted_NK = np.take_along_axis(p_NK, order_NK, 1)
    before_NK = np.zeros_like(p_NK)
    np.cumsum(sorted_NK[:, :-1], 1, out=before_NK[:, 1:])
    fresh_NK = np.ones(p_NK.shape, bool)
    fresh_NK[:, 1:] = sorted_NK[:, 1:] < sorted_NK[:, :-1]
    first_NK = np.maximum.accumulate(np.where(fresh_NK, np.arange(p_NK.shape[1]), 0), axis=1)
    above_NK, rank_NK = np.empty_like(p_NK), np.empty(p_NK.shape, np.int64)
    np.put_along_axis(above_NK, order_NK, np.take_along_axis(before_NK, first_NK, 1), 1)
    np.put_along_axis(rank_NK, order_NK, first_NK + 1, 1)
    return above_NK, rank_NK


def _tuning_images(group_N: Array) -> NDArray[np.bool_]:
    """(N,) which images choose λ and k_reg: a fifth of each group, rounded down."""
    chosen_N = np.zeros(len(group_N), bool)
    order_N = np.random.default_rng(_TUNING_SEED).permutation(len(group_N))
    for group in np.unique(group_N):
        members = order_N[group_N[order_N] == group]
        chosen_N[members[: len(members) // _TUNING]] = True
    return chosen_N


def _tuned(labels_N: Array, probabilities_NK: Array, coverage: float, uniforms_N: Array | None) -> tuple[float, int]:
    """λ and k_reg: the rank that holds the wish, and of the λ of the paper the one with the smallest sets."""
    n = len(labels_N)
    if n == 0:
        return 0.0, 1  # as aps
    rows_N, place = np.arange(n), min(n, _place(n, coverage)) - 1
    k_reg = int(np.sort(_above(np.asarray(probabilities_NK, np.float64))[1][rows_N, labels_N])[place])
    sizes = {}
    for penalty in _PENALTIES:
        scores_NK = _scores("raps", probabilities_NK, penalty, k_reg, uniforms_N)
        sizes[penalty] = int((scores_NK <= np.sort(scores_NK[rows_N, labels_N])[place]).sum())
    return min(_PENALTIES, key=sizes.__getitem__), k_reg
