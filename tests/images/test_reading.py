from __future__ import annotations

import io
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from astroformer.images import limits
from astroformer.images.reading import UnreadableImage, array_of, read_image
from helpers.encoded import encode, png16, tiff

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (12, 17, 3)).astype(np.uint8)
GREY16 = RNG.integers(0, 65536, (12, 17)).astype(np.uint16)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_lossless_rgb_is_exact(kind: str, tmp_path: Path) -> None:
    data = encode(Image.fromarray(RGB), kind, **({"lossless": True} if kind == "WEBP" else {}))
    file = tmp_path / "image"
    file.write_bytes(data)
    for source in (data, file, str(file)):
        image = read_image(source)
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, RGB)


def test_jpeg_equals_pillow_and_grey_keeps_one_channel() -> None:
    data = encode(Image.fromarray(RGB), "JPEG")
    np.testing.assert_array_equal(read_image(data), np.asarray(Image.open(io.BytesIO(data))))
    assert read_image(encode(Image.fromarray(RGB[..., 0]), "JPEG")).shape == (12, 17, 1)


def test_cmyk_jpeg_becomes_rgb() -> None:
    flat = Image.new("RGB", (16, 16), (200, 40, 90))
    image = read_image(encode(flat.convert("CMYK"), "JPEG", quality=95))
    assert image.shape == (16, 16, 3)
    np.testing.assert_allclose(image.astype(int), np.broadcast_to([200, 40, 90], image.shape), atol=4)


def test_one_bit_palette_and_alpha() -> None:
    mask = RGB[..., 0] > 127
    np.testing.assert_array_equal(read_image(encode(Image.fromarray(mask), "PNG"))[..., 0], mask * 255)

    palette = Image.fromarray(RGB).quantize(16)
    np.testing.assert_array_equal(read_image(encode(palette, "PNG")), np.asarray(palette.convert("RGB")))
    clear = read_image(encode(palette, "PNG", transparency=3))
    np.testing.assert_array_equal(clear, np.asarray(palette.convert("RGB")) * (np.asarray(palette) != 3)[..., None])

    rgba = np.dstack([RGB, RGB[..., 1]])
    over_black = np.rint(RGB * (RGB[..., 1:2] / 255)).astype(np.uint8)
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(read_image(encode(Image.fromarray(rgba), kind)), over_black)
    np.testing.assert_array_equal(
        read_image(encode(Image.fromarray(rgba), "WEBP", lossless=True, exact=True)), over_black
    )
    grey_alpha = np.ascontiguousarray(RGB[..., :2])
    grey = np.rint(RGB[..., :1] * (RGB[..., 1:2] / 255)).astype(np.uint8)
    np.testing.assert_array_equal(read_image(encode(Image.fromarray(grey_alpha, "LA"), "PNG")), grey)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_16_bit_is_exact(kind: str) -> None:
    image = read_image(encode(Image.fromarray(GREY16), kind))
    assert image.dtype == np.uint16
    np.testing.assert_array_equal(image[..., 0], GREY16)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_of_16_bits_keeps_every_bit(channels: int) -> None:
    pixels = RNG.integers(0, 65536, (5, 7, channels)).astype(np.uint16)
    image = read_image(png16(pixels))
    assert image.dtype == np.uint16
    if channels in (2, 4):
        pixels = np.rint(pixels[..., :-1] * (pixels[..., -1:] / 65535)).astype(np.uint16)
    np.testing.assert_array_equal(image, pixels)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("compression", "predictor"), [(1, 1), (8, 1), (8, 2)])
@pytest.mark.parametrize(
    ("dtype", "bands"),
    [*[("u2", n) for n in (1, 2, 3, 4)], ("u1", 3), ("u1", 5), ("f4", 1), ("f4", 3)],
)
def test_tiff_bands_keep_every_bit(dtype: str, bands: int, compression: int, predictor: int, order: str) -> None:
    if dtype == "f4" and predictor == 2:
        pytest.skip("an integer predictor on floats is refused, see below")
    pixels = RNG.integers(0, 256 if dtype == "u1" else 65536, (6, 5, bands)).astype(dtype)
    image = read_image(tiff(pixels, order, compression, t317=predictor))
    assert image.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(image, pixels)


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_a_band_of_a_tiff_is_alpha_where_the_file_says_so(dtype: str) -> None:
    pixels = RNG.integers(0, 256 if dtype == "u1" else 65536, (6, 5, 4)).astype(dtype)
    full = 1 if dtype == "f4" else np.iinfo(dtype).max
    rgb, alpha = pixels[..., :3], pixels[..., 3:]
    unnamed, multiplied, alone = (read_image(tiff(pixels, t338=kind)) for kind in (0, 1, 2))
    np.testing.assert_array_equal(unnamed, pixels)
    product = rgb * alpha if dtype == "f4" else (rgb * (alpha / full)).round().astype(dtype)
    np.testing.assert_array_equal(alone, product)
    if dtype != "u1":  # Pillow divides colours of 8 bits by alpha, so that a pixel brighter than its alpha is cut
        np.testing.assert_array_equal(multiplied, rgb)


