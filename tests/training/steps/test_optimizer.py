from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from astroformer.network import VARIANTS, create_network
from astroformer.training.steps.optimizer import create_optimizer, split_parameters

OPTIMIZERS = {"adamw": 1e-2, "sgd": 0.1, "muon": 1e-2}


@pytest.mark.parametrize("layout", ["CCCC", "CCCT", "CCTT", "CTTT", "TTTT"])
@pytest.mark.parametrize("attention", ["se", "cbam", "none"])
def test_matrices_and_kernels_decay_and_nothing_else(layout: str, attention: str) -> None:
    network = create_network("astroformer_atto", layout=layout, channel_attention=attention)
    decayed, spared = split_parameters(network)
    names = {id(p): name for name, p in network.named_parameters()}
    assert sorted(names[id(p)] for p in [*decayed, *spared]) == sorted(names.values())
    expected = set()
    for prefix, module in network.named_modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            expected.add(f"{prefix}.weight")
    assert {names[id(p)] for p in decayed} == expected
    tables = network.no_weight_decay()
    assert bool(tables) == ("T" in layout)
    assert tables <= {names[id(p)] for p in spared}


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_every_variant_is_split_whole(variant: str) -> None:
    with torch.device("meta"):
        network = create_network(variant)
    decayed, spared = split_parameters(network)
    assert len(decayed) + len(spared) == len(list(network.parameters()))
    assert min(p.ndim for p in decayed) >= 2
    assert max(p.ndim for p in spared if p.ndim > 1) <= 3  # only bias tables
    tables = network.no_weight_decay()
    assert sum(p.ndim > 1 for p in spared) == len(tables) > 0


def test_frozen_parameters_are_left_out() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    network[0].requires_grad_(False)
    assert split_parameters(network) == ([network[1].weight], [network[1].bias])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_decay_pulls_on_matrices_alone(name: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    before = {k: p.detach().clone() for k, p in network.named_parameters()}
    optimizer = create_optimizer(network, name, learning_rate=0.1, weight_decay=0.5, momentum=0.9)
    for p in network.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for k, p in network.named_parameters():
        if p.ndim > 1:
            # SGD's decay is a part of the gradient, which Nesterov's step takes 1 + momentum times.
            torch.testing.assert_close(p.detach(), before[k] * (1 - 0.1 * 0.5 * (1.9 if name == "sgd" else 1.0)))
        else:
            assert torch.equal(p, before[k])


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_every_optimizer_lowers_a_loss(name: str, momentum: float) -> None:
    torch.manual_seed(0)
    network = create_network("astroformer_atto", num_classes=3, img_size=32)
    x_BCHW, y_B = torch.randn(9, 3, 32, 32), torch.arange(9) % 3
    optimizer = create_optimizer(network, name, learning_rate=OPTIMIZERS[name], weight_decay=0.05, momentum=momentum)
    losses = []
    for _ in range(6):
        loss = F.cross_entropy(network(x_BCHW), y_B)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.75 * losses[0]


def test_adamw_is_torchs_to_the_bit() -> None:
    torch.manual_seed(0)
    networks = [nn.Linear(5, 4), nn.Linear(5, 4)]
    networks[1].load_state_dict(networks[0].state_dict())
    ours = create_optimizer(networks[0], "adamw", learning_rate=0.1, weight_decay=0.2, momentum=0.9)
    decayed, spared = split_parameters(networks[1])
    groups = [{"params": decayed, "weight_decay": 0.2}, {"params": spared, "weight_decay": 0.0}]
    theirs = torch.optim.AdamW(groups, lr=0.1, fused=True)
    for step in range(4):
        x = torch.randn(3, 5)
        for network, optimizer in zip(networks, (ours, theirs), strict=True):
            network(x).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        assert torch.equal(networks[0].weight, networks[1].weight)
        assert torch.equal(networks[0].bias, networks[1].bias)
        if step == 1:
            ours.load_state_dict(ours.state_dict())
    assert ours.state_dict().keys() == theirs.state_dict().keys()


def test_torch_wraps_the_methods_that_our_adamw_unwraps() -> None:
    """If it does not any more, `_AdamW` is of no use and goes."""
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        assert hasattr(getattr(torch.optim.Optimizer, name), "__wrapped__"), name
    assert hasattr(torch.optim.AdamW.step, "__wrapped__")


def test_our_adamw_does_not_import_torchs_compiler_and_torchs_does() -> None:
    program = """
import sys, torch
from astroformer.training.steps.optimizer import create_optimizer
layer = torch.nn.Linear(2, 2)
def use(optimizer):
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    optimizer.load_state_dict(optimizer.state_dict())
    print("torch._dynamo" in sys.modules)
use(create_optimizer(layer, "adamw", learning_rate=0.1, weight_decay=0.1, momentum=0.9))
use(torch.optim.AdamW(layer.parameters()))
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert ran.stdout.split() == ["False", "True"]


def test_our_adamw_calls_the_hooks_of_a_step() -> None:
    layer, called = nn.Linear(2, 2), []
    optimizer = create_optimizer(layer, "adamw", learning_rate=0.1, weight_decay=0.1, momentum=0.9)
    optimizer.register_step_pre_hook(lambda *_: called.append("before"))
    optimizer.register_step_post_hook(lambda *_: called.append("after"))
    optimizer.step()
    assert called == ["before", "after"]


def test_momentum_reaches_sgd_and_muon() -> None:
    for name in ("sgd", "muon"):
        optimizer = create_optimizer(nn.Linear(3, 3), name, learning_rate=0.1, weight_decay=0, momentum=0.7)
        assert {group["momentum"] for group in optimizer.param_groups} == {0.7}
