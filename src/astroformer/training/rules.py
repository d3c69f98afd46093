"""How the rules of `defaults.py` decide what a recipe leaves open, before a run begins.

They see the training images and the device alone: never labels, never validation images. Each is a function of the
recipe as it is decided so far and of the facts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from astroformer.augmentation.settings import Augment
from astroformer.errors import UserError
from astroformer.images.bands import Bands
from astroformer.images.labelled import LabelledImages
from astroformer.images.preprocessing import Missing
from astroformer.images.scaling import check_measurable
from astroformer.images.units import kind_of_pixels
from astroformer.network import VARIANTS, AstroformerConfig
from astroformer.system import bfloat16_instructions, pick_device
from astroformer.training.defaults import (
    ATTENTION_IMAGES,
    BATCH_DIVISOR,
    CONVOLUTIONAL_IMAGES,
    HYBRID_HEAD_WIDTH,
    LARGEST_BATCH,
    LARGEST_SIDE,
    LATE_SIDE,
    LATE_STRIDES,
    LEARNING_RATES,
    LEAST_BATCH,
    LEAST_SIDE,
    MINUTES,
    MODELS,
    REFERENCE_WIDTH,
    RULES,
    SIDE_STEP,
    SMALL_STEP_PIXELS,
    SMOOTHING,
    TIED_IMAGES,
)
from astroformer.training.image_sample import SeenImage, common_channels, measure_crop, sample_images
from astroformer.training.objective import smoothing_of
from astroformer.training.recipe import NetworkSettings, Recipe, make_recipe
from astroformer.training.steps.fused import why_not_fused
from astroformer.training.steps.graphed import why_not_graphed


@dataclass(frozen=True)
class Facts:
    """What the rules go by, beside the recipe.

    Attributes:
        given: the recipe as the user gave it.
        images: how many there are to train on.
        sample: what was seen of some of them.
        device: that trains, "cpu" or "cuda".
        votes: whether the targets are votes, whatever these are.
        bands: of the images, where their source says what they are.
        masks: whether the source marks pixels without a value.
    """

    given: Recipe
    images: int
    sample: Sequence[SeenImage]
    device: str
    votes: bool = False
    bands: Bands | None = None
    masks: bool = False

    @property
    def side(self) -> float:
        """The median of the shorter sides, in px."""
        return float(np.median([seen.side for seen in self.sample]))

    @property
    def network_is_open(self) -> bool:
        """Whether the user asks nothing of the kind of the network, so that the rules may change it."""
        given = self.given.network
        kind = (given.layout, given.channel_attention, given.transformer, given.head_width, given.relative_bias)
        kind_is_open = all(word is None for word in kind)
        return self.given.model == "auto" and kind_is_open


@dataclass(frozen=True)
class Decision:
    """What a rule decided.

    Attributes:
        settings: of the recipe.
        network: settings of its network.
        said: the values in the sentence of the rule (`Rule.said`); None where it is not worth a line.
    """

    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    network: dict[str, Any] = dataclasses.field(default_factory=dict)
    said: dict[str, Any] | None = None


_NOTHING = Decision()


def decide(recipe: Recipe, images: LabelledImages) -> tuple[Recipe, list[str]]:
    """Fills in what `recipe` leaves open, rule by rule as `defaults.RULES` has them.

    Returns:
        The recipe with every open setting filled in, and the sentences that a run prints. (Weight decay stays open: it
        is set by the length of the run; and so do the parts of a batch, which follow from the memory.)

    Raises:
        UserError: no sampled image can be read; their channels differ in a way that needs a decision; `views` are given
            where none are averaged; or something is asked for that is no longer trained, or can't be here.
    """
    if recipe.network.equivariance == "input":
        # Runs that began with it are resumed, so it is still a word of the recipe.
        raise UserError(
            "network.equivariance is 'input', which is no longer trained, because it has shown nothing that 'anchor' "
            "lacks; choose anchor."
        )
    device = pick_device(recipe.device)
    sample = sample_images(images, device, recipe.missing or _missing_of(images.masks))
    facts = Facts(recipe, len(images), sample, device, images.votes_NK is not None, images.bands, images.masks)
    sentences: list[str] = []
    decided = recipe
    for name, rule in RULES.items():
        if name not in _DECIDERS:
            continue
        decision = _DECIDERS[name](decided, facts)
        settings = dict(decision.settings)
        if decision.network:
            settings["network"] = decided.network.model_copy(update=decision.network)
        decided = decided.model_copy(update=settings)
        if decision.said is not None:
            sentences.append(rule.said.format(**decision.said))
    # Checked as a whole once more: what was decided may not go with what was given.
    return make_recipe(decided.model_dump()), sentences


def _length(recipe: Recipe, facts: Facts) -> Decision:
    if recipe.epochs is not None or recipe.minutes is not None:
        return _NOTHING
    return Decision({"minutes": MINUTES}, said={"minutes": MINUTES})


def _channels(recipe: Recipe, facts: Facts) -> Decision:
    bands = facts.bands
    if bands is not None and not (bands.rgb and recipe.channels == 1):
        if recipe.channels not in (None, len(bands)):
            raise UserError(
                f"channels is {recipe.channels}, and the images have the bands {bands}, of which no others are made; "
                "leave channels out, or choose bands where the source is named."
            )
        named = f"the band{'s' if len(bands) > 1 else ''} {bands}"
        return Decision({"channels": len(bands)}, said={"channels": named})
    if recipe.channels is not None:
        return _NOTHING
    channels = common_channels(facts.sample)
    return Decision(
        {"channels": channels}, said=None if channels in (1, 3) else {"channels": f"{channels} bands an image"}
    )


def _pixels(recipe: Recipe, facts: Facts) -> Decision:
    found = sorted({kind_of_pixels(seen.dtype) for seen in facts.sample})
    if recipe.pixels == "uint16" and recipe.white is not None and "float" not in found:
        return _NOTHING  # uint8 is converted without a guess, and images of --valid may be uint16
    if recipe.pixels is not None:
        if recipe.pixels not in found:
            raise UserError(
                f"pixels are {recipe.pixels}, by the recipe or the model that the run starts from, and those of the "
                f"images are {' and '.join(found)}. Convert the images, or choose pixels {found[0]} and start afresh."
            )
        return _NOTHING
    if found == ["uint16", "uint8"] and recipe.white is not None:
        return Decision({"pixels": "uint16"})
    if found == ["uint8"] and recipe.white not in (None, 255):
        raise UserError(
            f"white is {recipe.white:g}, but the images are uint8, whose white is 255; leave --white out, or add "
            "--pixels uint16 if it is the white of uint16 images to validate on."
        )
    if len(found) > 1:
        white = "" if "float" in found else "state the value that is white in uint16 (--white 4095 for 12 bits), "
        raise UserError(
            f"some images have pixels of {', some of '.join(found)}, and the same number means another brightness in "
            f"them. Convert them to one type, {white}or leave the others out with --pixels {found[0]}."
        )
    unknown_white = found == ["uint16"] and recipe.white is None
    return Decision({"pixels": found[0]}, said={} if unknown_white else None)


def _missing_of(masks: bool) -> Missing:
    return "median" if masks else "refuse"


def _missing_pixels(recipe: Recipe, facts: Facts) -> Decision:
    if recipe.missing is not None:
        return _NOTHING
    return Decision({"missing": _missing_of(facts.masks)}, said={} if facts.masks else None)


def _scaling(recipe: Recipe, facts: Facts) -> Decision:
    if recipe.scaling is not None:
        check_measurable(recipe.scaling)
        return _NOTHING
    of_sky = recipe.pixels == "float" and (facts.masks or facts.bands is not None)
    return Decision({"scaling": "asinh" if of_sky else "none"}, said={} if of_sky else None)


def _storage(recipe: Recipe, facts: Facts) -> Decision:
    if recipe.storage is not None:
        return _NOTHING
    return Decision({"storage": "uint8" if recipe.pixels == "uint8" else "float16"})


def _crop(recipe: Recipe, facts: Facts) -> Decision:
    if recipe.crop is not None:
        return _NOTHING
    crop = measure_crop([seen.reduced_HW for seen in facts.sample])
    return Decision({"crop": crop}, said={"crop": crop} if crop < 1 else None)


def _model(recipe: Recipe, facts: Facts) -> Decision:
    return Decision({"model": MODELS[facts.device]}) if recipe.model == "auto" else _NOTHING


def _tied_weights(recipe: Recipe, facts: Facts) -> Decision:
    """With 500 images that gains much or costs nothing, with 2,000 it costs nothing, with 5,000 it loses."""
    given, group = recipe.network, _augmentation_group(recipe.augment)
    # Given widths may be no multiple of the group's order, and the phases of anchor and input do not turn.
    can_be = given.group is None and given.widths is None and given.equivariance not in ("anchor", "input")
    if not facts.network_is_open or facts.images > TIED_IMAGES or not can_be or group == "none":
        return _NOTHING
    follow = {"d4": "turn and flip", "mirror": "flip left to right"}[group]
    return Decision(network={"group": group}, said={"follow": follow})


def _layout(recipe: Recipe, facts: Facts) -> Decision:
    if not facts.network_is_open or facts.images > CONVOLUTIONAL_IMAGES:
        return _NOTHING
    words: dict[str, Any] = {"layout": "CCCC", "channel_attention": "none"}
    attention = ""
    if recipe.network.group == "d4" and facts.images >= ATTENTION_IMAGES:
        words |= {"layout": "CCCT", "transformer": "hybrid", "head_width": HYBRID_HEAD_WIDTH}
        attention = ", attention after them"
    return Decision(network=words, said={"images": facts.images, "attention": attention})


def _strides(recipe: Recipe, facts: Facts) -> Decision:
    """Small images are halved in S1, S2 and S3 instead of the stem, S1 and S2.

    So the first maps are twice as fine, and the last ones are as they were. On a CPU a step takes 1.7 times as long, or
    1.4 times as long where the stem halves and S1 does not.
    """
    if facts.given.model != "auto" or recipe.network.strides is not None:
        return _NOTHING
    size = recipe.image_size
    side = facts.side * (recipe.crop or 1.0) if size is None else size if isinstance(size, int) else min(size)
    seconds = math.inf if facts.device == "cuda" else 60 * (recipe.minutes or 0.0) / facts.images
    late = next((strides for least, strides in LATE_STRIDES if seconds >= least), None)
    if late is None or side >= LATE_SIDE:
        return _NOTHING
    usual = " ".join(map(str, VARIANTS[recipe.model].strides))
    return Decision(network={"strides": late}, said={"side": side, "usual": usual})


def _image_size(recipe: Recipe, facts: Facts) -> Decision:
    if recipe.image_size is not None:
        return _NOTHING
    kept, largest = facts.side * (recipe.crop or 1.0), LARGEST_SIDE[facts.device]
    config = _network_config(recipe.model, recipe.network)
    multiple = math.lcm(SIDE_STEP, config.size_multiple)
    size = max(LEAST_SIDE, int(min(kept, largest)) // multiple * multiple)
    if config.group != "none":
        # An image may be enlarged by a pixel for the sake of d4, where exact ties save three of four views, but not for
        # that of a mirror, where they save one of two.
        limit = int(min(kept + (config.group == "d4"), largest))
        exact = (limit - 1) // config.total_stride * config.total_stride + 1
        size = exact if exact >= LEAST_SIDE else size
    return Decision({"image_size": size})


def _answers(recipe: Recipe, facts: Facts) -> Decision:
    network = recipe.network
    symmetry: str | None = network.symmetry
    how = None
    if symmetry is None:
        answers = network.answers()
        own = answers.exact_group(_network_config(recipe.model, network), recipe.sides)
        own = own if network.views is None else "none"  # who gives a number of views wants them
        symmetry, how = _symmetry(_augmentation_group(recipe.augment), own, answers.views)
    if network.views is not None and symmetry != "shift+d4":
        raise UserError(
            f"network.views is {network.views}, but with symmetry '{symmetry}' no turned views are averaged; "
            "set network.symmetry to shift+d4 or leave views out."
        )
    return Decision(network={"symmetry": symmetry}, said=None if how is None else {"how": how})


def _batch_size(recipe: Recipe, facts: Facts) -> Decision:
    if recipe.batch_size is not None:
        return _NOTHING
    size = min(max(round(facts.images / BATCH_DIVISOR), LEAST_BATCH), LARGEST_BATCH)
    return Decision({"batch_size": max(size, recipe.parts)})  # never fewer than the parts that were asked for


def _learning_rate(recipe: Recipe, facts: Facts) -> Decision:
    if recipe.learning_rate is not None:
        return _NOTHING
    rate = LEARNING_RATES[recipe.optimizer] * math.sqrt(min(1.0, recipe.batch / LARGEST_BATCH))
    width = _network_config(recipe.model, recipe.network).widths[-1]
    return Decision({"learning_rate": rate * REFERENCE_WIDTH / width if recipe.optimizer == "adamw" else rate})


def _label_smoothing(recipe: Recipe, facts: Facts) -> Decision:
    if recipe.label_smoothing is not None:
        return _NOTHING
    smoothing = smoothing_of(recipe, facts.votes)
    return Decision({"label_smoothing": smoothing}, said={"smoothing": SMOOTHING} if facts.votes else None)


def _speed(recipe: Recipe, facts: Facts) -> Decision:
    not_graphed, not_fused = (
        why_not_graphed(recipe, facts.device),
        _why_not_fused(facts.device, recipe.network.channel_attention),
    )
    if recipe.speed == "graph" and not_graphed is not None:
        raise UserError(f"speed can't be graph here: {not_graphed}; choose plain, compiled or auto.")
    if recipe.speed == "fused" and not_fused is not None:
        raise UserError(f"speed can't be fused here: {not_fused}; mend that, or choose plain, compiled or auto.")
    if recipe.speed != "auto":
        return _NOTHING
    return Decision({"speed": "fused" if not_fused is None else "graph" if not_graphed is None else "plain"})


def _why_not_fused(device: str, channel_attention: str | None) -> str | None:
    """Why steps of this recipe can't be fused, as half a sentence; None where they can."""
    if device != "cpu":
        return "it is for the CPU, and this run is on CUDA"
    reason = why_not_fused()
    if reason is None and channel_attention == "cbam":
        return "blocks with CBAM have no fused pass"
    return reason


