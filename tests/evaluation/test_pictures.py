from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from astroformer.evaluation.pictures import plot_confusion, plot_history, plot_symmetry
from astroformer.evaluation.symmetry import SymmetrySettings, measure_symmetry
from astroformer.images.sets.mock_galaxies import CLASSES
from astroformer.metrics import Evaluation, score


def evaluation(k: int, name: str = "class") -> Evaluation:
    rng = np.random.default_rng(k)
    labels_N = rng.integers(0, k, 40 * k)
    probabilities_NK = rng.dirichlet(np.ones(k), 40 * k)
    probabilities_NK[np.arange(len(labels_N)), labels_N] += 1
    names = tuple(f"{name}_{i}" for i in range(k))
    return score(labels_N, probabilities_NK / probabilities_NK.sum(1, keepdims=True), names, resamples=20)


def history(n: int) -> list[dict[str, float]]:
    return [
        {
            "epoch": (i + 1) / 2,
            "train_loss": 2.0 / (i + 1),
            "valid_nll": 1.8 / (i + 1),
            "valid_top1": 1 - 0.5 / (i + 1),
            "valid_balanced_accuracy": 0.98 - 0.5 / (i + 1),
        }
        for i in range(n)
    ]


def pixels(path: Path) -> np.ndarray:
    """The picture, whole and of a size that a screen shows; nothing is drawn over its rim."""
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        array = np.asarray(image.convert("RGB")).astype(int)
    height, width = array.shape[:2]
    assert 350 <= height <= 2400
    assert 500 <= width <= 2400
    rim = [array[0], array[-1], array[:, 0], array[:, -1]]
    assert all((line == 255).all() for line in rim)
    return array


@pytest.mark.parametrize("n", [1, 2, 20])
def test_history(tmp_path: Path, n: int) -> None:
    plot_history(history(n), tmp_path / "h.png")
    array = pixels(tmp_path / "h.png")
    red = (array[..., 0] > 170) & (array[..., 1] < 100) & (array[..., 2] < 90)
    blue = (array[..., 2] > 140) & (array[..., 0] < 80)
    assert red.sum() > 50
    assert blue.sum() > 50


def test_no_history_no_picture(tmp_path: Path) -> None:
    plot_history([], tmp_path / "h.png")
    assert not (tmp_path / "h.png").exists()


@pytest.mark.parametrize(
    ("k", "name"),
    [(2, "c"), (3, "a_name_longer_than_what_anyone_would_give_a_class"), (12, "quite_a_long_name"), (60, "c")],
)
def test_confusion(tmp_path: Path, k: int, name: str) -> None:
    plot_confusion(evaluation(k, name), tmp_path / "c.png")
    array = pixels(tmp_path / "c.png")
    # However long the names, the matrix takes the larger part of what they leave: its dark diagonal is there.
    dark_blue = (array[..., 2] > array[..., 0] + 60) & (array[..., 0] < 60)
    assert dark_blue.sum() > 3000


def test_confusion_of_the_built_in_classes(tmp_path: Path) -> None:
    labels_N = np.arange(40) % len(CLASSES)
    measured = score(labels_N, np.eye(len(CLASSES))[labels_N], CLASSES, resamples=10)
    plot_confusion(measured, tmp_path / "c.png")
    pixels(tmp_path / "c.png")


def test_confusion_with_a_class_without_images(tmp_path: Path) -> None:
    probabilities_NK = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1]])
    plot_confusion(score(np.array([0, 1]), probabilities_NK, ("a", "b", "c"), resamples=10), tmp_path / "c.png")
    pixels(tmp_path / "c.png")


def test_symmetry(tmp_path: Path) -> None:
    class Mean(torch.nn.Module):
        def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
            return x_BCHW.mean((2, 3))

    class Pixel(torch.nn.Module):
        def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
            return x_BCHW[:, :, 3, 3]

    images_NCHW = torch.randn(20, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    settings = SymmetrySettings(shifts=2, crops=2, rotations=1)
    reports = {
        "runs/a_folder_with_a_long_name_that_someone_chose/model": measure_symmetry(
            Mean(), images_NCHW, settings=settings
        ),
        "Pixel": measure_symmetry(Pixel(), images_NCHW, settings=settings),
    }
    plot_symmetry(reports, tmp_path / "s.png")
    array = pixels(tmp_path / "s.png")
    blue = (array[..., 2] > 140) & (array[..., 0] < 80)
    red = (array[..., 0] > 170) & (array[..., 1] < 100) & (array[..., 2] < 90)
    rows = [np.flatnonzero(colour[: len(array) // 2].any(1)) for colour in (blue, red)]
    assert rows[0].min() < rows[1].min()  # the line at 100 % lies above the other, inside the frame
    assert blue.sum() > 300
    assert red.sum() > 300
