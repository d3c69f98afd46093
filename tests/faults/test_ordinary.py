"""Ordinary conditions of a user's machine: odd names, plain consoles, full disks, no cache, Ctrl-C at any moment."""

from __future__ import annotations

import errno
import io
import json
import os
import pwd
import resource
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors import SafetensorError

from astroformer import cache as caches
from astroformer.classifier import Classifier
from astroformer.cli.evaluate import FILES
from astroformer.cli.main import main
from astroformer.errors import UserError
from astroformer.evaluation.pictures import plot_confusion, plot_history
from astroformer.images.preprocessing import Preprocessing
from astroformer.metrics import score
from astroformer.network import create_network
from astroformer.training import checkpoint
from astroformer.training.task import Task
from helpers.command_line import Run, table

SOURCE = "mock-galaxies:20x32"
WORDS = ["--epochs", "1", "--image-size", "32", "--crop", "1", "--device", "cpu", "--quiet"]
NAMES = (r"b$\qq$", "$x^2$ 星系", r"\alpha{", "a_b^c")


# -- pictures --------------------------------------------------------------------------------------------------------


def test_a_users_text_is_drawn_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    drawn: list[str] = []
    ticks = Axes.set_yticks

    def seen(self: Axes, at: Any, labels: Any = None, **more: Any) -> Any:
        made = ticks(self, at, labels, **more)
        assert not any(text.get_parse_math() for text in self.get_yticklabels())
        drawn.extend(text.get_text() for text in self.get_yticklabels())
        return made

    monkeypatch.setattr(Axes, "set_yticks", seen)
    labels_N = np.arange(40) % 4
    measured = score(labels_N, np.full((40, 4), 0.25), NAMES, resamples=10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # that a font lacks a letter is no news for the screen
        assert plot_confusion(measured, tmp_path / "c.png") is None
    # Where no font of the machine has a letter of a name, the number of the class stands in front of it.
    assert [text.removeprefix("2: ") for text in drawn] == [name.replace("_", " ") for name in NAMES]
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.format == "PNG"
    unpaired = score(labels_N, np.full((40, 4), 0.25), ("caf\udce9", "b", "c", "d"), resamples=10)
    assert plot_confusion(unpaired, tmp_path / "d.png") is None


def test_odd_class_names_go_through_train_and_evaluate(run: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in NAMES:
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(5):
            pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / name / f"{i}.png")
    classifier = Classifier(
        create_network("astroformer_atto", num_classes=4, img_size=32), Preprocessing((32, 32), 3), tuple(sorted(NAMES))
    )
    classifier.save(tmp_path / "M")
    said = run("evaluate", "M", "set", "--out", "e", "--quiet")
    assert said.status == 0, said.err
    assert said.err == ""
    assert Path("e/confusion.png").is_file()
    assert all(name in said.out for name in NAMES)


def test_a_picture_that_fails_never_costs_the_numbers(
    run: Run, model_folder: Path, galaxy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failed(*_: object, **__: object) -> None:
        raise RuntimeError("a wheel came off\nand fell")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", failed)
    said = run("evaluate", model_folder, galaxy_folder, "--out", "e", "--quiet")
    assert (said.status, said.err) == (0, "there is no picture: RuntimeError a wheel came off\n")
    tables = {name for name in FILES if not name.endswith((".png", ".pdf"))}
    assert {file.name for file in Path("e").iterdir()} == tables
    assert "balanced accuracy" in said.out
    few = ["--images", "3", "--shifts", "2", "--crops", "2", "--rotations", "1", "--quiet"]
    said = run("symmetry", model_folder, "--data", galaxy_folder, "--out", "s", *few)
    assert (said.status, said.err) == (0, "there is no picture: RuntimeError a wheel came off\n")
    assert {file.name for file in Path("s").iterdir()} == {"symmetry.json"}
    said = run("train", SOURCE, *WORDS[:-1], "--out", "R")
    assert said.status == 0
    assert "there is no picture: RuntimeError a wheel came off" in said.err
    assert Path("R/model/config.json").is_file()


def test_a_picture_that_the_disk_refuses_is_told_as_what_it_is(tmp_path: Path) -> None:
    row = dict.fromkeys(("epoch", "train_loss", "valid_nll", "valid_top1", "valid_balanced_accuracy"), 0.5)
    said = plot_history([row], tmp_path / "nowhere" / "h.png")
    assert said == f"there is no picture: '{tmp_path / 'nowhere' / 'h.png'}' does not exist."


# -- consoles --------------------------------------------------------------------------------------------------------


def test_a_console_that_lacks_letters_shows_others(
    model_folder: Path,
    galaxy_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "星").symlink_to(galaxy_folder)
    out, err = io.BytesIO(), io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding="ascii", errors="strict", write_through=True))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(err, encoding="ascii", errors="strict", write_through=True))
    few = ["--images", "3", "--shifts", "2", "--crops", "2", "--rotations", "1"]
    for words in (
        ["info"],
        ["info", str(model_folder)],
        ["info", "--data"],
        ["train", "--help"],
        ["symmetry", "--help"],
        ["symmetry", str(model_folder), "--data", "星", *few],
        ["evaluate", str(model_folder), "星"],
        ["train", SOURCE, *WORDS[:-1], "--out", "R", "--verbose"],
    ):
        assert main(words) == 0, err.getvalue().decode()
    shown = out.getvalue().decode("ascii")
    assert "images of 32 x 32 px" in shown
    assert "\\u661f: 3 of 30 images" in shown
    assert "32 x 32 px, 10 classes" in err.getvalue().decode("ascii")
    assert main(["predict", str(model_folder), "星星", "--out", "p.csv"]) == 2
    assert "'\\u661f\\u661f' is neither a file or folder" in err.getvalue().decode("ascii")


