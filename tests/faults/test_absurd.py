"""A word, a recipe or a damaged file can't ask for all memory or all time: it is refused before anything is made."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import astroformer
from astroformer.errors import UserError, brief
from astroformer.files import parse_json, read_json
from astroformer.network import VARIANTS, AnswersConfig, Astroformer, AstroformerConfig
from astroformer.training import memory
from astroformer.training.checkpoint import check_network, save_checkpoint
from astroformer.training.memory import check_weights_fit
from astroformer.training.recipe import Recipe, make_recipe
from astroformer.training.study import seeds_and_folds
from helpers.command_line import Run
from helpers.fuzzing import small_model

OLD = Path(__file__).parents[1] / "old_folders" / "model"
LARGEST = VARIANTS["astroformer_5"]


# Networks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"depths": (1, 2, 3, 1_000_000)},
        {"widths": (10**9,) * 4},
        {"stem_width": 10**9},
        {"num_classes": 10**7},
        {"num_classes": float("inf")},
        {"in_chans": 10**6},
        {"img_size": 10**6},
        {"head_width": 10**9},
        {"head_hidden": 10**9},
        {"mlp_ratio": 10**6},
        {"widths": 10**5000},
    ],
)
def test_settings_that_no_network_has_are_refused_with_the_largest(change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"and at most \d+\.$") as caught:
        dataclasses.replace(LARGEST, **change)
    assert len(str(caught.value)) < 500


def test_ten_times_the_largest_variant_is_allowed() -> None:
    dataclasses.replace(LARGEST, stem_width=1920, widths=tuple(10 * width for width in LARGEST.widths))
    dataclasses.replace(LARGEST, depths=tuple(10 * depth for depth in LARGEST.depths), num_classes=21_841)


@pytest.fixture
def nothing_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where weights are made that hold values."""
    made = nn.Module.register_parameter

    def without_values(self: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        assert parameter is None or parameter.is_meta, f"{name} of {tuple(parameter.shape)} was made"
        made(self, name, parameter)

    monkeypatch.setattr(nn.Module, "register_parameter", without_values)


@pytest.mark.parametrize(
    "change",
    [
        {"depths": [1, 2, 3, 1_000_000]},
        {"depths": [512] * 4},
        {"widths": [65536] * 4},
        {"num_classes": 100_000},
        {"stem_width": 65536},
        {"img_size": [16384, 16384], "layout": "TTTT", "head_width": 8},
    ],
)
def test_a_config_that_asks_for_all_memory_is_compared_with_the_weights_first(
    tmp_path: Path, change: dict[str, Any], nothing_is_made: None
) -> None:
    model = Path(shutil.copytree(OLD, tmp_path / "model"))  # of a format whose config has no hash
    config = json.loads((model / "config.json").read_text())
    config["network"] |= change
    config["classes"] = [f"c{k}" for k in range(min(config["network"]["num_classes"], 10**5))]
    (model / "config.json").write_text(json.dumps(config))
    begin = time.monotonic()
    with pytest.raises(UserError, match=r"does not fit its weights|and at most"):
        astroformer.load(model)
    assert time.monotonic() - begin < 20


def test_a_number_of_members_is_compared_with_the_weights(tmp_path: Path, nothing_is_made: None) -> None:
    model = Path(shutil.copytree(OLD, tmp_path / "model"))
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "format": 2, "members": 10**12}))
    with pytest.raises(UserError, match="names 1000000000000 members, and the weights hold 0"):
        astroformer.load(model)


def test_a_checkpoint_is_compared_with_the_network_of_its_run(tmp_path: Path, nothing_is_made: None) -> None:
    config = AstroformerConfig(8, (8, 8, 8, 8), (1, 1, 1, 1), layout="CCCC", num_classes=2, img_size=32)
    with torch.device("meta"):
        weights = {name: torch.zeros_like(t, device="cpu") for name, t in Astroformer(config).state_dict().items()}
    file = tmp_path / "checkpoint"
    save_checkpoint(file, tensors={"network": weights}, optimizer={"state": {}, "param_groups": []}, state={})
    check_network(file, config)
    for change in ({"depths": (512,) * 4}, {"widths": (65536,) * 4}, {"num_classes": 3}):
        with pytest.raises(UserError, match=r"does not hold the network that run\.json says"):
            check_network(file, dataclasses.replace(config, **change))


