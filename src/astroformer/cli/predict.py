"""`astroformer predict`."""

from __future__ import annotations

import contextlib
import signal
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typing_extensions import Doc

from astroformer.cli.common import (
    Asking,
    Model,
    Overwrite,
    Root,
    Showing,
    Strict,
    first_imports,
    lasting_root,
    refuse_missing,
    tell_beside,
    tell_differences,
    tell_ignored,
    with_root,
)
from astroformer.cli.options import NESTED, PLACE
from astroformer.errors import UserError, explained

if TYPE_CHECKING:
    from astroformer.classifier import Classifier
    from astroformer.evaluation.judge import Judge
    from astroformer.evaluation.scores import Called
    from astroformer.evaluation.unfinished import UnfinishedRows
    from astroformer.images.labelled import LabelledImages
    from astroformer.predictions import Predictions
    from astroformer.progress import Reporter


@dataclass
class Trusting:
    """What to tell of predictions beside the probabilities; the words of `Judge`."""

    coverage: Annotated[
        float | None,
        Doc(
            "write sets of classes that hold the true one in this share of the images, such as 0.9: column "
            "prediction_set"
        ),
    ] = None
    sets: Annotated[
        Literal["lac", "aps", "raps"],
        Doc("kind of sets: lac, the smallest; aps, larger where the model doubts; raps, without improbable classes"),
    ] = "lac"
    by_class: Annotated[bool, Doc("hold the coverage in the images of each class")] = False
    purity: Annotated[
        float | None,
        Doc(
            "abstain where the model is less sure than a cut, so that this share of the other images of each class is "
            "called right, such as 0.99: column abstain"
        ),
    ] = None
    priors: Annotated[
        str | None,
        Doc(
            "correct the probabilities for other shares of the classes: spiral=0.3,smooth=0.7, or estimate, from these "
            "images, which counts those of each class too"
        ),
    ] = None


