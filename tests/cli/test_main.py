"""Every command alike: help, exit status, and what is said of faults."""

from __future__ import annotations

from pathlib import Path

import pytest

import astroformer
from helpers.command_line import Run


def test_help(run: Run) -> None:
    for words in ([], ["--help"], ["-h"]):
        said = run(*words)
        assert said.status == 0
        assert all(
            f"astroformer {name}" in said.out for name in ("train", "predict", "evaluate", "export", "symmetry", "info")
        )
    for name in ("train", "predict", "evaluate", "export", "symmetry", "info"):
        said = run(name, "--help")
        assert (said.status, said.err) == (0, "")
        assert f"astroformer {name}" in said.out
        assert "{None" not in said.out
        assert "(default: None)" not in " ".join(said.out.split())
    assert run("--version").out.strip() == astroformer.__version__


def test_our_own_fault_is_status_1_and_a_traceback_only_with_debug(
    run: Run, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a wheel came off")

    monkeypatch.setattr("astroformer.network.counting.describe", broken)
    said = run("info")
    assert (said.status, said.out) == (1, "")
    assert "RuntimeError: a wheel came off" in said.err
    assert "--debug" in said.err
    assert "Traceback" not in said.err
    said = run("info", "--debug")
    assert said.status == 1
    assert "Traceback" in said.err
    assert "in broken" in said.err


def test_debug_shows_the_traceback_of_a_users_error_too(run: Run) -> None:
    said = run("info", "astroformer_9", "--debug")
    assert said.status == 2
    assert "Traceback" in said.err
    assert said.err.splitlines()[-1].startswith("error: unknown model folder or variant")


def test_a_full_disk_is_no_fault_of_ours(
    run: Run, model_folder: Path, galaxy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "e/metrics.json")

    monkeypatch.setattr("astroformer.evaluation.tables.write_metrics", full)
    said = run("evaluate", model_folder, galaxy_folder, "--out", "e", "--quiet")
    assert said.refusal().startswith("error: 'e/metrics.json' can't be written: the disk is full. Free some space")


def test_ctrl_c_is_no_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("astroformer.network.counting.describe", stopped)
    said = run("info")
    assert (said.status, said.err) == (130, "stopped.\n")
