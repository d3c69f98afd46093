"""Damaged files of scientists: FITS, mosaics and stacks, tables, and files of arrays.

What is read of a damaged file is compared with what astropy, h5py or zarr read of the same file. A file whose checksum
is wrong by astropy must be refused.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import random
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
from PIL import Image

from astroformer.errors import UserError
from astroformer.images.fits import bands_of_file
from astroformer.images.fits_bands import Band, Wanted
from astroformer.images.formats.mosaics import PieceReader
from astroformer.images.labelled import LabelledImages
from astroformer.images.sources import open_source
from helpers.array_files import five_bands, save_arrays
from helpers.fits_mutations import changed_fits
from helpers.fuzz_kind import Kind, refused
from helpers.mutations import NASTY_TEXT, change_file, changed_bytes, changed_json, changed_text
from mock_survey import tan_header

SIDE = 40
Array = np.ndarray[Any, np.dtype[Any]]


def _encoded(*hdus: Any, **words: Any) -> bytes:
    from astropy.io import fits

    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fits.HDUList(list(hdus)).writeto(stream, **words)
    return stream.getvalue()


def sound_fits(cards: dict[str, Any]) -> dict[str, bytes]:
    """A file of each kind, by its name; some with checksums."""
    from astropy.io import fits

    rng = np.random.default_rng(4)
    light = rng.normal(size=(SIDE, SIDE)).astype(np.float32)
    holes = np.where(rng.random((SIDE, SIDE)) < 0.02, np.float32(np.nan), light)
    counts = rng.poisson(200, (SIDE, SIDE)).astype(np.int16)
    header = fits.Header(cards)
    files: dict[str, bytes] = {}
    for name, values in (
        *(
            ("u8", counts.astype(np.uint8)),
            ("i16", counts),
            ("u16", counts.astype(np.uint16) * 9),
            ("i32", counts * 70),
        ),
        *(("f32", light), ("f64", light.astype(np.float64)), ("nan", holes), ("u32", counts.astype(np.uint32))),
    ):
        files[f"{name}.fits"] = _encoded(fits.PrimaryHDU(values, header), checksum=name in ("i16", "f32"))
    scaled = fits.PrimaryHDU(counts, fits.Header({**cards, "BLANK": 200}))
    scaled.scale("int16", bscale=0.5, bzero=3)
    files["scaled.fits"] = _encoded(scaled)
    cube = fits.PrimaryHDU(np.stack([light, holes]), fits.Header({"BANDS": "gr", **cards}))
    files["cube.fits"] = _encoded(cube)
    parts = [fits.PrimaryHDU(), *(fits.ImageHDU(light + i, header, name=f"B{i}") for i in range(3))]
    parts.append(fits.ImageHDU(counts.astype(np.uint8), name="MASK"))
    files["parts.fits"] = _encoded(*parts)
    files["sums.fits"] = _encoded(*parts, checksum=True)
    for kind, values, words in (
        *(("RICE_1", light, {}), ("RICE_1", counts, {}), ("GZIP_1", light, {"quantize_level": 0.0})),
        *(("GZIP_2", counts, {}), ("PLIO_1", counts, {}), ("HCOMPRESS_1", counts, {"tile_shape": (20, SIDE)})),
    ):
        packed = fits.CompImageHDU(values, header, name="SCI", compression_type=kind, **words)
        files[f"{kind}-{len(files)}.fits"] = _encoded(fits.PrimaryHDU(), packed, checksum=kind == "GZIP_2")
    files["f32.fits.gz"] = gzip.compress(files["f32.fits"])
    files["parts.fits.bz2"] = bz2.compress(files["parts.fits"])
    return files


def damaged_fits(rng: random.Random, name: str, data: bytes) -> bytes:
    """A FITS file that is damaged, in its pack or within."""
    if name.endswith(".fits"):
        return changed_fits(rng, data)
    pack, unpack = (gzip.compress, gzip.decompress) if name.endswith("gz") else (bz2.compress, bz2.decompress)
    if rng.random() < 0.5:
        return changed_bytes(rng, data)
    packed = pack(changed_fits(rng, unpack(data)))
    return packed + rng.choice((b"", b"", b"\0" * 512, b"words", packed))


def _unpacked(data: bytes) -> bytes:
    if data.startswith(b"\x1f\x8b"):
        return gzip.decompress(data)
    return bz2.decompress(data) if data.startswith(b"BZh") else data


def by_astropy(data: bytes, bands: Sequence[Band], index: int = 0) -> Array | None:
    """The values of bands as astropy reads them, (H, W, C) float32; None where it can't read them."""
    from astropy.io import fits

    planes = []
    with warnings.catch_warnings(), np.errstate(over="ignore", invalid="ignore"), contextlib.suppress(Exception):
        warnings.simplefilter("ignore")
        with fits.open(io.BytesIO(data), memmap=False) as opened:
            for band in bands:
                place = tuple(index if at is None else at for at in band.place)
                planes.append(np.asarray(opened[band.hdu.number].data[place], np.float64))
                if band.hdu.get("BLANK") == 0:  # which it overlooks
                    return None
        return np.stack(planes, axis=-1).astype(np.float32)
    return None


