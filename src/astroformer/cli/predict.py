"""`astroformer predict`."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from typing_extensions import Doc

from astroformer.cli.common import Asking, Model, Showing, count_of_files, first_imports
from astroformer.cli.options import NESTED, PLACE


@dataclass
class Predict:
    """Classify images with a trained MODEL: one row a file; unreadable files are rows with a reason."""

    model: Model
    source: Annotated[str, PLACE, Doc("image, folder, .npz, catalog, or a set by name: mock-galaxies, cifar10:test")]
    out: Annotated[Path, Doc("file to write, .csv or .parquet")]
    asking: Annotated[Asking, NESTED] = field(default_factory=Asking)
    showing: Annotated[Showing, NESTED] = field(default_factory=Showing)

    def run(self, given: set[str]) -> None:
        with first_imports():
            from astroformer.evaluation.tables import PredictionWriter
            from astroformer.images.sources import open_source
            from astroformer.progress import Reporter

        classifier = self.asking.load(self.model)
        failed = done = 0
        with contextlib.ExitStack() as stack:
            reporter = stack.enter_context(Reporter(quiet=self.showing.quiet))
            images = open_source(self.source, labelled=False, listener=reporter)
            writer = stack.enter_context(PredictionWriter(self.out, classifier.classes))
            for part in classifier.iter_predict(images, batch_size=self.asking.computing.batch_size):
                writer.write(part)
                done += len(part)
                failed += int((~part.readable_N).sum())
                reporter.count("predicting", done, len(images))
        print(
            f"{done - failed:,} predictions"
            + (f", {count_of_files(failed)} could not be read (column error says why)" if failed else "")
        )
        print(f"predictions: {self.out}")
