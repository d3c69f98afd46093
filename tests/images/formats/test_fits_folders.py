"""Folders and catalogs of FITS files: which bands a set has, and what is left out."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from astroformer.errors import UserError
from astroformer.images.bands import Bands
from astroformer.images.names import ignored_kinds
from astroformer.images.reading import UnreadableImage
from astroformer.images.several import open_sources
from astroformer.images.sources import open_source
from helpers.tiny_sets import same_from_threads_and_pickled
from mock_survey import CLASSES, FILTERS, UNIT, Survey, survey, write_catalog, write_fits, write_folder

pytest.importorskip("astropy")


@pytest.fixture(scope="module")
def made() -> Survey:
    return survey(9, size=16)


@pytest.mark.parametrize("layout", ["extensions", "cube", "compressed"])
def test_class_folders(tmp_path: Path, made: Survey, layout: str) -> None:
    images = open_source(write_folder(tmp_path / "set", made, layout))  # type: ignore[arg-type]
    assert images.classes == CLASSES
    assert images.bands == Bands(FILTERS, (UNIT,) * 5)
    assert images.masks
    assert len(images.notes) == 1
    assert images.notes[0].startswith("FITS: bands u, g, r, i, z (nanomaggy) of HDU ")
    assert "not taken: HDU" in images.notes[0]
    for i, file in enumerate(images.files):
        np.testing.assert_array_equal(images.read(i), made.images_NHWC[int(Path(file).stem)])
    same_from_threads_and_pickled(images)
    assert images.subset([1, 0]).bands == images.bands
    assert open_source(tmp_path / "set", labelled=False).bands == images.bands


def test_options_choose_bands_and_parts(tmp_path: Path, made: Survey) -> None:
    root = write_folder(tmp_path / "set", made)
    images = open_source(f"{root}@bands=i,g")
    assert images.bands == Bands(("i", "g"), (UNIT, UNIT))
    np.testing.assert_array_equal(images.read(0), made.images_NHWC[0][:, :, [3, 1]])
    assert images.fingerprint() != open_source(root).fingerprint()
    masks = open_source(f"{root}@hdu=MASK")
    assert masks.read(0).dtype == np.uint8
    assert masks.bands == Bands(("MASK",))
    with pytest.raises(UserError, match=r"none of 9 files has what the options ask for. '.*': it has no band 'y'; it"):
        open_source(f"{root}@bands=y")
    with pytest.raises(UserError, match="the option @hdu does not apply"):
        open_source("mock-galaxies:20x16@hdu=1")


def test_options_of_fits_need_fits(galaxy_folder: Path) -> None:
    with pytest.raises(UserError, match="has no FITS files, of which @bands chooses parts; leave it out"):
        open_source(f"{galaxy_folder}@bands=g")


def test_a_file_of_other_bands_is_one_that_can_not_be_read(tmp_path: Path, made: Survey) -> None:
    root = write_folder(tmp_path / "set", made)
    odd = write_fits(root / CLASSES[0] / "0000.fits", made.images_NHWC[0], names=("u", "g", "i", "r", "z"))
    images = open_source(root)
    assert images.bands is not None
    assert images.bands.names == FILTERS
    i = images.files.index(f"{CLASSES[0]}/{odd.name}")
    with pytest.raises(
        UnreadableImage, match=r"its bands are u, g, i, r, z .*, and those of the set are u, g, r, i, z"
    ):
        images.read(i)
    again = pickle.loads(pickle.dumps(images.reader))
    with pytest.raises(UnreadableImage, match="its bands are"):
        again(i)


def test_fits_beside_pictures_are_left_out_unless_they_are_asked_for(tmp_path: Path, made: Survey) -> None:
    root = write_folder(tmp_path / "set", made)
    for path in sorted(root.rglob("*.fits")):
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(path.with_suffix(".jpg"))
    pictures, cutouts = open_source(root), open_source(f"{root}@bands=g,r,i")
    assert all(file.endswith(".jpg") for file in pictures.files)
    assert pictures.bands is None
    assert not pictures.notes
    assert "a FITS file among pictures; @hdu= or @bands= takes FITS alone: 9" in ignored_kinds(pictures.ignored)
    assert all(file.endswith(".fits") for file in cutouts.files)
    assert "a picture among FITS files: 9" in ignored_kinds(cutouts.ignored)
    asked = open_source(root, labelled=False)  # a row for each
    assert len(asked) == 18
    assert asked.bands is None
    assert len(open_source(f"{root}@bands=g", labelled=False)) == 9


def test_a_catalog_and_a_single_file(tmp_path: Path, made: Survey) -> None:
    root = write_folder(tmp_path / "set", made)
    files = sorted(root.rglob("*.fits"))
    rows = [(str(file.relative_to(tmp_path)), file.parent.name) for file in files]
    catalog = write_catalog(tmp_path / "c.csv", ("file", "label"), rows)
    images = open_source(f"{catalog}@bands=r,i")
    assert images.bands == Bands(("r", "i"), (UNIT, UNIT))
    assert images.read(0).shape == (16, 16, 2)
    one = open_source(f"{files[0]}@bands=z", labelled=False)
    assert one.bands == Bands(("z",), (UNIT,))


def test_several_sources_keep_what_they_agree_in(tmp_path: Path, made: Survey) -> None:
    for i in range(4):
        write_fits(tmp_path / f"{i}.fits", made.images_NHWC[i])
    images = open_sources([f"{tmp_path}/[01].fits@bands=g", f"{tmp_path}/2.fits@bands=g"])
    assert images.bands == Bands(("g",), (UNIT,))
    assert images.masks
    assert len(images.notes) == 1
    with pytest.raises(UserError, match=r"has the bands g \(nanomaggy\)"):
        open_sources([f"{tmp_path}/1.fits@bands=g", f"{tmp_path}/2.fits@bands=r"])


def test_names_of_fits_files(tmp_path: Path, made: Survey) -> None:
    import gzip

    for class_name in CLASSES[:2]:
        for name in ("a.FITS", "b.fit", "c.fts"):
            write_fits(tmp_path / "set" / class_name / "x.fits", made.images_NHWC[0]).rename(
                tmp_path / "set" / class_name / name
            )
        data = (tmp_path / "set" / class_name / "a.FITS").read_bytes()
        (tmp_path / "set" / class_name / "d.fits.gz").write_bytes(gzip.compress(data))
        (tmp_path / "set" / class_name / "plain").write_bytes(data)
        (tmp_path / "set" / class_name / "other.tar.gz").write_bytes(gzip.compress(b"words"))
    images = open_source(tmp_path / "set")
    assert len(images) == 10
    assert ignored_kinds(images.ignored) == "not taken for images: 2 (a .gz file: 2)"
    for i in range(10):
        np.testing.assert_array_equal(images.read(i), made.images_NHWC[0])


@pytest.mark.parametrize("filters", [(None, None), ("g", "r")])
def test_files_that_seem_to_be_bands_of_one_image_are_told_of(tmp_path: Path, filters: tuple[str | None, ...]) -> None:
    """With filters in their headers the images of the rarer one are refused, without them all are taken alike."""
    fits = pytest.importorskip("astropy.io.fits")
    for name in ("a/1", "a/2", "b/1"):
        for band, filter in zip("gr", filters, strict=True):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            hdu = fits.PrimaryHDU(np.zeros((4, 4), np.float32))
            hdu.header.update({"FILTER": filter} if filter else {})
            hdu.writeto(tmp_path / f"{name}_{band}.fits")
    images = open_source(tmp_path)
    others = [note for note in images.notes if "files that were looked at, 3 have other bands than g and can't" in note]
    assert len(others) == (filters[0] is not None)
    assert images.notes[-1] == (
        "'1_g.fits' and '1_r.fits' are called as bands of one image, and each is read as an image of its own. A "
        "catalog makes one of them, for instance with @id=COLUMN@pattern={id}_g.fits,{id}_r.fits"
    )
    for path in tmp_path.rglob("*_r.fits"):
        path.unlink()
    assert len(open_source(tmp_path).notes) == 1
