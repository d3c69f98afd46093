"""The rules that decide what a recipe leaves open, from the training images and the device alone (never labels,
never validation images). `decide` returns the recipe with every open setting filled in, and a sentence for each.
"""

from __future__ import annotations

import dataclasses
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from astroformer.allocator import keep_freed_memory
from astroformer.augmentation.settings import Augment
from astroformer.errors import UserError
from astroformer.images.labelled import LabelledImages
from astroformer.images.reading import UnreadableImage
from astroformer.network import VARIANTS, AstroformerConfig
from astroformer.system import matrix_rates, pick_device, usable_cores
from astroformer.training.recipe import NetworkSettings, Recipe, make_recipe
from astroformer.training.steps.fused import why_not_fused
from astroformer.training.steps.graphed import why_not_graphed

# A sample is enough for shapes, channels and where the frames vary; it costs about half a second.
_SAMPLE = 256
_GRID = 48  # px a side of the reduced frames that the crop is measured on
_CROP_SHARE = 0.9
_MIDDLE = 1.1  # times as much as outside has to differ in the middle half of each side, or nothing is special about it
_BATCH = 64  # images; the largest batch by the rule
LEARNING_RATES = {"adamw": 4e-3, "sgd": 0.05, "muon": 2e-3}  # with it; adamw: of a network as narrow as atto
_NARROW = VARIANTS["astroformer_atto"].widths[-1]
_DEFAULT_MINUTES = 10.0
# Up to so many images to train on the last stage is convolutional too, and no block has channel attention: level with
# the paper's network or ahead of it in every comparison so far, which had no more images (docs/experiments.md).
_FEW = 5000
_FEW_WORDS = {"layout": "CCCC", "channel_attention": "none"}
# Up to so many the network's weights are tied under the flips and turns of the augmentation: at 500 that gains much or
# costs nothing, at 1,000 and 2,000 nothing, at 5,000 it loses (docs/experiments.md).
_VERY_FEW = 1000
# Images of fewer px a side are halved in S1, S2 and S3 instead of the stem, S1 and S2: the first maps are twice as fine
# and the last as they were. A step takes 1.7 times as long on a CPU, 1.4 times where the stem halves and S1 does not:
# either pays in runs of so many seconds an image by the clock (docs/experiments.md).
_SMALL_IMAGE = 48
_LATE_STRIDES = ((1.0, (1, 2, 2, 2, 1)), (0.5, (2, 1, 2, 2, 1)))
# On a GPU steps of nano on fewer px are made in float32, as bfloat16 adds operations.
_SMALL_STEP = 2**17
_WORTHWHILE = 1.3  # times as fast bfloat16 products have to be
_Settled: TypeAlias = tuple[dict[str, Any], list[str]]  # settings that were open, and what is said of them


def decide(recipe: Recipe, images: LabelledImages) -> tuple[Recipe, list[str]]:
    """Fills in what `recipe` leaves open.

    - length: 10 minutes.
    - channels: 1 when every sampled image is grey, else 3 (or what they all have).
    - storage: uint8 when every sampled image has 8 bits, else float16.
    - crop: the central share of each side, at least half and in steps of 5 %, in which a square that holds 90 % of what
      differs between images can turn (`measure_crop`); cutouts centred on a source get closer to it, photographs stay
      whole.
    - image size: the side in px of what the crop keeps, at most 64 on a CPU and 128 on a GPU, in steps of 8 (of
      the product of the strides, for an equivariant network that needs such sizes); with a group one more than a
      multiple of that product, such as 57, so that the network has its symmetry exactly, but never below 32.
    - model: atto on a CPU, nano on a GPU. With strides of 1, 2, 2, 2, 1 for images of less than 48 px a side, on a CPU
      in runs of at least 1 s an image by the clock, and of 2, 1, 2, 2, 1 in runs of at least half a second. Where
      nothing of the network is asked for, up to 5,000 images are learned by convolutions alone, without channel
      attention, and up to 1,000 with weights that are tied under the flips and turns of the augmentation
      (`network.group`); more by the paper's C-C-C-T.
    - symmetry of the answers: that of the augmentation. Where it turns by quarters and flips, the mean over turned and
      mirrored views (shift+d4); where it swaps left and right, over the image and its mirror image (shift+mirror); no
      mean where the network answers alike of all of them.
    - speed and precision: fused kernels on a CPU that can have them, in bfloat16 where its matrix products are at least
      1.3 times as fast; on a GPU steps recorded as CUDA graphs, in bfloat16, but those of nano by default in
      float32 where a batch has less than 2^17 px (8 images of 128 px, 128 of 32 px).
    - batch size: a 64th of the images, at least 16 and at most 64.
    - learning rate: sgd 0.05, muon 2e-3, adamw 4e-3 for atto, for batches of 64 and more; below as the root of the
      batch size (Malladi et al., arXiv 2205.10287); of adamw falling as 1 / width of S4 for wider networks, as the best
      rate of Adam does (Yang et al., arXiv 2203.03466).
    - weight decay stays open: the loop sets it by the length of the run (`optimizer.decay_by_length`).

    Raises:
        UserError: no sampled image can be read, their channels differ in a way that needs a decision, or `views` are
            given where none are averaged.
    """
    device = pick_device(recipe.device)
    sample = _sample(images, device)
    side = float(np.median([seen.side for seen in sample]))
    decided, said = recipe, []

    def settle(settings: dict[str, Any], sentences: list[str]) -> None:
        nonlocal decided
        decided = decided.model_copy(update=settings)
        said.extend(sentences)

    if recipe.epochs is None and recipe.minutes is None:
        length = f"{_DEFAULT_MINUTES:g} minutes (--minutes or --epochs to change)"
        settle({"minutes": _DEFAULT_MINUTES}, [length])
    settle(*_preprocessing(decided, sample))
    settle(*_network(decided, len(images), side, device))
    settle(*_pace(decided, len(images)))
    settle(*_step(decided, device, by_default=recipe.model == "auto"))
    # Checked as a whole once more: what was decided may not go with what was given.
    return make_recipe(decided.model_dump()), said


