"""Several runs at once are the runs alone: the same folders, the same bits, stopped and resumed together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from astroformer import ownership
from astroformer.cli import main as cli
from astroformer.errors import UserError
from astroformer.progress import Reporter
from astroformer.system import cuda_devices
from astroformer.training import side_by_side
from astroformer.training import study as study_module
from astroformer.training.recipe import Recipe, make_recipe
from astroformer.training.stopping import Interrupted
from astroformer.training.study import Study, prepare_study, seeds_and_folds, train_many
from astroformer.training.task import Task
from astroformer.training.train import resume, train

SOURCE = "mock-galaxies:40x32"
WORDS = [
    "--model",
    "astroformer_atto",
    "--batch-size",
    "8",
    "--image-size",
    "32",
    "--crop",
    "1",
    "--device",
    "cpu",
    "--quiet",
]


def recipe(**changes: Any) -> Recipe:
    settings = {"model": "astroformer_atto", "epochs": 1, "batch_size": 8, "image_size": 32, "device": "cpu"}
    return make_recipe({**settings, "crop": 1.0, **changes})


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def same(a: Path, b: Path) -> bool:
    ours, theirs = weights(a), weights(b)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("many-cache")


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests run with one thread; the workers are to be two at a time with one thread each."""
    monkeypatch.setattr(study_module, "_cores", lambda: 2)


