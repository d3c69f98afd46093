"""Training an ensemble: members on one split, stopped and resumed as one, and the model made of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import astroformer
from astroformer.cli.main import main
from astroformer.errors import UserError
from astroformer.training import study as study_module
from astroformer.training.ensemble import TrainedEnsemble, train_ensemble
from astroformer.training.recipe import Recipe, make_recipe
from astroformer.training.stopping import Interrupted
from astroformer.training.study import train_many
from astroformer.training.train import resume, train

SOURCE = "mock-galaxies:40x32"
WORDS = ["--epochs", "1", "--batch-size", "8", "--image-size", "32", "--crop", "1", "--device", "cpu", "--quiet"]


def recipe(**changes: Any) -> Recipe:
    settings = {"model": "astroformer_atto", "epochs": 1, "batch_size": 8, "image_size": 32, "device": "cpu"}
    return make_recipe({**settings, "crop": 1.0, **changes})


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ensemble-cache")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> TrainedEnsemble:
    """An ensemble of two. Read only."""
    out = tmp_path_factory.mktemp("ensemble") / "run"
    return train_ensemble(SOURCE, recipe(seed=3), members=2, out=out, cache=cache, together="in-turn")


@pytest.fixture
def run(trained: TrainedEnsemble, tmp_path: Path) -> Path:
    """Its run folder, which a test may change."""
    return Path(shutil.copytree(trained.run, tmp_path / "run"))


def test_members_share_the_split_and_differ_in_their_seed(
    trained: TrainedEnsemble, cache: Path, tmp_path: Path
) -> None:
    first, second = (trained.run / name for name in ("seed-3", "seed-4"))
    for part in ("train.csv", "valid.csv"):
        assert (first / "splits" / part).read_bytes() == (second / "splits" / part).read_bytes()
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (first, second)]
    assert weights[0] != weights[1]
    # Repeated from its recipe, a member is the same; and another seed alone would have split otherwise.
    alone = train(SOURCE, recipe(seed=4, split_seed=3), out=tmp_path / "alone", cache=cache)
    assert (alone.model / "model.safetensors").read_bytes() == weights[1]
    other = train(SOURCE, recipe(seed=4), out=tmp_path / "other", cache=cache)
    assert (other.run / "splits" / "valid.csv").read_bytes() != (second / "splits" / "valid.csv").read_bytes()


def test_its_metrics_are_those_of_the_mean_of_the_probabilities(trained: TrainedEnsemble) -> None:
    held_out = (trained.run / "seed-3" / "splits" / "valid.csv").read_text().splitlines()[1:]
    images = astroformer.open_source(SOURCE, seed=3)
    chosen = images.subset(np.array([images.files.index(line.split(",")[0]) for line in held_out]))
    members = [astroformer.load(model) for model in trained.members.models.values()]
    mean_NK = np.mean([member.predict(chosen).probabilities_NK for member in members], 0)
    assert chosen.labels is not None
    measured = astroformer.score(chosen.labels, mean_NK, trained.classifier.classes)
    assert trained.validation["nll"] == pytest.approx(measured["nll"], abs=1e-5)
    assert trained.validation["top1"] == pytest.approx(measured["top1"])
    info = astroformer.load(trained.run).info  # a run folder stands for its model
    assert info.metrics.intervals["nll"].value == pytest.approx(trained.validation["nll"])
    alone = [member.info.metrics.intervals["balanced_accuracy"].value for member in members]
    assert info.member_metrics["balanced_accuracy"].mean == pytest.approx(np.mean(alone))
    # By Jensen's inequality, image by image.
    assert trained.validation["nll"] <= info.member_metrics["nll"].mean + 1e-6
    assert "1 epoch for each of 2 members, seeds 3 to 4" in info.training


def test_a_finished_member_is_not_trained_again(run: Path, trained: TrainedEnsemble) -> None:
    shutil.rmtree(run / "model")
    shutil.rmtree(run / "seed-4" / "model")
    (run / "seed-4" / "checkpoint.safetensors").unlink()
    before = {file: file.stat().st_mtime_ns for file in (run / "seed-3").rglob("*")}
    result = resume(run)
    assert {file: file.stat().st_mtime_ns for file in (run / "seed-3").rglob("*")} == before
    expected = (trained.model / "model.safetensors").read_bytes()
    assert (result.model / "model.safetensors").read_bytes() == expected
    with pytest.raises(UserError, match=f"ensemble '{run}' is finished, its model is {run / 'model'}"):
        resume(run)


def test_the_model_alone_may_be_missing(run: Path, trained: TrainedEnsemble) -> None:
    shutil.rmtree(run / "model")
    assert main(["train", "--resume", str(run), "--quiet"]) == 0
    expected = (trained.model / "config.json").read_text()
    assert (run / "model" / "config.json").read_text() == expected


def test_a_member_of_another_split_is_refused(run: Path) -> None:
    shutil.rmtree(run / "model")
    split = run / "seed-4" / "splits" / "valid.csv"
    split.write_text("\n".join(split.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(UserError, match=r"member seed-4 of .* was trained on another split than seed-3"):
        resume(run)
    assert not (run / "model").exists()


def test_a_member_that_fails_leaves_no_model(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(run / "model")
    shutil.rmtree(run / "seed-4" / "model")

    def failing(folder: Path, *_: Any, **__: Any) -> None:
        raise UserError(f"{folder.name} can't go on.")

    monkeypatch.setattr(study_module, "resume_run", failing)
    assert main(["train", "--resume", str(run), "--quiet"]) == 2
    assert (
        f"1 of 2 members failed, seed-4: seed-4 can't go on; astroformer train --resume {run}"
        in capsys.readouterr().err
    )
    assert not (run / "model").exists()


def test_what_stops_a_member_stops_the_ensemble(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(run / "model")
    shutil.rmtree(run / "seed-4" / "model")

    def stopped(*_: Any, **__: Any) -> None:
        raise Interrupted("this run alone", signal.SIGINT)

    monkeypatch.setattr(study_module, "resume_run", stopped)
    with pytest.raises(Interrupted, match=rf"--resume {run}$"):
        resume(run)


@pytest.mark.slow
def test_the_command_in_a_process_of_its_own(tmp_path: Path, cache: Path) -> None:
    command = [str(Path(sys.executable).with_name("astroformer")), "train", SOURCE, *WORDS]
    done = subprocess.run(
        [*command, "--cache", str(cache), "--ensemble", "2", "--together", "processes"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["seed-0", "seed-1"]
    assert lines[3].startswith("mean ± sd")
    assert lines[4] == "ensemble of 2:"
    assert lines[5].startswith("validation images")
    assert "astroformer train --distil runs/mock-galaxies-1 " in lines[-2]
    assert lines[-1] == "model: runs/mock-galaxies-1/model"
    record = json.loads((tmp_path / "runs/mock-galaxies-1/runs.json").read_text())
    assert (record["together"], record["ensemble"]) == ("processes", True)
    assert astroformer.load(tmp_path / "runs/mock-galaxies-1").predict(np.zeros((32, 32, 3), np.uint8)).names[0]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--ensemble", "1"], "--ensemble 1 can't be; give 2 members or more"),
        (["--ensemble", "2", "--seeds", "2"], "--ensemble makes one model of several seeds on one split, --seeds"),
        (["--ensemble", "2", "--seeds", "1"], "--ensemble makes one model of several seeds on one split, --seeds"),
        (
            ["--ensemble", "2", "--folds", "3", "--all-folds"],
            "--ensemble trains all its members on one split, --all-folds",
        ),
        (["--ensemble", "2", "--epochs", "0"], "'epochs' can't be 0"),
    ],
)
def test_words_that_exclude_each_other(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", SOURCE, *words]) == 2
    said = capsys.readouterr()
    assert says in said.err
    assert said.err.count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_a_run_cannot_start_from_an_ensemble_but_from_a_member(
    trained: TrainedEnsemble, tmp_path: Path, cache: Path
) -> None:
    places: dict[str, Any] = {"out": tmp_path / "new", "cache": cache}
    with pytest.raises(UserError, match=r"an ensemble of 2 networks.*RUN/seed-0/model"):
        train(SOURCE, Recipe(epochs=1), init_from=trained.model, **places)
    member = trained.run / "seed-3" / "model"
    assert train(SOURCE, Recipe(epochs=1, batch_size=8), init_from=member, **places).model.is_dir()


def test_seeds_apart_keep_splits_of_their_own(tmp_path: Path, cache: Path) -> None:
    result = train_many(SOURCE, [recipe(), recipe(seed=1)], out=tmp_path / "g", cache=cache, together="in-turn")
    splits = [(model.parent / "splits" / "valid.csv").read_bytes() for model in result.models.values()]
    assert splits[0] != splits[1]
    assert "ensemble" not in json.loads((tmp_path / "g" / "runs.json").read_text())
