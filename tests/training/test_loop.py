from __future__ import annotations

import copy
import csv
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from astroformer.augmentation.settings import PRESETS
from astroformer.classifier import Classifier
from astroformer.errors import UserError
from astroformer.images.labelled import LabelledImages
from astroformer.images.preprocessing import Preprocessing
from astroformer.images.sets.mock_galaxies import CLASSES, mock_galaxies
from astroformer.images.store import ImageStore
from astroformer.metrics import nll_N
from astroformer.network import create_network
from astroformer.progress import Reporter
from astroformer.training import loop as loop_module
from astroformer.training import pace as pace_module
from astroformer.training import validation as validation_module
from astroformer.training.batches import Batch, Batches
from astroformer.training.checkpoint import load_checkpoint
from astroformer.training.loop import Fit, Loop
from astroformer.training.objective import class_weights
from astroformer.training.order import count_steps, draw_keys, epoch_order
from astroformer.training.pace import cosine_with_warmup, decay_by_length
from astroformer.training.recipe import Recipe, make_recipe
from astroformer.training.run import RunFolder
from astroformer.training.single import train_network
from astroformer.training.steps.fused import why_not_fused
from astroformer.training.steps.plain import PlainStep
from astroformer.training.steps.update import FusedUpdate
from astroformer.training.stopping import Interrupted
from astroformer.training.validation import predict_store

SIZE = 8
Array = np.ndarray[Any, Any]


def recipe(**changes: Any) -> Recipe:
    """A decided recipe without any randomness but the order."""
    settings = {
        "epochs": 2,
        "batch_size": 4,
        "learning_rate": 0.01,
        "weight_decay": 0.0,
        "label_smoothing": 0.0,
        "precision": "no",
        "device": "cpu",
        "augment": "none",
        **changes,
    }
    return make_recipe(settings)


def store_of(images: Array, labels: Array, classes: tuple[str, ...], cache: Path) -> ImageStore:
    names = [str(i) for i in range(len(images))]
    source = LabelledImages("test", names, labels.astype(np.int64), classes, images.__getitem__)
    shape = images.shape
    return ImageStore.build(source, Preprocessing(shape[1:3], shape[3]), cache=cache)


def shades(n: int, cache: Path, classes: int = 3, seed: int = 0) -> ImageStore:
    """Noisy images whose class is their brightness; classes in turn."""
    labels = np.arange(n) % classes
    noise = np.random.default_rng(seed).integers(-40, 40, (n, SIZE, SIZE, 1))
    images = (60 + 60 * labels[:, None, None, None] + noise).clip(0, 255).astype(np.uint8)
    return store_of(images, labels, tuple("abcdef"[:classes]), cache)


