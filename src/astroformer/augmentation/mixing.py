"""Mixing of two images and their labels: mixup and CutMix, drawn per image.

Shape letters: B images, C channels, H and W pixels, K classes; a box is (top, bottom, left, right), in
pixels, end excluded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from astroformer.randomness import Stream, uniforms

BETA_NODES = 4_097  # of the table of a Beta law


class Beta:
    """The symmetric Beta(α, α) law on [0, 1], sampled by inverting its distribution function.

    The distribution function is tabulated on [0, ½] (the rest by symmetry) over t = x^min(α, 1): in that
    variable the density stays finite for α < 1 too. The inversion is linear between 4,097 nodes, which is
    within 1e-6 of the exact quantile.

    Attributes:
        alpha: α.
        node: (4,097,) float64, the values of t in the table.
        below: (4,097,) float64, the distribution function there.
        exponent: x is t to this power.
    """

    def __init__(self, alpha: float) -> None:
        if not alpha > 0:
            raise ValueError(f"alpha must be positive, not {alpha}")
        self.alpha = alpha
        self._power = min(alpha, 1.0)
        node = np.linspace(0.0, 0.5**self._power, BETA_NODES)
        # Midpoint rule on 16 parts of each interval; x^(α−1) (1−x)^(α−1) dx, written in t.
        width = (node[1] - node[0]) / 16
        x = (node[:-1, None] + width * (np.arange(16) + 0.5)) ** (1.0 / self._power)
        mass = (x ** (alpha - self._power) * (1.0 - x) ** (alpha - 1.0)).sum(axis=1)
        below = np.concatenate(([0.0], np.cumsum(mass)))
        self.exponent = 1.0 / self._power
        self.node = torch.from_numpy(node)
        self.below = torch.from_numpy(0.5 * below / below[-1])
        self._on_device: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def quantile(self, u_B: Tensor) -> Tensor:
        """The x with P(X ≤ x) = u; u in [0, 1], any shape; float32 on u's device."""
        if u_B.device not in self._on_device:  # copied once, since a copy to a GPU waits for the GPU
            self._on_device[u_B.device] = self.node.to(u_B.device), self.below.to(u_B.device)
        node, below = self._on_device[u_B.device]
        tail = torch.minimum(u_B.double(), 1.0 - u_B.double())
        right = torch.searchsorted(below, tail, right=True).clamp_(1, len(below) - 1)
        part = (tail - below[right - 1]) / (below[right] - below[right - 1])
        x = torch.lerp(node[right - 1], node[right], part) ** self.exponent
        return torch.where(u_B > 0.5, 1.0 - x, x).float()


@dataclass(frozen=True)
class MixDraw:
    """What was drawn for a batch.

    Attributes:
        blend_B: share of the image itself in a blend of the two; 1 for an image that mixup leaves alone.
        box_B4: the box taken from the partner; empty for an image that CutMix leaves alone.
        own_B: share of the image's own label: `blend_B`, or 1 − the box's share of the frame.
    """

    blend_B: Tensor
    box_B4: Tensor
    own_B: Tensor


