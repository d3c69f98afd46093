"""Decode one image file to an array, exactly or not at all.

JPEG, PNG, TIFF, WebP, BMP and GIF are decoded with Pillow. Pillow keeps 8 bits a sample as soon as an image has more
than one channel, so two kinds of file are decoded in another way: PNG with 16 bits and several channels
(`_read_png16`), and TIFF with several channels of 16 bits or float or with more bands than Pillow keeps
(`_read_tiff_bands`).
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import struct
import sys
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from astroformer.errors import UserError
from astroformer.images.floats import why_not_float32
from astroformer.images.libtiff import errors_of_libtiff

Array = np.ndarray[Any, np.dtype[Any]]

EXTENSIONS = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".webp", ".bmp", ".dib", ".gif"})
"""File extensions (lower case) that are taken for images when a folder is listed."""

UNREAD_EXTENSIONS = frozenset(
    {".jp2", ".j2k", ".jpx", ".jxl", ".heic", ".heif", ".avif", ".fits", ".fit", ".fts", ".fz", ".dcm", ".exr", ".hdr"}
    | {".psd", ".svg", ".ico", ".tga", ".pbm", ".pgm", ".ppm", ".pnm", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".raw"}
)
"""Extensions of images of a kind that is not read."""

MAX_PIXELS = 89_478_485
"""Largest image decoded, in pixels (Pillow's own limit, 256 MiB of RGB): a few bytes can claim any size."""

MAX_BYTES = 300_000_000
"""Largest image decoded, in bytes of pixels: its bands and bits count too."""

_MAX_FILE = 1 << 30  # bytes of a file that are read at most
# Bytes of a file or of its pixels from which an image is large. Only one large image is decoded at a time, so that many
# threads need no more memory than one.
_LARGE = 100_000_000
_large_images = threading.RLock()

_FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF")
_READ_MODES = frozenset({"1", "L", "LA", "RGB", "RGBA", "P", "PA", "CMYK", "YCbCr", "I", "F"})

# Pillow warns of oddities beside the pixels, such as a damaged EXIF block, and does not say of which file. What keeps
# an image from being read is an error, and becomes the reason of its row.
warnings.filterwarnings("ignore", module=r"PIL\..*")


class UnreadableImage(UserError):
    """One image could not be decoded. `file` says which, `reason` why (without the file's name)."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"cannot read the image '{file}': {reason}.")
        self.file = file
        self.reason = reason

    def __reduce__(self) -> tuple[type[UnreadableImage], tuple[str, str]]:
        return type(self), (self.file, self.reason)


class _Refused(Exception):
    """The reason why a file is not decoded. It becomes an `UnreadableImage` where the file's name is known."""


def read_image(file: str | Path | bytes, *, name: str | None = None) -> Array:
    """Decode an image file, or the bytes of one, and turn it upright as its EXIF orientation says.

    Returns an array `(H, W, C)`:
      - uint8 for 8-bit files. C = 1 grey, 3 RGB; any number in a multi-band TIFF. What the file calls transparency
        (alpha, a transparent colour) is laid over black. One bit a pixel becomes 0 and 255, a palette and CMYK become
        RGB.
      - uint16 for 16-bit unsigned files, every bit kept, with the same C.
      - float32 for float TIFF, and for signed or 32-bit integer TIFF whose values float32 holds exactly.

    `name` is what an error calls the image; by default its path.

    Raises `UnreadableImage` for a file that is missing, no regular file, empty, truncated, not one of the formats,
    larger than `MAX_PIXELS` or `MAX_BYTES`, of several pages or frames, of a sample type not named above, or with
    infinite pixels (NaN is for `Preprocessing` to judge). Type and size are judged by the header, before it is decoded.
    """
    if isinstance(file, bytes):
        return _read(file, name or f"{len(file)} bytes")
    name = name or str(file)
    try:
        status = os.stat(file)
        if (why := why_never_read(status)) is not None:
            raise UnreadableImage(name, why)
        with one_at_a_time(status.st_size), open(file, "rb") as stream:
            return _read(stream.read(_MAX_FILE), name)
    except OSError as error:
        raise UnreadableImage(name, error.strerror or str(error)) from None
    except ValueError as error:  # a NUL in its name
        if isinstance(error, UserError):
            raise
        raise UnreadableImage(name, f"its name can't be one of a file ({error})") from None


def array_of(image: Image.Image, name: str) -> Array:
    """The pixels of an image that Pillow holds already, as `read_image` gives them.

    Raises `UnreadableImage`, with this name, as that does.
    """
    try:
        _check_size(*image.size, len(image.getbands()), _bytes_a_sample(image))
        _check_kind(image)
        image.load()
    except _Refused as error:
        raise UnreadableImage(name, str(error)) from None
    except Exception as error:  # a file that Pillow opened and could not decode
        raise UnreadableImage(name, f"damaged ({str(error) or type(error).__name__})") from None
    return _as_array(image) if image.format == "TIFF" else _oriented(_as_array(image), _orientation(image))


def looks_like_an_image(path: str | os.PathLike[str]) -> bool:
    """Whether a regular file begins as the formats that are read do."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open(path, "rb") as stream:
            start = stream.read(16)
    except (OSError, ValueError):
        return False
    riff = start[:4] == b"RIFF" and start[8:12] == b"WEBP"
    bitmap = start[:2] == b"BM" and start[6:10] == bytes(4)
    return (
        riff or bitmap or start.startswith((*_TIFF_STARTS, b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a"))
    )


def why_never_read(status: os.stat_result) -> str | None:
    """Why a file of this kind and size is not even opened: a pipe may wait for ever, a device may have no end."""
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        return f"it is {kinds.get(stat.S_IFMT(status.st_mode), 'a device')} and no file"
    return f"its file has {status.st_size:,} bytes, more than {_MAX_FILE:,}" if status.st_size > _MAX_FILE else None


def one_at_a_time(size: int) -> contextlib.AbstractContextManager[object]:
    """What is entered to handle so many bytes of a file or an image: a lock where they are many."""
    return _large_images if size > _LARGE else contextlib.nullcontext()


def _read(data: bytes, name: str) -> Array:
    try:
        with errors_of_libtiff() as said:
            image_HWC = _decode(data)
        if said:  # Pillow goes on after some of them
            raise UnreadableImage(name, f"damaged ({said[0].rstrip('.')})")
    except UnreadableImage:
        raise
    except _Refused as error:
        raise UnreadableImage(name, str(error)) from None
    except UnidentifiedImageError:
        raise UnreadableImage(name, _why_unidentified(data)) from None
    except MemoryError:
        raise UnreadableImage(name, "not enough memory to decode it") from None
    except Exception as error:  # damaged bytes make decoders raise nearly anything
        why = said[0].rstrip(".") if said else str(error) or type(error).__name__
        raise UnreadableImage(name, f"damaged ({why})".replace("\n", " ")) from None
    if image_HWC.dtype.kind == "f" and (why_not := why_not_float32(image_HWC)) is not None:
        raise UnreadableImage(name, why_not)
    return image_HWC


def _decode(data: bytes) -> Array:
    if not data:
        raise _Refused("the file is empty")
    if data[:4] in _TIFF_STARTS[:2]:
        bands_HWC = _read_tiff_bands(data)
        if bands_HWC is not None:
            return bands_HWC
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.DecompressionBombError:
        raise _Refused(f"it claims more than {MAX_PIXELS} pixels; cut it into smaller images") from None
    with image:
        deep_png = image.format == "PNG" and data[24] == 16  # of which Pillow would keep 8 bits
        size = _check_size(*image.size, len(image.getbands()), 2 if deep_png else _bytes_a_sample(image))
        _check_single(image)
        _check_kind(image)
        if image.format == "TIFF" and len(image.getbands()) < int(_tags(image).get(277, 1)):
            raise _Refused("a BigTIFF with bands that would be lost; save it as a plain TIFF or as .npz")
        with one_at_a_time(size):
            if deep_png and data[25] != 0:
                return _oriented(_read_png16(image, data), _orientation(image))
            _load(image)
            array_HWC = _as_array(image)
        if image.format == "TIFF":  # Pillow has turned it upright already
            return array_HWC
        return _oriented(array_HWC, _orientation(image))


def _check_size(width: int, height: int, bands: int, sample: int) -> int:
    """The bytes that so many pixels take, with samples of so many bytes, unless they are too many."""
    if width < 1 or height < 1:
        raise _Refused(f"it has no pixels ({width}×{height})")
    if width * height > MAX_PIXELS:
        raise _Refused(f"{width}×{height} is more than {MAX_PIXELS} pixels; cut it into smaller images")
    size = width * height * bands * sample
    if size > MAX_BYTES:
        raise _Refused(
            f"{width}×{height} pixels of {bands} bands and {8 * sample} bits take {size:,} bytes, more than "
            f"{MAX_BYTES:,}; cut it into smaller images"
        )
    return size


def _bytes_a_sample(image: Image.Image) -> int:
    return 4 if image.mode.startswith(("I;32", "F")) or image.mode == "I" else 2 if "16" in image.mode else 1


def _check_kind(image: Image.Image) -> None:
    """Refuse pixels that would be read wrongly or not at all, before they are decoded."""
    if image.format == "TIFF":
        _check_tiff_samples(_tags(image).get(258, (1,)), _tags(image).get(339, (1,)))
    if image.mode not in _READ_MODES and not image.mode.startswith("I;16"):
        raise _Refused(f"colour mode {image.mode} is not read; save it as RGB or grey")


def _tags(image: Image.Image) -> Mapping[int, Any]:
    """The tags of a TIFF, by number."""
    return image.tag_v2  # type: ignore[attr-defined]


def _check_single(image: Image.Image) -> None:
    """Refuse files of several pages or frames: which of them is meant is not ours to guess."""
    frames = int(getattr(image, "n_frames", 1))
    if frames == 1 or image.format == "MPO":  # the further frames of a camera's MPO are previews of the first
        return
    if image.format == "TIFF":
        pages = 0
        for frame in range(frames):
            image.seek(frame)
            is_reduced_copy = int(_tags(image).get(254, 0)) & 1
            pages += not is_reduced_copy
        image.seek(0)
        if pages <= 1:
            return
    raise _Refused(f"it holds {frames} pages or frames; one image a file is read, so split it")


# libtiff hands out samples in the machine's byte order, and Pillow (13.0) swaps these types of big-endian
# files again.
_SWAPPED_TWICE = {"I;16BS": "I;16S", "I;32BS": "I;32S", "F;32BF": "F;32F"} if sys.byteorder == "little" else {}


def _load(image: ImageFile.ImageFile) -> None:
    """Decode the pixels; raises on truncated data."""
    image.tile = [
        tile._replace(args=(_SWAPPED_TWICE.get(tile.args[0], tile.args[0]), *tile.args[1:]))
        if tile.codec_name == "libtiff" and isinstance(tile.args, tuple)
        else tile
        for tile in image.tile
    ]
    image.load()


def _as_array(image: Image.Image) -> Array:
    """The pixels of a loaded image of a mode that is read, `(H, W, C)`."""
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB")
    elif image.mode in ("L", "RGB", "1") and "transparency" in image.info:  # one colour stands for "nothing here"
        image = image.convert("LA" if image.mode != "RGB" else "RGBA")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode in ("CMYK", "YCbCr"):
        image = image.convert("RGB")
    if image.mode in ("L", "LA", "RGB", "RGBA"):
        array = np.array(image, dtype=np.uint8)
    elif image.mode.startswith("I;16"):
        array = np.asarray(image).astype(np.uint16)
        if image.format == "TIFF" and _tags(image).get(262) == 0:  # white is zero; Pillow inverts 8 bits alone
            array = 65535 - array
    elif image.mode == "I" and image.format == "PNG":
        array = np.asarray(image).astype(np.uint16)
    elif image.mode == "I":
        wide = np.asarray(image)
        unsigned = image.format == "TIFF" and _tags(image).get(339, (1,))[0] == 1
        if (unsigned and (wide < 0).any()) or (np.abs(wide.astype(np.int64)) > 2**24).any():
            raise _Refused("its 32-bit integers go beyond ±16,777,216, which float32 cannot hold exactly")
        array = wide.astype(np.float32)
    else:
        array = np.array(image, dtype=np.float32)
    if image.mode in ("LA", "RGBA"):
        return _over_black(array)
    return array[:, :, None] if array.ndim == 2 else array


def _over_black(image_HWC: Array) -> Array:
    """Colour times alpha, which is the last channel and full at the largest value of the type, or at 1 in floats."""
    colour, alpha = image_HWC[:, :, :-1], image_HWC[:, :, -1:]
    if image_HWC.dtype.kind == "f":
        return colour * alpha
    full = np.uint32(np.iinfo(image_HWC.dtype).max)
    return ((colour.astype(np.uint32) * alpha + full // 2) // full).astype(image_HWC.dtype)


def _read_png16(image: ImageFile.ImageFile, data: bytes) -> Array:
    """The pixels of an unloaded PNG of 16 bits with several channels.

    Pillow unpacks one byte a sample, so each image is unpacked twice, once for the high and once for the low bytes.
    """
    if "transparency" in image.info:
        raise _Refused("a 16-bit PNG with one transparent colour is not read; save it with an alpha channel")
    samples = {4: 2, 2: 3, 6: 4}[data[25]]  # by colour type (PNG specification, IHDR)
    if samples == 2:  # grey and alpha: four bytes a pixel, the same as 8-bit RGBA
        return _over_black(_unpacked(image, "RGBA").view(">u2").astype(np.uint16))
    # PNG is big-endian; read as if little-endian, the byte taken for the high one is the low one.
    name = "RGB" if samples == 3 else "RGBA"
    image_HWC = _unpacked(image, f"{name};16B").astype(np.uint16)
    image_HWC <<= 8  # in place: such an image may be large
    with Image.open(io.BytesIO(data), formats=("PNG",)) as again:
        image_HWC |= _unpacked(again, f"{name};16L")
    return _over_black(image_HWC) if samples == 4 else image_HWC


def _unpacked(image: ImageFile.ImageFile, rawmode: str) -> Array:
    """The pixels of an unloaded image, uint8, its decoded bytes unpacked as Pillow's `rawmode`."""
    image.tile = [tile._replace(args=rawmode) for tile in image.tile]
    image.load()
    return np.array(image, dtype=np.uint8)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 when there is none or it cannot be read."""
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _oriented(image_HWC: Array, orientation: int) -> Array:
    """Turn an array upright; `orientation` as EXIF 2.32 tag 0x0112 numbers it."""
    if orientation >= 5:  # 5 to 8 are 1 to 4 of the transposed frame
        image_HWC = image_HWC.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image_HWC = image_HWC[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image_HWC = image_HWC[::-1]
    return np.ascontiguousarray(image_HWC)


def _why_unidentified(data: bytes) -> str:
    if data[:2] in (b"\xff\xd8", b"BM") or data[:4] in (b"\x89PNG", b"GIF8", *_TIFF_STARTS, b"RIFF"):
        return "damaged, or of a kind that is not read"
    return "not a JPEG, PNG, TIFF, WebP, BMP or GIF image"


# TIFF -------------------------------------------------------------------------------------------------------

_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF
_LOSSLESS = {1: "none", 5: "LZW", 8: "deflate", 32946: "deflate", 32773: "PackBits"}


def _check_tiff_samples(bits: tuple[int, ...], formats: tuple[int, ...]) -> None:
    """Refuse sample types that would be read wrongly or not at all (TIFF 6.0, BitsPerSample, SampleFormat)."""
    known = {1: (1, 2, 4, 8, 16, 32), 2: (16, 32), 3: (32,)}
    if bits[0] not in known.get(formats[0], ()) or len(set(bits)) > 1 or len(set(formats)) > 1:
        kind = {1: "unsigned integer", 2: "signed integer", 3: "float"}.get(formats[0], "other")
        raise _Refused(
            f"its samples are {'/'.join(map(str, bits))}-bit {kind}; 8- and 16-bit unsigned, 16- and 32-bit "
            f"signed and 32-bit float TIFF are read"
        )


def _read_tiff_bands(data: bytes) -> Array | None:
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
            _check_tiff_samples(bits, formats)
        return None
    _check_tiff_samples(bits, formats)
    width, height = values(256, 0)[0], values(257, 0)[0]
    size = _check_size(width, height, bands, max(1, bits[0] // 8))
    compression, predictor = values(259, 1)[0], values(317, 1)[0]
    what = f"a TIFF of {bands} bands of {bits[0]} bits"
    advice = "save it interleaved, uncompressed or with LZW or deflate, or as .npz"
    if bits[0] < 8 or photometric not in (1, 2):
        raise _Refused(f"{what} with photometric interpretation {photometric} is not read; save it as RGB or grey")
    if values(284, 1)[0] != 1:
        raise _Refused(f"{what} stored plane by plane is not read; {advice}")
    if compression not in _LOSSLESS or predictor not in (1, 2):
        raise _Refused(f"{what} with compression {compression}, predictor {predictor} is not read; {advice}")

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
        _check_single(flat)
        _load(flat)
        image_HWC = _as_array(flat).reshape(height, width, bands)
    if predictor == 2 and compression in (5, 8, 32946):
        if image_HWC.dtype == np.float32:
            raise _Refused(f"{what} with float samples and an integer predictor is not read; {advice}")
        image_HWC = np.cumsum(image_HWC, axis=1, dtype=image_HWC.dtype)  # wraps around, as the predictor does
    if has_alpha:
        image_HWC = image_HWC[:, :, :-1] if extra[0] == 1 else _over_black(image_HWC)
    return _oriented(image_HWC, values(274, 1)[0])
