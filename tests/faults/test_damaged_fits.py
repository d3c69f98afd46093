"""Damaged FITS, in folders, stacks and mosaics: a right image or one sentence, before anything large is allocated."""

from __future__ import annotations

import gzip
import io
import os
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from astroformer.errors import UserError
from astroformer.images.reading import UnreadableImage, read_image
from astroformer.images.sources import open_source
from helpers.command_line import TINY, Run, table
from helpers.survey import write_mosaic
from mock_survey import field, survey, tan_header, write_catalog, write_folder

fits = pytest.importorskip("astropy.io.fits")
RNG = np.random.default_rng(7)
PLANE = RNG.normal(size=(40, 40)).astype(np.float32)


def encoded(*hdus: Any, **words: Any) -> bytes:
    stream = io.BytesIO()
    fits.HDUList(list(hdus)).writeto(stream, **words)
    return stream.getvalue()


def image_hdu(values: Any = PLANE, name: str = "SCI", **cards: Any) -> Any:
    return fits.ImageHDU(values, fits.Header({**tan_header(10.0, 5.0, 40), **cards}), name=name)


def good(**words: Any) -> bytes:
    return encoded(fits.PrimaryHDU(), image_hdu(), **words)


def replaced(data: bytes, keyword: str, value: str) -> bytes:
    """The data with another value of a keyword, where it stands for the last time."""
    at = data.rindex(f"{keyword:8}=".encode())
    return data[:at] + f"{keyword:8}= {value:>20}".ljust(80).encode() + data[at + 80 :]


def added(data: bytes, keyword: str, value: str) -> bytes:
    """The data with one more card in the last header."""
    at = data.rindex(b"END".ljust(80))
    return data[:at] + f"{keyword:8}= {value:>20}".ljust(80).encode() + b"END".ljust(80) + data[at + 160 :]


def without_end(data: bytes) -> bytes:
    at = data.rindex(b"END     ")
    return data[:at] + b"ENX" + data[at + 3 :]


def one_value_changed(data: bytes) -> bytes:
    made = bytearray(data)
    made[-4000] ^= 1
    return bytes(made)


def compressed(values: Any = PLANE) -> bytes:
    header = fits.Header(tan_header(10.0, 5.0, 40))
    return encoded(fits.PrimaryHDU(), fits.CompImageHDU(values, header, name="SCI", compression_type="RICE_1"))


def tiles_lost(data: bytes, descriptors: bool = False) -> bytes:
    """Compressed data whose tiles are overwritten, or the descriptors that lead to them."""
    with fits.open(io.BytesIO(data), disable_image_compression=True) as opened:
        begin = opened[1].fileinfo()["datLoc"]
        heap = begin + opened[1]._theap
    return (
        data[:begin] + b"\x7f" * (heap - begin) + data[heap:] if descriptors else data[:heap] + bytes(len(data) - heap)
    )


def packed_as(kind: str, change: Callable[[bytearray, int], object]) -> bytes:
    """A compressed image of counts without checksums, changed from the first byte of its tiles on."""
    counts = RNG.poisson(200, (40, 40)).astype(np.int16)
    words = {"tile_shape": (20, 40)} if kind == "HCOMPRESS_1" else {}
    data = bytearray(encoded(fits.PrimaryHDU(), fits.CompImageHDU(counts, compression_type=kind, name="SCI", **words)))
    with fits.open(io.BytesIO(data), disable_image_compression=True) as opened:
        change(data, opened[1].fileinfo()["datLoc"] + opened[1]._theap)
    return bytes(data)


def put(*words: int, at: int, size: int) -> Callable[[bytearray, int], object]:
    """Writes whole numbers of so many bytes behind a place."""

    def change(data: bytearray, place: int) -> None:
        new = b"".join(word.to_bytes(size, "big") for word in words)
        data[place + at : place + at + len(new)] = new

    return change


TABLE = encoded(fits.PrimaryHDU(), fits.BinTableHDU.from_columns([fits.Column("x", "J", array=[1, 2])], name="CAT"))

