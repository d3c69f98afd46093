"""Calibration: what it promises of any answers, and parity with scikit-learn and torch."""

from __future__ import annotations

import doctest
import json
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from astroformer.metrics import expected_calibration_error
from astroformer.metrics import votes_cross_entropy_N as cross_entropy_N
from astroformer.trust import calibration as module
from astroformer.trust import held_out as held_out_module
from astroformer.trust import trust as trust_module
from astroformer.trust.calibration import (
    FOLDS,
    METHODS,
    Calibration,
    fit_calibration,
    folds_of,
    isotonic,
    log_softmax,
)

Array = np.ndarray[Any, Any]


def answers(n: int, k: int = 4, sure: float = 1.0, seed: int = 0) -> tuple[Array, Array]:
    """Logits and labels: the labels are drawn from softmax(logits / sure), so 1 / sure is the right weight."""
    rng = np.random.default_rng(seed)
    true_NK = rng.normal(0, 2, (n, k))
    p_NK = Calibration().apply(true_NK)
    labels_N = (rng.random((n, 1)) > p_NK.cumsum(1)).sum(1).clip(max=k - 1)
    return sure * true_NK, labels_N


def fold_N(labels_N: Array) -> Array:
    return folds_of(labels_N, np.arange(len(labels_N)))


@pytest.mark.parametrize("room", [module, held_out_module, trust_module])
def test_examples(room: Any) -> None:
    assert doctest.testmod(room).failed == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("k", [2, 5])
def test_probabilities_sum_to_one_and_are_kept_by_json(method: str, k: int) -> None:
    logits_NK, labels_N = answers(1500, k, sure=3.0)
    found = METHODS[method](logits_NK, np.eye(k)[labels_N])
    hard_NK = np.concatenate([logits_NK, 1000 * np.eye(k), np.zeros((1, k)), -1e6 * np.eye(k)])
    p_NK = found.apply(hard_NK)
    assert np.isfinite(p_NK).all()
    assert (p_NK >= 0).all()
    np.testing.assert_allclose(p_NK.sum(1), 1, atol=1e-12)
    again = Calibration.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again == found
    np.testing.assert_array_equal(found.apply(hard_NK + 17.0).argmax(1), p_NK.argmax(1))


@pytest.mark.parametrize("sure", [0.3, 1.0, 4.0])
def test_the_temperature_is_found_and_never_changes_the_top_class(sure: float) -> None:
    logits_NK, labels_N = answers(4000, sure=sure)
    found = METHODS["temperature"](logits_NK, np.eye(4)[labels_N])
    assert found.temperature == pytest.approx(sure, rel=0.1)
    np.testing.assert_array_equal(found.apply(logits_NK).argmax(1), logits_NK.argmax(1))
    assert expected_calibration_error(labels_N, found.apply(logits_NK)) < 0.025


def test_the_temperature_is_the_least_cross_entropy() -> None:
    logits_NK, labels_N = answers(300, sure=2.5)
    found = METHODS["temperature"](logits_NK, np.eye(4)[labels_N])
    targets_NK = (300 * np.eye(4)[labels_N] + 0.25) / 301
    losses = [
        cross_entropy_N(targets_NK, Calibration("temperature", (w,)).apply(logits_NK)).mean()
        for w in found.weights[0] * np.array([0.99, 1.0, 1.01])
    ]
    assert losses[1] < min(losses[0], losses[2])


def test_a_temperature_of_two_classes_is_logistic_regression_without_intercept() -> None:
    logits_NK, labels_N = answers(2000, 2, sure=3.0)
    log_odds_N = logits_NK[:, 1] - logits_NK[:, 0]
    # Softened targets as weights: every image counts for both classes.
    weights_N = np.concatenate([(2000 * (labels_N == c) + 0.5) / 2001 for c in (0, 1)])
    reference = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=1000).fit(
        np.tile(log_odds_N, 2)[:, None], np.repeat([0, 1], 2000), sample_weight=weights_N
    )
    found = METHODS["temperature"](logits_NK, np.eye(2)[labels_N])
    assert found.weights[0] == pytest.approx(reference.coef_[0, 0], rel=1e-4)


