"""Few labelled images: ours against its peers, in the same minutes, on the same images, in the same loop.

    python benchmarks/low_data.py ../shared/data                       # --tier 1, the table that always stands
    python benchmarks/low_data.py ../shared/data --tune                # the peers' settings, on training images alone
    python benchmarks/low_data.py ../shared/data --tier 2 --minutes-total 600
    python benchmarks/low_data.py ../shared/data --develop --words "optimizer=muon augment.mixup=0.2" \\
        --models astroformer --sets "CIFAR-10 (JPEG), 50 a class"      # to choose by
    python benchmarks/low_data.py ../shared/data --study layouts       # the paper's questions: common/studies.py
    python benchmarks/low_data.py ../shared/data --plan benchmarks/low_data_gpu.txt --together 16 --minutes-total 10
    python benchmarks/low_data.py --table --plots                      # from the rows that are there
    python benchmarks/low_data.py --against "network.layout=CCCT"      # each pair of our arms: differences, intervals

A run is a process with one thread (or `--threads`) that trains one network on n images a class for so many minutes (or
epochs, or training FLOPs), to the end of its schedule, and is then asked once about test images, which chose nothing.
`--together` runs go on side by side: as many as the cores have threads for, or as are asked for on a GPU. Minutes are
wall-clock, so the machine should do nothing else; a row's `cpu_share` says how much of a core it had. One row a run is
appended to `results/low_data.jsonl`; rows that are there are not run again, so the same command resumes.

- **Minutes** are worth what the processor is, so a row of minutes counts for its processor alone (and for its share of
  a GPU): on another one the run is due again, and each has its own table. Epochs and FLOPs are the same everywhere.
- **A plan** is a file of such words, a line for each question, most telling first; its runs are begun in its order, by
  one command and within one `--minutes-total`.
- **On a GPU** runs share it: small networks leave most of it idle. NVIDIA's MPS lets their kernels run at the same time
  (`nvidia-cuda-mps-control -d` before, `echo quit | nvidia-cuda-mps-control` after); without it they take turns.
- **Split** s of n images a class is [s n, (s + 1) n) of each class in the order of the source; seed s takes split s,
  and begins again where the source ends. A difference between two networks is that of the same seed, so of the same
  images.
- **Test images** are `galaxy-zoo2/valid`; of the others, training images that no split contains.
- **Settings** of the peers are in `common/peers.py`. `--tune` trains with each on 60 % of the training images of
  split 0 (80 % from 100 a class on) and measures on the others; its rows are marked `tune`. Later runs take the
  setting with the best balanced accuracy in them (the nearest tuned number of images of the same data set), else the
  first of them.
- **Development**: `--develop` measures on further training images, which are in no split and are no test images, so
  that a recipe can be chosen by them; rows marked `develop`, tables apart.
- **Ensembles** (`--members K`, of ours): K networks with seeds of their own on the same images, each for a K-th of the
  length, answer with the mean of their probabilities; costs and sizes are those of all. Tables keep them apart.
- **Distilled** (`--distil`, of ours): one network more learns what the member or members answer, as
  `astroformer.distil` does, and is the one that is asked; each has an equal part of the length, costs of training are
  those of all.
- **Views**: scores with the logits averaged over the eight quarter turns and flips (sky), or over the image and its
  mirror image (photographs), stand beside those of the images alone. (What a recipe says of them, `network.symmetry`,
  is not what is trained, and has no effect here.)
- **ECE**: expected calibration error, 15 bins of equal width of the confidence (Guo et al., arXiv 1706.04599, eq. 3).
- **S-Cons**: two random crops get the same class, see `astroformer.evaluation.symmetry`, on 100 of the test images.
- **Training FLOPs**: 3 times those of the forward pass, over all images seen, each at the size it was seen at.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from astroformer.system import pick_device
from astroformer.training.recipe import make_recipe
from common.grid import CELLS, CELLS_1, CELLS_2, SETS, TIER_1, TIER_2, Job, chosen_setting, grid, job_of, place_of
from common.low_data_run import SYMMETRY_IMAGES, recipe_words, run
from common.machine import processor
from common.peers import OURS, PEERS, settings_of
from common.pictures import plots
from common.rows import RESULTS, Row, append_row, read_rows
from common.studies import STUDIES, TRAINING_FLOPS
from common.tables import against_table, table, tune_table

ROWS = RESULTS / "low_data.jsonl"
PLOTS = Path(__file__).parents[1] / "docs" / "images"
SCORES = ("accuracy", "balanced_accuracy", "nll", "ece")


# Many runs -----------------------------------------------------------------------------------------------------------


def run_apart(job: Job, data: Path, device: str, symmetry_images: int, threads: int = 1) -> Row:
    """`run` in a fresh process with so many threads.

    Raises:
        RuntimeError: it ended without a row; with the end of what it said.
    """
    command = [sys.executable, __file__, str(data), "--device", device, "--symmetry-images", str(symmetry_images)]
    command += ["--one", json.dumps(asdict(job))]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        raise RuntimeError(f"{job}: status {done.returncode}: {done.stderr.strip()[-1500:]}")
    return json.loads(lines[-1])


class Workers:
    """Processes that stay, each with its share of a GPU, for runs side by side: to start one takes as long as a run."""

    def __init__(self, count: int) -> None:
        os.environ["OMP_NUM_THREADS"] = "1"
        self._pool = ProcessPoolExecutor(count, mp_context=get_context("spawn"))

    def __call__(self, job: Job, data: Path, device: str, symmetry_images: int) -> Row:
        """`run` in one of them.

        Raises:
            RuntimeError: it failed.
        """
        try:
            return self._pool.submit(_run_cleanly, job, data, device, symmetry_images).result()
        except Exception as error:
            raise RuntimeError(f"{job}: {type(error).__name__}: {error}") from error


def _run_cleanly(*arguments: Any) -> Row:
    try:
        return run(*arguments)
    finally:
        gc.collect()  # recorded steps hold memory of the GPU, and loops hold themselves
        torch.cuda.empty_cache()


def run_all(
    jobs: list[Job], path: Path, one: Any, *, together: int, processor: str, minutes_total: float | None = None
) -> list[str]:
    """Runs what has no row yet, `together` side by side, and appends the rows as they come.

    Args:
        jobs: in the order they are begun in.
        path: of the rows.
        one: from a job to its row.
        processor: that the runs compute with, or their share of one, as their rows will say.
        minutes_total: after so many, no run is begun.

    Returns:
        What went wrong, a message a run that failed; the others went on.
    """
    done = {job_of(row) for row in read_rows(path) if place_of(row) in (None, processor)}
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
            append_row(path, {**row, "processor": processor})
            counts["done"] += 1
            score = f"balanced accuracy {row['balanced_accuracy']:.3f}"
            print(f"{counts['done']}/{len(due)} {job}: {score}", file=sys.stderr, flush=True)

    with ThreadPoolExecutor(together) as pool:
        list(pool.map(attempt, due))
    if counts["late"]:
        print(f"{counts['late']} runs were not begun after {minutes_total:g} minutes; the same command goes on with "
              "them", file=sys.stderr)  # fmt: skip
    return failures


# The command ---------------------------------------------------------------------------------------------------------


def jobs_of(arguments: argparse.Namespace, rows: list[Row]) -> list[Job]:
    """What is asked for, in the order it is begun in."""
    cells = [CELLS[name] for name in arguments.sets or map(str, CELLS_1 if arguments.tier == 1 else CELLS_2)]
    study = STUDIES[arguments.study] if arguments.study else None
    models = arguments.models or (study.models if study else TIER_1 if arguments.tier == 1 else TIER_2)
    seeds = arguments.seeds or range(1 if arguments.tune else 3)
    length = {"minutes": arguments.minutes, "epochs": arguments.epochs, "flops": arguments.flops}
    if not any(length.values()):
        length |= {"flops": TRAINING_FLOPS} if study else {"minutes": 5.0}
    made = []
    for cell, model, seed in grid(arguments.tier, cells, list(models), seeds):
        names = [setting.name for setting in settings_of(model)]
        if arguments.tune and len(names) < 2:
            continue  # nothing to choose
        kind, split = ("tune", 0) if arguments.tune else ("run", cell.split(seed))
        if kind == "run" and not arguments.develop and cell.images > SETS[cell.data].room:
            continue  # test images would be among them
        if arguments.develop:
            kind, limit = "develop", SETS[cell.data].develop
            if limit is None or cell.images > limit[0]:
                continue  # no images are left to choose by
            split = cell.split(seed, limit[0])
        if not arguments.tune:
            names = [chosen_setting(rows, cell, model, names)]
        arms = list(study.arms.values()) if study and model == OURS else arguments.words or [""]
        for words in arms:
            for name in names:
                words = " ".join(words.split())
                members = arguments.members if model == OURS else 1
                made.append(
                    Job(
                        *(kind, cell.data, cell.per_class, split, model, name, words, seed),
                        **length,
                        members=members,
                        distilled=arguments.distil and model == OURS,
                    )
                )
    return made


def planned(path: Path, rows: list[Row]) -> list[Job]:
    """The runs that a plan asks for, in their order; a line is words as of the command, # begins a remark."""
    jobs: list[Job] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        words = shlex.split(line, comments=True)
        if words:
            jobs += jobs_of(asking(prog=f"{path}, line {number}", add_help=False).parse_args(words), rows)
    return list(dict.fromkeys(jobs))