def wrong_sums(data: bytes, numbers: set[int]) -> list[str]:
    """What astropy finds wrong with the checksums of these parts."""
    from astropy.io import fits

    found = []
    with warnings.catch_warnings(), contextlib.suppress(Exception):  # which has sums without a meaning for it
        warnings.simplefilter("ignore")
        with fits.open(io.BytesIO(data), memmap=False, disable_image_compression=True) as opened:
            for number in numbers:
                sums = {"DATASUM": opened[number].verify_datasum()}
                if opened[number].header.get("CHECKSUM", "").strip("0 "):  # else it says nothing
                    sums["CHECKSUM"] = opened[number].verify_checksum()
                found += [f"{name} of HDU {number} is wrong" for name, said in sums.items() if said == 0]
    return found


def same_values(image: Array, other: Array) -> bool:
    return image.shape == other.shape and np.array_equal(
        image.astype(np.float32), other.astype(np.float32), equal_nan=True
    )


def close_values(image: Array, other: Array) -> bool:
    """Whether values are the same but for how they were rounded: astropy scales some in float32."""
    if image.shape != other.shape or not np.array_equal(np.isnan(image), np.isnan(other)):
        return False
    largest = np.max(np.abs(other), where=np.isfinite(other), initial=0)
    return np.allclose(image, other, rtol=1e-6, atol=1e-6 * largest, equal_nan=True)


class Fits(Kind):
    """A damaged FITS file, alone or in a class folder beside sound ones."""

    name = "FITS"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.files = sound_fits(tan_header(10.0, 5.0, SIDE))
        self.expected = {}
        for name, data in self.files.items():
            (folder / name).write_bytes(data)
            self.expected[name] = open_source(folder / name, labelled=False).read(0)
            (folder / name).unlink()
            for place in ("a/1", "a/2", "b/3", "b/4"):
                file = folder / f"of-{name}" / f"{place}-{name}"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data)

    def case(self, rng: random.Random) -> str:
        name = rng.choice(list(self.files))
        data = damaged_fits(rng, name, self.files[name])
        in_folder = rng.random() < 0.3
        file = self.folder / (f"of-{name}/b/5-{name}" if in_folder else name)
        file.write_bytes(data)
        try:
            images = open_source(file.parents[1] if in_folder else file, labelled=in_folder)
            for i in range(len(images) - 1):
                assert same_values(images.read(i), self.expected[name]), "a sound image is another"
            try:
                image = images.read(len(images) - 1)
            except UserError as error:
                return refused(error)
            self._check(name, file, data, image)
            return "right"
        except UserError as error:
            if in_folder:
                raise AssertionError(f"one damaged file of five refuses the folder: {error}") from error
            return refused(error)
        finally:
            file.unlink()

    def _check(self, name: str, file: Path, data: bytes, image: Array) -> None:
        data, bands = _unpacked(data), bands_of_file(str(file), Wanted()).bands
        sums = wrong_sums(data, {0, *(band.hdu.number for band in bands)})
        assert not sums, f"{name}: read, and {sums}"
        assert image.dtype in (np.uint8, np.uint16, np.float32)
        if not same_values(image, self.expected[name]) and (other := by_astropy(data, bands)) is not None:
            assert close_values(image, other), f"{name}: other values than astropy's"


