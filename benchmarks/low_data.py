"""Few labelled images: ours against its peers, in the same minutes, on the same images, in the same loop.

    python benchmarks/low_data.py ../shared/data                       # --tier 1, the table that always stands
    python benchmarks/low_data.py ../shared/data --tune                # the peers' settings, on training images alone
    python benchmarks/low_data.py ../shared/data --tier 2 --minutes-total 600
    python benchmarks/low_data.py ../shared/data --develop --words "optimizer=muon augment.mixup=0.2" \\
        --models astroformer --sets "CIFAR-10 (JPEG), 50 a class"      # to choose by
    python benchmarks/low_data.py --table --plots                      # from the rows that are there

A run is a fresh process with one thread that trains one network on n images a class for so many minutes (or epochs, or
training FLOPs), to the end of its schedule, and is then asked once about test images, which chose nothing. `--together`
runs go on side by side, one a core. Minutes are wall-clock, so the machine should do nothing else; a row's `cpu_share`
says how much of a core it had. One row a run is appended to `low_data.jsonl`; rows that are there are not run again,
so the same command resumes.

- **Split** s of n images a class is [s n, (s + 1) n) of each class in the order of the source; seed s takes split s,
  and begins again where the source ends. A difference between two networks is that of the same seed, so of the same
  images.
- **Test images** are `galaxy-zoo2/valid`; of the others, training images that no split contains.
- **Settings** of the peers are in `peers.py`. `--tune` trains with each on 60 % of the training images of split 0 (80 %
  from 100 a class on) and measures on the others; its rows are marked `tune`. Later runs take the setting with the best
  balanced accuracy in them (the nearest tuned number of images of the same data set), else the first of `peers.py`.
- **Development**: `--develop` measures on further training images, which are in no split and are no test images, so
  that a recipe can be chosen by them; rows marked `develop`, tables apart.
- **Views**: scores with the logits averaged over the eight quarter turns and flips (sky), or over the image and its
  mirror image (photographs), stand beside those without.
- **ECE**: expected calibration error, 15 bins of equal width of the confidence (Guo et al., arXiv 1706.04599, eq. 3).
- **S-Cons**: two random crops get the same class, see `astroformer.evaluation.symmetry`, on 100 of the test images.
- **Training FLOPs**: 3 times those of the forward pass, over all images seen, each at the size it was seen at.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import yaml

from astroformer.classifier import pick_device
from astroformer.evaluation.subjects import Subject, read_inputs
from astroformer.evaluation.symmetry import SymmetrySettings, measure_symmetry
from astroformer.images import holdout, open_source
from astroformer.metrics import balanced_accuracy, nll_N
from astroformer.training.loop import predict_store
from astroformer.training.recipe import make_recipe
from peers import OURS, PEERS, PLAIN, settings_of, trained
from precision import T_95

ROWS = Path(__file__).with_suffix(".jsonl")
PLOTS = Path(__file__).parents[1] / "docs" / "images"
TIER_1 = (OURS, "ResNet-18", "WRN-16-2", "CCT-4/3x2", "CoAtNet")
TIER_2 = (*TIER_1, "ConvNeXt-atto", "EfficientNetV2-b0", "MaxViT", "ViT-tiny", "WRN-16-8", "CCT-7/3x1")
SCORES = ("accuracy", "balanced_accuracy", "nll", "ece")
SYMMETRY_IMAGES = 100
_WHOLE_CORE = 0.9  # share of a core; with less, other programs took a part of a run's minutes
Row = dict[str, Any]


# The grid ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DataSet:
    """Sources as `open_source` knows them (`{a}` and `{b}` bound the images a class), the kind of image, and how many
    images a class there are to train on. A source with `named` is downloaded, others lie in the data folder. `develop`
    bounds the images a class of the source to train on that recipes are chosen by, in splits that end before them."""

    train: str
    test: str
    recipe: str  # sky or photo
    room: int
    named: bool = False
    develop: tuple[int, int] | None = None


SETS = {
    "Galaxy Zoo 2": DataSet("galaxy-zoo2/train@per-class={a}:{b}", "galaxy-zoo2/valid", "sky", 400, develop=(300, 400)),
    "CIFAR-10 (JPEG)": DataSet(
        "cifar10/train.npz@per-class={a}:{b}",
        "cifar10/train.npz@per-class=4000:4100",
        "photo",
        4000,
        develop=(4500, 4600),
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

    def split(self, seed: int) -> int:
        return seed % max(1, SETS[self.data].room // self.images)

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
CELLS = {str(cell): cell for cell in CELLS_2}


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

    @property
    def cell(self) -> Cell:
        return Cell(self.data, self.per_class)

    @property
    def length(self) -> str:
        return length_of(asdict(self))

    def __str__(self) -> str:
        name = f"{self.model} ({self.setting}{'; ' + self.words if self.words else ''})"
        return f"{self.kind}: {self.cell}, {name}, seed {self.seed}, {self.length}"


def length_of(row: Row) -> str:
    if row["minutes"] is not None:
        return f"{row['minutes']:g} minutes"
    return f"{row['epochs']} epochs" if row["epochs"] is not None else f"{row['flops']:.3g} FLOPs"


def job_of(row: Row) -> Job:
    return Job(**{name: row[name] for name in Job.__dataclass_fields__})


def grid(tier: int, cells: list[Cell], models: list[str], seeds: int) -> list[tuple[Cell, str, int]]:
    """(cell, model, seed) in the order they are run in, most telling first.

    Cells and models of tier 1 come first, then its cells with the other models, the other cells with its models, and
    the rest. Within each part every seed is complete before the next one begins, so that a stop leaves no model ahead.
    """

    def part(cell: Cell, model: str) -> int:
        return 0 if tier == 1 else 2 * (cell not in CELLS_1) + (model not in TIER_1)

    every = [(cell, model, seed) for seed in range(seeds) for cell in cells for model in models]
    return sorted(every, key=lambda one: part(one[0], one[1]))  # stable


# Rows ----------------------------------------------------------------------------------------------------------------


def read_rows(path: Path) -> list[Row]:
    """The rows of a file. A last line that a crash cut short is dropped from the file, and that is said.

    Raises:
        ValueError: another line is no row.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = text.splitlines(keepends=True)
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines) and not line.endswith("\n"):
                path.write_text("".join(lines[:-1]), encoding="utf-8")
                print(f"{path}: the last line was cut short; it is removed, and its run is due again", file=sys.stderr)
                break
            raise ValueError(f"line {number} of {path} is no row ({error}); mend it or take it out.") from None
    return found


