"""What the tests of commands share: a command line in an empty folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from astroformer.cli.main import main
from helpers.command_line import Run, Said


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "90")

    def call(*words: str | Path) -> Said:
        status = main([str(word) for word in words])
        said = capsys.readouterr()
        return Said(status, said.out, said.err)

    return call