def _precision(recipe: Recipe, facts: Facts) -> Decision:
    """`precision`, and the sentence for both it and `speed`.

    On a CPU it follows from its instructions alone, so that the same command makes the same model, however busy the
    machine is. On a GPU a small step of the default network is bound by the number of its operations.
    """
    precision, reason = recipe.precision, None
    if facts.device == "cpu" and facts.given.speed == "auto":
        reason = _why_not_fused(facts.device, recipe.network.channel_attention)
    if precision == "auto" and facts.device == "cuda":
        small = facts.given.model == "auto" and recipe.batch * math.prod(recipe.sides) < SMALL_STEP_PIXELS
        precision = "bf16" if torch.cuda.is_bf16_supported() and not small else "no"
    elif precision == "auto":
        found = bfloat16_instructions()
        # Plain steps in bfloat16 are no faster: torch falls back to slow convolutions.
        precision = "bf16" if recipe.speed == "fused" and found is not None else "no"
        reason = reason or f"this CPU has {found or 'no instructions'} for bfloat16 matrices"
    if "auto" not in (facts.given.speed, facts.given.precision):
        return _NOTHING
    name = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}[precision]
    why = "" if reason is None else f" ({reason})"
    return Decision({"precision": precision}, said={"speed": recipe.speed, "precision": name, "why": why})