def check(jobs: list[Job], data: Path, device: str) -> None:
    """Says what can't be before anything is run."""
    try:
        version("astroformer")
    except PackageNotFoundError:
        sys.exit("astroformer is on the path but not installed, and models say its version: pip install --no-deps .")
    for words in dict.fromkeys((job.model, job.setting, job.words) for job in jobs):
        job = next(job for job in jobs if (job.model, job.setting, job.words) == words)
        if job.members < 1 or (job.epochs or job.networks) < job.networks:
            sys.exit(
                f"--members {job.members} can't be: it is at least 1, and no network has less than one of --epochs."
            )
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


def seeds_of(text: str) -> range:
    """The seeds that `--seeds` names: `3` for 0 to 2, `4:9` for 4 to 8."""
    first, colon, end = text.partition(":")
    return range(int(first), int(end)) if colon else range(int(first))


def asking(**settings: Any) -> argparse.ArgumentParser:
    """The words that say which runs are asked for: those of a line of a plan."""
    parser = argparse.ArgumentParser(**settings)
    parser.add_argument("--tier", type=int, choices=(1, 2), default=1, help="1: the standing table; 2: the whole grid")
    parser.add_argument("--tune", action="store_true", help="try the peers' settings on part of the training images")
    parser.add_argument("--develop", action="store_true", help="measure on images that recipes may be chosen by")
    parser.add_argument("--sets", nargs="+", choices=CELLS, metavar="SET", help=f"of: {'; '.join(CELLS)}")
    parser.add_argument("--models", nargs="+", choices=(OURS, *PEERS))
    parser.add_argument("--words", action="append", help='changes to the recipe, "name=value …"; again for another arm')
    parser.add_argument("--study", choices=STUDIES, help="; ".join(f"{k}: {v.question}" for k, v in STUDIES.items()))
    parser.add_argument("--members", type=int, default=1, help="networks of ours a run, which share its length")
    parser.add_argument("--distil", action="store_true", help="ours: one more learns what they answer, and is asked")
    parser.add_argument("--seeds", type=seeds_of, help="so many from 0 on, or 4:9 for 4 to 8; default 3, in tuning 1")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, help="a run, wall-clock of one thread; default 5")
    length.add_argument("--epochs", type=int, help="a run, in place of minutes")
    length.add_argument("--flops", type=float, help="training FLOPs a run, in place of minutes")
    return parser


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], parents=[asking(add_help=False)])
    parser.add_argument("data", type=Path, nargs="?", help="folder with galaxy-zoo2, cifar10, mirabest, tiny-imagenet")
    parser.add_argument("--plan", type=Path, help="file whose lines ask for runs in words such as these; all as one")
    parser.add_argument("--together", type=int, help="runs side by side; default by the cores")
    parser.add_argument("--threads", type=int, default=1, help="of a run on a CPU")
    parser.add_argument("--minutes-total", type=float, help="begin no run after so many minutes")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--symmetry-images", type=int, default=SYMMETRY_IMAGES, help="for S-Cons; 0: not measured")
    parser.add_argument("--rows", type=Path, default=ROWS, help="file that rows are read from and appended to")
    parser.add_argument("--table", action="store_true", help="print the tables of the rows that are there")
    parser.add_argument(
        "--against", metavar="WORDS", help="print how our other arms differ from the one of these words"
    )
    parser.add_argument("--plots", type=Path, nargs="?", const=PLOTS, help="draw them into this folder")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a run in its own process
    return parser


