"""Tables in text: CSV and TSV here, columns between spaces and what programs of astronomers write by astropy."""

from __future__ import annotations

import bz2
import contextlib
import csv
import gzip
import io
import itertools
import lzma
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from astroformer.errors import UserError, check_installed
from astroformer.images.formats.astro_tables import check_ecsv, column_values, damage_is_said, units_of
from astroformer.images.formats.table import PACKED, Table
from astroformer.images.limits import MAX_BYTES

CSV_EXTENSIONS = frozenset({".csv", ".tsv"})
SPACED_EXTENSIONS = frozenset({".dat", ".txt", ".cat", ".tbl", ".mrt"})
"""Extensions of text tables of many kinds, which their content tells apart."""

_AT_ONCE = 1 << 22  # bytes
_NAMED = 8  # columns that a sentence names
_NOT_MUCH = 1 << 24  # bytes that a packed file may always unpack to
_MOST_PACKED = 100  # times that text may be smaller when it is packed, if it is more
_LOOKED_AT = 1 << 16  # bytes of a file that may be a table
# Formats of astropy, and what a sentence calls them.
_KINDS = {
    "basic": "a table with spaces between its columns",
    "commented_header": "a table with spaces between its columns, whose header is a comment",
    "sextractor": "a SExtractor catalog",
    "ipac": "an IPAC table",
    "mrt": "a machine-readable table of the AAS or CDS",
    "ecsv": "an ECSV table",
}
_HEADER_LINES = 200  # that may stand before the columns of a table are described
_TYPED = ("ipac", "mrt", "ecsv")  # they say the types of their columns


def may_be_spaced(path: Path) -> bool:
    """Whether a file of one of the `SPACED_EXTENSIONS` begins as a table of several columns does."""
    try:
        if not path.is_file():
            return False
        start = _bytes(path, _LOOKED_AT).decode("utf-8-sig", "replace")
    except (UserError, OSError):
        return False
    lines = _lines(start)
    if _kind(lines) not in ("basic", "commented_header"):
        return True
    first = next((line for line in lines if not line.startswith("#")), "")
    return len(first.split()) > 1


def open_text_table(path: Path, *, spaced: bool) -> Table:
    """The columns of a table in text; all values are text but for the kinds that say their types.

    Args:
        path: of the file.
        spaced: whether it may be of another kind than CSV and TSV.

    Raises:
        UserError: it is damaged or no such table, or astropy is needed and missing.
    """
    if spaced and (kind := _kind(_lines(_text(path)))) is not None:
        return _by_astropy(path, kind)
    with _begun(path) as begun:
        return Table(
            path, begun.header, lambda names: _read_csv(path, names), units=begun.units, notes=tuple(begun.notes)
        )


# CSV and TSV ------------------------------------------------------------------------------------------------


class _Begun(NamedTuple):
    """A table of which the header is read.

    Attributes:
        header: the names of the columns.
        rows: that follow.
        units: of columns, by name.
        notes: what was taken for no row.
    """

    header: list[str]
    rows: Iterator[list[str]]
    units: dict[str, str]
    notes: list[str]


def _read_csv(path: Path, wanted: Sequence[str]) -> dict[str, list[Any]]:
    with _begun(path) as (header, rows, _, _):
        columns: dict[str, list[Any]] = {name: [] for name in wanted}
        places = [(columns[name], header.index(name)) for name in wanted]
        for number, row in enumerate(rows, start=1):
            if len(row) != len(header):
                raise UserError(
                    f"'{path}': row {number} has {len(row)} values, the header {len(header)}. Mend the row."
                )
            for values, place in places:
                values.append(row[place].strip() or None)
    return columns


@contextlib.contextmanager
def _begun(path: Path) -> Iterator[_Begun]:
    """A table in CSV or TSV, without comments before it and rows of units and dashes under its header (VizieR)."""
    try:
        packed = path.suffix.lower() in PACKED
        opened = io.StringIO(_text(path), newline="") if packed else path.open(encoding="utf-8-sig", newline="")
        with opened as file:
            lines: Iterator[str] = (line for line in file if line.strip())
            comments = list[str]()
            header = next(lines, "")
            while header.startswith("#"):
                comments.append(header)
                header = next(lines, "")
            if comments and _are_rows([*comments, header]):  # the first has the names, of which one is written so
                lines, header, comments = itertools.chain([*comments[1:], header], lines), comments[0], []
            mark = _delimiter(header)
            notes = list[str]()
            if comments:
                notes.append(f"'{path}': lines that begin with # are comments, {len(comments):,} before the header")
                lines = (line for line in lines if not line.startswith("#"))
            lines, names = iter(lines), _cells(header, mark)
            first = list(itertools.islice(lines, 2))
            dashed = next((i for i, line in enumerate(first) if _is_dashed(_cells(line, mark), len(names))), None)
            units = dict[str, str]()
            if dashed is not None:
                if dashed:
                    units = {name: unit.strip() for name, unit in zip(names, _cells(first[0], mark), strict=False)}
                notes.append(f"'{path}': below the header {'units and ' if dashed else ''}dashes, which are no rows")
                first = first[dashed + 1 :]
            rows = csv.reader(itertools.chain([header], first, lines), delimiter=mark, strict=True)
            yield _Begun(next(rows, []), (row for row in rows if row), units, notes)
    except UnicodeDecodeError:
        raise UserError(f"'{path}' is not UTF-8 text; save it as UTF-8.") from None
    except csv.Error as error:
        raise UserError(f"'{path}' is not read as a table: {error}.") from None


