"""The table of pairs says what the notebook says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_pooled_figures_of_the_notebook_are_those_of_the_rows() -> None:
    script = ROOT / "benchmarks" / "hybrid_pairs.py"
    made = subprocess.run([sys.executable, str(script)], check=True, capture_output=True, text=True).stdout
    notebook = (ROOT / "docs" / "lab" / "experiments.md").read_text(encoding="utf-8").replace("−", "-")
    for weights, pairs in (("all", 25), ("d4", 10), ("none", 10)):
        line = next(line for line in made.splitlines() if line.startswith(f"| {weights} | {pairs} | "))
        assert line.split(" | ")[3] in notebook
