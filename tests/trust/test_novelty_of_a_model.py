"""Novelty through a run, its model folder and its commands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch

import astroformer
from astroformer.classifier import Classifier
from astroformer.metrics import Array
from astroformer.training.single import Trained
from helpers.command_line import Run, table

SOURCE = "mock-galaxies:150x32"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    recipe = astroformer.Recipe(epochs=2, image_size=32, crop=1.0, device="cpu", network={"symmetry": "shift"})
    return astroformer.train(SOURCE, recipe, out=tmp_path_factory.mktemp("run") / "run", quiet=True)


@pytest.fixture(scope="module")
def noise_NHWC() -> Array:
    return np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)


def test_noise_is_novel_and_galaxies_are_not(trained: Trained, noise_NHWC: Array) -> None:
    model = astroformer.load(trained.model)
    noise_N = model.predict(noise_NHWC).novelty_N
    galaxies_N = model.predict("mock-galaxies:100x32").novelty_N
    assert noise_N is not None
    assert galaxies_N is not None
    assert noise_N.min() > galaxies_N.max()
    assert (noise_N > 1).all()
    assert (galaxies_N > 1).mean() < 0.1


def test_a_model_keeps_it(trained: Trained, noise_NHWC: Array) -> None:
    expected_N = trained.classifier.predict(noise_NHWC).novelty_N
    got_N = astroformer.load(trained.model).predict(noise_NHWC, batch_size=7).novelty_N
    assert expected_N is not None
    assert got_N is not None
    np.testing.assert_allclose(got_N, expected_N, rtol=1e-5)


def test_traces_are_the_means_of_the_maps_and_the_features(trained: Trained, noise_NHWC: Array) -> None:
    model = astroformer.load(trained.model)
    stored_BCHW = np.stack([model.preprocessing.apply(image_HWC) for image_HWC in noise_NHWC])
    with torch.no_grad():
        maps = model.network.feature_maps(model._normalized(stored_BCHW))
        means = [map_BCHW.mean((2, 3)) for map_BCHW in maps]
    expected_BL = np.hstack([*(mean_BC.numpy() for mean_BC in means), model.features(noise_NHWC)])
    np.testing.assert_allclose(model.traces(stored_BCHW), expected_BL, rtol=1e-3, atol=1e-4)


def test_calibration_does_not_matter_and_another_symmetry_has_none(trained: Trained, noise_NHWC: Array) -> None:
    expected_N = astroformer.load(trained.model).predict(noise_NHWC).novelty_N
    raw = astroformer.load(trained.model, calibration="none")
    np.testing.assert_array_equal(raw.predict(noise_NHWC).novelty_N, expected_N)
    for words in ({"symmetry": "shift+mirror"}, {"fast": False}):
        asked = astroformer.load(trained.model, **words).predict(noise_NHWC)  # type: ignore[arg-type]
        assert asked.novelty_N is None
        assert "novelty" not in asked.to_arrow().column_names


def test_an_ensemble_has_its_own(trained: Trained, noise_NHWC: Array, tmp_path: Path) -> None:
    recipe = astroformer.Recipe(epochs=1, image_size=32, crop=1.0, device="cpu")
    made = astroformer.train_ensemble(SOURCE, recipe, members=2, together="in-turn", out=tmp_path / "e", quiet=True)
    model = astroformer.load(made.model)
    assert model.trust.novelty is not None
    assert len(model.trust.novelty.mean_L) == 2 * len(trained.classifier.traces(stored(model, noise_NHWC))[0])
    novelty_N = model.predict(noise_NHWC).novelty_N
    assert novelty_N is not None
    assert (novelty_N > 1).all()
    assert Classifier.ensemble([trained.classifier, trained.classifier]).trust.novelty is None


def stored(model: Classifier, images_NHWC: Array) -> Array:
    return np.stack([model.preprocessing.apply(image_HWC) for image_HWC in images_NHWC])


def test_predict_writes_a_column_and_says_how_many(trained: Trained, noise_NHWC: Array, run: Run) -> None:
    np.savez("noise.npz", images=noise_NHWC)
    said = run("predict", trained.run, "noise.npz", "--out", "p.csv")
    assert said.status == 0, said.err
    sentence = "20 of 20 images are unlike the training images (novelty above 1), where 1 % is usual;"
    assert sentence in said.out.replace("\n", " ")
    rows = table(Path("p.csv"))
    assert list(rows[0])[-1] == "novelty"
    assert all(float(row["novelty"]) > 1 for row in rows)
    said = run("predict", trained.run, "noise.npz", "--out", "p.parquet", "--coverage", "0.5")
    assert said.status == 0, said.err
    read = pyarrow.parquet.read_table("p.parquet")
    assert read.column_names[-2:] == ["novelty", "prediction_set"]
    assert read["novelty"].to_pylist() == pytest.approx([float(row["novelty"]) for row in rows], rel=1e-4)


def test_evaluate_writes_it_too(trained: Trained, run: Run) -> None:
    said = run("evaluate", trained.run, "--out", "e")
    assert said.status == 0, said.err
    rows = table(Path("e/predictions.csv"))
    assert all(float(row["novelty"]) > 0 for row in rows)
    assert ("unlike the training images" in said.out) == any(float(row["novelty"]) > 1 for row in rows)


def test_an_image_that_can_t_be_read_has_none(trained: Trained, noise_NHWC: Array) -> None:
    asked = trained.classifier.predict([noise_NHWC[0], b"no image"])
    assert asked.novelty_N is not None
    assert np.isnan(asked.novelty_N).tolist() == [False, True]
    assert asked.to_arrow()["novelty"].to_pylist()[1] is None
