from __future__ import annotations

import base64
import gzip
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import MaskedColumn, Table

from astroformer.errors import UserError
from astroformer.images.formats.tables import is_table, open_table
from astroformer.images.sources import open_source

KINDS = ("fits", "fits.gz", "vot", "votable", "xml", "ecsv")


def content() -> Table:
    """Rows for the images of the fixture `folder`."""
    return Table(
        {
            "file": ["class2/x9.png", "class2/x10.png", "class10/a.png"],
            "label": [1, 1, 2],
            "ra": [10.0, 20.0, np.nan],
            "dec": [-5.0, 5.0, 45.0],
            "mag": MaskedColumn([17.5, 18.5, 19.5], mask=[False, True, False]),
            "flux": np.arange(6.0).reshape(3, 2),
        }
    )


def written(path: Path, table: Table) -> Path:
    suffix = path.suffix.lower()
    if suffix == ".gz" or suffix == ".fits":
        table.write(path, format="fits")
    else:
        table.write(path, format="ascii.ecsv" if suffix == ".ecsv" else "votable")
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_astronomical_tables_are_catalogs(folder: Path, kind: str) -> None:
    path = written(folder / f"catalog.{kind}", content())
    assert is_table(path)
    images = open_source(path)
    assert images.files == ["class2/x9.png", "class2/x10.png", "class10/a.png"]
    assert images.classes == ("1", "2")
    assert images.labels is not None
    assert images.labels.tolist() == [0, 0, 1]
    assert images.positions_N2 is not None
    np.testing.assert_array_equal(images.positions_N2, [[10, -5], [20, 5], [np.nan, 45]])
    named = open_source(path, columns=["mag"]).columns
    assert [None if v != v else v for v in named["mag"]] == [17.5, None, 19.5]
    every = open_source(path, columns="all")
    assert list(every.columns) == ["ra", "dec", "mag"]
    assert any("flux (several values a row)" in note for note in every.notes)
    with pytest.raises(UserError, match=r"'flux' holds several values a row.*column of its own"):
        open_source(path, columns=["flux"])


@pytest.mark.parametrize("format", ["binary", "binary2"])
def test_a_votable_may_be_binary(folder: Path, format: str) -> None:
    content().write(folder / "c.vot", format="votable", tabledata_format=format)
    assert open_source(folder / "c.vot").classes == ("1", "2")


def test_byte_strings_and_missing_values(folder: Path) -> None:
    table = content()
    table["label"] = MaskedColumn([b"ring", b"disc", b"disc"], mask=[False, False, True])
    path = written(folder / "c.fits", table)
    with pytest.raises(UserError, match=r"'label' is empty in 1 of 3 rows \(the first: 3\)"):
        open_source(path)
    table["label"] = [b"ring", b"disc", b"disc"]
    table.write(path, overwrite=True)
    assert open_source(path).classes == ("disc", "ring")


def test_a_fits_image_is_no_table(tmp_path: Path) -> None:
    fits.PrimaryHDU(np.zeros((4, 4), np.float32)).writeto(tmp_path / "image.fits")
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(np.zeros((8, 8), np.float32))]).writeto(tmp_path / "c.fits")
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.zeros((8, 8)))]).writeto(tmp_path / "e.fits")
    (tmp_path / "words.fits").write_text("no FITS")
    (tmp_path / "w.fits.gz").write_text("no gzip")
    names = ("image.fits", "c.fits", "e.fits", "words.fits", "w.fits.gz", "gone.fits")
    assert not any(is_table(tmp_path / name) for name in names)