class Small(nn.Module):
    """A network without batch statistics; `seen` keeps the batches that it was trained on."""

    def __init__(self, classes: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.head = nn.Linear(4, classes)
        self.dropout = nn.Dropout(dropout)
        self.seen: list[Tensor] = []
        self.when: Callable[[int], None] = lambda calls: None

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if self.training:
            self.seen.append(x_BCHW.detach().clone())
            self.when(len(self.seen))
        y_BCHW = torch.tanh(self.conv(x_BCHW.to(self.conv.weight.dtype)))
        return self.head(self.dropout(y_BCHW.mean((2, 3))))


def make_loop(
    network: nn.Module, train: ImageStore, settings: Recipe, valid: ImageStore | None = None, **options: Any
) -> Loop:
    AcceleratorState._reset_state(reset_partial_state=True)  # an earlier test may have run in another precision
    accelerator = Accelerator(cpu=True, mixed_precision=settings.precision, gradient_accumulation_steps=settings.parts)
    preprocessing = Preprocessing(train.preprocessing.image_size, train.base.shape[1], mean=(), std=())
    return Loop(network, train, valid or train, preprocessing, settings, accelerator=accelerator, **options)


def run_folder(path: Path) -> RunFolder:
    path.mkdir()
    return RunFolder(path)


def weights(fit: Fit) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in fit.network.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# Learning ---------------------------------------------------------------------------------------------------


def test_it_learns(tmp_path: Path) -> None:
    images, labels = mock_galaxies(48, size=32, seed=1)
    chosen = labels < 4
    store = store_of(images[chosen], labels[chosen], CLASSES[:4], tmp_path)
    torch.manual_seed(0)
    network = create_network("astroformer_atto", num_classes=4, img_size=32)
    fit = train_network(network, store, store, recipe(epochs=14, batch_size=10, learning_rate=2e-3))
    assert fit.seen == {(32, 32): fit.state.images}
    losses = [row["train_loss"] for row in fit.state.history]
    assert losses[-1] < 0.5 * losses[0]
    assert fit.state.history[-1]["valid_top1"] > 0.7  # on the images it was trained on; chance is 0.25


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_every_optimizer_learns_shades(tmp_path: Path, optimizer: str) -> None:
    settings = recipe(epochs=15, optimizer=optimizer, learning_rate=0.1 if optimizer == "sgd" else 0.05)
    fit = make_loop(Small(), shades(24, tmp_path), settings).fit()
    losses = [row["train_loss"] for row in fit.state.history]
    assert losses[-1] < 0.6 * losses[0]


def test_decay_goes_by_the_length_of_the_run_unless_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace_module, "LEAST_MEMORY", 1)  # so that short runs differ
    store = shades(24, tmp_path)
    for epochs, optimizer, given in ((5, "adamw", None), (10, "adamw", None), (5, "sgd", None), (5, "adamw", 0.3)):
        network = Small()
        found: set[tuple[float, ...]] = set()
        loop = make_loop(network, store, recipe(epochs=epochs, optimizer=optimizer, weight_decay=given))
        network.when = lambda _, loop=loop, found=found: found.add(  # type: ignore[misc]
            tuple(group["weight_decay"] for group in loop.optimizer.param_groups)
        )
        loop.fit()
        momentum = 0.9 if optimizer == "sgd" else 0.0
        by_length = decay_by_length(epochs * 6, learning_rate=0.01, momentum=momentum)
        assert found == {(by_length if given is None else given, 0.0)}
    clock = make_loop(Small(), store, recipe(epochs=None, minutes=0.02, weight_decay=None))
    state = clock.fit().state
    last = clock.optimizer.param_groups[0]["weight_decay"]
    assert last == pytest.approx(decay_by_length(state.updates, learning_rate=0.01), rel=0.2)


# Batches ----------------------------------------------------------------------------------------------------


def test_no_batch_is_a_single_image_and_none_is_far_from_the_size_asked_for() -> None:
    for batch_size in range(2, 20):
        for n in range(2, 120):
            steps = count_steps(n, batch_size)
            sizes = np.diff(np.linspace(0, n, steps + 1).round().astype(int))
            assert sizes.sum() == n
            assert sizes.min() >= 2
            assert sizes.max() - sizes.min() <= 1
            assert sizes.max() <= 1.5 * batch_size
    assert count_steps(5, 1) == 5
    assert count_steps(1, 64) == 1


@pytest.mark.parametrize(("n", "batch_size", "sizes"), [(3, 2, [3]), (5, 64, [5]), (9, 4, [4, 5]), (4, 1, [1] * 4)])
def test_every_image_is_used_once_an_epoch(tmp_path: Path, n: int, batch_size: int, sizes: list[int]) -> None:
    network, store = Small(), shades(n, tmp_path)
    state = make_loop(network, store, recipe(epochs=3, batch_size=batch_size)).fit().state
    assert [len(x) for x in network.seen] == sizes * 3
    assert (state.updates, state.images, state.epoch) == (3 * len(sizes), 3 * n, 3)
    raw_NCHW = torch.from_numpy(store.array.copy()) / 255
    for epoch in range(3):
        seen_NCHW = torch.cat(network.seen[epoch * len(sizes) : (epoch + 1) * len(sizes)])
        order = epoch_order(0, epoch, store.labels)
        torch.testing.assert_close(seen_NCHW, raw_NCHW[order])


def test_mixing_does_not_depend_on_the_batch_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = shades(22, tmp_path)
    made: list[tuple[Tensor, Tensor]] = []
    take = Batches.take

    def recorded(self: Batches, *arguments: Any) -> Batch:
        batch = take(self, *arguments)
        made.append((batch.x_BCHW, batch.y_BK))
        return batch

    monkeypatch.setattr(Batches, "take", recorded)
    augment = PRESETS["sky"].model_copy(update={"mixup": 0.4, "cutmix": 1.0}).model_dump()
    results = []
    for batch_size, accumulate in ((22, 1), (4, 1), (7, 3)):
        made.clear()
        settings = recipe(epochs=2, batch_size=batch_size, accumulate=accumulate, augment=augment)
        make_loop(Small(), store, settings).fit()
        results.append((torch.cat([x for x, _ in made]), torch.cat([y for _, y in made])))
    for x, y in results[1:]:
        assert torch.equal(x, results[0][0])
        assert torch.equal(y, results[0][1])
    assert ((results[0][1] > 0).sum(1) == 2).any()  # some labels are mixed


