"""Cropping and Pillow's antialiased bicubic resize as products of matrices, for images of a size that is not known yet.

A graph can't leave out rows by a rule of Python, but it can give them the weight 0: so cut, resize and frame are one
matrix a side, made in the graph from the size of the image, and what comes out always has the model's size.

Pillow multiplies 8-bit pixels by weights of 22 binary places and rounds each pass to 8 bits. Here the same whole
numbers are multiplied in two parts, whose sums float32 holds exactly, so the result is the same to the bit wherever
the weights are. A runtime without float64 rounds a few weights otherwise, which one pixel in 10,000 shows by a level.

Columns come first, as in Pillow 11. Pillow 13 takes rows first for some upright images, by a rule of its own.

Legend: B images, C bands, H and W rows and columns of the image, h and w those of the model's size, N either of H and
W, n either of h and w.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from astroformer.images.preprocessing import Preprocessing
from astroformer.images.resize import PRECISION

_LOW = 128  # a weight is so many times its high part and a low part, of at most 64: sums of both stay below 2^24


class Side(NamedTuple):
    """What of one side of an image goes where, as scalars of float64.

    Attributes:
        size: pixels of the image.
        first, kept: of the frame that is cut out, its first pixel and how many there are.
        made: pixels that it is resized to.
        before: zeros in front of them.
    """

    size: Tensor
    first: Tensor
    kept: Tensor
    made: Tensor
    before: Tensor


def sides(preprocessing: Preprocessing, height: int, width: int) -> tuple[Side, Side]:
    """Rows and columns of an image of this size, as `Preprocessing` cuts and resizes it."""
    target_h, target_w = preprocessing.image_size
    size_h, size_w = (torch.full((), side, dtype=torch.float64) for side in (height, width))
    crop = torch.tensor(preprocessing.crop, dtype=torch.float64)  # a number of Python would become one of float32
    kept_h, kept_w = size_h * crop, size_w * crop
    if preprocessing.fit == "crop":
        scale = torch.minimum(kept_h / target_h, kept_w / target_w)
        kept_h, kept_w = target_h * scale, target_w * scale
    kept_h, kept_w = (kept.round().clamp_min(1) for kept in (kept_h, kept_w))
    made_h, made_w = (torch.full((), side, dtype=torch.float64) for side in (target_h, target_w))
    if preprocessing.fit == "pad":
        scale = torch.minimum(target_h / kept_h, target_w / kept_w)
        made_h = (kept_h * scale).round().clamp(1, target_h)
        made_w = (kept_w * scale).round().clamp(1, target_w)
    return (
        Side(size_h, ((size_h - kept_h) / 2).floor(), kept_h, made_h, ((target_h - made_h) / 2).floor()),
        Side(size_w, ((size_w - kept_w) / 2).floor(), kept_w, made_w, ((target_w - made_w) / 2).floor()),
    )


def within(side: Side, size: int) -> Tensor:
    """(N,) which pixels of the image are in the frame that is cut out."""
    place_N = torch.arange(size, dtype=torch.float64)
    return (place_N >= side.first) & (place_N < side.first + side.kept)


def filled(side: Side, wanted: int) -> Tensor:
    """(n,) which pixels of the model's size show the image, and are no frame of zeros."""
    place_n = torch.arange(wanted, dtype=torch.float64)
    return (place_n >= side.before) & (place_n < side.before + side.made)


def weights(side: Side, size: int, wanted: int) -> Tensor:
    """(n, N) float64, how much each pixel of the image counts in each of the model's size."""
    from_N = torch.arange(size, dtype=torch.float64) - side.first
    to_n = torch.arange(wanted, dtype=torch.float64) - side.before
    # How far apart two places are, in pixels of the coarser side: of whole numbers, so that float32 has it well.
    apart_nN = (2 * from_N + 1) * side.made - (2 * to_n[:, None] + 1) * side.kept
    d_nN = apart_nN.abs() / (2 * torch.maximum(side.kept, side.made))
    near_nN, far_nN = (1.5 * d_nN - 2.5) * d_nN * d_nN + 1, -0.5 * (((d_nN - 5) * d_nN + 8) * d_nN - 4)
    nothing = torch.zeros_like(d_nN)
    share_nN = torch.where(d_nN < 1, near_nN, torch.where(d_nN < 2, far_nN, nothing))
    share_nN = torch.where(within(side, size) & filled(side, wanted)[:, None], share_nN, nothing)
    sum_n1 = share_nN.sum(1, keepdim=True)
    return share_nN / torch.where(sum_n1 == 0, torch.ones_like(sum_n1), sum_n1)


def resized_whole(x_BCHW: Tensor, rows_hH: Tensor, columns_wW: Tensor) -> Tensor:
    """8-bit images, as float32 of whole numbers, resized as Pillow does it: columns first, both passes rounded."""
    high_wW, low_wW = _parts(columns_wW)
    x_BCHw = _to_8_bits(x_BCHW @ high_wW.T, x_BCHW @ low_wW.T)
    high_hH, low_hH = _parts(rows_hH)
    return _to_8_bits(high_hH @ x_BCHw, low_hH @ x_BCHw)


def resized_floats(x_BCHW: Tensor, rows_hH: Tensor, columns_wW: Tensor) -> Tensor:
    """float32 images resized as Pillow does it: sums in float64, each pass rounded to float32."""
    x_BCHw = (x_BCHW.double() @ columns_wW.T).float()
    return (rows_hH @ x_BCHw.double()).float()


def _parts(weights_nN: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of 22 binary places as whole numbers: 128 times the first and the second."""
    shift = torch.where(weights_nN < 0, -0.5, 0.5)
    whole_nN = (weights_nN * (1 << PRECISION) + shift).trunc()
    high_nN = (whole_nN / _LOW).round()
    return high_nN.float(), (whole_nN - _LOW * high_nN).float()


def _to_8_bits(high: Tensor, low: Tensor) -> Tensor:
    """(128 high + low) / 2^22, rounded; every number on the way is whole and below 2^24."""
    carried = ((low + (1 << (PRECISION - 1))) / _LOW).floor()
    return ((high + carried) / ((1 << PRECISION) // _LOW)).floor().clamp(0, 255)
