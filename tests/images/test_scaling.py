"""Scalings: their formulas, what they are measured by, and what storage keeps of faint sources."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from astroformer.errors import UserError
from astroformer.images.preprocessing import Preprocessing
from astroformer.images.scaling import SCALINGS, Scaling, ScalingKind, levelled, measured_scaling, noise_of, sky_of
from astroformer.images.units import Units

SKY, NOISE = np.array([100.0, 5.0]), np.array([10.0, 0.4])  # of two bands


def fields(n: int = 40, size: int = 48, seed: int = 0) -> np.ndarray:
    """(N, C, H, W) of a galaxy each on a sky of normal noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - size / 2
    radius, flux = rng.uniform(1, 4, (n, 1, 1)), 10 ** rng.uniform(1, 4, (n, 1, 1))
    galaxy = flux * np.exp(-np.hypot(x, y) / radius)
    noise = rng.normal(size=(n, 2, size, size))
    return galaxy[:, None] * (NOISE / NOISE[0])[:, None, None] + SKY[:, None, None] + NOISE[:, None, None] * noise


FIELDS = fields()


@pytest.mark.parametrize("kind", SCALINGS)
def test_a_scaling_rises_is_undone_by_its_inverse_and_meets_its_ends(kind: ScalingKind) -> None:
    scaling = measured_scaling(kind, FIELDS)
    low, high = np.array(scaling.low), np.array(scaling.high)
    share = np.linspace(-0.5, 2.0, 501)
    x_CHW = (low[:, None] + share * (high - low)[:, None])[:, None, :].astype(np.float32)
    y_CHW = scaling.apply(x_CHW)
    assert y_CHW.dtype == np.float32
    assert (np.diff(y_CHW, axis=2) > 0).all()
    np.testing.assert_allclose(scaling.inverse(y_CHW), x_CHW, atol=1e-4 * (high - low).max())
    ends = np.stack([low, high], axis=1)[:, None, :]
    np.testing.assert_allclose(scaling.apply(ends), [[[0, 1]], [[0, 1]]], atol=1e-6)
    assert Scaling.from_dict(scaling.to_dict()) == scaling


def test_the_formulas() -> None:
    x = np.array([[[-30.0, 20.0, 70.0, 220.0]]])
    t = (x - 20) / 100
    np.testing.assert_allclose(Scaling("linear", (20,), (120,)).apply(x), t, rtol=1e-6)
    log = np.sign(t) * np.log(1 + 1000 * np.abs(t)) / np.log(1001)
    np.testing.assert_allclose(Scaling("log", (20,), (120,)).apply(x), log, rtol=1e-6)
    asinh = np.arcsinh((x - 20) / 5) / np.arcsinh(100 / 5)
    np.testing.assert_allclose(Scaling("asinh", (20,), (120,), (5,)).apply(x), asinh, rtol=1e-6)


def test_log_and_asinh_are_the_stretches_of_astropy() -> None:
    visualization = pytest.importorskip("astropy.visualization")
    t = np.linspace(0, 1, 50)[None, None]
    np.testing.assert_allclose(
        Scaling("log", (0,), (1,)).apply(t), visualization.LogStretch(1000)(t), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        Scaling("asinh", (0,), (1,), (0.02,)).apply(t), visualization.AsinhStretch(0.02)(t), rtol=1e-5, atol=1e-6
    )


def test_limits_are_measured_band_by_band() -> None:
    for kind in ("linear", "log"):
        scaling = measured_scaling(kind, FIELDS)
        np.testing.assert_allclose(scaling.low, FIELDS.min((0, 2, 3)))
        np.testing.assert_allclose(scaling.high, FIELDS.max((0, 2, 3)))
    pixels_CP = np.moveaxis(FIELDS, 1, 0).reshape(2, -1)
    percentile = measured_scaling("percentile", FIELDS)
    ends_2C = np.percentile(pixels_CP, [0.25, 99.75], axis=1)
    np.testing.assert_allclose([percentile.low, percentile.high], ends_2C)
    asinh = measured_scaling("asinh", FIELDS)
    assert (np.abs(asinh.low - SKY) < 0.4 * NOISE).all()
    assert (np.array(asinh.high) <= FIELDS.max((0, 2, 3))).all()
    assert (np.array(asinh.high) > np.quantile(FIELDS.max((2, 3)), 0.9, axis=0)).all()


def test_zscale_is_that_of_astropy_over_all_images() -> None:
    visualization = pytest.importorskip("astropy.visualization")
    scaling = measured_scaling("zscale", FIELDS)
    for c in range(2):
        pixels = FIELDS[:, c].ravel()
        expected = visualization.ZScaleInterval(n_samples=len(pixels)).get_limits(pixels)
        np.testing.assert_allclose((scaling.low[c], scaling.high[c]), expected)


def test_zscale_without_astropy_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"zscale needs the extra \[astro\].*pip install"):
        measured_scaling("zscale", FIELDS)


