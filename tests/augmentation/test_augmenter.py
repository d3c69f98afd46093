"""Augmentation: each operation against torchvision's or timm's for single images, and what holds for all.

Images are small, and not square where they may be.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as TF
from pydantic import ValidationError
from scipy import stats
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms._functional_tensor import _gen_affine_grid

from astroformer.augmentation import augmenter as plain
from astroformer.augmentation import colour
from astroformer.augmentation.augmenter import Augmenter
from astroformer.augmentation.draws import Draw
from astroformer.augmentation.geometry import sampling_matrix
from astroformer.augmentation.settings import OPERATIONS, PRESETS, Augment
from astroformer.errors import UserError

OFF = PRESETS["none"]
EVERYTHING = Augment(
    aspect=1.2,
    shear=10,
    crop_scale=(0.4, 1.0),
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    noise=0.05,
    erasing=0.5,
    erasing_fill="noise",
    policy="randaugment",
    mixup=0.8,
    cutmix=1.0,
)
MODES = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}


def images(n: int, size: tuple[int, int] = (24, 24), channels: int = 3, seed: int = 0) -> Tensor:
    """Smooth uint8 images with some noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, channels, 5, 5, generator=generator)
    smooth = F.interpolate(coarse, size, mode="bicubic", align_corners=False)
    noisy = smooth + 0.05 * torch.randn(smooth.shape, generator=generator)
    return (noisy * 255).clamp(0, 255).to(torch.uint8)


def with_settings(base: Augment = OFF, **changes: object) -> Augment:
    return Augment.model_validate(base.model_dump() | changes)


def augmenter(base: Augment = OFF, size: tuple[int, int] = (24, 24), seed: int = 1, **changes: object) -> Augmenter:
    return Augmenter(with_settings(base, **changes), seed=seed, size=size)


def drawn_by(maker: Augmenter, index: Tensor, epoch: int = 0, channels: int = 3, integer: bool = True) -> Draw:
    return maker.draw(index, epoch, channels=channels, integer=integer)


# -- what holds for all settings


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32, torch.float64])
def test_no_augmentation_is_an_exact_copy(dtype: torch.dtype) -> None:
    x = images(3).to(dtype)
    out = augmenter().transform(x, torch.arange(3), 0)
    assert out.dtype == torch.float32
    assert torch.equal(out, x.float() / 255 if dtype == torch.uint8 else x.float())
    assert out.data_ptr() != x.data_ptr()


SETTINGS = {
    "sky": Augment(),
    "photo": PRESETS["photo"],
    "exact": with_settings(flip_horizontal=0.5, quarter_turns=True, shift=0.2),
    "everything": EVERYTHING,
    "bicubic": with_settings(EVERYTHING, policy="trivialaugment", interpolation="bicubic", border="zero"),
}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("store", [24, 60])
def test_result_is_the_same_to_the_bit_in_any_batch(name: str, dtype: torch.dtype, store: int) -> None:
    x = images(33, (store, store)).to(dtype)
    before, index = x.clone(), torch.arange(50, 83)
    maker = augmenter(SETTINGS[name])
    out = maker.transform(x, index, 3)
    assert torch.equal(x, before)
    assert out.shape == (33, 3, 24, 24)
    for i in (0, 7, 32):
        assert torch.equal(maker.transform(x[i : i + 1], index[i : i + 1], 3)[0], out[i])
    order = torch.randperm(33, generator=torch.Generator().manual_seed(0))[:20]
    assert torch.equal(maker.transform(x[order], index[order], 3), out[order])
    assert torch.equal(augmenter(SETTINGS[name]).transform(x, index, 3), out)
    for other in (maker.transform(x, index, 4), augmenter(SETTINGS[name], seed=2).transform(x, index, 3)):
        assert ((other - out).abs().amax((1, 2, 3)) > 0).double().mean() > 0.6
    if dtype == torch.uint8:
        assert out.min() >= 0
        assert out.max() <= 1


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_any_number_of_channels(channels: int, dtype: torch.dtype) -> None:
    x = images(8, channels=channels).to(dtype)
    out = augmenter(EVERYTHING).transform(x, torch.arange(8), 0)
    assert out.shape == x.shape
    assert torch.isfinite(out).all()


