"""Predictions and metrics as files: CSV, Parquet, JSON, text."""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from astroformer.errors import UserError
from astroformer.files import replacing, write_json
from astroformer.metrics import Confusion, Evaluation
from astroformer.predictions import Predictions, as_text, prediction_columns
from astroformer.summaries import percent

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from astroformer.evaluation.symmetry import SymmetryReport
    from astroformer.evaluation.symmetry.measured import MeasuredImages, MeasuredNetwork


class PredictionWriter:
    """Writes predictions to a CSV or Parquet file, batch by batch, one row for each image.

    The columns are `file`, `prediction`, `confidence`, `p:<class>` for each class, and `error`; behind them those that
    are `added`, and those of `beside`. An image that can't be read has a row with the reason and without numbers. It is
    a context: the file appears under its name, whole, when the context ends without an error.

    Args:
        path: of the file; its name ends in `.csv` or `.parquet`.
        classes: names of the classes, in the order of the probabilities.
        added: the columns that all predictions bring, see `Predictions.added`.
        beside: further columns by name, with a value for each row that there will be; None where there is none. In CSV
            truth is `true` or `false`; a Parquet file keeps the types.
        carried: the same from a catalog, behind those; a name that the table has already gets `catalog:` before it.
        done: number of rows that a CSV file has already, behind which to go on: it was ended by a signal or by the
            system (see `unfinished.py`). None begins the file.

    Raises:
        UserError: there can't be such a file.

    Examples:
        >>> import tempfile
        >>> import numpy as np
        >>> path = Path(tempfile.mkdtemp()) / "predictions.csv"
        >>> with PredictionWriter(path, ("cat", "dog")) as writer:
        ...     writer.write(Predictions(["a.png"], ("cat", "dog"), np.array([[0.25, 0.75]]), [""]))
        >>> print(path.read_text().strip())
        file,prediction,confidence,p:cat,p:dog,error
        a.png,dog,0.75,0.25,0.75,
    """

    def __init__(
        self,
        path: str | Path,
        classes: tuple[str, ...],
        *,
        added: Sequence[str] = (),
        beside: Mapping[str, Sequence[Any]] | None = None,
        carried: Mapping[str, Sequence[Any]] | None = None,
        done: int | None = None,
    ) -> None:
        self.path, self._resumed, self._row = Path(path), done is not None, done or 0
        if self.path.suffix.lower() not in (".csv", ".parquet"):
            raise UserError(f"predictions can't be written to '{path}': the name must end in .csv or .parquet.")
        if not self.path.parent.is_dir():
            raise UserError(f"predictions can't be written to '{path}': folder '{self.path.parent}' does not exist.")
        if self.path.is_dir():
            raise UserError(f"predictions can't be written to '{path}': it is a folder.")
        beside, carried = beside or {}, carried or {}
        self._empty = Predictions([], classes, np.empty((0, len(classes))), [], added={name: [] for name in added})
        self.columns = _columns(prediction_columns(classes, added), beside, carried)
        self._beside: list[Any] = [*beside.values(), *carried.values()]
        if self.path.suffix.lower() == ".parquet":
            self._beside = [_typed(values) for values in self._beside]
        self._parquet: pq.ParquetWriter | None = None

    def _table(self, part: Predictions, beside: Sequence[Any]) -> pa.Table:
        """The rows of a Parquet file."""
        import pyarrow as pa

        return pa.table([*part.to_arrow().columns, *beside], self.columns)

    def __enter__(self) -> Self:
        as_parquet = self.path.suffix.lower() == ".parquet"
        with contextlib.ExitStack() as opened:
            unfinished = opened.enter_context(replacing(self.path, kept=not as_parquet))
            if as_parquet:
                import pyarrow.parquet as pq  # a quarter of a second that CSV need not wait for

                empty = self._table(self._empty, [values[:0] for values in self._beside])
                self._parquet = opened.enter_context(pq.ParquetWriter(unfinished, empty.schema))
            else:
                mode = "a" if self._resumed else "w"
                self._stream = opened.enter_context(unfinished.open(mode, newline="", encoding="utf-8"))
                self._csv = csv.writer(self._stream)
                if not self._resumed:
                    self._csv.writerow(self.columns)
            self._opened = opened.pop_all()
        return self

    def write(self, part: Predictions) -> None:
        assert list(part.added) == list(self._empty.added), "the columns of the table are others"
        beside = [values[self._row : self._row + len(part)] for values in self._beside]
        self._row += len(part)
        if self._parquet:
            if len(part):
                self._parquet.write_table(self._table(part, beside))
        else:
            for i, row in enumerate(part.text_rows()):
                self._csv.writerow([*row, *(as_text(values[i]) for values in beside)])
            self._stream.flush()  # what a killed process has written can be continued

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.__exit__(kind, error, trace)


