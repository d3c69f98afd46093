"""What opens graphs refuses files that are none of ours, and answers several threads that come at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from astroformer.errors import UserError
from astroformer.runtimes import FACTS, open_graph


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


AT_ONCE = """
import os, sys, threading
from pathlib import Path
import numpy as np
from astroformer.runtimes import open_graph

graph = open_graph(Path(sys.argv[1]), streams=16)
gate, answers = threading.Barrier(16), []

def ask(number):
    gate.wait()
    answers.append(graph.ask(np.full((1, 2), number, np.float32)).sum())

sys.setswitchinterval(1e-9)
asking = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
for thread in asking:
    thread.start()
for thread in asking:
    thread.join()
print(sorted(map(float, answers)))
"""


@pytest.mark.parametrize("attempt", range(2))
def test_the_first_answers_of_openvino_may_be_asked_for_at_once(attempt: int, tmp_path: Path) -> None:
    """Without care two of three such processes wait for ever."""
    openvino = pytest.importorskip("openvino")
    operations = openvino.opset13
    x = operations.parameter([-1, 2], np.float32)
    model = openvino.Model([operations.relu(x)], [x])
    model.set_rt_info('{"precision": "float32"}', FACTS)
    openvino.save_model(model, tmp_path / "graph.xml", compress_to_fp16=False)
    words = [sys.executable, "-c", AT_ONCE, str(tmp_path / "graph.xml")]
    made = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert made.stdout.strip() == str([2.0 * number for number in range(16)]), made.stderr