def append_row(path: Path, row: Row) -> None:
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    with path.open("a", encoding="utf-8") as stream:
        stream.write(("\n" if text and not text.endswith("\n") else "") + json.dumps(row) + "\n")


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
        return (_mean(some, "balanced_accuracy"), -_mean(some, "nll")) if some else (-1.0, 0.0)

    return max(names, key=score)


def _mean(rows: list[Row], field: str) -> float:
    return float(np.mean([row[field] for row in rows]))


# One run, in its own process -----------------------------------------------------------------------------------------


def views_of(stored_NCHW: np.ndarray, recipe: str) -> list[np.ndarray]:
    """What the answers are averaged over, the images themselves first: turns and flips, or the mirror image."""
    flipped_NCHW = stored_NCHW[..., ::-1]
    if recipe == "photo":
        return [stored_NCHW, flipped_NCHW]
    turned = [np.rot90(x_NCHW, turns, axes=(2, 3)) for x_NCHW in (stored_NCHW, flipped_NCHW) for turns in range(4)]
    return turned if stored_NCHW.shape[2] == stored_NCHW.shape[3] else [turned[i] for i in (0, 2, 4, 6)]


def averaged(probabilities: list[np.ndarray]) -> np.ndarray:
    """(N, K) probabilities of the logits averaged over the views: the normalised geometric mean."""
    logits_NK = np.mean([np.log(np.maximum(p_NK, 1e-300)) for p_NK in probabilities], axis=0)
    raised_NK = np.exp(logits_NK - logits_NK.max(1, keepdims=True))
    return raised_NK / raised_NK.sum(1, keepdims=True)


def expected_calibration_error(labels_N: np.ndarray, probabilities_NK: np.ndarray, bins: int = 15) -> float:
    """Mean |accuracy − confidence| over bins of equal width of the confidence, weighted by their images."""
    confidence_N = probabilities_NK.max(1)
    right_N = probabilities_NK.argmax(1) == labels_N
    bin_N = np.clip(np.ceil(confidence_N * bins).astype(int) - 1, 0, bins - 1)  # (a, b], as in the paper
    off_B = np.bincount(bin_N, right_N - confidence_N, minlength=bins)
    return float(np.abs(off_B).sum() / len(labels_N))


