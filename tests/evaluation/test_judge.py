"""What is told of predictions beside their probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from astroformer.errors import UserError
from astroformer.evaluation.judge import Judge, stated_shares
from astroformer.evaluation.tables import PredictionWriter
from astroformer.predictions import Predictions
from astroformer.trust.conformal import ConformalSets
from astroformer.trust.priors import ClassCounts, corrected
from astroformer.trust.thresholds import CutCurve

CLASSES = ("disc", "bar", "ring")


def answers(n: int, shares: tuple[float, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Classes, and what Bayes' rule says where each has a third."""
    rng = np.random.default_rng(seed)
    labels_N = rng.choice(3, n, p=shares)
    logits_NK = rng.normal(size=(n, 3))
    logits_NK[np.arange(n), labels_N] += 2
    p_NK = np.exp(2 * logits_NK)
    return labels_N, p_NK / p_NK.sum(1, keepdims=True)


CALIBRATION = answers(400, (1 / 3, 1 / 3, 1 / 3), 0)


def predictions(n: int = 300, shares: tuple[float, ...] = (1 / 3, 1 / 3, 1 / 3)) -> Predictions:
    """Those of images of which the second can't be read."""
    p_NK = answers(n, shares, 1)[1]
    p_NK[1] = np.nan
    return Predictions([f"{i}.png" for i in range(n)], CLASSES, p_NK, ["", "no image", *[""] * (n - 2)])


def judge(**words: Any) -> Judge:
    return Judge(CLASSES, *CALIBRATION, **words)


@pytest.mark.parametrize("sets", ["lac", "aps", "raps"])
@pytest.mark.parametrize("by_class", [False, True])
def test_sets_are_named(sets: str, by_class: bool) -> None:
    told = judge(coverage=0.9, sets=sets, by_class=by_class)
    whole = predictions()
    found = told.judged(whole)
    assert list(found.added) == told.added == ["prediction_set"]
    column = found.added["prediction_set"]
    expected = ConformalSets.fit(*CALIBRATION, 0.9, sets, by_class).sets_NK(whole.probabilities_NK[2:])
    assert column[1] is None
    for text, row in zip(column[2:], expected.tolist(), strict=True):
        assert text == "|".join(name for name, held in zip(CLASSES, row, strict=True) if held)
    np.testing.assert_array_equal(found.probabilities_NK, whole.probabilities_NK)
    said = told.text()
    assert f"one for {sum(bool(text) and '|' not in text for text in column if text is not None)} of 299" in (
        " ".join(said.split())
    )
    assert ("each class" in said) == by_class
    assert max(map(len, said.splitlines())) <= 80


def test_what_is_less_sure_than_the_cut_of_its_class_is_abstained_on() -> None:
    told, whole = judge(purity=0.95), predictions()
    column = told.judged(whole).added["abstain"]
    assert column[1] is None
    cuts = [CutCurve.of_class(*CALIBRATION, k).cut_for_purity(0.95) for k in range(3)]
    for i, row in enumerate(whole.probabilities_NK):
        cut = cuts[int(np.nan_to_num(row).argmax())]
        assert i == 1 or column[i] == (cut is None or row.max() < cut.cut)
    assert {True, False} <= set(column)
    said = told.text().splitlines()
    assert said[0] == "cuts for a purity of 95 %, by 400 calibration images"
    assert max(map(len, said)) <= 80


def test_a_class_that_no_cut_makes_pure_is_abstained_on_and_named() -> None:
    told = judge(purity=0.999)
    found = told.judged(predictions())
    assert [value for value in found.added["abstain"] if value is not None] == [True] * 299
    lines = told.text().splitlines()
    assert lines[2].startswith("disc ")
    assert "none   needs 999 images, has" in lines[2]
    assert lines[-1] == "none: all images that are called so are abstained on"


