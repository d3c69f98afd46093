"""`Ensemble`: several networks of one config that answer as one, by the mean of their probabilities.

Legend: B images, K members, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from astroformer.errors import UserError
from astroformer.network.answers import Answers, answers_of
from astroformer.network.astroformer import Astroformer
from astroformer.network.config import AnswersConfig, AstroformerConfig, joined_words


class Ensemble(nn.Module):
    """A deep ensemble (Lakshminarayanan et al. 2017, arXiv 1612.01474): the mean of its members' probabilities.

    It maps images (B, in_chans, H, W) to logits (B, num_classes) as a network does, so that prediction, the measures of
    symmetry and export take it for one. Its logits are the logarithms of the mean probabilities, whose softmax gives
    those back. Members that are `Answers` average their logits over their views first. An ensemble of K members costs K
    times as much as one of them.

    Args:
        members: networks of equal configs that are asked in the same way; kept as `.members`.

    Raises:
        UserError: there are fewer than two members, or their configs differ.

    Examples:
        >>> from astroformer.network import create_network
        >>> ensemble = Ensemble([create_network("astroformer_atto", img_size=32) for _ in range(2)]).eval()
        >>> ensemble(torch.zeros(1, 3, 32, 32)).exp().sum().round().item()
        1.0
    """

    def __init__(self, members: Sequence[Astroformer | Answers]) -> None:
        super().__init__()
        if len(members) < 2:
            raise UserError(f"an ensemble of {len(members)} can't be; 2 members or more are needed.")
        self.config: AstroformerConfig = members[0].config
        self.answers: AnswersConfig = answers_of(members[0])
        first = joined_words(self.config, self.answers)
        for k, member in enumerate(members):
            other = joined_words(member.config, answers_of(member))
            for name, value in first.items():
                if other[name] != value:
                    raise UserError(
                        f"{name} of member {k} is {other[name]}, of member 0 {value}; the members of an ensemble are "
                        "networks of one config."
                    )
        self.members = nn.ModuleList(members)

    @property
    def networks(self) -> list[Astroformer | Answers]:
        """The members."""
        return [member for member in self.members if isinstance(member, Astroformer | Answers)]

    @property
    def num_classes(self) -> int:
        """Number of logits."""
        return self.config.num_classes

    @property
    def head_hidden_size(self) -> int:
        """Width of the members' features side by side."""
        return sum(member.head_hidden_size for member in self.networks)

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
