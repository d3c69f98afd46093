"""`State`: where a run stands, as a checkpoint keeps it beside tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

from astroformer.errors import UserError, brief
from astroformer.training.recipe import Recipe

_LONGEST = 24 * 3600  # seconds that a run by the clock may have lasted beyond twice its length


@dataclass
class State:
    """Where a run stands. Times are seconds of training so far."""

    epoch: int = 0
    step: int = 0  # within the epoch
    updates: int = 0
    elapsed: float = 0.0
    loss_sum: float = 0.0  # of the epoch so far, over `loss_images` images
    loss_images: int = 0
    images: int = 0  # seen in all
    evaluations: int = 0
    evaluated: int = -1  # updates at the last evaluation
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def mean_loss(self) -> float:
        """Of the epoch so far."""
        return self.loss_sum / max(self.loss_images, 1)

    @classmethod
    def of_checkpoint(cls, kept: Any, recipe: Recipe, steps: int) -> State:
        """What a checkpoint keeps, if a run of this recipe with so many steps an epoch can have come there.

        Raises:
            UserError: it can't have.
        """
        names = [f.name for f in fields(cls)]
        if not isinstance(kept, dict) or kept.keys() != set(names):
            raise UserError(f"its state has other words than {', '.join(names)}")
        for name in names[:-1]:
            value, least = kept[name], -1 if name == "evaluated" else 0
            time_or_loss = name in ("elapsed", "loss_sum")
            number = isinstance(value, int | float if time_or_loss else int) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or value < least:
                raise UserError(f"its {name} is {brief(value)}")
        rows = kept["history"]
        if not isinstance(rows, list) or not all(
            isinstance(row, dict) and all(isinstance(v, int | float) for v in row.values()) for row in rows
        ):
            raise UserError("its history is no list of rows of numbers")
        state = cls(**kept)
        done = state.epoch * steps + state.step
        longest = math.inf if recipe.minutes is None else 120 * recipe.minutes + _LONGEST
        if (
            state.step > steps
            or state.updates != done
            or max(state.evaluated, 0) > done
            or (recipe.epochs is not None and done > recipe.epochs * steps)
            or state.elapsed > longest
        ):
            raise UserError(
                f"it stands at epoch {state.epoch}, step {state.step} after {state.updates} updates and "
                f"{state.elapsed:.0f} seconds, where a run of this recipe, with {steps} steps an epoch, never comes"
            )
        return state
