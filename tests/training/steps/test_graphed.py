"""Recorded training steps. What is recorded is compared with the loop's own step on the CPU; recording itself needs
CUDA: `pytest tests/training/test_graphed.py` on a machine with a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor, nn

from astroformer.errors import UserError
from astroformer.images.labelled import LabelledImages
from astroformer.images.preprocessing import Preprocessing, measure_statistics
from astroformer.images.sets.mock_galaxies import CLASSES, mock_galaxies
from astroformer.images.store import ImageStore
from astroformer.network import create_network
from astroformer.progress import Reporter
from astroformer.training import batches as batches_module
from astroformer.training.batches import Batches
from astroformer.training.loop import Loop
from astroformer.training.placed_images import Streamed
from astroformer.training.recipe import Recipe, make_recipe
from astroformer.training.rules import decide
from astroformer.training.steps import choose as choose_module
from astroformer.training.steps.graphed import GraphedStep, why_not_graphed
from astroformer.training.steps.plain import PlainStep

on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def galaxies(n: int = 44) -> LabelledImages:
    images_NHWC, labels_N = mock_galaxies(n, size=32, seed=0)
    return LabelledImages("mock", [str(i) for i in range(n)], labels_N, CLASSES, images_NHWC.__getitem__)


def recipe_of(**changes: Any) -> Recipe:
    settings = {
        "model": "astroformer_atto",
        "epochs": 3,
        "batch_size": 8,  # six steps of 7 and 8 images: two shapes
        "learning_rate": 1e-3,
        "image_size": 32,
        "evaluations": 2,
        "precision": "no",
        "device": "cpu",
        **changes,
    }
    return make_recipe(settings)


class Precise(nn.Module):
    """A network in float64, in which two ways to compute a step differ by what they do and not by rounding: Adam makes
    a whole step of a gradient that is 0 but for that."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.double()
        self.config = network.config

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.network(x_BCHW.double())


def loop_of(recipe: Recipe, cache: Path, precise: bool = False, **settings: Any) -> Loop:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    assert isinstance(recipe.image_size, int)
    size = (recipe.image_size, recipe.image_size)
    preprocessing = Preprocessing(size, 3)
    store = ImageStore.build(galaxies(), preprocessing, cache=cache)
    mean, std = measure_statistics(store.base, store.rows)
    preprocessing = Preprocessing(size, 3, mean=mean, std=std)
    torch.manual_seed(3)
    words = {**recipe.network.changes(), **settings}
    network = create_network(recipe.model, num_classes=len(CLASSES), img_size=size, **words)
    accelerator = Accelerator(cpu=recipe.device == "cpu", mixed_precision=recipe.precision)
    network = Precise(network) if precise else network
    return Loop(network, store, store, preprocessing, recipe, accelerator=accelerator)


def weights_of(loop: Loop) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().double() for name, value in loop.averaged().state_dict().items()}


def assert_alike(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], tolerance: float) -> None:
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"weight_decay": 0.3, "clip": 0.1},
        {"optimizer": "sgd", "learning_rate": 0.02, "weight_decay": 0.01},
        {"ema": 0.0, "clip": None, "class_weights": "auto"},
        {"network": {"group": "d4"}},
    ],
    ids=str,
)
def test_the_recorded_operations_are_a_step_of_the_loop(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = loop_of(recipe_of(speed="plain", **changes), tmp_path, precise=True)
    plain.fit()
    monkeypatch.setattr(choose_module, "why_not_graphed", lambda *of: None)
    graphed = loop_of(recipe_of(speed="graph", **changes), tmp_path, precise=True)
    assert isinstance(graphed.step, GraphedStep)
    graphed.fit()
    start = weights_of(loop_of(recipe_of(), tmp_path, precise=True))
    moved = max(float((start[n] - w).abs().max()) for n, w in weights_of(plain).items() if n.endswith("weight"))
    assert moved > 1e-3, "the comparison says nothing about weights that stayed"
    assert_alike(weights_of(plain), weights_of(graphed), 1e-6)
    for a, b in zip(plain.state.history, graphed.state.history, strict=True):
        for name in ("epoch", "updates", "train_loss", "learning_rate"):
            assert a[name] == pytest.approx(b[name], rel=1e-6)


def test_it_tells_where_the_loss_stopped_being_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose_module, "why_not_graphed", lambda *of: None)
    loop = loop_of(recipe_of(speed="graph"), tmp_path)
    with torch.no_grad():
        loop.network.head.classifier.bias.fill_(float("nan"))
    with pytest.raises(UserError, match="not finite since epoch 0, step 0"):
        loop.fit()