def scores_of(labels_N: np.ndarray, probabilities_NK: np.ndarray) -> dict[str, float]:
    called_N = probabilities_NK.argmax(1)
    found = {
        "accuracy": float((called_N == labels_N).mean()),
        "balanced_accuracy": balanced_accuracy(labels_N, called_N, probabilities_NK.shape[1]),
        "nll": float(nll_N(labels_N, probabilities_NK).mean()),
        "ece": expected_calibration_error(labels_N, probabilities_NK),
    }
    return {name: round(value, 6) for name, value in found.items()}


def parsed(words: str) -> dict[str, Any]:
    """`optimizer=muon augment.mixup=0.2` as nested settings; values as in YAML.

    Raises:
        ValueError: a word without `=`.
    """
    made: dict[str, Any] = {}
    for word in words.split():
        name, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"'{word}' is no setting; write name=value, such as optimizer=muon.")
        *outer, last = name.split(".")
        inner = made
        for part in outer:
            inner = inner.setdefault(part, {})
        inner[last] = _typed(value)
    return made


def _typed(text: str) -> Any:
    """A value as in YAML, but `no` stays a word (precision=no) and 1e-3, which YAML takes for one, is a number."""
    value = text if text in ("no", "yes", "on", "off") else yaml.safe_load(text)
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    return value


def merged(*settings: dict[str, Any]) -> dict[str, Any]:
    """Later ones win, word by word within nested ones."""
    made: dict[str, Any] = {}
    for some in settings:
        for name, value in some.items():
            both = isinstance(value, dict) and isinstance(made.get(name), dict)
            made[name] = merged(made[name], value) if both else value
    return made


def recipe_words(job: Job, device: str) -> dict[str, Any]:
    """The settings of a run that are not left to the rules."""
    setting = next(s for s in settings_of(job.model) if s.name == job.setting)
    base: dict[str, Any] = {"augment": {"preset": SETS[job.data].recipe}, "seed": job.seed, "device": device}
    base |= {"evaluations": 1, "minutes": job.minutes, "epochs": job.epochs}
    peer = PEERS.get(job.model)
    if peer is not None:
        on_cpu = pick_device(device) == "cpu"
        base |= PLAIN if on_cpu else {"speed": "plain"}
        base |= {} if peer.any_size else {"progressive": 0.0}
    return merged(base, setting.words, parsed(job.words))


def source_of(job: Job, data: Path) -> tuple[str, str]:
    """The sources to train and to test on."""
    some, n = SETS[job.data], job.cell.images
    train, test = some.train.format(a=job.split * n, b=(job.split + 1) * n), some.test
    if job.kind == "develop" and some.develop is not None:
        test = some.train.format(a=some.develop[0], b=some.develop[1])
    return (train, test) if some.named else (str(data / train), str(data / test))


def run(job: Job, data: Path, device: str = "auto", symmetry_images: int = SYMMETRY_IMAGES) -> Row:
    """Trains once, and asks once about the test images; in tuning about a part of the training images."""
    version = code_version()  # of the code that is about to run, not of what is there when it ends
    train_source, test_source = source_of(job, data)
    train = open_source(train_source)
    if job.kind == "tune":
        fraction = 0.4 if job.cell.images < 100 else 0.2
        fitted, held_out = holdout(train.labels, fraction, job.seed, groups=train.groups)
        train, test = train.subset(fitted), train.subset(held_out)
    else:
        test = open_source(test_source, classes=train.classes)
    made = trained(job.model, make_recipe(recipe_words(job, device)), train, test, flops=job.flops)
    classifier, labels_N = made.classifier, made.valid.labels
    views = [
        np.concatenate([classifier.probabilities(np.ascontiguousarray(part)) for part in _parts(view)])
        for view in views_of(made.valid.take(np.arange(len(labels_N))), SETS[job.data].recipe)[1:]
    ]
    plain_NK = predict_store(classifier, made.valid)
    scores = scores_of(labels_N, plain_NK)
    with_views = scores_of(labels_N, averaged([plain_NK, *views]))
    s_cons = None
    if job.kind == "run" and symmetry_images:
        subject = Subject(job.model, classifier.network, "trained", classifier.preprocessing, classifier.classes)
        inputs = read_inputs(subject, test_source, images=symmetry_images)
        report = measure_symmetry(
            classifier.network,
            inputs.images_NCHW,
            frames_NCHW=inputs.frames_NCHW,
            settings=SymmetrySettings(shifts=2, rotations=1),  # crops are what is asked for
            features=lambda module: None,
        )
        s_cons = None if report.s_cons is None else round(report.s_cons.value, 6)
    row = {**made.row, **asdict(job)}
    seconds = 60 * row["minutes_taken"]
    return {
        **row,
        "members": 1,
        "images": {"train": len(train), "test": len(labels_N)},
        "epochs_done": round(row["images_seen"] / len(train), 3),
        **scores,
        **{f"{name}_views": value for name, value in with_views.items()},
        "views": 1 + len(views),
        "s_cons": s_cons,
        "images_per_second": round(row["images_seen"] / max(seconds, 1e-9), 1),
        "recipe": made.recipe.model_dump(mode="json"),
        "code": version,
    }


