"""What tying weights under flips and turns does to the time of a training step on a CPU, in turn with free weights.

    python benchmarks/tied_step.py          # about a minute; one thread; writes tied_step.json

The network is atto with convolutions alone and no channel attention, in float32. `common/in_turn.py` says what a step
is.
"""

from __future__ import annotations

from typing import Any

from common.in_turn import few_images_network, in_turn, main, step_of
from common.rows import RESULTS

CASES = ((32, "mirror"), (57, "d4"))  # px, group


def measure(repeats: int) -> list[dict[str, Any]]:
    rows = []
    for size, group in CASES:
        free, tied = (step_of(few_images_network(size, layout="CCCC", group=kind)) for kind in ("none", group))
        times = in_turn(free, tied, repeats)
        row = {"free_ms": times["first_ms"], "tied_ms": times["second_ms"], "ratio": times["ratio"]}
        rows.append({"px": size, "group": group, **row})
        print(rows[-1], flush=True)
    return rows


if __name__ == "__main__":
    main(__doc__, RESULTS / "tied_step.json", 200, measure)