# Of every file: what it is, and what is said of it wherever it is met.
DAMAGED: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "empty|does not begin as FITS"),
    "header cut off": (lambda: good()[:3500], "the header of HDU 1 has no END, or is cut off"),
    "data cut off": (lambda: good()[:-4000], r"HDU 1 'SCI' claims 6,400 bytes of data, and [0-9,]+ are there"),
    "no END": (lambda: without_end(good()), "the header of HDU 1 has no END"),
    "no pixels": (lambda: encoded(fits.PrimaryHDU()), "it holds no image .HDU 0 has no rows of pixels"),
    "NAXIS1 = 0": (lambda: replaced(good(), "NAXIS1", "0"), "it holds no image|something else than an extension"),
    "a table": (lambda: TABLE, "it holds no image .HDU 1 'CAT' is a table"),
    "huge": (lambda: replaced(replaced(good(), "NAXIS1", "99999999"), "NAXIS2", "99999999"), "claims 39,999"),
    "huge, compressed": (lambda: replaced(compressed(), "ZNAXIS1", "99999999"), "compressed tiles, and 40 are there"),
    "beyond all numbers": (lambda: replaced(good(), "NAXIS1", "9" * 20), "says NAXIS1 = 99999999999999999999"),
    "negative": (lambda: replaced(good(), "NAXIS1", "-40"), "the header of HDU 1 says NAXIS1 = -40"),
    "BITPIX": (lambda: replaced(good(), "BITPIX", "12"), "the header of HDU 1 says BITPIX = 12"),
    "no BITPIX": (lambda: good().replace(b"BITPIX  =", b"BITPIXX ="), "the header of HDU 0 has no BITPIX"),
    "NAXIS = T": (lambda: replaced(good(), "NAXIS", "T"), "says NAXIS = T"),
    "twice the same name": (
        lambda: encoded(fits.PrimaryHDU(), image_hdu(), image_hdu()),
        "2 of its parts are called 'SCI'; if they are bands, say @hdu=1,2",
    ),
    "other sizes": (
        lambda: encoded(fits.PrimaryHDU(), image_hdu(), image_hdu(PLANE[:20], name="G")),
        "several images that are no bands of one",
    ),
    "gzip cut off": (lambda: gzip.compress(good())[:-500], "damaged gzip|unpack a file in gzip"),
    "DATASUM": (lambda: one_value_changed(good(checksum=True)), "HDU 1 'SCI' has other data than its DATASUM says"),
    "CHECKSUM": (lambda: replaced(good(checksum=True), "CRVAL1", "99.0"), "is not what its CHECKSUM says"),
    "not FITS itself": (lambda: good()[:29] + b"F" + good()[30:], "it does not conform to FITS .SIMPLE is not T"),
    "BZERO of words": (lambda: replaced(good(), "CD1_2", "'words'").replace(b"CD1_2   =", b"BZERO   ="), "BZERO = 'w"),
    "descriptors": (lambda: tiles_lost(compressed(), descriptors=True), "compressed tile 0 lies beyond its data"),
    "BSCALE twice": (
        lambda: added(added(good(), "BSCALE", "2.0"), "BSCALE", "3.0"),
        "the header of HDU 1 says BSCALE twice, and differently",
    ),
    "NAXIS1 twice": (lambda: added(good(), "NAXIS1", "99"), "says NAXIS1 twice, and differently"),
    "DATASUM of words": (lambda: replaced(good(checksum=True), "DATASUM", "'words'"), "says DATASUM = 'words'"),
    "DATASUM, a number": (lambda: added(good(), "DATASUM", "12345"), "has other data than its DATASUM says"),
    "CHECKSUM of the first part": (
        lambda: good(checksum=True).replace(b"conforms to", b"complies to", 1),
        "HDU 0 is not what its CHECKSUM says",
    ),
    "columns without end": (
        lambda: TABLE.replace(b"TFIELDS =                    1", b"TFIELDS =            999999999"),
        "TFIELDS",
    ),
    "an empty table": (
        lambda: TABLE.replace(b"NAXIS1  =                    4", b"NAXIS1  =                    0"),
        "a table of 0×2",
    ),
    "HCOMPRESS of another size": (
        lambda: packed_as("HCOMPRESS_1", put(20, 41, at=2, size=4)),
        "tile 0 is not of the size",
    ),
    "PLIO of another length": (lambda: packed_as("PLIO_1", put(32767, at=4, size=2)), "tile 0 is not of the size"),
    "RICE of 8 bytes": (
        lambda: replaced(packed_as("RICE_1", lambda data, at: 0), "ZVAL2", "8"),
        "have 8 bytes before RICE",
    ),
    "words between": (lambda: good()[:2880] + b"x" * 2880 + good()[2880:], "behind HDU 0 something else than an ext"),
}

