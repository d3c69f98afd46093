"""An ensemble in a model folder: everything takes it that takes a single model, and damage is refused."""

from __future__ import annotations

import copy
import csv
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import astroformer
from astroformer.classifier import Classifier
from astroformer.cli.main import main
from astroformer.errors import UserError
from astroformer.network import Ensemble, create_network


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


def test_a_folder_of_one_network_is_as_it_was(model_folder: Path, classifier: Classifier) -> None:
    config = json.loads((model_folder / "config.json").read_text())
    words = [
        "format",
        "network",
        "preprocessing",
        "classes",
        "weights_sha256",
        "name",
        "training",
        "metrics",
        "versions",
    ]
    assert list(config) == words
    assert config["format"] == 1
    assert load_file(model_folder / "model.safetensors").keys() == classifier.network.state_dict().keys()
    card = (model_folder / "README.md").read_text()
    assert "\n\nAn Astroformer (arXiv 2304.05350), vertical layout C-C-C-T, ? parameters,\ntrained from scratch" in card
    assert "ensemble" not in card


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
    metrics = members[0].info["metrics"]
    ensemble.info |= {"metrics": metrics, "member_metrics": {"balanced_accuracy": {"mean": 0.5, "sd": 0.25, "n": 3}}}
    card = (ensemble.save(tmp_path / "m") / "README.md").read_text()
    assert "An ensemble of 3 Astroformers" in card
    assert "arXiv 1612.01474" in card
    assert f"| balanced_accuracy | {metrics['balanced_accuracy']['value']:.4f} |" in card
    assert "| balanced_accuracy | 0.5000 ± 0.2500 |" in card


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


# -- model folders that must be refused ------------------------------------------------------------------------------


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")


def change_config(folder: Path, **changes: object) -> None:
    config = {**json.loads((folder / "config.json").read_text()), **changes}
    (folder / "config.json").write_text(json.dumps(config))


def without_a_member(state: dict[str, torch.Tensor]) -> None:
    for name in [name for name in state if name.startswith("members.1.")]:
        del state[name]


def with_a_wider_member(state: dict[str, torch.Tensor]) -> None:
    wide = create_network("astroformer_pico", num_classes=10, img_size=32).state_dict()
    state.update({f"members.1.{name}": value for name, value in wide.items()})


def with_a_member_of_other_classes(state: dict[str, torch.Tensor]) -> None:
    few = create_network("astroformer_atto", num_classes=4, img_size=32).state_dict()
    state.update({f"members.2.{name}": value for name, value in few.items()})


def flip_byte(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-9] ^= 1
    (folder / "model.safetensors").write_bytes(data)


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing member": (
        lambda f: change_weights(f, without_a_member),
        r"config.json names 3 members, and the weights hold 2 \(0, 2\)",
    ),
    "another member swapped in": (
        lambda f: change_weights(f, lambda state: state["members.1.stem.conv1.weight"].add_(1)),
        "SHA-256",
    ),
    "altered byte": (flip_byte, "SHA-256"),
    "member of another shape": (
        lambda f: change_weights(f, with_a_wider_member),
        r"tensors differ, e\.g\. 'members\.1",
    ),
    "member of other classes": (
        lambda f: change_weights(f, with_a_member_of_other_classes),
        r"2 tensors differ, e\.g\. 'members\.2\.head",
    ),
    "too many members named": (lambda f: change_config(f, members=10**12), "names 1000000000000 members"),
    "no number of members": (lambda f: change_config(f, members="three"), "members is 'three'"),
    "no members named": (lambda f: change_config(f, members=1), "tensors differ"),
    "weights of one network": (
        lambda f: save_file(create_network("astroformer_atto", img_size=32).state_dict(), f / "model.safetensors"),
        r"the weights hold 0 \(none\)",
    ),
    "newer format": (lambda f: change_config(f, format=3), "format 3.*reads up to 2; upgrade"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_refused_with_a_sentence(
    folder: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    harm, says = DAMAGES[damage]
    harm(folder)
    with pytest.raises(UserError, match=says):
        Classifier.load(folder)
    assert main(["info", str(folder)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