def test_parts_are_judged_as_the_whole() -> None:
    words: dict[str, Any] = {"coverage": 0.8, "purity": 0.9}
    whole, told, parts_told = predictions(), judge(**words), judge(**words)
    pieces = [
        Predictions(whole.files[i : i + 70], CLASSES, whole.probabilities_NK[i : i + 70], whole.errors[i : i + 70])
        for i in range(0, 300, 70)
    ]
    found, joined = told.judged(whole), Predictions.joined([parts_told.judged(part) for part in pieces], CLASSES)
    assert joined.added == found.added
    assert told.text() == parts_told.text()


def test_probabilities_for_stated_shares() -> None:
    told, whole = judge(priors="ring=0.7,disc=0.2,bar=0.1"), predictions()
    found = told.judged(whole)
    old_K = CALIBRATION[1].mean(0)
    expected_NK = corrected(whole.probabilities_NK[2:], old_K, np.array([0.2, 0.1, 0.7]))
    np.testing.assert_allclose(found.probabilities_NK[2:], expected_NK, atol=1e-12)
    assert np.isnan(found.probabilities_NK[1]).all()
    assert found.names[1] == ""
    assert found.added == {}
    assert "ring" in told.text()
    assert "70.0 %" in told.text()


def test_shares_are_estimated_from_all_images() -> None:
    whole = predictions(1000, (0.1, 0.2, 0.7))
    told = judge(priors="estimate", coverage=0.9, by_class=True)
    assert told.estimates
    told.estimate([whole])
    found = told.judged(whole)
    counts = ClassCounts.of(*CALIBRATION, whole.probabilities_NK[whole.readable_N])
    np.testing.assert_allclose(found.probabilities_NK[whole.readable_N].mean(0), counts.by_em, atol=1e-6)
    said = told.text().splitlines()
    assert said[0] == "images of each class, estimated with 400 calibration images"
    ring = next(line for line in said if line.startswith("ring"))
    count = counts.counts[2]
    assert ring.endswith(f"{round(count.value):,}   {round(count.low):,} to {round(count.high):,}")
    assert told.warning() is None
    assert max(map(len, said)) <= 80


def test_sets_by_class_hold_their_promise_whatever_the_shares() -> None:
    held, shares = [], (0.1, 0.2, 0.7)
    for seed in range(60):
        old, (labels_N, p_NK) = answers(400, (1 / 3, 1 / 3, 1 / 3), 2 * seed), answers(400, shares, 2 * seed + 1)
        told = Judge(CLASSES, *old, coverage=0.9, by_class=True, priors="disc=0.1,bar=0.2,ring=0.7")
        found = told.judged(Predictions(["a"] * 400, CLASSES, p_NK, [""] * 400)).added["prediction_set"]
        right = np.array([CLASSES[k] in text.split("|") for k, text in zip(labels_N, found, strict=True)])
        held.append([right[labels_N == k].mean() for k in range(3)])
    np.testing.assert_allclose(np.mean(held, 0), 0.9, atol=0.02)


def test_images_that_are_no_mixture_of_the_classes_are_noticed() -> None:
    whole = predictions(1000)
    p_NK = whole.probabilities_NK.copy()
    p_NK[2:] = [0.4, 0.35, 0.25]  # all are called disc, and none surely
    told = judge(priors="estimate")
    told.estimate([Predictions(whole.files, CLASSES, p_NK, whole.errors)])
    assert "more than the shares of the classes has changed" in (told.warning() or "")


def test_nothing_can_be_read() -> None:
    none = Predictions(["a"], CLASSES, np.full((1, 3), np.nan), ["no image"])
    told = judge(priors="estimate", coverage=0.9, by_class=True)
    told.estimate([none])
    found = told.judged(none)
    assert found.added == {"prediction_set": [None]}
    assert isinstance(told.text(), str)
    told.estimate([])


