"""The grid of `low_data.py`: data sets, images a class, networks, and the rows that its runs leave.

What each part of a row means is told there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np

from common.peers import OURS
from common.rows import Row

TIER_1 = (OURS, "ResNet-18", "WRN-16-2", "CCT-4/3x2", "CoAtNet")
TIER_2 = (*TIER_1, "ConvNeXt-atto", "EfficientNetV2-b0", "MaxViT", "ViT-tiny", "WRN-16-8", "CCT-7/3x1")


@dataclass(frozen=True)
class DataSet:
    """Sources as `open_source` knows them (`{a}` and `{b}` bound the images a class), the kind of image, and how many
    images a class there are to train on. A source with `named` is downloaded, others lie in the data folder. `develop`
    bounds the images a class of the source to train on that recipes are chosen by, in splits that end before them (they
    were 100 a class once, of Galaxy Zoo 2 and CIFAR-10, and tables keep those rows apart)."""

    train: str
    test: str
    recipe: str  # sky or photo
    room: int
    named: bool = False
    develop: tuple[int, int] | None = None


SETS = {
    "Galaxy Zoo 2": DataSet("galaxy-zoo2/train@per-class={a}:{b}", "galaxy-zoo2/valid", "sky", 400, develop=(200, 400)),
    "CIFAR-10 (JPEG)": DataSet(
        "cifar10/train.npz@per-class={a}:{b}",
        "cifar10/train.npz@per-class=4000:4100",
        "photo",
        4000,
        develop=(4500, 5000),
    ),
    "MiraBest": DataSet(
        "mirabest/train.npz@per-class={a}:{b}",
        "mirabest/train.npz@per-class=200:312",
        "sky",
        200,
        develop=(100, 200),
    ),
    # The file has 50 a class: 10 of them to test on, so that 40 stand for "50 a class".
    "Tiny ImageNet": DataSet(
        "tiny-imagenet/train-50-per-class.npz@per-class={a}:{b}",
        "tiny-imagenet/train-50-per-class.npz@per-class=40:50",
        "photo",
        40,
    ),
    "Fashion-MNIST": DataSet(
        "fashion-mnist:train@per-class={a}:{b}",
        "fashion-mnist:train@per-class=5000:5100",
        "photo",
        5000,
        named=True,
        develop=(5500, 5600),
    ),
}


@dataclass(frozen=True)
class Cell:
    """A data set at so many images a class; None: all that there are."""

    data: str
    per_class: int | None

    def __str__(self) -> str:
        return f"{self.data}, " + ("all" if self.per_class is None else f"{self.per_class} a class")

    def split(self, seed: int, room: int | None = None) -> int:
        """Of so many images a class, all that there are to train on if not given."""
        return seed % max(1, (room or SETS[self.data].room) // self.images)

    @property
    def images(self) -> int:
        """A class."""
        return self.per_class or SETS[self.data].room


CELLS_1 = (
    Cell("Galaxy Zoo 2", 50),
    Cell("CIFAR-10 (JPEG)", 50),
    Cell("Galaxy Zoo 2", 400),
    Cell("MiraBest", None),
)
CELLS_2 = (
    *CELLS_1,
    Cell("CIFAR-10 (JPEG)", 100),
    Cell("Galaxy Zoo 2", 10),
    Cell("CIFAR-10 (JPEG)", 10),
    Cell("Galaxy Zoo 2", 100),
    Cell("MiraBest", 25),
    Cell("CIFAR-10 (JPEG)", 500),
    Cell("Galaxy Zoo 2", 25),
    Cell("Tiny ImageNet", 40),
    Cell("Fashion-MNIST", 50),
    Cell("Tiny ImageNet", 10),
    Cell("Fashion-MNIST", 10),
    Cell("Fashion-MNIST", 500),
)
# Of no tier, for questions about the number of images.
BETWEEN = (
    Cell("CIFAR-10 (JPEG)", 200),
    Cell("Galaxy Zoo 2", 200),
    Cell("CIFAR-10 (JPEG)", 2000),
    Cell("CIFAR-10 (JPEG)", 4500),
)
CELLS = {str(cell): cell for cell in (*CELLS_2, *BETWEEN)}


@dataclass(frozen=True)
class Job:
    """One run: all that its row is recognised by. Exactly one of minutes, epochs and flops is its length."""

    kind: str  # run, tune or develop
    data: str
    per_class: int | None
    split: int
    model: str
    setting: str
    words: str  # changes to the recipe, as typed
    seed: int
    minutes: float | None = None
    epochs: int | None = None
    flops: float | None = None
    members: int = 1  # of an ensemble, which share the length
    distilled: bool = False  # one network more, which shares it too, learns what the members answer, and is asked

    @property
    def networks(self) -> int:
        """That are trained, for equal parts of the length."""
        return self.members + self.distilled

    @property
    def cell(self) -> Cell:
        return Cell(self.data, self.per_class)

    @property
    def length(self) -> str:
        return length_of(asdict(self))

    def __str__(self) -> str:
        name = f"{self.model} ({self.setting}{'; ' + self.words if self.words else ''})"
        name += f", {self.members} members" if self.members > 1 else ""
        name += ", distilled" if self.distilled else ""
        return f"{self.kind}: {self.cell}, {name}, seed {self.seed}, {self.length}"


def length_of(row: Row) -> str:
    if row["minutes"] is not None:
        return f"{row['minutes']:g} minutes"
    return f"{row['epochs']} epochs" if row["epochs"] is not None else f"{row['flops']:.3g} FLOPs"


def place_of(row: Row) -> str | None:
    """The processor of a run whose minutes it decided on; None for a run of so many epochs or FLOPs."""
    return row["processor"] if row["minutes"] is not None else None


def job_of(row: Row) -> Job:
    """Rows of before have no `distilled`."""
    return Job(**{name: row[name] for name in Job.__dataclass_fields__ if name in row})


def grid(tier: int, cells: list[Cell], models: list[str], seeds: Iterable[int]) -> list[tuple[Cell, str, int]]:
    """(cell, model, seed) in the order they are run in, most telling first.

    Cells and models of tier 1 come first, then its cells with the other models, the other cells with its models, and
    the rest. Within each part every seed is complete before the next one begins, so that a stop leaves no model ahead.
    """

    def part(cell: Cell, model: str) -> int:
        return 0 if tier == 1 else 2 * (cell not in CELLS_1) + (model not in TIER_1)

    every = [(cell, model, seed) for seed in seeds for cell in cells for model in models]
    return sorted(every, key=lambda one: part(one[0], one[1]))  # stable


def chosen_setting(rows: list[Row], cell: Cell, model: str, names: list[str]) -> str:
    """The setting of `names` that did best in tuning, or the first without such rows.

    Those of the same data set at the nearest number of images a class (by ratio) count; of several lengths the one
    tuned last.
    """
    tuned = [r for r in rows if r["kind"] == "tune" and r["data"] == cell.data and r["model"] == model]
    tuned = [r for r in tuned if r["setting"] in names and not r["words"]]
    if not tuned:
        return names[0]

    def far(row: Row) -> float:
        return abs(math.log(Cell(row["data"], row["per_class"]).images / cell.images))

    nearest = min(map(far, tuned))
    tuned = [r for r in tuned if far(r) == nearest]
    tuned = [r for r in tuned if length_of(r) == length_of(tuned[-1])]

    def score(name: str) -> tuple[float, float]:
        some = [r for r in tuned if r["setting"] == name]
        return (mean_of(some, "balanced_accuracy"), -mean_of(some, "nll")) if some else (-1.0, 0.0)

    return max(names, key=score)


def mean_of(rows: list[Row], field: str) -> float:
    return float(np.mean([row[field] for row in rows]))
