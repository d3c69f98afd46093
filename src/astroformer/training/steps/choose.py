"""Which way a recipe's steps are computed on this machine: plain, fused, recorded or compiled."""

from __future__ import annotations

from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import nn

from astroformer.native import keep_compiled_code_private
from astroformer.network import Tie
from astroformer.training.objective import Objective
from astroformer.training.recipe import Recipe
from astroformer.training.steps.averaging import AveragedNetwork
from astroformer.training.steps.fused import fuse, unfuse, why_not_fused
from astroformer.training.steps.graphed import GraphedStep, why_not_graphed
from astroformer.training.steps.plain import PlainStep
from astroformer.training.steps.step import Step, Tally
from astroformer.training.steps.update import FusedUpdate, RecordableUpdate, Update, why_no_fused_update


def choose_step(
    recipe: Recipe,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    objective: Objective,
    tally: Tally,
    average: AveragedNetwork | None,
    tie: Tie | None,
    accelerator: Accelerator,
    say: Callable[[str], None],
) -> tuple[Step, str | None]:
    """The step of a decided recipe, and a sentence where it is another one than the recipe says.

    That can be where a run is resumed on another machine.

    Args:
        network: on the device of the accelerator.
        optimizer: of its weights, from `create_optimizer`.
        average: of its weights, or None.
        tie: of weights that stay equal, or None.
        say: tells the user what happens later, while steps are made.
    """
    sentence = None
    if recipe.speed == "fused" and not fuse(network) and (reason := why_not_fused()):
        sentence = f"speed: plain, not fused as the recipe says: {reason}"
    # Both are where they belong; to place them, accelerate imports torch's distributed tensors: half a second.
    prepared, stepping = accelerator.prepare(network, optimizer, device_placement=[False, False])
    if recipe.speed == "graph":
        reason = why_not_graphed(recipe, accelerator.device.type, accelerator.num_processes)
        if reason is None:
            recordable = RecordableUpdate(prepared, optimizer, clip=recipe.clip, tie=tie)
            return GraphedStep(prepared, objective, recordable, tally, average=average, averaged=network, say=say), None
        sentence = f"speed: plain, not graph as the recipe says: {reason}"
    if recipe.speed == "compiled":
        keep_compiled_code_private()
        # Dynamic sizes, since a progressive run has two and the last batch may differ: one compilation for all.
        prepared = torch.compile(prepared, dynamic=True)
    kernel = recipe.speed == "fused" and accelerator.scaler is None and why_no_fused_update(network, optimizer) is None
    update = (
        FusedUpdate(network, optimizer, clip=recipe.clip, tie=tie)
        if kernel
        else Update(network, stepping, clip=recipe.clip, tie=tie, unscale=accelerator.unscale_gradients)
    )

    def make_ordinary() -> None:
        unfuse(network)
        if average is not None:
            unfuse(average.module)

    step = PlainStep(
        prepared,
        objective,
        update,
        tally,
        accelerator,
        average=average,
        averaged=network,
        parts=recipe.parts,
        when_closed=make_ordinary,
    )
    return step, sentence
