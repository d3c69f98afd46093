"""Calibration through a run, its model folder and its commands."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import astroformer
from astroformer.errors import UserError
from astroformer.metrics import nll_N
from astroformer.model_folder import ModelFolder
from astroformer.training.single import Trained
from astroformer.trust.calibration import Calibration
from helpers.command_line import Run, table

SOURCE = "mock-galaxies:100x32"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    recipe = astroformer.Recipe(epochs=3, image_size=32, crop=1.0, device="cpu", valid_fraction=0.5)
    return astroformer.train(SOURCE, recipe, out=tmp_path_factory.mktemp("run") / "run", quiet=True)


@pytest.fixture
def hot(trained: Trained, tmp_path: Path) -> Path:
    """The same model, whose calibration is a temperature whatever its images say."""
    model = astroformer.load(trained.model)
    model.trust = replace(model.trust, calibration=Calibration("temperature", (3.0,)))
    return model.save(tmp_path / "hot")


def test_a_run_keeps_its_held_out_images_and_says_how_sure_it_is(trained: Trained) -> None:
    model = astroformer.load(trained.model)
    assert model.trust.images == 50
    assert model.trust.held_out is not None
    assert model.trust == trained.classifier.trust
    labels_N = model.trust.held_out.labels_N
    np.testing.assert_array_equal(model.trust.of_held_out(), trained.classifier.trust.of_held_out())
    assert trained.validation["nll"] == pytest.approx(nll_N(labels_N, model.trust.of_held_out()).mean())
    card = (trained.model / "README.md").read_text()
    assert f"- Probabilities: {model.trust}.\n" in card
    config = json.loads((trained.model / "config.json").read_text())
    assert config["trust"] == {"calibration": model.trust.calibration.to_dict(), "images": 50}


def test_evaluating_the_held_out_images_gives_the_scores_of_the_run(trained: Trained, run: Run) -> None:
    said = run("evaluate", trained.run, "--out", "e")
    assert said.status == 0, said.err
    found = json.loads(Path("e/metrics.json").read_text())
    for metric, interval in trained.validation.metrics.items():
        assert found[metric]["value"] == pytest.approx(interval.value, abs=1e-5)


def test_python_and_the_command_line_give_the_same_sets(trained: Trained, run: Run) -> None:
    said = run("predict", trained.run, "mock-galaxies:20x32", "--coverage", "0.8", "--purity", "0.5", "--out", "p.csv")
    assert said.status == 0, said.err
    model = astroformer.load(trained.model)
    told = astroformer.judge(model, model.predict("mock-galaxies:20x32"), coverage=0.8, purity=0.5)
    rows = table(Path("p.csv"))
    assert [row["prediction_set"] for row in rows] == list(told.added["prediction_set"])
    assert [row["abstain"] == "true" for row in rows] == list(told.added["abstain"])
    estimated = astroformer.judge(model, model.predict("mock-galaxies:20x32"), priors="estimate")
    np.testing.assert_allclose(estimated.probabilities_NK.sum(1), 1)
    asked = astroformer.load(trained.model, symmetry="shift+mirror")
    with pytest.raises(UserError, match="held out of the training, and this model has none"):
        astroformer.judge(asked, asked.predict("mock-galaxies:20x32"), coverage=0.8)


def test_an_image_that_calibrated_is_answered_without_it(hot: Path) -> None:
    model, raw = astroformer.load(hot), astroformer.load(hot, calibration="none")
    images = astroformer.open_source(SOURCE)
    told, asked = model.predict(images).probabilities_NK, raw.predict(images).probabilities_NK
    np.testing.assert_allclose(told, Calibration("temperature", (3.0,)).apply(np.log(asked)), atol=1e-6)
    marked = model.predict(images, mark_seen=True)
    changed_N = np.abs(marked.probabilities_NK - told).max(1) > 1e-9
    assert marked.seen_N is not None
    np.testing.assert_array_equal(changed_N, ~marked.seen_N)  # all that were not trained on are held out


def test_the_network_s_own_probabilities_have_no_scores_of_others(hot: Path) -> None:
    raw = astroformer.load(hot, calibration="none")
    assert astroformer.load(hot).info.metrics is not None
    assert raw.info.metrics is None
    assert str(raw.trust) == "the network's own, not calibrated"


def test_what_another_symmetry_answers_is_not_calibrated(hot: Path) -> None:
    said: list[str] = []
    model = astroformer.load(hot, symmetry="shift+mirror", say=said.append)
    assert model.trust.images == 0
    assert said == [
        "with symmetry shift+mirror the probabilities are not calibrated; with shift+d4, the model's own, they are"
    ]
    assert astroformer.load(hot, symmetry="shift+d4").trust.images == 50


def test_the_network_s_own_probabilities_are_asked_for_by_a_word(hot: Path, run: Run) -> None:
    for name, words in (("told", []), ("raw", ["--calibration", "none"])):
        assert run("predict", hot, "mock-galaxies:4x32", *words, "--out", f"{name}.csv").status == 0
    told, raw = (np.array([float(row["confidence"]) for row in table(Path(f"{n}.csv"))]) for n in ("told", "raw"))
    assert (told > raw).all()
    refused = run("predict", hot, "mock-galaxies:4x32", "--calibration", "warm")
    assert refused.status == 2
    assert "unknown calibration 'warm'" in refused.err
    assert "surer than the network's own (temperature 0.333), as 50 held-out images" in run("info", hot).out.replace(
        "\n" + 14 * " ", " "
    )


def test_a_changed_or_unknown_calibration_is_refused(hot: Path) -> None:
    file = hot / "config.json"
    content = json.loads(file.read_text())
    content["trust"]["calibration"]["weights"] = [5.0]
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"block 'trust' of config.json is not the one"):
        ModelFolder(hot).config()


def test_scored_predictions_keep_the_network_s_own_and_their_folds(hot: Path) -> None:
    model, raw = astroformer.load(hot), astroformer.load(hot, calibration="none")
    images = astroformer.open_source(SOURCE)
    _, found = model.evaluate(images, quiet=True)
    assert found.own_NK is not None
    assert found.fold_N is not None
    np.testing.assert_array_equal(found.own_NK, raw.predict(images).probabilities_NK)
    assert found.seen_N is not None
    np.testing.assert_array_equal(found.fold_N < 0, found.seen_N)
    held_out = model.trust.held_out
    assert held_out is not None
    np.testing.assert_array_equal(np.bincount(found.fold_N[found.fold_N >= 0]), np.bincount(held_out.fold_N))
    plain = model.predict(images)
    assert plain.own_NK is None
    assert plain.fold_N is None
