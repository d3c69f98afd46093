"""Tables in files: CSV, TSV and Parquet here, what astronomers keep them in by `astro_tables`."""

from __future__ import annotations

import contextlib
import csv
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from astroformer.errors import UserError
from astroformer.images.formats.astro_tables import ASTRO_EXTENSIONS, is_fits_table, open_astro_table
from astroformer.images.formats.table import Table

TABLE_EXTENSIONS = frozenset({".csv", ".tsv", ".parquet"}) | ASTRO_EXTENSIONS


def is_table(path: Path) -> bool:
    """Whether a file is a table: by its name, and one in FITS by what it holds too."""
    return path.suffix.lower() in TABLE_EXTENSIONS or is_fits_table(path)


def open_table(path: Path, which: str | None = None) -> Table:
    """The columns of a table.

    Args:
        path: of the file.
        which: of several tables in one file: its name, or its number from 1 on.

    Raises:
        UserError: the file is damaged or no table; it has several, or none that is called so.
    """
    suffix = path.suffix.lower()
    if suffix in ASTRO_EXTENSIONS or suffix not in TABLE_EXTENSIONS:
        return open_astro_table(path, which)
    if which is not None:
        raise UserError(f"'{path}' is one table; leave @table={which} out.")
    if suffix == ".parquet":
        with _damage_of_parquet_is_said(path):
            return Table(path, list(_parquet(path).schema_arrow.names), lambda names: _read_parquet(path, names))
    return Table(path, next(iter(_csv_rows(path)), []), lambda names: _read_csv(path, names))


# CSV and TSV ------------------------------------------------------------------------------------------------


def _read_csv(path: Path, wanted: Sequence[str]) -> dict[str, list[Any]]:
    rows = iter(_csv_rows(path))
    header = next(rows)
    columns: dict[str, list[Any]] = {name: [] for name in wanted}
    places = [(columns[name], header.index(name)) for name in wanted]
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise UserError(f"'{path}': row {number} has {len(row)} values, the header {len(header)}. Mend the row.")
        for values, place in places:
            values.append(row[place].strip() or None)
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


# Parquet ----------------------------------------------------------------------------------------------------


def _read_parquet(path: Path, wanted: Sequence[str]) -> dict[str, list[Any]]:
    with _damage_of_parquet_is_said(path):
        found: dict[str, list[Any]] = _parquet(path).read(columns=list(wanted)).to_pydict()
    return {name: found[name] for name in wanted}


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
