"""`export`: a model as a graph in a file, written only where it answers as the model does."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astroformer.classifier import Classifier
from astroformer.errors import UserError, check_installed, unknown_name
from astroformer.export import formats
from astroformer.export.check import Check, answers, compare, some_of
from astroformer.export.graph import TAKES, Graph, Takes, facts_of
from astroformer.export.quantized import Scores, check_enough, quantize, why_not
from astroformer.export.runtime import SUFFIXES, check_runtime, open_graph
from astroformer.files import write_json
from astroformer.images.labelled import LabelledImages
from astroformer.outputs import output_file

Array = NDArray[Any]
FORMATS = tuple(SUFFIXES)
PRECISIONS = {"onnx": ("float32",), "openvino": ("float32", "bf16", "int8"), "torch": ("float32", "bf16")}
_WHY_NOT = {
    ("onnx", "bf16"): "onnxruntime has no bfloat16 convolution for processors; choose --to openvino",
    ("onnx", "int8"): "it is measured and bounded in OpenVINO alone; choose --to openvino",
    ("torch", "int8"): "it is measured and bounded in OpenVINO alone; choose --to openvino",
}
Say = Callable[[str], object]


@dataclass(frozen=True)
class Written:
    """A graph that was exported.

    Attributes:
        file: of the graph.
        facts: what it says of itself.
        check: how it answers beside `predict`.
        record: the JSON file beside it, with all of these.
        scores: of int8, accuracy and log loss before and after.
    """

    file: Path
    facts: dict[str, Any]
    check: Check
    record: Path
    scores: tuple[Scores, Scores] | None = None

    def __str__(self) -> str:
        facts, size = self.facts, sum(part.stat().st_size for part in formats.beside(self.file))
        height, width = facts["image_size"]
        shape = f"(batch, height, width, {facts['channels']}) of any size"
        if facts["takes"] == "prepared":
            shape = f"(batch, {facts['channels']}, {height}, {width}), cut and resized before"
        return (
            f"{facts['type']} images {shape} to probabilities of {len(facts['classes'])} classes; {size / 1e6:.1f} MB"
        )


def record_of(file: Path) -> Path:
    """Where what was checked of a graph is kept."""
    return file.with_name(f"{file.name}.json")


def check_words(to: str, precision: str, takes: str) -> None:
    """Raises a `UserError` where a word is unknown, two do not go together, or what they need is not installed."""
    if to not in FORMATS:
        raise unknown_name("format", to, FORMATS)
    allowed = PRECISIONS[to]
    if precision not in allowed:
        if (why := _WHY_NOT.get((to, precision))) is not None:
            raise UserError(f"--to {to} --precision {precision} can't be: {why}.")
        raise unknown_name(f"precision of {to}", precision, allowed)
    if takes not in ("auto", *TAKES):
        raise unknown_name("input of a graph", takes, ("auto", *TAKES))
    check_runtime(to)
    if precision == "int8":
        check_installed("nncf", "export", "int8")


def export(
    classifier: Classifier,
    images: LabelledImages,
    *,
    to: str = "onnx",
    precision: str = "float32",
    takes: str = "auto",
    out: Path | None = None,
    overwrite: bool = False,
    say: Say = lambda _: None,
) -> Written:
    """Writes a model as a graph that other programs run, after it was compared with `predict`.

    Args:
        classifier: the model.
        images: real ones, on which both are asked; with labels for int8.
        to: "onnx", "openvino" or "torch".
        precision: "float32", "bf16" or "int8".
        takes: "pixels" (raw images of any size), "prepared" (images as `Preprocessing.apply` makes them) or "auto":
            pixels, or where that does not agree, prepared.
        out: the file; without it the first numbered one that is free.
        overwrite: whether a file that is there may be replaced.
        say: is given a sentence where the graph takes other images than it was asked for.

    Raises:
        UserError: the graph disagrees by more than its precision allows, so it is not written; or a word is unknown, or
            what it needs is not installed.
    """
    check_words(to, precision, takes)
    if out is not None and out.suffix != SUFFIXES[to]:
        raise UserError(f"'{out}' is to hold a graph of {to}, whose name ends with {SUFFIXES[to]}; change --out.")
    images = some_of(images)
    if precision == "int8":
        if images.labels is None:
            raise UserError(f"'{images.source}' has no labels, and int8 is judged by them; name labelled images.")
        if takes == "pixels":
            raise UserError("int8 would resize in 8 bits, too; choose --takes prepared, or leave it out.")
        check_enough(len(images))
    inputs = [] if classifier.folder is None else [classifier.folder]
    with (
        output_file(out, f"graph{SUFFIXES[to]}", inputs=inputs, overwrite=overwrite) as file,
        tempfile.TemporaryDirectory(dir=file.parent, prefix=".export-") as folder,
    ):
        for place in (*formats.places(file), record_of(file)):
            if place.exists() and not overwrite:
                raise UserError(f"'{place}' exists already; choose another --out, or replace it with --overwrite.")
        predicted_NK = _asked_alone(classifier, images)
        for choice, last in _choices(takes, precision, to):
            graph = Graph(classifier, choice, bf16=precision == "bf16" and to == "torch")
            facts, part = facts_of(classifier, graph, precision), Path(folder) / file.name
            formats.write(graph, facts, to, part)
            if precision == "int8":
                _quantize(part, classifier, images, predicted_NK)
            found_NK, asked_N = answers(open_graph(part), classifier, images)
            check = compare(predicted_NK, found_NK, asked_N)
            scores = _scored(images, predicted_NK, found_NK) if precision == "int8" else None
            why = check.why_not(precision) if scores is None else why_not(*scores)
            if why is None:
                record = record_of(file)
                formats.move(part, file.parent)
                told = {} if scores is None else {"before": scores[0].to_dict(), "after": scores[1].to_dict()}
                write_json(record, {"graph": file.name, **facts, "check": check.to_dict(), **told})
                return Written(file, facts, check, record, scores)
            if last:
                raise UserError(f"the graph does not answer as the model does, so it is not written: {why}.")
            say(f"for images of any size the graph answers otherwise than the model: {why}; it takes the model's size")
    raise AssertionError("one of the choices is the last")


def _choices(takes: str, precision: str, to: str) -> Iterator[tuple[Takes, bool]]:
    """What a graph may take, one after the other, and whether it is the last one to try."""
    if takes == "auto":
        if precision in ("bf16", "int8") and to == "openvino":  # which would resize in that precision, too
            yield "prepared", True
            return
        yield "pixels", False
        yield "prepared", True
    else:
        yield "pixels" if takes == "pixels" else "prepared", True


def _asked_alone(classifier: Classifier, images: LabelledImages) -> Array:
    """(N, K) probabilities by `predict`; what it says of bands was said before."""
    return np.concatenate([part.probabilities_NK for part in classifier.iter_predict(images)])


def _scored(images: LabelledImages, predicted_NK: Array, found_NK: Array) -> tuple[Scores, Scores]:
    """Before and after, on the labelled images that both `predict` and the graph take."""
    assert images.labels is not None
    both_N = np.isfinite(predicted_NK).all(1) & np.isfinite(found_NK).all(1)
    labels_N = images.labels[both_N]
    return Scores.of(labels_N, predicted_NK[both_N]), Scores.of(labels_N, found_NK[both_N])


def _quantize(file: Path, classifier: Classifier, images: LabelledImages, predicted_NK: Array) -> None:
    """Quantizes a graph of prepared images by those that `predict` takes."""
    assert images.labels is not None
    rows = np.flatnonzero(np.isfinite(predicted_NK).all(1))
    check_enough(len(rows))
    stored = np.stack([classifier.preprocessing.apply(images.read(int(i)), classifier.white) for i in rows])
    quantize(file, stored, images.labels[rows])
