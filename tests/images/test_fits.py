"""FITS files as surveys write them, and every type of pixel: what is read is what astropy reads, or it is refused."""

from __future__ import annotations

import bz2
import gzip
import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from astroformer.errors import UserError
from astroformer.images.fits import bands_of_file
from astroformer.images.fits_bands import Wanted, wanted_of
from astroformer.images.limits import Refused
from astroformer.images.reading import UnreadableImage, looks_like_an_image, read_image
from astroformer.images.sources import open_source
from mock_survey import FILTERS, survey, write_fits

fits = pytest.importorskip("astropy.io.fits")
RNG = np.random.default_rng(4)


def encoded(*hdus: Any, **words: Any) -> bytes:
    stream = io.BytesIO()
    fits.HDUList(list(hdus)).writeto(stream, **words)
    return stream.getvalue()


def chosen(tmp_path: Path, data: bytes, **words: Any) -> str:
    (tmp_path / "x.fits").write_bytes(data)
    return str(bands_of_file(str(tmp_path / "x.fits"), Wanted(**words)))


# Pixels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_every_type_is_read_as_astropy_reads_it(kind: str) -> None:
    values = RNG.integers(0, 100, (9, 14)).astype(kind)
    if kind[0] == "f":
        values = values / np.array(7, kind)
    data = encoded(fits.PrimaryHDU(values))
    image = read_image(data)
    assert image.shape == (9, 14, 1)
    assert image.dtype == {"u1": np.uint8, "u2": np.uint16}.get(kind, np.float32)
    assert image.dtype.isnative
    with fits.open(io.BytesIO(data)) as opened:
        np.testing.assert_array_equal(image[:, :, 0], opened[0].data.astype(image.dtype))


def test_the_ends_of_unsigned_numbers_are_kept() -> None:
    ends = np.array([[0, 1, 32767, 32768, 65534, 65535]], np.uint16)
    np.testing.assert_array_equal(read_image(encoded(fits.PrimaryHDU(ends)))[..., 0], ends)
    low = np.array([[-128, -1, 0, 127]], np.int8)
    np.testing.assert_array_equal(read_image(encoded(fits.PrimaryHDU(low)))[..., 0], low)


def test_scaled_and_blank_values() -> None:
    stored = np.array([[0, 10, -32768], [1, 2, 3]], np.int16)
    hdu = fits.PrimaryHDU(stored)
    hdu.header.update({"BLANK": -32768, "BSCALE": 0.5, "BZERO": 100.0})
    expected = np.array([[100, 105, np.nan], [100.5, 101, 101.5]], np.float32)
    np.testing.assert_array_equal(read_image(encoded(hdu))[..., 0], expected)
    hdu = fits.PrimaryHDU(stored)
    hdu.header["BLANK"] = -32768
    image = read_image(encoded(hdu))
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image[..., 0], np.where(stored == -32768, np.nan, stored))
    hdu = fits.PrimaryHDU(stored.astype(np.uint8))
    hdu.header["BLANK"] = 255  # none has it, but one could, and a set is of one type
    assert read_image(encoded(hdu)).dtype == np.float32


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (np.full((4, 4), 2**24 + 1, np.int32), "32-bit whole numbers go beyond ±16,777,216"),
        (np.full((4, 4), -(2**24) - 1, np.int64), "64-bit whole numbers go beyond"),
        (
            np.array([[1.0, np.inf], [0, -np.inf]], np.float32),
            "2 of its values are infinite; write NaN .* or say @blank=inf",
        ),
        (np.array([[1.0, 1e300]]), r"values up to 1e\+300, and float32 ends at"),
        (np.full((4, 4), np.nan, np.float32), "none of its pixels has a value"),
    ],
)
def test_what_float32_can_not_hold_is_refused(values: np.ndarray, why: str) -> None:
    with pytest.raises(UnreadableImage, match=why):
        read_image(encoded(fits.PrimaryHDU(values)))


