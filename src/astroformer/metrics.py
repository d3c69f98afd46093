"""Scores of predicted probabilities, with intervals. Numpy alone.

Curves of probabilities, and the figures that are areas under them, are in `curves.py`, intervals in `intervals.py`.

Shape letters: N images, K classes, P pairs of classes, R resamples, U distinct (label, prediction) pairs, G
groups of images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroformer.curves import Reliability
from astroformer.errors import UserError
from astroformer.intervals import Interval, drawn
from astroformer.summaries import Summarized, Summary, metric_name, metric_text

Array = NDArray[Any]
# A certain but wrong probability of 0 would make the NLL infinite and hide every other image.
_SMALLEST_PROBABILITY = 1e-12
_ROUNDED = 1e-3  # what the sum of a row of probabilities may be off, as float16 leaves it


class ClassScores(NamedTuple):
    """How well one class is told from the others. A share that has no images to be one of is None.

    Attributes:
        name: of the class.
        n: images of the class.
        called: images that are called it.
        precision: the share of those called it that are of it.
        recall: the share of its images that are called it.
        f1: the harmonic mean of precision and recall, 2 · hits / (n + called).
    """

    name: str
    n: int
    called: int
    precision: float | None
    recall: float | None
    f1: float | None


class Confusion(NamedTuple):
    """How many times images of a class, of which there are `n`, are taken for another one."""

    label: str
    prediction: str
    times: int
    n: int


@dataclass(frozen=True, repr=False)
class Evaluation(Summarized):
    """What `score` measured. `evaluation["top1"]` is the value of a metric without its interval.

    Attributes:
        n: number of images.
        classes: the K class names.
        metrics: top1, balanced_accuracy, macro_f1 (shares from 0 to 1) and nll (nats), each with its interval; where
            there are votes also votes_cross_entropy (nats) and votes_brier, and the others are of the majority.
        confusion_KK: (K, K) counts; `confusion_KK[i, j]` images of class i are called class j.

    Examples:
        >>> import numpy as np
        >>> import astroformer
        >>> probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
        >>> evaluation = astroformer.score(np.array([0, 1, 1]), probabilities, ("smooth", "spiral"))
        >>> evaluation.confusion_KK.tolist()
        [[1, 0], [1, 1]]
        >>> evaluation.by_class()[1]
        ClassScores(name='spiral', n=2, called=1, precision=1.0, recall=0.5, f1=0.6666666666666666)
        >>> evaluation.confusions()
        [Confusion(label='spiral', prediction='smooth', times=1, n=2)]
    """

    n: int
    classes: tuple[str, ...]
    metrics: dict[str, Interval]
    confusion_KK: Array

    def __getitem__(self, metric: str) -> float:
        return self.metrics[metric].value

    def summary(self) -> Summary:
        return Summary(f"Evaluation: {self.n:,} images, {len(self.classes)} classes", score_lines(self.metrics))

    def by_class(self) -> list[ClassScores]:
        """Precision, recall and F1 of each class, in the order of `classes`."""
        counts = self.confusion_KK
        rows = zip(self.classes, counts.sum(1).tolist(), counts.sum(0).tolist(), np.diag(counts).tolist(), strict=True)
        return [
            ClassScores(name, n, called, _share(hits, called), _share(hits, n), _share(2 * hits, n + called))
            for name, n, called, hits in rows
        ]

    def confusions(self, most: int | None = None) -> list[Confusion]:
        """Which classes are taken for which others, the most frequent first; at most `most` pairs."""
        wrong_KK = self.confusion_KK - np.diag(np.diag(self.confusion_KK))
        label_P, prediction_P = np.nonzero(wrong_KK)
        first_P = np.argsort(-wrong_KK[label_P, prediction_P], kind="stable")[:most]
        support_K = self.confusion_KK.sum(1)
        return [
            Confusion(self.classes[i], self.classes[j], int(wrong_KK[i, j]), int(support_K[i]))
            for i, j in zip(label_P[first_P], prediction_P[first_P], strict=True)
        ]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: `n`, each metric as {value, low, high}, the scores of each class, the confusion matrix."""
        return {
            "n": self.n,
            **{name: interval.to_dict() for name, interval in self.metrics.items()},
            "classes": {
                name: {"n": n, "precision": precision, "recall": recall, "f1": f1}
                for name, n, _, precision, recall, f1 in self.by_class()
            },
            "confusion": self.confusion_KK.tolist(),
        }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def score_lines(metrics: Mapping[str, Interval]) -> dict[str, str]:
    """Metrics by a name that a person knows, each with its interval; but for the log loss, the main ones."""
    return {
        metric_name(metric): "{}   (95 % interval {} to {})".format(
            *(metric_text(metric, each) for each in (m.value, m.low, m.high))
        )
        for metric, m in metrics.items()
        if metric != "nll"
    }