@pytest.mark.parametrize(("law", "size"), [("normal", 24), ("normal", 64), ("poisson", 48)])
def test_the_softening_is_the_noise_of_the_sky(law: str, size: int) -> None:
    """Also under galaxies that fill a good part of the frame, and on a slope."""
    images = fields(30, size, seed=2)
    slope = np.linspace(0, 5, size)[None, None, None]
    if law == "poisson":  # of 400 electrons a pixel, 20 of noise
        rng = np.random.default_rng(3)
        images = rng.poisson(400 + (images - SKY[:, None, None]).clip(0)).astype(float)
    expected = NOISE if law == "normal" else (20.0, 20.0)
    scaling = measured_scaling("asinh", images + slope * np.array(expected)[:, None, None])
    np.testing.assert_allclose(scaling.softening, expected, rtol=0.1)


def test_noise_of_what_has_none() -> None:
    assert noise_of(np.full((3, 9, 9), 7.0)).tolist() == [0, 0, 0]
    assert noise_of(np.zeros((2, 3, 4))).tolist() == [0, 0]
    flat = measured_scaling("asinh", np.full((4, 1, 9, 9), 7.0))
    assert flat.apply(np.full((1, 2, 2), 7.0)).tolist() == [[[0, 0], [0, 0]]]
    for kind in ("linear", "log", "percentile"):
        assert np.isfinite(measured_scaling(kind, np.zeros((4, 1, 9, 9))).apply(np.ones((1, 2, 2)))).all()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("sqrt", (0,), (1,)), "scaling 'sqrt'"),
        (("linear", (0, 0), (1,)), r"high is \(1.0,\)"),
        (("linear", (1,), (1,)), "each low must be below"),
        (("linear", (0,), (float("nan"),)), "finite number"),
        (("linear", (0,), (1,), (1,)), "softening"),
        (("asinh", (0,), (1,)), "softening"),
        (("asinh", (0,), (1,), (0,)), "above 0"),
    ],
)
def test_impossible_scalings(words: Any, why: str) -> None:
    with pytest.raises(UserError, match=why):
        Scaling(*words)
    with pytest.raises(UserError, match="word of the scaling 'lower'"):
        Scaling.from_dict({"kind": "linear", "lower": [0]})


# -- in the preprocessing --------------------------------------------------------------------------------------------


def of_floats(kind: ScalingKind | None = None, **words: Any) -> Preprocessing:
    scaling = None if kind is None else measured_scaling(kind, FIELDS)
    return Preprocessing((48, 48), 2, units=Units("float"), scaling=scaling, **{"dtype": "float32", **words})


def test_images_are_scaled_after_they_are_resized() -> None:
    """So that the flux of a source does not depend on the size."""
    image_HWC = FIELDS[0].transpose(1, 2, 0).astype(np.float32)
    small = replace(of_floats("asinh"), image_size=(24, 24))
    linear = replace(small, scaling=None).apply(image_HWC)
    np.testing.assert_array_equal(small.unscaled(image_HWC), linear)
    assert small.scaling is not None
    np.testing.assert_array_equal(small.apply(image_HWC), small.scaling.apply(linear))
    np.testing.assert_allclose(small.scaling.inverse(small.apply(image_HWC)), linear, rtol=1e-4, atol=0.05)


def test_a_frame_around_a_scaled_image_is_zero() -> None:
    wide = FIELDS[0].transpose(1, 2, 0).astype(np.float32)[:24]
    padded = of_floats("asinh", fit="pad").apply(wide)
    assert (padded[:, :12] == 0).all()
    assert (padded[:, 36:] == 0).all()
    np.testing.assert_array_equal(padded[:, 12:36], of_floats("asinh").scaling.apply(wide.transpose(2, 0, 1)))  # type: ignore[union-attr]


def test_whole_numbers_are_scaled_as_shares_of_white() -> None:
    image = np.array([[0, 51], [102, 255]], np.uint8)
    linear = Scaling("linear", (0.2,), (0.6,))
    scaled = Preprocessing((2, 2), 1, dtype="float32", units=Units("uint8"), scaling=linear).apply(image)
    np.testing.assert_allclose(scaled, [[[-0.5, 0], [0.5, 2]]], atol=1e-6)
    stored = Preprocessing((2, 2), 1, units=Units("uint8"), scaling=linear).apply(image)
    assert stored.tolist() == [[[0, 0], [128, 255]]]  # 8 bits end at 0 and 1
    deep = Preprocessing((2, 2), 1, dtype="float32", units=Units("uint16", 65535), scaling=linear)
    np.testing.assert_allclose(deep.apply(image.astype(np.uint16) * 257), scaled, atol=1e-6)


def test_only_scaled_floats_are_kept_as_8_bits() -> None:
    assert of_floats("asinh", dtype="uint8").apply(FIELDS[0].transpose(1, 2, 0)).dtype == np.uint8
    with pytest.raises(UserError, match="uint8 would degrade; choose float16, or a scaling"):
        of_floats(dtype="uint8")


def test_float32_keeps_what_float16_refuses() -> None:
    bright = np.array([[1e6, 1e6 + 1], [1e6 + 2, 1e6 + 3]], np.float32)
    whole = Preprocessing((2, 2), 1, dtype="float32", units=Units("float"))
    np.testing.assert_array_equal(whole.apply(bright)[0], bright)
    with pytest.raises(UserError, match="--storage float32"):
        replace(whole, dtype="float16").apply(bright)
    with pytest.raises(UserError, match="infinite"):
        whole.apply(np.full((2, 2), np.inf))