def _parts(array_NCHW: np.ndarray, size: int = 128) -> list[np.ndarray]:
    return [array_NCHW[start : start + size] for start in range(0, len(array_NCHW), size)]


def code_version() -> dict[str, Any]:
    """The commit, and whether code differs from it (rows and documents don't count); None where git doesn't know."""

    def git(*words: str) -> str | None:
        folder = Path(__file__).parents[1]
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    changed = git("status", "--porcelain", "--", ":(glob)src/**", ":(glob)benchmarks/*.py")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if changed is None else bool(changed)}


# Many runs -----------------------------------------------------------------------------------------------------------


def run_apart(job: Job, data: Path, device: str, symmetry_images: int) -> Row:
    """`run` in a fresh process with one thread.

    Raises:
        RuntimeError: it ended without a row; with the end of what it said.
    """
    command = [sys.executable, __file__, str(data), "--device", device, "--symmetry-images", str(symmetry_images)]
    command += ["--one", json.dumps(asdict(job))]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        raise RuntimeError(f"{job}: status {done.returncode}: {done.stderr.strip()[-1500:]}")
    return json.loads(lines[-1])


def run_all(jobs: list[Job], path: Path, one: Any, *, together: int, minutes_total: float | None = None) -> list[str]:
    """Runs what has no row yet, `together` side by side, and appends the rows as they come.

    Args:
        jobs: in the order they are begun in.
        path: of the rows.
        one: from a job to its row.
        minutes_total: after so many, no run is begun.

    Returns:
        What went wrong, a message a run that failed; the others went on.
    """
    done = {job_of(row) for row in read_rows(path)}
    due = [job for job in dict.fromkeys(jobs) if job not in done]
    print(f"{len(due)} of {len(jobs)} runs are due", file=sys.stderr)
    began, lock, failures = time.monotonic(), Lock(), []
    counts = {"done": 0, "late": 0}

    def attempt(job: Job) -> None:
        if minutes_total is not None and time.monotonic() - began > 60 * minutes_total:
            counts["late"] += 1
            return
        try:
            row = one(job)
        except RuntimeError as error:
            failures.append(str(error))
            print(f"FAILED {error}", file=sys.stderr)
            return
        with lock:
            append_row(path, row)
            counts["done"] += 1
            score = f"balanced accuracy {row['balanced_accuracy']:.3f}"
            print(f"{counts['done']}/{len(due)} {job}: {score}", file=sys.stderr, flush=True)

    with ThreadPoolExecutor(together) as pool:
        list(pool.map(attempt, due))
    if counts["late"]:
        print(f"{counts['late']} runs were not begun after {minutes_total:g} minutes; the same command goes on with "
              "them", file=sys.stderr)  # fmt: skip
    return failures


# Tables --------------------------------------------------------------------------------------------------------------


def interval(values: np.ndarray) -> float | None:
    """Half of the 95 % interval of the mean, by Student's t; None for fewer than three, which bound nothing."""
    n = len(values)
    return T_95[min(n, max(T_95))] * float(values.std(ddof=1)) / math.sqrt(n) if n > 2 else None


def shown(values: np.ndarray, digits: int = 1) -> str:
    """Mean ± standard deviation (95 % interval of the mean)."""
    text = f"{values.mean():.{digits}f}"
    if len(values) > 1:
        text += f" ± {values.std(ddof=1):.{digits}f}"
    reach = interval(values)
    return (
        text if reach is None else f"{text} ({values.mean() - reach:.{digits}f} to {values.mean() + reach:.{digits}f})"
    )


