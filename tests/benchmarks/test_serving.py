"""The benchmarks of answering: figures come out as the table says, and every row runs at toy size."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from astroformer.images.sets.mock_galaxies import CLASSES, mock_galaxies

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, imported as the scripts import each other."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("serving")


def test_the_table_has_medians_and_ratios_of_neighbours(serving: Any) -> None:
    rates = {side: [10.0, 20.0, 60.0] for side in serving.SIDES} | {"timm": [5.0, 5.0, 20.0]}
    row = serving._beside_timm(rates) | {"files": 1000, "processor": "P"}
    assert row["ratios"]["openvino"] == {"median": 3, "min": 2, "max": 4}
    sides = {side: {"p50": 1.5, "p99": 9.0} for side in ("timm", *serving.SIDES)}
    one = {"unit": "ms", "sides": sides, "processor": "P"}
    grown = {"unit": "images/s", "points": {"16": {s: {"median": 7.0} for s in ("timm", *serving.FLOATS)}}}
    text = serving.table({"files atto": row, "one atto": one, "batch": grown | {"processor": "P"}})
    assert "| atto, 1,000 files | 5 | 20 |" in text
    assert "3.00 (2.00 – 4.00)" in text
    assert "| atto | 1.5, 9 | 1.5, 9 |" in text
    assert "| batch | 16 | 7 | 7 | 7 | 7 |" in text


def test_the_rows_that_are_kept_are_shown(serving: Any) -> None:
    results = json.loads((BENCHMARKS / "results" / "serving.json").read_text(encoding="utf-8"))
    shown = serving.table(results)
    for variant, size in serving.MODELS:
        assert f"| {variant} {size} px" in shown


@pytest.mark.slow
def test_every_row_runs(tmp_path: Path) -> None:
    for package in ("onnxscript", "onnxruntime", "openvino", "nncf"):
        pytest.importorskip(package)
    images, labels = mock_galaxies(120, size=40, seed=3)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = tmp_path / "data" / ("train" if i % 2 else "valid") / CLASSES[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i:03d}.jpg")
    out = tmp_path / "rows.json"
    command = [sys.executable, str(BENCHMARKS / "serving.py"), str(tmp_path / "data"), "--quick", "--out", str(out)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr[-2000:]
    assert {name.split()[0] for name in json.loads(out.read_text())} == {"files", "one", "batch", "size", "threads"}
