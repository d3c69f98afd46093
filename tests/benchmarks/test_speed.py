"""The benchmark scripts: figures come out as the table says, and every row runs at toy size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from astroformer.images.mock_galaxies import CLASSES, mock_galaxies

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`train` and `valid` with two JPEGs of each class."""
    root = tmp_path_factory.mktemp("data")
    images, labels = mock_galaxies(20, size=40, seed=3)
    for part in ("train", "valid"):
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            folder = root / part / CLASSES[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{i:02d}.jpg")
    return root


def run(script: str, *words: object) -> str:
    command = [sys.executable, str(BENCHMARKS / script), *map(str, words)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr[-2000:]
    return made.stdout


def test_one_row_is_measured_kept_and_not_measured_again(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    words = (data, "--quick", "--out", out, "--rows", "step astroformer_atto 32 px, 1")
    run("speed.py", *words)
    (row,) = json.loads(out.read_text()).values()
    assert set(row["sides"]) == {"ours", "timm", "timm, our allocator settings"}
    for side in row["sides"].values():
        assert 0 < side["min"] <= side["median"] <= side["max"]
    before = out.read_bytes()
    assert "| step astroformer_atto 32 px, 1 thread | images/s |" in run("speed.py", *words)
    assert out.read_bytes() == before


def test_the_ratio_is_of_neighbours_and_the_table_shows_it(tmp_path: Path) -> None:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import speed
        import turns
    finally:
        sys.path.remove(str(BENCHMARKS))
    # A disturbance that slows a whole round leaves the ratios alone.
    pace = np.array([1.0, 0.1, 0.5])
    found = {
        "ours": [{"images": 300 * p, "seconds": 1.0} for p in pace],
        "timm": [{"images": 100 * p, "seconds": 1.0} for p in pace],
    }
    row = speed._compared(found)
    assert row["ratios"]["timm"] == pytest.approx({"median": 3, "min": 3, "max": 3})
    assert row["sides"]["ours"] == {"median": 150, "min": 30, "max": 300}
    assert turns.ratios([2, 9], [1, 3]) == {"median": 2.5, "min": 2, "max": 3}
    row |= {"ceilings": {}, "processor": "P", "versions": {"torch": "T"}}
    assert "| a row | images/s | 150 | 50 | 3.00 (3.00 – 3.00) |" in speed.table({"a row": row})


def test_a_side_that_fails_says_why() -> None:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import turns
    finally:
        sys.path.remove(str(BENCHMARKS))
    command = [sys.executable, "-c", "raise SystemExit('no such thing')"]
    with pytest.raises(RuntimeError, match="status 1:\nno such thing"):
        turns.in_turn({"ours": command}, rounds=1, threads=1)


@pytest.mark.slow
def test_every_row_runs_at_toy_size(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    run("speed.py", data, "--quick", "--out", out)
    listed = run("speed.py", data, "--quick", "--out", out, "--list").split("\n")[:-1]
    assert list(json.loads(out.read_text())) == listed


@pytest.mark.slow
def test_the_gpu_script_runs_at_toy_size_on_a_cpu(tmp_path: Path) -> None:
    out = tmp_path / "speed_gpu.json"
    run("speed_gpu.py", "--device", "cpu", "--toy", "--out", out)
    rows = json.loads(out.read_text())
    assert {name.split()[0] for name in rows} >= {"ceilings", "step", "epoch", "attention", "products"}
    failed = {name: row["error"] for name, row in rows.items() if "error" in row}
    assert not failed