def test_floating_point_images_keep_their_unit() -> None:
    """Settings without noise of a fixed size commute with a change of unit, and nothing is clipped."""
    x = images(16).float()
    maker = augmenter(EVERYTHING, noise=0, interpolation="bicubic")
    small = maker.transform(x, torch.arange(16), 0)
    large = maker.transform(x * 1024, torch.arange(16), 0)
    torch.testing.assert_close(large, small * 1024, rtol=1e-5, atol=1e-1)
    assert small.min() < 0


def test_turning_one_setting_on_leaves_the_draws_of_the_others() -> None:
    index = torch.arange(9)
    all_on, few_on = drawn_by(augmenter(EVERYTHING), index), drawn_by(augmenter(Augment()), index)
    for name in ("flip_B2", "turn_B", "angle_B", "shift_B2"):
        assert torch.equal(getattr(all_on, name), getattr(few_on, name)), name


def test_draws_keep_to_their_ranges_and_fill_them() -> None:
    index = torch.arange(4000)
    d = drawn_by(augmenter(EVERYTHING), index)

    def spans(values: Tensor, low: float, high: float) -> None:
        assert low - 1e-6 <= values.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < values.max() <= high + 1e-6

    spans(d.angle_B, -math.pi, math.pi)
    spans((d.zoom_B2[:, 0] * d.zoom_B2[:, 1]).sqrt().log(), math.log(0.8), math.log(1.25))
    spans((d.zoom_B2[:, 0] / d.zoom_B2[:, 1]).log(), -math.log(1.2), math.log(1.2))
    spans(d.shear_B2.atan(), -math.radians(10), math.radians(10))
    spans(d.shift_B2, -0.05, 0.05)
    for strength in (d.brightness_B, d.contrast_B, d.saturation_B):
        spans(strength, 0.6, 1.4)
    spans(d.hue_B, -0.1, 0.1)
    assert stats.chisquare(d.turn_B.bincount(minlength=4).numpy()).pvalue > 1e-3
    assert abs((d.flip_B2 < 0).double().mean() - 0.5) < 0.03
    assert augmenter(brightness=3.0).draw(index, 0, channels=3, integer=True).brightness_B.min() >= 0


# -- geometry


def test_flips_and_quarter_turns_are_exact() -> None:
    x, index = images(64).float(), torch.arange(64)
    maker = augmenter(flip_horizontal=0.5, flip_vertical=0.5, quarter_turns=True)
    out, d = maker.transform(x, index, 0), drawn_by(maker, index, integer=False)
    for i in range(64):
        expected = x[i]
        if d.flip_B2[i, 0] < 0:
            expected = expected.flip(2)
        if d.flip_B2[i, 1] < 0:
            expected = expected.flip(1)
        assert torch.equal(out[i], torch.rot90(expected, -int(d.turn_B[i]), (1, 2)))
    assert len({(*d.flip_B2[i].tolist(), int(d.turn_B[i])) for i in range(64)}) == 16


@pytest.mark.parametrize(("border", "pad"), [("reflect", "symmetric"), ("edge", "edge"), ("zero", "constant")])
def test_shifts_by_whole_pixels_are_exact(border: str, pad: str) -> None:
    size = (10, 16)
    x, index = images(32, size).float(), torch.arange(32)
    maker = augmenter(size=size, shift=0.9, border=border)
    out, d = maker.transform(x, index, 0), drawn_by(maker, index, integer=False)
    for i in range(32):
        right, down = (d.shift_B2[i] * torch.tensor([16, 10])).round().int().tolist()
        padded = np.pad(x[i].numpy(), ((0, 0), (10, 10), (16, 16)), mode=pad)
        np.testing.assert_array_equal(out[i].numpy(), padded[:, 10 - down : 20 - down, 16 - right : 32 - right])


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(24, 24), (20, 32)])
def test_rotation_shear_and_shift_are_torchvisions_affine(interpolation: str, size: tuple[int, int]) -> None:
    x, index = images(12, size).float(), torch.arange(12)
    maker = augmenter(size=size, rotation=180, shear=20, shift=0.2, border="zero", interpolation=interpolation)
    d = drawn_by(maker, index, integer=False)
    out = maker.transform(x, index, 0)
    for i in range(12):
        shift = (d.shift_B2[i] * torch.tensor([size[1], size[0]])).tolist()
        expected = affine(x[i], d.angle_B[i], shift, 1.0, d.shear_B2[i], interpolation)
        torch.testing.assert_close(out[i], expected, rtol=0, atol=0.05)


