"""The exported graphs of a model folder, one of which may answer in the place of the network.

Legend: B images, C bands, h and w rows and columns of the model's size.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from astroformer.errors import UserError, check_installed, unknown_name
from astroformer.files import read_json
from astroformer.model_config import ModelConfig
from astroformer.model_folder import ModelFolder
from astroformer.network.traced import Traced
from astroformer.runtimes import RUNTIMES, SUFFIXES, Array, Exported, is_installed, open_graph, places
from astroformer.system import usable_cores

CHOICES = ("auto", *RUNTIMES.values())
EQUAL = 1e-5
"""By how much a probability of a graph that "auto" may take differs from the network's at most, as the fast path's."""
PRECISIONS = {"float32": "float32", "bfloat16": "bf16", "int8": "int8"}
"""What the precision of a `Classifier` is called where it is that of a graph."""


@dataclass(frozen=True)
class KeptGraph:
    """What is known of a graph in a model folder.

    Attributes:
        name: of its file in exports/.
        takes: "pixels" or "prepared".
        precision: "float32", "bf16" or "int8".
        largest: difference of a probability from that of `predict`, as it was measured at the export.
        gain: how many times as many images a second as torch it answered then; None where that was not measured.
    """

    name: str
    takes: str
    precision: str
    largest: float
    gain: float | None

    @property
    def runtime(self) -> str:
        """What asks it."""
        return next(RUNTIMES[to] for to, suffix in SUFFIXES.items() if self.name.endswith(suffix))

    def __str__(self) -> str:
        gain = "" if self.gain is None else f", {self.gain:.2f} times as fast as torch"
        return f"{self.name} ({self.takes}{gain})"


def kept_graphs(folder: ModelFolder, config: ModelConfig) -> list[KeptGraph]:
    """The graphs that lie in a model folder, as their records say.

    Raises:
        UserError: a record is missing or not the one that config.json names.
    """
    found = []
    for name in config.exports:
        if Path(name).suffix in SUFFIXES.values():
            record = read_json(folder.exported(config, f"{name}.json"))
            gain = record.get("speed", {}).get("gain")
            found.append(KeptGraph(name, record["takes"], record["precision"], record["check"]["largest"], gain))
    return found


def pick_graph(
    folder: ModelFolder, config: ModelConfig, runtime: str, precision: str, *, why_none: str | None
) -> GraphPass | None:
    """What is to answer in the place of the network; None where torch is.

    "auto" takes the graph of float32 that answered fastest at its export, of those that are equal within `EQUAL` and
    whose runtime is installed; torch, where none was faster.

    Args:
        runtime: one of `CHOICES`.
        precision: "float32", "bfloat16" or "int8".
        why_none: why no graph of the model can answer as it is to be asked, if so.

    Raises:
        UserError: the runtime is unknown or not installed, the model has no such graph, or no graph can answer; or the
            graph is not the one that config.json names.
    """
    if runtime not in CHOICES:
        raise unknown_name("runtime", runtime, CHOICES)
    left_to_us = runtime == "auto" and precision != "int8"
    if runtime == "torch" or (left_to_us and (why_none is not None or precision != "float32" or not config.exports)):
        if precision == "int8":
            raise UserError("int8 is a precision of exported graphs, which torch does not ask; choose another runtime.")
        return None
    if why_none is not None:
        raise UserError(f"runtime {runtime} with precision {precision} can't be: {why_none}.")
    graphs = [
        graph
        for graph in kept_graphs(folder, config)
        if graph.takes == "prepared"
        and graph.precision == PRECISIONS[precision]
        and runtime in ("auto", graph.runtime)
        and (not left_to_us or ((graph.gain or 0) > 1 and graph.largest <= EQUAL and is_installed(graph.runtime)))
    ]
    if not graphs:
        if left_to_us:
            return None
        to = next((to for to, asks in RUNTIMES.items() if asks == runtime), "openvino")
        raise UserError(
            f"'{folder.path}' holds no graph in {precision} that {RUNTIMES[to]} could ask; make one with `astroformer "
            f"export {folder.path} --to {to} --precision {PRECISIONS[precision]}`."
        )
    best = max(graphs, key=lambda graph: graph.gain or 0)
    check_installed(best.runtime, "export", f"runtime {best.runtime}")
    for place in places(Path(best.name)):
        if place.name in config.exports:
            folder.exported(config, place.name)
    return GraphPass(folder.exports / best.name, best.runtime)


class GraphPass:
    """A graph of prepared images, asked in the place of a network.

    Args:
        file: of the graph; it is opened when it is asked first.
        runtime: that asks it.
    """

    def __init__(self, file: Path, runtime: str) -> None:
        self.file, self.runtime = file, runtime
        self._opened: dict[int, Exported] = {}  # by the number of threads that ask at once
        self._opening = threading.Lock()

    def asked_by(self, threads: int) -> Callable[[Array], Traced]:
        """What so many threads ask at once: images (B, C, h, w) as `Preprocessing.apply` makes them to `Traced`.

        All together compute with the threads that torch may use.
        """
        with self._opening:
            if threads not in self._opened:
                cores = max(threads, min(torch.get_num_threads(), usable_cores()))
                self._opened[threads] = open_graph(self.file, threads=cores, streams=threads)
            graph = self._opened[threads]

        def traced(stored_BCHW: Array) -> Traced:
            _, *rest = graph.outputs(np.ascontiguousarray(stored_BCHW))
            return Traced(*map(torch.from_numpy, rest))

        return traced