# Of pixels, which are known when an image is read.
PIXELS: dict[str, tuple[Callable[[], bytes], str]] = {
    "NaN alone": (lambda: encoded(fits.PrimaryHDU(), image_hdu(PLANE * np.nan)), "none of its pixels has a value"),
    "infinite": (lambda: encoded(fits.PrimaryHDU(), image_hdu(PLANE * np.inf)), "values are infinite"),
    "BSCALE = 0": (lambda: replaced(good(), "CD1_2", "0").replace(b"CD1_2   =", b"BSCALE  ="), "says BSCALE = 0"),
    "beyond float32": (lambda: encoded(fits.PrimaryHDU(), image_hdu(PLANE.astype(np.float64) * 1e200)), "float32 ends"),
    "wide numbers": (lambda: encoded(fits.PrimaryHDU(), image_hdu(np.full((40, 40), 2**30, np.int32))), "exactly"),
    "tiles": (lambda: tiles_lost(compressed()), "damaged"),
}


@pytest.mark.parametrize("kind", [*DAMAGED, *PIXELS])
def test_a_damaged_image(kind: str, tmp_path: Path) -> None:
    make, why = (DAMAGED | PIXELS)[kind]
    (tmp_path / "x.fits").write_bytes(make())
    tracemalloc.start()
    with pytest.raises(UnreadableImage, match=why) as caught:
        read_image(tmp_path / "x.fits")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30e6
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


@pytest.mark.parametrize("kind", [*DAMAGED, *PIXELS])
def test_a_damaged_mosaic(kind: str, tmp_path: Path) -> None:
    make, why = (DAMAGED | PIXELS)[kind]
    mosaic = tmp_path / "field.fits"
    mosaic.write_bytes(make())
    catalog = write_catalog(tmp_path / "c.csv", ("ra", "dec"), [(10.0, 5.0), (10.0005, 5.0005)])
    with pytest.raises(UserError, match=why) as caught:
        open_source(f"{catalog}@mosaic={mosaic}@size=8", labelled=False).read(0)
    assert isinstance(caught.value, UnreadableImage) == (kind in PIXELS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [*DAMAGED, *PIXELS])
def test_a_damaged_stack(kind: str, tmp_path: Path) -> None:
    make, why = (DAMAGED | PIXELS)[kind]
    stack = tmp_path / "stack.fits"
    stack.write_bytes(make())  # a stack of one
    catalog = write_catalog(tmp_path / "c.csv", ("label",), [("a",)])
    with pytest.raises(UserError, match=why) as caught:
        open_source(f"{catalog}@cube={stack}", labelled=False).read(0)
    assert isinstance(caught.value, UnreadableImage) == (kind in PIXELS)


def test_a_card_that_begins_as_the_end_does_is_not_the_end(tmp_path: Path) -> None:
    data = replaced(good(), "CD1_2", "1").replace(b"CD1_2   =", b"END     =")
    np.testing.assert_array_equal(read_image(data)[:, :, 0], PLANE)


