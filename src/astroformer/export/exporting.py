"""`export`: a model as a graph in a file, written only where it answers as the model does."""

from __future__ import annotations

import contextlib
import functools
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
from astroformer.export.speed import Speed, speed_of
from astroformer.files import write_json
from astroformer.images.labelled import LabelledImages
from astroformer.kept_graphs import EQUAL, GraphPass
from astroformer.model_folder import ModelFolder
from astroformer.outputs import make_folder, output_file, remove_empty
from astroformer.runtimes import RUNTIMES, SUFFIXES, beside, check_runtime, open_graph, places

Array = NDArray[Any]
FORMATS = tuple(SUFFIXES)
PRECISIONS = {"onnx": ("float32",), "openvino": ("float32", "bf16", "int8"), "torch": ("float32", "bf16")}
_WHY_NOT = {
    ("onnx", "bf16"): "onnxruntime has no bfloat16 convolution for processors; choose --to openvino",
    ("onnx", "int8"): "it is measured and bounded in OpenVINO alone; choose --to openvino",
    ("torch", "int8"): "it is measured and bounded in OpenVINO alone; choose --to openvino",
}
Say = Callable[[str], object]


class Disagrees(UserError):
    """A graph answers otherwise than its model; `why` says by how much."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the graph does not answer as the model does, so it is not written: {why}.")
        self.why = f"the graph answers otherwise than the model: {why}"


@dataclass(frozen=True)
class Written:
    """A graph that was exported.

    Attributes:
        file: of the graph.
        facts: what it says of itself.
        check: how it answers beside `predict`.
        scores: of int8, accuracy and log loss before and after.
        speed: of a graph that `Classifier.load` can ask, beside torch.
    """

    file: Path
    facts: dict[str, Any]
    check: Check
    scores: tuple[Scores, Scores] | None = None
    speed: Speed | None = None

    @property
    def record(self) -> Path:
        """The JSON file beside the graph, with all of these."""
        return record_of(self.file)

    @property
    def files(self) -> list[Path]:
        """All that belongs to the graph."""
        return [*beside(self.file), self.record]

    def moved(self, folder: Path) -> Written:
        """The same in another folder, to which its files are brought unless they are there."""
        for part in self.files if self.file.exists() else []:
            shutil.move(part, folder / part.name)
        return replace(self, file=folder / self.file.name)

    def to_dict(self) -> dict[str, Any]:
        """As the record keeps it."""
        told: dict[str, Any] = {"graph": self.file.name, **self.facts, "check": self.check.to_dict()}
        if self.scores is not None:
            told |= {"before": self.scores[0].to_dict(), "after": self.scores[1].to_dict()}
        return told if self.speed is None else {**told, "speed": self.speed.to_dict()}

    def __str__(self) -> str:
        facts, size = self.facts, sum(part.stat().st_size for part in beside(self.file))
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
) -> list[Written]:
    """Writes a model as graphs that other programs run, after they were compared with `predict`.

    Args:
        classifier: the model, as torch asks it.
        images: real ones, on which both are asked; with labels for int8.
        to: "onnx", "openvino" or "torch".
        precision: "float32", "bf16" or "int8".
        takes: "pixels" (raw images of any size), "prepared" (images as `Preprocessing.apply` makes them) or "auto":
            into a file pixels, or where these do not agree, prepared; into the model folder both, since
            `Classifier.load` asks those of prepared images.
        out: the file of one graph; without it they are kept in exports/ of the model folder.
        overwrite: whether files that are there may be replaced.
        say: is given a sentence where a graph of pixels is not written.

    Returns:
        What was written, at least one graph.

    Raises:
        UserError: the graph disagrees by more than its precision allows, so it is not written; or a word is unknown, or
            what it needs is not installed.
    """
    check_words(to, precision, takes)
    if out is not None and out.suffix != SUFFIXES[to]:
        raise UserError(f"'{out}' is to hold a graph of {to}, whose name ends with {SUFFIXES[to]}; change --out.")
    if out is None and classifier.folder is None:
        raise UserError("the model was not saved, so it has no folder to keep a graph in; name a file with --out.")
    if classifier.runtime != "torch" or classifier.precision != "float32":
        raise UserError(
            f"the model is asked by {classifier.runtime} in {classifier.precision}, and a graph is compared with torch "
            "in float32; load it with runtime='torch', precision='float32'."
        )
    images = some_of(images)
    if precision == "int8":
        if images.labels is None:
            raise UserError(f"'{images.source}' has no labels, and int8 is judged by them; name labelled images.")
        if takes == "pixels":
            raise UserError("int8 would resize in 8 bits, too; choose --takes prepared, or leave it out.")
        check_enough(len(images))
    asked = _Asked(classifier, images, to, precision)
    choices = _choices(takes, precision, to, kept=out is None)
    return asked.into_file(out, choices, overwrite, say) if out is not None else asked.kept(choices, overwrite, say)


@dataclass
class _Asked:
    """What is to be exported, and what the model answers of the images."""

    classifier: Classifier
    images: LabelledImages
    to: str
    precision: str

    @functools.cached_property
    def predicted_NK(self) -> Array:
        """Probabilities by `predict`; what it says of bands was said before."""
        return np.concatenate([part.probabilities_NK for part in self.classifier.iter_predict(self.images)])

    def into_file(self, out: Path, choices: Sequence[Takes], overwrite: bool, say: Say) -> list[Written]:
        """The first graph of the choices that agrees, as a file."""
        inputs = [] if self.classifier.folder is None else [self.classifier.folder]
        with (
            output_file(out, out.name, inputs=inputs, overwrite=overwrite) as file,
            tempfile.TemporaryDirectory(dir=file.parent, prefix=".export-") as folder,
        ):
            for place in (*places(file), record_of(file)):
                if place.exists() and not overwrite:
                    raise UserError(f"'{place}' exists already; choose another --out, or replace it with --overwrite.")
            for takes in choices:
                try:
                    written = self._write(takes, Path(folder) / file.name)
                except Disagrees as error:
                    if takes == choices[-1]:
                        raise
                    say(f"for images of any size {error.why}; it takes the model's size")
                    continue
                return [written.moved(file.parent)]
        raise AssertionError("the last choice is written or raises")

    def kept(self, choices: Sequence[Takes], overwrite: bool, say: Say) -> list[Written]:
        """A graph for each of the choices, in the model folder."""
        assert self.classifier.folder is not None
        model = ModelFolder(self.classifier.folder)
        model.check_keeps_exports()
        config = model.config()
        self._check_is_that_of_the_folder()
        found: list[Written] = []
        with contextlib.ExitStack() as stack:
            made = make_folder(model.exports)
            stack.callback(remove_empty, made)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=model.exports, prefix=".export-")))
            names = {takes: f"{self.to}-{self.precision}-{takes}{SUFFIXES[self.to]}" for takes in choices}
            for name in names.values():
                place = model.exports / name
                stack.enter_context(output_file(place, name, inputs=[], overwrite=overwrite))
            for takes, name in names.items():
                try:
                    found.append(self._write(takes, folder / name))
                except Disagrees as error:
                    if takes == choices[-1] and not found:
                        raise
                    say(f"there is no graph of {takes}: {error.why}")
            model.keep_exports([part for written in found for part in written.files], of=config)
            return [written.moved(model.exports) for written in found]

    def _check_is_that_of_the_folder(self) -> None:
        """Raises a `UserError` where the model was changed since it was saved or is asked in another way: `load` would
        take its graph for one of the folder."""
        folder = self.classifier.folder
        assert folder is not None
        saved = replace(self, classifier=Classifier.load(folder, runtime="torch", white=self.classifier.white))
        if not np.allclose(saved.predicted_NK, self.predicted_NK, rtol=0, atol=EQUAL, equal_nan=True):
            raise UserError(
                f"the model answers otherwise than the one that is kept in '{folder}', so its graph can't be kept "
                "there; save the model to another folder, or name a file with --out."
            )

    def _write(self, takes: Takes, file: Path) -> Written:
        """The graph and its record.

        Raises:
            Disagrees: it answers otherwise than the model.
        """
        to, precision, classifier = self.to, self.precision, self.classifier
        graph = Graph(classifier, takes, bf16=precision == "bf16" and to == "torch")
        facts = facts_of(classifier, graph, precision)
        formats.write(graph, facts, to, file)
        if precision == "int8":
            _quantize(file, classifier, self.images, self.predicted_NK)
        found_NK, asked_N = answers(open_graph(file), classifier, self.images)
        check = compare(self.predicted_NK, found_NK, asked_N)
        scores = _scored(self.images, self.predicted_NK, found_NK) if precision == "int8" else None
        why = check.why_not(precision) if scores is None else why_not(*scores)
        if why is not None:
            raise Disagrees(why)
        speed = None
        if takes == "prepared" and to != "torch":
            speed = speed_of(GraphPass(file, RUNTIMES[to], precision), classifier, self._stored())
        written = Written(file, facts, check, scores, speed)
        write_json(written.record, written.to_dict())
        return written

    def _stored(self) -> Array:
        """Some images that the model takes, as `Preprocessing.apply` makes them."""
        rows = np.flatnonzero(np.isfinite(self.predicted_NK).all(1))[:16]
        return _prepared(self.classifier, self.images, rows)


def _choices(takes: str, precision: str, to: str, *, kept: bool) -> tuple[Takes, ...]:
    """What graphs may take, one after the other: in a file the first that agrees, in the model folder all."""
    if takes != "auto":
        return ("pixels",) if takes == "pixels" else ("prepared",)
    if precision in ("bf16", "int8") and to == "openvino":  # which would resize in that precision, too
        return ("prepared",)
    if kept and to == "torch":  # load asks torch by the fast path
        return ("pixels",)
    return ("pixels", "prepared")


def _prepared(classifier: Classifier, images: LabelledImages, rows: Array) -> Array:
    """Images of such rows as `Preprocessing.apply` makes them."""
    return np.stack([classifier.preprocessing.apply(images.read(int(i)), classifier.white) for i in rows])


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
    quantize(file, _prepared(classifier, images, rows), images.labels[rows])
