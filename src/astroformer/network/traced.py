"""`traced`: the logits of a network with what they are made of, by the plain forward pass.

Legend: B images, C channels, H and W rows and columns, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from astroformer.network.answers import Answers
from astroformer.network.astroformer import Astroformer
from astroformer.network.ensemble import Ensemble, log_mean_probabilities


class Traced(NamedTuple):
    """What a network makes of B images on its way to their classes.

    Attributes:
        logits: (B, num_classes).
        features: (B, D), what the last linear layer makes the logits of.
        means: (B, sum of the widths), the map of each stage, S0 to S4, averaged over its places, side by side.
    """

    logits: Tensor
    features: Tensor
    means: Tensor

    @classmethod
    def of_members(cls, members: Sequence[Traced]) -> Traced:
        """Those of an ensemble: the logits of the mean probabilities, the rest side by side."""
        logits, features, means = zip(*members, strict=True)
        return cls(log_mean_probabilities(logits), torch.cat(features, 1), torch.cat(means, 1))


def traced(network: Astroformer | Answers | Ensemble, x_BCHW: Tensor) -> Traced:
    """What a network in eval mode makes of images (B, in_chans, H, W).

    Where logits are averaged over views, so is the rest. An ensemble has the features and the means of its members side
    by side. Errors as in `Astroformer.forward`.
    """
    if isinstance(network, Ensemble):
        return Traced.of_members([traced(member, x_BCHW) for member in network.networks])
    if isinstance(network, Answers):
        return Traced(*network.over_views(x_BCHW, lambda view_BCHW: traced(network.network, view_BCHW)))
    maps = network.feature_maps(x_BCHW)
    features_BD = network.forward_head(maps[-1], pre_logits=True)
    means = torch.cat([map_BChw.float().mean((2, 3)) for map_BChw in maps], 1)
    return Traced(network.get_classifier()(features_BD), features_BD, means)
