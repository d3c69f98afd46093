"""One owner at a time: of run folders, of outputs; and starts that fail, or are killed, stand in nobody's way."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from astroformer import ownership
from astroformer.errors import UserError
from astroformer.progress import Reporter
from astroformer.training.prepare import prepare
from astroformer.training.recipe import Recipe
from astroformer.training.run import RunFolder
from astroformer.training.single import complete
from astroformer.training.stopping import Interrupted
from astroformer.training.study import train_many
from astroformer.training.task import Task
from astroformer.training.train import resume, train
from helpers.command_line import Run

SOURCE = "mock-galaxies:20x32"
RECIPE = Recipe(epochs=1, image_size=32, crop=1.0, device="cpu")
WORDS = ["--epochs", "1", "--image-size", "32", "--crop", "1", "--device", "cpu", "--quiet"]
_HOLDER = """
import sys
from pathlib import Path
from astroformer import ownership
for place in sys.argv[1:]:
    ownership.take(Path(place))
print("taken", flush=True)
sys.stdin.read()
"""


class Holder:
    """A process that owns places until it is killed."""

    def __init__(self, *places: Path) -> None:
        command = [sys.executable, "-c", _HOLDER, *map(str, places)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "taken\n"
        self.said = f"is in use by process {self.process.pid} on {platform.node()}, since "

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def hold() -> Iterator[Callable[..., Holder]]:
    holders: list[Holder] = []

    def start(*places: Path) -> Holder:
        holders.append(Holder(*places))
        return holders[-1]

    yield start
    for holder in holders:
        holder.kill()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run. Read only."""
    return train(SOURCE, RECIPE, out=tmp_path_factory.mktemp("locks") / "run").run


def locks(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.name.endswith(ownership.LOCK)]


# -- ownership -------------------------------------------------------------------------------------------------------


def test_a_second_process_is_refused_and_a_kill_frees_the_place(tmp_path: Path, hold: Callable[..., Holder]) -> None:
    file, folder = tmp_path / "p.csv", tmp_path / "run"
    folder.mkdir()
    holder = hold(file, folder)
    for place in (file, folder, tmp_path / "." / "run" / ".." / "run"):
        with pytest.raises(ownership.InUse) as caught:
            ownership.take(place)
        assert holder.said in str(caught.value)
        assert "wait for it, or stop it" in str(caught.value)
    assert len(locks(tmp_path)) == 2
    holder.kill()
    assert len(locks(tmp_path)) == 2  # left by the kill, and in nobody's way
    with ownership.owned(file), ownership.owned(folder):
        assert ownership.is_held(file)
        with pytest.raises(ownership.InUse, match="this process"):
            ownership.take(folder)
    assert not ownership.is_held(folder)
    assert locks(tmp_path) == []


def test_a_patient_process_waits_for_one_that_ends(tmp_path: Path, hold: Callable[..., Holder]) -> None:
    holder = hold(tmp_path)
    threading.Timer(0.3, holder.kill).start()
    ownership.take(tmp_path, patience=30)
    ownership.release(tmp_path)


def test_without_locks_of_the_system_the_text_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "_lock", lambda descriptor: None)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    file, here = tmp_path / ownership.LOCK, platform.node()
    for text in (
        f"process {os.getppid()} on {here}, since 2026-01-01 00:00:00",
        f"process {ended.pid} on elsewhere, since 2026-01-01 00:00:00",
        "",
        "what is this",
    ):
        file.write_text(text)
        with pytest.raises(ownership.InUse, match="If it is gone, remove '") as caught:
            ownership.take(tmp_path)
        assert (text or "another process") in str(caught.value)
        assert file.read_text() == text
    file.write_text(f"process {ended.pid} on {here}, since 2026-01-01 00:00:00")
    ownership.take(tmp_path)
    assert file.read_text().startswith(f"process {os.getpid()} on {here}, since ")
    ownership.release(tmp_path)
    assert locks(tmp_path) == []


def test_the_first_of_several_processes_is_the_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    RunFolder(tmp_path).own()
    assert locks(tmp_path) == []
    monkeypatch.setenv("RANK", "0")
    RunFolder(tmp_path).own()
    assert ownership.is_held(tmp_path)
    ownership.release(tmp_path)


# -- commands --------------------------------------------------------------------------------------------------------


