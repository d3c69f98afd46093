"""The command line as a user types it: in this process, or in one of its own."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Protocol

TINY = ["--epochs", "1", "--image-size", "32", "--crop", "1"]
"""The options of a run that takes a second."""


def command(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The installed command in a process of its own, as a user starts it."""
    return subprocess.run(
        [str(Path(sys.executable).with_name("astroformer")), *map(str, words)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


class Said:
    """Exit status and output of a command run in this process."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    def refusal(self) -> str:
        """The one sentence that a user's error prints."""
        assert self.status == 2
        assert self.err.endswith("\n")
        sentence = self.err.splitlines()[-1]
        assert sentence.startswith("error: ")
        assert "Traceback" not in self.err
        assert self.out == ""
        return sentence


class Run(Protocol):
    """Runs a command in this process, in an empty folder."""

    def __call__(self, *words: str | Path) -> Said: ...


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))