def _sample(images: LabelledImages, device: str) -> list[_Seen]:
    """What the rules see of some of the images.

    Raises:
        UserError: none of them can be read.
    """

    def see(i: int) -> _Seen | None:
        try:
            return _seen(images.read(i))
        except UnreadableImage:
            return None  # the store reports every unreadable file

    if device == "cpu":
        keep_freed_memory()  # as training will: images that come and go take the same pages
    chosen = np.unique(np.linspace(0, len(images) - 1, _SAMPLE).astype(int)).tolist()
    with ThreadPoolExecutor(usable_cores()) as pool:
        sample = [seen for seen in pool.map(see, chosen) if seen is not None]
    if not sample:
        raise UserError(f"none of the images of '{images.source}' can be read.")
    return sample


def _preprocessing(recipe: Recipe, sample: list[_Seen]) -> _Settled:
    """Channels, storage and crop."""
    settings: dict[str, Any] = {}
    said: list[str] = []
    if recipe.channels is None:
        settings["channels"] = _channels(sample)
    if recipe.storage is None:
        settings["storage"] = "uint8" if all(seen.dtype == np.uint8 for seen in sample) else "float16"
    if recipe.crop is None:
        crop = settings["crop"] = measure_crop([seen.reduced_HW for seen in sample])
        if crop < 1:
            said.append(f"the images vary in the central {crop:.0%} of each side: cropped to it (--crop 1 to keep all)")
    return settings, said