class Mosaics(Kind):
    """A damaged mosaic or stack, or a catalog of strange positions."""

    name = "mosaics"
    PLACES = ((10.0, 5.0), (10.001, 5.001), (9.9985, 4.9985), (10.002, 5.0), (10.5, 5.0))
    NASTY = (*("nan", "", "inf", "1e400", "0", "360", "-0.0", "359.9999999", "-350", "90", "-90", "x", "10h", "91"),)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.files = {name: data for name, data in sound_fits(tan_header(10.0, 5.0, SIDE)).items() if name[-1] == "s"}

    def case(self, rng: random.Random) -> str:
        name = rng.choice(list(self.files))
        data, rows = self.files[name], [list(map(str, row)) for row in self.PLACES]
        if rng.random() < 0.8:
            data = changed_fits(rng, data)
        else:
            for _ in range(rng.choice((1, 1, 3))):
                rng.choice(rows)[rng.randrange(2)] = rng.choice(self.NASTY)
        file, catalog = self.folder / name, self.folder / "c.csv"
        file.write_bytes(data)
        stack = rng.random() < 0.2
        size = rng.choice(("8", "7", "1", "100", "2arcsec", "0", "16384", "16385", "1e5", "3.5", "1arcmin"))
        if stack:
            rows = rows[:1]
        catalog.write_text("ra,dec\n" + "".join(f"{ra},{dec}\n" for ra, dec in rows))
        try:
            images = open_source(
                f"{catalog}@cube={file}" if stack else f"{catalog}@mosaic={file}@size={size}", labelled=False
            )
        except UserError as error:
            return refused(error)
        read = 0
        for i, (ra, dec) in enumerate(rows):
            try:
                image = images.read(i)
            except UserError as error:
                refused(error)
                continue
            self._check(data, images, image, None if stack else (float(ra), float(dec)))
            read += 1
        return "right" if read else "refused"

    def _check(self, data: bytes, images: LabelledImages, image: Array, place: tuple[float, float] | None) -> None:
        reader = images.reader
        assert isinstance(reader, PieceReader)
        bands = [layer.band for layer in reader.layers]
        sums = wrong_sums(data, {0, *(band.hdu.number for band in bands)})
        assert not sums, f"read, and {sums}"
        whole = by_astropy(data, bands)
        if whole is None:
            return
        if place is None:
            assert close_values(image, whole), "other values than astropy's"
            return
        y, x = _pixel_by_astropy(data, reader.layers[0].band.hdu.number, *place)
        side = image.shape[0]
        corners = [np.ceil(at - side / 2) for at in (y, x)]
        if any(abs(at - side / 2 - round(at - side / 2)) < 1e-4 for at in (y, x)):
            return  # which of two is a matter of the last digits
        padded = np.full((side, side, whole.shape[2]), np.nan, np.float32)
        top, left = (int(corner) for corner in corners)
        for row in range(max(0, top), min(whole.shape[0], top + side)):
            begin, end = max(0, left), min(whole.shape[1], left + side)
            padded[row - top, begin - left : end - left] = whole[row, begin:end]
        assert close_values(image, padded), f"another cutout than astropy's, around {place}"


def _pixel_by_astropy(data: bytes, number: int, ra: float, dec: float) -> tuple[float, float]:
    from astropy.coordinates import SkyCoord
    from astropy.io import fits
    from astropy.wcs import WCS

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with fits.open(io.BytesIO(data)) as opened:
            wcs = WCS(opened[number].header, opened).celestial
            x, y = wcs.world_to_pixel(SkyCoord(ra, dec, unit="deg"))
    return float(y), float(x)


