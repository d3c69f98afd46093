"""`astroformer evaluate`."""

from __future__ import annotations

import shutil
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from typing_extensions import Doc

from astroformer.cli.common import (
    Asking,
    LabelledSource,
    Model,
    OnlyKnown,
    Overwrite,
    Root,
    Showing,
    Strict,
    first_imports,
    labelled_images,
    refuse_missing,
    tell_beside,
)
from astroformer.cli.options import NESTED

if TYPE_CHECKING:
    from astroformer.classifier import Classifier
    from astroformer.images.labelled import LabelledImages
    from astroformer.metrics import Evaluation
    from astroformer.predictions import Predictions
    from astroformer.progress import Reporter

FILES = (
    *("metrics.json", "by_class.csv", "confusion.txt", "predictions.csv"),
    *("confusion.png", "confusion.pdf", "mistakes.png", "mistakes.pdf"),
)


class _Measured(NamedTuple):
    """What was measured on which images.

    Attributes:
        classifier: the model.
        images: with their labels.
        predictions: of each, read or not.
        evaluation: of those that were read.
        seen: number of them that the model was trained on; None where it does not know.
        new: of the others alone, where there are some of both.
    """

    classifier: Classifier
    images: LabelledImages
    predictions: Predictions
    evaluation: Evaluation
    seen: int | None
    new: Evaluation | None

    @property
    def left_out(self) -> int:
        return len(self.predictions) - self.evaluation.n


@dataclass
class Evaluate:
    """Measure a trained MODEL on labelled images: metrics with 95 % intervals, each class, and what is confused."""

    model: Model
    source: LabelledSource = None
    out: Annotated[
        Path | None,
        Doc("folder for metrics, confusion matrix, predictions and pictures; default evaluation-1, -2, ..."),
    ] = None
    overwrite: Overwrite = False
    root: Root = None
    asking: Annotated[Asking, NESTED] = field(default_factory=Asking)
    strict: Strict = False
    only_known: OnlyKnown = False
    showing: Annotated[Showing, NESTED] = field(default_factory=Showing)

    def run(self, given: set[str]) -> None:
        refuse_missing(self.source, model=self.model)
        with first_imports():
            from astroformer.evaluation.scores import evaluation_text, metrics_text, novelty_sentence, seen_sentence
            from astroformer.outputs import output_folder
            from astroformer.progress import Reporter

        words: Any = {"model": self.model, "source": self.source, "overwrite": self.overwrite}
        with (
            output_folder(self.out, "evaluation", names=FILES, **words) as results,
            Reporter(quiet=self.showing.quiet) as reporter,
        ):
            measured = self._measure(reporter)
            self._write(results.folder, measured)
        evaluation = measured.evaluation
        if self.source is None:
            n = len(measured.images)
            print(f"{n:,} image{'s' * (n != 1)} of '{measured.images.source}' that the run has held out\n")
        print(evaluation_text(evaluation, shutil.get_terminal_size().columns))
        if measured.seen:
            print(f"\n{seen_sentence(measured.seen, evaluation.n)}")
        if measured.new is not None:
            print(f"without them:\n{metrics_text(measured.new)}")
        if (novel := novelty_sentence(measured.predictions.novelty_N)) is not None:
            print("\n" + textwrap.fill(novel, 80))
        if measured.left_out:
            n, table = len(measured.images), results.place / "predictions.csv"
            tell_beside(f"{measured.left_out:,} of {n:,} images can't be taken and are left out; '{table}' says why")
        print(f"\nevaluation: {results.place}")

    def _measure(self, reporter: Reporter) -> _Measured:
        from astroformer.evaluation.seen import seen_in_training, without_seen

        classifier = self.asking.load(self.model)
        images = labelled_images(
            classifier, self.model, self.source, self.root, only_known=self.only_known, reporter=reporter
        )
        evaluation, predictions = classifier.evaluate(
            images,
            batch_size=self.asking.computing.batch_size,
            strict=self.strict,
            progress=lambda done, total: reporter.count("evaluating", done, total),
        )
        known = seen_in_training(self.model, images, predictions)
        for sentence in known.said:
            tell_beside(sentence)
        new = without_seen(known.seen_N, images, predictions, classifier.classes)
        seen = None if known.seen_N is None else int(known.seen_N[predictions.readable_N].sum())
        return _Measured(classifier, images, predictions, evaluation, seen, new)

    def _write(self, folder: Path, measured: _Measured) -> None:
        from astroformer.evaluation.mistakes import plot_mistakes
        from astroformer.evaluation.pictures import plot_confusion
        from astroformer.evaluation.scores import confusion_text
        from astroformer.evaluation.tables import PredictionWriter, judged, write_by_class, write_metrics
        from astroformer.files import replacing

        metrics_file, classes_file, confusion_file, predictions_file = (folder / name for name in FILES[:4])
        classifier, images, predictions, evaluation, seen, new = measured
        write_metrics(metrics_file, evaluation, source=images.source, left_out=measured.left_out, seen=seen, new=new)
        write_by_class(classes_file, evaluation)
        assert images.labels is not None
        beside, carried = judged(predictions, images.labels, images.votes_NK), images.columns
        words: Any = {"added": list(predictions.added), "beside": beside, "carried": carried}
        with PredictionWriter(predictions_file, predictions.classes, **words) as writer:
            writer.write(predictions)
        with replacing(confusion_file) as part:
            part.write_text(confusion_text(evaluation) + "\n", encoding="utf-8")
        pictures = (
            plot_confusion(evaluation, folder / "confusion.png"),
            plot_mistakes(classifier, images, predictions, folder / "mistakes.png"),
        )
        for failed in dict.fromkeys(pictures):  # the same reason is said once
            if failed is not None:
                tell_beside(failed)
