"""The batch in C++ against the plain program: every setting, type, size and number of channels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from astroformer import native
from astroformer.augmentation.augmenter import Augmenter
from astroformer.augmentation.native_batch import NativeBatch, _kernel
from astroformer.augmentation.settings import OPERATIONS, PRESETS, Augment
from astroformer.images.preprocessing import Preprocessing

if native.why_not() is not None:
    pytest.skip(f"no native kernels: {native.why_not()}", allow_module_level=True)

OFF = PRESETS["none"]
TOLERANCE = 2e-4  # of the range of values: where a pixel lies is rounded to float32, and noise is as steep as can be


@pytest.fixture(autouse=True)
def built() -> None:
    assert _kernel() is not None, native.why_not("augment")


def images(n: int, size: tuple[int, int], channels: int, dtype: torch.dtype) -> Tensor:
    """Smooth images with some noise; floating point ones in other units, also below 0."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(n, channels, 5, 5, generator=generator)
    smooth = F.interpolate(coarse, size, mode="bicubic", align_corners=False)
    x = ((smooth + 0.05 * torch.randn(smooth.shape, generator=generator)) * 255).clamp(0, 255)
    return x.to(torch.uint8) if dtype == torch.uint8 else (x / 100 - 0.5).to(dtype)


def settings(base: Augment = OFF, **changes: object) -> Augment:
    return Augment.model_validate(base.model_dump() | changes)


