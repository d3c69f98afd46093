"""What follows the backward pass: gradients are tied and clipped, the optimizer steps, the gradients are dropped.

`Update` does it with torch's own tools. `FusedUpdate` does it on a CPU by one call of a kernel for all weights
(`native/update.cpp`). A small network has a hundred small tensors: to start the operations on each of them takes longer
than the arithmetic, and more threads do not help.

Legend: N numbers of a weight, G elements of the network's group, O orbits of a weight under it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from astroformer.native import Kernels, library, why_not
from astroformer.network import Tie
from astroformer.training.pace import Pace

_KERNELS = Kernels("update", torch.float32)


class Update:
    """An update of a network's weights by any optimizer.

    Args:
        network: whose weights the optimizer updates.
        optimizer: of `create_optimizer`, or what accelerate made of it.
        clip: largest norm of the gradient, or None.
        tie: of weights that stay equal, or None.
        unscale: undoes the scale of the gradients that float16 needs, before they are clipped.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        clip: float | None,
        tie: Tie | None,
        unscale: Callable[[], Any] = lambda: None,
    ) -> None:
        self._parameters = list(network.parameters())  # finding them takes longer than clipping them
        self.optimizer, self._clip, self._tie, self._unscale = optimizer, clip, tie, unscale

    def __call__(self) -> None:
        """One update, at the pace of `set_pace`."""
        self.condition_gradients()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def condition_gradients(self) -> None:
        """Ties and clips the gradients, in place."""
        if self._tie is not None:
            self._tie.tie([p.grad for p in self._parameters if p.grad is not None])
        if self._clip is not None:
            self._unscale()
            # accelerate's own function imports torch's distributed tensors, to see whether there are any.
            nn.utils.clip_grad_norm_(self._parameters, self._clip)


class RecordableUpdate(Update):
    """An update by AdamW or SGD on a GPU that reads no number on the host, so that a CUDA graph can record it."""

    def record(self, learning_rate: Tensor, weight_decay: Tensor) -> None:
        """One update at a pace that lies on the device, both () float32."""
        self.condition_gradients()
        optimizer = self.optimizer
        with torch.no_grad():
            # The optimizers take a learning rate on the device, but the weight decay only as a number of the host.
            decayed = [p for p in optimizer.param_groups[0]["params"] if p.grad is not None]
            if isinstance(optimizer, torch.optim.SGD):
                torch._foreach_add_([p.grad for p in decayed], torch._foreach_mul(decayed, weight_decay))
            else:
                torch._foreach_mul_(decayed, 1.0 - learning_rate * weight_decay)
        settings = {"lr": learning_rate, "weight_decay": 0.0, "capturable": True, "fused": True, "foreach": False}
        kept = [{name: group[name] for name in settings if name in group} for group in optimizer.param_groups]
        for group, own in zip(optimizer.param_groups, kept, strict=True):
            group.update({name: settings[name] for name in own})
        try:
            optimizer.step()
        finally:  # checkpoints and what is shown need numbers of the host
            for group, own in zip(optimizer.param_groups, kept, strict=True):
                group.update(own)
        optimizer.zero_grad(set_to_none=True)


def set_pace(optimizer: torch.optim.Optimizer, pace: Pace) -> None:
    """Gives an optimizer of `create_optimizer` the learning rate and weight decay of a step."""
    for group in optimizer.param_groups:
        group["lr"] = pace.learning_rate
        if group["decays"]:
            group["weight_decay"] = pace.weight_decay


def why_no_fused_update(network: nn.Module, optimizer: torch.optim.Optimizer) -> str | None:
    """Why `FusedUpdate` can't do this, as half a sentence; None where it can."""
    if not isinstance(optimizer, torch.optim.AdamW):
        return "of optimizers only AdamW has a kernel"
    if not all(_suits_the_kernel(parameter) for parameter in network.parameters()):
        return "weights are not all float32, dense and on the CPU"
    return why_not("update") if library("update") is None else None


