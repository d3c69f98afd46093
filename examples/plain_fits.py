"""Reads a plain FITS file (standard 4.0): one image of 8 or 16 bits or of floats, with the names of its bands and the
unit of its values.

Compressed files, tables and files of several parts are refused; astropy reads these.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

_START = b"SIMPLE  =                    T"
_CARD, _BLOCK = 80, 2880  # bytes; header and data fill whole blocks
_TYPES = {"8": "u1", "16": ">i2", "-32": ">f4", "-64": ">f8"}  # by BITPIX


def is_fits(data: bytes) -> bool:
    return data.startswith(_START)


def read_fits(data: bytes) -> tuple[np.ndarray[Any, Any], list[str], str]:
    """An image (height, width, bands), the names of its bands, which are numbers where the file names none, and the
    unit of its values, "" where it states none.

    The pixels are uint8 or uint16 where the file holds such, else float32, with NaN where a pixel has no value.

    Raises:
        ValueError: the file holds something else, or is cut off.
    """
    cards, start = _header(data)
    shape = [int(cards[f"NAXIS{axis}"]) for axis in range(int(cards["NAXIS"]), 0, -1)]
    if len(shape) < 2 or 0 in shape or sum(size > 1 for size in shape[:-2]) > 1:
        raise ValueError(f"its first part has the axes {shape}; rows and columns, or bands of these, are read")
    if cards["BITPIX"] not in _TYPES:
        raise ValueError(f"it has BITPIX = {cards['BITPIX']}; {', '.join(_TYPES)} are read, so save it as float32")
    kind, count = np.dtype(_TYPES[cards["BITPIX"]]), math.prod(shape)
    if len(data) < start + kind.itemsize * count:
        raise ValueError("it is cut off")
    stored = np.frombuffer(data, kind, count, start).reshape(-1, *shape[-2:])
    if data[start + -(-stored.nbytes // _BLOCK) * _BLOCK :].strip(b"\0 "):
        raise ValueError("it has further parts; save the image alone")
    image = np.ascontiguousarray(np.moveaxis(_values(stored, cards), 0, -1))
    return image, _names(cards, len(stored)), cards.get("BUNIT", "")


def _header(data: bytes) -> tuple[dict[str, str], int]:
    """What the first header says, and where the data behind it begin."""
    cards: dict[str, str] = {}
    for at in range(0, len(data), _CARD):
        card = data[at : at + _CARD].decode("latin-1")
        if card.rstrip() == "END":
            return cards, -(-(at + _CARD) // _BLOCK) * _BLOCK
        if card[8:10] == "= ":
            text = re.match(r" *'((?:[^']|'')*)'", card[10:])
            cards[card[:8].strip()] = (text[1] if text else card[10:].partition("/")[0]).strip()
    raise ValueError("its header has no end")


def _values(stored: np.ndarray[Any, Any], cards: dict[str, str]) -> np.ndarray[Any, Any]:
    """What the stored numbers stand for."""
    scale, zero = (float(cards.get(name, usual).replace("D", "E")) for name, usual in (("BSCALE", "1"), ("BZERO", "0")))
    whole = stored.dtype.kind != "f"
    if whole and "BLANK" not in cards and scale == 1:
        if cards["BITPIX"] == "8" and zero == 0:
            return stored
        if cards["BITPIX"] == "16" and zero == 1 << 15:  # how FITS writes unsigned numbers
            return (stored.astype(np.int32) + (1 << 15)).astype(np.uint16)
    with np.errstate(over="ignore"):
        values = (stored.astype(np.float64) * scale + zero).astype(np.float32)
    if whole and "BLANK" in cards:
        values[stored == int(cards["BLANK"])] = np.nan
    if np.isinf(values).any():
        raise ValueError("it has infinite values, or such as float32 can't hold; write NaN where there is no value")
    return values


def _names(cards: dict[str, str], bands: int) -> list[str]:
    """As the header has them: FILTER or BAND of a single band; of several BANDS = 'grz', or BAND0, BAND1 ..."""
    if bands == 1:
        return [cards.get("FILTER") or cards.get("BAND") or "0"]
    text = cards.get("BANDS", "")
    said = [re.split(r"[\s,;]+", text), list(text)]
    for word, first in (("BAND", 0), ("BAND", 1), ("FILTER", 0), ("FILTER", 1)):
        said.append([cards.get(f"{word}{first + i}", "") for i in range(bands)])
    return next((names for names in said if len(names) == bands and all(names)), [str(i) for i in range(bands)])
