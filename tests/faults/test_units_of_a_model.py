"""The same images in other units: a model answers alike, or refuses in a sentence that can be followed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from astroformer.classifier import Classifier, load
from astroformer.errors import UserError
from astroformer.images.sets.mock_galaxies import mock_galaxies
from astroformer.model_folder import ModelFolder
from astroformer.training.recipe import Recipe
from astroformer.training.train import train
from helpers.tiny_sets import save_npz

EIGHT, LABELS = mock_galaxies(24, size=32, seed=3)
IN_UNITS = {
    "uint8": EIGHT,
    "uint16": EIGHT.astype(np.uint16) * 257,
    "float255": EIGHT.astype(np.float32),
    "float1": EIGHT.astype(np.float32) / 255,
}
TWELVE = EIGHT.astype(np.uint16) * 16  # 12 bits in 16
RECIPE = Recipe(epochs=1, image_size=32, crop=1.0, device="cpu", speed="plain", precision="no")


def source(folder: Path, images: np.ndarray) -> Path:
    return save_npz(folder / "images.npz", images=images, labels=LABELS % 2)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model folder for each of the units that it was trained on, and one of uint16 with a stated white."""
    made = {}
    for name, images in IN_UNITS.items():
        folder = tmp_path_factory.mktemp(name)
        made[name] = train(source(folder, images), RECIPE, out=folder / "run").model
    folder = tmp_path_factory.mktemp("stated")
    recipe = RECIPE.model_copy(update={"white": 65535.0})
    made["stated"] = train(source(folder, IN_UNITS["uint16"]), recipe, out=folder / "run").model
    return made


@pytest.mark.parametrize(
    ("trained_on", "asked_with", "white", "why"),
    [
        ("uint8", "uint8", None, None),
        ("uint8", "uint16", 65535, None),
        ("uint8", "uint16", None, "State the value that is white"),
        ("uint8", "float255", None, "floats have no white"),
        ("uint8", "float1", None, "floats have no white"),
        ("uint16", "uint16", None, None),
        ("uint16", "uint8", None, "whose white nobody stated"),
        ("uint16", "twelve", None, "another unit"),
        ("stated", "twelve", None, "another unit.*--white"),
        ("stated", "uint8", None, None),
        ("stated", "uint16", None, None),
        ("float255", "float255", None, None),
        ("float255", "float1", None, "another unit"),
        ("float255", "uint8", None, "learned from floats"),
        ("float1", "float1", None, None),
        ("float1", "float255", None, "another unit"),
        ("float1", "uint16", 65535, "learned from floats"),
    ],
)
def test_answers_in_other_units(
    models: dict[str, Path], trained_on: str, asked_with: str, white: float | None, why: str | None
) -> None:
    own = IN_UNITS["uint16" if trained_on == "stated" else trained_on]
    expected = load(models[trained_on]).predict(own).probabilities_NK
    model = load(models[trained_on], white=white)
    if why is None:
        np.testing.assert_allclose(model.predict(IN_UNITS[asked_with]).probabilities_NK, expected, atol=2e-3)
    else:
        with pytest.raises(UserError, match=why):
            model.predict(TWELVE if asked_with == "twelve" else IN_UNITS[asked_with])


def test_the_model_folder_keeps_the_units(models: dict[str, Path]) -> None:
    kept = {name: ModelFolder(folder).config().input.units for name, folder in models.items()}
    assert {name: str(units) for name, units in kept.items()} == {
        "uint8": "uint8",
        "uint16": "uint16",
        "stated": "uint16 with white at 65535",
        "float255": "floats",
        "float1": "floats",
    }
    wide, narrow = kept["float255"], kept["float1"]
    assert wide is not None
    assert narrow is not None
    assert wide.brightest is not None
    assert narrow.brightest is not None
    np.testing.assert_allclose(wide.brightest, np.array(narrow.brightest) * 255, rtol=1e-2)


def test_a_run_that_starts_from_a_model_has_its_units(models: dict[str, Path], tmp_path: Path) -> None:
    words = {"epochs": 1, "device": "cpu", "speed": "plain", "precision": "no"}
    same = train(source(tmp_path, EIGHT), Recipe(**words), init_from=models["uint8"], out=tmp_path / "same")
    assert str(same.classifier.preprocessing.units) == "uint8"
    for name, images, why in (
        ("uint8", IN_UNITS["uint16"], "pixels are uint8.*those of the images are uint16"),
        ("float255", IN_UNITS["float1"], "another unit"),
    ):
        with pytest.raises(UserError, match=why):
            train(source(tmp_path, images), Recipe(**words), init_from=models[name], out=tmp_path / name)


@pytest.mark.parametrize(("trained_on", "held_out"), [("float255", "float1"), ("uint16", "twelve")])
def test_validation_images_in_another_unit_are_refused(tmp_path: Path, trained_on: str, held_out: str) -> None:
    valid = save_npz(
        tmp_path / "valid.npz", images=TWELVE if held_out == "twelve" else IN_UNITS[held_out], labels=LABELS % 2
    )
    with pytest.raises(UserError, match="another unit"):
        train(source(tmp_path, IN_UNITS[trained_on]), RECIPE, out=tmp_path / "run", valid=str(valid))
    assert not (tmp_path / "run").exists()


def test_bands_of_an_array_are_never_alpha(tmp_path: Path) -> None:
    """RGB and near infrared are four bands; in a PNG the fourth channel is alpha."""
    infrared = np.dstack([EIGHT[0], EIGHT[0][..., :1]])[None].repeat(24, 0)
    infrared[..., :3] = EIGHT
    infrared[:12, ..., 3] = 0  # as alpha it would make the image black
    trained = train(source(tmp_path, infrared), RECIPE, out=tmp_path / "run")
    assert trained.classifier.preprocessing.channels == 4
    answers = trained.classifier.predict(infrared)
    assert len(np.unique(answers.probabilities_NK[:12, 0])) > 1

    Image.fromarray(infrared[0]).save(tmp_path / "rgba.png")
    (error,) = trained.classifier.predict(tmp_path / "rgba.png").errors
    assert "3 channels, 4 are asked for" in error
    three = train(source(tmp_path, EIGHT), RECIPE, out=tmp_path / "rgb").classifier
    assert not any(three.predict(tmp_path / "rgba.png").errors)


def test_weights_that_are_not_finite_are_refused(classifier: Classifier, tmp_path: Path) -> None:
    next(classifier.network.parameters()).data[3] = float("nan")
    folder = classifier.save(tmp_path / "model")
    with pytest.raises(UserError, match=r"NaN or infinite values.*train the model again"):
        load(folder)


def test_nan_everywhere_is_said_with_its_reason(tmp_path: Path) -> None:
    images = np.full((24, 32, 32), np.nan, np.float32)
    with pytest.raises(UserError, match=r"images\.npz#0.*1024 of its 1024 values are NaN"):
        train(source(tmp_path, images), RECIPE, out=tmp_path / "run")
