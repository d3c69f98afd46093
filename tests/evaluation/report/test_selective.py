"""Risk and coverage, cuts and sets of a report are those of plain loops, of scikit-learn, or of a closed form."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from scipy.stats import betabinom
from sklearn.metrics import log_loss, precision_score, recall_score

from astroformer.curves import Reliability
from astroformer.evaluation.report.calibrated import OwnProbabilities, against_votes, votes_bins
from astroformer.evaluation.report.selective import COVERAGES, PURITIES, CalibrationImages, Selective
from astroformer.evaluation.report.words import beta_binomial, promise
from astroformer.intervals import share_interval
from astroformer.metrics import expected_calibration_error
from astroformer.trust.conformal import ConformalSets, SetScores
from astroformer.trust.thresholds import CutCurve
from helpers.answers import bayes_answers

ALONE: Any = {"calibration_images": None, "fold_N": None, "groups_N": None, "resamples": 50}


def kept_images(n: int, k: int = 3, seed: int = 1) -> CalibrationImages:
    labels_R, p_RK = bayes_answers(n, k, seed)
    return CalibrationImages(labels_R, p_RK, np.arange(n) % 5)


# -- risk and coverage -------------------------------------------------------------------------------------------------


def test_the_curve_and_its_area_are_those_of_a_loop() -> None:
    labels_N, p_NK = bayes_answers(400)
    risk = Selective.measured(labels_N, p_NK, **ALONE).risk
    order = np.argsort(-p_NK.max(1))
    wrong_N = (p_NK.argmax(1) != labels_N)[order]
    risks = np.cumsum(wrong_N) / np.arange(1, 401)
    np.testing.assert_allclose(risk.line.x_T, np.arange(1, 401) / 400)
    np.testing.assert_allclose(risk.line.band.value_T, risks)
    assert risk.area.value == pytest.approx(risks.mean())
    best = np.sort(wrong_N)
    assert risk.best == pytest.approx((np.cumsum(best) / np.arange(1, 401)).mean())
    assert risk.excess.value == pytest.approx(risk.area.value - risk.best)
    assert risk.errors == wrong_N.mean()
    for t in (0, 17, 399):
        share = share_interval(int(wrong_N[: t + 1].sum()), t + 1)
        found = risk.line.interval(t)
        assert (found.value, found.low, found.high) == pytest.approx((share.value, share.low, share.high))
    assert risk.at(0.25) == (0.25, risk.line.interval(99))
    assert risk.area.low < risk.area.value < risk.area.high


def test_the_area_of_few_images_by_hand() -> None:
    labels_N = np.array([0, 0, 0, 1])
    p_N2 = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    assert Selective.measured(labels_N, p_N2, **ALONE).risk.area.value == pytest.approx(1 / 16)


# -- groups ------------------------------------------------------------------------------------------------------------


def test_images_of_a_group_count_as_copies() -> None:
    labels_N, p_NK = bayes_answers(200)
    groups_N = np.repeat(np.arange(200), 3)
    copied = CutCurve.of_class(np.repeat(labels_N, 3), np.repeat(p_NK, 3, axis=0), 1, groups_N)
    plain = CutCurve.of_class(labels_N, p_NK, 1)
    for ours, theirs in zip(
        (copied.purity(), copied.completeness(), copied.share()),
        (plain.purity(), plain.completeness(), plain.share()),
        strict=True,
    ):
        for end, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(end, other, atol=1e-12)


def test_groups_of_any_sizes_against_a_loop() -> None:
    labels_N, p_NK = bayes_answers(150)
    groups_N = np.random.default_rng(0).integers(0, 40, 150)
    curve = CutCurve.of_class(labels_N, p_NK, 2, groups_N)
    for cut in curve.cuts_T.tolist():
        kept_N = (p_NK.argmax(1) == 2) & (p_NK[:, 2] >= cut)
        found = curve.at(cut)
        assert found is not None
        for share, chosen_N, hit_N in (
            (found.purity, kept_N, labels_N == 2),
            (found.completeness, labels_N == 2, kept_N),
        ):
            expected = share_interval(int((chosen_N & hit_N).sum()), int(chosen_N.sum()), groups_N[chosen_N])
            assert share is not None
            assert (share.value, share.low, share.high) == pytest.approx(
                (expected.value, expected.low, expected.high), abs=1e-12
            )


# -- cuts --------------------------------------------------------------------------------------------------------------


def test_what_a_wish_keeps_is_what_scikit_learn_counts() -> None:
    labels_N, p_NK = bayes_answers(500)
    calibration = kept_images(600)
    found = Selective.measured(labels_N, p_NK, **{**ALONE, "calibration_images": calibration})
    called_N = p_NK.argmax(1)
    for i, wish in enumerate(PURITIES):
        every_N = np.zeros(500, bool)
        for k, cuts in enumerate(found.by_class):
            kept = cuts.kept[i]
            own = CutCurve.of_class(calibration.labels_R, calibration.probabilities_RK, k).cut_for_purity(wish)
            assert kept.wish == wish
            assert kept.cut == (None if own is None else own.cut)
            kept_N = (called_N == k) & (p_NK[:, k] >= (2 if own is None else own.cut))
            every_N |= kept_N
            assert kept.n == kept_N.sum()
            assert kept.completeness is not None
            assert kept.completeness.value == pytest.approx(recall_score(labels_N == k, kept_N))
            if kept.n:
                assert kept.purity is not None
                assert kept.purity.value == pytest.approx(precision_score(labels_N == k, kept_N))
                assert kept.share is not None
                assert kept.share.value == pytest.approx(kept_N.sum() / (called_N == k).sum())
        every = found.kept[i]
        assert every.n == every_N.sum()
        if every.n:
            assert every.purity is not None
            assert every.purity.value == pytest.approx((called_N == labels_N)[every_N].mean())
    assert found.kept[1].n > 0
    shares = [kept.n for kept in found.kept]
    assert shares == sorted(shares, reverse=True)  # a higher purity keeps no more


def test_calibration_images_are_measured_by_the_others() -> None:
    calibration = kept_images(300)
    labels_N, p_NK, fold_N, _ = calibration
    words = {**ALONE, "calibration_images": calibration, "fold_N": fold_N}
    found = Selective.measured(labels_N, p_NK, **words)
    assert (found.calibration_images, found.among_them) == (300, 300)
    kept_N, sets_NK = np.zeros(300, bool), np.zeros((300, 3), bool)
    for i in range(300):
        others = fold_N != fold_N[i]
        k = int(p_NK[i].argmax())
        cut = CutCurve.of_class(labels_N[others], p_NK[others], k).cut_for_purity(0.9)
        kept_N[i] = cut is not None and p_NK[i, k] >= cut.cut
        sets_NK[i] = ConformalSets.fit(labels_N[others], p_NK[others], 0.9).sets_NK(p_NK[i : i + 1])[0]
    assert found.kept[0].n == kept_N.sum()
    assert found.sets[1].scores == SetScores.of(labels_N, sets_NK)


# -- sets --------------------------------------------------------------------------------------------------------------


def test_sets_are_those_of_the_quantile() -> None:
    labels_N, p_NK = bayes_answers(400)
    calibration = kept_images(200)
    found = Selective.measured(labels_N, p_NK, **{**ALONE, "calibration_images": calibration})
    scores = np.sort(1 - calibration.probabilities_RK[np.arange(200), calibration.labels_R])
    for wish, each in zip(COVERAGES, found.sets, strict=True):
        held_NK = 1 - p_NK <= scores[int(np.ceil(201 * round(wish, 2) - 1e-9)) - 1]
        assert each.scores is not None
        assert each.scores.coverage.value == pytest.approx(held_NK[np.arange(400), labels_N].mean())
        assert each.scores.size == pytest.approx(held_NK.sum(1).mean())
        assert each.scores.empty == (held_NK.sum(1) == 0).sum()
    coverages = [each.scores.coverage.value for each in found.sets if each.scores is not None]
    assert coverages == sorted(coverages)


def test_a_promise_is_called_broken_no_more_often_than_chance_breaks_it() -> None:
    broken = 0
    for seed in range(200):
        labels_N, p_NK = bayes_answers(250, seed=2 * seed + 10)
        found = Selective.measured(
            labels_N,
            p_NK,
            **{**ALONE, "resamples": 1, "calibration_images": kept_images(150, seed=2 * seed + 11)},
        )
        broken += bool(promise(found.sets[1], 150))
    assert broken <= 20  # of 200; 5 % are expected
    labels_N, p_NK = bayes_answers(250, skill=0.5)
    found = Selective.measured(labels_N, p_NK, **{**ALONE, "calibration_images": kept_images(150)})
    assert promise(found.sets[1], 150) == "less often"


def test_chance_is_that_of_scipy() -> None:
    for m, a, b in ((1, 3, 2), (40, 18, 2), (863, 361, 40)):
        np.testing.assert_allclose(beta_binomial(m, a, b), betabinom.pmf(np.arange(m + 1), m, a, b), atol=1e-10)
    # One of three says nothing of a wish of 80 %, none of three does.
    labels_N, p_NK = np.zeros(3, int), np.array([[0.9, 0.05, 0.05], [0.01, 0.98, 0.01], [0.01, 0.98, 0.01]])
    found = Selective.measured(labels_N, p_NK, **{**ALONE, "calibration_images": kept_images(150)})
    assert promise(found.sets[0], 150) == ""
    found = Selective.measured(labels_N, p_NK[[1, 1, 2]], **{**ALONE, "calibration_images": kept_images(150)})
    assert promise(found.sets[0], 150) == "less often"


def test_of_too_few_calibration_images_there_are_no_sets() -> None:
    labels_N, p_NK = bayes_answers(50)
    found = Selective.measured(labels_N, p_NK, **{**ALONE, "calibration_images": kept_images(10)})
    assert found.sets[0].scores is not None
    assert found.sets[2].scores is None
    assert "need at least 19 calibration images" in str(found.sets[2].why)


# -- all of it ---------------------------------------------------------------------------------------------------------


def test_permuting_the_classes_permutes_it() -> None:
    labels_N, p_NK = bayes_answers(200, 4)
    calibration = kept_images(300, 4)
    order = np.array([2, 0, 3, 1])  # where each class goes

    def moved(p: np.ndarray) -> np.ndarray:
        turned = np.empty_like(p)
        turned[:, order] = p
        return turned

    one = Selective.measured(labels_N, p_NK, **{**ALONE, "calibration_images": calibration})
    turned = CalibrationImages(order[calibration.labels_R], moved(calibration.probabilities_RK), calibration.fold_R)
    words = {**ALONE, "calibration_images": turned}
    other = Selective.measured(order[labels_N], moved(p_NK), **words)
    assert other.risk.to_dict() == one.risk.to_dict()
    assert [each.to_dict() for each in other.kept] == [each.to_dict() for each in one.kept]
    for k in range(4):
        assert other.by_class[order[k]].to_dict() == one.by_class[k].to_dict()
    for before, after in zip(one.sets, other.sets, strict=True):
        assert before.scores is not None
        assert after.scores is not None
        assert after.scores.coverage == before.scores.coverage
        assert [after.scores.by_class[order[k]] for k in range(4)] == list(before.scores.by_class)


def test_whatever_is_degenerate() -> None:
    for labels, k in (([0, 1], 2), ([0, 1], 3), ([0, 0], 2), ([1], 2), ([0] * 30, 2), ([1] * 30, 2)):
        labels_N = np.array(labels)
        p_NK = np.full((len(labels), k), 0.1)
        p_NK[:, 0] = 1 - 0.1 * (k - 1)
        for calibration in (None, kept_images(40, k), kept_images(1, k)):
            found = Selective.measured(labels_N, p_NK, **{**ALONE, "calibration_images": calibration})
            json.dumps(found.to_dict([str(c) for c in range(k)]), allow_nan=False)


# -- before calibration ------------------------------------------------------------------------------------------------


def test_scores_before_calibration_and_what_changed() -> None:
    labels_N, p_NK = bayes_answers(300)
    own_NK = 0.6 * p_NK + 0.4 / 3
    votes_NK = 0.8 * np.eye(3)[labels_N] + 0.2 / 3
    words: Any = {"groups_N": None, "resamples": 200}
    found = OwnProbabilities.measured(labels_N, own_NK, p_NK, votes_NK=votes_NK, **words)
    expected = {
        "nll": lambda p: log_loss(labels_N, p),
        "brier": lambda p: ((p - np.eye(3)[labels_N]) ** 2).sum(1).mean(),
        "ece": lambda p: expected_calibration_error(labels_N, p),
        "votes_cross_entropy": lambda p: -(votes_NK * np.log(p)).sum(1).mean(),
        "votes_brier": lambda p: ((p - votes_NK) ** 2).sum(1).mean(),
    }
    assert found.metrics.keys() == {*expected, "adaptive_ece", "votes_ece"}
    for name, value in expected.items():
        assert found.metrics[name].value == pytest.approx(value(own_NK))
        change = found.changes[name]
        assert change.value == pytest.approx(value(p_NK) - value(own_NK))
        assert change.low <= change.value <= change.high
    same = OwnProbabilities.measured(labels_N, p_NK, p_NK, votes_NK=None, **words)
    assert all((each.low, each.value, each.high) == (0, 0, 0) for each in same.changes.values())
    json.dumps(found.to_dict(), allow_nan=False)


def test_against_votes_a_bin_has_the_mean_share_of_the_votes() -> None:
    labels_N, p_NK = bayes_answers(200)
    votes_NK = np.random.default_rng(0).dirichlet(np.ones(3), 200)
    reliability = against_votes(Reliability.equal_width(labels_N, p_NK, 5), votes_NK, p_NK)
    called_N = votes_NK[np.arange(200), p_NK.argmax(1)]
    error = 0.0
    for m, each in enumerate(votes_bins(reliability, None, 50)):
        inside_N = (p_NK.max(1) > m / 5) & (p_NK.max(1) <= (m + 1) / 5)
        assert each.images.n == inside_N.sum()
        if not each.images.n:
            assert each.accuracy is None
            continue
        assert each.accuracy is not None
        assert each.accuracy.value == pytest.approx(called_N[inside_N].mean())
        error += inside_N.sum() / 200 * abs(called_N[inside_N].mean() - p_NK.max(1)[inside_N].mean())
    assert reliability.error() == pytest.approx(error)
