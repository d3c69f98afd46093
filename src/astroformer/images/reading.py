"""Decode one image file to an array, exactly or not at all.

`pictures` has JPEG, PNG, TIFF, WebP, BMP and GIF, `tiff` the TIFF that Pillow can't decode whole, `fits` FITS.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from PIL import Image, ImageFile, UnidentifiedImageError

from astroformer.errors import UserError
from astroformer.images.fits import FITS_EXTENSIONS, decode_fits, is_fits
from astroformer.images.fits_bands import Wanted
from astroformer.images.floats import why_not_float32
from astroformer.images.libtiff import errors_of_libtiff
from astroformer.images.limits import (
    MAX_BYTES,
    MAX_PIXELS,
    Array,
    Refused,
    UnreadableImage,
    one_at_a_time,
    why_never_read,
)
from astroformer.images.pictures import TIFF_STARTS, check_picture, decode_picture, load, pixels_of
from astroformer.images.tiff import read_tiff_bands

__all__ = [
    "EXTENSIONS",
    "MAX_BYTES",
    "MAX_PIXELS",
    "UNREAD_EXTENSIONS",
    "Array",
    "UnreadableImage",
    "array_of",
    "extension_of",
    "looks_like_an_image",
    "one_at_a_time",
    "read_image",
    "start_of",
    "why_never_read",
]

EXTENSIONS = (
    frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".webp", ".bmp", ".dib", ".gif"})
    | FITS_EXTENSIONS
)
"""File extensions (see `extension_of`) that are taken for images when a folder is listed."""

UNREAD_EXTENSIONS = frozenset(
    {".jp2", ".j2k", ".jpx", ".jxl", ".heic", ".heif", ".avif", ".dcm", ".exr", ".hdr"}
    | {".psd", ".svg", ".ico", ".tga", ".pbm", ".pgm", ".ppm", ".pnm", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".raw"}
)
"""Extensions of images of a kind that is not read."""


def extension_of(name: str) -> str:
    """The extension of a file's name in lower case; of packed FITS, such as `a.fits.gz`, the one before.

    Examples:
        >>> extension_of("a.FITS.gz"), extension_of("a.tar.gz")
        ('.fits', '.gz')
    """
    stem, last = os.path.splitext(name.lower())
    inner = os.path.splitext(stem)[1]
    return inner if last in (".gz", ".bz2") and inner in FITS_EXTENSIONS else last


def read_image(file: str | Path | bytes, *, name: str | None = None, wanted: Wanted | None = None) -> Array:
    """Decode an image file, or the bytes of one, and turn it upright as its EXIF orientation says.

    Returns an array `(H, W, C)`:
      - uint8 for 8-bit files. C = 1 grey, 3 RGB; any number in a multi-band TIFF. What the file calls transparency
        (alpha, a transparent colour) is laid over black. One bit a pixel becomes 0 and 255, a palette and CMYK become
        RGB.
      - uint16 for 16-bit unsigned files, every bit kept, with the same C.
      - float32 for float TIFF, and for signed or 32-bit integer TIFF whose values float32 holds exactly.
      - of FITS what `decode_fits` gives: float32 has NaN where a pixel has no value.

    `name` is what an error calls the image, by default its path; `wanted` what is taken of a FITS file.

    Raises `UnreadableImage` for a file that is missing, no regular file, empty, truncated, not one of the formats,
    larger than `MAX_PIXELS` or `MAX_BYTES`, of several pages or frames, of a sample type not named above, or with
    infinite pixels (NaN is for `Preprocessing` to judge). Type and size are judged by the header, before it is decoded.
    """
    if isinstance(file, bytes):
        return _read(file, wanted, name or f"{len(file)} bytes")
    name = name or str(file)
    try:
        status = os.stat(file)
        if (why := why_never_read(status)) is not None:
            raise UnreadableImage(name, why)
        with one_at_a_time(status.st_size), open(file, "rb") as stream:
            return _read(stream.read(status.st_size + 1), wanted, name)
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
        check_picture(image)
        if isinstance(image, ImageFile.ImageFile):
            load(image)
        return pixels_of(image)
    except Refused as error:
        raise UnreadableImage(name, str(error)) from None
    except Exception as error:  # a file that Pillow opened and could not decode
        raise UnreadableImage(name, f"damaged ({str(error) or type(error).__name__})") from None


def start_of(path: str | os.PathLike[str]) -> bytes:
    """The first 16 bytes of a regular file; none where there is no such file or it can't be read."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return b""
        with open(path, "rb") as stream:
            return stream.read(16)
    except (OSError, ValueError):
        return b""


def looks_like_an_image(path: str | os.PathLike[str]) -> bool:
    """Whether a regular file begins as the formats that are read do."""
    start = start_of(path)
    riff = start[:4] == b"RIFF" and start[8:12] == b"WEBP"
    bitmap = start[:2] == b"BM" and start[6:10] == bytes(4)
    return (
        riff
        or bitmap
        or start.startswith((*TIFF_STARTS, b"SIMPLE  =", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a"))
    )


def _read(data: bytes, wanted: Wanted | None, name: str) -> Array:
    try:
        with errors_of_libtiff() as said:
            image_HWC = _decode(data, wanted)
        if said:  # Pillow goes on after some of them
            raise UnreadableImage(name, f"damaged ({said[0].rstrip('.')})")
    except UserError:
        raise
    except Refused as error:
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


def _decode(data: bytes, wanted: Wanted | None) -> Array:
    if not data:
        raise Refused("the file is empty")
    if is_fits(data):
        return decode_fits(data, wanted)
    if data[:4] in TIFF_STARTS[:2]:
        bands_HWC = read_tiff_bands(data)
        if bands_HWC is not None:
            return bands_HWC
    return decode_picture(data)


def _why_unidentified(data: bytes) -> str:
    if data[:2] in (b"\xff\xd8", b"BM") or data[:4] in (b"\x89PNG", b"GIF8", *TIFF_STARTS, b"RIFF"):
        return "damaged, or of a kind that is not read"
    return "not a JPEG, PNG, TIFF, WebP, BMP, GIF or FITS image"
