"""`astroformer predict`."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from typing_extensions import Doc

from astroformer.cli.common import Asking, Model, Showing, Strict, first_imports, tell_beside, tell_ignored
from astroformer.cli.options import NESTED, PLACE
from astroformer.errors import UserError


@dataclass
class Predict:
    """Classify images with a trained MODEL: one row a file; unreadable files are rows with a reason."""

    model: Model
    source: Annotated[str, PLACE, Doc("image, folder, .npz, catalog, or a set by name: mock-galaxies, cifar10:test")]
    out: Annotated[Path, Doc("file to write, .csv or .parquet")]
    asking: Annotated[Asking, NESTED] = field(default_factory=Asking)
    strict: Strict = False
    showing: Annotated[Showing, NESTED] = field(default_factory=Showing)

    def run(self, given: set[str]) -> None:
        with first_imports():
            from astroformer.evaluation.tables import PredictionWriter
            from astroformer.images.sources import open_source
            from astroformer.progress import Reporter

        classifier = self.asking.load(self.model)
        failed, done, first = 0, 0, ""
        with contextlib.ExitStack() as stack:
            reporter = stack.enter_context(Reporter(quiet=self.showing.quiet))
            images = open_source(self.source, labelled=False, listener=reporter)
            tell_ignored(images)
            writer = stack.enter_context(PredictionWriter(self.out, classifier.classes))
            for part in classifier.iter_predict(images, batch_size=self.asking.computing.batch_size):
                writer.write(part)
                done += len(part)
                failed += int((~part.readable_N).sum())
                first = first or next((error for error in part.errors if error), "")
                if failed and self.strict:
                    raise UserError(f"an image can't be taken, and strict refuses that: {first}")
                reporter.count("predicting", done, len(images))
        if failed == done:
            raise UserError(f"none of {done:,} images can be taken; column error of '{self.out}' says why. {first}")
        if failed:
            tell_beside(f"{failed:,} of {done:,} images can't be taken; column error of '{self.out}' says why")
        print(f"{done - failed:,} predictions")
        print(f"predictions: {self.out}")
