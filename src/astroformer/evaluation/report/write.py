"""A report in a folder: the page, and the same facts as JSON and CSV."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from astroformer.classifier import Classifier
from astroformer.errors import check_installed
from astroformer.evaluation.report.facts import Facts
from astroformer.evaluation.report.figures import FIGURES, draw_figures
from astroformer.evaluation.report.novel import most_novel
from astroformer.evaluation.report.page import Page, ShownImages
from astroformer.evaluation.report.pixels import Seen, look
from astroformer.evaluation.report.selective import CalibrationImages
from astroformer.evaluation.report.tables import (
    described_images,
    write_classes,
    write_cuts,
    write_sets,
    write_where,
)
from astroformer.evaluation.scores import seen_sentence
from astroformer.evaluation.seen import seen_in_training, without_seen
from astroformer.evaluation.symmetry import SymmetryReport, SymmetrySettings, measure_symmetry
from astroformer.evaluation.tables import PredictionWriter, judged
from astroformer.fast_pass import fast_pass
from astroformer.files import replacing, write_json
from astroformer.images.labelled import LabelledImages
from astroformer.metrics import Evaluation, score_lines
from astroformer.model_folder import KeptNetwork
from astroformer.predictions import Predictions
from astroformer.progress import Reporter
from astroformer.randomness import permutation
from astroformer.summaries import Summarized, Summary, percent
from astroformer.system import describe_system, versions

Array = NDArray[Any]
FILES = ("report.html", "report.json", "classes.csv", "where.csv", "cuts.csv", "sets.csv", "images.csv")
NAMES = (*FILES, *(f"{name}.{kind}" for name in FIGURES for kind in ("png", "pdf")))
"""All files that a report may consist of."""
SYMMETRY_IMAGES = 30
"""Images that are shifted and turned by default: enough to see a network that a shift of one pixel changes."""
# Less than `astroformer symmetry` draws: some 30 views an image in place of 50.
_SYMMETRY = SymmetrySettings(shifts=4, crops=2, rotations=4)


@dataclass(frozen=True, repr=False)
class Report(Summarized):
    """A report that was written.

    Attributes:
        folder: where its files lie.
        sentence: that may be quoted.
        facts: its numbers.
        predictions: of each image, read or not.
        said: what a person should know of it, in sentences: images that were left out or trained on, pictures that
            could not be drawn.
    """

    folder: Path
    sentence: str
    facts: Facts
    predictions: Predictions
    said: tuple[str, ...] = ()

    @property
    def page(self) -> Path:
        """The page, which any browser shows."""
        return self.folder / FILES[0]

    def summary(self) -> Summary:
        title = f"Report: {self.facts.n:,} images, {len(self.facts.classes)} classes"
        return Summary(title, {**score_lines(self.facts.metrics), "page": str(self.page)})


@dataclass(frozen=True)
class _Asked:
    """What the model answered about which images.

    Attributes:
        seen_N: which images were trained on; None where nothing is known of it.
        seen_said: what to say of those that show what training images do.
        good_N: which images could be read; the facts are about these.
        labels_M, probabilities_MK, groups_M, seen_M: of these M.
        seconds: that asking took.
    """

    images: LabelledImages
    predictions: Predictions
    evaluation: Evaluation
    seen_N: Array | None
    seen_said: tuple[str, ...]
    good_N: Array
    labels_M: Array
    probabilities_MK: Array
    groups_M: Array | None
    seen_M: Array | None
    seconds: float

    @property
    def left_out(self) -> int:
        return int((~self.good_N).sum())

    @property
    def files(self) -> list[str]:
        return [file for file, good in zip(self.images.files, self.good_N, strict=True) if good]


def check_report() -> None:
    """Raises `UserError` where what draws the page is not installed: before the work."""
    check_installed("jinja2", "report", "a report")


def write_report(
    folder: Path,
    place: Path,
    classifier: Classifier,
    images: LabelledImages,
    *,
    model: Path | None = None,
    about: Mapping[str, Mapping[str, str]] | None = None,
    recipe: str | None = None,
    strict: bool = False,
    batch_size: int = 64,
    symmetry_images: int = 0,
    figures: Literal["none", "pdf"] = "none",
    reporter: Reporter,
) -> Report:
    """Measures a model on labelled images and writes the report.

    Args:
        folder: to write into.
        place: where the files will be in the end.
        classifier: the model.
        images: with labels; their classes are the model's.
        model: the folder of the model or of its run, which knows what was trained on; None: it lies in none.
        about: what is known of the run that made the model, in groups of names and values.
        recipe: of that run, as YAML.
        strict, batch_size: see `Classifier.evaluate`.
        symmetry_images: how many images to measure shifts and turns on; 0: none. One costs as much as 30 to classify.
        figures: "pdf" draws the charts for papers too.
        reporter: shows the progress.

    Raises:
        UserError: as `Classifier.evaluate`, or jinja2 is not installed.
    """
    check_report()
    asked = _ask(classifier, model, images, strict, batch_size, reporter)
    telling_first = _telling_first(asked)
    seen = look(classifier, images, telling_first, progress=lambda done, total: reporter.count("looking", done, total))
    predictions, good_N = asked.predictions, asked.good_N
    calibrated = classifier.trust.calibration.method != "none"
    facts = Facts.measured(
        asked.evaluation,
        asked.labels_M,
        asked.probabilities_MK,
        votes_NK=None if images.votes_NK is None else images.votes_NK[good_N],
        groups_N=asked.groups_M,
        quantities=_quantities(asked, seen),
        own_NK=None if predictions.own_NK is None or not calibrated else predictions.own_NK[good_N],
        calibration_images=_calibration_images(classifier),
        fold_N=None if predictions.fold_N is None else predictions.fold_N[good_N],
        novelty_N=None if predictions.novelty_N is None else predictions.novelty_N[good_N],
    )
    new = without_seen(asked.seen_N, images, predictions, classifier.classes)
    moved = _moved(classifier, asked, symmetry_images) if symmetry_images else None
    sentence, warning = _sentence(classifier, asked, facts, new), _warning(asked)
    described = {**_described(classifier, asked), **(about or {})}
    position_M = np.flatnonzero(asked.good_N).tolist()
    pictures = {m: seen.pictures[i] for m, i in enumerate(position_M) if i in seen.pictures}
    shown = ShownImages(asked.files, asked.labels_M, asked.probabilities_MK, asked.seen_M, pictures, seen.said)
    title = f"{classifier.info.name or 'A classifier'} on {Path(images.source).name or images.source}"
    page = Page(title, sentence, warning, facts, new, shown, str(classifier.trust), moved, described, recipe)
    html, facts_file, classes, where, cuts, sets, rows = (folder / name for name in FILES)
    with replacing(html) as part:
        part.write_text(page.html(), encoding="utf-8", errors="backslashreplace")
    content = {
        "sentence": sentence,
        "warning": warning,
        **facts.to_dict(),
        "new": None if new is None else new.to_dict(),
        **described_images(facts, asked.files),
        "probabilities": str(classifier.trust),
        "symmetry": None if moved is None else moved.to_dict(),
        "source": images.source,
        "left_out": _left_out(asked),
        "seen": None if asked.seen_M is None else int(asked.seen_M.sum()),
        "about": described,
        "recipe": recipe,
    }
    write_json(facts_file, content)
    write_classes(classes, facts)
    write_where(where, facts)
    write_cuts(cuts, facts)
    write_sets(sets, facts)
    _write_images(rows, asked, seen)
    said = [sentence for sentence in (*asked.seen_said, warning, _left_out_said(asked)) if sentence]
    if figures == "pdf":
        said += draw_figures(folder, classifier, images, asked.predictions, facts)
    return Report(place, sentence, facts, asked.predictions, tuple(said))


def _ask(
    classifier: Classifier,
    model: Path | None,
    images: LabelledImages,
    strict: bool,
    batch_size: int,
    reporter: Reporter,
) -> _Asked:
    started = time.perf_counter()
    evaluation, predictions = classifier.evaluate(
        images,
        batch_size=batch_size,
        strict=strict,
        progress=lambda done, total: reporter.count("asking", done, total),
    )
    seconds = time.perf_counter() - started
    good_N = predictions.readable_N
    known = seen_in_training(model, images, predictions)
    assert images.labels is not None
    return _Asked(
        images,
        predictions,
        evaluation,
        known.seen_N,
        known.said,
        good_N,
        images.labels[good_N],
        predictions.probabilities_NK[good_N],
        None if images.groups is None else images.groups[good_N],
        None if known.seen_N is None else known.seen_N[good_N],
        seconds,
    )


def _telling_first(asked: _Asked) -> list[int]:
    """Positions of the images that could be read: the most novel ones and mistakes, the surest first, then the others,
    the most doubtful first."""
    position_M = np.flatnonzero(asked.good_N)
    confidence_M = asked.probabilities_MK.max(1)
    wrong_M = asked.probabilities_MK.argmax(1) != asked.labels_M
    order = np.lexsort((np.where(wrong_M, -confidence_M, confidence_M), ~wrong_M)).tolist()
    novelty_N = asked.predictions.novelty_N
    novel = [] if novelty_N is None else most_novel(novelty_N[position_M])
    return position_M[list(dict.fromkeys([*novel, *order]))].tolist()


def _quantities(asked: _Asked, seen: Seen) -> dict[str, list[Any]]:
    """What accuracy may depend on: how bright and how wide an image is, and the columns of its catalog."""
    every: dict[str, list[Any]] = {"brightness": seen.brightness, "half-light radius (px)": seen.radius}
    for name, values in asked.images.columns.items():
        while name in every:
            name = f"catalog:{name}"
        every[name] = values
    return {
        name: [value for value, good in zip(values, asked.good_N, strict=True) if good]
        for name, values in every.items()
    }


def _calibration_images(classifier: Classifier) -> CalibrationImages | None:
    """The images that the model keeps to say how far to trust it, if there are some."""
    held_out = classifier.trust.held_out
    if held_out is None:
        return None
    return CalibrationImages(
        held_out.labels_N, classifier.trust.of_held_out(), held_out.fold_N, held_out.votes_NK is not None
    )


def _moved(classifier: Classifier, asked: _Asked, most: int) -> SymmetryReport:
    """Shifts and turns of some of the images, drawn at random."""
    position_M = np.flatnonzero(asked.good_N)
    some = np.sort(permutation(0, 0, len(position_M)).numpy()[:most])
    stored = [classifier.preprocessing.apply(asked.images.read(int(i)), classifier.white) for i in position_M[some]]
    x_NCHW = classifier.preprocessing.normalize(torch.from_numpy(np.stack(stored)))
    return measure_symmetry(
        classifier.network,
        x_NCHW,
        asked.labels_M[some],
        settings=_SYMMETRY,
        device=classifier.device,
        asked=lambda module: fast_pass(module) if isinstance(module, KeptNetwork) else module,
        features=None,
    )


def _sentence(classifier: Classifier, asked: _Asked, facts: Facts, new: Evaluation | None) -> str:
    """What a paper may say of the model; of images that it was not trained on, where that is known."""
    name = classifier.info.name or "The classifier"
    known = asked.seen_M is not None
    measured, n = (facts.evaluation, facts.n) if new is None else (new, new.n)
    untouched = known and (new is not None or not asked.seen_M.any())  # type: ignore[union-attr]
    which = " that it was not trained on" if untouched else ""
    accuracy, balanced = (measured.metrics[metric] for metric in ("top1", "balanced_accuracy"))
    said = (
        f"Of {n:,} labelled images{which}, {name} (astroformer {version('astroformer')}) puts "
        f"{percent(accuracy.value)} (95 % interval {percent(accuracy.low)} to {percent(accuracy.high)}) into the "
        f"right one of {len(facts.classes)} classes; its balanced accuracy is {percent(balanced.value)} "
        f"({percent(balanced.low)} to {percent(balanced.high)})"
    )
    if new is None:
        ece = facts.metrics["ece"]
        said += f", and its confidence differs from its accuracy by {percent(ece.value)} on average "
        said += f"({percent(ece.low)} to {percent(ece.high)}; expected calibration error)"
    over = "images" if facts.groups is None else "groups of images"
    return f"{said}. The 95 % intervals are from a bootstrap over {over}."


def _warning(asked: _Asked) -> str | None:
    if asked.seen_M is None or not asked.seen_M.any():
        return None
    said = seen_sentence(int(asked.seen_M.sum()), len(asked.seen_M))
    return f"{said[:1].upper()}{said[1:]}."


def _left_out(asked: _Asked) -> dict[str, str]:
    """Images that can't be taken, with the reason."""
    named = zip(asked.images.files, asked.predictions.errors, strict=True)
    return {file: error for file, error in named if error}


