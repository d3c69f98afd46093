"""A run that was stopped, however it was, ends with the weights of one that was not, to the bit."""

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
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from astroformer.cli import main as cli
from astroformer.errors import UserError
from astroformer.images.preprocessing import Preprocessing
from astroformer.images.sources import open_source
from astroformer.images.store import ImageStore
from astroformer.network import create_network
from astroformer.training.loop import Fit, Loop
from astroformer.training.recipe import make_recipe
from astroformer.training.run import RunFolder
from astroformer.training.stopping import Interrupted
from astroformer.training.train import resume, train

STEPS = 8  # an epoch of the runs below
SOURCE = "mock-galaxies:40x32"


def words(run: Path, cache: Path) -> list[str]:
    return [
        *("train", SOURCE, "--out", str(run), "--cache", str(cache), "--epochs", "2", "--batch-size", "4"),
        *("--image-size", "32", "--crop", "1", "--seed", "3", "--device", "cpu", "--checkpoint-seconds", "0"),
        *("--network.stochastic-depth", "0.3", "--network.head-dropout", "0.2", "--augment.mixup", "0.4"),
        *("--ema", "0.1", "--evaluations", "2", "--quiet"),
    ]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("resume-cache")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    run = tmp_path_factory.mktemp("resume") / "whole"
    assert cli.main(words(run, cache)) == 0
    return run


def where(run: Path) -> dict[str, Any]:
    """The state in the run's checkpoint; empty before there is one."""
    try:
        with safe_open(run / "checkpoint.safetensors", framework="pt") as stream:
            state: dict[str, Any] = json.loads(stream.metadata()["json"])["state"]
            return state
    except (OSError, SafetensorError):
        return {}


_SIGNALLED = """
import os, sys
from astroformer.cli import main as cli
from astroformer.training.loop import Loop
number, after, step = int(sys.argv[1]), int(sys.argv[2]), Loop._make_step
def signalled(self, *arguments):
    step(self, *arguments)
    if self.state.updates == after:
        os.kill(os.getpid(), number)
Loop._make_step = signalled
sys.exit(cli.main(sys.argv[3:]))
"""


def stop_mid_epoch(run: Path, cache: Path, number: int) -> tuple[int, str]:
    """A run in a process of its own that gets the signal at a step of its second epoch: (exit status, stderr).

    The process sends it to itself: from outside, a fast run may be over before the signal comes.
    """
    command = [sys.executable, "-c", _SIGNALLED, str(int(number)), str(STEPS + 2), *words(run, cache)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False)
    return process.returncode, process.stderr


SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGKILL, -signal.SIGKILL), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in SIGNALS)],
)
def test_a_stopped_process_resumes_to_the_same_bits(
    tmp_path: Path, cache: Path, uninterrupted: Path, capsys: pytest.CaptureFixture[str], number: int, status: int
) -> None:
    run = tmp_path / "stopped"
    code, said = stop_mid_epoch(run, cache, number)
    assert code == status
    if number != signal.SIGKILL:
        assert f"stopped and saved; continue with: astroformer train --resume {run}" in said
        assert "Traceback" not in said
    state = where(run)
    assert state["epoch"] == 1
    assert 0 < state["step"] < STEPS
    assert not (run / "model").exists()

    resumes_to_the_same(run, uninterrupted)
    assert capsys.readouterr().out.splitlines()[-1] == f"model: {run / 'model'}"


@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_a_signal_saves_and_says_how_to_go_on(
    tmp_path: Path,
    cache: Path,
    uninterrupted: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    status: int,
) -> None:
    step, handler = Loop._make_step, signal.getsignal(number)

    def signalled(self: Loop, *arguments: Any) -> None:
        step(self, *arguments)
        if self.state.updates == 5:
            signal.raise_signal(number)

    run = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_make_step", signalled)
        assert cli.main(words(run, cache)) == status
    said = capsys.readouterr().err
    assert said == f"stopped and saved; continue with: astroformer train --resume {run}\n"
    assert where(run)["updates"] == 5
    assert not (run / "model").exists()
    assert signal.getsignal(number) == handler
    if number == signal.SIGTERM:
        resumes_to_the_same(run, uninterrupted)


