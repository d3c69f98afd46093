"""Stacks of images in one FITS file, and cutouts of a mosaic around positions."""

from __future__ import annotations

import os
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from astroformer.errors import UserError
from astroformer.evaluation.unfinished import made_of
from astroformer.images.bands import Bands
from astroformer.images.reading import UnreadableImage
from astroformer.images.sky_groups import group_overlapping_boxes
from astroformer.images.sources import open_source
from astroformer.images.splits import holdout
from astroformer.training.recipe import Recipe
from astroformer.training.splitting import split_images
from astroformer.training.task import Task
from helpers.listening import Listening
from helpers.survey import write_mosaic, write_stack
from helpers.tiny_sets import same_from_threads_and_pickled
from mock_survey import CLASSES, FILTERS, UNIT, Field, field, sky_of, survey, tan_header, write_catalog, write_fits

fits = pytest.importorskip("astropy.io.fits")


@pytest.fixture(scope="module")
def made() -> Field:
    return field(24, side=160, size=16)


def catalog_at(root: Path, header: dict[str, Any], x: Any, y: Any) -> Path:
    """A catalog of places given by column and row."""
    ra, dec = sky_of(header, np.asarray(x, float), np.asarray(y, float))
    return write_catalog(root / "places.csv", ("ra", "dec"), list(zip(ra, dec, strict=True)))


# Stacks -----------------------------------------------------------------------------------------------------


def test_a_stack_is_read_plane_by_plane(tmp_path: Path) -> None:
    galaxies = survey(7, size=16)
    catalog, stack = write_stack(tmp_path, galaxies)
    images = open_source(f"{catalog}@cube={stack}")
    assert images.classes == CLASSES
    assert images.bands == Bands(FILTERS, (UNIT,) * 5)
    assert images.masks
    assert images.files[3] == "labels.csv#3"
    for i in range(7):
        np.testing.assert_array_equal(images.read(i), galaxies.images_NHWC[i])
    same_from_threads_and_pickled(images)
    two = open_source(f"{catalog}@cube={stack}@bands=i,g", labelled=False)
    np.testing.assert_array_equal(two.read(6), galaxies.images_NHWC[6][:, :, [3, 1]])
    assert two.fingerprint() != images.fingerprint()


@pytest.mark.parametrize("compressed", [False, True])
def test_images_and_bands_of_a_stack_are_told_apart_by_their_number(tmp_path: Path, compressed: bool) -> None:
    stack_NCHW = np.random.default_rng(0).integers(0, 60000, (6, 3, 5, 8)).astype(np.uint16)
    catalog = write_catalog(tmp_path / "c.csv", ("id", "label"), [(f"n{i}", "ab"[i % 2]) for i in range(6)])
    for name, array in (("first", stack_NCHW), ("second", stack_NCHW.swapaxes(0, 1))):
        hdu = fits.CompImageHDU(array) if compressed else fits.ImageHDU(array)
        hdu.header["BANDS"] = "grz"
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(tmp_path / f"{name}.fits")
        images = open_source(f"{catalog}@cube={tmp_path}/{name}.fits")
        assert images.bands == Bands(("g", "r", "z"))
        assert images.files == [f"n{i}" for i in range(6)]
        for i in range(6):
            np.testing.assert_array_equal(images.read(i), stack_NCHW[i].transpose(1, 2, 0))
            assert images.read(i).dtype == np.uint16


@pytest.mark.parametrize("bands", [3, 5])
def test_a_stack_with_its_bands_last_is_refused(tmp_path: Path, bands: int) -> None:
    fits.PrimaryHDU(np.zeros((6, 20, 20, bands), np.float32)).writeto(tmp_path / "last.fits")
    catalog = write_catalog(tmp_path / "c.csv", ("id",), [(f"n{i}",) for i in range(6)])
    with pytest.raises(UserError, match=r"bands seem to lie along its first axis; .* np.moveaxis\(images, -1, 1\)"):
        open_source(f"{catalog}@cube={tmp_path}/last.fits", labelled=False)


