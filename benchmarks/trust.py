"""How far are probabilities to be trusted: before calibration, after it, and beside another network?

    python benchmarks/trust.py ../shared/data
    python benchmarks/trust.py ../shared/data --models ResNet-18 --work FOLDER
    python benchmarks/trust.py --table

On each of four sets, with three seeds, our network learns by `astroformer train`, and timm's ResNet-18 in the same loop
from the same images. Either sees each image as many times as `Split` says, which takes two or three minutes of one core
of an AMD processor of 2023. The second is calibrated by scikit-learn's `CalibratedClassifierCV(method="temperature")`.
Images that neither learned from calibrate both, and the test images, which choose nothing, are asked once.

What every run answers is kept in the folder of work, so that a stop loses one run. From the answers come the rows of
`results/trust.jsonl`, one for each run and number of calibration images.
"""

from __future__ import annotations

import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from astroformer.cache import default_cache
from astroformer.classifier import Classifier
from astroformer.images import ImageStore, LabelledImages, open_source
from astroformer.training.recipe import make_recipe
from astroformer.training.validation import store_logits, trust_of
from common.command import checked, data_or_table
from common.machine import code_version, processor
from common.peers import PEERS, PLAIN
from common.rows import RESULTS, Row, append_row, read_rows
from common.statistics import spread
from common.training import trained
from common.trust_scores import (
    auroc,
    by_ours,
    by_scikit_learn,
    calibrated,
    coverage,
    energy,
    heads,
    least_sure,
    logits_of,
    raw,
)
from common.unlike import others, unlike_images

OURS, PEER = "astroformer", "ResNet-18"


@dataclass(frozen=True)
class Split:
    """Sources to train on, to calibrate by and to test with; `{a}`, `{b}` and so on bound the images of each class."""

    source: str
    test: str
    windows: tuple[tuple[int, int, int, int], ...]  # of each seed: to train on from, to; to calibrate by from, to
    recipe: str
    epochs: dict[str, int]
    named: bool = False

    def sources(self, data: Path, seed: int) -> tuple[str, str, str]:
        a, b, c, d = self.windows[seed % len(self.windows)]
        place = "" if self.named else f"{data}/"
        parts = (f"{self.source}@per-class={a}:{b}", f"{self.source}@per-class={c}:{d}", self.test)
        return tuple(place + part for part in parts)  # type: ignore[return-value]


SPLITS = {
    "Galaxy Zoo 2": Split(
        "galaxy-zoo2/train", "galaxy-zoo2/valid", ((0, 300, 300, 400), (100, 400, 0, 100)), "sky", {OURS: 18, PEER: 6}
    ),
    "CIFAR-10 (JPEG)": Split(
        "cifar10/train.npz",
        "cifar10/train.npz@per-class=4000:4400",
        tuple((200 * k, 200 * k + 200, 4500 + 50 * k, 4550 + 50 * k) for k in range(3)),
        "photo",
        {OURS: 16, PEER: 3},
    ),
    "Fashion-MNIST": Split(
        "fashion-mnist:train",
        "fashion-mnist:test",
        tuple((100 * k, 100 * k + 100, 5000 + 50 * k, 5050 + 50 * k) for k in range(3)),
        "photo",
        {OURS: 40, PEER: 4},
        named=True,
    ),
    # Six images of the file are one and the same. So that it is on one side, images 150 to 170 and 220 to 230 are left
    # out.
    "MiraBest": Split(
        "mirabest/train.npz",
        "mirabest/train.npz@per-class=230:312",
        ((0, 150, 170, 220), (70, 220, 0, 50)),
        "sky",
        {OURS: 50, PEER: 10},
    ),
}
OUT = RESULTS / "trust.jsonl"
FEW = 100  # calibration images, beside all that there are
MOST_TESTED = 2000  # test images that the other network is asked about, which is slower


@dataclass(frozen=True)
class Job:
    data: str
    model: str
    seed: int

    def place(self, work: Path) -> Path:
        return work / f"{self.model}-{self.data.replace(' ', '_')}-{self.seed}"


def train_ours(job: Job, data: Path, work: Path) -> None:
    """A run folder, by the command that users type, on one thread."""
    split, place = SPLITS[job.data], job.place(work)
    train, valid, _ = split.sources(data, job.seed)
    words = [train, "--valid", valid, "--epochs", str(split.epochs[OURS]), "--seed", str(job.seed), "--out", str(place)]
    words += ["--recipe", split.recipe] if split.recipe == "photo" else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["astroformer", "train", *words], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"astroformer train {' '.join(words)}: {done.stderr[-1500:]}")


