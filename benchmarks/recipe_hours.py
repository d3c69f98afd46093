"""What our recipes for CIFAR-10 and Tiny ImageNet give in an hour of two cores.

    python benchmarks/recipe_hours.py ../shared/data
    python benchmarks/recipe_hours.py ../shared/data --minutes 60
    python benchmarks/recipe_hours.py --table

Each is `astroformer train` with a recipe file and the words that its head gives for a machine without a GPU, in a fresh
process; the figures are those of the validation images that the run held out, which choose nothing: a model is the
average of the last weights. Without `--minutes` a run has as many epochs as two idle cores of the processor below make
in an hour, so that other work on the machine delays it and changes nothing else; `core_hours` is the processor's time
that it took. One row a run, in `results/recipe_hours.jsonl`.
"""

from __future__ import annotations

import json
import resource
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from astroformer.system import usable_cores
from common.command import checked, data_or_table
from common.machine import code_version, processor
from common.rows import RESULTS, Row, append_row, read_rows

OUT = RESULTS / "recipe_hours.jsonl"
RECIPES = Path(__file__).parents[1] / "recipes"


@dataclass(frozen=True)
class Hour:
    """One recipe, the images it is measured on, and its words for two cores."""

    source: str
    recipe: str
    words: str
    epochs: int  # which two idle cores (AMD EPYC, AVX-512 with bfloat16) make in an hour


HOURS = {
    "CIFAR-10 (JPEG)": Hour(
        "cifar10/train.npz", "cifar10.yaml", "--model astroformer_atto --network.strides 2 2 2 1 1", 115
    ),
    "Tiny ImageNet, 45 images a class": Hour(
        "tiny-imagenet/train-50-per-class.npz",
        "tiny-imagenet.yaml",
        "--model astroformer_atto --valid-fraction 0.1",
        340,
    ),
}


def measure(name: str, data: Path, seed: int, share: float, minutes: float | None) -> Row:
    """Trains once.

    Raises:
        RuntimeError: the command failed, with what it said.
    """
    hour = HOURS[name]
    length = f"--minutes {minutes:g}" if minutes else f"--epochs {round(share * hour.epochs)}"
    words = f"{hour.words} {length} --seed {seed}"
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        command = ["astroformer", "train", str(data / hour.source), "--recipe", str(RECIPES / hour.recipe)]
        began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([*command, *words.split(), "--out", str(run)], capture_output=True, text=True)
        took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr[-1500:]}")
        training = json.loads((run / "model" / "config.json").read_text(encoding="utf-8"))["training"]
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    row: Row = {"cell": name, "words": words, "seed": seed, "minutes": round(took / 60, 1)}
    row |= {"core_hours": round(seconds / 3600, 2), "training": training}
    return {**row, "processor": processor("cpu"), "cores": usable_cores(), "code": code_version()}


def table(rows: list[Row]) -> str:
    """One line a run."""
    lines = ["| set | words | top-1, % (95 % interval) | images | core-hours | minutes |", "|---|---|---|---|---|---|"]
    for row in rows:
        scores = row["training"]["metrics"]
        value, low, high = (100 * scores["top1"][end] for end in ("value", "low", "high"))
        lines.append(
            f"| {row['cell']} | `{row['words']}` | {value:.1f} ({low:.1f} to {high:.1f}) | {scores['n']:,} "
            f"| {row['core_hours']:.1f} | {row['minutes']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = data_or_table(__doc__, "folder with cifar10 and tiny-imagenet")
    parser.add_argument("--minutes", type=float, help="length by the clock, for a machine without other work")
    parser.add_argument("--share", type=float, default=1.0, help="of an hour's epochs")
    parser.add_argument("--only", choices=list(HOURS))
    parser.add_argument("--seeds", type=int, default=1)
    arguments = checked(parser)
    for seed in [] if arguments.table else range(arguments.seeds):
        for name in [arguments.only] if arguments.only else HOURS:
            if not any(row["cell"] == name and row["seed"] == seed for row in read_rows(OUT)):
                append_row(OUT, measure(name, arguments.data, seed, arguments.share, arguments.minutes))
    print(table(read_rows(OUT)))


if __name__ == "__main__":
    main()
