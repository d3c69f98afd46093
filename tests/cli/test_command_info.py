"""`astroformer info`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from astroformer.images.sets.mock_galaxies import CLASSES
from helpers.command_line import Run


def test_info_of_the_variants_shows_the_published_sizes(run: Run) -> None:
    said = run("info")
    assert said.status == 0
    rows = {line.split()[0]: line.split() for line in said.out.splitlines()}
    # M parameters and GMAC at 224 px with ten classes
    for name, parameters, macs in (
        ("astroformer_0", "22.77", 3.99),
        ("astroformer_1", "37.39", 6.81),
        ("astroformer_2", "66.37", 13.34),
        ("astroformer_3", "148.89", 29.88),
        ("astroformer_4", "241.08", 48.54),
        ("astroformer_5", "593.55", 108.24),
    ):
        assert rows[name][1:4] == ["CCCT", "224", parameters]
        assert float(rows[name][4]) == pytest.approx(macs, abs=0.0055)
    assert float(rows["astroformer_atto"][3]) <= 0.7


def test_info_of_one_variant_and_as_json(run: Run) -> None:
    said = run("info", "astroformer_0", "--image-size", "256", "--json")
    assert json.loads(said.out)["macs"] / 1e9 == pytest.approx(5.22, abs=0.005)
    assert "22,772,282" in run("info", "astroformer_0").out


def test_info_of_a_model(run: Run, model_folder: Path) -> None:
    said = run("info", model_folder)
    assert said.status == 0
    lines = {line.split()[0]: line for line in said.out.splitlines()}
    assert all(name in lines["classes"] for name in CLASSES)
    assert "95 % interval" in lines["balanced_accuracy"]
    content = json.loads(run("info", model_folder, "--json").out)
    assert isinstance(content["parameters"], int)
    assert content["classes"] == list(CLASSES)
