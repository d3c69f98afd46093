"""Positions as catalogs write them: units of columns, sexagesimal texts, pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from astroformer.errors import UserError
from astroformer.images.formats.positions import positions_of
from astroformer.images.formats.tables import open_table
from astroformer.images.sources import open_source
from helpers.survey import write_mosaic
from mock_survey import Field, field, write_catalog

Table = pytest.importorskip("astropy.table").Table
Angle = pytest.importorskip("astropy.coordinates").Angle


@pytest.fixture(scope="module")
def made() -> Field:
    return field(6, side=96, size=16)


@pytest.fixture
def mosaic(tmp_path: Path, made: Field) -> tuple[str, Any]:
    """The words of a mosaic, and the cutouts by plain degrees."""
    catalog, file = write_mosaic(tmp_path, made)
    words = f"@mosaic={file}@size=16"
    return words, open_source(f"{catalog}{words}", labelled=False)


def same(images: Any, expected: Any) -> None:
    assert len(images) == len(expected)
    for i in range(len(images)):
        np.testing.assert_array_equal(images.read(i), expected.read(i))
    np.testing.assert_allclose(images.positions_N2, expected.positions_N2, atol=1e-6)


@pytest.mark.parametrize("kind", ["fits", "ecsv", "vot"])
@pytest.mark.parametrize(("ra_unit", "dec_unit"), [("rad", "rad"), ("hourangle", "deg"), ("deg", "arcmin")])
def test_units_of_columns_count(tmp_path: Path, mosaic: Any, kind: str, ra_unit: str, dec_unit: str) -> None:
    if kind == "fits" and ra_unit == "hourangle":
        ra_unit = "h"  # as FITS writes it
    words, expected = mosaic
    degrees = Table({"RA": expected.positions_N2[:, 0], "DEC": expected.positions_N2[:, 1]})
    factor = {"rad": np.pi / 180, "hourangle": 1 / 15, "h": 1 / 15, "deg": 1, "arcmin": 60}
    made = Table({"RA": degrees["RA"] * factor[ra_unit], "DEC": degrees["DEC"] * factor[dec_unit]})
    made["RA"].unit, made["DEC"].unit = ra_unit, dec_unit
    path = tmp_path / f"c.{kind}"
    made.write(path, format={"ecsv": "ascii.ecsv", "vot": "votable"}.get(kind, kind))
    images = open_source(f"{path}{words}", labelled=False)
    same(images, expected)
    assert any("converted from" in note for note in images.notes)
    made["RA"].unit = "mm"
    made.write(path, format={"ecsv": "ascii.ecsv", "vot": "votable"}.get(kind, kind), overwrite=True)
    with pytest.raises(UserError, match="'RA' is in 'mm'; degrees, radians, hours or another unit of angles is needed"):
        open_source(f"{path}{words}", labelled=False)


@pytest.mark.parametrize("separator", [":", "hms", " "])
def test_hours_minutes_and_seconds(tmp_path: Path, mosaic: Any, separator: str) -> None:
    words, expected = mosaic
    ra, dec = (Angle(expected.positions_N2[:, i], "deg") for i in (0, 1))
    ras = ra.to_string("hourangle", sep=separator, precision=5)
    decs = dec.to_string("deg", sep=separator.replace("h", "d"), precision=4)
    texts = list(zip(ras, decs, strict=True))
    images = open_source(f"{write_catalog(tmp_path / 's.csv', ('ra', 'dec'), texts)}{words}", labelled=False)
    same(images, expected)
    assert "right ascension by 'ra', written as hours, minutes and seconds" in images.notes
    path = write_catalog(tmp_path / "s.csv", ("ra", "dec"), [*texts[:2], ("187.5", "2:3:4"), *texts[3:]])
    with pytest.raises(UserError, match=r"'ra' has '187.5' in row 3, and angles such as 12:30:49.4 in others"):
        open_source(f"{path}{words}", labelled=False)


def test_positions_in_the_middle_of_nowhere_stay_unknown(tmp_path: Path) -> None:
    path = write_catalog(tmp_path / "s.csv", ("ra", "dec"), [("12:30:00", "-1:30:00"), ("", ""), ("0:0:0", "90:0:0")])
    places = positions_of(open_table(path), {})
    assert places is not None
    np.testing.assert_allclose(places.positions_N2, [[187.5, -1.5], [np.nan, np.nan], [0, 90]])


def test_images_without_a_position_stand_alone_which_is_said(tmp_path: Path) -> None:
    places = [(10, 5), (10, 5), ("", ""), (0, 0), (0, 0)]
    path = write_catalog(tmp_path / "c.csv", ("file", "ra", "dec"), [(f"{i}.png", *at) for i, at in enumerate(places)])
    (tmp_path / "0.png").touch()
    images = open_source(f"{path}@same-sky=5", labelled=False)
    assert images.groups is not None
    assert images.groups.tolist() == [0, 0, 2, 3, 4]
    assert "3 of 5 images have no position (empty, or 0 and 0): @same-sky keeps none of these together" in images.notes


def test_what_keeps_columns_from_being_positions_is_said_where_they_are_needed(tmp_path: Path) -> None:
    path = write_catalog(tmp_path / "c.csv", ("file", "ra", "dec"), [("0.png", -999, -999)])
    (tmp_path / "0.png").touch()
    assert open_source(path, labelled=False).positions_N2 is None
    with pytest.raises(UserError, match="the column 'ra' has -999 in row 1; degrees from -360 to 360"):
        open_source(f"{path}@same-sky=5", labelled=False)


@pytest.mark.parametrize(
    ("columns", "words", "first", "said"),
    [
        (("X_IMAGE", "Y_IMAGE"), "", 1, "is 1, as SExtractor counts"),
        (("xcentroid", "ycentroid"), "", 0, "is 0, as photutils counts"),
        (("x", "y"), "@first-pixel=1", 1, "is 1"),
        (("X_IMAGE", "Y_IMAGE"), "@first-pixel=0", 0, "is 0"),
    ],
)
def test_positions_in_pixels(
    tmp_path: Path, mosaic: Any, columns: tuple[str, str], words: str, first: int, said: str
) -> None:
    of_mosaic, expected = mosaic
    centres = expected.reader.corner_N2[:, ::-1] + 8.0  # of squares of 16 pixels
    path = write_catalog(tmp_path / "x.csv", columns, (centres + first).tolist())
    images = open_source(f"{path}{of_mosaic}@x={columns[0]}@y={columns[1]}{words}", labelled=False)
    assert images.positions_N2 is not None
    np.testing.assert_allclose(images.positions_N2, expected.positions_N2, atol=1 / 3600)
    for i in range(len(images)):
        np.testing.assert_array_equal(images.read(i), expected.read(i))
    assert any(note.endswith(said) for note in images.notes)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("@x=x@y=y", "Say @first-pixel=1 or @first-pixel=0"),
        ("@x=x@y=y@first-pixel=2", "should be 1, as FITS"),
        ("@x=x", "positions are two columns"),
        ("@x=x@y=y@ra=x", "positions are two columns"),
        ("", r"Say which with '.*@ra=COLUMN@dec=COLUMN'"),
    ],
)
def test_words_about_pixels_that_can_not_be(tmp_path: Path, mosaic: Any, words: str, sentence: str) -> None:
    path = write_catalog(tmp_path / "x.csv", ("x", "y"), [(1, 2)])
    with pytest.raises(UserError, match=sentence):
        open_source(f"{path}{mosaic[0]}{words}", labelled=False)
