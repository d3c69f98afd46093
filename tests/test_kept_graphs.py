"""Exported graphs in a model folder: which one answers, and that it answers as the network does."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from astroformer import kept_graphs
from astroformer.classifier import Classifier
from astroformer.errors import UserError
from astroformer.export import exporting
from astroformer.export.speed import Speed
from astroformer.images.given import as_images
from astroformer.kept_graphs import pick_graph, why_no_graph
from astroformer.model_folder import ModelFolder
from helpers.exported import Case, classifier_of, pictures, scaled

for package in ("onnxscript", "onnxruntime"):
    pytest.importorskip(package)

CASE = Case(
    {"symmetry": "shift+mirror"}, (32, 40), 2, scaled("asinh", 2, dtype="float16"), calibration="vector", members=2
)
NAME = "onnx-float32-prepared.onnx"


def images(seed: int = 0) -> list[np.ndarray]:
    return pictures(CASE, 40, seed=seed)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a graph that was twice as fast as torch, as its record says."""
    folder = classifier_of(CASE).save(tmp_path_factory.mktemp("kept") / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "speed_of", lambda *_: Speed(2.0, 1.0, 2.0, 1))
        model = Classifier.load(folder, runtime="torch")
        exporting.export(model, as_images(images(1)), takes="prepared")
    return folder


@pytest.fixture
def folder(kept: Path, tmp_path: Path) -> Path:
    """A copy, to change."""
    return Path(shutil.copytree(kept, tmp_path / "model"))


def test_a_graph_answers_as_the_network_does(kept: Path) -> None:
    by_graph, by_torch = Classifier.load(kept), Classifier.load(kept, runtime="torch")
    assert (by_graph.runtime, by_torch.runtime) == ("onnxruntime", "torch")
    assert "an exported graph of onnxruntime in float32" in str(by_graph)
    asked = [model.predict(images(), mark_seen=True, features=True, quiet=True) for model in (by_graph, by_torch)]
    for name in ("probabilities_NK", "own_NK", "features_ND"):
        found, expected = (getattr(one, name) for one in asked)
        assert np.isfinite(expected).all()
        np.testing.assert_allclose(found, expected, atol=1e-5)
    stored_BCHW = np.stack([by_torch.preprocessing.apply(image) for image in images()])
    np.testing.assert_allclose(by_graph.logits(stored_BCHW), by_torch.logits(stored_BCHW), atol=1e-4)
    np.testing.assert_allclose(by_graph.traces(stored_BCHW), by_torch.traces(stored_BCHW), rtol=1e-3, atol=1e-4)
    one = by_graph.predict(images()[:1], quiet=True)  # by all threads at once
    np.testing.assert_allclose(one.probabilities_NK, asked[1].probabilities_NK[:1], atol=1e-5)
    # An image that can't be taken has its reason, and the others theirs.
    mixed = by_graph.predict([images()[0], np.zeros((8, 8, 3), np.uint8), images()[1]], quiet=True)
    assert [bool(error) for error in mixed.errors] == [False, True, False]


def test_it_is_known_what_lies_there(kept: Path) -> None:
    folder = ModelFolder(kept)
    assert sorted(folder.config().exports) == [NAME, f"{NAME}.json"]
    [graph] = kept_graphs.kept_graphs(folder, folder.config())
    assert graph.largest < 1e-5
    assert (graph.runtime, graph.precision, graph.takes, graph.gain) == ("onnxruntime", "float32", "prepared", 2.0)


def record(folder: Path, **words: Any) -> None:
    """Writes other words into the record of the graph, as if its export had measured them."""
    model, file = ModelFolder(folder), folder / "exports" / f"{NAME}.json"
    other = folder / f"{NAME}.json"
    other.write_text(json.dumps(json.loads(file.read_text()) | words))
    model.keep_exports([other], of=model.config())


def test_auto_takes_what_is_faster_and_equal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = json.loads((folder / "exports" / f"{NAME}.json").read_text())["check"]
    record(folder, speed={"gain": 0.99})
    assert Classifier.load(folder).runtime == "torch"
    assert Classifier.load(folder, runtime="onnxruntime").runtime == "onnxruntime"
    record(folder, speed={"gain": 1.2}, check=check | {"largest": 2e-5})
    assert Classifier.load(folder).runtime == "torch"
    record(folder, check=check)
    assert Classifier.load(folder).runtime == "onnxruntime"
    monkeypatch.setattr(kept_graphs, "is_installed", lambda runtime: False)
    assert Classifier.load(folder).runtime == "torch"