def affine(
    image: Tensor,
    angle: Tensor,
    shift: list[float],
    zoom: float,
    shear: Tensor,
    interpolation: str = "bilinear",
) -> Tensor:
    """torchvision's affine map, with shifts that need not be whole pixels, from its own matrix."""
    degrees = (-torch.rad2deg(shear.atan())).tolist()
    matrix = TF._get_inverse_affine_matrix([0.0, 0.0], math.degrees(angle), shift, zoom, degrees)
    height, width = image.shape[-2:]
    grid = _gen_affine_grid(torch.tensor([matrix]).reshape(1, 2, 3), width, height, width, height)
    return F.grid_sample(image[None], grid, mode=interpolation, align_corners=False)[0]


def test_zoom_is_torchvisions_scale() -> None:
    x, index = images(12).float(), torch.arange(12)
    maker = augmenter(scale=(0.7, 1.6), rotation=40, border="zero")
    out, d = maker.transform(x, index, 0), drawn_by(maker, index, integer=False)
    for i in range(12):
        expected = TF.affine(
            x[i], math.degrees(d.angle_B[i]), [0, 0], float(d.zoom_B2[i, 0]), [0.0, 0.0], MODES["bilinear"]
        )
        torch.testing.assert_close(out[i], expected, rtol=0, atol=0.05)


def test_aspect_stretches_width_against_height() -> None:
    x, index = images(8, (24, 36)).float(), torch.arange(8)
    maker = augmenter(size=(24, 36), aspect=1.4, border="zero")
    out, d = maker.transform(x, index, 0), drawn_by(maker, index, integer=False)
    torch.testing.assert_close(d.zoom_B2.prod(1), torch.ones(8, dtype=torch.float64))
    for i in range(8):
        across, down = d.zoom_B2[i].tolist()
        theta = torch.tensor([[[1 / across, 0, 0], [0, 1 / down, 0]]])
        expected = F.grid_sample(
            x[i : i + 1], F.affine_grid(theta, [1, 3, 24, 36], align_corners=False), align_corners=False
        )
        torch.testing.assert_close(out[i], expected[0], rtol=0, atol=0.05)


def test_flips_and_turns_within_the_matrix_are_those_by_indexing() -> None:
    x, index = images(32).float(), torch.arange(32)
    maker = augmenter(flip_horizontal=0.5, flip_vertical=0.5, quarter_turns=True, shift=0.3)
    d = drawn_by(maker, index, integer=False)
    d = replace(d, shift_B2=(d.shift_B2 * 24).round() / 24)
    theta = sampling_matrix(d, (24, 24), maker.settings.ranges).float()
    grid = F.affine_grid(theta, [32, 3, 24, 24], align_corners=False)
    resampled = F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    torch.testing.assert_close(maker.transform(x, index, 0), resampled, rtol=0, atol=0.05)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_crop_is_torchvisions_resized_crop(interpolation: str) -> None:
    size = (24, 36)
    x, index = images(16, size).float(), torch.arange(16)
    maker = augmenter(size=size, crop_scale=(0.2, 0.9), interpolation=interpolation)
    top, left, height, width = 2, 11, 18, 20
    window = torch.tensor([[(left + width / 2) / 36, (top + height / 2) / 24, width / 36, height / 24]]).double()
    d = Draw(window_B4=window.repeat(16, 1))
    out = maker._resample(x, d)
    expected = TF.resized_crop(x, top, left, height, width, list(size), MODES[interpolation], antialias=False)
    # Near the crop's rim torchvision cannot see the pixels beyond, and we do.
    inner = (..., slice(4, -4), slice(4, -4))
    torch.testing.assert_close(out[inner], expected[inner], rtol=0, atol=0.02)
    assert not torch.allclose(maker.transform(x, index, 0)[inner], expected[inner], atol=5)


