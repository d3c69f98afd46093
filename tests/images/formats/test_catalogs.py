from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from astroformer.errors import UserError
from astroformer.images.reading import UnreadableImage
from astroformer.images.sources import open_source

RNG = np.random.default_rng(1)


def catalog(root: Path, rows: list[tuple[object, object]], names: tuple[str, str], kind: str) -> Path:
    path = root / f"catalog.{kind}"
    if kind == "parquet":
        columns = [list(column) for column in zip(*rows, strict=True)]
        pyarrow.parquet.write_table(
            pyarrow.table({names[0]: columns[0], "ra": [1.5] * len(rows), names[1]: columns[1]}), path
        )
    else:
        comma = "\t" if kind == "tsv" else ","
        lines = [(names[0], "ra", names[1]), *((a, 1.5, b) for a, b in rows)]
        path.write_text("\n".join(comma.join(map(str, line)) for line in lines) + "\n")
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_catalog(folder: Path, kind: str) -> None:
    rows: list[tuple[object, object]] = [
        ("class2/x9.png", "10"),
        (folder / "class10" / "a.png", "9"),
        ("class10/b.png", "10"),
    ]
    rows = [(str(file), label) for file, label in rows]
    images = open_source(catalog(folder, rows, ("File", "Label"), kind))
    assert images.classes == ("9", "10")
    assert images.labels is not None
    assert images.labels.tolist() == [1, 0, 1]
    assert images.files == [row[0] for row in rows]
    assert [int(images.read(i)[0, 0, 0]) for i in range(3)] == [4, 1, 0]
    assert open_source(folder / f"catalog.{kind}", labelled=False).labels is None


def test_catalog_numbers_stay_as_written(folder: Path) -> None:
    path = catalog(folder, [("class2/x9.png", "01"), ("class2/x10.png", "1")], ("path", "class"), "csv")
    assert open_source(path).classes == ("01", "1")
    path = catalog(folder, [("class2/x9.png", 3.0), ("class2/x10.png", 1.0)], ("path", "class"), "parquet")
    assert open_source(path).classes == ("1", "3")


def test_catalog_columns(folder: Path) -> None:
    path = folder / "c.csv"
    path.write_text("file,filename,kind\nclass2/x9.png,class10/a.png,s\nclass2/x10.png,class10/b.png,e\n")
    with pytest.raises(
        UserError, match=r"file, filename could all be the file.*It has: file, filename, kind.*@file=COLUMN"
    ):
        open_source(path)
    with pytest.raises(UserError, match=r"no column is named for the label.*It has: file, filename, kind"):
        open_source(f"{path}@file=filename")
    images = open_source(f"{path}@file=filename@label=kind")
    assert images.files == ["class10/a.png", "class10/b.png"]
    assert images.classes == ("e", "s")
    with pytest.raises(UserError, match=r"unknown column in .* 'kinds'. Did you mean 'kind'"):
        open_source(f"{path}@file=filename@label=kinds")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("file,label\nclass2/x9.png,a\nclass2/./x9.png,b\n", "lists 1 files more than once: class2/x9.png"),
        (
            "file,label\nclass2/x9.png,a\nclass2/x10.png,\n",
            r"'label' is empty in 1 of 2 rows \(the first: 2\)",
        ),
        ("file,label\nclass2/x9.png,a\nclass2/x10.png\n", "row 2 has 1 values, the header 2"),
        ("file,label\nclass2/x9.png,a\nclass2/x10.png,a\n", "one class only"),
        ("file,label\nno.png,a\nnone.png,b\n", r"none of its 2 files exists.*'no\.png'"),
        ("file,label\n", "has no images"),
        ("", "It has: no columns"),
    ],
)
def test_catalog_errors(folder: Path, text: str, sentence: str) -> None:
    (folder / "c.csv").write_text(text)
    with pytest.raises(UserError, match=sentence):
        open_source(folder / "c.csv")


