"""Optimizers, and which parameters decay."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def split_parameters(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Two lists: matrices and kernels, which decay; norms, biases and what `no_weight_decay()` names, which do not."""
    no_weight_decay: Callable[[], set[str]] = getattr(network, "no_weight_decay", set)
    tables = no_weight_decay()
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            (spared if parameter.ndim <= 1 or name in tables else decayed).append(parameter)
    return decayed, spared


def create_optimizer(
    network: nn.Module, name: str, *, learning_rate: float, weight_decay: float, momentum: float
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019), SGD with Nesterov momentum, or Muon (Jordan 2024) as timm builds it.

    Muon orthogonalises the updates of matrices and kernels; norms, biases and position-bias tables, which are no
    linear maps, go to its AdamW fallback.

    Args:
        network: whose parameters are updated, in two groups: those that decay (`decays` is true), and the others.
        name: "adamw", "sgd" or "muon".
        momentum: of SGD and Muon.
    """
    decayed, spared = split_parameters(network)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": weight_decay, "decays": True},
        {"params": spared, "weight_decay": 0.0, "decays": False},
    ]
    if name == "adamw":
        # Fused: one pass over each tensor instead of a loop of small operations.
        return _AdamW(groups, lr=learning_rate, fused=True)
    if name == "sgd":  # Nesterov's step needs a momentum
        return torch.optim.SGD(groups, lr=learning_rate, momentum=momentum, nesterov=momentum > 0)
    from timm.optim import create_optimizer_v2  # takes two seconds to import

    groups[0]["use_fallback"], groups[1]["use_fallback"] = False, True
    return create_optimizer_v2(groups, opt=name, lr=learning_rate, weight_decay=0.0, momentum=momentum)


class _AdamW(torch.optim.AdamW):
    """torch's AdamW without the wrappers that hide some of its methods from torch's compiler.

    The first call of such a wrapper imports that compiler. Without them the first update comes 1.15 s earlier: building
    the optimizer and one step take 0.006 s in place of 1.16 s (medians of five fresh processes each, in turn, CPU
    time). The methods under the wrappers are torch's own, and torch's classes stay as they are. Tests fail if torch
    stops wrapping them, if a step imports the compiler all the same, or if a step gives other bits than torch's.
    """

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        return inspect.unwrap(torch.optim.AdamW.step)(self, closure)
