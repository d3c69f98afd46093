"""`Ensemble`: several networks of one config that answer as one, by the mean of their probabilities.

Legend: B images, K members, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from astroformer.errors import UserError
from astroformer.network.astroformer import Astroformer
from astroformer.network.config import AstroformerConfig


class Ensemble(nn.Module):
    """A deep ensemble (Lakshminarayanan et al. 2017, arXiv 1612.01474): the mean of its members' probabilities.

    It is a network like any other, images (B, in_chans, H, W) to logits (B, num_classes), so that whatever asks a
    network asks an ensemble too: prediction, symmetry, export. Its logits are the logarithms of the mean probabilities,
    whose softmax gives those back. With `symmetry` "shift+d4" each member averages its logits over the views
    first. An image costs as much as by all members one after the other.

    Args:
        members: networks of equal configs; kept as `.members`, so the state dict is theirs with `members.0.` and so on
            before each name.

    Raises:
        UserError: fewer than two members, or configs that differ.
    """

    def __init__(self, members: Sequence[Astroformer]) -> None:
        super().__init__()
        if len(members) < 2:
            raise UserError(f"an ensemble of {len(members)} can't be; 2 members or more are needed.")
        self.config: AstroformerConfig = members[0].config
        first = self.config.to_dict()
        for k, member in enumerate(members):
            other = member.config.to_dict()
            for name, value in first.items():
                if other[name] != value:
                    raise UserError(
                        f"{name} of member {k} is {other[name]}, of member 0 {value}; the members of an ensemble are "
                        "networks of one config."
                    )
        self.members = nn.ModuleList(members)

    @property
    def networks(self) -> list[Astroformer]:
        """The members."""
        return [member for member in self.members if isinstance(member, Astroformer)]

    @property
    def num_classes(self) -> int:
        """Number of logits."""
        return self.config.num_classes

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) to the logarithms (B, num_classes) of the members' mean probabilities.

        Raises:
            UserError: the members don't take images of this shape (`check_images`).
        """
        return log_mean_probabilities([member(x_BCHW) for member in self.members])


def log_mean_probabilities(logits_BC: Sequence[Tensor]) -> Tensor:
    """The logarithms (B, C) of the mean of the probabilities that K times logits (B, C) stand for.

    ln (1/K) Σ softmax(z) = logsumexp(log_softmax(z)) - ln K: no probability is ever computed, so none rounds to 0.
    """
    logs_KBC = torch.stack([torch.log_softmax(z_BC, dim=1) for z_BC in logits_BC])
    return torch.logsumexp(logs_KBC, dim=0) - math.log(len(logits_BC))