def both(
    monkeypatch: pytest.MonkeyPatch,
    chosen: Augment,
    x: Tensor,
    size: tuple[int, int],
    *,
    seed: int = 1,
    epoch: int = 2,
    dtype: torch.dtype = torch.float32,
    normalised: bool = False,
    rgb: bool = True,
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Native and plain batch of images that lie in another order in the store."""
    maker = Augmenter(chosen, seed=seed, size=size, rgb=rgb)
    channels = x.shape[1]
    statistics: dict[str, Any] = {"mean": (0.3,) * channels, "std": (0.2,) * channels} if normalised else {}
    preprocessing = Preprocessing(size, channels, **statistics)
    index = torch.arange(50, 50 + len(x))
    row = torch.randperm(len(x), generator=torch.Generator().manual_seed(3))
    label = index % 4
    arguments: Any = (x, row, index, epoch, label)
    assert maker._native.takes(x, dtype)
    fast = maker.batch(*arguments, classes=4, preprocessing=preprocessing, dtype=dtype)
    with monkeypatch.context() as patch:
        patch.setattr(NativeBatch, "takes", lambda *_: False)
        slow = maker.batch(*arguments, classes=4, preprocessing=preprocessing, dtype=dtype)
    for a, b in zip(fast, slow, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
    assert fast[0].is_contiguous(memory_format=torch.channels_last)
    return fast, slow


def compare(
    fast: tuple[Tensor, Tensor], slow: tuple[Tensor, Tensor], *, scale: float = 1.0, apart: float = 0.0
) -> None:
    """`apart`: the share of values that may differ by a whole level, where a rounding tips one over an edge."""
    far = (fast[0] - slow[0]).abs() > TOLERANCE * scale
    assert far.double().mean() <= apart, (fast[0] - slow[0]).abs().max()
    torch.testing.assert_close(fast[1], slow[1], rtol=0, atol=1e-6)


SETTINGS = {
    "sky": Augment(),
    "photo": PRESETS["photo"],
    "sky, edge": Augment(border="edge"),
    "sky, zero": Augment(border="zero"),
    "bicubic": Augment(interpolation="bicubic"),
    "bicubic, zero": Augment(interpolation="bicubic", border="zero", shift=0.6),
    "bicubic, edge": Augment(interpolation="bicubic", border="edge", shift=0.6),
    "far outside": settings(scale=(0.05, 0.2), shear=60, rotation=180, shift=1.0, aspect=5),
    "aspect and shear": settings(aspect=1.5, shear=20, scale=(0.7, 1.3)),
    "crop": settings(crop_scale=(0.08, 1.0), flip_horizontal=0.5),
    "narrow crop": settings(crop_scale=(0.9, 1.0), crop_ratio=(2.5, 3.0)),
    "colour": settings(brightness=0.5, contrast=0.6, saturation=0.7),
    "contrast": settings(contrast=3.0),
    "hue": settings(hue=0.5),
    "noise": settings(noise=0.2),
    "erasing": settings(erasing=0.7),
    "erasing with noise": settings(erasing=0.7, erasing_fill="noise"),
    "mixup": settings(mixup=0.4),
    "cutmix": settings(cutmix=1.0, mix_probability=0.7),
    "both mixes": Augment(mixup=0.8, cutmix=1.0, erasing=0.3),
}


@pytest.mark.parametrize("stored", [(24, 24), (60, 50)])
@pytest.mark.parametrize(
    "kind", [(torch.uint8, 3), (torch.uint8, 1), (torch.float16, 5), (torch.float32, 3), (torch.float32, 13)]
)
@pytest.mark.parametrize("name", SETTINGS)
def test_native_batch_equals_the_plain_one(
    name: str, kind: tuple[torch.dtype, int], stored: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype, channels = kind
    chosen = SETTINGS[name]
    if stored[0] != stored[1]:
        chosen = settings(chosen, quarter_turns=False)
    compare(*both(monkeypatch, chosen, images(30, stored, channels, dtype), (24, 24)), scale=2.5)


@pytest.mark.parametrize("size", [(16, 40), (31, 17)])
def test_native_batch_equals_the_plain_one_where_nothing_is_square(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings(
        Augment(quarter_turns=False, mixup=0.4, cutmix=1.0), crop_scale=(0.3, 1.0), erasing=0.5, hue=0.2, contrast=0.4
    )
    for stored in (size, (33, 50)):
        compare(*both(monkeypatch, chosen, images(30, stored, 3, torch.uint8), size))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32])
@pytest.mark.parametrize("rgb", [True, False])
def test_three_bands_that_are_not_rgb_equal_the_plain_ones(
    rgb: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = images(200, (20, 20), 3, dtype)
    x[:, 0] = x[:, 0] // 4 if dtype == torch.uint8 else x[:, 0] / 4  # so that the luminance is not the mean
    for name in ("colour", "contrast", "hue"):
        compare(*both(monkeypatch, SETTINGS[name], x, (20, 20), rgb=rgb), scale=2.5)
    for policy in ("randaugment", "trivialaugment"):
        chosen = settings(policy=policy, policy_operations=2)
        fast, slow = both(monkeypatch, chosen, x, (20, 20), rgb=rgb)
        compare(fast, slow, scale=2.5, apart=5e-3)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32])
@pytest.mark.parametrize("policy", ["randaugment", "trivialaugment"])
@pytest.mark.parametrize("channels", [1, 3, 13])
def test_policies_equal_the_plain_ones(
    policy: str, dtype: torch.dtype, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings(policy=policy, policy_operations=3, policy_magnitude=7, flip_horizontal=0.5)
    fast, slow = both(monkeypatch, chosen, images(400, (20, 28), channels, dtype), (20, 28))
    drawn = Augmenter(chosen, seed=1, size=(20, 28)).draw(
        torch.arange(50, 450), 2, channels=channels, integer=dtype == torch.uint8
    )
    levels = [OPERATIONS.index(name) for name in ("posterize", "solarize", "autocontrast", "equalize", "contrast")]
    assert drawn.operation_BP is not None
    tips = torch.isin(drawn.operation_BP, torch.tensor(levels)).any(1)
    compare((fast[0][~tips], fast[1]), (slow[0][~tips], slow[1]), scale=2.5)
    # One tipped pixel of the highest level can move all levels of an equalized image.
    compare(fast, slow, scale=2.5, apart=5e-3)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32])
@pytest.mark.parametrize("border", ["reflect", "edge", "zero"])
def test_geometry_of_whole_pixels_is_exact(border: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of images that are none of ours to round: equal to the bit."""
    chosen = settings(flip_horizontal=0.5, flip_vertical=0.5, quarter_turns=True, shift=1.0, border=border)
    fast, slow = both(monkeypatch, chosen, images(64, (24, 24), 3, dtype), (24, 24))
    assert torch.equal(fast[0], slow[0])
    oblong = settings(chosen, quarter_turns=False)
    fast, slow = both(monkeypatch, oblong, images(64, (10, 16), 3, dtype), (10, 16))
    assert torch.equal(fast[0], slow[0])


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("stored", [(60, 50), (12, 20)])
def test_frames_are_resized_as_in_the_plain_program(
    interpolation: str, stored: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings(flip_horizontal=0.5, shift=0.3, interpolation=interpolation)
    for dtype in (torch.uint8, torch.float16, torch.float32):
        compare(*both(monkeypatch, chosen, images(20, stored, 3, dtype), (24, 30)), scale=2.5)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_images_are_normalised_and_rounded_to_bfloat16(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = images(20, (24, 24), channels, torch.uint8)
    chosen = settings(flip_horizontal=0.5)
    fast, slow = both(monkeypatch, chosen, x, (24, 24), normalised=True)
    torch.testing.assert_close(fast[0], slow[0], rtol=0, atol=1e-6)
    rounded, _ = both(monkeypatch, chosen, x, (24, 24), normalised=True, dtype=torch.bfloat16)
    assert torch.equal(rounded[0], fast[0].bfloat16())


EVERYTHING = settings(
    Augment(mixup=0.8, cutmix=1.0),
    crop_scale=(0.1, 1.0),
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    noise=0.05,
    erasing=0.5,
    erasing_fill="noise",
    policy="randaugment",
)


def test_result_is_the_same_to_the_bit_in_any_batch_on_any_number_of_threads() -> None:
    x = images(33, (24, 24), 3, torch.uint8)
    maker = Augmenter(EVERYTHING, seed=5, size=(24, 24))
    preprocessing = Preprocessing((24, 24), 3, mean=(0.4, 0.4, 0.4), std=(0.2, 0.2, 0.2))

    def batch(start: int, stop: int) -> tuple[Tensor, Tensor]:
        part = torch.arange(start, stop + 1) % 33  # each image's partner is the next
        return maker.batch(x, part, part, 1, part % 5, classes=5, preprocessing=preprocessing)

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        whole = batch(0, 33)
        for n in (2, 3, 7):
            torch.set_num_threads(n)
            for some, all_of in zip(batch(0, 33), whole, strict=True):
                assert torch.equal(some, all_of)
        for start, stop in ((0, 1), (4, 9), (20, 33)):
            for some, all_of in zip(batch(start, stop), whole, strict=True):
                assert torch.equal(some, all_of[start:stop])
    finally:
        torch.set_num_threads(threads)


def test_draws_reach_large_seeds_epochs_and_images(monkeypatch: pytest.MonkeyPatch) -> None:
    x = images(5, (16, 16), 3, torch.uint8)
    maker = Augmenter(Augment(noise=0.1), seed=-(2**40) - 7, size=(16, 16))
    index = torch.tensor([0, 5, 2**33 + 1, 2**62, 12])
    arguments: Any = (x, torch.arange(5), index, 2**35, index % 2)
    preprocessing = Preprocessing((16, 16), 3)
    fast = maker.batch(*arguments, classes=2, preprocessing=preprocessing)
    monkeypatch.setattr(NativeBatch, "takes", lambda *_: False)
    compare(fast, maker.batch(*arguments, classes=2, preprocessing=preprocessing))


def test_places_outside_of_the_store_are_refused() -> None:
    x = images(4, (16, 16), 3, torch.uint8)
    maker = Augmenter(Augment(), seed=0, size=(16, 16))
    good = torch.arange(4)
    for row, label in ((good + 1, good), (good - 1, good), (good, good + 1)):
        with pytest.raises(IndexError, match="outside"):
            maker.batch(x, row, good, 0, label, classes=4, preprocessing=Preprocessing((16, 16), 3))
    with pytest.raises(ValueError, match="do not go together"):
        maker.batch(x, good, good[1:], 0, good, classes=4, preprocessing=Preprocessing((16, 16), 3))


def test_other_types_take_the_plain_program() -> None:
    x = images(4, (16, 16), 3, torch.float32).double()
    maker = Augmenter(Augment(), seed=0, size=(16, 16))
    assert not maker._native.takes(x, torch.float32)
    out, _ = maker.batch(
        x, torch.arange(4), torch.arange(4), 0, torch.arange(4), classes=4, preprocessing=Preprocessing((16, 16), 3)
    )
    assert torch.equal(out, maker.transform(x, torch.arange(4), 0))
