"""Catalogs: tables in CSV, TSV or Parquet with a column of files and one of labels."""

from __future__ import annotations

import contextlib
import csv
import itertools
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astroformer.errors import UserError, unknown_name
from astroformer.files import expanded
from astroformer.images.fits_bands import FITS_OPTIONS
from astroformer.images.formats.folders import read_files
from astroformer.images.formats.format import Format
from astroformer.images.formats.mosaics import PIECE_OPTIONS, open_mosaic, open_stack, refuse_alone
from astroformer.images.labelled import LabelledImages
from astroformer.images.names import encode_labels, refuse_duplicates, refuse_gaps, refuse_repeated, shortened

FILE_COLUMNS = (
    "file",
    "filename",
    "file_name",
    "filepath",
    "file_path",
    "file_loc",
    "path",
    "image",
    "image_path",
)
LABEL_COLUMNS = ("label", "labels", "label_name", "class", "class_name", "target", "category")
CATALOG_EXTENSIONS = frozenset({".csv", ".tsv", ".parquet"})


ID_COLUMNS = ("id", "objid", "object_id", "objectid", "source_id", "name", "iauname")
RA_COLUMNS = ("ra", "raj2000", "_raj2000", "ra_j2000", "ra_icrs", "ra_deg", "radeg", "right_ascension", "alpha_j2000")
DEC_COLUMNS = (
    *("dec", "dej2000", "decj2000", "_dej2000", "dec_j2000", "de_icrs", "dec_icrs", "dec_deg", "decdeg", "dedeg"),
    *("declination", "delta_j2000"),
)


def _open_catalog(path: Path, labelled: bool, options: Mapping[str, str]) -> LabelledImages:
    columns = _column_names(path)
    refuse_alone(options, path)
    if "cube" in options or "mosaic" in options:
        return _open_pieces(path, columns, labelled, options)
    file_column, label_column = _roles(path, columns, labelled, options)
    table = _read_columns(path, [file_column] if label_column is None else [file_column, label_column])
    files = table[file_column]
    refuse_gaps(str(path), file_column, files)
    refuse_duplicates(str(path), files)
    root = expanded(options["root"]) if "root" in options else path.parent
    if not root.is_dir():
        raise UserError(f"'{path}': its images are to lie in '{root}', and there is no such folder.")
    paths = tuple(root / expanded(file) for file in files)
    if paths and not any(os.path.exists(p) for p in paths):
        raise UserError(
            f"'{path}': none of its {len(paths)} files exists; paths are relative to '{root}'. The first: "
            f"'{files[0]}'. Say where they lie with '{path}@root=FOLDER'."
        )
    read = read_files(list(map(str, paths)), options, path)._asdict()
    if label_column is None:
        return LabelledImages("", files, None, (), **read)
    refuse_gaps(str(path), label_column, table[label_column])
    labels, classes = encode_labels(table[label_column], None, str(path))
    return LabelledImages("", files, labels, classes, **read)


def _open_pieces(path: Path, columns: list[str], labelled: bool, options: Mapping[str, str]) -> LabelledImages:
    """Images that lie in one file: row i is plane i of a stack, or a cutout of a mosaic around the row's position."""
    if not columns:
        raise UserError(f"'{path}' has no columns.")
    used = _roles_of_pieces(path, columns, labelled, options)
    texts = _read_columns(path, [used[role] for role in ("id", "label") if role in used])
    if "mosaic" in options:
        ra_N, dec_N = (_numbers(path, used[role]) for role in ("ra", "dec"))
        n = len(ra_N)
    else:
        n = len(_other_columns(path, labelled, options, columns[:1])[columns[0]])
    names = [f"{path.name}#{i}" for i in range(n)]
    if "id" in used:
        names = texts[used["id"]]
        refuse_gaps(str(path), used["id"], names)
        refuse_repeated(str(path), used["id"], names)
    if not n:
        raise UserError(f"'{path}' has no rows.")
    is_stack = "cube" in options
    pieces = open_stack(options["cube"], options, names) if is_stack else open_mosaic(options, names, ra_N, dec_N)
    if not labelled:
        return LabelledImages("", names, None, (), **pieces._asdict())
    refuse_gaps(str(path), used["label"], texts[used["label"]])
    labels, classes = encode_labels(texts[used["label"]], None, str(path))
    return LabelledImages("", names, labels, classes, **pieces._asdict())


def _roles_of_pieces(path: Path, columns: list[str], labelled: bool, options: Mapping[str, str]) -> dict[str, str]:
    """The columns that are used where images lie in one file. Without one of names, images have the rows' numbers."""
    roles: dict[str, tuple[str, ...]] = {"ra": RA_COLUMNS, "dec": DEC_COLUMNS} if "mosaic" in options else {}
    if labelled:
        roles["label"] = LABEL_COLUMNS
    if "id" in options or any(name.strip().lower() in ID_COLUMNS for name in columns):
        roles["id"] = ID_COLUMNS
    return {role: _column(path, columns, role, allowed, options.get(role)) for role, allowed in roles.items()}


def _numbers(path: Path, column: str) -> NDArray[np.float64]:
    """(N,) a column of numbers; NaN where there is none."""
    found = []
    for row, value in enumerate(_other_columns(path, False, {}, [column])[column], start=1):
        try:
            found.append(np.nan if value is None else float(value))
        except (TypeError, ValueError):
            raise UserError(
                f"'{path}': the column '{column}' has '{value}' in row {row}, which is no number. Mend the row, or "
                "name another column."
            ) from None
    return np.array(found, np.float64)