# Mosaics ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("files", [False, True])
@pytest.mark.parametrize("layout", ["extensions", "cube", "compressed"])
def test_cutouts_around_galaxies(tmp_path: Path, made: Field, layout: Any, files: bool) -> None:
    catalog, mosaic = write_mosaic(tmp_path, made, files=files, layout=layout)
    images = open_source(f"{catalog}@mosaic={mosaic}@size=16")
    assert images.files == [f"g{i}" for i in range(24)]
    assert images.bands == Bands(FILTERS, (UNIT,) * 5)
    for i in range(24):
        top, left = int(made.y[i] - 7.5), int(made.x[i] - 7.5)
        np.testing.assert_array_equal(images.read(i), made.image_HWC[top : top + 16, left : left + 16])
    assert images.positions_N2 is not None
    np.testing.assert_allclose(images.positions_N2, np.stack([made.ra, made.dec], 1))
    same_from_threads_and_pickled(images)
    if files and layout != "cube":
        by_pattern = open_source(f"{catalog}@mosaic={tmp_path}/[gr].fits@size=16@bands=r,g")
        np.testing.assert_array_equal(by_pattern.read(2), images.read(2)[:, :, [2, 1]])


@pytest.mark.parametrize("size", [9, 16])
def test_they_are_those_of_astropy(tmp_path: Path, made: Field, size: int) -> None:
    from astropy.coordinates import SkyCoord
    from astropy.nddata import Cutout2D
    from astropy.wcs import WCS

    rng = np.random.default_rng(size)
    x, y = rng.uniform(-size / 2 + 0.6, 159 + size / 2 - 0.6, (2, 60))
    catalog = catalog_at(tmp_path, made.header, x, y)
    mosaic = write_fits(tmp_path / "field.fits", made.image_HWC, "extensions", made.header)
    images = open_source(f"{catalog}@mosaic={mosaic}@size={size}", labelled=False)
    assert images.positions_N2 is not None
    wcs = WCS(fits.Header(made.header))
    for i, (ra, dec) in enumerate(images.positions_N2):
        words = {"wcs": wcs, "mode": "partial", "fill_value": np.nan}
        cutout = Cutout2D(made.image_HWC[:, :, 2], SkyCoord(ra, dec, unit="deg"), (size, size), **words)
        np.testing.assert_array_equal(images.read(i)[:, :, 2], cutout.data)


def test_edges_and_missing_sky_are_said(tmp_path: Path, made: Field) -> None:
    image_HWC = made.image_HWC.copy()
    image_HWC[60:70, 60:70] = np.nan
    mosaic = write_fits(tmp_path / "field.fits", image_HWC, "extensions", made.header)
    # Within, at a corner, in the hole, wholly in the hole, outside.
    catalog = catalog_at(tmp_path, made.header, [30, 0, 58, 64.5, 400], [30, 159, 58, 64.5, 30])
    images = open_source(f"{catalog}@mosaic={mosaic}@size=8", labelled=False)
    assert any("1 of 5 cutouts reach over the edge; beyond it pixels are missing" in note for note in images.notes)
    assert any("of 3 cutouts that were looked at, 2 lack pixels inside the mosaic" in note for note in images.notes)
    assert np.isfinite(images.read(0)).all()
    corner = images.read(1)
    assert np.isnan(corner[:, :, 0]).sum() == 64 - 20
    np.testing.assert_array_equal(corner[:5, 4:], image_HWC[155:160, 0:4])
    assert 0 < np.isnan(images.read(2)).sum() < 8 * 8 * 5
    with pytest.raises(UnreadableImage, match=r"places.csv#3.*none of its pixels has a value"):
        images.read(3)
    with pytest.raises(UnreadableImage, match=r"places.csv#4.*its position, 15[0-9.]+ \+2[0-9.]+, lies outside"):
        images.read(4)


