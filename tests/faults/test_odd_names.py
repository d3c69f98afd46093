"""Classes and files are called alike, whatever wrote their names."""

from __future__ import annotations

import contextlib
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from astroformer.errors import UserError
from astroformer.images.names import class_name, natural_key, printable
from astroformer.images.sources import open_source
from astroformer.training.recipe import Recipe
from astroformer.training.train import train
from helpers.tiny_sets import save_npz, write_picture

COMPOSED, DECOMPOSED = unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")


def catalog(folder: Path, rows: list[str], name: str = "c.csv") -> Path:
    for i in range(len(rows) - 1):
        write_picture(folder / f"{i}.png", i)
    (folder / name).write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder / name


def test_one_rule_for_labels_of_all_sources(tmp_path: Path) -> None:
    names = ["1", "2", COMPOSED]
    rows = ["file,label", "0.png,1.0", "1.png, 2 ", f"2.png,{DECOMPOSED}"]
    assert open_source(catalog(tmp_path, rows)).classes == tuple(names)
    images = np.zeros((3, 32, 32), np.uint8)
    for labels in (np.array(["1.0", "2", DECOMPOSED]), np.array([b"1.0", b"2 ", DECOMPOSED.encode()])):
        assert open_source(save_npz(tmp_path / "a.npz", images=images, labels=labels)).classes == tuple(names)
    whole = save_npz(tmp_path / "b.npz", images=images, labels=np.array([1.0, 2.0, 1.0]))
    assert open_source(whole).classes == ("1", "2")
    with pytest.raises(UserError, match="one whole number or name"):
        open_source(save_npz(tmp_path / "c.npz", images=images, labels=np.array([1.0, 2.5, 1.0])))
    for name in ("1.0", "2", DECOMPOSED):
        write_picture(tmp_path / "set" / name / "a.png")
    assert open_source(tmp_path / "set").classes == tuple(names)


def test_a_model_knows_its_classes_however_they_are_written(tmp_path: Path) -> None:
    for name in (DECOMPOSED, "disc"):
        write_picture(tmp_path / "set" / name / "a.png")
    for known in ([COMPOSED, "disc"], [DECOMPOSED, "disc"]):  # the second: a model of before
        images = open_source(tmp_path / "set", classes=known)
        assert images.classes == tuple(known)
        assert images.counts() == {known[0]: 1, "disc": 1}
    write_picture(tmp_path / "set" / COMPOSED / "b.png")
    if len(list((tmp_path / "set").iterdir())) == 3:  # some file systems take both names for one
        with pytest.raises(UserError, match="how accents are written"):
            open_source(tmp_path / "set")


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_the_header_tells_what_parts_the_columns(tmp_path: Path, mark: str) -> None:
    rows = [mark.join(row) for row in (["file", "label", "note"], ["0.png", "a", "x"], ["1.png", "b", "y"])]
    for name in ("c.csv", "c.tsv"):
        images = open_source(catalog(tmp_path, rows, name))
        assert (images.files, images.classes) == (["0.png", "1.png"], ("a", "b"))


def test_catalogs_with_absurd_paths_and_damage(tmp_path: Path) -> None:
    rows = ["file,label", "0.png,a", "~nobody/x.png,b", "a\0b.png,a", f"{'x' * 5000}.png,b"]
    images = open_source(catalog(tmp_path, rows))
    assert images.read(0).shape == (6, 8, 3)
    for i in (1, 2, 3):
        with pytest.raises(UserError, match="cannot read the image"):
            images.read(i)
    import pyarrow as pa
    import pyarrow.parquet as pq

    good = pa.table({"file": [f"{i}.png" for i in range(400)], "label": ["a", "b"] * 200})
    pq.write_table(good, tmp_path / "c.parquet", compression="zstd")
    whole = (tmp_path / "c.parquet").read_bytes()
    for at in range(4, len(whole) // 2, 97):
        (tmp_path / "c.parquet").write_bytes(whole[:at] + b"\xff" * 60 + whole[at + 60 :])
        with contextlib.suppress(UserError):  # any other error fails the test
            open_source(tmp_path / "c.parquet")


def test_two_classes_that_differ_by_case_are_refused_wherever_they_are_named(tmp_path: Path) -> None:
    write_picture(tmp_path / "set" / "A" / "0.png")
    write_picture(tmp_path / "set" / "a" / "1.png")
    images = np.zeros((2, 32, 32), np.uint8)
    sources: list[Path] = [
        catalog(tmp_path, ["file,label", "0.png,A", "1.png,a"]),
        save_npz(tmp_path / "a.npz", images=images, labels=np.array(["A", "a"])),
        save_npz(tmp_path / "b.npz", images=images, labels=np.array([0, 1]), classes=np.array(["A", "a"])),
    ]
    if len(list((tmp_path / "set").iterdir())) == 2:  # some file systems take both names for one
        sources.append(tmp_path / "set")
    for source in sources:
        with pytest.raises(UserError, match=r"two class.* of the same name but for case.*Merge or rename"):
            train(source, Recipe(epochs=1, image_size=32, crop=1.0), out=tmp_path / "run")


def test_natural_order_takes_only_digits_of_ascii_for_numbers() -> None:
    names = ["3.png", "10.png", "２.png", "型１", "١.png", "x²", "b2", "b10"]
    assert sorted(names, key=natural_key)[:2] == ["3.png", "10.png"]
    assert sorted(["b10", "b2"], key=natural_key) == ["b2", "b10"]


def test_rules_of_names() -> None:
    assert [class_name(x) for x in (np.float64(3.0), np.int64(3), "3.0", "+3.00", "3.5", True)] == [
        "3",
        "3",
        "3",
        "+3",
        "3.5",
        "True",
    ]
    assert printable("plain é 型") == "plain é 型"
    assert printable("caf\udce9.png") == "caf\\xe9.png"
