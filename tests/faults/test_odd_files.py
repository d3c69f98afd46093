"""Whatever lies under a name: it is read rightly, or its row says why not, in bounded time and memory."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from astroformer.classifier import Classifier
from astroformer.errors import UserError
from astroformer.images import limits, pictures
from astroformer.images import tiff as tiff_bands
from astroformer.images.reading import UnreadableImage, read_image
from helpers.encoded import encode, tiff

RNG = np.random.default_rng(6)
PIXELS = RNG.integers(0, 256, (32, 32, 3)).astype(np.uint8)


def test_bmp_and_gif_of_one_frame_are_read() -> None:
    np.testing.assert_array_equal(read_image(encode(Image.fromarray(PIXELS), "BMP")), PIXELS)
    palette = Image.fromarray(PIXELS).quantize(64)
    np.testing.assert_array_equal(read_image(encode(palette, "GIF")), np.asarray(palette.convert("RGB")))
    grey = Image.fromarray(PIXELS[..., 0])
    assert read_image(encode(grey, "GIF")).shape[:2] == (32, 32)
    frames = encode(palette, "GIF", save_all=True, append_images=[Image.fromarray(255 - PIXELS).quantize(64)])
    with pytest.raises(UnreadableImage, match="2 pages or frames"):
        read_image(frames)


@pytest.mark.skipif(os.name == "nt", reason="no pipes and devices among files there")
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "loop", "nowhere", "name"])
def test_only_regular_files_are_opened(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "x.png"
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "name":
        file = tmp_path / "x\0.png"
    else:
        file.symlink_to({"device": "/dev/zero", "loop": file, "nowhere": tmp_path / "y"}[kind])
    why = {"pipe": "a pipe", "device": "a device", "folder": "a folder", "name": "its name"}.get(kind, "cannot read")
    began = time.monotonic()
    with pytest.raises(UnreadableImage, match=why):
        read_image(file)
    assert time.monotonic() - began < 5


HASHED = """
import os, sys
from pathlib import Path
from astroformer.images.hashes import hash_files
folder = Path(sys.argv[1])
os.mkfifo(folder / "pipe.png")
(folder / "device.png").symlink_to("/dev/zero")
(folder / "loop.png").symlink_to("loop.png")
with (folder / "sparse.png").open("wb") as file:
    file.truncate(2**40)
paths = [str(folder / name) for name in ("pipe.png", "device.png", "loop.png", "sparse.png", "x\\0.png", "none.png")]
for cache in (None, folder / "cache", folder / "cache"):
    assert len(set(hash_files(paths, cache))) == 6
"""


@pytest.mark.skipif(os.name == "nt", reason="no pipes and devices among files there")
def test_what_is_never_read_is_not_hashed_either(tmp_path: Path) -> None:
    # In a process of its own, since a thread that waits for a pipe can't be ended.
    subprocess.run([sys.executable, "-c", HASHED, str(tmp_path)], check=True, timeout=30)


def test_arrays_of_any_byte_order_are_the_same_image(classifier: Classifier) -> None:
    deep = PIXELS.astype(np.uint16) * 257
    for kind, white in ((np.uint16, 65535.0), (np.uint8, None)):
        own = Classifier(classifier.network, classifier.preprocessing, classifier.classes, classifier.info, white=white)
        image = deep if kind is np.uint16 else PIXELS
        expected = own.predict(image).probabilities_NK
        np.testing.assert_array_equal(
            own.predict(image.astype(image.dtype.newbyteorder(">"))).probabilities_NK, expected
        )


def test_what_only_looks_like_images_is_refused(classifier: Classifier) -> None:
    masked = np.ma.masked_array(PIXELS, mask=PIXELS > 200)
    with pytest.raises(UserError, match="masked values"):
        classifier.predict(masked)
    with pytest.raises(UserError, match="masked values"):
        classifier.predict(np.ma.stack([masked, masked]))
    assert len(classifier.predict(np.ma.masked_array(PIXELS))) == 1
    data = encode(Image.fromarray(PIXELS), "PNG")
    with pytest.raises(UserError, match=r"an opened file \(BytesIO\) is no image"):
        classifier.predict(io.BytesIO(data))  # type: ignore[arg-type]
    for given in (data, bytearray(data), memoryview(data)):
        assert len(classifier.predict(given)) == 1


def claimed_png(width: int, height: int, bits: int, colour: int) -> bytes:
    """A PNG of zeros that is a thousandth as large as its pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = 1 + width * bits // 8 * {0: 1, 2: 3, 6: 4}[colour]
    packed = zlib.compressobj(1)
    data = b"".join([*(packed.compress(bytes(row)) for _ in range(height)), packed.flush()])
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_bytes_of_pixels_are_judged_by_the_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_BYTES", 10_000)
    assert read_image(claimed_png(40, 40, 16, 2)).shape == (40, 40, 3)
    loaded: list[object] = []
    for module in (pictures, tiff_bands):
        monkeypatch.setattr(module, "load", loaded.append)
    monkeypatch.setattr(pictures, "_unpacked", lambda *words: loaded.append(words))
    for data in (
        claimed_png(40, 40, 16, 6),
        encode(Image.new("RGB", (60, 60)), "PNG"),
        encode(Image.new("F", (51, 51)), "TIFF"),
        encode(Image.new("I;16", (80, 80)), "TIFF"),
    ):
        with pytest.raises(UnreadableImage, match=r"bytes, more than 10,000; cut it"):
            read_image(data)
    assert not loaded
    with pytest.raises(UnreadableImage, match="more than 10,000"):
        read_image(tiff(np.zeros((40, 40, 7), np.uint8)))  # bands that Pillow does not count
    assert not loaded


