"""Other shares of classes: corrected probabilities, and how many images are of each class."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from astroformer.errors import UserError
from astroformer.trust.priors import SCORES, ClassCounts, corrected, estimated_priors

OLD = np.array([0.5, 0.3, 0.2])
SKILL = 2.0


def sample(
    n: int, shares: np.ndarray, rng: np.random.Generator, *, known: np.ndarray = OLD, surer: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Classes in some shares, and what Bayes' rule says of them where the shares are known to be others.

    With `surer` the probabilities are not calibrated.
    """
    labels_N = rng.choice(len(shares), n, p=shares)
    logits_NK = rng.normal(size=(n, len(shares)))
    logits_NK[np.arange(n), labels_N] += SKILL
    p_NK = np.exp(surer * (SKILL * logits_NK + np.log(known)))
    return labels_N, p_NK / p_NK.sum(1, keepdims=True)


# Corrected probabilities ---------------------------------------------------------------------------------------------


def test_corrected_probabilities_are_those_of_bayes_rule_with_the_new_shares() -> None:
    new_K = np.array([0.1, 0.2, 0.7])
    _, p_NK = sample(50, OLD, np.random.default_rng(3))
    _, expected_NK = sample(50, OLD, np.random.default_rng(3), known=new_K)
    np.testing.assert_allclose(corrected(p_NK, OLD, new_K), expected_NK, atol=1e-12)
    np.testing.assert_allclose(corrected(p_NK, 40 * OLD, 9 * new_K), expected_NK, atol=1e-12)  # counts do as well
    np.testing.assert_allclose(corrected(p_NK, OLD, OLD), p_NK, atol=1e-12)
    there_and_back_NK = corrected(corrected(p_NK, OLD, new_K), new_K, OLD)
    np.testing.assert_allclose(there_and_back_NK, p_NK, atol=1e-12)


def test_a_class_that_is_not_there_has_no_probability() -> None:
    p_NK = np.array([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0]])
    found_NK = corrected(p_NK, OLD, np.array([0.0, 0.5, 0.5]))
    assert found_NK[:, 0].tolist() == [0, 0]
    np.testing.assert_allclose(found_NK.sum(1), 1)  # also of an image that is surely of this class
    assert corrected(np.empty((0, 3)), OLD, OLD).shape == (0, 3)
    found_NK = corrected(p_NK, np.array([0.0, 0.5, 0.5]), np.array([0.0, 0.9, 0.1]))
    assert found_NK[:, 0].tolist() == [0, 0]


# Estimated shares ----------------------------------------------------------------------------------------------------


def test_em_finds_the_shares_of_the_highest_likelihood() -> None:
    _, p_NK = sample(300, np.array([0.1, 0.3, 0.6]), np.random.default_rng(0))

    def loss(free: np.ndarray) -> float:
        shares_K = np.exp(np.append(free, 0.0))
        return -float(np.log((p_NK / OLD) @ (shares_K / shares_K.sum())).sum())

    best = minimize(loss, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12})
    expected_K = np.exp(np.append(best.x, 0.0))
    np.testing.assert_allclose(estimated_priors(p_NK, OLD), expected_K / expected_K.sum(), atol=1e-5)


def test_em_finds_the_shares_that_images_were_drawn_with() -> None:
    rng = np.random.default_rng(0)
    for new_K in ([0.1, 0.2, 0.7], [0.98, 0.01, 0.01], [0.5, 0.5, 0.0], [0.5, 0.3, 0.2]):
        _, p_NK = sample(40_000, np.array(new_K), rng)
        found_K = estimated_priors(p_NK, OLD)
        np.testing.assert_allclose(found_K, new_K, atol=0.01)
        np.testing.assert_allclose(corrected(p_NK, OLD, found_K).mean(0), found_K, atol=1e-6)  # a fixed point


def test_em_of_resampled_images_of_known_shares() -> None:
    rng = np.random.default_rng(1)
    labels_N, p_NK = sample(6000, OLD, rng)
    for new_K in ([0.2, 0.2, 0.6], [0.8, 0.1, 0.1]):
        drawn = np.concatenate([rng.choice(np.flatnonzero(labels_N == k), int(2000 * new_K[k])) for k in range(3)])
        np.testing.assert_allclose(estimated_priors(p_NK[drawn], OLD), new_K, atol=0.03)


