"""Catalogs whose images lie elsewhere, from training to resuming and asking."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from astroformer.training.task import Task
from helpers.command_line import TINY, Run, table


def test_training_finds_the_images_of_a_catalog(
    run: Run, galaxy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = sorted(file.relative_to(galaxy_folder) for file in galaxy_folder.rglob("*.png"))
    Path("data").mkdir()
    Path("images").symlink_to(galaxy_folder)
    Path("data/cat.csv").write_text("file,label\n" + "".join(f"{name},{name.parent}\n" for name in names))
    said = run("train", "data/cat.csv", "--root", "images", *TINY, "--out", "run", "--quiet")
    assert said.status == 0, said.err
    assert json.loads(Path("run/run.json").read_text())["source"] == f"{tmp_path}/data/cat.csv@root={tmp_path}/images"
    assert "images of 'cat.csv', 1 epochs" in " ".join(run("info", "run").out.split())
    shutil.rmtree("run/model")
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert run("train", "--resume", "../run", "--quiet").status == 0
    assert run("evaluate", "../run", "../data/cat.csv", "--root", "../images", "--out", "e", "--quiet").status == 0
    assert [row["file"] for row in table(Path("e/predictions.csv"))] == [str(name) for name in names]


def test_without_out_a_run_is_named_after_the_catalog(run: Run, galaxy_folder: Path) -> None:
    names = sorted(file.relative_to(galaxy_folder) for file in galaxy_folder.rglob("*.png"))
    Path("cat.csv").write_text("file,label\n" + "".join(f"{name},{name.parent}\n" for name in names))
    said = run("train", "cat.csv", "--root", galaxy_folder, *TINY, "--quiet")
    assert said.out.splitlines()[-1] == "model: runs/cat-1/model"
    assert "--root says where the images" in run("train", galaxy_folder, "--root", ".", *TINY).refusal()
    assert "leave out --root" in run("train", "--resume", "runs/cat-1", "--root", ".").refusal()


def test_a_relative_root_lasts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cat.csv").touch()
    lasting = Task("cat.csv@root=some/images@label=kind").lasting()
    assert lasting.source == f"{tmp_path}/cat.csv@root={tmp_path}/some/images@label=kind"
    assert lasting.source_name == "cat.csv@label=kind"
    assert Task("mock-galaxies:20x32").source_name == "mock-galaxies:20x32"
    assert Task("a/cat.csv@label=kind").source_name == "cat.csv@label=kind"