@pytest.mark.parametrize("keyword", ["ZIMAGE", "XTENSION", "NAXIS"])
def test_a_part_that_is_unclear_is_no_traceback(tmp_path: Path, keyword: str) -> None:
    root = write_folder(tmp_path / "set", survey(6, size=16), "compressed")
    damaged = sorted(root.rglob("*.fz"))[-1]
    data = damaged.read_bytes()
    at = data.index(f"{keyword:8}=".encode(), 2880)
    end = data.index(b"END".ljust(80), at)
    damaged.write_bytes(
        data[:end] + f"{keyword:8}= {'F':>20}".ljust(80).encode() + b"END".ljust(80) + data[end + 160 :]
    )
    images = open_source(root)
    with pytest.raises(UnreadableImage, match=rf"says {keyword} twice, and differently"):
        images.read(images.files.index(str(damaged.relative_to(root))))
    damaged.rename(tmp_path / "alone.fits")
    with pytest.raises(UserError, match=rf"says {keyword} twice, and differently"):
        open_source(tmp_path / "alone.fits", labelled=False).read(0)


# Stacks and their catalogs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "rows", "why"),
    [
        ((5, 8, 8), 4, r"HDU 0 has the axes 5×8×8, no axis of 4 for as many images"),
        ((4, 4, 8, 8), 4, "two axes of 4 for as many images"),
        ((4, 2, 3, 8, 8), 4, "rows, columns and one more for bands"),
        ((8, 8), 4, "no axis of 4"),
        ((4, 8, 8), 0, "has no rows"),
    ],
)
def test_a_stack_has_as_many_images_as_its_catalog(tmp_path: Path, shape: tuple[int, ...], rows: int, why: str) -> None:
    (tmp_path / "s.fits").write_bytes(encoded(fits.PrimaryHDU(np.zeros(shape, np.float32))))
    catalog = write_catalog(tmp_path / "c.csv", ("label", "x"), [("ab"[i % 2], i) for i in range(rows)])
    with pytest.raises(UserError, match=why):
        open_source(f"{catalog}@cube={tmp_path}/s.fits")


def test_an_empty_catalog_of_a_stack(tmp_path: Path) -> None:
    (tmp_path / "s.fits").write_bytes(encoded(fits.PrimaryHDU(np.zeros((2, 8, 8), np.float32))))
    (tmp_path / "c.csv").write_text("")
    with pytest.raises(UserError, match="has no column"):
        open_source(f"{tmp_path}/c.csv@cube={tmp_path}/s.fits", labelled=False)


def test_words_that_do_not_go_together(tmp_path: Path) -> None:
    (tmp_path / "s.fits").write_bytes(encoded(fits.PrimaryHDU(np.zeros((2, 8, 8), np.float32))))
    catalog = write_catalog(tmp_path / "c.csv", ("id", "label", "file"), [("x", "a", "f"), ("x", "b", "g")])
    stack = f"@cube={tmp_path}/s.fits"
    for options, why in (
        (stack, "the column 'id' names 1 images more than once: x"),
        (f"{stack}@mosaic=x.fits", "@cube and @mosaic name two places"),
        (f"{stack}@size=8", "@size says what is cut out of a mosaic"),
        (f"{stack}@root=.", "@root is about files of images"),
        (f"{stack}@pattern=x", "@pattern is about files of images"),
        ("@id=file", "@id=COLUMN and @pattern=FOLDER/{id}.jpg belong together"),
        ("@cube=nowhere.fits@id=file", "'nowhere.fits': there is no such file"),
        (f"@cube={tmp_path}@id=file", "there is no such file"),
        (f"{stack}@id=file@hdu=3", "it has no part '3' .it has HDU 0"),
        (f"{stack}@id=file@bands=r", "it has no band 'r'; it has 0"),
        ("@mosaic=*.nothing@size=8@ra=id@dec=id@id=file", "the column 'id' has 'x' in row 1, which is no number"),
    ):
        with pytest.raises(UserError, match=why):
            open_source(f"{catalog}{options}")
    assert len(open_source(f"{catalog}{stack}@id=file")) == 2


# Mosaics and their positions --------------------------------------------------------------------------------


def mosaic_with(tmp_path: Path, **cards: Any) -> Path:
    header = {key: value for key, value in {**tan_header(10.0, 5.0, 40), **cards}.items() if value is not None}
    (tmp_path / "field.fits").write_bytes(encoded(fits.PrimaryHDU(PLANE, fits.Header(header))))
    return tmp_path / "field.fits"