def confusion_matrix(labels_N: Array, predictions_N: Array, n_classes: int) -> Array:
    """(K, K) counts: rows are the true classes, columns the predicted ones."""
    pairs = labels_N.astype(np.int64) * n_classes + predictions_N.astype(np.int64)
    return np.bincount(pairs, minlength=n_classes * n_classes).reshape(n_classes, n_classes)


def _scores(hits_RK: Array, support_RK: Array, called_RK: Array) -> dict[str, Array]:
    """top1, balanced accuracy and macro F1 of R confusion matrices given by diagonal, row and column sums.

    Classes that a matrix lacks count for nothing: balanced accuracy averages over the classes with images,
    macro F1 over those with images or predictions (both as scikit-learn does).
    """
    present_RK = support_RK > 0
    seen_RK = present_RK | (called_RK > 0)
    recall_RK = hits_RK / np.where(present_RK, support_RK, 1)
    f1_RK = 2 * hits_RK / np.where(seen_RK, support_RK + called_RK, 1)
    return {
        "top1": hits_RK.sum(1) / support_RK.sum(1),
        "balanced_accuracy": recall_RK.sum(1) / present_RK.sum(1),
        "macro_f1": f1_RK.sum(1) / seen_RK.sum(1),
    }


def _weighted(
    labels_N: Array, predictions_N: Array, groups_N: Array, generator: np.random.Generator, resamples: int
) -> Array:
    """(R, U) weights of the pairs of label and prediction, in the order of `np.nonzero` of their confusion matrix: each
    group of images counts by a weight of the exponential distribution."""
    pair_N = np.unique(np.stack([labels_N, predictions_N]), axis=1, return_inverse=True)[1].ravel()
    place_N = np.unique(groups_N, return_inverse=True)[1]
    weights_RG = (generator.standard_exponential(place_N.max() + 1) for _ in range(resamples))
    return np.stack([np.bincount(pair_N, weights_G[place_N]) for weights_G in weights_RG])


def _drawn(
    confusion_KK: Array, weights_RU: Array | None, image: float, generator: np.random.Generator, resamples: int
) -> tuple[Array, Array, Array]:
    """Diagonals, row and column sums, each (R, K), of confusion matrices that could be behind the one that was found.

    An image counts by a weight of the exponential distribution (Rubin 1981), so a pair of label and prediction by one
    of the gamma distribution, which costs R × U instead of R × N.

    Args:
        weights_RU: of the pairs, where images do not stand alone; see `_weighted`.
        image: how many images stand for one that is drawn by itself: the mean size of a group.
    """
    label_U, prediction_U = np.nonzero(confusion_KK)
    if weights_RU is None:
        weights_RU = generator.standard_gamma(confusion_KK[label_U, prediction_U], size=(resamples, len(label_U)))
    support_RK, called_RK, hits_RK = (np.zeros((resamples, len(confusion_KK))) for _ in range(3))
    for u, (label, prediction) in enumerate(zip(label_U, prediction_U, strict=True)):
        support_RK[:, label] += weights_RU[:, u]
        called_RK[:, prediction] += weights_RU[:, u]
        if label == prediction:
            hits_RK[:, label] += weights_RU[:, u]
    present_K = confusion_KK.any(1)
    k = len(confusion_KK)
    if k > 1:
        half = np.full((resamples, k), 0.5 / present_K.sum())
        right_RK, wrong_RK = (image * generator.standard_gamma(half) * present_K for _ in range(2))
        hits_RK += right_RK
        support_RK += right_RK + wrong_RK
        called_RK += right_RK + (wrong_RK.sum(1, keepdims=True) - wrong_RK) / (k - 1)
    return hits_RK, support_RK, called_RK


