"""What follows the backward pass: gradients are tied and clipped, the optimizer steps, the gradients are dropped.

`Update` does it with torch's own tools. `FusedUpdate` does the same on a CPU by a kernel that goes through all weights
at once (`native/update.cpp`): a small network has a hundred tensors, and to tie, clip and update them one by one takes
longer than the arithmetic, and no less on more threads.
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
        self._parameters = list(network.parameters())  # to find them takes longer than to clip them
        self.optimizer, self._clip, self._tie, self._unscale = optimizer, clip, tie, unscale

    def __call__(self) -> None:
        """One update, at the pace of `set_pace`."""
        self.condition_gradients()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def condition_gradients(self) -> None:
        """Ties and clips them."""
        if self._tie is not None:
            self._tie.tie([p.grad for p in self._parameters if p.grad is not None])
        if self._clip is not None:
            self._unscale()
            # accelerate's own looks whether there are distributed tensors, and imports them for that.
            nn.utils.clip_grad_norm_(self._parameters, self._clip)


class RecordableUpdate(Update):
    """The same on a GPU without a number that the host has to know, so that a CUDA graph can hold it.

    AdamW and SGD alone.
    """

    def record(self, learning_rate: Tensor, weight_decay: Tensor) -> None:
        """One update at a pace that lies on the device, both () float32."""
        self.condition_gradients()
        optimizer = self.optimizer
        with torch.no_grad():
            # The optimizers take a rate on the device, but their decay as a number only.
            decayed = [p for p in optimizer.param_groups[0]["params"] if p.grad is not None]
            if isinstance(optimizer, torch.optim.SGD):
                torch._foreach_add_([p.grad for p in decayed], torch._foreach_mul(decayed, weight_decay))
            else:
                torch._foreach_mul_(decayed, 1.0 - learning_rate * weight_decay)
        words = {"lr": learning_rate, "weight_decay": 0.0, "capturable": True, "fused": True, "foreach": False}
        kept = [{name: group[name] for name in words if name in group} for group in optimizer.param_groups]
        for group, own in zip(optimizer.param_groups, kept, strict=True):
            group.update({name: words[name] for name in own})
        try:
            optimizer.step()
        finally:  # numbers again, as checkpoints and what is shown need them
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


class FusedUpdate(Update):
    """The same for AdamW on a CPU, in one pass over all weights.

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
        super().__init__(network, optimizer, clip=clip, tie=tie)
        updated = {p for group in optimizer.param_groups for p in group["params"]}
        every = self._parameters
        members = [None] * len(every) if tie is None else _in_memory(tie, every)
        self._updated = [p for p in every if p in updated]
        self._members = [m for p, m in zip(every, members, strict=True) if p in updated]
        self._order = 1 if tie is None else tie.order
        orbits = [0 if m is None else m.shape[1] for m in self._members]
        self._numbers = torch.tensor([[p.numel() for p in self._updated], orbits])
        group = optimizer.param_groups[0]
        largest = math.inf if clip is None else clip
        self._settings = torch.tensor([*group["betas"], group["eps"], largest], dtype=torch.float64)
        # Found once for as long as the optimizer keeps its state, that of the first parameter among others.
        self._state: dict[str, Tensor] | None = None
        self._groups: list[dict[str, Any]] = []
        self._kept: list[list[int]] = []  # addresses

    def __call__(self) -> None:
        """One update, at the pace of `set_pace`."""
        if self._state is None or self.optimizer.state[self._updated[0]] is not self._state:
            self._take_up()
        weights = [p.data_ptr() for p in self._updated]
        gradients = [0 if p.grad is None else p.grad.data_ptr() for p in self._updated]
        paces = [[group[name] for group in self._groups] for name in ("lr", "weight_decay")]
        _KERNELS(
            "update",
            torch.tensor([weights, gradients, *self._kept]),
            self._numbers,
            torch.tensor(paces, dtype=torch.float64),
            self._settings,
            *(len(weights), self._order),
        )
        for parameter in self._updated:
            parameter.grad = None

    def _take_up(self) -> None:
        """Begins, or goes on from the state that the optimizer was given."""
        group_of = {p: group for group in self.optimizer.param_groups for p in group["params"]}
        self._groups = [group_of[p] for p in self._updated]
        states = [self.optimizer.state[p] for p in self._updated]
        for parameter, state in zip(self._updated, states, strict=True):
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
