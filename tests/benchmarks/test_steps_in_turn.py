"""The benchmarks that time steps of two networks in turn run at toy size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def rows_of(script: str, out: Path) -> list[dict[str, Any]]:
    words = ["--repeats", "1", "--out", str(out)]
    subprocess.run([sys.executable, str(BENCHMARKS / script), *words], check=True, capture_output=True)
    rows: list[dict[str, Any]] = json.loads(out.read_text(encoding="utf-8"))["rows"]
    return rows


@pytest.mark.slow
def test_tied_steps_are_measured_in_both_groups(tmp_path: Path) -> None:
    rows = rows_of("tied_step.py", tmp_path / "rows.json")
    assert [(row["px"], row["group"]) for row in rows] == [(32, "mirror"), (57, "d4")]
    for row in rows:
        assert row["free_ms"] > 0
        assert abs(row["ratio"] - row["tied_ms"] / row["free_ms"]) < 1e-2


@pytest.mark.slow
def test_steps_and_predictions_of_the_hybrid_are_measured_in_both_precisions(tmp_path: Path) -> None:
    rows = rows_of("hybrid_step.py", tmp_path / "rows.json")
    assert len({(row["px"], row["group"], tuple(row["strides"])) for row in rows}) == 5
    assert {row["dtype"] for row in rows} == {"float32", "bfloat16"}
    for row in rows:
        for what in ("step", "prediction"):
            assert abs(row[f"{what}_ratio"] - row[f"{what}_hybrid_ms"] / row[f"{what}_convolutions_ms"]) < 1e-2