def train_peer(job: Job, data: Path, work: Path) -> None:
    """Trains the other network as `low_data.py` does, and keeps its answers in a file: a network of timm's is no model
    folder."""
    split = SPLITS[job.data]
    train, valid, test = split.sources(data, job.seed)
    words = {"augment": {"preset": split.recipe}, "seed": job.seed, "device": "cpu", "evaluations": 1, **PLAIN}
    words |= {"epochs": split.epochs[job.model], **PEERS[job.model].settings[0].words}
    learned = open_source(train)
    held_out, tested = (open_source(source, classes=learned.classes) for source in (valid, test))
    made = trained(job.model, make_recipe(words), learned, held_out)
    classifier = made.classifier
    answers: dict[str, np.ndarray] = {}
    for name, images in (("calibration", held_out), ("test", some_of(tested))):
        rows = [images.read(i) for i in range(len(images))]
        answers[name] = logits_of(classifier, rows)
        answers[f"{name} labels"] = images.labels
    for kind in others(job.data):
        answers[kind] = logits_of(classifier, unlike_images(kind, tested, data, classifier.preprocessing.channels))
    place = job.place(work)
    place.mkdir(parents=True)
    np.savez(place / "part.npz", **answers)
    (place / "part.npz").rename(place / "answers.npz")


def some_of(images: LabelledImages) -> LabelledImages:
    """At most `MOST_TESTED` of them, drawn once for all runs."""
    return images.subset(np.sort(np.random.default_rng(0).permutation(len(images))[:MOST_TESTED]))


def is_done(job: Job, work: Path) -> bool:
    place = job.place(work)
    return (place / "answers.npz").exists() or (place / "model" / "config.json").exists()


def answers_of_ours(job: Job, data: Path, work: Path) -> dict[str, np.ndarray]:
    """The same answers of our model, and the novelty of the images."""
    train, valid, test = SPLITS[job.data].sources(data, job.seed)
    classifier = Classifier.load(job.place(work))
    learned = open_source(train)
    held_out, tested = (open_source(source, classes=learned.classes) for source in (valid, test))
    stores = [ImageStore.build(some, classifier.preprocessing, cache=default_cache()) for some in (held_out, learned)]
    classifier.trust = trust_of(classifier, *stores, batch_size=64)
    answers = {"calibration": store_logits(classifier, stores[0]), "calibration labels": stores[0].labels}
    images = {"test": [tested.read(i) for i in range(len(tested))]}
    channels = classifier.preprocessing.channels
    images |= {kind: unlike_images(kind, tested, data, channels) for kind in others(job.data)}
    for name, arrays in images.items():
        answers[name] = logits_of(classifier, arrays)
        answers[f"{name} novelty"] = classifier.predict(arrays, quiet=True).novelty_N
    answers["test labels"] = tested.labels
    return answers


def rows_of(job: Job, data: Path, work: Path) -> Iterator[Row]:
    """A row for each number of calibration images."""
    ours = job.model == OURS
    answers = answers_of_ours(job, data, work) if ours else dict(np.load(job.place(work) / "answers.npz"))
    logits_NK, labels_N = answers["calibration"], answers["calibration labels"]
    test_MK, labels_M = answers["test"], answers["test labels"]
    novelty = {}
    for kind in others(job.data):
        scores = {"least sure": least_sure, "energy": energy}
        novelty[kind] = {name: auroc(score(test_MK), score(answers[kind])) for name, score in scores.items()}
        if ours:
            usual_N, other_N = answers["test novelty"], answers[f"{kind} novelty"]
            novelty[kind] |= {"novelty": auroc(usual_N, other_N), "beyond": round(float((other_N > 1).mean()), 4)}
    if ours:
        novelty["test"] = {"beyond": round(float((answers["test novelty"] > 1).mean()), 4)}
    pooled = np.concatenate([logits_NK, test_MK]), np.concatenate([labels_N, labels_M])
    for n in (None, FEW) if len(labels_N) > FEW else (None,):
        whole = n is None
        yield {
            "data": job.data,
            "model": job.model,
            "seed": job.seed,
            "epochs": SPLITS[job.data].epochs[job.model],
            "calibration_images": len(labels_N) if whole else FEW,
            "test_images": len(labels_M),
            "raw": raw(test_MK, labels_M),
            "calibrated": calibrated(by_ours if ours else by_scikit_learn, logits_NK, labels_N, test_MK, labels_M, n),
            "coverage": coverage(*pooled, len(labels_N)) if ours and whole else None,
            "novelty": novelty if whole else None,
            "processor": processor("cpu"),
            "code": code_version(),
        }


