"""Does exact equivariance cost accuracy? Five networks trained alike on four data sets, seed by seed.

    python benchmarks/equivariance.py ../shared/data
    python benchmarks/equivariance.py --table

Every run is `astroformer train` with everything at its default but the length, to the end of its schedule, and then
`astroformer symmetry` on images that it was not trained on and that chose nothing. All arms train for equal epochs, so
that other programs on the machine do them no harm; what an epoch costs more is measured apart
(`benchmarks/equivariance_cost.py`). `frame` asks the weights of `plain`, to which it would train, and needs its runs.
One thread a run, as many runs side by side as there are cores. One row a run is appended to
`results/equivariance.jsonl`; rows that are there are not run again, and model folders stay under `--out`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

import astroformer
from astroformer.images import open_source
from astroformer.model_folder import ModelFolder
from common.equivariance_studies import STUDIES
from common.first_defaults import FIRST_WORDS
from common.rows import RESULTS
from common.statistics import T_95

OUT = RESULTS / "equivariance.jsonl"
ARMS = {
    "plain": [],
    "frame": ["--network.equivariance", "frame"],
    "anchor": ["--network.equivariance", "anchor"],
    "input": ["--network.equivariance", "input"],
    "centre": ["--network.equivariance", "centre"],
}


SHOWN = {
    "accuracy": "accuracy",
    "shifted": "under circular shifts",
    "worst": "worst of 16",
    "c_cons": "C-Cons",
    "s_cons": "S-Cons",
}


def rows() -> list[dict[str, Any]]:
    text = OUT.read_text(encoding="utf-8") if OUT.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def run(name: str, arm: str, seed: int, data: Path, out: Path) -> dict[str, Any]:
    """Trains and measures in fresh processes."""
    study = STUDIES[name]
    folder = out / name.replace(" ", "-").replace(",", "") / f"{arm}-{seed}"
    first = study.per_class * seed
    train = str(data / study.train.format(a=first, b=first + study.per_class))
    valid = str(data / study.valid)
    began = time.perf_counter()
    if arm == "frame" and not (folder / "model").exists():
        # It trains as plain does, to the bit (a test shows it), and differs in what is asked.
        plain = astroformer.load(folder.with_name(f"plain-{seed}"))
        plain.framed(open_source(train, classes=plain.classes)).save(folder / "model")
    if (folder / "run.json").exists() and not (folder / "model").exists():
        _astroformer("train", "--resume", str(folder))
    elif not (folder / "model").exists():
        words = ["--epochs", str(study.epochs), "--seed", str(seed), *FIRST_WORDS, *study.words, *ARMS[arm]]
        _astroformer("train", train, "--valid", valid, "--out", str(folder), *words)
    seconds = round(time.perf_counter() - began)
    if not (folder / "symmetry" / "symmetry.png").exists():  # which is written last
        _astroformer("symmetry", str(folder), "--data", valid, "--images", "100000", "--rotations", "1",
                     "--out", str(folder / "symmetry"))  # fmt: skip
    report = json.loads(next((folder / "symmetry").glob("*.json")).read_text(encoding="utf-8"))
    config = ModelFolder(folder / "model").config()
    scores = config.record.metrics
    found = {
        "accuracy": report["accuracy"]["plain"]["value"],
        "shifted": report["accuracy"]["shifted"]["value"],
        "worst": report["accuracy"]["worst"]["value"],
        "c_cons": report["c_cons"]["value"],
        "s_cons": report["s_cons"]["value"],
        "logit_change": report["changes"]["circular shifts"]["relative"],
    }
    for score in ("balanced_accuracy", "nll") if scores else ():  # of a framed model they are not known
        found[score] = scores.intervals[score].value
    row = {"study": name, "arm": arm, "seed": seed, "epochs": study.epochs, "images": report["n"]}
    return {**row, **{k: round(v, 9) for k, v in found.items()}, "seconds": seconds, "versions": dict(config.versions)}


def _astroformer(*words: str) -> None:
    program = "import sys; from astroformer.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", program, *words, "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr[-2000:]}")


def table() -> str:
    """Mean ± standard deviation in percent; in brackets the difference from plain, from three seeds on ± 95 %."""
    lines = [f"| data | network | n | {' | '.join(SHOWN.values())} |", "|---|---|---|" + "---|" * len(SHOWN)]
    for study in STUDIES:
        by = {(row["arm"], row["seed"]): row for row in rows() if row["study"] == study}
        for arm in dict.fromkeys([*ARMS, *(arm for arm, _ in by)]):
            seeds = sorted(seed for other, seed in by if other == arm)
            if not seeds:
                continue
            paired = [seed for seed in seeds if ("plain", seed) in by]
            cells = []
            for score in SHOWN:
                value = 100 * np.array([by[arm, seed][score] for seed in seeds])
                cell = f"{value.mean():.1f}" + (f" ± {value.std(ddof=1):.1f}" if len(seeds) > 1 else "")
                if arm != "plain" and paired:
                    off = 100 * np.array([by[arm, seed][score] - by["plain", seed][score] for seed in paired])
                    cell += f" ({off.mean():+.1f}"
                    if len(paired) > 2:  # two differences bound nothing
                        cell += f" ± {T_95[len(paired)] * off.std(ddof=1) / np.sqrt(len(paired)):.1f}"
                    cell += ")"
                cells.append(cell)
            lines.append(f"| {study} | {arm} | {len(seeds)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", help="folder with galaxy-zoo2, cifar10 and mirabest")
    parser.add_argument("--out", type=Path, default=Path("runs/equivariance"), help="where run folders are kept")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--studies", nargs="+", default=list(STUDIES), choices=STUDIES)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--together", type=int, default=os.cpu_count(), help="runs side by side, one thread each")
    parser.add_argument("--table", action="store_true", help="only print the table of the rows that are there")
    arguments = parser.parse_args()
    done = {(row["study"], row["arm"], row["seed"]) for row in rows()}
    jobs = [
        (study, arm, seed) for seed in range(arguments.seeds) for study in arguments.studies for arm in arguments.arms
    ]
    lock = Lock()

    def job(study: str, arm: str, seed: int) -> None:
        row = run(study, arm, seed, arguments.data, arguments.out)
        with lock, OUT.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")

    if arguments.data is not None and not arguments.table:
        due = [what for what in jobs if what not in done]
        for framed in (False, True):  # frame after the runs that it needs
            with ThreadPoolExecutor(arguments.together) as pool:
                list(pool.map(lambda what: job(*what), [what for what in due if (what[1] == "frame") == framed]))
    print(table())


if __name__ == "__main__":
    main()