@pytest.mark.parametrize(
    ("stored", "cards", "blank", "missing"),
    [
        (np.array([[-9999, 1.5], [np.inf, 2]], np.float32), {}, "-9999,inf", [[1, 0], [1, 0]]),
        (np.array([[-9999, 1.5], [np.nan, 2]], np.float64), {}, "-9999", [[1, 0], [1, 0]]),
        (np.array([[1e30, -np.inf], [3, 2]], np.float32), {}, "1e30,inf", [[1, 1], [0, 0]]),
        (np.array([[0, 7], [3, 2]], np.uint8), {}, "0", [[1, 0], [0, 0]]),
        (np.array([[65535, 7], [3, 2]], np.uint16), {}, "65535", [[1, 0], [0, 0]]),
        (np.array([[-32768, 7], [3, 2]], np.int16), {"BLANK": 7}, "-32768", [[1, 1], [0, 0]]),
        (np.array([[-10, 7], [3, 2]], np.int16), {"BSCALE": 0.5, "BZERO": 1.0}, "-4", [[1, 0], [0, 0]]),
        (np.array([[1, 7], [3, 2]], np.int16), {}, "2.5", [[0, 0], [0, 0]]),
        (np.array([[1, 7], [3, 2]], np.int16), {"BSCALE": 1e-300}, "1e300", [[0, 0], [0, 0]]),
    ],
)
def test_values_that_stand_for_none_are_missing(
    stored: np.ndarray, cards: dict[str, Any], blank: str, missing: list[list[int]]
) -> None:
    hdu = fits.PrimaryHDU(stored)
    hdu.header.update(cards)
    stream = io.BytesIO()
    hdu.writeto(stream)
    data = stream.getvalue()
    wanted = wanted_of({"blank": blank})
    image = read_image(data, wanted=wanted)[..., 0]
    assert image.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(image), np.array(missing, bool) | np.isnan(stored.astype(float)))
    plain = read_image(encoded(fits.PrimaryHDU(np.where(np.isfinite(stored), stored, 0))))[..., 0].astype(np.float32)
    kept = ~np.isnan(image)
    expected = plain * cards.get("BSCALE", 1) + cards.get("BZERO", 0)
    np.testing.assert_array_equal(image[kept], expected[kept])
    assert wanted.key() != Wanted().key()


def test_only_numbers_stand_for_none() -> None:
    for blank, why in (("x", "'x', which is no value"), ("nan", "'nan', which is no value"), ("1,1", "'1' twice")):
        with pytest.raises(UserError, match=why):
            wanted_of({"blank": blank})


def test_missing_pixels_are_nan_and_the_others_stay() -> None:
    values = RNG.normal(size=(8, 8)).astype(np.float32)
    values[2, 3] = np.nan
    np.testing.assert_array_equal(read_image(encoded(fits.PrimaryHDU(values)))[..., 0], values)


@pytest.mark.parametrize("compression", ["RICE_1", "GZIP_1", "GZIP_2", "HCOMPRESS_1", "PLIO_1"])
def test_fpack(compression: str) -> None:
    whole = RNG.integers(0, 1000, (40, 50)).astype(np.int16)
    data = encoded(fits.PrimaryHDU(), fits.CompImageHDU(whole, compression_type=compression))
    np.testing.assert_array_equal(read_image(data)[..., 0], whole)
    if compression == "PLIO_1":  # whole numbers alone
        return
    noise = RNG.normal(size=(40, 50)).astype(np.float32)
    noise[3, 4] = np.nan
    data = encoded(fits.PrimaryHDU(), fits.CompImageHDU(noise, compression_type=compression))
    with fits.open(io.BytesIO(data)) as opened:
        np.testing.assert_array_equal(read_image(data)[..., 0], opened[1].data)