# Weights of classes and images ------------------------------------------------------------------------------

LABELS = np.array([0] * 60 + [1] * 30 + [2] * 10)


def test_class_weights_even_out_the_classes() -> None:
    names = ("a", "b", "c")
    counts_K = np.bincount(LABELS)
    assert class_weights("none", LABELS, names) is None
    auto_K = class_weights("auto", LABELS, names)
    assert auto_K is not None
    np.testing.assert_allclose(auto_K.numpy() * counts_K, [100 / 3] * 3, rtol=1e-6)
    named_K = class_weights({"b": 4.0}, LABELS, names)
    assert named_K is not None
    np.testing.assert_allclose(named_K / named_K[0], [1, 4, 1], rtol=1e-6)
    assert float((named_K.numpy() * counts_K).sum()) == pytest.approx(100, rel=1e-6)  # mean 1 over the images
    with pytest.raises(UserError, match="names 'd', which is no class; classes: a, b, c"):
        class_weights({"d": 4.0}, LABELS, names)
    with pytest.raises(UserError, match="weight above 0"):
        class_weights({"a": 0, "b": 0, "c": 0}, LABELS, names)


def test_class_weights_enter_the_loss(tmp_path: Path) -> None:
    store = shades(9, tmp_path).subset([0, 1, 2, 3, 6])
    settings = recipe(epochs=1, batch_size=64, class_weights={"a": 5.0}, label_smoothing=0.1)
    network = Small()
    x_BCHW = torch.from_numpy(store.array.copy()) / 255
    weights_K = class_weights(settings.class_weights, store.labels, store.classes)
    with torch.no_grad():
        losses_B = F.cross_entropy(
            network.eval()(x_BCHW),
            F.one_hot(torch.from_numpy(store.labels), 3).float(),
            weight=weights_K,
            label_smoothing=0.1,
            reduction="none",
        )
    row = make_loop(network, store, settings).fit().state.history[0]
    assert row["train_loss"] == pytest.approx(float(losses_B.mean()), abs=2e-6)


def test_balanced_sampling_draws_every_class_equally_often() -> None:
    epochs = 100
    orders = np.stack([epoch_order(0, epoch, LABELS, balanced=True) for epoch in range(epochs)])
    drawn = orders.size
    share_K = np.bincount(LABELS[orders.ravel()]) / drawn
    np.testing.assert_allclose(share_K, 1 / 3, atol=4 * np.sqrt(2 / 9 / drawn))
    # Within a class every image is equally likely.
    share_N = np.bincount(orders.ravel(), minlength=100) / drawn
    expected_N = 1 / 3 / np.bincount(LABELS)[LABELS]
    assert (abs(share_N - expected_N) < 5 * np.sqrt(expected_N / drawn)).all()
    np.testing.assert_array_equal(orders[3], epoch_order(0, 3, LABELS, balanced=True))
    assert (orders[3] != orders[4]).any()


def test_without_it_an_epoch_is_a_permutation() -> None:
    orders = [epoch_order(0, epoch, LABELS) for epoch in range(3)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(100))
        np.testing.assert_array_equal(draw_keys(order), order)
    assert (orders[0] != orders[1]).any()
    assert (orders[0] != epoch_order(1, 0, LABELS)).any()


