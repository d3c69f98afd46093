"""Sampling that moves with the image: the choice of a phase that makes a strided network exactly shift-equivariant.

A stride of 2 keeps one of four phases (even or odd rows, even or odd columns) of a map, and which one it is changes
when the image moves by a pixel. Here the map itself says which phase is kept, so that the choice moves along (after
adaptive polyphase sampling, Chaman & Dokmanić, arXiv 2011.14214; there the phase of largest norm is kept): the map is
rolled until the chosen phase is the first, and every layer after it works as ever. On the torus, that is with circular
convolutions and a position bias by circular offsets, the network then commutes with integer circular shifts exactly.
`centred` needs none of that: it moves the image itself, before any network, to a place that moves along.

Legend: B images, C channels, H and W rows and columns, P phases a side (the period), R = B·H·W pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Of the four neighbours above, below, left and right. Unequal, or mirror-symmetric images would score two phases alike
# (the norm of a phase does: 41 % of pairs then fail even in float64).
_NEIGHBOURS = ((1, 2, 1.37), (-1, 2, 0.61), (1, 3, 1.13), (-1, 3, 0.83))
# So that bright and dark places never score alike, as those of a checkerboard would.
_OFFSET = 0.5
_DARK = 0.83
_GRAINS = 2.0**40  # scores are summed as integers of so many to the largest: no rounding, whatever the order
_NEAR, _FAR = (0.5, 0.485), (0.01, 0.0077)  # shares of the places before and after in blurring


def anchored(x_BCHW: Tensor, period: int = 2) -> tuple[Tensor, Tensor]:
    """Maps rolled so that the phase of their choice comes first, and the rows and columns that they were rolled by.

    Args:
        x_BCHW: maps (B, C, H, W) whose H and W are multiples of `period`; each image chooses for itself.
        period: a power of 2, the product of the strides that follow.

    Returns:
        (B, C, H, W), and (B, 2) of int64 in [0, period): row and column that are first now. Moving an image by (a, b)
        moves its choice by (a, b) modulo the period, so what is returned moves by a multiple of the period.
    """
    with torch.no_grad():
        score_BHW = phase_score(x_BCHW)
        batch, height, width = score_BHW.shape
        scores_BPP = score_BHW.view(batch, height // period, period, width // period, period).sum((1, 3))
        best_B = scores_BPP.flatten(1).argmax(1)
        phase_B2 = torch.stack([best_B // period, best_B % period], 1)
    return rolled(x_BCHW, phase_B2, period), phase_B2


def phase_score(x_BCHW: Tensor) -> Tensor:
    """How much happens at each place, (B, H, W) of int64 from 0 to 2^40: it moves with the image, to the bit.

    r = Σ w (E - E(neighbour)) with E = Σ_c (x_c + 1/2)² and unequal w; r, or -0.83 r where that is positive, to the
    fourth power, so that few places decide: the best phase is then ahead of the second by a tenth of the sum over all,
    in the median of smooth galaxies, where the norms of two phases differ by 0.05 %
    (`benchmarks/symmetry.py --margins`).
    """
    if x_BCHW.dtype not in (torch.float32, torch.float64):
        x_BCHW = x_BCHW.float()
    x_BHWC = x_BCHW.permute(0, 2, 3, 1).contiguous()  # a norm over channels that lie apart takes twenty times as long
    energy_BHW = torch.linalg.vector_norm(x_BHWC + _OFFSET, dim=3).square()
    detail_BHW = sum(w for _, _, w in _NEIGHBOURS) * energy_BHW
    for step, axis, weight in _NEIGHBOURS:
        detail_BHW = detail_BHW - weight * energy_BHW.roll(step, axis - 1)
    detail_BHW = torch.where(detail_BHW > 0, detail_BHW, -_DARK * detail_BHW)
    largest_B11 = detail_BHW.amax((1, 2), keepdim=True)
    share_BHW = detail_BHW / largest_B11.clamp_min(torch.finfo(detail_BHW.dtype).tiny)
    return (share_BHW.square().square() * _GRAINS).to(torch.int64)


def rolled(x_BCHW: Tensor, first_B2: Tensor, limit: int | tuple[int, int]) -> Tensor:
    """Each map rolled by itself so that its row and column `first` (B, 2), from 0 and below `limit`, come first."""
    if not torch.compiler.is_compiling():
        return _Rolled.apply(x_BCHW, first_B2)
    # By powers of 2, each taken or not, which compiles into loops and exports without custom operators.
    limits = (limit, limit) if isinstance(limit, int) else limit
    for side in (0, 1):
        first_B111 = first_B2[:, side].view(-1, 1, 1, 1)
        for bit in range((limits[side] - 1).bit_length()):
            taken_B111 = (first_B111 >> bit) % 2 == 1
            x_BCHW = torch.where(taken_B111, x_BCHW.roll(-(1 << bit), side + 2), x_BCHW)
    return x_BCHW


class _Rolled(torch.autograd.Function):
    """Copies pixels, forward and backward: a sixth of the time of rolling and selecting."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x_BCHW: Tensor, first_B2: Tensor) -> Tensor:
        return _copied(x_BCHW, first_B2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, d_BCHW: Tensor) -> tuple[Tensor, None]:
        (first_B2,) = ctx.saved_tensors
        return _copied(d_BCHW, -first_B2), None


