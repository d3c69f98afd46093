"""Does the fast training step cost accuracy? The same runs in plain float32 and in fused bfloat16, seed by seed.

    python benchmarks/precision.py ../shared/data/galaxy-zoo2

Both train for equal epochs (not equal minutes: speed is not the question here) by the command line, with everything
else at its default; a seed draws the same weights and the same augmentation in both. One thread a run, as many runs
side by side as there are cores. One row a run is appended to `results/precision.jsonl`; rows that are there are not
run again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import numpy as np

from astroformer.model_folder import ModelFolder
from common.first_defaults import FIRST_WORDS
from common.rows import RESULTS
from common.statistics import T_95

OUT = RESULTS / "precision.jsonl"
ARMS = {
    "fused bfloat16": ["--speed", "fused", "--precision", "bf16"],
    "plain float32": ["--speed", "plain", "--precision", "no"],
}
SCORES = ("balanced_accuracy", "top1", "nll")


def rows() -> list[dict[str, object]]:
    text = OUT.read_text(encoding="utf-8") if OUT.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def run(arm: str, seed: int, data: Path, epochs: int) -> dict[str, object]:
    """Trains in a fresh process, and reads the scores of the model folder."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        program = "import sys; from astroformer.cli.main import main; sys.exit(main())"
        command = [sys.executable, "-c", program, "train", str(data / "train"), "--valid", str(data / "valid")]
        command += ["--epochs", str(epochs), "--seed", str(seed), "--quiet", "--out", f"{folder}/run"]
        command += [*FIRST_WORDS, *ARMS[arm]]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
        config = ModelFolder(Path(folder, "run", "model")).config()
    assert config.record.metrics is not None
    scores = {name: round(config.record.metrics.intervals[name].value, 5) for name in SCORES}
    seconds = round(time.perf_counter() - began)
    return {"arm": arm, "seed": seed, "epochs": epochs, **scores, "seconds": seconds, "versions": dict(config.versions)}


def table(epochs: int) -> str:
    """Mean ± standard deviation of each arm, and of the differences within a seed with their 95 % interval."""
    some = {(row["arm"], row["seed"]): row for row in rows() if row["epochs"] == epochs}
    seeds = sorted({seed for _, seed in some if all((arm, seed) in some for arm in ARMS)})
    lines = ["| | balanced accuracy, % | top-1, % | NLL | n |", "|---|---|---|---|---|"]
    values = {
        arm: np.array([[some[arm, seed][name] for name in SCORES] for seed in seeds]) * (100, 100, 1) for arm in ARMS
    }
    for arm, value in values.items():
        cells = [
            f"{m:.{d}f} ± {s:.{d}f}" for m, s, d in zip(value.mean(0), value.std(0, ddof=1), (1, 1, 3), strict=True)
        ]
        lines.append(f"| {arm} | {' | '.join(cells)} | {len(seeds)} |")
    first, second = values.values()
    difference = first - second
    reach = T_95[len(seeds)] * difference.std(0, ddof=1) / np.sqrt(len(seeds))
    cells = [
        f"{m:+.{d}f} ({m - r:+.{d}f} to {m + r:+.{d}f})"
        for m, r, d in zip(difference.mean(0), reach, (1, 1, 3), strict=True)
    ]
    lines.append(f"| difference (95 % interval) | {' | '.join(cells)} | {len(seeds)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", help="folder with train/ and valid/ of class folders")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--together", type=int, default=os.cpu_count(), help="runs side by side, one thread each")
    arguments = parser.parse_args()
    done = {(row["arm"], row["seed"], row["epochs"]) for row in rows()}
    jobs = [(arm, seed) for seed in range(arguments.seeds) for arm in ARMS if (arm, seed, arguments.epochs) not in done]
    lock = Lock()

    def job(arm: str, seed: int) -> None:
        row = run(arm, seed, arguments.data, arguments.epochs)
        with lock, OUT.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")

    if arguments.data is not None:
        with ThreadPoolExecutor(arguments.together) as pool:
            list(pool.map(lambda pair: job(*pair), jobs))
    print(table(arguments.epochs))


if __name__ == "__main__":
    main()