def test_a_preprocessing_keeps_its_scaling_and_others_their_words() -> None:
    plain = Preprocessing((4, 4), 2, units=Units("float"), dtype="float16")
    assert list(plain.to_dict()) == ["image_size", "channels", "crop", "fit", "mean", "std", "dtype", "units"]
    scaled = of_floats("asinh", missing="zero")
    assert Preprocessing.from_dict(scaled.to_dict()) == scaled
    assert scaled.described() == measured_scaling("asinh", FIELDS).described(["band 1", "band 2"])


# -- faint sources ---------------------------------------------------------------------------------------------------


def kept_of_a_faint_source(kind: ScalingKind, dtype: Any) -> float:
    """How much of a source of 3 sigma a pixel is left, as a share of its flux, beside one that is 30,000 times as
    bright: the mean of many pixels, so that noise plays no part."""
    rng = np.random.default_rng(5)
    images = rng.normal(0, 1, (20, 1, 32, 32))
    images[:, :, 4:6, 4:6] += 1e5
    preprocessing = Preprocessing(
        (32, 32), 1, dtype=dtype, units=Units("float"), scaling=measured_scaling(kind, images)
    )
    assert preprocessing.scaling is not None
    faint = np.zeros((32, 32), np.float32)
    faint[4:6, 4:6], faint[20:24, 20:24] = 1e5, 3.0
    stored = preprocessing.apply(faint).astype(np.float32) / (255 if dtype == "uint8" else 1)
    restored = preprocessing.scaling.inverse(stored)[0]
    return float(restored[20:24, 20:24].mean() - restored[10:18, 10:18].mean()) / 3


@pytest.mark.parametrize(
    ("kind", "dtype", "left"),
    [
        ("linear", "uint8", (0, 0)),  # a level is 130 times the source
        ("log", "uint8", (1.8, 2.0)),  # the next level is nearly twice the source
        ("asinh", "uint8", (0.9, 1.1)),
        ("linear", "float16", (0.9, 1.1)),  # float16 has small steps near 0, which linear makes the sky
        ("asinh", "float16", (0.995, 1.005)),
        ("linear", "float32", (0.995, 1.005)),
        ("asinh", "float32", (0.9999, 1.0001)),
    ],
)
def test_what_storage_loses_of_a_faint_source(kind: ScalingKind, dtype: str, left: tuple[float, float]) -> None:
    assert left[0] <= kept_of_a_faint_source(kind, dtype) <= left[1]


def test_asinh_sky_subtracts_the_sky_of_each_image() -> None:
    shifts_N2 = np.random.default_rng(1).uniform(-500, 500, (len(FIELDS), 2))
    shifted = FIELDS + shifts_N2[:, :, None, None]
    scaling = measured_scaling("asinh-sky", [levelled("asinh-sky", image) for image in shifted])
    np.testing.assert_allclose(scaling.low, 0, atol=0.3 * NOISE.max())
    np.testing.assert_allclose(scaling.softening, NOISE, rtol=0.1)
    made = Preprocessing((48, 48), 2, dtype="float32", units=Units("float"), scaling=scaling)
    assert Preprocessing.from_dict(made.to_dict()) == made
    for image, moved in zip(FIELDS[:5], shifted, strict=False):
        image_HWC, moved_HWC = (np.moveaxis(one, 0, -1).astype(np.float32) for one in (image, moved))
        np.testing.assert_allclose(made.apply(moved_HWC), made.apply(image_HWC), atol=1e-3)
        np.testing.assert_allclose(made.unscaled(moved_HWC), made.unscaled(image_HWC), atol=1e-2)
        np.testing.assert_array_equal(levelled("asinh", image), image)


def test_the_sky_of_an_image_of_two_halves_is_that_of_the_dark_one() -> None:
    image = np.random.default_rng(0).normal(0, 1, (1, 64, 64))
    image[:, :, 32:] += 1000
    assert abs(sky_of(image, noise_of(image))[0]) < 1
    assert np.isfinite(levelled("asinh-sky", image)).all()


def test_skies_that_differ_by_many_times_the_noise_are_said() -> None:
    said: list[str] = []
    shifts_N = np.random.default_rng(2).uniform(-500, 500, len(FIELDS))
    measured_scaling("asinh", FIELDS, said.append)
    measured_scaling("asinh", FIELDS + shifts_N[:, None, None, None] / 100, said.append)
    measured_scaling("linear", FIELDS + shifts_N[:, None, None, None], said.append)
    assert said == []
    plain = measured_scaling("asinh", FIELDS + shifts_N[:, None, None, None], said.append)
    assert plain == measured_scaling("asinh", FIELDS + shifts_N[:, None, None, None])
    [sentence] = said
    assert "times the noise of a pixel, so one scale for all hides what is faint" in sentence
    assert sentence.endswith("if that is the sky, subtract that of each image with --scaling asinh-sky")
