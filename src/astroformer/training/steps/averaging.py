"""The average of a network's weights over the last part of a run."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn


class AveragedNetwork:
    """An exponential moving average of all of a network's parameters and running statistics.

    timm's `ModelEmaV3` does the same (a test compares them), and importing timm takes as long as importing torch.

    Attributes:
        module: the averaged network, in eval mode; at first a copy.
    """

    def __init__(self, network: nn.Module) -> None:
        self.module = copy.deepcopy(network).eval()
        self._own = _Places(self.module)
        self._theirs: tuple[nn.Module, _Places] | None = None  # of the network that was last averaged

    @torch.no_grad()
    def update(self, network: nn.Module, weight: float | torch.Tensor) -> None:
        """average <- (1 - weight) average + weight network; whole numbers (batch counts) are those of `network`.

        Args:
            network: of the same architecture.
            weight: share of the new weights; a scalar tensor on the device where the host need not know it.
        """
        if self._theirs is None or self._theirs[0] is not network:
            self._theirs = network, _Places(network)
        (averages, counts), (currents, current_counts) = self._own.tensors(), self._theirs[1].tensors()
        if counts:  # without batch norms there are none, and torch takes no empty list
            torch._foreach_copy_(counts, current_counts)
        if not isinstance(weight, torch.Tensor):
            torch._foreach_lerp_(averages, currents, weight=weight)
            return
        steps = torch._foreach_sub(currents, averages)
        torch._foreach_mul_(steps, weight)
        torch._foreach_add_(averages, steps)


class _Places:
    """Where a network keeps what its state dict holds: to build that dict takes longer than to average what is in it.

    A place is a dictionary and a name, which stay when a tensor is replaced by another.
    """

    def __init__(self, network: nn.Module) -> None:
        self._floating: list[tuple[Any, str]] = []
        self._counts: list[tuple[Any, str]] = []
        for module in network.modules():
            for kept in (module._parameters, module._buffers):
                for name, tensor in kept.items():
                    if tensor is not None and name not in module._non_persistent_buffers_set:
                        (self._floating if tensor.is_floating_point() else self._counts).append((kept, name))

    def tensors(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Floating-point tensors, and whole numbers, as they are now."""
        return [kept[name] for kept, name in self._floating], [kept[name] for kept, name in self._counts]
