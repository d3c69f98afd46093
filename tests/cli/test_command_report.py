"""`astroformer report`: how far to trust a model, on a page."""

from __future__ import annotations

import importlib.util
import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import astroformer
from astroformer.errors import UserError
from astroformer.evaluation.report.write import FILES, NAMES
from astroformer.images.labelled import LabelledImages
from astroformer.images.sets.mock_galaxies import CLASSES, mock_galaxies
from astroformer.summaries import percent
from helpers.command_line import TINY, Run, table


def content_of(folder: str | Path) -> dict[str, Any]:
    return json.loads((Path(folder) / "report.json").read_text())


def test_report_writes_its_files_and_says_the_sentence(run: Run, model_folder: Path, galaxy_folder: Path) -> None:
    said = run("report", model_folder, galaxy_folder, "--quiet")
    assert said.status == 0
    assert {file.name for file in Path("report-1").iterdir()} == set(FILES)
    content = content_of("report-1")
    assert " ".join(said.out.split()).startswith(content["sentence"])
    assert said.out.splitlines()[-1] == "report: report-1/report.html"
    assert max(map(len, said.out.splitlines())) <= 80
    assert percent(content["top1"]["value"]) in content["sentence"]
    assert "Of 30 labelled images, " in content["sentence"]
    assert content["seen"] is None
    assert content["about"]["The images"]["trained on before"].startswith("not known")


def test_the_facts_are_those_of_evaluate(run: Run, model_folder: Path, galaxy_folder: Path) -> None:
    run("report", model_folder, galaxy_folder, "--out", "r", "--quiet")
    run("evaluate", model_folder, galaxy_folder, "--out", "e", "--quiet")
    content, measured = content_of("r"), json.loads(Path("e/metrics.json").read_text())
    for name in ("n", "top1", "balanced_accuracy", "macro_f1", "nll", "confusion", "source"):
        assert content[name] == measured[name]
    for name, scores in measured["classes"].items():
        assert content["classes"][name].items() >= scores.items()
    for file, other in (("classes.csv", "by_class.csv"), ("images.csv", "predictions.csv")):
        ours, theirs = table(Path("r") / file), table(Path("e") / other)
        assert list(ours[0])[: len(theirs[0])] == list(theirs[0])
        assert [list(row.values())[: len(theirs[0])] for row in ours] == [list(row.values()) for row in theirs]
    rows = table(Path("r/where.csv"))
    assert {row["by"] for row in rows} == {"brightness", "half-light radius (px)"}
    assert sum(int(row["n"]) for row in rows if row["by"] == "brightness") == 30


def test_columns_and_groups_of_a_catalog_are_used(run: Run, model_folder: Path, galaxy_folder: Path) -> None:
    names = [file.relative_to(galaxy_folder) for file in sorted(galaxy_folder.rglob("*.png"))]
    lines = [f"{name},{name.parent},{i / 4},{'AB'[i % 2]},{i // 3},{i}" for i, name in enumerate(names)]
    Path("cat.csv").write_text("\n".join(["file,label,z,telescope,night,brightness", *lines]) + "\n")
    said = run("report", model_folder, "cat.csv@group=night", "--root", galaxy_folder, "--out", "r", "--quiet")
    assert said.status == 0
    content = content_of("r")
    assert content["groups"] == 10
    assert "groups of images" in content["sentence"]
    by = [each["name"] for each in content["where"]]
    assert by[:2] == ["brightness", "half-light radius (px)"]
    assert {"z", "telescope", "catalog:brightness"} <= set(by)
    run("evaluate", model_folder, "cat.csv@group=night", "--root", galaxy_folder, "--out", "e", "--quiet")
    assert content["top1"] == json.loads(Path("e/metrics.json").read_text())["top1"]