_DECIDERS: dict[str, Callable[[Recipe, Facts], Decision]] = {
    "length": _length,
    "channels": _channels,
    "pixels": _pixels,
    "missing pixels": _missing_pixels,
    "scaling": _scaling,
    "storage": _storage,
    "crop": _crop,
    "model": _model,
    "tied weights": _tied_weights,
    "layout": _layout,
    "strides": _strides,
    "image size": _image_size,
    "answers": _answers,
    "batch size": _batch_size,
    "learning rate": _learning_rate,
    "label smoothing": _label_smoothing,
    "speed": _speed,
    "precision": _precision,
}
"""The functions of the rules that are decided here, by name; other places decide the others (`Rule.where`)."""


def _network_config(model: str, network: NetworkSettings) -> AstroformerConfig:
    return dataclasses.replace(VARIANTS[model], **network.changes())


def _augmentation_group(augment: Augment) -> str:
    """The group of flips and turns that the augmentation draws from, so that its elements are one image to the network.

    "none", "mirror" (left and right) or "d4" (quarter turns and flips).
    """
    if augment.quarter_turns and (augment.flip_horizontal or augment.flip_vertical):
        return "d4"
    return "mirror" if augment.flip_horizontal else "none"


def _symmetry(wanted: str, own: str, views: int) -> tuple[str, str | None]:
    """The symmetry that answers get by a mean over views, and what is said of it.

    Args:
        wanted: the group under which images are the same.
        own: the group under which the network answers alike by itself, exactly.
        views: number of views that `shift+d4` averages.
    """
    if wanted in ("none", own) or own == "d4":
        return "shift", None
    if wanted == "mirror":
        return "shift+mirror", "averaged over an image and its mirror image"
    if views == 1:
        return "shift+d4", "of one view, which the image chooses among its turns and flips"
    return "shift+d4", f"averaged over {views} turned and mirrored views of an image"
