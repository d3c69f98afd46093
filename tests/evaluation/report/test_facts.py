"""The numbers of a report are those of an evaluation, of scikit-learn, or of a closed form."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_score, recall_score, roc_auc_score

from astroformer.evaluation.report.breakdown import MOST, broken_down
from astroformer.evaluation.report.facts import Facts, most_telling
from astroformer.intervals import share_interval
from astroformer.metrics import expected_calibration_error, score


def answers(n: int, k: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels_N = rng.integers(0, k, n)
    probabilities_NK = rng.dirichlet(np.ones(k), n)
    probabilities_NK[np.arange(n), labels_N] += 0.5
    return labels_N, probabilities_NK / probabilities_NK.sum(1, keepdims=True)


def names(k: int) -> tuple[str, ...]:
    return tuple(f"class_{i}" for i in range(k))


def facts_of(labels_N: np.ndarray, probabilities_NK: np.ndarray, classes: tuple[str, ...], **words: object) -> Facts:
    groups_N = words.get("groups_N")
    evaluation = score(labels_N, probabilities_NK, classes, groups_N=groups_N)  # type: ignore[arg-type]
    return Facts.measured(evaluation, labels_N, probabilities_NK, **words)  # type: ignore[arg-type]


def test_facts_begin_with_the_evaluation_word_for_word() -> None:
    labels_N, probabilities_NK = answers(200, 4)
    evaluation = score(labels_N, probabilities_NK, names(4))
    content = Facts.measured(evaluation, labels_N, probabilities_NK).to_dict()
    expected = evaluation.to_dict()
    for name, value in expected.items():
        if name != "classes":
            assert content[name] == value
    for name, scores in expected["classes"].items():
        assert content["classes"][name].items() >= scores.items()
    assert json.loads(json.dumps(content, allow_nan=False)) == content


def test_classes_and_metrics_are_those_of_scikit_learn() -> None:
    labels_N, probabilities_NK = answers(300, 3)
    facts, said_N = facts_of(labels_N, probabilities_NK, names(3)), probabilities_NK.argmax(1)
    for k, each in enumerate(facts.classes):
        assert each.roc_auc is not None
        assert each.average_precision is not None
        assert each.recall is not None
        assert each.precision is not None
        own_N = labels_N == k
        assert each.roc_auc.value == pytest.approx(roc_auc_score(own_N, probabilities_NK[:, k]))
        assert each.average_precision.value == pytest.approx(average_precision_score(own_N, probabilities_NK[:, k]))
        assert each.recall.value == pytest.approx(recall_score(own_N, said_N == k))
        assert each.precision.value == pytest.approx(precision_score(own_N, said_N == k))
        for found in (each.roc_auc, each.average_precision, each.recall, each.precision):
            assert 0 <= found.low < found.value < found.high <= 1
    assert facts.metrics["ece"].value == expected_calibration_error(labels_N, probabilities_NK)
    brier = ((probabilities_NK - np.eye(3)[labels_N]) ** 2).sum(1).mean()
    assert facts.metrics["brier"].value == pytest.approx(brier)
    for found in facts.metrics.values():
        assert found.low <= found.value <= found.high
    assert sum(each.images.n for each in facts.calibration) == sum(
        each.images.n for each in facts.calibration_by_number
    )


def test_permuting_the_classes_permutes_the_facts() -> None:
    labels_N, probabilities_NK = answers(150, 5)
    order = np.array([3, 0, 4, 1, 2])  # where each class goes
    moved_NK = np.empty_like(probabilities_NK)
    moved_NK[:, order] = probabilities_NK
    classes = names(5)
    moved_classes = tuple(classes[list(order).index(k)] for k in range(5))
    one, other = facts_of(labels_N, probabilities_NK, classes), facts_of(order[labels_N], moved_NK, moved_classes)
    for k, each in enumerate(one.classes):
        assert other.classes[order[k]].to_dict() == each.to_dict()
    for name, found in one.metrics.items():
        assert other.metrics[name].value == pytest.approx(found.value, abs=1e-12)
    for name in ("brier", "ece", "adaptive_ece"):
        assert other.metrics[name].low == pytest.approx(one.metrics[name].low, abs=1e-12)
    assert [m.image for m in other.mistakes] == [m.image for m in one.mistakes]
    assert list(other.doubtful) == list(one.doubtful)


@pytest.mark.parametrize("right", [True, False])
def test_all_right_and_all_wrong(right: bool) -> None:
    labels_N = np.array([0, 1] * 20)
    probabilities_NK = np.where(np.eye(2)[labels_N if right else 1 - labels_N] > 0, 0.9, 0.1)
    facts = facts_of(labels_N, probabilities_NK, names(2), quantities={"z": list(range(40))})
    assert facts.metrics["top1"].value == (1.0 if right else 0.0)
    assert facts.metrics["ece"].value == pytest.approx(0.1 if right else 0.9)
    assert len(facts.mistakes) == (0 if right else 24)
    assert most_telling(facts.where) is None
    for each in facts.classes:
        assert each.recall is not None
        assert each.roc_auc is not None
        assert each.roc_auc.value == (1.0 if right else 0.0)
        assert each.recall.high - each.recall.low > 0.1  # 20 images say no more
    json.dumps(facts.to_dict(), allow_nan=False)


def test_two_images_an_absent_class_and_one_class_only() -> None:
    for labels, k in (([0, 1], 2), ([0, 1], 3), ([0, 0], 2), ([1], 2)):
        labels_N = np.array(labels)
        probabilities_NK = np.full((len(labels), k), 0.1)
        probabilities_NK[:, 0] = 1 - 0.1 * (k - 1)
        facts = facts_of(labels_N, probabilities_NK, names(k), quantities={"z": [1.5] * len(labels)})
        assert len(facts.classes) == k
        absent = [each for each in facts.classes if each.scores.n == 0]
        assert all(each.roc is None and each.recall is None and each.average_precision is None for each in absent)
        json.dumps(facts.to_dict(), allow_nan=False)


def test_groups_widen_the_intervals() -> None:
    labels_N, probabilities_NK = (np.repeat(each, 5, axis=0) for each in answers(80, 3))
    alone = facts_of(labels_N, probabilities_NK, names(3))
    grouped = facts_of(labels_N, probabilities_NK, names(3), groups_N=np.repeat(np.arange(80), 5))
    assert grouped.groups == 80
    assert "80 groups" in grouped.resampled
    for name, found in alone.metrics.items():
        wide = grouped.metrics[name]
        assert wide.value == pytest.approx(found.value)
        assert wide.high - wide.low > 1.5 * (found.high - found.low)
    for one, other in zip(alone.classes, grouped.classes, strict=True):
        assert one.roc_auc is not None
        assert other.roc_auc is not None
        assert one.recall is not None
        assert other.recall is not None
        assert other.roc_auc.high - other.roc_auc.low > 1.5 * (one.roc_auc.high - one.roc_auc.low)
        assert other.recall.high - other.recall.low > 1.5 * (one.recall.high - one.recall.low)


# -- where it fails ----------------------------------------------------------------------------------------------------


def test_numbers_are_cut_into_bins_of_as_many_images() -> None:
    rng = np.random.default_rng(0)
    values_N, right_N = rng.permutation(1000).astype(float), rng.random(1000) < 0.7
    [found], _ = broken_down({"magnitude": values_N.tolist()}, right_N)
    assert [part.n for part in found.parts] == [200] * 5
    assert found.ordered
    assert found.parts[0].label == "0 to 199"
    for low, part in zip(range(0, 1000, 200), found.parts, strict=True):
        chosen_N = (values_N >= low) & (values_N < low + 200)
        assert part.accuracy == share_interval(int(right_N[chosen_N].sum()), 200)


def test_where_accuracy_falls_is_found() -> None:
    rng = np.random.default_rng(1)
    z_N = rng.random(2000)
    right_N = rng.random(2000) < 1 - 0.6 * z_N
    where, _ = broken_down({"noise": rng.random(2000).tolist(), "z": z_N.tolist()}, right_N)
    said = most_telling(where)
    assert said is not None
    assert said.startswith("Accuracy differs most with z: ")
    assert where[1].apart
    assert not where[0].apart


def test_values_that_are_equal_or_missing_keep_together() -> None:
    right_N = np.ones(100, bool)
    [found], _ = broken_down({"plates": [*[1] * 60, *[2] * 30, *[None] * 4, *[float("nan")] * 6]}, right_N)
    assert [(part.label, part.n) for part in found.parts] == [("1", 60), ("2", 30), ("no value", 10)]
    [found], _ = broken_down({"text": ["b", "a", " ", None, *["a"] * 96]}, right_N)
    assert [(part.label, part.n) for part in found.parts] == [("a", 97), ("b", 1), ("no value", 2)]
    [found], _ = broken_down({"flag": [True] * 30 + [False] * 70}, right_N)
    assert [(part.label, part.n) for part in found.parts] == [("False", 70), ("True", 30)]


def test_what_can_not_be_broken_down_is_named() -> None:
    right_N = np.ones(60, bool)
    where, left_out = broken_down(
        {
            "same": ["x"] * 60,
            "empty": [None] * 60,
            "name": [f"object {i}" for i in range(60)],
            "objid": list(range(60)),
            "numbers as text": [str(i / 3) for i in range(60)],
            **{f"extra {i}": list(range(60)) for i in range(MOST)},
        },
        right_N,
    )
    assert left_out == {
        "same": "the same for all images",
        "empty": "no image has a value",
        "name": "60 different texts; at most 12 are shown",
        "objid": "a number of its own for each image",
        f"extra {MOST - 1}": f"the first {MOST} are shown",
    }
    assert [each.name for each in where] == ["numbers as text", *(f"extra {i}" for i in range(MOST - 1))]
    assert all(sum(part.n for part in each.parts) == 60 for each in where)


def test_one_image_has_no_parts() -> None:
    where, left_out = broken_down({"z": [1.0]}, np.ones(1, bool))
    assert where == []
    assert left_out == {"z": "the same for all images"}


def test_infinite_values_are_no_value() -> None:
    [found], _ = broken_down({"flux": [*np.arange(99.0), np.inf]}, np.ones(100, bool))
    assert (found.parts[-1].label, found.parts[-1].n) == ("no value", 1)
