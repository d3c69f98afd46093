"""Images of which each band is a FITS file, found by columns of a catalog or by patterns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from astroformer.errors import UserError
from astroformer.evaluation.unfinished import made_of
from astroformer.images.bands import Bands
from astroformer.images.labelled import LabelledImages
from astroformer.images.reading import UnreadableImage
from astroformer.images.several import open_sources
from astroformer.images.sources import open_source
from astroformer.images.splits import write_split
from helpers.tiny_sets import same_from_threads_and_pickled
from mock_survey import CLASSES, Survey, survey, tan_header, write_catalog

fits = pytest.importorskip("astropy.io.fits")
N, LETTERS = 6, "gri"


@pytest.fixture(scope="module")
def made() -> Survey:
    return survey(N, size=16)


def write(root: Path, made: Survey, ending: str = "fits", **header: Any) -> Path:
    """A file for each galaxy and band, and a catalog of them; `header` says what of the filter."""
    root.mkdir(parents=True, exist_ok=True)
    for i in range(N):
        for c, letter in enumerate(LETTERS):
            words = {key: text.format(letter) for key, text in header.items()}
            put(root / f"{i}.{letter}.{ending}", made.images_NHWC[i][:, :, c], **words)
    rows = [(i, CLASSES[made.labels[i]], *(f"{i}.{letter}.{ending}" for letter in LETTERS)) for i in range(N)]
    return write_catalog(root / "c.csv", ("id", "label", "file_g", "file_r", "file_i"), rows)


def put(path: Path, pixels: Any, **header: Any) -> None:
    hdu = fits.PrimaryHDU(pixels)
    hdu.header.update({"BUNIT": "nJy", **tan_header(10.0, 5.0, 16), **header})
    hdu.writeto(path, overwrite=True)


WORDS = (
    "@id=id@pattern={id}.[gri].fits",
    "@id=id@pattern={id}.g.fits,{id}.r.fits,{id}.i.fits",
    "@file=file_g+file_r+file_i",
)


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize(("filter", "names"), [({}, "gri"), ({"FILTER": "HSC-{}"}, ("HSC-g", "HSC-r", "HSC-i"))])
def test_files_of_one_band_each_are_images(
    tmp_path: Path, made: Survey, words: str, filter: dict[str, str], names: Any
) -> None:
    images = open_source(f"{write(tmp_path, made, **filter)}{words}", columns="all")
    assert images.bands == Bands(tuple(names), ("nJy",) * 3)
    assert images.masks
    assert len(images) == len(set(images.files)) == N
    for i in range(N):
        np.testing.assert_array_equal(images.read(i), made.images_NHWC[i][:, :, :3])
    assert not {"file_g", "file_r"} & set(images.columns) or "pattern" in words
    how = "headers" if filter else "names of the files"
    assert any(note.startswith("a FITS file for each band: ") and how in note for note in images.notes)
    same_from_threads_and_pickled(images)
    swapped = open_source(f"{tmp_path}/c.csv{words}@bands={names[2]},{names[0]}", labelled=False)
    np.testing.assert_array_equal(swapped.read(1), made.images_NHWC[1][:, :, [2, 0]])
    assert swapped.fingerprint() != images.fingerprint()


@pytest.mark.parametrize("words", [WORDS[0], WORDS[2]])
def test_an_image_without_one_of_its_bands_is_left_out_with_the_reason(
    tmp_path: Path, made: Survey, words: str
) -> None:
    catalog = write(tmp_path, made)
    (tmp_path / "2.r.fits").unlink()
    images = open_source(f"{catalog}{words}")
    assert "1 of 6 images lack a band (r 1) and can't be read" in images.notes
    with pytest.raises(UnreadableImage, match=r"its band r is missing \(there is no '.*2.r.fits'\)"):
        images.read(2)
    assert images.read(3).shape == (16, 16, 3)
    before = images.fingerprint(tmp_path / "cache")
    put(tmp_path / "2.r.fits", made.images_NHWC[2][:, :, 1])
    assert images.fingerprint(tmp_path / "cache") != before
    np.testing.assert_array_equal(images.read(2), made.images_NHWC[2][:, :, :3])


def test_an_empty_place_in_a_column_of_files_is_a_missing_band(tmp_path: Path, made: Survey) -> None:
    catalog = write(tmp_path, made)
    catalog.write_text(catalog.read_text().replace("0.g.fits", ""))
    images = open_source(f"{catalog}{WORDS[2]}")
    assert images.files[0] == "0.r.fits"
    with pytest.raises(UnreadableImage, match="its band g is missing"):
        images.read(0)


def test_files_that_are_no_bands_of_one_image_make_an_unreadable_one(tmp_path: Path, made: Survey) -> None:
    catalog = write(tmp_path, made, FILTER="{}")
    pixels = made.images_NHWC[0][:, :, 0]
    put(tmp_path / "0.r.fits", pixels[:8], FILTER="r")
    put(tmp_path / "1.r.fits", pixels, FILTER="r", CRVAL1=10.5)
    put(tmp_path / "2.r.fits", pixels, FILTER="z")
    put(tmp_path / "3.r.fits", pixels, FILTER="r", CRPIX1=tan_header(10.0, 5.0, 16)["CRPIX1"] + 1e-5)
    (tmp_path / "4.r.fits").write_bytes(b"SIMPLE  = broken")
    images = open_source(f"{catalog}{WORDS[0]}")
    for i, why in (
        (0, "its bands have different pixels: 16 × 16, 16 × 8, 16 × 16"),
        (1, "its pixels lie at other places in the sky, so they are no bands of one image"),
        (2, "band r, '.*2.r.fits': its bands are z .*, and those of the set are r"),
        (4, "band r, '.*4.r.fits': "),
    ):
        with pytest.raises(UnreadableImage, match=why):
            images.read(i)
    assert images.read(3).shape == (16, 16, 3)  # the same place but for rounding


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("@id=id@pattern={id}.*.fits", r"stands for 3 files of the id 0.*write the bands as \[gri\] or with commas"),
        ("@id=id@pattern={id}.[griy].fits", r"no image has a file of the band 'y'. The first that it should have"),
        ("@file=file_g+file_g", "names a column twice"),
        ("@file=file_g+file_z", r"unknown column in .* 'file_z'"),
        ("@file=file_g+file_r@bands=z", "it has no band 'z'; it has g, r"),
        ("@file=file_g+id", "no image has a file of the band 'id'"),
    ],
)
def test_words_that_can_not_be(tmp_path: Path, made: Survey, words: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        open_source(f"{write(tmp_path, made)}{words}")


def test_a_file_of_several_bands_is_none_of_one(tmp_path: Path, made: Survey) -> None:
    catalog = write(tmp_path, made)
    put(tmp_path / "0.r.fits", made.images_NHWC[0].transpose(2, 0, 1))
    with pytest.raises(UserError, match=r"0.r.fits' has the bands 0, 1, 2, 3, 4 .*one band of each file is combined"):
        open_source(f"{catalog}{WORDS[0]}")


def test_one_file_an_id_stays_one_image(tmp_path: Path, made: Survey) -> None:
    write(tmp_path, made)
    catalog = write_catalog(tmp_path / "d.csv", ("id", "label"), [("0.g", "a"), ("1.r", "b")])
    images = open_source(f"{catalog}@id=id@pattern=[01]*{{id}}.fits".replace("[01]*", ""))
    assert images.files == ["0.g.fits", "1.r.fits"]
    assert images.read(0).shape == (16, 16, 1)


def test_splits_several_sources_and_unfinished_predictions_know_the_files(
    tmp_path: Path, made: Survey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = f"{write(Path('a'), made)}{WORDS[0]}"
    second = f"{write(Path('b'), made)}{WORDS[2]}"
    both = open_sources([first, second])
    assert both.files[0] == "a/0.[gri].fits"
    assert both.files[N] == "b/0.g.fits"
    np.testing.assert_array_equal(both.read(N + 1), made.images_NHWC[1][:, :, :3])

    class Found:
        def config(self) -> Any:
            return type("Config", (), {"hashes": {}})

    monkeypatch.setattr("astroformer.evaluation.unfinished.ModelFolder.find", lambda path: Found())

    def of(images: LabelledImages) -> Any:
        return made_of(Path("m"), [first], images, [])["images"]

    images = open_source(first, labelled=False)
    before = of(images)
    put(Path("a/0.r.fits"), made.images_NHWC[0][:9, :9, 1])
    assert of(images) != before
    assert images.reader.part([2]).paths == (("a/2.g.fits", "a/2.r.fits", "a/2.i.fits"),)  # type: ignore[attr-defined]
    write_split(Path("s.csv"), images, [1, 0])
    assert "1.[gri].fits" in Path("s.csv").read_text()
