"""The benchmark of reading runs at toy size; it compares what it reads with what the libraries of the formats give."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

for library in ("astropy", "h5py", "zarr"):
    pytest.importorskip(library)
SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "reading.py"


@pytest.mark.slow
def test_every_kind_is_measured_and_stands_in_the_table(tmp_path: Path) -> None:
    words = ["--images", "3", "--turns", "1", "--out", str(tmp_path / "rows.jsonl")]
    done = subprocess.run([sys.executable, str(SCRIPT), *words], check=True, capture_output=True, text=True)
    lines = done.stdout.splitlines()[2:]
    assert len(lines) == len((tmp_path / "rows.jsonl").read_text().splitlines()) == 10
    for line in lines:
        ours, library, ratio = (float(cell.replace(",", "")) for cell in line.split("|")[2:5])
        assert ours > 0
        assert ratio == pytest.approx(ours / library, rel=0.2)
    again = subprocess.run([sys.executable, str(SCRIPT), "--table"], check=True, capture_output=True, text=True)
    assert len(again.stdout.splitlines()) == len(lines) + 2  # of the results that are kept
