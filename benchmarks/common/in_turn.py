"""Training steps and predictions of two networks on a CPU, timed in turn.

A step is forward and backward pass, tying of the gradients, clipping and AdamW, on batches of 16 random images; a
prediction is the fast pass over 64. One thread. Times are medians, in ms; a ratio is the median of the ratios of
neighbours.
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
from astroformer.fast_pass import fast_pass
from astroformer.network import VARIANTS, Astroformer, Tie
from astroformer.training.steps.fused import fuse, why_not_fused
from astroformer.training.steps.optimizer import create_optimizer
from astroformer.training.steps.update import FusedUpdate
from common.machine import processor

BATCH, ASKED = 16, 64
WARM_UP = 5  # passes that are not counted


def few_images_network(size: int, **settings: Any) -> Astroformer:
    """Atto without channel attention, for ten classes of images of `size` px."""
    torch.manual_seed(0)
    words = {"channel_attention": "none", "num_classes": 10, "img_size": (size, size), **settings}
    network = Astroformer(dataclasses.replace(VARIANTS["astroformer_atto"], **words))
    return network.to(memory_format=torch.channels_last)


def step_of(network: Astroformer, dtype: torch.dtype = torch.float32) -> Callable[[], float]:
    """A function that makes one training step and returns its milliseconds."""
    network.train()
    fuse(network)
    group = network.config.group
    optimizer = create_optimizer(network, "adamw", learning_rate=1e-3, weight_decay=0.1, momentum=0.9)
    update = FusedUpdate(network, optimizer, clip=1.0, tie=None if group == "none" else Tie(network, group))
    x_BCHW = torch.randn(BATCH, 3, *network.config.img_size).contiguous(memory_format=torch.channels_last)
    y_B = torch.randint(0, 10, (BATCH,))

    def step() -> float:
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits_BK = network(x_BCHW)
        F.cross_entropy(logits_BK.float(), y_B, label_smoothing=0.1).backward()
        update()
        return 1e3 * (time.perf_counter() - started)

    return step


def prediction_of(network: Astroformer, dtype: torch.dtype = torch.float32) -> Callable[[], float]:
    """A function that asks about `ASKED` images and returns its milliseconds."""
    ask_network = fast_pass(network.eval(), dtype)
    x_BCHW = torch.randn(ASKED, 3, *network.config.img_size)

    def ask() -> float:
        started = time.perf_counter()
        ask_network(x_BCHW)
        return 1e3 * (time.perf_counter() - started)

    return ask


def in_turn(first: Callable[[], float], second: Callable[[], float], repeats: int) -> dict[str, Any]:
    """`first_ms`, `second_ms` and `ratio`, of `repeats` passes of each after some that are not counted."""
    times = [(first(), second()) for _ in range(repeats + WARM_UP)][WARM_UP:]
    first_ms, second_ms = (round(statistics.median(side), 2) for side in zip(*times, strict=True))
    ratio = round(statistics.median(b / a for a, b in times), 3)
    return {"first_ms": first_ms, "second_ms": second_ms, "ratio": ratio}


def main(description: str, out: Path, repeats: int, measure: Callable[[int], list[dict[str, Any]]]) -> None:
    """The command line of such a benchmark; `measure` makes the rows of its result, given the number of repeats."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--out", type=Path, default=out)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    made = {"processor": processor("cpu"), "fused": why_not_fused() or "yes", "repeats": arguments.repeats}
    made["rows"] = measure(arguments.repeats)
    arguments.out.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
