"""`Predictions`: what a model answers about images.

Shape letters: N images, K classes, D features.
"""

from __future__ import annotations

import csv
import importlib.util
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from astroformer.errors import UserError
from astroformer.files import expanded, replacing
from astroformer.outputs import output_file
from astroformer.summaries import Summarized, Summary, percent

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Array = NDArray[Any]
_CLASSES = 10  # that are counted at first sight
NOVELTY = "novelty"
ADDED_COLUMNS: dict[str, type] = {NOVELTY: float, "prediction_set": str, "abstain": bool}
"""Columns that a table of predictions has behind `error`, with the types of their values: `novelty` where the model
knows its training images, the others where they are asked for."""


def prediction_columns(classes: Sequence[str], added: Iterable[str] = ()) -> list[str]:
    """The columns of a table of predictions: `file`, `prediction`, `confidence`, `p:<class>` for each, `error`, and
    those of `ADDED_COLUMNS` that there are."""
    return ["file", "prediction", "confidence", *(f"p:{name}" for name in classes), "error", *added]


def as_text(value: Any) -> str:
    """A value of a column behind `error` in CSV: empty where there is none."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None or value != value else str(value)


def _added_text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else as_text(value)


@dataclass(frozen=True, repr=False)
class Predictions(Summarized):
    """One row an image. Rows of files that could not be read hold NaN and their reason in `errors`.

    Attributes:
        files: path of each image, or its number in an array.
        classes: names of the K columns.
        probabilities_NK: (N, K) float64; the rows of images that were read sum to 1.
        errors: why an image could not be read, "" where it was.
        seen_N: (N,) whether the model was trained on an image of the same pixels; None where nobody asked.
        features_ND: (N, D) float32, see `Classifier.features`; None where nobody asked.
        own_NK: (N, K) float64 probabilities as the network itself gives them, before any calibration; None where nobody
            asked.
        fold_N: (N,) the fold of an image that the calibration was fitted on, by which it is answered with what was
            fitted without it; −1 of any other image. None where nobody asked.
        added: those of `ADDED_COLUMNS` that there are: N values each, None where an image could not be read.

    Examples:
        >>> import numpy as np
        >>> two = Predictions(["a.png", "b.png"], ("disc", "ring"), np.array([[0.9, 0.1], [0.25, 0.75]]), ["", ""])
        >>> two.names
        ['disc', 'ring']
        >>> two.confidence_N.tolist()
        [0.9, 0.75]
        >>> two
        Predictions: 2 images, 2 classes
          disc  1   (50.0 %)
          ring  1   (50.0 %)
    """

    files: list[str]
    classes: tuple[str, ...]
    probabilities_NK: Array
    errors: list[str]
    seen_N: Array | None = None
    features_ND: Array | None = None
    own_NK: Array | None = None
    fold_N: Array | None = None
    added: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    @property
    def readable_N(self) -> Array:
        return np.array([not error for error in self.errors], dtype=bool)

    @property
    def names(self) -> list[str]:
        """The most probable class of each image; "" where the image could not be read."""
        best_N = np.nan_to_num(self.probabilities_NK, nan=0.0).argmax(1)
        return ["" if error else self.classes[k] for k, error in zip(best_N, self.errors, strict=True)]

    @property
    def confidence_N(self) -> Array:
        """The probability of the most probable class of each image."""
        return self.probabilities_NK.max(1)

    @property
    def novelty_N(self) -> Array | None:
        """How unlike the training images each image is, see `Novelty`: above 1, more than 99 of 100 images of their
        kind. NaN where an image could not be read; None where the model does not know its training images."""
        return np.array(self.added[NOVELTY], np.float64) if NOVELTY in self.added else None

    def __len__(self) -> int:
        return len(self.files)

    def summary(self) -> Summary:
        n, lines = len(self), dict[str, str]()
        counts = Counter(name for name in self.names if name).most_common()
        for name, count in counts[:_CLASSES]:
            lines[name] = f"{count:,}   ({percent(count / n)})"
        if rest := counts[_CLASSES:]:
            lines[f"{len(rest)} other classes"] = f"{sum(count for _, count in rest):,}"
        reasons = [error for error in self.errors if error]
        if reasons:
            lines["can't be taken"] = f"{len(reasons):,}   (the first: {reasons[0]})"
        if self.novelty_N is not None and (self.novelty_N > 1).any():
            lines["unlike the training images"] = f"{int((self.novelty_N > 1).sum()):,}   (novelty above 1)"
        if self.seen_N is not None and self.seen_N.any():
            lines["trained on"] = f"{int(self.seen_N.sum()):,}"
        title = f"Predictions: {n:,} image{'s' * (n != 1)}, {len(self.classes)} classes"
        return Summary(title, lines)

    # -- as a table --------------------------------------------------------------------------------------------------

    def text_rows(self) -> Iterator[list[str]]:
        """The rows of a CSV file of `prediction_columns`; empty where there is nothing."""
        rows = zip(self.files, self.names, self.confidence_N, self.probabilities_NK, self.errors, strict=True)
        for i, (file, name, confidence, p_K, error) in enumerate(rows):
            numbers = ("" if np.isnan(value) else f"{value:.8g}" for value in (confidence, *p_K))
            yield [file, name, *numbers, error, *(_added_text(values[i]) for values in self.added.values())]

    def to_arrow(self) -> pa.Table:
        """A table of pyarrow with the columns of `prediction_columns`, a row an image; null where there is nothing.

        Examples:
            >>> import numpy as np
            >>> one = Predictions(["a.png"], ("disc", "ring"), np.array([[0.75, 0.25]]), [""])
            >>> one.to_arrow().to_pylist()
            [{'file': 'a.png', 'prediction': 'disc', 'confidence': 0.75, 'p:disc': 0.75, 'p:ring': 0.25, 'error': None}]
        """
        import pyarrow as pa  # a quarter of a second that CSV need not wait for

        numbers = [self.confidence_N, *self.probabilities_NK.T]
        columns = [
            pa.array(self.files, pa.string()),
            pa.array([name or None for name in self.names], pa.string()),
            *(pa.array(np.ascontiguousarray(column), pa.float64(), from_pandas=True) for column in numbers),
            pa.array([error or None for error in self.errors], pa.string()),
        ]
        types = {str: pa.string(), bool: pa.bool_(), float: pa.float64()}
        columns += [pa.array(values, types[ADDED_COLUMNS[name]]) for name, values in self.added.items()]
        return pa.table(columns, prediction_columns(self.classes, self.added))

    def to_pandas(self) -> pd.DataFrame:
        """A data frame of pandas with the columns of `prediction_columns`, a row an image.

        Raises:
            UserError: pandas is not installed.
        """
        if importlib.util.find_spec("pandas") is None:
            raise UserError("to_pandas needs pandas: pip install pandas. Without it there are to_arrow() and to_csv().")
        return self.to_arrow().to_pandas()

    def to_csv(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Writes a CSV file, as `astroformer predict` does, and returns its path.

        Args:
            path: of the file; its name ends in `.csv`.
            overwrite: whether a file that is there may be replaced.

        Raises:
            UserError: there can't be such a file, or there is one already.

        Examples:
            >>> import tempfile
            >>> from pathlib import Path
            >>> import numpy as np
            >>> one = Predictions(["a.png"], ("disc", "ring"), np.array([[0.75, 0.25]]), [""])
            >>> path = one.to_csv(Path(tempfile.mkdtemp()) / "predictions.csv")
            >>> print(path.read_text().strip())
            file,prediction,confidence,p:disc,p:ring,error
            a.png,disc,0.75,0.75,0.25,
        """
        place = expanded(path)
        if place.suffix.lower() != ".csv":
            raise UserError(f"to_csv can't write '{path}': the name must end in .csv.")
        if place.exists() and not overwrite:
            raise UserError(f"'{path}' exists already; choose another name, or replace it with overwrite=True.")
        with (
            output_file(place, "predictions.csv", inputs=(), overwrite=overwrite) as out,
            replacing(out) as part,
            part.open("w", newline="", encoding="utf-8") as stream,
        ):
            writer = csv.writer(stream)
            writer.writerow(prediction_columns(self.classes, self.added))
            writer.writerows(self.text_rows())
        return place

    @classmethod
    def joined(cls, parts: Sequence[Predictions], classes: tuple[str, ...]) -> Predictions:
        """Several predictions of the same classes, one after the other."""
        added = parts[0].added if parts else ()

        def whole(arrays: Iterable[Array | None]) -> Array | None:
            """Arrays that all parts have, as one."""
            there = [array for array in arrays if array is not None]
            return np.concatenate(there) if parts and len(there) == len(parts) else None

        return cls(
            [file for part in parts for file in part.files],
            classes,
            np.concatenate([np.empty((0, len(classes))), *(part.probabilities_NK for part in parts)]),
            [error for part in parts for error in part.errors],
            whole(part.seen_N for part in parts),
            whole(part.features_ND for part in parts),
            whole(part.own_NK for part in parts),
            whole(part.fold_N for part in parts),
            {name: [value for part in parts for value in part.added[name]] for name in added},
        )
