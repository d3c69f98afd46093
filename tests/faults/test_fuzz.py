"""Damage at random, of ten kinds: a case ends in a right answer or in one sentence, within bounds of time and memory.

The short form runs with all other tests. The long form, `pytest -m fuzz`, makes 1,000 cases of each kind and 200 kills;
where ASTROFORMER_FUZZ_FIGURES names a file, its figures go there as JSON.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from astroformer.cli import main as cli
from helpers.fuzzing import KINDS, MEMORY, Figures, figures_apart, figures_here, pictures
from helpers.mutations import changed_bytes, changed_json, changed_text

SHORT = {"images": 60, "model folders": 80, "run folders": 40, "recipes": 100, "catalogs": 60, "command lines": 30}
SHORT |= {"FITS": 150, "mosaics": 60, "tables": 150, "arrays": 60}
LONG = 1000
KILLS = 200
WORDS = ["--epochs", "3", "--batch-size", "4", "--image-size", "32", "--crop", "1", "--device", "cpu", "--quiet"]
WORDS += ["--checkpoint-seconds", "0", "--evaluations", "3", "--network.depths", "1", "1", "1", "1"]


def test_each_damage_is_a_function_of_its_seed_and_changes_something() -> None:
    text = '{"a": [1, 2], "b": {"c": "x"}}'
    for n in range(200):
        once, again = random.Random(n), random.Random(n)
        assert changed_bytes(once, b"some bytes") == changed_bytes(again, b"some bytes") != b"some bytes"
        assert changed_json(once, text) == changed_json(again, text)
        assert changed_text(once, text) == changed_text(again, text)
    assert len({changed_json(random.Random(n), text) for n in range(200)}) > 50


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")
@pytest.mark.parametrize("name", KINDS)
def test_damage_ends_in_a_right_answer_or_a_sentence(tmp_path: Path, name: str) -> None:
    figures = figures_here(KINDS[name](tmp_path / "work"), SHORT[name])
    assert figures.failed == []
    assert figures.right > 0
    assert figures.refused > 0


@pytest.mark.fuzz
@pytest.mark.parametrize("name", KINDS)
def test_a_thousand_damages_end_in_a_right_answer_or_a_sentence(tmp_path: Path, name: str) -> None:
    figures = figures_apart(name, LONG, tmp_path)
    figures.write(name)
    assert figures.tried == LONG
    assert figures.failed == []
    assert figures.peak_bytes < MEMORY


@pytest.mark.fuzz
def test_runs_that_are_killed_at_random_moments_end_with_the_same_weights(tmp_path: Path) -> None:
    source, cache = pictures(tmp_path / "set"), tmp_path / "cache"
    words = ["train", str(source), "--cache", str(cache), *WORDS]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}

    def start(run: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "astroformer.cli", *words, "--out", str(run)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    begin = time.monotonic()
    assert start(tmp_path / "whole").wait() == 0
    length = time.monotonic() - begin
    expected = load_file(tmp_path / "whole" / "model" / "model.safetensors")
    figures, rng = Figures(), random.Random("kills")
    for number in range(KILLS):
        run = tmp_path / f"run-{number}"
        process, begin = start(run), time.monotonic()
        # Imports take the first half of the time; more kills shall come while there is something to lose.
        time.sleep(length * (rng.random() if rng.random() < 0.2 else rng.uniform(0.4, 1.1)))
        process.kill()
        process.wait()
        outcome = "right"
        if not (run / "model" / "config.json").is_file():
            begun = (run / "run.json").is_file()
            status = cli.main(["train", "--resume", str(run), "--quiet"] if begun else [*words, "--out", str(run)])
            outcome = outcome if status == 0 else f"kill {number}: status {status} afterwards"
        if outcome == "right":
            weights = load_file(run / "model" / "model.safetensors")
            same = weights.keys() == expected.keys() and all(torch.equal(weights[k], expected[k]) for k in expected)
            outcome = outcome if same else f"kill {number}: other weights"
        figures.count(outcome, time.monotonic() - begin)
    figures.write("kills")
    assert figures.failed == []