class Tables(Kind):
    """A damaged table in FITS, VOTable, ECSV or text that is used as a catalog."""

    name = "tables"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        from astropy.io import fits
        from astropy.table import MaskedColumn, Table

        Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "0.png")
        names = [f"{i}.png" for i in range(6)]
        for name in names:
            Image.fromarray(np.full((4, 4), int(name[0]), np.uint8)).save(folder / name)
        table = Table(
            {
                "file": names,
                "label": ["disc", "ring"] * 3,
                "n": MaskedColumn(np.arange(6, dtype=np.int16), mask=[False] * 5 + [True], fill_value=-1),
                "ra": np.array([0.0, 10, 20, 359.9999, np.nan, 360]),
                "dec": np.array([90.0, -90, 0, 1, 2, 3]),
                "w": np.arange(6) + 1.0,
            }
        )
        self.files: dict[str, bytes] = {}
        for name, words in (
            *(("t.fits", {}), ("binary.vot", {"tabledata_format": "binary"}), ("rows.vot", {})),
            *(("binary2.vot", {"tabledata_format": "binary2"}), ("t.ecsv", {"format": "ascii.ecsv"})),
            *(("comma.ecsv", {"format": "ascii.ecsv", "delimiter": ","}),),
        ):
            words = {"format": "votable", **words} if name.endswith("vot") else words
            filled = table.filled() if "binary" in name else table  # which masks by a value of its own
            filled.write(folder / name, **words)
            self.files[name] = (folder / name).read_bytes()
            (folder / name).unlink()
        spaced = Table({key: table[key] for key in ("file", "label", "w")})
        for name, format in (("b.txt", "basic"), ("h.dat", "commented_header"), ("i.tbl", "ipac"), ("t.csv", "csv")):
            stream = io.StringIO()
            spaced.write(stream, format=f"ascii.{format}")
            self.files[name] = stream.getvalue().encode()
        self.files["s.cat"] = b"# 1 file\n# 2 label\n# 3 w\n" + self.files["b.txt"].partition(b"\n")[2]
        self.files["t.csv.gz"] = gzip.compress(self.files["t.csv"])
        self.files["t.fits.gz"] = gzip.compress(self.files["t.fits"])
        columns = [
            *(fits.Column("file", "6A", array=names), fits.Column("label", "4A", array=["disc", "ring"] * 3)),
            fits.Column("n", "I", array=np.arange(6), null=3),
            *(fits.Column("ra", "D", array=np.arange(6)), fits.Column("dec", "E", array=np.arange(6))),
            *(
                fits.Column("w", "D", array=np.arange(6) + 1),
                fits.Column("v", "PE()", array=np.array([[1.0], [2, 3]] * 3, object)),
            ),
        ]
        binary = fits.BinTableHDU.from_columns(columns, name="CAT")
        binary.header.update({"TSCAL3": 2.0, "TZERO3": 5.0})
        self.files["sums.fits"] = _encoded(fits.PrimaryHDU(), binary, checksum=True)
        self.files["heap.fits"] = _encoded(fits.PrimaryHDU(), binary)
        text = [fits.Column("file", "A6", array=names), fits.Column("label", "A4", array=["disc", "ring"] * 3)]
        text += [fits.Column(name, "E15.7", array=np.arange(6) + 1) for name in ("ra", "dec", "w")]
        self.files["text.fits"] = _encoded(fits.PrimaryHDU(), fits.TableHDU.from_columns(text))
        self.expected = {}
        for name, data in self.files.items():
            (folder / name).write_bytes(data)
            self.expected[name] = self._read(folder / name)
            (folder / name).unlink()

    def _read(self, file: Path) -> tuple[Any, ...]:
        images = open_source(f"{file}@weight=w", columns="all")
        assert images.labels is not None
        assert images.weights_N is not None
        assert len(images.labels) == len(images.files) == len(images.weights_N), "files without labels"
        where = None if images.positions_N2 is None else images.positions_N2.tolist()
        columns = {
            key: [None if value != value else value for value in values] for key, values in images.columns.items()
        }
        assert all(len(values) == len(images.files) for values in columns.values()), "a column of another length"
        return images.files, images.classes, images.labels.tolist(), images.weights_N.tolist(), repr(where), columns

    def case(self, rng: random.Random) -> str:
        name = rng.choice(list(self.files))
        whole = self.files[name]
        cut = False
        if name.endswith(("fits", "fits.gz")):
            data = damaged_fits(rng, name, whole)
        elif name.endswith(".gz"):
            data = changed_bytes(rng, whole)
        elif rng.random() < 0.6:
            text = whole.decode()
            data = (_changed_xml if name.endswith("vot") else changed_text)(rng, text).encode(errors="surrogatepass")
        elif rng.random() < 0.3:
            data, cut = whole[: rng.randrange(len(whole) - 12)], True
        else:
            data = changed_bytes(rng, whole)
        file = self.folder / name
        file.write_bytes(data)
        try:
            found = self._read(file)
        except UserError as error:
            return refused(error)
        finally:
            file.unlink()
        if found != self.expected[name]:
            assert not (cut and name.endswith("vot")), f"{name}: a cut file is read"
            if name.endswith(("fits", "fits.gz")):
                data = _unpacked(data)
                sums = wrong_sums(data, {0, _number_of_table(data)})
                assert not sums, f"{name}: read, and {sums}"
        return "right"


def _number_of_table(data: bytes) -> int:
    from astropy.io import fits

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with fits.open(io.BytesIO(data)) as opened:
            return next(i for i, hdu in enumerate(opened) if isinstance(hdu, fits.BinTableHDU | fits.TableHDU))


