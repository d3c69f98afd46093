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


def test_info_of_a_model_is_a_screen_to_read(run: Run, model_folder: Path) -> None:
    said = run("info", model_folder)
    assert said.status == 0
    lines = said.out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    titles = [line[:14].strip() for line in lines if line[:1] not in ("", " ")]
    assert titles[:-1] == [
        *("model", "trained on", "classes", "validation", "probabilities", "images", "network", "unchanged by", "files")
    ]
    assert all(name in said.out for name in CLASSES)
    assert "50 images, held out" in said.out
    assert said.out.count("95 % interval") == 4
    assert "RGB; the central 90 % of each side, cut to a frame of 32 × 32 px" in " ".join(said.out.split())


def test_info_knows_what_a_run_trained_on(run: Run, model_folder: Path) -> None:
    names = [*CLASSES, CLASSES[0]]
    Path("splits").mkdir()
    rows = "".join(f"{i}.png,{name}\n" for i, name in enumerate(names))
    Path("splits/train.csv").write_text(f"file,label\n{rows}")
    said = " ".join(run("info", model_folder).out.split())
    assert f"10 with the images of each: {CLASSES[0]} 2, {CLASSES[1]} 1," in said
    Path("splits/train.csv").write_text("file,label\n" + rows.replace(f"10.png,{CLASSES[0]}\n", ""))
    assert "10, 1 images each: " in " ".join(run("info", model_folder).out.split())
    Path("splits/train.csv").write_text(f"file,label\n{rows}x.png,other\n")  # the split of another model
    assert f"10: {CLASSES[0]}," in " ".join(run("info", model_folder).out.split())
    Path("splits/train.csv").write_bytes(b"\xff\xfe")
    said = run("info", model_folder)
    assert said.status == 0
    assert "can't be read" in said.err


def test_info_in_full(run: Run, model_folder: Path) -> None:
    said = run("info", model_folder, "--verbose")
    lines = {line.split()[0]: line for line in said.out.splitlines()}
    assert all(name in lines["classes"] for name in CLASSES)
    assert "95 % interval" in lines["balanced_accuracy"]
    content = json.loads(run("info", model_folder, "--json").out)
    assert isinstance(content["parameters"], int)
    assert content["classes"] == list(CLASSES)
