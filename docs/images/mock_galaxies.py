"""Draws docs/images/mock-galaxies.png: `python docs/images/mock_galaxies.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from astroformer.images.sets.mock_galaxies import CLASSES, render

ROWS = 2
figure = Figure(figsize=(11, 2.75), layout="constrained", facecolor="white")
axes = figure.subplots(ROWS, len(CLASSES))
for row in range(ROWS):
    for column, image in enumerate(render(np.arange(len(CLASSES)), 96, seed=3, first=10 * row)):
        axes[row, column].imshow(image)
        axes[row, column].set_axis_off()
        if row == 0:
            words = CLASSES[column].replace("_", " ").split()
            half = (len(words) + 1) // 2
            name = " ".join(words[:half]) + "\n" + " ".join(words[half:])
            axes[row, column].set_title(name, fontsize=8.5, color="#333333")
figure.savefig(Path(__file__).with_name("mock-galaxies.png"), dpi=110)
