"""`astroformer evaluate`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from typing_extensions import Doc

from astroformer.cli.common import (
    Asking,
    Model,
    OnlyKnown,
    Overwrite,
    Showing,
    Strict,
    first_imports,
    tell_beside,
    tell_ignored,
)
from astroformer.cli.options import NESTED, PLACE

_FILES = ("metrics.json", "confusion.txt", "confusion.png", "predictions.csv")
_PICTURES = ("confusion.pdf", "mistakes.png", "mistakes.pdf")


@dataclass
class Evaluate:
    """Measure a trained MODEL on labelled images: metrics with 95 % intervals and the confusion matrix."""

    model: Model
    source: Annotated[
        str,
        PLACE,
        Doc("labelled images: class folders, .npz, catalog, or a set by name: mock-galaxies, cifar10:test"),
    ]
    out: Annotated[
        Path | None,
        Doc("folder for metrics, confusion matrix, predictions and pictures; default evaluation-1, -2, ..."),
    ] = None
    overwrite: Overwrite = False
    asking: Annotated[Asking, NESTED] = field(default_factory=Asking)
    strict: Strict = False
    only_known: OnlyKnown = False
    showing: Annotated[Showing, NESTED] = field(default_factory=Showing)

    def run(self, given: set[str]) -> None:
        with first_imports():
            from astroformer.evaluation.mistakes import plot_mistakes
            from astroformer.evaluation.pictures import plot_confusion
            from astroformer.evaluation.tables import (
                PredictionWriter,
                confusion_text,
                metrics_text,
                seen_sentence,
                write_metrics,
            )
            from astroformer.files import replacing
            from astroformer.images.sources import open_source
            from astroformer.metrics import score
            from astroformer.outputs import output_folder
            from astroformer.progress import Reporter

        words: Any = {"model": self.model, "source": self.source, "overwrite": self.overwrite}
        with (
            output_folder(self.out, "evaluation", names=_FILES + _PICTURES, **words) as results,
            Reporter(quiet=self.showing.quiet) as reporter,
        ):
            metrics_file, confusion_file, picture_file, predictions_file = (results.folder / name for name in _FILES)
            classifier = self.asking.load(self.model)
            images = open_source(self.source, classes=classifier.classes, only_known=self.only_known, listener=reporter)
            tell_ignored(images)
            evaluation, predictions = classifier.evaluate(
                images,
                batch_size=self.asking.computing.batch_size,
                strict=self.strict,
                progress=lambda done, total: reporter.count("evaluating", done, total),
            )
            good_N = predictions.readable_N
            left_out = int((~good_N).sum())
            seen_N = None if predictions.seen_N is None else predictions.seen_N[good_N]
            seen, new = None if seen_N is None else int(seen_N.sum()), None
            if seen_N is not None and seen and not seen_N.all():
                assert images.labels is not None
                labels, probabilities_NK = images.labels[good_N], predictions.probabilities_NK[good_N]
                new = score(labels[~seen_N], probabilities_NK[~seen_N], classifier.classes)
            write_metrics(metrics_file, evaluation, source=self.source, left_out=left_out, seen=seen, new=new)
            with PredictionWriter(predictions_file, classifier.classes) as writer:
                writer.write(predictions)
            with replacing(confusion_file) as part:
                part.write_text(confusion_text(evaluation) + "\n", encoding="utf-8")
            pictures = (
                plot_confusion(evaluation, picture_file),
                plot_mistakes(classifier, images, predictions, results.folder / "mistakes.png"),
            )
            for failed in dict.fromkeys(pictures):  # the same reason is said once
                if failed is not None:
                    tell_beside(failed)
        print(f"{metrics_text(evaluation)}\n\n{confusion_text(evaluation)}")
        if seen:
            print(f"\n{seen_sentence(seen, evaluation.n)}")
        if new is not None:
            print(f"without them:\n{metrics_text(new)}")
        if left_out:
            table = results.place / predictions_file.name
            tell_beside(f"{left_out:,} of {len(images):,} images can't be taken and are left out; '{table}' says why")
        print(f"\nevaluation: {results.place}")
