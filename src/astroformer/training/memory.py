"""How much memory training takes, from the network's shapes alone, and in how many parts a batch has to be computed.

Nothing is tried out: a pass over tensors without data (torch's `meta` device) shows what autograd keeps for the
backward pass on any device. `benchmarks/memory.py` compares the estimate with measured peaks.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from astroformer.errors import UserError
from astroformer.network import Astroformer, AstroformerConfig, count_parameters
from astroformer.network.blocks import EXPANSION
from astroformer.network.config import HYBRID_HEADS
from astroformer.network.counting import WithoutValues
from astroformer.training.defaults import PLANNED_MEMORY, RULES
from astroformer.training.recipe import Recipe

# Copies of the parameters that an optimizer keeps as its state.
_OPTIMIZER_COPIES = {"adamw": 2, "sgd": 1, "muon": 2}
_TENSORS_A_BLOCK = 12  # of a block's widest size that a step holds for it, at most; footprints have 2 to 9
_TENSORS_AT_WORK = 4  # of the largest size that are alive at once while a block computes or is differentiated
_LIBRARY_BYTES = 2**27  # of kernels, caches and threads' arenas that the first step brings in
GIB = 2**30


@dataclass(frozen=True)
class Footprint:
    """Bytes that training takes beside the process itself.

    Attributes:
        fixed: whatever the number of images.
        image: for each image of a part of a batch.
    """

    fixed: int
    image: int

    def of(self, images: int) -> int:
        """Bytes with so many images in a part."""
        return self.fixed + images * self.image


def footprint(recipe: Recipe, config: AstroformerConfig, size: tuple[int, int]) -> Footprint:
    """What a run of a decided `recipe` takes on images of `size` (height, width).

    Activations are counted in float32: in bfloat16 they take less.
    """
    with torch.device("meta"):
        network = Astroformer(config).train()
        of_two, of_four = (
            _kept_for_backward(network, torch.zeros(n, config.in_chans, *size), recipe.checkpointing) for n in (2, 4)
        )
    kept, largest = ((four - two) // 2 for two, four in zip(of_two, of_four, strict=True))
    # Validation passes over up to twice as many images, but keeps nothing for a backward pass.
    return Footprint(
        _fixed_bytes(network, recipe.optimizer, averaged=recipe.ema > 0),
        max(kept + _TENSORS_AT_WORK * largest, 2 * _TENSORS_AT_WORK * largest),
    )


def footprint_bound(recipe: Recipe, config: AstroformerConfig, size: tuple[int, int]) -> Footprint:
    """More than `footprint` finds, from the sizes of maps alone.

    It is there at once, while the count of `footprint` imports torch's compiler.
    """
    with torch.device("meta"), WithoutValues():
        network = Astroformer(config)
    pixels = [height * width for height, width in config.map_sizes(size)]
    values = config.in_chans * size[0] * size[1] + 2 * config.stem_width * pixels[0]
    stages = zip(config.layout, config.widths, config.depths, pixels, pixels[1:], strict=False)
    for kind, width, depth, pixels_in, pixels_out in stages:
        hybrid = kind == "T" and config.transformer == "hybrid"
        if kind == "C" or hybrid:
            values += EXPANSION * width * (pixels_in + (depth - 1) * pixels_out)
        if kind == "T":
            heads = HYBRID_HEADS if hybrid else width // config.head_width
            widest = max(4 * width, 4 * heads * config.head_width, 0 if hybrid else config.mlp_ratio * width)
            values += width * pixels_in + (1 if hybrid else depth) * (widest * pixels_out + heads * pixels_out**2)
    return Footprint(_fixed_bytes(network, recipe.optimizer, averaged=recipe.ema > 0), 4 * _TENSORS_A_BLOCK * values)


def _fixed_bytes(network: Astroformer, optimizer: str, *, averaged: bool) -> int:
    """Bytes of the libraries, and of weights, gradients, the optimizer's state and the averaged weights."""
    copies = 2 + _OPTIMIZER_COPIES[optimizer] + averaged
    return _LIBRARY_BYTES + copies * 4 * count_parameters(network)