def main() -> None:
    arguments = parser().parse_args()
    if arguments.one:
        row = run(Job(**json.loads(arguments.one)), arguments.data, arguments.device, arguments.symmetry_images)
        print(json.dumps(row))
        return
    if arguments.plan is not None:
        nothing = vars(asking().parse_args([]))
        if beside := [name for name, value in nothing.items() if getattr(arguments, name) != value]:
            sys.exit(f"a plan says what is asked for; leave --{', --'.join(beside)} out, or write it into the plan.")
        if arguments.data is None or not arguments.plan.is_file():
            sys.exit("--plan takes a file that is there, and the folder of the data before it.")
    if arguments.data is not None and (arguments.table or arguments.against is not None):
        sys.exit("--table and --against print rows that are there; leave the data out, with which runs are begun.")
    failures: list[str] = []
    if arguments.data is not None:
        rows = read_rows(arguments.rows)
        jobs = planned(arguments.plan, rows) if arguments.plan else jobs_of(arguments, rows)
        check(jobs, arguments.data, arguments.device)

        place, threads = processor(arguments.device), arguments.threads
        together = arguments.together or max(1, (os.cpu_count() or 1) // threads)
        start: Callable[[Job, Path, str, int], Row]
        if pick_device(arguments.device) == "cuda":
            start = Workers(together)
            place += f", shared by {together} runs" if together > 1 else ""
        else:
            start = partial(run_apart, threads=threads)
            place += f", {threads} threads" if threads > 1 else ""

        def one(job: Job) -> Row:
            return start(job, arguments.data, arguments.device, arguments.symmetry_images)

        failures = run_all(
            jobs,
            arguments.rows,
            one,
            together=together,
            processor=place,
            minutes_total=arguments.minutes_total,
        )
    rows = read_rows(arguments.rows)
    if arguments.plots is not None:
        for path in plots(rows, arguments.plots):
            print(path, file=sys.stderr)
    if arguments.against is not None:
        print(against_table(rows, " ".join(arguments.against.split())))
    elif arguments.table or arguments.plots is None:
        print("\n\n".join(part for part in (table(rows), table(rows, "develop"), tune_table(rows)) if part))
    if failures:
        sys.exit(f"{len(failures)} runs failed; the first: {failures[0]}")


if __name__ == "__main__":
    main()
