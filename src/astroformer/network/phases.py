"""Sampling that moves with the image: the choice of a phase that makes a strided network exactly shift-equivariant.

A stride of 2 keeps one of four phases (even or odd rows, even or odd columns) of a map, and which one it is changes
when the image moves by a pixel. Here the map itself says which phase is kept, so that the choice moves along (after
adaptive polyphase sampling, Chaman & Dokmanić, arXiv 2011.14214; there the phase of largest norm is kept): the map is
rolled until the chosen phase is the first, and every layer after it works as ever. On the torus (`torus.py`), that is
with circular convolutions and a position bias by circular offsets, the network then commutes with integer circular
shifts exactly.

Legend: B images, C channels, H and W rows and columns, P phases a side (the period).
"""

from __future__ import annotations

import torch
from torch import Tensor

from astroformer.network.torus import rolled

# Of the four neighbours above, below, left and right. Unequal, or mirror-symmetric images would score two phases alike
# (the norm of a phase does: 41 % of pairs then fail even in float64).
_WEIGHTS = (1.37, 0.61, 1.13, 0.83)
_ABOVE, _BELOW, _LEFT, _RIGHT = (1, 1), (-1, 1), (1, 2), (-1, 2)  # step and axis of a roll
# What is above, below, left and right of a place in each view of `views.d4_views`, in the image itself.
_TURNED = (
    (_ABOVE, _BELOW, _LEFT, _RIGHT),
    (_RIGHT, _LEFT, _ABOVE, _BELOW),
    (_BELOW, _ABOVE, _RIGHT, _LEFT),
    (_LEFT, _RIGHT, _BELOW, _ABOVE),
)
_NEIGHBOURS = _TURNED + tuple((above, below, right, left) for above, below, left, right in _TURNED)
# So that bright and dark places never score alike, as those of a checkerboard would.
_OFFSET = 0.5
_DARK = 0.83
_GRAINS = 2.0**40  # scores are summed as integers of so many to the largest: no rounding, whatever the order


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
    """How much happens at each place, (B, H, W) of int64 from 0 to 2^40: it moves with the image, to the bit. While a
    graph is exported, the same whole numbers are float64.

    r = Σ w (E - E(neighbour)) with E = Σ_c (x_c + 1/2)² and unequal w; r, or -0.83 r where that is positive, to the
    fourth power, so that few places decide: the best phase is then ahead of the second by a tenth of the sum over all,
    in the median of smooth galaxies, where the norms of two phases differ by 0.05 %
    (`benchmarks/symmetry.py --margins`).
    """
    return _score(_energy(x_BCHW), _NEIGHBOURS[0])


def view_scores(x_BCHW: Tensor) -> Tensor:
    """The sum of `phase_score` over each of the eight views of `views.d4_views`, (8, B) of int64, to the bit.

    No circular shift changes it, and a turn or flip of the image only changes which view has which.
    """
    energy_BHW = _energy(x_BCHW)
    return torch.stack([_score(energy_BHW, neighbours).sum((1, 2)) for neighbours in _NEIGHBOURS])


def _energy(x_BCHW: Tensor) -> Tensor:
    if x_BCHW.dtype not in (torch.float32, torch.float64):
        x_BCHW = x_BCHW.float()
    x_BHWC = x_BCHW.permute(0, 2, 3, 1).contiguous()  # a norm over channels that lie apart takes twenty times as long
    return torch.linalg.vector_norm(x_BHWC + _OFFSET, dim=3).square()


def _score(energy_BHW: Tensor, neighbours: tuple[tuple[int, int], ...]) -> Tensor:
    detail_BHW = sum(_WEIGHTS) * energy_BHW
    for (step, axis), weight in zip(neighbours, _WEIGHTS, strict=True):
        detail_BHW = detail_BHW - weight * energy_BHW.roll(step, axis)
    detail_BHW = torch.where(detail_BHW > 0, detail_BHW, -_DARK * detail_BHW)
    largest_B11 = detail_BHW.amax((1, 2), keepdim=True)
    share_BHW = detail_BHW / largest_B11.clamp_min(torch.finfo(detail_BHW.dtype).tiny)
    grains_BHW = share_BHW.square().square() * _GRAINS
    # Runtimes that an exported graph goes to may have no integers of 64 bits (OpenVINO), or no float64.
    return grains_BHW.double().floor() if torch.compiler.is_exporting() else grains_BHW.to(torch.int64)