def test_large_images_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_LARGE", 1_000)
    inside, most = [0], [0]
    load = pictures.load

    def slow(image: object) -> None:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.05)
        load(image)  # type: ignore[arg-type]
        inside[0] -= 1

    monkeypatch.setattr(pictures, "load", slow)
    data = encode(Image.fromarray(PIXELS), "PNG")
    threads = [threading.Thread(target=read_image, args=(data,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


def test_what_decoders_say_becomes_the_reason_of_the_row(tmp_path: Path) -> None:
    """In a process of its own, where nothing but the row may reach the screen."""
    damaged = []
    for compression in ("tiff_deflate", "tiff_lzw", "jpeg"):
        data = bytearray(encode(Image.fromarray(PIXELS), "TIFF", compression=compression))
        data[120:400] = b"\xff" * 280
        damaged.append(bytes(data))
    exif = encode(Image.fromarray(PIXELS), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(40))
    for i, data in enumerate([*damaged, exif]):
        (tmp_path / f"{i}.tif").write_bytes(data)
    script = """
import sys
from astroformer.images.reading import UnreadableImage, read_image
for file in sys.argv[1:]:
    try:
        print(read_image(file).shape)
    except UnreadableImage as error:
        print(error.reason)
"""
    files = [str(tmp_path / f"{i}.tif") for i in range(4)]
    done = subprocess.run([sys.executable, "-c", script, *files], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    *reasons, whole = done.stdout.splitlines()
    assert len(reasons) == 3
    assert all(reason.startswith("damaged (") and "-2" not in reason for reason in reasons)
    assert whole == "(32, 32, 3)"  # a damaged EXIF block says nothing of the pixels


def test_images_in_memory_are_taken_or_refused(classifier: Classifier, tmp_path: Path) -> None:
    picture = Image.fromarray(PIXELS)
    picture.save(tmp_path / "a.png")
    expected = classifier.predict(tmp_path / "a.png").probabilities_NK[0]
    chw = torch.from_numpy(PIXELS).permute(2, 0, 1)
    one = [
        picture,
        encode(Image.fromarray(PIXELS), "PNG"),
        PIXELS,
        PIXELS[None],
        chw,
        chw[None],
        [picture],
        (encode(Image.fromarray(PIXELS), "BMP"),),
        [chw, PIXELS],
    ]
    for images in (*one, (image for image in [PIXELS, tmp_path / "a.png"]), [str(tmp_path / "a.png")]):
        for probabilities_K in classifier.predict(images).probabilities_NK:
            np.testing.assert_allclose(probabilities_K, expected, atol=1e-6)
    clear = Image.fromarray(np.dstack([PIXELS, np.zeros((32, 32), np.uint8)]))
    black = classifier.predict(np.zeros_like(PIXELS)).probabilities_NK
    np.testing.assert_allclose(classifier.predict(clear).probabilities_NK, black)  # alpha, as in a file

    wrong: list[object] = [None, 3, [None], np.zeros(5)]
    wrong += [torch.zeros(5), [torch.zeros(2, 3, 32, 32)], {"a": 1}, np.array([None])]
    for images in wrong:
        with pytest.raises(UserError):
            classifier.predict(images)  # type: ignore[arg-type]
    for images in (
        PIXELS.astype(np.int64),
        np.full((2, 32, 32, 3), np.nan),
        b"words",
        np.zeros((2, 32, 32, 5), np.uint8),
    ):
        with pytest.raises(UserError, match=r"none of \d images can be taken. The first"):
            classifier.predict(images)
    mixed = classifier.predict([PIXELS, b"words"])
    assert [bool(error) for error in mixed.errors] == [False, True]
