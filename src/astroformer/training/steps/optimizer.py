"""Optimizers, which parameters decay, and the learning-rate schedule."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

# How long weights remember their updates, as a share of the run, and at least how many updates: docs/experiments.md.
MEMORY = 0.3
LEAST_MEMORY = 400


def split_parameters(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(decayed, spared): matrices and kernels; and norms, biases and position-bias tables (`no_weight_decay()`)."""
    named: Callable[[], set[str]] = getattr(network, "no_weight_decay", set)
    tables = named()
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
    """torch's AdamW without the wrappers that hide some methods from torch's compiler.

    Their first call imports that compiler, which takes longer than all other steps before the first update. The methods
    under them are torch's own, and torch's classes stay as they are.
    """

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        return inspect.unwrap(torch.optim.AdamW.step)(self, closure)


def decay_by_length(updates: float, *, learning_rate: float, momentum: float = 0.0) -> float:
    """The weight decay with which weights remember a share of `MEMORY` of a run of so many updates, but no fewer than
    `LEAST_MEMORY` of them: in a shorter run decay would only pull at weights that have learned little yet.

    With decoupled decay, weights are an average of the updates over the last 1 / (learning rate × decay) of them, and
    that time as a share of the run is what carries over from one run to another (Wang & Aitchison, arXiv 2405.13698).

    Args:
        learning_rate: the peak.
        momentum: of SGD, whose decay is part of the gradient, so that momentum multiplies it by 1 / (1 - momentum).
    """
    return (1.0 - momentum) / (max(MEMORY * updates, LEAST_MEMORY) * learning_rate)


def cosine_with_warmup(progress: float, *, warmup: float, final: float) -> float:
    """Factor on the learning rate at `progress` in [0, 1]: linear over the first `warmup`, then cosine to `final`.

    Progress is a share of the whole run, counted in steps or read off the clock, so that one schedule serves
    `--epochs` and `--minutes` (SGDR, Loshchilov & Hutter 2017, eq. 5, one cycle).
    """
    if progress < warmup:
        return max(progress / warmup, 1e-3)
    along = min(1.0, (progress - warmup) / max(1.0 - warmup, 1e-9))
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * along))