def test_a_size_in_the_sky_and_names_of_columns(tmp_path: Path, made: Field) -> None:
    mosaic = write_fits(tmp_path / "field.fits", made.image_HWC, "extensions", made.header)
    rows = list(zip(made.ra, made.dec, made.ra + 1, strict=True))
    catalog = write_catalog(tmp_path / "c.csv", ("RAJ2000", "DEJ2000", "other"), rows)
    images = open_source(f"{catalog}@mosaic={mosaic}@size=4.2arcsec", labelled=False)
    assert images.read(0).shape == (16, 16, 5)
    assert "cutouts of 16 × 16 px (4.192 × 4.192 arcsec)" in images.notes[0]
    with pytest.raises(UserError, match="none of the 24 positions lies in the mosaic"):
        open_source(f"{catalog}@mosaic={mosaic}@size=4@ra=other", labelled=False)
    for size, why in (
        ("", "is no size of cutouts"),
        ("0", "would be 0 pixels"),
        ("2.5", r"would be 2\.5 pixels"),
        ("5deg", "is no size"),
        ("9" * 400, "is no size"),
        ("0.01arcsec", "would be 0 pixels"),
        ("99999", "would be 99999 pixels"),
        ("16384", "cut it into smaller images"),
    ):
        with pytest.raises(UserError, match=why):
            open_source(f"{catalog}@mosaic={mosaic}@size={size}", labelled=False)
    with pytest.raises(UserError, match="cutouts of a mosaic have a size; a side in pixels, @size=64"):
        open_source(f"{catalog}@mosaic={mosaic}", labelled=False)


def test_galactic_coordinates_are_turned(tmp_path: Path, made: Field) -> None:
    from astropy.coordinates import SkyCoord

    header = {**tan_header(120.0, 30.0, 160), "CTYPE1": "GLON-TAN", "CTYPE2": "GLAT-TAN"}
    lon, lat = sky_of(header, made.x, made.y)
    sky = SkyCoord(lon, lat, unit="deg", frame="galactic").icrs
    catalog = write_catalog(tmp_path / "c.csv", ("ra", "dec"), list(zip(sky.ra.deg, sky.dec.deg, strict=True)))
    mosaic = write_fits(tmp_path / "field.fits", made.image_HWC, "extensions", header)
    images = open_source(f"{catalog}@mosaic={mosaic}@size=16", labelled=False)
    top, left = int(made.y[0] - 7.5), int(made.x[0] - 7.5)
    np.testing.assert_array_equal(images.read(0), made.image_HWC[top : top + 16, left : left + 16])


def test_axes_of_the_sky_may_come_in_either_order(tmp_path: Path) -> None:
    plane = np.random.default_rng(0).normal(size=(40, 60)).astype(np.float32)
    header = tan_header(30.0, 31.0, 40) | {"CTYPE1": "DEC--TAN", "CTYPE2": "RA---TAN", "CRVAL1": 31.0, "CRVAL2": 30.0}
    mosaic = write_fits(tmp_path / "m.fits", plane[:, :, None], header=header, names=("r",))
    dec, ra = sky_of(header, np.array([21.0]), np.array([33.0]))
    catalog = write_catalog(tmp_path / "c.csv", ("ra", "dec", "x", "y"), [(ra[0], dec[0], 21, 33)])
    by_sky = open_source(f"{catalog}@mosaic={mosaic}@size=5", labelled=False)
    np.testing.assert_array_equal(by_sky.read(0)[:, :, 0], plane[31:36, 19:24])
    in_pixels = open_source(f"{catalog}@mosaic={mosaic}@size=5@x=x@y=y@first-pixel=0", labelled=False)
    np.testing.assert_allclose(in_pixels.positions_N2, [[ra[0], dec[0]]])
    np.testing.assert_array_equal(in_pixels.read(0), by_sky.read(0))