def test_processes_give_the_bits_and_folders_of_the_runs_alone(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    group = tmp_path / "group"
    words = [*WORDS, "--epochs", "1"]
    places = ["--out", str(group), "--cache", str(cache)]
    options = ["--seeds", "3", "--seed", "4", "--network.stochastic-depth", "0.3"]
    assert cli.main(["train", SOURCE, *words, *places, *options]) == 0
    said = capsys.readouterr().out.splitlines()
    summary = json.loads((group / "summary.json").read_text())
    assert [row["run"] for row in summary["runs"]] == ["seed-4", "seed-5", "seed-6"]
    scores = [row["top1"] for row in summary["runs"]]
    assert summary["top1"] == pytest.approx({"mean": np.mean(scores), "sd": np.std(scores, ddof=1), "n": 3})
    assert said[-1] == f"summary: {group / 'summary.json'}"
    assert "(n = 3)" in said[-2]
    assert [line.split()[0] for line in said[1:4]] == ["seed-4", "seed-5", "seed-6"]
    for seed in (4, 6):
        settings = recipe(seed=seed, network={"stochastic_depth": 0.3})
        alone = train(SOURCE, settings, out=tmp_path / str(seed), cache=cache)
        run = group / f"seed-{seed}"
        assert same(run, alone.run)
        assert (run / "recipe.yaml").read_text() == (alone.run / "recipe.yaml").read_text()
        assert sorted(p.name for p in run.iterdir()) == sorted(p.name for p in alone.run.iterdir())
        assert alone.validation["top1"] == pytest.approx(scores[seed - 4])
    with pytest.raises(UserError, match=r"all runs of .* are finished"):
        resume(group)


def test_runs_are_dealt_to_the_gpus(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPUs are stand-ins: what a worker is given to see, while it computes on the CPU."""
    busy, dealt = set[str](), list[str]()

    class Worker(side_by_side._Worker):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            assert self.gpu is not None
            assert self.gpu not in busy
            busy.add(self.gpu)
            dealt.append(self.gpu)
            seen = Path(f"/proc/{self._process.pid}/environ").read_text().split("\0")
            assert f"CUDA_VISIBLE_DEVICES={self.gpu}" in seen

        def error(self) -> str | None:
            told = super().error()
            busy.discard(str(self.gpu))
            return told

    monkeypatch.setattr(side_by_side, "_Worker", Worker)
    monkeypatch.setattr(study_module, "_gpus", lambda recipe: ["2", "GPU-5f"])
    said: list[str] = []
    reporter = Reporter(quiet=True)
    monkeypatch.setattr(reporter, "say", said.append)
    recipes = [recipe(seed=seed) for seed in range(4)]
    result = train_many(SOURCE, recipes, out=tmp_path / "group", cache=cache, reporter=reporter)
    assert not result.errors
    assert dealt[:2] == ["2", "GPU-5f"]
    assert len(dealt) == 4
    assert not busy
    assert "4 runs, 2 at a time, a GPU each" in said
    assert json.loads((tmp_path / "group" / "runs.json").read_text())["together"] == "processes"


@pytest.mark.parametrize(
    ("visible", "count", "named"),
    [(None, 3, ["0", "1", "2"]), ("3,1", 2, ["3", "1"]), ("GPU-5f, GPU-77", 2, ["GPU-5f", "GPU-77"]), ("", 0, [])],
)
def test_gpus_are_named_as_this_process_sees_them(
    visible: str | None, count: int, named: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert cuda_devices() == named


def test_every_split_of_a_source_reads_one_store(tmp_path: Path) -> None:
    settings = recipe(folds=3)
    result = train_many(
        SOURCE,
        seeds_and_folds(settings, all_folds=True),
        out=tmp_path / "group",
        cache=tmp_path / "cache",
        together="in-turn",
    )
    assert list(result.models) == ["seed-0-fold-0", "seed-0-fold-1", "seed-0-fold-2"]
    assert len([p for p in (tmp_path / "cache").iterdir() if (p / "array.npy").exists()]) == 1
    held_out = [
        line.split(",")[0]
        for name in result.models
        for line in (result.run / name / "splits" / "valid.csv").read_text().splitlines()[1:]
    ]
    assert sorted(held_out) == sorted(set(held_out))
    assert len(held_out) == 40


def test_a_study_that_was_begun_as_a_stack_goes_on_in_turn(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = prepare_study(
        Task(SOURCE, cache=cache), [recipe(), recipe(seed=1)], out=tmp_path / "s", together="in-turn",
        reporter=Reporter(quiet=True),
    )  # fmt: skip
    record = json.loads((study.folder / "runs.json").read_text())
    del record["sha256"]  # which the versions that stacked runs did not write
    (study.folder / "runs.json").write_text(json.dumps({**record, "together": "stacked"}))
    ownership.release(study.folder)
    assert cli.main(["train", "--resume", str(study.folder)]) == 0
    assert "seed-1 (2 of 2)" in capsys.readouterr().err
    assert not Study.open(study.folder).unfinished()


def test_one_that_fails_does_not_lose_the_others(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = {"optimizer": "sgd", "learning_rate": 1e38, "clip": None, "seed": 1, "epochs": 3}
    result = train_many(SOURCE, [recipe(), recipe(**bad)], out=tmp_path / "group", cache=cache)
    assert list(result.models) == ["seed-0"]
    assert "not finite" in result.errors["seed-1"]
    assert result.validation["top1"].n == 1
    assert cli.main(["train", "--resume", str(result.run), "--quiet"]) == 2
    said = capsys.readouterr()
    assert "1 of 2 runs failed (seed-1)" in said.err
    assert "failed: the loss is not finite" in said.out


def test_a_worker_that_is_killed_amid_a_line_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "python"  # in the place of the interpreter
    program.write_text("""#!/bin/sh\necho '["say", "begun"]'\nprintf '["say", "half'\nkill -9 $$\n""", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setattr(side_by_side.sys, "executable", str(program))
    said: list[str] = []
    reporter = Reporter(quiet=True)
    monkeypatch.setattr(reporter, "say", said.append)
    errors = side_by_side.run_side_by_side([tmp_path / "seed-0"], 1, 1, reporter, stop=lambda: False)
    assert errors == {"seed-0": "its process was ended by SIGKILL (out of memory?)"}
    assert said[0] == "seed-0: begun"


def test_a_worker_that_dies_is_named(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        side_by_side._Worker, "_listen", lambda self, events: (self.kill(), events.put((self.name, "end", None)))
    )
    result = train_many(SOURCE, seeds_and_folds(recipe(), seeds=2), out=tmp_path / "group", cache=cache)
    assert result.errors == dict.fromkeys(["seed-0", "seed-1"], "its process was ended by SIGKILL (out of memory?)")
    assert result.validation == {}


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_a_stopped_group_saves_and_goes_on_to_the_same_bits(tmp_path: Path, cache: Path, number: int) -> None:
    group = tmp_path / "group"
    words = [*WORDS, "--epochs", "25"]
    places = ["--out", str(group), "--cache", str(cache), "--seeds", "2", "--evaluations", "1"]
    command = [sys.executable, "-m", "astroformer.cli", "train", SOURCE, *words, *places]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "2"})
    checkpoints = [group / f"seed-{seed}" / "checkpoint.safetensors" for seed in (0, 1)]
    try:
        deadline = time.monotonic() + 120
        while not all(path.is_file() for path in checkpoints):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        first = [path.stat().st_mtime_ns for path in checkpoints]
        time.sleep(1.0)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    # Workers whose parent was killed save and stop as well.
    deadline = time.monotonic() + 60
    while any(path.stat().st_mtime_ns == t for path, t in zip(checkpoints, first, strict=True)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    if number == signal.SIGTERM:
        assert process.returncode == 143
        assert said == f"stopped and saved; continue with: astroformer train --resume {group}\n"
    assert not any((group / f"seed-{seed}" / "model").exists() for seed in (0, 1))
    if number == signal.SIGTERM:
        result = resume(group)
        assert list(result.models) == ["seed-0", "seed-1"]
        settings = recipe(epochs=25, seed=1, evaluations=1)
        assert same(group / "seed-1", train(SOURCE, settings, out=tmp_path / "alone", cache=cache).run)


def test_what_cannot_be_done_is_said_before_the_work(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(UserError, match="--folds 5"):
        seeds_and_folds(recipe(), all_folds=True)
    with pytest.raises(UserError, match="seeds is 0"):
        seeds_and_folds(recipe(), seeds=0)
    with pytest.raises(UserError, match="Did you mean 'processes'"):
        train_many(SOURCE, [recipe()], together="proceses")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="stacked into one program any more"):
        train_many(SOURCE, [recipe()], together="stacked")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no study"):
        Study.open(tmp_path)
    assert cli.main(["train", SOURCE, "--seeds", "2", "--together", "stacked"]) == 2
    assert cli.main(["train", SOURCE, "--together", "stacked"]) == 2
    # What shows while the runs are prepared leaves no empty folder behind.
    with pytest.raises(UserError, match="'Spiral', which is no class"):
        train_many(SOURCE, [recipe(class_weights={"Spiral": 2.0})], out=tmp_path / "group", cache=cache)
    assert not (tmp_path / "group").exists()


def test_in_turn_stops_as_a_whole(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise Interrupted("this run alone", signal.SIGTERM)

    monkeypatch.setattr(study_module, "resume_run", stopped)
    recipes = seeds_and_folds(recipe(), seeds=2)
    with pytest.raises(Interrupted, match=rf"--resume {tmp_path / 'group'}$"):
        train_many(SOURCE, recipes, out=tmp_path / "group", cache=cache, together="in-turn")


@pytest.mark.parametrize("content", ["{", "[]", b"\xff\xfe"])
def test_a_damaged_record_is_told(tmp_path: Path, content: str | bytes) -> None:
    (tmp_path / "runs.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=r"runs.json' is damaged"):
        resume(tmp_path)
