"""The average of a network's weights over the last part of a run."""

from __future__ import annotations

import copy

import torch
from torch import nn


class AveragedNetwork:
    """An exponential moving average of all of a network's parameters and running statistics.

    timm's `ModelEmaV3` does the same (a test compares them), and importing timm takes as long as importing torch.

    Attributes:
        module: the averaged network, in eval mode; at first a copy.
        decay: what each update keeps of the old average.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(network).eval()
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, weight: torch.Tensor | None = None) -> None:
        """average <- decay average + (1 - decay) network; whole numbers (batch counts) are those of `network`.

        Args:
            network: of the same architecture.
            weight: scalar on the device in place of 1 - decay, so that the host need not know it.
        """
        averages: list[torch.Tensor] = []
        currents: list[torch.Tensor] = []
        pairs = zip(self.module.state_dict().values(), network.state_dict().values(), strict=True)
        for average, current in pairs:
            if average.is_floating_point():
                averages.append(average)
                currents.append(current)
            else:
                average.copy_(current)
        if weight is None:
            torch._foreach_lerp_(averages, currents, weight=1.0 - self.decay)
            return
        steps = torch._foreach_sub(currents, averages)
        torch._foreach_mul_(steps, weight)
        torch._foreach_add_(averages, steps)