_XML = (
    *(
        '<!DOCTYPE a [<!ENTITY a "x">]>',
        "&a;",
        "&#0;",
        "&#xD800;",
        "<STREAM href='file:///etc/passwd'/>",
        "<!--",
        "]]>",
    ),
    *("<TR/>", "<TD/>", "</TABLEDATA>", "<FIELD/>", "<TABLE/>", "<VOTABLE>", "<PARQUET type='VOTable'/>", "<RESOURCE>"),
    *('datatype="int"', 'datatype="char" arraysize="*"', 'arraysize="99999999999"', 'arraysize="2x*"', 'encoding="x"'),
    *(
        'datatype="unicodeChar"',
        'datatype="bit"',
        'datatype="floatComplex"',
        'ref="x"',
        'name=""',
        'ID="ra"',
        "AAAA",
        "é",
    ),
)


def _changed_xml(rng: random.Random, text: str) -> str:
    """XML with an element, an attribute or a value that is another, is lost or is there twice."""
    marks = [at for at, letter in enumerate(text) if letter in '<>" ']
    begin, end = sorted(rng.sample(marks, 2))
    end = min(end, begin + rng.choice((20, 200, 2000)))
    kind = rng.randrange(6)
    if kind == 0:
        return text[:begin] + text[end:]
    if kind == 1:
        return text[:end] + text[begin:end] + text[end:]
    if kind == 2:
        return text[:begin] + rng.choice(NASTY_TEXT) + text[begin + 1 :]
    other = rng.choice(_XML)
    return text[:begin] + other + text[begin + (0 if kind == 3 else len(other)) :]


class Arrays(Kind):
    """A damaged file of arrays: .npz, HDF5, or Zarr in a folder or a zip."""

    name = "arrays"
    ENDINGS = ("npz", "packed.npz", "h5", "zarr", "v2.zarr", "sharded.zarr", "zarr.zip")
    N = 12

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        arrays = five_bands(self.N, size=8)
        self.pixels = arrays["images"]
        for ending in self.ENDINGS:
            save_arrays(folder / f"sound.{ending}", arrays, chunk=4)

    def case(self, rng: random.Random) -> str:
        ending = rng.choice((*self.ENDINGS, "h5"))
        sound, path = self.folder / f"sound.{ending}", self.folder / f"damaged.{ending}"
        if path.is_dir():
            shutil.rmtree(path)
        if sound.is_dir():
            shutil.copytree(sound, path)
            files = sorted(file for file in path.rglob("*") if file.is_file())
            metadata = [file for file in files if file.suffix == ".json" or file.name[0] == "."]
            file = rng.choice(metadata if rng.random() < 0.6 else files)
            if file in metadata and len(file.read_text()) > 2 and rng.random() < 0.7:
                file.write_text(changed_json(rng, file.read_text()), errors="surrogatepass")
            else:
                change_file(rng, file)
        elif ending == "h5" and rng.random() < 0.5:
            shutil.copy(sound, path)
            _change_hdf5(rng, path)
        elif ending.endswith(("npz", "zip")) and rng.random() < 0.5:
            _changed_zip(rng, sound, path)
        else:
            path.write_bytes(changed_bytes(rng, sound.read_bytes()))
        try:
            images = open_source(path)
        except UserError as error:
            return refused(error)
        assert images.labels is not None
        assert len(images.labels) == len(images.files)
        read = 0
        for i in range(min(len(images), self.N)):
            try:
                image = images.read(i)
            except UserError as error:
                refused(error)
                continue
            read += 1
            if i >= self.N or image.shape != (8, 8, 5) or not np.array_equal(image, self.pixels[i]):
                other = self._directly(path, i, len(images))
                assert np.array_equal(
                    image.reshape(-1), _as_floats(other).reshape(-1), equal_nan=True
                ) or np.array_equal(
                    image.reshape(-1), np.moveaxis(np.atleast_3d(_as_floats(other)), 0, -1).reshape(-1), equal_nan=True
                ), f"{ending}: other pixels of image {i} than the library's"
        return "right" if read == len(images) else "refused"

    def _directly(self, path: Path, i: int, n: int) -> Array:
        """Image i as the library of the file reads it."""
        if path.suffix == ".npz":
            with np.load(path) as archive:
                return np.asarray(archive["images"][i])
        if path.suffix == ".h5":
            import h5py

            with h5py.File(path) as file:
                found: list[Any] = []
                file.visititems(lambda _, node: found.append(node) if getattr(node, "ndim", 0) in (3, 4) else None)
                (images,) = [node for node in found if len(node) == n]
                return np.asarray(images[i])
        import zarr

        store = zarr.storage.LocalStore(path) if path.is_dir() else zarr.storage.ZipStore(path, mode="r")
        group = zarr.open_group(store, mode="r")
        return np.asarray(group["images"][i])