@dataclass
class Predict:
    """Classify images with a trained MODEL: one row a file; unreadable files are rows with a reason."""

    model: Model
    source: Annotated[
        tuple[str, ...],
        PLACE,
        Doc(
            "what to classify, one or several: an image, a pattern such as 'new/*.png', a folder, .npz, catalog, or a "
            "set by name: mock-galaxies, cifar10:test; a catalog may be followed by @file=COLUMN, or "
            "by @mosaic=FIELD.fits@size=64 (cutouts around ra and dec); FITS files by @hdu=SCI and @bands=g,r,i; "
            "files and folders elsewhere are named by their URL (https://, s3://, gs://, ...)"
        ),
    ]
    out: Annotated[Path | None, Doc("file to write, .csv or .parquet; default predictions-1.csv, -2, ...")] = None
    overwrite: Overwrite = False
    resume: Annotated[bool, Doc("go on from the rows that a stopped command left in OUT.part (CSV)")] = False
    root: Root = None
    columns: Annotated[
        str | None, Doc("other columns of a catalog to write beside the predictions: names such as ra,dec, or all")
    ] = None
    features: Annotated[
        Path | None, Doc("write the features of each image, from which the network tells its class, to this .parquet")
    ] = None
    trusting: Annotated[Trusting, NESTED] = field(default_factory=Trusting)
    asking: Annotated[Asking, NESTED] = field(default_factory=Asking)
    strict: Strict = False
    showing: Annotated[Showing, NESTED] = field(default_factory=Showing)

    def run(self, given: set[str]) -> None:
        from astroformer.images.several import matching, open_sources

        self._check_words()
        sources = with_root(self.source, self.root)
        named = matching(sources)
        refuse_missing(*named, model=self.model)
        with first_imports():
            import numpy as np

            from astroformer.evaluation import unfinished
            from astroformer.evaluation.scores import Called, novelty_sentence
            from astroformer.progress import Reporter

        with contextlib.ExitStack() as stack:
            out = self._take_outputs(stack, named)
            reporter = stack.enter_context(Reporter(quiet=self.showing.quiet))
            classifier = self.asking.load(self.model)
            images = open_sources(sources, columns=self._wanted(), listener=reporter)
            tell_ignored(images)
            tell_differences(classifier, images)
            judge = self._judge(classifier)
            rows = self._begin(out, classifier, judge, named, images)
            tally = _Tally(Called(classifier.classes), rows.done, rows.failed, rows.first_reason, [*rows.novelty])
            tally.called.add(rows.called)
            try:
                self._predict(out, classifier, judge, images, tally, reporter)
            except BaseException as error:
                self._tell_what_is_kept(error, out, tally.done)
                raise
            unfinished.forget(out)
        done, failed = tally.done, tally.failed
        if failed == done:
            raise UserError(f"none of {done:,} images can be taken; column error of '{out}' says why. {tally.first}")
        if failed:
            tell_beside(f"{failed:,} of {done:,} images can't be taken; column error of '{out}' says why")
        print(f"{done - failed:,} prediction{'s' * (done - failed != 1)}\n{tally.called.text()}")
        if (novel := novelty_sentence(np.array(tally.novelty))) is not None:
            print(textwrap.fill(novel, 80))
        if judge is not None:
            self._tell_judged(judge, rows.done)
        if self.features is not None:
            print(f"features: {self.features}")
        print(f"predictions: {out}")

    def _check_words(self) -> None:
        if self.resume and (self.out is None or self.overwrite):
            what = "needs the --out that was begun" if self.out is None else "goes on, --overwrite starts anew"
            raise UserError(f"--resume {what}.")
        if self.resume and self.features is not None:
            raise UserError("--features can't go on where it was stopped, as --resume does; leave out one of the two.")
        if self.features is not None and self.out is not None and self.features.absolute() == self.out.absolute():
            raise UserError(f"--out and --features are both '{self.out}'; choose another name for one of them.")
        if self.trusting != Trusting():
            from astroformer.evaluation.judge import check_together

            check_together(**asdict(self.trusting))
        if self.resume and self.trusting.priors == "estimate":
            raise UserError(
                "--priors estimate needs all images before it can write a row, so no rows are left that --resume could "
                "go on from; leave out one of the two."
            )

    def _wanted(self) -> Sequence[str] | Literal["all"]:
        """The columns that are to be carried over."""
        names = [name.strip() for name in (self.columns or "").split(",")]
        if self.columns is not None and "" in names:
            raise UserError(f"--columns '{self.columns}' names an empty column; give names such as ra,dec, or all.")
        return "all" if names == ["all"] else [name for name in dict.fromkeys(names) if name]

    def _take_outputs(self, stack: contextlib.ExitStack, sources: Sequence[str]) -> Path:
        """The file of the predictions, once this process may write it and that of the features."""
        from astroformer.outputs import output_file

        inputs: list[str | Path | None] = [self.model, *sources]
        for path in [] if self.features is None else [self.features]:
            stack.enter_context(output_file(path, "features.parquet", inputs=inputs, overwrite=self.overwrite))
        return stack.enter_context(output_file(self.out, "predictions.csv", inputs=inputs, overwrite=self.overwrite))

    def _judge(self, classifier: Classifier) -> Judge | None:
        """What adds what is asked for to the predictions; None where nothing is."""
        if self.trusting == Trusting():
            return None
        from astroformer.evaluation.judge import Judge

        return Judge.of(classifier, **asdict(self.trusting))

    def _begin(
        self, out: Path, classifier: Classifier, judge: Judge | None, sources: Sequence[str], images: LabelledImages
    ) -> UnfinishedRows:
        """Records what the rows are made of, or with --resume finds those that are there."""
        from astroformer.evaluation import unfinished
        from astroformer.evaluation.tables import FeatureWriter, PredictionWriter

        added = [*classifier.added, *([] if judge is None else judge.added)]
        columns = PredictionWriter(out, classifier.classes, added=added, carried=images.columns).columns
        if self.features is not None:
            FeatureWriter(self.features)
        asking = self.asking
        made = unfinished.made_of(
            self.model,
            sources,
            images,
            columns,
            precision=asking.precision,
            symmetry=asking.symmetry,
            white=asking.white,
            **({} if asking.calibration == "auto" else {"calibration": asking.calibration}),
            **({} if classifier.runtime == "torch" else {"runtime": classifier.runtime}),
            **({} if self.root is None else {"root": lasting_root(self.root)}),
            **({} if judge is None else asdict(self.trusting)),
        )
        if not self.resume:
            unfinished.start(out, made, overwrite=self.overwrite)
            return unfinished.UnfinishedRows()
        rows = unfinished.rows_to_keep(out, made, images.files, batch_size=asking.computing.batch_size, added=added)
        tell_beside(f"{rows.done:,} of {len(images):,} rows are there already")
        return rows

    def _predict(
        self,
        out: Path,
        classifier: Classifier,
        judge: Judge | None,
        images: LabelledImages,
        tally: _Tally,
        reporter: Reporter,
    ) -> None:
        """Writes the rows that are not there yet."""
        from astroformer.evaluation.tables import FeatureWriter, PredictionWriter

        batch_size, first = self.asking.computing.batch_size, tally.done if self.resume else None
        rest = images.subset(range(tally.done, len(images))) if tally.done else images
        with contextlib.ExitStack() as stack:
            writers: list[PredictionWriter | FeatureWriter] = [
                PredictionWriter(
                    out,
                    classifier.classes,
                    added=[*classifier.added, *([] if judge is None else judge.added)],
                    carried=images.columns,
                    done=first,
                )
            ]
            if self.features is not None:
                writers.append(FeatureWriter(self.features))
            for writer in writers:
                stack.enter_context(writer)
            asked = classifier.iter_predict(rest, batch_size=batch_size, features=self.features is not None)
            parts: Iterable[Predictions] = asked if len(rest) else ()
            if judge is not None and judge.estimates:  # the shares of the classes are known when all is predicted
                parts = self._all(parts, len(images), reporter)
                judge.estimate(parts)
            for part in parts if judge is None else map(judge.judged, parts):
                for writer in writers:
                    writer.write(part)
                tally.add(part)
                if tally.failed and self.strict:
                    raise _refused(tally.first)
                if judge is None or not judge.estimates:
                    reporter.count("predicting", tally.done, len(images))

    def _all(self, asked: Iterable[Predictions], n: int, reporter: Reporter) -> list[Predictions]:
        """All parts of the predictions of n images."""
        parts: list[Predictions] = []
        done = 0
        for part in asked:
            parts.append(part)
            done += len(part)
            reporter.count("predicting", done, n)
            if self.strict and (first := next(filter(None, part.errors), "")):
                raise _refused(first)
        return parts

    def _tell_judged(self, judge: Judge, before: int) -> None:
        """Prints what the calibration images say, and how many of these images it is about."""
        print(f"\n{judge.text()}\n")
        if before:
            print(f"without the {before:,} rows that were there already\n")
        if (warning := judge.warning()) is not None:
            tell_beside(warning)

    def _tell_what_is_kept(self, error: BaseException, out: Path, done: int) -> None:
        """Raises what tells how to go on, if a signal or the system ended the predictions and rows of them are left."""
        from astroformer.evaluation import unfinished
        from astroformer.files import unfinished as part_of
        from astroformer.training.stopping import Interrupted

        part = part_of(out)
        if not done or not part.exists() or self.trusting.priors == "estimate":
            unfinished.forget(out)
            return
        without = "" if self.features is None else ", without --features"
        kept = f"{done:,} rows are kept in '{part}'; go on with the same command and --out {out} --resume{without}"
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(f"stopped; {kept}", getattr(error, "number", signal.SIGINT)) from None
        if isinstance(error, OSError) and (sentence := explained(error)):
            raise UserError(f"{sentence} {kept}.") from None


def _refused(reason: str) -> UserError:
    """What `strict` says of the first image that can't be taken."""
    return UserError(f"an image can't be taken, and strict refuses that: {reason}")


@dataclass
class _Tally:
    """What is predicted by now: how many rows, how many of images that could not be taken, why the first not, and how
    novel the others are."""

    called: Called
    done: int
    failed: int
    first: str
    novelty: list[float]

    def add(self, part: Predictions) -> None:
        self.done += len(part)
        self.failed += int((~part.readable_N).sum())
        self.first = self.first or next((error for error in part.errors if error), "")
        self.called.add((name, c) for name, c in zip(part.names, part.confidence_N.tolist(), strict=True) if name)
        self.novelty += [] if part.novelty_N is None else part.novelty_N[part.readable_N].tolist()
