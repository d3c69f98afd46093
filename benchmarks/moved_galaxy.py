"""The same galaxy moved by a pixel, and what the plain and the equivariant network say: docs/images/moved-galaxy.png.

    python benchmarks/moved_galaxy.py

Both train alike on the built-in mock galaxies. Of new ones, the galaxy is shown whose answer by the plain network
changes most under one of the eight moves to a neighbouring pixel.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

import astroformer
from astroformer.drawing import BLUE, DPI, PAGE, PALE, SMALL, new_figure, style
from astroformer.evaluation.symmetry.measured import MeasuredNetwork, read_images
from astroformer.training.recipe import NetworkSettings, Recipe

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "moved-galaxy.png"
MOVES = [(0, 0), *((a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if (a, b) != (0, 0))]
ARMS = {"as the paper's code": "none", 'equivariance: "anchor"': "anchor"}


def probabilities(classifier: astroformer.Classifier, x_NCHW: torch.Tensor) -> np.ndarray:
    """(moves, N, K) of images moved circularly."""
    with torch.no_grad():
        logits = [classifier.network(x_NCHW.roll(move, (2, 3))) for move in MOVES]
    return torch.stack(logits).softmax(2).numpy()


@style()
def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, equivariance in ARMS.items():
            recipe = Recipe(epochs=25, network=NetworkSettings(equivariance=equivariance, symmetry="shift"))
            trained = astroformer.train("mock-galaxies", recipe, out=Path(folder) / equivariance)
            found[name] = astroformer.load(trained.model)
    classifier = next(iter(found.values()))
    subject = MeasuredNetwork("moved", classifier.network, "trained", classifier.preprocessing, classifier.classes)
    x_NCHW = read_images(subject, None, images=300).images_NCHW
    answers = {name: probabilities(c, x_NCHW) for name, c in found.items()}
    change_MN = np.abs(answers[next(iter(ARMS))] - answers[next(iter(ARMS))][:1]).max(2)
    move, galaxy = np.unravel_index(change_MN.argmax(), change_MN.shape)
    shown = classifier.preprocessing

    figure = new_figure(PAGE, 8.5)
    axes = figure.subplots(2, 3, width_ratios=[1, 1.5, 1.5])
    most_K = np.max([p_MNK[k, galaxy] for p_MNK in answers.values() for k in (0, move)], 0)
    top = sorted(np.argsort(-most_K)[:5])
    for row, k in enumerate((0, int(move))):
        picture = x_NCHW[galaxy].roll(MOVES[k], (1, 2)).permute(1, 2, 0).numpy()
        picture = np.clip(picture * np.array(shown.std) + np.array(shown.mean), 0, None)
        axes[row, 0].imshow(picture / picture.max())
        axes[row, 0].set_title("moved by one pixel" if k else "a mock galaxy")
        axes[row, 0].set_axis_off()
        for column, (name, p_MNK) in enumerate(answers.items(), start=1):
            axis, p_K = axes[row, column], p_MNK[k, galaxy]
            bars = axis.barh(range(5), p_K[top], color=[BLUE if c == p_K.argmax() else PALE for c in top])
            axis.bar_label(bars, [f"{p:.1%}" for p in p_K[top]], padding=3, fontsize=SMALL)
            axis.set_yticks(range(5), [classifier.classes[c] for c in top] if column == 1 else [""] * 5)
            axis.set_xlim(0, 1.18)
            axis.set_xticks([])
            axis.invert_yaxis()
            axis.spines["bottom"].set_visible(False)
            if row == 0:
                axis.set_title(name)
    figure.savefig(PICTURE, dpi=DPI)
    print(f"shown: moved by {MOVES[move]} (rows, columns)")
    for name, p_MNK in answers.items():
        kept = (p_MNK[1:].argmax(2) == p_MNK[:1].argmax(2)).mean()
        print(f"{name}: {kept:.1%} of {p_MNK.shape[1]} galaxies keep their class when moved by a pixel, largest change "
              f"of a probability {np.abs(p_MNK - p_MNK[:1]).max():.2g}")  # fmt: skip


if __name__ == "__main__":
    main()