Arm = tuple[str, str, str]  # model, setting, words


def arms_of(rows: list[Row]) -> dict[Arm, dict[int, Row]]:
    """The rows of one cell and length by arm and seed, best mean balanced accuracy first."""
    arms: dict[Arm, dict[int, Row]] = {}
    for row in rows:
        arms.setdefault((row["model"], row["setting"], row["words"]), {})[row["seed"]] = row
    return dict(sorted(arms.items(), key=lambda arm: -_mean(list(arm[1].values()), "balanced_accuracy")))


def name_of(arm: Arm) -> str:
    model, setting, words = arm
    inside = "; ".join(part for part in ("" if setting == "default" else setting, words) if part)
    return model + (f" ({inside})" if inside else "")


def difference(arm: dict[int, Row], other: dict[int, Row], score: str = "balanced_accuracy") -> str:
    """Mean difference in points over the seeds that both have, and its 95 % interval from three seeds on."""
    seeds = sorted(arm.keys() & other.keys())
    if not seeds:
        return "–"
    off = 100 * np.array([arm[seed][score] - other[seed][score] for seed in seeds])
    reach = interval(off)
    return f"{off.mean():+.1f}" + (
        "" if reach is None else f" ({off.mean() - reach:+.1f} to {off.mean() + reach:+.1f})"
    )


def grouped(rows: list[Row], kind: str) -> dict[tuple[str, str], list[Row]]:
    """Rows by (cell, length), cells in the order of the grid."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["kind"] == kind:
            groups.setdefault((str(Cell(row["data"], row["per_class"])), length_of(row)), []).append(row)
    order = list(CELLS)
    return dict(sorted(groups.items(), key=lambda g: (order.index(g[0][0]) if g[0][0] in order else 99, g[0][1])))


def table(rows: list[Row], kind: str = "run") -> str:
    """Every cell and length as Markdown: mean ± sd (95 % interval); n seeds; differences paired by seed."""
    parts = []
    images = "test images" if kind == "run" else "images to choose by"
    for (cell, length), some in grouped(rows, kind).items():
        arms = arms_of(some)
        best = next((arm for arm in arms if arm[0] != OURS), None)
        test = some[0]["images"]["test"]
        lines = [
            f"**{cell}**, {length} a run, {test:,} {images}",
            "",
            "| network | M parameters | MMAC | training TFLOPs | images/s | epochs | balanced accuracy, % "
            "| with views, % | accuracy, % | NLL | with views | ECE, % | with views, % | S-Cons, % | n "
            "| from the best peer, points |",
            "|" + "---|" * 16,
        ]
        for arm, by_seed in arms.items():
            found = list(by_seed.values())

            def values(field: str, scale: float = 100, found: list[Row] = found) -> np.ndarray:
                return scale * np.array([row[field] for row in found if row[field] is not None])

            s_cons = values("s_cons")
            cells = [
                name_of(arm),
                f"{found[0]['parameters'] / 1e6:.2f}",
                f"{found[0]['macs'] / 1e6:.0f}",
                f"{np.median(values('training_flops', 1e-12)):.3g}",
                f"{np.median(values('images_per_second', 1)):.0f}",
                f"{np.median(values('epochs_done', 1)):.3g}",
                shown(values("balanced_accuracy")),
                shown(values("balanced_accuracy_views")),
                shown(values("accuracy")),
                *(shown(values(name, 1), 3) for name in ("nll", "nll_views")),
                *(shown(values(name)) for name in ("ece", "ece_views")),
                shown(s_cons) if len(s_cons) else "–",
                str(len(found)),
                "–" if best is None or arm == best else difference(by_seed, arms[best]),
            ]
            lines.append(f"| {' | '.join(cells)} |")
        starved = sum(row["cpu_share"] < _WHOLE_CORE for row in some)
        if starved and some[0]["minutes"] is not None:
            lines += ["", f"{starved} of {len(some)} runs had less than {_WHOLE_CORE:.0%} of a core for their minutes."]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def tune_table(rows: list[Row]) -> str:
    """What each setting reached on images dealt from the training images, as Markdown; empty without such rows."""
    lines = [
        "| data | length | network | setting | balanced accuracy, % | NLL | n | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (cell, length), some in grouped(rows, "tune").items():
        for model in dict.fromkeys(row["model"] for row in some):
            names = list(dict.fromkeys(row["setting"] for row in some if row["model"] == model))
            taken = chosen_setting(some, CELLS[cell], model, names) if cell in CELLS else ""
            for name in names:
                found = [row for row in some if row["model"] == model and row["setting"] == name]
                accuracy, nll = (np.array([row[field] for row in found]) for field in ("balanced_accuracy", "nll"))
                mark = "chosen" if name == taken else ""
                lines.append(
                    f"| {cell} | {length} | {model} | {name} | {shown(100 * accuracy)} | {shown(nll, 3)} "
                    f"| {len(found)} | {mark} |"
                )
    return "\n".join(lines) if len(lines) > 2 else ""


# Plots ---------------------------------------------------------------------------------------------------------------

_COLOURS = dict(zip(TIER_2, ("#d1495b", "#30638e", "#3b8c6e", "#8d6cab", "#c98a2b", "#6b7a8f", "#52a7c7", "#a05a3c",
                             "#9aa53c", "#1f5d49", "#5b3f7a"), strict=True))  # fmt: skip


def plots(rows: list[Row], folder: Path) -> list[Path]:
    """Draws what the rows allow: scores and costs in the cells of tier 1, and scores against images a class.

    Each length has its own pictures; rows with changed words are left out, and of a network with several settings the
    one that is best in the cell is shown.
    """
    plain = [row for row in rows if row["kind"] == "run" and not row["words"]]
    made = []
    for length in dict.fromkeys(length_of(row) for row in plain):
        some = [row for row in plain if length_of(row) == length]
        ending = length.replace(" ", "-").replace("+", "")
        for name, draw in (("scores", _draw_scores), ("images-a-class", _draw_sizes), ("cost", _draw_cost)):
            figure = draw(some, length)
            if figure is not None:
                folder.mkdir(parents=True, exist_ok=True)
                made.append(folder / f"low-data-{name}-{ending}.png")
                figure.savefig(made[-1], dpi=150)
    return made


def _best_arms(rows: list[Row]) -> dict[str, list[Row]]:
    """The rows of each network's best arm in one cell, best network first."""
    found: dict[str, list[Row]] = {}
    for arm, by_seed in arms_of(rows).items():
        found.setdefault(arm[0], list(by_seed.values()))
    return found


