"""Did a refactor change anything? The same runs by another commit and by this checkout, on this machine, in one call.

    python benchmarks/same_results.py e66d2f1                     # weights and predictions, to the bit
    python benchmarks/same_results.py e66d2f1 --only sky d4       # some of the cases
    python benchmarks/same_results.py e66d2f1 --data ../shared/data  # and cases on real images
    python benchmarks/same_results.py e66d2f1 --speed             # first step, step, epoch and prediction, in turn

The other commit is checked out as a git worktree in a temporary folder. Every run is a fresh process of the real
command line with a fixed number of threads, a length in epochs and a given precision, so that both must decide alike.
Old and new run side by side, one thread each; `--speed` runs them one after the other, in turn.

Predictions are those of the networks themselves, in the columns that both commits write: how they are calibrated, and
what else is told of an image, may have changed.

Beside equal results it checks that this checkout reads what the other one wrote: its model folders, its run folders,
and the checkpoint of a run that was killed.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent
SOURCE = "mock-galaxies:160x64"
ASKED = "mock-galaxies:40x64"
COMMON = ["--device", "cpu", "--quiet", "--evaluations", "2"]
RENAMED: dict[str, str] = {}
"""Tensors of a model folder whose names differ: from the other commit's to ours."""
CLOCK_COLUMNS = {"minutes", "images_per_second"}
LEAST_RATIO = 0.97


@dataclass(frozen=True)
class Case:
    """A run: the words of `astroformer train`, and how it comes to its end."""

    words: list[str]
    threads: int = 1
    source: str = SOURCE
    killed: bool = False  # after some steps, and resumed
    learns_from: str = ""  # another case, whose model it starts from (--init-from) or is taught by (--distil)
    asked: str = ASKED  # what its model classifies


_FLOAT32 = ["--precision", "no"]
_SHORT = ["--epochs", "3", *_FLOAT32]
CASES = {
    "sky": Case(_SHORT),
    "sky-2-threads": Case(_SHORT, threads=2),
    "sky-bf16": Case(["--epochs", "3", "--precision", "bf16"]),
    "sky-policy": Case([*_SHORT, "--augment.policy", "trivialaugment"]),
    "photo": Case([*_SHORT, "--recipe", "photo"]),
    "photo-mixed": Case([*_SHORT, "--recipe", "photo", "--augment.mixup", "0.2", "--augment.cutmix", "1"]),
    "many-images": Case(["--epochs", "1", *_FLOAT32], source="mock-galaxies:1500x48"),
    "ensemble": Case([*_SHORT, "--ensemble", "2"], threads=2),
    "seeds": Case([*_SHORT, "--seeds", "2"], threads=2),
    "folds": Case([*_SHORT, "--folds", "3", "--fold", "1"]),
    "distil": Case(["--epochs", "2"], threads=2, learns_from="ensemble"),
    "killed": Case([*_SHORT, "--checkpoint-seconds", "0"], killed=True),
    "se": Case([*_SHORT, "--model", "astroformer_atto"]),
    "init-from": Case(_SHORT, learns_from="se"),
    "se-bf16": Case(["--epochs", "2", "--precision", "bf16", "--model", "astroformer_atto"]),
    "d4": Case([*_SHORT, "--network.group", "d4"]),
    "anchor": Case([*_SHORT, "--network.equivariance", "anchor"]),
    "frame": Case([*_SHORT, "--network.equivariance", "frame"]),
    "centre": Case([*_SHORT, "--network.equivariance", "centre"]),
    "views": Case([*_SHORT, "--network.group", "none", "--network.symmetry", "shift+d4"]),
    "frame-views": Case([*_SHORT, "--network.equivariance", "frame", "--network.symmetry", "shift+d4",
                         "--network.group", "none"]),
    "plain": Case([*_SHORT, "--speed", "plain"]),
    "fused": Case([*_SHORT, "--speed", "fused", "--model", "astroformer_atto"]),
    "parts": Case([*_SHORT, "--accumulate", "2", "--clip", "0.5"]),
    "checkpointing": Case([*_SHORT, "--checkpointing", "--speed", "plain"]),
    "sgd": Case([*_SHORT, "--optimizer", "sgd", "--ema", "0"]),
    "muon": Case([*_SHORT, "--optimizer", "muon"]),
    "weights": Case([*_SHORT, "--class-weights", "auto", "--channels", "1", "--storage", "float16"]),
    "balanced": Case([*_SHORT, "--balanced-sampling", "--image-size", "48", "--fit", "pad"]),
}  # fmt: skip


