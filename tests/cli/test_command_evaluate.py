"""`astroformer evaluate`: a model is measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from astroformer.cli.evaluate import FILES
from astroformer.errors import UserError
from astroformer.images.sets.mock_galaxies import CLASSES
from astroformer.summaries import percent
from astroformer.training.train import held_out_images
from helpers.command_line import TINY, Run, table


def test_evaluate_writes_its_files(run: Run, model_folder: Path, galaxy_folder: Path) -> None:
    said = run("evaluate", model_folder, galaxy_folder, "--out", "new/folder")
    assert said.status == 0
    out = Path("new/folder")
    assert {file.name for file in out.iterdir()} == set(FILES)
    content = json.loads((out / "metrics.json").read_text())
    assert {"n", "top1", "balanced_accuracy", "macro_f1", "nll", "source", "left_out"} <= content.keys()
    assert (content["n"], content["left_out"], content["source"]) == (30, 0, str(galaxy_folder))
    assert percent(content["top1"]["value"]) in said.out
    assert (out / "confusion.txt").read_text() in said.out
    rows = table(out / "predictions.csv")
    columns = ["file", "prediction", "confidence", *(f"p:{name}" for name in CLASSES), "error", "label", "correct"]
    assert list(rows[0]) == columns
    right = [row["prediction"] == row["label"] for row in rows]
    assert [row["correct"] for row in rows] == ["true" if is_right else "false" for is_right in right]
    assert [row["label"] for row in rows] == [row["file"].split("/")[0] for row in rows]
    assert np.mean(right) == pytest.approx(content["top1"]["value"])


def test_classes_and_confusions_are_those_of_the_rows(run: Run, model_folder: Path, galaxy_folder: Path) -> None:
    said = run("evaluate", model_folder, galaxy_folder, "--out", "e")
    rows, by_class = table(Path("e/predictions.csv")), table(Path("e/by_class.csv"))
    assert [row["class"] for row in by_class] == list(CLASSES)
    content = json.loads(Path("e/metrics.json").read_text())["classes"]
    for row in by_class:
        name = row["class"]
        of_class = [each for each in rows if each["label"] == name]
        called = [each for each in rows if each["prediction"] == name]
        hits = sum(each["correct"] == "true" for each in of_class)
        assert (int(row["n"]), int(row["called"])) == (len(of_class), len(called))
        assert float(row["recall"]) == pytest.approx(hits / len(of_class), rel=1e-5)
        assert row["precision"] == ("" if not called else f"{hits / len(called):.6g}")
        assert float(row["f1"]) == pytest.approx(2 * hits / (len(of_class) + len(called)), rel=1e-5)
        assert content[name]["recall"] == pytest.approx(float(row["recall"]), rel=1e-5)
        if row["taken_for"]:
            taken = [each["prediction"] for each in of_class]
            assert taken.count(row["taken_for"]) == int(row["times"])
            assert f"{name} taken for" not in said.out or int(row["times"]) > 0
    top = next(line for line in said.out.splitlines() if " taken for " in line)
    assert f": {max(int(row['times']) for row in by_class)} of " in top
    assert max(map(len, said.out.splitlines()[:-1])) <= 80


def test_images_that_cannot_be_read_are_neither_right_nor_wrong(
    run: Run, model_folder: Path, galaxy_folder: Path, tmp_path: Path
) -> None:
    for name in ("merging", "disturbed"):
        (tmp_path / "two" / name).mkdir(parents=True)
        for file in (galaxy_folder / name).iterdir():
            (tmp_path / "two" / name / file.name).write_bytes(file.read_bytes())
    (tmp_path / "two" / "merging" / "bad.png").write_bytes(b"no image")
    said = run("evaluate", model_folder, tmp_path / "two", "--out", "e", "--quiet")
    assert "1 of 7 images can't be taken and are left out; 'e/predictions.csv' says why" in said.err
    [bad] = [row for row in table(Path("e/predictions.csv")) if row["error"]]
    assert (bad["label"], bad["correct"], bad["prediction"]) == ("merging", "", "")


def test_a_catalog_brings_its_other_columns(run: Run, model_folder: Path, galaxy_folder: Path) -> None:
    Path("c").mkdir()
    names = [file.relative_to(galaxy_folder) for file in sorted(galaxy_folder.rglob("*.png"))]
    lines = [f"{i},{name},{name.parent},yes,{i / 4}" for i, name in enumerate(names)]
    Path("c/cat.csv").write_text("\n".join(["id,file,kind,correct,z", *lines]) + "\n")
    said = run("evaluate", model_folder, "c/cat.csv@label=kind", "--root", galaxy_folder, "--out", "e", "--quiet")
    assert said.status == 0, said.err
    rows = table(Path("e/predictions.csv"))
    assert list(rows[0])[-6:] == ["error", "label", "correct", "id", "catalog:correct", "z"]
    assert [row["file"] for row in rows] == [str(name) for name in names]
    assert [row["z"] for row in rows] == [str(i / 4) for i in range(len(names))]
    assert {row["correct"] for row in rows} <= {"true", "false"}
    assert {row["catalog:correct"] for row in rows} == {"yes"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["evaluate", "M", "G/merging", "--out", "e"], "no class folders"),
        (["evaluate", "M", "G", "--out", "file"], "folder 'file' can't be made"),
        (["evaluate", "M", "G", "--root", "."], "--root says where the images of a catalog lie, and"),
    ],
)
def test_evaluate_refuses_with_one_sentence(
    run: Run, model_folder: Path, galaxy_folder: Path, words: list[str], says: str
) -> None:
    Path("file").write_text("x")
    before = set(Path().iterdir())
    named = {"M": str(model_folder), "G": str(galaxy_folder), "G/merging": str(galaxy_folder / "merging")}
    assert says in run(*(named.get(word, word) for word in words)).refusal()
    assert set(Path().iterdir()) == before  # nothing half-made is left


def test_without_a_source_the_images_that_the_run_has_held_out_are_measured(run: Run, model_folder: Path) -> None:
    assert run("train", "mock-galaxies:40x32", "--out", "r", *TINY).status == 0
    trained = run("evaluate", "r", "--out", "e")
    assert trained.status == 0
    assert "10 images of 'mock-galaxies:40x32' that the run has held out" in trained.out
    metrics = json.loads(Path("e/metrics.json").read_text())
    kept = json.loads(Path("r/model/config.json").read_text())["training"]["metrics"]
    assert (metrics["n"], metrics["seen"]) == (10, 0)
    assert metrics["top1"]["value"] == pytest.approx(kept["top1"]["value"])
    of_model = run("evaluate", "r/model", "--out", "m")
    assert Path("m/predictions.csv").read_text() == Path("e/predictions.csv").read_text()
    assert of_model.status == 0
    assert "lies in no run folder" in run("evaluate", model_folder, "--out", "n").refusal()
    assert "name the catalog as SOURCE" in run("evaluate", "r", "--root", "x", "--out", "n").refusal()
    with pytest.raises(UserError, match="is named by a path"):
        held_out_images(None)  # type: ignore[arg-type]


def test_of_an_ensemble_too(run: Run) -> None:
    several = ["--ensemble", "2", "--together", "in-turn"]
    assert run("train", "mock-galaxies:40x32", "--out", "r", *several, *TINY).status == 0
    assert run("evaluate", "r", "--out", "e").status == 0
    assert json.loads(Path("e/metrics.json").read_text())["n"] == 10