def _kept_for_backward(network: Astroformer, x_BCHW: Tensor, checkpointing: bool) -> tuple[int, int]:
    """(bytes that a training pass keeps for its backward pass, bytes of the largest tensor among them)."""
    weights = {storage_id(p) for p in network.parameters()} | {storage_id(b) for b in network.buffers()}
    storages: dict[int, torch.UntypedStorage] = {}  # the storages themselves, so that no number is used twice
    per_block: list[int] = []
    inputs = 0

    def keep(tensor: Tensor) -> Tensor:
        if storage_id(tensor) not in weights:
            storages.setdefault(storage_id(tensor), tensor.untyped_storage())
        return tensor

    def before_block(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        nonlocal inputs
        inputs += arguments[0].untyped_storage().nbytes()
        per_block.append(-total())

    def after_block(*_: Any) -> None:
        per_block[-1] += total()

    def total() -> int:
        return sum(storage.nbytes() for storage in storages.values())

    for stage in network.stages:
        for block in stage.children():
            block.register_forward_pre_hook(before_block)
            block.register_forward_hook(after_block)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        logits_BK = network(x_BCHW)
        F.cross_entropy(logits_BK, torch.zeros_like(logits_BK))
    largest = max(storage.nbytes() for storage in storages.values())
    if checkpointing:  # the input of each block is kept, and all of one block while it is computed again
        return total() - sum(per_block) + inputs + max(per_block), largest
    return total(), largest


def storage_id(tensor: Tensor) -> int:
    """A number for the memory that a tensor lies in, the same for all its views."""
    return tensor.untyped_storage()._cdata


def free_memory(device: str) -> int | None:
    """Bytes that this process may still take on `device` ("cpu" or "cuda"); None where the system doesn't say."""
    if device == "cuda":
        reusable = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()  # torch holds it for new tensors
        return torch.cuda.mem_get_info()[0] + reusable
    found = [_available_in_system(), *_available_in_groups()]
    known = [number for number in found if number is not None]
    return min(known) if known else None


def _available_in_system(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    try:
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:  # macOS tells only how much memory there is in all
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        return None


def _available_in_groups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[int]:
    """Bytes that the control groups of this process (a container, a job of a cluster) leave of their limits."""
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return []
    available: list[int] = []
    for _, controllers, name in (line for line in lines if len(line) == 3):
        version_1 = "memory" in controllers.split(",")
        if not version_1 and controllers:
            continue
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file") if version_1 else (
            "memory.max", "memory.current", "inactive_file")  # fmt: skip
        base = root / "memory" if version_1 else root
        # Within a container its own group is often mounted as the root, under whatever name.
        group = base / name.lstrip("/")
        for folder in [base, group, *(parent for parent in group.parents if base in parent.parents)]:
            try:
                limit, used = (int((folder / n).read_text()) for n in names[:2])
                stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                available.append(max(0, limit - used + int(stat.get(names[2], 0))))  # cached files give way
            except (OSError, ValueError):  # not there, or no limit ("max")
                continue
    return available


def check_weights_fit(config: AstroformerConfig, device: str) -> None:
    """Raises a `UserError` where a network's weights alone are more than can be trained here; it makes none of them."""
    with torch.device("meta"), WithoutValues():
        parameters = count_parameters(Astroformer(config))
    # Weights, gradients, and at least one copy for the optimizer.
    needed, free = 3 * 4 * parameters, free_memory(device)
    if free is not None and needed > free:
        raise UserError(
            f"a network of {parameters:,} parameters takes {needed / GIB:,.0f} GiB or more to train, and "
            f"{free / GIB:,.1f} GiB of {device} memory are free; choose a smaller model, widths, depths or image_size."
        )


def decide_parts(
    recipe: Recipe, config: AstroformerConfig, size: tuple[int, int], device: str, *, processes: int = 1
) -> tuple[int, str | None]:
    """The fewest parts that each process can compute its share of a batch in, and a sentence where it is not one.

    Args:
        recipe: decided but for `accumulate`.
        config: of the network.
        size: (height, width) of the images, in px.
        device: that trains, "cpu" or "cuda".
        processes: number of them in this run; on a CPU they share the memory.

    Raises:
        UserError: not even parts of two images (which batch norm needs) are expected to fit.
    """
    free = free_memory(device)
    if free is None:
        return 1, "how much memory is free can't be told here: a batch is computed whole (--accumulate to change)"
    # The rest is for other programs, and for what the C library's allocator can't use again: up to a third of what is
    # counted here where a batch is computed in parts (benchmarks/memory.py).
    usable = PLANNED_MEMORY * free / (processes if device == "cpu" else 1)
    images = math.ceil(recipe.batch / processes)
    for count in (footprint_bound, footprint):
        needed = count(recipe, config, size)
        fitting = int((usable - needed.fixed) // needed.image)
        if fitting >= images:
            return 1, None
    advice = "" if recipe.checkpointing else "; --checkpointing needs less memory and a third more time"
    least = min(2, images)
    if fitting < least:
        raise UserError(
            f"training needs about {needed.of(least) / GIB:.1f} GiB with two images at a time, and "
            f"{usable / GIB:.1f} GiB of {device} memory can be planned with; choose a smaller model or image_size"
            f"{advice}. To try all the same, set accumulate."
        )
    parts = math.ceil(images / fitting)
    taken = needed.of(math.ceil(images / parts))
    said = {"batch": recipe.batch, "parts": parts, "taken": taken / GIB, "free": free / GIB, "advice": advice}
    return parts, RULES["parts of a batch"].said.format(**said)