def test_packed_files(tmp_path: Path) -> None:
    values = RNG.normal(size=(30, 20)).astype(np.float32)
    data = encoded(fits.PrimaryHDU(values))
    for name, packed in (("a.fits.gz", gzip.compress(data)), ("a.fits.bz2", bz2.compress(data))):
        (tmp_path / name).write_bytes(packed)
        np.testing.assert_array_equal(read_image(tmp_path / name)[..., 0], values)
        assert str(bands_of_file(str(tmp_path / name), Wanted())) == "bands 0 of HDU 0"
    (tmp_path / "no_extension").write_bytes(data)
    assert looks_like_an_image(tmp_path / "no_extension")
    with pytest.raises(UnreadableImage, match="a gzip file that holds no FITS"):
        read_image(gzip.compress(b"words"))


def test_bands_of_several_types_are_one_image() -> None:
    eight, sixteen = RNG.integers(0, 255, (2, 5, 6)).astype(np.uint8)
    image = read_image(encoded(fits.PrimaryHDU(), fits.ImageHDU(eight, name="G"), fits.ImageHDU(sixteen / 8, name="R")))
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image, np.stack([eight, sixteen / 8], -1))


def test_a_core_reads_hundreds_of_cutouts_a_second(tmp_path: Path) -> None:
    """Five bands of 128 px in float32, as extensions; it takes 0.7 ms each where this was written."""
    path = write_fits(tmp_path / "x.fits", survey(1, size=128).images_NHWC[0])
    read_image(path)
    began = time.process_time()
    for _ in range(100):
        read_image(path)
    assert time.process_time() - began < 100 / 200


# What surveys write -----------------------------------------------------------------------------------------


def test_a_cutout_of_the_legacy_surveys_is_a_cube_with_named_bands(tmp_path: Path) -> None:
    cube = fits.PrimaryHDU(RNG.normal(size=(3, 16, 16)).astype(np.float32))
    cube.header.update({"BANDS": "grz", "BAND0": "g", "BAND1": "r", "BAND2": "z", "CTYPE1": "RA---TAN"})
    image = read_image(encoded(cube))
    np.testing.assert_array_equal(image, cube.data.transpose(1, 2, 0))
    assert chosen(tmp_path, encoded(cube)) == "bands g, r, z of HDU 0 (a cube)"
    ivar = fits.ImageHDU(np.ones((3, 16, 16), np.float32), name="INVVAR")
    assert chosen(tmp_path, encoded(cube, ivar)) == "bands g, r, z of HDU 0 (a cube); not taken: HDU 1 'INVVAR'"


def test_a_part_without_a_name_is_known_by_its_kind(tmp_path: Path) -> None:
    """As a cutout of the Legacy Surveys with its inverse variance."""
    cube = fits.PrimaryHDU(RNG.normal(size=(3, 16, 16)).astype(np.float32))
    cube.header.update({"BANDS": "grz", "IMAGETYP": "IMAGE"})
    ivar = fits.ImageHDU(np.ones((3, 16, 16), np.float32))
    ivar.header["IMAGETYP"] = "INVVAR"
    assert chosen(tmp_path, encoded(cube, ivar)) == "bands g, r, z of HDU 0 (a cube); not taken: HDU 1"
    np.testing.assert_array_equal(read_image(encoded(cube, ivar)), cube.data.transpose(1, 2, 0))
    frame = fits.PrimaryHDU(np.ones((8, 8), np.float32))
    frame.header["IMAGETYP"] = "sky"  # what was observed
    assert chosen(tmp_path, encoded(frame)) == "bands 0 of HDU 0"


def test_a_cutout_of_hsc_has_image_mask_and_variance(tmp_path: Path) -> None:
    parts = [fits.PrimaryHDU()]
    parts[0].header["FILTER"] = "HSC-I"
    for kind, dtype in (("IMAGE", np.float32), ("MASK", np.int32), ("VARIANCE", np.float32)):
        parts.append(fits.ImageHDU(np.full((8, 8), 3, dtype)))
        parts[-1].header["EXTTYPE"] = kind
    parts.append(fits.BinTableHDU.from_columns([fits.Column("x", "J", array=[1])], name="ARCHIVE_INDEX"))
    data = encoded(*parts)
    assert chosen(tmp_path, data) == "bands HSC-I of HDU 1; not taken: HDU 2 'MASK', HDU 3 'VARIANCE'"
    assert read_image(data).dtype == np.float32


