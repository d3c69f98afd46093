"""What opens graphs refuses files that are none of ours."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from astroformer.errors import UserError
from astroformer.runtimes import open_graph


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
def test_a_graph_of_another_program_is_refused(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"theirs{suffix}"
    images = (torch.zeros(1, 2),)
    if suffix == ".pt2":
        torch.export.save(torch.export.export(torch.nn.ReLU(), images), file)
    else:
        onnx = pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
        value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 2]) for name in ("x", "y")]
        node = onnx.helper.make_node("Relu", ["x"], ["y"])
        graph = onnx.helper.make_graph([node], "theirs", value[:1], value[1:])
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
        onnx.save(model, tmp_path / "theirs.onnx")
        if suffix == ".xml":
            openvino = pytest.importorskip("openvino")
            openvino.save_model(openvino.convert_model(tmp_path / "theirs.onnx"), file)
    with pytest.raises(UserError, match="so astroformer did not export it"):
        open_graph(file)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is no exported graph; one ends with \.onnx, \.xml, \.pt2"):
        open_graph(tmp_path / "graph.pb")
    with pytest.raises(UserError, match="does not exist"):
        open_graph(tmp_path / "graph.onnx")
