"""Run folders: records that come back as they were, damage that is said, and runs that follow others."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from astroformer.errors import UserError
from astroformer.images.preprocessing import Preprocessing
from astroformer.network import VARIANTS
from astroformer.training.recipe import Recipe
from astroformer.training.run import RunFolder
from astroformer.training.run_record import Parts, RunRecord, TeacherRecord
from astroformer.training.task import Task

RECORD = RunRecord(
    task=Task("set", valid="other", init_from=None, strict=True, cache="cache"),
    images=Parts(14, 4),
    content=Parts("a1", "b2"),
    left_out=1,
    data_sets=[{"name": "cifar10"}],
    ignored=["notes.txt (not an image's extension)"],
    counts={"a": 9, "b": 9},
    decisions=["10 minutes"],
    parameters=1234,
    network=VARIANTS["astroformer_atto"],
    preprocessing=Preprocessing((32, 32), 3, crop=0.9, mean=(0.1,) * 3, std=(0.2,) * 3),
)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    made = RunFolder.create(tmp_path / "run", "set")
    made.write_recipe(Recipe(epochs=3))
    made.write_record(RECORD)
    return made


@pytest.mark.parametrize("teacher", [None, TeacherRecord("/models/a", "0123")])
def test_a_record_comes_back(run: RunFolder, teacher: TeacherRecord | None) -> None:
    record = dataclasses.replace(RECORD, teacher=teacher)
    run.write_record(record)
    assert RunFolder.open(run.path).read_record() == record
    assert run.read_recipe() == Recipe(epochs=3)


def test_a_record_of_before_knows_no_teacher(run: RunFolder) -> None:
    file = run.path / "run.json"
    fields = json.loads(file.read_text())
    del fields["teacher"], fields["hashes"]
    file.write_text(json.dumps(fields))
    assert run.read_record() == RECORD


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("run.json", "{", "is damaged"),
        ("run.json", "[]", "is damaged"),
        ("run.json", "{}", "it lacks 'source'"),
        ("recipe.yaml", "epochs: [", "is no valid YAML"),
        ("recipe.yaml", "epoch: 3", "epochs"),
    ],
)
def test_damaged_records_are_said(run: RunFolder, file: str, content: str, said: str) -> None:
    (run.path / file).write_text(content)
    with pytest.raises(UserError, match=said):
        run.read_record() if file == "run.json" else run.read_recipe()


def test_a_run_that_follows_another_has_its_images_and_split(run: RunFolder, tmp_path: Path) -> None:
    run.splits.mkdir()
    (run.splits / "train.csv").write_text("file,label\n1,a\n")
    run.write_left_out([("bad.png", "truncated")])
    teacher = TeacherRecord(str(run.model), "0123")
    made = run.successor(tmp_path / "next", Recipe(epochs=5), teacher, "learns from it")
    assert made.read_recipe().epochs == 5
    record = made.read_record()
    assert record.teacher == teacher
    assert record.decisions == ["10 minutes", "learns from it"]
    assert dataclasses.replace(record, teacher=None, decisions=RECORD.decisions) == RECORD
    assert (made.splits / "train.csv").read_bytes() == (run.splits / "train.csv").read_bytes()
    assert made.left_out.read_bytes() == run.left_out.read_bytes()


def test_a_task_that_is_kept_names_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "set").mkdir()
    monkeypatch.chdir(tmp_path)
    kept = Task("set", valid="set@per-class=0:2", cache="cache").lasting()
    assert kept.source == str(tmp_path / "set")
    assert kept.valid == str(tmp_path / "set@per-class=0:2")
    assert Task("cifar10").lasting().source == "cifar10"
