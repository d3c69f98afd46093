"""What lies in a FITS file, by its headers alone (FITS standard 4.0).

astropy knows more of headers, and takes many times as long to open a small file. A folder of cutouts is read file by
file, so that is what decides how long it takes. Compressed pixels and WCS are left to astropy.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import BinaryIO

import numpy as np

from astroformer.images.limits import Array, Refused

BLOCK = 2880  # bytes, of which headers and data are whole numbers
_CARD = 80
_MOST_BLOCKS = 4096  # of one header: 12 MB
_MOST_BYTES = 64_000_000  # of all headers of a file
_MOST_HDUS = 1000
_TYPES = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}  # by BITPIX
_WHOLE = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([EDed][+-]?[0-9]+)?")
_TEXT = re.compile(r"'((?:[^']|'')*)'")

Value = str | int | float | bool | None


@dataclass(frozen=True, eq=False)
class Hdu:
    """One header of a FITS file and where its data lie.

    Attributes:
        number: from 0, that of the primary one.
        cards: the values as the header has them, by keyword.
        header_at, data_at: where header and data begin, in bytes.
        size: of the data in bytes, without what fills the last block.
        unclear: keywords that are there twice, with different values.
    """

    number: int
    cards: Mapping[str, bytes]
    header_at: int
    data_at: int
    size: int
    unclear: frozenset[str] = frozenset()

    def get(self, keyword: str) -> Value:
        """The value of a keyword; None where there is none, or none that can be understood.

        Raises:
            Refused: it is there twice, with different values.
        """
        raw = self.cards.get(keyword)
        if keyword in self.unclear:
            raise Refused(f"damaged (the header of HDU {self.number} says {keyword} twice, and differently)")
        return None if raw is None else _value_of(raw)

    def text(self, *keywords: str) -> str:
        """The first of these keywords that is a text with letters in it; empty if none is."""
        for keyword in keywords:
            value = self.get(keyword)
            if isinstance(value, str) and value.strip():
                return value.strip()
        return ""

    def number_of(self, keyword: str, default: float) -> float:
        """The finite number of a keyword, or the default where it is not there. Raises `Refused` for anything else."""
        if keyword not in self.cards:
            return default
        value = self.get(keyword)
        if isinstance(value, str | bool) or value is None or not math.isfinite(value):
            raise Refused(f"damaged ({self} says {keyword} = {self.cards[keyword].decode('latin-1').strip()[:30]})")
        return value

    @property
    def end(self) -> int:
        """Where its data end, with what fills the last block."""
        return self.data_at + -(-self.size // BLOCK) * BLOCK

    @functools.cached_property
    def name(self) -> str:
        """EXTNAME, or what LSST's pipelines write in its place."""
        return self.text("EXTNAME", "EXTTYPE")

    @functools.cached_property
    def compressed(self) -> bool:
        """Whether its data are an image in compressed tiles (fpack)."""
        return self.get("XTENSION") == "BINTABLE" and self.get("ZIMAGE") is True

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """The axes of an image in the order of numpy, rows and columns last; empty for what is no image."""
        if self.compressed:
            axes = _axes(self, "ZNAXIS")
            _check_tiles(self, axes)
            return axes[::-1]
        is_image = self.number == 0 or self.get("XTENSION") == "IMAGE"
        return _axes(self, "NAXIS")[::-1] if is_image and self.get("GROUPS") is not True else ()

    @property
    def is_image(self) -> bool:
        """Whether it holds pixels in rows and columns."""
        shape = self.shape
        return len(shape) >= 2 and 0 not in shape

    @property
    def stored(self) -> np.dtype[np.generic]:
        """The type of the pixels as they lie in the file, or as they were before they were compressed."""
        return np.dtype(_TYPES[_integer(self, "ZBITPIX" if self.compressed else "BITPIX", _TYPES)])

    def __str__(self) -> str:
        return f"HDU {self.number}" + (f" '{self.name}'" if self.name else "")


def _value_of(raw: bytes) -> Value:
    """The value behind `KEYWORD = `, without its comment; None for what can't be understood."""
    text = raw.decode("latin-1").strip()
    if text.startswith("'"):
        quoted = _TEXT.match(text)
        return None if quoted is None else quoted[1].replace("''", "'").rstrip()
    text = text.split("/", 1)[0].strip()
    if text in ("T", "F"):
        return text == "T"
    if _WHOLE.fullmatch(text):
        return int(text)
    return float(text.upper().replace("D", "E")) if _NUMBER.fullmatch(text) else None


