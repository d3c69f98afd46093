"""VOTables, looked at before astropy reads them: what they would fetch, claim, or lose without a word."""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from xml.parsers import expat

from astroformer.errors import UserError

_BYTES = {"boolean": 1, "unsignedByte": 1, "char": 1, "short": 2, "unicodeChar": 2, "int": 4, "float": 4}
_BYTES |= {"long": 8, "double": 8, "floatComplex": 8, "doubleComplex": 16}
# Warnings of astropy where a value is cut, clipped or left out, or where there are other rows than the table says.
_LOSSES = frozenset({"W18", "W30", "W46", "W51", "W55"})
_MISSING = re.compile(r"float '(null|none|nan|n/?a|masked|-*|\.*)'", re.IGNORECASE)  # words for a missing number
_PLACE = re.compile(r"^[^:]*:(\d+):\d+: [WE]\d+: ")  # how astropy says it


class _Size:
    """Bytes of the values of a column in a row: so many, or 4 and so many times what these 4 say."""

    def __init__(self, datatype: str, arraysize: str) -> None:
        *sides, last = arraysize.split("x") if arraysize else ["1"]
        self.varies = last.endswith("*")
        numbers = [int(n) for n in ([*sides] if self.varies else [*sides, last])]
        values = math.prod(numbers)
        self.bytes = -(-values // 8) if datatype == "bit" and not self.varies else values * _BYTES[datatype]


def check_votable(path: Path) -> None:
    """Looks through a VOTable.

    The parser sees what a search for words does not: other encodings, and values that a DTD gives.

    Raises:
        UserError: its rows are to be fetched from elsewhere, and reading a file never goes to the network; it claims
            more rows than its file has bytes, and room would be made for all of them; or its binary rows end within
            one.
        ExpatError: it is no XML.
    """
    size = path.stat().st_size
    columns: list[tuple[str, str]] = []
    inside = ""  # BINARY or BINARY2
    stream: list[str] = []
    parser = expat.ParserCreate()
    parser.buffer_text = True

    def begin(name: str, values: dict[str, str]) -> None:
        nonlocal inside
        name = name.rpartition(":")[2]
        if name == "TABLE":
            columns.clear()
            if (rows := values.get("nrows", "").strip()).isdecimal() and int(rows[:20]) > size:
                raise UserError(f"'{path}' claims {rows[:20]} rows and has {size:,} bytes: it is damaged.")
        elif name == "FIELD":
            columns.append((values.get("datatype", ""), values.get("arraysize", "")))
        elif name in ("BINARY", "BINARY2"):
            inside = name
        elif name == "STREAM":
            if "href" in values:
                raise UserError(
                    f"'{path}' holds no rows: they lie elsewhere (STREAM href). Save the table with its rows in it."
                )
            stream.clear()
            parser.CharacterDataHandler = stream.append if inside else None

    def end(name: str) -> None:
        nonlocal inside
        name = name.rpartition(":")[2]
        if name == "STREAM" and inside:
            parser.CharacterDataHandler = None
            if not _is_whole("".join(stream), columns, masked=inside == "BINARY2"):
                raise UserError(f"'{path}' is damaged: its data are no base64, or end in the middle of a row.")
        elif name == inside:
            inside = ""

    parser.StartElementHandler = begin
    parser.EndElementHandler = end
    with path.open("rb") as file:
        parser.ParseFile(file)


def _is_whole(text: str, columns: Sequence[tuple[str, str]], masked: bool) -> bool:
    """Whether data in base64 end where a row does; true where their columns are of no kind that is known here."""
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return False
    try:
        sizes = [_Size(*column) for column in columns]
    except (ValueError, KeyError):
        return True
    mask = -(-len(sizes) // 8) if masked else 0
    if not any(size.varies for size in sizes):
        row = mask + sum(size.bytes for size in sizes)
        return row == 0 or len(data) % row == 0
    at = 0
    while at < len(data):
        at += mask
        for size in sizes:
            at += 4 + int.from_bytes(data[at : at + 4], "big") * size.bytes if size.varies else size.bytes
    return at == len(data)


def losses(warnings: Iterable[Any]) -> list[str]:
    """What astropy warned of, of which values would be lost or changed."""
    found = [" ".join(str(warning.message).split()) for warning in warnings if warning.category.__name__ in _LOSSES]
    return [_PLACE.sub(r"line \1: ", text).rstrip(".") for text in found if not _MISSING.search(text)]
