"""How fast training and prediction are on a CPU, beside timm on the same network, in turn and in fresh processes.

    python benchmarks/speed.py ../shared/data/galaxy-zoo2            # all rows that speed.json lacks
    python benchmarks/speed.py DATA --rows step epoch --again        # these rows anew
    python benchmarks/speed.py --table                               # the Markdown tables of speed.json

DATA holds `train` and `valid`, each a folder of class folders (Galaxy Zoo 2: 2,000 and 863 JPEGs of 424 px). Every
row is kept as soon as it is measured, with the ceilings of the machine as they were measured in the same run, so the
script resumes. `timm_reference.py` says what the reference does, `speed_product.py` what ours does; both train the
C-C-C-T network of the row's variant. A figure is the median of the rounds; a ratio is the median, minimum and maximum
of the ratios within a round.

Rows `step`: ours is a step of a real run, with augmentation, clipping and averaged weights; the reference's step is
the network alone, on one batch that lies in memory, once as it is and once with our allocator settings.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path

from common.measured_rows import Measure, all_threads, measure_rows
from common.rows import RESULTS, Row
from common.speed_table import table
from common.turns import in_turn, python, ratios, spread, timed_commands

OUT = RESULTS / "speed.json"
STEPS = [  # variant, px, images a batch
    ("astroformer_0", 64, 64),
    ("astroformer_0", 224, 16),
    ("astroformer_atto", 32, 64),
    ("astroformer_atto", 64, 64),
]


class Plan:
    """How long and how often to measure, and on what."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.data: Path = arguments.data
        self.quick: bool = arguments.quick
        self.every: int = arguments.every
        self.rounds = 2 if self.quick else arguments.rounds
        self.seconds = 0.05 if self.quick else 2.0
        self.threads = all_threads()
        self.workers = 1 if self.quick else 2
        self.classes = sum(path.is_dir() for path in (self.data / "train").iterdir())

    @cached_property
    def ceilings(self) -> dict[int, dict[str, float]]:
        """What the machine reaches now, by the number of threads; measured once, before the first row."""
        found = {}
        for threads in sorted({1, self.threads}):
            words = ["--size", 256, "--seconds", 0.05] if self.quick else []
            environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
            made = subprocess.run(
                python("ceilings.py", *words), env=environment, capture_output=True, check=True, text=True
            )
            found[threads] = json.loads(made.stdout.splitlines()[-1])
        return found


# -- rows ----------------------------------------------------------------------------------------------------------


def _compared(found: dict[str, list[dict[str, float]]]) -> Row:
    """Images a second of each side, and ours over each other side."""
    speeds = {name: [m["images"] / m["seconds"] for m in measured] for name, measured in found.items()}
    return {
        "unit": "images/s",
        "sides": {name: spread(values) for name, values in speeds.items()},
        "ratios": {name: ratios(speeds["ours"], values) for name, values in speeds.items() if name != "ours"},
        "rounds": len(speeds["ours"]),
    }


def _macs(variant: str, size: int, classes: int, depth_factor: int = 1) -> int:
    import torch

    from astroformer.network import VARIANTS
    from astroformer.network.astroformer import Astroformer
    from astroformer.network.counting import count_macs

    config = VARIANTS[variant]
    config = dataclasses.replace(
        config,
        num_classes=classes,
        img_size=(size, size),
        depths=tuple(depth_factor * depth for depth in config.depths),  # type: ignore[arg-type]
    )
    with torch.device("meta"):
        return count_macs(Astroformer(config))


def _training_share(row: Row, macs: int, ceilings: dict[str, float]) -> Row:
    """Adds what part of the machine's rate of matrix products each side's arithmetic is: 2 operations a
    multiply-accumulate, and three passes (forward, gradient of the input, gradient of the weights)."""
    gflop = 6e-9 * macs
    row["gflop_an_image"] = round(gflop, 4)
    row["share_of_ceiling"] = {
        name: {
            dtype: round(gflop * side["median"] / ceilings[f"gflops_{dtype}"], 4) for dtype in ("float32", "bfloat16")
        }
        for name, side in row["sides"].items()
    }
    return row


def step(plan: Plan, variant: str, size: int, batch: int, threads: int) -> Row:
    batch = 4 if plan.quick else batch
    words = ["step", "--variant", variant, "--size", size, "--batch", batch, "--seconds", plan.seconds]
    commands = {
        "ours": python("speed_product.py", *words, "--images", 2 * batch, "--warm-up", 2 if plan.quick else 6),
        "timm": python("timm_reference.py", *words),
        "timm, our allocator settings": python("timm_reference.py", *words, "--keep-freed-memory"),
    }
    found = in_turn(commands, rounds=plan.rounds, threads=threads)
    peaks = {name: max(m["peak_gib"] for m in measured) for name, measured in found.items()}
    row = _compared(found) | {"batch": batch, "peak_gib": peaks}
    return _training_share(row, _macs(variant, size, 5), plan.ceilings[threads])


