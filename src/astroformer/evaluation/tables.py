"""Predictions and metrics as files: CSV, Parquet, JSON, text."""

from __future__ import annotations

import contextlib
import csv
import json
import math
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from astroformer.errors import UserError
from astroformer.files import replacing, write_json
from astroformer.metrics import Evaluation
from astroformer.predictions import Predictions

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from astroformer.evaluation.symmetry import SymmetryReport
    from astroformer.evaluation.symmetry.measured import MeasuredImages, MeasuredNetwork


class PredictionWriter:
    """Writes predictions to a CSV or Parquet file, batch by batch, one row for each image.

    The columns are `file`, `prediction`, `confidence`, `p:<class>` for each class, and `error`. An image that can't be
    read has a row with the reason and without numbers. It is a context: the file appears under its name, whole, when
    the context ends without an error.

    Args:
        path: of the file; its name ends in `.csv` or `.parquet`.
        classes: names of the classes, in the order of the probabilities.
        resumed: go on behind the rows of a CSV file that was ended by a signal or by the system (see `unfinished.py`).

    Raises:
        UserError: there can't be such a file.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> path = Path(tempfile.mkdtemp()) / "predictions.csv"
        >>> with PredictionWriter(path, ("cat", "dog")) as writer:
        ...     writer.write(Predictions(["a.png"], ("cat", "dog"), np.array([[0.25, 0.75]]), [""]))
        >>> print(path.read_text().strip())
        file,prediction,confidence,p:cat,p:dog,error
        a.png,dog,0.75,0.25,0.75,
    """

    def __init__(self, path: str | Path, classes: tuple[str, ...], *, resumed: bool = False) -> None:
        self.path, self._resumed = Path(path), resumed
        if self.path.suffix.lower() not in (".csv", ".parquet"):
            raise UserError(f"predictions can't be written to '{path}': the name must end in .csv or .parquet.")
        if not self.path.parent.is_dir():
            raise UserError(f"predictions can't be written to '{path}': folder '{self.path.parent}' does not exist.")
        if self.path.is_dir():
            raise UserError(f"predictions can't be written to '{path}': it is a folder.")
        self.columns = ["file", "prediction", "confidence", *(f"p:{name}" for name in classes), "error"]
        self._parquet: pq.ParquetWriter | None = None

    def _schema(self) -> pa.Schema:
        import pyarrow as pa

        text, number = pa.string(), pa.float64()
        return pa.schema([(name, text if name in ("file", "prediction", "error") else number) for name in self.columns])

    def __enter__(self) -> Self:
        as_parquet = self.path.suffix.lower() == ".parquet"
        with contextlib.ExitStack() as opened:
            unfinished = opened.enter_context(replacing(self.path, kept=not as_parquet))
            if as_parquet:
                import pyarrow.parquet as pq  # a quarter of a second that CSV need not wait for

                self._parquet = opened.enter_context(pq.ParquetWriter(unfinished, self._schema()))
            else:
                mode = "a" if self._resumed else "w"
                self._stream = opened.enter_context(unfinished.open(mode, newline="", encoding="utf-8"))
                self._csv = csv.writer(self._stream)
                if not self._resumed:
                    self._csv.writerow(self.columns)
            self._opened = opened.pop_all()
        return self

    def write(self, part: Predictions) -> None:
        rows = zip(part.files, part.names, part.confidence_N, part.probabilities_NK, part.errors, strict=True)
        if self._parquet:
            table = [
                [file, name or None, _none_for_nan(confidence), *map(_none_for_nan, p_K), error or None]
                for file, name, confidence, p_K, error in rows
            ]
            if table:
                import pyarrow as pa

                self._parquet.write_table(pa.table(list(zip(*table, strict=True)), schema=self._schema()))
        else:
            for file, name, confidence, p_K, error in rows:
                numbers = [_none_for_nan(v) for v in (confidence, *p_K)]
                self._csv.writerow([file, name, *("" if v is None else f"{v:.8g}" for v in numbers), error])
            self._stream.flush()  # what a killed process has written can be continued

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.__exit__(kind, error, trace)


def _none_for_nan(value: Any) -> float | None:
    return None if math.isnan(value) else float(value)


def write_metrics(
    path: Path, evaluation: Evaluation, *, source: str, left_out: int, seen: int | None, new: Evaluation | None
) -> None:
    """Writes `metrics.json`: `n`, each metric with `value`, `low`, `high`, each class's recall, the confusion matrix.

    Args:
        source: of the images, as the user named it.
        left_out: number of images that could not be read.
        seen: number of images that the model was trained on; None where the model does not know.
        new: of the other images, where there are some of both.
    """
    about = {"source": source, "left_out": left_out, "seen": seen, "new": None if new is None else new.to_dict()}
    write_json(path, {**evaluation.to_dict(), **about})


def seen_sentence(seen: int, n: int) -> str:
    """What to say where a model was trained on some of the images that it is measured on."""
    which = "all of these images" if seen == n else f"{seen:,} of these {n:,} images"
    return f"the model was trained on {which}: figures on them say nothing of new images"


def metrics_text(evaluation: Evaluation) -> str:
    """The metrics as aligned lines: value and 95 % interval."""
    lines = [f"{'n':<18} {evaluation.n:>8,}"]
    lines += [
        f"{name:<18} {m.value:>8.4f}   95 % interval {m.low:.4f} to {m.high:.4f}"
        for name, m in evaluation.metrics.items()
    ]
    return "\n".join(lines)


def confusion_text(evaluation: Evaluation) -> str:
    """The confusion matrix as text: a row for each true class, a column for each predicted one, numbered alike."""
    counts = evaluation.confusion_KK
    width = max(len(str(counts.max())), len(str(len(counts)))) + 2
    name_width = max(map(len, evaluation.classes)) + 4
    header = " " * name_width + "".join(f"{k:>{width}}" for k in range(len(counts))) + "   recall"
    lines: Iterable[str] = (
        f"{k:>2}  {name:<{name_width - 4}}"
        + "".join(f"{n:>{width}}" for n in row)
        + (f"   {row[k] / row.sum():6.1%}" if row.sum() else "        –")
        for k, (name, row) in enumerate(zip(evaluation.classes, counts, strict=True))
    )
    return "\n".join([header, *lines])


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
    return [f"{name:<30}{m.value:>9.2%}   95 % interval {m.low:.2%} to {m.high:.2%}" for name, m in shares.items() if m]


def _changes(report: SymmetryReport) -> list[str]:
    """How much the logits change under each transformation."""
    lines = [f"{'':<18}{'views':>7}{'same class':>13}{'max |Δ logit|':>16}{'over their sd':>16}"]
    for name, change in report.changes.items():
        relative = "–" if change.relative is None else f"{change.relative:.3g}"
        lines.append(
            f"{name:<18}{change.views:>7}{change.consistency.value:>13.2%}{change.largest:>16.3g}{relative:>16}"
        )
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
        f"{'same class':<18}" + "".join(f"{report.distance[px].value:>9.2%}" for px in shown),
    ]


def _range(ends: tuple[int, int]) -> str:
    return f"[{ends[0]}, {ends[1]}]".replace("-", "−")
