"""How any network is trained once, from the same store, in the same loop."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from astroformer.cache import default_cache
from astroformer.classifier import Classifier
from astroformer.images import ImageStore, LabelledImages, measure_statistics
from astroformer.network import AstroformerConfig, count_parameters
from astroformer.progress import Reporter
from astroformer.system import pick_device, versions
from astroformer.training.batches import smaller_size
from astroformer.training.measuring import preprocessing_of
from astroformer.training.recipe import Recipe
from astroformer.training.rules import decide
from astroformer.training.single import train_network
from astroformer.training.steps.graphed import why_not_graphed
from common.machine import processor
from common.peers import macs, network, peer_of


@dataclass
class Trained:
    """What a run made, and what it says of itself."""

    classifier: Classifier
    valid: ImageStore
    recipe: Recipe  # decided
    row: dict[str, Any]


def trained(
    model: str,
    recipe: Recipe,
    train_images: LabelledImages,
    valid_images: LabelledImages,
    *,
    flops: float | None = None,
    teacher: Classifier | None = None,
) -> Trained:
    """Trains once, from the store that all networks share.

    A training FLOP count is 3 times that of the forward pass (the backward pass makes two products for each one), with
    2 FLOPs a multiply-accumulate, over all images seen, each at the size it was seen at.

    Args:
        model: a name that `network` knows.
        recipe: what it leaves open is decided from the training images.
        train_images, valid_images: of the same classes; the second choose nothing.
        flops: length of the run, in training FLOPs; the recipe's own length is then not used.
        teacher: of the same images, whose answers are learned in place of labels.
    """
    with Reporter() as reporter:
        if flops is not None:
            recipe = recipe.model_copy(update={"epochs": 1, "minutes": None})
        recipe = decided(recipe, train_images)
        preprocessing = preprocessing_of(recipe, train_images)
        train = ImageStore.build(train_images, preprocessing, cache=default_cache())
        valid = ImageStore.build(valid_images, preprocessing, cache=default_cache())
        peer = peer_of(model)
        mean, std = (peer.statistics if peer else None) or measure_statistics(train.base, train.rows)
        preprocessing = dataclasses.replace(preprocessing, mean=mean, std=std)
        size, channels = preprocessing.image_size, preprocessing.channels
        torch.manual_seed(recipe.seed)
        module = network(model, recipe, len(train.classes), size)
        row: dict[str, Any] = {"parameters": count_parameters(module), "macs": macs(module, channels, size)}
        reporter.say(f"{model}, seed {recipe.seed}")
        if flops is not None:
            recipe = recipe.model_copy(update={"epochs": _epochs(module, recipe, size, len(train), flops)})
        # A single evaluation comes after the last step, on the clock, and nobody asks for it: an image will do.
        watched = valid.subset(np.arange(1)) if recipe.evaluations == 1 else valid
        began = time.process_time()
        fit = train_network(
            module, train, watched, recipe, preprocessing=preprocessing, teacher=teacher, reporter=reporter
        )
        cpu_seconds = time.process_time() - began
        row["training_flops"] = sum(6 * macs(module, channels, s) * n for s, n in fit.seen.items())
    row |= {
        "epochs": fit.state.epoch,
        "images_seen": fit.state.images,
        "minutes_taken": round(fit.state.elapsed / 60, 4),
        # Of one core. Below the number of threads others took the cores.
        "cpu_share": round(cpu_seconds / max(fit.state.elapsed, 1e-9), 3),
        "image_size": list(size),
        "crop": preprocessing.crop,
        "threads": torch.get_num_threads(),
        "processor": processor(recipe.device),
        "versions": versions(),
        "finished": time.strftime("%Y-%m-%d %H:%M"),
    }
    return Trained(Classifier(fit.network, preprocessing, train.classes), valid, recipe, row)


def decided(recipe: Recipe, images: LabelledImages) -> Recipe:
    """The recipe with what it leaves open. Of a run by the clock as the machine has it, of others as on a CPU."""
    if recipe.minutes is not None or pick_device(recipe.device) == "cpu":
        return decide(recipe, images)[0]
    precision = "no" if recipe.precision == "auto" else recipe.precision
    alike = {"device": "cpu", "speed": "plain", "precision": precision}
    made, _ = decide(recipe.model_copy(update=alike), images)
    speed = "graph" if why_not_graphed(made, "cuda") is None else "plain"
    return made.model_copy(update={"device": "cuda", "speed": speed})


def _epochs(module: nn.Module, recipe: Recipe, size: tuple[int, int], images: int, flops: float) -> int:
    """How many epochs take so many training FLOPs: to the nearest one, at least one."""
    channels, share = recipe.channels, recipe.progressive
    assert channels is not None, "the recipe is not decided"
    config = getattr(module, "config", None)
    small = smaller_size(size, config if isinstance(config, AstroformerConfig) else None)
    each = macs(module, channels, size)
    if small is not None and share > 0:
        each = (1 - share) * each + share * macs(module, channels, small)
    return max(1, round(flops / (6 * each * images)))
