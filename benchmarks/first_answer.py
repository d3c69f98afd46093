"""Seconds from the start of a process to its first answer about one image, of an exported graph and of `predict`.

    python benchmarks/first_answer.py            # about two minutes on two cores

A small model is trained on mock galaxies for some epochs and exported to ONNX. Then whole processes are timed in turn,
each with its imports: `predict`, the command of this package; `consumer`, which is examples/consumer.py; and `opened`,
the same without an image, so its imports and the opening of the graph alone. Both answers have to be the same.
`results/first_answer.json` keeps all. The goal of the consumer is half a second.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image

import astroformer
from astroformer.images.sets.mock_galaxies import mock_galaxies
from common.asked_model import ASTROFORMER
from common.machine import code_version, processor
from common.rows import RESULTS
from common.turns import ratios, spread, timed_commands

OUT = RESULTS / "first_answer.json"
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SIDE = 64
SECONDS = 0.5  # the goal
_OPENED = "import sys; sys.path.insert(0, sys.argv[1]); import consumer; consumer.main(sys.argv[2], [])"


def exported(root: Path) -> tuple[Path, Path]:
    """A small model and its graph."""
    trained = astroformer.train(f"mock-galaxies:400x{SIDE}", astroformer.Recipe(epochs=8), out=root / "run", quiet=True)
    graph = root / "graph.onnx"
    export = [*ASTROFORMER, "export", str(root / "run"), "--out", str(graph), "--quiet"]
    subprocess.run(export, check=True, stdout=subprocess.DEVNULL)
    return Path(trained.model), graph


def largest_difference(predicted: Path, consumed: str) -> float:
    """Of a probability that both tables have."""
    with predicted.open(newline="", encoding="utf-8") as stream:
        (want,) = csv.DictReader(stream)
    (found,) = csv.DictReader(consumed.splitlines())
    names = [name for name in found if name.startswith("p:")]
    return max(abs(float(want[name]) - float(found[name])) for name in names)


def measured(rounds: int, threads: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        model, graph = exported(root)
        image, out = root / "image.png", root / "predictions.csv"
        Image.fromarray(mock_galaxies(1, size=SIDE, seed=3)[0][0]).save(image)
        consumer = [sys.executable, str(EXAMPLES / "consumer.py"), str(graph), str(image)]
        predict = [*ASTROFORMER, "predict", str(model), str(image), "--out", str(out), "--overwrite", "--quiet"]
        opened = [sys.executable, "-c", _OPENED, str(EXAMPLES), str(graph)]
        commands = {"predict": lambda: predict, "consumer": lambda: consumer, "opened": lambda: opened}
        timed_commands(commands, rounds=1, threads=threads)  # the files are in memory then, and the kernels built
        seconds = timed_commands(commands, rounds=rounds, threads=threads)
        answer = subprocess.run(consumer, check=True, capture_output=True, text=True).stdout
        return {
            "unit": "s",
            "sides": {side: spread(values) for side, values in seconds.items()},
            "times_as_fast": ratios(seconds["predict"], seconds["consumer"]),
            "largest_difference": largest_difference(out, answer),
            "graph_bytes": graph.stat().st_size,
            "load": round(os.getloadavg()[0], 1),  # of what else ran on the machine in the last minute, and of this
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    asked = parser.parse_args()
    found = measured(asked.rounds, asked.threads)
    if not found["largest_difference"] < 1e-5:
        raise RuntimeError(f"the consumer answers otherwise than predict, by {found['largest_difference']:.2g}")
    kept = {
        "side": SIDE,
        "rounds": asked.rounds,
        "threads": asked.threads,
        **found,
        "processor": processor("cpu"),
        "versions": {name: version(name) for name in ("torch", "onnxruntime", "numpy", "pillow")},
        "code": code_version(),
    }
    OUT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    for side, seconds in found["sides"].items():
        print(f"{side:<10} {seconds['median']:.2f} s ({seconds['min']:.2f} to {seconds['max']:.2f})")
    print(f"{SECONDS} s are the goal of the consumer")


if __name__ == "__main__":
    main()