def _suits_the_kernel(tensor: Tensor) -> bool:
    """Whether a tensor is float32 numbers in one piece of the CPU's memory, which the kernel takes in that order."""
    dense = tensor.is_contiguous() or tensor.is_contiguous(memory_format=torch.channels_last)
    return tensor.dtype == torch.float32 and tensor.device.type == "cpu" and dense


class FusedUpdate(Update):
    """An update by AdamW on a CPU, in one call of a kernel for all weights.

    The moments stay where torch's AdamW keeps them, so checkpoints are the same.

    Args:
        network: whose weights `optimizer` updates; see `why_no_fused_update`.
        optimizer: of `create_optimizer`; its groups' learning rate and weight decay are read at every update.
        clip: largest norm of the gradient, or None.
        tie: of weights that stay equal, or None.
    """

    def __init__(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, *, clip: float | None, tie: Tie | None
    ) -> None:
        super().__init__(network, optimizer, clip=clip, tie=tie)
        updated = {p for group in optimizer.param_groups for p in group["params"]}
        members = [None] * len(self._parameters) if tie is None else _members_in_memory(tie, self._parameters)
        self._updated = [p for p in self._parameters if p in updated]
        self._members = [m for p, m in zip(self._parameters, members, strict=True) if p in updated]
        self._order = 1 if tie is None else tie.order
        orbits = [0 if m is None else m.shape[1] for m in self._members]
        self._counts = torch.tensor([[p.numel() for p in self._updated], orbits])
        group = optimizer.param_groups[0]
        largest = math.inf if clip is None else clip
        self._settings = torch.tensor([*group["betas"], group["eps"], largest], dtype=torch.float64)
        # These hold for one state of the optimizer. It is another one where the first parameter has another.
        self._first_state: dict[str, Tensor] | None = None
        self._groups: list[dict[str, Any]] = []  # of each weight
        self._addresses: list[list[int]] = []  # of each weight's first moments, second moments, step count and members

    def __call__(self) -> None:
        """One update, at the pace of `set_pace`."""
        if self._first_state is None or self.optimizer.state[self._updated[0]] is not self._first_state:
            self._find_state()
        weights = [p.data_ptr() for p in self._updated]
        gradients = [0 if p.grad is None else p.grad.data_ptr() for p in self._updated]
        paces = [[group[name] for group in self._groups] for name in ("lr", "weight_decay")]
        _KERNELS(
            "update",
            torch.tensor([weights, gradients, *self._addresses]),
            self._counts,
            torch.tensor(paces, dtype=torch.float64),
            self._settings,
            *(len(weights), self._order),
        )
        for parameter in self._updated:
            parameter.grad = None

    def _find_state(self) -> None:
        """Finds the optimizer's state in memory; a weight that has none yet begins with zeros, as torch's AdamW."""
        group_of = {p: group for group in self.optimizer.param_groups for p in group["params"]}
        self._groups = [group_of[p] for p in self._updated]
        states = [self.optimizer.state[p] for p in self._updated]
        for parameter, state in zip(self._updated, states, strict=True):
            if not state:
                state["step"] = torch.zeros(())
                for name in ("exp_avg", "exp_avg_sq"):
                    state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        self._first_state = states[0]
        names = ("exp_avg", "exp_avg_sq", "step")
        self._addresses = [[state[name].data_ptr() for state in states] for name in names]
        self._addresses.append([0 if m is None else m.data_ptr() for m in self._members])


def _members_in_memory(tie: Tie, parameters: Sequence[Tensor]) -> list[Tensor]:
    """For each weight, where in its memory the members of its orbits lie: (G, O) int32."""
    places = []
    for parameter, members_GO in zip(parameters, tie.members, strict=True):
        place_N = torch.arange(parameter.numel()).as_strided(parameter.shape, parameter.stride()).flatten()
        places.append(place_N[members_GO].int().contiguous())
    return places