def test_a_vector_mends_classes_that_are_favoured() -> None:
    logits_NK, labels_N = answers(3000, sure=2.0)
    moved_NK = logits_NK + np.array([1.5, 0.0, -1.0, 0.5])
    found = METHODS["vector"](moved_NK, np.eye(4)[labels_N])
    right_NK = Calibration("temperature", (0.5,)).apply(logits_NK)
    best = cross_entropy_N(np.eye(4)[labels_N], right_NK).mean()
    assert cross_entropy_N(np.eye(4)[labels_N], found.apply(moved_NK)).mean() < best + 0.005
    # Where it stands, the gradient of the penalised loss is 0.
    weight = METHODS["temperature"](moved_NK, np.eye(4)[labels_N]).weights[0]
    w, b = (torch.tensor(values, dtype=torch.float64, requires_grad=True) for values in (found.weights, found.shifts))
    targets = torch.from_numpy((3000 * np.eye(4)[labels_N] + 0.25) / 3001)
    logs = torch.from_numpy(log_softmax(moved_NK))
    loss = -(targets * torch.log_softmax(w * logs + b, 1)).sum() + 5 * (((w - weight) ** 2).sum() + (b**2).sum())
    loss.backward()
    assert w.grad is not None
    assert b.grad is not None
    assert max(w.grad.abs().max().item(), b.grad.abs().max().item()) < 0.05  # of 3,000 images; six digits are kept


@pytest.mark.parametrize("seed", range(5))
def test_isotonic_is_scikit_learns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x_N = rng.integers(0, 40, 200) / 40  # with ties
    y_N = (rng.random(200) < x_N**2).astype(float)
    new_N = rng.random(100) * 1.4 - 0.2
    reference = IsotonicRegression(out_of_bounds="clip").fit(x_N, y_N)
    np.testing.assert_allclose(np.interp(new_N, *isotonic(x_N, y_N)), reference.predict(new_N), atol=1e-9)


@pytest.mark.parametrize(("n", "lost"), [(20, 0.1), (100, 0.03), (1000, 0.003)])
def test_the_choice_is_better_than_leaving_the_answers_alone_and_loses_little(n: int, lost: float) -> None:
    gains = []
    for seed in range(12):
        logits_NK, labels_N = answers(n + 2000, sure=(0.5, 1.0, 2.0)[seed % 3], seed=seed)
        known, new = slice(0, n), slice(n, None)
        fitted = fit_calibration(logits_NK[known], np.eye(4)[labels_N[known]], fold_N(labels_N[known]))
        targets_NK = np.eye(4)[labels_N[new]]
        raw = cross_entropy_N(targets_NK, Calibration().apply(logits_NK[new])).mean()
        gains.append(raw - cross_entropy_N(targets_NK, fitted.calibration.apply(logits_NK[new])).mean())
    assert np.mean(gains) > 0.02
    assert min(gains) > -lost


def test_scores_of_the_images_themselves_are_honest() -> None:
    """Of 60 images an isotonic fit knows every one: cross-fitted, its loss is that of new images."""
    flattered, crossed, new = [], [], []
    for seed in range(20):
        logits_NK, labels_N = answers(3060, seed=seed)
        targets_NK = np.eye(4)[labels_N]
        fitted = fit_calibration(logits_NK[:60], targets_NK[:60], fold_N(labels_N[:60]), "vector")
        p_NK = fitted.calibration.apply(logits_NK)
        flattered.append(cross_entropy_N(targets_NK[:60], p_NK[:60]).mean())
        crossed.append(
            cross_entropy_N(targets_NK[:60], fitted.cross_fitted(logits_NK[:60], fold_N(labels_N[:60]))).mean()
        )
        new.append(cross_entropy_N(targets_NK[60:], p_NK[60:]).mean())
    assert np.mean(flattered) < np.mean(new) - 0.02
    assert np.mean(crossed) > np.mean(new) - 0.02


