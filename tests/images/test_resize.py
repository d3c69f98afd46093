"""The resize in C++ gives Pillow's bits."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from astroformer import native
from astroformer.images.resize import _kernel, resize

BICUBIC = Image.Resampling.BICUBIC


@pytest.mark.skipif(native.why_not() is not None, reason="no native kernels")
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("wanted", [(64, 64), (64, 40), (1, 1), (3, 200), (97, 33), (424, 50)])
@pytest.mark.parametrize("have", [(424, 424), (97, 33), (63, 65), (5, 1), (1, 300), (130, 64)])
def test_every_shape_gives_pillows_bits(have: tuple[int, int], wanted: tuple[int, int], channels: int) -> None:
    assert _kernel() is not None, native.why_not("resize")
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (*have, channels), np.uint8)  # overshoots on both sides, and is clipped
    steps = np.where(noise > 127, 255, 0).astype(np.uint8)
    for image in (noise, steps):
        bands = [Image.fromarray(image[:, :, c]).resize(wanted[::-1], BICUBIC) for c in range(channels)]
        np.testing.assert_array_equal(resize(image, *wanted), np.stack([np.asarray(b) for b in bands], axis=2))
    if channels == 3:
        whole = Image.fromarray(noise).resize(wanted[::-1], BICUBIC)
        np.testing.assert_array_equal(resize(noise, *wanted), np.asarray(whole))


@pytest.mark.skipif(native.why_not() is not None, reason="no native kernels")
def test_cut_turned_and_shared_images_are_read_rightly() -> None:
    whole = np.random.default_rng(1).integers(0, 256, (50, 60, 3), np.uint8)
    whole.flags.writeable = False
    for image in (
        whole[7:40, 5:50],
        whole[::-1],
        whole[:, ::-1],
        whole.transpose(1, 0, 2),
        whole[:, :, :2],
        whole[::2],
    ):
        expected = resize(np.ascontiguousarray(image), 20, 24)
        np.testing.assert_array_equal(resize(image, 20, 24), expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_without_the_kernel_it_is_pillow(dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(2).integers(0, 256, (30, 41, 3), np.uint8).astype(dtype)
    with_kernel = resize(image, 12, 17)
    monkeypatch.setattr("astroformer.images.resize._kernel", lambda: None)
    np.testing.assert_array_equal(resize(image, 12, 17), with_kernel)
