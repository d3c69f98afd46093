"""The same images in other units: a model answers alike, or refuses in a sentence that can be followed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from astroformer.classifier import Classifier, load
from astroformer.errors import UserError
from astroformer.images.sets.mock_galaxies import mock_galaxies
from astroformer.images.units import Units, measured
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
SHIFTED = {  # the same range or nearly, with other values
    "signed": EIGHT.astype(np.float32) / 127.5 - 1,
    "noisy": EIGHT.astype(np.float32) / 255 - np.float32(0.03),
    "down500": EIGHT.astype(np.float32) - 500,
    "up500": EIGHT.astype(np.float32) + 500,
    "down128": EIGHT.astype(np.float32) - 128,
    "up16": EIGHT.astype(np.uint16) * 100 + 30000,
}
RECIPE = Recipe(epochs=1, image_size=32, crop=1.0, device="cpu", speed="plain", precision="no")


def source(folder: Path, images: np.ndarray) -> Path:
    return save_npz(folder / "images.npz", images=images, labels=LABELS % 2)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model folder for each of the units that it was trained on, and one of uint16 with a stated white."""
    made = {}
    for name, images in {**IN_UNITS, "signed": SHIFTED["signed"]}.items():
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
        ("float1", "signed", None, "smallest values about -1, .*undo that"),
        ("float1", "noisy", None, None),
        ("signed", "signed", None, None),
        ("signed", "float1", None, "smallest values about 0, .*undo that"),
        ("float255", "down500", None, "smallest values about -500, .*undo that"),
        ("float255", "up500", None, "smallest values about 500, .*undo that"),
        ("float255", "down128", None, "smallest values about -128, .*undo that"),
        ("uint16", "up16", None, "smallest values about 3e.04, .*undo that"),
    ],
)
def test_answers_in_other_units(
    models: dict[str, Path], trained_on: str, asked_with: str, white: float | None, why: str | None
) -> None:
    known = {**IN_UNITS, **SHIFTED, "twelve": TWELVE}
    own, asked = known["uint16" if trained_on == "stated" else trained_on], known[asked_with]
    expected = load(models[trained_on]).predict(own).probabilities_NK
    model = load(models[trained_on], white=white)
    if why is None:
        near = 0.2 if asked_with == "noisy" else 2e-3
        np.testing.assert_allclose(model.predict(asked).probabilities_NK, expected, atol=near)
    else:
        with pytest.raises(UserError, match=why):
            model.predict(asked)


def test_the_model_folder_keeps_the_units(models: dict[str, Path]) -> None:
    kept = {name: ModelFolder(folder).config().input.units for name, folder in models.items()}
    assert {name: str(units) for name, units in kept.items()} == {
        "uint8": "uint8",
        "uint16": "uint16",
        "stated": "uint16 with white at 65535",
        "float255": "floats",
        "float1": "floats",
        "signed": "floats",
    }
    wide, narrow = kept["float255"], kept["float1"]
    assert wide is not None
    assert narrow is not None
    assert wide.brightest is not None
    assert narrow.brightest is not None
    np.testing.assert_allclose(wide.brightest, np.array(narrow.brightest) * 255, rtol=1e-2)


def test_the_noise_of_a_subtracted_sky_is_no_shift() -> None:
    """Nor are images that are brighter as a whole, misty ones, or a frame of zeros around some."""
    noise = np.random.default_rng(1).normal(0, 0.05, (24, 1, 32, 32)).astype(np.float32)
    stars = EIGHT.astype(np.float32).mean(-1)[:, None] / 255
    for learned in (stars, stars + noise, noise):
        units = measured(Units("float"), learned)
        for asked in (learned * 6, learned / 6, learned[:1], learned + noise / 2):
            units.check_brightness(asked)
    measured(Units("float"), stars).check_brightness(stars + noise)
    measured(Units("float"), stars).check_brightness(0.4 + 0.6 * stars)
    bright = 0.7 + stars  # a level of the sky that nothing subtracted
    framed = np.pad(bright[:, :, 4:-4, 4:-4], ((0, 0), (0, 0), (4, 4), (4, 4)))
    measured(Units("float"), framed, padded=True).check_brightness(bright, padded=True)
    measured(Units("float"), bright, padded=True).check_brightness(framed, padded=True)
    for images, other in ((bright, bright - 0.7), (stars + noise, 2 * stars - 1), (bright, framed)):
        with pytest.raises(UserError, match="smallest values"):
            measured(Units("float"), images).check_brightness(other)


