"""What one image costs in a network, block by block, counted and not timed: multiply-accumulates, and bytes that pass
through memory.

    python benchmarks/step_cost.py astroformer_atto 64
    python benchmarks/step_cost.py astroformer_0 224

`MMAC` is of the forward pass; a training step has three times as much (gradients of inputs and of weights). `MB, op by
op` is what eager float32 moves in the forward pass, every operation reading its inputs from memory and writing its
output there; `MB, fused` is what is left if a block reads its input and its weights once and writes its output once.
Nothing is computed: all tensors are on the meta device.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from astroformer.network import VARIANTS, Astroformer

_BATCH = 64  # weights are read once a batch


class Traffic(TorchDispatchMode):
    """Sums the bytes of the inputs and outputs of every operation that makes a new tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor)]
            self.bytes += sum(x.numel() * x.element_size() for x in tensors)
        return out


def blocks(network: Astroformer) -> list[tuple[str, nn.Module]]:
    found: list[tuple[str, nn.Module]] = [("stem", network.stem)]
    for s, stage in enumerate(network.stages, start=1):
        found += [(f"S{s}, block {b}", block) for b, block in enumerate(stage.children(), start=1)]
    return [*found, ("head", network.head)]


def rows(variant: str, size: int) -> list[tuple[str, str, float, float, float]]:
    """(block, map of its output, MMAC, MB op by op, MB fused), each of one image."""
    config = dataclasses.replace(VARIANTS[variant], img_size=(size, size))
    with torch.device("meta"):
        network = Astroformer(config).eval()
        x_BCHW = torch.empty(_BATCH, config.in_chans, size, size)
    found = []
    for name, block in blocks(network):
        traffic, counter = Traffic(), FlopCounterMode(display=False)
        with torch.no_grad(), counter, traffic:
            y = block(x_BCHW)
        weights = sum(p.numel() for p in block.parameters())
        least = 4 * (x_BCHW.numel() + y.numel() + weights)
        shape = "×".join(map(str, y.shape[1:]))
        found.append(
            (name, shape, counter.get_total_flops() / 2e6 / _BATCH, traffic.bytes / 1e6 / _BATCH, least / 1e6 / _BATCH)
        )
        x_BCHW = y
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variant", choices=list(VARIANTS))
    parser.add_argument("size", type=int)
    arguments = parser.parse_args()
    found = rows(arguments.variant, arguments.size)
    found.append(("all", "", *(sum(row[i] for row in found) for i in (2, 3, 4))))  # type: ignore[arg-type]
    print("| block | output | MMAC | MB, op by op | MB, fused |\n|---|---|---|---|---|")
    for name, shape, macs, moved, least in found:
        print(f"| {name} | {shape} | {macs:.2f} | {moved:.2f} | {least:.2f} |")


if __name__ == "__main__":
    main()
