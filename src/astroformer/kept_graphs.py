"""The exported graphs of a model folder, one of which may answer in the place of the network.

Legend: B images, C bands, h and w rows and columns of the model's size.
"""

from __future__ import annotations

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
from astroformer.runtimes import RUNTIMES, SUFFIXES, Array, beside, is_installed, open_graph, why_not_here
from astroformer.system import usable_cores
from astroformer.threads import WORKERS

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
        UserError: a record is missing, damaged or not the one that config.json names, or of another model.
    """
    found = []
    for name in config.exports:
        if Path(name).suffix in SUFFIXES.values():
            file = folder.exported(config, f"{name}.json")
            record = read_json(file)
            try:
                gain = record["speed"]["gain"] if "speed" in record else None
                graph = KeptGraph(name, record["takes"], record["precision"], record["check"]["largest"], gain)
                model = record["model"]
            except (KeyError, TypeError) as error:
                raise UserError(f"'{file}' is damaged ({error}); export it again with --overwrite.") from None
            if model != config.weights_sha256:
                raise UserError(f"'{file}' is of another model; export it again with --overwrite.")
            found.append(graph)
    return found


def why_no_graph(*, other_symmetry: bool, fast: bool, device: str) -> str | None:
    """Why no graph can answer as a model is to be asked, and what to do; None where one can."""
    if other_symmetry:
        return "a graph averages over views as the model does, and another symmetry is asked for; leave one out"
    if not fast:
        return "fast=False asks the network itself; leave one out"
    return None if device == "cpu" else f"a graph answers on the CPU, and the device is {device}; choose device cpu"


def pick_graph(
    folder: ModelFolder,
    config: ModelConfig,
    runtime: str,
    precision: str,
    *,
    why_none: str | None,
    say: Callable[[str], object] | None = None,
) -> GraphPass | None:
    """What is to answer in the place of the network; None where torch is.

    "auto" takes the graph of float32 that answered fastest at its export, of those that are equal within `EQUAL` and
    whose runtime is installed; torch, where none was faster, or where a graph is not as it was exported, which is said.

    Args:
        runtime: one of `CHOICES`.
        precision: "float32", "bfloat16" or "int8".
        why_none: what `why_no_graph` says.
        say: is given a sentence where "auto" can't take a graph.

    Raises:
        UserError: the runtime is unknown or not installed, the model has no such graph, or no graph can answer; or the
            graph can't be opened, or is not the one that config.json names.
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
    try:
        graphs = kept_graphs(folder, config)
        if left_to_us:
            graphs = [g for g in graphs if (g.gain or 0) > 1 and g.largest <= EQUAL and is_installed(g.runtime)]
        best = _best(graphs, runtime, PRECISIONS[precision])
        return None if best is None and left_to_us else _opened(folder, config, best, runtime, precision, left_to_us)
    except UserError as error:
        if not left_to_us:
            raise
        if say is not None:
            say(f"torch answers in place of an exported graph: {error}")
        return None


def _best(graphs: list[KeptGraph], runtime: str, precision: str) -> KeptGraph | None:
    """The fastest of the graphs of prepared images that the runtime asks in this precision."""
    fitting = [
        g for g in graphs if (g.takes, g.precision) == ("prepared", precision) and runtime in ("auto", g.runtime)
    ]
    return max(fitting, key=lambda graph: graph.gain or 0, default=None)


def _opened(
    folder: ModelFolder, config: ModelConfig, graph: KeptGraph | None, runtime: str, precision: str, left_to_us: bool
) -> GraphPass:
    if graph is None:
        to = next((to for to, asks in RUNTIMES.items() if asks == runtime), "openvino")
        raise UserError(
            f"'{folder.path}' holds no graph in {precision} that {RUNTIMES[to]} could ask; make one with `astroformer "
            f"export {folder.path} --to {to} --precision {PRECISIONS[precision]}`."
        )
    check_installed(graph.runtime, "export", f"runtime {graph.runtime}")
    for name in {graph.name, *(place.name for place in beside(folder.exports / graph.name))}:
        if name not in config.exports:
            raise UserError(f"config.json of '{folder.path}' names no exports/{name}; export it again.")
        folder.exported(config, name)
    try:
        return GraphPass(folder.exports / graph.name, graph.runtime, precision, left_to_us)
    except UserError:
        raise
    except Exception as error:  # each runtime has errors of its own, for graphs of another version too
        raise UserError(
            f"{graph.runtime} can't open '{folder.exports / graph.name}' ({str(error) or type(error).__name__}); "
            "export it again with --overwrite, or choose --runtime torch."
        ) from None


class GraphPass:
    """A graph of prepared images, asked in the place of a network.

    It is opened at once, for one thread that asks and for several, and needs its file no more.

    Args:
        file: of the graph.
        runtime: that asks it.
        precision: as `Classifier.load` names it.
        left_to_us: whether torch may answer in its place.
    """

    def __init__(self, file: Path, runtime: str, precision: str, left_to_us: bool = False) -> None:
        self.runtime, self.precision, self._left_to_us = runtime, precision, left_to_us
        cores = max(1, min(torch.get_num_threads(), usable_cores()))
        workers = min(cores, WORKERS)
        self._alone = open_graph(file, threads=cores)
        self._together = open_graph(file, threads=cores, streams=workers) if workers > 1 else self._alone
        facts = self._alone.facts
        self._takes = (facts["type"], (facts["channels"], *facts["image_size"]))

    @property
    def gives_way(self) -> bool:
        """Whether torch is to answer: where the runtime would wait for ever, and nobody asked for it by name."""
        return self._left_to_us and why_not_here(self.runtime) is not None

    def takes(self, stored_BCHW: Array) -> bool:
        """Whether images are of the type and size that the graph was made for."""
        return (str(stored_BCHW.dtype), stored_BCHW.shape[1:]) == self._takes

    def asked_by(self, threads: int) -> Callable[[Array], Traced]:
        """What one thread asks, or several at once: images (B, C, h, w) as `Preprocessing.apply` makes them to
        `Traced`. All together compute with the threads that torch may use."""
        graph = self._alone if threads == 1 else self._together

        def traced(stored_BCHW: Array) -> Traced:
            _, *rest = graph.outputs(np.ascontiguousarray(stored_BCHW))
            return Traced(*map(torch.from_numpy, rest))

        return traced
