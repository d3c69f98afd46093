"""Galaxy Zoo 2, 400 galaxies a class, ten minutes of training on two CPU cores: our default against two timm networks.

    python benchmarks/galaxy_zoo2.py ../shared/data/galaxy-zoo2

All three train in the same loop from the same decoded store with the same recipe (augmentation, optimizer, schedule by
the clock, averaged weights). Only the network differs, and what `PEERS` says: timm's MaxxVit takes one image size, so
it sees full-size images from the start, ResNet-18 has the lower learning rate that is usual for it, and both run as
torch has them, in float32. Nothing is chosen on the validation images within a run: the network at the end of the
schedule is what is measured. One row a run is appended to `galaxy_zoo2.jsonl`; rows that are there are not run again,
so the script resumes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from astroformer.images import open_source
from astroformer.metrics import evaluate
from astroformer.training.loop import predict_store
from astroformer.training.recipe import Recipe
from peers import OURS, PLAIN, Trained, trained
from precision import FIRST_DEFAULTS

RESULTS = Path(__file__).with_suffix(".jsonl")
PEERS = {"timm C-C-T-T": {"progressive": 0.0, **PLAIN}, "timm ResNet-18": {"learning_rate": 1e-3, **PLAIN}}
MODELS = (OURS, *PEERS)


def trained_on(data: Path, model: str, recipe: Recipe) -> Trained:
    """Trains once on `data`/train, with `data`/valid to be measured on."""
    train = open_source(data / "train")
    return trained(model, recipe, train, open_source(data / "valid", classes=train.classes))


def run(model: str, seed: int, data: Path, minutes: float) -> dict[str, object]:
    """Trains once and measures once."""
    made = trained_on(data, model, Recipe(minutes=minutes, seed=seed, **{**FIRST_DEFAULTS, **PEERS.get(model, {})}))
    classes = made.classifier.classes
    evaluation = evaluate(made.valid.labels, predict_store(made.classifier, made.valid), classes)
    return {
        "model": model,
        "seed": seed,
        "minutes": minutes,
        **{name: round(metric.value, 5) for name, metric in evaluation.metrics.items()},
        "recall": {name: round(float(r), 4) for name, r in zip(classes, _recall(evaluation.confusion_KK), strict=True)},
        "images_per_second": round(made.row.pop("images_seen") / (60 * minutes), 1),
        **made.row,
    }


def _recall(confusion_KK: np.ndarray) -> np.ndarray:
    return np.diag(confusion_KK) / confusion_KK.sum(1)


def rows() -> list[dict[str, object]]:
    if not RESULTS.exists():
        return []
    return [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines() if line]


def table(minutes: float) -> str:
    """Mean ± standard deviation over the seeds, as Markdown."""
    lines = [
        "| network | parameters M | MMAC | images/s | epochs | balanced accuracy | NLL | n |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for model in MODELS:
        some = [row for row in rows() if row["model"] == model and row["minutes"] == minutes]
        if some:
            accuracy = 100 * np.array([row["balanced_accuracy"] for row in some])
            nll = np.array([row["nll"] for row in some])
            spread = f" ± {accuracy.std(ddof=1):.1f}" if len(some) > 1 else ""
            first = some[0]
            lines.append(
                f"| {model} | {first['parameters'] / 1e6:.2f} | {first['macs'] / 1e6:.0f} "
                f"| {np.median([row['images_per_second'] for row in some]):.0f} "
                f"| {np.median([row['epochs'] for row in some]):.0f} "
                f"| {accuracy.mean():.1f}{spread} | {nll.mean():.3f} | {len(some)} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with train/ and valid/ of class folders")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    arguments = parser.parse_args()
    for seed in range(arguments.seeds):
        for model in arguments.models:
            done = {(row["model"], row["seed"], row["minutes"]) for row in rows()}
            if (model, seed, arguments.minutes) not in done:
                row = run(model, seed, arguments.data, arguments.minutes)
                with RESULTS.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(row) + "\n")
    print(table(arguments.minutes))


if __name__ == "__main__":
    main()