class Mixer:
    """mixup (Zhang et al., arXiv 1710.09412) and CutMix (Yun et al., arXiv 1905.04899), drawn for each image.

    Args:
        mixup: α of mixup's Beta(α, α); 0 turns it off.
        cutmix: α of CutMix's Beta(α, α); 0 turns it off.
        probability: of mixing an image at all.
        switch: probability that a mixed image takes CutMix, where both are on.
        seed: of the run.
    """

    def __init__(
        self, *, mixup: float, cutmix: float, probability: float = 1.0, switch: float = 0.5, seed: int
    ) -> None:
        self.mixup = Beta(mixup) if mixup > 0 else None
        self.cutmix = Beta(cutmix) if cutmix > 0 else None
        self.probability = probability
        self.switch = 1.0 if mixup <= 0 else 0.0 if cutmix <= 0 else switch
        self._seed = seed

    @property
    def active(self) -> bool:
        """Whether `mix` ever changes anything."""
        return self.probability > 0 and (self.mixup is not None or self.cutmix is not None)

    def draw(self, index_B: Tensor, epoch: int, size: tuple[int, int]) -> MixDraw:
        """Shares and boxes for images `index_B` (B,) int64 of `size` (H, W); on `index_B`'s device."""
        u_BK = uniforms(self._seed, epoch, index_B, Stream.MIX, 5)
        mixed_B = u_BK[:, 0] < self.probability
        cut_B = mixed_B & (u_BK[:, 1] < self.switch)
        blend_B = torch.ones_like(u_BK[:, 2])
        if self.mixup is not None:
            blend_B = torch.where(mixed_B & ~cut_B, self.mixup.quantile(u_BK[:, 2]), blend_B)
        own_B = blend_B
        box_B4 = index_B.new_zeros(len(index_B), 4)
        if self.cutmix is not None:
            side_B = (1.0 - self.cutmix.quantile(u_BK[:, 2])).sqrt() * cut_B
            box_B4 = _box(side_B, u_BK[:, 3:5], size)
            top_B, bottom_B, left_B, right_B = box_B4.unbind(1)
            area_B = (bottom_B - top_B) * (right_B - left_B)
            own_B = torch.where(cut_B, 1.0 - area_B / (size[0] * size[1]), own_B)
        return MixDraw(blend_B, box_B4, own_B)

    def mix(
        self,
        x_BCHW: Tensor,
        partner_BCHW: Tensor,
        y_BK: Tensor,
        partner_y_BK: Tensor,
        index_B: Tensor,
        epoch: int,
    ) -> tuple[Tensor, Tensor]:
        """Mix each image, and its label, with its partner's.

        The partner of an image should follow from the epoch's order alone, as the next image in it does. Then the
        result does not depend on the batch size.

        Args:
            x_BCHW: float images. Neither they nor the other arguments are changed.
            partner_BCHW: one partner for each, of the same shape.
            y_BK: class probabilities (one-hot, smoothed or already soft), float.
            partner_y_BK: those of the partners.
            index_B: (B,) int64, which image of the set each of `x_BCHW` is.
            epoch: number of the epoch.

        Returns:
            The mixed images and labels, on `x_BCHW`'s device.
        """
        if not self.active:
            return x_BCHW, y_BK
        height, width = x_BCHW.shape[-2:]
        drawn = self.draw(index_B, epoch, (height, width))
        if self.mixup is not None:
            # lerp returns its second argument exactly where the weight is 1.
            x_BCHW = torch.lerp(partner_BCHW, x_BCHW, drawn.blend_B.to(x_BCHW)[:, None, None, None])
        if self.cutmix is not None:
            x_BCHW = torch.where(box_mask(drawn.box_B4.to(x_BCHW.device), (height, width)), partner_BCHW, x_BCHW)
        return x_BCHW, torch.lerp(partner_y_BK, y_BK, drawn.own_B.to(y_BK)[:, None])


def box_mask(box_B4: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, 1, H, W) bool, true inside each image's box (top, bottom, left, right; ends excluded)."""
    top_B1, bottom_B1, left_B1, right_B1 = box_B4[:, :, None].unbind(1)
    row_H = torch.arange(size[0], device=box_B4.device)
    column_W = torch.arange(size[1], device=box_B4.device)
    rows_BH = (row_H >= top_B1) & (row_H < bottom_B1)
    columns_BW = (column_W >= left_B1) & (column_W < right_B1)
    return (rows_BH[:, :, None] & columns_BW[:, None, :])[:, None]


def _box(side_B: Tensor, u_B2: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, 4) boxes about a uniformly drawn pixel, cut off at the frame; `side_B` is their share of its sides."""
    ends = []
    for axis, extent in enumerate(size):
        length_B = (side_B * extent).long()
        centre_B = (u_B2[:, axis] * extent).long()
        ends += [(centre_B - length_B // 2).clamp_(min=0), (centre_B + (length_B + 1) // 2).clamp_(max=extent)]
    return torch.stack(ends, dim=1)  # top, bottom, left, right
