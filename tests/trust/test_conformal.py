"""Conformal sets: the quantiles of MAPIE, and what is promised of coverage."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from astroformer.errors import UserError
from astroformer.randomness import Stream, uniforms
from astroformer.trust.conformal import KINDS, ConformalSets, SetScores, least_images, quantile


def sample(n: int, k: int = 5, seed: int = 0, skill: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Labels of unequal classes and probabilities that lean towards them, too surely."""
    rng = np.random.default_rng(seed)
    labels_N = rng.choice(k, n, p=np.arange(2, k + 2) / np.arange(2, k + 2).sum())
    logits_NK = rng.normal(size=(n, k))
    logits_NK[np.arange(n), labels_N] += skill
    p_NK = np.exp(1.5 * logits_NK)
    return labels_N, p_NK / p_NK.sum(1, keepdims=True)


# Against an independent implementation -------------------------------------------------------------------------------


class GivenProbabilities:
    """A classifier of scikit-learn's kind whose features are its probabilities."""

    def __init__(self, k: int) -> None:
        self.classes_, self.fitted_, self.n_features_in_ = np.arange(k), True, k

    def fit(self, x: Any, y: Any) -> GivenProbabilities:
        return self

    def predict_proba(self, x_NK: np.ndarray) -> np.ndarray:
        return x_NK

    def predict(self, x_NK: np.ndarray) -> np.ndarray:
        return x_NK.argmax(1)

    def __sklearn_is_fitted__(self) -> bool:
        return True


class Drawn(np.random.RandomState):
    """A generator whose uniform numbers are given."""

    def __init__(self, numbers_N: np.ndarray) -> None:
        super().__init__(0)
        self.numbers_N = numbers_N

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
        return self.numbers_N.reshape(size)


@pytest.mark.parametrize("coverage", [0.6, 0.9, 0.95])
@pytest.mark.parametrize("n", [30, 401])
def test_lac_is_that_of_mapie(n: int, coverage: float) -> None:
    classification = pytest.importorskip("mapie.classification")
    labels_N, p_NK = sample(n)
    _, new_NK = sample(200, seed=1)
    theirs = classification.SplitConformalClassifier(GivenProbabilities(5), coverage, conformity_score="lac")
    theirs.conformalize(p_NK, labels_N)
    ours = ConformalSets.fit(labels_N, p_NK, coverage)
    _, sets = theirs.predict_set(new_NK)
    quantiles = theirs._mapie_classifier.conformity_score_function_.quantiles_
    np.testing.assert_allclose(ours.thresholds, np.full(5, quantiles[0]), rtol=0, atol=1e-9)
    np.testing.assert_array_equal(ours.sets_NK(new_NK), sets[:, :, 0])


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
@pytest.mark.parametrize("randomized", [False, True])
def test_aps_is_that_of_mapie(randomized: bool, coverage: float) -> None:
    classification = pytest.importorskip("mapie.classification")
    scores = pytest.importorskip("mapie.conformity_scores")
    labels_N, p_NK = sample(300)
    _, new_NK = sample(300, seed=1)
    # MAPIE subtracts u · p from the sum with p, and we add it to the sum without: our u is 1 − theirs.
    u_N = np.random.default_rng(5).uniform(size=300) if randomized else np.zeros(300)
    theirs = classification.SplitConformalClassifier(
        GivenProbabilities(5), coverage, conformity_score=scores.APSConformityScore(), random_state=Drawn(1 - u_N)
    )
    theirs.conformalize(p_NK, labels_N)
    ours = ConformalSets.fit(labels_N, p_NK, coverage, "aps", uniforms_N=u_N if randomized else None)
    how = {"include_last_label": "randomized" if randomized else True}
    _, sets = theirs.predict_set(new_NK, conformity_score_params=how)
    quantiles = theirs._mapie_classifier.conformity_score_function_.quantiles_
    np.testing.assert_allclose(ours.thresholds, np.full(5, quantiles[0]), rtol=0, atol=1e-9)
    if not randomized:
        np.testing.assert_array_equal(ours.sets_NK(new_NK), sets[:, :, 0])
        return
    # Its randomized sets keep the last class where u ≥ (sum with p − threshold) / p, with the same u: ours is 1 − u.
    np.testing.assert_array_equal(ours.sets_NK(new_NK, u_N), sets[:, :, 0])