def test_an_image_of_jwst_has_sci_among_many(tmp_path: Path) -> None:
    parts = [fits.PrimaryHDU()]
    parts[0].header["FILTER"] = "F200W"
    for name in ("SCI", "ERR", "CON", "WHT", "VAR_POISSON", "VAR_RNOISE", "VAR_FLAT"):
        shape = (1, 8, 8) if name == "CON" else (8, 8)
        parts.append(fits.ImageHDU(np.full(shape, len(parts), np.int32 if name == "CON" else np.float32), name=name))
    parts[1].header["BUNIT"] = "MJy/sr"
    data = encoded(*parts)
    said = chosen(tmp_path, data)
    assert said.startswith("bands F200W (MJy/sr) of HDU 1; not taken: HDU 2 'ERR', HDU 3 'CON', HDU 4 'WHT', HDU 5")
    assert (read_image(data) == 1).all()
    assert (read_image(data, wanted=Wanted(hdus=("ERR",))) == 2).all()
    assert (read_image(data, wanted=Wanted(hdus=("4",))) == 4).all()


@pytest.mark.parametrize("name", ["AREA", "bmask_cutouts", "SEG", "unc", "OBJMASK", "g_cov"])
def test_what_pipelines_put_beside_an_image_is_no_band(name: str, tmp_path: Path) -> None:
    parts = [fits.ImageHDU(np.ones((8, 8), np.float32), name=each) for each in ("SCI", name)]
    said = chosen(tmp_path, encoded(fits.PrimaryHDU(), *parts))
    assert said == f"bands 0 of HDU 1; not taken: HDU 2 '{name.upper()}'"


@pytest.mark.parametrize(
    ("cards", "name"),
    [
        ({"FILTER1": "CLEAR1L", "FILTER2": "F814W"}, "F814W"),
        ({"FILTER1": "F606W", "FILTER2": "CLEAR2L"}, "F606W"),
        ({"FILTER1": "F606W", "FILTER2": "POL0V"}, "F606W+POL0V"),
        ({"FILTER1": "CLEAR1L", "FILTER2": "CLEAR2L"}, "CLEAR1L+CLEAR2L"),
        ({"FILTNAM1": "F555W", "FILTNAM2": ""}, "F555W"),
        ({"FILTER": "F444W", "PUPIL": "CLEAR"}, "F444W"),
        ({"FILTER": "F444W", "PUPIL": "F470N"}, "F444W+F470N"),
        ({"FILTER": "CLEAR", "PUPIL": "F150W"}, "F150W"),  # NIRISS
        ({"FILTER": "r", "FILTER1": "other"}, "r"),
        ({"PUPIL": "F150W"}, "0"),  # of a camera nobody knows
        ({"FILTER": "r DECam SDSS c0002 6415.0 1480.0"}, "DECam-r"),
        ({"FILTER": "VR DECam c0007 6300.0 2600.0"}, "DECam-VR"),
        ({"FILTER": "r.00000"}, "PS1-r"),
        ({"FILTER": "r.MP9602"}, "r.MP9602"),
    ],
)
def test_the_filter_is_that_in_the_light(cards: dict[str, str], name: str, tmp_path: Path) -> None:
    primary, pixels = fits.PrimaryHDU(), fits.ImageHDU(np.ones((8, 8), np.float32), name="SCI")
    primary.header.update(cards)
    assert chosen(tmp_path, encoded(primary, pixels)) == f"bands {name} of HDU 1"
    pixels.header.update(cards)
    assert chosen(tmp_path, encoded(fits.PrimaryHDU(), pixels)) == f"bands {name} of HDU 1"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"FILTER1": "CLEAR1L", "FILTER2": "F814W"}, {"FILTER1": "F606W", "FILTER2": "CLEAR2L"}),
        ({"FILTER": "F444W", "PUPIL": "CLEAR"}, {"FILTER": "F444W", "PUPIL": "F470N"}),
    ],
)
def test_a_mix_of_filters_is_refused(one: dict[str, str], other: dict[str, str], tmp_path: Path) -> None:
    files = []
    for i, cards in enumerate((one, other)):
        hdu = fits.PrimaryHDU(np.ones((8, 8), np.float32))
        hdu.header.update(cards)
        files.append(encoded(hdu))
        (tmp_path / f"{i}.fits").write_bytes(files[-1])
    images = open_source(tmp_path, labelled=False)
    assert images.bands is not None
    assert images.read(0).shape == (8, 8, 1)
    with pytest.raises(UnreadableImage, match=r"its bands are F\w+(\+F470N)?, and those of the set are F(814|444)W"):
        images.read(1)