def test_several_tables_in_a_file(folder: Path) -> None:
    other = content()
    other["label"] = ["x", "y", "y"]
    hdus = [fits.PrimaryHDU(), fits.table_to_hdu(content()), fits.table_to_hdu(other)]
    hdus[1].name, hdus[2].name = "FIRST", "SECOND"
    path = folder / "two.fits"
    fits.HDUList(hdus).writeto(path)
    with pytest.raises(UserError, match=r"holds 2 tables: 1 \(FIRST\), 2 \(SECOND\).*@table=NAME"):
        open_source(path)
    assert open_source(f"{path}@table=SECOND").classes == ("x", "y")
    assert open_source(f"{path}@table=1").classes == ("1", "2")
    with pytest.raises(UserError, match=r"unknown table in .* 'SECOMD'\. Did you mean 'SECOND'"):
        open_source(f"{path}@table=SECOMD")
    (folder / "c.csv").write_text("file,label\nclass2/x9.png,a\nclass10/a.png,b\n")
    with pytest.raises(UserError, match="is one table; leave @table=2 out"):
        open_source(f"{folder / 'c.csv'}@table=2")


def _twice(path: Path) -> None:
    """Gives the column `mag` the name of the column `dec`, past what writes such files."""
    data = path.read_bytes()
    if path.suffix == ".fits":
        data = data.replace(b"'mag     '", b"'dec     '")
    elif path.suffix == ".ecsv":
        data = data.replace(b" mag", b" dec").replace(b"name: mag", b"name: dec")
    else:
        data = data.replace(b'name="mag"', b'name="dec"')
    path.write_bytes(data)


@pytest.mark.parametrize("kind", ["vot", "ecsv"])
def test_a_name_that_occurs_twice(folder: Path, kind: str) -> None:
    table = content()
    table.remove_column("flux")
    path = written(folder / f"c.{kind}", table)
    _twice(path)
    assert open_table(path).names == ["file", "label", "ra", "dec", "dec"]
    images = open_source(path, columns="all")
    assert images.positions_N2 is None
    assert list(images.columns) == ["ra"]
    assert images.columns["ra"][:2] == [10.0, 20.0]
    assert any("dec (a name that occurs twice)" in note for note in images.notes)
    with pytest.raises(UserError, match="'dec' occurs twice"):
        open_source(f"{path}@ra=ra@dec=dec")


def test_a_fits_table_with_a_name_twice_is_refused(folder: Path) -> None:
    path = written(folder / "c.fits", content())
    _twice(path)
    with pytest.raises(UserError, match="'dec' occurs twice; rename one"):
        open_source(path)


def test_without_astropy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(folder / "c.vot", content())
    monkeypatch.setitem(sys.modules, "astropy", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"c\.vot', a VOTable, needs the extra \[astro\]"):
        open_source(path)


def test_nothing_is_fetched_for_a_table(folder: Path) -> None:
    content().write(folder / "c.vot", format="votable", tabledata_format="binary")
    text = (folder / "c.vot").read_text()
    start, end = text.index("<STREAM"), text.index("</STREAM>")
    away = '<STREAM href="http://127.0.0.1:9/rows" encoding="base64">'
    (folder / "c.vot").write_text(text[:start] + away + text[end:])
    with pytest.raises(UserError, match=r"holds no rows: they lie elsewhere \(STREAM href\)"):
        open_source(folder / "c.vot")


def _damages(good: bytes) -> dict[str, bytes]:
    """Ten kinds of damage that any file may have."""
    third = len(good) // 3
    return {
        "empty": b"",
        "one byte": good[:1],
        "cut early": good[: len(good) // 10],
        "cut in the middle": good[: len(good) // 2],
        "cut at the end": good[:-20],
        "zeros": bytes(len(good)),
        "noise": np.random.default_rng(1).bytes(len(good)),
        "words": b"these are only words\n" * 10,
        "a hole": good[:third] + b"\0" * third + good[2 * third :],
        "noise in the middle": good[:third] + np.random.default_rng(2).bytes(third) + good[2 * third :],
    }


@pytest.mark.parametrize("damage", _damages(b"x" * 100))
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_tables_end_in_a_sentence(folder: Path, kind: str, damage: str) -> None:
    path = written(folder / f"c.{kind}", content())
    whole = path.read_bytes()
    path.write_bytes(_damages(whole)[damage])
    with pytest.raises(UserError, match=r"'.*c\."):
        open_source(path, columns="all")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ((b"NAXIS2  =                    3", b"NAXIS2  =        1000000000000"), "claims 62,000,000,000,000 bytes"),
        ((b"TFORM2  = 'K       '", b"TFORM2  = 'Z       '"), "is damaged"),
        ((b"TFIELDS =                    6", b"TFIELDS =                    9"), "is damaged"),
    ],
)
def test_fits_tables_that_promise_what_they_do_not_hold(
    folder: Path, change: tuple[bytes, bytes], sentence: str
) -> None:
    path = written(folder / "c.fits", content())
    data = path.read_bytes()
    assert change[0] in data
    path.write_bytes(data.replace(*change))
    with pytest.raises(UserError, match=sentence):
        open_source(path)


