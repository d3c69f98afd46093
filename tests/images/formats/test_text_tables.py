"""Tables in text beside plain CSV: packed, with comments, between spaces, as VizieR and SExtractor write them."""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path

import numpy as np
import pytest

from astroformer.errors import UserError
from astroformer.images.formats.tables import is_table, open_table
from astroformer.images.sources import open_source

VIZIER = """#RESOURCE=yCat_1
#Name: J/ApJ/1
#Title: galaxies
#
_RAJ2000\t_DEJ2000\tName\tType
deg\tdeg\t\t
---------\t---------\t----\t-
010.50000\t-05.25000\tx9  \tS
011.50000\t+05.25000\tx10 \tE
#END#
"""
SEXTRACTOR = """#   1 NUMBER                 Running object number
#   2 X_IMAGE                Object position along x                                    [pixel]
#   3 ALPHAWIN_J2000         Windowed right ascension (J2000)                           [deg]
         1    10.500   187.25
         2    20.500   188.25
"""
MRT = """Title: Galaxies
Authors: Somebody
Table: One
================================================================================
Byte-by-byte Description of file: t.txt
--------------------------------------------------------------------------------
   Bytes Format Units  Label  Explanations
--------------------------------------------------------------------------------
   1-  2 A2     ---    id     Name
   4-  8 F5.1   deg    ra     Right ascension
--------------------------------------------------------------------------------
x9  10.5
x1 187.5
"""
IPAC = """|  id  |   ra  |
| char | double|
|      |  deg  |
|      |  null |
  x9     10.5
  x1    187.5
"""


