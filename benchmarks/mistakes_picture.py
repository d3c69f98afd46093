"""Draws docs/images/mistakes.png: the surest mistakes of a network that has seen 800 mock galaxies for 1.5 minutes.

python benchmarks/mistakes_picture.py               # trains in a temporary folder
python benchmarks/mistakes_picture.py --model RUN   # of a model that is there
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from PIL import Image

import astroformer
from astroformer.evaluation.mistakes import plot_mistakes

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "mistakes.png"
SHOWN = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a model of mock galaxies, in place of a new one")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made = (
            words.model or astroformer.train("mock-galaxies", astroformer.Recipe(minutes=1.5), out=f"{folder}/run").run
        )
        model = astroformer.load(made)
        images = astroformer.open_source("mock-galaxies:600", seed=1, classes=model.classes)  # it has seen others
        drawn = Path(folder) / "mistakes.png"
        if (failed := plot_mistakes(model, images, model.predict(images), drawn, SHOWN)) is not None:
            raise SystemExit(failed)
        # With 256 colours it takes a third of the bytes, and nobody sees a difference.
        picture = Image.open(drawn).convert("RGB").quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=3)
        picture.save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
