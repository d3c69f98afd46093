"""From what was drawn to where each pixel comes from: matrices, sampling grids and places of whole pixels.

Shape letters: B images, h and w pixels of the result, N = h·w.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from astroformer.augmentation.draws import Draw
from astroformer.augmentation.settings import GEOMETRIC, OPERATIONS, Augment, Policy


def sampling_matrix(drawn: Draw, source: tuple[int, int], policy: Policy) -> Tensor:
    """(B, 2, 3) float64: from places in the result to places in the stored image, in `F.affine_grid`'s coordinates.

    It is a product of the inverses of what is done to the image, each written down directly. Rotation and shear are in
    pixels of the stored image (of shape `source`), about the centre of the crop.
    """
    given = [value for value in vars(drawn).values() if value is not None]
    eye_B33 = torch.eye(3, dtype=torch.float64, device=given[0].device).repeat(len(given[0]), 1, 1)

    def matrix(**entries: Tensor | float) -> Tensor:
        """The identity with other entries, which are named by row and column, as `xy=`, `xt=` …"""
        out_B33 = eye_B33.clone()
        for place, value in entries.items():
            out_B33[:, "xy".index(place[0]), "xyt".index(place[1])] = value
        return out_B33

    def rotation(angle_B: Tensor) -> Tensor:
        cos_B, sin_B = torch.cos(angle_B), torch.sin(angle_B)
        return matrix(xx=cos_B, xy=sin_B, yx=-sin_B, yy=cos_B)

    height, width = source
    half_x: Tensor | float = width / 2
    half_y: Tensor | float = height / 2
    steps: list[Tensor] = []  # the first is applied last, to places in the stored image
    if drawn.window_B4 is not None:
        x_B, y_B, width_B, height_B = drawn.window_B4.unbind(1)
        half_x, half_y = half_x * width_B, half_y * height_B
        steps.append(matrix(xx=width_B, yy=height_B, xt=2.0 * x_B - 1.0, yt=2.0 * y_B - 1.0))
    if drawn.flip_B2 is not None:
        steps.append(matrix(xx=drawn.flip_B2[:, 0], yy=drawn.flip_B2[:, 1]))
    if drawn.turn_B is not None:
        cos_B, sin_B = (values.double() for values in _quarter_turn(drawn.turn_B))
        steps.append(matrix(xx=cos_B, xy=sin_B, yx=-sin_B, yy=cos_B))
    steps.append(matrix(xx=1.0 / half_x, yy=1.0 / half_y))
    if drawn.zoom_B2 is not None:
        steps.append(matrix(xx=1.0 / drawn.zoom_B2[:, 0], yy=1.0 / drawn.zoom_B2[:, 1]))
    if drawn.shear_B2 is not None:
        steps.append(matrix(xy=-drawn.shear_B2[:, 0]))
        steps.append(matrix(yx=-drawn.shear_B2[:, 1]))
    if drawn.angle_B is not None:
        steps.append(rotation(drawn.angle_B))
    if drawn.shift_B2 is not None:
        steps.append(matrix(xt=-width * drawn.shift_B2[:, 0], yt=-height * drawn.shift_B2[:, 1]))
    if drawn.operation_BP is not None and drawn.strength_BP is not None:
        for operation_B, strength_B in zip(drawn.operation_BP.unbind(1), drawn.strength_BP.unbind(1), strict=True):
            amount = {  # 0 for the images that drew something else
                name: torch.where(operation_B == OPERATIONS.index(name), strength_B, 0.0) for name in GEOMETRIC
            }
            # Each image drew one operation, and the others' amounts are 0 for it, so one matrix can hold several.
            steps.append(
                matrix(
                    xy=-policy.shear * amount["shear_x"],
                    yx=-policy.shear * amount["shear_y"],
                    xt=-policy.translate * width * amount["translate_x"],
                    yt=-policy.translate * height * amount["translate_y"],
                )
            )
            steps.append(rotation(math.radians(policy.rotate) * amount["rotate"]))
    steps.append(matrix(xx=half_x, yy=half_y))
    product_B33 = steps[0]
    for step_B33 in steps[1:]:
        # Not matmul: its rounding may depend on the size of the batch.
        product_B33 = (product_B33[:, :, :, None] * step_B33[:, None, :, :]).sum(2)
    return product_B33[:, :2]


def sampling_grid(theta_B23: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, h, w, 2): `F.affine_grid` without a matrix product, so with the same bits in any batch."""
    y_h, x_w = ((2.0 * torch.arange(n, device=theta_B23.device, dtype=torch.float32) + 1.0 - n) / n for n in size)
    grid_Bhw2 = theta_B23.new_empty(len(theta_B23), *size, 2)
    for axis in range(2):
        along_Bw = theta_B23[:, axis, 0, None] * x_w
        down_Bh = theta_B23[:, axis, 1, None] * y_h + theta_B23[:, axis, 2, None]
        torch.add(down_Bh[:, :, None], along_Bw[:, None, :], out=grid_Bhw2[..., axis])
    return grid_Bhw2