def _reach(values: np.ndarray) -> float:
    return interval(values) or 0.0


def _figure(panels: int, columns: int, height: float) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    columns = min(columns, panels)
    lines = -(-panels // columns)
    figure = Figure(figsize=(4.2 * columns, height * lines), layout="constrained")
    axes = list(np.atleast_1d(figure.subplots(lines, columns)).flat)
    for spare in axes[panels:]:
        spare.remove()
    for axis in axes[:panels]:
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes[:panels]


def _main_cells(rows: list[Row]) -> dict[str, list[Row]]:
    """The rows of the cells of tier 1; where there are none, of the first four others."""
    cells = {cell: some for (cell, _), some in grouped(rows, "run").items()}
    main = {cell: some for cell, some in cells.items() if CELLS.get(cell) in CELLS_1}
    return main or dict(list(cells.items())[:4])


def _draw_scores(rows: list[Row], length: str) -> Any:
    """A panel a cell: balanced accuracy of each seed, their mean and its 95 % interval."""
    cells = _main_cells(rows)
    most = max(len(_best_arms(some)) for some in cells.values())
    figure, axes = _figure(len(cells), 2, 0.9 + 0.32 * most)
    for axis, (cell, some) in zip(axes, cells.items(), strict=True):
        arms = _best_arms(some)
        for place, (model, found) in enumerate(arms.items()):
            values = 100 * np.array([row["balanced_accuracy"] for row in found])
            colour = _COLOURS.get(model, "#444444")
            axis.errorbar(values.mean(), place, xerr=_reach(values), color=colour, fmt="o", markersize=7, capsize=3)
            if len(values) > 1:
                axis.plot(values, np.full(len(values), place + 0.25), "|", color=colour, alpha=0.7)
        axis.set_yticks(range(len(arms)), arms)
        axis.set_ylim(len(arms) - 0.5, -0.5)
        axis.tick_params(axis="y", length=0)
        axis.set_title(cell, fontsize=10, loc="left")
        axis.set_xlabel("balanced accuracy, %", fontsize=9)
    figure.suptitle(f"{length} a run; dots: means with 95 % intervals, ticks: seeds", fontsize=9, color="#555555")
    return figure


def _draw_sizes(rows: list[Row], length: str) -> Any:
    """A panel a data set that has several sizes: balanced accuracy against images a class."""
    sets: dict[str, dict[int, dict[str, list[Row]]]] = {}
    for some in grouped(rows, "run").values():
        cell = Cell(some[0]["data"], some[0]["per_class"])
        sets.setdefault(cell.data, {})[cell.images] = _best_arms(some)
    sets = {name: by_size for name, by_size in sets.items() if len(by_size) > 1}
    if not sets:
        return None
    figure, axes = _figure(len(sets), 2, 3.3)
    handles: dict[str, Any] = {}
    for axis, (name, by_size) in zip(axes, sets.items(), strict=True):
        sizes = sorted(by_size)
        for place, model in enumerate(_in_order({model for arms in by_size.values() for model in arms})):
            beside = (sizes[-1] / sizes[0]) ** (0.006 * place)  # so that intervals don't hide each other
            at = [size for size in sizes if model in by_size[size]]
            values = [100 * np.array([row["balanced_accuracy"] for row in by_size[size][model]]) for size in at]
            ours = model == OURS
            handles[model] = axis.errorbar(
                [size * beside for size in at],
                [v.mean() for v in values],
                yerr=[_reach(v) for v in values],
                color=_COLOURS.get(model, "#444444"),
                marker="o",
                markersize=5 if ours else 3.5,
                linewidth=2.2 if ours else 1.2,
                capsize=2,
                zorder=3 if ours else 2,
            )
        axis.set_xscale("log")
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.minorticks_off()
        axis.set_title(name, fontsize=10, loc="left")
        axis.set_xlabel("images a class", fontsize=9)
        axis.set_ylabel("balanced accuracy, %", fontsize=9)
    _legend(figure, handles, f"{length} a run")
    return figure


def _draw_cost(rows: list[Row], length: str) -> Any:
    """A row of panels a cell: balanced accuracy against parameters, and against what training computed."""
    from matplotlib.ticker import LogLocator

    cells = _main_cells(rows)
    figure, axes = _figure(2 * len(cells), 2, 2.7)
    handles: dict[str, Any] = {}
    for i, (cell, some) in enumerate(cells.items()):
        for axis, field, unit, label in (
            (axes[2 * i], "parameters", 1e6, "million parameters"),
            (axes[2 * i + 1], "training_flops", 1e12, "training TFLOPs"),
        ):
            arms = _best_arms(some)
            for model in _in_order(arms):
                values = 100 * np.array([row["balanced_accuracy"] for row in arms[model]])
                at = float(np.median([row[field] for row in arms[model]])) / unit
                handles[model] = axis.errorbar(
                    at, values.mean(), yerr=_reach(values), color=_COLOURS.get(model, "#444444"), fmt="o",
                    markersize=8 if model == OURS else 5, capsize=2)  # fmt: skip
            axis.set_xscale("log")
            axis.margins(x=0.12, y=0.12)
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_major_formatter(lambda value, place: f"{value:g}")
            axis.minorticks_off()
            axis.set_xlabel(label, fontsize=9)
            axis.set_ylabel("balanced accuracy, %", fontsize=9)
            axis.set_title(cell, fontsize=10, loc="left")
    _legend(figure, handles, f"{length} a run")
    return figure


def _in_order(models: Any) -> list[str]:
    """Ours first, then as in the grid."""
    known = [model for model in TIER_2 if model in models]
    return known + sorted(set(models) - set(known))


def _legend(figure: Any, handles: dict[str, Any], title: str) -> None:
    names = _in_order(handles)
    figure.legend([handles[name] for name in names], names, loc="outside lower center", ncols=min(6, len(names)),
                  frameon=False, fontsize=9, title=title, title_fontsize=9)  # fmt: skip


# The command ---------------------------------------------------------------------------------------------------------


def jobs_of(arguments: argparse.Namespace, rows: list[Row]) -> list[Job]:
    """What is asked for, in the order it is begun in."""
    cells = [CELLS[name] for name in arguments.sets or map(str, CELLS_1 if arguments.tier == 1 else CELLS_2)]
    models = arguments.models or list(TIER_1 if arguments.tier == 1 else TIER_2)
    seeds = arguments.seeds or (1 if arguments.tune else 3)
    length = {"minutes": arguments.minutes, "epochs": arguments.epochs, "flops": arguments.flops}
    if not any(length.values()):
        length["minutes"] = 5.0
    made = []
    for cell, model, seed in grid(arguments.tier, cells, models, seeds):
        names = [setting.name for setting in settings_of(model)]
        if arguments.tune and len(names) < 2:
            continue  # nothing to choose
        kind, split = ("tune", 0) if arguments.tune else ("run", cell.split(seed))
        if arguments.develop:
            kind, limit = "develop", SETS[cell.data].develop
            if limit is None or (split + 1) * cell.images > limit[0]:
                continue  # no images are left to choose by
        if not arguments.tune:
            names = [chosen_setting(rows, cell, model, names)]
        for words in arguments.words or [""]:
            for name in names:
                words = " ".join(words.split())
                made.append(Job(kind, cell.data, cell.per_class, split, model, name, words, seed, **length))
    return made


def check(jobs: list[Job], data: Path, device: str) -> None:
    """Says what can't be before anything is run."""
    for words in dict.fromkeys((job.model, job.setting, job.words) for job in jobs):
        job = next(job for job in jobs if (job.model, job.setting, job.words) == words)
        try:
            make_recipe(recipe_words(job, device))
        except ValueError as error:
            sys.exit(f"{job}: {error}")
    for name in dict.fromkeys(job.data for job in jobs):
        some = SETS[name]
        for source in () if some.named else (some.train, some.test):
            path = data / source.split("@")[0]
            if not path.exists():
                sys.exit(f"there is no '{path}', which {name} is read from; name other --sets or another data folder.")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", help="folder with galaxy-zoo2, cifar10, mirabest, tiny-imagenet")
    parser.add_argument("--tier", type=int, choices=(1, 2), default=1, help="1: the standing table; 2: the whole grid")
    parser.add_argument("--tune", action="store_true", help="try the peers' settings on part of the training images")
    parser.add_argument("--develop", action="store_true", help="measure on images that recipes may be chosen by")
    parser.add_argument("--sets", nargs="+", choices=CELLS, metavar="SET", help=f"of: {'; '.join(CELLS)}")
    parser.add_argument("--models", nargs="+", choices=(OURS, *PEERS))
    parser.add_argument("--words", action="append", help='changes to the recipe, "name=value …"; again for another arm')
    parser.add_argument("--seeds", type=int, help="default 3, in tuning 1")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, help="a run, wall-clock of one thread; default 5")
    length.add_argument("--epochs", type=int, help="a run, in place of minutes")
    length.add_argument("--flops", type=float, help="training FLOPs a run, in place of minutes")
    parser.add_argument("--together", type=int, default=os.cpu_count(), help="runs side by side, one thread each")
    parser.add_argument("--minutes-total", type=float, help="begin no run after so many minutes")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--symmetry-images", type=int, default=SYMMETRY_IMAGES, help="for S-Cons; 0: not measured")
    parser.add_argument("--rows", type=Path, default=ROWS, help="file that rows are read from and appended to")
    parser.add_argument("--table", action="store_true", help="print the tables of the rows that are there")
    parser.add_argument("--plots", type=Path, nargs="?", const=PLOTS, help="draw them into this folder")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a run in its own process
    return parser


def main() -> None:
    arguments = parser().parse_args()
    if arguments.one:
        row = run(Job(**json.loads(arguments.one)), arguments.data, arguments.device, arguments.symmetry_images)
        print(json.dumps(row))
        return
    failures: list[str] = []
    if arguments.data is not None:
        jobs = jobs_of(arguments, read_rows(arguments.rows))
        check(jobs, arguments.data, arguments.device)

        def one(job: Job) -> Row:
            return run_apart(job, arguments.data, arguments.device, arguments.symmetry_images)

        failures = run_all(
            jobs, arguments.rows, one, together=arguments.together, minutes_total=arguments.minutes_total
        )
    rows = read_rows(arguments.rows)
    if arguments.plots is not None:
        for path in plots(rows, arguments.plots):
            print(path, file=sys.stderr)
    if arguments.table or arguments.plots is None:
        print("\n\n".join(part for part in (table(rows), table(rows, "develop"), tune_table(rows)) if part))
    if failures:
        sys.exit(f"{len(failures)} runs failed; the first: {failures[0]}")


if __name__ == "__main__":
    main()
