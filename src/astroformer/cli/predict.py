"""`astroformer predict`."""

from __future__ import annotations

import contextlib
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from typing_extensions import Doc

from astroformer.cli.common import Asking, Model, Overwrite, Showing, Strict, first_imports, tell_beside, tell_ignored
from astroformer.cli.options import NESTED, PLACE
from astroformer.errors import UserError, explained


@dataclass
class Predict:
    """Classify images with a trained MODEL: one row a file; unreadable files are rows with a reason."""

    model: Model
    source: Annotated[str, PLACE, Doc("image, folder, .npz, catalog, or a set by name: mock-galaxies, cifar10:test")]
    out: Annotated[Path | None, Doc("file to write, .csv or .parquet; default predictions-1.csv, -2, ...")] = None
    overwrite: Overwrite = False
    resume: Annotated[bool, Doc("go on from the rows that a stopped command left in OUT.part (CSV)")] = False
    asking: Annotated[Asking, NESTED] = field(default_factory=Asking)
    strict: Strict = False
    showing: Annotated[Showing, NESTED] = field(default_factory=Showing)

    def run(self, given: set[str]) -> None:
        with first_imports():
            from astroformer.evaluation import unfinished
            from astroformer.evaluation.tables import PredictionWriter
            from astroformer.images.sources import open_source
            from astroformer.outputs import output_file
            from astroformer.progress import Reporter

        if self.resume and (self.out is None or self.overwrite):
            what = "needs the --out that was begun" if self.out is None else "goes on, --overwrite starts anew"
            raise UserError(f"--resume {what}.")
        asking, rows = self.asking, unfinished.UnfinishedRows()
        with contextlib.ExitStack() as stack:
            inputs = (self.model, self.source)
            out = stack.enter_context(output_file(self.out, "predictions.csv", inputs=inputs, overwrite=self.overwrite))
            reporter = stack.enter_context(Reporter(quiet=self.showing.quiet))
            classifier = asking.load(self.model)
            images = open_source(self.source, labelled=False, listener=reporter)
            tell_ignored(images)
            writer = PredictionWriter(out, classifier.classes, resumed=self.resume)
            made = unfinished.made_of(
                self.model,
                images,
                writer.columns,
                precision=asking.precision,
                symmetry=asking.symmetry,
                white=asking.white,
            )
            batch_size = asking.computing.batch_size
            if self.resume:
                rows = unfinished.rows_to_keep(out, made, images.files, batch_size=batch_size)
                tell_beside(f"{rows.done:,} of {len(images):,} rows are there already")
            else:
                unfinished.start(out, made, overwrite=self.overwrite)
            done, failed, first = rows.done, rows.failed, rows.first_reason
            rest = images.subset(range(done, len(images))) if done else images
            try:
                with writer:
                    for part in classifier.iter_predict(rest, batch_size=batch_size) if len(rest) else ():
                        writer.write(part)
                        done += len(part)
                        failed += int((~part.readable_N).sum())
                        first = first or next((error for error in part.errors if error), "")
                        if failed and self.strict:
                            raise UserError(f"an image can't be taken, and strict refuses that: {first}")
                        reporter.count("predicting", done, len(images))
            except BaseException as error:
                self._tell_what_is_kept(error, out, done)
                raise
            unfinished.forget(out)
        if failed == done:
            raise UserError(f"none of {done:,} images can be taken; column error of '{out}' says why. {first}")
        if failed:
            tell_beside(f"{failed:,} of {done:,} images can't be taken; column error of '{out}' says why")
        print(f"{done - failed:,} predictions")
        print(f"predictions: {out}")

    def _tell_what_is_kept(self, error: BaseException, out: Path, done: int) -> None:
        """Raises what tells how to go on, if a signal or the system ended the predictions and rows of them are left."""
        from astroformer.evaluation import unfinished
        from astroformer.files import unfinished as part_of
        from astroformer.training.stopping import Interrupted

        part = part_of(out)
        if not done or not part.exists():
            unfinished.forget(out)
            return
        kept = f"{done:,} rows are kept in '{part}'; go on with the same command and --out {out} --resume"
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(f"stopped; {kept}", getattr(error, "number", signal.SIGINT)) from None
        if isinstance(error, OSError) and (sentence := explained(error)):
            raise UserError(f"{sentence} {kept}.") from None