def table(rows: list[Row]) -> str:
    """Calibration, sets and novelty as tables of Markdown, each the mean over the seeds."""
    return "\n\n".join((calibration_table(rows), coverage_table(rows), novelty_table(rows)))


def calibration_table(rows: list[Row]) -> str:
    named = ["test images", "network", "calibration images", "ECE before, %", "after, %", "by chance, %"]
    lines = heads(*named, "NLL before", "after", "n")
    for data in SPLITS:
        for model in (OURS, PEER):
            for n in sorted({r["calibration_images"] for r in rows if r["data"] == data}, reverse=True):
                of = [r for r in rows if (r["data"], r["model"], r["calibration_images"]) == (data, model, n)]
                if of:
                    ece = [spread([100 * r[when]["ece"] for r in of], 1) for when in ("raw", "calibrated")]
                    nll = [spread([r[when]["nll"] for r in of], 3) for when in ("raw", "calibrated")]
                    chance = f"{np.mean([100 * r['calibrated']['ece_by_chance'] for r in of]):.1f}"
                    cells = [f"{of[0]['test_images']:,} of {data}", model, str(n), *ece, chance, *nll, str(len(of))]
                    lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def coverage_table(rows: list[Row]) -> str:
    lines = heads("images", "sets", "coverage, %", "classes in a set", "least and most of a class, %", "n")
    for data in SPLITS:
        of = [r["coverage"] for r in rows if r["data"] == data and r["coverage"]]
        for name in of[0] if of else ():
            held, sizes = ([each[name][what] for each in of] for what in ("coverage", "size"))
            classes = 100 * np.mean([each[name]["by_class"] for each in of], 0)
            cells = [data, name, spread([100 * h for h in held], 2), spread(sizes, 2)]
            lines.append(f"| {' | '.join(cells)} | {classes.min():.1f} to {classes.max():.1f} | {len(of)} |")
    return "\n".join(lines)


def novelty_table(rows: list[Row]) -> str:
    named = ["trained on", "asked about", "AUROC of novelty", "beyond 1, %", "of the confidence", "of the energy"]
    lines = heads(*named, f"{PEER}, of the confidence", "n")
    for data in SPLITS:
        ours = [r["novelty"] for r in rows if (r["data"], r["model"]) == (data, OURS) and r["novelty"]]
        peer = [r["novelty"] for r in rows if (r["data"], r["model"]) == (data, PEER) and r["novelty"]]
        if not ours:
            continue
        for kind in others(data):
            cells = [spread([each[kind]["novelty"] for each in ours], 3)]
            cells.append(f"{100 * np.mean([each[kind]['beyond'] for each in ours]):.0f}")
            cells += [spread([each[kind][name] for each in ours], 3) for name in ("least sure", "energy")]
            cells.append(spread([each[kind]["least sure"] for each in peer], 3) if peer else "")
            lines.append(f"| {data} | {kind} | {' | '.join(cells)} | {len(ours)} |")
        beyond = f"{100 * np.mean([each['test']['beyond'] for each in ours]):.1f}"
        lines.append(f"| {data} | its own test images | | {beyond} | | | | {len(ours)} |")
    return "\n".join(lines)


def run_all(arguments: Namespace) -> None:
    torch.set_num_threads(1)
    for seed in range(arguments.seeds):
        for data in SPLITS:
            for model in arguments.models:
                job = Job(data, model, seed)
                print(f"{data}, {model}, seed {seed}", file=sys.stderr, flush=True)
                if not is_done(job, arguments.work):
                    train = train_ours if model == OURS else train_peer
                    train(job, arguments.data, arguments.work)
                if (data, model, seed) not in {(r["data"], r["model"], r["seed"]) for r in read_rows(OUT)}:
                    for row in rows_of(job, arguments.data, arguments.work):
                        append_row(OUT, row, whole=True)


def main() -> None:
    parser = data_or_table(__doc__, "folder with galaxy-zoo2, cifar10 and mirabest")
    kept = default_cache() / "benchmark-trust"
    parser.add_argument("--work", type=Path, default=kept, help=f"folder that keeps models and answers; {kept}")
    parser.add_argument("--models", nargs="+", choices=(OURS, PEER), default=[OURS, PEER])
    parser.add_argument("--seeds", type=int, default=3)
    arguments = checked(parser)
    if not arguments.table:
        run_all(arguments)
    print(table(read_rows(OUT)))


if __name__ == "__main__":
    main()