@pytest.mark.parametrize("size", [(64, 64), (40, 100)])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.9, 1.0)])
def test_crops_are_distributed_as_torchvisions(size: tuple[int, int], scale: tuple[float, float]) -> None:
    torch.manual_seed(0)
    n = 3000
    image = torch.zeros(1, *size)
    theirs = np.array([RandomResizedCrop.get_params(image, list(scale), [3 / 4, 4 / 3]) for _ in range(n)])
    window = drawn_by(augmenter(size=size, crop_scale=scale), torch.arange(n)).window_B4.numpy()
    ours = window * np.array([size[1], size[0], size[1], size[0]])
    left, top = ours[:, 0] - ours[:, 2] / 2, ours[:, 1] - ours[:, 3] / 2
    assert min(left.min(), top.min()) > -1e-9
    assert (left + ours[:, 2]).max() <= size[1] + 1e-9
    assert (top + ours[:, 3]).max() <= size[0] + 1e-9
    # Theirs are whole pixels: compare distribution functions with that much slack.
    for mine, other in (
        (ours[:, 2], theirs[:, 3]),
        (ours[:, 3], theirs[:, 2]),
        (left, theirs[:, 1]),
        (top, theirs[:, 0]),
    ):
        for share in (0.1, 0.3, 0.5, 0.7, 0.9):
            assert abs(np.quantile(mine, share) - np.quantile(other, share)) < 0.035 * max(size) + 0.5


def test_whole_frame_is_resized_where_nothing_is_resampled() -> None:
    x = images(4, (48, 60)).float()
    out = augmenter(size=(24, 30)).transform(x, torch.arange(4), 0)
    expected = TF.resize(x, [24, 30], MODES["bilinear"], antialias=True)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("store", [24, 48, 60, 120])