def test_permuting_classes_permutes_the_shares() -> None:
    rng, order = np.random.default_rng(0), np.array([2, 0, 1])
    _, p_NK = sample(300, np.array([0.1, 0.3, 0.6]), rng)
    found_K = estimated_priors(p_NK, OLD)
    np.testing.assert_allclose(estimated_priors(p_NK[:, order], OLD[order]), found_K[order], atol=1e-8)


def test_em_of_one_image_and_of_classes_that_nobody_saw() -> None:
    np.testing.assert_allclose(estimated_priors(np.array([[0.7, 0.3]]), np.array([0.5, 0.5])), [1, 0], atol=1e-6)
    found_K = estimated_priors(np.array([[0.2, 0.8, 0.0], [1.0, 0.0, 0.0]]), np.array([0.0, 0.5, 0.5]))
    assert np.isfinite(found_K).all()
    assert found_K[0] == 0
    np.testing.assert_allclose(estimated_priors(np.tile(OLD, (9, 1)), OLD), OLD)  # answers that say nothing


# Counts --------------------------------------------------------------------------------------------------------------


def ends(found: ClassCounts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    value_K, low_K, high_K = (np.array([getattr(c, w) for c in found.counts]) for w in ("value", "low", "high"))
    assert (low_K <= value_K).all()
    assert (value_K <= high_K).all()
    assert (low_K >= 0).all()
    assert (high_K <= found.n).all()
    assert value_K.sum() == pytest.approx(found.n)
    return value_K, low_K, high_K


def test_counts_of_what_is_called_are_those_of_the_confusion_matrix() -> None:
    rng = np.random.default_rng(0)
    labels_N, p_NK = sample(2000, OLD, rng)
    _, new_NK = sample(3000, np.array([0.2, 0.3, 0.5]), rng)
    confusion_KK = np.stack([np.bincount(p_NK[labels_N == k].argmax(1), minlength=3) for k in range(3)])
    rates_KK = confusion_KK / confusion_KK.sum(1, keepdims=True)
    expected_K = np.linalg.solve(rates_KK.T, np.bincount(new_NK.argmax(1), minlength=3))
    np.testing.assert_allclose(ends(ClassCounts.of(labels_N, p_NK, new_NK, "called"))[0], expected_K, rtol=1e-4)


def coverage(new_K: np.ndarray, n: int, m: int, scores: str, runs: int, **words: Any) -> tuple[np.ndarray, np.ndarray]:
    """How often the interval of each class holds its number, and by which share of M the counts are off."""
    rng, held, errors = np.random.default_rng(0), [], []
    for seed in range(runs):
        labels_N, p_NK = sample(n, OLD, rng, **words)
        truth_N, new_NK = sample(m, new_K, rng, **words)
        value_K, low_K, high_K = ends(ClassCounts.of(labels_N, p_NK, new_NK, scores, resamples=200, seed=seed))
        truth_K = np.bincount(truth_N, minlength=3)
        held.append((low_K <= truth_K + 1e-6) & (truth_K <= high_K + 1e-6))
        errors.append((value_K - truth_K) / m)
    return np.mean(held, 0), np.array(errors)


@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize("new_K", [(0.1, 0.3, 0.6), (0.5, 0.3, 0.2), (0.6, 0.4, 0.0)])
def test_intervals_hold_the_truth_in_about_95_percent(scores: str, new_K: tuple[float, ...]) -> None:
    held_K, errors_RK = coverage(np.array(new_K), 300, 500, scores, 150)
    assert held_K.mean() == pytest.approx(0.945, abs=0.025)
    assert held_K.min() > 0.90
    assert np.abs(errors_RK.mean(0)).max() < 0.012  # without a bias


def test_corrected_scores_tell_more_than_the_confusion_matrix() -> None:
    errors = {scores: coverage(np.array([0.1, 0.3, 0.6]), 300, 500, scores, 100)[1] for scores in SCORES}
    assert np.square(errors["corrected"]).mean() < 0.7 * np.square(errors["called"]).mean()


def test_counts_need_no_calibrated_probabilities() -> None:
    new_K = np.array([0.1, 0.3, 0.6])
    held_K, errors_RK = coverage(new_K, 300, 500, "corrected", 100, surer=2.0)
    assert held_K.min() > 0.88
    assert np.abs(errors_RK.mean(0)).max() < 0.015
    rng = np.random.default_rng(0)
    _, timid_NK = sample(20_000, new_K, rng, surer=0.4)
    assert np.abs(estimated_priors(timid_NK, timid_NK.mean(0)) - new_K).max() > 0.1  # EM does


def test_more_images_make_narrower_intervals() -> None:
    rng, widths = np.random.default_rng(0), []
    _, new_NK = sample(2000, np.array([0.1, 0.3, 0.6]), rng)
    for n in (100, 1600):
        _, low_K, high_K = ends(ClassCounts.of(*sample(n, OLD, rng), new_NK))
        widths.append((high_K - low_K).mean())
    assert widths[1] < 0.6 * widths[0]


def test_all_right_and_sure_is_not_infallible() -> None:
    labels_N = np.arange(30) % 3
    new_NK = np.eye(3)[np.repeat([0, 1, 2], [100, 200, 700])]
    for scores in SCORES:
        value_K, low_K, high_K = ends(ClassCounts.of(labels_N, np.eye(3)[labels_N], new_NK, scores))
        np.testing.assert_allclose(value_K, [100, 200, 700], atol=0.1)
        assert low_K[2] < 690
        assert high_K[0] > 110


def test_all_wrong_but_always_alike_is_seen_through() -> None:
    labels_N = np.arange(60) % 3
    new_NK = np.eye(3)[(np.repeat([0, 1, 2], [100, 200, 700]) + 1) % 3]
    value_K, _, _ = ends(ClassCounts.of(labels_N, np.eye(3)[(labels_N + 1) % 3], new_NK, "called"))
    np.testing.assert_allclose(value_K, [100, 200, 700], atol=0.1)


def test_a_class_that_nothing_is_called_and_one_image() -> None:
    labels_N = np.arange(60) % 3
    answers_N = np.where(labels_N == 2, np.arange(60) % 2, labels_N)
    for scores in SCORES:
        _, low_K, high_K = ends(ClassCounts.of(labels_N, np.eye(3)[answers_N], np.eye(3)[[0] * 50], scores))
        assert np.isfinite(low_K).all()
        assert np.isfinite(high_K).all()
        ends(ClassCounts.of(labels_N, np.eye(3)[labels_N], np.eye(3)[[0]], scores))


def test_the_same_seed_gives_the_same_intervals() -> None:
    rng = np.random.default_rng(0)
    old, (_, new_NK) = sample(100, OLD, rng), sample(100, OLD, rng)
    first, again, other = (ClassCounts.of(*old, new_NK, resamples=50, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


# Input ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ([0.5, 0.5], [1, 1, 1], r"old shares have shape \(2,\); \(3,\) is needed"),
        ([1, 1, 1], [1, -1, 1], "new shares must be at least 0"),
        ([1, 1, 1], [0, 0, 0], "not all 0"),
        ([1, np.nan, 1], [1, 1, 1], "old shares must be at least 0"),
        ([1, 0, 1], [1, 1, 1], "old share of class 1 is 0, and the new one is not"),
    ],
)
def test_refusals_of_shares(old: list[float], new: list[float], says: str) -> None:
    with pytest.raises(UserError, match=says):
        corrected(np.full((2, 3), 1 / 3), np.array(old), np.array(new))


def test_refusals() -> None:
    labels_N, p_NK = sample(100, OLD, np.random.default_rng(0))
    with pytest.raises(UserError, match="0 images to estimate shares from"):
        estimated_priors(np.empty((0, 3)), OLD)
    with pytest.raises(UserError, match="0 images to estimate shares from"):
        ClassCounts.of(labels_N, p_NK, np.empty((0, 3)))
    with pytest.raises(UserError, match="of 2 classes, the others of 3"):
        ClassCounts.of(labels_N, p_NK, np.full((1, 2), 0.5))
    with pytest.raises(UserError, match="unknown kind of scores 'hard'"):
        ClassCounts.of(labels_N, p_NK, p_NK, "hard")
    few = np.concatenate([np.flatnonzero(labels_N != 2), np.flatnonzero(labels_N == 2)[:4]])
    with pytest.raises(UserError, match=r"at least 5 calibration images of each, and there are fewer of ring \(4\)"):
        ClassCounts.of(labels_N[few], p_NK[few], p_NK, classes=("disc", "bar", "ring"))
    with pytest.raises(UserError, match="sum to 1"):
        corrected(np.ones((2, 3)), OLD, OLD)
