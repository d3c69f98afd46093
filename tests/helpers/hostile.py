"""Small files that would take much memory or time if they were believed, and what comes of them.

    python -m helpers.hostile FOLDER quick|slow

prints, as JSON, of each file what came of it, the seconds that it took, and the memory that the process took so far
beside that of its libraries.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import resource
import signal
import struct
import sys
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from astroformer.errors import UserError
from astroformer.images.sources import open_source

GB = 10**9
SMALL = np.zeros((2, 8, 8), np.float32)
Make = Callable[[Path], str]


def zeros_in_deflate(size: int) -> bytes:
    """Raw deflate of so many zeros, made without packing all of them; what follows it is up to the reader."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    once = packer.compress(bytes(1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH)
    return once * -(-size // (1 << 24)) + b"\x03\x00"


def gzipped(start: bytes, zeros: int, end: bytes = b"") -> bytes:
    """A gzip of some bytes, many zeros and some bytes; its checksum is wrong."""
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    begin = packer.compress(start) + packer.flush(zlib.Z_FULL_FLUSH)
    return b"\x1f\x8b\x08" + bytes(7) + begin + zeros_in_deflate(zeros) + bytes(8)


def header(*cards: str) -> bytes:
    """A FITS header."""
    text = "".join(f"{keyword.strip():8}={value}".ljust(80) for keyword, _, value in (c.partition("=") for c in cards))
    text += "END".ljust(80)
    return text.ljust(-(-len(text) // 2880) * 2880).encode()


def image(*cards: str, bitpix: int = -32, sides: tuple[int, ...] = (40, 40), primary: bool = True) -> bytes:
    first = ("SIMPLE  = T",) if primary else ("XTENSION= 'IMAGE   '",)
    axes = [f"NAXIS   = {len(sides)}", *(f"NAXIS{i} = {n}" for i, n in enumerate(sides, 1))]
    more = () if primary else ("PCOUNT  = 0", "GCOUNT  = 1")
    return header(*first, f"BITPIX  = {bitpix}", *axes, *more, *cards)


def table(*cards: str, width: int = 8, rows: int = 2, heap: int = 0, fields: int = 1) -> bytes:
    axes = (f"NAXIS1  = {width}", f"NAXIS2  = {rows}", f"PCOUNT  = {heap}", "GCOUNT  = 1", f"TFIELDS = {fields}")
    return header("XTENSION= 'BINTABLE'", "BITPIX  = 8", "NAXIS   = 2", *axes, *cards)


EMPTY = image(sides=())
WCS = (
    "CTYPE1  = 'RA---TAN'",
    "CTYPE2  = 'DEC--TAN'",
    "CRVAL1  = 10.0",
    "CRVAL2  = 5.0",
    "CRPIX1  = 20",
    "CRPIX2  = 20",
    "CD1_1   = -1E-4",
    "CD2_2   = 1E-4",
)


def sparse(path: Path, *parts: bytes | int) -> str:
    """A file of bytes and of holes of so many bytes, which take no place on the disk."""
    with path.open("wb") as file:
        for part in parts:
            if isinstance(part, int):
                file.seek(part, io.SEEK_CUR)
            else:
                file.write(part)
        file.truncate(-(-file.tell() // 2880) * 2880)
    return str(path)


def compressed_tile(kind: str, side: int, tile: bytes, *more: str) -> bytes:
    """An image of one compressed tile."""
    cards = ["TTYPE1  = 'COMPRESSED_DATA'", f"TFORM1  = '1QB({len(tile)})'", "ZIMAGE  = T", f"ZCMPTYPE= '{kind}'"]
    cards += ["ZBITPIX = 16", "ZNAXIS  = 2", f"ZNAXIS1 = {side}", f"ZNAXIS2 = {side}"]
    cards += [f"ZTILE1  = {side}", f"ZTILE2  = {side}", *more]
    data = struct.pack(">qq", len(tile), 0) + tile
    return EMPTY + table(*cards, width=16, rows=1, heap=len(tile)) + data + bytes(-len(data) % 2880)


def beside(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def _cards(n: int) -> tuple[str, ...]:
    return tuple(f"K{i:07d}= {i}" for i in range(n))


def _mosaic(folder: Path, name: str, content: bytes, size: str = "8") -> str:
    (folder / f"{name}.fits").write_bytes(content)
    catalog = beside(folder / f"{name}.csv", "ra,dec\n10,5\n")
    return f"{catalog}@mosaic={folder}/{name}.fits@size={size}"


FITS: dict[str, Make] = {
    "sides": lambda to: sparse(to / "a.fits", image(sides=(10**8, 10**8))),
    "sides beyond 64 bits": lambda to: sparse(to / "b.fits", image(sides=(10**18, 10**18))),
    "a thousand axes": lambda to: sparse(to / "c.fits", image("NAXIS   = 999", sides=(2,) * 2)),
    "bytes that become floats": lambda to: sparse(
        to / "d.fits", image("BSCALE  = 2.0", bitpix=8, sides=(9000, 9000, 3)), 9000 * 9000 * 3
    ),
    "bytes with holes": lambda to: sparse(
        to / "e.fits", image("BLANK   = 1", bitpix=8, sides=(9000, 9000, 3)), 9000 * 9000 * 3
    ),
    "doubles": lambda to: sparse(to / "f.fits", image(bitpix=-64, sides=(9000, 9000)), 9000 * 9000 * 8),
    "all that may be": lambda to: sparse(
        to / "w.fits", image("BLANK   = 1", "BSCALE  = 2.0", bitpix=8, sides=(8660, 8660)), 8660 * 8660
    ),
    "a file of 2 GB": lambda to: sparse(to / "g.fits", image(), 2 * GB),
    "gzip of 20 GB": lambda to: _written(to / "h.fits.gz", gzipped(image(), 20 * GB)),
    "gzip of an image of 20 GB": lambda to: _written(
        to / "i.fits.gz", gzipped(image(bitpix=8, sides=(10**5, 2 * 10**5)), 20 * GB)
    ),
    "a header without END": lambda to: _written(to / "j.fits.gz", gzipped(image()[:2880].replace(b"END", b"   "), GB)),
    "a header of 10 MB": lambda to: _written(to / "k.fits", image(*_cards(130_000))),
    "headers of 100 MB": lambda to: _written(
        to / "l.fits", EMPTY + image(*_cards(36_000), sides=(0,), primary=False) * 35
    ),
    "many parts": lambda to: _written(to / "m.fits", EMPTY + image(sides=(0,), primary=False) * 20_000),
    "a tile of 4 GB in gzip": lambda to: _written(to / "n.fits", compressed_tile("GZIP_1", 40, gzipped(b"", 4 * GB))),
    "a tile of 4 GB in gzip, shuffled": lambda to: _written(
        to / "o.fits", compressed_tile("GZIP_2", 40, gzipped(b"", 4 * GB))
    ),
    "sides of a compressed image": lambda to: _written(to / "p.fits", compressed_tile("RICE_1", 10**6, b"xxxx")),
    "a compressed image of zeros": lambda to: _written(to / "q.fits", compressed_tile("RICE_1", 20_000, bytes(9))),
    "values of 8 bytes in RICE": lambda to: _written(
        to / "r.fits", compressed_tile("RICE_1", 40, bytes(999), "ZNAME1  = 'BYTEPIX'", "ZVAL1   = 8")
    ),
    "a tile of HCOMPRESS of another size": lambda to: _written(
        to / "x.fits", compressed_tile("HCOMPRESS_1", 40, b"\xdd\x99" + struct.pack(">ii", 4000, 4000) + bytes(99))
    ),
    "a tile of PLIO without end": lambda to: _written(
        to / "y.fits", compressed_tile("PLIO_1", 40, struct.pack(">6h", 0, 1, 0, 0, 32767, 0))
    ),
    "a tile beyond the file": lambda to: _written(
        to / "z.fits",
        compressed_tile("PLIO_1", 40, bytes(12)).replace(struct.pack(">qq", 12, 0), struct.pack(">qq", 6, 10**6)),
    ),
    "columns without end": lambda to: _written(to / "s.fits", EMPTY + table(fields=10**9) + bytes(2880)),
    "a mosaic's square": lambda to: _mosaic(to, "t", image(*WCS) + bytes(8640), size="16384"),
    "a mosaic in gzip": lambda to: _mosaic(to, "u", gzipped(image(*WCS), 3 * GB)),
    "a mosaic's tile": lambda to: _mosaic(to, "v", compressed_tile("GZIP_1", 40, gzipped(b"", 4 * GB), *WCS)),
}


def _written(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


_FIELD = '<FIELD name="file" datatype="char" arraysize="*"/>'


def votable(
    to: Path, name: str, rows: str = "<TR><TD>a.png</TD></TR>", fields: str = _FIELD, before: str = "", words: str = ""
) -> str:
    text = f'<?xml version="1.0"?>{before}<VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3">'
    text += f"<RESOURCE><TABLE {words}>{fields}<DATA>"
    text += rows if rows.startswith("<BINARY") else f"<TABLEDATA>{rows}</TABLEDATA>"
    return beside(to / f"{name}.vot", f"{text}</DATA></TABLE></RESOURCE></VOTABLE>")


def _laughs() -> str:
    entities = '<!ENTITY a0 "haha">' + "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 11))
    return f"<!DOCTYPE VOTABLE [{entities}]>"


def ecsv(to: Path, name: str, header: str, rows: str = "a.png\n") -> str:
    lines = ["%ECSV 1.0", "---", *header.splitlines()]
    return beside(to / f"{name}.ecsv", "".join(f"# {line}\n" for line in lines) + "file\n" + rows)


_COLUMN = "datatype:\n- {name: file, datatype: string}\n"
_ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)

TABLES: dict[str, Make] = {
    "rows of no bytes": lambda to: _written(
        to / "a.fits", EMPTY + table("TTYPE1  = 'file'", "TFORM1  = '0A'", width=0, rows=10**10)
    ),
    "rows": lambda to: _written(to / "b.fits", EMPTY + table("TTYPE1  = 'file'", "TFORM1  = '8A'", rows=10**12)),
    "a wide column": lambda to: _written(
        to / "c.fits", EMPTY + table("TTYPE1  = 'file'", "TFORM1  = '99999999999A'") + bytes(2880)
    ),
    "a heap": lambda to: _written(
        to / "d.fits",
        EMPTY
        + table("TTYPE1  = 'file'", "TFORM1  = '1PA(9)'", heap=100)
        + struct.pack(">iiii", 2**31 - 1, 0, 9, 2**30),
    ),
    "columns": lambda to: _written(to / "e.fits", EMPTY + table("TTYPE1  = 'file'", fields=10**9) + bytes(2880)),
    "gzip of 20 GB": lambda to: _written(
        to / "f.fits.gz",
        gzipped(EMPTY + table("TTYPE1  = 'file'", "TFORM1  = '8A'", rows=10**9), 20 * GB),
    ),
    "gzip of an image": lambda to: _written(to / "g.fits.gz", gzipped(image(bitpix=8, sides=(10**6, 10**6)), 20 * GB)),
    "rows of a VOTable": lambda to: votable(to, "a", words='nrows="9999999999"'),
    "a wide text in a VOTable": lambda to: votable(
        to, "b", fields='<FIELD name="file" datatype="char" arraysize="99999999999"/>'
    ),
    "a wide column in a VOTable": lambda to: votable(
        to, "c", fields=f'{_FIELD}<FIELD name="x" datatype="double" arraysize="99999x99999"/>'
    ),
    "a binary VOTable": lambda to: votable(
        to, "d", rows='<BINARY><STREAM encoding="base64">f////w==</STREAM></BINARY>', words='nrows="99999999"'
    ),
    "entities within entities": lambda to: votable(to, "e", rows="<TR><TD>&a10;</TD></TR>", before=_laughs()),
    "a VOTable in gzip": lambda to: _written(to / "f.vot", gzipped(b"<VOTABLE>", 20 * GB)),
    "ECSV in gzip": lambda to: _written(to / "g.ecsv", gzipped(b"# %ECSV 1.0\n", 20 * GB)),
    "short lines, packed": lambda to: _written(
        to / "s.csv.gz", b"".join([gzip.compress(b"file\n" + b"a\n" * 10**7)] * 20)
    ),
    "short lines of another kind": lambda to: _written(
        to / "s.txt.xz", lzma.compress(b"file x\n" + b"a b\n" * 10**7, preset=0) * 20
    ),
    "a shape in ECSV": lambda to: ecsv(
        to, "a", "datatype:\n- {name: file, datatype: string, subtype: 'float64[99999,99999]'}\n"
    ),
    "aliases in ECSV": lambda to: ecsv(to, "b", f"{_COLUMN}meta:\n  {_ALIASES}".replace("\na", "\n  a")),
    "a deep ECSV": lambda to: ecsv(to, "c", f"{_COLUMN}meta: {'[' * 200_000}"),
    "a long ECSV": lambda to: ecsv(to, "e", f"{_COLUMN}meta: [{'x, ' * 10**6}]"),
    "a number in ECSV": lambda to: ecsv(to, "d", f"{_COLUMN}meta: {{x: {'9' * 900_000}}}"),
}


def npz(path: Path, name: str, begin: bytes, zeros: int, **arrays: Any) -> str:
    """An .npz of sound arrays and of a member of some bytes and many zeros, whose checksum is wrong."""
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    data = packer.compress(begin) + packer.flush(zlib.Z_FULL_FLUSH) + zeros_in_deflate(zeros)
    with path.open("wb") as file:
        np.savez(file, **arrays)
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo(name)
        archive.writestr(info, data)
        info.compress_type, info.file_size = zipfile.ZIP_DEFLATED, len(begin) + zeros
        assert archive.fp is not None
        archive.fp.seek(info.header_offset)
        archive.fp.write(info.FileHeader(zip64=False))
        archive.fp.seek(archive.start_dir)
    return str(path)


def npy(shape: tuple[int, ...], descr: str = "|u1") -> bytes:
    text = str({"descr": descr, "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def hdf5(path: Path, write: Callable[[Any], object]) -> str:
    import h5py

    with h5py.File(path, "w") as file:
        write(file)
    return str(path)


def zarr_of(to: Path, name: str, chunk: bytes | int = b"", **words: Any) -> str:
    """A Zarr (version 2) of one array of images, whose metadata say these words, and one file of its blocks."""
    path = to / name / "images"
    path.mkdir(parents=True)
    (path.parent / ".zgroup").write_text('{"zarr_format": 2}')
    usual = {"zarr_format": 2, "shape": [4, 8, 8], "chunks": [4, 8, 8], "dtype": "<f4", "compressor": None}
    usual |= {"fill_value": 0, "order": "C", "filters": None}
    (path / ".zarray").write_text(json.dumps({**usual, **words}))
    with (path / "0.0.0").open("wb") as file:
        file.write(chunk) if isinstance(chunk, bytes) else file.truncate(chunk)
    return str(to / name)


def _blosc(size: int) -> bytes:
    """The head of a Blosc block that claims so many bytes."""
    return struct.pack("<BBBBIII", 2, 1, 0x22, 1, size, 1 << 20, 100) + bytes(84)


ARRAYS: dict[str, Make] = {
    "images in .npz": lambda to: npz(to / "a.npz", "images.npy", npy((10**5, 200, 200)), 4 * GB),
    "names in .npz": lambda to: npz(to / "b.npz", "labels.npy", npy((2,), "<U999999999"), 4 * GB, images=SMALL),
    "numbers in .npz": lambda to: npz(to / "c.npz", "bands.npy", npy((10**8,), "<f8"), 8 * 10**8, images=SMALL),
    "shapes in .npz": lambda to: npz(to / "e.npz", "labels.npy", npy((10**11,), "<f8"), 800, images=SMALL),
    "a header of .npz": lambda to: npz(to / "d.npz", "images.npy", b"\x93NUMPY\x02\x00\xff\xff\xff\x3e", 10**9),
    "images in HDF5": lambda to: hdf5(
        to / "a.h5", lambda f: f.create_dataset("images", (10**9, 64, 64), "f4", chunks=(1, 64, 64))
    ),
    "a contiguous array in HDF5": lambda to: hdf5(
        to / "b.h5", lambda f: f.create_dataset("images", (10**6, 640, 640), "f4")
    ),
    "labels in HDF5": lambda to: hdf5(
        to / "c.h5",
        lambda f: (
            f.create_dataset("images", data=np.zeros((2, 8, 8), "f4")),
            f.create_dataset("labels", (10**11,), "i8", chunks=(10**6,), fillvalue=1),
        ),
    ),
    "large blocks in HDF5": lambda to: hdf5(
        to / "d.h5",
        lambda f: f.create_dataset("images", (2, 60_000, 60_000), "u1", chunks=(1, 60_000, 60_000), compression=9),
    ),
    "images in Zarr": lambda to: zarr_of(to, "a.zarr", shape=[10**15, 64, 64], chunks=[1, 64, 64]),
    "blocks of no images": lambda to: zarr_of(to, "b.zarr", chunks=[0, 8, 8]),
    "blocks in Zarr": lambda to: zarr_of(to, "c.zarr", shape=[1, 10**6, 10**6], chunks=[1, 10**6, 10**6]),
    "a file of 4 GB in Zarr": lambda to: zarr_of(to, "d.zarr", 4 * GB),
    "Blosc in Zarr": lambda to: zarr_of(
        to, "e.zarr", _blosc(2**31 - 1), compressor={"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 0}
    ),
    "metadata of 3 GB": lambda to: _large_metadata(to),
    "a zip": lambda to: npz(to / "g.zarr.zip", ".zgroup", b'{"zarr_format": 2}', 3 * GB),
    "gzip in Zarr": lambda to: zarr_of(to, "h.zarr", gzipped(b"", 4 * GB), compressor={"id": "gzip", "level": 1}),
    "zlib in Zarr": lambda to: zarr_of(
        to, "i.zarr", b"\x78\x01" + zeros_in_deflate(4 * GB) + bytes(4), compressor={"id": "zlib", "level": 1}
    ),
    "zstd in Zarr": lambda to: zarr_of(to, "j.zarr", _zstd(4 * GB), compressor={"id": "zstd", "level": 1}),
    "lz4 in Zarr": lambda to: zarr_of(to, "k.zarr", struct.pack("<i", 2**31 - 1) + bytes(99), compressor={"id": "lz4"}),
    "bz2 in Zarr": lambda to: zarr_of(
        to, "l.zarr", bz2.compress(bytes(10**6)) * 4000, compressor={"id": "bz2", "level": 1}
    ),
    "deflate in HDF5": lambda to: hdf5(to / "e.h5", _deflated),
}


def _zstd(size: int) -> bytes:
    """A frame of so many zeros, as blocks that each repeat one byte."""
    most = 1 << 17
    blocks = -(-size // most)
    block = struct.pack("<I", most << 3 | 1 << 1)[:3] + b"\0"
    last = struct.pack("<I", most << 3 | 1 << 1 | 1)[:3] + b"\0"
    return b"\x28\xb5\x2f\xfd" + b"\xc0\x70" + struct.pack("<Q", blocks * most) + block * (blocks - 1) + last


def _deflated(file: Any) -> None:
    images = file.create_dataset("images", (2, 8, 8), "f4", chunks=(2, 8, 8), compression="gzip")
    images.id.write_direct_chunk((0, 0, 0), b"\x78\x01" + zeros_in_deflate(4 * GB) + bytes(4))
    file.create_dataset("labels", data=[0, 1])


def _large_metadata(to: Path) -> str:
    path = Path(zarr_of(to, "f.zarr", bytes(1024)))
    with (path / "images" / ".zattrs").open("wb") as file:
        file.truncate(3 * GB)
    return str(path)


FAMILIES = {"FITS": FITS, "tables": TABLES, "arrays": ARRAYS}
SLOW = {"FITS: bytes that become floats", "FITS: bytes with holes", "FITS: doubles", "FITS: headers of 100 MB"}
SLOW |= {
    "FITS: gzip of 20 GB",
    "FITS: gzip of an image of 20 GB",
    "FITS: a header without END",
    "FITS: all that may be",
}
SLOW |= {"tables: gzip of 20 GB", "tables: gzip of an image", "tables: a deep ECSV", "tables: a number in ECSV"}
"""Those that take more than a second."""


class TooLong(BaseException):
    """A file took longer than it may."""


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TooLong


def _memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def outcome(source: str) -> str:
    """The sentence that says why a source is refused; or what else came of it."""
    try:
        images = open_source(source, labelled=source.endswith((".h5", ".npz")))
        return f"read, {images.read(0).shape}"
    except UserError as error:
        return f"refused: {error}"
    except TooLong:
        return "more than 60 s"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"


def _run(folder: Path, slow: bool) -> None:
    import astropy.table
    import h5py
    import zarr
    from astropy.io import fits, votable
    from astropy.nddata import Cutout2D
    from astropy.wcs import WCS

    warnings.simplefilter("ignore")
    del astropy, h5py, zarr, fits, votable, WCS, Cutout2D  # whose memory is not that of a case
    signal.signal(signal.SIGALRM, _too_long)
    begin = _memory()
    for family, cases in FAMILIES.items():
        (folder / family).mkdir()
        (folder / family / "a.png").write_bytes(b"no image")
        for name, make in cases.items():
            if (f"{family}: {name}" in SLOW) == slow:
                source = make(folder / family)
                start = time.monotonic()
                signal.alarm(60)
                said = outcome(source)
                signal.alarm(0)
                found = f"{family}: {name}", said, round(time.monotonic() - start, 2), _memory() - begin
                print(json.dumps(found), flush=True)


if __name__ == "__main__":
    _run(Path(sys.argv[1]), slow=sys.argv[2] == "slow")