@pytest.mark.parametrize("mixing", [0.0, 0.5])
def test_batches_made_ahead_are_those_made_one_by_one(
    mixing: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On images of 32 px until the third step of the second epoch.
    augment = {"mixup": mixing, "cutmix": mixing}
    recipe = recipe_of(epochs=2, image_size=44, progressive=0.6, augment=augment)
    batches: dict[bool, list[np.ndarray]] = {}
    made = {}
    monkeypatch.setattr(batches_module, "_AT_ONCE_BYTES", 4 * 3 * 32 * 32 * 24)  # three of six steps
    take, augmented = Batches.take, Batches._augmented
    for at_once in (False, True):
        loop = loop_of(recipe, tmp_path)
        loop.batches._several_at_once = at_once
        batches[at_once], sizes = [], []

        def taken(self: Batches, *of: Any, into: Any = batches[at_once]) -> Any:
            batch = take(self, *of)
            into.append(np.concatenate([batch.x_BCHW.flatten().numpy(), batch.y_BK.flatten().numpy()]))
            return batch

        def counted(self: Batches, *of: Any, into: Any = sizes) -> Any:
            x_BCHW, y_BK = augmented(self, *of)
            into.append(len(x_BCHW))
            return x_BCHW, y_BK

        with monkeypatch.context() as patch:
            patch.setattr(Batches, "take", taken)
            patch.setattr(Batches, "_augmented", counted)
            loop.fit()
        made[at_once] = sizes
    assert len(batches[True]) == len(batches[False]) == 12
    for one, ahead in zip(batches[False], batches[True], strict=True):
        np.testing.assert_array_equal(one, ahead)
    assert made[False] == [7, 8, 7, 7, 8, 7] * 2
    # Of 44 px, 12 images are as large: one step or none more. At the switch what was made ahead is made anew.
    assert made[True] == [22, 22, 22, 7, 7, 8, 7]


@pytest.mark.parametrize("mixing", [0.0, 0.5])
def test_a_stored_set_that_is_streamed_is_foreseen(
    mixing: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(epochs=2, augment={"mixup": mixing})
    whole = loop_of(recipe, tmp_path)
    whole.fit()
    read: list[np.ndarray] = []

    class Noted(Streamed):
        def _read(self, positions: np.ndarray) -> Any:
            read.append(positions)
            return super()._read(positions)

    monkeypatch.setattr(batches_module, "place_images", Noted)
    streamed = loop_of(recipe, tmp_path)
    streamed.fit()
    assert_alike(weights_of(whole), weights_of(streamed), 0.0)
    assert len(read) == 12  # six steps an epoch, and what was foreseen is not read twice


def test_recording_is_refused_where_it_cannot_be() -> None:
    recipe = recipe_of()
    assert why_not_graphed(recipe, "cuda") is None
    assert "CUDA" in (why_not_graphed(recipe, "cpu") or "")
    for change in ({"optimizer": "muon"}, {"precision": "fp16"}, {"accumulate": 2}, {"checkpointing": True}):
        assert why_not_graphed(recipe.model_copy(update=change), "cuda")
    assert why_not_graphed(recipe, "cuda", 2)
    with pytest.raises(UserError, match="speed can't be graph here: a step is recorded on CUDA alone"):
        decide(recipe_of(speed="graph"), galaxies())


def test_a_recipe_that_says_graph_goes_on_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(Reporter, "say", lambda self, text: said.append(text))
    loop = loop_of(recipe_of(speed="graph", epochs=1), tmp_path)
    assert isinstance(loop.step, PlainStep)
    assert said == ["speed: plain, not graph as the recipe says: a step is recorded on CUDA alone"]
    loop.fit()


# On a GPU ------------------------------------------------------------------------------------------------------------


@on_cuda
@pytest.mark.parametrize("depth", [0.0, 0.2], ids=["", "with random numbers in the network"])
@pytest.mark.parametrize("changes", [{}, {"optimizer": "sgd", "learning_rate": 0.02}, {"image_size": 44}], ids=str)
def test_a_recorded_run_is_a_plain_one(changes: dict[str, Any], depth: float, tmp_path: Path) -> None:
    settings = {"device": "cuda", "progressive": 0.5, **changes}
    runs = []
    for speed in ("plain", "graph"):
        loop = loop_of(recipe_of(speed=speed, **settings), tmp_path, precise=True, stochastic_depth=depth)
        loop.fit()
        runs.append(loop)
    plain, graphed = runs
    assert isinstance(graphed.step, GraphedStep)
    # Of 44 px, the first half of the run is on smaller images; a shape met three times is not recorded yet.
    assert len(graphed.step._graphs) >= 2
    assert_alike(weights_of(plain), weights_of(graphed), 1e-5)


@on_cuda
def test_a_recorded_run_in_bfloat16_learns_as_a_plain_one(tmp_path: Path) -> None:
    losses = []
    for speed in ("plain", "graph"):
        loop = loop_of(recipe_of(speed=speed, device="cuda", precision="bf16", epochs=6), tmp_path)
        loop.fit()
        losses.append([row["train_loss"] for row in loop.state.history])
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.05)


@on_cuda
def test_records_are_dropped_when_the_weights_were_moved(tmp_path: Path) -> None:
    loop = loop_of(recipe_of(speed="graph", device="cuda"), tmp_path)
    loop.fit()
    assert isinstance(loop.step, GraphedStep)
    before = len(loop.step._graphs)
    with torch.no_grad():
        for parameter in loop.network.parameters():
            parameter.data = parameter.data.clone()
    loop.step.weights_were_used()
    assert before > 0
    assert not loop.step._graphs
