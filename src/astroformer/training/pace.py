"""The pace of a run: learning rate, weight decay and memory of the averaged weights at every step.

The pace is a function of progress in [0, 1], a share of the whole run that is counted in steps or read off the clock,
so that one schedule serves `--epochs` and `--minutes`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

# How long weights remember their updates, as a share of the run, and at least how many updates
# (docs/lab/experiments.md).
MEMORY = 0.3
LEAST_MEMORY = 400


class Pace(NamedTuple):
    """What a step takes beside images and targets.

    Attributes:
        learning_rate: of all weights.
        weight_decay: of those that decay.
        average_weight: share of the new weights in the averaged ones.
        step: number of the step in its epoch.
        images: in the whole batch, over all processes.
    """

    learning_rate: float
    weight_decay: float
    average_weight: float
    step: int
    images: int


@dataclass(frozen=True)
class Schedule:
    """The pace of one run.

    Attributes:
        steps_per_epoch: number of steps.
        epochs: length of the run; None for a run by the clock, whose length is foreseen.
        learning_rate: the peak.
        warmup, final: see `cosine_with_warmup`.
        weight_decay: None for `decay_by_length`.
        momentum: of SGD, whose decay it multiplies; 0 for other optimizers.
        memory: of the averaged weights, as a share of the run; 0 keeps no average.
        small_share: first share of the run, which is on smaller images.
        small_speed: how many times as many pixels whole images have as those smaller ones.
    """

    steps_per_epoch: int
    epochs: int | None
    learning_rate: float
    warmup: float
    final: float
    weight_decay: float | None
    momentum: float
    memory: float
    small_share: float
    small_speed: float

    def at(self, progress: float, *, updates: int, step: int, images: int) -> Pace:
        """The pace of a step after so many `updates`."""
        weight_decay = self.weight_decay
        if weight_decay is None:
            length = self.length(progress, updates)
            weight_decay = decay_by_length(length, learning_rate=self.learning_rate, momentum=self.momentum)
        factor = cosine_with_warmup(progress, warmup=self.warmup, final=self.final)
        average_weight = 1.0 - self._average_decay(progress, updates + 1)
        return Pace(self.learning_rate * factor, weight_decay, average_weight, step, images)

    def length(self, progress: float, updates: int) -> float:
        """Updates of the whole run.

        By the clock: as many as there will be if it goes on as fast as until now, small images as much faster as they
        have fewer pixels.
        """
        if self.epochs is not None:
            return self.epochs * self.steps_per_epoch
        share, faster = self.small_share, self.small_speed
        done = faster * min(progress, share) + max(progress - share, 0.0)
        return max(1.0, updates * (faster * share + 1.0 - share) / max(done, 1e-6))

    def _average_decay(self, progress: float, updates: int) -> float:
        """Share of the averaged weights that stays in the update that makes it so many `updates`.

        The memory is a share of the run. Young runs remember no more than a tenth of what they have seen.
        """
        decay = math.exp(-1.0 / max(self.memory * self.length(progress, updates), 1e-6))
        return min(decay, (1 + updates) / (10 + updates))


def decay_by_length(updates: float, *, learning_rate: float, momentum: float = 0.0) -> float:
    """The weight decay with which weights remember a share of `MEMORY` of a run of so many updates.

    They remember at least `LEAST_MEMORY` updates: in a shorter run decay would only pull at weights that have learned
    little yet. With decoupled decay, weights are an average of the updates over the last 1 / (learning rate × decay) of
    them, and that time as a share of the run is what carries over from one run to another (Wang & Aitchison,
    arXiv 2405.13698).

    Args:
        learning_rate: the peak.
        momentum: of SGD, whose decay is part of the gradient, so that momentum multiplies it by 1 / (1 - momentum).
    """
    return (1.0 - momentum) / (max(MEMORY * updates, LEAST_MEMORY) * learning_rate)


def cosine_with_warmup(progress: float, *, warmup: float, final: float) -> float:
    """Factor on the learning rate at `progress`: linear over the first `warmup`, then a cosine to `final`.

    Source: SGDR (Loshchilov & Hutter 2017, arXiv 1608.03983), equation 5, one cycle.
    """
    if progress < warmup:
        return max(progress / warmup, 1e-3)
    along = min(1.0, (progress - warmup) / max(1.0 - warmup, 1e-9))
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * along))