def epoch(plan: Plan) -> Row:
    """Atto at 64 px from the files, second epoch on; ours with the reference's augmentation and with its own."""
    size = 32 if plan.quick else 64
    common = ["--size", size, "--batch", 8 if plan.quick else 64]
    ours = ["epoch", plan.data / "train", *common]
    commands = {
        "ours": python("speed_product.py", *ours, "--augment", "equal"),
        "ours, its default augmentation": python("speed_product.py", *ours),
        "timm": python(
            "timm_reference.py", "epoch", plan.data, *common, "--classes", plan.classes, "--workers", plan.workers
        ),
    }
    row = _compared(in_turn(commands, rounds=plan.rounds, threads=plan.threads))
    return _training_share(row, _macs("astroformer_atto", size, plan.classes), plan.ceilings[plan.threads])


def cold(plan: Plan) -> Row:
    """From files that nothing has been kept of to the end of the first epoch; a fresh process a measurement."""
    size = 32 if plan.quick else 64
    common = ["--size", size, "--batch", 8 if plan.quick else 64]
    commands = {
        "ours": python("speed_product.py", "cold", plan.data / "train", *common, "--augment", "equal"),
        "timm": python(
            "timm_reference.py", "cold", plan.data, *common, "--classes", plan.classes, "--workers", plan.workers
        ),
    }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    for _ in range(plan.rounds):
        for name, command in commands.items():
            found[name] += in_turn({name: command}, rounds=1, threads=plan.threads)[name]
    return _compared(found)


def data_path(plan: Plan, size: int) -> Row:
    """Augmented batches and no network, equal augmentation; the ceiling is copying: stored bytes in, float32 out."""
    common = ["--size", size, "--batch", 8 if plan.quick else 64]
    commands = {
        "ours": python("speed_product.py", "data", plan.data / "train", *common, "--augment", "equal"),
        "timm": python(
            "timm_reference.py", "data", plan.data, *common, "--classes", plan.classes, "--workers", plan.workers
        ),
    }
    row = _compared(in_turn(commands, rounds=plan.rounds, threads=plan.threads))
    gbytes = 3 * size * size * (1 + 4) * 1e-9
    copy = plan.ceilings[plan.threads]["copy_gbytes"]
    row["share_of_ceiling"] = {n: {"copy": round(gbytes * s["median"] / copy, 4)} for n, s in row["sides"].items()}
    return row


def predict(plan: Plan, variant: str, size: int) -> Row:
    """Whole commands, from start to CSV, on the same weights; at 224 px on one file of `--every`."""
    from common.asked_model import ASTROFORMER, link_files, make_model, timm_predicts

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        count = link_files(folder, plan.data, plan.every if size > 64 else 1)
        make_model(folder, variant, size, plan.classes)
        numbers = iter(range(10**6))

        def ours() -> list[str]:
            out = folder / f"ours-{next(numbers)}.csv"
            return [*ASTROFORMER, "predict", str(folder / "model"), str(folder / "images"), "--out", str(out)]

        def timm() -> list[str]:
            out = folder / f"timm-{next(numbers)}.csv"
            return timm_predicts(folder, variant, size, plan.classes, plan.workers, out)

        rounds = 1 if plan.quick else (3 if size <= 64 else 2)
        seconds = timed_commands({"ours": ours, "timm": timm}, rounds=rounds, threads=plan.threads)
        for written in folder.glob("*.csv"):
            with written.open(encoding="utf-8") as stream:
                lines = sum(1 for _ in csv.reader(stream)) - 1
            if lines != count:
                raise RuntimeError(f"{written.name} has {lines} rows for {count} images.")
    row = _compared({name: [{"seconds": s, "images": count} for s in values] for name, values in seconds.items()})
    gflop = 2e-9 * _macs(variant, size, plan.classes)
    row["share_of_ceiling"] = {
        name: {
            dtype: round(gflop * side["median"] / plan.ceilings[plan.threads][f"gflops_{dtype}"], 4)
            for dtype in ("float32", "bfloat16")
        }
        for name, side in row["sides"].items()
    }
    return row | {"files": count}


