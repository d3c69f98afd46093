"""What exact equivariance costs in time: the same network plain and equivariant, one thread, in turn.

    python benchmarks/equivariance_cost.py                     # all rows that equivariance_cost.json lacks
    python benchmarks/equivariance_cost.py --rows "step fused" # these rows anew
    python benchmarks/equivariance_cost.py --table

A round measures each network once, in processor time of one thread; a ratio is taken within a round. The median of the
rounds is kept, with the least and the largest ratio. `inference` is torch's eager pass, `fast inference` what a
`Classifier` runs, `compiled inference` torch.compile's; `step` is forward and backward, eager in float32, and `step
fused` the pass that training takes on a CPU, in bfloat16 where the processor multiplies it fast. `shift+d4` averages
over four views.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from astroformer.allocator import keep_freed_memory
from astroformer.fast_pass import fast_pass
from astroformer.network import create_answers
from astroformer.system import matrix_rates
from astroformer.training.steps.fused import fuse
from common.rows import RESULTS

OUT = RESULTS / "equivariance_cost.json"
CASES = (("astroformer_0", 224, 2), ("astroformer_atto", 64, 32))  # variant, px, images
KINDS = ("inference", "fast inference", "compiled inference", "step", "step fused")
NETWORKS: dict[str, dict[str, str]] = {
    "plain": {},
    "frame": {"equivariance": "frame"},
    "anchor": {"equivariance": "anchor"},
    "input": {"equivariance": "input"},
    "centre": {"equivariance": "centre"},
    "anchor, shift+d4": {"equivariance": "anchor", "symmetry": "shift+d4"},
}


def measured(kind: str, variant: str, size: int, batch: int, settings: dict[str, str]) -> Callable[[], Any]:
    """One pass of a network over a batch, ready to be timed."""
    torch.manual_seed(0)
    network = create_answers(variant, img_size=size, **settings)
    x = torch.randn(batch, 3, size, size)
    if kind.startswith("step"):
        network.train()
        bf16 = kind == "step fused" and fuse(network) > 0 and matrix_rates().bfloat16 > 1.3 * matrix_rates().float32

        def step() -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                logits = network(x)
            logits.float().square().mean().backward()

        return step
    network.eval()
    ask: Callable[[torch.Tensor], Any] = fast_pass(network) if kind == "fast inference" else network
    if kind == "compiled inference":
        torch._dynamo.reset()
        ask = torch.compile(network)

    def answer() -> None:
        with torch.no_grad():
            ask(x)

    return answer


def row(kind: str, variant: str, size: int, batch: int, rounds: int) -> dict[str, Any]:
    names = [name for name in NETWORKS if "d4" not in name or kind == "fast inference"]
    passes = {name: measured(kind, variant, size, batch, NETWORKS[name]) for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    for warm in range(-2, rounds):
        for name, run in passes.items():
            began = time.process_time()
            run()
            if warm >= 0:
                times[name].append(time.process_time() - began)
    ratios = {name: [a / b for a, b in zip(times[name], times["plain"], strict=True)] for name in names[1:]}
    return {
        "milliseconds an image": {name: round(1e3 * statistics.median(t) / batch, 3) for name, t in times.items()},
        "ratio": {
            name: [round(f(values), 3) for f in (statistics.median, min, max)] for name, values in ratios.items()
        },
        "rounds": rounds,
        "torch": torch.__version__,
    }


def table(results: dict[str, Any]) -> str:
    lines = [
        f"| pass, one thread | plain, ms an image | {' | '.join([*NETWORKS][1:])} |",
        "|---|---|" + "---|" * (len(NETWORKS) - 1),
    ]
    for name, found in results.items():
        ratios = [
            "{:.2f} ({:.2f} – {:.2f})".format(*found["ratio"][n]) if n in found["ratio"] else ""
            for n in [*NETWORKS][1:]
        ]
        lines.append(f"| {name} | {found['milliseconds an image']['plain']:.3g} | {' | '.join(ratios)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", default=[], choices=KINDS, help="kinds to measure anew")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    results = json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else {}
    if not arguments.table:
        torch.set_num_threads(1)
        keep_freed_memory()
        for kind in KINDS:
            for variant, size, batch in CASES:
                name = f"{kind}, {variant}, {size} px"
                if name not in results or kind in arguments.rows:
                    results[name] = row(kind, variant, size, batch, arguments.rounds)
                    OUT.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