def whole_places(drawn: Draw, size: tuple[int, int], border: str) -> tuple[Tensor, Tensor | None]:
    """Where each pixel of the result comes from if only whole pixels move.

    Returns:
        (B, N) int64, for the pixels of the result row by row the number of a pixel of the source, counted likewise; and
        with a border of zeros (B, N) bool, whether the pixel lies in the frame, else None.
    """
    height, width = size
    given = next(value for value in (drawn.flip_B2, drawn.turn_B, drawn.shift_B2) if value is not None)
    device, batch = given.device, len(given)
    flip_B2 = torch.ones(batch, 2, device=device) if drawn.flip_B2 is None else drawn.flip_B2
    turn_B = torch.zeros(batch, dtype=torch.int64, device=device) if drawn.turn_B is None else drawn.turn_B
    column_Bw = torch.arange(width, device=device).expand(batch, -1)
    row_Bh = torch.arange(height, device=device).expand(batch, -1)
    inside_BN = None
    if drawn.shift_B2 is not None:
        column_Bw = column_Bw - torch.round(drawn.shift_B2[:, 0, None] * width).long()
        row_Bh = row_Bh - torch.round(drawn.shift_B2[:, 1, None] * height).long()
        if border == "zero":
            inside_Bw = (column_Bw >= 0) & (column_Bw < width)
            inside_Bh = (row_Bh >= 0) & (row_Bh < height)
            inside_BN = (inside_Bh[:, :, None] & inside_Bw[:, None, :]).flatten(1)
        if border == "reflect":
            column_Bw, row_Bh = column_Bw.remainder(2 * width), row_Bh.remainder(2 * height)
            column_Bw = torch.minimum(column_Bw, 2 * width - 1 - column_Bw)
            row_Bh = torch.minimum(row_Bh, 2 * height - 1 - row_Bh)
        else:
            column_Bw, row_Bh = column_Bw.clamp(0, width - 1), row_Bh.clamp(0, height - 1)
    # Twice the distance from the centre is a whole number, so turns and flips are matrices of whole numbers.
    across_Bw, down_Bh = 2 * column_Bw - (width - 1), 2 * row_Bh - (height - 1)
    cos_B, sin_B = _quarter_turn(turn_B)
    flip_x_B, flip_y_B = flip_B2.long().unbind(1)
    per_across_B = flip_x_B * cos_B - flip_y_B * sin_B * width
    per_down_B = flip_x_B * sin_B + flip_y_B * cos_B * width
    twice_Bhw = (per_down_B[:, None] * down_Bh)[:, :, None] + (per_across_B[:, None] * across_Bw)[:, None, :]
    return ((twice_Bhw + (height * width - 1)) // 2).flatten(1), inside_BN


def _quarter_turn(turn_B: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of a number of quarter turns, as whole numbers."""
    return (1 - turn_B) * (1 - turn_B % 2), (2 - turn_B) * (turn_B % 2)


def antialiasing(s: Augment, source: tuple[int, int], size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Sides of the blocks averaged before resampling, and samples per pixel of the result; (vertical, horizontal)."""
    stretch = math.sqrt(s.aspect)
    finest, coarsest = 1 / (s.scale[1] * stretch), stretch / s.scale[0]
    if s.crop_scale is not None:
        finest *= math.sqrt(s.crop_scale[0] / max(s.crop_ratio[1], 1 / s.crop_ratio[0]))
        # The crop's longer side may be the frame's: nothing to take off the coarsest step.
    blocks, samples = [], []
    for stored, wanted in zip(source, size, strict=True):
        step = stored / wanted  # stored pixels per pixel of the result, before any zoom
        block = max(1, math.floor(step * finest))
        blocks.append(block)
        samples.append(max(1, math.ceil(step * coarsest / block - 0.5)))
    return (blocks[0], blocks[1]), (samples[0], samples[1])
