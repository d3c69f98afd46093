"""An image is what its pixels are: copies, links and other spellings never stand on both sides of a split unsaid."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from astroformer.errors import UserError
from astroformer.images import LabelledImages
from astroformer.images.copies import describe_copies, groups_with_copies, pixel_digest
from astroformer.training.prepare import prepare
from astroformer.training.recipe import Recipe
from astroformer.training.task import Task
from astroformer.training.train import train
from helpers.command_line import TINY, Run
from helpers.listening import Listening

RNG = np.random.default_rng(8)
RECIPE = Recipe(epochs=1, image_size=32, crop=1.0, device="cpu", speed="plain", precision="no")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of ten PNGs."""
    for i in range(20):
        place = tmp_path / "set" / ("disc" if i < 10 else "ring")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (32, 32, 3)).astype(np.uint8)).save(place / f"{i:02d}.png")
    return tmp_path / "set"


def prepared(source: Path, recipe: Recipe = RECIPE, **words: Any) -> tuple[list[set[str]], list[str]]:
    """The files that are trained and validated on, and what was said."""
    listening = Listening()
    setup = prepare(Task(source, **words), recipe, out=source.parent / f"run{RNG.integers(1e9)}", reporter=listening)
    return [set(setup.train.files), set(setup.valid.files)], listening.said


def test_copies_stay_on_one_side_of_a_split(folder: Path) -> None:
    before, said = prepared(folder)
    assert not any("copies" in sentence for sentence in said)
    assert prepared(folder)[0] == before  # without copies a split depends on nothing else
    for i in range(10):
        shutil.copy(folder / "disc" / f"{i:02d}.png", folder / "disc" / f"copy{i}.png")
    for i in range(10, 20):  # another file of the same pixels, and a link
        Image.open(folder / "ring" / f"{i}.png").save(folder / "ring" / f"other{i}.tif")
        (folder / "ring" / f"link{i}.png").symlink_to(folder / "ring" / f"{i}.png")
    (train_files, valid_files), said = prepared(folder)
    assert len(train_files) + len(valid_files) == 50
    for name, copies in ((f"disc/{i:02d}.png", [f"disc/copy{i}.png"]) for i in range(10)):
        assert (name in valid_files) == (copies[0] in valid_files)
    for i in range(10, 20):
        assert len({n in valid_files for n in (f"ring/{i}.png", f"ring/other{i}.tif", f"ring/link{i}.png")}) == 1
    assert any("30 images are exact copies of others" in sentence for sentence in said)
    folds = [prepared(folder, RECIPE.model_copy(update={"folds": 3, "fold": fold}))[0][1] for fold in range(3)]
    assert sorted(file for fold in folds for file in fold) == sorted(train_files | valid_files)


def test_one_picture_under_two_labels_is_named(folder: Path) -> None:
    shutil.copy(folder / "disc" / "03.png", folder / "ring" / "same.png")
    _, said = prepared(folder)
    torn = next(sentence for sentence in said if "several labels" in sentence)
    assert "disc/03.png (disc)" in torn
    assert "ring/same.png (ring)" in torn


def test_a_catalog_of_relative_and_absolute_paths_is_no_second_set(folder: Path) -> None:
    files = sorted(folder.rglob("*.png"))
    catalog = folder.parent / "catalog.csv"
    rows = [f"{file.relative_to(folder.parent)},{file.parent.name}" for file in files]
    rows += [f"{file},{file.parent.name}" for file in files]
    catalog.write_text("\n".join(["file,label", *rows]) + "\n")
    (train_files, valid_files), said = prepared(catalog)
    names = [{Path(file).name for file in side} for side in (train_files, valid_files)]
    assert not names[0] & names[1]
    assert any("20 images are exact copies" in sentence for sentence in said)


