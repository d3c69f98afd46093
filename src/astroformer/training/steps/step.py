"""What a training step is, whoever computes it, and what all of them count."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from astroformer.training.pace import Pace


class Step(Protocol):
    """One update of a network's weights, and of their average."""

    def __call__(self, x_BCHW: Tensor, y_BK: Tensor, pace: Pace) -> None:
        """Learns from images (B, C, H, W) and targets (B, K), this process's share of a batch."""
        ...

    def weights_were_used(self) -> None:
        """Somebody else used the weights since the last step, and may have moved them in memory."""
        ...

    def close(self) -> None:
        """Makes the networks ordinary ones again. No step comes after it."""
        ...


class Tally:
    """The losses of the steps so far, kept on the device so that no step waits for it.

    Attributes:
        loss_sum: () float64, over images.
        bad_step: () int64, the first step of the epoch whose loss was not finite; -1 for none.
    """

    def __init__(self, device: torch.device) -> None:
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self.bad_step = torch.full((), -1, dtype=torch.int64, device=device)

    @torch.no_grad()
    def add(self, loss: Tensor, images: int, step: int | Tensor) -> None:
        """Counts the mean `loss` of so many images at a step; no tensor is read by the host."""
        loss = loss.detach()
        self.loss_sum.add_(loss.double() * images)
        first_bad = (self.bad_step < 0) & ~torch.isfinite(loss)
        self.bad_step.masked_fill_(first_bad, step)

    def collect(self) -> tuple[float, int]:
        """(sum of the losses since it was last collected, first bad step or -1); waits for the device."""
        collected = float(self.loss_sum), int(self.bad_step)
        self.loss_sum.zero_()
        return collected
