"""An exported graph that is asked in its runtime: onnxruntime, OpenVINO or torch.

Legend: B images, K classes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from astroformer.errors import UserError, check_installed

Array = NDArray[Any]
FACTS = "astroformer"  # the name of the metadata of a graph
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
RUNTIMES = {"onnx": "onnxruntime", "openvino": "openvino", "torch": "torch"}
"""What asks the graphs of a format."""
_opened_openvino_in: int | None = None
"""The process that has OpenVINO's threads: the first that opened a graph, of this one and those it was forked from."""
_openvino_alone = threading.Lock()
"""Held while a graph of OpenVINO is opened, and until its first answer: the tables of types of its Python bindings are
made at their first use, and two threads that come at once wait for each other for ever (`Type.to_dtype`, 2026.4)."""
_PRECISIONS = {"float32": "f32", "bf16": "bf16", "int8": "f32"}  # of OpenVINO; int8 stands in the graph itself


@dataclass(frozen=True)
class Exported:
    """A graph of a file, ready to be asked, by several threads at once.

    Attributes:
        outputs: images as `facts` says to all that the graph gives, in its order, float32.
        facts: what the graph says of itself, see `graph.facts_of`.
    """

    outputs: Callable[[Array], list[Array]]
    facts: Mapping[str, Any]

    def ask(self, images: Array) -> Array:
        """Images as `facts` says to probabilities (B, K), float32."""
        return self.outputs(images)[0]


def open_graph(file: Path, *, threads: int | None = None, streams: int = 1) -> Exported:
    """The graph in a file, by the runtime that its ending names.

    Args:
        file: .onnx, .xml or .pt2.
        threads: that it computes with, all of them together; None: as many as the runtime thinks best. A graph of torch
            takes those of `torch.set_num_threads`.
        streams: how many threads will ask it at once, each with its share of the others.

    Raises:
        UserError: the file is none of these or of another program, or its runtime is not installed.
    """
    openers = {".onnx": _open_onnx, ".xml": _open_openvino, ".pt2": _open_torch}
    if file.suffix not in openers:
        raise UserError(f"'{file}' is no exported graph; one ends with {', '.join(openers)}.")
    if not file.is_file():
        raise UserError(f"'{file}' does not exist; `astroformer export` makes one.")
    return openers[file.suffix](file, threads, streams)


def places(file: Path) -> list[Path]:
    """Where the files of a graph lie, whether they are there or not."""
    return [file, file.with_suffix(".bin") if file.suffix == ".xml" else file.with_name(f"{file.name}.data")]


def beside(file: Path) -> list[Path]:
    """The files that a graph consists of."""
    return [place for place in places(file) if place.is_file()]


def check_runtime(to: str) -> None:
    """Raises a `UserError` where what a format needs is not installed."""
    for package in {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino")}.get(
        to, ()
    ):
        check_installed(package, "export", f"an export to {to}")


def is_installed(runtime: str) -> bool:
    """Whether a runtime can be imported."""
    return importlib.util.find_spec(runtime) is not None


def why_not_here(runtime: str) -> str | None:
    """Why a runtime would wait for ever in this process, and what to do; None where it answers."""
    if runtime != "openvino" or _opened_openvino_in in (None, os.getpid()):
        return None
    return (
        "this process was forked from one that had opened a graph of OpenVINO, and does not have its threads; start it "
        "with multiprocessing.get_context('spawn'), load the model after the fork alone, or choose another runtime"
    )


def _check_threads() -> None:
    if (why_not := why_not_here("openvino")) is not None:
        raise UserError(f"OpenVINO can't answer: {why_not}.")


def _open_onnx(file: Path, threads: int | None, streams: int) -> Exported:
    check_installed("onnxruntime", "export", "a graph of ONNX")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone: a graph of a size that is not known makes it warn
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # else idle threads keep the cores busy
    if threads is not None:
        options.intra_op_num_threads = max(1, threads // streams)
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    facts = _facts(file, session.get_modelmeta().custom_metadata_map.get(FACTS))
    return Exported(lambda images: session.run(None, {name: images}), facts)


def _open_openvino(file: Path, threads: int | None, streams: int) -> Exported:
    global _opened_openvino_in
    check_installed("openvino", "export", "a graph of OpenVINO")
    _check_threads()
    import openvino

    _opened_openvino_in = os.getpid()  # before the lock is taken, which a forked process could then find taken for ever
    with _openvino_alone:
        core = openvino.Core()
        core.set_property({"ENABLE_MMAP": False})  # the file may be replaced while the graph is asked
        model = core.read_model(file)
        facts = _facts(file, model.get_rt_info(FACTS).astype(str) if model.has_rt_info(FACTS) else None)
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": _PRECISIONS[facts["precision"]],
            "NUM_STREAMS": streams,
            "ENABLE_CPU_PINNING": False,  # two processes would choose the same core
        }
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        compiled = core.compile_model(model, "CPU", settings)
    requests = threading.local()
    has_answered = False

    def outputs(images: Array) -> list[Array]:
        nonlocal has_answered
        _check_threads()
        with contextlib.nullcontext() if has_answered else _openvino_alone:
            if not hasattr(requests, "own"):
                requests.own = compiled.create_infer_request()
            found = requests.own.infer([images], share_inputs=True)
            answers = [np.array(found[i]) for i in range(len(compiled.outputs))]
            has_answered = True
        return answers

    return Exported(outputs, facts)


def _open_torch(file: Path, threads: int | None, streams: int) -> Exported:
    extra = {FACTS: ""}
    module = torch.export.load(str(file), extra_files=extra).module()

    def outputs(images: Array) -> list[Array]:
        with torch.inference_mode():
            found = module(torch.from_numpy(images))
        return [output.numpy() for output in (found if isinstance(found, tuple) else (found,))]

    return Exported(outputs, _facts(file, extra[FACTS]))


def _facts(file: Path, text: str | None) -> Mapping[str, Any]:
    if not text:
        raise UserError(f"'{file}' says nothing of classes and pixels, so astroformer did not export it.")
    return dict(json.loads(text))
