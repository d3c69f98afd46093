"""The crop that is measured on images. (What else the rules see of a sample is tested with the rules.)"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from astroformer.images.labelled import LabelledImages
from astroformer.training.image_sample import describe_repeated, measure_crop, reduce_image

Array = np.ndarray[Any, Any]


def noise(n: int, side: int) -> list[Array]:
    return list(np.random.default_rng(0).integers(0, 256, (n, side, side, 3)).astype(np.uint8))


def sources(n: int, size: int, width: float, seed: int = 0) -> list[Array]:
    """Round sources of different brightness and `width` (share of the frame) in the middle of noisy sky."""
    generator = np.random.default_rng(seed)
    y, x = (np.indices((size, size)) - (size - 1) / 2) / size
    profile = np.exp(-(x**2 + y**2) / (2 * width**2))
    frames = [generator.uniform(50, 200) * profile + generator.normal(20, 1, (size, size)) for _ in range(n)]
    return [np.repeat(frame.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2) for frame in frames]


def crop_of(images: list[Any]) -> float:
    return measure_crop([reduce_image(image) for image in images])


def test_crop_keeps_a_source_and_drops_empty_sky() -> None:
    narrow, middle, wide = (crop_of(sources(256, 64, width)) for width in (0.08, 0.16, 0.2))
    assert 0.5 <= narrow <= middle < wide < 1
    # A square of 2 · 1.95 standard deviations a side holds 90 % of a round Gaussian; it can turn in one √2 as wide.
    assert 0.75 < middle <= 0.9
    assert abs(middle - math.sqrt(2) * 3.9 * 0.16) < 0.1


def test_crop_of_images_that_vary_everywhere_keeps_them_whole() -> None:
    shades = [np.full((32, 32, 3), value, np.uint8) for value in range(0, 256, 4)]
    assert crop_of(shades) == 1.0
    smooth = [np.kron(image, np.ones((8, 8, 1))).astype(np.uint8) for image in noise(100, 8)]
    for images in (smooth, noise(100, 64), noise(9, 64)):
        assert crop_of(images) == 1.0


@pytest.mark.parametrize("noise_sd", [1.0, 5.0])
def test_crop_is_that_of_the_source_however_few_images_show_it(noise_sd: float) -> None:
    generator = np.random.default_rng(1)
    images = [
        np.clip(image + generator.normal(0, noise_sd, image.shape[:2])[..., None], 0, 255).astype(np.uint8)
        for image in sources(256, 64, 0.14)
    ]
    whole = crop_of(images)
    assert abs(whole - math.sqrt(2) * 3.9 * 0.14) < 0.1
    for n in (16, 32, 64):
        parts = [crop_of(images[first : first + n]) for first in range(0, 256, n)]
        assert abs(np.median(parts) - whole) < 0.06  # a step


def test_crop_is_not_guessed_from_few_or_equal_images() -> None:
    assert crop_of(sources(7, 64, 0.08)) == 1.0
    assert crop_of([np.zeros((32, 32, 1), np.uint8)] * 20) == 1.0


def described(images_NHWC: Array) -> list[str]:
    names = [str(i) for i in range(len(images_NHWC))]
    return describe_repeated(LabelledImages("some", names, None, (), lambda i: images_NHWC[i]))


def test_values_that_many_pixels_share_are_said() -> None:
    clean = np.random.default_rng(0).normal(size=(40, 20, 20, 2)).astype(np.float32)
    clean[0, :3] = np.nan
    assert described(clean) == []
    one = clean.copy()
    one[3, :5] = -9999  # of one image
    few = clean.copy()
    few[:, 0, :4, 0] = 0  # four pixels of 800 in every image
    assert described(one) == described(few) == []
    assert described(np.zeros((40, 8, 8, 3), np.uint8)) == []  # black is a colour
    photons = np.random.default_rng(1).poisson(2.0, clean.shape).astype(np.float32)
    assert described(photons) == described((photons - 2) / 7) == []  # 0 is one of many values that repeat
    rows = clean.copy()
    rows[10:20, :5] = -9999
    words = "write NaN in their place, or say @blank=-9999.0 of FITS files, so that --missing fills them"
    start = "in 10 of 40 images that were looked at, "
    assert described(rows) == [
        f"{start}25.0 % of the values on average are exactly -9999. If these are no measurements, {words}"
    ]
    band = clean.copy()
    band[::4, :, :, 1] = 0  # a whole band of every fourth image
    assert [said.partition(". If")[0] for said in described(band)] == [
        f"{start}50.0 % of the values on average are exactly 0"
    ]
    assert [said.partition("exactly ")[2].partition(". If")[0] for said in described(rows.clip(None, 1))] == [
        "-9999",
        "1",
    ]