def test_a_frame_of_sdss_has_vectors_and_tables_beside_it(tmp_path: Path) -> None:
    frame = fits.PrimaryHDU(RNG.normal(size=(12, 20)).astype(np.float32))
    frame.header.update({"FILTER": "r", "BUNIT": "nanomaggy"})
    vector = fits.ImageHDU(np.ones(20, np.float32))
    sky = fits.BinTableHDU.from_columns([fits.Column("ALLSKY", "4E", array=np.ones((1, 4)))])
    data = encoded(frame, vector, sky)
    assert chosen(tmp_path, data) == "bands r (nanomaggy) of HDU 0"
    np.testing.assert_array_equal(read_image(bz2.compress(data))[..., 0], frame.data)


def test_a_radio_image_has_axes_of_one_value(tmp_path: Path) -> None:
    values = RNG.normal(size=(1, 1, 9, 7)).astype(np.float32)
    np.testing.assert_array_equal(read_image(encoded(fits.PrimaryHDU(values)))[..., 0], values[0, 0])
    stokes = fits.PrimaryHDU(RNG.normal(size=(4, 1, 9, 7)).astype(np.float32))
    stokes.header.update({"CTYPE4": "STOKES", "CRVAL4": 1.0, "CRPIX4": 1.0, "CDELT4": 1.0})
    assert chosen(tmp_path, encoded(stokes)) == "bands I, Q, U, V of HDU 0 (a cube)"
    line = fits.PrimaryHDU(RNG.normal(size=(2, 9, 7)).astype(np.float32))
    line.header.update({"CTYPE3": "FREQ", "CRVAL3": 1.4e9, "CRPIX3": 1.0, "CDELT3": 1e6, "CUNIT3": "Hz"})
    assert chosen(tmp_path, encoded(line)) == "bands FREQ 1.4e+09 Hz, FREQ 1.401e+09 Hz of HDU 0 (a cube)"


# Which parts ------------------------------------------------------------------------------------------------


def test_an_extension_a_band_and_the_same_as_a_cube(tmp_path: Path) -> None:
    image_HWC = survey(1, size=16).images_NHWC[0]
    for layout in ("extensions", "cube", "compressed"):
        path = write_fits(tmp_path / f"{layout}.fits", image_HWC, layout, mask_HW=np.zeros((16, 16), bool))
        assert bands_of_file(str(path), Wanted()).named().names == FILTERS
        np.testing.assert_array_equal(read_image(path), image_HWC)
        some = read_image(path, wanted=Wanted(bands=("i", "0")))
        np.testing.assert_array_equal(some, image_HWC[:, :, [3, 0]])
    by_name = read_image(tmp_path / "extensions.fits", wanted=Wanted(hdus=("r", "1"), bands=("1",)))
    np.testing.assert_array_equal(by_name, image_HWC[:, :, :1])


