"""TIFF of several bands that Pillow would cut to 8 bits or drop."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image

from astroformer.images.limits import Array, Refused, check_size, one_at_a_time
from astroformer.images.pictures import as_array, check_single, check_tiff_samples, load, oriented, over_black

_LOSSLESS = {1: "none", 5: "LZW", 8: "deflate", 32946: "deflate", 32773: "PackBits"}


def read_tiff_bands(data: bytes) -> Array | None:
    """A TIFF whose interleaved bands Pillow would cut to 8 bits or drop; None if Pillow reads the file whole.

    Interleaved bands lie in the file like a grey image that is C times as wide. So the header is rewritten to
    say that, Pillow decodes the grey image with all of its bits, and the bands are taken apart again. Only
    the horizontal predictor sees the difference (it adds the pixel to the left, not the band to the left); it
    is switched off and undone here.
    """
    order = "<" if data[:2] == b"II" else ">"
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    entries: dict[int, tuple[int, tuple[int, ...]]] = {}  # tag -> (where its entry begins, its values)
    for at in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, n = struct.unpack_from(order + "HHI", data, at)
        if kind not in (3, 4) or n > 4096:  # the tags of interest are short lists of SHORT or LONG
            continue
        size = 2 if kind == 3 else 4
        values_at = at + 8 if n * size <= 4 else struct.unpack_from(order + "I", data, at + 8)[0]
        entries[tag] = (at, struct.unpack_from(order + ("H" if kind == 3 else "I") * n, data, values_at))

    def values(tag: int, default: int) -> tuple[int, ...]:
        return entries[tag][1] if tag in entries else (default,)

    bands = values(277, 1)[0]
    bits, formats = values(258, 1), values(339, 1)
    photometric, extra = values(262, 1)[0], values(338, 1) if 338 in entries else ()
    colours = {2: 3, 5: 4, 6: 3, 8: 3}.get(photometric, 1)
    # ExtraSamples says of a band that it is alpha, and 1 that the colours are multiplied by it already.
    has_alpha = bands == colours + 1 and extra[:1] in ((1,), (2,))
    kept = bands == colours or has_alpha
    if bands == 1 or (bits[0] <= 8 and kept):
        if bands == 1:
            check_tiff_samples(bits, formats)
        return None
    check_tiff_samples(bits, formats)
    width, height = values(256, 0)[0], values(257, 0)[0]
    size = check_size(width, height, bands, max(1, bits[0] // 8))
    compression, predictor = values(259, 1)[0], values(317, 1)[0]
    what = f"a TIFF of {bands} bands of {bits[0]} bits"
    advice = "save it interleaved, uncompressed or with LZW or deflate, or as .npz"
    if bits[0] < 8 or photometric not in (1, 2):
        raise Refused(f"{what} with photometric interpretation {photometric} is not read; save it as RGB or grey")
    if values(284, 1)[0] != 1:
        raise Refused(f"{what} stored plane by plane is not read; {advice}")
    if compression not in _LOSSLESS or predictor not in (1, 2):
        raise Refused(f"{what} with compression {compression}, predictor {predictor} is not read; {advice}")

    patched = bytearray(data)

    def patch(tag: int, value: int) -> None:
        if tag in entries:
            struct.pack_into(order + "HI", patched, entries[tag][0] + 2, 4, 1)
            struct.pack_into(order + "I", patched, entries[tag][0] + 8, value)

    patch(256, width * bands)
    if 322 in entries:
        patch(322, values(322, 0)[0] * bands)
    for tag, value in ((258, bits[0]), (262, 1), (277, 1), (317, 1), (339, formats[0]), (274, 1)):
        patch(tag, value)
    if 338 in entries:  # no bands beyond the colours any more: hide the tag under a private number
        struct.pack_into(order + "H", patched, entries[338][0], 65000)
    with one_at_a_time(size), Image.open(io.BytesIO(bytes(patched)), formats=("TIFF",)) as flat:
        check_single(flat)
        load(flat)
        image_HWC = as_array(flat).reshape(height, width, bands)
    if predictor == 2 and compression in (5, 8, 32946):
        if image_HWC.dtype == np.float32:
            raise Refused(f"{what} with float samples and an integer predictor is not read; {advice}")
        image_HWC = np.cumsum(image_HWC, axis=1, dtype=image_HWC.dtype)  # wraps around, as the predictor does
    if has_alpha:
        image_HWC = image_HWC[:, :, :-1] if extra[0] == 1 else over_black(image_HWC)
    return oriented(image_HWC, values(274, 1)[0])