def test_a_gzip_that_ends_early(folder: Path) -> None:
    written(folder / "c.fits", content())
    packed = gzip.compress((folder / "c.fits").read_bytes())
    (folder / "c.fits.gz").write_bytes(packed[: len(packed) - 30])
    with pytest.raises(UserError):
        open_source(folder / "c.fits.gz")


def test_ids_in_floats_are_not_exact(folder: Path) -> None:
    table: Any = content()
    table["file"] = [587722981742084144.0, 1.0, 2.0]
    path = written(folder / "c.ecsv", table)
    with pytest.raises(UserError, match=r"whole numbers as floats, which are not exact above 2\^53"):
        open_source(path)


def test_a_gzip_is_read_to_its_end(folder: Path) -> None:
    written(folder / "c.fits", content())
    packed = gzip.compress((folder / "c.fits").read_bytes())
    for content_of_file in (packed + b"words", packed[:-8] + b"\0" * 8):
        (folder / "c.fits.gz").write_bytes(content_of_file)
        with pytest.raises(UserError, match=r"c\.fits\.gz': damaged gzip"):
            open_source(folder / "c.fits.gz")


@pytest.mark.parametrize(
    ("at", "sentence"), [(-2880, "HDU 1 has other data than its DATASUM"), (0, "HDU 0 is not what its CHECKSUM says")]
)
def test_checksums_of_a_fits_table_hold(folder: Path, at: int, sentence: str) -> None:
    hdus = fits.HDUList([fits.PrimaryHDU(), fits.table_to_hdu(content())])
    hdus.writeto(folder / "c.fits", checksum=True)
    assert len(open_source(folder / "c.fits")) == 3
    data = bytearray((folder / "c.fits").read_bytes())
    place = len(data) + at if at else data.index(b"conforms")
    data[place] ^= 1
    (folder / "c.fits").write_bytes(data)
    with pytest.raises(UserError, match=sentence):
        open_source(folder / "c.fits")


def test_columns_of_lists_hold_several_values(folder: Path) -> None:
    written(folder / "c.fits", content())
    with fits.open(folder / "c.fits") as opened:
        of_lists = fits.Column("v", "PE()", array=np.array([[1.0], [2.0, 3.0], []], object))
        table = fits.BinTableHDU.from_columns(opened[1].columns + of_lists)
    table.writeto(folder / "v.fits")
    images = open_source(folder / "v.fits", columns="all")
    assert "v" not in images.columns
    assert any("v (several values a row)" in note for note in images.notes)


@pytest.mark.parametrize("kind", ["vot", "ecsv"])
def test_a_table_that_is_packed_is_not_unpacked(folder: Path, kind: str) -> None:
    path = written(folder / f"c.{kind}", content())
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(UserError, match=rf"c\.{kind}' is packed; unpack it"):
        open_source(path)


def votable(folder: Path, rows: str, *fields: str, words: str = "") -> Path:
    """A VOTable with a column of files and others."""
    columns = "".join(f"<FIELD {field}/>" for field in ('name="file" datatype="char" arraysize="*"', *fields))
    path = folder / "c.vot"
    path.write_text(
        f'<?xml version="1.0"?><VOTABLE version="1.4"><RESOURCE><TABLE {words}>{columns}<DATA>'
        f"<TABLEDATA>{rows}</TABLEDATA></DATA></TABLE></RESOURCE></VOTABLE>"
    )
    return path


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ('name="label" datatype="char" arraysize="2"', "abc", "too long for specified length of 2"),
        ('name="label" datatype="unsignedByte"', "300", "'300' is out of range"),
        ('name="label" datatype="double"', "12x", "Invalid literal for float '12x'"),
    ],
)
def test_values_of_a_votable_that_would_be_read_as_others(folder: Path, field: str, value: str, sentence: str) -> None:
    rows = f"<TR><TD>class10/a.png</TD><TD>{value}</TD></TR><TR><TD>class2/x9.png</TD><TD>1</TD></TR>"
    with pytest.raises(UserError, match=rf"c\.vot' has values that would be read as others \(line 1: .*{sentence}"):
        open_source(votable(folder, rows, field))


