"""Images that nobody labelled: refused, left out on demand, and suspected where a class is called like no label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from astroformer.errors import UserError
from astroformer.images.sources import open_source
from helpers.tiny_sets import write_picture

LABELS = ["disc", "ring", "", "disc", "-1", "ring", "unknown"]


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    for i in range(len(LABELS)):
        write_picture(tmp_path / f"{i}.png", i)
    return write(tmp_path, [f"{i}.png,{label},{i}" for i, label in enumerate(LABELS)])


def write(root: Path, rows: list[str], head: str = "file,label,mag") -> Path:
    (root / "c.csv").write_text("\n".join([head, *rows]) + "\n")
    return root / "c.csv"


def test_rows_without_a_label_are_left_out_on_demand(catalog: Path) -> None:
    with pytest.raises(UserError, match=r"'label' is empty in 1 of 7 rows .*@unlabelled=skip behind the source"):
        open_source(catalog)
    images = open_source(f"{catalog}@unlabelled=skip", columns=["mag"])
    assert images.files == ["0.png", "1.png", "3.png", "4.png", "5.png", "6.png"]
    assert images.columns["mag"] == ["0", "1", "3", "4", "5", "6"]  # those of the rows that stay
    assert images.ignored == ["2.png (without a label)"]
    assert "1 of 7 images have no label and are left out (empty 1)" in images.notes
    assert int(images.read(2)[0, 0, 0]) == 3
    assert len(open_source(f"{catalog}@unlabelled=skip", labelled=False)) == 7


def test_labels_that_stand_for_none_are_suspected_and_left_out_on_demand(catalog: Path) -> None:
    suspected = open_source(f"{catalog}@unlabelled=skip")
    assert suspected.classes == ("-1", "disc", "ring", "unknown")
    (said,) = [note for note in suspected.notes if "look like" in note]
    assert said.startswith(
        "'-1' (1), 'unknown' (1) are classes, and look like 'no label'; if so, @unlabelled=-1,unknown"
    )
    images = open_source(f"{catalog}@unlabelled=-1,unknown,lost", columns="all")
    assert images.classes == ("disc", "ring")
    assert images.files == ["0.png", "1.png", "3.png", "5.png"]
    assert images.labels is not None
    assert images.labels.tolist() == [0, 1, 0, 1]
    assert images.columns["mag"] == ["0", "1", "3", "5"]
    assert "3 of 7 images have no label and are left out (empty 1, '-1' 1, 'unknown' 1)" in images.notes
    assert "@unlabelled: no image has the label 'lost'" in images.notes
    assert len(images.ignored) == 3
    of_model = open_source(f"{catalog}@unlabelled=-1,unknown", classes=("ring", "disc"))
    assert of_model.labels is not None
    assert of_model.labels.tolist() == [1, 0, 1, 0]
    with pytest.raises(UserError, match=r"@unlabelled=-1, names an empty label"):
        open_source(f"{catalog}@unlabelled=-1,")


@pytest.mark.parametrize(("labels", "suspects"), [("-1 1", ""), ("-1 0 1", "-1"), ("-99.0 0", "-99"), ("N/A a", "N/A")])
def test_which_classes_look_like_no_label(tmp_path: Path, labels: str, suspects: str) -> None:
    rows = []
    for i, label in enumerate(labels.split() * 2):
        write_picture(tmp_path / f"{i}.png", i)
        rows.append(f"{i}.png,{label},{i}")
    notes = " ".join(open_source(write(tmp_path, rows)).notes)
    assert ("no label" in notes, f"@unlabelled={suspects}" in notes) == (bool(suspects), bool(suspects))


def test_folders_and_arrays_leave_images_without_a_label_out_too(tmp_path: Path) -> None:
    for i, name in enumerate(("a/0.png", "b/1.png", "unknown/2.png")):
        write_picture(tmp_path / "set" / name, i)
    assert any("@unlabelled=unknown" in note for note in open_source(tmp_path / "set").notes)
    assert open_source(f"{tmp_path}/set@unlabelled=unknown").classes == ("a", "b")
    pixels = np.arange(4, dtype=np.uint8)[:, None, None] * np.ones((1, 8, 8), np.uint8)
    np.savez(tmp_path / "named.npz", images=pixels, labels=np.array([0, 1, -1, 1]), classes=np.array(["a", "b"]))
    with pytest.raises(UserError, match=r"the label -1 has no class.*@unlabelled=-1"):
        open_source(tmp_path / "named.npz")
    np.savez(tmp_path / "floats.npz", images=pixels, labels=np.array([0, 1, np.nan, 1]))
    with pytest.raises(UserError, match=r"1 of 4 labels are NaN.*@unlabelled=skip"):
        open_source(tmp_path / "floats.npz")
    np.savez(tmp_path / "text.npz", images=pixels, labels=np.array(["a", "b", "", "b"]))
    for name, word, classes in (
        ("named", "-1", ("a", "b")),
        ("floats", "skip", ("0", "1")),
        ("text", "skip", ("a", "b")),
    ):
        images = open_source(f"{tmp_path}/{name}.npz@unlabelled={word}")
        assert images.classes == classes
        assert images.labels is not None
        assert images.labels.tolist() == [0, 1, 1]
        assert int(images.read(2)[0, 0, 0]) == 3


def test_rows_in_which_nobody_was_asked_are_left_out_on_demand(catalog: Path) -> None:
    rows = ["0.png,3,1,x", "1.png,,,y", "3.png,0,4,z"]
    write(catalog.parent, rows, "file,smooth,spiral,mag")
    votes = f"{catalog}@votes=smooth+spiral"
    with pytest.raises(UserError, match=r"votes of 1 of 3 images are no number .*@unlabelled=skip leaves the 1 out"):
        open_source(votes)
    images = open_source(f"{votes}@unlabelled=skip", columns="all")
    assert images.files == ["0.png", "3.png"]
    assert images.columns["mag"] == ["x", "z"]
    assert images.ignored == ["1.png (nobody voted on it)"]
    write(catalog.parent, ["0.png,3,,x", *rows[1:]], "file,smooth,spiral,mag")
    with pytest.raises(UserError, match="votes of 1 of 3 images are no number"):  # a part of them is damage
        open_source(f"{votes}@unlabelled=skip")


def test_a_continuous_label_is_called_so(tmp_path: Path) -> None:
    rows = []
    for i in range(30):
        write_picture(tmp_path / f"{i}.png", i)
        rows.append(f"{i}.png,{i / 7:.5f},{i}")
    with pytest.raises(UserError, match=r"'label' holds 30 different numbers .*seems to be continuous"):
        open_source(write(tmp_path, rows))
    rows = [f"{i}.png,{i % 3 / 2},{i}" for i in range(30)]
    assert open_source(write(tmp_path, rows)).classes == ("0", "0.5", "1")