def test_without_a_source_the_held_out_images_are_measured(run: Run, tmp_path: Path) -> None:
    assert run("train", "mock-galaxies:40x32", *TINY, "--out", "run", "--quiet").status == 0
    said = run("report", "run", "--out", "r", "--quiet", "--symmetry-images", "2")
    assert said.status == 0
    content = content_of("r")
    assert content["n"] == 10
    assert content["seen"] == 0
    assert "that it was not trained on" in content["sentence"]
    assert "epochs: 1" in content["recipe"]
    assert content["about"]["The run"]["validated on"].startswith("held out of these")
    assert content["symmetry"]["n"] == 2
    # On the images that it was trained on, the page says so before all figures.
    said = run("report", "run", "mock-galaxies:40x32", "--out", "all", "--quiet")
    warning = "The model was trained on 30 of these 40 images: figures on them say nothing of new images."
    assert warning in said.err
    content = content_of("all")
    assert content["warning"] == warning
    assert content["new"]["n"] == 10
    assert "Of 10 labelled images that it was not trained on, " in content["sentence"]
    html = Path("all/report.html").read_text()
    assert warning in html
    assert "Without the images that the model was trained on" in html


def test_sets_and_cuts_are_those_of_predict(run: Run, tmp_path: Path) -> None:
    words = ("--valid-fraction", "0.5", "--seed", "3", "--out", "run", "--quiet")
    assert run("train", "mock-galaxies:120x32", *TINY[2:], "--epochs", "4", *words).status == 0
    pixels, labels = mock_galaxies(40, size=32, seed=9)
    np.savez("new.npz", images=pixels, labels=labels, classes=np.array(CLASSES))
    assert run("report", "run", "new.npz", "--out", "r", "--quiet", "--figures", "pdf").status == 0
    assert {file.name for file in Path("r").iterdir()} == set(NAMES)
    told = run("predict", "run", "new.npz", "--coverage", "0.9", "--purity", "0.9", "--out", "p.csv", "--quiet")
    assert told.status == 0, told.err
    rows, labelled = table(Path("p.csv")), table(Path("r/images.csv"))
    names = [row["label"] for row in labelled]
    [wish, *_] = [row for row in table(Path("r/sets.csv")) if row["wish"] == "0.9" and row["class"] == ""]
    held = [name in row["prediction_set"].split("|") for name, row in zip(names, rows, strict=True)]
    assert float(wish["coverage"]) == pytest.approx(np.mean(held))
    [kept, *_] = [row for row in table(Path("r/cuts.csv")) if row["wish"] == "0.9" and row["class"] == ""]
    assert int(kept["kept"]) == sum(row["abstain"] == "false" for row in rows)
    content = content_of("r")
    assert content["calibration_images"] == 60
    assert content["among_them"] == 0
    # The images that were held out are calibration images themselves.
    assert run("report", "run", "--out", "h", "--quiet").status == 0
    assert content_of("h")["among_them"] == 60
    assert "60 of the images of this page are among them" in Path("h/report.html").read_text()


def test_an_ensemble_and_a_model_that_is_not_calibrated(run: Run) -> None:
    words = ("mock-galaxies:60x32", *TINY, "--valid-fraction", "0.5", "--ensemble", "2", "--out", "two", "--quiet")
    assert run("train", *words).status == 0
    assert run("report", "two", "--out", "r", "--quiet", "--symmetry-images", "2").status == 0
    content = content_of("r")
    assert (content["n"], content["seen"], content["among_them"]) == (30, 0, 30)
    assert content["symmetry"]["n"] == 2
    said = run("report", "two", "--out", "raw", "--quiet", "--calibration", "none", "--symmetry-images", "0")
    assert said.status == 0, said.err
    raw = content_of("raw")
    assert raw["before_calibration"] is None
    assert raw["probabilities"] == "the network's own, not calibrated"
    assert raw["symmetry"] is None
    before = content["before_calibration"]
    assert before is None or before["metrics"]["nll"]["value"] == pytest.approx(raw["nll"]["value"])


def test_what_can_not_be_read_is_said(run: Run, model_folder: Path, galaxy_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "two" / "merging").mkdir(parents=True)
    for file in (galaxy_folder / "merging").iterdir():
        (tmp_path / "two" / "merging" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "two" / "merging" / "bad.png").write_bytes(b"no image")
    said = run("report", model_folder, tmp_path / "two", "--out", "r", "--quiet")
    assert "1 of 4 images can't be taken and are left out; images.csv says why" in said.err
    assert list(content_of("r")["left_out"]) == ["merging/bad.png"]
    said = run("report", model_folder, tmp_path / "two", "--out", "r2", "--quiet", "--strict")
    assert "1 image can't be read" in said.refusal()
    assert not Path("r2").exists()


