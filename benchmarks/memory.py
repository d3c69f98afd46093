"""Peak memory for training every variant at 224 px, with what accumulation and gradient checkpointing save.

    python benchmarks/memory.py

A cell is a training step or two of the real loop (AdamW, averaged weights, the default augmentation, plain float32
steps) in a process of its own; its figure is the largest resident memory of that process, less what Python and torch
take before the network is made. A cell whose estimate (`training/memory.py`) exceeds half of the free memory is not
run, and its estimate stands in the table in italics. One row a cell is appended to `results/memory.jsonl`; cells that
are there are not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from astroformer.images import ImageStore, LabelledImages, Preprocessing
from astroformer.network import VARIANTS, create_network
from astroformer.system import versions
from astroformer.training.memory import GIB, footprint, free_memory
from astroformer.training.recipe import Recipe
from astroformer.training.single import train_network
from common.rows import RESULTS

OUT = RESULTS / "memory.jsonl"
SIZE, BATCH = (224, 224), 16
CELLS = ((1, False), (2, False), (4, False), (1, True), (4, True))  # (parts, checkpointing)
ORDER = ("atto", "pico", "nano", "0", "1", "2", "3", "4", "5")


def recipe(parts: int, checkpointing: bool) -> Recipe:
    return Recipe(
        epochs=1,
        batch_size=BATCH,
        accumulate=parts,
        checkpointing=checkpointing,
        learning_rate=1e-4,
        precision="no",
        speed="plain",
        device="cpu",
        progressive=0.0,
    )


def resident(key: str) -> int:
    """Bytes of this process: now (`VmRSS`), or the most so far (`VmHWM`)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {key}: this benchmark needs Linux")


def measure(variant: str, parts: int, checkpointing: bool) -> dict[str, float]:
    """Trains on one batch, two where the network is small, in this process."""
    steps = 2 if variant in ("atto", "pico", "nano", "0") else 1
    images = np.random.default_rng(0).integers(0, 256, (steps * BATCH, *SIZE, 3)).astype(np.uint8)
    labels = np.arange(len(images)) % 10
    files = [str(i) for i in range(len(images))]
    source = LabelledImages("noise", files, labels, tuple("abcdefghij"), images.__getitem__)
    preprocessing = Preprocessing(SIZE, 3)
    settings = recipe(parts, checkpointing)
    with tempfile.TemporaryDirectory() as cache:
        store = ImageStore.build(source, preprocessing, cache=Path(cache))
        preprocessing = replace(preprocessing, mean=(0.5,) * 3, std=(0.3,) * 3)
        before = resident("VmRSS")
        began = time.monotonic()
        network = create_network(f"astroformer_{variant}", num_classes=10, img_size=SIZE)
        train_network(network, store, store.subset(range(10)), settings, preprocessing=preprocessing)
    return {
        "peak": resident("VmHWM") - before,
        "process": before,
        "seconds": round(time.monotonic() - began, 1),
        "threads": torch.get_num_threads(),
    }


def estimate(variant: str, parts: int, checkpointing: bool) -> int:
    config = replace(VARIANTS[f"astroformer_{variant}"], num_classes=10, img_size=SIZE)
    return footprint(recipe(parts, checkpointing), config, SIZE).of(math.ceil(BATCH / parts))


def rows() -> dict[tuple[str, int, bool], dict[str, object]]:
    if not OUT.exists():
        return {}
    found = [json.loads(line) for line in OUT.read_text(encoding="utf-8").splitlines() if line]
    return {(row["variant"], row["parts"], row["checkpointing"]): row for row in found}


def table() -> str:
    """GiB, as Markdown: measured, and in italics estimated."""
    heads = [f"{BATCH // parts} images" + (", checkpointing" if again else "") for parts, again in CELLS]
    lines = ["| variant | " + " | ".join(heads) + " |", "|---" * (len(CELLS) + 1) + "|"]
    done = rows()
    ratios = []
    for variant in ORDER:
        cells = []
        for cell in CELLS:
            guess = estimate(variant, *cell)
            if (variant, *cell) in done:
                peak = float(done[variant, *cell]["peak"])  # type: ignore[arg-type]
                ratios.append(guess / peak)
                cells.append(f"{peak / GIB:.2f}")
            else:
                cells.append(f"*{guess / GIB:.1f}*")
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    if ratios:
        lines.append(
            f"\nestimate / measured: median {np.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}, "
            f"{len(ratios)} cells"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", nargs="+", default=ORDER, choices=ORDER)
    parser.add_argument("--cell", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cell:
        variant, parts, checkpointing = arguments.cell
        print(json.dumps(measure(variant, int(parts), checkpointing == "True")))
        return
    for variant in arguments.variants:
        for parts, checkpointing in CELLS:
            if (variant, parts, checkpointing) in rows():
                continue
            guess, free = estimate(variant, parts, checkpointing), free_memory("cpu")
            if free is None or guess > free / 2:
                print(f"{variant}, {parts} parts: {guess / GIB:.1f} GiB expected, too much here", file=sys.stderr)
                continue
            command = [sys.executable, __file__, "--cell", variant, str(parts), str(checkpointing)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            row = {"variant": variant, "parts": parts, "checkpointing": checkpointing}
            row |= json.loads(done.stdout.splitlines()[-1])
            row |= {"processor": platform.processor() or platform.machine(), "versions": versions()}
            print(f"{variant}, {parts} parts, {checkpointing}: {row['peak'] / GIB:.2f} GiB", file=sys.stderr)
            with OUT.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
    print(table())


if __name__ == "__main__":
    main()
