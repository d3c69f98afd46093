"""`astroformer export`, and a program without torch that asks what it writes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from astroformer.export import check
from astroformer.export.speed import Speed
from astroformer.images.preprocessing import Preprocessing
from astroformer.runtimes import SUFFIXES
from helpers.command_line import TINY, Run, table
from helpers.consumer import consumed


def same_answers(run: Run, model: Path, graph: Path, folder: Path) -> None:
    files = sorted(folder.rglob("*.*"))
    assert run("predict", model, folder, "--out", "p.csv", "--quiet").status == 0
    rows = {row["file"]: row for row in table(Path("p.csv"))}
    found = consumed(graph, files)
    assert len(found) == len(rows) == len(files)
    for row in found:
        want = rows[str(Path(row["file"]).relative_to(folder))]
        assert list(row) == [column for column in want if column != "novelty"]
        assert (row["prediction"], row["error"]) == (want["prediction"], want["error"]) != ("", "")
        for column in row:
            if column == "confidence" or column.startswith("p:"):
                assert float(row[column]) == pytest.approx(float(want[column]), abs=1e-4)


def test_a_graph_answers_as_the_command_line_does(run: Run, model_folder: Path, galaxy_folder: Path) -> None:
    pytest.importorskip("onnxruntime")
    said = run("export", model_folder, "--images", galaxy_folder, "--out", "graph-1.onnx", "--quiet")
    assert said.status == 0, said.err
    takes, checked, record, graph = said.out.splitlines()
    assert "uint8 images (batch, height, width, 3) of any size to probabilities of 10 classes" in takes
    assert "on 30 images probabilities differ by" in checked
    assert (record, graph) == ("kept in: graph-1.onnx.json", "graph: graph-1.onnx")
    kept = json.loads(Path("graph-1.onnx.json").read_text())
    assert kept["check"]["images"] == 30
    assert kept["check"]["largest"] < 1e-5
    assert kept["check"]["agreement"] == 1
    assert kept["model"] == json.loads((model_folder / "config.json").read_text())["hashes"]["model.safetensors"]
    same_answers(run, model_folder, Path("graph-1.onnx"), galaxy_folder)


def test_what_disagrees_is_not_written(
    run: Run, model_folder: Path, galaxy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(check.ALLOWED, "float32", -1.0)
    said = run("export", model_folder, "--to", "torch", "--images", galaxy_folder, "--takes", "prepared", "--quiet")
    assert "does not answer as the model does, so it is not written: on 30 images" in said.refusal()
    assert not (model_folder / "exports").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["M", "--to", "onnx", "--precision", "bf16", "--images", "G"], "has no bfloat16 convolution"),
        (["M", "--images", "G", "--out", "graph.pb"], "whose name ends with .onnx; change --out"),
        (["M", "--to", "openvino", "--images", "G", "--out", "graph.onnx"], "whose name ends with .xml"),
        (["M"], "lies in no run folder"),
        (["nowhere"], "'nowhere' does not exist"),
        (["M", "--images", "nowhere"], "'nowhere' is neither a file or folder"),
        (["M", "--to", "tflite"], "tflite"),
        (["M", "--images", "G", "--out", "there.onnx"], "'there.onnx' exists already"),
    ],
)
def test_what_can_not_be_is_refused(
    run: Run, words: list[str], says: str, model_folder: Path, galaxy_folder: Path
) -> None:
    Path("there.onnx").write_bytes(b"")
    places: dict[str, str | Path] = {"M": model_folder, "G": galaxy_folder}
    said = run("export", *(places.get(word, word) for word in words), "--quiet")
    assert says in said.refusal()


def test_a_missing_extra_is_a_sentence(run: Run, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def without(name: str, *words: Any) -> Any:
        return None if name in ("onnxscript", "openvino") else find(name, *words)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    for to in ("onnx", "openvino"):
        sentence = run("export", model_folder, "--to", to).refusal()
        assert sentence == (
            f'error: an export to {to} needs the extra [export]; in a clone of the repository: pip install ".[export]"'
        )


def test_a_graph_is_kept_in_the_model_folder(
    run: Run, model_folder: Path, galaxy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    model = model_folder
    monkeypatch.setattr("astroformer.export.exporting.speed_of", lambda *_: Speed(1500.0, 1000.0, 1.5, 2))
    words = ["export", model, "--images", galaxy_folder, "--quiet"]
    said = run(*words)
    assert said.status == 0, said.err
    assert "speed: 1,500 images/s, torch 1,000: 1.50 times as fast, with 2 threads here" in said.out
    assert said.out.splitlines()[-1] == "on the CPU predict asks onnxruntime from now on"
    names = {"onnx-float32-pixels.onnx", "onnx-float32-prepared.onnx"}
    assert {file.name for file in (model / "exports").iterdir()} == names | {f"{name}.json" for name in names}
    assert "exists already" in run(*words).refusal()
    shown = " ".join(run("info", model).out.split())
    assert "exports onnx-float32-pixels.onnx (pixels); onnx-float32-prepared.onnx (prepared, 1.50 times as" in shown
    for runtime in ("auto", "torch"):
        assert run("predict", model, galaxy_folder, "--runtime", runtime, "--out", f"{runtime}.csv").status == 0
    asked, plain = table(Path("auto.csv")), table(Path("torch.csv"))
    for row, other in zip(asked, plain, strict=True):
        assert row["prediction"] == other["prediction"]
        assert float(row["confidence"]) == pytest.approx(float(other["confidence"]), abs=1e-5)
    assert (
        "holds no graph in float32 that openvino"
        in run("evaluate", model, galaxy_folder, "--runtime", "openvino").refusal()
    )


@pytest.mark.slow
@pytest.mark.parametrize(("to", "precision"), [("openvino", "float32"), ("openvino", "bf16"), ("torch", "bf16")])
def test_a_run_is_compared_on_what_it_has_held_out(run: Run, to: str, precision: str) -> None:
    pytest.importorskip("openvino")
    assert run("train", "mock-galaxies:60x40", *TINY, "--out", "run", "--quiet").status == 0
    said = run("export", "run", "--to", to, "--precision", precision, "--out", f"g{SUFFIXES[to]}", "--quiet")
    assert said.status == 0, said.err
    assert "on 12 images" in said.out
    assert ("cut and resized before" in said.out) == ((to, precision) == ("openvino", "bf16"))


@pytest.mark.slow
def test_int8_is_judged_on_labelled_images(run: Run, galaxy_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nncf")
    assert run("train", "mock-galaxies:200x40", *TINY, "--out", "run", "--quiet").status == 0
    words = ["export", "run", "--to", "openvino", "--precision", "int8", "--out", "g.xml", "--quiet"]
    assert "at least 300 labelled images, and there are 40" in run(*words).refusal()
    assert "at least 300 labelled images, and there are 30" in run(*words, "--images", galaxy_folder).refusal()
    assert "would resize in 8 bits, too" in run(*words, "--takes", "pixels").refusal()
    said = run(*words, "--images", "mock-galaxies:300x40")
    assert said.status == 0, said.err
    kept = json.loads(Path("g.xml.json").read_text())
    assert kept["before"]["accuracy"] - kept["after"]["accuracy"] <= 0.005
    assert kept["after"]["nll"] - kept["before"]["nll"] <= 0.02
    monkeypatch.setattr("astroformer.export.quantized.MOST_MORE_NLL", -9.0)
    said = run(*words, "--images", "mock-galaxies:300x40", "--overwrite")
    assert "int8 has accuracy" in said.refusal()
    assert json.loads(Path("g.xml.json").read_text()) == kept


def test_an_image_is_brought_to_the_pixels_that_a_graph_takes() -> None:
    preprocessing = Preprocessing((32, 32), 3)
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    np.testing.assert_array_equal(preprocessing.as_pixels(grey), np.repeat(grey[:, :, None], 3, 2))
    assert preprocessing.as_pixels(grey > 3).max() == 255
    assert preprocessing.as_pixels(grey.astype(np.uint16) * 257, 65535).dtype == np.uint8
    luminance = Preprocessing((32, 32), 1).as_pixels(np.full((4, 4, 3), 7, np.uint8))
    assert luminance.shape == (4, 4, 1)
