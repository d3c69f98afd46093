"""Draws docs/images/mock-galaxies.png, a galaxy or two of each class: `python benchmarks/mock_galaxies_picture.py`."""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image

from astroformer.drawing import DPI, PAGE, new_figure, style
from astroformer.images.sets.mock_galaxies import CLASSES, render

ROWS = 2


@style()
def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    figure = new_figure(PAGE, 4.2)
    axes = figure.subplots(ROWS, len(CLASSES))
    for row in range(ROWS):
        for column, image in enumerate(render(np.arange(len(CLASSES)), 96, seed=3, first=10 * row)):
            axes[row, column].imshow(image)
            axes[row, column].set_axis_off()
            if row == 0:
                words = CLASSES[column].replace("_", " ").split()
                half = (len(words) + 1) // 2
                name = " ".join(words[:half]) + "\n" + " ".join(words[half:])
                axes[row, column].set_title(name, loc="center", fontsize=6)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=DPI)
    # With 256 colours the noise of the sky takes a third of the bytes, and nobody sees a difference.
    picture = Image.open(drawn).convert("RGB").quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=3)
    picture.save(Path(__file__).parents[1] / "docs" / "images" / "mock-galaxies.png", optimize=True)


if __name__ == "__main__":
    main()
