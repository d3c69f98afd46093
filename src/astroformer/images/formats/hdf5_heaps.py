"""Where HDF5 files keep texts of any length, looked at before the library does.

It goes through the objects of a heap by what they say of their lengths, and never ends where one says 0, or so much
that numbers overflow. That is in C, where no signal reaches it. (HDF5 File Format Specification 3.0, III.E)
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from astroformer.images.limits import MAX_BYTES

_START = b"GCOL\1"
_SMALLEST = 4096  # bytes of a heap
_HEAD = struct.Struct("<8sQ")  # of a heap: how it begins, and its bytes
_OBJECT = struct.Struct("<H6xQ")  # in a heap: its number, and its bytes; 0 is what is left free
_AT_ONCE = 1 << 22


def check_heaps(path: Path, but: Sequence[tuple[int, int]]) -> None:
    """Raises `ValueError` where a heap is not what it says.

    Args:
        path: of the file.
        but: where nobody has to look, from one byte up to another.
    """
    length = path.stat().st_size
    with path.open("rb") as file:
        for at in _heaps(file, _rest(but, length)):
            file.seek(at)
            _, size = _HEAD.unpack(file.read(_HEAD.size).ljust(_HEAD.size, b"\0"))
            of_a_heap = _SMALLEST <= size <= length  # which the library looks at too
            if of_a_heap and (size > MAX_BYTES or not _is_sound(file.read(size - _HEAD.size))):
                raise ValueError("texts in it lie beyond their heap, or it has no end")


def _is_sound(objects: bytes) -> bool:
    """Whether one object follows another up to the end of a heap."""
    at = 0
    while at + _OBJECT.size <= len(objects):
        number, size = _OBJECT.unpack_from(objects, at)
        step = _OBJECT.size + -(-size // 8) * 8 if number else size
        at += step
        if step == 0 or at > len(objects):
            return False
    return True


def _rest(but: Sequence[tuple[int, int]], length: int) -> Iterator[tuple[int, int]]:
    at = 0
    for start, stop in sorted(but):
        if at < start:
            yield at, min(start, length)
        at = max(at, stop)
    if at < length:
        yield at, length


def _heaps(file: BinaryIO, places: Iterator[tuple[int, int]]) -> Iterator[int]:
    """Where heaps begin."""
    for start, stop in places:
        for begin in range(start, stop, _AT_ONCE):
            file.seek(begin)
            piece = file.read(min(_AT_ONCE, stop - begin) + len(_START) - 1)
            at = piece.find(_START)
            while at >= 0:
                yield begin + at
                at = piece.find(_START, at + 1)
