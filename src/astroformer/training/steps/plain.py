"""A training step one operation after the other: the network's own pass, autograd, and an update.

Legend: B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn

from astroformer.training.objective import Objective
from astroformer.training.order import even_parts
from astroformer.training.pace import Pace
from astroformer.training.steps.averaging import AveragedNetwork
from astroformer.training.steps.step import Tally
from astroformer.training.steps.update import Update, set_pace


class PlainStep:
    """A step of any network, in parts and on several processes too.

    Args:
        network: as `accelerator` prepared it.
        update: what follows the backward pass.
        average: of the weights of `averaged`, the network itself; or None.
        parts: that this process computes its share of a batch in.
        when_closed: makes the network an ordinary one again.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        update: Update,
        tally: Tally,
        accelerator: Accelerator,
        *,
        average: AveragedNetwork | None,
        averaged: nn.Module,
        parts: int = 1,
        when_closed: Callable[[], Any] = lambda: None,
    ) -> None:
        self._network, self._objective, self.update, self._tally = network, objective, update, tally
        self._accelerator, self._average, self._averaged, self._parts = accelerator, average, averaged, parts
        self._when_closed = when_closed

    def __call__(self, x_BCHW: Tensor, y_BK: Tensor, pace: Pace) -> None:
        # A validation leaves the network itself in eval mode, and of what wraps it for several processes nothing shows.
        if not self._averaged.training:
            self._network.train()
        set_pace(self.update.optimizer, pace)
        accelerator = self._accelerator
        parts = accelerator.num_processes * self._parts
        rank = accelerator.process_index
        bounds = even_parts(pace.images, parts)[rank * self._parts : (rank + 1) * self._parts + 1]
        for first, last in pairwise((bounds - bounds[0]).tolist()):
            # The gradient is the mean over the parts: each counts by its images. With fewer images than parts, one
            # of them stands in at weight 0, since every process has to take part in every step.
            images = last - first
            some = slice(first, last) if images else slice(0, 1)
            with accelerator.accumulate(self._network):
                loss = self._objective(self._network(x_BCHW[some]), y_BK[some])
                accelerator.backward(loss * (images * parts / pace.images))
                if accelerator.sync_gradients:  # the last part of the batch
                    self.update()
            self._tally.add(loss, images, pace.step)
        if self._average is not None:
            self._average.update(self._averaged, pace.average_weight)

    def weights_were_used(self) -> None:
        """Wherever the weights lie, the next step finds them."""

    def close(self) -> None:
        self._when_closed()
