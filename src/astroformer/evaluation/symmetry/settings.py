"""What is drawn and how it is computed, and what sizes of images allow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from astroformer.errors import UserError, unknown_name

Dtype = Literal["float64", "float32", "bfloat16"]
"""The numbers that a network is measured in; bfloat16 is autocast."""
Padding = Literal["reflection", "border", "zeros"]
"""What a rotated image shows beyond its frame: its mirror image, its rim's pixels, or 0."""
_MOST = 100_000  # of what is drawn for an image, and of images at once


@dataclass(frozen=True)
class SymmetrySettings:
    """What is drawn and how it is computed.

    Attributes:
        seed: of all draws; each is a function of (seed, image's position, view).
        shifts: n, circular shifts an image: worst of n, and ⌊n/2⌋ pairs for C-Cons.
        max_shift: rows and columns are drawn from [−max_shift, max_shift] px; None: from all shifts of the torus.
        crops: crops an image, ⌊crops/2⌋ pairs for S-Cons.
        rotations: free rotations an image, of angles uniform in [−180°, 180°).
        padding: what a rotated image shows beyond its frame (bilinear `grid_sample`).
        dtype: of weights and images; `bfloat16` is autocast over float32.
        batch_size: images a forward pass; what is drawn does not depend on it.
    """

    seed: int = 0
    shifts: int = 16
    max_shift: int | None = None
    crops: int = 8
    rotations: int = 8
    padding: Padding = "reflection"
    dtype: Dtype = "float32"
    batch_size: int = 64

    def __post_init__(self) -> None:
        for name, least, of in (
            ("shifts", 2, "an image"),
            ("crops", 2, "an image"),
            ("rotations", 1, "an image"),
            ("batch_size", 1, "a forward pass"),
        ):
            if not least <= getattr(self, name) <= _MOST:
                raise UserError(f"{name} is {getattr(self, name)}; at least {least} {of} is needed, at most {_MOST:,}.")
        if not 0 <= self.seed < 2**31:
            raise UserError(f"seed is {self.seed}; a whole number from 0 to {2**31 - 1} is needed.")
        if self.max_shift is not None and self.max_shift < 1:
            raise UserError(f"max_shift is {self.max_shift}; at least 1 px is needed, or none for all circular shifts.")
        if self.padding not in get_args(Padding):
            raise unknown_name("padding", self.padding, get_args(Padding))
        if self.dtype not in get_args(Dtype):
            raise unknown_name("dtype", self.dtype, get_args(Dtype))


def shift_range(size: tuple[int, int], max_shift: int | None) -> tuple[tuple[int, int], tuple[int, int]]:
    """Smallest and largest shift of rows and of columns, both included; None: every shift of the torus once.

    Raises:
        UserError: `max_shift` is more than half of a side, from where a circular shift is a shorter one the other way.
    """
    if max_shift is None:
        (top, bottom), (left, right) = ((-(side // 2), side - side // 2 - 1) for side in size)
        return (top, bottom), (left, right)
    if not 1 <= max_shift <= min(size) // 2:
        raise UserError(
            f"max_shift is {max_shift}; images of {size[0]} × {size[1]} px take 1 to {min(size) // 2}, half of their "
            "shorter side."
        )
    return (-max_shift, max_shift), (-max_shift, max_shift)


def frame_size(size: tuple[int, int]) -> tuple[int, int]:
    """The frame that crops of (H, W) are cut from: 256 px for 224, and for other sides a seventh more, rounded.

    Offsets are drawn from [0, margin − 1] as Zhang's code does: [0, 31] for 224 px, [0, 8] for 64. The margin is at
    least 2 px, so that there are two crops to compare.
    """
    height, width = (side + max(2, round(side * 32 / 224)) for side in size)
    return height, width


def crop_range(size: tuple[int, int], frame: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    rows, columns = ((0, outer - side - 1) for outer, side in zip(frame, size, strict=True))
    return rows, columns


def distances(size: tuple[int, int]) -> list[int]:
    """Distances in px from 1 to half of the shorter side: each up to 8, then eight more, odd and even in turn."""
    half = min(size) // 2
    if half <= 24:
        return list(range(1, half + 1))
    return [*range(1, 9), *(round(d) | (i % 2 == 0) for i, d in enumerate(np.linspace(8, half, 9)[1:]))]
