"""An ensemble in a model folder: everything takes it that takes a single model, and damage is refused."""

from __future__ import annotations

import copy
import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import astroformer
from astroformer.classifier import Classifier
from astroformer.cli.main import main
from astroformer.errors import UserError
from astroformer.model_config import Spread
from astroformer.network import Ensemble
from astroformer.summaries import percent


@pytest.fixture
def members(classifier: Classifier) -> list[Classifier]:
    """Three classifiers of one config whose answers differ."""
    made = []
    for seed in range(3):
        member = copy.deepcopy(classifier)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in member.network.parameters():
                parameter += 0.1 * parameter.abs().mean() * torch.randn(parameter.shape, generator=generator)
        made.append(member)
    return made


@pytest.fixture
def folder(members: list[Classifier], tmp_path: Path) -> Path:
    """An ensemble's model folder that a test may damage."""
    return Classifier.ensemble(members).save(tmp_path / "ensemble")


def test_probabilities_are_the_mean_of_those_of_the_members(
    members: list[Classifier], folder: Path, galaxy_folder: Path, tmp_path: Path
) -> None:
    alone = [
        astroformer.load(member.save(tmp_path / str(k))).predict(galaxy_folder).probabilities_NK
        for k, member in enumerate(members)
    ]
    assert np.abs(alone[0] - alone[1]).max() > 1e-2
    got = astroformer.load(folder).predict(galaxy_folder).probabilities_NK
    np.testing.assert_allclose(got, np.mean(alone, 0), rtol=0, atol=1e-6)
    np.testing.assert_allclose(got.sum(1), 1, atol=1e-12)
    other = Classifier.ensemble(members[::-1]).predict(galaxy_folder).probabilities_NK
    np.testing.assert_allclose(got, other, rtol=0, atol=1e-6)


def test_save_and_load_give_the_same_probabilities_to_the_bit(
    members: list[Classifier], folder: Path, galaxy_folder: Path, tmp_path: Path
) -> None:
    expected = Classifier.ensemble(members).predict(galaxy_folder).probabilities_NK
    loaded = astroformer.load(folder)
    assert isinstance(loaded.network, Ensemble)
    again = astroformer.load(loaded.save(tmp_path / "again"))
    for one in (loaded, again):
        np.testing.assert_array_equal(one.predict(galaxy_folder).probabilities_NK, expected)
    assert (tmp_path / "again" / "config.json").read_text() == (folder / "config.json").read_text()


def test_weights_that_change_change_the_answers(members: list[Classifier], galaxy_folder: Path) -> None:
    ensemble = Classifier.ensemble(members)
    before = ensemble.predict(galaxy_folder).probabilities_NK
    with torch.no_grad():
        next(members[2].network.parameters()).mul_(1.5)
    assert np.abs(ensemble.predict(galaxy_folder).probabilities_NK - before).max() > 1e-4


def test_predict_evaluate_info_and_symmetry_take_it(
    members: list[Classifier], folder: Path, galaxy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(folder), str(galaxy_folder), "--out", str(tmp_path / "p.csv"), "--quiet"]) == 0
    with (tmp_path / "p.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))[1:]
    expected = np.mean([member.predict(galaxy_folder).probabilities_NK for member in members], 0)
    np.testing.assert_allclose(np.array([row[3:-1] for row in rows], float), expected, rtol=0, atol=1e-6)

    assert main(["evaluate", str(folder), str(galaxy_folder), "--out", str(tmp_path / "e"), "--quiet"]) == 0
    assert json.loads((tmp_path / "e" / "metrics.json").read_text())["n"] == 30
    capsys.readouterr()
    assert main(["info", str(folder), "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["members"] == 3
    assert row["parameters"] == sum(p.numel() for m in members for p in m.network.parameters())

    words = ["--images", "3", "--shifts", "2", "--crops", "2", "--rotations", "1", "--quiet"]
    words += ["--data", str(galaxy_folder), "--out", str(tmp_path / "s"), "--symmetry", "shift+d4"]
    assert main(["symmetry", str(folder), *words]) == 0
    assert "Ensemble (group none, equivariance none, symmetry shift+d4), trained weights" in capsys.readouterr().out
    assert json.loads((tmp_path / "s" / "symmetry.json").read_text())["network"] == "Ensemble"


def test_symmetry_is_a_choice(members: list[Classifier], folder: Path, galaxy_folder: Path, tmp_path: Path) -> None:
    averaged = astroformer.load(folder, symmetry="shift+d4")
    alone = [
        astroformer.load(member.save(tmp_path / str(k)), symmetry="shift+d4").predict(galaxy_folder).probabilities_NK
        for k, member in enumerate(members)
    ]
    got = averaged.predict(galaxy_folder).probabilities_NK
    np.testing.assert_allclose(got, np.mean(alone, 0), rtol=0, atol=1e-6)
    stored_BCHW = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
    turned_BCHW = np.ascontiguousarray(np.rot90(stored_BCHW, 1, (2, 3)))
    np.testing.assert_allclose(
        averaged.probabilities(turned_BCHW), averaged.probabilities(stored_BCHW), rtol=0, atol=1e-5
    )


def test_the_card_names_the_members_and_what_they_reach(members: list[Classifier], tmp_path: Path) -> None:
    ensemble = Classifier.ensemble(members)
    metrics = members[0].info.metrics
    assert metrics is not None
    spread = {"balanced_accuracy": Spread(0.5, 0.25, 3)}
    ensemble.info = dataclasses.replace(ensemble.info, metrics=metrics, member_metrics=spread)
    card = (ensemble.save(tmp_path / "m") / "README.md").read_text()
    assert "An ensemble of 3 Astroformers" in card
    assert "arXiv 1612.01474" in card
    assert f"| balanced_accuracy | {percent(metrics.intervals['balanced_accuracy'].value)} |" in card
    assert "| balanced_accuracy | 50.0 % ± 25.0 % |" in card


def test_members_that_do_not_belong_together_are_refused(members: list[Classifier]) -> None:
    first, second, _ = members
    with pytest.raises(UserError, match="an ensemble of 0 can't be"):
        Classifier.ensemble([])
    with pytest.raises(UserError, match="classes of member 1 differ"):
        Classifier.ensemble([first, dataclasses.replace(second, classes=second.classes[::-1])])
    other = dataclasses.replace(second.preprocessing, mean=(0.1, 0.1, 0.1))
    with pytest.raises(UserError, match="preprocessing of member 1 differ"):
        Classifier.ensemble([first, dataclasses.replace(second, preprocessing=other)])
    with pytest.raises(UserError, match="network of member 1 is no single Astroformer"):
        Classifier.ensemble([first, Classifier.ensemble(members)])
