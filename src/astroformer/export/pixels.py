"""`Pixels`: what `Preprocessing.apply` and `normalize` do, as operations on a batch of tensors that a graph can hold.

`Preprocessing` works on one image with numpy and Pillow, and refuses what it can't take by an error. A graph can do
neither, so this is the same arithmetic once more, which a test holds equal, and what would be refused is marked.

Legend: B images, C bands, H and W rows and columns of the image, h and w those of the model's size, P = h·w.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from astroformer.export.resizing import Side, filled, resized_floats, resized_whole, sides, weights, within
from astroformer.images import preprocessing as settings
from astroformer.images import scaling as scalings
from astroformer.images.preprocessing import Preprocessing
from astroformer.images.units import WHITE_16
from astroformer.images.units import Pixels as Kind

TYPES: dict[Kind, torch.dtype] = {"uint8": torch.uint8, "uint16": torch.uint16, "float": torch.float32}
_HALF_SPLIT = 2.0**13 + 1  # rounds float32 to the 11 digits of float16, by Veltkamp's two subtractions
_HALF_MOST = 65519.0  # that float16 rounds to a number


def kind_of(preprocessing: Preprocessing) -> Kind:
    """The type of pixels that a model learned from."""
    if preprocessing.units is not None:
        return preprocessing.units.pixels
    return "uint8" if preprocessing.dtype == "uint8" else "float"


class Pixels(nn.Module):
    """Raw images (B, H, W, C) of any size to what the network sees, (B, C, h, w), and which of them can be taken (B,).

    Args:
        preprocessing: of the model.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.preprocessing, self.kind = preprocessing, kind_of(preprocessing)
        self.normalized = Normalized(preprocessing)

    def forward(self, images_BHWC: Tensor) -> tuple[Tensor, Tensor]:
        preprocessing = self.preprocessing
        height, width = images_BHWC.shape[1:3]
        rows, columns = sides(preprocessing, height, width)
        x_BCHW = images_BHWC.permute(0, 3, 1, 2).float()
        cut_HW = within(rows, height)[:, None] & within(columns, width)
        if self.kind == "uint16":
            assert preprocessing.units is not None
            x_BCHW = x_BCHW / (preprocessing.units.white or WHITE_16)
            good_B = x_BCHW.amax((1, 2, 3)) <= 1
        elif self.kind == "float":
            x_BCHW, good_B = self._filled(x_BCHW, cut_HW, rows.kept * columns.kept)
        else:
            good_B = torch.ones_like(x_BCHW[:, 0, 0, 0], dtype=torch.bool)
        target_h, target_w = preprocessing.image_size
        matrices = (weights(rows, height, target_h), weights(columns, width, target_w))
        if self.kind == "uint8":
            x_BChw = resized_whole(x_BCHW, *matrices)
        else:
            x_BChw = resized_floats(x_BCHW, *matrices)
            if self.kind == "uint16":
                x_BChw = x_BChw.clamp(0, 1)
        x_BChw, stored_B = self._stored(x_BChw, rows, columns)
        return self.normalized(x_BChw), good_B & stored_B

    def _filled(self, x_BCHW: Tensor, cut_HW: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Floats with values where they have none and 0 outside of the frame, and which images may be filled."""
        missing_BCHW = x_BCHW.isnan()
        zero = torch.zeros_like(x_BCHW)
        if self.preprocessing.missing == "refuse":
            return torch.where(cut_HW & ~missing_BCHW, x_BCHW, zero), ~missing_BCHW.flatten(1).any(1)
        missing_BCHW = missing_BCHW & cut_HW
        share_BC = missing_BCHW.double().sum((2, 3)) / pixels
        fill_BC11 = zero
        if self.preprocessing.missing == "median":
            known_BCP = (cut_HW & ~missing_BCHW).flatten(2)
            fill_BC11 = masked_median(x_BCHW.flatten(2), known_BCP)[:, :, None, None]
        x_BCHW = torch.where(missing_BCHW, fill_BC11, torch.where(cut_HW, x_BCHW, zero))
        return x_BCHW, (share_BC <= settings.MOST_MISSING).all(1)

    def _stored(self, x_BChw: Tensor, rows: Side, columns: Side) -> tuple[Tensor, Tensor]:
        """What the image store would keep, as float32 that counts 8 bits from 0 to 1, and which of it is sound."""
        preprocessing = self.preprocessing
        if self.kind == "uint8":
            x_BChw = x_BChw / 255
        shown_hw = None
        if preprocessing.fit == "pad":
            target_h, target_w = preprocessing.image_size
            shown_hw = filled(rows, target_h)[:, None] & filled(columns, target_w)
        if preprocessing.scaling is not None:
            if preprocessing.scaling.kind == "asinh-sky":
                x_BChw = x_BChw - _sky(x_BChw.double(), shown_hw)[:, :, None, None].float()
            x_BChw = _scaled(x_BChw, preprocessing.scaling)
            if shown_hw is not None:
                x_BChw = torch.where(shown_hw, x_BChw, torch.zeros_like(x_BChw))
        finite_B = x_BChw.isfinite().flatten(1).all(1)
        if preprocessing.dtype == "uint8":
            if preprocessing.scaling is not None:
                x_BChw = (255 * x_BChw.clamp(0, 1)).round() / 255
            return x_BChw, finite_B
        if preprocessing.dtype == "float32":
            return x_BChw, finite_B
        split_BChw = x_BChw * _HALF_SPLIT
        half_BChw = split_BChw - (split_BChw - x_BChw)
        if self.kind != "float" and preprocessing.scaling is None:
            return half_BChw, finite_B
        low_B, high_B = x_BChw.amin((1, 2, 3)), x_BChw.amax((1, 2, 3))
        coarse_B = (half_BChw - x_BChw).abs().amax((1, 2, 3)) > (high_B - low_B) / settings.HALF_STEPS
        return half_BChw, finite_B & (x_BChw.abs().amax((1, 2, 3)) <= _HALF_MOST) & ~(coarse_B & (high_B > low_B))


class Normalized(nn.Module):
    """Images (B, C, h, w), of which 8 bits count from 0 to 1, to what the network sees."""

    mean_C11: Tensor
    std_C11: Tensor

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        for name in ("mean", "std"):
            values = torch.tensor(getattr(preprocessing, name), dtype=torch.float32)
            self.register_buffer(f"{name}_C11", values[:, None, None])

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return (x_BCHW - self.mean_C11) / self.std_C11


def masked_median(x_BCP: Tensor, counts_BCP: Tensor, *, lower: bool = False) -> Tensor:
    """(B, C) the median of the values that count, 0 where none does; between two the mean, or the `lower` one."""
    counts_BCP = counts_BCP.expand_as(x_BCP)
    sorted_BCP = torch.where(counts_BCP, x_BCP, torch.full_like(x_BCP, math.inf)).sort(2).values
    n_BC1 = counts_BCP.to(torch.int64).sum(2, keepdim=True)
    low_BC1 = sorted_BCP.gather(2, ((n_BC1 - 1) // 2).clamp_min(0))
    high_BC1 = low_BC1 if lower else sorted_BCP.gather(2, (n_BC1 // 2).clamp_max(x_BCP.shape[2] - 1))
    middle_BC1 = (low_BC1 + high_BC1) / 2
    return torch.where(n_BC1 > 0, middle_BC1, torch.zeros_like(middle_BC1)).squeeze(2)


def _scaled(x_BChw: Tensor, scaling: scalings.Scaling) -> Tensor:
    """`Scaling.apply` of a batch."""
    low_C11, span_C11, a_C11 = map(torch.from_numpy, scaling.constants())
    t_BChw = (x_BChw - low_C11) / span_C11
    if scaling.is_asinh:
        return (t_BChw / a_C11).asinh() / (1 / a_C11).asinh()
    if scaling.kind == "log":
        return t_BChw.sign() * (scalings.LOG * t_BChw.abs()).log1p() / math.log1p(scalings.LOG)
    return t_BChw


def _sky(x_BChw: Tensor, shown_hw: Tensor | None) -> Tensor:
    """(B, C) `scaling.sky_of` of the pixels that show the image."""
    if shown_hw is None:
        shown_hw = torch.ones_like(x_BChw[0, 0], dtype=torch.bool)
    noise_BC1 = _noise(x_BChw, shown_hw)[:, :, None]
    x_BCP, shown_P = x_BChw.flatten(2), shown_hw.flatten()
    sky_BC = masked_median(x_BCP, shown_P)
    lower_BC = masked_median(x_BCP, shown_P, lower=True)
    for _ in range(scalings.CLIPPED):
        near_BCP = shown_P & ((x_BCP - sky_BC[:, :, None]).abs() <= 3 * noise_BC1)
        some_BC = torch.where(near_BCP.any(2), masked_median(x_BCP, near_BCP), lower_BC)
        sky_BC = torch.where(noise_BC1[:, :, 0] > 0, some_BC, sky_BC)
    return sky_BC


def _noise(x_BChw: Tensor, shown_hw: Tensor) -> Tensor:
    """(B, C) `scaling.noise_of` of the pixels that show the image."""
    found, counted = [], []
    for x, shown in ((x_BChw, shown_hw), (x_BChw.transpose(2, 3), shown_hw.T)):
        if x.shape[3] < 5:
            continue
        level_BCP = (x[..., 1:-3] + x[..., 3:-1]).flatten(2)
        known_P = (shown[:, :-4] & shown[:, 4:]).flatten()
        darker_BCP = known_P & (level_BCP <= masked_median(level_BCP, known_P)[:, :, None])
        found.append((2 * x[..., 2:-2] - x[..., :-4] - x[..., 4:]).abs().flatten(2))
        counted.append(darker_BCP)
    if not found:
        return torch.zeros_like(x_BChw[:, :, 0, 0])
    return scalings.SIGMA / math.sqrt(6) * masked_median(torch.cat(found, 2), torch.cat(counted, 2))
