from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from astroformer.curves import Curve, Ranking, Reliability
from astroformer.errors import UserError
from astroformer.metrics import expected_calibration_error


def ranked(n: int, seed: int, digits: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of a class and others, by a score of few digits, so that many have the same."""
    rng = np.random.default_rng(seed)
    positive_N = rng.random(n) < 0.4
    positive_N[:2] = True, False
    return positive_N, np.round(rng.random(n) + 0.3 * positive_N, digits)


@pytest.mark.parametrize(("n", "digits"), [(2, 1), (30, 1), (300, 2), (300, 12)])
@pytest.mark.parametrize("weighted", [False, True])
def test_areas_and_curves_are_those_of_scikit_learn(n: int, digits: int, weighted: bool) -> None:
    positive_N, score_N = ranked(n, n, digits)
    times_N = np.random.default_rng(1).integers(0, 4, n).astype(float) if weighted else None
    if times_N is not None:
        times_N[:2] = 1
    ranking = Ranking.of(positive_N, score_N)
    assert ranking.roc_auc(times_N) == pytest.approx(roc_auc_score(positive_N, score_N, sample_weight=times_N))
    area = average_precision_score(positive_N, score_N, sample_weight=times_N)
    assert ranking.average_precision(times_N) == pytest.approx(area)
    if times_N is not None:
        times_N += 1  # scikit-learn leaves the points out that have no weight
    false_T, true_T, _ = roc_curve(positive_N, score_N, sample_weight=times_N, drop_intermediate=False)
    curve = ranking.roc(times_N)
    assert curve is not None
    np.testing.assert_allclose(curve.x_T, false_T)
    np.testing.assert_allclose(curve.y_T, true_T)
    if not weighted:
        precision_T, recall_T, _ = precision_recall_curve(positive_N, score_N)
        curve = ranking.precision_recall()
        assert curve is not None
        np.testing.assert_allclose(curve.x_T, recall_T[-2::-1])
        np.testing.assert_allclose(curve.y_T, precision_T[-2::-1])


def test_a_class_that_is_absent_or_alone_has_no_curve() -> None:
    score_N = np.array([0.2, 0.4, 0.4])
    absent, alone = Ranking.of(np.zeros(3, bool), score_N), Ranking.of(np.ones(3, bool), score_N)
    assert absent.roc() is None
    assert absent.precision_recall() is None
    assert np.isnan(absent.roc_auc())
    assert np.isnan(absent.average_precision())
    assert alone.roc() is None
    assert alone.average_precision() == 1


def test_a_thinned_curve_keeps_its_ends_and_its_shape() -> None:
    positive_N, score_N = ranked(5000, 3, 12)
    curve = Ranking.of(positive_N, score_N).roc()
    assert curve is not None
    thin = curve.thinned(50)
    assert len(thin.x_T) <= 52
    assert (thin.x_T[0], thin.y_T[0], thin.x_T[-1], thin.y_T[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(thin.y_T, thin.x_T) == pytest.approx(np.trapezoid(curve.y_T, curve.x_T), abs=0.01)
    few = Curve(np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    assert few.thinned(50) is few


def probabilities(n: int, k: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n)
    return rng.integers(0, k, n), rng.dirichlet(np.ones(k), n)


def test_reliability_is_the_calibration_curve_of_scikit_learn() -> None:
    labels_N, probabilities_NK = probabilities(500)
    confidence_N, right_N = probabilities_NK.max(1), probabilities_NK.argmax(1) == labels_N
    reliability = Reliability.equal_width(labels_N, probabilities_NK, 10)
    share, mean = calibration_curve(right_N, confidence_N, n_bins=10)
    bins = [each for each in reliability.bins() if each.n]
    np.testing.assert_allclose([each.right / each.n for each in bins], share)
    np.testing.assert_allclose([each.confidence for each in bins], mean)
    assert sum(each.n for each in reliability.bins()) == 500
    weights = np.array([each.n for each in bins]) / 500
    assert reliability.error() == pytest.approx((weights * np.abs(share - mean)).sum())
    assert reliability.error() == expected_calibration_error(labels_N, probabilities_NK, bins=10)


@pytest.mark.parametrize("n", [1, 2, 14, 15, 500])
def test_bins_of_equal_number_hold_as_many_images_each(n: int) -> None:
    labels_N, probabilities_NK = probabilities(n)
    reliability = Reliability.equal_number(labels_N, probabilities_NK, 15)
    counts = [each.n for each in reliability.bins()]
    assert sum(counts) == n
    assert len(counts) == min(n, 15)
    assert max(counts) - min(counts) <= 1
    # The closed form: images in the order of their confidence, in parts of equal length.
    order = np.argsort(probabilities_NK.max(1))
    gap_N = (probabilities_NK.argmax(1) == labels_N) - probabilities_NK.max(1)
    expected = sum(abs(gap_N[part].sum()) for part in np.array_split(order, 15)) / n
    assert reliability.error() == pytest.approx(expected)


def test_images_of_one_confidence_stay_in_one_bin() -> None:
    probabilities_NK = np.tile([[0.75, 0.25]], (40, 1))
    labels_N = np.array([0] * 30 + [1] * 10)  # in this order a bin of 10 would be all wrong
    assert Reliability.equal_number(labels_N, probabilities_NK, 4).error() == pytest.approx(0)
    assert Reliability.equal_number(labels_N[::-1], probabilities_NK, 4).error() == pytest.approx(0)


@pytest.mark.parametrize("measure", [Reliability.equal_width, Reliability.equal_number])
def test_an_image_that_counts_twice_is_two_images(measure: object) -> None:
    assert callable(measure)
    labels_N, probabilities_NK = probabilities(60)
    once = measure(labels_N, probabilities_NK)
    twice = measure(np.repeat(labels_N, 2), np.repeat(probabilities_NK, 2, axis=0))
    assert once.error(np.full(60, 2.0)) == pytest.approx(once.error()) == pytest.approx(twice.error())


def test_no_bins_are_refused() -> None:
    labels_N, probabilities_NK = probabilities(5)
    with pytest.raises(UserError, match="bins is 0"):
        Reliability.equal_number(labels_N, probabilities_NK, 0)
