"""The notebooks under examples/ run from top to bottom, and are kept without what they have shown."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "examples").glob("*.ipynb"))


def code_cells(notebook: Path) -> list[dict[str, Any]]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_there_is_one() -> None:
    assert [notebook.name for notebook in NOTEBOOKS] == ["first_hour.ipynb"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_outputs_are_cleared(notebook: Path) -> None:
    for cell in code_cells(notebook):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None


@pytest.mark.pages
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_runs_from_top_to_bottom(notebook: Path, tmp_path: Path) -> None:
    """In a fresh process without IPython; as long as it takes to learn nothing."""
    cells = ["".join(cell["source"]) for cell in code_cells(notebook)]
    assert sum("MINUTES = 0.5" in cell for cell in cells) == 1
    cells = [cell.replace("MINUTES = 0.5", "MINUTES = 0.005").replace("600x48", "60x48") for cell in cells]
    (tmp_path / "cells.json").write_text(json.dumps(cells), encoding="utf-8")
    program = """
import json, sys
sys.modules["IPython"] = None
names = {"__name__": "__main__"}
for number, cell in enumerate(json.load(open("cells.json", encoding="utf-8"))):
    exec(compile(cell, f"cell {number}", "exec"), names)
assert (names["trained"].run / "confusion.png").exists()
assert len(names["predictions"]) == 50
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