def resumes_to_the_same(run: Path, uninterrupted: Path) -> None:
    assert cli.main(["train", "--resume", str(run), "--quiet"]) == 0
    ours, theirs = (load_file(r / "model" / "model.safetensors") for r in (run, uninterrupted))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    rows, expected = (np.genfromtxt(r / "history.csv", delimiter=",", names=True) for r in (run, uninterrupted))
    for name in ("epoch", "updates", "train_loss", "valid_nll"):
        np.testing.assert_allclose(rows[name], expected[name], rtol=1e-6)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_stops_at_any_step_change_no_bit(tmp_path: Path, optimizer: str) -> None:
    images = open_source("mock-galaxies:20x32").subset(range(10))
    preprocessing = Preprocessing((32, 32), 3, mean=(0.1, 0.1, 0.1), std=(0.2, 0.2, 0.2))
    store = ImageStore.build(images, preprocessing, cache=tmp_path)
    settings = make_recipe(
        {
            "epochs": 2,
            "batch_size": 4,
            "accumulate": 2,
            "learning_rate": 0.01,
            "optimizer": optimizer,
            "precision": "no",
            "device": "cpu",
            "ema": 0.2,
            "balanced_sampling": True,
            "evaluations": 2,
            "augment": {"mixup": 0.4, "erasing": 0.5},
        }
    )

    def loop(run: RunFolder, stop_after: int | None) -> Loop:
        torch.manual_seed(0)
        network = create_network(
            "astroformer_atto", num_classes=10, img_size=32, stochastic_depth=0.3, head_dropout=0.2
        )
        made = Loop(
            network,
            store,
            store,
            preprocessing,
            settings,
            accelerator=Accelerator(cpu=True, gradient_accumulation_steps=2),
            run=run,
            stop=lambda: made.state.updates == stop_after,
        )
        return made

    def folder(name: str) -> RunFolder:
        (tmp_path / name).mkdir()
        return RunFolder(tmp_path / name)

    whole = loop(folder("whole"), None).fit()
    assert whole.state.updates == 4
    run, fit = folder("stopped"), None
    for stop_after in (1, 2, 4, None):  # 2 is the last step of an epoch, 4 that of the run
        part = loop(run, stop_after)
        if stop_after != 1:
            with torch.no_grad():  # what the checkpoint does not restore would show
                for p in [*part.network.parameters(), *part.averaged().parameters()]:
                    p.fill_(7.0)
            part.restore()
        if stop_after is None:
            fit = part.fit()
        else:
            with pytest.raises(Interrupted):
                part.fit()
    assert isinstance(fit, Fit)
    ours, theirs = fit.network.state_dict(), whole.network.state_dict()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert (fit.state.epoch, fit.state.step, fit.state.images) == (2, 0, whole.state.images)
    names = ("epoch", "updates", "learning_rate", "train_loss", "valid_nll")
    for row, expected in zip(fit.state.history, whole.state.history, strict=True):
        assert [row[k] for k in names] == pytest.approx([expected[k] for k in names], rel=1e-6)


# What can't be resumed --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images and a run on it that was stopped: `set`, `run`."""
    root = tmp_path_factory.mktemp("stopped")
    generator = np.random.default_rng(0)
    for name in ("set", "valid"):
        for label in ("a", "b"):
            (root / name / label).mkdir(parents=True)
            for i in range(4):
                pixels = generator.integers(0, 256, (32, 32, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(root / name / label / f"{i}.png")
    settings = make_recipe({"model": "astroformer_atto", "epochs": 1, "device": "cpu"})
    trained = train(root / "set", settings, valid=root / "valid", out=root / "run", cache=root / "cache")
    shutil.rmtree(trained.model)  # as if it had been stopped just before the end
    return root


@pytest.fixture
def copy(stopped: Path, tmp_path: Path) -> Path:
    """A copy of it, which a test may change."""
    root = tmp_path / "copy"
    shutil.copytree(stopped, root)
    record = json.loads((root / "run" / "run.json").read_text())
    record.update(source=str(root / "set"), valid=str(root / "valid"), cache=str(root / "cache"))
    (root / "run" / "run.json").write_text(json.dumps(record))
    return root


def test_a_run_stopped_after_its_last_step_is_finished(copy: Path) -> None:
    trained = resume(copy / "run")
    assert (trained.model / "config.json").is_file()
    with pytest.raises(UserError, match=r"is finished, its model is .*--init-from"):
        resume(copy / "run")


def test_added_images_do_not_disturb(copy: Path) -> None:
    shutil.copy(copy / "set" / "a" / "0.png", copy / "set" / "a" / "new.png")
    assert (resume(copy / "run").model / "config.json").is_file()


@pytest.mark.parametrize("part", ["set", "valid"])
def test_changed_images_are_refused(copy: Path, part: str) -> None:
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(copy / part / "a" / "1.png")
    with pytest.raises(UserError, match=rf"images of '.*{part}' have changed since run"):
        resume(copy / "run")


def test_missing_and_damaged_images_are_refused(copy: Path) -> None:
    file = copy / "set" / "a" / "1.png"
    file.write_bytes(b"no image")
    with pytest.raises(UserError, match="have changed since run"):
        resume(copy / "run")
    file.unlink()
    with pytest.raises(UserError, match=r"lists 'a/1.png', which '.*set' does not have"):
        resume(copy / "run")
    shutil.rmtree(copy / "set")
    with pytest.raises(UserError, match="does not exist"):
        resume(copy / "run")


def test_what_is_no_run_is_refused(copy: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "none", copy / "set"):
        with pytest.raises(UserError, match=r"is no run folder \(no recipe.yaml and run.json"):
            resume(path)
    checkpoint = copy / "run" / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(UserError, match="is damaged"):
        resume(copy / "run")


def test_a_run_without_a_checkpoint_begins(copy: Path) -> None:
    (copy / "run" / "checkpoint.safetensors").unlink()
    (copy / "run" / "history.csv").unlink()
    again = resume(copy / "run")
    whole = train(
        copy / "set",
        RunFolder(copy / "run").read_recipe(),
        valid=copy / "valid",
        out=copy / "new",
        cache=copy / "cache",
    )
    ours, theirs = (load_file(t.model / "model.safetensors") for t in (again, whole))
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_resume_takes_no_other_words(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--resume", str(copy / "run"), "--epochs", "3"]) == 2
    assert "leave out --epochs" in capsys.readouterr().err
