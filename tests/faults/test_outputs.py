"""What a command writes: never over an input, over results only when asked, whole or not at all, and readable."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from astroformer import ownership
from astroformer.classifier import Classifier
from astroformer.cli.evaluate import FILES
from astroformer.errors import UserError, explained
from astroformer.files import replacing, write_json
from astroformer.outputs import numbered, output_file, output_folder
from helpers.command_line import Run, table
from helpers.interrupting import interrupted_after


@pytest.fixture
def catalog(galaxy_folder: Path, tmp_path: Path) -> Path:
    """A catalog of labelled files that is all that there is of the labels."""
    folder = tmp_path / "d"
    folder.mkdir()
    lines = [f"{file},{file.parent.name}" for file in sorted(galaxy_folder.rglob("*.png"))]
    (folder / "cat.csv").write_text("\n".join(["file,label", *lines]) + "\n")
    return folder / "cat.csv"


# -- inputs and results of before ------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelled", ["d/cat.csv", "./d/../d/cat.csv", "link.csv", "hard.csv", "ABSOLUTE"])
@pytest.mark.parametrize("source", ["d/cat.csv", "d/cat.csv@file=file"])
def test_predictions_are_never_written_over_the_source(
    run: Run, model_folder: Path, catalog: Path, spelled: str, source: str
) -> None:
    before = catalog.read_bytes()
    Path("link.csv").symlink_to(catalog)
    os.link(catalog, "hard.csv")
    out = str(catalog) if spelled == "ABSOLUTE" else spelled
    for words in ([], ["--overwrite"]):
        said = run("predict", model_folder, source, "--out", out, *words)
        assert "is what this command reads" in said.refusal()
    assert catalog.read_bytes() == before


def test_results_are_never_written_over_what_is_read(run: Run, model_folder: Path, catalog: Path) -> None:
    catalog = catalog.rename(catalog.with_name("predictions.csv"))  # the name of a file that evaluate writes
    before = catalog.read_bytes()
    for out in (catalog.parent, model_folder):
        said = run("evaluate", model_folder, catalog, "--out", out, "--overwrite")
        assert "is what this command reads" in said.refusal()
    said = run("symmetry", model_folder, "--data", catalog.parent, "--out", "d", "--overwrite")
    assert "is what this command reads" in said.refusal()
    assert catalog.read_bytes() == before
    assert sorted(file.name for file in model_folder.iterdir()) == sorted(
        {"README.md", "config.json", "model.safetensors", *(["extra.safetensors"] if has_extra(model_folder) else [])}
    )


def has_extra(model_folder: Path) -> bool:
    return "extra.safetensors" in json.loads((model_folder / "config.json").read_text())["hashes"]


def test_nothing_with_pictures_is_made_inside_the_images(
    run: Run, model_folder: Path, galaxy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = tmp_path / "images"
    shutil.copytree(galaxy_folder, images)
    before = sorted(images.rglob("*"))
    monkeypatch.chdir(images)  # so that the default lies inside too
    model = str(model_folder)
    for out in ([], ["--out", str(images / "new")], ["--out", "../images/merging/new"]):
        for words in (
            ["train", "."],
            ["train", ".", "--seeds", "2"],
            ["train", "mock-galaxies:20", "--valid", "."],
            ["evaluate", model, "."],
            ["symmetry", model, "--data", str(images)],
        ):
            assert "and be taken for images of it from then on; choose an --out" in run(*words, *out).refusal()
    assert sorted(images.rglob("*")) == before
    # Beside the images, and in a run folder, there is room for results; a table is no picture.
    assert run("evaluate", model, ".", "--out", "../images-evaluated", "--quiet").status == 0
    assert run("evaluate", model, ".", "--out", f"{model}/evaluation", "--quiet").status == 0
    assert run("predict", model, ".", "--quiet").status == 0


def test_results_of_before_stay_unless_overwrite_is_said(run: Run, model_folder: Path, galaxy_folder: Path) -> None:
    assert run("predict", model_folder, galaxy_folder, "--out", "p.csv", "--quiet").status == 0
    Path("p.csv").write_text("mine")
    said = run("predict", model_folder, galaxy_folder, "--out", "p.csv", "--quiet")
    assert "'p.csv' exists already; choose another --out, or" in said.refusal()
    assert Path("p.csv").read_text() == "mine"
    assert run("predict", model_folder, galaxy_folder, "--out", "p.csv", "--quiet", "--overwrite").status == 0
    assert len(table(Path("p.csv"))) == 30

    Path("e").mkdir()
    Path("e/notes.txt").write_text("mine")
    Path("e/metrics.json").write_text("mine")
    said = run("evaluate", model_folder, galaxy_folder, "--out", "e", "--quiet")
    assert "'e' holds files already" in said.refusal()
    assert Path("e/metrics.json").read_text() == "mine"
    assert run("evaluate", model_folder, galaxy_folder, "--out", "e", "--quiet", "--overwrite").status == 0
    assert json.loads(Path("e/metrics.json").read_text())["n"] == 30
    assert Path("e/notes.txt").read_text() == "mine"
    assert {file.name for file in Path("e").iterdir()} == {*FILES, "notes.txt"}


def test_without_out_results_are_numbered(run: Run, model_folder: Path, galaxy_folder: Path) -> None:
    for number in (1, 2):
        said = run("predict", model_folder, galaxy_folder, "--quiet")
        assert said.out.splitlines()[-1] == f"predictions: predictions-{number}.csv"
        said = run("evaluate", model_folder, galaxy_folder, "--quiet")
        assert said.out.splitlines()[-1] == f"evaluation: evaluation-{number}"
    names = {f"{name}-{n}{end}" for n in (1, 2) for name, end in (("predictions", ".csv"), ("evaluation", ""))}
    assert {file.name for file in Path().iterdir()} - {"model"} == names


def test_a_number_is_free_if_nothing_lies_there_and_nobody_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p-1.csv").write_text("")
    Path("p-2.csv.part").write_text("of a killed command")
    with (
        output_file(None, "p.csv", inputs=(), overwrite=False) as first,
        output_file(None, "p.csv", inputs=(), overwrite=False) as second,
    ):
        assert (first.name, second.name) == ("p-3.csv", "p-4.csv")
    assert next(numbered(Path("runs/a.csv"))) == Path("runs/a.csv-1")


# -- whole or not at all ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError("a wheel came off"), KeyboardInterrupt(), UserError("no")])
def test_a_failed_evaluation_leaves_nothing(
    run: Run, model_folder: Path, galaxy_folder: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def failed(*_: object, **__: object) -> None:
        raise error

    before = set(Path().rglob("*"))
    monkeypatch.setattr("astroformer.evaluation.scores.confusion_text", failed)  # after metrics.json is written
    assert run("evaluate", model_folder, galaxy_folder, "--out", "new/e", "--quiet").status in (1, 2, 130)
    assert set(Path().rglob("*")) == before


def test_a_failed_evaluation_leaves_the_results_of_before(
    run: Run, model_folder: Path, galaxy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("evaluate", model_folder, galaxy_folder, "--out", "e", "--quiet").status == 0
    before = {file: file.read_bytes() for file in Path("e").iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("astroformer.evaluation.tables.csv.writer", full)
    said = run("evaluate", model_folder, galaxy_folder, "--out", "e", "--quiet", "--overwrite")
    assert said.refusal().startswith("error: 'e/by_class.csv' can't be written: the disk is full.")
    assert {file: file.read_bytes() for file in Path("e").iterdir()} == before


def test_an_evaluation_may_go_through_a_link_and_into_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with output_folder(tmp_path / "link", "e", names=["a.txt"], model="M", source=None, overwrite=False) as results:
        (results.folder / "a.txt").write_text("a")
        assert not (tmp_path / "real" / "a.txt").exists()
    assert (tmp_path / "real" / "a.txt").read_text() == "a"
    assert (tmp_path / "link").is_symlink()
    assert {file.name for file in tmp_path.iterdir()} == {"real", "link"}


# -- predictions that are continued ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (KeyboardInterrupt(), 130, "stopped; "),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "error: 'p.csv' can't be written: the disk is full."),
    ],
)
def test_predictions_go_on_where_they_were_ended(
    run: Run,
    model_folder: Path,
    galaxy_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    status: int,
    says: str,
) -> None:
    words = ["predict", model_folder, galaxy_folder, "--batch-size", "4", "--quiet"]
    assert run(*words, "--out", "whole.csv").status == 0
    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "iter_predict", interrupted_after(3, error))
        said = run(*words, "--out", "p.csv")
    assert said.status == status
    assert said.err.startswith(says)
    assert "12 rows are kept in 'p.csv.part'; go on with the same command and --out p.csv --resume" in said.err
    assert "Traceback" not in said.err
    assert not Path("p.csv").exists()
    assert "go on from them with --resume, or start anew with --overwrite" in run(*words, "--out", "p.csv").refusal()

    said = run(*words, "--out", "p.csv", "--resume")
    assert (said.status, said.err) == (0, "12 of 30 rows are there already\n")
    assert said.out.splitlines()[0] == "30 predictions"
    assert Path("p.csv").read_bytes() == Path("whole.csv").read_bytes()
    assert {file.name for file in Path().iterdir()} == {"model", "p.csv", "whole.csv"}
    assert "there is no 'p2.csv.part'" in run(*words, "--out", "p2.csv", "--resume").refusal()


def test_a_row_that_a_kill_has_cut_is_made_again(
    run: Run, model_folder: Path, galaxy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["predict", model_folder, galaxy_folder, "--batch-size", "4", "--quiet"]
    assert run(*words, "--out", "whole.csv").status == 0
    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "iter_predict", interrupted_after(3, KeyboardInterrupt()))
        run(*words, "--out", "p.csv")
    part, record = Path("p.csv.part").read_bytes(), Path("p.csv.part.json").read_bytes()
    whole = Path("whole.csv").read_bytes()
    for cut in (1, 2, 30, 200, len(part) - 300):
        Path("p.csv.part").write_bytes(part[:-cut])
        Path("p.csv.part.json").write_bytes(record)
        said = run(*words, "--out", "p.csv", "--resume")
        assert said.status == 0, said.err
        assert Path("p.csv").read_bytes() == whole
        Path("p.csv").unlink()


def test_a_row_that_contradicts_itself_is_not_kept(
    run: Run, model_folder: Path, galaxy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["predict", model_folder, galaxy_folder, "--batch-size", "4", "--quiet"]
    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "iter_predict", interrupted_after(3, KeyboardInterrupt()))
        run(*words, "--out", "p.csv")
    header, *rows = Path("p.csv.part").read_bytes().split(b"\r\n")
    name = rows[4].decode().split(",")[1]
    other = next(c.removeprefix("p:") for c in header.decode().split(",") if c.startswith("p:") and c[2:] != name)

    def changed(column: int, text: str) -> bytes:
        cells = rows[4].decode().split(",")
        cells[column] = text
        return ",".join(cells).encode()

    for row, why in (
        (changed(1, other), f"the prediction '{other}' is not the class of the highest probability"),
        (changed(1, "quasar"), "the prediction 'quasar' is not the class"),
        (changed(2, "0.99"), "the confidence '0.99' is not the highest probability"),
        (changed(2, ""), "the confidence '' is not"),
        (changed(3, "0.9"), "the probabilities do not sum to 1"),
        (changed(3, "nan"), "the probabilities do not sum to 1"),
        (changed(3, "-1"), "the probabilities do not sum to 1"),
        (changed(3, "high"), "a probability is no number"),
        (changed(-1, "broken"), "there is a prediction beside an error"),
    ):
        before = b"\r\n".join([header, *rows[:4], row, *rows[5:]])
        Path("p.csv.part").write_bytes(before)
        refused = run(*words, "--out", "p.csv", "--resume").refusal()
        assert f"in its row 5 {why}" in refused
        assert "Start anew with --overwrite" in refused
        assert Path("p.csv.part").read_bytes() == before
    assert run(*words, "--out", "p.csv", "--overwrite").status == 0


def test_predictions_are_only_continued_as_they_were_begun(
    run: Run, model_folder: Path, classifier: Classifier, galaxy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = {"images": np.zeros((30, 8, 8, 3), np.uint8)}
    np.savez("a.npz", **arrays)
    words = ["--batch-size", "4", "--quiet", "--out", "p.csv"]
    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "iter_predict", interrupted_after(3, KeyboardInterrupt()))
        assert run("predict", model_folder, "a.npz", *words).status == 130
    before = Path("p.csv.part").read_bytes()

    def refused(*more: str | Path, model: Path = model_folder, source: str | Path = "a.npz") -> str:
        said = run("predict", model, source, *words, "--resume", *more).refusal()
        assert Path("p.csv.part").read_bytes() == before
        return said

    with torch.no_grad():
        next(classifier.network.parameters()).mul_(2)
    assert "another value of 'model'" in refused(model=classifier.save("other"))
    assert "another value of 'images'" in refused(source=galaxy_folder)
    assert "another value of 'precision'" in refused("--precision", "bfloat16")
    arrays["images"][0] = 1
    np.savez("a.npz", **arrays)
    os.utime("a.npz", (1, 1))  # two files of one size may be written within one tick of the clock
    assert "another value of 'images'" in refused()
    assert "--resume goes on, --overwrite starts anew" in refused("--overwrite")
    said = run("predict", model_folder, "a.npz", "--resume", "--quiet")
    assert "--resume needs the --out that was begun" in said.refusal()


def test_predictions_are_not_continued_where_a_file_holds_another_picture(
    run: Run, model_folder: Path, galaxy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(galaxy_folder, "set")
    files = sorted(Path("set").rglob("*.png"))
    listed = "\n".join(["file", *map(str, files)]) + "\n"
    Path("cat.csv").write_text(listed)
    for source in ("set", "cat.csv"):
        words = ["predict", model_folder, source, "--batch-size", "4", "--quiet", "--out", f"{source}.csv"]
        with monkeypatch.context() as patch:
            patch.setattr(Classifier, "iter_predict", interrupted_after(3, KeyboardInterrupt()))
            assert run(*words).status == 130
        shutil.copy(files[-1], files[0])
        assert "another value of 'images'" in run(*words, "--resume").refusal()


def test_a_parquet_file_that_was_ended_leaves_nothing_and_says_why(
    run: Run, model_folder: Path, galaxy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["predict", model_folder, galaxy_folder, "--batch-size", "4", "--quiet", "--out", "p.parquet"]
    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "iter_predict", interrupted_after(3, KeyboardInterrupt()))
        said = run(*words)
    assert (said.status, said.err) == (130, "stopped.\n")
    assert {file.name for file in Path().iterdir()} == {"model"}
    assert "a Parquet file is of no use before it is whole" in run(*words, "--resume").refusal()


# -- permissions, and errors of the system ---------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_files_have_the_permissions_of_a_new_file(tmp_path: Path, classifier: Classifier, mask: int) -> None:
    before = os.umask(mask)
    try:
        folder = classifier.save(tmp_path / "m")
        write_json(tmp_path / "a.json", {})
        with replacing(tmp_path / "c", durable=True) as part:
            save_file({"a": torch.zeros(3)}, part)
    finally:
        os.umask(before)
    for file in (*folder.iterdir(), tmp_path / "a.json", tmp_path / "c"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~mask, file


def test_an_error_of_the_system_names_the_file_that_it_is_about(tmp_path: Path) -> None:
    wrapped = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    nameless = OSError(errno.ENOSPC, "No space left on device")
    for error in (wrapped, nameless):
        with pytest.raises(OSError, match="No space left") as caught, replacing(tmp_path / "run.json"):
            raise error
        assert caught.value.errno == errno.ENOSPC
        assert str(caught.value.filename) == str(tmp_path / "run.json")
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="too long") as caught, replacing(tmp_path / ("a" * 400)):
        pass
    assert "is too long for this disk" in str(explained(caught.value))
    other = OSError(errno.EACCES, "Permission denied", "elsewhere")
    with pytest.raises(PermissionError) as caught, replacing(tmp_path / "run.json"):
        raise other
    assert caught.value.filename == "elsewhere"


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "the disk is read-only"),
        (errno.EISDIR, "is a folder"),
        (errno.ENOTDIR, "a part of its path is a file"),
        (errno.ENAMETOOLONG, "is too long"),
        (errno.EMFILE, "too many files are open"),
        (errno.EFBIG, "ulimit -f"),
        (errno.ENOENT, "does not exist"),
        (errno.ELOOP, "links lead in a circle"),
        (errno.EACCES, "may not be"),
        (errno.EIO, "the disk reports a fault"),
    ],
)
def test_each_error_of_the_system_is_told_as_what_it_is(
    run: Run, monkeypatch: pytest.MonkeyPatch, number: int, says: str
) -> None:
    def failed(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), "some/file")

    monkeypatch.setattr("astroformer.network.counting.describe", failed)
    said = run("info").refusal()
    assert "some/file" in said
    assert says in said


def test_what_may_not_be_read_and_what_may_not_be_written_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a"
    file.write_text("")
    denied = OSError(errno.EACCES, "Permission denied")

    def told(path: Path, *lacking: tuple[Path, int]) -> str:
        monkeypatch.setattr(os, "access", lambda path, mode: (Path(path), mode) not in lacking)
        return str(explained(denied, path))

    assert "may not be read." in told(file, (file, os.R_OK))
    assert "may not be written." in told(file, (file, os.W_OK))
    assert f"the folder '{tmp_path}' may not be written" in told(tmp_path / "b", (tmp_path, os.W_OK))
    assert f"the folder '{tmp_path}' may not be entered" in told(file, (tmp_path, os.X_OK))


def test_an_error_that_is_no_condition_of_the_machine_stays_ours() -> None:
    assert explained(OSError(errno.EINVAL, "Invalid argument", "a")) is None
    assert explained(OSError("of a library")) is None


def test_a_weight_file_that_may_not_be_read_is_not_called_damaged(
    run: Run, model_folder: Path, galaxy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def denied(path: Path, *words: Any, **more: Any) -> Any:  # root may read every file, so permissions don't do
        if path.name == "model.safetensors":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *words, **more)

    monkeypatch.setattr(Path, "open", denied)
    said = run("predict", model_folder, galaxy_folder, "--out", "p.csv").refusal()
    assert "model.safetensors' may not be" in said
    assert "damaged" not in said


def test_no_lock_is_left(run: Run, model_folder: Path, galaxy_folder: Path) -> None:
    for words in (["--out", "p.csv"], ["--out", "p.txt"], [], ["--batch-size", "0"]):
        run("predict", model_folder, galaxy_folder, "--quiet", *words)
    assert not [file for file in Path().rglob("*") if file.name.endswith(ownership.LOCK)]
