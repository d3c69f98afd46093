"""The feature maps of a network, and how far they move with the image.

Legend: B batch, C channels, H height, W width, h and w sides of a map.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from astroformer.evaluation.symmetry.transformations import Move

Features = Callable[[Tensor], tuple[list[Tensor], list[Tensor]]]
"""Images (B, C, H, W) to the maps (B, c, h, w) of some stages and the offset of each, (B, 2) in input pixels: token m
of a map with stride s sits at pixel (s·m + offset) mod (H, W)."""


def find_features(module: nn.Module) -> Features | None:
    """How a module is asked for its feature maps: `feature_maps_with_offsets`, `feature_maps`, or timm's
    `forward_intermediates`; None if it has none of them. The second and third know of no offsets, and a token is then
    taken to sit in the middle of its s × s pixels.
    """
    module_any: Any = module  # methods by name are no modules
    if hasattr(module, "feature_maps_with_offsets"):
        return lambda x_BCHW: module_any.feature_maps_with_offsets(x_BCHW)
    if hasattr(module, "feature_maps"):
        return lambda x_BCHW: _centred(x_BCHW, module_any.feature_maps(x_BCHW))
    if hasattr(module, "forward_intermediates"):
        return lambda x_BCHW: _centred(x_BCHW, module_any.forward_intermediates(x_BCHW, intermediates_only=True))
    return None


def _centred(x_BCHW: Tensor, maps: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    sides, n = x_BCHW.shape[2:], x_BCHW.shape[0]
    middles = [[(side / tokens - 1) / 2 for side, tokens in zip(sides, m.shape[2:], strict=True)] for m in maps]
    return maps, [torch.tensor(middle, dtype=torch.float64).repeat(n, 1) for middle in middles]


def feature_errors(
    move: Move,
    maps: list[Tensor],
    offsets: list[Tensor],
    moved_maps: list[Tensor],
    moved_offsets: list[Tensor],
    size: tuple[int, int],
) -> Tensor:
    """(B, stages) relative errors; 0 where a map is zero before and after."""
    errors = []
    for map_BChw, offset_B2, moved_BChw, moved_B2 in zip(maps, offsets, moved_maps, moved_offsets, strict=True):
        expected_BChw = move.map(map_BChw, offset_B2, moved_B2, size)
        off_B, norm_B = (m.flatten(1).double().norm(dim=1) for m in (moved_BChw - expected_BChw, map_BChw))
        errors.append((off_B / norm_B.clamp_min(torch.finfo(torch.float64).tiny)).cpu())
    return torch.stack(errors, 1)
