"""The fused update against torch's own tools: `Tie`, `clip_grad_norm_`, AdamW."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from astroformer.network import Astroformer, Tie, create_network
from astroformer.training.checkpoint import restore_optimizer
from astroformer.training.steps.optimizer import create_optimizer
from astroformer.training.steps.update import FusedUpdate, why_no_fused_update

pytestmark = pytest.mark.skipif(
    why_no_fused_update(nn.Linear(1, 1), torch.optim.AdamW(nn.Linear(1, 1).parameters())) is not None,
    reason="no native kernels here",
)


def optimizer_of(network: nn.Module) -> torch.optim.Optimizer:
    return create_optimizer(network, "adamw", learning_rate=0.02, weight_decay=0.3, momentum=0.9)


def set_gradients(*networks: nn.Module, step: int) -> None:
    """The same ones for all, above and below any clip in turn; in the layout that autograd gives them.

    Means over an orbit are not near 0: what cancels is made of rounding, and AdamW makes a whole update of it.
    """
    torch.manual_seed(step)
    for parameters in zip(*(n.parameters() for n in networks), strict=True):
        gradient = (torch.randn(parameters[0].shape) + 4.0) * (10.0 if step % 2 else 1e-3)
        for parameter in parameters:
            parameter.grad = torch.empty_like(parameter).copy_(gradient)


class Plain:
    """An update by torch's own tools, independent of ours."""

    def __init__(self, network: nn.Module, clip: float | None, tie: Tie | None) -> None:
        self.parameters, self.clip, self.tie = list(network.parameters()), clip, tie
        self.optimizer = optimizer_of(network)

    def __call__(self) -> None:
        if self.tie is not None:
            self.tie.tie([p.grad for p in self.parameters if p.grad is not None])
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()


def network_of(group: str = "none") -> Astroformer:
    """With CBAM and attention all kinds of weights, and channels last two orders of places in memory."""
    network = create_network("astroformer_atto", num_classes=3, img_size=33, channel_attention="cbam", group=group)
    return network.to(memory_format=torch.channels_last)


def assert_close(a: nn.Module, b: nn.Module) -> None:
    for (name, x), y in zip(a.named_parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("group", ["none", "mirror", "d4"])
def test_equals_tie_clip_and_torchs_adamw(group: str, clip: float | None) -> None:
    network = network_of(group)
    other = copy.deepcopy(network)
    tie = None if group == "none" else Tie(network, group)
    plain = Plain(network, clip, tie)
    optimizer = optimizer_of(other)
    fused = FusedUpdate(other, optimizer, clip=clip, tie=tie)
    for step in range(6):
        for some in (plain.optimizer, optimizer):  # as `set_pace`
            some.param_groups[0]["weight_decay"] = 0.1 * step
            for g in some.param_groups:
                g["lr"] = 0.02 / (1 + step)
        set_gradients(network, other, step=step)
        plain()
        fused()
        assert all(p.grad is None for p in other.parameters())
        assert_close(network, other)
    for ours, theirs in zip(other.parameters(), network.parameters(), strict=True):
        for name, value in plain.optimizer.state[theirs].items():
            torch.testing.assert_close(optimizer.state[ours][name], value, rtol=1e-5, atol=1e-8)
    if tie is not None:
        before = [p.detach().clone() for p in other.parameters()]
        tie.tie(list(other.parameters()))
        for a, b in zip(before, other.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("group", ["mirror", "d4"])
def test_weights_of_an_orbit_stay_the_same_bits(group: str) -> None:
    network = network_of(group)
    tie = Tie(network, group)
    fused = FusedUpdate(network, optimizer_of(network), clip=1.0, tie=tie)
    for step in range(3):
        set_gradients(network, step=step)
        fused()
    for parameter, members_GO in zip(network.parameters(), tie.members, strict=True):
        values_GO = parameter.detach().flatten()[members_GO]
        assert torch.equal(values_GO, values_GO[:1].expand_as(values_GO))


def test_threads_change_no_bit(threads: None) -> None:
    made = []
    for count in (1, 2, 7):
        torch.set_num_threads(count)
        torch.manual_seed(0)
        network = network_of("d4")
        fused = FusedUpdate(network, optimizer_of(network), clip=1.0, tie=Tie(network, "d4"))
        for step in range(3):
            set_gradients(network, step=step)
            fused()
        made.append([p.detach().clone() for p in network.parameters()])
    for other in made[1:]:
        assert all(torch.equal(a, b) for a, b in zip(made[0], other, strict=True))


def test_what_has_no_gradient_or_is_frozen_stays() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(2, 2))
    network[0].requires_grad_(False)
    other = copy.deepcopy(network)
    plain, optimizer = Plain(network, 0.5, None), optimizer_of(other)
    fused = FusedUpdate(other, optimizer, clip=0.5, tie=None)
    for step in range(3):
        for some in (network, other):
            some[1].weight.grad = torch.full((2, 4), float(step + 1))
            some[2].bias.grad = torch.ones(2) if step else None
        plain()
        fused()
        assert_close(network, other)
    assert float(optimizer.state[other[1].weight]["step"]) == 3
    assert float(optimizer.state[other[2].bias]["step"]) == 2
    torch.testing.assert_close(other[1].bias, network[1].bias, rtol=0, atol=0)


def test_goes_on_from_a_state_that_it_is_given() -> None:
    """Of torch's optimizer or its own, before the first update and after some; with the groups of that state."""
    network = network_of()
    other = copy.deepcopy(network)
    plain, optimizer = Plain(network, 1.0, None), optimizer_of(other)
    fused = FusedUpdate(other, optimizer, clip=1.0, tie=None)
    for step in range(6):
        if step in (2, 4):
            other.load_state_dict(network.state_dict())
            restore_optimizer(optimizer, copy.deepcopy(plain.optimizer.state_dict()))
        if step == 3:
            restore_optimizer(optimizer, optimizer.state_dict())
        for some in (plain.optimizer, optimizer):
            some.param_groups[1]["lr"] = 0.01 * step
        set_gradients(network, other, step=step)
        plain()
        fused()
        assert_close(network, other)


@pytest.mark.parametrize("clip", [None, 1.0])
def test_what_diverged_is_not_hidden(clip: float | None) -> None:
    network = nn.Linear(2, 2)
    fused = FusedUpdate(network, optimizer_of(network), clip=clip, tie=None)
    network.weight.grad, network.bias.grad = torch.tensor([[math.nan, 1.0], [1.0, 1.0]]), torch.ones(2)
    fused()
    assert network.weight.isnan().any()
    assert network.bias.isnan().any() == (clip is not None)  # the norm is of all


def test_says_what_it_does_not_know() -> None:
    layer = nn.Linear(2, 2)
    assert why_no_fused_update(layer, optimizer_of(layer)) is None
    assert "AdamW" in str(why_no_fused_update(layer, torch.optim.SGD(layer.parameters())))
    double = nn.Linear(2, 2).double()
    assert "float32" in str(why_no_fused_update(double, optimizer_of(double)))
    transposed = nn.Linear(2, 3)
    transposed.weight = nn.Parameter(torch.randn(4, 3).t()[:, ::2])
    assert "dense" in str(why_no_fused_update(transposed, optimizer_of(transposed)))