def test_images_that_are_all_right_do_not_make_a_model_certain() -> None:
    labels_N = np.arange(100) % 4
    found = fit_calibration(np.eye(4)[labels_N], np.eye(4)[labels_N], fold_N(labels_N)).calibration
    assert found.method == "temperature"
    assert found.apply(np.eye(4)).max() == pytest.approx(1 - 0.75 / 101, abs=0.003)  # the doubt of one image of 101


def test_what_can_not_be_told_is_left_alone() -> None:
    logits_NK, labels_N = answers(19)
    assert fit_calibration(logits_NK, np.eye(4)[labels_N], fold_N(labels_N)).calibration == Calibration()
    logits_NK, _ = answers(50)
    one_class = fit_calibration(logits_NK, np.eye(4)[np.zeros(50, int)], fold_N(np.zeros(50, int)))
    assert one_class.calibration == Calibration()
    absent = fit_calibration(logits_NK, np.eye(4)[np.arange(50) % 3], fold_N(np.arange(50) % 3))
    assert set(absent.losses) == {"none", "temperature"}  # nothing is known of the class that is absent


def test_votes_are_targets() -> None:
    rng = np.random.default_rng(0)
    logits_NK = rng.normal(0, 2, (500, 3))
    votes_NK = Calibration("temperature", (0.4,)).apply(logits_NK)
    found = fit_calibration(logits_NK, votes_NK, np.arange(500) % 5).calibration
    assert found.temperature == pytest.approx(2.5, rel=0.02)


def test_permuted_classes_and_images_give_permuted_answers() -> None:
    logits_NK, labels_N = answers(200, sure=3.0)
    order, images = np.array([2, 0, 3, 1]), np.random.default_rng(1).permutation(200)
    targets_NK = np.eye(4)[labels_N]
    folds = np.arange(200) % 5
    for method in METHODS:
        one = fit_calibration(logits_NK, targets_NK, folds, method).calibration.apply(logits_NK)
        other = fit_calibration(
            logits_NK[images][:, order], targets_NK[images][:, order], folds[images], method
        ).calibration.apply(logits_NK[:, order])
        np.testing.assert_allclose(other, one[:, order], atol=1e-5)


def test_folds_are_even_and_hold_copies_together() -> None:
    rng = np.random.default_rng(0)
    labels_N = rng.integers(0, 3, 103)
    identities_N = rng.permutation(103).astype(np.uint64)
    found = folds_of(labels_N, identities_N)
    for label in range(3):
        counts = np.bincount(found[labels_N == label], minlength=FOLDS)
        assert counts.max() - counts.min() <= 1
    counts = np.bincount(found, minlength=FOLDS)
    assert counts.max() - counts.min() <= 1
    twice = folds_of(np.tile(labels_N, 2), np.tile(identities_N, 2))
    np.testing.assert_array_equal(twice, np.tile(found, 2))
    images = rng.permutation(103)
    np.testing.assert_array_equal(folds_of(labels_N[images], identities_N[images]), found[images])


def test_damaged_words_are_no_calibration() -> None:
    for words in ({"method": "magic"}, {"method": "none", "heat": 1}, {}):
        with pytest.raises((KeyError, ValueError)):
            Calibration.from_dict(words)


def test_a_calibration_is_fitted_while_a_network_is_asked() -> None:
    logits_NK, labels_N = answers(200)
    targets_NK = np.eye(4)[labels_N]
    outside = METHODS["vector"](logits_NK, targets_NK)
    with torch.inference_mode():
        assert METHODS["vector"](logits_NK, targets_NK) == outside