def test_an_image_drawn_again_in_an_epoch_is_varied_anew(tmp_path: Path) -> None:
    keys = draw_keys(np.array([2, 0, 2, 2, 1]))
    np.testing.assert_array_equal(keys % 5, [2, 0, 2, 2, 1])
    np.testing.assert_array_equal(keys // 5, [0, 0, 1, 2, 0])
    store = shades(12, tmp_path).subset([0, 3, 6, 9, 1, 2])  # b and c have one image each
    network = Small()
    settings = recipe(epochs=1, batch_size=64, balanced_sampling=True, augment={"rotation": 180})
    make_loop(network, store, settings).fit()
    order = epoch_order(0, 0, store.labels, balanced=True)
    assert len(set(order.tolist())) < len(order)
    assert len(torch.unique(network.seen[0], dim=0)) == len(order)


# Gradients --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "accumulate"), [(7, 2), (7, 3), (8, 4), (2, 4)])
def test_accumulated_parts_give_the_gradient_of_the_whole(tmp_path: Path, n: int, accumulate: int) -> None:
    store = shades(n, tmp_path, classes=2)
    results = []
    for parts in (1, accumulate):
        settings = recipe(
            epochs=3,
            batch_size=8,
            accumulate=parts,
            optimizer="sgd",
            momentum=0.0,
            clip=0.05,
            learning_rate=1.0,
            class_weights="auto",
            augment={"mixup": 1.0},
        )
        network = Small(2).double()
        fit = make_loop(network, store, settings).fit()
        assert fit.state.updates == 3
        results.append((weights(fit), fit.state.history))
    start = Small(2).double().state_dict()
    for key, value in results[0][0].items():
        torch.testing.assert_close(value, results[1][0][key], rtol=0, atol=1e-7)  # the loss is float32
        assert (value - start[key]).abs().max() > 1e-4
    for one, other in zip(results[0][1], results[1][1], strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], abs=2e-6)


def test_clipping_limits_the_step(tmp_path: Path) -> None:
    start = Small().state_dict()
    norms = {}
    for clip in (None, 1e-3):
        settings = recipe(
            epochs=1, batch_size=64, optimizer="sgd", momentum=0.0, learning_rate=1.0, warmup=0.0, clip=clip, ema=0.0
        )
        after = weights(make_loop(Small(), shades(9, tmp_path), settings).fit())
        norms[clip] = float(torch.cat([(after[k] - start[k]).flatten() for k in after]).norm())
    assert norms[1e-3] == pytest.approx(1e-3, rel=1e-3)
    assert norms[None] > 0.01


def test_the_learning_rate_follows_the_schedule(tmp_path: Path) -> None:
    network = Small()
    loop = make_loop(network, shades(8, tmp_path), recipe(epochs=5, warmup=0.3, final_learning_rate=0.1))
    rates: list[float] = []
    network.when = lambda calls: rates.append(loop.optimizer.param_groups[0]["lr"])
    loop.fit()
    expected = [0.01 * cosine_with_warmup(k / 10, warmup=0.3, final=0.1) for k in range(10)]
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize(("size", "small"), [(48, 36), (40, 32), (32, 32)])
def test_a_first_share_of_the_run_is_on_smaller_images(tmp_path: Path, size: int, small: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, size, size, 1)).astype(np.uint8)
    store = store_of(images, np.arange(8) % 2, ("a", "b"), tmp_path)
    network = Small(2)
    make_loop(network, store, recipe(epochs=5, progressive=0.6, augment={"mixup": 0.2})).fit()
    assert [x.shape[2:] for x in network.seen] == [(small, small)] * 6 + [(size, size)] * 4