def balanced_accuracy(labels_N: Array, predictions_N: Array, n_classes: int) -> float:
    """Mean over the classes present of the share of their images that are called right."""
    confusion = confusion_matrix(labels_N, predictions_N, n_classes)
    scores = _scores(np.diag(confusion)[None], confusion.sum(1)[None], confusion.sum(0)[None])
    return float(scores["balanced_accuracy"][0])


def nll_N(labels_N: Array, probabilities_NK: Array) -> Array:
    """(N,) negative log-likelihood of each true class in nats, its probability floored at 1e-12."""
    true_N = probabilities_NK[np.arange(len(labels_N)), labels_N].astype(np.float64)
    return -np.log(np.maximum(true_N, _SMALLEST_PROBABILITY))


def brier_N(labels_N: Array, probabilities_NK: Array) -> Array:
    """(N,) Brier score of predictions, Σ_k (p_k − 1[k is the true class])², from 0 to 2 (Brier 1950)."""
    return votes_brier_N(np.eye(probabilities_NK.shape[1])[labels_N], probabilities_NK)


def votes_cross_entropy_N(votes_NK: Array, probabilities_NK: Array) -> Array:
    """(N,) cross-entropy of predictions against shares of votes in nats, −Σ_k v_k log p_k, with p floored at 1e-12.

    It is least, the entropy of the votes, where the probabilities are the shares.
    """
    logs_NK = np.log(np.maximum(probabilities_NK.astype(np.float64), _SMALLEST_PROBABILITY))
    return np.asarray(-(votes_NK * logs_NK).sum(1))


def votes_brier_N(votes_NK: Array, probabilities_NK: Array) -> Array:
    """(N,) Brier score of predictions against shares of votes, Σ_k (p_k − v_k)², from 0 to 2 (Brier 1950)."""
    return np.asarray(((probabilities_NK.astype(np.float64) - votes_NK) ** 2).sum(1))


def expected_calibration_error(labels_N: Array, probabilities_NK: Array, *, bins: int = 15) -> float:
    """How far confidence is from accuracy: Σ_m n_m / N · |accuracy_m − confidence_m| over bins of the confidence.

    The confidence of an image is the probability of the class it is called. Bin m of M holds the n_m images whose
    confidence lies in ((m − 1) / M, m / M]. Source: Guo et al. 2017, arXiv 1706.04599, equation 3. The value is biased
    upwards where bins hold few images.

    Args:
        labels_N: (N,) true classes, integers in [0, K).
        probabilities_NK: (N, K) predicted probabilities, rows that sum to 1.
        bins: M, of equal width.

    Returns:
        A share from 0 (calibrated) to 1.

    Raises:
        UserError: `bins` is below 1, or the arrays are ones that `score` refuses.

    Examples:
        >>> import numpy as np
        >>> from astroformer.metrics import expected_calibration_error
        >>> probabilities = np.array([[0.75, 0.25], [0.75, 0.25], [0.75, 0.25], [0.75, 0.25]])
        >>> expected_calibration_error(np.array([0, 0, 0, 1]), probabilities)  # right in three of four
        0.0
        >>> expected_calibration_error(np.array([0, 0, 0, 0]), probabilities)
        0.25
    """
    check_answers(labels_N, probabilities_NK, probabilities_NK.shape[-1])
    return Reliability.equal_width(labels_N, probabilities_NK, bins).error()


def check_answers(labels_N: Array, probabilities_NK: Array, k: int) -> None:
    """Raises `UserError` where labels and probabilities can't be scored."""
    n = len(labels_N)
    if n == 0:
        raise UserError("there are 0 images to evaluate; at least 1 labelled image that can be read is needed.")
    if probabilities_NK.shape != (n, k):
        raise UserError(f"probabilities have shape {probabilities_NK.shape}; ({n}, {k}) is needed: images × classes.")
    if labels_N.ndim != 1 or labels_N.dtype.kind not in "iu" or labels_N.min() < 0 or labels_N.max() >= k:
        raise UserError(f"labels must be whole numbers from 0 to {k - 1}, one an image: positions in the {k} classes.")
    if not np.isfinite(probabilities_NK).all():
        raise UserError("probabilities are not all finite; leave out the images that could not be predicted.")