def test_validation_images_that_are_trained_on_are_an_error_unless_allowed(folder: Path) -> None:
    shutil.copytree(folder, folder.parent / "valid")
    for extra in (folder, folder.parent / "valid"):
        with pytest.raises(UserError, match=r"20 of 20 images of .* are trained on as well.*--allow-shared"):
            prepared(folder, valid=extra)
    (train_files, valid_files), said = prepared(folder, valid=folder.parent / "valid", allow_shared=True)
    assert len(train_files) == len(valid_files) == 20
    assert "20 of 20 validation images are trained on as well" in said


def test_images_that_are_all_one_picture_are_said_to_be(folder: Path) -> None:
    black = Image.new("RGB", (32, 32))
    for file in folder.rglob("*.png"):
        black.save(file)
    with pytest.raises(UserError, match=r"all .* images to train on are one picture"):
        prepared(folder)


def test_groups_are_joined_through_copies() -> None:
    digests = np.array([1, 2, 1, 3, 4, 4, 5], np.uint64)
    positions = np.array([0, 1, 2, 4, 5, 6, 7])  # image 3 could not be read
    joined = groups_with_copies(digests, positions, 8, np.array([0, 0, 1, 2, 3, 4, 4, 1]))
    assert joined is not None
    together = {(i, j) for i in range(8) for j in range(8) if joined[i] == joined[j]}
    first, second = {0, 1, 2, 7}, {5, 6}
    assert together == {(i, j) for group in (first, second, {3}, {4}) for i in group for j in group}
    assert groups_with_copies(np.array([1, 2], np.uint64), np.arange(2), 2, None) is None
    assert groups_with_copies(np.array([], np.uint64), np.arange(0), 2, None) is None
    assert describe_copies(np.array([1, 2], np.uint64), ["a", "b"], np.array([0, 1]), ("x", "y")) == []


def test_a_digest_is_of_shape_type_and_values() -> None:
    image = RNG.integers(0, 256, (6, 4, 3)).astype(np.uint8)
    others = (image.astype(np.uint16), image.reshape(4, 6, 3), np.where(image == image.max(), 0, image))
    assert len({pixel_digest(x) for x in (image, *others)}) == 4
    assert pixel_digest(np.asfortranarray(image)) == pixel_digest(image.copy())


def test_evaluate_says_which_images_the_model_was_trained_on(folder: Path, run: Run) -> None:
    trained = train(folder, RECIPE, out=folder.parent / "run")
    model = trained.classifier
    assert model.seen is not None
    assert len(model.seen) == 16
    _, predictions = type(model).load(trained.model).evaluate(folder)
    held_out = {row.split(",")[0] for row in (trained.run / "splits/valid.csv").read_text().splitlines()[1:]}
    assert predictions.seen_N is not None
    assert {file for file, seen in zip(predictions.files, predictions.seen_N, strict=True) if not seen} == held_out
    assert model.predict(folder).seen_N is None  # costs a hash an image, and nobody asked

    said = run("evaluate", trained.model, folder, "--out", folder.parent / "evaluation")
    assert "trained on 16 of these 20 images" in said.out
    metrics = json.loads((folder.parent / "evaluation" / "metrics.json").read_text())
    assert (metrics["n"], metrics["seen"], metrics["new"]["n"]) == (20, 16, 4)
    rgb = np.stack([np.asarray(Image.open(folder / file)) for file in held_out])
    new = LabelledImages("new", [str(i) for i in range(4)], np.zeros(4, np.int64), model.classes, rgb.__getitem__)
    _, predictions = model.evaluate(new)
    assert predictions.seen_N is not None
    assert not predictions.seen_N.any()

    said = run("symmetry", trained.model, "--data", folder, "--shifts", "2", "--crops", "2", "--rotations", "1")
    assert "trained on 16 of these 20 images" in said.out
    assert "accuracy, not trained on" in said.out


def test_train_has_a_word_for_shared_images(folder: Path, run: Run) -> None:
    words = ("train", folder, "--valid", folder, "--out", folder.parent / "shared", *TINY)
    assert "--allow-shared" in run(*words).refusal()
    assert run(*words[: -len(TINY)], *TINY, "--allow-shared").status == 0
