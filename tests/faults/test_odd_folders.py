"""A folder is read alike in training and prediction, and what is left out is said."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from astroformer.classifier import Classifier
from astroformer.errors import UserError
from astroformer.images.names import ignored_kinds
from astroformer.images.sources import open_source
from helpers.command_line import TINY, Run, table
from helpers.tiny_sets import write_picture

RNG = np.random.default_rng(5)


def noise(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (32, 32, 3)).astype(np.uint8)).save(path)
    return path


def kinds_of_images(folder: Path) -> None:
    """A folder of all that may lie in one."""
    for name in ("a.png", "b.bmp", "c.gif", "d.jpg"):
        noise(folder / name)
    noise(folder / "e.png").rename(folder / "no_extension")
    (folder / "f.jp2").write_bytes(b"\0\0\0\x0cjP  \r\n\x87\n")
    (folder / "g.fits").write_text("SIMPLE  =                    T")
    (folder / "notes.txt").write_text("x")
    (folder / "table.csv").write_text("x")
    (folder / "words").write_text("x")
    (folder / ".DS_Store").write_text("x")
    noise(folder / "deep" / "h.png")
    (folder / "__MACOSX").mkdir()
    (folder / "linked").symlink_to(noise(folder.parent / "elsewhere" / "i.png").parent)
    (folder / "again").symlink_to(folder / "deep")
    (folder / "loop").symlink_to(folder)


def test_each_file_that_looks_like_an_image_has_a_row_and_the_rest_is_counted(
    tmp_path: Path, classifier: Classifier, run: Run
) -> None:
    kinds_of_images(tmp_path / "set")
    said = run("predict", classifier.save(tmp_path / "model"), tmp_path / "set", "--out", "p.csv", "--quiet")
    rows = {row["file"]: row["error"] for row in table(tmp_path / "p.csv")}
    good = {"a.png", "b.bmp", "c.gif", "d.jpg", "no_extension", "deep/h.png", "linked/i.png"}
    assert {file for file, error in rows.items() if not error} == good
    assert set(rows) - good == {"f.jp2", "g.fits"}
    assert "not a JPEG" in rows["f.jp2"]
    assert "has no END, or is cut off" in rows["g.fits"]
    assert "2 of 9 images can't be taken" in said.err
    line = next(line for line in said.err.splitlines() if line.startswith("not taken for images"))
    for part in ("a .txt file: 1", "a .csv file: 1", "hidden, or left by a system: 2", "read already: 2", "7 ("):
        assert part in line
    assert "a file without an extension that begins like no image: 1" in line


def test_class_folders_are_read_alike_in_training_and_prediction(tmp_path: Path) -> None:
    for name in ("spiral", "__background__"):
        for i in range(3):
            noise(tmp_path / "set" / name / f"{i}.png")
    noise(tmp_path / "far" / "deep" / "x.png")
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "back").symlink_to(tmp_path / "far")
    (tmp_path / "set" / "spiral" / "notes.txt").write_text("x")
    (tmp_path / "set" / "spiral" / "x.fits").write_text("x")
    trained, asked = open_source(tmp_path / "set"), open_source(tmp_path / "set", labelled=False)
    assert trained.classes == ("__background__", "linked", "spiral")
    assert [file for file in asked.files if file != "spiral/x.fits"] == trained.files
    assert trained.counts()["linked"] == 1
    left = "spiral/x.fits (a FITS file among pictures; @hdu= or @bands= takes FITS alone)"
    assert left in trained.ignored
    assert "linked/back (a link to a folder that is read already)" in trained.ignored
    assert ignored_kinds(trained.ignored).startswith("not taken for images: 3 (")


@pytest.mark.parametrize("names", [("train", "test", "unlabelled"), ("Train", "val"), ("a", "train", "test")])
def test_parts_are_not_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        write_picture(tmp_path / name / "a.png")
    train = next(name for name in names if name.lower() == "train")
    with pytest.raises(UserError, match=rf"holds the parts .*astroformer train '{tmp_path / train}' --valid"):
        open_source(tmp_path)


def test_a_class_may_have_the_name_of_a_part(tmp_path: Path) -> None:
    for name in ("bus", "train"):
        write_picture(tmp_path / name / "a.png")
    assert open_source(tmp_path).classes == ("bus", "train")


def test_folders_that_all_hold_the_same_folders_are_no_classes(tmp_path: Path) -> None:
    for part in ("first", "second"):
        for name in ("disc", "ring"):
            write_picture(tmp_path / part / name / "a.png")
    with pytest.raises(UserError, match=rf"same folders \(disc, ring\).*'{tmp_path / 'first'}'"):
        open_source(tmp_path)
    shutil.move(tmp_path / "second" / "ring", tmp_path / "second" / "arc")
    assert open_source(tmp_path).classes == ("first", "second")


def test_the_level_below_a_wrapper_is_named(tmp_path: Path) -> None:
    for name in ("disc", "ring"):
        write_picture(tmp_path / "dataset-v1" / name / "a.png")
    with pytest.raises(UserError, match=rf"one folder, 'dataset-v1'.*name it: '{tmp_path / 'dataset-v1'}'"):
        open_source(tmp_path)


def test_predictions_without_one_image_are_an_error(tmp_path: Path, classifier: Classifier, run: Run) -> None:
    model = classifier.save(tmp_path / "model")
    for name in ("a.png", "b.png"):
        noise(tmp_path / "set" / name).write_bytes(b"words")
    said = run("predict", model, tmp_path / "set", "--out", "p.csv", "--quiet")
    assert said.status == 2
    assert "none of 2 images can be taken" in said.err
    assert "not a JPEG" in said.err
    assert [bool(row["error"]) for row in table(tmp_path / "p.csv")] == [True, True]
    noise(tmp_path / "set" / "c.png")
    strict = run("predict", model, tmp_path / "set", "--out", "strict.csv", "--strict")
    assert "strict refuses that" in strict.refusal()
    assert not (tmp_path / "strict.csv").exists()
    for name in ("a.png", "b.png"):  # evaluate too says why, in place of a figure over no images
        (tmp_path / "labelled" / classifier.classes[0]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "labelled" / classifier.classes[0] / name).write_bytes(b"words")
    refusal = run("evaluate", model, tmp_path / "labelled", "--out", "e").refusal()
    assert "none of 2 images" in refusal
    assert "not a JPEG" in refusal


def test_classes_are_counted_and_unknown_ones_left_out_by_a_word(
    tmp_path: Path, classifier: Classifier, run: Run
) -> None:
    for i in range(12):
        noise(tmp_path / "set" / ("many" if i < 10 else "few") / f"{i}.png")
    said = run("train", tmp_path / "set", "--out", "run", *TINY)
    assert "2 classes: few 2, many 10" in said.err
    assert "5 times as many images as the smallest" in said.err
    assert "--class-weights auto" in said.err
    weighed = run("train", tmp_path / "set", "--out", "weighed", "--class-weights", "auto", *TINY)
    assert "as the smallest" not in weighed.err

    known, other = classifier.classes[0], tmp_path / "labelled" / "quasar"
    noise(tmp_path / "labelled" / known / "a.png")
    noise(other / "b.png")
    noise(other / "c.png")
    model = classifier.save(tmp_path / "model")
    refusal = run("evaluate", model, tmp_path / "labelled", "--out", "e").refusal()
    assert "'quasar'" in refusal
    assert "--only-known leaves the 2 images of such classes out" in refusal
    said = run("evaluate", model, tmp_path / "labelled", "--out", "e", "--only-known")
    assert said.status == 0
    assert "not taken for images: 2 (of a class that the model does not know: 2)" in said.err
    few = ["--images", "2", "--shifts", "2", "--crops", "2", "--rotations", "1", "--quiet"]
    refusal = run("symmetry", model, "--data", tmp_path / "labelled", "--out", "s", *few).refusal()
    assert "--only-known leaves the 2 images of such classes out" in refusal
    said = run("symmetry", model, "--data", tmp_path / "labelled", "--out", "s", "--only-known", *few)
    assert said.status == 0
    assert "not taken for images: 2 (of a class that the model does not know: 2)" in said.err


def test_whoever_does_not_train_is_not_told_to_train(tmp_path: Path, classifier: Classifier, run: Run) -> None:
    model = classifier.save(tmp_path / "model")
    for name in ("train", "test"):
        write_picture(tmp_path / "set" / name / "a.png")
    for words in (["evaluate", model, tmp_path / "set"], ["symmetry", model, "--data", tmp_path / "set"]):
        refusal = run(*words).refusal()
        assert "holds the parts test, train, not classes" in refusal
        assert f"name the part that is meant, such as '{tmp_path / 'set' / 'test'}'" in refusal
        assert "astroformer train" not in refusal


@pytest.mark.skipif(os.name == "nt", reason="no pipes among files there")
def test_a_source_that_is_no_regular_file_is_named_as_such(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("nowhere.png")
    with pytest.raises(UserError, match=r"pipe\.png' is no regular file"):
        open_source(tmp_path / "pipe.png", labelled=False)
    with pytest.raises(UserError, match="is a link to a place that is not there"):
        open_source(tmp_path / "link.png", labelled=False)


def test_a_quiet_training_says_what_it_leaves_out(tmp_path: Path, run: Run) -> None:
    for i in range(20):
        noise(tmp_path / "set" / "ab"[i % 2] / f"{i}.png")
    shutil.copy(tmp_path / "set" / "a" / "0.png", tmp_path / "set" / "b" / "copy.png")
    (tmp_path / "set" / "a" / "broken.png").write_bytes(b"")
    (tmp_path / "set" / "b" / "notes.txt").write_text("x")
    said = run("train", tmp_path / "set", "--out", "run", "--quiet", *TINY).err
    for line in (
        "not taken for images: 1 (a .txt file: 1)",
        "1 image is an exact copy",
        "1 picture has several labels",
    ):
        assert line in said
    assert "1 file can't be read and is left out" in said
    assert "to validate on" not in said  # which is no fault


def test_a_class_without_a_validation_image_is_said(tmp_path: Path, run: Run) -> None:
    for i in range(18):
        noise(tmp_path / "set" / "abc"[i % 3] / f"{i}.png")
    for i in range(4):
        noise(tmp_path / "valid" / "ab"[i % 2] / f"{i}.png")
    said = run("train", tmp_path / "set", "--valid", tmp_path / "valid", "--out", "run", "--quiet", *TINY)
    assert said.status == 0
    assert "--valid has no image of class c, so no score says" in said.err
    noise(tmp_path / "valid" / "c" / "x.png")
    said = run("train", tmp_path / "set", "--valid", tmp_path / "valid", "--out", "all", "--quiet", *TINY)
    assert "--valid has no image" not in said.err


@pytest.mark.skipif(os.name == "nt", reason="file names are Unicode there")
def test_names_that_are_no_text_lose_nothing(tmp_path: Path, classifier: Classifier, run: Run) -> None:
    names = [b"caf\xe9.png", "３.png".encode(), "型１.png".encode(), b"2.png", b"10.png"]
    for name in names:
        noise(tmp_path / "set" / os.fsdecode(name))
    said = run("predict", classifier.save(tmp_path / "model"), tmp_path / "set", "--out", "p.csv")
    assert said.status == 0
    files = [row["file"] for row in table(tmp_path / "p.csv")]
    assert files == ["2.png", "10.png", "caf\\xe9.png", "型１.png", "３.png"]


@pytest.mark.parametrize("source", ["", "  ", "x" * 5000, "~nobody/x", "a\0b"])
def test_absurd_sources_are_refused(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    noise(tmp_path / "a.png")
    for labelled in (True, False):
        with pytest.raises(UserError):
            open_source(source, labelled=labelled)