def test_words_for_a_missing_number_in_a_votable(folder: Path) -> None:
    rows = "".join(f"<TR><TD>class2/{n}.png</TD><TD>{v}</TD></TR>" for n, v in (("x9", "null"), ("x10", "1.5")))
    path = votable(folder, rows, 'name="mag" datatype="float"')
    values = open_source(path, labelled=False, columns=["mag"]).columns["mag"]
    assert [None if value != value else value for value in values] == [None, 1.5]


def test_rows_that_a_votable_claims_are_there(folder: Path) -> None:
    row = "<TR><TD>class10/a.png</TD></TR>"
    assert len(open_source(votable(folder, row, words='nrows="1"'), labelled=False)) == 1
    for claimed, sentence in (("9", "nrows=9, but table contains 1 rows"), ("9" * 12, r"claims 9+ rows and has \d+")):
        with pytest.raises(UserError, match=sentence):
            open_source(votable(folder, row, words=f'nrows="{claimed}"'), labelled=False)


@pytest.mark.parametrize("format", ["binary", "binary2"])
def test_a_binary_votable_ends_where_a_row_does(folder: Path, format: str) -> None:
    content().write(folder / "c.vot", format="votable", tabledata_format=format)
    text = (folder / "c.vot").read_text()
    begin, end = text.index('encoding="base64">') + 18, text.index("</STREAM>")
    data = base64.b64decode(text[begin:end])
    for other in (data[:-7], data + b"abc", data[3:]):
        (folder / "c.vot").write_text(text[:begin] + base64.b64encode(other).decode() + text[end:])
        with pytest.raises(UserError, match="end in the middle of a row"):
            open_source(folder / "c.vot")
    (folder / "c.vot").write_text(f"{text[:begin]}!{text[begin + 1 :]}")
    with pytest.raises(UserError, match="no base64"):
        open_source(folder / "c.vot")


@pytest.mark.parametrize("way", ["by a DTD", "in UTF-16"])
def test_rows_that_lie_elsewhere_are_never_fetched(folder: Path, way: str) -> None:
    content().write(folder / "c.vot", format="votable", tabledata_format="binary")
    text = (folder / "c.vot").read_text()
    href = f"file://{folder}/rows"
    (folder / "rows").write_bytes(b"\0" * 100)
    if way == "by a DTD":
        declared = f'<!DOCTYPE VOTABLE [<!ATTLIST STREAM href CDATA "{href}">]>'
        text = text.replace("?>", f"?>{declared}", 1)
    else:
        text = text.replace("<STREAM ", f'<STREAM href="{href}" ')
    utf16 = text.replace('encoding="utf-8"', 'encoding="utf-16"').encode("utf-16")
    (folder / "c.vot").write_bytes(utf16 if way == "in UTF-16" else text.encode())
    with pytest.raises(UserError, match=r"holds no rows: they lie elsewhere"):
        open_source(folder / "c.vot")


def test_entities_outside_a_votable_are_not_followed(folder: Path) -> None:
    (folder / "secret").write_text("secret")
    path = votable(folder, "<TR><TD>&e;</TD></TR>")
    declared = f'<!DOCTYPE VOTABLE [<!ENTITY e SYSTEM "file://{folder}/secret">]>'
    path.write_text(path.read_text().replace("?>", f"?>{declared}", 1))
    with pytest.raises(UserError) as caught:
        open_source(path, labelled=False)
    assert "secret'" not in str(caught.value)