def test_a_run_that_starts_from_a_model_has_its_units(models: dict[str, Path], tmp_path: Path) -> None:
    words = {"epochs": 1, "device": "cpu", "speed": "plain", "precision": "no"}
    same = train(source(tmp_path, EIGHT), Recipe(**words), init_from=models["uint8"], out=tmp_path / "same")
    assert str(same.classifier.preprocessing.units) == "uint8"
    for name, images, why in (
        ("uint8", IN_UNITS["uint16"], "pixels are uint8.*those of the images are uint16"),
        ("float255", IN_UNITS["float1"], "another unit"),
        ("float1", SHIFTED["signed"], "scaled to another range"),
    ):
        with pytest.raises(UserError, match=why):
            train(source(tmp_path, images), Recipe(**words), init_from=models[name], out=tmp_path / name)


@pytest.mark.parametrize(
    ("trained_on", "held_out", "why"),
    [
        ("float255", "float1", "another unit"),
        ("uint16", "twelve", "another unit"),
        ("float255", "down500", "Something was subtracted"),
        ("float1", "signed", "another range"),
    ],
)
def test_validation_images_in_another_unit_are_refused(
    tmp_path: Path, trained_on: str, held_out: str, why: str
) -> None:
    images = {**IN_UNITS, **SHIFTED, "twelve": TWELVE}[held_out]
    valid = save_npz(tmp_path / "valid.npz", images=images, labels=LABELS % 2)
    with pytest.raises(UserError, match=why):
        train(source(tmp_path, IN_UNITS[trained_on]), RECIPE, out=tmp_path / "run", valid=str(valid))
    assert not (tmp_path / "run").exists()


def test_advice_about_white_leads_to_a_run(tmp_path: Path) -> None:
    """Each refusal names the words with which the same images can be trained on."""
    eight = source(tmp_path, EIGHT)
    images, labels = mock_galaxies(24, size=32, seed=4)
    valid = str(save_npz(tmp_path / "valid.npz", images=images.astype(np.uint16) * 257, labels=labels % 2))
    words = RECIPE.model_dump(exclude_unset=True)
    with pytest.raises(UserError, match=r"State the value that is white.*--pixels uint16 beside it"):
        train(eight, RECIPE, out=tmp_path / "a", valid=valid)
    with pytest.raises(UserError, match=r"white is 65535, but the images are uint8, whose white is 255.*--pixels uint"):
        train(eight, Recipe(**words, white=65535), out=tmp_path / "b", valid=valid)
    trained = train(eight, Recipe(**words, white=65535, pixels="uint16"), out=tmp_path / "c", valid=valid)
    assert str(trained.classifier.preprocessing.units) == "uint16 with white at 65535"
    answers = trained.classifier.predict(EIGHT).probabilities_NK
    np.testing.assert_allclose(answers, trained.classifier.predict(IN_UNITS["uint16"]).probabilities_NK, atol=2e-3)
    with pytest.raises(UserError, match=r"pixels are uint16.*choose pixels uint8"):
        train(eight, Recipe(**words, pixels="uint16"), out=tmp_path / "d")


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


@pytest.mark.filterwarnings("error")
def test_values_beyond_float32_are_called_so(tmp_path: Path, classifier: Classifier) -> None:
    images = np.full((24, 32, 32, 3), 1e300)
    why = r"values up to 1e\+300, and float32 ends at 3.4e\+38; scale the images"
    with pytest.raises(UserError, match=rf"images\.npz#0.*{why}"):
        train(source(tmp_path, images), RECIPE, out=tmp_path / "run")
    for given in (images, images[0]):
        with pytest.raises(UserError, match=why):
            classifier.predict(given)
    assert all("float32 ends at" in error for error in classifier.predict(tmp_path / "images.npz").errors)
    with pytest.raises(UserError, match="3072 of its 3072 values are NaN or infinite"):
        classifier.predict(np.full((32, 32, 3), np.inf))
