"""Images as files of every kind, also those that Pillow does not write."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Literal

import numpy as np
from PIL import Image


def encode(image: Image.Image, kind: str, **settings: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def png16(pixels_HWC: np.ndarray, exif: bytes = b"") -> bytes:
    """A 16-bit PNG of 1 to 4 channels, written by hand since Pillow writes only grey ones."""
    height, width, channels = pixels_HWC.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels_HWC)

    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    chunks = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    if exif:
        chunks.insert(1, chunk(b"eXIf", exif))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def tiff(pixels_HWC: np.ndarray, order: Literal["<", ">"] = "<", compression: int = 1, **tags: int) -> bytes:
    """A TIFF of one strip, written by hand; `tags` overrides entries by `t<number>`."""
    height, width, bands = pixels_HWC.shape
    stored = pixels_HWC
    if tags.get("t317") == 2:
        stored = stored.copy()
        stored[:, 1:] -= pixels_HWC[:, :-1]
    data = stored.astype(stored.dtype.newbyteorder(order)).tobytes()
    data = zlib.compress(data) if compression == 8 else data
    bits = pixels_HWC.dtype.itemsize * 8
    kind = {"u": 1, "i": 2, "f": 3}[pixels_HWC.dtype.kind]
    entries = {
        256: [width],
        257: [height],
        258: [bits] * bands,
        259: [compression],
        262: [2 if bands >= 3 else 1],
    }
    entries |= {277: [bands], 278: [height], 279: [len(data)], 339: [kind] * bands}
    if bands > 3 or bands == 2:
        entries[338] = [0] * (bands - 3 if bands > 3 else 1)
    entries |= {int(tag[1:]): [value] for tag, value in tags.items()}
    entries[273] = [8 + 2 + 12 * (len(entries) + 1) + 4 + 4 * 2 * 16]  # room for four long lists of up to 16 values
    ifd, lists, lists_at = b"", b"", 8 + 2 + 12 * len(entries) + 4
    for tag in sorted(entries):
        values = entries[tag]
        kind_code, letter = (4, "I") if tag in (273, 279) else (3, "H")
        packed = struct.pack(order + letter * len(values), *values)
        if len(packed) > 4:
            place = struct.pack(order + "I", lists_at + len(lists))
            lists += packed
        else:
            place = packed.ljust(4, b"\0")
        ifd += struct.pack(order + "HHI", tag, kind_code, len(values)) + place
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(entries))
    return (head + ifd + bytes(4) + lists).ljust(entries[273][0], b"\0") + data