def test_damaged_catalogs(folder: Path) -> None:
    (folder / "c.parquet").write_bytes(b"PAR1 and words")
    with pytest.raises(UserError, match="not a Parquet file"):
        open_source(folder / "c.parquet")
    (folder / "c.csv").write_bytes("file,label\né.png,a\n".encode("latin1"))
    with pytest.raises(UserError, match="not UTF-8"):
        open_source(folder / "c.csv")


def test_one_missing_file_of_a_catalog_is_left_to_reading(folder: Path) -> None:
    path = catalog(folder, [("class2/x9.png", "a"), ("gone.png", "b")], ("file", "label"), "csv")
    with pytest.raises(UnreadableImage, match=r"gone\.png.*No such file"):
        open_source(path).read(1)


def test_images_that_lie_elsewhere(folder: Path, tmp_path: Path) -> None:
    away = tmp_path / "away@home"  # a name of which no part is taken for an option
    away.mkdir()
    path = catalog(away, [("class2/x9.png", "b"), ("class10/a.png", "a")], ("file", "label"), "csv")
    with pytest.raises(UserError, match=r"none of its 2 files exists.*Say where they lie with .*@root=FOLDER"):
        open_source(path)
    images = open_source(f"{path}@root={folder}@label=label")
    assert images.files == ["class2/x9.png", "class10/a.png"]
    assert images.read(0).shape == open_source(folder / "class2" / "x9.png", labelled=False).read(0).shape
    with pytest.raises(UserError, match="there is no such folder"):
        open_source(f"{path}@root={tmp_path / 'nowhere'}")
    with pytest.raises(UserError, match="@root does not apply to this kind of source"):
        open_source(f"{folder}@root={folder}")
    (folder / "sub@dir").mkdir()
    assert len(open_source(f"{path}@root={folder}/sub@dir/..")) == 2


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_other_columns(folder: Path, kind: str) -> None:
    rows: list[tuple[object, object]] = [("class2/x9.png", "b"), ("class10/a.png", "a")]
    path = catalog(folder, rows, ("file", "label"), kind)
    ra = 1.5 if kind == "parquet" else "1.5"
    assert open_source(path).columns == {}
    assert open_source(path, columns="all").columns == {"ra": [ra, ra]}
    assert open_source(path, columns=["label", "ra"], labelled=False).columns == {"label": ["b", "a"], "ra": [ra, ra]}
    assert open_source(path, columns="all", labelled=False).columns == {"ra": [ra, ra], "label": ["b", "a"]}
    some = open_source(f"{path}@per-class=0:1", columns=["file"], classes=("a", "b"))
    assert some.columns["file"] == some.files
    with pytest.raises(UserError, match=r"unknown column in .* 'raa'\. Did you mean 'ra'"):
        open_source(path, columns=["raa"])


def test_a_column_that_occurs_twice_is_not_guessed(folder: Path) -> None:
    (folder / "twice.csv").write_text("file,z,label,z\nclass2/x9.png,1,b,2\nclass10/a.png,1,a,2\n")
    assert len(open_source(folder / "twice.csv")) == 2
    assert open_source(folder / "twice.csv", columns="all").columns == {}
    with pytest.raises(UserError, match="the column 'z' occurs twice"):
        open_source(folder / "twice.csv", columns=["z"])


def test_rarer_names_of_columns_count_where_no_usual_one_is_there(folder: Path) -> None:
    path = folder / "c.csv"
    path.write_text("png_loc,morph,ALPHAWIN_J2000,DELTAWIN_J2000\nclass2/x9.png,s,1,2\nclass2/x10.png,e,3,4\n")
    images = open_source(path)
    assert images.files == ["class2/x9.png", "class2/x10.png"]
    assert images.classes == ("e", "s")
    assert images.positions_N2 is not None
    assert images.positions_N2.tolist() == [[1, 2], [3, 4]]
    path.write_text(
        "file,label,morphology,ra,dec,TARGET_RA,TARGET_DEC\nclass2/x9.png,s,x,1,2,9,9\nclass2/x10.png,e,x,3,4,9,9\n"
    )
    images = open_source(path)
    assert images.classes == ("e", "s")
    assert images.positions_N2 is not None
    assert images.positions_N2.tolist() == [[1, 2], [3, 4]]