def _delimiter(header: str) -> str:
    """What parts the columns of a table: comma, semicolon or tab, whichever makes the most columns of its header."""
    return max(",;\t", key=lambda mark: len(_cells(header, mark)))


def _are_rows(lines: Sequence[str]) -> bool:
    """Whether all lines have as many columns, of more than one."""
    mark = _delimiter(lines[0])
    counts = {len(_cells(line, mark)) for line in lines}
    return len(counts) == 1 and min(counts) > 1


def _cells(line: str, mark: str) -> list[str]:
    return next(csv.reader([line], delimiter=mark), [])


def _is_dashed(cells: Sequence[str], columns: int) -> bool:
    """Whether these are the dashes that VizieR puts between the names of columns and the rows."""
    bare = [cell.strip() for cell in cells]
    return len(bare) == columns and all(cell and not cell.strip("-") for cell in bare) and max(map(len, bare)) > 1


# What astropy reads -----------------------------------------------------------------------------------------


def _kind(lines: Sequence[str]) -> str | None:
    """The format of astropy that a text is in, None for CSV and TSV."""
    comments = list(itertools.takewhile(lambda line: line.startswith("#"), lines))
    rest = lines[len(comments) :]
    first = rest[0] if rest else ""
    if lines and re.match(r"#\s*%ECSV", lines[0]):
        return "ecsv"
    if any(line.startswith("Byte-by-byte Description") for line in lines[:_HEADER_LINES]):
        return "mrt"
    if first.startswith(("|", "\\")):
        return "ipac"
    if comments and all(re.match(r"#\s*[0-9]+\s+[A-Za-z]\w*", line) for line in comments):
        return "sextractor"
    if re.search(r"[,;\t]", first):
        return None
    names = comments[-1].lstrip("#").split() if comments else []
    return "commented_header" if len(names) > 1 and len(names) == len(first.split()) else "basic"


def _by_astropy(path: Path, kind: str) -> Table:
    check_installed("astropy", "astro", f"'{path}', {_KINDS[kind]},")
    with damage_is_said(path, _KINDS[kind]):
        from astropy.io import ascii as text_formats

        lines = _lines(_text(path))
        if kind == "ecsv":
            check_ecsv(path, lines)
        words: dict[str, Any] = {} if kind in _TYPED else {"converters": {"*": [text_formats.convert_numpy(str)]}}
        if kind == "commented_header":
            words["header_start"] = len(list(itertools.takewhile(lambda line: line.startswith("#"), lines))) - 1
        table = text_formats.read(lines, format=kind, guess=False, **words)
        columns = list(table.itercols())
    names = list(table.colnames)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    note = f"'{path}' is read as {_KINDS[kind]}: columns {', '.join(names[:_NAMED])}{more}"
    return Table(
        path,
        names,
        lambda wanted: column_values(path, _KINDS[kind], names, columns, wanted),
        units=units_of(names, columns),
        notes=(note,),
    )


# Bytes and lines --------------------------------------------------------------------------------------------


def _bytes(path: Path, most: int | None = None) -> bytes:
    """The bytes of a file, unpacked, or the first of them. Raises `UserError` where a packed one is damaged or holds
    too much."""
    opener: Any = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}.get(path.suffix.lower(), open)
    found = io.BytesIO()
    # Lines of a letter take a hundred times their bytes as rows, and pack to a thousandth.
    most_unpacked = min(MAX_BYTES, max(_NOT_MUCH, _MOST_PACKED * path.stat().st_size))
    try:
        with opener(path, "rb") as stream:
            while piece := stream.read(_AT_ONCE if most is None else most - found.tell()):
                found.write(piece)
                if opener is not open and found.tell() > most_unpacked:
                    raise UserError(f"'{path}' unpacks to more than {most_unpacked:,} bytes; unpack it.")
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk
            raise
        raise UserError(f"'{path}' is no packed file or is damaged ({error}).") from None
    return found.getvalue()


def _text(path: Path) -> str:
    try:
        return _bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"'{path}' is not UTF-8 text; save it as UTF-8.") from None


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]
