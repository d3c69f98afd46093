"""Stacked runs equal the runs alone: in float64 but for the last digits."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from astroformer.errors import UserError
from astroformer.images.preprocessing import Preprocessing
from astroformer.images.sources import open_source
from astroformer.images.store import ImageStore
from astroformer.network import create_network
from astroformer.training.loop import Fit, Interrupted, Loop
from astroformer.training.recipe import make_recipe
from astroformer.training.run import RunFolder
from astroformer.training.stacked import Stack, why_not_stacked

SEEDS = (0, 3)


class Double(nn.Module):
    """Computes in float64 on the loop's float32 images."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner.double()
        self.config = inner.config

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.inner(x_BCHW.to(next(self.inner.parameters()).dtype))


def network(seed: int, group: str = "none") -> Double:
    torch.manual_seed(seed)
    words = {"stochastic_depth": 0.3, "head_dropout": 0.2, "group": group}
    return Double(create_network("astroformer_atto", num_classes=10, img_size=32, **words))


def stores(cache: Path) -> dict[int, ImageStore]:
    """Each run has its own images, as folds and seeds do."""
    images = open_source("mock-galaxies:60x48")
    whole = ImageStore.build(images, Preprocessing((48, 48), 3), cache=cache)
    return {seed: whole.subset(np.random.default_rng(seed).permutation(60)[:9]) for seed in SEEDS}


def loop(seed: int, store: ImageStore, run: RunFolder | None = None, group: str = "none", **changes: Any) -> Loop:
    settings = {
        "epochs": 2,
        "batch_size": 4,
        "learning_rate": 2e-3,
        "precision": "no",
        "device": "cpu",
        "ema": 0.3,
        "clip": 0.5,
        "progressive": 0.5,
        "class_weights": "auto",
        "evaluations": 2,
        "augment": {"mixup": 0.4, "mix_epochs": 2, "erasing": 0.5, "brightness": 0.2},
        "seed": seed,
        **changes,
    }
    mean, std = (0.1 + 0.01 * seed,) * 3, (0.2,) * 3
    preprocessing = Preprocessing((48, 48), 3, mean=mean, std=std)
    accelerator = Accelerator(cpu=True)
    inner = network(seed, group)
    return Loop(inner, store, store, preprocessing, make_recipe(settings), accelerator=accelerator, run=run)


def close(ours: nn.Module, theirs: nn.Module, atol: float = 1e-9) -> None:
    expected = theirs.state_dict()
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(
    "changes", [{}, {"optimizer": "sgd", "learning_rate": 0.02, "ema": 0.0, "clip": None}, {"group": "d4"}], ids=str
)
def test_a_stack_takes_the_steps_of_the_runs_alone(tmp_path: Path, changes: dict[str, Any]) -> None:
    images = stores(tmp_path)
    template = network(9, changes.get("group", "none"))
    fits = Stack([loop(s, images[s], **changes) for s in SEEDS], template).fit_all()
    for seed, fit in zip(SEEDS, fits, strict=True):
        assert isinstance(fit, Fit)
        alone = loop(seed, images[seed], **changes)
        start = copy.deepcopy(alone.plain)
        expected = alone.fit()
        close(fit.network, expected.network)
        pairs = zip(start.parameters(), alone.plain.parameters(), strict=True)
        assert any((a - b).abs().max() > 1e-3 for a, b in pairs)
        assert (fit.state.updates, fit.state.images, fit.state.epoch) == (4, 18, 2)
        names = ("epoch", "updates", "learning_rate", "train_loss", "valid_top1", "valid_nll")
        for row, other in zip(fit.state.history, expected.state.history, strict=True):
            assert [row[k] for k in names] == pytest.approx([other[k] for k in names], abs=2e-6)


def test_a_stopped_stack_goes_on_stacked_or_alone(tmp_path: Path) -> None:
    images = stores(tmp_path / "cache")
    folders = {}
    for seed in SEEDS:
        (tmp_path / str(seed)).mkdir()
        folders[seed] = RunFolder(tmp_path / str(seed))
    members = [loop(s, images[s], folders[s]) for s in SEEDS]
    stack = Stack(members, network(9))
    stack.stop = lambda: stack.state.updates == 3
    with pytest.raises(Interrupted):
        stack.fit_all()
    last = loop(SEEDS[0], images[SEEDS[0]], folders[SEEDS[0]])  # this one alone, from the checkpoint of the stack
    last.restore()
    rest = [loop(s, images[s], folders[s]) for s in SEEDS[1:]]
    for member in rest:
        member.restore()
    assert [m.state.updates for m in (last, *rest)] == [3, 3]
    fits = [last.fit(), *Stack(rest, network(9)).fit_all()]
    for seed, fit in zip(SEEDS, fits, strict=True):
        assert isinstance(fit, Fit)
        expected = loop(seed, images[seed]).fit()
        close(fit.network, expected.network)
        assert len(fit.state.history) == len(expected.state.history)


def test_one_that_fails_leaves_the_others_alone(tmp_path: Path) -> None:
    images = stores(tmp_path)
    members = [loop(s, images[s]) for s in SEEDS]
    with torch.no_grad():
        members[1].plain.inner.head.classifier.bias.fill_(float("nan"))  # type: ignore[union-attr]
    fits = Stack(members, network(9)).fit_all()
    assert isinstance(fits[1], UserError)
    assert "not finite" in str(fits[1])
    assert isinstance(fits[0], Fit)
    close(fits[0].network, loop(SEEDS[0], images[SEEDS[0]]).fit().network)


def test_what_cannot_be_stacked_is_said() -> None:
    assert why_not_stacked(make_recipe({})) is None
    for changes, word in (
        ({"optimizer": "muon"}, "muon"),
        ({"accumulate": 2}, "accumulate"),
        ({"precision": "fp16"}, "fp16"),
    ):
        assert word in str(why_not_stacked(make_recipe(changes)))
