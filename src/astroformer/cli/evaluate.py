"""`astroformer evaluate`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from astroformer.cli.arguments import Needed
from astroformer.cli.common import (
    NESTED,
    Asking,
    Model,
    Showing,
    count_of_files,
    first_imports,
    make_folder,
    tell_beside,
)

_SOURCE = "labelled images: class folders, .npz, catalog, or a set by name: mock-galaxies, cifar10:test"
_OUT = "folder for metrics.json, confusion.txt, confusion.png, predictions.csv"


@dataclass
class Evaluate:
    """Measure a trained MODEL on labelled images: metrics with 95 % intervals and the confusion matrix."""

    model: Model
    source: Annotated[
        str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE", help=_SOURCE), Needed("SOURCE", _SOURCE)
    ]
    out: Annotated[Path, tyro.conf.arg(help=_OUT), Needed("--out PATH", _OUT)]
    asking: Annotated[Asking, NESTED] = field(default_factory=Asking)
    strict: bool = False
    """make an unreadable file an error instead of leaving it out"""
    showing: Annotated[Showing, NESTED] = field(default_factory=Showing)

    def run(self, given: set[str]) -> None:
        with first_imports():
            from astroformer.classifier import load
            from astroformer.evaluation.pictures import plot_confusion
            from astroformer.evaluation.tables import PredictionWriter, confusion_text, metrics_text, write_metrics
            from astroformer.images.sources import open_source
            from astroformer.progress import Reporter

        classifier = load(
            self.model,
            self.asking.device,
            precision=self.asking.precision,
            symmetry=self.asking.symmetry,
            say=tell_beside,
        )
        with Reporter(quiet=self.showing.quiet) as reporter:
            images = open_source(self.source, classes=classifier.classes, listener=reporter)
            make_folder(self.out)
            evaluation, predictions = classifier.evaluate(
                images,
                batch_size=self.asking.batch_size,
                strict=self.strict,
                progress=lambda done, total: reporter.count("evaluating", done, total),
            )
        left_out = int((~predictions.readable_N).sum())
        write_metrics(self.out / "metrics.json", evaluation, {"source": self.source, "left_out": left_out})
        with PredictionWriter(self.out / "predictions.csv", classifier.classes) as writer:
            writer.write(predictions)
        text = f"{metrics_text(evaluation)}\n\n{confusion_text(evaluation)}"
        (self.out / "confusion.txt").write_text(confusion_text(evaluation) + "\n", encoding="utf-8")
        plot_confusion(evaluation, self.out / "confusion.png")
        print(text)
        if left_out:
            print(f"\n{count_of_files(left_out)} could not be read, left out; {self.out / 'predictions.csv'} says why")
        print(f"\nevaluation: {self.out}")