@pytest.mark.parametrize("kind", ["HPLN-TAN HPLT-TAN", "MALN-CAR MALT-CAR"])
@pytest.mark.parametrize("words", ["", "@x=x@y=y@first-pixel=0"])
def test_the_sun_and_mars_are_no_part_of_the_sky(tmp_path: Path, kind: str, words: str) -> None:
    header = {**tan_header(0.0, 0.0, 40), **dict(zip(("CTYPE1", "CTYPE2"), kind.split(), strict=True))}
    mosaic = write_fits(tmp_path / "m.fits", np.zeros((40, 40, 1), np.float32), header=header, names=("r",))
    catalog = write_catalog(tmp_path / "c.csv", ("ra", "dec", "x", "y"), [(0, 0, 9, 9)])
    with pytest.raises(UserError, match=r"can't be turned into right ascension and declination, (HPLN|MALN).* and "):
        open_source(f"{catalog}@mosaic={mosaic}@size=5{words}", labelled=False)


def test_a_map_of_position_and_frequency_is_no_mosaic(tmp_path: Path) -> None:
    header = {**tan_header(30.0, 31.0, 40), "NAXIS": 3, "CTYPE2": "FREQ", "CUNIT2": "Hz", "CTYPE3": "DEC--TAN"}
    header |= {"CRVAL2": 1e9, "CRVAL3": 31.0, "CRPIX3": 1.0, "CDELT1": 1e-4, "CDELT2": 1e6, "CDELT3": 1e-4}
    header = {key: value for key, value in header.items() if not key.startswith("CD") or key.startswith("CDELT")}
    fits.PrimaryHDU(np.zeros((1, 40, 40), np.float32), fits.Header(header)).writeto(tmp_path / "m.fits")
    catalog = write_catalog(tmp_path / "c.csv", ("ra", "dec"), [(30.0, 31.0)])
    with pytest.raises(UserError, match="the sky of its WCS does not lie along rows and columns"):
        open_source(f"{catalog}@mosaic={tmp_path}/m.fits@size=5", labelled=False)


def test_values_that_stand_for_none_are_missing_in_every_kind_of_fits_source(tmp_path: Path, made: Field) -> None:
    image_HWC = made.image_HWC.copy()
    image_HWC[:100, :, 0] = -9999
    catalog, mosaic = write_mosaic(tmp_path, replace(made, image_HWC=image_HWC))
    plain, blanked = (
        open_source(f"{catalog}@mosaic={mosaic}@size=16{blank}@id=id", labelled=False) for blank in ("", "@blank=-9999")
    )
    assert plain.fingerprint() != blanked.fingerprint()
    for i in range(len(plain)):
        expected = plain.read(i)
        np.testing.assert_array_equal(blanked.read(i), np.where(expected == -9999, np.nan, expected))
    same_from_threads_and_pickled(blanked)
    whole = open_source(f"{mosaic}@blank=-9999", labelled=False).read(0)
    assert np.isnan(whole[:100, :, 0]).all()
    assert not (whole == -9999).any()


def test_overlapping_cutouts_stay_on_one_side(tmp_path: Path, made: Field) -> None:
    catalog, mosaic = write_mosaic(tmp_path, made)
    images = open_source(f"{catalog}@mosaic={mosaic}@size=16")
    assert images.labels is not None
    assert images.groups is not None
    assert 2 < len(np.unique(images.groups)) < 24
    train, valid = holdout(images.labels, 0.25, 0, groups=images.groups)
    seen = np.zeros((160, 160), bool)
    for i in train:
        top, left = int(made.y[i] - 7.5), int(made.x[i] - 7.5)
        seen[top : top + 16, left : left + 16] = True
    for i in valid:
        top, left = int(made.y[i] - 7.5), int(made.x[i] - 7.5)
        assert not seen[top : top + 16, left : left + 16].any()


