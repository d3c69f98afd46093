"""What is drawn for each image: a function of (seed, epoch, image) alone, on any device and in any batch.

Shape letters: B images, P operations of the policy, T tries, K draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from astroformer.augmentation.settings import OPERATIONS, Augment, operations
from astroformer.randomness import Stream, uniforms


@dataclass(frozen=True)
class Draw:
    """What was drawn for a batch; None where the setting is off.

    Attributes:
        flip_B2: −1 where flipped, else 1; (horizontal, vertical).
        turn_B: number of quarter turns, clockwise as seen.
        angle_B: rotation in radians, clockwise as seen.
        zoom_B2: factors of enlargement (horizontal, vertical).
        shear_B2: tangents of the shear (along x, along y).
        shift_B2: shift to the (right, bottom), as fraction of the frame.
        window_B4: the crop, as fraction of the frame: (centre x, centre y, width, height).
        brightness_B, contrast_B, saturation_B: strengths; 1 changes nothing.
        hue_B: turn of the colour circle.
        erased_B4: rectangle (top, bottom, left, right) in pixels of the result; empty where nothing is
            erased.
        operation_BP: places in `OPERATIONS`, in order of application.
        strength_BP: their strengths in [−1, 1]; the sign is the direction, where an operation has one.
    """

    flip_B2: Tensor | None = None
    turn_B: Tensor | None = None
    angle_B: Tensor | None = None
    zoom_B2: Tensor | None = None
    shear_B2: Tensor | None = None
    shift_B2: Tensor | None = None
    window_B4: Tensor | None = None
    brightness_B: Tensor | None = None
    contrast_B: Tensor | None = None
    saturation_B: Tensor | None = None
    hue_B: Tensor | None = None
    erased_B4: Tensor | None = None
    operation_BP: Tensor | None = None
    strength_BP: Tensor | None = None


# Each draw has a column of its own, so turning a setting on leaves the draws of the others as they were.
_TRIES = 10  # a crop or rectangle that does not fit into the frame is drawn again, at most so often
_SINGLE = (
    *("flip_horizontal", "flip_vertical", "quarter_turns", "rotation", "scale", "aspect"),
    *("shear_x", "shear_y", "shift_x", "shift_y", "crop_x", "crop_y"),
    *("brightness", "contrast", "saturation", "hue", "erasing", "erasing_x", "erasing_y"),
)
_DRAWN_AGAIN = ("crop_area", "crop_ratio", "erasing_area", "erasing_aspect")
_COLUMN = {name: slice(i, i + 1) for i, name in enumerate(_SINGLE)} | {
    name: slice(len(_SINGLE) + _TRIES * i, len(_SINGLE) + _TRIES * (i + 1)) for i, name in enumerate(_DRAWN_AGAIN)
}
POLICY_COLUMN = len(_SINGLE) + _TRIES * len(_DRAWN_AGAIN)


def draw(
    s: Augment,
    index_B: Tensor,
    *,
    seed: int,
    epoch: int,
    size: tuple[int, int],
    channels: int,
    integer: bool,
    rgb: bool = True,
) -> Draw:
    """What is done to images `index_B` (B,) in `epoch` for results of `size`; on `index_B`'s device.

    A policy chooses among the operations that mean something for so many channels, three of which are red, green and
    blue where `rgb` is true, and for images that are uint8 where `integer` is true. Nothing here is copied between host
    and device.
    """
    policy_slots = s.policy_slots
    # In float64 angles and sizes lose nothing to rounding, and these tensors are tiny.
    u_BK = uniforms(seed, epoch, index_B, Stream.AUGMENT, POLICY_COLUMN + 3 * policy_slots).double()

    def u(*names: str) -> Tensor:
        """The columns of these names: (B,) if that is one column, else (B, n)."""
        columns = torch.cat([u_BK[:, _COLUMN[name]] for name in names], dim=1)
        return columns[:, 0] if columns.shape[1] == 1 else columns

    def factor(strength: float, name: str) -> Tensor:
        """In 1 ± strength, not below 0."""
        low = max(0.0, 1.0 - strength)
        return low + (1.0 + strength - low) * u(name)

    found: dict[str, Tensor] = {}
    if s.flip_horizontal > 0 or s.flip_vertical > 0:
        flipped = (u("flip_horizontal") < s.flip_horizontal, u("flip_vertical") < s.flip_vertical)
        found["flip_B2"] = 1.0 - 2.0 * torch.stack(flipped, dim=1).double()
    if s.quarter_turns:
        found["turn_B"] = (4.0 * u("quarter_turns")).long()
    if s.rotation > 0:
        found["angle_B"] = math.radians(s.rotation) * (2.0 * u("rotation") - 1.0)
    if s.scale != (1.0, 1.0) or s.aspect > 1:
        zoom_B = _log_uniform(u("scale"), s.scale)
        stretch_B = _log_uniform(u("aspect"), (1.0 / math.sqrt(s.aspect), math.sqrt(s.aspect)))
        found["zoom_B2"] = torch.stack((zoom_B * stretch_B, zoom_B / stretch_B), dim=1)
    if s.shear > 0:
        found["shear_B2"] = torch.tan(math.radians(s.shear) * (2.0 * u("shear_x", "shear_y") - 1.0))
    if s.shift > 0:
        found["shift_B2"] = s.shift * (2.0 * u("shift_x", "shift_y") - 1.0)
    if s.crop_scale is not None:
        low, high = s.crop_scale
        area_BT = low + (high - low) * u("crop_area")
        ratio_BT = _log_uniform(u("crop_ratio"), s.crop_ratio)
        found["window_B4"] = _window(area_BT, ratio_BT, u("crop_x", "crop_y"), s.crop_ratio, size)
    if s.brightness > 0:
        found["brightness_B"] = factor(s.brightness, "brightness").float()
    if s.contrast > 0:
        found["contrast_B"] = factor(s.contrast, "contrast").float()
    if s.saturation > 0 and channels == 3 and rgb:
        found["saturation_B"] = factor(s.saturation, "saturation").float()
    if s.hue > 0 and channels == 3 and rgb:
        found["hue_B"] = (s.hue * (2.0 * u("hue") - 1.0)).float()
    if s.erasing > 0:
        low, high = s.erasing_area
        area_BT = low + (high - low) * u("erasing_area")
        aspect_BT = _log_uniform(u("erasing_aspect"), s.erasing_aspect)
        box_B4 = _rectangle(area_BT, aspect_BT, u("erasing_y", "erasing_x"), size)
        found["erased_B4"] = box_B4 * (u("erasing") < s.erasing)[:, None]
    if policy_slots:
        u_BP3 = u_BK[:, POLICY_COLUMN:].unflatten(1, (policy_slots, 3))
        names = operations(s.policy, channels, integer, rgb=rgb)
        place_BP = (len(names) * u_BP3[..., 0]).long()
        for place, name in enumerate(OPERATIONS):  # from a place among `names` to the one among all operations
            if name not in names:
                place_BP += place_BP >= place
        found["operation_BP"] = place_BP
        size_BP = u_BP3[..., 1]
        if s.policy == "randaugment":
            size_BP = torch.full_like(size_BP, s.policy_magnitude / 10.0)
        found["strength_BP"] = torch.where(u_BP3[..., 2] < 0.5, -size_BP, size_BP)
    return Draw(**found)


def _log_uniform(u: Tensor, ends: tuple[float, float]) -> Tensor:
    low, high = math.log(ends[0]), math.log(ends[1])
    return torch.exp(low + (high - low) * u)


def _first_that_fits(fits_BT: Tensor, *candidates_BT: Tensor) -> tuple[Tensor, ...]:
    """Of each image's tries the first that fits, or the first of all where none fits; (B,) for each candidate."""
    first_B1 = fits_BT.to(torch.uint8).argmax(1, keepdim=True)
    return tuple(candidate_BT.gather(1, first_B1)[:, 0] for candidate_BT in candidates_BT)


