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
import dataclasses
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from astroformer.cache import default_cache
from astroformer.classifier import Classifier, versions
from astroformer.images import ImageStore, measure_statistics, open_source
from astroformer.metrics import evaluate
from astroformer.network import VARIANTS, count_parameters, create_network
from astroformer.training.loop import Loop, predict_store
from astroformer.training.progress import Reporter
from astroformer.training.recipe import Recipe
from astroformer.training.rules import decide
from astroformer.training.train import preprocessing_of
from astroformer.weights import maxxvit_reference

RESULTS = Path(__file__).with_suffix(".jsonl")
PLAIN = {"speed": "plain", "precision": "no"}  # torch's own steps are fastest in float32 on a CPU
PEERS = {"timm C-C-T-T": {"progressive": 0.0, **PLAIN}, "timm ResNet-18": {"learning_rate": 1e-3, **PLAIN}}
MODELS = ("astroformer", *PEERS)
# Built by timm's name; `img_size` stands for the size of the images. The last three are for `symmetry.py`.
TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "timm ResNet-18": ("resnet18", {}),
    "timm ConvNeXt-atto": ("convnext_atto", {}),
    "timm ViT-tiny": (
        "vit_tiny_patch16_224",
        {"img_size": None, "patch_size": 8, "global_pool": "avg", "class_token": False},
    ),
    "timm XCiT-nano": ("xcit_nano_12_p8_224", {"img_size": None}),
}


def network(model: str, recipe: Recipe, classes: int, size: tuple[int, int]) -> nn.Module:
    """The network of a row. The C-C-T-T is timm's MaxxVit with our default's strides, depths and (nearly) size."""
    if model == "astroformer":
        return create_network(
            recipe.model, num_classes=classes, in_chans=recipe.channels, img_size=size, **recipe.network.words()
        )
    drop = recipe.network.stochastic_depth
    if model == "timm C-C-T-T":
        config = dataclasses.replace(
            VARIANTS[recipe.model],
            layout="CCTT",
            num_classes=classes,
            in_chans=recipe.channels,
            img_size=size,
            stochastic_depth=drop,
        )
        return maxxvit_reference(config)
    name, words = TIMM[model]
    if "img_size" in words:
        words = {**words, "img_size": size}
    return timm.create_model(name, num_classes=classes, in_chans=recipe.channels, drop_path_rate=drop, **words)


def macs(module: nn.Module, channels: int, size: tuple[int, int]) -> int:
    module.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(torch.zeros(1, channels, *size))
    return counter.get_total_flops() // 2


@dataclasses.dataclass
class Trained:
    """What a run made, and what it says of itself."""

    classifier: Classifier
    valid: ImageStore
    row: dict[str, object]


def trained(model: str, recipe: Recipe, data: Path) -> Trained:
    """Trains once, from the store that all networks share."""
    with Reporter() as reporter:
        train_images = open_source(data / "train")
        valid_images = open_source(data / "valid", classes=train_images.classes)
        recipe, _ = decide(recipe, train_images)
        preprocessing = preprocessing_of(recipe)
        train = ImageStore.build(train_images, preprocessing, cache=default_cache())
        valid = ImageStore.build(valid_images, preprocessing, cache=default_cache())
        mean, std = measure_statistics(train.base, train.rows)
        preprocessing = dataclasses.replace(preprocessing, mean=mean, std=std)
        size = preprocessing.image_size
        torch.manual_seed(recipe.seed)
        module = network(model, recipe, len(train.classes), size)
        row: dict[str, object] = {
            "parameters": count_parameters(module),
            "macs": macs(module, preprocessing.channels, size),
        }
        reporter.say(f"{model}, seed {recipe.seed}")
        AcceleratorState._reset_state(reset_partial_state=True)  # the row before may have had another precision
        accelerator = Accelerator(cpu=True, mixed_precision=recipe.precision)
        fit = Loop(module, train, valid, preprocessing, recipe, accelerator=accelerator, reporter=reporter).fit()
    row |= {
        "epochs": fit.state.epoch,
        "images_seen": fit.state.images,
        "image_size": list(size),
        "crop": preprocessing.crop,
        "threads": torch.get_num_threads(),
        "processor": platform.processor() or platform.machine(),
        "versions": versions(),
        "finished": time.strftime("%Y-%m-%d %H:%M"),
    }
    return Trained(Classifier(fit.network, preprocessing, train.classes), valid, row)


def run(model: str, seed: int, data: Path, minutes: float) -> dict[str, object]:
    """Trains once and measures once."""
    made = trained(model, Recipe(minutes=minutes, seed=seed, **PEERS.get(model, {})), data)
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