def test_boxes_are_grouped_as_pairs_of_them_overlap() -> None:
    rng = np.random.default_rng(3)
    for side in (1, 7, 30):
        corner_N2 = rng.integers(-50, 400, (150, 2))
        groups = group_overlapping_boxes(corner_N2, side)
        apart = np.abs(corner_N2[:, None] - corner_N2[None]).max(axis=2)
        expected = np.arange(150)
        for _ in range(150):
            expected = np.where(apart < side, expected[None], 150).min(axis=1)
        np.testing.assert_array_equal(groups, expected)


def test_memory_does_not_grow_with_the_mosaic(tmp_path: Path) -> None:
    side, header = 6000, tan_header(10.0, -20.0, 6000)
    path = tmp_path / "large.fits"
    head = fits.PrimaryHDU(np.zeros((1, 1), np.float32), fits.Header(header)).header
    head.update({"NAXIS1": side, "NAXIS2": side})
    with path.open("wb") as file:  # sparse: zeros that take no disk
        file.write(head.tostring().encode())
        file.truncate(-(-(file.tell() + 4 * side * side) // 2880) * 2880)
    catalog = catalog_at(tmp_path, header, np.linspace(50, 5900, 20), np.linspace(50, 5900, 20))
    tracemalloc.start()
    images = open_source(f"{catalog}@mosaic={path}@size=64", labelled=False)
    for i in range(20):
        assert images.read(i).shape == (64, 64, 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40e6 < os.path.getsize(path)


def test_a_run_keeps_absolute_places(tmp_path: Path, made: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mosaic(tmp_path, made, files=True)
    monkeypatch.chdir(tmp_path)
    lasting = str(Task("catalog.csv@mosaic=g.fits,r.fits@size=8").lasting().source)
    assert lasting == f"{tmp_path}/catalog.csv@mosaic={tmp_path}/g.fits,{tmp_path}/r.fits@size=8"
    monkeypatch.chdir("/")
    assert open_source(lasting, labelled=False).read(0).shape == (8, 8, 2)
    assert Task(lasting).source_name == "catalog.csv@size=8"


def test_predictions_do_not_go_on_with_another_mosaic(tmp_path: Path, made: Field, model_folder: Path) -> None:
    catalog, mosaic = write_mosaic(tmp_path, made)
    source = f"{catalog}@mosaic={mosaic}@size=16"
    images = open_source(source, labelled=False)
    before = made_of(model_folder, [source], images, [])
    assert made_of(model_folder, [source], images, []) == before
    os.utime(mosaic, (1, 1))
    assert made_of(model_folder, [source], images, []) != before


def test_the_content_of_every_file_counts(tmp_path: Path, made: Field) -> None:
    catalog, mosaic = write_mosaic(tmp_path, made, files=True)
    images = open_source(f"{catalog}@mosaic={mosaic}@size=16")
    before = images.fingerprint()
    assert images.fingerprint(tmp_path) == before
    assert open_source(f"{catalog}@mosaic={mosaic}@size=14").fingerprint() != before
    changed = made.image_HWC[:, :, 4:] + 1
    write_fits(tmp_path / "z.fits", changed, "extensions", made.header, ["z"])
    assert open_source(f"{catalog}@mosaic={mosaic}@size=16").fingerprint() != before


def test_all_columns_of_a_catalog_of_positions_have_the_positions(tmp_path: Path, made: Field) -> None:
    catalog, mosaic = write_mosaic(tmp_path, made)
    source = f"{catalog}@mosaic={mosaic}@size=16"
    images = open_source(source, labelled=False, columns="all")
    assert list(images.columns) == ["ra", "dec", "label"]
    assert list(open_source(source, columns="all").columns) == ["ra", "dec"]
    named = open_source(source, labelled=False, columns=["ra"])
    assert named.columns["ra"] == images.columns["ra"]


def test_a_mosaic_whose_distortion_has_no_inverse_in_the_corners(tmp_path: Path, made: Field) -> None:
    """Positions in its middle are found; a file is not told apart from itself."""
    header = dict(made.header) | {"CTYPE1": "RA---TPV", "CTYPE2": "DEC--TPV"}
    scale = abs(float(header.get("CD1_1") or header["CDELT1"]))
    edge = scale * made.image_HWC.shape[0] / 2  # where the third order turns the map around
    header |= {"PV1_1": 1.0, "PV2_1": 1.0, "PV1_7": -0.3 / edge**2, "PV2_7": -0.3 / edge**2}
    header |= {"PV1_9": -0.3 / edge**2, "PV2_9": -0.3 / edge**2}
    path = write_fits(tmp_path / "tpv.fits", made.image_HWC, "extensions", header)
    middle = made.image_HWC.shape[0] / 2
    catalog = write_catalog(tmp_path / "c.csv", ("x", "y"), [(middle, middle), (middle + 9, middle)])
    images = open_source(f"{catalog}@mosaic={path}@size=16@x=x@y=y@first-pixel=0", labelled=False)
    assert images.read(0).shape == (16, 16, 5)


def test_cutouts_so_large_that_all_overlap_are_the_reason_that_is_said(tmp_path: Path, made: Field) -> None:
    catalog, mosaic = write_mosaic(tmp_path, made)
    task = Task(f"{catalog}@mosaic={mosaic}@size=150")
    with pytest.raises(
        UserError, match=r"too few images .* Cutouts of 150 px overlap: 24 of 24 share pixels.* A smaller @size="
    ):
        split_images(task, Recipe(), Listening())


@pytest.mark.parametrize(
    ("centre", "kind", "places"),
    [
        ((0.0, 0.0), "TAN", [(0.0, 0.0), (359.999, 0.0), (-0.001, 0.0), (0.001, 0.0), (360.0, 0.0), (-360.0, 0.0)]),
        ((77.0, 90.0), "TAN", [(0.0, 90.0), (123.0, 90.0), (45.0, 89.999), (225.0, 89.999)]),
        ((77.0, -90.0), "TAN", [(0.0, -90.0), (45.0, -89.999)]),
        ((180.0, 0.0), "CAR", [(0.0, 0.0), (359.9, 0.0), (0.2, 0.2), (180.0, 90.0), (180.0, -90.0), (180.2, 0.3)]),
    ],
)
def test_where_coordinates_wrap_cutouts_are_those_of_astropy(
    tmp_path: Path, centre: tuple[float, float], kind: str, places: list[tuple[float, float]]
) -> None:
    from astropy.coordinates import SkyCoord
    from astropy.nddata import Cutout2D
    from astropy.wcs import WCS

    scale, height, width = (1e-4, 60, 60) if kind == "TAN" else (1.0, 180, 360)
    header = fits.Header({"CTYPE1": f"RA---{kind}", "CTYPE2": f"DEC--{kind}", "CDELT1": -scale, "CDELT2": scale})
    header.update({"CRVAL1": centre[0], "CRVAL2": centre[1], "CRPIX1": width / 2 + 0.3, "CRPIX2": height / 2 + 0.2})
    plane = np.random.default_rng(0).normal(size=(height, width)).astype(np.float32)
    fits.PrimaryHDU(plane, header).writeto(tmp_path / "m.fits")
    catalog = write_catalog(tmp_path / "c.csv", ("ra", "dec"), places)
    images = open_source(f"{catalog}@mosaic={tmp_path}/m.fits@size=9", labelled=False)
    for i, place in enumerate(places):
        words = {"wcs": WCS(header), "mode": "partial", "fill_value": np.nan}
        expected = Cutout2D(plane, SkyCoord(*place, unit="deg"), 9, **words).data
        np.testing.assert_array_equal(images.read(i)[:, :, 0], expected, err_msg=str(place))