def test_figures_for_papers(run: Run, model_folder: Path, galaxy_folder: Path) -> None:
    said = run("report", model_folder, galaxy_folder, "--out", "r", "--figures", "pdf", "--quiet")
    assert said.status == 0
    assert said.err == ""
    # This model keeps no calibration images, of which sets are made.
    assert {file.name for file in Path("r").iterdir()} == set(NAMES) - {"sets.png", "sets.pdf"}
    for file in Path("r").glob("*.pdf"):
        [(_, _, width, _)] = re.findall(rb"/MediaBox \[ ([\d.]+) ([\d.]+) ([\d.]+) ([\d.]+) \]", file.read_bytes())
        assert float(width) / 72 * 2.54 in (pytest.approx(8.5, abs=0.01), pytest.approx(17.5, abs=0.01)), file


def test_a_report_that_is_there_stays(run: Run, model_folder: Path, galaxy_folder: Path) -> None:
    run("report", model_folder, galaxy_folder, "--out", "r", "--quiet", "--figures", "pdf")
    assert "--overwrite" in run("report", model_folder, galaxy_folder, "--out", "r", "--quiet").refusal()
    assert run("report", model_folder, galaxy_folder, "--out", "r", "--quiet", "--overwrite").status == 0
    assert {file.name for file in Path("r").iterdir()} == set(FILES)  # the figures were those of another report


def test_without_jinja2_the_extra_is_named(
    run: Run, model_folder: Path, galaxy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "jinja2" else find(name, *more)
    )
    refusal = run("report", model_folder, galaxy_folder, "--quiet").refusal()
    assert refusal == (
        'error: a report needs the extra [report]; in a clone of the repository: pip install ".[report]"'
    )
    assert not list(Path().glob("report-*"))


def test_wrong_words_are_refused(model_folder: Path, galaxy_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "r"
    with pytest.raises(UserError, match="symmetry_images is -1; 0"):
        astroformer.report(model_folder, galaxy_folder, out=out, symmetry_images=-1)
    with pytest.raises(UserError, match="figures is 'png'; 'none' or 'pdf'"):
        astroformer.report(model_folder, galaxy_folder, out=out, figures="png")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="lies in no run folder"):
        astroformer.report(model_folder, out=out)
    classifier = astroformer.load(model_folder)
    classifier.folder = None
    with pytest.raises(UserError, match="neither loaded nor saved"):
        astroformer.report(classifier, out=out)
    assert not out.exists()


def test_a_program_gets_the_facts(model_folder: Path, galaxy_folder: Path, tmp_path: Path) -> None:
    report = astroformer.report(astroformer.load(model_folder), galaxy_folder, out=tmp_path / "r", quiet=True)
    assert report.page.is_file()
    assert repr(report).startswith("Report: 30 images, 10 classes\n")
    assert str(report.page) in repr(report)
    evaluation, _ = astroformer.load(model_folder).evaluate(galaxy_folder, quiet=True)
    assert report.facts.evaluation.to_dict() == evaluation.to_dict()


@pytest.mark.slow
def test_three_thousand_images_take_half_a_minute_beyond_asking(model_folder: Path, tmp_path: Path) -> None:
    pixels, labels = mock_galaxies(3000, size=64, seed=1)
    noise = np.random.default_rng(0).integers(0, 40, pixels.shape, np.uint8)
    pixels = pixels // 2 + noise  # what WebP can't make small
    images = LabelledImages("mock", [f"{i}.png" for i in range(3000)], labels, CLASSES, pixels.__getitem__)
    classifier = astroformer.load(model_folder)
    started = time.process_time()
    classifier.evaluate(images, quiet=True)
    asking = time.process_time() - started
    started = time.process_time()
    report = astroformer.report(classifier, images, out=tmp_path / "r", quiet=True)
    beyond = (time.process_time() - started) - asking
    assert beyond <= 30  # seconds of one core; two share a part of it
    assert sum(file.stat().st_size for file in report.folder.iterdir()) <= 15_000_000
