"""What the rows of `pretrained.py` say: the rate that each data set chose, and the tables."""

from __future__ import annotations

from statistics import mean

import numpy as np

from common.grid import CELLS
from common.peers import LITE0, settings_of
from common.rows import Row
from common.speed_table import number
from common.statistics import difference, spread

ASKED = ("Galaxy Zoo 2, 10 a class", "Galaxy Zoo 2, 50 a class", "Galaxy Zoo 2, 400 a class", "MiraBest, all",
         "CIFAR-10 (JPEG), 50 a class", "Fashion-MNIST, 50 a class")  # fmt: skip
SIDES = {"hog": "HOG + SVM", "frozen": "ImageNet, frozen", "tuned": "ImageNet, fine-tuned", "ours": "ours"}
QUICK = ("hog", "frozen")
SCORES = ("accuracy", "balanced_accuracy", "nll", "ece")
DECIDES = {CELLS[name].data: CELLS[name] for name in ASKED if CELLS[name].per_class in (50, None)}  # on a set's rate
DIVISIONS = {"MiraBest": 3}  # of images into those to train on and held-out ones, to decide on a rate; one elsewhere


def splits_of(cell: str) -> int:
    """How many splits a cell has, on which a side without chance differs."""
    return len({CELLS[cell].split(seed) for seed in range(100)})


# The rate to fine-tune at ---------------------------------------------------------------------------------------------


def rates_to_try(data: str) -> list[tuple[int, str]]:
    """Of a data set: the number of a division, and a setting."""
    return [(division, setting.name) for division in range(DIVISIONS.get(data, 1)) for setting in settings_of(LITE0)]


def tried_rates(data: str, rows: list[Row], minutes: float) -> dict[tuple[int, str], Row]:
    """By the number of the division and the setting."""
    asked = ("rates", str(DECIDES[data]), minutes)
    return {(row["seed"], row["setting"]): row for row in rows if (row["side"], row["cell"], row["minutes"]) == asked}


def rate_of(data: str, rows: list[Row], minutes: float) -> str | None:
    """The setting of the best balanced accuracy, averaged over views, in the mean of the divisions; None until all
    rates were tried. Where two are equal, the one of the lower log loss."""
    tried = tried_rates(data, rows, minutes)
    to_try = rates_to_try(data)
    if any(one not in tried for one in to_try):
        return None

    def score(setting: str) -> tuple[float, float]:
        some = [tried[one] for one in to_try if one[1] == setting]
        # Rounded, for two means that are equal differ in their last bits.
        return round(mean(map(balanced_accuracy, some)), 6), -mean(score_of(row, "nll") for row in some)

    return max((setting.name for setting in settings_of(LITE0)), key=score)


def score_of(row: Row, name: str, views: bool = True) -> float | None:
    """With views where there are."""
    with_views = row[f"{name}_views"]
    return with_views if views and with_views is not None else row[name]


def balanced_accuracy(row: Row) -> float:
    """In percent."""
    return 100 * row["balanced_accuracy" if row["balanced_accuracy_views"] is None else "balanced_accuracy_views"]


