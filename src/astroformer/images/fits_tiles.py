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
from typing import BinaryIO

import numpy as np

from astroformer.images.fits_headers import Hdu, Value
from astroformer.images.limits import Refused

_MOST_AS_DEFLATE_PACKS = 1032  # bytes that a byte in gzip may unpack to
_ALLOWED = 1 << 30  # bytes of all tiles that are unpacked without a look at them first
_AT_ONCE = 1 << 20
_RAW = ("GZIP_COMPRESSED_DATA", "UNCOMPRESSED_DATA")  # columns of tiles that the algorithm did not make smaller
_FORM = re.compile("([0-9]*)([A-Z]?)([A-Z]?)")
_BITS = dict(zip("XLBAIJEKDCPMQ", (1, 8, 8, 8, 16, 32, 32, 64, 64, 64, 64, 128, 128), strict=True))  # of a TFORM


def check_tiles(stream: BinaryIO, hdu: Hdu) -> None:
    """Raises `Refused` where a tile lies beyond the data, or is not of the size that the header says."""
    kind = hdu.text("ZCMPTYPE")
    places = {column: _places(stream, hdu, column) for column in ("COMPRESSED_DATA", *_RAW)}
    if kind.startswith("RICE") and _setting(hdu, "BYTEPIX", 4) not in (1, 2, 4):  # astropy would give what memory holds
        raise Refused(f"damaged ({hdu} says that its pixels have {_setting(hdu, 'BYTEPIX', 4)} bytes before RICE)")
    if kind in ("HCOMPRESS_1", "PLIO_1"):
        for row, (at, length) in places["COMPRESSED_DATA"].items():
            stream.seek(at)
            head = stream.read(min(length, 10)).ljust(10, b"\0")
            if kind == "HCOMPRESS_1":
                sides = [n for n in _shape_of(hdu, row) if n > 1]
                whole = head == b"\xdd\x99" + b"".join(n.to_bytes(4, "big") for n in sides)
            else:  # its third word, or the fourth and the fifth, say how many words it has
                words = struct.unpack(">5h", head)
                whole = (words[2] if words[2] > 0 else (words[4] << 15) + words[3]) <= length // 2
            if not whole:
                raise Refused(f"damaged ({hdu}: compressed tile {row} is not of the size that the header says)")
    in_gzip = [*places["GZIP_COMPRESSED_DATA"].items()]
    in_gzip += places["COMPRESSED_DATA"].items() if kind.startswith("GZIP") else ()
    if sum(length for _, (_, length) in in_gzip) * _MOST_AS_DEFLATE_PACKS > _ALLOWED:
        for row, (at, length) in in_gzip:
            stream.seek(at)
            _check_gzip(stream.read(length), 8 * math.prod(_shape_of(hdu, row)), f"{hdu}: compressed tile {row}")


def _setting(hdu: Hdu, name: str, default: Value) -> Value:
    """A setting of the algorithm, which headers keep as pairs of a name and a value."""
    numbers = [i for i in range(1, 1000) if f"ZNAME{i}" in hdu.cards and hdu.text(f"ZNAME{i}").upper() == name]
    return hdu.get(f"ZVAL{numbers[0]}") if numbers else default


def _check_gzip(data: bytes, most: int, named: str) -> None:
    unpacked = 0
    with contextlib.suppress(EOFError, OSError, zlib.error):  # which is said where it is unpacked
        packed = gzip.GzipFile(fileobj=io.BytesIO(data))
        while piece := packed.read(_AT_ONCE):
            unpacked += len(piece)
            if unpacked > most:
                raise Refused(f"damaged ({named} unpacks to more than the {most:,} bytes of its pixels)")


def _shape_of(hdu: Hdu, row: int) -> tuple[int, ...]:
    """The pixels of a tile, in the order of numpy. The tiles along the first axis of FITS lie side by side."""
    shape = []
    for i, n in enumerate(hdu.shape[::-1], 1):
        side = int(hdu.number_of(f"ZTILE{i}", n if i == 1 else 1))
        row, at = divmod(row, -(-n // side))
        shape.append(min(side, n - at * side))
    return tuple(shape[::-1])


def _places(stream: BinaryIO, hdu: Hdu, column: str) -> dict[int, tuple[int, int]]:
    """Where in the file the tiles of a column lie, and their lengths, in bytes, by their rows in the table."""
    width, rows = (int(hdu.number_of(f"NAXIS{i}", 0)) for i in (1, 2))
    before = 0
    for i in range(1, int(hdu.number_of("TFIELDS", 0)) + 1):
        repeat, letter, of = _FORM.match(hdu.text(f"TFORM{i}")).groups()  # type: ignore[union-attr]  # it matches all
        bits = int(repeat or 1) * _BITS.get(letter, 0)
        if hdu.text(f"TTYPE{i}") == column and letter in ("P", "Q") and of in _BITS:
            break
        before += -(-bits // 8)
    else:
        return {}
    number = np.dtype(">i4" if letter == "P" else ">i8")
    if before + 2 * number.itemsize > width:
        return {}
    stream.seek(hdu.data_at)
    table = np.frombuffer(stream.read(width * rows), np.uint8).reshape(rows, width)
    heap = int(hdu.number_of("THEAP", width * rows))
    found = {}
    for row, (count, offset) in enumerate(table[:, before : before + 2 * number.itemsize].copy().view(number).tolist()):
        length = -(-count * _BITS[of] // 8)
        if count and not (0 <= offset <= offset + length <= hdu.size - heap):
            raise Refused(f"damaged ({hdu}: compressed tile {row} lies beyond its data)")
        if count:
            found[row] = hdu.data_at + heap + offset, length
    return found