def test_python_in_ascii_in_a_process_of_its_own(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "astroformer.cli", "symmetry", "--help"]
    ran = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, timeout=120, check=False)
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert b"--max-shift" in ran.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has this device")
def test_a_full_disk_behind_the_output_is_said(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "astroformer.cli", "--help"]
        ran = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ran.stderr.splitlines()[0].startswith(
        "error: standard output, or a file, can't be written: the disk is full"
    )
    assert "Traceback" not in ran.stderr
    assert ran.returncode != 0


@pytest.mark.skipif(os.name == "nt", reason="of a POSIX shell")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_output_is_no_fault(tmp_path: Path, closed: str) -> None:
    command = f"'{sys.executable}' -m astroformer.cli --help {closed}"
    ran = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_a_reader_that_has_seen_enough_is_no_fault(tmp_path: Path) -> None:
    command = f"'{sys.executable}' -m astroformer.cli train --help | head -n 1"
    ran = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert ran.stderr == ""


# -- disks -----------------------------------------------------------------------------------------------------------


def test_a_full_disk_while_a_checkpoint_is_written_keeps_the_one_before(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = checkpoint.save_file, 0

    def full(tensors: Any, path: Path, metadata: Any) -> None:
        nonlocal written
        written += 1
        if written == 2:
            Path(path).write_bytes(b"the first half")
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        write(tensors, path, metadata)

    words = ["train", SOURCE, *WORDS, "--checkpoint-seconds", "0", "--batch-size", "4", "--seed", "3"]
    assert run(*words, "--out", "whole").status == 0
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        said = run(*words, "--out", "R").refusal()
    assert said == (
        "error: 'R/checkpoint.safetensors' can't be written: the disk is full. Free some space, or choose another "
        "disk. What was saved before is kept; then continue with: astroformer train --resume R"
    )
    assert not Path("R/checkpoint.safetensors.part").exists()
    assert run("train", "--resume", "R", "--quiet").status == 0
    assert Path("R/model/model.safetensors").read_bytes() == Path("whole/model/model.safetensors").read_bytes()


_LIMITED = """
import resource, sys
from astroformer.cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
sys.exit(main(sys.argv[2:]))
"""


def test_a_disk_of_a_few_bytes_is_said(tmp_path: Path, own_cache: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    train = ["train", SOURCE, *WORDS, "--out", "R"]
    assert main([*train[:-1], str(tmp_path / "first")]) == 0  # the cache has all that it needs
    command = [sys.executable, "-c", _LIMITED, "100000", *train]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 2, ran.stderr
    assert ran.stderr.startswith("error: 'R/checkpoint.safetensors' can't be written: it is larger than the disk, or")
    assert main(["train", "--resume", str(tmp_path / "R"), "--quiet"]) == 0


# -- caches ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """No HOME, and no entry in the system's list of users."""

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("HOME", "XDG_CACHE_HOME", "ASTROFORMER_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def test_without_a_home_the_cache_is_a_temporary_one(homeless: None) -> None:
    with pytest.raises(RuntimeError):
        Path.home()
    folder = caches.default_cache()
    assert folder == caches.default_cache() == caches.temporary_cache()
    assert folder.is_dir()
    assert folder.stat().st_mode & 0o077 == 0
    usable, said = caches.usable_cache(folder)
    assert (usable, said) == (
        folder,
        "there is no home folder: decoded images are kept in a temporary folder, for this process alone",
    )
    assert Task(SOURCE).lasting().cache is None  # so that a resumed run does not look for it


def test_a_cache_of_nobody_is_a_temporary_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASTROFORMER_CACHE", "~nobody-of-this-name/x")
    assert caches.is_temporary(caches.default_cache())


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("/dev/null", "it is no folder"),
        ("file", "it is no folder"),
        ("file/below", "Not a directory"),
        ("a" * 400, "File name too long"),
        ("~nobody-of-this-name/x", "Could not determine home directory"),
        ("nul\0", "null"),
    ],
)
def test_a_cache_that_can_not_be_written_is_replaced_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    said: list[str] = []
    task = Task(SOURCE, cache=name).with_usable_cache(said.append)
    assert task.cache == caches.temporary_cache()
    assert len(said) == 1
    assert said[0].startswith(f"the cache '{name}' can't be written (")
    assert why in said[0]
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_cache_that_may_not_be_written_is_replaced_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", denied)
    folder, said = caches.usable_cache(tmp_path)
    assert folder == caches.temporary_cache()
    assert f"the cache '{tmp_path}' can't be written (Permission denied)" in str(said)
    monkeypatch.setattr(caches, "temporary_cache", denied)
    with pytest.raises(UserError, match=r"there can be no temporary one .*Set ASTROFORMER_CACHE"):
        caches.usable_cache(tmp_path)


def test_training_and_what_follows_need_no_cache(
    run: Run, homeless: None, monkeypatch: pytest.MonkeyPatch, galaxy_folder: Path
) -> None:
    monkeypatch.setenv("ASTROFORMER_NATIVE", "0")
    said = run("train", SOURCE, *WORDS[:-1], "--out", "R", "--cache", "/dev/null")
    assert said.status == 0
    assert (
        "the cache '/dev/null' can't be written (it is no folder): decoded images are kept in a temporary" in said.err
    )
    assert json.loads(Path("R/run.json").read_text())["cache"] == "/dev/null"
    shutil.rmtree("R/model")
    said = run("train", "--resume", "R")
    assert said.status == 0
    assert "the cache '/dev/null' can't be written" in said.err
    assert run("train", SOURCE, *WORDS, "--out", "S").status == 0
    for words in (["predict", "R", galaxy_folder], ["evaluate", "R", galaxy_folder]):
        said = run(*words, "--quiet")
        assert (said.status, said.err) == (0, "")
    assert len(table(Path("predictions-1.csv"))) == 30


# -- signals ---------------------------------------------------------------------------------------------------------

_SIGNALLED = """
import os, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Finder())
from astroformer.cli.main import main
sys.argv[1:] = {words!r}
sys.exit(main())
"""
PREDICT = ["predict", ".", "mock-galaxies:20x32", "--out", "p.csv"]
TRAIN = ["train", "mock-galaxies:20x32", "--out", "R"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_imports_is_no_traceback(tmp_path: Path, number: int) -> None:
    for words, modules in (
        (PREDICT, ("astroformer.cli.arguments", "typing_extensions", "pydantic_core", "torch", "PIL._imaging")),
        (TRAIN, ("astroformer.training.recipe", "datetime", "numpy._core._multiarray_umath", "accelerate")),
        (["symmetry", "nowhere"], ("astroformer.evaluation.symmetry",)),
    ):
        for module in modules:
            program = _SIGNALLED.format(module=module, number=int(number), words=words)
            ran = subprocess.run(
                [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
            )
            assert (ran.returncode, ran.stderr) == (128 + number, "stopped.\n"), (words[0], module)
            assert list(tmp_path.iterdir()) == []


def test_ctrl_c_before_the_command_line_is_read_is_no_traceback(tmp_path: Path) -> None:
    """Until there is something to say, the signal ends the process as it ends any other."""
    program = _SIGNALLED.format(module="astroformer.cli.console", number=int(signal.SIGINT), words=["info"])
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, timeout=120, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (-signal.SIGINT, b"", b"")


def test_the_command_line_can_be_interrupted_soon(tmp_path: Path) -> None:
    """What is imported before `main` is little: no module that the interpreter itself does without takes long."""
    program = "import sys; before = set(sys.modules); import astroformer.cli.main; print(*set(sys.modules) - before)"
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    imported = {name for name in ran.stdout.split() if not name.startswith(("importlib", "_"))}
    assert {"typing", "re", "difflib", "contextlib", "traceback", "threading"}.isdisjoint(imported)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_later_tidies_up(
    run: Run, model_folder: Path, galaxy_folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    whole = Classifier.iter_predict

    def signalled(self: Classifier, *words: Any, **more: Any) -> Iterator[Any]:
        for i, part in enumerate(whole(self, *words, **more)):
            if i == 2:
                os.kill(os.getpid(), number)
            yield part

    monkeypatch.setattr(Classifier, "iter_predict", signalled)
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    words = ["--batch-size", "4", "--quiet"]
    said = run("evaluate", model_folder, galaxy_folder, "--out", "e", *words)
    assert (said.status, said.err) == (128 + number, "stopped.\n")
    said = run("predict", model_folder, galaxy_folder, "--out", "p.csv", *words)
    assert said.status == 128 + number
    assert said.err.startswith("stopped; 8 rows are kept in 'p.csv.part'")
    assert {file.name for file in Path().iterdir()} == {"model", "p.csv.part", "p.csv.part.json"}
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def test_an_error_that_a_signal_has_turned_into_another_one_is_still_a_stop(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swallowed(*_: object, **__: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            raise ImportError("numpy failed to import") from None

    monkeypatch.setattr("astroformer.network.counting.describe", swallowed)
    said = run("info")
    assert (said.status, said.err) == (143, "stopped.\n")