def test_the_scores_of_raps_are_those_of_mapie() -> None:
    scores = pytest.importorskip("mapie.conformity_scores.sets.raps")
    utils = pytest.importorskip("mapie.utils")
    labels_N, p_NK = sample(400)
    ours = ConformalSets.fit(labels_N, p_NK, 0.9, "raps")
    assert ours.n == 320
    summed_N, rank_N = scores.RAPSConformityScore.get_true_label_cumsum_proba(labels_N, p_NK, np.arange(5))
    summed_N = summed_N - p_NK[np.arange(400), labels_N][:, None]  # u = 1
    regularized = scores.RAPSConformityScore._regularize_conformity_score
    theirs_N = regularized(np.array([ours.k_reg]), ours.penalty, summed_N, rank_N)[:, 0, 0]
    new_N = np.where(ours.sets_NK(p_NK)[np.arange(400), labels_N], -1.0, 1.0)
    np.testing.assert_array_equal(new_N > 0, theirs_N > ours.thresholds[0] + 1e-12)
    calibration_N = np.isin(np.arange(400), np.flatnonzero(~_chosen(labels_N)))
    expected = utils._compute_classification_quantile(theirs_N[calibration_N][:, None], np.array([0.1]))
    assert ours.thresholds[0] == pytest.approx(expected[0], abs=1e-9)