def _window(
    area_BT: Tensor, ratio_BT: Tensor, place_B2: Tensor, ratios: tuple[float, float], size: tuple[int, int]
) -> Tensor:
    """Random-resized crop (B, 4), as fractions of the frame.

    Where no try fits, it is the largest central crop of an allowed ratio. Ratios are width over height as they
    appear at `size`.
    """
    frame = size[1] / size[0]
    width_BT, height_BT = torch.sqrt(area_BT * ratio_BT / frame), torch.sqrt(area_BT / ratio_BT * frame)
    fits_BT = (width_BT <= 1.0) & (height_BT <= 1.0)
    width_B, height_B = _first_that_fits(fits_BT, width_BT, height_BT)
    none_B = ~fits_BT.any(1)
    width_B = torch.where(none_B, min(1.0, ratios[1] / frame), width_B)
    height_B = torch.where(none_B, min(1.0, frame / ratios[0]), height_B)
    place_B2 = torch.where(none_B[:, None], 0.5, place_B2)
    x_B = width_B / 2 + place_B2[:, 0] * (1.0 - width_B)
    y_B = height_B / 2 + place_B2[:, 1] * (1.0 - height_B)
    return torch.stack((x_B, y_B, width_B, height_B), dim=1)


def _rectangle(area_BT: Tensor, aspect_BT: Tensor, place_B2: Tensor, size: tuple[int, int]) -> Tensor:
    """Random erasing (Zhong et al., arXiv 1708.04896): (B, 4) int64 pixels, empty where no try fits."""
    pixels = size[0] * size[1]
    height_BT, width_BT = (
        torch.sqrt(pixels * area_BT * aspect_BT).round(),
        torch.sqrt(pixels * area_BT / aspect_BT).round(),
    )
    fits_BT = (height_BT < size[0]) & (width_BT < size[1])
    side_B2 = torch.stack(_first_that_fits(fits_BT, height_BT, width_BT), dim=1).long()
    room_B2 = torch.stack((size[0] - side_B2[:, 0], size[1] - side_B2[:, 1]), dim=1)
    low_B2 = (place_B2 * (room_B2 + 1)).long()
    box_B4 = torch.stack((low_B2, low_B2 + side_B2), dim=2).flatten(1)  # (top, bottom), (left, right)
    return box_B4 * fits_BT.any(1)[:, None]
