"""Is it better to learn what people voted than the class with most votes?

    python benchmarks/votes.py ../shared/data
    python benchmarks/votes.py --table

Votes are drawn around the classes of mock galaxies, and of Galaxy Zoo 2 (its folders have a class each; the votes that
the classes were made of are not with them). Of each image 20 to 60 people vote. The class with most votes is not always
the right one.

- `Galaxy Zoo 2`: how often people see the class of an image, and which other of the classes that look like it they see,
  is drawn for the image, whatever it shows.
- `mock galaxies`: the same with all other classes.
- `mock galaxies behind a veil`: noise hides each galaxy to another degree, and the more of it, the fewer people see
  what it is. So an image tells how far people agree on it, as real ones do.

Training is
`astroformer train` with one recipe and the same epochs, on

- the votes: `catalog.csv@votes=…`;
- the majority: the class with most votes, with label smoothing of 0.1, the default;
- the majority, smoothed: the label smoothing is what the training images' votes lack of unanimity, so that this network
  too is as sure on average as people are.

The cross-entropy is against the shares of the votes on test images, which choose nothing; its least possible value is
the entropy of the shares. Accuracy is against the class of the folder, which no arm was told. One row a run, in
`results/votes.jsonl`.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from astroformer.images import open_source
from astroformer.images.sets.mock_galaxies import mock_galaxies
from common.command import checked, data_or_table
from common.machine import code_version, processor
from common.rows import RESULTS, Row, append_row, read_rows

OUT = RESULTS / "votes.jsonl"
VOTES, MAJORITY, SMOOTHED = "votes", "majority", "majority, smoothed"
PEOPLE = (20, 60)  # who vote on an image
SEEN = 0.7  # the mean share of those who see the right class
SPREAD = 6.0  # concentration of the Dirichlet distribution of an image's shares: the smaller, the more images differ
# Classes of Galaxy Zoo 2 that are taken for each other, with the share of the wrong votes that each gets.
LIKE = {
    "completely_round_smooth": {"in_between_smooth": 0.7, "spiral": 0.3},
    "in_between_smooth": {"completely_round_smooth": 0.4, "cigar-shaped_smooth": 0.4, "spiral": 0.2},
    "cigar-shaped_smooth": {"edge-on": 0.6, "in_between_smooth": 0.4},
    "edge-on": {"cigar-shaped_smooth": 0.7, "spiral": 0.3},
    "spiral": {"edge-on": 0.3, "in_between_smooth": 0.4, "completely_round_smooth": 0.3},
}


@dataclass(frozen=True)
class Set:
    """Images with classes, to train on and to test with, and how long a run is."""

    per_class: int
    epochs: int
    words: str
    veiled: bool = False


SETS = {
    "mock galaxies": Set(40, 60, "--image-size 64"),
    "mock galaxies behind a veil": Set(80, 60, "--image-size 64", veiled=True),
    "Galaxy Zoo 2": Set(50, 100, ""),
}


def veiled(pixels_NHWC: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Images behind noise, and the share of people who still see what each shows, from 0.3 to 1."""
    clear_N = rng.uniform(0.1, 1.0, len(pixels_NHWC))
    clear_N111 = clear_N[:, None, None, None]
    noise_NHWC = rng.normal(60, 60, pixels_NHWC.shape)
    veiled_NHWC = (clear_N111 * pixels_NHWC + (1 - clear_N111) * noise_NHWC).clip(0, 255).astype(np.uint8)
    return veiled_NHWC, 0.22 + 0.78 * clear_N


def write_catalog(
    path: Path,
    files: list[str],
    labels_N: np.ndarray,
    classes: tuple[str, ...],
    seed: int,
    seen_N: np.ndarray | None = None,
) -> float:
    """Draws votes; columns: file, class, majority, and one of votes for each class, called by its name.

    Args:
        seen_N: the share of people who see the class of each image; None: drawn, whatever the image shows.

    Returns:
        the mean share of the votes that the class with most of them has.
    """
    rng = np.random.default_rng((seed, len(files)))
    shares_KK = np.full((len(classes), len(classes)), (1 - SEEN) / (len(classes) - 1))
    for k, name in enumerate(classes):
        if name in LIKE:
            shares_KK[k] = [(1 - SEEN) * LIKE[name].get(other, 0.0) + 1e-3 for other in classes]
        shares_KK[k, k] = SEEN
    highest = []
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "class", "majority", *classes])
        for i, (file, label) in enumerate(zip(files, labels_N, strict=True)):
            people = rng.integers(*PEOPLE, endpoint=True)
            if seen_N is None:
                chances_K = rng.dirichlet(SPREAD * shares_KK[label])
            else:
                chances_K = np.full(len(classes), (1 - seen_N[i]) / (len(classes) - 1))
                chances_K[label] = seen_N[i]
            votes_K = rng.multinomial(people, chances_K)
            highest.append(votes_K.max() / people)
            writer.writerow([file, classes[label], classes[votes_K.argmax()], *votes_K])
    return float(np.mean(highest))