def _as_floats(values: Array) -> Array:
    return values.astype(np.uint8) * 255 if values.dtype == np.bool_ else values.astype(np.float32)


def _change_hdf5(rng: random.Random, path: Path) -> None:
    """One part of an HDF5 file becomes something else."""
    import h5py

    key = rng.choice(("images", "images", "labels", "classes", "bands", "units"))
    with h5py.File(path, "a") as file:
        was = file[key]
        values = was[()]
        ways: list[Callable[[], object]] = [
            lambda: None,
            lambda: file.create_group(key),
            lambda: file.__setitem__(key, h5py.SoftLink(rng.choice(("/nowhere", f"/{key}", "/", "/labels", "../x")))),
            lambda: file.__setitem__(key, h5py.ExternalLink("/etc/passwd", "/x")),
            lambda: file.create_dataset(key, data=h5py.Empty("f4")),
            lambda: file.create_dataset(key, (10 ** rng.choice((1, 6, 12)), 8, 8, 5), "f4", chunks=(4, 8, 8, 5)),
            lambda: file.create_dataset(key, (12,), h5py.vlen_dtype(np.float32)),
            lambda: file.create_dataset(key, data=np.zeros(12, [("a", "f4"), ("b", "i4")])),
            lambda: file.create_dataset(key, data=np.arange(12), dtype=h5py.enum_dtype({"A": 0, "B": 1})),
            lambda: file.create_dataset(
                key, data=np.random.default_rng(0).random((12, 8, 8)), dtype=rng.choice(("f2", "f8", ">f4"))
            ),
            lambda: file.create_dataset(key, (12, 8, 8), "u1", chunks=(1, 8, 8), maxshape=(None, 8, 8)),
            lambda: file.create_dataset(key, data=[b"\xff\xfe", b"x"] * 6),
            lambda: file.create_dataset(key, data=np.array([b"\xff", b"x"] * 6, "S3")),
            lambda: file.create_dataset(key, data="text"),
            lambda: file.create_dataset(
                key, data=np.resize(values, rng.choice(((12,), (5,), (13,), (12, 1), (2, 3, 4, 5, 6))))
            ),
            lambda: file.create_dataset(key, data=np.zeros((12, 8, 8, 5), rng.choice(("u1", "u2", "i8", "c8", "?")))),
            lambda: _virtual(file, key, rng.choice((".", "elsewhere.h5"))),
            lambda: file.create_dataset(key, (12, 8, 8), "u1", external=[("/etc/passwd", 0, 12 * 64)]),
            lambda: file.create_dataset(key, data=[file.ref] * 12, dtype=h5py.ref_dtype),
        ]
        del file[key]
        rng.choice(ways)()
        if rng.random() < 0.2:
            file.attrs[rng.choice(("bands", "classes", "units"))] = rng.choice((1, "a,b", ["a", "b"], 0.5, "g" * 3000))


def _virtual(file: Any, key: str, source: str) -> None:
    import h5py

    layout = h5py.VirtualLayout((12, 8, 8), "f4")
    layout[:] = h5py.VirtualSource(source, "images", (12, 8, 8, 5))[..., 0]
    file.create_virtual_dataset(key, layout)


def _changed_zip(rng: random.Random, sound: Path, path: Path) -> None:
    """A zip with sound checksums one of whose members is another, has another name, or is there twice."""
    with ZipFile(sound) as old, warnings.catch_warnings(), ZipFile(path, "w") as new:
        warnings.simplefilter("ignore")  # of two members of one name
        chosen = rng.choice(old.namelist())
        for info in old.infolist():
            data = old.read(info)
            kind = rng.randrange(5) if info.filename == chosen else -1
            name = info.filename
            if kind == 0:
                continue
            if kind == 1:
                name = rng.choice(("../x", "/etc/x", "images.npy", "images/zarr.json", "a/" * 500, "\u202e", "images"))
            elif kind == 2:
                new.writestr(name, data, compress_type=info.compress_type)
            elif kind >= 3:
                is_json = name.endswith("json") and len(data) > 2 and rng.random() < 0.8
                data = (
                    changed_json(rng, data.decode()).encode(errors="surrogatepass")
                    if is_json
                    else changed_bytes(rng, data)
                )
            new.writestr(name, data, compress_type=info.compress_type)
