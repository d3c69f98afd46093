"""The tiles of compressed FITS images, looked at before they are unpacked.

What unpacks them believes what they say of themselves. A tile in gzip may unpack to a thousand times its size; one in
HCOMPRESS of another size is written over other memory, and one in PLIO is read on behind its end.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import math
import re
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

from astroformer.images.fits_headers import Hdu
from astroformer.images.limits import Refused

_MOST_AS_DEFLATE_PACKS = 1032  # bytes that a byte in gzip may unpack to
_ALLOWED = 1 << 30  # bytes of all tiles that are unpacked without a look at them first
_AT_ONCE = 1 << 20
_FORM = re.compile("([0-9]*)([A-Z]?)([A-Z]?)")
_BITS = {
    "L": 8,
    "X": 1,
    "B": 8,
    "A": 8,
    "I": 16,
    "J": 32,
    "K": 64,
    "E": 32,
    "D": 64,
    "C": 64,
    "M": 128,
    "P": 64,
    "Q": 128,
}


def check_tiles(stream: BinaryIO, hdu: Hdu) -> None:
    """Raises `Refused` where a tile is not of the size that the header says."""
    kind = hdu.text("ZCMPTYPE")
    tiles = list(_tiles(stream, hdu, "COMPRESSED_DATA")) if kind in ("HCOMPRESS_1", "PLIO_1") else []
    for tile in tiles:
        stream.seek(tile.at)
        head = stream.read(min(tile.length, 10)).ljust(10, b"\0")
        if kind == "HCOMPRESS_1":
            sides = [n for n in _shape_of(hdu, tile.row) if n > 1]
            whole = head == b"\xdd\x99" + b"".join(n.to_bytes(4, "big") for n in sides)
        else:  # its third word, or the fourth and the fifth, say how many words it has
            words = struct.unpack(">5h", head)
            whole = (words[2] if words[2] > 0 else (words[4] << 15) + words[3]) <= tile.length // 2
        if not whole:
            raise Refused(f"damaged ({hdu}: compressed tile {tile.row} is not of the size that the header says)")
    _check_gzip(stream, hdu, kind.startswith("GZIP"))


def _check_gzip(stream: BinaryIO, hdu: Hdu, all_tiles: bool) -> None:
    columns = ["GZIP_COMPRESSED_DATA"] + ["COMPRESSED_DATA"] * all_tiles
    tiles = [tile for column in columns for tile in _tiles(stream, hdu, column)]
    if sum(tile.length for tile in tiles) * _MOST_AS_DEFLATE_PACKS <= _ALLOWED:
        return
    for tile in tiles:
        most = 8 * math.prod(_shape_of(hdu, tile.row))
        stream.seek(tile.at)
        unpacked = 0
        with contextlib.suppress(EOFError, OSError, zlib.error):  # which is said where it is unpacked
            packed = gzip.GzipFile(fileobj=io.BytesIO(stream.read(tile.length)))
            while piece := packed.read(_AT_ONCE):
                unpacked += len(piece)
                if unpacked > most:
                    raise Refused(f"damaged ({hdu}: a tile unpacks to more than the {most:,} bytes of its pixels)")


def _shape_of(hdu: Hdu, row: int) -> tuple[int, ...]:
    """The pixels of a tile, in the order of numpy. The tiles along the first axis of FITS lie side by side."""
    shape = []
    for i, n in enumerate(hdu.shape[::-1], 1):
        side = int(hdu.number_of(f"ZTILE{i}", n if i == 1 else 1))
        row, at = divmod(row, -(-n // side))
        shape.append(min(side, n - at * side))
    return tuple(shape[::-1])


class _Tile(NamedTuple):
    """The row of a tile in its table, and where in the file it lies, in bytes."""

    row: int
    at: int
    length: int


def _tiles(stream: BinaryIO, hdu: Hdu, column: str) -> Iterator[_Tile]:
    """The tiles that a column of the table has."""
    width, rows = (int(hdu.number_of(f"NAXIS{i}", 0)) for i in (1, 2))
    before = 0
    for i in range(1, int(hdu.number_of("TFIELDS", 0)) + 1):
        repeat, letter, of = _FORM.match(hdu.text(f"TFORM{i}")).groups()  # type: ignore[union-attr]  # it matches all
        bits = int(repeat or 1) * _BITS.get(letter, 0)
        if hdu.text(f"TTYPE{i}") == column and letter in ("P", "Q") and of in _BITS:
            break
        before += -(-bits // 8)
    else:
        return
    number = np.dtype(">i4" if letter == "P" else ">i8")
    if before + 2 * number.itemsize > width:
        return
    stream.seek(hdu.data_at)
    table = np.frombuffer(stream.read(width * rows), np.uint8).reshape(rows, width)
    pairs = table[:, before : before + 2 * number.itemsize].copy().view(number)
    heap = hdu.data_at + int(hdu.number_of("THEAP", width * rows))
    for row, (length, offset) in enumerate(pairs.tolist()):
        if length > 0 and offset >= 0:
            yield _Tile(row, heap + offset, min(length * _BITS[of] // 8, hdu.size))
