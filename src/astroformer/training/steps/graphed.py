"""A training step as one CUDA graph: what a GPU does in a step is recorded once and from then on started at once.

A step of a small network on a small batch is hundreds of operations of a few microseconds each, and starting them one
by one from Python takes several times as long as they do. A recorded step is started by one call. What differs from
step to step (images, targets, learning rate, weight decay, memory of the averaged weights) is written to the memory
that the recorded operations read.

Legend: B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from astroformer.training.objective import Objective
from astroformer.training.pace import Pace
from astroformer.training.placed_images import to_device
from astroformer.training.recipe import Recipe
from astroformer.training.steps.averaging import AveragedNetwork
from astroformer.training.steps.step import Tally
from astroformer.training.steps.update import RecordableUpdate, set_pace

# Steps of a shape that are made one operation at a time before it is recorded: in them libraries choose their kernels
# and take their memory, which can't be recorded.
_PLAIN_STEPS = 3


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
    """Forward and backward pass, update and averaging, as `PlainStep` makes them one by one.

    A shape is recorded at its fourth step; graphs share their memory, since they run one after the other. Should
    recording fail, that is said, and steps go on one operation at a time.

    Args:
        network: to train, as it is called.
        update: what follows the backward pass.
        average: of the weights of `averaged`, the network itself; or None.
        say: tells the user a sentence.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        update: RecordableUpdate,
        tally: Tally,
        *,
        average: AveragedNetwork | None,
        averaged: nn.Module,
        say: Callable[[str], None],
    ) -> None:
        self._network, self._objective, self._update, self._tally = network, objective, update, tally
        self._average, self._averaged, self._say = average, averaged, say
        self._device = tally.loss_sum.device
        self._failed = False
        self._graphs: dict[torch.Size, _Recorded] = {}
        self._plain_steps: dict[torch.Size, int] = {}
        self._pool, self._stream = None, None
        if self._device.type == "cuda":
            self._pool, self._stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(self._device)
        self._places = self._weight_places()

    def __call__(self, x_BCHW: Tensor, y_BK: Tensor, pace: Pace) -> None:
        """One update, by a record where there is one for this shape."""
        if not self._network.training:
            self._network.train()
        set_pace(self._update.optimizer, pace)  # as numbers, which checkpoints and what is shown need
        pace_4 = to_device(torch.tensor(pace[:4], dtype=torch.float32), self._device)
        shape = x_BCHW.shape
        if shape in self._graphs:
            self._graphs[shape].replay(x_BCHW, y_BK, pace_4)
            return
        done = self._plain_steps[shape] = self._plain_steps.get(shape, 0) + 1
        if self._stream is None or self._failed:
            self._operations(x_BCHW, y_BK, pace_4)
            return
        if done > _PLAIN_STEPS:
            recorded = self._record(x_BCHW, y_BK, pace_4)
            if recorded is None:
                self._operations(x_BCHW, y_BK, pace_4)
            else:
                recorded.replay(x_BCHW, y_BK, pace_4)
            return
        # On the stream that is recorded later: what autograd keeps of a parameter belongs to the stream it was met on.
        now = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(now)
        with torch.cuda.stream(self._stream):
            self._operations(x_BCHW, y_BK, pace_4)
        now.wait_stream(self._stream)

    def weights_were_used(self) -> None:
        """Drops the records if weights lie elsewhere than they did."""
        places = self._weight_places()
        if places != self._places:
            self._places = places
            self._graphs.clear()
            self._plain_steps.clear()
            if self._stream is not None:  # the memory of the old ones goes with them
                self._pool = torch.cuda.graph_pool_handle()

    def close(self) -> None:
        """Drops the records and their memory."""
        self._graphs.clear()

    def _weight_places(self) -> list[int]:
        """Addresses of all that a step writes."""
        tensors = list(self._network.state_dict().values())
        if self._average is not None:
            tensors += self._average.module.state_dict().values()
        return [tensor.data_ptr() for tensor in tensors]

    def _record(self, x_BCHW: Tensor, y_BK: Tensor, pace_4: Tensor) -> _Recorded | None:
        inputs = tuple(torch.empty_like(some).copy_(some) for some in (x_BCHW, y_BK, pace_4))
        graph = torch.cuda.CUDAGraph()
        self._update.optimizer.zero_grad(set_to_none=True)
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                self._operations(*inputs)
        except RuntimeError as error:
            self._failed = True
            self._say(f"speed: plain, since a step can't be recorded here: {str(error).strip().splitlines()[0]}")
            self._update.optimizer.zero_grad(set_to_none=True)
            return None
        recorded = self._graphs[x_BCHW.shape] = _Recorded(graph, inputs)
        return recorded

    def _operations(self, x_BCHW: Tensor, y_BK: Tensor, pace_4: Tensor) -> None:
        """The step itself; nothing in it waits for the device, and no number of it is read by the host."""
        learning_rate, weight_decay, average_weight, step = pace_4.unbind()
        loss = self._objective(self._network(x_BCHW), y_BK)
        loss.backward()
        self._update.record(learning_rate, weight_decay)
        with torch.no_grad():
            self._tally.add(loss, len(x_BCHW), step.long())
            if self._average is not None:
                self._average.update(self._averaged, average_weight)


class _Recorded:
    """A graph and the memory that it reads its inputs from."""

    def __init__(self, graph: torch.cuda.CUDAGraph, inputs: tuple[Tensor, ...]) -> None:
        self._graph, self._inputs = graph, inputs

    def replay(self, *given: Tensor) -> None:
        for own, some in zip(self._inputs, given, strict=True):
            own.copy_(some)
        self._graph.replay()
