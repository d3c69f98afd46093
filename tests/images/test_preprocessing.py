from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from astroformer.errors import UserError
from astroformer.images.bands import Bands
from astroformer.images.preprocessing import Preprocessing, measure_statistics
from astroformer.images.scaling import Scaling

RNG = np.random.default_rng(2)
RGB = RNG.integers(0, 256, (40, 60, 3)).astype(np.uint8)


def resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize((width, height), Image.Resampling.BICUBIC))


def test_same_size_is_untouched() -> None:
    np.testing.assert_array_equal(Preprocessing((40, 60), 3).apply(RGB), RGB.transpose(2, 0, 1))


def test_fits() -> None:
    def hwc(**settings: Any) -> np.ndarray:
        return Preprocessing((20, 20), 3, **settings).apply(RGB).transpose(1, 2, 0)

    np.testing.assert_array_equal(hwc(fit="crop"), resized(RGB[:, 10:50], 20, 20))
    np.testing.assert_array_equal(hwc(fit="stretch"), resized(RGB, 20, 20))
    np.testing.assert_array_equal(hwc(fit="crop", crop=0.5), RGB[10:30, 20:40])
    np.testing.assert_array_equal(hwc(fit="stretch", crop=0.5), resized(RGB[10:30, 15:45], 20, 20))
    padded = hwc(fit="pad")
    np.testing.assert_array_equal(padded[3:16], resized(RGB, 13, 20))
    assert not padded[:3].any()
    assert not padded[16:].any()


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (7, 300), (33, 31)])
@pytest.mark.parametrize("size", [(1, 1), (8, 24), (24, 8)])
def test_any_shape_becomes_the_size(fit: str, shape: tuple[int, int], size: tuple[int, int]) -> None:
    for crop in (0.3, 1.0):
        settings = Preprocessing(size, 3, crop=crop, fit=fit)  # type: ignore[arg-type]
        out = settings.apply(np.full((*shape, 1), 200, np.uint8))
        assert out.shape == (3, *size)
        assert out.dtype == np.uint8
        assert set(np.unique(out)) <= {0, 200}
        assert (out == 200).any()
        assert fit == "pad" or (out == 200).all()


def test_a_large_shrink_is_antialiased() -> None:
    stripes = np.zeros((256, 256, 1), np.uint8)
    stripes[:, ::2] = 255
    out = Preprocessing((16, 16), 1).apply(stripes)
    assert np.abs(out[0, 2:-2, 2:-2].astype(float) - 127.5).max() < 4


def test_channels() -> None:
    grey, one, three = RGB[..., :1], Preprocessing((40, 60), 1), Preprocessing((40, 60), 3)
    np.testing.assert_array_equal(three.apply(grey), np.repeat(grey, 3, 2).transpose(2, 0, 1))
    np.testing.assert_array_equal(three.apply(grey[..., 0]), three.apply(grey))
    np.testing.assert_allclose(one.apply(RGB)[0], RGB @ [0.299, 0.587, 0.114], atol=1)
    four, five = np.dstack([RGB, grey]), np.dstack([RGB, grey, grey])
    np.testing.assert_array_equal(Preprocessing((40, 60), 4).apply(four), four.transpose(2, 0, 1))
    assert Preprocessing((8, 8), 5).apply(five).shape == (5, 8, 8)
    two = np.dstack([grey, grey])  # bands, and not grey with alpha
    for channels, image in ((3, five), (3, four), (1, two), (3, two), (4, RGB), (2, grey)):
        with pytest.raises(UserError, match=f"{image.shape[2]} channels, {channels} are asked for"):
            Preprocessing((8, 8), channels).apply(image)


def test_values_and_types() -> None:
    half = Preprocessing((40, 60), 1, dtype="float16")
    grey = RGB[..., :1]
    np.testing.assert_allclose(half.apply(grey)[0], grey[..., 0] / 255, atol=5e-4)
    deep = RNG.integers(0, 65536, (40, 60, 1)).astype(np.uint16)
    np.testing.assert_allclose(half.apply(deep)[0], deep[..., 0] / 65535, atol=5e-4)
    floats = RNG.normal(size=(40, 60)).astype(np.float32).astype(np.float64) * 32
    np.testing.assert_array_equal(half.apply(floats)[0], floats.astype(np.float16))
    edge = np.zeros((40, 60, 1), np.uint16)
    edge[:, 30:] = 65535
    shrunk = Preprocessing((13, 19), 1, dtype="float16").apply(edge)
    assert shrunk.min() >= 0
    assert shrunk.max() <= 1
    with pytest.raises(UserError, match=r"uint16, and the model learned from uint8.*--white"):
        Preprocessing((8, 8), 1).apply(deep)
    with pytest.raises(UserError, match=r"int64.*float32"):
        half.apply(deep.astype(np.int64))
    with pytest.raises(UserError, match="float16 ends at 65504"):
        half.apply(floats * 1e6)
    for poor in (floats * 1e-9, 1e4 + floats / 30):
        with pytest.raises(UserError, match="fewer than 8 bits"):
            half.apply(poor)
    with pytest.raises(UserError, match="NaN"):
        half.apply(floats * np.nan)
    assert not half.apply(np.zeros((40, 60))).any()
    with pytest.raises(UserError, match=r"shape \(0, 5\)|shape \(0, 5, 1\)"):
        half.apply(np.zeros((0, 5)))