@pytest.mark.parametrize(
    ("cards", "why"),
    [
        ({"CTYPE1": None, "CTYPE2": None}, "it has no WCS .CTYPE1, CRVAL1 and so on"),
        ({"CTYPE1": "RA---XYZ", "CTYPE2": "DEC--XYZ"}, "its WCS can't be used|has no WCS"),
        ({"CD1_1": 0.0}, "its WCS can't be used"),
        ({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--SIN"}, "its WCS can't be used"),
        ({"CRPIX1": 1e9}, "none of the 1 positions|has no inverse|can't be used"),
        ({"CTYPE1": "FREQ", "CTYPE2": "STOKES", "CUNIT1": None, "CUNIT2": None}, "it has no WCS"),
        ({"CRVAL1": 200.0}, r"none of the 1 positions lies in the mosaic .*, 40 × 40 px around 200\.0000 \+5\.0000"),
    ],
)
def test_a_mosaic_without_a_place_in_the_sky(tmp_path: Path, cards: dict[str, Any], why: str) -> None:
    mosaic = mosaic_with(tmp_path, **cards)
    catalog = write_catalog(tmp_path / "c.csv", ("ra", "dec"), [(10.0, 5.0)])
    with pytest.raises(UserError, match=why):
        open_source(f"{catalog}@mosaic={mosaic}@size=8", labelled=False)


def test_a_place_in_the_sky_that_is_said_twice(tmp_path: Path) -> None:
    mosaic = mosaic_with(tmp_path)
    mosaic.write_bytes(added(mosaic.read_bytes(), "CRVAL1", "10.0001"))
    catalog = write_catalog(tmp_path / "c.csv", ("ra", "dec"), [(10.0, 5.0)])
    with pytest.raises(UserError, match=r"its WCS can't be used .CRVAL1 is there twice, with different values"):
        open_source(f"{catalog}@mosaic={mosaic}@size=8", labelled=False)


def test_files_of_a_mosaic_have_one_grid(tmp_path: Path) -> None:
    for name, values, header in (
        ("a", PLANE, tan_header(10.0, 5.0, 40)),
        ("b", PLANE, tan_header(10.0, 5.0, 40)),
        ("moved", PLANE, tan_header(10.0 + 1e-5, 5.0, 40)),
        ("small", PLANE[:30], tan_header(10.0, 5.0, 40)),
    ):
        (tmp_path / f"{name}.fits").write_bytes(encoded(fits.PrimaryHDU(values, fits.Header(header))))
    catalog = write_catalog(tmp_path / "c.csv", ("ra", "dec"), [(10.0, 5.0)])
    images = open_source(f"{catalog}@mosaic={tmp_path}/a.fits,{tmp_path}/b.fits@size=8", labelled=False)
    assert images.bands is not None
    assert images.bands.names == ("a", "b")  # by the files, since the headers name no filter
    for name, why in (("moved", "its pixels lie at other places"), ("small", "it has 40×30 pixels, and '.*' 40×40")):
        with pytest.raises(UserError, match=rf"{name}\.fits', HDU 0: {why}.*nothing is resampled"):
            open_source(f"{catalog}@mosaic={tmp_path}/a.fits,{tmp_path}/{name}.fits@size=8", labelled=False)
    with pytest.raises(UserError, match=r"'c\.fits' of @mosaic=.* is no file and stands for none"):
        open_source(f"{catalog}@mosaic={tmp_path}/a.fits,c.fits@size=8", labelled=False)


def test_positions_that_are_none(tmp_path: Path) -> None:
    mosaic = mosaic_with(tmp_path)
    rows = [(10.0, 5.0), ("", 5.0), ("nan", 5.0), (190.0, -5.0), (11.0, 5.0)]
    images = open_source(
        f"{write_catalog(tmp_path / 'c.csv', ('ra', 'dec'), rows)}@mosaic={mosaic}@size=8", labelled=False
    )
    assert images.read(0).shape == (8, 8, 1)
    for i in (1, 2):
        with pytest.raises(UnreadableImage, match="the catalog gives it no position"):
            images.read(i)
    for i in (3, 4):  # the first is on the other side of the sky, where TAN gives a pixel all the same
        with pytest.raises(UnreadableImage, match="lies outside the mosaic"):
            images.read(i)
    assert images.groups is not None
    assert len(np.unique(images.groups)) == 5
    for row, why in (
        ((10.0, 95.0), "the column 'dec' has 95 in row 1; degrees from -90 to 90"),
        ((1e5, 5.0), "the column 'ra' has 100000 in row 1; degrees from -360 to 360"),
        (("north", 5.0), "the column 'ra' has 'north' in row 1, which is no number"),
    ):
        catalog = write_catalog(tmp_path / "d.csv", ("ra", "dec"), [row])
        with pytest.raises(UserError, match=why):
            open_source(f"{catalog}@mosaic={mosaic}@size=8", labelled=False)
    catalog = write_catalog(tmp_path / "d.csv", ("ra", "RAJ2000", "dec"), [(10.0, 10.0, 5.0)])
    with pytest.raises(UserError, match=r"the columns ra, RAJ2000 could all be the ra .*@ra=COLUMN"):
        open_source(f"{catalog}@mosaic={mosaic}@size=8", labelled=False)


def test_a_mosaic_that_is_gone_or_shorter_by_now(tmp_path: Path) -> None:
    mosaic = mosaic_with(tmp_path)
    catalog = write_catalog(tmp_path / "c.csv", ("ra", "dec"), [(10.0, 5.0)])
    for change, why in (
        (lambda: os.truncate(mosaic, 2880), "its file has changed since it was opened"),
        (lambda: mosaic.write_bytes(b" " * 2880 + mosaic.read_bytes()), "its file has changed since it was opened"),
        (mosaic.unlink, "damaged"),
    ):
        images = open_source(f"{catalog}@mosaic={mosaic_with(tmp_path)}@size=8", labelled=False)
        images.read(0)
        change()
        with pytest.raises(UnreadableImage, match=why):
            images.read(0)


# Whole commands ---------------------------------------------------------------------------------------------


def test_a_run_says_its_bands_and_leaves_damaged_files_out(tmp_path: Path, run: Run) -> None:
    root = write_folder(tmp_path / "set", survey(30, size=32), "cube")
    damaged = next(root.rglob("*.fits"))
    damaged.write_bytes(damaged.read_bytes()[:-3000])
    said = run("train", root, "--out", "run", *TINY, "--speed", "plain")
    assert said.status == 0, said.err
    assert "FITS: bands u, g, r, i, z (nanomaggy) of HDU 0 (a cube); not taken: HDU 1 'MASK'" in said.err
    left = table(tmp_path / "run" / "left_out.csv")
    assert len(left) == 1
    assert "are there: the file is cut off" in left[0]["reason"]
    said = run("predict", "run", root, "--out", "p.csv", "--quiet")
    assert said.status == 0, said.err
    assert said.err.count("FITS: bands u, g") == 1


def test_a_run_on_a_mosaic(tmp_path: Path, run: Run) -> None:
    made = field(40, side=900, size=32)
    made.image_HWC[::100] = np.nan
    catalog, mosaic = write_mosaic(tmp_path, made)
    said = run("train", f"{catalog}@mosaic={mosaic}@size=32", "--out", "run", *TINY)
    assert said.status == 0, said.err
    assert "cutouts of 32 × 32 px (8.384 × 8.384 arcsec); bands u, g, r, i, z" in " ".join(said.err.split())
    assert re.search(r"of 40 images lack \d\.\d % of their pixels on average: filled with the median", said.err)
    assert re.search(r"\d of 40 images have a group or sky in common with others; these stay on one side", said.err)
    assert "bands u, g, r, i, z (nanomaggy), floats; " in " ".join(run("info", "run").out.split())


def test_a_bomb_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from astroformer.images import fits as module

    monkeypatch.setattr(module, "_MAX_UNPACKED", 1 << 21)
    monkeypatch.setattr(module, "_UNPACKED_AT_ONCE", 1 << 20)
    bomb = gzip.compress(good() + bytes(1 << 24))
    tracemalloc.start()
    with pytest.raises(UnreadableImage, match="it unpacks to more than 2,097,152 bytes"):
        read_image(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8e6
