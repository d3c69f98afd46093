"""`report`: how far to trust a model, on one page, with what is known of the run that made it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from astroformer.classifier import Classifier, load
from astroformer.errors import UserError
from astroformer.evaluation.report.write import NAMES, SYMMETRY_IMAGES, Report, check_report, write_report
from astroformer.files import check_is_path
from astroformer.images.labelled import LabelledImages
from astroformer.images.sources import open_source
from astroformer.outputs import output_folder
from astroformer.progress import Reporter, shown_by
from astroformer.training.run import RunFolder
from astroformer.training.train import held_out_images, run_of


def report(
    model: Classifier | str | Path,
    source: LabelledImages | str | Path | None = None,
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    strict: bool = False,
    batch_size: int = 64,
    symmetry_images: int = SYMMETRY_IMAGES,
    figures: Literal["none", "pdf"] = "none",
    quiet: bool = False,
    reporter: Reporter | None = None,
) -> Report:
    """Measures a model on labelled images and writes a report: one HTML page, and the same facts as JSON and CSV.

    The page needs no network and no other file. It has the scores with their intervals, what is confused with what and
    the images of it, whether the model is as right as it is sure, where it fails, and how it was made.

    Args:
        model: a classifier, or the path of a model folder or run folder.
        source: images with labels, by path or name or as `LabelledImages`; of a catalog named here all columns are
            looked at. None: the images that the model's run has held out.
        out: folder for `report.html`, `report.json` and tables (`classes.csv`, `where.csv`, `cuts.csv`, `sets.csv`,
            `images.csv`); default `report-1`, `-2`, …
        overwrite: whether a report that is there may be replaced.
        strict: make an image that can't be read an error.
        batch_size: images a forward pass, at most.
        symmetry_images: how many images, drawn at random, are shifted and turned to see whether answers hold; 0: none.
            Each costs as much as 30 images to classify.
        figures: "pdf" writes the charts as pictures for papers beside the page, as PDF and PNG.
        quiet: as for `train`.
        reporter: as for `train`.

    Raises:
        UserError: the extra `[report]` is not installed, the images have no labels or other classes, the model's run
            is not known where no source is named, or there is a report already.

    Examples:
        >>> import tempfile
        >>> import astroformer
        >>> recipe = astroformer.Recipe(epochs=1, image_size=32, crop=1.0, device="cpu")
        >>> trained = astroformer.train("mock-galaxies:20x32", recipe)
        >>> report = astroformer.report(trained.run, out=f"{tempfile.mkdtemp()}/report")
        >>> report.facts.n == trained.validation.n
        True
        >>> sorted(file.name for file in report.folder.iterdir())
        ['classes.csv', 'cuts.csv', 'images.csv', 'report.html', 'report.json', 'sets.csv', 'where.csv']
    """
    check_report()
    if symmetry_images < 0:
        raise UserError(f"symmetry_images is {symmetry_images}; 0 (none) or more are needed.")
    if figures not in ("none", "pdf"):
        raise UserError(f"figures is '{figures}'; 'none' or 'pdf' are allowed.")
    with shown_by(reporter, quiet=quiet) as shown:
        classifier = model if isinstance(model, Classifier) else load(model)
        place = classifier.folder if isinstance(model, Classifier) else Path(model)
        images = _images(classifier, place, source, shown)
        words: Any = {"names": NAMES, "model": place or "", "source": images.source, "overwrite": overwrite}
        with output_folder(None if out is None else Path(out), "report", **words) as results:
            run = None if place is None else run_of(place)
            return write_report(
                results.folder,
                results.place,
                classifier,
                images,
                model=place,
                about=None if run is None else _about(run),
                recipe=None if run is None else run.read_recipe().to_yaml(),
                strict=strict,
                batch_size=batch_size,
                symmetry_images=symmetry_images,
                figures=figures,
                reporter=shown,
            )


def _images(
    classifier: Classifier, place: Path | None, source: LabelledImages | str | Path | None, reporter: Reporter
) -> LabelledImages:
    if isinstance(source, LabelledImages):
        return source
    if source is not None:
        check_is_path(source, "a labelled source")
        return open_source(source, classes=classifier.classes, columns="all", listener=reporter)
    if place is None:
        raise UserError("this classifier was neither loaded nor saved, so no run is known; name labelled images.")
    images = held_out_images(place, reporter=reporter)
    if images.classes != classifier.classes:
        raise UserError(f"the run of '{place}' has other classes than this model; name labelled images.")
    return images


def _about(run: RunFolder) -> dict[str, dict[str, str]]:
    """What the records of a run say, as the page tells it."""
    record = run.read_record()
    task = record.task
    told = {
        "trained on": f"{task.source}: {record.images.train:,} images",
        "validated on": f"{task.valid or 'held out of these'}: {record.images.valid:,} images",
        "images of each class, with those held out": ", ".join(f"{name} {n:,}" for name, n in record.counts.items()),
        "left out": f"{record.left_out:,} files that could not be read",
    }
    if task.init_from:
        told["started from"] = str(task.init_from)
    if record.teacher is not None:
        told["taught by"] = record.teacher.model
    for published in record.data_sets:
        told[f"data set {published['name']}"] = ", ".join(
            str(published[word]) for word in ("part", "licence", "citation") if published.get(word)
        )
    told["decided"] = "; ".join(record.decisions)
    told["run folder"] = str(run.path)
    return {"The run": told}