def catalogs(name: str, data: Path, seed: int, folder: Path) -> tuple[tuple[str, ...], float]:
    """Writes train.csv and test.csv; their classes, and the mean share of the majority in training."""
    shares = []
    for part, part_seed in (("train", seed), ("test", 1000 + seed)):
        seen_N = None
        if name == "Galaxy Zoo 2":
            words = f"@per-class={seed * SETS[name].per_class}:{(seed + 1) * SETS[name].per_class}"
            root = data / "galaxy-zoo2" / ("train" if part == "train" else "valid")
            images = open_source(f"{root}{words if part == 'train' else ''}")
            classes, labels_N = images.classes, images.labels
            files = [str((root / file).resolve()) for file in images.files]
        else:
            n = 10 * SETS[name].per_class if part == "train" else 1000
            pixels_NHWC, labels_N = mock_galaxies(n, size=64, seed=part_seed)
            classes = open_source("mock-galaxies:40x32").classes
            if SETS[name].veiled:
                pixels_NHWC, seen_N = veiled(pixels_NHWC, np.random.default_rng(part_seed))
            (folder / part).mkdir()
            files = [f"{part}/{i}.png" for i in range(n)]
            for file, pixels_HWC in zip(files, pixels_NHWC, strict=True):
                Image.fromarray(pixels_HWC).save(folder / file)
        shares.append(write_catalog(folder / f"{part}.csv", files, labels_N, classes, part_seed, seen_N))
    return classes, shares[0]


def command(*words: str) -> None:
    """Runs `astroformer` on one thread. Raises `RuntimeError` where it fails, with what it said."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["astroformer", *words], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"astroformer {' '.join(words)}: {done.stderr[-1500:]}")


def measure(name: str, arm: str, data: Path, seed: int) -> Row:
    """Trains once, and asks once about the test images."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        classes, highest = catalogs(name, data, seed, folder)
        votes = "@votes=" + "+".join(classes)
        label = {VOTES: votes}.get(arm, "@label=majority")
        k = len(classes)
        smoothing = ["--label-smoothing", f"{(1 - highest) * k / (k - 1):.3f}"] if arm == SMOOTHED else []
        words = [*SETS[name].words.split(), "--epochs", str(SETS[name].epochs), "--seed", str(seed), *smoothing]
        # The images that are held out choose nothing; they are few, so that all arms train on nearly all.
        command("train", f"{folder}/train.csv{label}", "--valid-fraction", "0.1", *words, "--out", f"{folder}/run")
        tested = f"{folder}/test.csv{votes}"
        command("evaluate", f"{folder}/run", tested, "--out", f"{folder}/evaluation")
        found = json.loads((folder / "evaluation" / "metrics.json").read_text(encoding="utf-8"))
        with (folder / "evaluation" / "predictions.csv").open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    answers_N = np.array([row["prediction"] for row in rows])
    truth_N = np.array([row["class"] for row in rows])
    majority_N = np.array([row["majority"] for row in rows])
    shares_NK = np.array([[float(row[f"votes:{name}"]) for name in classes] for row in rows])
    least = float(-(shares_NK * np.log(np.maximum(shares_NK, 1e-300))).sum(1).mean())
    return {
        "cell": name,
        "arm": arm,
        "seed": seed,
        "words": " ".join(words),
        "images": SETS[name].per_class * len(classes),
        "test_images": len(rows),
        "votes_cross_entropy": found["votes_cross_entropy"]["value"],
        "least_possible": round(least, 6),
        "accuracy_of_the_class": float((answers_N == truth_N).mean()),
        "accuracy_of_the_majority": float((answers_N == majority_N).mean()),
        "processor": processor("cpu"),
        "code": code_version(),
    }


def table(rows: list[Row]) -> str:
    """Mean ± standard deviation over the seeds."""
    head = "| images | learned from | cross-entropy of the votes | least possible | right class, % | n |"
    lines = [head, "|---|---|---|---|---|---|"]
    for name in SETS:
        for arm in (VOTES, MAJORITY, SMOOTHED):
            of = [row for row in rows if (row["cell"], row["arm"]) == (name, arm)]
            if of:
                entropy = np.array([row["votes_cross_entropy"] for row in of])
                right = 100 * np.array([row["accuracy_of_the_class"] for row in of])
                spread = [f" ± {a.std(ddof=1):.{d}f}" if len(of) > 1 else "" for a, d in ((entropy, 3), (right, 1))]
                least = np.mean([row["least_possible"] for row in of])
                lines.append(
                    f"| {of[0]['images']} of {name} | {arm} | {entropy.mean():.3f}{spread[0]} | {least:.3f} "
                    f"| {right.mean():.1f}{spread[1]} | {len(of)} |"
                )
    return "\n".join(lines)


def main() -> None:
    parser = data_or_table(__doc__, "folder with galaxy-zoo2")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--together", type=int, default=1, help="runs side by side, of one thread each")
    arguments = checked(parser)
    done = {(row["cell"], row["arm"], row["seed"]) for row in read_rows(OUT)}
    arms = (VOTES, MAJORITY, SMOOTHED)
    jobs = [(name, arm, seed) for seed in range(arguments.seeds) for name in SETS for arm in arms]
    jobs = [] if arguments.table else [job for job in jobs if job not in done]
    with ThreadPoolExecutor(arguments.together) as pool:
        for row in pool.map(lambda job: measure(job[0], job[1], arguments.data, job[2]), jobs):
            append_row(OUT, row)
    print(table(read_rows(OUT)))


if __name__ == "__main__":
    main()
