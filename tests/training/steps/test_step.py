"""What all steps count, and which step a recipe gets."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from astroformer.network import create_network
from astroformer.training.objective import Objective
from astroformer.training.pace import Pace
from astroformer.training.recipe import make_recipe
from astroformer.training.steps import choose as choose_module
from astroformer.training.steps.choose import choose_step
from astroformer.training.steps.fused import why_not_fused
from astroformer.training.steps.optimizer import create_optimizer
from astroformer.training.steps.plain import PlainStep
from astroformer.training.steps.step import Step, Tally
from astroformer.training.steps.update import FusedUpdate

CPU = torch.device("cpu")


def test_a_tally_is_the_sum_over_images_and_names_the_first_bad_step() -> None:
    tally = Tally(CPU)
    for step, (loss, images) in enumerate([(0.5, 4), (0.25, 8)]):
        tally.add(torch.tensor(loss, requires_grad=True), images, step)
    assert tally.collect() == (0.5 * 4 + 0.25 * 8, -1)
    tally.add(torch.tensor(1.0), 3, 2)
    assert tally.collect() == (3.0, -1)  # of the steps since then
    for step, loss in ((3, 1.0), (4, math.nan), (5, math.inf), (6, 1.0)):
        tally.add(torch.tensor(loss), 1, torch.tensor(step))
    assert tally.collect()[1] == 4


def chosen(speed: str, network: nn.Module, **changes: Any) -> tuple[Step, str | None]:
    AcceleratorState._reset_state(reset_partial_state=True)
    recipe = make_recipe({"batch_size": 4, "learning_rate": 0.01, "precision": "no", "speed": speed, **changes})
    optimizer = create_optimizer(network, recipe.optimizer, learning_rate=0.01, weight_decay=0.0, momentum=0.9)
    return choose_step(
        recipe,
        network,
        optimizer,
        objective=Objective(None, 0.0),
        tally=Tally(CPU),
        average=None,
        tie=None,
        accelerator=Accelerator(cpu=True),
        say=lambda text: None,
    )


def atto() -> nn.Module:
    return create_network("astroformer_atto", num_classes=3, in_chans=1, img_size=32)


class Wrapper(nn.Module):
    """What several processes and the compiler do: a module around the network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.network(x_BCHW)
        return out


def test_a_step_after_a_validation_trains_the_network_inside_of_a_wrapper(monkeypatch: pytest.MonkeyPatch) -> None:
    """A validation sees the network alone and leaves it in eval mode, while its wrapper is in training mode still."""
    prepare = Accelerator.prepare

    def wrapping(self: Accelerator, network: nn.Module, *others: Any, **settings: Any) -> Any:
        return (Wrapper(network), *prepare(self, network, *others, **settings)[1:])

    monkeypatch.setattr(Accelerator, "prepare", wrapping)
    network = atto()
    step, _ = chosen("plain", network)
    norm = next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    for count in (1, 2):
        step(torch.randn(4, 1, 32, 32), torch.eye(3)[[0, 1, 2, 0]], Pace(0.01, 0.0, 0.0, 0, 4))
        assert norm.num_batches_tracked == count
        network.eval()


@pytest.mark.skipif(why_not_fused() is not None, reason="no native kernels here")
def test_a_fused_step_has_its_passes_and_its_update_until_it_is_closed() -> None:
    network = atto()
    kinds = {type(module) for module in network.modules()}
    step, sentence = chosen("fused", network)
    assert sentence is None
    assert isinstance(step, PlainStep)
    assert isinstance(step.update, FusedUpdate)
    assert {type(module) for module in network.modules()} != kinds
    step.close()
    assert {type(module) for module in network.modules()} == kinds
    other, _ = chosen("fused", atto(), optimizer="sgd")
    assert isinstance(other, PlainStep)
    assert not isinstance(other.update, FusedUpdate)


def test_another_step_than_the_recipe_says_comes_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    step, sentence = chosen("graph", atto())
    assert isinstance(step, PlainStep)
    assert sentence == "speed: plain, not graph as the recipe says: a step is recorded on CUDA alone"
    monkeypatch.setattr(choose_module, "fuse", lambda network: 0)
    monkeypatch.setattr(choose_module, "why_not_fused", lambda: "there is no C++ compiler")
    step, sentence = chosen("fused", atto())
    assert sentence == "speed: plain, not fused as the recipe says: there is no C++ compiler"
    assert chosen("plain", atto())[1] is None
