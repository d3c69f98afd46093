"""Cuts: purity, completeness and what is kept; risk and coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import precision_score, recall_score

from astroformer.errors import UserError
from astroformer.intervals import share_limits
from astroformer.trust.thresholds import CutCurve, abstained, least_kept
from helpers.answers import bayes_answers

# Shares --------------------------------------------------------------------------------------------------------------


def test_intervals_are_those_of_scipy() -> None:
    hits, n = np.array([0, 1, 3, 7, 50, 999, 5, 0]), np.array([1, 1, 8, 7, 100, 1000, 40, 30])
    low, high = share_limits(hits, n)
    for i, (h, m) in enumerate(zip(hits.tolist(), n.tolist(), strict=True)):
        theirs = binomtest(h, m).proportion_ci(0.95, method="wilson")
        assert (low[i], high[i]) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert [end.tolist() for end in share_limits(np.array([0]), np.array([0]))] == [[0.0], [1.0]]


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    for n in (10, 60, 500):
        for p in (0.5, 0.9, 0.97):
            low, high = share_limits(rng.binomial(n, p, 20_000), np.full(20_000, n))
            assert 0.91 < np.mean((low <= p) & (p <= high)) < 0.995


@pytest.mark.parametrize("k", [0, 1, 2])
def test_shares_are_those_of_scikit_learn(k: int) -> None:
    labels_N, p_NK = bayes_answers(300)
    p_NK = p_NK.round(2)  # many are equal
    p_NK[:, 2] = 1 - p_NK[:, :2].sum(1)
    p_NK = np.maximum(p_NK, 0) / np.maximum(p_NK, 0).sum(1, keepdims=True)
    curve = CutCurve.of_class(labels_N, p_NK, k)
    assert curve.called == (p_NK.argmax(1) == k).sum()
    assert (np.diff(curve.cuts_T) < 0).all()
    purity, completeness, share = curve.purity(), curve.completeness(), curve.share()
    for t, cut in enumerate(curve.cuts_T):
        kept_N = (p_NK.argmax(1) == k) & (p_NK[:, k] >= cut)
        assert purity.value_T[t] == pytest.approx(precision_score(labels_N == k, kept_N), abs=1e-12)
        assert completeness.value_T[t] == pytest.approx(recall_score(labels_N == k, kept_N), abs=1e-12)
        assert share.value_T[t] == pytest.approx(kept_N.sum() / curve.called, abs=1e-12)
        found = curve.at(float(cut))
        assert found is not None
        assert (found.kept, found.right) == (kept_N.sum(), (kept_N & (labels_N == k)).sum())
        assert found.purity.low == purity.low_T[t] <= found.purity.value <= purity.high_T[t] == found.purity.high
    assert curve.at(1.01) is None
    assert curve.at(0.0) == curve.at(float(curve.cuts_T[-1]))


def test_all_classes_at_once() -> None:
    labels_N, p_NK = bayes_answers(200)
    curve = CutCurve.of_all(labels_N, p_NK)
    assert (curve.called, curve.positives) == (200, 200)
    found = curve.at(0.0)
    assert found is not None
    assert found.purity.value == (p_NK.argmax(1) == labels_N).mean()
    assert found.share.value == 1


def test_permuting_classes_permutes_the_curves() -> None:
    labels_N, p_NK = bayes_answers(100)
    order = np.array([2, 0, 1])
    for k in range(3):
        turned = CutCurve.of_class(np.argsort(order)[labels_N], p_NK[:, order], k)
        plain = CutCurve.of_class(labels_N, p_NK, int(order[k]))
        np.testing.assert_array_equal(turned.cuts_T, plain.cuts_T)
        np.testing.assert_array_equal(turned.right_T, plain.right_T)


# Cuts ----------------------------------------------------------------------------------------------------------------


def curve_of(right: list[int]) -> CutCurve:
    """Images in falling order of their probability, right (1) or wrong (0)."""
    confidence_N = np.linspace(0.99, 0.6, len(right))
    return CutCurve.of_class(1 - np.array(right), np.stack([confidence_N, 1 - confidence_N], 1), 0)


def test_the_lowest_cut_is_taken_that_holds_the_wish_with_one_wrong_image_more() -> None:
    curve = curve_of([1] * 9 + [0] + [1] * 9 + [0, 0, 0])
    found = curve.cut_for_purity(0.9)
    assert found is not None
    assert (found.kept, found.right) == (19, 18)  # (1 + 1) / (19 + 1) = 0.1
    found = curve.cut_for_purity(0.8)
    assert found is not None
    assert (found.kept, found.right) == (21, 18)  # (3 + 1) / (21 + 1) is below 0.2, and (4 + 1) / (22 + 1) is not
    assert curve_of([1] * 8).cut_for_purity(0.9) is None
    assert curve_of([1] * 9).cut_for_purity(0.9) is not None
    assert curve_of([0] + [1] * 19).cut_for_purity(0.9) is not None  # the surest image may be wrong


def test_the_least_number_of_images() -> None:
    for wish in (0.5, 0.55, 0.8, 0.9, 0.95, 0.99, 0.995, 0.999):
        least = least_kept(wish)
        assert curve_of([1] * least).cut_for_purity(wish) is not None
        assert least == 1 or curve_of([1] * (least - 1)).cut_for_purity(wish) is None


def test_why_no_cut() -> None:
    assert curve_of([1] * 9).why_no_cut(0.9) is None
    assert curve_of([1] * 8).why_no_cut(0.9) == "needs 9 images, has 8"
    assert curve_of([1]).why_no_cut(0.9995) == "needs 1,999 images, has 1"
    assert curve_of([0, 1] * 10).why_no_cut(0.9) == "50.0 % in the purest 10"


@pytest.mark.parametrize(("wish", "n"), [(0.9, 150), (0.95, 300), (0.99, 1500)])
@pytest.mark.parametrize("by_class", [False, True])
def test_new_images_hold_the_wish_on_average(wish: float, n: int, by_class: bool) -> None:
    purities, lucky_purities = [], []
    for seed in range(300):
        labels_N, p_NK = bayes_answers(2 * n, seed=seed)
        new_N, new_NK = labels_N[n:], p_NK[n:]
        if by_class:
            curve = CutCurve.of_class(labels_N[:n], p_NK[:n], 1)
            new_N, new_NK = new_N[new_NK.argmax(1) == 1], new_NK[new_NK.argmax(1) == 1]
        else:
            curve = CutCurve.of_all(labels_N[:n], p_NK[:n])
        right_N, confidence_N = new_NK.argmax(1) == new_N, new_NK.max(1)
        found = curve.cut_for_purity(wish)
        lucky = curve.cuts_T[curve.right_T >= wish * curve.kept_T].min(initial=2)
        for cut, into in ((2 if found is None else found.cut, purities), (lucky, lucky_purities)):
            kept_N = confidence_N >= cut
            into.append(right_N[kept_N].mean() if kept_N.any() else 1.0)  # where nothing is kept, nothing is wrong
    assert wish <= np.mean(purities) <= wish + 0.3 * (1 - wish)
    assert np.mean(lucky_purities) < np.mean(purities)  # what the image more is for


def test_abstaining() -> None:
    p_NK = np.array([[0.7, 0.3], [0.69, 0.31], [0.0, 1.0]])
    assert abstained(p_NK, (0.7, None)).tolist() == [False, True, True]
    assert abstained(p_NK, (0.0, 1.0)).tolist() == [False, False, False]
    assert abstained(np.empty((0, 2)), (0.7, None)).shape == (0,)
    with pytest.raises(UserError, match="1 cuts for 2 classes"):
        abstained(p_NK, (0.7,))


# Risk and coverage ---------------------------------------------------------------------------------------------------


def test_areas_by_hand() -> None:
    worst = curve_of([0, 1, 1, 1])
    assert worst.aurc() == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert worst.excess_aurc() == pytest.approx((1 + 1 / 2 + 1 / 3) / 4)
    best = curve_of([1, 1, 1, 0])
    assert (best.aurc(), best.excess_aurc()) == pytest.approx((1 / 16, 0))
    assert (curve_of([1, 1]).aurc(), curve_of([1, 1]).excess_aurc()) == (0, 0)
    assert (curve_of([0, 0]).aurc(), curve_of([0, 0]).excess_aurc()) == (1, 0)


def test_where_confidence_says_nothing_the_area_is_the_share_of_errors() -> None:
    labels_N = np.array([0, 0, 0, 1, 1])
    assert CutCurve.of_all(labels_N, np.tile([0.6, 0.4], (5, 1))).aurc() == pytest.approx(2 / 5)


def test_equal_probabilities_count_in_the_mean_of_their_orders() -> None:
    rng = np.random.default_rng(0)
    confidence_N = rng.choice([0.6, 0.7, 0.8, 0.9], 40)
    wrong_N = (rng.uniform(size=40) > confidence_N).astype(int)
    curve = CutCurve.of_all(wrong_N, np.stack([confidence_N, 1 - confidence_N], 1))
    areas = []
    for _ in range(4000):
        order = np.lexsort((rng.uniform(size=40), -confidence_N))
        areas.append((np.cumsum(wrong_N[order]) / np.arange(1, 41)).mean())
    assert curve.aurc() == pytest.approx(np.mean(areas), abs=4 * np.std(areas) / np.sqrt(4000))


def test_the_area_of_the_best_order_is_its_closed_form_with_many_images() -> None:
    n, error = 100_000, 0.2
    right = [1] * round(n * (1 - error)) + [0] * round(n * error)
    assert curve_of(right).aurc() == pytest.approx(error + (1 - error) * np.log(1 - error), abs=1e-4)


def test_an_image_that_counts_twice_is_an_image_and_its_copy() -> None:
    labels_N, p_NK = bayes_answers(50)
    times_N = np.random.default_rng(0).multinomial(50, np.full(50, 1 / 50))
    counted = CutCurve.by_times(labels_N, p_NK)(times_N)
    copied = CutCurve.of_all(np.repeat(labels_N, times_N), np.repeat(p_NK, times_N, axis=0))
    np.testing.assert_array_equal(counted.kept_T, copied.kept_T)
    assert counted.aurc() == copied.aurc()


# Input ---------------------------------------------------------------------------------------------------------------


def test_a_class_that_nothing_is_called() -> None:
    labels_N, p_NK = np.array([0, 2]), np.array([[0.8, 0.1, 0.1], [0.2, 0.1, 0.7]])
    curve = CutCurve.of_class(labels_N, p_NK, 1)
    assert (curve.called, curve.positives) == (0, 0)
    assert curve.cut_for_purity(0.5) is None
    assert curve.why_no_cut(0.9) == "needs 9 images, has 0"
    assert np.isnan(curve.aurc())
    assert np.isnan(curve.excess_aurc())
    assert curve.purity().value_T.shape == (0,)


def test_a_class_without_images_that_some_are_called() -> None:
    curve = CutCurve.of_class(np.array([1, 1]), np.array([[0.8, 0.2], [0.7, 0.3]]), 0)
    found = curve.at(0.75)
    assert found is not None
    assert (found.purity.value, found.completeness) == (0, None)
    assert np.isnan(curve.completeness().value_T).all()


@pytest.mark.parametrize("wish", [0.0, 1.0, 99, -1, float("nan")])
def test_no_wish(wish: float) -> None:
    with pytest.raises(UserError, match=r"purity is .*; it must lie between 0 and 1"):
        curve_of([1, 1]).cut_for_purity(wish)


def test_refusals() -> None:
    with pytest.raises(UserError, match="0 images"):
        CutCurve.of_all(np.empty(0, int), np.empty((0, 2)))
    with pytest.raises(UserError, match="sum to 1"):
        CutCurve.of_all(np.array([0]), np.array([[2.0, 3.0]]))
    with pytest.raises(UserError, match="whole numbers from 0 to 1"):
        CutCurve.of_class(np.array([2]), np.array([[0.5, 0.5]]), 0)
