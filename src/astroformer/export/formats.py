"""A `Graph` as a file of ONNX, OpenVINO or torch."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim, ExportedProgram
from torch.nn.attention import SDPBackend, sdpa_kernel

from astroformer.export.graph import INPUT, OUTPUTS, Graph
from astroformer.runtimes import FACTS

_MOST_IMAGES, _MOST_PIXELS = 65536, 16384
_INSIDE = 1 << 30  # bytes of weights that lie in the .onnx file itself, which ends at 2 GB


def write(graph: Graph, facts: Mapping[str, Any], to: str, file: Path) -> None:
    """Writes a graph; what belongs to the file, such as OpenVINO's .bin, lies beside it.

    Args:
        facts: that the file says of itself.
        to: "onnx", "openvino" or "torch".
        file: whose ending is that of the format.
    """
    with _quiet():
        traced = _traced(graph)
        if to == "torch":
            torch.export.save(traced, str(file), extra_files={FACTS: json.dumps(facts)})
        elif to == "onnx":
            _write_onnx(graph, traced, facts, file)
        else:
            with tempfile.TemporaryDirectory() as folder:
                onnx_file = Path(folder) / "graph.onnx"
                _write_onnx(graph, traced, facts, onnx_file)
                to_openvino(onnx_file, facts, file)


def _traced(graph: Graph) -> ExportedProgram:
    most = {"batch": _MOST_IMAGES}
    free = {axis: Dim(name, min=1, max=most.get(name, _MOST_PIXELS)) for axis, name in graph.free.items()}
    # The kernels of attention that torch chooses by size are nothing that another runtime knows.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        return torch.export.export(graph.eval(), (graph.example(),), dynamic_shapes=(free,))


def _write_onnx(graph: Graph, traced: ExportedProgram, facts: Mapping[str, Any], file: Path) -> None:
    with sdpa_kernel(SDPBackend.MATH):
        program = torch.onnx.export(
            traced, dynamo=True, input_names=[INPUT], output_names=OUTPUTS[graph.takes], verbose=False, optimize=True
        )
    assert program is not None
    program.model.metadata_props[FACTS] = json.dumps(facts)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in graph.state_dict().values())
    program.save(str(file), external_data=weights > _INSIDE)


def to_openvino(onnx_file: Path, facts: Mapping[str, Any], file: Path) -> None:
    """Converts a graph of ONNX."""
    import openvino

    model = openvino.convert_model(onnx_file)
    model.set_rt_info(json.dumps(facts), FACTS)
    openvino.save_model(model, file, compress_to_fp16=False)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What the exporters warn of is theirs: the graph is compared with `predict` afterwards."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
