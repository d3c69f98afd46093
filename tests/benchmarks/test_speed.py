"""The benchmark scripts: figures come out as the table says, and every row runs at toy size."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from astroformer.images.sets.mock_galaxies import CLASSES, mock_galaxies

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


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """The modules `speed` and `turns`, imported as the scripts import each other."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("speed"), importlib.import_module("common.turns")


def compared(speed: Any, pace: list[float]) -> dict[str, Any]:
    """A row in which ours is three times as fast as timm, on a machine whose pace changes from round to round."""
    found = {
        "ours": [{"images": 300 * p, "seconds": 1.0} for p in pace],
        "timm": [{"images": 100 * p, "seconds": 1.0} for p in pace],
    }
    return dict(speed._compared(found))


def test_the_ratio_is_of_neighbours_and_the_table_shows_it(scripts: tuple[Any, Any]) -> None:
    speed, turns = scripts
    row = compared(speed, [1.0, 0.1, 0.5])  # a disturbance that slows a whole round leaves the ratios alone
    assert row["ratios"]["timm"] == pytest.approx({"median": 3, "min": 3, "max": 3})
    assert row["sides"]["ours"] == {"median": 150, "min": 30, "max": 300}
    assert turns.ratios([2, 9], [1, 3]) == {"median": 2.5, "min": 2, "max": 3}
    row |= {"ceilings": {}, "processor": "P", "versions": {"torch": "T"}}
    assert "| a row | images/s | 150 | 50 | 3.00 (3.00 – 3.00) |" in speed.table({"a row": row})


def test_the_page_shows_what_the_table_prints() -> None:
    page = (BENCHMARKS.parent / "docs" / "lab" / "performance.md").read_text(encoding="utf-8").splitlines()
    printed = [line for line in run("speed.py", "--table").splitlines() if line]
    assert len(printed) > 20
    assert [line for line in printed if line not in page] == []


def test_a_row_is_kept_as_it_comes_and_not_measured_again(
    scripts: tuple[Any, Any], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speed, _ = scripts
    measured = []

    def row(name: str) -> dict[str, Any]:
        measured.append(name)
        if name == "broken" and len(measured) == 2:
            raise RuntimeError("a side ended")
        return compared(speed, [1.0]) | {"ceilings": {}}

    names = ("whole", "broken")
    monkeypatch.setattr(speed, "rows", lambda arguments: {name: partial(row, name) for name in names})
    monkeypatch.setattr(sys, "argv", ["speed.py", str(data), "--quick", "--out", str(tmp_path / "speed.json")])
    with pytest.raises(RuntimeError, match="a side ended"):
        speed.main()
    speed.main()
    assert measured == ["whole", "broken", "broken"]
    assert list(json.loads((tmp_path / "speed.json").read_text())) == ["whole", "broken"]


def test_sides_answer_in_turn_and_one_that_fails_says_why(scripts: tuple[Any, Any], tmp_path: Path) -> None:
    _, turns = scripts
    code = "import sys; sys.path.insert(0, {!r}); from common import turns; log = open({!r}, 'a')\n"
    code += "def measure():\n    log.write({!r}); log.flush(); return {{'seconds': 1.0}}\nturns.serve(measure)"
    log = tmp_path / "log"
    sides = {name: [sys.executable, "-c", code.format(str(BENCHMARKS), str(log), name)] for name in "ab"}
    found = turns.in_turn(sides, rounds=3, threads=1)
    assert log.read_text() == "ababab"
    assert [len(measured) for measured in found.values()] == [3, 3]
    broken = [sys.executable, "-c", "raise SystemExit('no such thing')"]
    with pytest.raises(RuntimeError, match="status 1:\nno such thing"):
        turns.in_turn({"ours": broken}, rounds=1, threads=1)


@pytest.mark.parametrize("script", ["ceilings.py", "speed_product.py", "timm_reference.py"])
def test_the_sides_are_scripts_that_are_there(scripts: tuple[Any, Any], script: str) -> None:
    _, turns = scripts
    command = turns.python(script, "--help")
    assert command[0] == sys.executable
    assert Path(command[1]).is_file()


@pytest.mark.slow
def test_every_script_answers_help() -> None:
    every = [*BENCHMARKS.glob("*.py"), *BENCHMARKS.glob("archive/*.py")]
    assert len(every) > 15
    for script in every:
        assert "usage" in run(str(script.relative_to(BENCHMARKS)), "--help"), script


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
