"""`Predictor`: what of a `Classifier` asks the network: from images to probabilities, batch by batch.

There is one predict path: file → `Preprocessing.apply` → `Preprocessing.normalize` → network → calibration. The command
line, the evaluation and the validation during training all go through it. The network is asked by its fast path
(`fast_inference.py`) or by a graph that was exported from it (`kept_graphs.py`); in float32, the default, that is
within 1e-5 in probability of the plain forward pass.

Legend: N images, B batch, K classes, C channels, D features, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from astroformer.allocator import keep_freed_memory
from astroformer.errors import UserError, unknown_name
from astroformer.fast_pass import FastPass, fast_pass
from astroformer.images.copies import Digests, pixel_digest
from astroformer.images.labelled import LabelledImages
from astroformer.images.preprocessing import Preprocessing
from astroformer.kept_graphs import GraphPass
from astroformer.model_config import ModelRecord
from astroformer.model_folder import KeptNetwork
from astroformer.network.traced import Traced
from astroformer.predictions import NOVELTY, Predictions
from astroformer.system import PRECISIONS, pick_precision, usable_cores
from astroformer.threads import WORKERS, in_threads, pieces
from astroformer.trust.trust import Trust

_TASK_IMAGES = 16  # that a thread on a CPU decodes and classifies together, enough to fill the matrix products
_TARGET_IMAGES = 256  # of a forward pass whose answers are targets; a GPU is given thousands of images at once
Array = NDArray[Any]


@dataclass(repr=False)
class Predictor:
    """A network, its preprocessing and its class names, which are described in `Classifier`."""

    network: nn.Module
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    info: ModelRecord = field(default_factory=ModelRecord)
    precision: str = "float32"
    white: float | None = None
    seen: Digests | None = None
    fast: bool = True
    folder: Path | None = None
    trust: Trust = field(default_factory=Trust)
    # The network as `fast_pass` has it, and the state of the weights and settings that it was made from.
    _fast: tuple[Any, FastPass] | None = field(default=None, init=False, repr=False, compare=False)
    # An exported graph that answers in its place, and the state of weights and settings that it was made from.
    _graph: tuple[Any, GraphPass] | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)
        if not self.fast and self.precision != "float32":
            raise UserError(
                f"precision {self.precision} is a part of the fast path; with fast=False only float32 can be."
            )
        # One memory format, one set of kernels: a loaded classifier gives the same bits as the one that was saved.
        self.network.to(memory_format=torch.channels_last)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_fast": None, "_graph": None}  # a copy makes its own, from its own weights

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def to(self, device: str | torch.device) -> Self:
        """Moves the network to `device` ("cpu", "cuda", …) and returns this classifier."""
        self.network.to(device)
        return self

    @property
    def runtime(self) -> str:
        """What answers: "torch", or "onnxruntime" or "openvino", by a graph that was exported from these weights.

        Where weights or settings change, or the network moves to another device, and in a copy, torch answers.
        """
        graph = self._graph_now()
        return "torch" if graph is None else graph.runtime

    @property
    def added(self) -> list[str]:
        """The columns that predictions bring of themselves, see `Predictions.added`."""
        return [NOVELTY] if self.trust.novelty is not None and self._by_fast_path else []

    def traces(self, stored_BCHW: Array | Tensor) -> Array:
        """(B, L) what the network makes of such a batch on its way, which `Novelty` compares.

        Raises:
            UserError: the network is none of ours.
        """
        return _traces(self._tracing()(np.asarray(stored_BCHW)))

    @torch.inference_mode()
    def logits(self, stored_BCHW: Array | Tensor) -> Array:
        """(B, K) float64 logits of a batch as `Preprocessing.apply` makes it and the image store keeps it."""
        return _float64(self._logits_by()(np.asarray(stored_BCHW)))

    def probabilities(self, stored_BCHW: Array | Tensor, digests_B: Array | None = None) -> Array:
        """(B, K) float64 probabilities of such a batch; `digests_B` as in `Trust.probabilities`."""
        return self.trust.probabilities(self.logits(stored_BCHW), digests_B)

    def _normalized(self, stored_BCHW: Array | Tensor) -> Tensor:
        return self.preprocessing.normalize(torch.as_tensor(np.asarray(stored_BCHW)).to(self.device))

    def answers(self, x_BCHW: Tensor) -> Tensor:
        """(B, K) float32 probabilities of images that are normalised already, on the network's device, where they
        stay: targets that another network may learn, which are not calibrated."""
        with torch.inference_mode():
            network = self._asked()
            parts = [torch.softmax(network(x).float(), dim=1) for x in x_BCHW.split(_TARGET_IMAGES)]
        return torch.cat(parts)  # outside of the mode: a backward pass may keep it

    def _tracing(self, threads: int = 1) -> Callable[[Array], Traced]:
        """What so many threads may ask at once about stored images: an exported graph, or else the fast path."""
        graph = self._graph_now()
        if graph is None:
            return self._tracing_by_torch()
        by_graph = graph.asked_by(threads)

        def tracing(stored_BCHW: Array) -> Traced:
            ask = by_graph if graph.takes(stored_BCHW) else self._tracing_by_torch()
            return ask(stored_BCHW)

        return tracing

    def _tracing_by_torch(self) -> Callable[[Array], Traced]:
        network = self._fast_network()
        return lambda stored_BCHW: network.traced(self._normalized(stored_BCHW))

    def _logits_by(self, threads: int = 1) -> Callable[[Array], Tensor]:
        """The same for logits alone: of our own networks by `_tracing`, of others by their forward pass."""
        if self._by_fast_path:
            tracing = self._tracing(threads)
            return lambda stored_BCHW: tracing(stored_BCHW).logits
        self.network.eval()
        return lambda stored_BCHW: self.network(self._normalized(stored_BCHW))

    def _asked(self) -> Callable[[Tensor], Tensor]:
        """What is asked in torch for logits of normalised images."""
        self.network.eval()
        return self._fast_network() if self._by_fast_path else self.network

    def _graph_now(self) -> GraphPass | None:
        """The exported graph, while weights and settings are those that it was made from."""
        if self._graph is None or self._graph[0] != self._state() or self._graph[1].gives_way:
            return None
        return self._graph[1]

    def _state(self) -> Any:
        """What changes where weights, preprocessing or the way of asking are changed."""
        return self._weights_state(), self.preprocessing, self.precision, self.fast

    def _weights_state(self) -> Any:
        """What changes with the weights: every change through torch raises a tensor's version, and every move gives it
        another address."""
        tensors = (*self.network.parameters(), *self.network.buffers())
        return tuple((t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors)

    def _fast_network(self) -> FastPass:
        if not isinstance(self.network, KeptNetwork):
            raise UserError(f"features of a {type(self.network).__name__} can't be asked for; an Astroformer has them.")
        made_from = (self.precision, self._weights_state())
        self.network.eval()
        if self._fast is None or self._fast[0] != made_from:
            if self.device.type == "cpu":
                keep_freed_memory()
            dtype = getattr(torch, pick_precision(self.precision, self.device.type))
            self._fast = (made_from, fast_pass(self.network, dtype))
        return self._fast[1]

    @property
    def _by_fast_path(self) -> bool:
        return self.fast and isinstance(self.network, KeptNetwork)

    def iter_predict(
        self, images: LabelledImages, *, batch_size: int = 64, mark_seen: bool = False, features: bool = False
    ) -> Iterator[Predictions]:
        """Predictions batch by batch, for any number of images: each thread decodes some and asks the network.

        Arguments are those of `predict`.
        """
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}; at least 1 image a forward pass is needed.")
        self.preprocessing.check_source(images)
        self.preprocessing.check_brightness(images.read, len(images), self.white)
        seen = self.seen if mark_seen else None
        known_again = mark_seen and (seen is not None or self.trust.held_out is not None)
        novelty = self.trust.novelty if self.added else None
        total = len(images)
        on_cpu = self.device.type == "cpu"
        # Side by side, decoding and network fill all cores whichever of the two takes longer, and no thread waits for
        # another one's share of a matrix product. Hooks see one batch after the other.
        workers = min(usable_cores(), WORKERS) if self.fast else 1
        size = min(batch_size, _TASK_IMAGES) if on_cpu and self.fast else batch_size
        bounds = pieces(total, batch_size, size)
        asking = workers if len(bounds) > 1 else 1
        tracing = self._tracing(asking) if features or novelty is not None else None
        logits_by = self._logits_by(asking)
        width = getattr(self.network, "head_hidden_size", 0)

        @torch.inference_mode()
        def task(start: int, stop: int) -> Predictions:
            probabilities_NK = np.full((stop - start, len(self.classes)), np.nan)
            rows: dict[int, Array] = {}
            errors = [""] * (stop - start)
            digests = np.zeros(stop - start, np.uint64)
            for k in range(stop - start):
                try:
                    image = images.read(start + k)
                    rows[k] = self.preprocessing.apply(image, self.white)
                    if known_again:
                        digests[k] = pixel_digest(image)
                except UserError as error:  # unreadable, or of a type or channels that the network can't take
                    errors[k] = str(error)
            own_NK = np.full_like(probabilities_NK, np.nan) if mark_seen else None
            fold_N = np.full(stop - start, -1) if mark_seen else None
            features_ND = np.full((stop - start, width), np.nan, np.float32) if features else None
            scores: list[float | None] = [None] * (stop - start)
            if rows:
                stored_BCHW = np.stack(list(rows.values()))
                if tracing is None:
                    logits_BK = logits_by(stored_BCHW)
                else:
                    trace = tracing(stored_BCHW)
                    logits_BK = trace.logits
                    if features_ND is not None:
                        features_ND[list(rows)] = trace.features.float().cpu().numpy()
                    if novelty is not None:
                        for k, score in zip(rows, novelty.scores(_traces(trace)).tolist(), strict=True):
                            scores[k] = score
                known_B = digests[list(rows)] if known_again else None
                probabilities_NK[list(rows)] = self.trust.probabilities(_float64(logits_BK), known_B)
                if own_NK is not None:
                    own_NK[list(rows)] = self.trust.raw().probabilities(_float64(logits_BK))
                if fold_N is not None and known_B is not None and self.trust.held_out is not None:
                    fold_N[list(rows)] = self.trust.held_out.folds_by_digest(known_B)
            seen_N = None if seen is None else np.isin(digests, seen)
            added = {} if novelty is None else {NOVELTY: scores}
            files = images.files[start:stop]
            return Predictions(
                files, self.classes, probabilities_NK, errors, seen_N, features_ND, own_NK, fold_N, added=added
            )

        parts: list[Predictions] = []
        for (_, stop), part in zip(bounds, in_threads(task, bounds, workers), strict=True):
            parts.append(part)
            if stop % batch_size == 0 or stop == total:
                yield Predictions.joined(parts, self.classes)
                parts = []


def _float64(logits_BK: Tensor) -> Array:
    # It keeps p(class) of confident predictions from rounding to 0 and 1.
    return logits_BK.double().cpu().numpy()


def _traces(traced: Traced) -> Array:
    return torch.cat([traced.means, traced.features.float()], 1).cpu().numpy()
