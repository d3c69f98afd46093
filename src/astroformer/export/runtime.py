"""An exported graph that is asked in its runtime: onnxruntime, OpenVINO or torch.

Legend: B images, K classes.
"""

from __future__ import annotations

import json
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
_PRECISIONS = {"float32": "f32", "bf16": "bf16", "int8": "f32"}  # of OpenVINO; int8 stands in the graph itself


@dataclass(frozen=True)
class Exported:
    """A graph of a file, ready to be asked.

    Attributes:
        ask: images as `facts` says to probabilities (B, K), float32.
        facts: what the graph says of itself, see `graph.facts_of`.
    """

    ask: Callable[[Array], Array]
    facts: Mapping[str, Any]


def open_graph(file: Path, *, threads: int | None = None) -> Exported:
    """The graph in a file, by the runtime that its ending names.

    Args:
        file: .onnx, .xml or .pt2.
        threads: that it computes with; None: as many as the runtime thinks best.

    Raises:
        UserError: the file is none of these, or its runtime is not installed.
    """
    openers = {".onnx": _open_onnx, ".xml": _open_openvino, ".pt2": _open_torch}
    if file.suffix not in openers:
        raise UserError(f"'{file}' is no exported graph; one ends with {', '.join(openers)}.")
    if not file.is_file():
        raise UserError(f"'{file}' does not exist; `astroformer export` makes one.")
    return openers[file.suffix](file, threads)


def check_runtime(to: str) -> None:
    """Raises a `UserError` where what a format needs is not installed."""
    for package in {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino")}.get(
        to, ()
    ):
        check_installed(package, "export", f"an export to {to}")


def _open_onnx(file: Path, threads: int | None) -> Exported:
    check_installed("onnxruntime", "export", "a graph of ONNX")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone: a graph of a size that is not known makes it warn
    if threads is not None:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    facts = json.loads(session.get_modelmeta().custom_metadata_map[FACTS])
    return Exported(lambda images: session.run(None, {name: images})[0], facts)


def _open_openvino(file: Path, threads: int | None) -> Exported:
    check_installed("openvino", "export", "a graph of OpenVINO")
    import openvino

    core = openvino.Core()
    model = core.read_model(file)
    facts = json.loads(model.get_rt_info(FACTS).astype(str))
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": _PRECISIONS[facts["precision"]]}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    compiled = core.compile_model(model, "CPU", settings)
    return Exported(lambda images: np.array(compiled(images)[0]), facts)


def _open_torch(file: Path, threads: int | None) -> Exported:
    extra = {FACTS: ""}
    module = torch.export.load(str(file), extra_files=extra).module()

    def ask(images: Array) -> Array:
        with torch.inference_mode():
            return module(torch.from_numpy(images)).numpy()

    return Exported(ask, json.loads(extra[FACTS]))
