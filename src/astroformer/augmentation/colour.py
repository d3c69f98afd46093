"""Changes of pixel values, for batches of float images with one strength per image.

Nothing here is random, and nothing clips unless it says so. Functions that work on 256 levels or on a known range
(posterize, solarize, equalize, autocontrast, invert) need images in [0, 1]; the others work in any unit. Each image is
treated alone. Shape letters: B images, C channels, H and W pixels, R = B·C channels of all images, N = H·W, L levels.
"""

from __future__ import annotations

import torch
from torch import Tensor

LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the luminance (ITU-R BT.601)."""


def adjust_(
    x_BCHW: Tensor,
    brightness_B: Tensor | None = None,
    contrast_B: Tensor | None = None,
    saturation_B: Tensor | None = None,
    *,
    rgb: bool = True,
) -> Tensor:
    """Brightness, then contrast, then saturation, in place; a strength of 1 changes nothing.

    Brightness multiplies; contrast moves away from or towards the mean luminance of the image; saturation
    moves away from or towards each pixel's luminance. All three are linear in the image, so they are done as
    one multiply and one add: x·bcs + [(1−s)·bc·grey(x)] + b(1−c)·mean(grey(x)).

    Args:
        x_BCHW: float images, overwritten.
        brightness_B, contrast_B, saturation_B: strengths ≥ 0, or None. Saturation needs three channels.
        rgb: whether three channels are red, green and blue, and no other bands. The luminance of any others is the mean
            of the channels.
    """
    channels = x_BCHW.shape[1]
    factor_B: Tensor | None = brightness_B
    offset_B: Tensor | None = None
    if contrast_B is not None:
        mean_B = luminance(x_BCHW.mean((2, 3), keepdim=True), rgb=rgb).flatten()
        offset_B = (1.0 - contrast_B) * mean_B
        if brightness_B is not None:
            offset_B = offset_B * brightness_B
        factor_B = contrast_B if factor_B is None else factor_B * contrast_B
    if saturation_B is None:
        if factor_B is not None:
            x_BCHW.mul_(_per_image(factor_B))
        return x_BCHW if offset_B is None else x_BCHW.add_(_per_image(offset_B))
    if channels != 3 or not rgb:
        raise ValueError(f"saturation needs 3 channels, red, green and blue, not {channels}")
    toward_B = 1.0 - saturation_B
    if factor_B is not None:
        toward_B = toward_B * factor_B
        saturation_B = saturation_B * factor_B
    grey_B1HW = luminance(x_BCHW).mul_(_per_image(toward_B))
    if offset_B is not None:  # an equal offset in all channels has no saturation to change
        grey_B1HW.add_(_per_image(offset_B))
    return x_BCHW.mul_(_per_image(saturation_B)).add_(grey_B1HW)


def luminance(x_BCHW: Tensor, *, rgb: bool = True) -> Tensor:
    """(B, 1, H, W): the luminance of RGB images, the mean of the channels of any others; a new tensor."""
    if x_BCHW.shape[1] != 3 or not rgb:
        return x_BCHW.mean(1, keepdim=True)
    red, green, blue = x_BCHW.split(1, dim=1)
    return (red * LUMINANCE[0]).add_(green, alpha=LUMINANCE[1]).add_(blue, alpha=LUMINANCE[2])


def turn_hue(x_BCHW: Tensor, turn_B: Tensor) -> Tensor:
    """Turn the hue of RGB images by `turn_B` (−½ … ½ of the circle), keeping HSV's saturation and value.

    It works with the extremes of each pixel alone, so it needs no range of values.
    """
    value_B1HW, top_B1HW = x_BCHW.max(1, keepdim=True)
    chroma_B1HW = value_B1HW - x_BCHW.amin(1, keepdim=True)
    red, green, blue = x_BCHW.split(1, dim=1)
    # The hue in sixths of the circle from red, by which channel is largest; for a grey pixel, of chroma 0, any will do.
    difference = torch.where(top_B1HW == 0, green - blue, torch.where(top_B1HW == 1, blue - red, red - green))
    sixths_B1HW = difference / chroma_B1HW.clamp(min=torch.finfo(x_BCHW.dtype).tiny) + 2.0 * top_B1HW
    sixths_B1HW = sixths_B1HW + _per_image(6.0 * turn_B)
    # Distance on the circle from each channel's own colour: the channel is full within 1 of it and empty from 2 on.
    home_C11 = torch.arange(5, 0, -2, device=x_BCHW.device, dtype=x_BCHW.dtype)[:, None, None]  # red 5, green 3, blue 1
    k_BCHW = torch.remainder(home_C11 + sixths_B1HW, 6.0)
    return value_B1HW - chroma_B1HW * torch.minimum(k_BCHW, 4.0 - k_BCHW).clamp_(0.0, 1.0)


def sharpen(x_BCHW: Tensor, strength_B: Tensor) -> Tensor:
    """Away from (strength > 1) or towards (< 1) the smoothed image.

    It is smoothed by [1 1 1; 1 5 1; 1 1 1] / 13, except for the rim, which stays as it is.
    """
    if min(x_BCHW.shape[-2:]) < 3:
        return x_BCHW
    rows = x_BCHW[:, :, :-2] + x_BCHW[:, :, 1:-1] + x_BCHW[:, :, 2:]
    inner = x_BCHW[:, :, 1:-1, 1:-1]
    smooth = (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4.0 * inner) / 13.0
    out = x_BCHW.clone()
    out[:, :, 1:-1, 1:-1] = smooth + (inner - smooth) * _per_image(strength_B)
    return out


def posterize(x_BCHW: Tensor, bits_B: Tensor) -> Tensor:
    """Keep the `bits_B` (0 … 8, whole numbers) highest bits of each of the 256 levels."""
    step_B = _per_image(2.0 ** (8.0 - bits_B.to(x_BCHW.dtype)))
    return torch.floor(_levels(x_BCHW) / step_B) * step_B / 255.0


def solarize(x_BCHW: Tensor, threshold_B: Tensor) -> Tensor:
    """Invert the pixels at or above a threshold in [0, 1]."""
    return torch.where(x_BCHW >= _per_image(threshold_B), 1.0 - x_BCHW, x_BCHW)


def invert(x_BCHW: Tensor) -> Tensor:
    """1 − x."""
    return 1.0 - x_BCHW


def autocontrast(x_BCHW: Tensor) -> Tensor:
    """Stretch each channel to [0, 1]; a channel of one value stays."""
    low_BC11 = x_BCHW.amin((2, 3), keepdim=True)
    span_BC11 = x_BCHW.amax((2, 3), keepdim=True) - low_BC11
    return torch.where(span_BC11 > 0, (x_BCHW - low_BC11) / torch.where(span_BC11 > 0, span_BC11, 1.0), x_BCHW)


def equalize(x_BCHW: Tensor) -> Tensor:
    """Flatten the histogram of each channel over 256 levels, in whole numbers as Pillow's `equalize`."""
    batch, channels, height, width = x_BCHW.shape
    level_RN = _levels(x_BCHW).long().reshape(batch * channels, height * width)
    count_RL = level_RN.new_zeros(len(level_RN), 256).scatter_add_(1, level_RN, torch.ones_like(level_RN))
    last_R1 = count_RL.gather(1, level_RN.amax(1, keepdim=True))  # pixels at the highest level present
    step_R1 = (height * width - last_R1) // 255
    below_RL = count_RL.cumsum(1) - count_RL
    table_RL = ((below_RL + step_R1 // 2) // step_R1.clamp(min=1)).clamp_(max=255)
    flat_RN = table_RL.gather(1, level_RN).to(x_BCHW.dtype) / 255.0
    flat_RN = torch.where(step_R1 > 0, flat_RN, x_BCHW.reshape(batch * channels, -1))  # too few levels: leave it
    return flat_RN.reshape(x_BCHW.shape)


def _levels(x_BCHW: Tensor) -> Tensor:
    """The level 0 … 255 of each value, still as float."""
    return (x_BCHW * 255.0).round_().clamp_(0.0, 255.0)


def _per_image(value_B: Tensor) -> Tensor:
    return value_B[:, None, None, None]
