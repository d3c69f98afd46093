"""How far are probabilities to be trusted: before calibration, after it, and beside another network?

    python benchmarks/trust.py ../shared/data --work ../trust --models astroformer
    python benchmarks/trust.py ../shared/data --work ../trust --models ResNet-18
    python benchmarks/trust.py --table

On each of four sets, with three seeds, our network learns by `astroformer train`, and timm's ResNet-18 in the same loop
from the same images, both for the same minutes of one core. The second is calibrated by scikit-learn's
`CalibratedClassifierCV(method="temperature")`. Images that neither learned from calibrate both, and the test images,
which choose nothing, are asked once.

What every run answers is kept in the folder of work, so that a stop loses one run. From the answers come the rows of
`results/trust.jsonl`, one for each run and number of calibration images.
"""

from __future__ import annotations

import os
import subprocess
import sys
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from astroformer.classifier import Classifier
from astroformer.images import open_source
from astroformer.training.recipe import make_recipe
from common.command import checked, data_or_table
from common.peers import PEERS, PLAIN
from common.training import trained
from common.unlike import others, unlike_images

OURS, PEER = "astroformer", "ResNet-18"


@dataclass(frozen=True)
class Split:
    """Sources to train on, to calibrate by and to test with; `{a}`, `{b}` and so on bound the images of each class."""

    source: str
    test: str
    windows: tuple[tuple[int, int, int, int], ...]  # of each seed: to train on from, to; to calibrate by from, to
    recipe: str
    named: bool = False

    def sources(self, data: Path, seed: int) -> tuple[str, str, str]:
        a, b, c, d = self.windows[seed % len(self.windows)]
        place = "" if self.named else f"{data}/"
        parts = (f"{self.source}@per-class={a}:{b}", f"{self.source}@per-class={c}:{d}", self.test)
        return tuple(place + part for part in parts)  # type: ignore[return-value]


SPLITS = {
    "Galaxy Zoo 2": Split("galaxy-zoo2/train", "galaxy-zoo2/valid", ((0, 300, 300, 400), (100, 400, 0, 100)), "sky"),
    "CIFAR-10 (JPEG)": Split(
        "cifar10/train.npz",
        "cifar10/train.npz@per-class=4000:4400",
        tuple((200 * k, 200 * k + 200, 4500 + 50 * k, 4550 + 50 * k) for k in range(3)),
        "photo",
    ),
    "Fashion-MNIST": Split(
        "fashion-mnist:train",
        "fashion-mnist:test",
        tuple((100 * k, 100 * k + 100, 5000 + 50 * k, 5050 + 50 * k) for k in range(3)),
        "photo",
        named=True,
    ),
    # Six images of the file are one and the same. So that it is on one side, images 150 to 170 and 220 to 230 are left
    # out.
    "MiraBest": Split(
        "mirabest/train.npz", "mirabest/train.npz@per-class=230:312", ((0, 150, 170, 220), (70, 220, 0, 50)), "sky"
    ),
}
MINUTES = 4.0


@dataclass(frozen=True)
class Job:
    data: str
    model: str
    seed: int

    def place(self, work: Path) -> Path:
        return work / f"{self.model}-{self.data.replace(' ', '_')}-{self.seed}"


def train_ours(job: Job, data: Path, work: Path, minutes: float) -> None:
    """A run folder, by the command that users type, on one thread."""
    split, place = SPLITS[job.data], job.place(work)
    train, valid, _ = split.sources(data, job.seed)
    words = [train, "--valid", valid, "--minutes", str(minutes), "--seed", str(job.seed), "--out", str(place)]
    words += ["--recipe", split.recipe] if split.recipe == "photo" else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["astroformer", "train", *words], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"astroformer train {' '.join(words)}: {done.stderr[-1500:]}")


def train_peer(job: Job, data: Path, work: Path, minutes: float) -> None:
    """Trains the other network as `low_data.py` does, and keeps its answers in a file: a network of timm's is no model
    folder."""
    split = SPLITS[job.data]
    train, valid, test = split.sources(data, job.seed)
    words = {"augment": {"preset": split.recipe}, "seed": job.seed, "device": "cpu", "evaluations": 1, **PLAIN}
    words |= {"minutes": minutes, **PEERS[job.model].settings[0].words}
    learned = open_source(train)
    held_out, tested = (open_source(source, classes=learned.classes) for source in (valid, test))
    made = trained(job.model, make_recipe(words), learned, held_out)
    classifier = made.classifier
    answers: dict[str, np.ndarray] = {}
    for name, images in (("calibration", held_out), ("test", tested)):
        rows = [images.read(i) for i in range(len(images))]
        answers[name] = logits_of(classifier, rows)
        answers[f"{name} labels"] = images.labels
    for kind in others(job.data):
        answers[kind] = logits_of(classifier, unlike_images(kind, tested, data, classifier.preprocessing.channels))
    place = job.place(work)
    place.mkdir(parents=True)
    np.savez(place / "part.npz", **answers)
    (place / "part.npz").rename(place / "answers.npz")


def logits_of(classifier: Classifier, images: list[np.ndarray]) -> np.ndarray:
    """(N, K) logits of images of any size."""
    found = []
    for start in range(0, len(images), 64):
        stored_BCHW = np.stack([classifier.preprocessing.apply(image) for image in images[start : start + 64]])
        found.append(classifier.logits(stored_BCHW))
    return np.concatenate(found)


def is_done(job: Job, work: Path) -> bool:
    place = job.place(work)
    return (place / "answers.npz").exists() or (place / "model" / "config.json").exists()


def run_all(arguments: Namespace) -> None:
    torch.set_num_threads(1)
    for seed in range(arguments.seeds):
        for data in SPLITS:
            for model in arguments.models:
                job = Job(data, model, seed)
                if is_done(job, arguments.work):
                    continue
                print(f"{data}, {model}, seed {seed}", file=sys.stderr, flush=True)
                train = train_ours if model == OURS else train_peer
                train(job, arguments.data, arguments.work, arguments.minutes)


def main() -> None:
    parser = data_or_table(__doc__, "folder with galaxy-zoo2, cifar10 and mirabest")
    parser.add_argument("--work", type=Path, help="folder that keeps models and answers")
    parser.add_argument("--models", nargs="+", choices=(OURS, PEER), default=[OURS, PEER])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of one core, a run")
    arguments = checked(parser)
    if not arguments.table:
        run_all(arguments)


if __name__ == "__main__":
    main()