def test_float_and_signed_tiff() -> None:
    floats = RNG.normal(size=(6, 5, 1)).astype(np.float32)
    np.testing.assert_array_equal(read_image(tiff(floats)), floats)
    for dtype, limit in ((np.int16, 3000), (np.int32, 2**24)):
        signed = RNG.integers(-limit, limit, (6, 5, 1)).astype(dtype)
        for order in "<>":
            for compression in (1, 8):
                image = read_image(tiff(signed, order, compression))
                assert image.dtype == np.float32
                np.testing.assert_array_equal(image, signed)
    with pytest.raises(UnreadableImage, match="float32 cannot hold"):
        read_image(tiff(np.full((2, 2, 1), 2**24 + 1, np.int32)))


def test_white_is_zero_tiff_is_inverted() -> None:
    np.testing.assert_array_equal(read_image(tiff(GREY16[..., None], t262=0))[..., 0], 65535 - GREY16)
    np.testing.assert_array_equal(read_image(tiff(RGB[..., :1], t262=0)), 255 - RGB[..., :1])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("PNG", "JPEG", "TIFF", "WEBP"):
        data = encode(Image.fromarray(RGB), kind, exif=exif)
        upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
        np.testing.assert_array_equal(read_image(data), upright)
        assert upright.shape == ((17, 12, 3) if orientation >= 5 else (12, 17, 3))
    # The same turn by the two ways around Pillow.
    data = encode(Image.fromarray(RGB), "PNG", exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    deep = RGB.astype(np.uint16) * 257
    raw_exif = b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x0112, 3, 1, orientation) + bytes(4)
    np.testing.assert_array_equal(read_image(png16(deep, raw_exif)), upright.astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_image(tiff(deep, t274=orientation)), upright.astype(np.uint16) * 257)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_file_that_pillow_opened_is_read_as_its_bytes_are(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for pixels in (RGB, RGB[:, :, 0].copy(), GREY16):
        for kind in ("png", "tif"):
            file = tmp_path / f"image.{kind}"
            Image.fromarray(pixels).save(file, exif=exif)
            with Image.open(file) as image:
                np.testing.assert_array_equal(array_of(image, "image"), read_image(file.read_bytes()))
                assert image.filename == str(file)


def test_damaged_files_name_path_and_reason(tmp_path: Path) -> None:
    big = Image.fromarray(RNG.integers(0, 256, (64, 64, 3)).astype(np.uint8))
    bad = {
        "empty.png": (b"", "empty"),
        "text.jpg": (b"these are words", "not a JPEG, PNG, TIFF, WebP, BMP, GIF or FITS"),
        "ppm.jpg": (encode(Image.fromarray(RGB), "PPM"), "not a JPEG, PNG, TIFF, WebP, BMP, GIF or FITS"),
        "infinite.tif": (tiff(np.full((2, 2, 1), np.inf, np.float32)), "4 of its 4 values are NaN or infinite"),
        "double.tif": (tiff(np.zeros((2, 2, 1), np.float64)), "64-bit float"),
        "planar.tif": (tiff(np.zeros((2, 2, 3), np.uint16), t284=2), "plane by plane"),
        "predicted.tif": (tiff(np.zeros((2, 2, 3), np.float32), "<", 8, t317=2), "predictor"),
        "deep.png": (png16(np.zeros((9, 9, 3), np.uint16))[:-30], "damaged"),
    }
    for kind, name in (("JPEG", "cut.jpg"), ("PNG", "cut.png"), ("TIFF", "cut.tif"), ("WEBP", "cut.webp")):
        data = encode(big, kind)
        bad[name] = (data[: len(data) // 2], "damaged")
        bad["head" + name] = (data[:20], "damaged")
    for name, (data, reason) in bad.items():
        file = tmp_path / name
        file.write_bytes(data)
        with pytest.raises(UnreadableImage, match=reason) as caught:
            read_image(file)
        assert caught.value.file == str(file)
        assert str(file) in str(caught.value)
    with pytest.raises(UnreadableImage, match="No such file"):
        read_image(tmp_path / "missing.png")
    with pytest.raises(UnreadableImage, match="it is a folder"):
        read_image(tmp_path)


def test_every_cut_of_a_file_is_an_error_or_whole(tmp_path: Path) -> None:
    """No cut may give another picture: what is read from a part is what is read from the whole."""
    for kind in ("PNG", "TIFF", "WEBP", "JPEG"):
        data = encode(Image.fromarray(RGB), kind)
        whole = read_image(data)
        for end in range(0, len(data), 7):
            try:
                part = read_image(data[:end])
            except UnreadableImage:
                continue
            np.testing.assert_array_equal(part, whole, err_msg=f"{kind} cut at {end} of {len(data)}")


def test_absurd_sizes_and_several_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = bytearray(encode(Image.fromarray(RGB), "PNG"))
    bomb[16:24] = struct.pack(">II", 60000, 60000)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bytes(bomb[12:29])))
    with pytest.raises(UnreadableImage, match="pixels"):
        read_image(bytes(bomb))
    monkeypatch.setattr(limits, "MAX_PIXELS", 12 * 17 - 1)
    for data in (encode(Image.fromarray(RGB), "PNG"), tiff(RGB.astype(np.uint16))):
        with pytest.raises(UnreadableImage, match="17×12 is more than 203 pixels"):
            read_image(data)
    monkeypatch.undo()
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    for kind in ("TIFF", "WEBP", "PNG"):
        with pytest.raises(UnreadableImage, match="2 pages or frames"):
            read_image(encode(frames[0], kind, save_all=True, append_images=frames[1:]))


def test_the_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(UnreadableImage("a.png", "empty")))
    assert (error.file, error.reason, str(error)) == (
        "a.png",
        "empty",
        "cannot read the image 'a.png': empty.",
    )
