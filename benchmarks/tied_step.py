"""What tying weights under flips and turns does to the time of a training step on a CPU, in turn with free weights.

    python benchmarks/tied_step.py          # about a minute; one thread; writes tied_step.json

The network is the default of few images (atto, convolutions alone, no channel attention), in batches of 16 and
float32. A step is forward and backward pass, tying of the gradients, clipping and AdamW, on random images; a figure is
the median, a ratio that of the medians of one run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional as F

from astroformer.allocator import keep_freed_memory
from astroformer.network import VARIANTS, Astroformer, Tie
from astroformer.training.steps.fused import fuse, why_not_fused
from astroformer.training.steps.optimizer import create_optimizer
from astroformer.training.steps.update import FusedUpdate
from common.machine import processor
from common.rows import RESULTS

OUT = RESULTS / "tied_step.json"
CASES = ((32, "mirror"), (57, "d4"))  # px, group
_BATCH = 16


def stepper(size: int, group: str) -> Callable[[], float]:
    """A function that makes one step and returns its milliseconds."""
    torch.manual_seed(0)
    words = {"layout": "CCCC", "channel_attention": "none", "num_classes": 10, "img_size": (size, size), "group": group}
    network = Astroformer(dataclasses.replace(VARIANTS["astroformer_atto"], **words))
    network.to(memory_format=torch.channels_last).train()
    fuse(network)
    tie = None if group == "none" else Tie(network, group)
    optimizer = create_optimizer(network, "adamw", learning_rate=1e-3, weight_decay=0.1, momentum=0.9)
    update = FusedUpdate(network, optimizer, clip=1.0, tie=tie)
    x_BCHW = torch.randn(_BATCH, 3, size, size).contiguous(memory_format=torch.channels_last)
    y_B = torch.randint(0, 10, (_BATCH,))

    def step() -> float:
        started = time.perf_counter()
        F.cross_entropy(network(x_BCHW), y_B, label_smoothing=0.1).backward()
        update()
        return 1e3 * (time.perf_counter() - started)

    return step


def measure(steps: int) -> list[dict[str, float | str]]:
    rows: list[dict[str, float | str]] = []
    for size, group in CASES:
        free, tied = stepper(size, "none"), stepper(size, group)
        times = [(free(), tied()) for _ in range(steps + 5)][5:]
        free_ms, tied_ms = (round(statistics.median(side), 2) for side in zip(*times, strict=True))
        row = {"px": size, "group": group, "free_ms": free_ms, "tied_ms": tied_ms, "ratio": round(tied_ms / free_ms, 3)}
        fastest = [round(min(side), 2) for side in zip(*times, strict=True)]
        rows.append({**row, "free_fastest_ms": fastest[0], "tied_fastest_ms": fastest[1], "steps": steps})
        print(rows[-1])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    made = {"processor": processor("cpu"), "fused": why_not_fused() or "yes", "rows": measure(arguments.steps)}
    arguments.out.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
