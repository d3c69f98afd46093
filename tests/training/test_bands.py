"""Images of many bands, with names, scaled and with pixels that have no value: from the source to the answers."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import astroformer
from astroformer import classifier
from astroformer.classifier import load
from astroformer.cli.main import main
from astroformer.errors import UserError
from astroformer.evaluation.mistakes import plot_mistakes
from astroformer.images import sources
from astroformer.images.bands import Bands
from astroformer.images.given import as_images
from astroformer.images.labelled import LabelledImages
from astroformer.images.sources import open_source
from astroformer.model_folder import ModelFolder
from astroformer.predictions import Predictions
from astroformer.progress import Reporter
from astroformer.training.measuring import preprocessing_of
from astroformer.training.prepare import prepare, reopen
from astroformer.training.recipe import Recipe
from astroformer.training.rules import decide
from astroformer.training.single import Trained
from astroformer.training.task import Task
from helpers.command_line import Run
from helpers.survey import write_mosaic
from helpers.tiny_sets import save_npz
from mock_survey import field

NAMES = ("u", "g", "r", "i", "z")
GRI = Bands(("g", "r", "i"), ("nJy",) * 3)
FEW = ["--images", "4", "--shifts", "2", "--crops", "2", "--rotations", "1"]
WORDS: dict[str, Any] = {"epochs": 1, "image_size": 32, "crop": 1.0, "device": "cpu", "precision": "no"}


def sky(n: int, bands: int, *, seed: int = 0, missing: float = 0.0, size: int = 32) -> np.ndarray:
    """(N, C, H, W) float32: galaxies of two colours in turn, on a sky of noise, in nJy."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    flux, radius = 10 ** rng.uniform(1, 3, n), rng.uniform(2, 5, n)
    galaxy_N1HW = (flux[:, None, None] * np.exp(-np.hypot(x, y) / radius[:, None, None]))[:, None]
    slope_C11 = np.linspace(-0.5, 0.5, bands)[:, None, None] if bands > 1 else np.zeros((1, 1, 1))
    colour_NC11 = 1 + np.where(np.arange(n) % 2, 1, -1)[:, None, None, None] * slope_C11
    images = 20 + galaxy_N1HW * colour_NC11 + rng.normal(size=(n, bands, size, size))
    images[rng.random(images.shape) < missing] = np.nan
    return images.astype(np.float32)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Makes an .npz of images that says of its bands what FITS files say."""
    said: dict[str, tuple[Bands | None, bool]] = {}
    plain = sources._open

    def opened(name: str, *arguments: Any) -> tuple[LabelledImages, Any]:
        images, taken = plain(name, *arguments)
        bands, masks = said.get(name, (None, False))
        return replace(images, bands=bands, masks=masks), taken

    monkeypatch.setattr(sources, "_open", opened)

    def make(name: str, images_NCHW: np.ndarray, bands: Bands | None = None, masks: bool = False) -> str:
        labels = np.arange(len(images_NCHW)) % 2
        path = save_npz(tmp_path / name, images=images_NCHW, labels=labels, classes=["blue", "red"])
        said[str(path)] = bands, masks
        return f"{path}@layout=NCHW"

    return make


def named(n: int) -> Bands:
    names = {3: ("g", "r", "i"), 5: NAMES, 13: tuple(f"B{k:02d}" for k in range(1, 14))}.get(n, NAMES[:n])
    return Bands(names, ("nJy",) * n)


SLOW = [pytest.param(bands, marks=pytest.mark.slow) for bands in (2, 3, 4)]  # three numbers show what differs


@pytest.mark.parametrize("bands", [1, 5, 13, *SLOW])
def test_any_number_of_bands_trains_answers_and_is_shown(
    bands: int, source: Callable[..., str], tmp_path: Path
) -> None:
    images = source("some.npz", sky(24, bands, missing=0.01), named(bands), masks=True)
    trained = astroformer.train(images, Recipe(**WORDS), out=tmp_path / "run", quiet=True)
    recipe = trained.classifier.preprocessing
    assert recipe.channels == bands
    assert recipe.scaling is not None
    assert (recipe.bands, recipe.missing, recipe.scaling.kind) == (named(bands), "median", "asinh")
    model, plain = load(trained.model), load(trained.model, fast=False)
    assert model.preprocessing == recipe
    answers = model.predict(images)
    assert answers.readable_N.all()
    np.testing.assert_allclose(answers.probabilities_NK, plain.predict(images).probabilities_NK, atol=1e-5)
    assert model.evaluate(images)[0].n == 24
    card = (trained.model / "README.md").read_text(encoding="utf-8")
    assert f"Bands, in this order: {named(bands)}." in card
    assert "scaling asinh: " in card
    assert "filled with the median" in card
    shown = astroformer.show(images, Recipe(**WORDS), per_class=2, augmented=True)
    shown.save(tmp_path / "sheet.png")
    chosen = {3: "i, r and g", 4: "i, r and u", 5: "z, r and u", 13: "B13, B07 and B01"}.get(bands)
    if chosen is not None:
        assert any(f"the bands {chosen} are shown as red, green and blue" in said for said in shown.sentences)
    wrong = Predictions(answers.files, answers.classes, np.eye(2)[1 - np.arange(24) % 2], answers.errors)
    assert plot_mistakes(model, open_source(images), wrong, tmp_path / "mistakes.png") is None


@pytest.fixture
def trained(source: Callable[..., str], tmp_path: Path) -> Trained:
    """A run on images of the bands g, r, i in nJy."""
    return astroformer.train(source("gri.npz", sky(24, 3), GRI), Recipe(**WORDS), out=tmp_path / "gri", quiet=True)


@pytest.mark.parametrize(
    "other",
    [
        Bands(("i", "r", "g"), ("nJy",) * 3),
        Bands(("g", "r", "z"), ("nJy",) * 3),
        Bands(("g", "r", "i"), ("adu",) * 3),
        Bands(("g", "r"), ("nJy",) * 2),
    ],
)
def test_other_bands_are_refused_by_name(
    other: Bands, source: Callable[..., str], trained: Trained, tmp_path: Path
) -> None:
    images = source("other.npz", sky(24, len(other), seed=1), other)
    why = "the model learned from the bands g, r, i .nJy., and these images have " + str(other).partition(" (")[0]
    model = load(trained.model)
    for ask in (model.predict, model.evaluate, model.framed, model.features):
        with pytest.raises(UserError, match=why):
            ask(images)
    with pytest.raises(UserError, match=why):
        astroformer.train(images, Recipe(epochs=1, device="cpu"), init_from=trained.model, out=tmp_path / "a")
    gri = source("gri.npz", sky(24, 3), GRI)
    with pytest.raises(UserError, match=r"the run learns from the bands g, r, i .* those of --valid .* have"):
        astroformer.train(gri, Recipe(**WORDS), valid=images, out=tmp_path / "b")
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()


def test_a_source_that_says_nothing_of_its_bands_is_taken_and_that_is_said(
    source: Callable[..., str], trained: Trained, run: Run, tmp_path: Path
) -> None:
    unnamed = source("unnamed.npz", sky(24, 3, seed=1))
    words = "these images do not say what their bands are; they are taken for g, r, i (nJy)"
    with pytest.warns(UserWarning, match=re.escape(words)):
        assert load(trained.model).predict(unnamed).readable_N.all()
    for command, asked in (("predict", [unnamed]), ("evaluate", [unnamed]), ("symmetry", ["--data", unnamed, *FEW])):
        out = str(tmp_path / ("p.csv" if command == "predict" else command))
        assert run(command, str(trained.model), *asked, "--out", out).err.splitlines().count(words) == 1
    gri = source("gri.npz", sky(24, 3), GRI)
    held_out = astroformer.train(gri, Recipe(**WORDS), valid=unnamed, out=tmp_path / "run", quiet=True)
    assert any("of --valid" in said and "are taken for g, r, i" in said for said in record_of(held_out))
    without_units = source("without.npz", sky(24, 3, seed=1), Bands(("g", "r", "i")))
    words = "these images do not state the unit of their values; it is taken for nJy"
    with pytest.warns(UserWarning, match=words):
        assert load(trained.model).predict(without_units).readable_N.all()
    out = str(tmp_path / "without.csv")
    assert run("predict", str(trained.model), without_units, "--out", out).err.splitlines().count(words) == 1


def test_values_that_stand_for_nothing_are_said_of_the_sky_alone(source: Callable[..., str]) -> None:
    images = sky(24, 3)
    images[:12, :, :8] = -9999
    for bands in (GRI, None):
        shown = astroformer.show(source("some.npz", images, bands), Recipe(**WORDS), per_class=1, quiet=True)
        said = [each for each in shown.sentences if "25.0 % of the values on average are exactly -9999" in each]
        assert len(said) == (bands is not None)


def test_images_in_magnitudes_are_said_before_training(source: Callable[..., str], tmp_path: Path) -> None:
    for unit in ("mag/arcsec2", "nJy"):
        images = source("some.npz", sky(24, 2), Bands(("g", "r"), (unit, unit)))
        shown = astroformer.show(images, Recipe(**WORDS), per_class=1, quiet=True)
        said = any("the images are in mag/arcsec2: magnitudes" in each for each in shown.sentences)
        assert said == (unit != "nJy")


def test_python_warns_once_of_images_that_say_nothing_of_their_bands(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Live(Reporter):
        def __init__(self, *, quiet: bool) -> None:
            super().__init__(quiet=quiet)
            self.live = True  # as in a terminal

    model, array_NHWC = load(trained.model), sky(4, 3, seed=1).transpose(0, 2, 3, 1)
    words = "these images do not say what their bands are; they are taken for g, r, i (nJy)"
    for images in (array_NHWC, list(array_NHWC), array_NHWC[0]):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            for _ in range(2):  # the same line of a program
                model.predict(images)
        assert [(str(one.message), one.category, one.filename) for one in caught] == [(words, UserWarning, __file__)]
    nameless = replace(model, preprocessing=replace(model.preprocessing, bands=None))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nameless.predict(array_NHWC)
        model.predict(replace(as_images(array_NHWC), bands=GRI))
        monkeypatch.setattr(classifier, "Reporter", Live)
        capsys.readouterr()
        model.predict(array_NHWC)
    assert capsys.readouterr().err.splitlines() == [words]


def record_of(trained: Trained) -> list[str]:
    return reopen(trained.run, Reporter(quiet=True), finished=True).record.decisions


def test_named_bands_are_not_made_from_grey_or_to_grey(source: Callable[..., str], trained: Trained) -> None:
    answers = load(trained.model).predict(source("grey.npz", sky(4, 1)))
    assert all("1 channel, and the model learned from the bands g, r, i" in error for error in answers.errors)
    images = source("gri.npz", sky(24, 3), GRI)
    with pytest.raises(UserError, match="channels is 1, and the images have the bands g, r, i"):
        decide(Recipe(**WORDS, channels=1), open_source(images))
    rgb = source("rgb.npz", sky(24, 3), Bands(("red", "green", "blue")))
    assert decide(Recipe(**WORDS, channels=1), open_source(rgb))[0].channels == 1
    assert decide(Recipe(**WORDS), open_source(rgb))[0].channels == 3


def test_the_augmentation_of_named_bands_knows_no_hue(source: Callable[..., str], tmp_path: Path) -> None:
    words = {**WORDS, "augment": {"hue": 0.2, "saturation": 0.3}}
    for bands, of_colour in ((GRI, False), (Bands(("red", "green", "blue")), True)):
        images = source("three.npz", sky(24, 3), bands)
        made = astroformer.train(images, Recipe(**words), out=tmp_path / bands.names[0], quiet=True)
        said = "no meaning for these images, so without effect: saturation, hue"
        assert (said in record_of(made)) is not of_colour


# -- scaling ---------------------------------------------------------------------------------------------------------


def weights_of(trained: Trained) -> dict[str, torch.Tensor]:
    return trained.classifier.network.state_dict()


def test_scaling_is_measured_on_the_training_images_alone(source: Callable[..., str], tmp_path: Path) -> None:
    """Whatever the validation images are, given or held out, the run is the same to the bit."""
    images = sky(40, 2)
    valid = source("valid.npz", sky(10, 2, seed=3), named(2))
    first = astroformer.train(source("two.npz", images, named(2)), Recipe(**WORDS), out=tmp_path / "a", quiet=True)
    changed = images.copy()
    changed[held_out_of(first)] *= 1.5
    other = source("two.npz", changed, named(2))
    made = [first, astroformer.train(other, Recipe(**WORDS), out=tmp_path / "b", quiet=True)]
    assert made[0].classifier.preprocessing == made[1].classifier.preprocessing
    for name, value in weights_of(made[0]).items():
        assert torch.equal(value, weights_of(made[1])[name])
    given = [
        astroformer.train(source("two.npz", images, named(2)), Recipe(**WORDS), valid=v, out=tmp_path / k, quiet=True)
        for k, v in (("c", valid), ("d", source("valid2.npz", sky(10, 2, seed=4) * 2, named(2))))
    ]
    assert given[0].classifier.preprocessing == given[1].classifier.preprocessing
    assert given[0].classifier.preprocessing != made[0].classifier.preprocessing


def held_out_of(trained: Trained) -> list[int]:
    """The positions of the images that a run validated on."""
    lines = (trained.run / "splits" / "valid.csv").read_text(encoding="utf-8").splitlines()[1:]
    return [int(line.split(",")[0].rpartition("#")[2]) for line in lines]


def test_who_gets_which_scaling(source: Callable[..., str]) -> None:
    def decided(images: np.ndarray, bands: Bands | None, masks: bool, **words: Any) -> tuple[str | None, str | None]:
        recipe, _ = decide(Recipe(**WORDS, **words), open_source(source("some.npz", images, bands, masks)))
        return recipe.scaling, recipe.missing

    floats, whole = sky(10, 3), sky(10, 3).clip(0, 255).astype(np.uint16)
    assert decided(floats, None, False) == ("none", "refuse")
    assert decided(floats, GRI, False) == ("asinh", "refuse")
    assert decided(floats, None, True) == ("asinh", "median")
    assert decided(whole, GRI, False) == ("none", "refuse")
    assert decided(whole.astype(np.uint8), GRI, False) == ("none", "refuse")
    assert decided(floats, GRI, True, scaling="none", missing="zero") == ("none", "zero")


@pytest.mark.parametrize("scaling", ["linear", "log", "zscale", "percentile"])
@pytest.mark.parametrize("storage", ["uint8", "float32"])
def test_each_scaling_trains_and_is_taken_up_again(
    scaling: Any, storage: Any, source: Callable[..., str], tmp_path: Path
) -> None:
    if scaling == "zscale":
        pytest.importorskip("astropy")
    images = source("some.npz", sky(24, 2), named(2))
    recipe = Recipe(**WORDS, scaling=scaling, storage=storage)
    made = astroformer.train(images, recipe, out=tmp_path / "run", quiet=True)
    again = reopen(made.run, Reporter(quiet=True), finished=True)  # the images must be those that it began with
    assert again.preprocessing == made.classifier.preprocessing == ModelFolder(made.model).config().input
    assert again.train.base.dtype == np.dtype(storage)
    assert again.preprocessing.scaling is not None
    assert again.preprocessing.scaling.kind == scaling
    assert any(said.startswith(f"scaling {scaling}: u from") for said in again.record.decisions)


def test_a_model_of_scaled_images_refuses_another_unit(source: Callable[..., str], trained: Trained) -> None:
    """Also where it is no more than a factor that asinh nearly hides."""
    model = load(trained.model)
    for images in (sky(24, 3) * 255, sky(24, 3) / 255, sky(24, 3) - 500):
        with pytest.raises(UserError, match="the model learned from images whose"):
            model.predict(source("other.npz", images, GRI))
    with pytest.raises(UserError, match="learned from floats"):
        model.predict(np.zeros((2, 32, 32, 3), np.uint8))


def test_a_run_that_starts_from_a_model_keeps_its_scaling(
    source: Callable[..., str], trained: Trained, tmp_path: Path
) -> None:
    images = source("more.npz", 2 * sky(24, 3, seed=5), GRI)
    words: dict[str, Any] = {"epochs": 1, "device": "cpu", "precision": "no"}
    made = astroformer.train(images, Recipe(**words), init_from=trained.model, out=tmp_path / "next", quiet=True)
    before, after = trained.classifier.preprocessing, made.classifier.preprocessing
    assert (after.scaling, after.mean, after.bands) == (before.scaling, before.mean, before.bands)
    assert after.units != before.units
    unnamed = source("unnamed.npz", sky(24, 3, seed=5))
    made = astroformer.train(unnamed, Recipe(**words), init_from=trained.model, out=tmp_path / "third", quiet=True)
    assert (made.classifier.preprocessing.scaling, made.classifier.preprocessing.bands) == (before.scaling, GRI)
    with pytest.raises(UserError, match="scaling is log, but the model of --init-from has asinh"):
        astroformer.train(images, Recipe(**words, scaling="log"), init_from=trained.model, out=tmp_path / "x")
    far = source("far.npz", 255 * sky(24, 3, seed=5), GRI)
    with pytest.raises(UserError, match="another unit"):
        astroformer.train(far, Recipe(**words), init_from=trained.model, out=tmp_path / "y")


def test_of_many_images_some_are_measured(source: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("astroformer.training.measuring._MEASURED", 5)
    monkeypatch.setattr("astroformer.training.measuring._AT_ONCE", 2)
    images = open_source(source("some.npz", sky(21, 2), named(2)))
    recipe, _ = decide(Recipe(**WORDS), images)
    made = preprocessing_of(recipe, images)
    assert made == preprocessing_of(recipe, images)
    fifth = images.subset(range(0, 21, 5))
    assert made == preprocessing_of(recipe, fifth)


# -- pixels without a value ------------------------------------------------------------------------------------------


def test_pixels_without_a_value_are_filled_with_what_their_image_says(source: Callable[..., str]) -> None:
    images = sky(6, 2)
    images[:, 0, :4] = np.nan
    images[0, 1, :17] = np.nan  # more than half
    opened = open_source(source("some.npz", images))
    for missing in ("median", "zero"):
        recipe, _ = decide(Recipe(**WORDS, missing=missing, storage="float32"), opened)
        preprocessing = preprocessing_of(recipe, opened)
        for i in range(1, 6):
            filled = preprocessing.apply(opened.read(i))
            expected = np.median(images[i, 0, 4:]) if missing == "median" else 0
            np.testing.assert_allclose(filled[0, :4], expected)
            np.testing.assert_array_equal(filled[0, 4:], images[i, 0, 4:])
            np.testing.assert_array_equal(filled[1], images[i, 1])
            assert preprocessing.missing_share(opened.read(i)) == 4 / 64
        with pytest.raises(UserError, match="no value in 53% of the pixels that are kept of band 2, more than half"):
            preprocessing.apply(opened.read(0))
    assert np.isnan(opened.read(1)).sum() == 4 * 32  # nobody writes into what a reader gives


def test_missing_pixels_are_filled_before_an_image_is_resized(source: Callable[..., str]) -> None:
    """One of them would make holes of the whole neighbourhood."""
    images = sky(4, 1, size=64)
    images[:, 0, 30, 30] = np.nan
    opened = open_source(source("some.npz", images))
    recipe, _ = decide(Recipe(**WORDS, missing="median"), opened)
    assert np.isfinite(preprocessing_of(recipe, opened).apply(opened.read(0))).all()


def test_a_run_says_once_what_it_fills_and_lists_what_lacks_too_much(
    source: Callable[..., str], tmp_path: Path
) -> None:
    images = sky(24, 2)
    images[:6, 0, :8] = np.nan  # an eighth of both bands
    images[0, 0, 4:8], images[1, 0, 8:12] = 0.0, np.nan  # one lacks less, another as much more
    images[10, 1, :20] = np.nan
    made = astroformer.train(source("some.npz", images, None, True), Recipe(**WORDS), out=tmp_path / "a", quiet=True)
    said = record_of(made)
    assert "pixels without a value: filled with the median of their band (--missing zero or refuse)" in said
    filled = [sentence for sentence in said if " lack " in sentence]
    assert filled == [
        "6 of 23 images lack 12.5 % of their pixels on average and 18.8 % at most: filled with the median of their "
        "band in the image"
    ]
    left_out = (made.run / "left_out.csv").read_text(encoding="utf-8")
    assert "some.npz#10" in left_out
    assert "no value in 62% of the pixels" in left_out
    shown = astroformer.show(source("some.npz", images, None, True), Recipe(**WORDS), per_class=12, quiet=True)
    assert any(
        "6 of the images shown lack 12.5 % of their pixels on average and 18.8 % at most: filled" in each
        for each in shown.sentences
    )
    again = astroformer.train(source("some.npz", images, None, True), Recipe(**WORDS), out=tmp_path / "b", quiet=True)
    assert record_of(again) == said  # also of images that were decoded before


def test_nan_that_nobody_marks_is_refused_unless_asked_for(source: Callable[..., str], tmp_path: Path) -> None:
    images = sky(24, 2)
    images[3, 0, 0, 0] = np.nan
    plain = source("some.npz", images)
    made = astroformer.train(plain, Recipe(**WORDS), out=tmp_path / "a", quiet=True)
    left_out = (made.run / "left_out.csv").read_text(encoding="utf-8")
    assert "1 of its 2048 values are NaN: fill them in, or train with --missing median" in left_out
    [error] = made.classifier.predict(plain).errors[3:4]
    assert "1 of its 2048 values are NaN" in error
    asked = astroformer.train(plain, Recipe(**WORDS, missing="median"), out=tmp_path / "b", quiet=True)
    assert not (asked.run / "left_out.csv").exists()
    assert asked.classifier.predict(plain).readable_N.all()
    images[3, 0, 0, 0] = np.inf
    infinite = astroformer.train(source("some.npz", images), Recipe(**WORDS, missing="zero"), out=tmp_path / "c")
    assert "1 of its 2048 values are NaN or infinite" in (infinite.run / "left_out.csv").read_text(encoding="utf-8")


def test_masked_arrays_are_images_with_pixels_that_have_no_value(source: Callable[..., str], tmp_path: Path) -> None:
    images = sky(24, 2)
    made = astroformer.train(
        source("some.npz", images), Recipe(**WORDS, missing="median"), out=tmp_path / "run", quiet=True
    )
    stack = np.moveaxis(images, 1, 3)
    holes = stack.copy()
    holes[:, 5:8, 5:8] = np.nan
    masked = np.ma.masked_array(stack, mask=np.isnan(holes))
    expected = made.classifier.predict(holes).probabilities_NK
    np.testing.assert_array_equal(made.classifier.predict(masked).probabilities_NK, expected)
    np.testing.assert_allclose(made.classifier.predict(masked[3]).probabilities_NK[0], expected[3], atol=1e-6)


def test_what_the_source_stated_is_kept_and_others_are_told_of(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("astropy")
    catalog, mosaic = write_mosaic(tmp_path, field(24, side=240, size=24))
    first, second = (f"{catalog}@mosaic={mosaic}@size={side}@id=id" for side in (24, 12))
    made = astroformer.train(first, Recipe(**WORDS), out=tmp_path / "run", quiet=True)
    assert made.classifier.preprocessing.stated is not None
    config = ModelFolder(made.model).config()
    assert config.input.stated == made.classifier.preprocessing.stated == open_source(first).stated
    capfd.readouterr()
    for source, said in ((first, 0), (second, 1), (mosaic, 1)):
        assert main(["predict", str(made.model), source, "--out", str(tmp_path / "p.csv"), "--overwrite"]) == 0
        text = capfd.readouterr().err
        assert text.count("arcsec of sky along a side") == said, text
    task = Task(first, valid=second, allow_shared=True)
    decisions = prepare(task, Recipe(**WORDS), out=tmp_path / "other", reporter=Reporter(quiet=True)).record.decisions
    [said_once] = [sentence for sentence in decisions if "arcsec of sky" in sentence]
    assert said_once.startswith(f"those of --valid '{second}' show 3.14 arcsec of sky along a side (0.262 a pixel)")


def test_the_sky_of_each_image_is_subtracted_alike_in_training_and_in_prediction(
    source: Callable[..., str], tmp_path: Path
) -> None:
    shifts = np.random.default_rng(3).uniform(0, 3000, 24)[:, None, None, None].astype(np.float32)
    moved = source("moved.npz", sky(24, 3) + shifts, GRI)
    said = astroformer.show(moved, Recipe(**WORDS)).sentences
    assert sum("--scaling asinh-sky" in sentence for sentence in said) == 1
    made = astroformer.train(moved, Recipe(**WORDS, scaling="asinh-sky"), out=tmp_path / "run", quiet=True)
    model = load(made.model)
    assert model.preprocessing.scaling is not None
    assert model.preprocessing.scaling.kind == "asinh-sky"
    record = reopen(made.run, Reporter(quiet=True), finished=True).record
    assert not any("--scaling asinh-sky" in decision for decision in record.decisions)
    new = sky(8, 3, seed=9)
    here = model.predict(source("new.npz", new, GRI)).probabilities_NK
    there = model.predict(source("new_moved.npz", new + 2000, GRI)).probabilities_NK
    np.testing.assert_allclose(here, there, atol=1e-3)