def real_cases(data: Path) -> dict[str, Case]:
    """Runs on the real images in a folder."""
    galaxies, radio = data / "galaxy-zoo2", data / "mirabest" / "train.npz"
    words = ["--epochs", "2", *_FLOAT32]
    return {
        "galaxy-zoo2": Case(words, 1, f"{galaxies / 'train'}@per-class=0:50", asked=str(galaxies / "valid")),
        "mirabest": Case(words, 1, f"{radio}@per-class=0:100", asked=str(radio)),
    }


class Tree:
    """A checkout, and what is done with it."""

    def __init__(self, name: str, root: Path, work: Path) -> None:
        self.name, self.root, self.work = name, root, work / name
        self.work.mkdir(parents=True)

    def environment(self, threads: int) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(self.root / "src"),
            "ASTROFORMER_CACHE": str(self.work / "cache"),
            "OMP_NUM_THREADS": str(threads),
            "HF_HUB_OFFLINE": "1",
        }

    def run(self, words: Sequence[str], threads: int = 1) -> None:
        """`astroformer WORDS`. Raises `RuntimeError` with what it said if it fails."""
        ran = subprocess.run(
            [sys.executable, "-m", "astroformer.cli", *words],
            env=self.environment(threads), cwd=self.work, capture_output=True, text=True,
        )  # fmt: skip
        if ran.returncode:
            raise RuntimeError(f"{self.name}: astroformer {' '.join(words)}\n{ran.stdout}{ran.stderr}")

    def kill_after(self, words: Sequence[str], run: Path, updates: int) -> None:
        """Starts `astroformer WORDS` and kills it once its checkpoint in `run` holds so many updates."""
        process = subprocess.Popen(
            [sys.executable, "-m", "astroformer.cli", *words],
            env=self.environment(1), cwd=self.work, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        checkpoint = run / "checkpoint.safetensors"
        while process.poll() is None and saved_updates(checkpoint) < updates:
            time.sleep(0.01)
        if process.poll() is not None:
            raise RuntimeError(f"{self.name}: '{run.name}' ended before it could be killed")
        process.send_signal(signal.SIGKILL)
        process.wait()

    def train(self, name: str) -> Path:
        case, run = CASES[name], self.work / name
        words = [*case.words, *COMMON, "--out", str(run)]
        if name == "distil":
            teacher = self.work / case.learns_from
            self.run(["train", "--distil", str(teacher), *case.words, "--out", str(run), "--quiet"], case.threads)
        elif case.learns_from:
            initial = self.work / case.learns_from / "model"
            self.run(["train", case.source, *words, "--init-from", str(initial)], case.threads)
        elif case.killed:
            self.kill_after(["train", case.source, *words], run, updates=5)
            self.run(["train", "--resume", str(run), "--quiet"])
        else:
            self.run(["train", case.source, *words], case.threads)
        return run

    def predict(self, model: Path, asked: str, out: Path) -> dict[str, list[str]]:
        """The columns of the table of predictions."""
        words = ["--calibration", "none"] if (self.root / "src" / "astroformer" / "trust").is_dir() else []
        self.run(["predict", str(model), asked, "--out", str(out), "--device", "cpu", "--quiet", *words])
        with out.open(encoding="utf-8", newline="") as stream:
            names, *rows = csv.reader(stream)
        return {name: [row[i] for row in rows] for i, name in enumerate(names)}


def saved_updates(checkpoint: Path) -> int:
    """Updates that a checkpoint holds, 0 where there is none yet."""
    try:
        with checkpoint.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        return int(json.loads(header["__metadata__"]["json"])["state"]["updates"])
    except (OSError, ValueError, KeyError):
        return 0


def models_of(run: Path) -> list[Path]:
    """The model folders of a run folder, a study or an ensemble, relative to it."""
    return sorted(path.parent.relative_to(run) for path in run.rglob("model/config.json"))


def differences(old: Path, new: Path) -> list[str]:
    """What differs between two model folders, or the run folders that hold them."""
    found = []
    theirs, ours = models_of(old), models_of(new)
    if theirs != ours or not theirs:
        return [f"model folders {list(map(str, theirs))} and {list(map(str, ours))}"]
    for model in theirs:
        before, after = (load_file(run / model / "model.safetensors") for run in (old, new))
        before = {RENAMED.get(name, name): tensor for name, tensor in before.items()}
        found += [f"{model}: tensors {sorted(before.keys() ^ after.keys())}"] if before.keys() != after.keys() else []
        unequal = [k for k in before.keys() & after.keys() if not torch.equal(before[k], after[k])]
        if unequal:
            found.append(f"{model}: {len(unequal)} of {len(before)} tensors, e.g. {min(unequal)}")
        histories = [history(run / model.parent / "history.csv") for run in (old, new)]
        if histories[0] != histories[1]:
            found.append(f"{model}: history.csv")
    return found


def unlike(before: dict[str, list[str]], after: dict[str, list[str]]) -> list[str]:
    """What differs between two tables of predictions: columns that the second lacks, or that have other values."""
    return [f"column {name}" for name in before if before[name] != after.get(name)]


def history(path: Path) -> list[dict[str, str]]:
    """The rows of a history without what the clock says; empty for an ensemble, which has none."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8") as stream:
        return [{k: v for k, v in row.items() if k not in CLOCK_COLUMNS} for row in csv.DictReader(stream)]


def compare(old: Tree, new: Tree, names: Sequence[str]) -> list[str]:
    """Runs all cases by both, and says what differs."""
    wrong: list[str] = []

    def check(name: str, found: list[str]) -> None:
        print(f"{name:<28} {'equal' if not found else '; '.join(found)}", flush=True)
        wrong.extend(f"{name}: {what}" for what in found)

    needed = {CASES[name].learns_from for name in names} - {""}
    with ThreadPoolExecutor(2) as pool:
        for name in [name for name in CASES if name in needed or name in names]:
            one_after_the_other = CASES[name].threads > 1
            if one_after_the_other:
                runs = [old.train(name), new.train(name)]
            else:
                runs = list(pool.map(Tree.train, (old, new), (name, name)))
            check(name, differences(*runs))
            model = models_of(runs[0])[0]
            asked = list(
                pool.map(
                    Tree.predict,
                    (old, new),
                    [run / model for run in runs],
                    [CASES[name].asked] * 2,
                    [run / "predictions.csv" for run in runs],
                )
            )
            check(f"{name}, predictions", unlike(*asked))
            carried = new.predict(runs[0] / model, CASES[name].asked, runs[0] / "predictions-new.csv")
            check(f"{name}, old model, new code", unlike(asked[0], carried))
            if name == "killed":
                check("old checkpoint, new code", resumed_by_the_new(old, new))
            if name == "ensemble":
                check("old ensemble, new code", ensemble_finished_by_the_new(old, new))
    return wrong


def resumed_by_the_new(old: Tree, new: Tree) -> list[str]:
    """A run that the old code began and was killed in, finished by the new code."""
    run = old.work / "killed-for-new"
    words = [*CASES["killed"].words, *COMMON]
    old.kill_after(["train", SOURCE, *words, "--out", str(run)], run, updates=5)
    new.run(["train", "--resume", str(run), "--quiet"])
    return differences(old.work / "killed", run)


def ensemble_finished_by_the_new(old: Tree, new: Tree) -> list[str]:
    """An ensemble of which the old code trained the members, made by the new code."""
    run = old.work / "ensemble-for-new"
    shutil.copytree(old.work / "ensemble", run)
    shutil.rmtree(run / "model")
    new.run(["train", "--resume", str(run), "--quiet"], threads=2)
    return differences(old.work / "ensemble", run)


# Speed ---------------------------------------------------------------------------------------------------------------

DRIVER = r"""
import json, statistics, sys, time
began = time.perf_counter()
import astroformer
from astroformer import Recipe

class Clock:
    '''Notes when the loop tells how far it is; stands for a Reporter.'''
    def __init__(self):
        self.told = []
    def training(self, **shown):
        self.told.append(time.perf_counter())
    def __getattr__(self, name):
        return lambda *a, **k: None

what, out = sys.argv[1:]
clock = Clock()
common = dict(device="cpu", precision="no", evaluations=1)
if what == "first step":
    astroformer.train("mock-galaxies:60x64", Recipe(epochs=1, batch_size=48, **common), out=out, reporter=clock)
    print(json.dumps(clock.told[0] - began))
elif what in ("step", "step, C-C-C-T"):
    words = {} if what == "step" else {"model": "astroformer_atto"}
    recipe = Recipe(epochs=5, batch_size=16, progressive=0, **words, **common)
    astroformer.train("mock-galaxies:800x64", recipe, out=out, reporter=clock)
    each = [b - a for a, b in zip(clock.told[1:], clock.told[2:])]
    print(json.dumps(statistics.median(each)))
elif what == "epoch":
    recipe = Recipe(epochs=4, batch_size=16, **common)
    astroformer.train("mock-galaxies:800x64", recipe, out=out, reporter=clock)
    print(json.dumps(clock.told[-1] - clock.told[0]))
else:
    model = astroformer.load(out)
    model.predict("mock-galaxies:64x64")
    images = astroformer.open_source("mock-galaxies:800x64", labelled=False)
    for i in range(len(images)):
        images.read(i)  # drawn once
    started = time.perf_counter()
    model.predict(images)
    print(json.dumps(time.perf_counter() - started))
"""


def measure(trees: tuple[Tree, Tree], repeats: int) -> list[str]:
    """Seconds of both in turn; says what has become slower."""
    slow = []
    model = trees[0].train("sky") / "model"
    print(f"{'seconds':<16}{'old':>9}{'new':>9}   old / new (median of pairs)")
    for what in ("first step", "step", "step, C-C-C-T", "epoch", "prediction"):
        seconds: dict[str, list[float]] = {tree.name: [] for tree in trees}
        for turn in range(repeats + 1):
            for tree in trees if turn % 2 else trees[::-1]:
                run = tree.work / f"speed {what} {turn}"
                ran = subprocess.run(
                    [sys.executable, "-c", DRIVER, what, str(model if what == "prediction" else run)],
                    env=tree.environment(len(os.sched_getaffinity(0))), cwd=tree.work, capture_output=True, text=True,
                )  # fmt: skip
                if ran.returncode:
                    raise RuntimeError(f"{tree.name}, {what}: {ran.stderr}")
                if turn:  # the first of each decodes images and builds kernels
                    seconds[tree.name].append(float(ran.stdout.splitlines()[-1]))
        before, after = (seconds[tree.name] for tree in trees)
        ratio = statistics.median(a / b for a, b in zip(before, after, strict=True))
        old, new = statistics.median(before), statistics.median(after)
        print(f"{what:<16}{old:>9.4f}{new:>9.4f}   {ratio:.3f}", flush=True)
        if ratio < LEAST_RATIO:
            slow.append(f"{what}: {ratio:.3f} of the old speed")
    return slow


@contextlib.contextmanager
def checked_out(commit: str, folder: Path) -> Iterator[Path]:
    """A git worktree of the commit, for as long as it is needed."""
    subprocess.run(["git", "worktree", "add", "--detach", "--quiet", str(folder), commit], cwd=ROOT, check=True)
    try:
        yield folder
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(folder)], cwd=ROOT, check=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="the other commit")
    parser.add_argument("--only", nargs="+", metavar="CASE", help="some of the cases; all without it")
    parser.add_argument("--data", type=Path, help="a folder with galaxy-zoo2 and mirabest, for cases on real images")
    parser.add_argument("--speed", action="store_true", help="measure instead of comparing")
    parser.add_argument("--repeats", type=int, default=5, help="pairs of runs a measurement")
    given = parser.parse_args()
    if given.data:
        CASES.update(real_cases(given.data.resolve()))
    if unknown := set(given.only or []) - set(CASES):
        parser.error(f"no case {', '.join(sorted(unknown))}; there are {', '.join(CASES)}.")
    print(f"{given.commit} and {ROOT.name}: torch {torch.__version__}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as scratch, checked_out(given.commit, Path(scratch) / "checkout") as folder:
        old, new = Tree("old", folder, Path(scratch)), Tree("new", ROOT, Path(scratch))
        wrong = measure((old, new), given.repeats) if given.speed else compare(old, new, given.only or list(CASES))
    print("\n".join(["FAILED", *wrong]) if wrong else "all as before" if not given.speed else "as fast as before")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
