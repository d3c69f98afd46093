"""How fast an exported graph answers beside torch, as `predict` asks both: in several threads at once.

Legend: N images, C bands, h and w rows and columns of the model's size.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from astroformer.classifier import Classifier
from astroformer.kept_graphs import GraphPass
from astroformer.runtimes import Array
from astroformer.system import usable_cores
from astroformer.threads import WORKERS, in_threads

_TASK_IMAGES = 16  # as `Predictor.iter_predict` gives a thread
_MOST_IMAGES, _ROUNDS, _SECONDS = 256, 7, 0.3  # of a round, on each side


@dataclass(frozen=True)
class Speed:
    """How fast a graph answers here.

    Attributes:
        images_per_second, torch_images_per_second: medians; decoding and resizing are not counted.
        gain: median of their ratios, round by round.
        threads: that computed.
    """

    images_per_second: float
    torch_images_per_second: float
    gain: float
    threads: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON keeps it."""
        return asdict(self)

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        return (
            f"{_rate(self.images_per_second)} images/s, torch {_rate(self.torch_images_per_second)}: {self.gain:.2f} "
            f"times as fast, with {threads} here"
        )


def speed_of(graph: GraphPass, classifier: Classifier, stored_NChw: Array) -> Speed:
    """The speed of a graph beside that of the classifier it was made of, in turn.

    Args:
        classifier: as torch asks it.
        stored_NChw: images as `Preprocessing.apply` makes them, at least one.
    """
    threads = min(torch.get_num_threads(), usable_cores(), WORKERS)
    ask_graph = graph.asked_by(threads)
    sides: list[Callable[[Array], object]] = [classifier.logits, ask_graph]
    some = np.resize(stored_NChw, (_TASK_IMAGES, *stored_NChw.shape[1:]))
    for ask in sides:
        ask(some)  # the first answer prepares what the others use
    started = time.perf_counter()
    classifier.logits(some)
    seconds = time.perf_counter() - started
    tasks = max(threads, min(_MOST_IMAGES // _TASK_IMAGES, round(threads * _SECONDS / seconds)))
    bounds = [(0, _TASK_IMAGES)] * tasks
    rates: list[list[float]] = []
    for _ in range(_ROUNDS):
        rates.append([])
        for ask in sides:
            started = time.perf_counter()
            for _ in in_threads(lambda start, stop, ask=ask: ask(some[start:stop]), bounds, threads):  # type: ignore[misc]
                pass
            rates[-1].append(tasks * _TASK_IMAGES / (time.perf_counter() - started))
    by_torch, by_graph = zip(*rates, strict=True)
    gain = statistics.median(b / a for a, b in rates)
    return Speed(statistics.median(by_graph), statistics.median(by_torch), gain, threads)


def _rate(images_per_second: float) -> str:
    return f"{images_per_second:,.0f}" if images_per_second >= 100 else f"{images_per_second:.3g}"
