"""Folders that a version before 0.2 wrote (`old_folders/make.py`) are read as they were meant."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

import astroformer
from astroformer.errors import UserError
from astroformer.model_folder import ModelFolder
from astroformer.network import Answers, AnswersConfig

OLD = Path(__file__).parent / "old_folders"
EXPECTED = json.loads((OLD / "expected.json").read_text(encoding="utf-8"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The stopped run, its paths those of this machine."""
    folder = Path(shutil.copytree(OLD / "run", tmp_path / "run"))
    record = (folder / "run.json").read_text(encoding="utf-8")
    record = record.replace("@HERE@", str(OLD)).replace("@CACHE@", str(tmp_path / "cache"))
    (folder / "run.json").write_text(record, encoding="utf-8")
    return folder


def test_a_model_of_format_1_gives_its_probabilities() -> None:
    said: list[str] = []
    model = astroformer.load(OLD / "model", say=said.append)
    assert isinstance(model.network, Answers)
    assert model.network.answers == AnswersConfig(frame=True, symmetry="shift+d4", views=4)
    assert model.network.frame is not None
    assert model.network.frame.weights_2K.tolist() == EXPECTED["frame"]
    expected_NK = np.array(EXPECTED["probabilities"])
    assert np.ptp(expected_NK[:, 0]) > 0.01  # or the comparison would say little
    got_NK = model.predict(OLD / "images.npz").probabilities_NK
    np.testing.assert_allclose(got_NK, expected_NK, rtol=0, atol=1e-5)
    assert ["format 1" in sentence for sentence in said] == [True]
    assert model.info.name == "astroformer_atto"
    assert model.info.parameters == sum(p.numel() for p in model.network.parameters())
    assert model.info.metrics is not None
    assert model.info.metrics.n == 3


def test_a_model_of_format_1_is_kept_in_the_present_one(tmp_path: Path) -> None:
    model = astroformer.load(OLD / "model")
    again = astroformer.load(model.save(tmp_path / "model"))
    config, old = ModelFolder(tmp_path / "model").config(), ModelFolder(OLD / "model").config()
    assert (config.format, old.format) == (3, 1)
    assert (config.answers, config.network, config.record) == (old.answers, old.network, old.record)
    np.testing.assert_array_equal(
        again.predict(OLD / "images.npz").probabilities_NK, model.predict(OLD / "images.npz").probabilities_NK
    )
    names = [
        set(safe_open(folder / "model.safetensors", "pt").keys()) for folder in (OLD / "model", tmp_path / "model")
    ]
    assert names[0] == names[1]


def test_a_stopped_run_goes_on_from_its_checkpoint(run: Path) -> None:
    before = (run / "history.csv").read_text(encoding="utf-8").splitlines()
    resumed = astroformer.resume(run)
    after = (run / "history.csv").read_text(encoding="utf-8").splitlines()
    assert after[: len(before)] == before
    assert [row["epoch"] for row in csv.DictReader(after)] == ["1.0", "2.0", "3.0", "4.0"]
    network = resumed.classifier.network
    assert isinstance(network, Answers)
    assert network.answers == AnswersConfig(frame=True, symmetry="shift+d4", views=4)
    assert network.frame is not None
    assert network.frame.weights_2K.tolist() == EXPECTED["frame"]  # which the checkpoint held
    # The same run, uninterrupted, made the old model; processors may differ by a little.
    got_NK = astroformer.load(resumed.model).predict(OLD / "images.npz").probabilities_NK
    np.testing.assert_allclose(got_NK, np.array(EXPECTED["probabilities"]), rtol=0, atol=2e-3)
    with pytest.raises(UserError, match="is finished"):
        astroformer.resume(run)
