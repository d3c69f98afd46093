"""The split of a run as a source, from every kind of source that a run may have had."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from astroformer.errors import UserError
from astroformer.files import sha256_of
from astroformer.images.labelled import LabelledImages
from astroformer.images.sources import open_source
from astroformer.images.splits import Indices, holdout, write_split

Sources = Callable[[str], str]


@pytest.fixture
def source_of(folder: Path) -> Sources:
    """A source of each kind."""

    def make(kind: str) -> str:
        images = open_source(folder)
        if kind == "folder":
            return str(folder)
        if kind == "npz":
            pixels = np.stack([np.full((8, 8, 3), i, np.uint8) for i in range(8)])
            np.savez(folder.parent / "set.npz", images=pixels, labels=np.array([0, 1] * 4), classes=["a", "b"])
            return str(folder.parent / "set.npz")
        if kind == "set":
            return "mock-galaxies:20x16"
        rows = [f"{file},{images.classes[images.labels[i]]},{i},{9 - i}" for i, file in enumerate(images.files)]  # type: ignore[index]
        (folder.parent / "c.csv").write_text("\n".join(["file,label,x,y", *rows]) + "\n")
        votes = "@votes=x+y" if kind == "votes" else ""
        return f"{folder.parent / 'c.csv'}@root={folder}{votes}"

    return make


def halves(images: LabelledImages) -> tuple[Indices, Indices]:
    assert images.labels is not None
    return holdout(images.labels, 0.5, 0)


def run_of(place: Path, source: str, *, valid: str | None = None, split_seed: int | None = 7) -> Path:
    """A run folder with what `run_split` reads of it."""
    images = open_source(source, seed=3 if split_seed is None else split_seed, part="train")
    other = images if valid is None else open_source(valid, classes=images.classes)
    train, held_out = halves(images)
    write_split(place / "splits" / "train.csv", images, train if valid is None else np.arange(len(images)))
    write_split(place / "splits" / "valid.csv", other, held_out if valid is None else [4, 0])
    (place / "recipe.yaml").write_text(yaml.safe_dump({"seed": 3, "split_seed": split_seed}))
    hashes = {f"splits/{part}.csv": sha256_of(place / "splits" / f"{part}.csv") for part in ("train", "valid")}
    record = {"source": source, "valid": valid, "only_known": False, "counts": images.counts(), "hashes": hashes}
    (place / "run.json").write_text(json.dumps(record))
    return place


def same(found: LabelledImages, expected: LabelledImages) -> None:
    assert found.files == expected.files
    assert found.classes == expected.classes
    np.testing.assert_array_equal(found.labels, expected.labels)
    if expected.votes_NK is not None:
        np.testing.assert_array_equal(found.votes_NK, expected.votes_NK)
        np.testing.assert_array_equal(found.weights_N, expected.weights_N)
    for i in range(len(expected)):
        np.testing.assert_array_equal(found.read(i), expected.read(i))


@pytest.mark.parametrize("kind", ["folder", "npz", "set", "catalog", "votes"])
@pytest.mark.parametrize("split_seed", [None, 7])
def test_both_parts_are_the_images_of_the_run(
    tmp_path: Path, source_of: Sources, kind: str, split_seed: int | None
) -> None:
    source = source_of(kind)
    run = run_of(tmp_path / "run", source, split_seed=split_seed)
    images = open_source(source, seed=3 if split_seed is None else split_seed)
    train, held_out = halves(images)
    same(open_source(run / "splits" / "train.csv"), images.subset(train))
    same(open_source(run / "splits" / "valid.csv", classes=images.classes), images.subset(held_out))
    named = open_source(run / "splits" / "valid.csv", labelled=False)
    assert (named.labels, named.votes_NK, named.classes) == (None, None, ())


def test_given_validation_images(tmp_path: Path, source_of: Sources) -> None:
    run = run_of(tmp_path / "run", source_of("folder"), valid=source_of("catalog"))
    valid = open_source(run / "splits" / "valid.csv")
    assert valid.files == open_source(source_of("catalog")).subset([4, 0]).files
    assert valid.source == str(run / "splits" / "valid.csv")


def test_a_run_on_the_split_of_a_run(tmp_path: Path, source_of: Sources) -> None:
    first = run_of(tmp_path / "run", source_of("npz"))
    second = run_of(tmp_path / "again", str(first / "splits" / "train.csv"))
    images = open_source(first / "splits" / "train.csv")
    same(open_source(second / "splits" / "train.csv"), images.subset(halves(images)[0]))


def test_classes_of_a_model_in_another_order(tmp_path: Path, source_of: Sources) -> None:
    run = run_of(tmp_path / "run", source_of("votes"))
    images = open_source(run / "splits" / "train.csv", classes=("y", "x"))
    plain = open_source(run / "splits" / "train.csv", classes=("x", "y"))
    assert images.votes_NK is not None
    assert plain.votes_NK is not None
    np.testing.assert_array_equal(images.votes_NK, plain.votes_NK[:, ::-1])


def test_a_folder_of_its_own_makes_it_a_catalog(tmp_path: Path, folder: Path, source_of: Sources) -> None:
    run = run_of(tmp_path / "run", source_of("folder"))
    moved = shutil.copytree(folder, tmp_path / "moved")
    images = open_source(f"{run / 'splits' / 'train.csv'}@root={moved}")
    assert images.reader.paths[0].startswith(str(moved))  # type: ignore[attr-defined]


def _rewrite(run: Path, **changes: object) -> None:
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, **changes}))


def _drop(run: Path, word: str) -> None:
    record = json.loads((run / "run.json").read_text())
    del record[word]
    (run / "run.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda run: (run / "run.json").write_text("{"), "records can't be read"),
        (lambda run: (run / "run.json").write_text("[]"), "records can't be read"),
        (lambda run: _drop(run, "source"), "records can't be read"),
        (lambda run: _drop(run, "counts"), "records can't be read"),
        (lambda run: _rewrite(run, source=7), "records can't be read"),
        (lambda run: _rewrite(run, hashes={}), "records can't be read"),
        (lambda run: (run / "recipe.yaml").unlink(), "records can't be read"),
        (lambda run: (run / "recipe.yaml").write_text("seed: [1"), "records can't be read"),
        (lambda run: (run / "recipe.yaml").write_text("seed: 1"), "records can't be read"),
        (lambda run: _rewrite(run, source="/nowhere/at/all"), "can't be opened: '/nowhere/at/all' does not exist"),
        (lambda run: (run / "splits" / "train.csv").write_text("file,label\n"), "was changed since the run began"),
        (lambda run: _rewrite(run, source=str(run / "splits" / "train.csv")), "and that one of this one"),
    ],
)
def test_what_can_not_be_is_said(
    tmp_path: Path, source_of: Sources, damage: Callable[[Path], object], sentence: str
) -> None:
    run = run_of(tmp_path / "run", source_of("folder"))
    damage(run)
    with pytest.raises(UserError, match=sentence):
        open_source(run / "splits" / "train.csv")


def test_changed_images_are_said(tmp_path: Path, folder: Path, source_of: Sources) -> None:
    run = run_of(tmp_path / "run", source_of("votes"))
    path = folder.parent / "c.csv"
    path.write_text(path.read_text().replace(",0,9", ",1,8").replace(",4,5", ",3,6"))
    with pytest.raises(UserError, match=r"other votes or another weight.*Split anew"):
        open_source(run / "splits" / "train.csv")
    _rewrite(run, source=source_of("catalog"))
    with pytest.raises(UserError, match=r"votes or weights have been added or taken away|class"):
        open_source(run / "splits" / "train.csv")
