"""Tables in files: Parquet here, text by `text_tables`, what else astronomers keep them in by `astro_tables`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from astroformer.errors import UserError
from astroformer.images.formats.astro_tables import (
    ASTRO_EXTENSIONS,
    begins_as_fits,
    is_fits_table,
    open_astro_table,
)
from astroformer.images.formats.table import Table, unpacked_name
from astroformer.images.formats.text_tables import (
    CSV_EXTENSIONS,
    SPACED_EXTENSIONS,
    may_be_spaced,
    open_text_table,
)

TABLE_EXTENSIONS = frozenset({".parquet"}) | CSV_EXTENSIONS | ASTRO_EXTENSIONS | SPACED_EXTENSIONS


def is_table(path: Path) -> bool:
    """Whether a file is a table: by its name, and one in FITS, or in text of some kind, by what it holds too."""
    name = unpacked_name(path)
    if name.endswith(tuple(SPACED_EXTENSIONS)):
        return may_be_spaced(path)
    return name.endswith(tuple(TABLE_EXTENSIONS)) or is_fits_table(path)


def open_table(path: Path, which: str | None = None) -> Table:
    """The columns of a table.

    Args:
        path: of the file.
        which: of several tables in one file: its name, or its number from 1 on.

    Raises:
        UserError: the file is damaged or no table; it has several, or none that is called so.
    """
    name = unpacked_name(path)
    spaced = name.endswith(tuple(SPACED_EXTENSIONS))
    in_text = spaced or name.endswith(tuple(CSV_EXTENSIONS))
    if not (in_text or name.endswith(".parquet")) or (spaced and begins_as_fits(path)):
        return open_astro_table(path, which)
    if which is not None:
        raise UserError(f"'{path}' is one table; leave @table={which} out.")
    if in_text:
        return open_text_table(path, spaced=spaced)
    with _damage_of_parquet_is_said(path):
        return Table(path, list(_parquet(path).schema_arrow.names), lambda names: _read_parquet(path, names))


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
