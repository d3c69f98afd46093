"""What follows the backward pass of a fused step on a CPU, by a kernel that goes through all weights at once
(`native/update.cpp`).

A small network has a hundred tensors, and to tie, clip and update them one by one takes longer than the arithmetic, and
no less on more threads. The plain version is `Loop._update`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from astroformer.native import Kernels, library, why_not
from astroformer.network import Tie

_KERNELS = Kernels("update", torch.float32)


def why_no_fused_update(network: nn.Module, optimizer: torch.optim.Optimizer) -> str | None:
    """What keeps the plain update; None if nothing does."""
    if not isinstance(optimizer, torch.optim.AdamW):
        return "of optimizers only AdamW has a kernel"
    if not all(_known(parameter) for parameter in network.parameters()):
        return "weights are not all float32, dense and on the CPU"
    return why_not("update") if library("update") is None else None


def _known(tensor: Tensor) -> bool:
    """Whether the kernel can go through a tensor as it lies in memory."""
    dense = tensor.is_contiguous() or tensor.is_contiguous(memory_format=torch.channels_last)
    return tensor.dtype == torch.float32 and tensor.device.type == "cpu" and dense


class FusedUpdate:
    """Ties and clips the gradients of a network, makes AdamW's update, and drops them.

    What AdamW remembers is kept where torch's keeps it, so checkpoints are the same.

    Args:
        network: whose weights `optimizer` updates; see `why_no_fused_update`.
        optimizer: of `create_optimizer`; its groups' learning rate and weight decay are read at every update.
        clip: largest norm of the gradient, or None.
        tie: of weights that stay equal.
    """

    def __init__(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, *, clip: float | None, tie: Tie | None
    ) -> None:
        self._optimizer = optimizer
        updated = {p for group in optimizer.param_groups for p in group["params"]}
        every = list(network.parameters())
        members = [None] * len(every) if tie is None else _in_memory(tie, every)
        self._parameters = [p for p in every if p in updated]
        self._members = [m for p, m in zip(every, members, strict=True) if p in updated]
        self._order = 1 if tie is None else tie.order
        orbits = [0 if m is None else m.shape[1] for m in self._members]
        self._numbers = torch.tensor([[p.numel() for p in self._parameters], orbits])
        group = optimizer.param_groups[0]
        largest = math.inf if clip is None else clip
        self._settings = torch.tensor([*group["betas"], group["eps"], largest], dtype=torch.float64)
        # Found once for as long as the optimizer keeps its state, that of the first parameter among others.
        self._state: dict[str, Tensor] | None = None
        self._groups: list[dict[str, Any]] = []
        self._kept: list[list[int]] = []  # addresses

    def __call__(self) -> None:
        """One update."""
        if self._state is None or self._optimizer.state[self._parameters[0]] is not self._state:
            self._take_up()
        weights = [p.data_ptr() for p in self._parameters]
        gradients = [0 if p.grad is None else p.grad.data_ptr() for p in self._parameters]
        paces = [[group[name] for group in self._groups] for name in ("lr", "weight_decay")]
        _KERNELS(
            "update",
            torch.tensor([weights, gradients, *self._kept]),
            self._numbers,
            torch.tensor(paces, dtype=torch.float64),
            self._settings,
            *(len(weights), self._order),
        )
        for parameter in self._parameters:
            parameter.grad = None

    def _take_up(self) -> None:
        """Begins, or goes on from the state that the optimizer was given."""
        group_of = {p: group for group in self._optimizer.param_groups for p in group["params"]}
        self._groups = [group_of[p] for p in self._parameters]
        states = [self._optimizer.state[p] for p in self._parameters]
        for parameter, state in zip(self._parameters, states, strict=True):
            if not state:
                state["step"] = torch.zeros(())
                for name in ("exp_avg", "exp_avg_sq"):
                    state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        self._state = states[0]
        self._kept = [[state[name].data_ptr() for state in states] for name in ("exp_avg", "exp_avg_sq", "step")]
        self._kept.append([0 if m is None else m.data_ptr() for m in self._members])


def _in_memory(tie: Tie, parameters: Sequence[Tensor]) -> list[Tensor]:
    """The members of the orbits of each weight, (order, orbits) int32, as places in its memory."""
    made = []
    for parameter, members_GO in zip(parameters, tie.members, strict=True):
        place_N = torch.arange(parameter.numel()).as_strided(parameter.shape, parameter.stride()).flatten()
        made.append(place_N[members_GO].int().contiguous())
    return made
