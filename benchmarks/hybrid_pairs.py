"""What attention after the convolutions is worth: pairs with C-C-C-C of the same split and as many training FLOPs, by
cell and over the cells that decided the default, and what the paper's blocks are worth, as tables.

    python benchmarks/hybrid_pairs.py          # reads results/hybrid.jsonl, which `hybrid.txt` makes
"""

from __future__ import annotations

import sys

import numpy as np

from common.grid import Cell
from common.rows import RESULTS, read_rows
from common.statistics import difference
from common.studies import CONVOLUTIONS, kind_of_network
from common.tables import arms_of, differences, grouped

HYBRID = "C-C-C-T, hybrid"
# The cells of the plan's first part, chosen before they were measured.
DECIDING = {"CIFAR-10 (JPEG), 50 a class", "CIFAR-10 (JPEG), 500 a class", "Galaxy Zoo 2, 50 a class"}
DECIDING |= {"Galaxy Zoo 2, 400 a class", "MiraBest, all"}


def main() -> None:
    if sys.argv[1:]:  # -h and --help among them
        raise SystemExit(__doc__)
    pooled: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    others: list[str] = []
    print("| cell | weights | pairs | difference, points (95 %) | in NLL |\n|---|---|---|---|---|")
    rows = read_rows(RESULTS / "hybrid.jsonl")
    for kind in ("develop", "run"):
        for some in grouped(rows, kind).values():
            arms = {kind_of_network(arm[2]): (arm[2], by_seed) for arm, by_seed in arms_of(some).items()}
            cell = str(Cell(some[0]["data"], some[0]["per_class"]))
            _, theirs = arms.pop(CONVOLUTIONS)
            for name, (words, ours) in arms.items():
                pair = (100 * differences(ours, theirs), differences(ours, theirs, "nll"))
                shown = f"{len(pair[0])} | {difference(pair[0])} | {difference(pair[1], 3)} |"
                if name != HYBRID:
                    others.append(f"| {cell} | {name} | {shown}")
                    continue
                weights = words.split("network.group=")[1].split()[0]
                print(f"| {cell} | {weights} | {shown}")
                if cell in DECIDING:
                    for part in ("all", weights):
                        pooled.setdefault(part, []).append(pair)
    head = "| deciding cells, weights | pairs | ahead in | difference, points (95 %) | in NLL |"
    print(f"\n{head}\n|---|---|---|---|---|")
    for name, pairs in pooled.items():
        points, nll = (np.concatenate([pair[i] for pair in pairs]) for i in (0, 1))
        print(f"| {name} | {len(points)} | {(points > 0).sum()} | {difference(points)} | {difference(nll, 3)} |")
    print("\n| cell | network | pairs | difference, points (95 %) | in NLL |\n|---|---|---|---|---|")
    print("\n".join(others))


if __name__ == "__main__":
    main()
