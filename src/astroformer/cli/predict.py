"""`astroformer predict`."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from astroformer.cli.arguments import Needed
from astroformer.cli.common import NESTED, Asking, Model, Showing, count_of_files, first_imports, tell_beside

_SOURCE = "image, folder, .npz, catalog, or a set by name: mock-galaxies, cifar10:test"
_OUT = "file to write, .csv or .parquet"


@dataclass
class Predict:
    """Classify images with a trained MODEL: one row a file; unreadable files are rows with a reason."""

    model: Model
    source: Annotated[
        str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE", help=_SOURCE), Needed("SOURCE", _SOURCE)
    ]
    out: Annotated[Path, tyro.conf.arg(help=_OUT), Needed("--out PATH", _OUT)]
    asking: Annotated[Asking, NESTED] = field(default_factory=Asking)
    showing: Annotated[Showing, NESTED] = field(default_factory=Showing)

    def run(self, given: set[str]) -> None:
        with first_imports():
            from astroformer.classifier import load
            from astroformer.evaluation.tables import PredictionWriter
            from astroformer.images.sources import open_source
            from astroformer.progress import Reporter

        classifier = load(
            self.model,
            self.asking.device,
            precision=self.asking.precision,
            symmetry=self.asking.symmetry,
            say=tell_beside,
        )
        failed = done = 0
        with contextlib.ExitStack() as stack:
            reporter = stack.enter_context(Reporter(quiet=self.showing.quiet))
            images = open_source(self.source, labelled=False, listener=reporter)
            writer = stack.enter_context(PredictionWriter(self.out, classifier.classes))
            for part in classifier.iter_predict(images, batch_size=self.asking.batch_size):
                writer.write(part)
                done += len(part)
                failed += int((~part.readable_N).sum())
                reporter.count("predicting", done, len(images))
        print(
            f"{done - failed:,} predictions"
            + (f", {count_of_files(failed)} could not be read (column error says why)" if failed else "")
        )
        print(f"predictions: {self.out}")