def test_every_command_says_who_has_its_output(
    run: Run, model_folder: Path, galaxy_folder: Path, finished: Path, hold: Callable[..., Holder]
) -> None:
    shutil.copytree(finished, "stopped")
    shutil.rmtree("stopped/model")
    study = Path("study")
    study.mkdir()
    (study / "runs.json").write_text('{"runs": ["seed-0"], "together": "in-turn", "at_once": 1, "threads": 1}')
    Path("new").mkdir()  # where another process prepares a run
    names = ("stopped", "study", "new", "p.csv", "e", "s")
    holder = hold(*map(Path, names))
    before = sorted(Path().rglob("*"))
    for name, words in (
        ("stopped", ["train", "--resume", "stopped", "--quiet"]),
        ("study", ["train", "--resume", "study", "--quiet"]),
        ("new", ["train", SOURCE, *WORDS, "--out", "new"]),
        ("new", ["train", SOURCE, *WORDS, "--out", "new", "--seeds", "2"]),
        ("new", ["train", "--distil", finished, "--out", "new", "--quiet"]),
        ("p.csv", ["predict", model_folder, galaxy_folder, "--out", "p.csv", "--quiet"]),
        ("e", ["evaluate", model_folder, galaxy_folder, "--out", "e", "--quiet"]),
        ("s", ["symmetry", model_folder, "--data", galaxy_folder, "--out", "s", "--quiet"]),
    ):
        sentence = run(*words).refusal()
        assert holder.said in sentence
        assert name in sentence
    assert sorted(Path().rglob("*")) == before
    holder.kill()
    assert run("train", "--resume", "stopped", "--quiet").status == 0
    assert locks(Path("stopped")) == []


def test_a_member_that_another_process_trains_is_not_trained_twice(
    tmp_path: Path, hold: Callable[..., Holder], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise Interrupted("stopped", signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr("astroformer.training.study.resume_run", stopped)
        recipes = [RECIPE.model_copy(update={"seed": seed}) for seed in (0, 1)]
        with pytest.raises(Interrupted):
            train_many(SOURCE, recipes, out=tmp_path / "s", together="in-turn")
    assert locks(tmp_path) == []
    holder = hold(tmp_path / "s" / "seed-0")
    study = resume(tmp_path / "s")
    assert holder.said in study.errors["seed-0"]  # type: ignore[union-attr]
    assert not (tmp_path / "s" / "seed-0" / "model").exists()
    assert (tmp_path / "s" / "seed-1" / "model" / "config.json").is_file()


def test_numbers_that_another_process_has_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hold: Callable[..., Holder]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/galaxies-1").mkdir(parents=True)
    hold(Path("runs/galaxies-1"))
    run = RunFolder.create(None, "galaxies")
    assert run.path == Path("runs/galaxies-2")
    run.abandon()
    assert sorted(Path("runs").iterdir()) == [Path("runs/galaxies-1")]


def test_no_lock_stays_behind_a_run(finished: Path) -> None:
    assert locks(finished) == []


# -- starts that fail ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError("a wheel came off"), KeyboardInterrupt(), OSError(28, "full", "x")])
@pytest.mark.parametrize("runs", [1, 2])
def test_a_start_that_fails_leaves_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, runs: int
) -> None:
    write, written = RunFolder.write_record, 0

    def failed(self: RunFolder, record: object) -> None:
        nonlocal written
        written += 1
        if written == runs:  # of the last one
            raise error
        write(self, record)  # type: ignore[arg-type]

    words = ["train", SOURCE, *WORDS, "--seeds", str(runs)]
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_record", failed)
        for out in ([], ["--out", "R"]):
            written = 0
            assert run(*words, *out).status in (1, 2, 130)
            assert list(Path().iterdir()) == []
        Path("mine").mkdir()
        written = 0
        assert run(*words, "--out", "mine").status in (1, 2, 130)
        assert list(Path().rglob("*")) == [Path("mine")]  # a folder of the user stays


_KILLED = """
import os, signal, sys
from astroformer.cli.main import main
from astroformer.training.run import RunFolder
write, left = RunFolder.write_record, int(sys.argv[1])
def killed(self, record):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, record)
RunFolder.write_record = killed
main(sys.argv[2:])
"""


@pytest.mark.parametrize("runs", [1, 2])
def test_a_start_that_was_killed_can_be_started_again(run: Run, runs: int) -> None:
    words = ["train", SOURCE, *WORDS, "--out", "R", "--seeds", str(runs), "--together"]
    words += ["in-turn"] if runs > 1 else ["auto"]
    process = subprocess.run([sys.executable, "-c", _KILLED, str(runs), *words], timeout=120, check=False)
    assert process.returncode == -signal.SIGKILL
    assert Path("R/.lock").is_file()
    assert len(list(Path("R").rglob("splits/train.csv"))) == runs
    refused = run("train", "--resume", "R").refusal()
    assert "its start was ended before the run had begun" in refused
    assert "Start it again with --out R." in refused
    assert run(*words).status == 0
    assert locks(Path("R")) == []
    assert len(list(Path("R").rglob("model/config.json"))) == runs


def test_what_a_user_has_in_a_folder_is_never_taken_for_a_killed_start(tmp_path: Path) -> None:
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "train.csv").write_text("mine")
    for lock in (False, True):  # the second as after a kill, with a file more
        if lock:
            (tmp_path / ownership.LOCK).write_text("process 1 on elsewhere")
            (tmp_path / "notes.txt").write_text("mine")
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(UserError, match="it holds files that are no run; give another --out"):
            RunFolder.create(tmp_path, SOURCE)
        assert [file for file in before if file.name != ownership.LOCK] == sorted(
            file for file in tmp_path.rglob("*") if file.name != ownership.LOCK
        )


