"""The benchmark of a step with tied weights runs at toy size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "tied_step.py"


def test_it_measures_both_groups(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    subprocess.run([sys.executable, str(SCRIPT), "--steps", "1", "--out", str(out)], check=True, capture_output=True)
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert [(row["px"], row["group"]) for row in rows] == [(32, "mirror"), (57, "d4")]
    for row in rows:
        assert row["free_ms"] > 0
        assert abs(row["ratio"] - row["tied_ms"] / row["free_ms"]) < 1e-3
