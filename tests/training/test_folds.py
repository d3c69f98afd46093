"""Cross-validation: every image is answered once, by a run that was not trained on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import astroformer
from astroformer.errors import UserError
from astroformer.metrics import score
from astroformer.training.folds import train_folds
from astroformer.training.recipe import Recipe, make_recipe
from astroformer.training.study import TrainedStudy, train_many
from astroformer.training.train import resume
from helpers.command_line import table

SOURCE = "mock-galaxies:40x32"


def recipe(**changes: Any) -> Recipe:
    settings = {"model": "astroformer_atto", "epochs": 1, "batch_size": 8, "image_size": 32, "device": "cpu"}
    return make_recipe({**settings, "crop": 1.0, **changes})


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("folds-cache")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> TrainedStudy:
    """Two folds of two seeds."""
    out = tmp_path_factory.mktemp("folds") / "study"
    return train_folds(SOURCE, recipe(seed=3), folds=2, seeds=2, out=out, cache=cache, together="in-turn", quiet=True)


def test_every_image_is_answered_once_a_seed_by_the_run_that_did_not_see_it(study: TrainedStudy, cache: Path) -> None:
    rows = table(study.run / "out_of_fold.csv")
    assert list(rows[0])[:3] == ["file", "prediction", "confidence"]
    assert list(rows[0])[-5:] == ["error", "label", "correct", "fold", "seed"]
    for seed in (3, 4):
        images = astroformer.open_source(SOURCE, seed=seed)
        of_seed = {row["file"]: row for row in rows if row["seed"] == str(seed)}
        assert sorted(of_seed) == sorted(images.files)
        for fold in range(2):
            run = study.run / f"seed-{seed}-fold-{fold}"
            answered = [row for row in of_seed.values() if row["fold"] == str(fold)]
            split = {row["file"]: row["label"] for row in table(run / "splits" / "valid.csv")}
            assert {row["file"]: row["label"] for row in answered} == split
            model = astroformer.load(run / "model")
            of_fold = images.subset([images.files.index(row["file"]) for row in answered])
            expected = model.predict(of_fold, mark_seen=True)  # each calibrated by the others
            found = np.array([[float(row[f"p:{name}"]) for name in model.classes] for row in answered])
            np.testing.assert_allclose(found, expected.probabilities_NK, atol=1e-5)
            assert [row["correct"] for row in answered] == [
                str(row["prediction"] == row["label"]).lower() for row in answered
            ]
    assert len(rows) == 80


def test_the_scores_are_those_of_all_images_at_once(study: TrainedStudy) -> None:
    summary = json.loads((study.run / "summary.json").read_text())
    assert [row["seed"] for row in summary["out_of_fold"]] == [3, 4]
    assert summary["top1"]["n"] == 4
    rows = [row for row in table(study.run / "out_of_fold.csv") if row["seed"] == "4"]
    classes = tuple(name.removeprefix("p:") for name in rows[0] if name.startswith("p:"))
    labels_N = np.array([classes.index(row["label"]) for row in rows])
    probabilities_NK = np.array([[float(row[f"p:{name}"]) for name in classes] for row in rows])
    expected = score(labels_N, probabilities_NK, classes)
    measured = study.out_of_fold[4]
    assert measured.n == 40
    for name, interval in expected.metrics.items():
        assert measured.metrics[name].value == pytest.approx(interval.value, rel=1e-6)
        assert summary["out_of_fold"][1][name]["low"] == pytest.approx(interval.low, rel=1e-6)
    lines = study.table().splitlines()
    assert sum("each image by the run that was not trained on it, seed " in line for line in lines) == 2
    assert f"{'accuracy':<18} {100 * expected['top1']:>6.1f} %" in study.table()


def test_what_failed_at_the_end_is_made_by_resuming(
    study: TrainedStudy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = study.run / "out_of_fold.csv"
    before, summary = file.read_bytes(), json.loads((study.run / "summary.json").read_text())
    with pytest.raises(UserError, match=r"all runs of .* are finished"):
        resume(study.run)
    file.unlink()
    with monkeypatch.context() as patch:
        patch.setattr("astroformer.training.out_of_fold.reopen", _gone)
        assert resume(study.run).out_of_fold == {}  # type: ignore[union-attr]
    assert "there is no out_of_fold.csv: the images have changed" in capsys.readouterr().err
    assert not file.exists()
    assert resume(study.run, quiet=True).validation == study.validation
    assert file.read_bytes() == before
    assert json.loads((study.run / "summary.json").read_text()) == summary


def _gone(*_: object, **__: object) -> None:
    raise UserError("the images have changed")


def test_runs_that_are_not_all_folds_have_no_answers_out_of_fold(tmp_path: Path, cache: Path) -> None:
    one = recipe(folds=3)
    some = [one, one.model_copy(update={"fold": 1})]
    result = train_many(SOURCE, some, out=tmp_path / "s", cache=cache, together="in-turn", quiet=True)
    assert result.out_of_fold == {}
    assert not (tmp_path / "s" / "out_of_fold.csv").exists()
    assert "out_of_fold" not in json.loads((tmp_path / "s" / "summary.json").read_text())
    assert "not trained on it" not in result.table()


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'folds' can't be 1"):
        train_folds(SOURCE, recipe(), folds=1, out=tmp_path / "s")
    with pytest.raises(UserError, match="--valid gives others; choose one"):
        train_folds(SOURCE, recipe(), folds=2, valid=SOURCE, out=tmp_path / "s", quiet=True)
    assert not (tmp_path / "s").exists()
