"""`Hooks`: functions of a program that a run calls: an augmentation of its own, and what hears of evaluations.

A run folder can't keep a function. It records the name of the augmentation, and a run that was begun with one goes on
only with it.

Shape letters: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from astroformer.errors import UserError
from astroformer.randomness import Stream, seed_of

OwnAugmentation = Callable[[Tensor, torch.Generator], Tensor]
"""From a batch (B, C, H, W), augmented and normalised, and a generator to a batch of the same shape."""
OnEvaluation = Callable[[dict[str, float]], object]
"""Is given the row of the history that an evaluation has made."""


@dataclass(frozen=True)
class Hooks:
    """What a program adds to a run.

    Attributes:
        augment: changes every batch of training images after the augmentation of the recipe (`augment="none"` of a
            recipe turns that off): a function of the batch x (B, C, H, W) float32, normalised, on the device that
            trains, and of a `torch.Generator` there, which follows from (seed, epoch, step) alone. It gives a batch of
            the same shape, type and device.
        on_evaluation: is called after each evaluation on the way with the new row of the history: `epoch`, `updates`,
            `minutes` (of training), `progress` (share of the run), `learning_rate`, `train_loss` (nats), `valid_top1`,
            `valid_balanced_accuracy`, `valid_nll` (nats), `images_per_second`. What it raises ends the run, which
            `resume` continues.

    Raises:
        UserError: one of them is no function.
    """

    augment: OwnAugmentation | None = None
    on_evaluation: OnEvaluation | None = None

    def __post_init__(self) -> None:
        for word, value in vars(self).items():
            if value is not None and not callable(value):
                hint = "; presets and settings are those of the recipe: Recipe(augment=…)" * (word == "augment")
                raise UserError(f"{word} can't be {value!r}: a function is needed{hint}.")

    def also(self, on_evaluation: OnEvaluation) -> Hooks:
        """The same, and another one that hears of evaluations, before the one that there is."""
        then = self.on_evaluation

        def both(row: dict[str, float]) -> None:
            on_evaluation(row)
            if then is not None:
                then(row)

        return replace(self, on_evaluation=both)

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return self.augment is not None or self.on_evaluation is not None

    @property
    def augmentation(self) -> str | None:
        """The name of `augment` as a run's record keeps it: its module and its name there."""
        if self.augment is None:
            return None
        named = self.augment if hasattr(self.augment, "__qualname__") else type(self.augment)
        return f"{named.__module__}:{named.__qualname__}"

    def check_same(self, recorded: str | None, run: Path) -> None:
        """Raises `UserError` where a run began with another augmentation of its own than `augment`.

        A function that has moved to another module is the same.
        """
        given = self.augmentation
        if _last(recorded) == _last(given):
            return
        if recorded is None:
            raise UserError(f"run '{run}' began without an augmentation of its own; leave out augment ({given}).")
        which = "which its folder can't keep" if given is None else f"and not with {given}"
        raise UserError(
            f"run '{run}' began with the augmentation {recorded}, {which}; give it in Python, for instance: "
            f"astroformer.resume({str(run)!r}, augment={_last(recorded)})"
        )


def augmented(augment: OwnAugmentation, x_BCHW: Tensor, *, seed: int, epoch: int, step: int, rank: int) -> Tensor:
    """A batch as a program's own augmentation changes it.

    Raises:
        UserError: it gives anything but a batch of the same shape, type and device.
    """
    generator = torch.Generator(x_BCHW.device)
    generator.manual_seed(seed_of(seed, epoch, step * 64 + rank, Stream.OWN))
    with torch.no_grad():
        made = augment(x_BCHW, generator)
    if not isinstance(made, Tensor):
        raise UserError(f"augment gave a {type(made).__name__}; it has to give the batch, a tensor (B, C, H, W).")
    for what, got, needed in (
        ("shape", tuple(made.shape), tuple(x_BCHW.shape)),
        ("type", made.dtype, x_BCHW.dtype),
        ("device", made.device, x_BCHW.device),
    ):
        if got != needed:
            raise UserError(f"augment gave a batch of {what} {got}; it was given {needed}, and has to give the same.")
    channels_last = x_BCHW.is_contiguous(memory_format=torch.channels_last)
    return made.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def _last(name: str | None) -> str | None:
    return None if name is None else name.rpartition(":")[2]
