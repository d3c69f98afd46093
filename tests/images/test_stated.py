"""What sources state of the sky and of their values, and what is said of images that state something else."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from astroformer.images.fits_headers import Hdu, read_headers
from astroformer.images.fits_sky import pixel_arcsec, zero_point
from astroformer.images.labelled import LabelledImages
from astroformer.images.preprocessing import Preprocessing
from astroformer.images.several import open_sources
from astroformer.images.sources import open_source
from astroformer.images.stated import Stated
from helpers.survey import write_mosaic
from mock_survey import PIXEL, field, tan_header, write_catalog

fits = pytest.importorskip("astropy.io.fits")
SKY = Stated(side=(20.0, 20.0), pixel=(0.25, 0.25))


def hdu_of(cards: dict[str, Any]) -> Hdu:
    stream = io.BytesIO()
    fits.PrimaryHDU(np.zeros((4, 4), np.float32), fits.Header(list(cards.items()))).writeto(stream)
    [hdu] = read_headers(stream, len(stream.getvalue()))
    return hdu


@pytest.mark.parametrize(
    "cards",
    [
        {"CD1_1": -7e-5, "CD1_2": 1e-5, "CD2_1": 1e-5, "CD2_2": 7e-5},
        {"CDELT1": -7e-5, "CDELT2": 8e-5},
        {"CDELT1": -7e-5, "CDELT2": 7e-5, "CROTA2": 30.0},
        {"CDELT1": 1e-4, "CDELT2": 1e-4, "PC1_1": -0.8, "PC1_2": 0.6, "PC2_1": 0.6, "PC2_2": 0.8},
        {"CDELT1": -0.25, "CDELT2": 0.25, "CUNIT1": "arcsec", "CUNIT2": "arcsec"},
        {"CTYPE1": "GLON-CAR", "CTYPE2": "GLAT-CAR", "CDELT1": -1e-4, "CDELT2": 1e-4},
    ],
)
def test_the_size_of_a_pixel_is_that_of_astropy(cards: dict[str, Any]) -> None:
    from astropy.wcs import WCS
    from astropy.wcs.utils import proj_plane_pixel_area

    cards = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": 20.0} | cards
    expected = 3600 * proj_plane_pixel_area(WCS(fits.Header(list(cards.items())))) ** 0.5
    assert pixel_arcsec(hdu_of(cards)) == pytest.approx(expected)


@pytest.mark.parametrize(
    "cards",
    [
        {},
        {"CDELT1": 1.0, "CDELT2": 1.0},
        {"CTYPE1": "LINEAR", "CDELT1": 1.0, "CDELT2": 1.0},
        {"CTYPE1": "RA---TAN"},
        {"CTYPE1": "RA---TAN", "CDELT1": "x", "CDELT2": 1.0},
        {"CTYPE1": "RA---TAN", "CUNIT1": "m", "CDELT1": 1.0, "CDELT2": 1.0},
    ],
)
def test_no_size_is_guessed(cards: dict[str, Any]) -> None:
    assert pixel_arcsec(hdu_of(cards)) is None


def test_zero_points_by_their_many_names() -> None:
    assert zero_point(hdu_of({"MAGZERO": 22.5}), hdu_of({"MAGZERO": 23.9})) == 22.5
    assert zero_point(hdu_of({}), hdu_of({"ZEROPT": 23.9})) == 23.9
    assert zero_point(hdu_of({"FLUXMAG0": 63095734448.0})) == pytest.approx(27.0)
    assert zero_point(hdu_of({"MAGZP": "none"})) is None


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (SKY, None),
        (Stated(side=(23.0, 17.0), pixel=(0.5, 0.5)), None),  # what counts is the sky that a side shows
        (Stated(side=(40.0, 40.0), pixel=(0.5, 0.5)), r"these images show 40 arcsec .* a side \(0.5 a pixel\)"),
        (Stated(side=(40.0, 40.0)), r"the model learned from 20 \(0.25 a pixel\), so all things look smaller to"),
        (Stated(side=(15.0, 15.0)), r"things look larger .*: give .* \(@size=20arcsec cuts such out of a mosaic\)"),
        (Stated(side=(20.0, 500.0)), r"show 20 to 500 arcsec"),  # cutouts, and the field that they are from
        (Stated(), r"do not say how large .*; the model learned from 20 arcsec \(0.25 a pixel\) along a side"),
    ],
)
def test_images_of_another_size_on_the_sky_are_told_of(found: Stated, said: str | None) -> None:
    sentences = SKY.differences(found)
    assert len(sentences) == (said is not None)
    if said is not None:
        import re

        assert re.search(said, sentences[0]), sentences[0]
    assert Stated().differences(found) == []  # a model of before states nothing


def test_of_cutouts_of_many_sizes_the_middle_counts() -> None:
    mixed = Stated(side=(10.0, 60.0))
    assert mixed.differences(Stated(side=(5.0, 90.0))) == []
    assert "things look smaller" in mixed.differences(Stated(side=(90.0, 200.0)))[0]


def points(*of_bands: float | None) -> Stated:
    return Stated(zero_points=tuple(None if point is None else (point, point) for point in of_bands))


def test_zero_points_count_band_by_band_and_from_both_sides() -> None:
    learned = points(22.5, 24.0)
    assert learned.differences(points(22.5, 24.02)) == []
    assert "has 3.63 times the value. Scale the images" in learned.differences(points(22.5, 25.4))[0]
    assert "has 0.251 times the value" in learned.differences(points(21.0, 24.0))[0]
    assert (
        "state no zero point, and the model learned from zero points of 22.5 to 24:" in learned.differences(Stated())[0]
    )
    assert "of 22.5 to 24, and the model learned from images that state none" in Stated().differences(learned)[0]


def test_a_preprocessing_keeps_what_was_stated_and_old_ones_are_what_they_were() -> None:
    plain = Preprocessing((8, 8), 1)
    assert "stated" not in plain.to_dict()
    kept = replace(plain, stated=replace(SKY, zero_points=((22.5, 22.5), None)))
    words = json.loads(json.dumps(kept.to_dict()))
    assert words["stated"] == {"side": [20, 20], "pixel": [0.25, 0.25], "zero_points": [[22.5, 22.5], None]}
    again = Preprocessing.from_dict(words)
    assert again.stated == kept.stated
    assert again == plain  # it shapes no pixel: members of an ensemble may differ in it
    assert (
        kept.check_source(LabelledImages("x", ["a"], None, (), lambda i: np.zeros((8, 8, 1)), stated=kept.stated)) == []
    )


def write(path: Path, *, size: int = 16, **cards: Any) -> None:
    header = fits.Header(list((tan_header(10.0, 20.0, size) | {"FILTER": "r"} | cards).items()))
    path.parent.mkdir(exist_ok=True)
    fits.PrimaryHDU(np.ones((size, size), np.float32), header).writeto(path)


def test_files_state_it_and_what_differs_among_them_is_noted(tmp_path: Path) -> None:
    for k in range(4):
        write(tmp_path / f"same/{k}.fits", MAGZERO=22.5, BUNIT="nmgy")
        write(tmp_path / f"mixed/{k}.fits", size=16 + k, **{"MAGZERO": 22.5 + k} | ({"BUNIT": "nmgy"} if k else {}))
    same, mixed = (open_source(tmp_path / name, labelled=False) for name in ("same", "mixed"))
    assert same.stated.side == pytest.approx((16 * PIXEL,) * 2)
    assert same.stated.pixel == pytest.approx((PIXEL,) * 2)
    assert same.stated.zero_points == ((22.5, 22.5),)
    assert len(same.notes) == 1
    assert mixed.stated.side == pytest.approx((16 * PIXEL, 19 * PIXEL))
    assert "of 4 files that were looked at, some do not say the unit of their values (BUNIT)" in mixed.notes[1]
    assert "zero points differ from file to file, from 22.5 to 25.5: the same source has up to 15.8" in mixed.notes[2]
    both = open_sources([f"{tmp_path}/same", f"{tmp_path}/mixed"])
    assert both.stated == Stated.of_each([same.stated, mixed.stated])


def test_files_of_one_band_each_state_it_band_by_band(tmp_path: Path) -> None:
    for k in range(3):
        write(tmp_path / f"cutouts/{k}_g.fits", FILTER="g", MAGZERO=22.5)
        write(tmp_path / f"cutouts/{k}_r.fits", MAGZERO=24.0)
    catalog = write_catalog(tmp_path / "c.csv", ("id",), [(k,) for k in range(3)])
    images = open_source(f"{catalog}@id=id@pattern=cutouts/{{id}}_[gr].fits", labelled=False)
    assert images.stated.side == pytest.approx((16 * PIXEL,) * 2)
    assert images.stated.zero_points == ((22.5, 22.5), (24.0, 24.0))


def test_values_that_stood_for_none_in_training_are_told_of_where_they_do_not(tmp_path: Path) -> None:
    for k in range(2):
        write(tmp_path / f"a/{k}.fits")
    learned, plain = (open_source(f"{tmp_path}/a{word}", labelled=False).stated for word in ("@blank=-99.0,-0,inf", ""))
    assert learned.blank == ("-99", "0", "inf")
    assert Stated.from_dict(json.loads(json.dumps(learned.to_dict(), allow_nan=False))) == learned
    assert learned.differences(learned) == plain.differences(learned) == []
    [sentence] = learned.differences(plain)
    assert "of which @blank=-99,0,inf reads values as missing, and these images are read without it" in sentence
    both = open_sources([f"{tmp_path}/a/0.fits@blank=0,7", f"{tmp_path}/a/1.fits@blank=7"])
    assert both.stated.blank == ("7",)
    made = field(2, side=64, size=16)
    catalog, mosaic = write_mosaic(tmp_path, made)
    assert open_source(f"{catalog}@mosaic={mosaic}@size=16@blank=0", labelled=False).stated.blank == ("0",)


def test_a_model_of_cutouts_is_told_that_the_whole_field_is_none(tmp_path: Path) -> None:
    made = field(8, side=160, size=16)
    catalog, mosaic = write_mosaic(tmp_path, made)
    small, large = (open_source(f"{catalog}@mosaic={mosaic}@size={side}", labelled=False) for side in (16, 32))
    whole = open_source(mosaic, labelled=False)
    flat = {**tan_header(10.0, 20.0, 40), "CD2_2": 4 * PIXEL / 3600, "FILTER": "r"}
    fits.PrimaryHDU(np.ones((40, 40), np.float32), fits.Header(list(flat.items()))).writeto(tmp_path / "flat.fits")
    places = write_catalog(tmp_path / "places.csv", ("ra", "dec"), [(10.0, 20.0)])
    as_cutout, as_file = (
        open_source(name, labelled=False).stated
        for name in (f"{places}@mosaic={tmp_path}/flat.fits@size=40", tmp_path / "flat.fits")
    )
    assert as_cutout == as_file
    assert small.stated.side == pytest.approx((16 * PIXEL,) * 2)
    assert "things look smaller" in small.stated.differences(large.stated)[0]
    assert "things look smaller" in small.stated.differences(whole.stated)[0]
    assert "things look larger" in large.stated.differences(small.stated)[0]