@pytest.mark.parametrize(
    "words", [{"symmetry": "shift"}, {"fast": False}, {"precision": "bfloat16"}, {"runtime": "torch"}]
)
def test_torch_answers_where_no_graph_can(kept: Path, words: dict[str, Any]) -> None:
    assert Classifier.load(kept, **words).runtime == "torch"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"runtime": "tensorrt"}, "unknown runtime 'tensorrt'. Allowed: auto, onnxruntime, openvino, torch"),
        (
            {"runtime": "openvino"},
            "holds no graph in float32 that openvino could ask; make one with `astroformer export",
        ),
        ({"runtime": "onnxruntime", "precision": "int8"}, "holds no graph in int8 that onnxruntime could ask"),
        ({"precision": "int8"}, "--to openvino --precision int8"),
        ({"runtime": "torch", "precision": "int8"}, "int8 is a precision of exported graphs"),
        ({"runtime": "onnxruntime", "symmetry": "shift"}, "another symmetry is asked for"),
        ({"runtime": "onnxruntime", "fast": False}, "fast=False asks the network itself"),
    ],
)
def test_what_can_not_be_is_refused(kept: Path, words: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says.replace("(", r"\(")):
        Classifier.load(kept, **words)


def test_a_graph_answers_on_the_cpu(kept: Path) -> None:
    model = ModelFolder(kept)
    why_none = why_no_graph(other_symmetry=False, fast=True, device="cuda")
    with pytest.raises(UserError, match="the device is cuda; choose device cpu"):
        pick_graph(model, model.config(), "onnxruntime", "float32", why_none=why_none)


def test_changed_weights_are_asked_themselves(kept: Path) -> None:
    model = Classifier.load(kept)
    copied = copy.deepcopy(model)
    assert copied.runtime == "torch"
    before = model.predict(images(), quiet=True).probabilities_NK
    np.testing.assert_allclose(copied.predict(images(), quiet=True).probabilities_NK, before, atol=1e-5)
    with torch.no_grad():
        next(model.network.parameters()).mul_(1.5)
    assert model.runtime == "torch"
    assert np.abs(model.predict(images(), quiet=True).probabilities_NK - before).max() > 1e-3


@pytest.mark.parametrize("name", [NAME, f"{NAME}.json"])
def test_a_changed_or_missing_graph_is_not_asked(folder: Path, name: str) -> None:
    file = folder / "exports" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    for says in ("is not the one that config.json names", f"lacks exports/{name}, which config.json names; export it"):
        if "lacks" in says:
            file.unlink()
        with pytest.raises(UserError, match=re.escape(says)):
            Classifier.load(folder, runtime="onnxruntime")
        said: list[object] = []
        assert Classifier.load(folder, say=said.append).runtime == "torch"
        assert says in str(said)
        assert "torch answers in place of an exported graph" in str(said)


@pytest.mark.parametrize("damage", [{"takes": None}, {"speed": None}, {"check": 3}, {"model": "of another"}])
def test_a_record_that_says_nothing_is_a_sentence(folder: Path, damage: dict[str, Any]) -> None:
    record(folder, **damage)
    if damage == {"takes": None}:
        (folder / NAME).write_text("{}")
        (folder / NAME).rename(folder / f"{NAME}.json")
        model = ModelFolder(folder)
        model.keep_exports([folder / f"{NAME}.json"], of=model.config())
    with pytest.raises(UserError, match=r"is damaged|is of another model"):
        Classifier.load(folder, runtime="onnxruntime")
    assert Classifier.load(folder).runtime == "torch"


def test_a_graph_that_can_not_be_opened_is_a_sentence(folder: Path) -> None:
    (folder / NAME).write_bytes(b"no graph")
    model = ModelFolder(folder)
    model.keep_exports([folder / NAME], of=model.config())
    with pytest.raises(UserError, match="onnxruntime can't open"):
        Classifier.load(folder, runtime="onnxruntime")
    assert Classifier.load(folder).runtime == "torch"


def test_a_graph_needs_its_file_no_more(folder: Path) -> None:
    model, expected = Classifier.load(folder), Classifier.load(folder, runtime="torch").predict(images(), quiet=True)
    model.save(folder)  # which has no exports then
    shutil.rmtree(folder)
    assert model.runtime == "onnxruntime"
    for n in (1, 40):
        found = model.predict(images()[:n], quiet=True).probabilities_NK
        np.testing.assert_allclose(found, expected.probabilities_NK[:n], atol=1e-5)


def test_changed_settings_are_asked_of_torch(kept: Path) -> None:
    changes = {"preprocessing": replace(Classifier.load(kept).preprocessing, mean=(0.7, 0.7)), "precision": "bfloat16"}
    for name, value in changes.items():
        model, plain = Classifier.load(kept), Classifier.load(kept, runtime="torch")
        for each in (model, plain):
            setattr(each, name, value)
        assert model.runtime == "torch"
        found, expected = (each.predict(images(), quiet=True).probabilities_NK for each in (model, plain))
        np.testing.assert_array_equal(found, expected)


