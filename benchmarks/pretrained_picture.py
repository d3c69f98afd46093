"""Draws docs/images/pretrained.png from the rows of `pretrained.py`: balanced accuracy of each side in each cell.

python benchmarks/pretrained_picture.py
python benchmarks/pretrained_picture.py --rows rows.jsonl --out pretrained.png
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from astroformer.drawing import DPI, PAGE, looks, new_figure, style
from common.pretrained_rows import ASKED, SIDES, balanced_accuracy, without_other_rates
from common.rows import Row, read_rows
from common.statistics import interval
from pretrained import OUT

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "pretrained.png"
CURVE = "Galaxy Zoo 2"  # the set of several sizes
LOOKS = dict(zip(("ours", "tuned", "frozen", "hog"), looks(4), strict=True))


def draw(rows: list[Row]) -> Any:
    """Against images a class where a set has several sizes, and a line of points for each other cell."""
    figure = new_figure(PAGE, 7.5)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
    sizes = sorted({row["per_class"] for row in rows if row["data"] == CURVE and row["side"] in SIDES})
    for place, (side, look) in enumerate(LOOKS.items()):
        by_size = {size: _values(rows, side, f"{CURVE}, {size} a class") for size in sizes}
        at = [size for size in sizes if len(by_size[size])]
        left.errorbar(
            [size * 1.04 ** (place - 1.5) for size in at],  # so that intervals don't hide each other
            [by_size[size].mean() for size in at],
            yerr=[interval(by_size[size]) or 0.0 for size in at],
            **look._asdict(), capsize=2, label=SIDES[side],
        )  # fmt: skip
    left.set_xscale("log")
    left.set_xticks(sizes, [str(size) for size in sizes])
    left.minorticks_off()
    left.set_title(f"{CURVE}, five classes of galaxies")
    left.set_xlabel("images a class")
    left.set_ylabel("balanced accuracy, %")
    cells = [cell for cell in ASKED if not cell.startswith(CURVE)]
    for line, cell in enumerate(cells):
        for place, (side, look) in enumerate(LOOKS.items()):
            values = _values(rows, side, cell)
            if len(values):
                right.errorbar(
                    values.mean(), line + 0.16 * (place - 1.5), xerr=interval(values) or 0.0,
                    color=look.color, fmt=look.marker, capsize=2,
                )  # fmt: skip
    names = [cell.replace(" (JPEG)", "").replace(", all", ", 400 images").replace(", ", "\n") for cell in cells]
    right.set_yticks(range(len(cells)), names)
    right.set_ylim(len(cells) - 0.5, -0.5)
    right.tick_params(axis="y", length=0)
    right.set_xlabel("balanced accuracy, %")
    right.set_title("Radio sources, photographs and clothes")
    for axis in (left, right):
        axis.grid()
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(LOOKS))
    return figure


def _values(rows: list[Row], side: str, cell: str) -> np.ndarray:
    """In percent, of each seed."""
    return np.array([balanced_accuracy(row) for row in rows if (row["side"], row["cell"]) == (side, cell)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, default=OUT)
    parser.add_argument("--out", type=Path, default=PICTURE)
    words = parser.parse_args()
    with style():
        draw(without_other_rates(read_rows(words.rows))).savefig(words.out, dpi=DPI)


if __name__ == "__main__":
    main()
