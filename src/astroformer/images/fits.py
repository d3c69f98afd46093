"""Images in FITS files: their pixels, as numbers of the machine.

Shape letters: H rows, W columns, C bands. Row 0 is the first one in the file, which astronomers draw at the bottom.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import math
import os
import zlib
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np

from astroformer.errors import check_installed
from astroformer.images.fits_bands import Chosen, Wanted, check_expected, choose
from astroformer.images.fits_headers import Hdu, check_sums, raw_pixels, read_headers
from astroformer.images.fits_tiles import check_tiles
from astroformer.images.limits import MAX_BYTES, MAX_FILE, Array, Refused, check_size, one_at_a_time, why_never_read

FITS_EXTENSIONS = frozenset({".fits", ".fit", ".fts", ".fz"})
"""File extensions (lower case) of FITS; `.gz` or `.bz2` may follow the first three."""

FITS_START = b"SIMPLE  ="
"""How a FITS file begins."""

_STARTS = (FITS_START, b"\x1f\x8b", b"BZh")  # the last two: gzip and bzip2
_MAX_UNPACKED = 2 * MAX_BYTES
_UNPACKED_AT_ONCE = 1 << 22
_MAY_BE_LARGE = 1 << 26  # bytes of an unpacked file from which it is handled alone
_SCALED_AT_ONCE = 1 << 20  # values, of which some copies are in memory while they are scaled
_EXACT = 2**24  # up to here float32 has each whole number


def is_fits(start: bytes) -> bool:
    """Whether a file that begins so is FITS, or is packed as FITS files are."""
    return start.startswith(_STARTS)


def decode_fits(data: bytes, wanted: Wanted | None = None) -> Array:
    """The pixels of a FITS file, `(H, W, C)`.

    uint8 and uint16 (BZERO = 32768) where the file holds such, in all bands; else float32, with NaN where a pixel has
    no value (NaN, BLANK).

    Raises:
        Refused: it is damaged, too large, has no image or leaves open which is meant; its bands are not `expected`; it
            has infinite values, values that float32 can't hold, or none at all.
        UserError: it is compressed and astropy is missing.
    """
    wanted = wanted or Wanted()
    with contextlib.ExitStack() as stack:
        data = unpacked(data, stack)
        stream = io.BytesIO(data)
        hdus = read_headers(stream, len(data))
        chosen = choose(hdus, wanted)
        if wanted.expected is not None:
            check_expected(chosen.named(), wanted.expected)
        height, width = chosen.bands[0].hdu.shape[-2:]
        parts = {band.hdu.number: band.hdu for band in chosen.bands}
        most = max(bytes_a_value(hdu, wanted.blank) for hdu in parts.values())
        size = check_size(width, height, len(chosen.bands), most)
        stack.enter_context(one_at_a_time(size))
        for hdu in used(chosen, hdus):
            check_sums(stream, hdu)
        for hdu in parts.values():
            if hdu.compressed:  # of which all planes are unpacked
                check_size(width, height, math.prod(hdu.shape[:-2]), hdu.stored.itemsize)
                check_tiles(stream, hdu)
        raw = {number: raw_pixels(data, hdu) for number, hdu in parts.items() if not hdu.compressed}
        raw |= decompressed(io.BytesIO(data), [hdu for hdu in parts.values() if hdu.compressed])
        planes = [values_of(raw[band.hdu.number][band.place], band.hdu, wanted.blank) for band in chosen.bands]
        image = np.stack(planes, axis=-1)
    if image.dtype.kind == "f" and np.isnan(image).all():
        raise Refused("none of its pixels has a value (all are NaN or stand for none)")
    return image


def used(chosen: Chosen, hdus: Sequence[Hdu]) -> list[Hdu]:
    """The parts of a file that decide its bands: those that hold them, and the first, which may say what they are."""
    return list({hdu.number: hdu for hdu in (hdus[0], *(band.hdu for band in chosen.bands))}.values())


def bands_of_file(path: str, wanted: Wanted) -> Chosen:
    """Which bands a FITS file has, by its headers. Raises `Refused` and `OSError`."""
    status = os.stat(path)
    if (why := why_never_read(status)) is not None:
        raise Refused(why)
    with open(path, "rb") as stream:
        start = stream.read(len(FITS_START))
        if not is_fits(start):
            raise Refused("it does not begin as FITS does")
        if start == FITS_START:
            return choose(read_headers(stream, status.st_size), wanted)
        with contextlib.ExitStack() as stack:
            data = unpacked(start + stream.read(MAX_FILE), stack)
            return choose(read_headers(io.BytesIO(data), len(data)), wanted)


def unpacked(data: bytes, stack: contextlib.ExitStack, advice: str = "cut it into smaller images") -> bytes:
    """The FITS file in gzip or bzip2; a large one is unpacked while no other thread has a large one.

    Raises:
        Refused: it is damaged, or holds no FITS or a very large one, against which the advice is given.
    """
    if data.startswith(FITS_START):
        return data
    packed: BinaryIO = io.BytesIO(data)
    kind = "gzip" if data.startswith(b"\x1f\x8b") else "bzip2"
    stream: Any = gzip.GzipFile(fileobj=packed) if kind == "gzip" else bz2.BZ2File(packed)
    unpacked, large = io.BytesIO(), False
    try:
        while piece := stream.read(_UNPACKED_AT_ONCE):
            if not unpacked.tell() and not piece.startswith(FITS_START):
                raise Refused(f"a {kind} file that holds no FITS")
            unpacked.write(piece)
            if not large and unpacked.tell() > _MAY_BE_LARGE:
                large = True
                stack.enter_context(one_at_a_time(MAX_BYTES))
            if unpacked.tell() > _MAX_UNPACKED:
                raise Refused(f"it unpacks to more than {_MAX_UNPACKED:,} bytes; {advice}")
    except (EOFError, OSError, zlib.error) as error:
        raise Refused(f"damaged {kind} ({error})") from None
    return unpacked.getvalue()


# Pixels -----------------------------------------------------------------------------------------------------


def values_of(raw: Array, hdu: Hdu, none: Sequence[float] = ()) -> Array:
    """Stored pixels as what they stand for: uint8, uint16, or float32 with NaN where a pixel has no value.

    Args:
        raw: as they are stored.
        hdu: that holds them.
        none: values that stand for none, see `Wanted.blank`; with any all is float32.

    Raises:
        Refused: float32 can't hold a value, or a value is infinite.
    """
    scale, zero = hdu.number_of("BSCALE", 1.0), hdu.number_of("BZERO", 0.0)
    if scale == 0:
        raise Refused(f"damaged ({hdu} says BSCALE = 0)")
    missing = _with_value(raw, scale, zero, none) if none else None
    if raw.dtype.kind == "f":
        return _as_float32(raw, scale, zero, missing)
    blank = hdu.get("BLANK")
    if isinstance(blank, int) and np.can_cast(np.min_scalar_type(blank), np.int64):
        missing = raw == blank if missing is None else missing | (raw == blank)
    bits = 8 * raw.dtype.itemsize
    whole = raw.astype(raw.dtype.newbyteorder("="))
    if scale == 1 and bits > 8 and zero == 2 ** (bits - 1):  # how FITS writes unsigned numbers
        whole = whole.view(f"u{bits // 8}") ^ np.array(1 << (bits - 1), f"u{bits // 8}")
    elif scale == 1 and bits == 8 and zero == -128:
        whole = whole.astype(np.int16) - np.int16(128)
    elif (scale, zero) != (1, 0):
        return _as_float32(raw, scale, zero, missing)
    if missing is None and whole.dtype in (np.uint8, np.uint16):
        return whole
    if missing is not None:
        whole = np.where(missing, whole.dtype.type(0), whole)
    if whole.dtype.itemsize > 2 and (int(whole.max(initial=0)) > _EXACT or int(whole.min(initial=0)) < -_EXACT):
        raise Refused(
            f"its {bits}-bit whole numbers go beyond ±{_EXACT:,}, which float32 cannot hold exactly; scale the images, "
            "and save them as float32"
        )
    floats = whole.astype(np.float32)
    if missing is not None:
        floats[missing] = np.nan
    return floats


def _with_value(raw: Array, scale: float, zero: float, values: Sequence[float]) -> Array:
    """Which stored pixels stand for one of these values."""
    found = np.zeros(raw.shape, np.bool_)
    for value in values:
        stored = (value - zero) / scale
        if math.isinf(value):
            found |= np.isinf(raw)
        elif not math.isfinite(stored):  # so far beyond what is stored that none is
            continue
        elif raw.dtype.kind == "f":
            with np.errstate(over="ignore"):
                found |= raw == raw.dtype.type(stored)
        elif math.isclose(stored, round(stored), rel_tol=0, abs_tol=1e-6):
            found |= raw == round(stored)
    return found


def bytes_a_value(hdu: Hdu, none: Sequence[float] = ()) -> int:
    """Bytes that a pixel takes as it is stored or as `values_of` gives it, whichever is more."""
    size = hdu.stored.itemsize
    scale, zero = hdu.number_of("BSCALE", 1.0), hdu.number_of("BZERO", 0.0)
    stays = (size, scale, zero) in ((1, 1, 0), (2, 1, 2**15)) and "BLANK" not in hdu.cards and not none
    return size if stays else max(size, 4)


def _as_float32(raw: Array, scale: float, zero: float, missing: Array | None) -> Array:
    """Stored pixels, scaled, as float32; NaN where they are NaN or missing."""
    floats = np.empty(raw.shape, np.float32)
    infinite, largest = 0, 0.0
    step = max(1, _SCALED_AT_ONCE // raw.shape[-1])
    for rows in (slice(top, top + step) for top in range(0, raw.shape[0], step)):
        with np.errstate(over="ignore", invalid="ignore"):
            wide = raw[rows] if (scale, zero) == (1, 0) else raw[rows].astype(np.float64) * scale + zero
            if missing is not None:
                wide = np.where(missing[rows], np.nan, wide)
            floats[rows] = wide
        part = floats[rows]
        if np.isfinite(part).all():
            continue
        infinite += int(np.isinf(wide).sum())
        if np.isinf(part).any():
            largest = max(largest, float(np.max(np.abs(wide), where=np.isfinite(wide), initial=0)))
        part[np.isnan(part)] = np.nan  # there are many of them, and the same image is the same bits
    if infinite:
        are = "value is" if infinite == 1 else "values are"
        raise Refused(f"{infinite} of its {are} infinite; write NaN where a pixel has no value, or say @blank=inf")
    if largest:
        raise Refused(f"it has values up to {largest:.4g}, and float32 ends at 3.4e+38; scale the images")
    return floats


def decompressed(source: BinaryIO, hdus: Sequence[Hdu]) -> dict[int, Array]:
    """The stored pixels of compressed images of one file, which is opened once, by their numbers.

    Raises:
        Refused: they can't be unpacked.
        UserError: astropy is missing.
    """
    found: dict[int, Array] = {}
    if not hdus:
        return found
    fits, hdu = astropy_fits(), hdus[0]
    try:
        with fits.open(source, memmap=False, lazy_load_hdus=True, do_not_scale_image_data=True) as opened:
            for hdu in hdus:
                found[hdu.number] = np.asarray(opened[hdu.number].section[...])
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes raise nearly anything
        raise Refused(f"damaged ({hdu}: {' '.join(str(error).split()) or type(error).__name__})") from None
    return found


def astropy_fits() -> Any:
    """astropy.io.fits. Raises `UserError` where astropy is missing."""
    import warnings

    check_installed("astropy", "astro", "compressed FITS (fpack), or a mosaic with positions in the sky,")
    from astropy.io import fits

    # It warns of oddities and does not say of which file. What keeps an image from being read is an error.
    warnings.filterwarnings("ignore", module=r"astropy\..*")
    return fits