def _network(recipe: Recipe, images: int, side: float, device: str) -> _Settled:
    """Model, what the rules change of it, image size, and the symmetry of the answers, for so many images of `side` px,
    which the crop has yet to take its share of."""
    said: list[str] = []
    kept = side * (recipe.crop or 1.0)
    model, network, size = recipe.model, recipe.network, recipe.image_size
    if model == "auto":
        model = "astroformer_atto" if device == "cpu" else "astroformer_nano"
        shown = kept if size is None else size if isinstance(size, int) else min(size)
        network, said = _small_data_network(recipe, model, images, shown, device)
    config = _config(model, network)
    if size is None:
        multiple = math.lcm(8, config.size_multiple)
        largest = 64 if device == "cpu" else 128
        size = max(32, int(min(kept, largest)) // multiple * multiple)
        if config.group != "none":
            # Enlarged by a pixel for d4, which saves three of four views, not for a mirror, which saves one of two.
            limit = int(min(kept + (config.group == "d4"), largest))
            exact = (limit - 1) // config.total_stride * config.total_stride + 1
            size = exact if exact >= 32 else size
    if network.symmetry is None:
        own = config.exact_group((size, size) if isinstance(size, int) else size)
        own = own if network.views is None else "none"  # who gives their number wants them
        symmetry, sentence = _symmetry(_invariance(recipe.augment), own, network.views or config.views)
        network = network.model_copy(update={"symmetry": symmetry})
        said += [sentence] if sentence else []
    if network.views is not None and network.symmetry != "shift+d4":
        raise UserError(
            f"network.views is {network.views}, but with symmetry '{network.symmetry}' no turned views are averaged; "
            "set network.symmetry to shift+d4 or leave views out."
        )
    return {"model": model, "network": network, "image_size": size}, said


def _small_data_network(
    recipe: Recipe, model: str, images: int, side: float, device: str
) -> tuple[NetworkSettings, list[str]]:
    """What the rules change of `model`, which nobody asked for, where images are few or small (`side` px)."""
    network, said = recipe.network, []
    if images <= _FEW and (network.layout, network.channel_attention, network.relative_bias) == (None,) * 3:
        network = network.model_copy(update=_FEW_WORDS)
        said.append(
            f"{images:,} images: convolutions in all stages, without channel attention (--network.layout CCCT for the "
            "paper's network)"
        )
        group = _invariance(recipe.augment)
        free = network.group is None and network.widths is None and network.equivariance not in ("anchor", "input")
        if images <= _VERY_FEW and free and group != "none":
            network = network.model_copy(update={"group": group})
            said.append(f"weights: tied so that maps {_FOLLOW[group]} with the image (--network.group none: free)")
    seconds = math.inf if device == "cuda" else 60 * (recipe.minutes or 0.0) / images
    late = next((strides for least, strides in _LATE_STRIDES if seconds >= least), None)
    if late is not None and network.strides is None and side < _SMALL_IMAGE:
        network = network.model_copy(update={"strides": late})
        usual = " ".join(map(str, VARIANTS[model].strides))
        said.append(f"images of {side:.0f} px: halved late (--network.strides {usual} for the usual maps)")
    return network, said


def _config(model: str, network: NetworkSettings) -> AstroformerConfig:
    return dataclasses.replace(VARIANTS[model], **network.words())


def _pace(recipe: Recipe, images: int) -> _Settled:
    """Batch size and learning rate."""
    settings: dict[str, Any] = {}
    batch_size = recipe.batch_size
    if batch_size is None:
        batch_size = min(max(round(images / 64), 16), _BATCH)
        # Never fewer than the parts that were asked for.
        batch_size = settings["batch_size"] = max(batch_size, recipe.parts)
    if recipe.learning_rate is None:
        rate = LEARNING_RATES[recipe.optimizer] * math.sqrt(min(1.0, batch_size / _BATCH))
        width = _config(recipe.model, recipe.network).widths[-1]
        settings["learning_rate"] = rate * _NARROW / width if recipe.optimizer == "adamw" else rate
    return settings, []


_FOLLOW = {"d4": "turn and flip", "mirror": "flip left to right"}


def _invariance(augment: Augment) -> str:
    """The group of flips and turns under which training takes images for the same, none, mirror or d4."""
    if augment.quarter_turns and (augment.flip_horizontal or augment.flip_vertical):
        return "d4"
    return "mirror" if augment.flip_horizontal else "none"


def _symmetry(wanted: str, own: str, views: int) -> tuple[str, str | None]:
    """The symmetry that answers get by a mean over views, and the line that says so.

    Args:
        wanted: the group under which images are the same.
        own: the group under which the network answers alike, exactly.
        views: of `d4` that are averaged.
    """
    alone = "--network.symmetry shift for the image alone"
    if wanted in ("none", own) or own == "d4":
        return "shift", None
    if wanted == "mirror":
        return "shift+mirror", f"answers: averaged over an image and its mirror image ({alone})"
    if views == 1:
        return "shift+d4", f"answers: of one view, which the image chooses among its turns and flips ({alone})"
    return "shift+d4", f"answers: averaged over {views} turned and mirrored views of an image ({alone})"


def _step(recipe: Recipe, device: str, *, by_default: bool) -> _Settled:
    """How a training step is computed, `speed` and `precision`; on a GPU a small one of the network that is there
    `by_default` is bound by the number of its operations.

    What is chosen follows from what the machine has, and on a CPU from how fast it was measured to multiply bfloat16
    matrices: both rates in turn, the best of each, so that load falls on both. The decided recipe keeps the choice; two
    new runs are sure to choose alike only where `precision` is given.
    """
    speed, precision = recipe.speed, recipe.precision
    ungraphed = why_not_graphed(recipe, device)
    if speed == "graph" and ungraphed is not None:
        raise UserError(f"speed can't be graph here: {ungraphed}; choose plain, compiled or auto.")
    reason = why_not_fused() if device == "cpu" else "it is for the CPU, and this run is on CUDA"
    if reason is None and recipe.network.channel_attention == "cbam":
        reason = "blocks with CBAM have no fused pass"
    if speed == "fused" and reason is not None:
        raise UserError(f"speed can't be fused here: {reason}; mend that, or choose plain, compiled or auto.")
    if speed == "auto":
        speed = "fused" if reason is None else "plain" if ungraphed is not None else "graph"
    why = f" ({reason})" if device == "cpu" and recipe.speed == "auto" and reason is not None else ""
    if precision == "auto" and device == "cuda":
        small = by_default and recipe.batch * math.prod(recipe.sides) < _SMALL_STEP
        precision = "bf16" if torch.cuda.is_bf16_supported() and not small else "no"
    elif precision == "auto":
        rates = matrix_rates()
        gain = rates.bfloat16 / rates.float32
        # Plain bf16 steps are no faster: torch falls back to slow convolutions.
        precision = "bf16" if speed == "fused" and gain > _WORTHWHILE else "no"
        why = why or f" (this CPU multiplies bfloat16 matrices {gain:.2g} times as fast as float32)"
    name = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}[precision]
    said = [f"speed: {speed} training steps in {name}{why}"] if "auto" in (recipe.speed, recipe.precision) else []
    return {"speed": speed, "precision": precision}, said


