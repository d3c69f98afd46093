"""What a report sees of the images: brightness, width, small pictures."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from astroformer.classifier import Classifier
from astroformer.evaluation.report.pixels import SIDE, half_light_radius, look
from astroformer.images.labelled import LabelledImages
from astroformer.images.preprocessing import Preprocessing
from astroformer.network import create_network


def classifier(size: int, channels: int = 3, dtype: str = "uint8") -> Classifier:
    network = create_network("astroformer_atto", num_classes=2, img_size=32, in_chans=channels)
    return Classifier(network, Preprocessing((size, size), channels, dtype=dtype, crop=1.0), ("a", "b"))


def given(pixels: np.ndarray) -> LabelledImages:
    labels = np.zeros(len(pixels), np.int64)
    return LabelledImages("given", [str(i) for i in range(len(pixels))], labels, ("a", "b"), pixels.__getitem__)


def opened(address: str) -> Image.Image:
    kind, _, text = address.partition(",")
    assert kind == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(text, validate=True)))


@pytest.mark.parametrize("sigma", [3.0, 6.0])
def test_the_half_light_radius_of_a_gaussian(sigma: float) -> None:
    y, x = np.mgrid[-40:41, -40:41]
    light = np.exp(-(x**2 + y**2) / (2 * sigma**2))
    closed_form = sigma * np.sqrt(2 * np.log(2))
    for image in (light[None], 100 + 50 * np.roll(light, (7, -5), (0, 1))[None].repeat(3, 0)):
        assert half_light_radius(image) == pytest.approx(closed_form, abs=0.6)


def test_an_even_image_has_no_light() -> None:
    assert np.isnan(half_light_radius(np.full((3, 8, 8), 200, np.uint8)))


def test_brightness_is_a_share_of_white_and_pictures_are_what_the_network_sees() -> None:
    pixels = np.stack([np.full((32, 32, 3), level, np.uint8) for level in (0, 51, 255)])
    seen = look(classifier(32), given(pixels), [2, 0])
    assert seen.brightness == [0.0, pytest.approx(0.2), 1.0]
    assert set(seen.pictures) == {0, 2}
    assert opened(seen.pictures[2]).size == (32, 32)
    assert np.asarray(opened(seen.pictures[2]).convert("RGB")).min() > 250
    assert seen.said is None


@pytest.mark.parametrize(("size", "side"), [(96, 96), (97, 48), (224, 74), (400, 80)])
def test_large_images_become_small_pictures(size: int, side: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (1, size, size, 3), np.uint8)
    seen = look(classifier(size), given(pixels), [0])
    assert opened(seen.pictures[0]).size == (side, side)
    assert side <= SIDE


def test_floats_and_many_bands_are_shown_as_everywhere() -> None:
    pixels = np.random.default_rng(0).random((4, 32, 32, 5), np.float32)
    seen = look(classifier(32, 5, "float16"), given(pixels), range(4))
    assert len(seen.pictures) == 4
    assert seen.said is not None
    assert seen.said.startswith("bands 1, 2 and 3 of 5 are shown as red, green and blue")
    assert seen.brightness[0] == pytest.approx(pixels[0].mean(), abs=1e-3)


def test_what_can_not_be_read_has_no_picture() -> None:
    images = given(np.stack([np.full((32, 32, 3), value) for value in (np.nan, 0.5)]))
    seen = look(classifier(32, 3, "float16"), images, [0, 1])
    assert set(seen.pictures) == {1}
    assert np.isnan(seen.brightness[0])
    assert np.isnan(seen.radius[0])


def test_pictures_stay_within_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("astroformer.evaluation.report.pixels._MOST_BYTES", 5000)
    pixels = np.random.default_rng(0).integers(0, 255, (20, 32, 32, 3), np.uint8)
    order = [7, 3, *(i for i in range(20) if i not in (3, 7))]
    seen = look(classifier(32), given(pixels), order)
    assert 1 < len(seen.pictures) < 20
    assert list(seen.pictures) == order[: len(seen.pictures)]
    assert sum(map(len, seen.pictures.values())) <= 5000
