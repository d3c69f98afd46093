"""A training step as one CUDA graph: what a GPU does in a step is recorded once and from then on started at once.

A step of a small network on a small batch is hundreds of operations of a few microseconds each, and starting them one
by one from Python takes several times as long as they do. A recorded step is started by one call. What differs from
step to step (images, targets, learning rate, weight decay, memory of the averaged weights) is written to the memory
that the recorded operations read.

Legend: B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from astroformer.network import Tie
from astroformer.training.recipe import Recipe
from astroformer.training.resident import to_device
from astroformer.training.steps.averaging import AveragedNetwork

# Steps of a shape that are made one operation at a time before it is recorded: in them libraries choose their kernels
# and take their memory, which can't be recorded.
_PLAIN_STEPS = 3


class Pace(NamedTuple):
    """What a step takes beside images and targets."""

    learning_rate: float
    weight_decay: float
    average_weight: float  # of the new weights in the averaged ones
    step: int  # of the epoch


def why_not_graphed(recipe: Recipe, device: str, processes: int = 1) -> str | None:
    """What keeps the steps of a recipe from being recorded; None if nothing does."""
    if device != "cuda":
        return "a step is recorded on CUDA alone"
    if recipe.optimizer == "muon":
        return "muon's update has choices in it that a record can't hold"
    if recipe.precision == "fp16":
        return "fp16 may skip an update, which a record can't; bf16 does not"
    if recipe.parts > 1 or processes > 1:
        return "a batch in parts is more than one pass"
    if recipe.checkpointing:
        return "checkpointing computes blocks again, with random numbers that a record can't go back to"
    return None


class GraphedStep:
    """Forward and backward pass, clipping, update and averaging, as `Loop` makes them one by one.

    A shape is recorded at its fourth step; graphs share their memory, since they run one after the other. Should
    recording fail, that is said, and steps go on one operation at a time.

    Args:
        network: to train, as it is called; its parameters are those of `optimizer`.
        optimizer: AdamW or SGD of `create_optimizer`; group 0 decays.
        average: of the weights, or None.
        loss: from logits (B, K) and targets (B, K) to a scalar.
        clip: largest norm of the gradient, or None.
        loss_sum, bad_step: the loop's tallies on the device; updated in place.
        say: tells the user a sentence.
        tie: of weights that stay equal.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: AveragedNetwork | None,
        loss: Callable[[Tensor, Tensor], Tensor],
        clip: float | None,
        *,
        loss_sum: Tensor,
        bad_step: Tensor,
        say: Callable[[str], None],
        tie: Tie | None = None,
    ) -> None:
        self._failed = False
        self._say, self._tie = say, tie
        self._network, self._optimizer, self._average = network, optimizer, average
        self._loss, self._clip = loss, clip
        self._loss_sum, self._bad_step = loss_sum, bad_step
        self._device = loss_sum.device
        self._graphs: dict[torch.Size, _Recorded] = {}
        self._plain_steps: dict[torch.Size, int] = {}
        self._pool, self._stream = None, None
        if self._device.type == "cuda":
            self._pool, self._stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(self._device)
        self._places = self._where()

    def __call__(self, x_BCHW: Tensor, y_BK: Tensor, pace: Pace) -> None:
        """One update, by a record where there is one for this shape."""
        pace_4 = to_device(torch.tensor(pace, dtype=torch.float32), self._device)
        shape = x_BCHW.shape
        if shape in self._graphs:
            self._graphs[shape].replay(x_BCHW, y_BK, pace_4)
            return
        done = self._plain_steps[shape] = self._plain_steps.get(shape, 0) + 1
        if self._stream is None or self._failed:
            self._update(x_BCHW, y_BK, pace_4)
            return
        if done > _PLAIN_STEPS:
            recorded = self._record(x_BCHW, y_BK, pace_4)
            if recorded is None:
                self._update(x_BCHW, y_BK, pace_4)
            else:
                recorded.replay(x_BCHW, y_BK, pace_4)
            return
        # On the stream that is recorded later: what autograd keeps of a parameter belongs to the stream it was met on.
        now = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(now)
        with torch.cuda.stream(self._stream):
            self._update(x_BCHW, y_BK, pace_4)
        now.wait_stream(self._stream)

    def check(self) -> None:
        """Drops the records if weights lie elsewhere than they did: after whatever may have moved them."""
        places = self._where()
        if places != self._places:
            self._places = places
            self._graphs.clear()
            self._plain_steps.clear()
            if self._stream is not None:  # the memory of the old ones goes with them
                self._pool = torch.cuda.graph_pool_handle()

    def _where(self) -> list[int]:
        tensors = list(self._network.state_dict().values())
        if self._average is not None:
            tensors += self._average.module.state_dict().values()
        return [tensor.data_ptr() for tensor in tensors]

    def _record(self, x_BCHW: Tensor, y_BK: Tensor, pace_4: Tensor) -> _Recorded | None:
        inputs = tuple(torch.empty_like(some).copy_(some) for some in (x_BCHW, y_BK, pace_4))
        graph = torch.cuda.CUDAGraph()
        self._optimizer.zero_grad(set_to_none=True)
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                self._update(*inputs)
        except RuntimeError as error:
            self._failed = True
            self._say(f"speed: plain, since a step can't be recorded here: {str(error).strip().splitlines()[0]}")
            self._optimizer.zero_grad(set_to_none=True)
            return None
        recorded = self._graphs[x_BCHW.shape] = _Recorded(graph, inputs)
        return recorded

    def _update(self, x_BCHW: Tensor, y_BK: Tensor, pace_4: Tensor) -> None:
        """The step itself; nothing in it waits for the device, and no number of it is read by the host."""
        learning_rate, weight_decay, average_weight, step = pace_4.unbind()
        loss = self._loss(self._network(x_BCHW), y_BK)
        loss.backward()
        if self._tie is not None:
            self._tie.tie([p.grad for p in self._network.parameters() if p.grad is not None])
        if self._clip is not None:
            nn.utils.clip_grad_norm_(self._network.parameters(), self._clip)
        with torch.no_grad():
            self._step_optimizer(learning_rate, weight_decay)
            detached = loss.detach()
            self._loss_sum.add_(detached.double() * len(x_BCHW))
            bad = (self._bad_step < 0) & ~torch.isfinite(detached)
            self._bad_step.copy_(torch.where(bad, step.long(), self._bad_step))
            if self._average is not None:
                self._average.update(self._network, average_weight)

    def _step_optimizer(self, learning_rate: Tensor, weight_decay: Tensor) -> None:
        """The optimizer's own step with a rate on the device, and its decay, which it takes as a number only."""
        optimizer = self._optimizer
        decayed = [p for p in optimizer.param_groups[0]["params"] if p.grad is not None]
        if isinstance(optimizer, torch.optim.SGD):
            torch._foreach_add_([p.grad for p in decayed], torch._foreach_mul(decayed, weight_decay))
        else:
            torch._foreach_mul_(decayed, 1.0 - learning_rate * weight_decay)
        words = {"lr": learning_rate, "weight_decay": 0.0, "capturable": True, "fused": True, "foreach": False}
        kept = [{name: group[name] for name in words if name in group} for group in optimizer.param_groups]
        for group, own in zip(optimizer.param_groups, kept, strict=True):
            group.update({name: words[name] for name in own})
        try:
            optimizer.step()
        finally:  # numbers again, as checkpoints and what is shown need them
            for group, own in zip(optimizer.param_groups, kept, strict=True):
                group.update(own)
        optimizer.zero_grad(set_to_none=True)


class _Recorded:
    """A graph and the memory that it reads its inputs from."""

    def __init__(self, graph: torch.cuda.CUDAGraph, inputs: tuple[Tensor, ...]) -> None:
        self._graph, self._inputs = graph, inputs

    def replay(self, *given: Tensor) -> None:
        for own, some in zip(self._inputs, given, strict=True):
            own.copy_(some)
        self._graph.replay()
