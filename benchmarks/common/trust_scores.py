"""What `trust.py` finds in the answers of a network: calibration, sets of classes, and images of another kind.

Shape letters: N calibration images, M test images, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import roc_auc_score

from astroformer.classifier import Classifier
from astroformer.metrics import brier_N, expected_calibration_error, nll_N
from astroformer.trust.calibration import Calibration, fit_calibration, folds_of
from astroformer.trust.conformal import ConformalSets

Array = NDArray[Any]
DRAWS = 20  # of the few calibration images out of all
SPLITS = 200  # random calibration and test images, of all that the network did not learn from
COVERAGE = 0.9
_SIMULATED = 200


class _Logits(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A fitted classifier of scikit-learn whose input are the logits."""

    def __init__(self, classes: int = 2) -> None:
        self.classes = classes

    def fit(self, logits_NK: Array, labels_N: Array) -> _Logits:
        self.classes_ = np.arange(self.classes)
        return self

    def decision_function(self, logits_NK: Array) -> Array:
        return logits_NK if self.classes > 2 else logits_NK[:, 1] - logits_NK[:, 0]

    def predict(self, logits_NK: Array) -> Array:
        return logits_NK.argmax(1)


def by_ours(logits_NK: Array, labels_N: Array, asked_MK: Array) -> Array:
    """(M, K) probabilities by what `astroformer train` fits."""
    identities_N = np.arange(len(labels_N), dtype=np.uint64)
    fold_N = folds_of(labels_N, identities_N)
    return fit_calibration(logits_NK, np.eye(logits_NK.shape[1])[labels_N], fold_N).calibration.apply(asked_MK)


def by_scikit_learn(logits_NK: Array, labels_N: Array, asked_MK: Array) -> Array:
    """(M, K) probabilities by scikit-learn's temperature."""
    fixed = FrozenEstimator(_Logits(logits_NK.shape[1]).fit(logits_NK, labels_N))
    return CalibratedClassifierCV(fixed, method="temperature").fit(logits_NK, labels_N).predict_proba(asked_MK)


def quality(labels_M: Array, probabilities_MK: Array) -> dict[str, float]:
    """NLL, Brier score and ECE, and the ECE that chance gives such probabilities if they are right."""
    rng = np.random.default_rng(0)
    sums_MK = probabilities_MK.cumsum(1)
    simulated = []
    for _ in range(_SIMULATED):
        drawn_M = (rng.random((len(labels_M), 1)) > sums_MK).sum(1).clip(max=probabilities_MK.shape[1] - 1)
        simulated.append(expected_calibration_error(drawn_M, probabilities_MK))
    return {
        "accuracy": float((probabilities_MK.argmax(1) == labels_M).mean()),
        "nll": float(nll_N(labels_M, probabilities_MK).mean()),
        "brier": float(brier_N(labels_M, probabilities_MK).mean()),
        "ece": expected_calibration_error(labels_M, probabilities_MK),
        "ece_by_chance": float(np.mean(simulated)),
    }


def subsets(labels_N: Array, n: int | None) -> Iterator[Array]:
    """Rows of so many calibration images, the same number of each class, `DRAWS` times; None: of all, once."""
    if n is None:
        yield np.arange(len(labels_N))
        return
    rng, classes = np.random.default_rng(0), np.unique(labels_N)
    for _ in range(DRAWS):
        yield np.concatenate(
            [rng.permutation(np.flatnonzero(labels_N == k))[: max(1, n // len(classes))] for k in classes]
        )


def calibrated(
    fit: Any, logits_NK: Array, labels_N: Array, test_MK: Array, labels_M: Array, n: int | None
) -> dict[str, float]:
    """The mean quality on test images over `subsets` of the calibration images."""
    found = [quality(labels_M, fit(logits_NK[rows], labels_N[rows], test_MK)) for rows in subsets(labels_N, n)]
    return {name: round(float(np.mean([each[name] for each in found])), 6) for name in found[0]}


def raw(test_MK: Array, labels_M: Array) -> dict[str, float]:
    """The same without calibration."""
    return {name: round(value, 6) for name, value in quality(labels_M, Calibration().apply(test_MK)).items()}


def coverage(logits_NK: Array, labels_N: Array, n: int) -> dict[str, Any]:
    """How often sets hold the true class, over random splits of all images; calibration and thresholds are fitted anew
    in each.

    Args:
        n: calibration images of a split, drawn at random; all others are tested.
    """
    rng, classes = np.random.default_rng(0), np.unique(labels_N)
    kinds = {"lac": {}, "aps": {}, "raps": {}, "lac by class": {"by_class": True}}
    held: dict[str, list[float]] = {name: [] for name in kinds}
    sizes: dict[str, list[float]] = {name: [] for name in kinds}
    by_class: dict[str, list[list[float]]] = {name: [] for name in kinds}
    for _ in range(SPLITS):
        order = rng.permutation(len(labels_N))
        some, rest = order[:n], order[n:]
        # The images of the calibration are answered by what was fitted without them, as a model does it.
        fold_n = folds_of(labels_N[some], some.astype(np.uint64))
        fitted = fit_calibration(logits_NK[some], np.eye(logits_NK.shape[1])[labels_N[some]], fold_n)
        known_nK = fitted.cross_fitted(logits_NK[some], fold_n)
        asked_MK = fitted.calibration.apply(logits_NK[rest])
        for name, words in kinds.items():
            kind = name.split()[0]
            sets = ConformalSets.fit(labels_N[some], known_nK, COVERAGE, kind, **words)
            sets_MK = sets.sets_NK(asked_MK)
            right_M = sets_MK[np.arange(len(rest)), labels_N[rest]]
            held[name].append(float(right_M.mean()))
            sizes[name].append(float(sets_MK.sum(1).mean()))
            by_class[name].append([float(right_M[labels_N[rest] == k].mean()) for k in classes])
    return {
        name: {
            "coverage": round(float(np.mean(held[name])), 5),
            "size": round(float(np.mean(sizes[name])), 4),
            "by_class": [round(float(share), 5) for share in np.mean(by_class[name], 0)],
        }
        for name in kinds
    }


def auroc(usual_N: Array, other_N: Array) -> float:
    """How often a score is higher for an image of another kind than for a usual one."""
    return round(float(roc_auc_score(np.r_[np.zeros(len(usual_N)), np.ones(len(other_N))], np.r_[usual_N, other_N])), 5)


def least_sure(logits_NK: Array) -> Array:
    """(N,) 1 − the highest probability, the usual score of an image of another kind."""
    return 1 - Calibration().apply(logits_NK).max(1)


def energy(logits_NK: Array) -> Array:
    """(N,) −logsumexp of the logits (Liu et al. 2020, arXiv 2010.03759)."""
    return -np.logaddexp.reduce(logits_NK, axis=1)


def logits_of(classifier: Classifier, images: list[np.ndarray]) -> np.ndarray:
    """(N, K) logits of images of any size."""
    found = []
    for start in range(0, len(images), 64):
        stored_BCHW = np.stack([classifier.preprocessing.apply(image) for image in images[start : start + 64]])
        found.append(classifier.logits(stored_BCHW))
    return np.concatenate(found)


def heads(*names: str) -> list[str]:
    """The first two lines of a table."""
    return [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