def test_a_network_that_the_memory_can_not_hold_is_not_made(
    monkeypatch: pytest.MonkeyPatch, nothing_is_made: None
) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda device: 2**33)
    check_weights_fit(VARIANTS["astroformer_nano"], "cpu")
    with pytest.raises(UserError, match=r"takes .* GiB or more to train, and 8.0 GiB of cpu memory are free"):
        check_weights_fit(dataclasses.replace(LARGEST, widths=(20480,) * 4), "cpu")
    monkeypatch.setattr(memory, "free_memory", lambda device: None)  # where the system does not say
    check_weights_fit(LARGEST, "cpu")


# JSON -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 500 + "1" + "}" * 500, "nested too deeply"),
        ('{"a": ' + "[" * 40 + "]" * 40 + "}", "nested too deeply"),
        ('{"a": 1e999}', "1e999 is larger than any number"),
        ('{"a": ' + "9" * 5000 + "}", "a number has 5,000 digits"),
        ('{"a": 1, "a": 2}', "'a' is given twice"),
        ('{"a": {"b": 1, "b": 1}}', "'b' is given twice"),
    ],
)
def test_json_that_no_record_is_like_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_json(text)
    file = tmp_path / "record.json"
    file.write_text(text)
    with pytest.raises(UserError, match=rf"record\.json' is damaged .*{says}"):
        read_json(file)


def test_json_of_a_size_that_no_record_has_is_not_read_whole(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    with file.open("wb") as stream:
        stream.truncate(2**40)  # without blocks on the disk
    with pytest.raises(UserError, match="more than the 64 MiB"):
        read_json(file)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(UserError, match="is no regular file"):
        read_json(file)
    file.unlink()
    file.symlink_to("/dev/zero")
    with pytest.raises(UserError, match="is no regular file"):
        read_json(file)


def test_numbers_that_records_hold_are_read_as_they_were() -> None:
    content = {"a": [2**63, -(2**63), 0.1, 1e300, float("inf")], "b": {"c": None, "d": "é\ud83d", "e": True}}
    assert parse_json(json.dumps(content)) == content


# Words ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--ensemble", "999999999"], "give 2 to 1000 members"),
        (["--seeds", "999999999"], "1 to 1000 can be"),
        (["--seeds", "1000", "--folds", "1000", "--all-folds"], "1,000,000 runs; at most 1,000"),
        (["--folds", "999999999", "--all-folds"], "folds.* less than or equal to 1000"),
        (["--seed", "2147483647", "--seeds", "2"], "begin with a smaller --seed"),
        (["--seed", "9999999999999"], "seed.* less than 2147483648"),
        (["--seed", "9" * 5000], "a whole number"),
        (["--image-size", "999999999"], "at most 16384 px"),
        (["--epochs", "1e999"], "whole number"),
        (["--epochs", "99999999999"], "epochs.* less than or equal to 1000000"),
        (["--minutes", "nan"], "minutes.*finite number"),
        (["--minutes", "1e999"], "minutes.*finite number"),
        (["--minutes", "1e300"], "minutes.* less than or equal to 1000000"),
        (["--batch-size", "99999999999"], "batch_size.* less than or equal to 1000000"),
        (["--channels", "99999999999"], "channels.* less than or equal to 1024"),
        (["--network.widths", *["999999999"] * 4], "at most 65536"),
        (["--network.widths", *["65536"] * 4], "GiB"),
        (["--network.depths", "1", "2", "3", "1000000"], "at most 512"),
        (["--network.stochastic-depth", "nan"], "stochastic_depth"),
        (["--augment.policy-epochs", "9" * 30], "policy_epochs.* less than or equal to 1000000"),
        (["--recipe", "x" * 5000], "unknown recipe|too long"),
    ],
)
def test_words_of_training_have_limits_that_are_said_before_any_work(
    run: Run, galaxy_folder: Path, words: list[str], says: str
) -> None:
    begin = time.monotonic()
    sentence = run("train", galaxy_folder, "--device", "cpu", "--quiet", *words).refusal()
    assert re.search(says, sentence), sentence
    assert len(sentence) < 4200
    assert not Path("runs").exists()
    assert time.monotonic() - begin < 20