def _other_columns(
    path: Path, labelled: bool, options: Mapping[str, str], wanted: Sequence[str] | None
) -> dict[str, list[Any]]:
    """The columns of these names, or all but those of the files and of the labels that are used, by name.

    Of all, those are left out whose name occurs twice: nobody could tell one from the other. Values of CSV are text,
    those of Parquet have their types; a missing one is None.
    """
    columns = _column_names(path)
    if wanted is None:
        pieces = "cube" in options or "mosaic" in options
        roles = _roles_of_pieces(path, columns, labelled, options) if pieces else None
        used = _roles(path, columns, labelled, options) if roles is None else roles.values()
        wanted = [name for name in columns if name not in used and columns.count(name) == 1]
    for name in wanted:
        if name not in columns:
            raise unknown_name(f"column in '{path}'", name, columns)
        if columns.count(name) > 1:
            raise UserError(f"'{path}': the column '{name}' occurs twice; rename one of the two.")
    if path.suffix.lower() == ".parquet":
        with _damage_of_parquet_is_said(path):
            found: dict[str, list[Any]] = _parquet(path).read(columns=list(wanted)).to_pydict()
        return {name: found[name] for name in wanted}
    return {name: [value or None for value in values] for name, values in _read_columns(path, list(wanted)).items()}


def _roles(path: Path, columns: list[str], labelled: bool, options: Mapping[str, str]) -> tuple[str, str | None]:
    """The columns of the files and, if they are needed, of the labels."""
    file_column = _column(path, columns, "file", FILE_COLUMNS, options.get("file"))
    return file_column, _column(path, columns, "label", LABEL_COLUMNS, options.get("label")) if labelled else None


def _column(path: Path, columns: list[str], role: str, allowed: tuple[str, ...], asked: str | None) -> str:
    if asked is not None:
        if asked not in columns:
            raise unknown_name(f"column in '{path}'", asked, columns)
        return asked
    repeated = [name for name, n in Counter(columns).items() if n > 1 and name.strip().lower() in allowed]
    found = [name for name in columns if name.strip().lower() in allowed]
    if len(found) == 1:
        return found[0]
    which = f"the columns {', '.join(found)} could all be the {role}" if found else f"no column is named for the {role}"
    if repeated:
        which = f"the column '{repeated[0]}' occurs twice"
    raise UserError(
        f"'{path}': {which} (one of {', '.join(allowed)}). It has: {', '.join(columns) or 'no columns'}. "
        f"Say which with '{path}@{role}=COLUMN'."
    )


def _column_names(path: Path) -> list[str]:
    if path.suffix.lower() == ".parquet":
        with _damage_of_parquet_is_said(path):
            return list(_parquet(path).schema_arrow.names)
    return next(iter(_csv_rows(path)), [])


def _read_columns(path: Path, wanted: list[str]) -> dict[str, list[str]]:
    """The columns as text; a missing value is an empty string."""
    if path.suffix.lower() == ".parquet":
        with _damage_of_parquet_is_said(path):
            table = _parquet(path).read(columns=wanted).to_pydict()
        return {name: [_cell(path, name, value) for value in table[name]] for name in wanted}
    rows = iter(_csv_rows(path))
    header = next(rows)
    columns: dict[str, list[str]] = {name: [] for name in wanted}
    places = [(columns[name], header.index(name)) for name in wanted]
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise UserError(f"'{path}': row {number} has {len(row)} values, the header {len(header)}. Mend the row.")
        for values, place in places:
            values.append(row[place].strip())
    return columns


def _csv_rows(path: Path) -> Iterator[list[str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = (line for line in file if line.strip())
            header = next(lines, "")
            rows = itertools.chain([header], lines)
            yield from (row for row in csv.reader(rows, delimiter=_delimiter(header), strict=True) if row)
    except UnicodeDecodeError:
        raise UserError(f"'{path}' is not UTF-8 text; save it as UTF-8.") from None
    except csv.Error as error:
        raise UserError(f"'{path}' is not read as a table: {error}.") from None


def _delimiter(header: str) -> str:
    """What parts the columns of a table: comma, semicolon or tab, whichever makes the most columns of its header."""
    return max(",;\t", key=lambda mark: len(next(csv.reader([header], delimiter=mark), [])))


def _parquet(path: Path) -> Any:
    import pyarrow.parquet

    with _damage_of_parquet_is_said(path):
        return pyarrow.parquet.ParquetFile(path)


@contextlib.contextmanager
def _damage_of_parquet_is_said(path: Path) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk, and not of the file's content
            raise
        raise UserError(f"'{path}' is not a Parquet file or is damaged ({' '.join(str(error).split())}).") from None


def _cell(path: Path, column: str, value: Any) -> str:
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, float | list | dict | bytes):
        raise UserError(
            f"'{path}': the column '{column}' holds {type(value).__name__} values; names or whole numbers are needed."
        )
    return str(value).strip()


CATALOG = Format(
    f"a catalog ({shortened(CATALOG_EXTENSIONS)})",
    lambda path: path.suffix.lower() in CATALOG_EXTENSIONS,
    _open_catalog,
    options=("file", "label", "root", "id", "ra", "dec", *FITS_OPTIONS, *PIECE_OPTIONS),
    columns=_other_columns,
)
