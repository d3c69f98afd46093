"""Nothing damaged or foreign decides a resume or an answer: records, recipes, splits, checkpoints and model folders."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import astroformer
from astroformer.errors import UserError
from astroformer.training.checkpoint import load_checkpoint, save_checkpoint
from astroformer.training.loop import Loop
from astroformer.training.recipe import Recipe, load_recipe, make_recipe
from astroformer.training.run import RunFolder
from astroformer.training.state import State
from astroformer.training.stopping import Interrupted
from astroformer.training.train import resume, train
from helpers.command_line import Run
from helpers.fuzzing import pictures
from helpers.listening import Listening
from helpers.mutations import changed_json

STOPS_AT = 3  # updates, of which an epoch of these runs has two
RECIPE: dict[str, Any] = {
    "model": "astroformer_atto",
    "network": {"widths": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "layout": "CCCC", "channel_attention": "none"},
    **{"epochs": 2, "image_size": 32, "crop": 1.0, "batch_size": 4, "evaluations": 1},
    **{"device": "cpu", "speed": "plain", "precision": "no"},
}


def stop(source: Path, out: Path, **changes: Any) -> Path:
    """A run that was stopped in its second epoch."""
    with (
        mock.patch.object(Loop, "_asked_to_stop", lambda self: bool(self.state.updates == STOPS_AT)),
        contextlib.suppress(Interrupted),
    ):
        train(source, make_recipe({**RECIPE, **changes}), out=out, cache=out.parent / "cache")
    return out


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("records")
    return stop(pictures(root / "set"), root / "run")


@pytest.fixture
def copy(stopped: Path, tmp_path: Path) -> Path:
    """A copy of the run, which a test may damage."""
    return Path(shutil.copytree(stopped, tmp_path / "run"))


def change_json(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def refused(run: Path, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        resume(run)
    assert "\n" not in str(caught.value)
    assert not (run / "model" / "config.json").exists()


# The files of a run -----------------------------------------------------------------------------------------


def test_a_recipe_that_was_changed_is_named_with_the_way_out(copy: Path, run: Run) -> None:
    file = copy / "recipe.yaml"
    file.write_text(file.read_text().replace("seed: 0", "seed: 1"))
    sentence = run("train", "--resume", copy, "--quiet").refusal()
    assert "recipe.yaml of run" in sentence
    assert "was changed since the run began" in sentence
    assert f"start a new run: astroformer train SOURCE --recipe {file}" in sentence
    assert load_recipe(file).seed == 1  # the way out exists


@pytest.mark.parametrize("name", ["train.csv", "valid.csv"])
def test_a_split_that_was_changed_is_refused(copy: Path, name: str) -> None:
    file = copy / "splits" / name
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:-1]) + "\n")  # an image less: nothing else would tell
    refused(copy, f"splits/{name} of run .* was changed since the run began")
    file.unlink()
    refused(copy, f"lacks splits/{name}")


def test_every_word_of_the_record_is_covered_but_for_places(copy: Path, stopped: Path) -> None:
    file = copy / "run.json"
    whole = json.loads(file.read_text())
    for name, value in whole.items():
        if name in ("source", "valid", "cache", "hashes"):
            continue
        other: Any = {bool: not value, str: f"{value}x", int: 7}.get(type(value), [value])
        file.write_text(json.dumps({**whole, name: other}))
        refused(copy, "was changed since the run began|is damaged|unknown|must be|is .*: give")
    # Images and cache may move: what the images contain is proved by the name of their store.
    moved = Path(shutil.copytree(whole["source"], copy.parent / "moved"))
    file.write_text(json.dumps({**whole, "source": str(moved), "cache": str(copy.parent / "cache")}))
    resume(copy)
    assert (copy / "model" / "config.json").is_file()


def test_a_run_without_hashes_goes_on_and_says_that_it_is_not_covered(copy: Path) -> None:
    change_json(copy / "run.json", lambda record: record.pop("hashes"))
    header, tensors = contents(copy / "checkpoint.safetensors")
    for name in ("format", "run"):  # as versions before 0.2 wrote it
        del header[name]
    save_file(tensors, copy / "checkpoint.safetensors", {"json": json.dumps(header)})
    listening = Listening()
    resume(copy, reporter=listening)
    assert any("has no hashes, as versions before 0.2" in sentence for sentence in listening.said)
    assert any("has no digest, as versions before 0.2" in sentence for sentence in listening.said)


@pytest.mark.parametrize("covered", [True, False])
def test_damaged_files_of_a_run_are_said(copy: Path, covered: bool) -> None:
    if not covered:
        change_json(copy / "run.json", lambda record: record.pop("hashes"))
    for name, contents, says in (
        ("recipe.yaml", "{", "recipe.yaml"),
        ("recipe.yaml", "", "recipe.yaml|leaves image_size open"),
        ("recipe.yaml", "[" * 9000, "recipe.yaml"),
        ("run.json", "{}", "it lacks"),
        ("run.json", "[" * 9000, "nested too deeply"),
        ("run.json", '{"source": 1}', "is damaged"),
        ("splits/train.csv", "file,label\n", "train.csv.* lists no image|changed"),
        ("checkpoint.safetensors", "", "is damaged"),
    ):
        before = (copy / name).read_bytes()
        (copy / name).write_text(contents)
        refused(copy, says)
        (copy / name).write_bytes(before)


@pytest.mark.parametrize(
    "name", ["model", "splits", "checkpoint.safetensors", "history.csv", "recipe.yaml", "run.json"]
)
def test_something_else_in_the_place_of_a_file_or_a_folder_is_said(copy: Path, name: str) -> None:
    path = copy / name
    was_folder = path.is_dir()
    if was_folder:
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if was_folder or name == "model":
        path.write_text("x")
        refused(copy, rf"'.*{name}' is no folder|lacks {name}")
        return
    path.mkdir()
    refused(copy, f"is no file|lacks {name}|is no run folder")
    path.rmdir()
    os.mkfifo(path)  # reading it would wait for ever
    refused(copy, f"is no file|lacks {name}|is no run folder")


def test_a_class_that_was_added_to_the_images_is_said(copy: Path) -> None:
    images = Path(shutil.copytree(json.loads((copy / "run.json").read_text())["source"], copy.parent / "more"))
    shutil.copytree(images / "ring", images / "spiral")
    change_json(copy / "run.json", lambda record: record.update(source=str(images)))
    refused(copy, r"the classes of '.*more' have changed since run '.*' began with disc, ring")


def test_a_run_whose_checkpoint_is_gone_says_that_it_begins_again(copy: Path) -> None:
    (copy / "checkpoint.safetensors").unlink()
    (copy / "history.csv").write_text("epoch\n")
    listening = Listening()
    resume(copy, reporter=listening)
    assert any("has no checkpoint by now, so it begins again" in sentence for sentence in listening.said)


# Checkpoints ------------------------------------------------------------------------------------------------


def contents(file: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    with safe_open(file, framework="pt") as stream:
        return json.loads(stream.metadata()["json"]), load_file(file)


def test_no_bit_of_a_checkpoint_flips_unnoticed(copy: Path) -> None:
    file, rng = copy / "checkpoint.safetensors", random.Random(0)
    whole = file.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for n in range(120):
        damaged = bytearray(whole)
        damaged[rng.randrange(header, len(whole)) if n % 2 else rng.randrange(header)] ^= 1 << rng.randrange(8)
        file.write_bytes(damaged)
        with pytest.raises(UserError, match="is damaged"):
            load_checkpoint(file)
    file.write_bytes(whole)
    load_checkpoint(file)


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": 10**12},
        {"epoch": 3},
        {"step": -1},
        {"step": 2, "updates": 4, "epoch": 2},
        {"updates": 4},
        {"evaluated": 9},
        {"elapsed": float("nan")},
        {"elapsed": -1.0},
        {"loss_sum": float("inf")},
        {"images": 1.5},
        {"epoch": True},
        {"history": {}},
        {"history": [1]},
        {"history": [{"epoch": "x"}]},
        {"new": 1},
    ],
)
def test_a_state_that_no_run_comes_to_is_refused_whatever_its_digest(copy: Path, change: dict[str, Any]) -> None:
    rewrite(copy, lambda tensors, header: header["state"].update(change))
    refused(copy, "does not fit its run|is damaged")


def test_a_run_by_the_clock_is_not_over_by_a_wrong_clock() -> None:
    kept = {**vars(State()), "elapsed": 10.0**12}
    with pytest.raises(UserError, match="never comes"):
        State.of_checkpoint(kept, Recipe(minutes=1), 2)
    State.of_checkpoint({**kept, "elapsed": 70.0}, Recipe(minutes=1), 2)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, header: tensors["optimizer/0/exp_avg"].fill_(float("nan")),
        lambda tensors, header: tensors["network/head.classifier.weight"].fill_(float("inf")),
        lambda tensors, header: tensors.update({"optimizer/0/exp": tensors.pop("optimizer/0/exp_avg")}),
        lambda tensors, header: tensors.update({"optimizer/9999/exp_avg": tensors.pop("optimizer/0/exp_avg")}),
        lambda tensors, header: tensors.update({"optimizer/0/exp_avg": torch.ones(3)}),
        lambda tensors, header: tensors.update({"network/x": tensors.pop("network/head.classifier.weight")}),
        lambda tensors, header: tensors.update({"network/head.classifier.weight": torch.ones(9, 9)}),
        lambda tensors, header: [tensors.pop(name) for name in list(tensors) if name.startswith("average/")],
        lambda tensors, header: header.update(optimizer_groups=[]),
    ],
)
def test_tensors_that_do_not_fit_are_refused_whatever_their_digest(copy: Path, change: Callable[..., object]) -> None:
    rewrite(copy, change)
    refused(copy, "does not fit its run|is damaged|does not hold the network")


def rewrite(run: Path, change: Callable[[dict[str, torch.Tensor], dict[str, Any]], object]) -> None:
    """Another checkpoint with a right digest."""
    file = run / "checkpoint.safetensors"
    header, tensors = contents(file)
    change(tensors, header)
    groups: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        group, own = name.split("/", 1)
        groups.setdefault(group, {})[own] = tensor
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in groups.pop("optimizer", {}).items():
        index, own = name.split("/")
        state.setdefault(int(index), {})[own] = tensor
    optimizer = {"state": state, "param_groups": header["optimizer_groups"]}
    save_checkpoint(file, tensors=groups, optimizer=optimizer, state=header["state"], run=header["run"])


def test_a_rewritten_checkpoint_alone_is_no_reason_to_refuse(copy: Path) -> None:
    rewrite(copy, lambda tensors, header: None)
    resume(copy)


def test_the_checkpoint_of_another_run_is_refused(copy: Path, tmp_path: Path) -> None:
    source = Path(json.loads((copy / "run.json").read_text())["source"])
    other = stop(source, tmp_path / "other", seed=1)
    shutil.copy(other / "checkpoint.safetensors", copy)
    refused(copy, "was written by another run")


# Several runs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"threads": 2}, "was changed since the runs began"),
        ({"runs": ["seed-1"]}, "was changed since the runs began"),
        ({"sha256": None, "runs": ["../seed-0"]}, "is damaged"),
        ({"sha256": None, "runs": "seed-0"}, "is damaged"),
        ({"sha256": None, "threads": 10**9}, "is damaged"),
        ({"sha256": None, "at_once": 0}, "is damaged"),
    ],
)
def test_the_record_of_several_runs_is_covered(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    from astroformer.training.study import Study

    Study(tmp_path, ["seed-0"], "in-turn", 1, 1).write()
    assert Study.open(tmp_path).runs == ["seed-0"]
    change_json(tmp_path / "runs.json", lambda record: record.update(change))
    with pytest.raises(UserError, match=says):
        Study.open(tmp_path)


# Model folders ----------------------------------------------------------------------------------------------


def test_no_change_of_a_model_folder_changes_its_answers(model_folder: Path) -> None:
    file, text = model_folder / "config.json", (model_folder / "config.json").read_text()
    blocks = json.loads(text)
    for word, value in [("mean", [0.5, 0.5, 0.5]), ("crop", 0.5)]:
        file.write_text(json.dumps({**blocks, "input": {**blocks["input"], word: value}}))
        with pytest.raises(UserError, match=r"block 'input' of config\.json is not the one"):
            astroformer.load(model_folder)
    for block, value in [("classes", blocks["classes"][::-1]), ("format", 1), ("format", 3.0), ("hashes", {})]:
        file.write_text(json.dumps({**blocks, block: value}))
        with pytest.raises(UserError):
            astroformer.load(model_folder)
    for n in range(300):
        changed = changed_json(random.Random(n), text)
        with contextlib.suppress(ValueError, RecursionError):
            if json.loads(changed) == blocks:
                continue
        file.write_text(changed, errors="surrogatepass")
        with pytest.raises(UserError):
            astroformer.load(model_folder)


# Recipes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("epochs: 2024-99-99", "is no valid YAML"),
        ("epochs: " + "9" * 5000, "a number has 5,000 digits"),
        ("epochs: 0x" + "f" * 5000, "digits"),
        ("epochs: 010", "'010' is no plain number"),  # 8 in YAML
        ("minutes: 1:30", "'1:30' is no plain number"),  # 90 in YAML
        ("minutes: 1:30.5", "'1:30.5' is no plain number"),
        ("epochs: " + "[" * 5000, "nested too deeply"),
        ("epochs: 2\nepochs: 3", "'epochs' is given twice"),
        ("augment: {rotation: 1, rotation: 2}", "'rotation' is given twice"),
        ("epochs: &a 2\nbatch_size: *a", "refers to another place"),
        ("a: &a [1]\nb: &b [*a, *a]\nc: [*b, *b]", "refers to another place"),
        ("epochs: !!int ''", "is no valid YAML"),
        ("epochs: !!timestamp x", "is no valid YAML"),
        ("epochs: !!python/object:os.system x", "is no valid YAML"),
        ("1: 2", "names of settings are words"),
        ("? [1]\n: 2", "is no valid YAML"),
        ("epochs: 1e999", "'epochs'"),
        ("minutes: .nan", "'minutes'"),
        ("network: {stochastic_depth: .nan}", "'network.stochastic_depth'"),
        ("class_weights: {a: .inf}", "class_weights"),
        ("class_weights: {a: 1.0e+300}", "class_weights"),
        ('"a\\nb": 1', r"'a\\nb'"),
    ],
)
def test_what_yaml_can_hide_is_said(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=says) as caught:
        load_recipe(file)
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)


def test_a_recipe_of_a_million_lines_or_a_device_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(UserError, match="more than the 1 MiB"):
        load_recipe(file)
    record = RunFolder(tmp_path)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(UserError, match="is no regular file"):
        record.read_recipe()