def test_words_of_other_commands_have_limits(run: Run) -> None:
    small_model().save("model")
    for words, says in (
        (["info", "astroformer_atto", "--num-classes", "999999999"], "at most 100000"),
        (["info", "astroformer_atto", "--image-size", "999999999"], "at most 16384"),
        (["symmetry", "astroformer_atto", "--num-classes", "999999999"], "at most 100000"),
        (["symmetry", "astroformer_atto", "--image-size", "999999999"], "at most 4096"),
        (["symmetry", "timm:resnet18", "--image-size", "999999999"], "at most 4096"),
        (["symmetry", "model", "--seed", "-1"], "from 0 to 2147483647"),
        (["symmetry", "model", "--seed", "99999999999999999999"], "from 0 to 2147483647"),
        (["symmetry", "model", "--shifts", "999999999"], "at most 100,000"),
        (["symmetry", "model", "--batch-size", "999999999"], "at most 100,000"),
        (["symmetry", "model", "--images", "999999999"], "at most 1,000,000"),
        (["symmetry", "model", "--data", "mock-galaxies:99999999999"], "1 to 10,000,000"),
    ):
        assert says in run(*words, "--quiet" if words[0] == "symmetry" else "--json").refusal()


def test_limits_leave_what_is_used() -> None:
    assert make_recipe({"epochs": 1_000_000, "folds": 1000, "fold": 999}).fold == 999
    assert len(seeds_and_folds(Recipe(folds=10), seeds=100, all_folds=True)) == 1000
    assert AnswersConfig(symmetry="shift+d4", views=8).views == 8


def test_a_message_is_one_line_of_bounded_length() -> None:
    assert str(UserError("a\nb\x1b[31m\u2028é")) == r"a\nb\x1b[31m\u2028é"
    assert len(str(UserError("x" * 10**6))) < 4200
    assert brief(10**50, 10) == "1000000000…"


@pytest.mark.parametrize("empty", ["", " "])
@pytest.mark.parametrize(
    "words",
    [
        ["predict", "{}", "x.png"],
        ["predict", "M", "{}"],
        ["predict", "M", "a.png", "{}", "b.png"],
        ["predict", "M", "a.png", "--out", "{}"],
        ["evaluate", "{}", "S"],
        ["evaluate", "M", "{}"],
        ["symmetry", "{}"],
        ["symmetry", "M", "--data", "{}"],
        ["info", "{}"],
        ["show", "{}"],
        ["train", "{}"],
        ["train", "mock-galaxies:20x32", "--valid", "{}"],
        ["train", "mock-galaxies:20x32", "--init-from={}"],
        ["train", "mock-galaxies:20x32", "--epochs", "3", "{}"],
    ],
)
def test_an_empty_word_is_not_the_current_folder(words: list[str], empty: str, run: Run) -> None:
    """A variable of a shell that is not set gives one."""
    refused = run(*(word.format(empty) for word in words)).refusal()
    assert re.search("has an empty word|needs a value|can't make sense of", refused)


def test_a_program_is_told_what_it_gave_in_place_of_a_path() -> None:
    array = np.zeros((2000, 8, 8, 3), np.uint8)
    for call in (astroformer.train, astroformer.load, astroformer.resume):
        for given, named in ((None, "NoneType"), (array, "ndarray"), ([array], "list"), (3, "int")):
            with pytest.raises(UserError, match=rf"not {named}") as caught:
                call(given)  # type: ignore[operator]
            assert len(str(caught.value)) < 250
        with pytest.raises(UserError, match="empty"):
            call("")  # type: ignore[operator]
    for word in ("valid", "init_from", "out", "cache"):
        with pytest.raises(UserError, match="not ndarray") as caught:
            astroformer.train("mock-galaxies:20x32", Recipe(epochs=1, image_size=32, crop=1.0), **{word: array})
        assert len(str(caught.value)) < 250
