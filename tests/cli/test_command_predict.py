"""`astroformer predict` and `astroformer evaluate`: a model is asked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from astroformer.images.sets.mock_galaxies import CLASSES
from helpers.command_line import Run, table


def test_predict_gives_every_file_a_row(run: Run, model_folder: Path, galaxy_folder: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for i, file in enumerate(sorted(galaxy_folder.rglob("*.png"))[:5]):
        (flat / f"{i}.png").write_bytes(file.read_bytes())
    (flat / "2.png").write_bytes(b"no image")
    said = run("predict", model_folder, flat, "--out", "p.csv", "--batch-size", "2")
    assert said.status == 0
    assert said.out.splitlines() == ["4 predictions", "predictions: p.csv"]
    assert said.err.splitlines() == [
        "predicting: 5 images",
        "1 of 5 images can't be taken; column error of 'p.csv' says why",
    ]
    rows = table(tmp_path / "p.csv")
    assert list(rows[0]) == ["file", "prediction", "confidence", *(f"p:{name}" for name in CLASSES), "error"]
    assert [row["file"] for row in rows] == [f"{i}.png" for i in range(5)]
    assert [bool(row["error"]) for row in rows] == [False, False, True, False, False]
    assert "not a JPEG" in rows[2]["error"]
    assert rows[2]["prediction"] == rows[2]["confidence"] == rows[2]["p:merging"] == ""


def test_evaluate_writes_tables_and_pictures(run: Run, model_folder: Path, galaxy_folder: Path) -> None:
    said = run("evaluate", model_folder, galaxy_folder, "--out", "new/folder")
    assert said.status == 0
    out = Path("new/folder")
    assert sorted(file.name for file in out.iterdir()) == [
        "confusion.pdf",
        "confusion.png",
        "confusion.txt",
        "metrics.json",
        "mistakes.pdf",
        "mistakes.png",
        "predictions.csv",
    ]
    content = json.loads((out / "metrics.json").read_text())
    assert {"n", "top1", "balanced_accuracy", "macro_f1", "nll", "source", "left_out"} <= content.keys()
    assert (content["n"], content["left_out"], content["source"]) == (30, 0, str(galaxy_folder))
    assert f"{content['top1']['value']:.4f}" in said.out
    assert (out / "confusion.txt").read_text() in said.out
    right = [row["prediction"] == row["file"].split("/")[0] for row in table(out / "predictions.csv")]
    assert np.mean(right) == pytest.approx(content["top1"]["value"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["predict", "M", "G", "--out", "p.txt"], "must end in .csv or .parquet"),
        (["predict", "M", "G", "--out", "no/p.csv"], "folder 'no' does not exist"),
        (["predict", "M", "G", "--out", "p.csv", "--batch-size", "0"], "batch_size is 0"),
        (["predict", "M", "G", "--out", "p.csv", "--device", "gpu"], "unknown device 'gpu'"),
        (["predict", "M", "nowhere", "--out", "p.csv"], "'nowhere' is neither a file or folder"),
        (["predict", "G", "G", "--out", "p.csv"], "is no model folder: it has no config.json"),
        (["evaluate", "M", "G/merging", "--out", "e"], "no class folders"),
        (["evaluate", "M", "G", "--out", "file"], "folder 'file' can't be made"),
    ],
)
def test_predict_and_evaluate_refuse_with_one_sentence(
    run: Run, model_folder: Path, galaxy_folder: Path, words: list[str], says: str
) -> None:
    Path("file").write_text("x")
    before = set(Path().iterdir())
    named = {"M": str(model_folder), "G": str(galaxy_folder), "G/merging": str(galaxy_folder / "merging")}
    assert says in run(*(named.get(word, word) for word in words)).refusal()
    assert set(Path().iterdir()) == before  # nothing half-made is left
