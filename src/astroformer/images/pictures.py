"""Pictures: JPEG, PNG, TIFF, WebP, BMP and GIF, decoded with Pillow.

Pillow keeps 8 bits a sample as soon as an image has more than one channel, so two kinds of file are decoded in another
way: PNG with 16 bits and several channels (`_read_png16`), and TIFF with several channels of 16 bits or float or with
more bands than Pillow keeps (`tiff.py`).
"""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from astroformer.images.limits import MAX_PIXELS, Array, Refused, check_size, one_at_a_time

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""How a TIFF begins; the last two are BigTIFF."""

_FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF")
_READ_MODES = frozenset({"1", "L", "LA", "RGB", "RGBA", "P", "PA", "CMYK", "YCbCr", "I", "F"})

# Pillow warns of oddities beside the pixels, such as a damaged EXIF block, and does not say of which file. What keeps
# an image from being read is an error, and becomes the reason of its row.
warnings.filterwarnings("ignore", module=r"PIL\..*")


def decode_picture(data: bytes) -> Array:
    """The pixels of a picture of Pillow's formats. Raises `Refused`, or whatever Pillow raises on damaged bytes."""
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.DecompressionBombError:
        raise Refused(f"it claims more than {MAX_PIXELS} pixels; cut it into smaller images") from None
    with image:
        deep_png = image.format == "PNG" and data[24] == 16  # of which Pillow would keep 8 bits
        size = check_picture(image, 2 if deep_png else None)
        check_single(image)
        if image.format == "TIFF" and len(image.getbands()) < int(_tags(image).get(277, 1)):
            raise Refused("a BigTIFF with bands that would be lost; save it as a plain TIFF or as .npz")
        with one_at_a_time(size):
            if deep_png and data[25] != 0:
                return oriented(_read_png16(image, data), _orientation(image))
            load(image)
            return pixels_of(image)


def pixels_of(image: Image.Image) -> Array:
    """The pixels of a loaded image, upright. Raises `Refused` for values that can't be kept."""
    array_HWC = as_array(image)
    # Pillow has turned a TIFF upright already.
    return array_HWC if image.format == "TIFF" else oriented(array_HWC, _orientation(image))


def _bytes_a_sample(image: Image.Image) -> int:
    return 4 if image.mode.startswith(("I;32", "F")) or image.mode == "I" else 2 if "16" in image.mode else 1


def check_picture(image: Image.Image, bytes_a_sample: int | None = None) -> int:
    """The bytes that the pixels of an image take. Raises `Refused`, before they are decoded, for too many and for those
    that would be read wrongly or not at all."""
    size = check_size(*image.size, len(image.getbands()), bytes_a_sample or _bytes_a_sample(image))
    if image.format == "TIFF":
        check_tiff_samples(_tags(image).get(258, (1,)), _tags(image).get(339, (1,)))
    if image.mode not in _READ_MODES and not image.mode.startswith("I;16"):
        raise Refused(f"colour mode {image.mode} is not read; save it as RGB or grey")
    return size


def _tags(image: Image.Image) -> Mapping[int, Any]:
    """The tags of a TIFF, by number."""
    return image.tag_v2  # type: ignore[attr-defined]


def check_single(image: Image.Image) -> None:
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
    raise Refused(f"it holds {frames} pages or frames; one image a file is read, so split it")


# libtiff hands out samples in the machine's byte order, and Pillow (13.0) swaps these types of big-endian
# files again.
_SWAPPED_TWICE = {"I;16BS": "I;16S", "I;32BS": "I;32S", "F;32BF": "F;32F"} if sys.byteorder == "little" else {}


def load(image: ImageFile.ImageFile) -> None:
    """Decode the pixels; raises on truncated data."""
    image.tile = [
        tile._replace(args=(_SWAPPED_TWICE.get(tile.args[0], tile.args[0]), *tile.args[1:]))
        if tile.codec_name == "libtiff" and isinstance(tile.args, tuple)
        else tile
        for tile in image.tile
    ]
    # Pillow (13.0) maps a file that it knows by name into memory, and then turns a TIFF's pixels by the wrong sides.
    name, image.filename = image.filename, ""
    try:
        image.load()
    finally:
        image.filename = name


def as_array(image: Image.Image) -> Array:
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
            raise Refused("its 32-bit integers go beyond ±16,777,216, which float32 cannot hold exactly")
        array = wide.astype(np.float32)
    else:
        array = np.array(image, dtype=np.float32)
    if image.mode in ("LA", "RGBA"):
        return over_black(array)
    return array[:, :, None] if array.ndim == 2 else array


def over_black(image_HWC: Array) -> Array:
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
        raise Refused("a 16-bit PNG with one transparent colour is not read; save it with an alpha channel")
    samples = {4: 2, 2: 3, 6: 4}[data[25]]  # by colour type (PNG specification, IHDR)
    if samples == 2:  # grey and alpha: four bytes a pixel, the same as 8-bit RGBA
        return over_black(_unpacked(image, "RGBA").view(">u2").astype(np.uint16))
    # PNG is big-endian; read as if little-endian, the byte taken for the high one is the low one.
    name = "RGB" if samples == 3 else "RGBA"
    image_HWC = _unpacked(image, f"{name};16B").astype(np.uint16)
    image_HWC <<= 8  # in place: such an image may be large
    with Image.open(io.BytesIO(data), formats=("PNG",)) as again:
        image_HWC |= _unpacked(again, f"{name};16L")
    return over_black(image_HWC) if samples == 4 else image_HWC


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


def oriented(image_HWC: Array, orientation: int) -> Array:
    """Turn an array upright; `orientation` as EXIF 2.32 tag 0x0112 numbers it."""
    if orientation >= 5:  # 5 to 8 are 1 to 4 of the transposed frame
        image_HWC = image_HWC.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image_HWC = image_HWC[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image_HWC = image_HWC[::-1]
    return np.ascontiguousarray(image_HWC)


def check_tiff_samples(bits: tuple[int, ...], formats: tuple[int, ...]) -> None:
    """Refuse sample types that would be read wrongly or not at all (TIFF 6.0, BitsPerSample, SampleFormat)."""
    known = {1: (1, 2, 4, 8, 16, 32), 2: (16, 32), 3: (32,)}
    if bits[0] not in known.get(formats[0], ()) or len(set(bits)) > 1 or len(set(formats)) > 1:
        kind = {1: "unsigned integer", 2: "signed integer", 3: "float"}.get(formats[0], "other")
        raise Refused(
            f"its samples are {'/'.join(map(str, bits))}-bit {kind}; 8- and 16-bit unsigned, 16- and 32-bit "
            f"signed and 32-bit float TIFF are read"
        )
