"""How fast a trained model answers on a CPU, by torch and by each exported graph, beside timm; in turn.

    python benchmarks/serving.py ../shared/data/galaxy-zoo2          # all rows that serving.json lacks
    python benchmarks/serving.py DATA --rows files --again           # these rows anew
    python benchmarks/serving.py --table                             # the Markdown tables of serving.json

Rows `files`: whole commands, from the start of the process to the CSV, about JPEGs of 424 px (`astroformer predict`,
and what timm's inference.py does, with two loader processes). Rows `one`: a program that has the model loaded is given
the bytes of one JPEG after the other; milliseconds to the probabilities. Rows `batch`, `size` and `threads`: how the
network alone grows with each. The weights are drawn, and one class is always the answer, so that int8 loses none and
no part of the network is kept in float32: speed alone counts here. DATA holds `train` and `valid`, each a folder of
class folders.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from common.asked_model import ASTROFORMER, link_files, make_model, timm_predicts
from common.measured_rows import Measure, all_threads, measure_rows
from common.rows import RESULTS, Row
from common.speed_table import number, shown_ratio
from common.turns import in_turn, python, ratios, spread, timed_commands

OUT = RESULTS / "serving.json"
GRAPHS = [("onnx", "float32"), ("openvino", "float32"), ("openvino", "bf16"), ("openvino", "int8")]
SIDES = ["torch", "torch bfloat16", "onnxruntime", "openvino", "openvino bfloat16", "openvino int8"]
FLOATS = ["torch", "onnxruntime", "openvino"]
MODELS = [("astroformer_atto", 64), ("astroformer_0", 224)]
CALIBRATED = 300  # images that int8 is fitted on


class Asked:
    """A model with all its graphs, and files, in a folder that is gone at the end."""

    def __init__(self, data: Path, variant: str, size: int, every: int) -> None:
        self.variant, self.size = variant, size
        self.classes = sum(path.is_dir() for path in (data / "train").iterdir())
        self._scratch = tempfile.TemporaryDirectory()
        self.folder = Path(self._scratch.name)
        self.files = link_files(self.folder, data, every)
        self.classifier = make_model(self.folder, variant, size, self.classes)
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (CALIBRATED, 8, 8, 3), dtype=np.uint8).repeat(-(-size // 8), 1)
        images = images.repeat(-(-size // 8), 2)
        labels = [self.classifier.classes[0]] * CALIBRATED
        np.savez(self.folder / "own.npz", images=images, labels=labels)
        self._graphs: set[tuple[str, str]] = set()

    def with_graphs(self, graphs: Sequence[tuple[str, str]]) -> Asked:
        """The same, once it has these."""
        from astroformer.export.exporting import export
        from astroformer.images.sources import open_source

        own = open_source(self.folder / "own.npz", classes=self.classifier.classes)
        for to, precision in graphs:
            if (to, precision) not in self._graphs:
                export(self.classifier, own, to=to, precision=precision, takes="prepared")
                self._graphs.add((to, precision))
        return self

    def words(self) -> list[object]:
        return ["--variant", self.variant, "--size", self.size, "--classes", self.classes]


@functools.cache
def asked_of(data: Path, variant: str, size: int, every: int) -> Asked:
    """One for all rows of a process."""
    return Asked(data, variant, size, every)


def files(data: Path, variant: str, size: int, *, every: int, rounds: int, threads: int) -> Row:
    """Images a second of whole commands."""
    asked = asked_of(data, variant, size, every).with_graphs(GRAPHS)
    numbers = iter(range(10**6))

    def ours(side: str) -> list[str]:
        runtime, _, precision = side.partition(" ")
        out = asked.folder / f"{next(numbers)}.csv"
        words = ["--runtime", runtime, "--precision", precision or "float32", "--out", str(out), "--quiet"]
        return [*ASTROFORMER, "predict", str(asked.folder / "model"), str(asked.folder / "images"), *words]

    def timm() -> list[str]:
        return timm_predicts(asked.folder, variant, size, asked.classes, 2, asked.folder / f"{next(numbers)}.csv")

    commands: dict[str, Callable[[], list[str]]] = {"timm": timm}
    commands |= {side: lambda side=side: ours(side) for side in SIDES}  # type: ignore[misc]
    seconds = timed_commands(commands, rounds=rounds, threads=threads)
    return _beside_timm({side: [asked.files / s for s in values] for side, values in seconds.items()}) | {
        "files": asked.files
    }


def one(data: Path, variant: str, size: int, *, rounds: int, threads: int) -> Row:
    """Milliseconds of a request."""
    asked = asked_of(data, variant, size, 100).with_graphs(GRAPHS)
    sides = ["timm", *SIDES]
    commands = {side: python("serving_side.py", "one", side, asked.folder, *asked.words()) for side in sides}
    found = in_turn(commands, rounds=rounds, threads=threads)
    row: Row = {"unit": "ms", "sides": {}}
    for side, measured in found.items():
        times = [value for m in measured for name, value in m.items() if name.startswith("ms ")]
        p50, p99 = np.percentile(times, [50, 99])
        row["sides"][side] = {"p50": round(float(p50), 2), "p99": round(float(p99), 2)}
    return row | {"requests": rounds * 25}


def grown(data: Path, points: dict[str, tuple[str, int, int, int]], rounds: int, seconds: float) -> Row:
    """Images a second of the network alone, at points of (variant, size, batch, threads)."""
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for point, (variant, size, batch, threads) in points.items():
        asked = asked_of(data, variant, size, 100).with_graphs(GRAPHS[:2])
        words = [*asked.words(), "--batch", batch, "--seconds", seconds]
        commands = {side: python("serving_side.py", "batch", side, asked.folder, *words) for side in ("timm", *FLOATS)}
        found = in_turn(commands, rounds=rounds, threads=threads)
        rows[point] = {side: spread([m["images"] / m["seconds"] for m in measured]) for side, measured in found.items()}
    return {"unit": "images/s", "points": rows}


def _beside_timm(rates: dict[str, list[float]]) -> Row:
    return {
        "unit": "images/s",
        "sides": {side: spread(values) for side, values in rates.items()},
        "ratios": {side: ratios(values, rates["timm"]) for side, values in rates.items() if side != "timm"},
        "rounds": len(rates["timm"]),
    }


# -- rows, and how they are shown ----------------------------------------------------------------------------------


def plan(arguments: argparse.Namespace) -> dict[str, Measure]:
    """All rows by name."""
    data, quick = arguments.data, arguments.quick
    threads = all_threads()
    models = [("astroformer_atto", 32)] if quick else MODELS
    rounds, seconds = (1, 0.05) if quick else (arguments.rounds, 1.0)
    found: dict[str, Measure] = {}
    for variant, size in models:
        every = 100 if quick else 1 if size <= 64 else arguments.every
        found[f"files {variant} {size} px"] = lambda v=variant, s=size, e=every: files(  # type: ignore[misc]
            data, v, s, every=e, rounds=rounds, threads=threads
        )
        found[f"one {variant} {size} px"] = lambda v=variant, s=size: one(  # type: ignore[misc]
            data, v, s, rounds=1 if quick else 12, threads=threads
        )
    atto, small = "astroformer_atto", models[0][1]
    batches = (1, 2) if quick else (1, 4, 16, 64)
    sizes = (small, 2 * small) if quick else (32, 64, 128, 256)
    found["batch"] = lambda: grown(data, {f"{b}": (atto, small, b, threads) for b in batches}, rounds, seconds)
    found["size"] = lambda: grown(data, {f"{s} px": (atto, s, 16, threads) for s in sizes}, rounds, seconds)
    found["threads"] = lambda: grown(
        data, {f"{t}": (atto, small, 16, t) for t in sorted({1, threads})}, rounds, seconds
    )
    return found


def table(results: dict[str, Row]) -> str:
    """Markdown tables of the rows."""
    whole = {name: row for name, row in results.items() if "ratios" in row}
    lines = [f"| from files to CSV, images/s | timm | {' | '.join(SIDES)} |", "|---" * (2 + len(SIDES)) + "|"]
    for name, row in whole.items():
        rates = [number(row["sides"][side]["median"]) for side in ("timm", *SIDES)]
        lines.append(f"| {name.removeprefix('files ')}, {row['files']:,} files | {' | '.join(rates)} |")
        shown = [shown_ratio(row["ratios"][side]) for side in SIDES]
        lines.append(f"| times timm (min – max) | | {' | '.join(shown)} |")
    lines += ["", f"| one JPEG, ms: p50, p99 | timm | {' | '.join(SIDES)} |", "|---" * (2 + len(SIDES)) + "|"]
    for name, row in results.items():
        if row["unit"] == "ms":
            times = [f"{row['sides'][side]['p50']:.3g}, {row['sides'][side]['p99']:.3g}" for side in ("timm", *SIDES)]
            lines.append(f"| {name.removeprefix('one ')} | {' | '.join(times)} |")
    lines += ["", "| the network alone, images/s | | timm | torch | onnxruntime | openvino |", "|---" * 6 + "|"]
    for name, row in results.items():
        for point, sides in row.get("points", {}).items():
            lines.append(f"| {name} | {point} | {' | '.join(number(sides[s]['median']) for s in ('timm', *FLOATS))} |")
    return "\n".join([*lines, "", *sorted({f"Measured on: {row['processor']}" for row in results.values()})])


def main() -> None:
    measure_rows(__doc__, OUT, plan, table, rounds=3, every=6)


if __name__ == "__main__":
    main()
