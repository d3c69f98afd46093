"""The pace of a run: how it follows from progress, and what its decay does to weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from astroformer.training.pace import LEAST_MEMORY, MEMORY, Schedule, cosine_with_warmup, decay_by_length
from astroformer.training.steps.optimizer import create_optimizer

OPTIMIZERS = ("adamw", "sgd", "muon")


def schedule(**changes: object) -> Schedule:
    words = {
        **{"steps_per_epoch": 10, "epochs": 20, "learning_rate": 0.01, "warmup": 0.2, "final": 0.1},
        **{"weight_decay": None, "momentum": 0.0, "memory": 0.1, "small_share": 0.5, "small_speed": 2.0},
    }
    return Schedule(**{**words, **changes})  # type: ignore[arg-type]


def test_a_pace_is_what_its_parts_say() -> None:
    pace = schedule().at(0.1, updates=20, step=3, images=16)
    assert pace.learning_rate == pytest.approx(0.01 * cosine_with_warmup(0.1, warmup=0.2, final=0.1))
    assert pace.weight_decay == decay_by_length(200, learning_rate=0.01)
    assert pace.average_weight == pytest.approx(1 - min(math.exp(-1 / 20), 22 / 31))
    assert (pace.step, pace.images) == (3, 16)
    assert schedule(weight_decay=0.3).at(0.1, updates=20, step=3, images=16).weight_decay == 0.3
    assert schedule(memory=0.0).at(0.5, updates=100, step=0, images=1).average_weight == 1.0


def test_by_the_clock_the_length_is_foreseen() -> None:
    clock = schedule(epochs=None)
    assert clock.length(0.0, 0) == 1.0  # nobody knows yet
    # Twice as many updates a share of the time while images are small, for half of the run.
    assert clock.length(0.25, 50) == pytest.approx(150)
    assert clock.length(0.75, 125) == pytest.approx(150)
    assert clock.length(1.0, 150) == pytest.approx(150)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("updates", [2000, 4000])
def test_weights_forget_in_a_share_of_the_run(name: str, updates: int) -> None:
    """With nothing that pushes back and at the peak rate, a run of any length leaves exp(-1 / MEMORY) of them."""
    rate, momentum = 0.01, 0.9
    layer = nn.Linear(3, 3)
    before = layer.weight.detach().clone()
    decay = decay_by_length(updates, learning_rate=rate, momentum=momentum if name == "sgd" else 0.0)
    optimizer = create_optimizer(layer, name, learning_rate=rate, weight_decay=decay, momentum=momentum)
    for _ in range(updates):
        layer.weight.grad, layer.bias.grad = torch.zeros(3, 3), torch.zeros(3)
        optimizer.step()
    left = (layer.weight.detach() / before).mean().item()
    assert left == pytest.approx(math.exp(-1 / MEMORY), rel=0.1)  # momentum begins at rest
    short = decay_by_length(10, learning_rate=rate)
    assert short == decay_by_length(100, learning_rate=rate) == 1 / (LEAST_MEMORY * rate)


def test_schedule_rises_in_a_line_and_falls_in_a_cosine() -> None:
    def factor(progress: float) -> float:
        return cosine_with_warmup(progress, warmup=0.2, final=0.1)

    for progress in (0.05, 0.1, 0.15):
        assert factor(progress) == pytest.approx(progress / 0.2)
    assert 0 < factor(0.0) < 0.01  # never quite 0: the first step does something
    assert factor(0.2) == pytest.approx(1.0)
    assert factor(0.6) == pytest.approx((1.0 + 0.1) / 2)
    assert factor(0.4) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)
    assert factor(1.0) == pytest.approx(0.1)
    assert factor(1.5) == pytest.approx(0.1)
    values = [factor(k / 100) for k in range(101)]
    assert values[:21] == sorted(values[:21])
    assert values[20:] == sorted(values[20:], reverse=True)
    assert max(values) <= 1


def test_schedule_without_warmup_starts_at_the_peak() -> None:
    assert cosine_with_warmup(0.0, warmup=0.0, final=0.0) == 1.0
    assert cosine_with_warmup(1.0, warmup=0.0, final=0.0) == pytest.approx(0.0, abs=1e-12)