@pytest.mark.parametrize(("packing", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_packed_csv_is_a_catalog(folder: Path, kind: str, packing: str, pack: object) -> None:
    mark = {"csv": ",", "tsv": "\t"}[kind]
    text = f"file{mark}label\nclass2/x9.png{mark}a\nclass10/a.png{mark}b\n"
    path = folder / f"c.{kind}.{packing}"
    path.write_bytes(pack(text.encode()))  # type: ignore[operator]
    images = open_source(path)
    assert images.files == ["class2/x9.png", "class10/a.png"]
    assert images.classes == ("a", "b")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"is no packed file or is damaged"):
        open_source(path)
    path.write_bytes(text.encode())
    with pytest.raises(UserError, match=r"is no packed file or is damaged"):
        open_source(path)


def test_a_packed_table_that_unpacks_to_very_much_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.csv.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(40):
            file.write(bytes(1_000_000))
    with pytest.raises(UserError, match=r"unpacks to more than 1[0-9],[0-9]{3},[0-9]{3} bytes; unpack it"):
        open_table(path)


def test_a_packed_table_of_astronomers_is_to_be_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "c.vot.gz"
    path.write_bytes(gzip.compress(b"<VOTABLE></VOTABLE>"))
    with pytest.raises(UserError, match=r"is packed; unpack it"):
        open_source(path)


@pytest.mark.parametrize("ending", ["tsv", "txt", "tsv.gz"])
def test_vizier_tsv(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"c.{ending}"
    path.write_bytes(gzip.compress(VIZIER.encode()) if ending.endswith("gz") else VIZIER.encode())
    assert is_table(path)
    table = open_table(path)
    assert table.names == ["_RAJ2000", "_DEJ2000", "Name", "Type"]
    assert table.texts(["Name", "Type"]) == {"Name": ["x9", "x10"], "Type": ["S", "E"]}
    assert table.numbers("_DEJ2000").tolist() == [-5.25, 5.25]
    assert table.units["_RAJ2000"] == "deg"
    assert [note.partition("': ")[2] for note in table.notes] == [
        "lines that begin with # are comments, 4 before the header",
        "below the header units and dashes, which are no rows",
    ]
    path = tmp_path / "without_units.tsv"
    path.write_text(VIZIER.replace("deg\tdeg\t\t\n", ""))
    assert open_table(path).numbers("_RAJ2000").tolist() == [10.5, 11.5]


def test_what_vizier_says_is_said_of_the_images_too(folder: Path) -> None:
    path = folder / "c.tsv"
    path.write_text(VIZIER)
    images = open_source(f"{path}@id=Name@pattern=class2/{{id}}.png@label=Type")
    assert images.classes == ("E", "S")
    assert len([note for note in images.notes if "comments" in note or "dashes" in note]) == 2
    assert images.positions_N2 is not None
    np.testing.assert_array_equal(images.positions_N2, [[10.5, -5.25], [11.5, 5.25]])


def test_csv_with_names_behind_a_hash_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text("#file,label\n#1.png,a\n2.png,b\n")
    assert open_table(path).texts(["#file"]) == {"#file": ["#1.png", "2.png"]}
    path.write_text("# made by hand\nfile,label\n1.png,-\n2.png,-\n")
    assert open_table(path).texts(["label"]) == {"label": ["-", "-"]}


@pytest.mark.parametrize("ending", ["dat", "txt", "cat"])
@pytest.mark.parametrize(
    "header", ["id ra label", "# id ra label", "# made by hand\n#\n# id ra label", "# x\nid ra label"]
)
def test_columns_between_spaces(tmp_path: Path, header: str, ending: str) -> None:
    path = tmp_path / f"c.{ending}"
    path.write_text(f"{header}\n007 10.5 disc\n8 187.5  'S 0'\n".replace("'", '"'))
    assert is_table(path)
    table = open_table(path)
    assert table.names == ["id", "ra", "label"]
    assert table.texts(["id", "label"]) == {"id": ["007", "8"], "label": ["disc", "S 0"]}  # ids stay as written
    assert table.numbers("ra").tolist() == [10.5, 187.5]
    assert "spaces between its columns" in table.notes[0]
    assert "columns id, ra, label" in table.notes[0]


@pytest.mark.parametrize(
    ("ending", "text", "names", "unit"),
    [
        ("cat", SEXTRACTOR, ["NUMBER", "X_IMAGE", "ALPHAWIN_J2000"], "deg"),
        ("txt", MRT, ["id", "ra"], "deg"),
        ("tbl", IPAC, ["id", "ra"], "deg"),
        ("txt", "id,ra\nx9,10.5\nx1,187.5\n", ["id", "ra"], None),
        ("dat", "id\tra\nx9\t10.5\nx1\t187.5\n", ["id", "ra"], None),
    ],
)
def test_what_programs_of_astronomers_write(
    tmp_path: Path, ending: str, text: str, names: list[str], unit: str
) -> None:
    path = tmp_path / f"c.{ending}"
    path.write_text(text)
    assert is_table(path)
    table = open_table(path)
    assert table.names == names
    assert table.units.get(names[-1]) == unit
    assert table.numbers(names[-1])[1] in (187.5, 188.25)


def test_fits_catalogs_of_sextractor(tmp_path: Path) -> None:
    astropy = pytest.importorskip("astropy.table")
    path = tmp_path / "c.cat"
    astropy.Table({"NUMBER": [1, 2]}).write(path, format="fits")
    assert is_table(path)
    assert open_table(path).texts(["NUMBER"]) == {"NUMBER": ["1", "2"]}


@pytest.mark.parametrize("text", ["", "x", "# only\n# comments\n"])
def test_text_that_is_no_table(tmp_path: Path, text: str) -> None:
    (tmp_path / "notes.txt").write_text(text)
    with pytest.raises(UserError, match="is no source of images"):
        open_source(tmp_path / "notes.txt")


def test_prose_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("These are galaxies\nof many kinds\nand of stars too\n")
    with pytest.raises(UserError, match="is not a table with spaces between its columns or is damaged"):
        open_source(tmp_path / "readme.txt")


def test_spaces_need_astropy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (tmp_path / "c.dat").write_text("id label\n1 a\n")
    with pytest.raises(UserError, match=r"c.dat', a table with spaces between its columns, needs the extra \[astro\]"):
        open_table(tmp_path / "c.dat")
