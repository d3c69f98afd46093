"""examples/consumer.py answers as `predict` does or refuses an image, whatever file it is given."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from astroformer.classifier import Classifier
from astroformer.export import formats
from astroformer.export.graph import Graph, facts_of
from astroformer.images.bands import Bands
from astroformer.images.units import Units
from helpers.consumer import consume, consumed
from helpers.encoded import encode, png16, tiff
from helpers.exported import Case, classifier_of, pictures, scaled
from helpers.pages import ROOT

for package in ("onnxscript", "onnxruntime"):
    pytest.importorskip(package)

Kind = Callable[[], tuple[Case, dict[str, bytes], dict[str, bytes]]]
UINT16 = Units("uint16", 4095.0, brightest=(0.5, 1.0))


def fits(image: np.ndarray, *cards: str, bitpix: int = -32, axes: tuple[int, ...] = ()) -> bytes:
    """An image (height, width, bands) as a FITS file of one part, with further cards behind those that it needs."""
    data = np.moveaxis(image, -1, 0).astype({8: "u1", 16: ">i2", 32: ">i4", -32: ">f4", -64: ">f8"}[bitpix])
    shape = axes or data.shape
    sizes = [f"NAXIS{axis}  = {size:>20}" for axis, size in enumerate(reversed(shape), 1)]
    all_cards = [
        "SIMPLE  =                    T",
        f"BITPIX  = {bitpix:>20}",
        f"NAXIS   = {len(shape):>20}",
        *sizes,
        *cards,
    ]
    header, body = "".join(f"{card:<80}" for card in [*all_cards, "END"]).encode(), data.tobytes()
    return header.ljust(-(-len(header) // 2880) * 2880) + body.ljust(-(-len(body) // 2880) * 2880, b"\0")


def card(keyword: str, value: float | str) -> str:
    return f"{keyword:<8}= " + (f"'{value}'" if isinstance(value, str) else f"{value:>20}") + " / a comment"


def of_8_bits() -> tuple[Case, dict[str, bytes], dict[str, bytes]]:
    """A model of RGB, files that the example reads, and files that it refuses."""
    case = Case()
    image, *others = pictures(case, 12, (60, 41))
    rgb, grey = Image.fromarray(image), Image.fromarray(image).convert("L")
    some = iter(map(Image.fromarray, [*others, *pictures(case, 1, (40, 90), seed=1)]))
    exif = Image.Exif()
    exif[0x0112] = 6
    read = {
        "rgb.jpg": encode(next(some), "JPEG"),
        "turned.jpg": encode(next(some), "JPEG", exif=exif),
        "grey.jpg": encode(next(some).convert("L"), "JPEG"),
        "rgb.png": encode(next(some), "PNG"),
        "rgb.webp": encode(next(some), "WEBP", lossless=True),
        "rgb.bmp": encode(next(some), "BMP"),
        "lzw.tif": encode(next(some), "TIFF", compression="tiff_lzw"),
        "turned.tif": encode(next(some), "TIFF", tiffinfo={0x0112: 8}),
        "inverted.tif": tiff(np.asarray(next(some).convert("L"))[:, :, None], t262=0),
        "cube.fits": fits(np.asarray(next(some)), bitpix=8),
        "flat.jpg": encode(next(some), "JPEG"),
        "flat.png": encode(next(some), "PNG"),
    }
    refused = {
        "alpha.png": encode(rgb.convert("RGBA"), "PNG"),
        "palette.png": encode(rgb.convert("P"), "PNG"),
        "transparent.png": encode(rgb, "PNG", transparency=(0, 0, 0)),
        "one-bit.png": encode(grey.convert("1"), "PNG"),
        "deep-grey.png": encode(Image.fromarray(np.asarray(grey).astype(np.uint16) * 16), "PNG"),
        "deep-rgb.png": png16(image.astype(np.uint16) * 257),
        "deep-rgb.tif": tiff(image.astype(np.uint16) * 257),
        "four-bands.tif": tiff(np.concatenate([image, image[:, :, :1]], 2)),
        "two-pages.tif": encode(rgb, "TIFF", save_all=True, append_images=[rgb.rotate(90)]),
        "cmyk.jpg": encode(rgb.convert("CMYK"), "JPEG"),
        "moving.webp": encode(rgb, "WEBP", save_all=True, append_images=[rgb.rotate(90)]),
        "cut-off.jpg": encode(rgb, "JPEG")[:900],
        "text.jpg": b"no image",
        "empty.png": b"",
        "floats.fits": fits(image),
        "one-band.fits": fits(image[:, :, :1], bitpix=8),
    }
    return case, read, refused


def of_16_bits() -> tuple[Case, dict[str, bytes], dict[str, bytes]]:
    case = Case(bands=1, input={"units": UINT16, "dtype": "float16"})
    image, *others = pictures(case, 8, (50, 60))
    some, flat = iter(others), (Image.fromarray(other[:, :, 0]) for other in pictures(case, 3, seed=1))
    read = {
        "plain.tif": encode(next(flat), "TIFF"),
        "deflate.tif": encode(next(flat), "TIFF", compression="tiff_adobe_deflate"),
        "turned.tif": encode(next(flat), "TIFF", tiffinfo={0x0112: 6}),
        "big-endian.tif": tiff(next(some), ">"),
        "big-endian-deflate.tif": tiff(next(some), ">", 8),
        "grey.png": png16(next(some)),
        "unsigned.fits": fits(next(some) - 32768.0, card("BZERO", 32768), card("BSCALE", 1), bitpix=16),
    }
    refused = {
        "8-bits.png": encode(Image.fromarray((image[:, :, 0] // 16).astype(np.uint8)), "PNG"),
        "inverted.tif": tiff(image, t262=0),
        "signed.tif": tiff(image.astype(np.int16)),
        "beyond-white.tif": encode(Image.fromarray(image[:, :, 0] + np.uint16(4000)), "TIFF"),
        "two-channels.tif": tiff(np.concatenate([image, image], 2)),
        "signed.fits": fits(image, bitpix=16),
    }
    return case, read, refused


def of_floats() -> tuple[Case, dict[str, bytes], dict[str, bytes]]:
    bands = Bands(("g", "r", "z"), ("nJy",) * 3)
    case = Case(bands=3, input={**scaled("asinh", 3, missing="median"), "bands": bands})
    image, *others = pictures(case, 13, (50, 60))
    some, named = iter(others), card("BANDS", "grz")
    apart = [card(f"BAND{i}", name) for i, name in enumerate("grz")]

    def whole() -> np.ndarray:
        """With -32768 where a pixel has no value."""
        return np.nan_to_num(next(some).round(), nan=-32768)

    read = {
        "float32.fits": fits(next(some), named),
        "float64.fit": fits(next(some), named, bitpix=-64),
        "scaled-floats.fits": fits(next(some) / 3, named, "BSCALE  = 3.0D0", card("BZERO", 0.1)),
        "bands-apart.fits": fits(next(some), *apart),
        "bands-twice.fits": fits(next(some), card("BANDS", "g,r,z"), *apart),
        "scaled.fits": fits(np.nan_to_num(next(some)) * 10, named, card("BSCALE", 0.1), card("BZERO", 5.0), bitpix=16),
        "whole.fits": fits(np.nan_to_num(next(some)), named, bitpix=16),
        "blank.fits": fits(whole(), named, card("BLANK", -32768), bitpix=16),
        "blank-scaled.fits": fits(whole(), named, card("BLANK", -32768), card("BSCALE", 0.9), bitpix=16),
        "long-axes.fits": fits(next(some), named, axes=(1, 3, 50, 60)),
        "unit.fits": fits(next(some), named, card("BUNIT", "nJy")),
        "said-end.fits": fits(next(some), named, "COMMENT IT HAS AN END", "", ""),
    }
    infinite = image.copy()
    infinite[0, 0] = np.inf  # beyond the frame that is cut out
    empty = fits(image[:0], named)[:2880].replace(b"NAXIS   =                    3", b"NAXIS   =                    0")
    extension = fits(image, named).replace(b"SIMPLE  =                    T", b"XTENSION= 'IMAGE   '          ")
    refused = {
        "without-names.fits": fits(image),
        "other-order.fits": fits(image, card("BANDS", "zrg")),
        "other-unit.fits": fits(image, named, card("BUNIT", "adu")),
        "one-band.fits": fits(image[:, :, :1], card("FILTER", "g")),
        "two-axes.fits": fits(image[:, :, :1], card("FILTER", "g"), axes=(50, 60)),
        "two-axes-of-bands.fits": fits(np.concatenate([image, image], 2), named, axes=(2, 3, 50, 60)),
        "infinite.fits": fits(infinite, named),
        "nothing.fits": fits(np.full_like(image, np.nan), named),
        "wide.fits": fits(np.nan_to_num(image), named, bitpix=32),
        "parts.fits": fits(image, named) + extension,
        "in-an-extension.fits": empty + extension,
        "cut-off.fits": fits(image, named)[:-5000],
        "no-end.fits": fits(image, named)[:160],
        "not-fits.fits": fits(image, named).replace(b"=                    T", b"=                    F", 1),
        "packed.fits.gz": gzip.compress(fits(image, named)),
        "picture.png": encode(Image.fromarray(np.nan_to_num(image).clip(0, 255).astype(np.uint8)), "PNG"),
    }
    return case, read, refused


def graph_of(classifier: Classifier, file: Path, takes: str = "pixels") -> Path:
    graph = Graph(classifier, takes)  # type: ignore[arg-type]
    formats.write(graph, facts_of(classifier, graph, "float32"), "onnx", file)
    return file


@pytest.mark.filterwarnings("ignore:these images do not say what their bands are")
@pytest.mark.parametrize("kind", [of_8_bits, of_16_bits, of_floats])
def test_an_image_is_answered_as_predict_does_or_refused(kind: Kind, tmp_path: Path) -> None:
    case, read, refused = kind()
    classifier, folder = classifier_of(case), tmp_path / "images"
    folder.mkdir()
    for name, content in {**read, **refused}.items():
        (folder / name).write_bytes(content)
    files = [folder / name for name in (*read, *refused)]
    rows = consumed(graph_of(classifier, tmp_path / "graph.onnx"), [*files, folder / "nowhere.fits"])
    want_NK = classifier.predict(files[: len(read)], quiet=True).probabilities_NK
    assert want_NK.std(0).max() > 0.01  # else anything would agree
    for file, row, want_K in zip(files, rows, want_NK, strict=False):
        assert (row["file"], row["error"]) == (str(file), "")
        found_K = [float(row[f"p:{name}"]) for name in classifier.classes]
        # A hundred times what trained networks show: the answers of these are spread, see `classifier_of`.
        np.testing.assert_allclose(found_K, want_K, atol=1e-4, err_msg=file.name)
        assert row["prediction"] == classifier.classes[want_K.argmax()]
        assert float(row["confidence"]) == max(found_K)
    for row in rows[len(read) :]:
        assert row["error"], row
        assert "0x" not in row["error"]
        assert row["prediction"] == row["confidence"] == row["p:disc"] == ""
    assert len(rows) == len(files) + 1


def test_a_graph_of_prepared_images_is_refused(tmp_path: Path) -> None:
    classifier = classifier_of(Case())
    ran = consume(graph_of(classifier, tmp_path / "graph.onnx", "prepared"), "image.png")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "does not take raw pixels; write one that does with astroformer export --takes pixels" in ran.stderr


def test_another_unit_is_told_and_no_answer_is_a_status(tmp_path: Path) -> None:
    case = Case(bands=1, input={"units": UINT16, "dtype": "float16"})
    graph = graph_of(classifier_of(case), tmp_path / "graph.onnx")
    files = [tmp_path / "six-bits.tif", tmp_path / "text.tif"]
    files[0].write_bytes(encode(Image.fromarray(pictures(case, 1)[0][:, :, 0] // 64), "TIFF"))
    files[1].write_bytes(b"no image")
    ran = consume(graph, *files)
    assert ran.returncode == 0
    assert "far brighter or fainter than those that the model learned from" in ran.stderr
    assert consume(graph, files[1]).returncode == 2


def test_its_line_of_use_is_its_head() -> None:
    ran = consume()
    assert ran.returncode == 1
    assert ran.stderr.startswith("usage: Asks an exported graph about image files")


def test_the_image_for_docker_holds_what_is_there_and_needed() -> None:
    file = (ROOT / "examples" / "Dockerfile").read_text(encoding="utf-8")
    copied = re.findall(r"examples/\w+\.py", file)
    assert sorted(copied) == ["examples/consumer.py", "examples/plain_fits.py"]
    assert all((ROOT / place).is_file() for place in copied)
    packages = re.findall(r'"(\S+>=\S+)"', file)
    assert [package.partition(">=")[0] for package in packages] == ["numpy", "pillow", "onnxruntime"]
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert all(f'"{package}"' in project for package in packages)
