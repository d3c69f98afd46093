"""What attention after the convolutions costs on a CPU: a training step and a prediction of the hybrid network, in turn
with those of C-C-C-C at equal widths.

    python benchmarks/hybrid_step.py          # two minutes; one thread; writes hybrid_step.json

Both networks are atto without channel attention. `common/in_turn.py` says what a step and a prediction are.
"""

from __future__ import annotations

from typing import Any

import torch

from common.in_turn import few_images_network, in_turn, main, prediction_of, step_of
from common.rows import RESULTS

# px, group, strides: photographs (few, in a longer run, more), galaxies (few, more).
CASES = (
    (32, "mirror", (2, 2, 2, 1, 1)),
    (32, "mirror", (2, 1, 2, 2, 1)),
    (32, "none", (2, 2, 2, 1, 1)),
    (65, "d4", (2, 2, 2, 1, 1)),
    (64, "none", (2, 2, 2, 1, 1)),
)
HYBRID = {"transformer": "hybrid", "head_width": 8}


def measure(repeats: int) -> list[dict[str, Any]]:
    rows = []
    for size, group, strides in CASES:
        for dtype in (torch.float32, torch.bfloat16):
            row: dict[str, Any] = {"px": size, "group": group, "strides": strides}
            row["dtype"] = str(dtype).removeprefix("torch.")
            for what, pass_of in (("step", step_of), ("prediction", prediction_of)):
                convolutions, hybrid = (
                    pass_of(few_images_network(size, group=group, strides=strides, **settings), dtype)
                    for settings in ({"layout": "CCCC"}, HYBRID)
                )
                times = in_turn(convolutions, hybrid, repeats)
                row[f"{what}_convolutions_ms"], row[f"{what}_hybrid_ms"] = times["first_ms"], times["second_ms"]
                row[f"{what}_ratio"] = times["ratio"]
            rows.append(row)
            print(row, flush=True)
    return rows


if __name__ == "__main__":
    main(__doc__, RESULTS / "hybrid_step.json", 100, measure)
