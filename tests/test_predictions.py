"""Predictions as tables: in Python the same columns and values as in the files of the command line."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from astroformer.errors import UserError
from astroformer.evaluation.tables import PredictionWriter
from astroformer.predictions import Predictions

CLASSES = ("disc", "ring, broken", "<b>bar</b>")
THREE = Predictions(
    ["a.png", 'b, "b".png', "c.png"],
    CLASSES,
    np.array([[0.7, 0.2, 0.1], [np.nan] * 3, [0.125, 0.25, 0.625]]),
    ["", "it is no image", ""],
)


@pytest.fixture
def by_command(tmp_path: Path) -> Path:
    """The same as `astroformer predict` writes them: a CSV and a Parquet file."""
    for name in ("command.csv", "command.parquet"):
        with PredictionWriter(tmp_path / name, CLASSES) as writer:
            writer.write(THREE)
    return tmp_path


def test_csv_is_that_of_the_command_line(by_command: Path) -> None:
    path = THREE.to_csv(by_command / "python.csv")
    assert path.read_bytes() == (by_command / "command.csv").read_bytes()
    with path.open(newline="", encoding="utf-8") as stream:
        header, *rows = csv.reader(stream)
    assert header == ["file", "prediction", "confidence", "p:disc", "p:ring, broken", "p:<b>bar</b>", "error"]
    assert rows[1] == ['b, "b".png', "", "", "", "", "", "it is no image"]
    assert rows[2] == ["c.png", "<b>bar</b>", "0.625", "0.125", "0.25", "0.625", ""]


def test_a_table_of_arrow_is_the_parquet_file_of_the_command_line(by_command: Path) -> None:
    assert THREE.to_arrow().equals(pq.read_table(by_command / "command.parquet"))
    nothing = Predictions.joined([], CLASSES).to_arrow()
    assert nothing.num_rows == 0
    assert nothing.schema.equals(THREE.to_arrow().schema)


def test_nothing_is_overwritten_unless_it_is_asked_for(tmp_path: Path) -> None:
    path = THREE.to_csv(tmp_path / "p.csv")
    before = path.read_bytes()
    one = Predictions(["a.png"], CLASSES, np.array([[1.0, 0.0, 0.0]]), [""])
    with pytest.raises(UserError, match=r"p\.csv' exists already; choose another name, .* overwrite=True"):
        one.to_csv(path)
    assert path.read_bytes() == before
    one.to_csv(str(path), overwrite=True)
    assert len(path.read_text(encoding="utf-8").splitlines()) == 2
    with pytest.raises(UserError, match=r"must end in \.csv"):
        one.to_csv(tmp_path / "p.txt")
    with pytest.raises(UserError, match="does not exist"):
        one.to_csv(tmp_path / "no" / "p.csv")


def test_pandas_is_asked_for_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="to_pandas needs pandas: pip install pandas"):
        THREE.to_pandas()


def test_a_data_frame_has_the_same_columns() -> None:
    pytest.importorskip("pandas")
    frame = THREE.to_pandas()
    assert list(frame.columns) == THREE.to_arrow().column_names
    assert frame["prediction"].value_counts().to_dict() == {"disc": 1, "<b>bar</b>": 1}
    assert frame["confidence"].isna().tolist() == [False, True, False]


def test_at_first_sight() -> None:
    assert repr(THREE).splitlines() == [
        "Predictions: 3 images, 3 classes",
        "  disc            1   (33.3 %)",
        "  <b>bar</b>      1   (33.3 %)",
        "  can't be taken  1   (the first: it is no image)",
    ]
    many = Predictions(
        [str(i) for i in range(1200)],
        tuple(f"class {k}" for k in range(200)),
        np.eye(200)[np.arange(1200) % 200],
        [""] * 1200,
        np.arange(1200) < 7,
    )
    lines = repr(many).splitlines()
    assert len(lines) == 13
    assert lines[0] == "Predictions: 1,200 images, 200 classes"
    assert lines[-2].split() == ["190", "other", "classes", "1,140"]
    assert lines[-1].split() == ["trained", "on", "7"]
    assert repr(Predictions.joined([], CLASSES)) == "Predictions: 0 images, 3 classes"


def test_html_escapes_what_users_wrote() -> None:
    html = THREE._repr_html_()
    assert "&lt;b&gt;bar&lt;/b&gt;" in html
    assert "<b>bar" not in html
