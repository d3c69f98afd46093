"""Images whose opposite sides are neighbours: rolling each by itself, and convolutions that know no border.

Legend: B images, C channels, H and W rows and columns, R = B·H·W pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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
