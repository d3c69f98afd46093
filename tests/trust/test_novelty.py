"""Novelty: distances, their limit, and which images are compared with."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from astroformer.trust.novelty import LEAST_IMAGES, LIMIT, MOST_IMAGES, Novelty, chosen


@pytest.fixture
def traces_NL() -> np.ndarray:
    """400 traces of 30 numbers that depend on each other and differ in scale."""
    rng = np.random.default_rng(0)
    return (rng.normal(size=(400, 12)) @ rng.normal(size=(12, 30)) + rng.normal(size=(400, 30))) * np.logspace(
        -2, 2, 30
    )


def fitted(traces_NL: np.ndarray) -> Novelty:
    novelty = Novelty.fit(traces_NL)
    assert novelty is not None
    return novelty


def test_distances_are_those_of_scikit_learn(traces_NL: np.ndarray) -> None:
    asked_ML = traces_NL[:50] + np.random.default_rng(1).normal(size=(50, 30)) * traces_NL.std(0)
    standard_NL = (traces_NL - traces_NL.mean(0)) / traces_NL.std(0)
    axes = PCA(30, svd_solver="full").fit(standard_NL)
    shrunk_R = np.sqrt(axes.explained_variance_ * 399 / 400 + 0.1)
    known_NR = axes.transform(standard_NL) / shrunk_R
    asked_MR = axes.transform((asked_ML - traces_NL.mean(0)) / traces_NL.std(0)) / shrunk_R
    neighbours = NearestNeighbors().fit(known_NR)
    limit = np.quantile(neighbours.kneighbors(known_NR, 6)[0][:, 5], 0.99)
    expected_M = neighbours.kneighbors(asked_MR, 5)[0][:, 4] / limit
    np.testing.assert_allclose(fitted(traces_NL).scores(asked_ML), expected_M, rtol=1e-5)


def test_one_in_a_hundred_training_images_is_beyond_the_limit(traces_NL: np.ndarray) -> None:
    novelty = fitted(traces_NL)
    without_itself_N = novelty._distances(traces_NL, 6) / novelty.limit
    assert (without_itself_N > 1).mean() == pytest.approx(1 - LIMIT, abs=1 / len(traces_NL))
    assert (novelty.scores(traces_NL) <= without_itself_N).all()


def test_held_out_images_that_lie_farther_off_set_the_limit(traces_NL: np.ndarray) -> None:
    among_themselves = fitted(traces_NL)
    held_out_ML = 3 * traces_NL[::2]
    novelty = Novelty.fit(traces_NL, held_out_ML)
    assert novelty is not None
    assert novelty.limit > among_themselves.limit
    assert (novelty.scores(held_out_ML) > 1).mean() == pytest.approx(0.01, abs=1 / 200)
    for few_or_near_ML in (3 * traces_NL[:99], 0.1 * traces_NL[::2]):
        again = Novelty.fit(traces_NL, few_or_near_ML)
        assert again is not None
        assert again.limit == among_themselves.limit


def test_images_of_the_same_kind_are_seldom_novel(traces_NL: np.ndarray) -> None:
    novelty = fitted(traces_NL[:300])
    assert (novelty.scores(traces_NL[300:]) > 1).mean() < 0.06  # 100 images: chance alone gives up to 4
    assert (novelty.scores(5 * traces_NL[300:]) > 1).mean() > 0.9


def test_units_and_order_of_the_numbers_change_nothing(traces_NL: np.ndarray) -> None:
    rng = np.random.default_rng(2)
    asked_ML, order_L, units_L = traces_NL[:40] * 1.7, rng.permutation(30), 10.0 ** rng.integers(-3, 4, 30)
    expected_M = fitted(traces_NL).scores(asked_ML)
    got_M = fitted((traces_NL * units_L)[:, order_L]).scores((asked_ML * units_L)[:, order_L])
    np.testing.assert_allclose(got_M, expected_M, rtol=1e-5)
    np.testing.assert_allclose(fitted(rng.permutation(traces_NL)).scores(asked_ML), expected_M, rtol=1e-5)


def test_each_image_is_scored_alone(traces_NL: np.ndarray) -> None:
    novelty = fitted(traces_NL)
    together_M = novelty.scores(1.5 * traces_NL)
    alone_M = [float(novelty.scores(1.5 * row_L[None])[0]) for row_L in traces_NL[::97]]
    np.testing.assert_allclose(together_M[::97], alone_M, rtol=1e-9)
    assert len(novelty.scores(traces_NL[:0])) == 0


def test_numbers_that_are_the_same_in_all_images_say_nothing(traces_NL: np.ndarray) -> None:
    with_constant_NL = np.hstack([traces_NL, np.full((400, 1), 7.0)])
    asked_ML = np.hstack([traces_NL[:9] * 2, np.full((9, 1), 50.0)])
    expected_M = fitted(traces_NL).scores(traces_NL[:9] * 2)
    np.testing.assert_allclose(fitted(with_constant_NL).scores(asked_ML), expected_M, rtol=1e-5)


def test_too_few_images_or_all_alike_tell_nothing(traces_NL: np.ndarray) -> None:
    assert Novelty.fit(traces_NL[: LEAST_IMAGES - 1]) is None
    assert Novelty.fit(traces_NL[:LEAST_IMAGES]) is not None
    assert Novelty.fit(np.ones((100, 8))) is None
    twice_NL = np.repeat(traces_NL[:10], 10, 0)  # each has nine copies, so no image is far from five others
    assert Novelty.fit(twice_NL) is None


def test_what_is_kept_is_what_was_fitted(traces_NL: np.ndarray) -> None:
    novelty = fitted(traces_NL)
    again = Novelty.from_tensors({"held_out.x": next(iter(novelty.tensors().values())), **novelty.tensors()})
    assert again is not None
    np.testing.assert_array_equal(again.scores(traces_NL * 2), novelty.scores(traces_NL * 2))
    assert Novelty.from_tensors({}) is None


@pytest.mark.parametrize(("counts", "shares"), [([5000, 30, 5000], [485, 30, 485]), ([3, 4], [3, 4]), ([0, 9], [0, 9])])
def test_rare_classes_keep_their_images(counts: list[int], shares: list[int]) -> None:
    labels_N = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    rows = chosen(labels_N)
    assert np.bincount(labels_N[rows], minlength=len(counts)).tolist() == shares
    assert (np.diff(rows) > 0).all()


def test_a_class_each_of_more_classes_than_images_are_compared_with() -> None:
    labels_N = np.arange(2 * MOST_IMAGES)
    assert len(chosen(labels_N)) == 2 * MOST_IMAGES  # no class is forgotten