def test_images_of_another_size_or_type_are_asked_of_torch(kept: Path) -> None:
    model, plain = Classifier.load(kept), Classifier.load(kept, runtime="torch")
    for stored in (np.zeros((2, 2, 32, 40)), np.zeros((2, 2, 64, 80), np.float16)):
        np.testing.assert_array_equal(model.logits(stored), plain.logits(stored))


def test_another_model_in_the_folder_keeps_no_graph_of_the_one_before(folder: Path) -> None:
    model = ModelFolder(folder)
    before = model.config()
    classifier_of(Case()).save(folder)
    (folder / NAME).write_bytes(b"")
    with pytest.raises(UserError, match="holds another model by now"):
        model.keep_exports([folder / NAME], of=before)


def test_a_name_in_another_folder_is_refused(folder: Path) -> None:
    file = folder / "config.json"
    content = json.loads(file.read_text())
    for name in ("../../graph.onnx", "..", "", "a\0b"):
        file.write_text(json.dumps(content | {"exports": {name: "0"}}))
        with pytest.raises(UserError, match="is no name of a file in exports/"):
            Classifier.load(folder)


def test_another_model_in_the_folder_has_no_exports(folder: Path) -> None:
    mine = folder / "exports" / "notes.txt"
    mine.write_text("of the user")
    classifier_of(CASE).save(folder)
    assert [file.name for file in (folder / "exports").iterdir()] == ["notes.txt"]
    assert Classifier.load(folder).runtime == "torch"


def test_a_folder_keeps_graphs_of_its_own_model_alone(folder: Path) -> None:
    before = sorted(file.name for file in (folder / "exports").iterdir())
    other, changed = (Classifier.load(folder, runtime="torch", **words) for words in ({"symmetry": "shift"}, {}))
    with torch.no_grad():
        next(changed.network.parameters()).mul_(1.5)
    for model in (other, changed):
        with pytest.raises(UserError, match="answers otherwise than the one that is kept in"):
            exporting.export(model, as_images(images()), takes="prepared", overwrite=True)
    with pytest.raises(UserError, match="the model is asked by onnxruntime in float32, and a graph is compared with"):
        exporting.export(Classifier.load(folder), as_images(images()))
    assert sorted(file.name for file in (folder / "exports").iterdir()) == before


def test_an_old_folder_keeps_no_exports(tmp_path: Path) -> None:
    old = Path(shutil.copytree(Path(__file__).parent / "old_folders" / "model", tmp_path / "model"))
    model = Classifier.load(old, runtime="torch")
    with pytest.raises(UserError, match="has format 1, which keeps no exports"):
        exporting.export(model, as_images([np.zeros((32, 32, 3), np.uint8)]))


FORKED = """
import os, signal, sys
import numpy as np
from astroformer.classifier import Classifier
from astroformer.errors import UserError

folder, pictures = sys.argv[1], list(np.load(sys.argv[2]))
left_to_us, asked_for = (Classifier.load(folder, runtime=runtime) for runtime in ("auto", "openvino"))
before = left_to_us.predict(pictures, quiet=True).probabilities_NK
print(left_to_us.runtime, flush=True)
child = os.fork()
if child == 0:
    signal.alarm(120)  # one that waits for ever is ended
    try:
        after = left_to_us.predict(pictures, quiet=True).probabilities_NK
        print(left_to_us.runtime, np.abs(after - before).max() < 1e-5, Classifier.load(folder).runtime)
        for ask in (lambda: asked_for.predict(pictures, quiet=True),
                    lambda: Classifier.load(folder, runtime="openvino")):
            try:
                ask()
            except UserError as error:
                print("in a sentence" if "this process was forked" in str(error) else error)
    finally:
        sys.stdout.flush()
        os._exit(0)
print("status", os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_forked_process_waits_for_no_threads_of_openvino(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    case = Case()
    folder = classifier_of(case).save(tmp_path / "model")
    monkeypatch.setattr(exporting, "speed_of", lambda *_: Speed(2.0, 1.0, 2.0, 1))
    model = Classifier.load(folder, runtime="torch")
    exporting.export(model, as_images(pictures(case, 40)), to="openvino", takes="prepared")
    np.save(tmp_path / "pictures.npy", np.stack(pictures(case, 100)))  # by two threads at once
    words = [sys.executable, "-c", FORKED, str(folder), str(tmp_path / "pictures.npy")]
    made = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    lines = ["openvino", "torch True torch", "in a sentence", "in a sentence", "status 0"]
    assert made.stdout.splitlines() == lines, made.stderr
