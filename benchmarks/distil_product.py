"""What two commands give within so many minutes: an ensemble, and one network that learns what it answers.

    python benchmarks/distil_product.py ../shared/data
    python benchmarks/distil_product.py --table

`astroformer train SOURCE --ensemble 2`, then `astroformer train --distil RUN`, each in a fresh process with half of
the minutes, on the whole machine: the members train side by side, their pupil with all cores. `minutes_taken` is the
clock of each process, with all that it does beside training. Settings were chosen on the `develop` images of
`common/grid.py`, which are those validated on here; the test images chose nothing. One row a split, in
`results/distil_product.jsonl`.
"""

from __future__ import annotations

import csv
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

import astroformer
from astroformer.images import open_source
from astroformer.system import usable_cores
from common.command import checked, data_or_table
from common.grid import SETS, Cell, Job, mean_of
from common.low_data_run import scores_of, source_of
from common.machine import code_version, processor
from common.peers import OURS
from common.rows import RESULTS, Row, append_row, read_rows

OUT = RESULTS / "distil_product.jsonl"
CELL = Cell("CIFAR-10 (JPEG)", 50)
WORDS = "--network.strides 1 2 2 2 1"
ENSEMBLE, PUPIL = "the ensemble of two", "one network of its answers"
STARTS = 0.2  # minutes that a command does not train for: it starts, asks the validation images and saves


def command(*words: str) -> float:
    """Seconds that `astroformer` took with these words, in a fresh process.

    Raises:
        RuntimeError: it failed, with what it said.
    """
    began = time.perf_counter()
    done = subprocess.run(["astroformer", *words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"astroformer {' '.join(words)}: {done.stderr[-1500:]}")
    return time.perf_counter() - began


def epochs_of(run: Path) -> float:
    with (run / "history.csv").open(encoding="utf-8", newline="") as stream:
        return float(list(csv.DictReader(stream))[-1]["epoch"])


def measure(data: Path, split: int, minutes: float) -> Row:
    jobs = [Job(kind, CELL.data, CELL.per_class, split, OURS, "", WORDS, split, minutes) for kind in ("develop", "run")]
    train, valid = source_of(jobs[0], data)
    _, test = source_of(jobs[1], data)
    length = ["--minutes", str(minutes / 2 - STARTS)]
    with tempfile.TemporaryDirectory() as folder:
        two, one = Path(folder, "two"), Path(folder, "one")
        recipe = ["--recipe", SETS[CELL.data].recipe, *WORDS.split(), "--evaluations", "1", "--seed", str(split)]
        seconds = [
            command("train", train, "--valid", valid, *recipe, *length, "--ensemble", "2", "--out", str(two)),
            command("train", "--distil", str(two), *length, "--out", str(one)),
        ]
        epochs = [*(epochs_of(run) for run in sorted(two.glob("seed-*"))), epochs_of(one)]
        scores = {
            name: {
                kind: scores_of(images.labels, classifier.predict(images).probabilities_NK) | {"images": len(images)}
                for kind, images in (
                    ("develop", open_source(valid, classes=classifier.classes)),
                    ("run", open_source(test, classes=classifier.classes)),
                )
            }
            for name, classifier in (
                (ENSEMBLE, astroformer.load(two / "model")),
                (PUPIL, astroformer.load(one / "model")),
            )
        }
    row: Row = {"cell": str(CELL), "split": split, "minutes": minutes, "words": WORDS}
    row |= {"minutes_taken": [round(took / 60, 2) for took in seconds], "epochs": epochs, **scores}
    return {**row, "processor": processor("auto"), "cores": usable_cores(), "code": code_version()}


def table(rows: list[Row]) -> str:
    """Mean ± standard deviation over the splits."""
    lines = ["| network | images | accuracy, % | NLL | ECE, % | n |", "|---|---|---|---|---|---|"]
    for name in (ENSEMBLE, PUPIL):
        for kind, images in (("develop", "to choose by"), ("run", "test")):
            of = [row[name][kind] for row in rows]
            accuracy = 100 * np.array([scores["accuracy"] for scores in of])
            spread = f" ± {accuracy.std(ddof=1):.1f}" if len(of) > 1 else ""
            lines.append(
                f"| {name} | {of[0]['images']} {images} | {accuracy.mean():.1f}{spread} | {mean_of(of, 'nll'):.3f} "
                f"| {100 * mean_of(of, 'ece'):.1f} | {len(of)} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = data_or_table(__doc__, "folder with cifar10")
    parser.add_argument("--minutes", type=float, default=15.0, help="of the two commands together")
    arguments = checked(parser)
    place = processor("auto")
    done = {(row["split"], row["minutes"], row["processor"]) for row in read_rows(OUT)}
    for split in [] if arguments.table else range(3):
        if (split, arguments.minutes, place) not in done:
            append_row(OUT, measure(arguments.data, split, arguments.minutes))
    rows = [row for row in read_rows(OUT) if row["minutes"] == arguments.minutes]
    for place in dict.fromkeys(row["processor"] for row in rows):  # whose minutes are worth what it is
        print(f"{arguments.minutes:g} minutes on {place}:\n")
        print(table([row for row in rows if row["processor"] == place]))


if __name__ == "__main__":
    main()