class _Seen(NamedTuple):
    """What the rules ask of an image, so that it need not be kept."""

    channels: int
    grey: bool  # whatever the number of channels
    dtype: np.dtype[Any]
    side: int  # the shorter one, in px
    reduced_HW: NDArray[Any]


def _seen(image: NDArray[Any]) -> _Seen:
    channels = image.shape[2]
    first, *others = (image[..., c] for c in range(min(3, channels)))
    grey = channels <= 2 or all(np.array_equal(first, other) for other in others)
    return _Seen(channels, grey, image.dtype, min(image.shape[:2]), reduce_image(image))


def _channels(sample: list[_Seen]) -> int:
    found = {seen.channels for seen in sample}
    if found <= {1, 2, 3, 4}:  # 2 and 4 with alpha
        return 1 if all(seen.grey for seen in sample) else 3
    if len(found) == 1:
        return found.pop()
    raise UserError(f"the images have different numbers of channels {sorted(found)}; set channels in the recipe.")


def measure_crop(reduced: list[NDArray[Any]]) -> float:
    """The central share of each side that cutouts are cropped to, from 0.5 in steps of 0.05; 1 keeps images whole.

    √2 times the smallest share that holds 90 % of what differs, so that what a source fills stays inside when it is
    turned.

    The images come as grey frames of `_GRID`² (`reduce_image`); the range between the 10th and the 90th
    percentile of a pixel over the images says whether something happens there in most images (a neighbouring star in
    one of them counts for nothing). The same range everywhere (photographs) gives 1; a source in the middle of empty
    sky gives less.
    """
    if len(reduced) < 8:
        return 1.0
    low_HW, high_HW = np.quantile(np.stack(reduced), [0.1, 0.9], axis=0)
    y, x = np.indices((_GRID, _GRID))
    centre = (_GRID - 1) / 2
    # Its mean over each square ring of pixels around the middle. Pixel by pixel the range of few images is noisy, and
    # the noise of a large empty sky adds up to more than a source.
    ring_HW = np.maximum(abs(y - centre), abs(x - centre)).astype(int)
    pixels_R = np.bincount(ring_HW.ravel())
    range_R = np.bincount(ring_HW.ravel(), (high_HW - low_HW).ravel()) / pixels_R
    inner, outer = _mean_of_parts(range_R, pixels_R, 2)
    if inner <= _MIDDLE * outer:
        return 1.0
    # The quietest eighth of them is sky noise, the same everywhere: only what exceeds it is signal.
    signal_R = np.maximum(range_R - _mean_of_parts(range_R, pixels_R, 8).min(), 0) * pixels_R
    within_R = np.cumsum([0.0, *signal_R])
    share = np.interp(_CROP_SHARE * within_R[-1], within_R, np.linspace(0, 1, len(within_R)))
    return float(np.clip(math.ceil(20 * math.sqrt(2) * share) / 20, 0.5, 1.0))


def _mean_of_parts(value_R: NDArray[Any], pixels_R: NDArray[Any], parts: int) -> NDArray[Any]:
    """The mean over the pixels of so many parts of rings, from the middle outwards."""
    value_PR, pixels_PR = value_R.reshape(parts, -1), pixels_R.reshape(parts, -1)
    return (value_PR * pixels_PR).sum(1) / pixels_PR.sum(1)


def reduce_image(image: NDArray[Any]) -> NDArray[Any]:
    """(H, W, C) to a grey frame of `_GRID`²."""
    # Channel by channel: numpy's mean over a last axis of three takes four times as long.
    grey = sum((image[..., c].astype(np.float32) for c in range(image.shape[2])), np.float32(0)) / image.shape[2]
    return np.asarray(Image.fromarray(grey).resize((_GRID, _GRID), Image.Resampling.BOX))
