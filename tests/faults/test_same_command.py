"""The same command makes the same model: nothing is decided by the clock, and a resumed run has the threads it had."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from astroformer import system
from astroformer.errors import UserError
from astroformer.images.sources import open_source
from astroformer.training import machine
from astroformer.training.loop import Loop
from astroformer.training.machine import Machine, so_many_threads
from astroformer.training.recipe import make_recipe
from astroformer.training.rules import decide
from astroformer.training.run import RunFolder
from astroformer.training.stopping import Interrupted
from astroformer.training.study import train_many
from astroformer.training.train import resume, train
from helpers.listening import Listening

SOURCE = "mock-galaxies:40x32"
SETTINGS: dict[str, Any] = {"epochs": 2, "batch_size": 8, "image_size": 32, "crop": 1.0, "device": "cpu", "seed": 3,
                            "evaluations": 1}  # fmt: skip


@pytest.fixture(autouse=True)
def threads_stay() -> Iterator[None]:
    with so_many_threads(torch.get_num_threads()):
        yield


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: 2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with one thread. Read only."""
    with so_many_threads(1):
        return train(SOURCE, make_recipe(SETTINGS), out=tmp_path_factory.mktemp("finished") / "run").run


def weights(run: Path) -> bytes:
    return (run / "model" / "model.safetensors").read_bytes()


def stopped(out: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Path:
    """A run that was stopped in the middle of its first epoch."""
    step = Loop._make_step

    def signalled(self: Loop) -> None:
        step(self)
        if self.state.updates == 3:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_make_step", signalled)
        with pytest.raises(Interrupted):
            train(SOURCE, make_recipe({**SETTINGS, **settings}), out=out)
    return out


def change_record(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    fields = json.loads((run / "run.json").read_text())
    change(fields)
    fields.pop("hashes", None)  # or the change would be refused
    (run / "run.json").write_text(json.dumps(fields))


# Precision --------------------------------------------------------------------------------------------------


def test_what_a_run_computes_is_decided_without_a_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast or slow this machine seems to be at the moment, the recipe is the same."""
    images = open_source(SOURCE)
    decided = decide(make_recipe({"device": "cpu"}), images)
    system.matrix_rates.cache_clear()  # whoever wants the rates has to measure them

    def asked() -> float:
        raise AssertionError("a clock was asked")

    monkeypatch.setattr(time, "perf_counter", asked)
    assert decide(make_recipe({"device": "cpu"}), images) == decided
    with pytest.raises(AssertionError, match="a clock was asked"):
        system.matrix_rates()
    has_it = system.bfloat16_instructions() is not None
    assert decided[0].precision == ("bf16" if has_it and decided[0].speed == "fused" else "no")


# Threads ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"speed": "plain", "precision": "no"}], ids=["by default", "plain"])
def test_a_resumed_run_has_the_threads_that_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_cores: None, settings: dict[str, Any]
) -> None:
    torch.set_num_threads(1)
    whole = train(SOURCE, make_recipe({**SETTINGS, **settings}), out=tmp_path / "whole").run
    run = stopped(tmp_path / "stopped", monkeypatch, **settings)
    torch.set_num_threads(2)
    listening = Listening()
    resume(run, reporter=listening)
    assert weights(run) == weights(whole)
    assert "1 thread, as the run began with, in place of 2" in listening.said
    assert torch.get_num_threads() == 2  # as it was
    other = train(SOURCE, make_recipe({**SETTINGS, **settings}), out=tmp_path / "other").run
    assert weights(other) != weights(whole)  # else nothing is shown above


def test_the_number_of_threads_of_a_process_is_not_that_of_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: Path
) -> None:
    torch.set_num_threads(1)
    run = stopped(tmp_path / "stopped", monkeypatch)
    done = subprocess.run(
        [sys.executable, "-m", "astroformer.cli", "train", "--resume", str(run)],
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "1 thread, as the run began with, in place of 2" in done.stdout + done.stderr
    assert weights(run) == weights(finished)


def test_nothing_is_said_where_nothing_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, listening = stopped(tmp_path / "run", monkeypatch), Listening()
    resume(run, reporter=listening)
    assert not [sentence for sentence in listening.said if "thread" in sentence or "bits" in sentence]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"threads": 64}, "it began with 64 threads, and there are cores for 2"),
        ({"versions": {"torch": "1.0"}}, "it began with torch 1.0, and this is "),
        ({"instructions": ["AVX7"]}, "it began on a processor with AVX7, and this one has "),
        ({"instructions": []}, "it began on a processor with none of the instructions that matter, and this one has "),
    ],
)
def test_what_changes_the_bits_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_cores: None, change: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr(machine, "instructions", lambda: ["AVX2"])
    run, listening = stopped(tmp_path / "run", monkeypatch), Listening()
    change_record(run, lambda fields: fields.update(change))
    resume(run, reporter=listening)
    [sentence] = [sentence for sentence in listening.said if "last bits" in sentence]
    assert sentence.startswith("the last bits of the weights can differ from those of a run that is not stopped: ")
    assert said in sentence
    assert (run / "model").is_dir()


def test_a_run_of_before_is_resumed_with_what_its_record_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, listening = stopped(tmp_path / "run", monkeypatch), Listening()
    change_record(run, lambda fields: fields.pop("instructions"))
    assert RunFolder.open(run).read_record().machine.instructions is None
    change_record(run, lambda fields: fields.pop("threads"))
    resume(run, reporter=listening)
    assert not [sentence for sentence in listening.said if "thread" in sentence or "bits" in sentence]


@pytest.mark.parametrize(
    "change",
    [{"threads": value} for value in (0, -1, "2", 1.5, True, [])]
    + [{"instructions": value} for value in ("AVX2", [1], {})]
    + [{"versions": []}],
)
def test_a_damaged_record_of_the_machine_is_said(tmp_path: Path, finished: Path, change: dict[str, Any]) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    change_record(run, lambda fields: fields.update(change))
    with pytest.raises(UserError, match=r"run\.json' is damaged"):
        RunFolder.open(run).read_record()


def test_more_threads_than_cores_are_kept_where_they_are_asked_for(two_cores: None) -> None:
    torch.set_num_threads(4)
    began = Machine.here()
    assert (began.usable_threads(), began.sentences()) == (4, [])
    torch.set_num_threads(1)
    assert began.usable_threads() == 2


@pytest.mark.parametrize("together", ["processes", pytest.param("in-turn", marks=pytest.mark.slow)])
def test_a_study_records_the_threads_of_each_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_cores: None, together: Any
) -> None:
    torch.set_num_threads(2)
    recipes = [make_recipe({**SETTINGS, "epochs": 1, "seed": seed}) for seed in (0, 1)]
    study = train_many(SOURCE, recipes, out=tmp_path / "study", together=together)
    share = 1 if together == "processes" else 2
    for seed in (0, 1):
        run = tmp_path / "study" / f"seed-{seed}"
        assert json.loads((run / "run.json").read_text())["threads"] == share
        assert Machine.from_record(json.loads((run / "run.json").read_text())).torch == Machine.here().torch
    assert study.errors == {}
    torch.set_num_threads(share)
    alone = train(SOURCE, recipes[1], out=tmp_path / "alone").run
    assert weights(tmp_path / "study" / "seed-1") == weights(alone)