class FeatureWriter:
    """Writes features to a Parquet file, batch by batch: the columns `file` and `features`, D float32 numbers a row.

    An image that can't be read has a row without numbers. A context, as `PredictionWriter` is.

    Raises:
        UserError: there can't be such a file.

    Examples:
        >>> import tempfile
        >>> import pyarrow.parquet
        >>> path = Path(tempfile.mkdtemp()) / "features.parquet"
        >>> one = Predictions(["a.png"], ("x", "y"), np.ones((1, 2)) / 2, [""], features_ND=np.ones((1, 3), np.float32))
        >>> with FeatureWriter(path) as writer:
        ...     writer.write(one)
        >>> pyarrow.parquet.read_table(path).to_pylist()
        [{'file': 'a.png', 'features': [1.0, 1.0, 1.0]}]
    """

    def __init__(self, path: Path) -> None:
        if path.suffix.lower() != ".parquet":
            raise UserError(f"features can't be written to '{path}': the name must end in .parquet.")
        self._path = path
        self._writer: pq.ParquetWriter | None = None  # made with the first rows, which say how long they are

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as opened:
            self._part = opened.enter_context(replacing(self._path))
            self._opened = opened.pop_all()
        return self

    def write(self, part: Predictions) -> None:
        """Writes those of predictions that were asked for with their features."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        assert part.features_ND is not None
        values = pa.array(part.features_ND.astype(np.float32).ravel())
        missing = pa.array(~part.readable_N)
        rows = pa.FixedSizeListArray.from_arrays(values, part.features_ND.shape[1], mask=missing)
        table = pa.table({"file": pa.array(part.files, pa.string()), "features": rows})
        if self._writer is None:
            self._writer = self._opened.enter_context(pq.ParquetWriter(self._part, table.schema))
        self._writer.write_table(table)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.__exit__(kind, error, trace)


def _columns(predicted: Sequence[str], beside: Iterable[str], carried: Iterable[str]) -> list[str]:
    """The columns of the file, see `PredictionWriter`."""
    made = [*predicted, *beside]
    for name in carried:
        while name in made:
            name = f"catalog:{name}"
        made.append(name)
    return made


def judged(
    predictions: Predictions, labels_N: NDArray[np.int64], votes_NK: NDArray[np.float64] | None = None
) -> dict[str, list[Any]]:
    """The columns `label` and `correct` beside predictions: the true class, and whether the prediction is that.

    With shares of votes the label is the class with most of them, and the columns `votes:<class>` follow.
    Where an image could not be read there is a label, and nothing that is correct or not.
    """
    labels = [predictions.classes[k] for k in labels_N]
    correct = [name == label if name else None for name, label in zip(predictions.names, labels, strict=True)]
    votes = {} if votes_NK is None else dict(zip(predictions.classes, votes_NK.T.tolist(), strict=True))
    return {"label": labels, "correct": correct, **{f"votes:{name}": shares for name, shares in votes.items()}}


def _typed(values: Sequence[Any]) -> pa.Array:
    """Another column in Parquet; as text where its values, of several catalogs, are not of one type."""
    import pyarrow as pa

    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError):
        return pa.array([None if value is None else as_text(value) for value in values])


def write_metrics(
    path: Path, evaluation: Evaluation, *, source: str, left_out: int, seen: int | None, new: Evaluation | None
) -> None:
    """Writes `metrics.json`: `n`, each metric with `value`, `low`, `high`, the scores of each class, and the
    confusion matrix.

    Args:
        source: of the images, as the user named it.
        left_out: number of images that could not be read.
        seen: number of images that the model was trained on; None where the model does not know.
        new: of the other images, where there are some of both.
    """
    about = {"source": source, "left_out": left_out, "seen": seen, "new": None if new is None else new.to_dict()}
    write_json(path, {**evaluation.to_dict(), **about})


def write_by_class(path: Path, evaluation: Evaluation, *, beside: Mapping[str, Sequence[str]] | None = None) -> None:
    """Writes `by_class.csv`: of each class the scores, and the class that its images are most often taken for.

    The columns are `class`, `n`, `called` (images that are called it), `precision`, `recall`, `f1` (shares; empty where
    there is nothing to be a share of), `taken_for` and `times`; behind them those of `beside`, with a value each class.
    """
    others = beside or {}
    taken_for: dict[str, Confusion] = {}
    for confusion in evaluation.confusions():
        taken_for.setdefault(confusion.label, confusion)
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["class", "n", "called", "precision", "recall", "f1", "taken_for", "times", *others])
        for k, row in enumerate(evaluation.by_class()):
            shares = ["" if share is None else f"{share:.6g}" for share in (row.precision, row.recall, row.f1)]
            worst = taken_for.get(row.name)
            more = ["", 0] if worst is None else [worst.prediction, worst.times]
            writer.writerow([row.name, row.n, row.called, *shares, *more, *(values[k] for values in others.values())])


def write_symmetry(path: Path, report: SymmetryReport, measured: MeasuredNetwork, images: MeasuredImages) -> None:
    """Writes `symmetry.json`: which network on which images, what was measured, and with which settings."""
    about = {**measured.to_dict(), **images.to_dict()}
    content = json.dumps({**about, **report.to_dict()}, indent=2, allow_nan=False)
    with replacing(path) as part:
        part.write_text(content + "\n", encoding="utf-8")


def symmetry_text(report: SymmetryReport) -> str:
    """The report as tables: shares with 95 % intervals, changes by transformation, feature errors, shift distances."""
    tables = [_drawn(report), _shares(report), _changes(report), _distances(report)]
    if report.features:
        tables.insert(3, _feature_errors(report))
    if report.classes_called == 1:
        tables.append(["All images are called the same class: consistency says little, see the changes of the logits."])
    if report.not_measured:
        tables.append([f"not measured: {name} ({why})" for name, why in report.not_measured.items()])
    return "\n\n".join("\n".join(lines) for lines in tables)


def _drawn(report: SymmetryReport) -> list[str]:
    """What was drawn, and for which images."""
    settings, (height, width) = report.settings, report.image_size
    rows, columns = report.shift_range
    lines = [
        f"{report.n:,} images of {height} × {width} px, called {report.classes_called} of {report.num_classes} classes",
        f"{settings.dtype} on {report.device}, seed {settings.seed}",
        f"circular shifts: {settings.shifts} an image, rows {_range(rows)}, columns {_range(columns)} px, (0, 0) "
        "excluded, padding circular",
    ]
    if report.frame and report.crop_offsets:
        down, right = (_range(ends) for ends in report.crop_offsets)
        offsets = down if down == right else f"{down} and {right}"
        frame = " × ".join(map(str, report.frame))
        lines.append(f"crops: {settings.crops} an image, {height} × {width} of {frame} px, offsets {offsets}")
    lines.append(f"rotations: {settings.rotations} an image, any angle, bilinear, padding {settings.padding}")
    return lines


def _shares(report: SymmetryReport) -> list[str]:
    """Shares of images, with their intervals."""
    shares = {"C-Cons (two circular shifts)": report.c_cons, "S-Cons (two crops)": report.s_cons}
    names = {
        "plain": "accuracy",
        "shifted": "accuracy, circular shifts",
        "worst": f"accuracy, worst of {report.settings.shifts}",
        "new": "accuracy, not trained on",
    }
    shares |= {names[name]: interval for name, interval in report.accuracy.items()}
    return [
        f"{name:<30}{percent(m.value, 2):>9}   95 % interval {percent(m.low, 2)} to {percent(m.high, 2)}"
        for name, m in shares.items()
        if m
    ]


def _changes(report: SymmetryReport) -> list[str]:
    """How much the logits change under each transformation."""
    lines = [f"{'':<18}{'views':>7}{'same class':>13}{'max |Δ logit|':>16}{'over their sd':>16}"]
    for name, change in report.changes.items():
        relative = "–" if change.relative is None else f"{change.relative:.3g}"
        same = percent(change.consistency.value, 2)
        lines.append(f"{name:<18}{change.views:>7}{same:>13}{change.largest:>16.3g}{relative:>16}")
    return lines


def _feature_errors(report: SymmetryReport) -> list[str]:
    """How far the maps of each stage are from moving with the image."""
    lines = ["feature error ‖F(Tx) − T F(x)‖ / ‖F(x)‖, mean and largest"]
    lines.append(f"{'stage':<7}{'map':<16}" + "".join(f"{name:>22}" for name in report.features))
    for stage, errors in enumerate(zip(*report.features.values(), strict=True)):
        size = " × ".join(map(str, errors[0].map))
        cells = (f"{error.mean:.2g}, {error.largest:.2g}" for error in errors)
        lines.append(f"{stage:<7}{size:<16}" + "".join(f"{cell:>22}" for cell in cells))
    return lines


def _distances(report: SymmetryReport) -> list[str]:
    """The share of images that keep their class, for some of the distances: the five shortest, then every fourth."""
    shown = [*list(report.distance)[:5], *list(report.distance)[7::4]]
    return [
        f"{'shift by, px':<18}" + "".join(f"{px:>9}" for px in shown),
        f"{'same class':<18}" + "".join(f"{percent(report.distance[px].value, 2):>9}" for px in shown),
    ]


def _range(ends: tuple[int, int]) -> str:
    return f"[{ends[0]}, {ends[1]}]".replace("-", "−")