def check_probabilities(probabilities_NK: Array) -> None:
    """Raises `UserError` where the rows are no probabilities of two classes or more."""
    if probabilities_NK.ndim != 2 or probabilities_NK.shape[1] < 2:
        raise UserError(
            f"probabilities have shape {probabilities_NK.shape}; images × classes is needed, of at least 2 classes."
        )
    if not np.isfinite(probabilities_NK).all():
        raise UserError("probabilities are not all finite; leave out the images that could not be predicted.")
    off_N = np.abs(probabilities_NK.sum(1, dtype=np.float64) - 1)
    if len(off_N) and (probabilities_NK.min() < 0 or off_N.max() > _ROUNDED):
        raise UserError("the rows of probabilities must be at least 0 and sum to 1; logits are no probabilities.")


def score(
    labels_N: Array,
    probabilities_NK: Array,
    classes: tuple[str, ...],
    *,
    votes_NK: Array | None = None,
    groups_N: Array | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """Top-1, balanced accuracy, macro F1 and NLL with 95 % intervals over the images.

    The intervals of shares are those of a Bayesian bootstrap (Rubin 1981) with half a right and half a wrong image more
    than there are, spread over the classes; for top-1 it is Jeffreys' interval (Brown, Cai & DasGupta 2001, doi
    10.1214/ss/1009213286). So 40 right images of 40 do not mean that no other one can be wrong. Means of losses have
    percentile-bootstrap intervals (Efron & Tibshirani 1993, ch. 13).

    Args:
        labels_N: (N,) true classes, integers in [0, K).
        probabilities_NK: (N, K) predicted probabilities, rows that sum to 1.
        classes: the K class names.
        votes_NK: (N, K) shares of votes, rows that sum to 1, whose cross-entropy and Brier score are measured too.
        groups_N: (N,) numbers; images with the same one belong together, and are drawn together
            (`intervals.drawn`). None: each stands alone.
        resamples: number of draws that the intervals are made from.
        seed: of the resamples.

    Raises:
        UserError: there is no image to evaluate, a label is no class, the shapes do not fit, or a probability is
            not finite.

    Examples:
        >>> import numpy as np
        >>> import astroformer
        >>> probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]])
        >>> evaluation = astroformer.score(np.array([0, 1, 1, 0]), probabilities, ("smooth", "spiral"))
        >>> evaluation["top1"]
        0.75
        >>> interval = evaluation.metrics["top1"]
        >>> interval.low <= interval.value <= interval.high
        True
    """
    n, k = len(labels_N), len(classes)
    check_answers(labels_N, probabilities_NK, k)
    predictions_N = probabilities_NK.argmax(1)
    confusion_KK = confusion_matrix(labels_N, predictions_N, k)
    losses_N = nll_N(labels_N, probabilities_NK)

    generator = np.random.default_rng(seed)
    weights_RU, image = None, 1.0
    if groups_N is not None:
        weights_RU = _weighted(labels_N, predictions_N, groups_N, generator, resamples)
        image = n / len(np.unique(groups_N))
    samples = _scores(*_drawn(confusion_KK, weights_RU, image, generator, resamples))

    def means_R(values_N: Array) -> Array:
        """The mean of a value an image in each bootstrap resample."""
        if groups_N is None:
            return np.array([values_N[generator.integers(0, n, n)].mean() for _ in range(resamples)])
        draws = drawn(n, groups_N, resamples=resamples, seed=seed)
        return np.array([times_N @ values_N / times_N.sum() for times_N in draws])

    samples["nll"] = means_R(losses_N)

    support_K, called_K = confusion_KK.sum(1), confusion_KK.sum(0)
    values = {m: float(v[0]) for m, v in _scores(np.diag(confusion_KK)[None], support_K[None], called_K[None]).items()}
    values["nll"] = float(losses_N.mean())
    if votes_NK is not None:
        if votes_NK.shape != probabilities_NK.shape or not np.allclose(votes_NK.sum(1), 1) or (votes_NK < 0).any():
            raise UserError(f"votes should be shares that sum to 1, of shape ({n}, {k}): images × classes.")
        for name, measure in (("votes_cross_entropy", votes_cross_entropy_N), ("votes_brier", votes_brier_N)):
            of_votes_N = measure(votes_NK, probabilities_NK)
            values[name] = float(of_votes_N.mean())
            samples[name] = means_R(of_votes_N)
    metrics = {}
    for name, value in values.items():
        low, high = np.quantile(samples[name], [0.025, 0.975])
        metrics[name] = Interval(value, min(float(low), value), max(float(high), value))
    return Evaluation(n, tuple(classes), metrics, confusion_KK)
