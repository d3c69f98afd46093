"""What attention after the convolutions costs on a CPU: a training step and a prediction of the hybrid network, in turn
with those of C-C-C-C at equal widths.

    python benchmarks/hybrid_step.py          # two minutes; one thread; writes hybrid_step.json

Both networks are atto without channel attention. A step is forward and backward pass, tying of the gradients, clipping
and AdamW, on batches of 16 random images; a prediction is the fast pass over 64. A figure is the median, a ratio the
median of the ratios of neighbours.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from astroformer.allocator import keep_freed_memory
from astroformer.fast_inference import fast_pass
from astroformer.network import VARIANTS, Astroformer, Tie
from astroformer.training.steps.fused import fuse, why_not_fused
from astroformer.training.steps.optimizer import create_optimizer
from astroformer.training.steps.update import FusedUpdate
from common.machine import processor
from common.rows import RESULTS

OUT = RESULTS / "hybrid_step.json"
# px, group, strides: photographs (few, in a longer run, more), galaxies (few, more).
CASES = (
    (32, "mirror", (2, 2, 2, 1, 1)),
    (32, "mirror", (2, 1, 2, 2, 1)),
    (32, "none", (2, 2, 2, 1, 1)),
    (65, "d4", (2, 2, 2, 1, 1)),
    (64, "none", (2, 2, 2, 1, 1)),
)
_HEAD_WIDTH = 8
_BATCH, _ASKED = 16, 64


def build(size: int, group: str, strides: tuple[int, ...], **settings: Any) -> Astroformer:
    torch.manual_seed(0)
    words = {"channel_attention": "none", "num_classes": 10, "img_size": (size, size), "group": group}
    network = Astroformer(dataclasses.replace(VARIANTS["astroformer_atto"], strides=strides, **words, **settings))
    return network.to(memory_format=torch.channels_last)


def stepper(network: Astroformer, dtype: torch.dtype) -> Callable[[], float]:
    """A function that makes one step and returns its milliseconds."""
    network.train()
    fuse(network)
    group = network.config.group
    optimizer = create_optimizer(network, "adamw", learning_rate=1e-3, weight_decay=0.1, momentum=0.9)
    update = FusedUpdate(network, optimizer, clip=1.0, tie=None if group == "none" else Tie(network, group))
    x_BCHW = torch.randn(_BATCH, 3, *network.config.img_size).contiguous(memory_format=torch.channels_last)
    y_B = torch.randint(0, 10, (_BATCH,))

    def step() -> float:
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits_BK = network(x_BCHW)
        F.cross_entropy(logits_BK.float(), y_B, label_smoothing=0.1).backward()
        update()
        return 1e3 * (time.perf_counter() - started)

    return step


def asker(network: Astroformer, dtype: torch.dtype) -> Callable[[], float]:
    """A function that asks about `_ASKED` images and returns its milliseconds."""
    asked = fast_pass(network.eval(), dtype)
    x_BCHW = torch.randn(_ASKED, 3, *network.config.img_size)

    def ask() -> float:
        started = time.perf_counter()
        asked(x_BCHW)
        return 1e3 * (time.perf_counter() - started)

    return ask


def measure(repeats: int, dtypes: list[torch.dtype]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for size, group, strides in CASES:
        for dtype in dtypes:
            row: dict[str, Any] = {"px": size, "group": group, "strides": strides}
            row["dtype"] = str(dtype).removeprefix("torch.")
            for what, made in (("step", stepper), ("prediction", asker)):
                ours = made(build(size, group, strides, transformer="hybrid", head_width=_HEAD_WIDTH), dtype)
                theirs = made(build(size, group, strides, layout="CCCC"), dtype)
                times = [(theirs(), ours()) for _ in range(repeats + 5)][5:]
                row[f"{what}_convolutions_ms"], row[f"{what}_hybrid_ms"] = (
                    round(statistics.median(side), 2) for side in zip(*times, strict=True)
                )
                row[f"{what}_ratio"] = round(statistics.median(b / a for a, b in times), 3)
            rows.append(row)
            print(row, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    rows = measure(arguments.repeats, [torch.float32, torch.bfloat16])
    made = {"processor": processor("cpu"), "fused": why_not_fused() or "yes", "rows": rows}
    arguments.out.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
