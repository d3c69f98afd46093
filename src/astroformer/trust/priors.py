"""Where the classes have other shares in the images to classify than in those that the model learned from.

A probability says how often an image like this one is of a class *where the shares are those of before*. In a field
with ten times as many spirals, more of the doubtful images are spirals. If each class looks as before, so that only
the shares differ (label shift), `corrected` makes the probabilities right for new shares, and the new images
themselves tell what their shares are.

Shape letters: N calibration images, M images to classify, K classes, R bootstrap resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from astroformer.errors import UserError, unknown_name
from astroformer.intervals import Interval
from astroformer.metrics import check_answers, check_probabilities
from astroformer.summaries import some_of

Array = NDArray[Any]
SCORES = ("corrected", "called")
LEAST_OF_A_CLASS = 5  # calibration images: fewer say next to nothing of how the images of a class are answered
_STEPS = 10_000  # of EM, at most
_NEAR = 1e-9  # change of a share after which EM has arrived
_DOUBT = 0.5  # images that are called anything, in each class of a resample (as Jeffreys' prior has it)
_OLD_SHARE = 0.1  # of the shares of before in those of the scores
_NUMBERS = 2_000_000  # that a part of the resamples holds at once


def corrected(probabilities_MK: Array, old_K: Array, new_K: Array) -> Array:
    """(M, K) probabilities for new shares of the classes: p_k · new_k / old_k, divided by the sum over the classes.

    Source: Saerens et al. 2002, doi 10.1162/089976602753284446, equation 2.4.

    Args:
        probabilities_MK: (M, K) calibrated probabilities of any images; rows sum to 1.
        old_K: (K,) shares that the probabilities are right for: those of the images that they were calibrated on.
        new_K: (K,) shares of the classes in the images to classify. Both are divided by their sums.

    Raises:
        UserError: the shapes do not fit; shares are negative or all 0; a class has an old share of 0 and a new one
            above, so that nothing is known of it.

    Examples:
        >>> import numpy as np
        >>> from astroformer.trust.priors import corrected
        >>> corrected(np.array([[0.5, 0.5]]), np.array([0.5, 0.5]), np.array([0.9, 0.1])).round(6).tolist()
        [[0.9, 0.1]]
    """
    ratio_K = _ratios(probabilities_MK, old_K, new_K)
    p_MK = np.maximum(np.asarray(probabilities_MK, np.float64), np.finfo(np.float64).tiny) * ratio_K
    return np.asarray(p_MK / p_MK.sum(1, keepdims=True))


def estimated_priors(probabilities_MK: Array, old_K: Array) -> Array:
    """(K,) the shares of the classes among new images that make their probabilities most likely, by EM.

    From the old shares on, the new ones are again and again the mean of the `corrected` probabilities, until no share
    changes by more than 1e-9. The likelihood is concave in the shares and grows with every step, so there is one
    result. It trusts the probabilities: where they are not calibrated, it is biased. `ClassCounts` is not, and has
    intervals.

    Source: Saerens et al. 2002, equation 2.9.

    Args:
        probabilities_MK: (M, K) calibrated probabilities of the new images; rows sum to 1.
        old_K: (K,) shares that they are right for.

    Raises:
        UserError: there is no image, or as `corrected`.

    Examples:
        >>> import numpy as np
        >>> from astroformer.trust.priors import estimated_priors
        >>> sure = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> estimated_priors(sure, np.array([0.5, 0.5])).round(6).tolist()
        [0.75, 0.25]
    """
    if len(probabilities_MK) == 0:
        raise UserError("there are 0 images to estimate shares from; at least 1 is needed.")
    old_K = np.asarray(old_K, np.float64)
    likelihood_MK = corrected(probabilities_MK, old_K, (old_K > 0) * 1.0)  # p / old, up to a factor an image
    weights_M = np.full(len(likelihood_MK), 1 / len(likelihood_MK))
    return _most_likely(np.ascontiguousarray(likelihood_MK.T), weights_M, old_K / old_K.sum())


@dataclass(frozen=True)
class ClassCounts:
    """How many of M images are of each class.

    Each image is given scores for the K classes. The mean score of the new images is a mixture of the mean scores that
    the calibration images of each class have, in the shares that are sought. So the shares follow from what the
    model does on calibration images, right or wrong, and need no calibrated probability (adjusted count: Forman 2008,
    doi 10.1007/s10618-008-0097-y; black-box shift estimation: Lipton et al. 2018, arXiv 1802.03916). There are two
    kinds of scores:

    - `corrected`: the probabilities, corrected by the shares that EM finds. This is what a user should see. The errors
      are half to three quarters of those of `called`. They are near those of EM where the probabilities are calibrated,
      and stay small where they are not; and the interval holds what the calibration images leave open, which EM
      can't know.
    - `called`: 1 for the class that an image is called. The means are the confusion matrix, as in Lipton et al. It is
      a check: where the two differ by more than their intervals, more than the shares has changed.

    An interval is of the number of images among these M, by a parametric bootstrap: calibration images are drawn again
    within their classes, and new images are drawn from them in the estimated counts. Both have the doubt of half an
    image more that is called anything (Jeffreys' prior), so that a class that was never called wrong is not taken to be
    infallible.

    Attributes:
        n: M.
        counts: K numbers of images, that sum to M, with 95 % intervals.
        old: K shares that the probabilities are right for: the means of those of the calibration images.
        by_em: K shares, see `estimated_priors`; by these the probabilities are `corrected`, whose means they are then.

    Examples:
        >>> import numpy as np
        >>> from astroformer.trust.priors import ClassCounts
        >>> labels = np.arange(100) % 2
        >>> answers = np.where(np.arange(100) % 10 < 8, labels, 1 - labels)  # four in five are right
        >>> probabilities = np.where(answers[:, None] == np.arange(2), 0.8, 0.2)
        >>> new = np.array([[0.8, 0.2]] * 140 + [[0.2, 0.8]] * 60)  # 140 are called class 0
        >>> found = ClassCounts.of(labels, probabilities, new)
        >>> [round(count.value) for count in found.counts]  # 0.8 · 167 + 0.2 · 33 = 140
        [167, 33]
    """

    n: int
    counts: tuple[Interval, ...]
    old: tuple[float, ...]
    by_em: tuple[float, ...]

    @classmethod
    def of(
        cls,
        labels_N: Array,
        probabilities_NK: Array,
        new_MK: Array,
        scores: str = "corrected",
        *,
        classes: Sequence[str] | None = None,
        resamples: int = 1000,
        seed: int = 0,
    ) -> Self:
        """The counts among new images.

        Args:
            labels_N: (N,) classes of the calibration images, integers in [0, K).
            probabilities_NK: (N, K) their probabilities.
            new_MK: (M, K) the probabilities of the new images.
            scores: "corrected" or "called".
            classes: the K names, for messages.
            resamples: of the bootstrap.
            seed: of the resamples.

        Raises:
            UserError: there is no new image; there are fewer than 5 calibration images of a class; or what is given
                does not fit.
        """
        check_probabilities(probabilities_NK)
        check_probabilities(new_MK)
        k, m = probabilities_NK.shape[1], len(new_MK)
        check_answers(labels_N, probabilities_NK, k)
        if new_MK.shape[1] != k:
            raise UserError(f"the new images have probabilities of {new_MK.shape[1]} classes, the others of {k}.")
        if scores not in SCORES:
            raise unknown_name("kind of scores", scores, SCORES)
        check_countable(labels_N, [f"class {c}" for c in range(k)] if classes is None else classes)
        old_K = probabilities_NK.mean(0, dtype=np.float64)
        em_K = estimated_priors(new_MK, old_K)
        if scores == "called":
            scores_NK, scores_MK = (np.eye(k)[p.argmax(1)] for p in (probabilities_NK, new_MK))
        else:
            # Any shares do; near the true ones the result is surest. A share of 0 would make a score of no use.
            near_K = (1 - _OLD_SHARE) * em_K + _OLD_SHARE * old_K / old_K.sum()
            scores_NK, scores_MK = (corrected(p, old_K, near_K) for p in (probabilities_NK, new_MK))
        means_KK = np.stack([scores_NK[labels_N == c].mean(0) for c in range(k)])
        mean_K = scores_MK.mean(0)
        shares_K = _most_likely(means_KK, mean_K, np.full(k, 1 / k))
        errors_RK = _resampled(labels_N, scores_NK, shares_K, m, resamples, np.random.default_rng(seed))
        ends_EK = _solved(means_KK[None], mean_K[None]) + np.quantile(errors_RK, [0.025, 0.975], axis=0)
        low_K = np.minimum(ends_EK[0].clip(0, 1), shares_K)
        high_K = np.maximum(ends_EK[1].clip(0, 1), shares_K)
        counts = tuple(Interval(*(float(m * x) for x in ends)) for ends in zip(shares_K, low_K, high_K, strict=True))
        return cls(m, counts, tuple(old_K.tolist()), tuple(em_K.tolist()))


def check_countable(labels_N: Array, classes: Sequence[str]) -> None:
    """Raises `UserError` where a class has too few calibration images for `ClassCounts`."""
    counts = np.bincount(labels_N, minlength=len(classes)).tolist()
    few = [f"{name} ({n})" for name, n in zip(classes, counts, strict=True) if n < LEAST_OF_A_CLASS]
    if few:
        raise UserError(
            f"counts of classes need at least {LEAST_OF_A_CLASS} calibration images of each, and there are fewer of "
            f"{some_of(few)}; hold out more images, or state the shares."
        )


def _resampled(
    labels_N: Array, scores_NK: Array, shares_K: Array, m: int, resamples: int, generator: np.random.Generator
) -> Array:
    """(R, K) errors of shares that are estimated from calibration and new images that are drawn anew, see
    `ClassCounts`. Estimates are not held between 0 and 1, so that they err to both sides of a share of 0 too."""
    k = len(shares_K)
    counts_K = _whole(m * shares_K)
    errors = []
    part = max(1, min(resamples, _NUMBERS // (k * k + len(labels_N))))
    for begun in range(0, resamples, part):
        r = min(part, resamples - begun)
        means_RKK, new_RK = np.empty((r, k, k)), np.zeros((r, k))
        for c in range(k):
            scores_IK = np.concatenate([scores_NK[labels_N == c], np.eye(k)])
            n = len(scores_IK) - k
            chance_I = np.append(np.ones(n), np.full(k, _DOUBT / k)) / (n + _DOUBT)
            means_RKK[:, c] = generator.multinomial(n, chance_I, r) @ scores_IK / n
            new_RK += generator.multinomial(counts_K[c], chance_I, r) @ scores_IK
        errors.append(_solved(means_RKK, new_RK / m) - counts_K / m)
    return np.concatenate(errors)


def _solved(means_RKK: Array, mean_RK: Array) -> Array:
    """(R, K) the x with Σ_k x_k means_k = mean; of several the shortest, of none the nearest."""
    try:
        return np.asarray(np.linalg.solve(means_RKK.swapaxes(1, 2), mean_RK[..., None])[..., 0])
    except np.linalg.LinAlgError:  # with a class that nothing is called
        return np.asarray((np.linalg.pinv(means_RKK.swapaxes(1, 2)) @ mean_RK[..., None])[..., 0])


def _whole(counts_K: Array) -> Array:
    """Whole numbers near counts, with the same sum: the largest remainders are rounded up."""
    floor_K = np.floor(counts_K + 1e-9).astype(np.int64)
    rest = round(float(counts_K.sum())) - int(floor_K.sum())
    floor_K[np.argsort(floor_K - counts_K, kind="stable")[:rest]] += 1
    return floor_K


def _most_likely(likelihood_KI: Array, weights_I: Array, start_K: Array) -> Array:
    """(K,) the shares π that make Σ_i w_i log Σ_k π_k l_ki largest, by EM.

    Args:
        likelihood_KI: (K, I) how likely outcome i is for class k.
        weights_I: (I,) how often it came; they sum to 1.
        start_K: (K,) shares to start from. A share of 0 stays 0.
    """
    shares_K = start_K
    for _ in range(_STEPS):
        mixed_I = np.maximum(shares_K @ likelihood_KI, np.finfo(np.float64).tiny)
        after_K = shares_K * (likelihood_KI @ (weights_I / mixed_I))
        after_K /= after_K.sum()
        change, shares_K = np.abs(after_K - shares_K).max(), after_K
        if change < _NEAR:
            break
    return shares_K


def _ratios(probabilities_MK: Array, old_K: Array, new_K: Array) -> Array:
    """(K,) new over old shares, for probabilities that fit them."""
    check_probabilities(probabilities_MK)
    k = probabilities_MK.shape[1]
    shares = []
    for name, share_K in (("old", np.asarray(old_K, np.float64)), ("new", np.asarray(new_K, np.float64))):
        if share_K.shape != (k,):
            raise UserError(f"{name} shares have shape {share_K.shape}; ({k},) is needed: one a class.")
        if not np.isfinite(share_K).all() or share_K.min() < 0 or share_K.sum() <= 0:
            raise UserError(f"{name} shares must be at least 0 and not all 0.")
        shares.append(share_K / share_K.sum())
    old_K, new_K = shares
    if (unknown_K := (old_K == 0) & (new_K > 0)).any():
        raise UserError(
            f"the old share of class {int(unknown_K.argmax())} is 0, and the new one is not: nothing is known of it."
        )
    return np.divide(new_K, old_K, out=np.zeros(k), where=old_K > 0)