def _chosen(labels_N: np.ndarray) -> np.ndarray:
    """The fifth of the images that choose λ and k_reg."""
    chosen_N = np.zeros(len(labels_N), bool)
    chosen_N[np.random.default_rng(0).permutation(len(labels_N))[: len(labels_N) // 5]] = True
    return chosen_N


# Coverage ------------------------------------------------------------------------------------------------------------


def split(n: int, k: int, seed: int) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    labels_N, p_NK = sample(2 * n, k, seed)
    return (labels_N[:n], p_NK[:n]), (labels_N[n:], p_NK[n:])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_over_200_splits_the_coverage_is_the_wish(kind: str, coverage: float) -> None:
    found = []
    for seed in range(200):
        (labels_N, p_NK), (new_N, new_NK) = split(400, 4, seed)
        sets = ConformalSets.fit(labels_N, p_NK, coverage, kind)
        found.append(SetScores.of(new_N, sets.sets_NK(new_NK)))
    assert np.mean([scores.coverage.value for scores in found]) == pytest.approx(coverage, abs=0.01)
    if kind != "lac":
        assert not any(scores.empty for scores in found)


@pytest.mark.parametrize("kind", KINDS)
def test_over_200_splits_the_coverage_of_each_class_is_the_wish(kind: str) -> None:
    by_class, marginal = np.zeros((200, 4)), np.zeros((200, 4))
    for seed in range(200):
        (labels_N, p_NK), (new_N, new_NK) = split(800, 4, seed)
        for found, words in ((by_class, {"by_class": True}), (marginal, {})):
            sets = ConformalSets.fit(labels_N, p_NK, 0.9, kind, **words)
            scores = SetScores.of(new_N, sets.sets_NK(new_NK))
            found[seed] = [share.value for share in scores.by_class if share is not None]
    np.testing.assert_allclose(by_class.mean(0), 0.9, atol=0.01)
    assert marginal.mean(0).max() < 0.92  # these classes are equally hard, so without it they are near the wish too


def test_without_by_class_a_hard_class_is_covered_less() -> None:
    rng = np.random.default_rng(0)
    labels_N = rng.integers(0, 3, 6000)
    logits_NK = rng.normal(size=(6000, 3))
    logits_NK[np.arange(6000), labels_N] += np.array([4.0, 4.0, 0.5])[labels_N]
    p_NK = np.exp(logits_NK) / np.exp(logits_NK).sum(1, keepdims=True)
    old, new = slice(0, 3000), slice(3000, None)
    hard = {}
    for by_class in (False, True):
        sets = ConformalSets.fit(labels_N[old], p_NK[old], 0.9, by_class=by_class)
        share = SetScores.of(labels_N[new], sets.sets_NK(p_NK[new])).by_class[2]
        assert share is not None
        hard[by_class] = share.value
    assert hard[False] < 0.8
    assert hard[True] == pytest.approx(0.9, abs=0.03)


@pytest.mark.parametrize("kind", ["aps", "raps"])
def test_randomized_sets_hold_the_wish_where_the_model_is_right_more_often(kind: str) -> None:
    plain, randomized, right = [], [], []
    for seed in range(200):
        labels_N, p_NK = sample(800, 3, seed, skill=3.5)
        u_N = uniforms(seed, 0, torch.arange(800), Stream.SETS, 1)[:, 0].numpy()
        new_N, new_NK = labels_N[400:], p_NK[400:]
        sets = ConformalSets.fit(labels_N[:400], p_NK[:400], 0.9, kind)
        plain.append(SetScores.of(new_N, sets.sets_NK(new_NK)).coverage.value)
        sets = ConformalSets.fit(labels_N[:400], p_NK[:400], 0.9, kind, uniforms_N=u_N[:400])
        randomized.append(SetScores.of(new_N, sets.sets_NK(new_NK, u_N[400:])).coverage.value)
        right.append((new_NK.argmax(1) == new_N).mean())
    assert np.mean(right) > 0.95
    assert np.mean(plain) == pytest.approx(np.mean(right), abs=1e-12)  # each set is the most probable class
    assert np.mean(randomized) == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize("kind", ["lac", "aps"])
@pytest.mark.parametrize("by_class", [False, True])
def test_a_higher_wish_never_takes_a_class_away(kind: str, by_class: bool) -> None:
    (labels_N, p_NK), (_, new_NK) = split(500, 4, 3)
    before_NK = np.zeros(new_NK.shape, bool)
    for coverage in (0.75, 0.8, 0.9, 0.95):
        sets_NK = ConformalSets.fit(labels_N, p_NK, coverage, kind, by_class).sets_NK(new_NK)
        assert not (before_NK & ~sets_NK).any()
        assert sets_NK.sum() > before_NK.sum()
        before_NK = sets_NK


def test_coverage_of_raps_grows_with_the_wish() -> None:
    (labels_N, p_NK), (new_N, new_NK) = split(3000, 4, 3)
    found = [
        SetScores.of(new_N, ConformalSets.fit(labels_N, p_NK, wish, "raps").sets_NK(new_NK)).coverage.value
        for wish in (0.8, 0.85, 0.9, 0.95, 0.99)
    ]
    assert found == sorted(found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by_class", [False, True])
def test_permuting_classes_permutes_the_sets(kind: str, by_class: bool) -> None:
    labels_N, p_NK = sample(400)
    p_NK = p_NK.round(1) + 1e-3  # many classes of equal probability
    p_NK /= p_NK.sum(1, keepdims=True)
    order = np.array([3, 0, 4, 1, 2])
    sets = ConformalSets.fit(labels_N, p_NK, 0.8, kind, by_class)
    turned = ConformalSets.fit(np.argsort(order)[labels_N], p_NK[:, order], 0.8, kind, by_class)
    np.testing.assert_allclose(turned.thresholds, np.array(sets.thresholds)[order], atol=1e-12)
    np.testing.assert_array_equal(turned.sets_NK(p_NK[:, order]), sets.sets_NK(p_NK)[:, order])


def test_raps_leaves_out_the_tail_of_improbable_classes() -> None:
    rng = np.random.default_rng(1)
    labels_N = rng.integers(0, 50, 4000)
    logits_NK = rng.normal(size=(4000, 50))
    logits_NK[np.arange(4000), labels_N] += 2.5
    p_NK = np.exp(2.5 * logits_NK)  # what Bayes' rule says of these logits
    p_NK /= p_NK.sum(1, keepdims=True)
    sizes = {}
    for kind in KINDS:
        sets = ConformalSets.fit(labels_N[:2000], p_NK[:2000], 0.9, kind)
        scores = SetScores.of(labels_N[2000:], sets.sets_NK(p_NK[2000:]))
        assert scores.coverage.value == pytest.approx(0.9, abs=0.03)
        sizes[kind] = scores.size
    assert sizes["lac"] < sizes["aps"]
    assert sizes["raps"] < sizes["aps"]


# By hand -------------------------------------------------------------------------------------------------------------


def test_scores_by_hand() -> None:
    # 9 images with the true class second of three: above = 0.5, and 0.9 of 10 images is the ninth.
    labels_N, p_NK = np.ones(9, int), np.tile([0.5, 0.3, 0.2], (9, 1))
    assert ConformalSets.fit(labels_N, p_NK, 0.9).thresholds[0] == pytest.approx(0.7)
    aps = ConformalSets.fit(labels_N, p_NK, 0.9, "aps")
    assert aps.thresholds[0] == pytest.approx(0.5)
    new_NK = np.array([[0.45, 0.35, 0.2], [0.6, 0.3, 0.1], [1 / 3, 1 / 3, 1 / 3]])
    assert aps.sets_NK(new_NK).tolist() == [[True, True, False], [True, False, False], [True, True, True]]


def test_quantiles_count_images_as_they_are_written() -> None:
    assert (99 + 1) * 0.55 > 55  # in floats
    assert quantile(np.arange(1, 100), 0.55) == 55
    for coverage in (0.5, 0.55, 0.9, 0.95, 0.99, 0.999, 1 / 3):
        n = least_images(coverage)
        assert quantile(np.arange(n), coverage) == n - 1  # the largest
        with pytest.raises(IndexError):
            quantile(np.arange(n - 1), coverage)


# Input ---------------------------------------------------------------------------------------------------------------


def test_all_right_and_sure() -> None:
    labels_N = np.arange(60) % 3
    for kind in KINDS:
        sets = ConformalSets.fit(labels_N, np.eye(3)[labels_N], 0.9, kind, True)
        assert sets.sets_NK(np.eye(3)).tolist() == np.eye(3, dtype=bool).tolist()


def test_all_wrong_and_sure_leaves_all_classes() -> None:
    labels_N = np.arange(60) % 3
    p_NK = np.eye(3)[(labels_N + 1) % 3]
    for kind in KINDS:
        assert ConformalSets.fit(labels_N, p_NK, 0.9, kind).sets_NK(p_NK).all()


def test_a_class_that_is_absent_can_be_in_sets_and_has_none_of_its_own() -> None:
    labels_N, p_NK = sample(100, 3)
    present_N = labels_N < 2
    labels_N, p_NK = labels_N[present_N], p_NK[present_N]
    assert ConformalSets.fit(labels_N, p_NK, 0.9).sets_NK(np.array([[0.0, 0.1, 0.9]])).tolist() == [
        [False, False, True]
    ]
    with pytest.raises(UserError, match=r"fewer of 'c' \(0\); wish for less"):
        ConformalSets.fit(labels_N, p_NK, 0.9, by_class=True, classes=("a", "b", "c"))


def test_two_images_hold_a_wish_of_two_thirds() -> None:
    labels_N, p_NK = np.array([0, 1]), np.array([[0.7, 0.3], [0.4, 0.6]])
    assert ConformalSets.fit(labels_N, p_NK, 0.66).thresholds == pytest.approx((0.4, 0.4))
    with pytest.raises(UserError, match=r"at least 3 calibration images, and 2 are there; wish for at most 0\.666"):
        ConformalSets.fit(labels_N, p_NK, 0.7)


@pytest.mark.parametrize(("kind", "least"), [("lac", 19), ("aps", 19), ("raps", 23)])
def test_the_least_number_of_images_is_enough_and_one_less_is_not(kind: str, least: int) -> None:
    labels_N, p_NK = sample(least, 3)
    assert least_images(0.95, kind) == least
    ConformalSets.fit(labels_N, p_NK, 0.95, kind)
    with pytest.raises(
        UserError, match=f"need at least {least} calibration images, and {least - 1} are there"
    ) as error:
        ConformalSets.fit(labels_N[1:], p_NK[1:], 0.95, kind)
    ConformalSets.fit(labels_N[1:], p_NK[1:], float(str(error.value).split("at most ")[1].split(",")[0]), kind)


def test_classes_with_too_few_images_are_named() -> None:
    labels_N = np.repeat([0, 1, 2], [50, 8, 3])
    p_NK = np.full((61, 3), 1 / 3)
    with pytest.raises(UserError, match=r"at least 9 calibration images of each .* of 'bar' \(8\), 'ring' \(3\)"):
        ConformalSets.fit(labels_N, p_NK, 0.9, by_class=True, classes=("disc", "bar", "ring"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"coverage": 0.0}, "coverage is 0.0; it must lie between 0 and 1"),
        ({"coverage": 1.0}, "coverage is 1.0"),
        ({"coverage": 90}, "coverage is 90"),
        ({"coverage": float("nan")}, "coverage is nan"),
        ({"kind": "ars"}, "Did you mean 'aps'"),
        ({"uniforms_N": np.zeros(20)}, "lac has no randomized sets"),
        ({"kind": "aps", "uniforms_N": np.ones(20)}, "20 numbers from 0 to below 1"),
        ({"kind": "aps", "uniforms_N": np.zeros(3)}, "20 numbers from 0 to below 1"),
    ],
)
def test_refusals(words: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        ConformalSets.fit(*sample(20, 3), **words)


@pytest.mark.parametrize(
    ("p_NK", "says"),
    [
        (np.full((2, 3), 1 / 3), "of 3 classes, and these sets of 5"),
        (np.full((2, 5), 0.3), "sum to 1"),
        (np.array([[2.0, -1.0, 0.0, 0.0, 0.0]]), "at least 0"),
        (np.full((2, 5), np.nan), "not all finite"),
        (np.ones(5), r"shape \(5,\)"),
        (np.ones((5, 1)), "at least 2 classes"),
    ],
)
def test_sets_refuse_what_is_no_probabilities(p_NK: np.ndarray, says: str) -> None:
    sets = ConformalSets.fit(*sample(20))
    with pytest.raises(UserError, match=says):
        sets.sets_NK(p_NK)
    assert sets.sets_NK(np.empty((0, 5))).shape == (0, 5)


def test_randomized_sets_need_their_numbers() -> None:
    labels_N, p_NK = sample(20)
    sets = ConformalSets.fit(labels_N, p_NK, kind="aps", uniforms_N=np.zeros(20))
    with pytest.raises(UserError, match="randomized, and sets_NK needs uniforms_N"):
        sets.sets_NK(p_NK)
    with pytest.raises(UserError, match="not randomized, and sets_NK takes no uniforms_N"):
        ConformalSets.fit(labels_N, p_NK, kind="aps").sets_NK(p_NK, np.zeros(20))


def test_scores_of_sets() -> None:
    sets_NK = np.array([[True, False, False], [True, True, False], [False, False, False], [False, True, True]])
    found = SetScores.of(np.array([0, 1, 1, 0]), sets_NK)
    assert (found.n, found.coverage.value, found.size, found.single, found.empty) == (4, 0.5, 1.25, 1, 1)
    assert [share and share.value for share in found.by_class] == [0.5, 0.5, None]
    with pytest.raises(UserError, match="0 images"):
        SetScores.of(np.empty(0, int), np.empty((0, 3), bool))
