"""Training on votes: the targets, the loss, what is measured, and that hard labels are the same as votes for one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from astroformer.augmentation.augmenter import Augmenter
from astroformer.augmentation.settings import Augment
from astroformer.errors import UserError
from astroformer.images.labelled import LabelledImages
from astroformer.images.preprocessing import Preprocessing
from astroformer.images.store import ImageStore
from astroformer.images.votes import voted
from astroformer.metrics import score
from astroformer.training.batches import Batches
from astroformer.training.objective import Objective, class_weights, image_weights, soft_targets
from astroformer.training.recipe import Recipe, make_recipe
from astroformer.training.run import RunFolder
from astroformer.training.single import train_network
from astroformer.training.splitting import _strata
from astroformer.training.stopping import Interrupted

CLASSES = ("a", "b", "c")
SIZE = 8
Array = np.ndarray[Any, Any]


def recipe(**changes: Any) -> Recipe:
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


def images_of(n: int, seed: int = 0) -> tuple[LabelledImages, Array]:
    """Noisy images without labels, and their true classes, which are their brightness."""
    truth = np.arange(n) % 3
    noise = np.random.default_rng(seed).integers(-60, 60, (n, SIZE, SIZE, 1))
    pixels = (60 + 60 * truth[:, None, None, None] + noise).clip(0, 255).astype(np.uint8)
    return LabelledImages("shades", [str(i) for i in range(n)], None, (), pixels.__getitem__), truth


def stored(images: LabelledImages, cache: Path) -> ImageStore:
    return ImageStore.build(images, Preprocessing((SIZE, SIZE), 1), cache=cache)


def hard(n: int, cache: Path, **fields: Any) -> ImageStore:
    images, truth = images_of(n)
    given = LabelledImages("shades", images.files, truth.astype(np.int64), CLASSES, images.reader, **fields)
    return stored(given, cache)


def of_votes(votes_NK: Array, cache: Path, seed: int = 0) -> ImageStore:
    return stored(voted(images_of(len(votes_NK), seed)[0], votes_NK, CLASSES), cache)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.head(torch.tanh(self.conv(x_BCHW)).mean((2, 3)))


def trained(store: ImageStore, **changes: Any) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    network = Small()
    fit = train_network(network, store, store, recipe(**changes), quiet=True)
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}, fit.state.history


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "words",
    [
        {},
        {"label_smoothing": 0.1},
        {"class_weights": "auto"},
        {"balanced_sampling": True},
    ],
)
def test_votes_for_one_class_train_as_its_label_does_to_the_bit(tmp_path: Path, words: dict[str, Any]) -> None:
    one_hot = np.eye(3)[np.arange(11) % 3]
    labels, _ = trained(hard(11, tmp_path), **words)
    for votes_NK in (one_hot, 7 * one_hot):  # as fractions, and as counts that are equal everywhere
        assert equal(labels, trained(of_votes(votes_NK, tmp_path), **words)[0])
    assert not equal(labels, trained(of_votes(one_hot * 3 + 1, tmp_path), **words)[0])


def test_mixed_votes_for_one_class_train_as_mixed_labels_do(tmp_path: Path) -> None:
    """But for rounding: the kernel of labels adds the two shares of a class up, which then may be the last bit off."""
    words: dict[str, Any] = {"augment": {"mixup": 0.4, "cutmix": 1.0, "mix_epochs": 0}}
    labels, _ = trained(hard(11, tmp_path), **words)
    votes, _ = trained(of_votes(np.eye(3)[np.arange(11) % 3], tmp_path), **words)
    torch.testing.assert_close(labels, votes, rtol=0, atol=1e-5)


def test_an_image_of_weight_two_is_two_images(tmp_path: Path) -> None:
    """The gradient of one batch of weighted images is that of a batch in which they occur as many times."""
    weights = np.array([1.0, 2.0, 3.0, 1.0, 2.0, 3.0])
    store = hard(6, tmp_path, weights_N=weights)
    targets_NK = soft_targets(None, store.weights_N, store.labels, 3)
    assert targets_NK is not None
    assert float(targets_NK.sum()) == pytest.approx(6)
    network = Small()
    x_BCHW = torch.from_numpy(store.array.copy()) / 255
    repeated = torch.from_numpy(np.repeat(np.arange(6), weights.astype(int)))
    for smoothing in (0.0, 0.1):
        weighted = Objective(None, smoothing, weighted=True)(network(x_BCHW), targets_NK)
        plain = F.cross_entropy(
            network(x_BCHW[repeated]), torch.from_numpy(store.labels)[repeated], label_smoothing=smoothing
        )
        torch.testing.assert_close(weighted, plain)


def test_equal_weights_weigh_nothing(tmp_path: Path) -> None:
    weights, _ = trained(hard(11, tmp_path, weights_N=np.full(11, 0.1)))
    assert equal(weights, trained(hard(11, tmp_path))[0])
    assert not equal(weights, trained(hard(11, tmp_path, weights_N=np.arange(1.0, 12.0)))[0])
    assert image_weights(np.full(3, 0.1)) is None
    with pytest.raises(UserError, match="the weights of all images to train on are 0"):
        image_weights(np.zeros(3))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_of_votes_against_torch(tmp_path: Path, smoothing: float) -> None:
    votes_NK = np.random.default_rng(2).integers(0, 9, (10, 3)) + np.eye(3, dtype=int)[0]
    store = of_votes(votes_NK, tmp_path)
    network = Small()
    with torch.no_grad():
        logits_NK = network(torch.from_numpy(store.array.copy()) / 255)
    sums_N = votes_NK.sum(1, keepdims=True)
    shares_NK = torch.tensor(votes_NK / sums_N, dtype=torch.float32)
    weight_N = torch.tensor(sums_N[:, 0] / sums_N.mean(), dtype=torch.float32)
    each_N = F.cross_entropy(logits_NK, shares_NK, label_smoothing=smoothing, reduction="none")
    expected = float((weight_N * each_N).mean())
    preprocessing = Preprocessing((SIZE, SIZE), 1)
    settings = recipe(epochs=1, batch_size=64, label_smoothing=smoothing)
    fit = train_network(network, store, store, settings, preprocessing=preprocessing, quiet=True)
    assert fit.state.history[0]["train_loss"] == pytest.approx(expected, abs=2e-6)


def test_class_weights_go_by_the_sum_of_the_votes() -> None:
    votes_NK = np.array([[0.5, 0.5, 0.0], [0.5, 0.25, 0.25]])
    targets_NK = soft_targets(votes_NK, None, votes_NK.argmax(1), 3)
    weights_K = class_weights("auto", votes_NK.argmax(1), CLASSES, targets_NK=targets_NK)
    assert weights_K is not None
    np.testing.assert_allclose(
        weights_K.numpy() * votes_NK.sum(0), [2 / 3] * 3, rtol=1e-6
    )  # mean 1 over the two images


@pytest.mark.parametrize("mixed", [{}, {"mixup": 0.4}, {"mixup": 0.4, "cutmix": 1.0}])
@pytest.mark.parametrize("native", [True, False])
def test_targets_are_mixed_as_images_are(
    mixed: dict[str, float], native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Augment(flip_horizontal=0.5, **mixed)  # type: ignore[arg-type]
    augmenter = Augmenter(settings, seed=3, size=(SIZE, SIZE)).at_length(1e9)
    if not native:
        monkeypatch.setattr(augmenter._native, "takes", lambda *_: False)
    n = 9 + augmenter.mixes
    generator = np.random.default_rng(0)
    pixels = torch.from_numpy(generator.integers(0, 256, (n, 1, SIZE, SIZE)).astype(np.uint8))
    index = torch.arange(n)
    labels = torch.from_numpy(generator.integers(0, 3, n))
    words: dict[str, Any] = {"classes": 3, "preprocessing": Preprocessing((SIZE, SIZE), 1, mean=(0.5,), std=(0.2,))}
    x_BCHW, y_BK = augmenter.batch(pixels, index, index, 0, labels, **words)
    one_hot = F.one_hot(labels, 3).float()
    again_BCHW, again_BK = augmenter.batch(pixels, index, index, 0, one_hot, **words)
    assert torch.equal(x_BCHW, again_BCHW)
    assert torch.equal(y_BK, again_BK)
    soft = torch.from_numpy(generator.dirichlet([1, 1, 1], n).astype(np.float32))
    _, mixture_BK = augmenter.batch(pixels, index, index, 0, soft, **words)
    _, kept_BN = augmenter.batch(pixels, index, index, 0, index, **{**words, "classes": n})  # of each image, how much
    torch.testing.assert_close(mixture_BK, kept_BN @ soft)


def test_what_is_measured_against_votes(tmp_path: Path) -> None:
    votes_NK = np.random.default_rng(3).dirichlet([1, 1, 1], 30)
    probabilities_NK = np.random.default_rng(4).dirichlet([2, 2, 2], 30)
    labels = votes_NK.argmax(1)
    found = score(labels, probabilities_NK, CLASSES, votes_NK=votes_NK)
    logits_NK = torch.from_numpy(np.log(probabilities_NK))
    assert found["votes_cross_entropy"] == pytest.approx(float(F.cross_entropy(logits_NK, torch.from_numpy(votes_NK))))
    assert found["votes_brier"] == pytest.approx(((votes_NK - probabilities_NK) ** 2).sum(1).mean())
    for metric in ("votes_cross_entropy", "votes_brier"):
        interval = found.metrics[metric]
        assert interval.low < interval.value < interval.high
    best = score(labels, votes_NK, CLASSES, votes_NK=votes_NK)
    assert best["votes_cross_entropy"] == pytest.approx(-(votes_NK * np.log(votes_NK)).sum(1).mean())
    assert best["votes_brier"] == 0
    plain = score(labels, probabilities_NK, CLASSES)
    assert plain.metrics == {name: m for name, m in found.metrics.items() if not name.startswith("votes")}
    with pytest.raises(UserError, match="votes should be shares that sum to 1"):
        score(labels, probabilities_NK, CLASSES, votes_NK=votes_NK * 2)


def test_the_history_has_what_validation_says_of_votes(tmp_path: Path) -> None:
    votes_NK = np.random.default_rng(3).integers(1, 9, (12, 3))
    _, history = trained(of_votes(votes_NK, tmp_path))
    assert all("valid_votes_cross_entropy" in row for row in history)
    _, history = trained(hard(12, tmp_path))
    assert not any("valid_votes_cross_entropy" in row for row in history)


def test_a_class_that_is_hardly_anybodys_first_choice_can_be_split() -> None:
    votes_NK = np.array([[5, 1, 0]] * 4 + [[1, 5, 0]] * 4 + [[0, 2, 3]])
    images = voted(images_of(9)[0], votes_NK, CLASSES)
    np.testing.assert_array_equal(_strata(images, 2), [0] * 4 + [1] * 5)
    images = voted(images_of(8)[0], votes_NK[:8], CLASSES)
    np.testing.assert_array_equal(_strata(images, 2), images.labels)


def test_the_answers_of_a_teacher_have_the_weights_of_the_images(tmp_path: Path) -> None:
    votes_NK = np.random.default_rng(3).integers(0, 9, (12, 3)) + np.eye(3, dtype=int)[1]
    store = of_votes(votes_NK, tmp_path)
    teacher: Any = SimpleNamespace(answers=lambda x_BCHW: torch.full((len(x_BCHW), 3), 1 / 3))
    batches = Batches(store, Preprocessing((SIZE, SIZE), 1), recipe(), torch.device("cpu"), teacher=teacher)
    batches.begin_epoch(0)
    sums = torch.cat([batches.take(step, 0.0).y_BK.sum(1) for step in range(batches.steps)])
    assert batches.weighted
    expected = np.sort(votes_NK.sum(1) / votes_NK.sum(1).mean())
    np.testing.assert_allclose(np.sort(sums.numpy()), expected, rtol=1e-6)


def test_a_run_on_votes_is_resumed_to_the_bit(tmp_path: Path) -> None:
    votes_NK = np.random.default_rng(3).integers(0, 9, (12, 3)) + np.eye(3, dtype=int)[1]
    store = of_votes(votes_NK, tmp_path)
    whole, history = trained(store)
    (tmp_path / "run").mkdir()
    run, steps = RunFolder(tmp_path / "run"), iter(range(100))
    with pytest.raises(Interrupted):
        train_network(Small(), store, store, recipe(), run=run, quiet=True, stop=lambda: next(steps) == 3)
    network = Small()
    fit = train_network(network, store, store, recipe(), run=run, quiet=True)
    assert equal(whole, network.state_dict())
    assert fit.state.history[-1]["valid_votes_cross_entropy"] == history[-1]["valid_votes_cross_entropy"]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_votes_give_better_probabilities_than_majorities(tmp_path: Path, seed: int) -> None:
    """Few people voted on each of few images; what all people would say is known, since it was drawn from."""
    generator = np.random.default_rng(seed)
    shares_NK = np.full((120, 3), 0.2) + 0.4 * np.eye(3)[np.arange(120) % 3]
    votes_NK = np.stack([generator.multinomial(5, share_K) for share_K in shares_NK])
    test_NK = np.stack([generator.multinomial(40, share_K) for share_K in shares_NK])
    test = of_votes(test_NK, tmp_path, seed=100 + seed)
    images = images_of(120, seed)[0]
    majority = np.eye(3)[votes_NK.argmax(1)]
    measured = {}
    for name, given in (("votes", votes_NK), ("majorities", majority)):
        store = stored(voted(images, given, CLASSES), tmp_path)
        fit = train_network(Small(), store, test, recipe(epochs=20, batch_size=16, learning_rate=0.05), quiet=True)
        measured[name] = fit.state.history[-1]["valid_votes_cross_entropy"]
    assert measured["votes"] < measured["majorities"] - 0.02
