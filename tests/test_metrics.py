from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from scipy.stats import beta
from sklearn.metrics import accuracy_score, balanced_accuracy_score, brier_score_loss, f1_score, log_loss
from sklearn.metrics import confusion_matrix as reference_confusion

from astroformer.errors import UserError
from astroformer.metrics import balanced_accuracy, brier_N, confusion_matrix, expected_calibration_error, nll_N, score


def sample(n: int, k: int, seed: int = 0, skill: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels of unequal classes and probabilities that lean towards them."""
    rng = np.random.default_rng(seed)
    labels_N = rng.choice(k, n, p=np.arange(1, k + 1) / np.arange(1, k + 1).sum())
    logits_NK = rng.normal(size=(n, k))
    logits_NK[np.arange(n), labels_N] += skill
    probabilities_NK = np.exp(logits_NK)
    return labels_N, probabilities_NK / probabilities_NK.sum(1, keepdims=True)


def names(k: int) -> tuple[str, ...]:
    return tuple(f"c{i}" for i in range(k))


@pytest.mark.parametrize(("n", "k"), [(1, 2), (7, 3), (200, 5), (500, 12)])
def test_values_are_those_of_scikit_learn(n: int, k: int) -> None:
    labels_N, probabilities_NK = sample(n, k, seed=n)
    predictions_N = probabilities_NK.argmax(1)
    result = score(labels_N, probabilities_NK, names(k), resamples=10)
    assert result.n == n
    assert result["top1"] == pytest.approx(accuracy_score(labels_N, predictions_N), abs=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it remarks on classes that are predicted only
        reference = balanced_accuracy_score(labels_N, predictions_N)
    assert result["balanced_accuracy"] == pytest.approx(reference, abs=1e-12)
    assert balanced_accuracy(labels_N, predictions_N, k) == pytest.approx(reference, abs=1e-12)
    assert result["macro_f1"] == pytest.approx(f1_score(labels_N, predictions_N, average="macro"), abs=1e-12)
    assert result["nll"] == pytest.approx(log_loss(labels_N, probabilities_NK, labels=range(k)), abs=1e-12)
    np.testing.assert_array_equal(result.confusion_KK, reference_confusion(labels_N, predictions_N, labels=range(k)))


def test_absent_classes_count_as_in_scikit_learn() -> None:
    # Class 3 is neither true nor predicted, class 2 predicted only, class 1 true only.
    labels_N = np.array([0, 0, 0, 1, 1])
    probabilities_NK = np.eye(5)[[0, 0, 2, 0, 2]] * 0.9 + 0.02
    result = score(labels_N, probabilities_NK, names(5), resamples=10)
    assert result["macro_f1"] == pytest.approx(
        f1_score(labels_N, probabilities_NK.argmax(1), average="macro", zero_division=0), abs=1e-12
    )
    assert result["balanced_accuracy"] == pytest.approx((2 / 3 + 0) / 2, abs=1e-12)
    recalls = result.to_dict()["classes"]
    assert recalls["c0"]["n"] == 3
    assert recalls["c0"]["recall"] == pytest.approx(2 / 3)
    assert recalls["c3"] == {"n": 0, "precision": None, "recall": None, "f1": None}


def test_a_certain_mistake_has_a_finite_loss() -> None:
    assert nll_N(np.array([0]), np.array([[0.0, 1.0]]))[0] == pytest.approx(-np.log(1e-12))


def test_intervals_contain_the_value_and_shrink_with_n() -> None:
    small, large = (score(*sample(n, 4, seed=1), names(4), seed=1) for n in (100, 6400))
    for metric in ("top1", "balanced_accuracy", "macro_f1", "nll"):
        widths = []
        for result in (small, large):
            interval = result.metrics[metric]
            assert interval.low < interval.value < interval.high
            widths.append(interval.high - interval.low)
        # 64 times the images: an eighth of the width.
        assert widths[1] == pytest.approx(widths[0] / 8, rel=0.3), metric


def test_intervals_agree_with_a_plain_bootstrap() -> None:
    labels_N, probabilities_NK = sample(300, 4, seed=2)
    predictions_N = probabilities_NK.argmax(1)
    rng = np.random.default_rng(9)
    rows: dict[str, list[float]] = {"top1": [], "balanced_accuracy": [], "macro_f1": [], "nll": []}
    for _ in range(1000):
        drawn = rng.integers(0, 300, 300)
        y, p = labels_N[drawn], predictions_N[drawn]
        confusion = np.zeros((4, 4))
        np.add.at(confusion, (y, p), 1)
        hits = np.diag(confusion)
        rows["top1"].append(hits.sum() / 300)
        rows["balanced_accuracy"].append(float(np.mean(hits / confusion.sum(1))))
        rows["macro_f1"].append(float(np.mean(2 * hits / (confusion.sum(0) + confusion.sum(1)))))
        rows["nll"].append(float(-np.log(probabilities_NK[drawn, y]).mean()))
    result = score(labels_N, probabilities_NK, names(4), resamples=4000)
    for metric, values in rows.items():
        low, high = np.quantile(values, [0.025, 0.975])
        width = high - low
        assert result.metrics[metric].low == pytest.approx(low, abs=0.12 * width), metric
        assert result.metrics[metric].high == pytest.approx(high, abs=0.12 * width), metric


def test_top1_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    skill, hits = 1.0, 0
    labels_N, probabilities_NK = sample(200_000, 3, seed=77, skill=skill)
    truth = float((probabilities_NK.argmax(1) == labels_N).mean())
    for seed in range(200):
        interval = score(*sample(150, 3, seed=seed, skill=skill), names(3), resamples=200).metrics["top1"]
        hits += interval.low <= truth <= interval.high
    assert 0.88 <= hits / 200 <= 0.99


def test_a_perfect_score_is_no_certainty() -> None:
    """40 right of 40: the interval of Jeffreys begins at 0.939, and that of Clopper and Pearson at 0.912."""
    labels_N = np.arange(40) % 4
    for right in (True, False):
        answers_NK = np.eye(4)[labels_N if right else (labels_N + 1) % 4]
        for metric, interval in score(labels_N, answers_NK, names(4), resamples=4000).metrics.items():
            if metric != "nll":
                end = interval.low if right else 1 - interval.high
                assert end == pytest.approx(beta.ppf(0.025, 40.5, 0.5), abs=0.02), metric
                assert (interval.high if right else interval.low) == interval.value == right


@pytest.mark.parametrize(("hits", "n"), [(1, 9), (37, 40), (100, 200)])
def test_the_interval_of_the_accuracy_is_that_of_jeffreys(hits: int, n: int) -> None:
    labels_N = np.zeros(n, int)
    labels_N[::2] = 1
    predicted_N = np.where(np.arange(n) < hits, labels_N, 1 - labels_N)
    found = score(labels_N, np.eye(2)[predicted_N], names(2), resamples=20_000).metrics["top1"]
    np.testing.assert_allclose((found.low, found.high), beta.ppf([0.025, 0.975], hits + 0.5, n - hits + 0.5), atol=0.01)


@pytest.mark.parametrize("skill", [3.0, 6.0])
def test_intervals_of_few_images_and_many_classes_cover_the_truth(skill: float) -> None:
    """Also where nearly all are right, and of the balanced accuracy of classes with five images each."""
    labels_N, probabilities_NK = sample(100_000, 8, seed=77, skill=skill)
    truth = score(labels_N, probabilities_NK, names(8), resamples=10)
    hits = {"top1": 0, "balanced_accuracy": 0}
    for seed in range(200):
        found = score(*sample(40, 8, seed=seed, skill=skill), names(8), resamples=400)
        for metric in hits:
            hits[metric] += found.metrics[metric].low <= truth[metric] <= found.metrics[metric].high
    assert min(hits.values()) / 200 >= 0.88


def test_same_seed_same_intervals_and_json() -> None:
    data = sample(60, 3)
    first, again, other = (score(*data, names(3), seed=seed) for seed in (3, 3, 4))
    assert first.metrics == again.metrics
    assert first.metrics != other.metrics
    assert json.loads(json.dumps(first.to_dict()))["confusion"] == first.confusion_KK.tolist()


def test_confusion_rows_are_true_classes() -> None:
    assert confusion_matrix(np.array([0, 0, 1]), np.array([1, 1, 0]), 3).tolist() == [[0, 2, 0], [1, 0, 0], [0, 0, 0]]


# Calibration ---------------------------------------------------------------------------------------------------------


def test_calibration_error_is_the_one_of_the_bins() -> None:
    confidence = np.array([0.95, 0.95, 0.55, 0.55, 0.60])  # 0.95 in the last bin; 0.55 and 0.60 in (8/15, 9/15]
    p_NK = np.stack([confidence, 1 - confidence], 1)
    labels = np.array([0, 1, 0, 0, 1])
    by_hand = 2 / 5 * abs(1 / 2 - 0.95) + 3 / 5 * abs(2 / 3 - (0.55 + 0.55 + 0.60) / 3)
    assert expected_calibration_error(labels, p_NK) == pytest.approx(by_hand)


@pytest.mark.parametrize(("n", "k", "bins"), [(1, 2, 15), (40, 3, 1), (300, 5, 10), (700, 12, 15)])
def test_calibration_error_is_that_of_the_formula_image_by_image(n: int, k: int, bins: int) -> None:
    labels_N, probabilities_NK = sample(n, k, seed=n)
    in_bin: dict[int, list[tuple[float, bool]]] = {}
    for label, row in zip(labels_N.tolist(), probabilities_NK.tolist(), strict=True):
        confidence = max(row)
        place = next(m for m in range(1, bins + 1) if (m - 1) / bins < confidence <= m / bins)
        in_bin.setdefault(place, []).append((confidence, row.index(confidence) == label))
    expected = 0.0
    for found in in_bin.values():
        mean_confidence = sum(confidence for confidence, _ in found) / len(found)
        accuracy = sum(right for _, right in found) / len(found)
        expected += len(found) / n * abs(accuracy - mean_confidence)
    assert expected_calibration_error(labels_N, probabilities_NK, bins=bins) == pytest.approx(expected, abs=1e-12)


def test_calibration_error_of_calibrated_answers_is_small_and_of_overconfident_ones_is_the_excess() -> None:
    rng = np.random.default_rng(0)
    confidence_N = rng.uniform(0.5, 1.0, 200_000)
    labels_N = (rng.uniform(size=len(confidence_N)) > confidence_N).astype(np.int64)  # right as often as it says
    assert expected_calibration_error(labels_N, np.stack([confidence_N, 1 - confidence_N], 1)) < 0.01
    certain_NK = np.tile([1.0, 0.0], (len(labels_N), 1))
    assert expected_calibration_error(labels_N, certain_NK) == pytest.approx(labels_N.mean())


def test_a_certain_right_answer_has_no_calibration_error() -> None:
    assert expected_calibration_error(np.array([0, 1]), np.eye(2)) == 0


def test_calibration_error_refuses_what_it_cannot_score() -> None:
    with pytest.raises(UserError, match="bins is 0"):
        expected_calibration_error(np.array([0]), np.eye(2)[:1], bins=0)
    with pytest.raises(UserError, match="0 images"):
        expected_calibration_error(np.array([], int), np.empty((0, 2)))
    with pytest.raises(UserError, match="not all finite"):
        expected_calibration_error(np.array([0]), np.array([[np.nan, 1.0]]))


# Input ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "probabilities", "says"),
    [
        (np.array([], int), np.empty((0, 2)), "0 images"),
        (np.array([0, 1]), np.full((2, 3), 1 / 3), r"\(2, 3\); \(2, 2\)"),
        (np.array([0, 1]), np.full((1, 2), 1 / 2), r"\(1, 2\); \(2, 2\)"),
        (np.array([0, 2]), np.full((2, 2), 1 / 2), "from 0 to 1"),
        (np.array([0, -1]), np.full((2, 2), 1 / 2), "from 0 to 1"),
        (np.array([0.0, 1.0]), np.full((2, 2), 1 / 2), "whole numbers"),
        (np.array([0, 1]), np.array([[0.5, 0.5], [np.nan, np.nan]]), "not all finite"),
    ],
)
def test_refusals(labels: np.ndarray, probabilities: np.ndarray, says: str) -> None:
    with pytest.raises(UserError, match=says):
        score(labels, probabilities, ("a", "b"))


def test_copies_in_groups_have_the_interval_of_their_originals() -> None:
    labels_N, probabilities_NK = sample(300, 3)
    alone = score(labels_N, probabilities_NK, names(3), groups_N=np.arange(300))
    copied = [np.repeat(each, 4, axis=0) for each in (labels_N, probabilities_NK, np.arange(300))]
    grouped = score(copied[0], copied[1], names(3), groups_N=copied[2])
    blind = score(copied[0], copied[1], names(3))
    for metric, found in grouped.metrics.items():
        assert found.value == pytest.approx(alone[metric])
        assert (found.low, found.high) == pytest.approx((alone.metrics[metric].low, alone.metrics[metric].high))
        width = blind.metrics[metric].high - blind.metrics[metric].low
        assert found.high - found.low > 1.7 * width  # four copies that count as four halve it


def test_groups_of_one_give_the_intervals_of_images() -> None:
    labels_N, probabilities_NK = sample(800, 4)
    votes_NK = np.eye(4)[labels_N]
    plain = score(labels_N, probabilities_NK, names(4), votes_NK=votes_NK)
    alone = score(labels_N, probabilities_NK, names(4), votes_NK=votes_NK, groups_N=np.arange(800)[::-1])
    for metric, found in plain.metrics.items():
        width = found.high - found.low
        assert alone.metrics[metric].low == pytest.approx(found.low, abs=0.15 * width)
        assert alone.metrics[metric].high == pytest.approx(found.high, abs=0.15 * width)


def test_brier_is_that_of_scikit_learn() -> None:
    labels_N, probabilities_NK = sample(200, 2)
    reference = brier_score_loss(labels_N, probabilities_NK[:, 1])
    assert brier_N(labels_N, probabilities_NK).mean() == pytest.approx(2 * reference)  # it counts one of two classes
