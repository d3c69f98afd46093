"""Tables as astronomers keep them: FITS tables, VOTable and ECSV, read by astropy (extra `[astro]`)."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import itertools
import os
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from astroformer.errors import UserError, check_installed, unknown_name
from astroformer.images.fits import FITS_START, unpacked
from astroformer.images.fits_headers import check_sums, next_header, read_headers
from astroformer.images.formats.table import Table, unpacked_name
from astroformer.images.formats.votables import check_votable, losses
from astroformer.images.limits import Refused, why_never_read

ASTRO_EXTENSIONS = frozenset({".ecsv", ".vot", ".votable", ".xml"})
_MOST_WARNINGS = 10_000  # of one kind that are looked at
_MOST_YAML = 1_000_000  # letters: ten seconds
_FITS_EXTENSIONS = (".fits", ".fit", ".fts")  # which are images most often


def is_fits_table(path: Path) -> bool:
    """Whether a file is a FITS table: without an image before its first extension, which is a table and no compressed
    image. astropy is not needed to see that."""
    name = path.name.lower().removesuffix(".gz")
    if not name.endswith(_FITS_EXTENSIONS):
        return False
    try:
        if not path.is_file():
            return False
        opened = gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")  # noqa: SIM115
        with opened as file:
            first = next_header(file, None)  # type: ignore[arg-type]
            if first is None or first.get("NAXIS") != 0:  # what lies behind an image may be far away
                return False
            second = next_header(file, first)  # type: ignore[arg-type]
        return second is not None and second.get("XTENSION") in ("BINTABLE", "TABLE") and not second.compressed
    except (OSError, EOFError, zlib.error, Refused):
        return False


def begins_as_fits(path: Path) -> bool:
    """Whether a file begins as FITS does, as the catalogs of SExtractor may."""
    with path.open("rb") as file:
        return file.read(len(FITS_START)) == FITS_START


def open_astro_table(path: Path, which: str | None) -> Table:
    """The columns of a table in FITS, VOTable or ECSV.

    Args:
        path: of the file.
        which: of several tables in one file: its name, or its number from 1 on.

    Raises:
        UserError: astropy is not there; the file is damaged or no such table; it has several, or none that is called
            so.
    """
    suffix = Path(unpacked_name(path)).suffix
    kind = "an ECSV table" if suffix == ".ecsv" else "a VOTable" if suffix in ASTRO_EXTENSIONS else "a FITS table"
    check_installed("astropy", "astro", f"'{path}', {kind},")
    with damage_is_said(path, kind):
        if suffix in ASTRO_EXTENSIONS:
            _check_not_packed(path)
        if suffix == ".ecsv":
            if which is not None:
                raise UserError(f"'{path}' is one table; leave @table={which} out.")
            names, columns = _read_ecsv(path)
        elif suffix in ASTRO_EXTENSIONS:
            names, columns = _read_votable(path, which)
        else:
            names, columns = _read_fits(path, which)
    several = frozenset(name for name, column in zip(names, columns, strict=True) if _has_several(column))
    units = units_of(names, columns)
    return Table(path, names, lambda wanted: column_values(path, kind, names, columns, wanted), several, units)


def units_of(names: Sequence[str], columns: Sequence[Any]) -> dict[str, str]:
    """The units of the columns of a table of astropy that have some, by name."""
    return {name: str(column.unit) for name, column in zip(names, columns, strict=True) if getattr(column, "unit", "")}


def _read_fits(path: Path, which: str | None) -> tuple[list[str], list[Any]]:
    from astropy.io import fits
    from astropy.table import Table as AstropyTable

    with contextlib.ExitStack() as stack:
        stream = _stream(path, stack)
        hdus = read_headers(stream, stream.seek(0, os.SEEK_END))
        stream.seek(0)
        source = stream if isinstance(stream, io.BytesIO) else path  # of which astropy maps what it needs
        file = stack.enter_context(fits.open(source, character_as_bytes=False))
        tables = {
            number: hdu
            for number, hdu in enumerate(file)
            if isinstance(hdu, fits.BinTableHDU | fits.TableHDU) and not isinstance(hdu, fits.CompImageHDU)
        }
        called = {number: hdu.name for number, hdu in tables.items()}
        number = _chosen(path, called, which)
        for of_file in (hdus[0], hdus[number]):
            check_sums(stream, of_file)
        hdu = tables[number]
        names = [str(hdu.header.get(f"TTYPE{k}", f"column {k}")) for k in range(1, hdu.header["TFIELDS"] + 1)]
        for name in names:
            if names.count(name) > 1:  # which astropy can't read
                raise UserError(f"'{path}': the column '{name}' occurs twice; rename one of the two.")
        table = AstropyTable.read(hdu)
        table.convert_bytestring_to_unicode()
        return names, list(table.itercols())


def _stream(path: Path, stack: contextlib.ExitStack) -> BinaryIO:
    """The bytes of a FITS file, unpacked if it is packed."""
    stream = stack.enter_context(path.open("rb"))
    if path.suffix.lower() != ".gz":
        return stream
    if (why := why_never_read(os.fstat(stream.fileno()))) is not None:
        raise Refused(why)
    return io.BytesIO(unpacked(stream.read(), stack, advice="unpack it"))


def _read_votable(path: Path, which: str | None) -> tuple[list[str], list[Any]]:
    from astropy.io import votable

    check_votable(path)
    with votable.exceptions.conf.set_temp("max_warnings", _MOST_WARNINGS):
        found = dict(enumerate(votable.parse(path, verify="warn").iter_tables(), start=1))
    called = {number: table.name or table.ID or "" for number, table in found.items()}
    table = found[_chosen(path, called, which)]
    return [field.name or field.ID for field in table.fields], list(table.to_table().itercols())


def _check_not_packed(path: Path) -> None:
    """Raises `UserError` for a file that astropy would unpack, however much that gives."""
    with path.open("rb") as file:
        start = file.read(6)
    if start.startswith((b"\x1f\x8b", b"\x1f\x9d", b"BZh", b"\xfd7zXZ\0", b"PK\3\4")):
        raise UserError(f"'{path}' is packed; unpack it.")


def _read_ecsv(path: Path) -> tuple[list[str], list[Any]]:
    from astropy.table import Table as AstropyTable

    with path.open(encoding="utf-8", newline="") as file:
        check_ecsv(path, file)
    table = AstropyTable.read(path, format="ascii.ecsv")
    # Of columns of one name astropy renames all but the first. Which names there were stands in the file.
    with path.open(encoding="utf-8", newline="") as file:
        lines = (line for line in file if line.strip() and not line.startswith("#"))
        header = next(lines, "")
    spaced, comma = (next(csv.reader([header], delimiter=mark), []) for mark in " ,")
    names = spaced if len(spaced) == len(table.colnames) else comma
    return names if len(names) == len(table.colnames) else list(table.colnames), list(table.itercols())


def check_ecsv(path: Path, lines: Iterable[str]) -> None:
    """Raises `UserError` where the description of an ECSV table is very long: it is YAML, which is read slowly."""
    size = 0
    for line in itertools.takewhile(lambda line: line.startswith("#"), lines):
        size += len(line)
        if size > _MOST_YAML:
            raise UserError(f"'{path}' describes its columns in more than {_MOST_YAML:,} letters; it is damaged.")


def _chosen(path: Path, called: Mapping[int, str], which: str | None) -> int:
    """The number of the table that is meant."""
    listed = [f"{number} ({name})" if name else str(number) for number, name in called.items()]
    if not called:
        raise UserError(f"'{path}' holds no table.")
    if which is None:
        if len(called) > 1:
            raise UserError(f"'{path}' holds {len(called)} tables: {', '.join(listed)}. Say which with @table=NAME.")
        return next(iter(called))
    found = [number for number, name in called.items() if which in (str(number), name)]
    if len(found) != 1:
        raise unknown_name(f"table in '{path}'", which, [name or str(number) for number, name in called.items()])
    return found[0]


def _has_several(column: Any) -> bool:
    """Whether a column holds several values a row, of one number or of any."""
    if getattr(column, "dtype", None) is None or column.dtype.kind != "O":
        return getattr(column, "ndim", 1) > 1
    return column.ndim > 1 or any(isinstance(value, np.ndarray | list | tuple | dict) for value in column)


def column_values(
    path: Path, kind: str, names: Sequence[str], columns: Sequence[Any], wanted: Sequence[str]
) -> dict[str, list[Any]]:
    """The values of columns of a table of astropy, as `Table.read` gives them.

    Raises:
        UserError: a column holds other values than names and numbers.
    """
    found: dict[str, list[Any]] = {}
    for name in wanted:
        column = columns[names.index(name)]
        if getattr(column, "dtype", None) is None or not hasattr(column, "tolist"):
            raise UserError(
                f"'{path}': the column '{name}' holds {type(column).__name__} values; names or numbers are needed."
            )
        with damage_is_said(path, kind):
            found[name] = [_decoded(value) for value in column.tolist()]
    return found


def _decoded(value: Any) -> Any:
    text = value.decode("utf-8") if isinstance(value, bytes) else value
    return (text.strip() or None) if isinstance(text, str) else text


@contextlib.contextmanager
def damage_is_said(path: Path, kind: str) -> Iterator[None]:
    """Whatever astropy raises on a damaged file becomes a sentence; it knows no family of errors for that."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        except UserError:
            raise
        except Refused as error:
            raise UserError(f"'{path}': {error}.") from None
        except (FileNotFoundError, PermissionError, IsADirectoryError):
            raise
        except MemoryError:
            raise UserError(f"'{path}' takes more memory than there is; it is very large, or damaged.") from None
        except Exception as error:
            why = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"'{path}' is not {kind} or is damaged ({why}).") from None
    if lost := losses(caught):
        raise UserError(f"'{path}' has values that would be read as others ({lost[0]}). Mend them.")
    for warning in caught:
        if "truncated" in str(warning.message):
            raise UserError(f"'{path}' is damaged ({' '.join(str(warning.message).split())}).")