def test_normalize() -> None:
    x_BCHW = torch.from_numpy(RGB.transpose(2, 0, 1)[None].copy())
    settings = Preprocessing((40, 60), 3, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    expected = (RGB / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.25, 2.0]
    for x, tolerance in ((x_BCHW, 1e-6), ((x_BCHW / 255).half(), 4e-3)):
        y = settings.normalize(x)
        assert y.dtype == torch.float32
        np.testing.assert_allclose(y[0].permute(1, 2, 0), expected, atol=tolerance)


def test_dict_and_back() -> None:
    settings = Preprocessing((40, 60), 3, 0.6, "pad", (0.1, 0.2, 0.3), (1, 2, 3), "float16")
    assert Preprocessing.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    with pytest.raises(UserError, match=r"unknown preprocessing setting 'men'. Did you mean 'mean'"):
        Preprocessing.from_dict({**settings.to_dict(), "men": 1})
    with pytest.raises(UserError, match="lacks 'channels'"):
        Preprocessing.from_dict({"image_size": [4, 4]})
    with pytest.raises(UserError, match="wrong kind"):
        Preprocessing.from_dict({"image_size": [4, 4], "channels": 3, "crop": "half"})


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"image_size": (0, 4)}, "image_size"),
        ({"image_size": (4.5, 4)}, "image_size"),
        ({"channels": 0}, "channels"),
        ({"crop": 0.0}, "crop"),
        ({"crop": float("nan")}, "crop"),
        ({"fit": "cut"}, "fit 'cut'"),
        ({"dtype": "float64"}, "dtype 'float64'"),
        ({"missing": "mean"}, "missing 'mean'"),
        ({"scaling": Scaling("linear", (0,), (1,))}, "scaling is of 1 bands; 3 channels"),
        ({"bands": Bands(("g", "r"))}, "bands is g, r; 3 channels"),
        ({"mean": (1.0,)}, "mean"),
        ({"std": (1.0, 0.0, 1.0)}, "std"),
    ],
)
def test_impossible_settings(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError, match=word):
        Preprocessing(**{"image_size": (4, 4), "channels": 3, **settings})


@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_statistics(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    array = RNG.integers(0, 256, (50, 3, 9, 7)).astype(np.uint8)
    array[:, 1] = 17
    scaled = array / 255.0
    if dtype == "float16":
        array = (array / 255.0).astype(np.float16)
        scaled = array.astype(np.float64)
    mean, std = measure_statistics(array)
    np.testing.assert_allclose(mean, scaled.mean((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(std, np.where([True, False, True], scaled.std((0, 2, 3)), 1), rtol=1e-5)
    some = np.array([3, 40, 7])
    np.testing.assert_allclose(measure_statistics(array, some)[0], scaled[some].mean((0, 2, 3)), rtol=1e-5)
    with pytest.raises(UserError, match="no images"):
        measure_statistics(array[:0])


def test_statistics_over_several_pieces_and_far_from_zero() -> None:
    array = (1000 + RNG.normal(size=(40, 1, 400, 400))).astype(np.float16)  # 6.4 M values: two pieces
    mean, std = measure_statistics(array)
    exact = array.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean(), rtol=1e-7)
    np.testing.assert_allclose(std, exact.std(), rtol=1e-4)


def test_bands_that_come_first_are_refused_with_how_to_move_them() -> None:
    five = Preprocessing((32, 32), 5, dtype="float32")
    image_CHW = np.random.default_rng(0).normal(size=(5, 64, 64)).astype(np.float32)
    with pytest.raises(UserError, match=r"64 channels, 5 are asked for; .* np\.moveaxis\(image, -3, -1\)"):
        five.apply(image_CHW)
    assert five.apply(np.moveaxis(image_CHW, -3, -1)).shape == (5, 32, 32)
    with pytest.raises(UserError, match="7 channels, 5 are asked for; only grey and RGB"):
        five.apply(np.zeros((64, 64, 7), np.float32))