def balanced_accuracy_table(rows: list[Row]) -> str:
    """Balanced accuracy of every side, and how much more ours has than each that knows ImageNet, paired by seed."""
    heads = ["images", "to train on", *(f"{name}, %" for name in SIDES.values())]
    heads += ["ours from frozen, points", "ours from fine-tuned, points"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for cell in ASKED:
        of = {side: {r["seed"]: r for r in rows if (r["side"], r["cell"]) == (side, cell)} for side in SIDES}
        if not any(of.values()):
            continue
        found = {side: {s: balanced_accuracy(r) for s, r in some.items()} for side, some in of.items()}
        trained = next(row["images"]["train"] for some in of.values() for row in some.values())
        cells = [cell, f"{trained:,}"]
        cells += [f"{spread(list(some.values()))} ({len(some)})" if some else "–" for some in found.values()]
        for side in ("frozen", "tuned"):
            beside = found[side]
            if side in QUICK and splits_of(cell) == 1:  # its one row is that of every seed
                beside = {s: value for s in found["ours"] for value in beside.values()}
            both = sorted(found["ours"].keys() & beside.keys())
            cells.append(difference(np.array([found["ours"][s] - beside[s] for s in both])))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def scores_table(rows: list[Row]) -> str:
    """All scores of every cell and side."""
    heads = ["images", "side", "balanced accuracy, %", "of the image alone, %", "accuracy, %", "log loss", "ECE, %"]
    heads += ["image, px", "epochs", "s to train", "s to test", "n"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for cell in ASKED:
        for side in SIDES:
            some = [r for r in rows if (r["side"], r["cell"]) == (side, cell)]
            if not some:
                continue

            def shown(name: str, scale: float, digits: int, views: bool = True, some: list[Row] = some) -> str:
                values = [score_of(row, name, views) for row in some]
                return spread([scale * v for v in values if v is not None], digits) if None not in values else "–"

            epochs = [row["epochs_done"] for row in some]
            cells = [cell, SIDES[side], shown("balanced_accuracy", 100, 1), shown("balanced_accuracy", 100, 1, False)]
            cells += [shown("accuracy", 100, 1), shown("nll", 1, 3), shown("ece", 100, 1)]
            cells += [str(some[0]["image_size"][0]), "–" if None in epochs else number(np.median(epochs))]
            cells += [f"{np.median([row['seconds'][part] for row in some]):.0f}" for part in ("train", "test")]
            lines.append(f"| {' | '.join([*cells, str(len(some))])} |")
    return "\n".join(lines)


def rates_table(rows: list[Row]) -> str:
    """What the rates reached on held-out training images, in the mean of the divisions; empty without such rows."""
    heads = ["held-out training images of", "rate", "divisions", "balanced accuracy, %", "log loss"]
    heads += ["of the image alone: balanced accuracy, %", "log loss"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    of = [row for row in rows if row["side"] == "rates"]
    for cell, setting in sorted({(r["cell"], r["setting"]) for r in of}, key=lambda one: (one[0], _rate(one[1]))):
        some = [row for row in of if (row["cell"], row["setting"]) == (cell, setting)]
        cells = [cell, setting, str(len(some))]
        for views in (True, False):
            cells.append(spread([100 * score_of(row, "balanced_accuracy", views) for row in some]))
            cells.append(spread([score_of(row, "nll", views) for row in some], 3))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def _rate(setting: str) -> float:
    return float(setting.split()[-1])


def other_rates_table(rows: list[Row], chosen: list[Row]) -> str:
    """Fine-tuning at a rate that was not chosen, on test images; empty without such rows."""
    heads = ["images", "seed", "rate", "balanced accuracy, %", "log loss", "at the chosen rate, %", "log loss"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    kept = {(row["cell"], row["seed"]): row for row in chosen if row["side"] == "tuned"}
    for row in rows:
        if row["side"] == "tuned" and row not in chosen:
            cells = [row["cell"], str(row["seed"]), row["setting"]]
            for one in (row, kept.get((row["cell"], row["seed"]))):
                cells += ["–", "–"] if one is None else [f"{balanced_accuracy(one):.1f}", f"{score_of(one, 'nll'):.3f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def without_other_rates(rows: list[Row]) -> list[Row]:
    """All but those of `tuned` at a rate that its data set did not choose."""
    return [
        row for row in rows if row["side"] != "tuned" or row["setting"] == rate_of(row["data"], rows, row["minutes"])
    ]


def tables(rows: list[Row]) -> str:
    """Of each processor and number of minutes: mean ± standard deviation over seeds (their number)."""
    parts = []
    kinds = dict.fromkeys((r["processor"], r["minutes"]) for r in rows if r["minutes"] is not None)
    for place, minutes in kinds or ([("", None)] if rows else []):
        of = [r for r in rows if r["minutes"] is None or (r["processor"], r["minutes"]) == (place, minutes)]
        length = f"Fine-tuned and ours: {minutes:g} minutes of one core of {place}." if minutes else ""
        tested = sorted({(row["data"], row["images"]["test"]) for row in of if row["side"] in SIDES})
        asked = "Test images: " + ", ".join(f"{n:,} of {name}" for name, n in tested) + "."
        chosen = without_other_rates(of)
        parts += [f"{length} {asked}".strip(), balanced_accuracy_table(chosen), scores_table(chosen), rates_table(of)]
        parts.append(other_rates_table(of, chosen))
    return "\n\n".join(part for part in parts if part)
