"""The example of a program that asks an exported graph, in a process that has neither torch nor this package."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from helpers.pages import ROOT

CONSUMER = ROOT / "examples" / "consumer.py"
_WITHOUT = "import runpy, sys; sys.modules.update(torch=None, astroformer=None); sys.argv = sys.argv[1:]; "
_RUN = "runpy.run_path(sys.argv[0], run_name='__main__')"


def consume(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs the example on a graph and files."""
    return subprocess.run(
        [sys.executable, "-c", _WITHOUT + _RUN, str(CONSUMER), *map(str, words)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(CONSUMER.parent), "PYTHONIOENCODING": "utf-8"},
    )


def consumed(graph: Path, files: Sequence[Path]) -> list[dict[str, str]]:
    """The rows that the example prints about files."""
    ran = consume(graph, *files)
    assert ran.returncode == 0, ran.stderr
    return list(csv.DictReader(ran.stdout.splitlines()))
