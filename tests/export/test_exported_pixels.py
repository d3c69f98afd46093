"""The preprocessing of a graph is that of `Preprocessing`, and marks what that refuses."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from astroformer.errors import UserError
from astroformer.export.pixels import Pixels, masked_median
from astroformer.images.preprocessing import Preprocessing
from astroformer.images.scaling import SCALINGS, Scaling
from astroformer.images.units import Units

SIZES = ((32, 32), (40, 32), (50, 60), (60, 50), (31, 100), (20, 17), (212, 424))
FLOATS = Units("float")


def sky(height: int, width: int, channels: int = 2, seed: int = 0) -> np.ndarray:
    """Noise of 3 around 50 with a bright source in the middle."""
    image = np.random.default_rng(seed).normal(50, 3, (height, width, channels)).astype(np.float32)
    image[height // 3 : height // 2, width // 3 : width // 2] += 300
    return image


def both(preprocessing: Preprocessing, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a network is given by `Preprocessing` and by a graph."""
    want = preprocessing.normalize(torch.from_numpy(preprocessing.apply(image)[None]))
    got, good = Pixels(preprocessing)(torch.from_numpy(image[None]))
    assert good.tolist() == [True]
    return want.numpy(), got.numpy()


def refused(preprocessing: Preprocessing, image: np.ndarray) -> bool:
    """Whether a graph marks an image that `Preprocessing` refuses."""
    with pytest.raises(UserError):
        preprocessing.apply(image)
    return not Pixels(preprocessing)(torch.from_numpy(image[None]))[1].item()


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("crop", [1.0, 0.7])
def test_8_bits_are_resized_to_the_bit(fit: str, crop: float) -> None:
    rng = np.random.default_rng(0)
    for size, target in itertools.product(SIZES, [(32, 32), (40, 48)]):
        if fit != "crop" and size[0] * target[1] > size[1] * target[0]:
            continue  # an upright image, see below
        preprocessing = Preprocessing(target, 3, crop=crop, fit=fit, mean=(0.1, 0.2, 0.3), std=(0.2, 0.3, 0.4))  # type: ignore[arg-type]
        want, got = both(preprocessing, rng.integers(0, 256, (*size, 3), np.uint8))
        np.testing.assert_array_equal(got, want)


def test_pillow_may_resize_an_upright_image_in_the_other_order() -> None:
    # Newer Pillows take the columns last then. Of a picture that is a level at most, of noise it would be more.
    smooth = np.add.outer(np.arange(90), np.arange(40))[:, :, None].astype(np.uint8)
    want, got = both(Preprocessing((32, 32), 1, fit="stretch"), smooth)
    assert np.abs(want - got).max() * 255 <= 1.001


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_16_bits_are_shares_of_white(fit: str) -> None:
    rng = np.random.default_rng(0)
    for size, white in itertools.product(SIZES, (4095.0, 65535.0, None)):
        units = Units("uint16", white)
        preprocessing = Preprocessing((32, 40), 1, fit=fit, dtype="float16", units=units)  # type: ignore[arg-type]
        want, got = both(preprocessing, rng.integers(0, 4096, (*size, 1), np.uint16))
        np.testing.assert_allclose(got, want, rtol=2e-3, atol=1e-6)  # a step of float16, where it rounds otherwise
        assert (got != want).mean() < 0.01
    too_bright = np.full((32, 40, 1), 4096, np.uint16)
    assert refused(Preprocessing((32, 40), 1, dtype="float16", units=Units("uint16", 4095)), too_bright)


@pytest.mark.parametrize("kind", SCALINGS)
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
def test_floats_are_scaled(kind: str, dtype: str) -> None:
    soft = (3.0, 3.0) if kind.startswith("asinh") else ()
    low = (0.0, 0.0) if kind == "asinh-sky" else (50.0, 50.0)
    scaling = Scaling(kind, low, (400.0, 420.0), soft)  # type: ignore[arg-type]
    step = {"uint8": 1 / 255, "float16": 1e-3, "float32": 0.0}[dtype]
    for size, fit in itertools.product(SIZES, ("crop", "pad", "stretch")):
        words = {"fit": fit, "dtype": dtype, "units": FLOATS, "scaling": scaling}
        want, got = both(Preprocessing((32, 40), 2, **words), sky(*size))  # type: ignore[arg-type]
        np.testing.assert_allclose(got, want, atol=step + 2e-6)
        if step:
            assert (np.abs(got - want) > 1e-5).mean() < 0.005


@pytest.mark.parametrize("missing", ["median", "zero"])
def test_missing_pixels_are_filled(missing: str) -> None:
    rng = np.random.default_rng(0)
    preprocessing = Preprocessing((32, 40), 2, crop=0.8, dtype="float32", units=FLOATS, missing=missing)  # type: ignore[arg-type]
    for size in SIZES:
        image = sky(*size)
        image[rng.random(image.shape) < 0.2] = np.nan
        image[0] = np.nan  # beyond the frame that is cut out, so that it counts for nothing
        want, got = both(preprocessing, image)
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_what_is_refused_is_marked() -> None:
    one_missing, half_missing, infinite = (sky(50, 60) for _ in range(3))
    one_missing[0, 0, 0] = np.nan
    half_missing[5:40, :, 1] = np.nan
    infinite[25, 30, 0] = np.inf
    whole = Preprocessing((32, 40), 2, dtype="float32", units=FLOATS)
    assert refused(whole, one_missing)
    assert refused(whole, infinite)
    assert refused(Preprocessing((32, 40), 2, dtype="float32", units=FLOATS, missing="median"), half_missing)
    half = Preprocessing((32, 40), 2, dtype="float16", units=FLOATS)
    assert refused(half, 1000 * sky(50, 60))  # float16 ends before
    assert refused(half, 60000 + sky(50, 60) / 100)  # and has coarse steps there


def test_an_image_does_not_change_its_neighbour() -> None:
    preprocessing = Preprocessing((32, 32), 2, dtype="float32", units=FLOATS)
    images = np.stack([sky(40, 50), np.full((40, 50, 2), np.nan, np.float32)])
    got, good = Pixels(preprocessing)(torch.from_numpy(images))
    assert good.tolist() == [True, False]
    np.testing.assert_array_equal(got[:1].numpy(), Pixels(preprocessing)(torch.from_numpy(images[:1]))[0].numpy())


def test_a_median_of_some_values() -> None:
    rng = np.random.default_rng(0)
    values, counts = rng.normal(size=(3, 2, 11)), rng.random((3, 2, 11)) < 0.5
    counts[2, 1] = False
    got = masked_median(torch.from_numpy(values), torch.from_numpy(counts)).numpy()
    for b, c in itertools.product(range(3), range(2)):
        want = np.median(values[b, c][counts[b, c]]) if counts[b, c].any() else 0
        assert got[b, c] == pytest.approx(want)