def test_many_classes_and_long_names_fit_the_screen() -> None:
    classes = tuple(f"class_{k}_of_a_very_long_name_indeed" for k in range(40))
    rng = np.random.default_rng(0)
    labels_N, p_NK = np.arange(800) % 40, rng.dirichlet(np.ones(40), 800)
    told = Judge(classes, labels_N, p_NK, coverage=0.9, purity=0.9)
    told.judged(Predictions(["a"] * 800, classes, p_NK, [""] * 800))
    assert "and 10 more classes" in told.text()
    assert max(map(len, told.text().splitlines())) <= 80


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"sets": "aps"}, "--sets aps is of sets; state how often they hold the true class"),
        ({"by_class": True}, "--by-class is of sets"),
        ({"coverage": 90.0}, "--coverage is 90.0; a share between 0 and 1"),
        ({"purity": 0.0}, "--purity is 0.0; a share between 0 and 1"),
        ({"purity": 0.9, "priors": "estimate"}, "--purity holds where .* leave out one of the two"),
        ({"coverage": 0.9, "priors": "estimate"}, "--coverage holds where .* add --by-class"),
        ({"coverage": 0.999}, "need at least 999 calibration images, and 400 are there; wish for at most 0.997"),
        ({"coverage": 0.995, "by_class": True}, "at least 199 calibration images of each class, .* of 'disc'"),
        ({"priors": "guess"}, "--priors has 'guess'; 'estimate' or a share"),
        ({"priors": "disc=0.5,bar=0.5,ring=x"}, "--priors has 'ring=x'"),
        ({"priors": "disc=2,bar=-1,ring=0"}, "--priors has 'disc=2'"),
        ({"priors": "disc=0.5,bar=0.5"}, "states no share of ring; state one of each class"),
        ({"priors": "disc=0.5,bar=0.5,bars=0"}, "names 'bars', which is no class of the model. Allowed: disc, bar"),
        ({"priors": "disc=0.5,bar=0.5,bar=0"}, "states the share of 'bar' twice"),
        ({"priors": "disc=0.5,bar=0.5,ring=0.5"}, "sum to 1.5; they must sum to 1"),
    ],
)
def test_refusals(words: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        judge(**words)


def test_a_class_of_too_few_images_is_refused_before_all_is_predicted() -> None:
    labels_N, p_NK = CALIBRATION
    few = np.concatenate([np.flatnonzero(labels_N != 2), np.flatnonzero(labels_N == 2)[:2]])
    with pytest.raises(UserError, match=r"fewer of ring \(2\)"):
        Judge(CLASSES, labels_N[few], p_NK[few], priors="estimate")


def test_a_class_whose_name_would_part_a_set() -> None:
    with pytest.raises(UserError, match=r"class 'bar\|ring' has a '\|'"):
        Judge(("disc", "bar|ring", "ring"), *CALIBRATION, coverage=0.9)


def test_stated_shares_may_have_names_with_equals_signs() -> None:
    assert stated_shares("a=b=0.25, c = 0.75", ("a=b", "c")).tolist() == [0.25, 0.75]


def test_added_columns_are_written_behind_the_error(tmp_path: Any) -> None:
    import pyarrow.parquet

    found = judge(coverage=0.9, purity=0.9).judged(predictions(20))
    added = list(found.added)
    for name in ("p.csv", "p.parquet", "empty.parquet"):
        carried = {"ra": [float(i) for i in range(20)]}
        with PredictionWriter(tmp_path / name, CLASSES, added=added, carried=carried) as writer:
            assert writer.columns[-4:] == ["error", "prediction_set", "abstain", "ra"]
            if name != "empty.parquet":
                writer.write(found)
    lines = (tmp_path / "p.csv").read_text().splitlines()
    assert lines[2] == "1.png,,,,,,no image,,,1.0"
    assert lines[1].split(",")[-3:-1] == [found.added["prediction_set"][0], str(found.added["abstain"][0]).lower()]
    table = pyarrow.parquet.read_table(tmp_path / "p.parquet")
    assert table["abstain"].to_pylist() == found.added["abstain"]
    assert table["prediction_set"].to_pylist() == found.added["prediction_set"]
    assert pyarrow.parquet.read_schema(tmp_path / "empty.parquet") == table.schema
    assert table.schema.field("abstain").type == pa.bool_()
    found.to_csv(tmp_path / "own.csv")
    assert (tmp_path / "own.csv").read_text().splitlines()[0].endswith("error,prediction_set,abstain")