def read_headers(stream: BinaryIO, length: int) -> list[Hdu]:
    """All headers of a FITS file of so many bytes.

    Raises:
        Refused: it is none, or is damaged; or it is cut off, so that data are missing.
    """
    found: list[Hdu] = []
    size = 0
    while (found[-1].end if found else 0) < length:
        hdu = next_header(stream, found[-1] if found else None)
        if hdu is None:
            break
        size += hdu.data_at - hdu.header_at
        if len(found) == _MOST_HDUS or size > _MOST_BYTES:
            raise Refused(f"it has more than {_MOST_HDUS:,} parts, or headers of more than {_MOST_BYTES:,} bytes")
        if hdu.data_at + hdu.size > length:
            raise Refused(
                f"{hdu} claims {hdu.size:,} bytes of data, and {max(0, length - hdu.data_at):,} are there: the file "
                "is cut off, or its header is wrong"
            )
        found.append(hdu)
    return found


def next_header(stream: BinaryIO, behind: Hdu | None) -> Hdu | None:
    """The header behind another one's data, or the first one; None where nothing but filling follows.

    Raises:
        Refused: it is none, or is damaged.
    """
    at, number = (0, 0) if behind is None else (behind.end, behind.number + 1)
    stream.seek(at)
    block = stream.read(BLOCK)
    if behind is not None and not block.strip(b"\0 "):
        return None  # some programs fill a file up
    if not block.startswith(b"SIMPLE  =" if behind is None else b"XTENSION="):
        where = "it begins otherwise" if behind is None else f"behind {behind} something else than an extension follows"
        raise Refused(f"damaged FITS ({where})")
    header = bytearray(block)
    while (end := _end_of(header, len(header) - len(block))) is None:
        block = stream.read(BLOCK)
        if len(block) < _CARD or len(header) >= _MOST_BLOCKS * BLOCK:
            raise Refused(f"damaged FITS (the header of HDU {number} has no END, or is cut off)")
        header += block
    cards, unclear = _cards(bytes(header[:end]))
    hdu = Hdu(number, cards, at, at + -(-end // BLOCK) * BLOCK, 0, unclear)
    return replace(hdu, size=_size_of(hdu))


def raw_pixels(data: bytes | bytearray | memoryview, hdu: Hdu) -> Array:
    """The pixels of an image that is not compressed as they lie in the file's bytes, without a copy."""
    count = math.prod(hdu.shape)
    return np.frombuffer(data, hdu.stored, count, hdu.data_at).reshape(hdu.shape)


def check_sums(stream: BinaryIO, hdu: Hdu) -> None:
    """Raises `Refused` where an HDU is not what its CHECKSUM or DATASUM says (FITS standard 4.0, 4.4.2.7)."""
    said = {keyword: hdu.get(keyword) for keyword in ("DATASUM", "CHECKSUM") if keyword in hdu.cards}
    datasum, checksum = (str(said.get(keyword, "")).strip() for keyword in ("DATASUM", "CHECKSUM"))
    if (datasum and not datasum.isdecimal()) or not isinstance(said.get("CHECKSUM", ""), str):
        wrong = "DATASUM" if datasum and not datasum.isdecimal() else "CHECKSUM"
        raise Refused(f"damaged ({hdu} says {wrong} = {hdu.cards[wrong].decode('latin-1').strip()[:30]})")
    if not datasum and not checksum.strip("0"):
        return
    sum_of_data = _sum_of(stream, hdu.data_at, -(-hdu.size // BLOCK) * BLOCK)
    if datasum and (sum_of_data - int(datasum)) % 0xFFFFFFFF:
        raise Refused(f"damaged ({hdu} has other data than its DATASUM says)")
    if checksum.strip("0"):
        header = _sum_of(stream, hdu.header_at, hdu.data_at - hdu.header_at)
        if (header + sum_of_data) % 0xFFFFFFFF:
            raise Refused(f"damaged ({hdu} is not what its CHECKSUM says; who changed its header has to remove that)")


def _sum_of(stream: BinaryIO, at: int, length: int) -> int:
    """The sum of 32-bit words modulo 2^32 - 1, in pieces: data may be larger than memory."""
    total = 0
    stream.seek(at)
    while length > 0 and (piece := stream.read(min(length, 1 << 24))):
        length -= len(piece)
        total += int(np.frombuffer(piece + bytes(-len(piece) % 4), ">u4").sum(dtype=np.uint64))
    return total % 0xFFFFFFFF


def _end_of(header: bytearray, start: int) -> int | None:
    """Where the card behind END begins; None while there is no END at or after the card at `start`."""
    at = header.find(b"END     ", start)
    while at >= 0 and (at % _CARD or header[at : at + _CARD].strip(b" \0") != b"END"):
        at = header.find(b"END     ", at + 1)
    return None if at < 0 else at + _CARD


def _cards(header: bytes) -> tuple[dict[str, bytes], frozenset[str]]:
    """The values of a header by keyword, and the keywords that are there twice with different values."""
    found: dict[str, bytes] = {}
    unclear = set()
    for at in range(0, len(header), _CARD):
        if header[at + 8 : at + 10] == b"= ":
            keyword, raw = header[at : at + 8].rstrip().decode("latin-1"), header[at + 10 : at + _CARD]
            first = found.setdefault(keyword, raw)
            if first is not raw and first != raw and _value_of(first) != _value_of(raw):
                unclear.add(keyword)
    return found, frozenset(unclear)


def _size_of(hdu: Hdu) -> int:
    """Bytes of data (FITS standard 4.0, equations 2 and 4)."""
    if hdu.number == 0 and hdu.get("SIMPLE") is not True:
        raise Refused("it says itself that it does not conform to FITS (SIMPLE is not T)")
    bytes_a_value = abs(_integer(hdu, "BITPIX", _TYPES)) // 8
    axes = _axes(hdu, "NAXIS")
    if hdu.number and hdu.get("XTENSION") in ("BINTABLE", "TABLE"):
        _check_table(hdu, axes)
    if not axes:
        return 0
    groups = hdu.get("GROUPS") is True and axes[0] == 0
    parameters, count = 0, 1
    if groups or hdu.number:
        parameters = _integer(hdu, "PCOUNT", range(2**62), 0)
        count = _integer(hdu, "GCOUNT", range(2**62), 1)
    return bytes_a_value * count * (parameters + math.prod(axes[1:] if groups else axes))


def _axes(hdu: Hdu, keyword: str) -> tuple[int, ...]:
    number = _integer(hdu, keyword, range(1000))
    return tuple(_integer(hdu, f"{keyword}{i}", range(2**62)) for i in range(1, number + 1))


def _check_table(hdu: Hdu, axes: tuple[int, ...]) -> None:
    """Raises `Refused` where a few bytes claim so many columns, or rows of no bytes, that they take all memory."""
    _integer(hdu, "TFIELDS", range(1000))
    if len(axes) != 2 or (axes[0] == 0 and axes[1]):
        raise Refused(f"damaged FITS (HDU {hdu.number} is a table of {'×'.join(map(str, axes)) or 'no'} bytes)")


def _check_tiles(hdu: Hdu, axes: tuple[int, ...]) -> None:
    """Raises `Refused` where a compressed image has not as many tiles as its table has rows."""
    sides = [_integer(hdu, f"ZTILE{i}", range(1, 2**62), 1 if i > 1 else max(1, n)) for i, n in enumerate(axes, 1)]
    tiles = math.prod(-(-n // side) for n, side in zip(axes, sides, strict=True))
    if (rows := _axes(hdu, "NAXIS")[-1]) != tiles:
        raise Refused(f"damaged FITS ({hdu} claims {tiles:,} compressed tiles, and {rows:,} are there)")


def _integer(hdu: Hdu, keyword: str, allowed: range | Mapping[int, str], default: int | None = None) -> int:
    value = hdu.get(keyword)
    if value is None and keyword not in hdu.cards and default is not None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value not in allowed:
        raw = hdu.cards.get(keyword)
        says = f"says {keyword} = {raw.decode('latin-1').split('/')[0].strip()[:30]}" if raw else f"has no {keyword}"
        raise Refused(f"damaged FITS (the header of HDU {hdu.number} {says})")
    return value