def _copied(x_BCHW: Tensor, first_B2: Tensor) -> Tensor:
    batch, channels, height, width = x_BCHW.shape
    image_B, row_H, column_W = (torch.arange(n, device=x_BCHW.device) for n in (batch, height, width))
    row_BH, column_BW = (row_H + first_B2[:, :1]) % height, (column_W + first_B2[:, 1:]) % width
    pixel_BHW = (image_B[:, None, None] * height + row_BH[:, :, None]) * width + column_BW[:, None, :]
    pixels_RC = x_BCHW.permute(0, 2, 3, 1).reshape(-1, channels).index_select(0, pixel_BHW.flatten())
    return pixels_RC.view(batch, height, width, channels).permute(0, 3, 1, 2)


def d4_views(x_BCHW: Tensor) -> list[Tensor]:
    """The eight views of square images under quarter turns and flips (the group D4), the image itself first."""
    turned = [x_BCHW.rot90(k, (2, 3)) for k in range(4)]
    return turned + [view.flip(3) for view in turned]


class CircularConv2d(nn.Conv2d):
    """A convolution on the torus: `nn.Conv2d` with `padding_mode` "circular", faster, and on maps of any size."""

    def __init__(self, in_chans: int, out_chans: int, kernel_size: int, **settings: Any) -> None:
        super().__init__(in_chans, out_chans, kernel_size, padding_mode="circular", **settings)

    def _conv_forward(self, x_BCHW: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # Not by F.pad: what it gives has lost the memory format, and depthwise convolutions then take 4 times as long.
        rows, columns = (int(padding) for padding in self.padding)
        x_BHWC = x_BCHW.permute(0, 2, 3, 1)
        if torch.compiler.is_compiling() or rows > x_BHWC.shape[1] or columns > x_BHWC.shape[2]:
            x_BHWC = _continued(_continued(x_BHWC, 2, columns), 1, rows)
        else:
            x_BHWC = _Wrapped.apply(x_BHWC, rows, columns)
        return F.conv2d(x_BHWC.permute(0, 3, 1, 2), weight, bias, self.stride, 0, self.dilation, self.groups)


def _continued(x: Tensor, axis: int, by: int) -> Tensor:
    """x continued circularly by so many places at either end of `axis`, round and round if need be."""
    size = x.shape[axis]
    if by <= size:
        return torch.cat((x.narrow(axis, size - by, by), x, x.narrow(axis, 0, by)), axis)
    return x.index_select(axis, torch.arange(-by, size + by, device=x.device) % size)


def wrapped(x_BHWC: Tensor, rows: int, columns: int) -> Tensor:
    """Maps continued circularly by so many rows and columns, no more than they have, at every side: one copy."""
    batch, height, width, channels = x_BHWC.shape
    y_BHWC = x_BHWC.new_empty(batch, height + 2 * rows, width + 2 * columns, channels)
    inside = y_BHWC[:, :, columns : columns + width]
    inside[:, rows : rows + height] = x_BHWC
    inside[:, :rows], inside[:, rows + height :] = x_BHWC[:, height - rows :], x_BHWC[:, :rows]
    y_BHWC[:, :, :columns], y_BHWC[:, :, columns + width :] = inside[:, :, width - columns :], inside[:, :, :columns]
    return y_BHWC


class _Wrapped(torch.autograd.Function):
    """`wrapped`, whose gradient too takes one copy: half of what autograd would make of slices or `cat`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x_BHWC: Tensor, rows: int, columns: int) -> Tensor:
        return wrapped(x_BHWC, rows, columns)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int, int], output: Tensor) -> None:
        ctx.sizes = inputs[1:]

    @staticmethod
    def backward(ctx: Any, d_BHWC: Tensor) -> tuple[Tensor, None, None]:
        rows, columns = ctx.sizes
        height, width = d_BHWC.shape[1] - 2 * rows, d_BHWC.shape[2] - 2 * columns
        inside = d_BHWC[:, :, columns : columns + width].clone()
        inside[:, :, width - columns :] += d_BHWC[:, :, :columns]
        inside[:, :, :columns] += d_BHWC[:, :, columns + width :]
        dx_BHWC = inside[:, rows : rows + height]
        dx_BHWC[:, height - rows :] += inside[:, :rows]
        dx_BHWC[:, :rows] += inside[:, rows + height :]
        return dx_BHWC, None, None


def convolution(circular: bool) -> type[nn.Conv2d]:
    """The class of convolutions wider than 1x1."""
    return CircularConv2d if circular else nn.Conv2d


class Canonicalize(nn.Module):
    """Any network made exactly invariant to circular shifts, by moving what is brightest in an image to its middle.

    See `centred`. The network itself need not know anything of shifts. What it knows of places is then about places
    beside the brightest one: an image whose object lies off the middle is seen as if it lay there.

    Args:
        network: any module that takes images (B, C, H, W).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.network(centred(x_BCHW)[0])


def centred(x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Images moved circularly so that what is brightest in each lies at row H // 2 and column W // 2.

    The brightest place is that of the largest energy E = Σ_c (x_c + 1/2)² after blurring over an eighth of each side.
    It is computed place by place in the same order of operations, so that it moves with the image to the bit, and what
    is returned for a shifted image is equal to the bit (canonicalization: Kaba et al., arXiv 2211.06489).

    Returns:
        (B, C, H, W), and (B, 2) of int64: row and column of the image that are first now.
    """
    height, width = x_BCHW.shape[2:]
    with torch.no_grad():
        # Channel by channel: a sum over an axis may take another order for another place.
        score_BHW = sum((x_BHW + _OFFSET).square() for x_BHW in x_BCHW.double().unbind(1))
        assert isinstance(score_BHW, Tensor)
        for axis, size in ((1, height), (2, width)):
            for step in (1 << bit for bit in range((size // 2).bit_length())):
                # Unequal weights, or a mirror-symmetric image would have two brightest places; and a little of what
                # lies far away, or two equal objects would be.
                before, after = _NEAR if step <= size // 16 else _FAR
                score_BHW = score_BHW + before * score_BHW.roll(step, axis) + after * score_BHW.roll(-step, axis)
        best_B = score_BHW.flatten(1).argmax(1)
        first_B2 = torch.stack([best_B // width + (height - height // 2), best_B % width + (width - width // 2)], 1)
        first_B2 = first_B2 % torch.tensor([height, width], device=x_BCHW.device)
    return rolled(x_BCHW, first_B2, (height, width)), first_B2