def test_bands_without_names_have_numbers(tmp_path: Path) -> None:
    values = np.zeros((2, 6, 6), np.float32)
    assert chosen(tmp_path, encoded(fits.PrimaryHDU(values))) == "bands 0, 1 of HDU 0 (a cube)"
    parts = [fits.PrimaryHDU(), fits.ImageHDU(values[0]), fits.ImageHDU(values[1])]
    assert chosen(tmp_path, encoded(*parts)) == "bands 1, 2 of HDU 1, 2"


@pytest.mark.parametrize(
    ("names", "shapes", "wanted", "why"),
    [
        (("SCI", "SCI"), ((6, 6), (6, 6)), Wanted(), "2 of its parts are called 'SCI'; .* say @hdu=1,2"),
        (("A", "B"), ((6, 6), (6, 7)), Wanted(), r"several images that are no bands of one \(HDU 1 'A' of 6×6, HDU 2"),
        (("A", "B"), ((6, 6), (2, 6, 6)), Wanted(), "no bands of one"),
        (("MASK",), ((6, 6),), Wanted(), "no image beside HDU 1 'MASK'; if that is meant, say @hdu=1"),
        (("A",), ((2, 3, 6, 6),), Wanted(), "axes 2×3×6×6; rows, columns and one more"),
        (("A",), ((20, 20, 3),), Wanted(), "20 planes of 20×3 pixels, so the bands seem to lie along its first axis"),
        (("A",), ((32, 32, 13),), Wanted(), "32 planes of 32×13 pixels, so the bands seem to lie along its first axis"),
        (("A",), ((6, 6),), Wanted(hdus=("B",)), "has no part 'B' .it has HDU 0, HDU 1 'A'"),
        (("A", "A"), ((6, 6), (6, 6)), Wanted(hdus=("A",)), "it has 2 parts 'A'"),
        (("A",), ((6, 6),), Wanted(hdus=("0",)), "HDU 0 is no image"),
        (("A",), ((6, 6),), Wanted(bands=("r",)), "it has no band 'r'; it has A"),
        (("A",), ((6, 6),), Wanted(bands=("1",)), "it has no band '1'"),
    ],
)
def test_what_is_not_clear_is_refused(
    tmp_path: Path, names: tuple[str, ...], shapes: tuple[tuple[int, ...], ...], wanted: Wanted, why: str
) -> None:
    parts = [fits.ImageHDU(np.zeros(shape, np.float32), name=name) for name, shape in zip(names, shapes, strict=True)]
    with pytest.raises(UnreadableImage, match=why):
        read_image(encoded(fits.PrimaryHDU(), *parts), wanted=wanted)


def test_options_are_lists_of_names() -> None:
    assert wanted_of({"hdu": "SCI", "bands": "g, r,2", "label": "x"}) == Wanted(("SCI",), ("g", "r", "2"))
    for options, why in (({"bands": "g,g"}, "'g' twice"), ({"hdu": ""}, "an empty name"), ({"hdu": "a,"}, "an empty")):
        with pytest.raises(UserError, match=f"has {why}"):
            wanted_of(options)


def test_plain_fits_needs_no_astropy_and_compressed_fits_says_that_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = encoded(fits.PrimaryHDU(np.ones((4, 4), np.float32)))
    packed = encoded(fits.PrimaryHDU(), fits.CompImageHDU(np.ones((4, 4), np.int16)))
    import sys

    monkeypatch.setitem(sys.modules, "astropy", None)
    assert read_image(plain).shape == (4, 4, 1)
    with pytest.raises(
        UserError, match=r'needs the extra \[astro\]; in a clone of the repository: pip install "\.\[astro'
    ):
        read_image(packed)


def test_refusals_of_headers_have_no_file_name(tmp_path: Path) -> None:
    (tmp_path / "x.fits").write_bytes(b"words")
    with pytest.raises(Refused, match="does not begin as FITS does"):
        bands_of_file(str(tmp_path / "x.fits"), Wanted())