def test_little_aliasing_from_a_larger_store(store: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pattern too fine for the result becomes grey, and a coarse one survives."""
    maker = augmenter(Augment(), shift=0.0)
    index = torch.arange(8)
    if store > 24:
        period = store / 24 * 0.75  # three quarters of a pixel of the result
        phase = torch.arange(store) * (2 * math.pi / period)
        fine = (0.5 + 0.5 * torch.sin(phase)).expand(8, 1, store, store)
        left = maker.transform(fine, index, 0).std()
        with monkeypatch.context() as naive:
            naive.setattr(plain, "antialiasing", lambda *_: ((1, 1), (1, 1)))
            assert left < 0.6 * maker.transform(fine, index, 0).std()
    row, column = torch.meshgrid(*[(torch.arange(store) + 0.5) / store - 0.5] * 2, indexing="ij")
    coarse = torch.exp(-(row**2 + column**2) / (2 * 0.12**2)).expand(8, 1, store, store)
    d = drawn_by(maker, index, integer=False)
    at = ((torch.arange(24) + 0.5) / 24 - 0.5).double()
    for i in range(8):
        radius2 = (at[:, None] ** 2 + at[None] ** 2) / d.zoom_B2[i, 0] ** 2
        out = maker.transform(coarse, index, 0)[i, 0]
        torch.testing.assert_close(out, torch.exp(-radius2 / (2 * 0.12**2)).float(), rtol=0, atol=0.05)


# -- colour


def strengths(n: int, low: float, high: float) -> Tensor:
    return torch.linspace(low, high, n)


@pytest.mark.parametrize(
    ("name", "reference", "low", "high"),
    [
        ("brightness", TF.adjust_brightness, 0.2, 1.0),
        ("contrast", TF.adjust_contrast, 0.0, 1.0),
        ("saturation", TF.adjust_saturation, 0.0, 1.0),
        ("brightness", TF.adjust_brightness, 1.0, 2.0),
        ("contrast", TF.adjust_contrast, 1.0, 2.0),
        ("saturation", TF.adjust_saturation, 1.0, 2.0),
    ],
)
def test_adjustments_are_torchvisions(
    name: str, reference: Callable[[Tensor, float], Tensor], low: float, high: float
) -> None:
    x = images(8).float() / 255
    strength = strengths(8, low, high)
    out = colour.adjust_(x.clone(), **{f"{name}_B": strength}).clamp(0, 1)
    for i in range(8):
        # torchvision rounds the weight of red to 0.2989.
        torch.testing.assert_close(out[i], reference(x[i], float(strength[i])), rtol=0, atol=2e-4)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_adjustments_together_are_those_one_after_another(channels: int) -> None:
    x = images(6, channels=channels).double()
    given = {"brightness_B": strengths(6, 0.5, 1.5).double(), "contrast_B": strengths(6, 1.6, 0.4).double()}
    if channels == 3:
        given["saturation_B"] = strengths(6, 0.3, 1.8).double()
    step_by_step = x.clone()
    for name, strength in given.items():
        step_by_step = colour.adjust_(step_by_step, **{name: strength})
    torch.testing.assert_close(colour.adjust_(x.clone(), **given), step_by_step, rtol=1e-10, atol=1e-10)
    if channels != 3:
        with pytest.raises(ValueError, match="3 channels"):
            colour.adjust_(x, saturation_B=torch.ones(6))


def test_hue_is_torchvisions() -> None:
    x = images(9).float() / 255
    x[0] = x[0, :1]  # a grey image has no hue
    turn = strengths(9, -0.5, 0.5)
    out = colour.turn_hue(x, turn)
    for i in range(9):
        torch.testing.assert_close(out[i], TF.adjust_hue(x[i], float(turn[i])), rtol=0, atol=2e-6)
    torch.testing.assert_close(colour.turn_hue(x * 7 - 3, turn), out * 7 - 3, rtol=0, atol=2e-5)


LEVEL_CASES = {
    "posterize": (
        lambda x, i: colour.posterize(x, torch.full((len(x),), float(i))),
        TF.posterize,
        range(0, 9),
    ),
    "solarize": (
        lambda x, i: colour.solarize(x, torch.full((len(x),), i / 255)),
        TF.solarize,
        (0, 1, 77, 128, 254, 255),
    ),
    "autocontrast": (lambda x, i: colour.autocontrast(x), lambda x, i: TF.autocontrast(x), (0,)),
    "equalize": (lambda x, i: colour.equalize(x), lambda x, i: TF.equalize(x), (0,)),
    "invert": (lambda x, i: colour.invert(x), lambda x, i: TF.invert(x), (0,)),
    "sharpness": (
        lambda x, i: colour.sharpen(x, torch.full((len(x),), i)).clamp(0, 1),
        lambda x, i: TF.adjust_sharpness(x, i),
        (0.0, 0.5, 1.0, 1.9),
    ),
}


@pytest.mark.parametrize("name", LEVEL_CASES)
@pytest.mark.parametrize("channels", [1, 3])
def test_operations_on_levels_are_torchvisions(name: str, channels: int) -> None:
    x = images(7, (20, 28), channels)
    x[0] = 99  # flat
    x[1] = x[1] // 100  # three levels
    x[2] = x[2] // 2 + 40
    ours, reference, arguments = LEVEL_CASES[name]
    for argument in arguments:
        if name in (
            "autocontrast",
            "sharpness",
        ):  # not whole levels: against the floating point of torchvision
            exact = reference(x.float() / 255, argument)
            torch.testing.assert_close(ours(x.float() / 255, argument), exact, rtol=0, atol=2e-6)
        else:
            out = ours(x.float() / 255, argument) * 255
            torch.testing.assert_close(out, reference(x, argument).float(), rtol=0, atol=1e-3)


def test_noise_has_its_spread_and_is_new_for_each_image_and_epoch() -> None:
    x = torch.full((32, 3, 24, 24), 128, dtype=torch.uint8)
    maker = augmenter(noise=0.1)
    noise = maker.transform(x, torch.arange(32), 0) - 128 / 255
    assert stats.kstest((noise.flatten() / 0.1).numpy(), "norm").pvalue > 1e-3
    assert torch.corrcoef(noise.flatten(1)).fill_diagonal_(0).abs().max() < 5 / (3 * 24 * 24) ** 0.5
    assert not torch.equal(noise + 128 / 255, maker.transform(x, torch.arange(32), 1))


def test_erasing_is_distributed_as_timms() -> None:
    n, size = 1500, (32, 32)
    torch.manual_seed(0)
    random.seed(0)
    timm_erasing = RandomErasing(probability=1.0, mode="const", device="cpu")
    theirs = 1 - timm_erasing(torch.ones(n, 1, *size)).flatten(1).mean(1).numpy()
    box = drawn_by(augmenter(size=size, erasing=1.0), torch.arange(n)).erased_B4
    area = ((box[:, 1] - box[:, 0]) * (box[:, 3] - box[:, 2])).numpy() / 1024
    assert stats.ks_2samp(area, theirs).pvalue > 1e-3
    assert box.min() >= 0
    assert box.max() == 32
    half = drawn_by(augmenter(size=size, erasing=0.25), torch.arange(n)).erased_B4
    assert abs((half[:, 1] > 0).double().mean() - 0.25) < 0.04


@pytest.mark.parametrize("fill", ["mean", "noise"])
def test_erasing_changes_the_rectangle_alone(fill: str) -> None:
    x, index = images(40).float(), torch.arange(40)
    maker = augmenter(erasing=0.5, erasing_fill=fill)
    out, box = maker.transform(x, index, 0), drawn_by(maker, index).erased_B4
    inside = []
    for i, (top, bottom, left, right) in enumerate(box.tolist()):
        part = out[i, :, top:bottom, left:right].clone()
        mean, sd = x[i].mean((1, 2))[:, None, None], x[i].std((1, 2), correction=0)[:, None, None]
        if fill == "mean":
            torch.testing.assert_close(part, mean.expand_as(part), rtol=0, atol=1e-3)
        inside.append(((part - mean) / sd).flatten())
        out[i, :, top:bottom, left:right] = x[i, :, top:bottom, left:right]
    assert torch.equal(out, x)
    if fill == "noise":
        assert stats.kstest(torch.cat(inside).numpy(), "norm").pvalue > 1e-3


# -- policies


def test_a_short_run_has_neither_policy_nor_mixing_and_all_else() -> None:
    x_BCHW = torch.randint(0, 256, (6, 3, 12, 12), dtype=torch.uint8)
    index_B = torch.arange(6)
    plain = augmenter(policy="none", noise=0.1, size=(12, 12))
    long = augmenter(policy="trivialaugment", policy_epochs=9, cutmix=1.0, mix_epochs=20, noise=0.1, size=(12, 12))
    short = long.at_length(8.9)
    assert torch.equal(short.transform(x_BCHW, index_B, 3), plain.transform(x_BCHW, index_B, 3))
    assert not torch.equal(long.at_length(9).transform(x_BCHW, index_B, 3), plain.transform(x_BCHW, index_B, 3))
    assert [long.at_length(epochs).mixes for epochs in (9, 19.9, 20)] == [False, False, True]
    assert long.at_length(20) is long
    assert long.at_length(1) is short
    assert plain.at_length(0) is plain


@pytest.mark.parametrize(("policy", "count"), [("randaugment", 15), ("trivialaugment", 14)])
def test_policies_draw_each_operation_equally_often(policy: str, count: int) -> None:
    index = torch.arange(6000)
    d = drawn_by(augmenter(policy=policy, policy_operations=3, policy_magnitude=6), index)
    assert d.operation_BP.shape == (6000, 3 if policy == "randaugment" else 1)
    seen = d.operation_BP.flatten().bincount(minlength=15)[:count]
    assert seen.sum() == d.operation_BP.numel()
    assert stats.chisquare(seen.numpy()).pvalue > 1e-3
    size = d.strength_BP.abs().flatten()
    assert abs((d.strength_BP > 0).double().mean() - 0.5) < 0.03
    if policy == "randaugment":
        assert torch.equal(size, torch.full_like(size, 0.6))
    else:
        assert stats.kstest(size.numpy(), "uniform").pvalue > 1e-3


def test_policies_leave_out_what_has_no_meaning_and_say_so() -> None:
    index = torch.arange(3000)
    d = drawn_by(augmenter(policy="randaugment"), index, channels=2, integer=False)
    seen = {OPERATIONS[i] for i in d.operation_BP.unique().tolist()}
    assert seen == {
        *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate"),
        *("brightness", "contrast", "sharpness"),
    }
    settings = with_settings(policy="randaugment", saturation=0.1, hue=0.1)
    assert settings.without_effect(3, torch.uint8) == []
    assert settings.without_effect(1, torch.uint8) == ["saturation", "hue", "randaugment: saturation"]
    assert set(OPERATIONS) - seen == {
        name.removeprefix("randaugment: ") for name in settings.without_effect(1, torch.float32)[2:]
    }


def test_three_bands_that_are_not_rgb_have_no_hue_and_the_mean_for_their_luminance() -> None:
    x = images(8).float() / 255
    x[:, 0] /= 4
    index = torch.arange(8)
    bands = Augmenter(with_settings(saturation=0.9, hue=0.5), seed=1, size=(24, 24), rgb=False)
    assert torch.equal(bands.transform(x, index, 0), x)
    assert not torch.equal(augmenter(saturation=0.9, hue=0.5).transform(x, index, 0), x)
    contrast = Augmenter(with_settings(contrast=0.9), seed=1, size=(24, 24), rgb=False)
    strength = contrast.draw(index, 0, channels=3, integer=False).contrast_B.view(-1, 1, 1, 1)
    middle = x.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(contrast.transform(x, index, 0), middle + strength * (x - middle))
    settings = with_settings(policy="randaugment", saturation=0.1, hue=0.1)
    assert settings.without_effect(3, torch.uint8, rgb=False) == settings.without_effect(1, torch.uint8)
    assert contrast.at_length(3).rgb is False


def one_operation(maker: Augmenter, x: Tensor, name: str, strength: float) -> Tensor:
    code = torch.full((len(x), 1), OPERATIONS.index(name))
    d = Draw(operation_BP=code, strength_BP=torch.full((len(x), 1), strength, dtype=torch.float64))
    out = maker._resample(x, d) / 255
    return maker._recolour(out, d, torch.arange(len(x)), 0, integer=True)


@pytest.mark.parametrize("strength", [-0.7, 0.4, 1.0])
@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_of_a_policy_is_torchvisions(name: str, strength: float) -> None:
    x = images(4, (20, 30))
    x_float = x.float() / 255
    out = one_operation(augmenter(size=(20, 30), policy="randaugment", border="zero"), x, name, strength)
    centre = {"shear_x": [1, 0], "shear_y": [0, 1]}
    if name in centre:
        angle = math.degrees(math.atan(0.3 * strength))
        expected = TF.affine(x_float, 0, [0, 0], 1.0, [-angle * part for part in centre[name]], MODES["bilinear"])
    elif name.startswith("translate"):
        pixels = [0.45 * strength * 30, 0.0] if name.endswith("x") else [0.0, 0.45 * strength * 20]
        expected = torch.stack([affine(image, torch.tensor(0.0), pixels, 1.0, torch.zeros(2)) for image in x_float])
    elif name == "rotate":
        expected = TF.rotate(x_float, -30 * strength, MODES["bilinear"])
    elif name in ("brightness", "contrast", "saturation", "sharpness"):
        expected = getattr(TF, f"adjust_{name}")(x_float, 1 + 0.9 * strength)
    elif name == "posterize":
        expected = TF.posterize(x, 8 - round(4 * abs(strength))).float() / 255
    elif name == "solarize":
        expected = TF.solarize(x_float, 1 - abs(strength))
    elif name == "equalize":
        expected = TF.equalize(x).float() / 255
    elif name == "identity":
        expected = x_float
    else:
        expected = getattr(TF, name)(x_float)
    # Even an identity is resampled, whose rounding may tip a pixel over the edge between two levels.
    far = (out - expected).abs() > 3e-4
    allowed = 0.03 if name in ("posterize", "solarize", "equalize") else 0.0
    assert far.double().mean() <= allowed


def test_operations_follow_each_other_in_the_order_drawn() -> None:
    x = images(2)
    maker = augmenter(policy="randaugment", border="zero")
    codes = torch.tensor([[OPERATIONS.index("translate_x"), OPERATIONS.index("rotate")]]).repeat(2, 1)
    d = Draw(operation_BP=codes, strength_BP=torch.tensor([[0.5, 1.0]]).double().repeat(2, 1))
    theta = sampling_matrix(d, (24, 24), maker.settings.ranges)
    # Shifted to the right by 0.225 of the frame, then turned about the centre: what is at the centre now came
    # from the left, by 0.45 of half a frame.
    torch.testing.assert_close(theta[0, :, 2], torch.tensor([-0.45, 0.0]).double())
    back = replace(d, operation_BP=codes.flip(1), strength_BP=d.strength_BP.flip(1))
    turned = sampling_matrix(back, (24, 24), maker.settings.ranges)[0, :, 2]
    angle = math.radians(30)
    torch.testing.assert_close(turned, -0.45 * torch.tensor([math.cos(angle), -math.sin(angle)]).double())
    codes = torch.tensor([[OPERATIONS.index("invert"), OPERATIONS.index("brightness")]]).repeat(2, 1)
    d = Draw(operation_BP=codes, strength_BP=torch.tensor([[0.5, -0.5]]).double().repeat(2, 1))
    out = maker._recolour(x.float() / 255, d, torch.arange(2), 0, integer=True)
    torch.testing.assert_close(out, (1 - x / 255) * 0.55, rtol=0, atol=1e-6)


# -- settings


@pytest.mark.parametrize(
    "changes",
    [
        {"flip_horizontal": 1.1},
        {"rotation": 181},
        {"scale": (1.2, 0.8)},
        {"scale": (0.0, 1.0)},
        {"shift": -0.1},
        {"crop_scale": (0.5, 1.5)},
        {"interpolation": "nearest"},
        {"policy": "autoaugment"},
        {"policy_magnitude": 11},
        {"mixup": -1},
        {"brightness": float("nan")},
        {"rotations": 10},
        {"erasing_area": (0.5, 0.1)},
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(changes))):
        Augment.model_validate(changes)


def test_settings_are_frozen_described_and_survive_json() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        OFF.rotation = 3.0
    assert all(field.description for field in Augment.model_fields.values())
    for preset in (*PRESETS.values(), EVERYTHING):
        assert Augment.model_validate_json(preset.model_dump_json()) == preset


def test_quarter_turns_of_oblong_images_are_refused() -> None:
    with pytest.raises(UserError, match=r"quarter_turns.*24×36"):
        Augmenter(Augment(), seed=0, size=(24, 36))
    with pytest.raises(UserError, match=r"quarter_turns.*24×36"):
        augmenter(Augment()).transform(images(2, (24, 36)), torch.arange(2), 0)


def test_images_of_whole_numbers_other_than_uint8_are_refused() -> None:
    with pytest.raises(UserError, match=r"torch\.int32"):
        augmenter().transform(images(2).int(), torch.arange(2), 0)


def test_mix_is_the_mixers() -> None:
    x, index = images(4).float(), torch.arange(4)
    y = torch.eye(4)
    maker = augmenter(mixup=0.8)
    assert maker.mixes
    assert not augmenter().mixes
    out, target = maker.mix(x, x.flip(0), y, y.flip(0), index, 0)
    torch.testing.assert_close(out, torch.einsum("ij,jchw->ichw", target, x), rtol=0, atol=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["sky", "photo", "exact", "everything"])
def test_cuda_gives_the_same_images(name: str) -> None:
    x, index = images(16), torch.arange(16)
    maker = augmenter(SETTINGS[name], policy="none")
    expected = maker.transform(x, index, 0)
    for index_there in (index, index.cuda()):
        out = maker.transform(x.cuda(), index_there, 0).cpu()
        torch.testing.assert_close(out, expected, rtol=0, atol=2e-4)