def _left_out_said(asked: _Asked) -> str | None:
    if not asked.left_out:
        return None
    return f"{asked.left_out:,} of {len(asked.images):,} images can't be taken and are left out; images.csv says why"


def _described(classifier: Classifier, asked: _Asked) -> dict[str, dict[str, str]]:
    """The images, the model and this machine, as the page tells them."""
    images, machine = asked.images, describe_system()
    of_images = {"source": images.source, "images": f"{len(images):,}, of which {asked.evaluation.n:,} are measured"}
    if left_out := _left_out(asked):
        first = next(iter(left_out.items()))
        of_images["left out"] = f"{len(left_out):,}, for instance {first[0]}: {first[1]}"
    if images.ignored:
        of_images["files that are no images"] = f"{len(images.ignored):,}"
    of_images["trained on before"] = (
        "not known: the model keeps no record of its training images"
        if asked.seen_M is None
        else f"{int(asked.seen_M.sum()):,}, by their pixels, and by places and groups where these are known"
    )
    if asked.groups_M is not None:
        of_images["groups"] = f"{len(np.unique(asked.groups_M)):,}, which are drawn as wholes for the intervals"
    if images.votes_NK is not None:
        of_images["labels"] = "the class with most votes"
    for number, note in enumerate(images.notes, start=1):
        of_images[f"note {number}"] = note
    summary = classifier.summary()
    speed = {
        "images a second": f"{len(images) / asked.seconds:.3g}, with decoding, asked by batches",
        "asked by": summary.lines["asked by"],
        "processor": f"{machine['processor']}, {machine['cores']} cores, threads: {machine['threads']}",
        "platform": str(machine["platform"]),
        "versions": ", ".join(f"{name} {number}" for name, number in versions().items()),
    }
    kept = {name: text for name, text in summary.lines.items() if name != "asked by"}
    return {
        "The images": of_images,
        "The model": {"network": summary.title.removeprefix("Classifier: "), **kept},
        "Speed and environment of this report": speed,
    }


def _write_images(path: Path, asked: _Asked, seen: Seen) -> None:
    """`images.csv`: the columns of predictions, label, correct and votes, whether the model was trained on the image,
    and how bright and wide it is; then those of a catalog."""
    images, predictions = asked.images, asked.predictions
    assert images.labels is not None
    beside: dict[str, Any] = dict(judged(predictions, images.labels, images.votes_NK))
    if asked.seen_N is not None:
        beside["trained_on"] = [bool(one) for one in asked.seen_N]
    beside["brightness"] = [None if np.isnan(one) else round(one, 6) for one in seen.brightness]
    beside["half_light_radius"] = [None if np.isnan(one) else round(one, 3) for one in seen.radius]
    added = list(predictions.added)
    with PredictionWriter(path, predictions.classes, added=added, beside=beside, carried=images.columns) as writer:
        writer.write(predictions)