def test_out_and_resume_never_point_to_each_other(run: Run, finished: Path) -> None:
    shutil.copytree(finished, "R")
    assert "it holds a finished run; give another --out." in run("train", SOURCE, *WORDS, "--out", "R").refusal()
    assert "is finished, its model is R/model" in run("train", "--resume", "R").refusal()
    shutil.rmtree("R/model")
    assert "continue it with --resume R." in run("train", SOURCE, *WORDS, "--out", "R").refusal()
    assert run("train", "--resume", "R", "--quiet").status == 0


def test_a_fresh_run_never_takes_up_a_checkpoint(tmp_path: Path, finished: Path) -> None:
    reporter = Reporter(quiet=True)
    setup = prepare(Task(SOURCE), RECIPE, out=tmp_path / "R", reporter=reporter)
    shutil.copy(finished / "checkpoint.safetensors", setup.run.path)
    with pytest.raises(UserError, match="now holds a checkpoint of another run"):
        complete(setup, reporter)
    assert not ownership.is_held(setup.run.path)


def test_whoever_asks_a_run_that_is_not_finished_is_told_to_go_on(run: Run, galaxy_folder: Path) -> None:
    prepare(Task(SOURCE), RECIPE, out="R", reporter=Reporter(quiet=True))
    ownership.release(Path("R"))
    for named in ("R", "R/model"):
        for words in (["predict", named, galaxy_folder], ["evaluate", named, galaxy_folder], ["symmetry", named]):
            if words == ["symmetry", "R/model"]:  # nothing is there, so it could be the name of a network
                continue
            refused = run(*words).refusal()
            assert "run 'R' is not finished" in refused
            assert "go on with: astroformer train --resume R" in refused
    assert "run 'R' is not finished" in run("info", "R").refusal()
    assert "run 'R' is not finished" in run("train", SOURCE, "--init-from", "R").refusal()
    Path("S/seed-0/model").mkdir(parents=True)
    Path("S/runs.json").write_text("{}")
    assert "'S' holds several runs and no model of all; go on with:" in run("predict", "S", galaxy_folder).refusal()
    Path("S/seed-0/model/config.json").write_text("{}")
    assert "such as 'S/seed-0'" in run("predict", "S", galaxy_folder).refusal()


def test_a_model_without_its_last_file_is_not_finished(run: Run, finished: Path, galaxy_folder: Path) -> None:
    shutil.copytree(finished, "R")
    for names in (["config.json"], ["config.json", "README.md"], ["config.json", "README.md", "model.safetensors"]):
        for name in names:
            Path("R/model", name).unlink()
        for words in (["predict", "R", galaxy_folder], ["evaluate", "R", galaxy_folder]):
            assert "run 'R' is not finished, so it holds no model yet" in run(*words).refusal()
        assert run("train", "--resume", "R", "--quiet").status == 0
        assert Path("R/model/README.md").is_file()
        assert Path("R/model/model.safetensors").read_bytes() == (finished / "model/model.safetensors").read_bytes()