def first_step(plan: Plan) -> Row:
    """Seconds from the command to the end of the first training step, images decoded by an earlier run."""
    batch = 8 if plan.quick else 64
    with tempfile.TemporaryDirectory() as scratch:
        numbers = iter(range(10**6))

        def ours() -> list[str]:
            out = Path(scratch) / f"run-{next(numbers)}"
            words = [plan.data / "train", "--valid", plan.data / "valid", "--epochs", 100, "--out", out]
            words += ["--batch-size", batch]
            return python("speed_product.py", "first-step", *words)

        def timm() -> list[str]:
            words = [plan.data, "--classes", plan.classes, "--workers", plan.workers, "--batch", batch]
            return python("timm_reference.py", "first-step", *words)

        commands: dict[str, Callable[[], list[str]]] = {"ours": ours, "timm": timm}
        timed_commands({"ours": ours}, rounds=1, threads=plan.threads, until="first step")  # fills the store
        rounds = 1 if plan.quick else plan.rounds
        seconds = timed_commands(commands, rounds=rounds, threads=plan.threads, until="first step")
    return {
        "unit": "s",
        "sides": {name: spread(values) for name, values in seconds.items()},
        "ratios": {"timm": ratios(seconds["timm"], seconds["ours"])},  # times as fast
        "rounds": rounds,
    }


def scaling(plan: Plan, what: str) -> Row:
    """How the time of ours grows, against arithmetic. `cost` is the time over what arithmetic makes of the first
    point's time, so that 1 is exactly linear."""
    quick = plan.quick
    points: dict[str, list[int]] = {
        "images": [128, 256] if quick else [512, 1024, 2048, 4096],
        "pixels": [32, 48] if quick else [32, 48, 64, 96, 128],
        "classes": [2, 10] if quick else [2, 10, 100, 1000],
        "depth": [1, 2] if quick else [1, 2, 4],
    }
    batch = 8 if quick else 64
    commands, arithmetic = {}, {}
    for value in points[what]:
        size = value if what == "pixels" else 32
        classes = value if what == "classes" else 5
        depth = value if what == "depth" else 1
        words = ["--size", size, "--classes", classes, "--depth-factor", depth, "--batch", batch]
        if what == "images":
            words += ["--images", value]
        else:
            words += ["--images", 2 * batch, "--seconds", plan.seconds, "--warm-up", 2 if quick else 6]
        commands[str(value)] = python("speed_product.py", "epoch" if what == "images" else "step", *words)
        # What a linear law says of the time of one image; of a whole epoch where the number of images grows.
        arithmetic[str(value)] = {
            "images": float(value),
            "pixels": float(size * size),
            "classes": float(_macs("astroformer_atto", size, classes)),
            "depth": float(_macs("astroformer_atto", size, classes, depth)),
        }[what]
    found = in_turn(commands, rounds=plan.rounds, threads=plan.threads)
    seconds = {
        name: [m["seconds"] if what == "images" else m["seconds"] / m["images"] for m in measured]
        for name, measured in found.items()
    }
    first = str(points[what][0])
    linear = {name: arithmetic[name] / arithmetic[first] for name in arithmetic}
    cost = {name: spread([a / b / linear[name] for a, b in zip(seconds[name], seconds[first], strict=True)])
            for name in seconds}  # fmt: skip
    return {
        "unit": "s an epoch" if what == "images" else "s an image",
        "grows": "multiply-accumulates" if what in ("classes", "depth") else what,
        "sides": {name: spread(values) for name, values in seconds.items()},
        "arithmetic": {name: round(value, 3) for name, value in linear.items()},
        "cost": cost,
        "furthest_from_linear": max((c["median"] - 1 for c in cost.values()), key=abs),
        "rounds": plan.rounds,
    }


def rows(arguments: argparse.Namespace) -> dict[str, Measure]:
    """All rows by name."""
    plan = Plan(arguments)
    found: dict[str, Measure] = {}
    steps = [("astroformer_atto", 32, 4)] if plan.quick else STEPS
    for variant, size, batch in steps:
        for threads in sorted({1, plan.threads}, reverse=True):
            name = f"step {variant} {size} px, {threads} thread{'s' if threads > 1 else ''}"
            found[name] = partial(step, plan, variant, size, batch, threads)
    found["epoch astroformer_atto 64 px"] = partial(epoch, plan)
    found["cold first epoch astroformer_atto 64 px"] = partial(cold, plan)
    for size in (32,) if plan.quick else (64, 224):
        found[f"data path {size} px"] = partial(data_path, plan, size)
    for variant, size in (("astroformer_atto", 64), ("astroformer_0", 224))[: 1 if plan.quick else 2]:
        found[f"predict {variant} {size} px"] = partial(predict, plan, variant, size)
    found["first step"] = partial(first_step, plan)
    for what in ("images", "pixels", "classes", "depth"):
        found[f"scaling {what}"] = partial(scaling, plan, what)
    return {name: partial(_with_ceilings, plan, measure) for name, measure in found.items()}


def _with_ceilings(plan: Plan, measure: Measure) -> Row:
    """The ceilings are measured before the row."""
    ceilings = {str(threads): rates for threads, rates in plan.ceilings.items()}
    return measure() | {"ceilings": ceilings}


def main() -> None:
    measure_rows(__doc__, OUT, rows, table, rounds=5, every=12)


if __name__ == "__main__":
    main()