@pytest.mark.parametrize("speed", ["plain", "fused"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_tied_weights_stay_tied_and_first_images_fit_the_group(tmp_path: Path, optimizer: str, speed: str) -> None:
    store = squares(12, tmp_path, size=57)
    torch.manual_seed(0)
    network = create_network("astroformer_atto", num_classes=2, in_chans=1, img_size=57, group="d4", layout="CCCT")
    start = network.head.classifier.weight.detach().clone()
    sizes: list[int] = []
    network.stem.register_forward_pre_hook(lambda stem, given: sizes.append(given[0].shape[-1]))
    words = {"epochs": 2, "progressive": 0.5, "accumulate": 2, "ema": 0.3, "optimizer": optimizer, "speed": speed}
    loop = make_loop(network, store, recipe(**words))
    assert isinstance(loop.step, PlainStep)
    kernel = speed == "fused" and optimizer == "adamw" and why_not_fused() is None
    assert isinstance(loop.step.update, FusedUpdate) == kernel
    fit = loop.fit()
    assert sizes[:6] == [41] * 6  # three quarters of 57 are 43
    assert set(sizes[6:]) == {57}
    assert (fit.network.head.classifier.weight - start).abs().max() > 1e-4
    x = torch.rand(3, 1, 57, 57)
    with torch.no_grad():
        logits, turned = fit.network(x), fit.network(x.rot90(1, (2, 3)))
    torch.testing.assert_close(turned, logits, rtol=0, atol=1e-4 * logits.abs().max().item())


def test_weights_that_are_not_tied_yet_are_before_the_first_step(tmp_path: Path) -> None:
    """The fused step takes tied weights at their word: it must not see others, where the plain one would."""
    store = squares(8, tmp_path, size=33)
    torch.manual_seed(0)
    network = create_network(
        "astroformer_atto", num_classes=2, in_chans=1, img_size=33, group="d4", layout="CCCC", channel_attention="none"
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    words: dict[str, Any] = {"epochs": 1, "progressive": 0.0, "ema": 0.0}
    fits = [
        make_loop(copy.deepcopy(network), store, recipe(**words, speed=speed)).fit().network
        for speed in ("plain", "fused")
    ]
    x_BCHW = torch.rand(3, 1, 33, 33)
    with torch.no_grad():
        plain, fused, turned = fits[0](x_BCHW), fits[1](x_BCHW), fits[1](x_BCHW.rot90(1, (2, 3)))
    torch.testing.assert_close(fused, plain, rtol=0, atol=1e-3 * plain.abs().max().item())
    torch.testing.assert_close(turned, fused, rtol=0, atol=1e-4 * fused.abs().max().item())


def squares(n: int, cache: Path, size: int = 48) -> ImageStore:
    images = np.random.default_rng(0).integers(0, 256, (n, size, size, 1)).astype(np.uint8)
    return store_of(images, np.arange(n) % 2, ("a", "b"), cache)


@pytest.mark.parametrize(("epochs", "applied"), [(4, False), (5, True), (9, True)])
@pytest.mark.parametrize(
    ("strong", "least"), [({"policy": "trivialaugment"}, "policy_epochs"), ({"mixup": 0.5}, "mix_epochs")]
)
def test_a_policy_and_mixing_wait_for_a_run_that_is_long_enough(
    tmp_path: Path, strong: dict[str, Any], least: str, epochs: int, applied: bool
) -> None:
    network, plain, always = Small(2), Small(2), Small(2)
    store = squares(8, tmp_path, size=16)
    make_loop(network, store, recipe(epochs=epochs, augment={**strong, least: 5})).fit()
    make_loop(plain, store, recipe(epochs=epochs, augment={})).fit()
    make_loop(always, store, recipe(epochs=epochs, augment=strong)).fit()
    same_as = always if applied else plain
    assert all(torch.equal(x, y) for x, y in zip(network.seen, same_as.seen, strict=True))
    assert not torch.equal(plain.seen[0], always.seen[0])


# Averaging --------------------------------------------------------------------------------------------------


def test_the_average_is_what_is_evaluated_and_saved(tmp_path: Path) -> None:
    train, valid = shades(12, tmp_path), shades(9, tmp_path, seed=1)
    network = Small()
    passed: list[dict[str, Tensor]] = []

    def note() -> bool:
        passed.append({k: v.detach().clone() for k, v in network.state_dict().items()})
        return False

    settings = recipe(epochs=4, ema=0.3)
    run = run_folder(tmp_path / "run")
    start = {k: v.clone() for k, v in network.state_dict().items()}
    loop = make_loop(network, train, settings, valid, run=run, stop=note)
    fit = loop.fit()
    average = start
    for update, now in enumerate(passed, start=1):
        decay = min(np.exp(-1 / (0.3 * 12)), (1 + update) / (10 + update))
        average = {k: decay * average[k] + (1 - decay) * now[k] for k in now}
    assert len(passed) == 12
    for key, value in weights(fit).items():
        torch.testing.assert_close(value, average[key], rtol=1e-4, atol=1e-6)
        assert not torch.equal(value, passed[-1][key])
    classifier = Classifier(fit.network, loop.preprocessing, train.classes)
    nll = nll_N(valid.labels, predict_store(classifier, valid)).mean()
    assert fit.state.history[-1]["valid_nll"] == pytest.approx(nll, abs=1e-6)
    groups = load_checkpoint(run.checkpoint)[0]
    assert same(groups["average"], weights(fit))
    assert same(groups["network"], passed[-1])


def test_without_averaging_the_raw_weights_are(tmp_path: Path) -> None:
    network = Small()
    fit = make_loop(network, shades(9, tmp_path), recipe(ema=0.0)).fit()
    assert same(weights(fit), network.state_dict())


# Seeds ------------------------------------------------------------------------------------------------------


def test_the_seed_decides_every_bit(tmp_path: Path) -> None:
    def final(**changes: Any) -> dict[str, Tensor]:
        settings = recipe(augment={"mixup": 0.2, "noise": 0.05}, epochs=3, **changes)
        torch.rand(3)  # the state of torch's generator plays no part
        return weights(make_loop(Small(dropout=0.5), shades(18, tmp_path), settings).fit())

    first = final(seed=4)
    assert same(final(seed=4), first)
    assert not same(final(seed=5), first)
    final(seed=2**31 - 1)  # no seed is too large


# Evaluations and history ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epochs", "evaluations", "expected"),
    [(8, 4, [2, 4, 6, 8]), (3, 20, [1, 2, 3]), (5, 1, [5]), (5, 2, [3, 5]), (1, 1, [1])],
)
def test_evaluations_are_spread_evenly(tmp_path: Path, epochs: int, evaluations: int, expected: list[int]) -> None:
    run = run_folder(tmp_path / "run")
    fit = make_loop(Small(), shades(8, tmp_path), recipe(epochs=epochs, evaluations=evaluations), run=run).fit()
    rows = fit.state.history
    assert [row["epoch"] for row in rows] == expected
    assert [row["updates"] for row in rows] == [2 * e for e in expected]
    assert [row["progress"] for row in rows] == pytest.approx([e / epochs for e in expected], abs=1e-6)
    assert rows[0].keys() == {
        "epoch",
        "updates",
        "minutes",
        "progress",
        "learning_rate",
        "train_loss",
        "valid_top1",
        "valid_balanced_accuracy",
        "valid_nll",
        "images_per_second",
    }
    with run.history.open(newline="") as stream:
        written = list(csv.DictReader(stream))
    assert [{k: float(v) for k, v in row.items()} for row in written] == rows


def test_history_measures_the_validation_images(tmp_path: Path) -> None:
    valid = shades(9, tmp_path, seed=1).subset([0, 3, 6, 1, 2])  # three of a, one of b, one of c
    network = Small()
    with torch.no_grad():  # the network says "a" to everything, and learns nothing at this rate
        network.head.bias.copy_(torch.tensor([50.0, 0.0, 0.0]))
    row = make_loop(network, shades(9, tmp_path), recipe(epochs=1, learning_rate=1e-9), valid).fit().state.history[0]
    assert row["valid_top1"] == pytest.approx(3 / 5)
    assert row["valid_balanced_accuracy"] == pytest.approx(1 / 3, abs=1e-6)


# Losses that are not finite ---------------------------------------------------------------------------------


def test_a_huge_learning_rate_stops_with_advice(tmp_path: Path) -> None:
    settings = recipe(optimizer="sgd", learning_rate=1e38, clip=None, epochs=20)
    with pytest.raises(UserError) as caught:
        make_loop(Small(), shades(8, tmp_path), settings).fit()
    for word in ("not finite", "epoch", "step", "learning_rate", "clip", "precision: no"):
        assert word in str(caught.value)


@pytest.mark.parametrize("bad_call", [1, 8, 12])
def test_the_first_step_that_is_not_finite_is_named_and_never_saved(tmp_path: Path, bad_call: int) -> None:
    network = Small()

    def spoil(calls: int) -> None:
        if calls == bad_call:
            with torch.no_grad():
                network.head.bias.fill_(float("nan"))

    network.when = spoil
    run = run_folder(tmp_path / "run")
    settings = recipe(epochs=4, checkpoint_seconds=0)  # five steps an epoch
    with pytest.raises(UserError, match=rf"epoch {(bad_call - 1) // 5}, step {(bad_call - 1) % 5} "):
        make_loop(network, shades(20, tmp_path), settings, run=run).fit()
    groups, _, state = load_checkpoint(run.checkpoint)
    assert state["updates"] == bad_call - 1
    assert all(torch.isfinite(t).all() for group in groups.values() for t in group.values())


# Length by the clock ----------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(loop_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def ticking(network: Small, clock: list[float], seconds: float) -> None:
    def tick(calls: int) -> None:
        clock[0] += seconds

    network.when = tick


def test_minutes_follow_the_clock(tmp_path: Path, clock: list[float]) -> None:
    network, settings = Small(), recipe(epochs=None, minutes=0.5, evaluations=3, warmup=0.2)
    loop = make_loop(network, shades(16, tmp_path), settings)
    rates: list[float] = []

    def tick(calls: int) -> None:
        rates.append(loop.optimizer.param_groups[0]["lr"])
        clock[0] += 1.0

    network.when = tick
    fit = loop.fit()
    assert fit.state.updates == 30
    assert (fit.state.epoch, fit.state.step) == (7, 2)  # seven whole epochs of four steps, and half of one
    assert fit.state.elapsed == pytest.approx(30)
    assert rates == pytest.approx([0.01 * cosine_with_warmup(k / 30, warmup=0.2, final=0.001) for k in range(30)])
    rows = fit.state.history
    assert [row["updates"] for row in rows] == [12, 20, 30]
    assert rows[-1]["minutes"] == pytest.approx(0.5)
    assert rows[-1]["epoch"] == pytest.approx(7.5)
    assert rows[-1]["progress"] == 1.0


def test_the_last_row_is_about_the_final_weights_however_long_evaluating_takes(
    tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*arguments: Any) -> Array:
        clock[0] += 10.0
        return predict_store(*arguments)

    monkeypatch.setattr(validation_module, "predict_store", slow)
    for seconds in (0.9, 1.0, 1.7):
        network = Small()
        ticking(network, clock, seconds)
        fit = make_loop(network, shades(16, tmp_path), recipe(epochs=None, minutes=0.5)).fit()
        assert fit.state.history[-1]["updates"] == fit.state.updates
        assert len({row["updates"] for row in fit.state.history}) == len(fit.state.history)
        assert 30 <= fit.state.elapsed <= 30 + 10 + seconds


def test_by_the_clock_a_run_foresees_its_length_though_small_images_go_faster(
    tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    network, chosen = Small(2), []
    monkeypatch.setattr(Batches, "expect_epochs", lambda batches, epochs: chosen.append(epochs) or [])

    def tick(calls: int) -> None:
        clock[0] += network.seen[-1].shape[-1] ** 2 / 48**2  # seconds as pixels

    network.when = tick
    settings = recipe(epochs=None, minutes=0.5, progressive=0.65, augment={})
    epochs = make_loop(network, squares(16, tmp_path), settings).fit().state.updates / 4
    assert {x.shape[-1] for x in network.seen} == {36, 48}
    assert chosen[0] < 1  # nobody knows yet
    assert chosen[1:] == pytest.approx([epochs] * (len(chosen) - 1), rel=0.05)


def test_by_the_clock_a_policy_is_taken_up_when_the_run_will_be_long_enough(tmp_path: Path, clock: list[float]) -> None:
    policy = {"policy": "trivialaugment", "policy_epochs": 5, "mixup": 0.5, "mix_epochs": 5}
    for seconds, applied in ((2.0, False), (1.0, True)):  # a step of 32 seconds, four an epoch
        network, plain = Small(2), Small(2)
        ticking(network, clock, seconds)
        said: list[str] = []
        reporter = Reporter(quiet=True)
        reporter.say = said.append  # type: ignore[method-assign]
        store = squares(16, tmp_path, size=16)
        loop = make_loop(network, store, recipe(epochs=None, minutes=32 / 60, augment=policy), reporter=reporter)
        loop.fit()
        make_loop(plain, store, recipe(epochs=8, augment={})).fit()
        alike = [torch.equal(x, y) for x, y in zip(network.seen, plain.seen, strict=False)]
        assert all(alike[:4])
        assert all(alike[4:]) != applied
        names = ("trivialaugment", "mixing of images")
        assert said == [f"{name}: on, since the run has some 8 epochs" for name in names if applied]


def test_a_resumed_run_counts_the_time_that_had_passed(tmp_path: Path, clock: list[float]) -> None:
    run, store, settings = run_folder(tmp_path / "run"), shades(16, tmp_path), recipe(epochs=None, minutes=0.5)
    network = Small()
    ticking(network, clock, 1.0)
    with pytest.raises(Interrupted):
        make_loop(network, store, settings, run=run, stop=lambda: len(network.seen) == 11).fit()
    clock[0] += 5000  # the pause does not count
    network = Small()
    ticking(network, clock, 1.0)
    loop = make_loop(network, store, settings, run=run)
    loop.restore()
    fit = loop.fit()
    assert len(network.seen) == 19
    assert fit.state.updates == 30
    assert fit.state.elapsed == pytest.approx(30)


def test_a_real_clock(tmp_path: Path) -> None:
    fit = make_loop(Small(), shades(16, tmp_path), recipe(epochs=None, minutes=0.02)).fit()
    assert 1.2 <= fit.state.elapsed < 6
    assert fit.state.history[-1]["progress"] == 1.0
