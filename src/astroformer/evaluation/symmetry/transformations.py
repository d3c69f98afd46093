"""Shifts, crops, flips, turns and rotations: what is drawn for an image, and what is done to images and maps.

What is drawn is a function of (seed, image, view).

Legend: N images, B batch, C channels, H height, W width, V views of an image, h and w sides of a map. Shifts are (rows,
columns) in pixels, down and to the right positive.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from astroformer.evaluation.symmetry.settings import Padding, crop_range
from astroformer.randomness import Stream, uniforms

Array = NDArray[Any]


def draw_shifts(seed: int, n: int, views: int, rows: tuple[int, int], columns: tuple[int, int]) -> NDArray[np.int64]:
    """(N, V, 2) shifts, uniform over the rectangle of whole (row, column) in the two ranges without (0, 0)."""
    across = columns[1] - columns[0] + 1
    total = (rows[1] - rows[0] + 1) * across
    zero = -rows[0] * across - columns[0]  # the place of (0, 0) when the rectangle is counted row by row
    place_NV = np.floor(_uniforms(seed, n, views, Stream.SYMMETRY_SHIFT) * (total - 1)).astype(np.int64)
    place_NV += place_NV >= zero
    return np.stack((place_NV // across + rows[0], place_NV % across + columns[0]), axis=2)


def draw_crops(seed: int, n: int, views: int, size: tuple[int, int], frame: tuple[int, int]) -> NDArray[np.int64]:
    """(N, V, 2) offsets of crops in the frame, rows and columns independent and uniform."""
    most = np.array([last + 1 for _, last in crop_range(size, frame)])
    u_NV2 = _uniforms(seed, n, 2 * views, Stream.SYMMETRY_CROP).reshape(n, views, 2)
    return np.floor(u_NV2 * most).astype(np.int64)


def draw_along_axes(seed: int, n: int, steps: list[int]) -> NDArray[np.int64]:
    """(N, V, 2) shifts of the given distances, each up, down, left or right."""
    unit_42 = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])
    direction_NV = np.floor(_uniforms(seed, n, len(steps), Stream.SYMMETRY_DIRECTION) * 4).astype(np.int64)
    return unit_42[direction_NV] * np.array(steps)[None, :, None]


def draw_angles(seed: int, n: int, views: int) -> Tensor:
    """(N, V) angles in radians, uniform in [−π, π)."""
    return torch.from_numpy((_uniforms(seed, n, views, Stream.SYMMETRY_ROTATION) * 2 - 1) * math.pi)


def _uniforms(seed: int, n: int, count: int, stream: Stream) -> NDArray[np.float64]:
    """(N, count) in [0, 1), 48 bits: those of one hash would not reach every shift of a large image."""
    u_NK = uniforms(seed, 0, torch.arange(n), stream, 2 * count).double().numpy()
    return u_NK[:, :count] + u_NK[:, count:] * 2.0**-24


@dataclass(frozen=True)
class Move:
    """A flip left-right, then quarter turns counterclockwise, then a circular shift of each image, (B, 2) in px."""

    flip: bool
    turns: int
    shift_B2: Tensor

    def image(self, x_BCHW: Tensor) -> Tensor:
        return roll(self._turn(x_BCHW), self.shift_B2)

    def map(self, map_BChw: Tensor, before_B2: Tensor, after_B2: Tensor, size: tuple[int, int]) -> Tensor:
        """T F(x) as the map of the moved image should show it, both with their offsets.

        Token m sits at pixel s·m + o(x), which moves with the image, and token m′ of the new map at s·m′ + o(Tx): for a
        shift by t, m′ = m + (t + o(x) − o(Tx)) / s. A fraction of a token is interpolated bilinearly on the torus; so
        under shifts that are no multiples of the stride, the error of a stage without offsets also holds what its map
        has of detail finer than that (aliasing).
        """
        down, right = (side / tokens for side, tokens in zip(size, map_BChw.shape[2:], strict=True))
        down_B, right_B = before_B2.double().unbind(1)
        # Turned round, an axis of stride s counts its offset from the other end of the token's s pixels.
        if self.flip:
            right_B = right - 1 - right_B
        for _ in range(self.turns):
            (down, down_B), (right, right_B) = (right, right - 1 - right_B), (down, down_B)
        pixels_B2 = self.shift_B2 + torch.stack((down_B, right_B), 1) - after_B2
        return roll(self._turn(map_BChw), pixels_B2 / torch.tensor([down, right], dtype=torch.float64))

    def _turn(self, x_BCHW: Tensor) -> Tensor:
        return torch.rot90(x_BCHW.flip(3) if self.flip else x_BCHW, self.turns, (2, 3))


def roll(x_BCHW: Tensor, shift_B2: Tensor) -> Tensor:
    """Each image rolled by its own shift; fractions by circular bilinear interpolation, whole numbers exactly."""
    rolled = []
    for x_CHW, shift_2 in zip(x_BCHW, shift_B2.tolist(), strict=True):
        for axis, by in enumerate(shift_2, start=1):
            whole = math.floor(by)
            share = by - whole
            near_CHW = torch.roll(x_CHW, whole, axis)
            x_CHW = near_CHW if share == 0 else near_CHW.lerp(torch.roll(x_CHW, whole + 1, axis), share)
        rolled.append(x_CHW)
    return torch.stack(rolled)


def rotate(x_BCHW: Tensor, angle_B: Tensor, padding: Padding) -> Tensor:
    """Each image turned about its centre by its own angle in radians, bilinear."""
    height, width = x_BCHW.shape[2:]
    cos_B, sin_B = angle_B.cos(), angle_B.sin()
    theta_B23 = torch.zeros(len(x_BCHW), 2, 3, dtype=angle_B.dtype)
    theta_B23[:, 0, 0], theta_B23[:, 0, 1] = cos_B, -sin_B * height / width  # in units of half of each side
    theta_B23[:, 1, 0], theta_B23[:, 1, 1] = sin_B * width / height, cos_B
    grid_BHW2 = F.affine_grid(theta_B23, list(x_BCHW.shape), align_corners=False).to(x_BCHW)
    return F.grid_sample(x_BCHW, grid_BHW2, mode="bilinear", padding_mode=padding, align_corners=False)


def cut(frame_BCHW: Tensor, offset_B2: Array, size: tuple[int, int]) -> Tensor:
    return torch.stack([
        frame_CHW[:, top : top + size[0], left : left + size[1]]
        for frame_CHW, (top, left) in zip(frame_BCHW, offset_B2.tolist(), strict=True)
    ])  # fmt: skip
