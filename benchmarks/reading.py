"""How many images one core reads in a second: cutouts of five bands, 128 × 128 pixels, float32, kept in many ways.

    python benchmarks/reading.py            # about two minutes
    python benchmarks/reading.py --table    # the table of results/reading.jsonl

Beside ours, which gives (H, W, C) float32 in the machine's byte order and checks what it reads, stands the least code
with the library of the format (astropy, h5py, zarr, numpy) that gives the same array, which is compared. Both read all
images of a kind in turn; a figure is the median of some turns, a ratio that of neighbours. Opening a source is not
counted, nor is the disk: the files lie in the system's memory. Seconds are the processor's, of all threads, so they are
those of a core whatever else the machine does. One row a kind is appended to `results/reading.jsonl`.
"""

from __future__ import annotations

import argparse
import gzip
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import zarr
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.wcs import WCS
from numpy.typing import NDArray

from astroformer.images.sources import open_source
from astroformer.system import versions
from common.machine import code_version, processor
from common.rows import RESULTS, append_row, read_rows

OUT = RESULTS / "reading.jsonl"
BANDS = ("u", "g", "r", "i", "z")
SIDE = 128
FIELD = 1500  # side of the mosaic in pixels

Images = NDArray[np.float32]
Reads = Callable[[int], Images]


class Kind(NamedTuple):
    """A way to keep images.

    Attributes:
        source: as `open_source` takes it.
        library: reads image i by the library of the format, (H, W, C) float32.
    """

    source: str
    library: Reads


def sky(n: int, side: int, seed: int = 0) -> Images:
    """(n, side, side, C): a galaxy in the middle of noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    galaxy_NHW = 30 * np.exp(-np.hypot(x, y) / rng.uniform(3, 12, (n, 1, 1)))
    noise_NHWC = rng.standard_normal((n, side, side, len(BANDS)), np.float32)
    return (galaxy_NHW[..., None] * np.linspace(0.5, 1.5, len(BANDS)) + noise_NHWC).astype(np.float32)


def kinds(root: Path, n: int) -> Iterator[tuple[str, Kind]]:
    """Each kind with its files, which are written before it is measured."""
    images_NHWC = sky(n, SIDE)
    for name, suffix, write in FITS:
        folder = root / name.replace(" ", "-").replace("'", "")
        folder.mkdir()
        paths = [folder / f"{i:04d}{suffix}" for i in range(n)]
        for path, image_HWC in zip(paths, images_NHWC, strict=True):
            write(path, image_HWC)
        yield f"FITS folder, {name}", Kind(str(folder), lambda i, paths=paths: by_astropy(paths[i]))  # type: ignore[misc]
    yield from mosaics(root, n)
    arrays: dict[str, Any] = {"images": images_NHWC, "labels": np.arange(n) % 2}
    np.savez(root / "plain.npz", **arrays)
    mapped = np.load(root / "plain.npz")["images"]
    yield "npz, plain", Kind(f"{root}/plain.npz@layout=NHWC", lambda i: mapped[i].copy())
    for name, words in (("contiguous", {}), ("gzip, a block an image", {"chunks": True, "compression": "gzip"})):
        path = root / f"{'gzip' if words else 'plain'}.h5"
        with h5py.File(path, "w") as file:
            if words:
                words["chunks"] = (1, *images_NHWC.shape[1:])
            file.create_dataset("images", data=images_NHWC, **words)
            file["labels"] = arrays["labels"]
        opened = h5py.File(path, "r")["images"]
        yield f"HDF5, {name}", Kind(f"{path}@layout=NHWC", lambda i, opened=opened: opened[i])  # type: ignore[misc]
    group = zarr.open_group(root / "plain.zarr", mode="w")
    group.create_array("images", data=images_NHWC, chunks=(1, *images_NHWC.shape[1:]))
    group.create_array("labels", data=arrays["labels"])
    array: Any = zarr.open_group(root / "plain.zarr", mode="r")["images"]
    yield "Zarr, zstd, a block an image", Kind(f"{root}/plain.zarr@layout=NHWC", lambda i: array[i])


# FITS -------------------------------------------------------------------------------------------------------


def write_extensions(path: Path, image_HWC: Images) -> None:
    planes = [fits.ImageHDU(np.ascontiguousarray(image_HWC[..., c]), name=name) for c, name in enumerate(BANDS)]
    fits.HDUList([fits.PrimaryHDU(), *planes]).writeto(path)


def write_cube(path: Path, image_HWC: Images) -> None:
    header = fits.Header({"BANDS": ",".join(BANDS)})
    fits.PrimaryHDU(np.ascontiguousarray(image_HWC.transpose(2, 0, 1)), header).writeto(path)


def write_packed(path: Path, image_HWC: Images) -> None:
    """As `fpack` packs floats: tiles of a row, quantized and packed by RICE."""
    planes = [fits.CompImageHDU(np.ascontiguousarray(image_HWC[..., c]), name=name) for c, name in enumerate(BANDS)]
    fits.HDUList([fits.PrimaryHDU(), *planes]).writeto(path)


def write_gzip(path: Path, image_HWC: Images) -> None:
    plain = path.with_suffix("")
    write_extensions(plain, image_HWC)
    path.write_bytes(gzip.compress(plain.read_bytes(), 6))
    plain.unlink()


FITS: tuple[tuple[str, str, Callable[[Path, Images], None]], ...] = (
    ("an extension a band", ".fits", write_extensions),
    ("cubes", ".fits", write_cube),
    ("fpack'd", ".fits.fz", write_packed),
    ("gzip", ".fits.gz", write_gzip),
)


def by_astropy(path: Path) -> Images:
    """The bands of a file, (H, W, C)."""
    with fits.open(path) as file:
        if len(file) == 1:
            planes_CHW = np.asarray(file[0].data, np.float32)
        else:
            planes_CHW = np.stack([np.asarray(hdu.data, np.float32) for hdu in file[1:]])
    return np.ascontiguousarray(planes_CHW.transpose(1, 2, 0))


def mosaics(root: Path, n: int) -> Iterator[tuple[str, Kind]]:
    """A field with a catalog of positions."""
    rng = np.random.default_rng(1)
    field_HWC = sky(1, FIELD, seed=1)[0]
    scale = 0.262 / 3600
    cards = {
        "CTYPE1": "RA---TAN",
        "CTYPE2": "DEC--TAN",
        "CRVAL1": 150.1,
        "CRVAL2": 2.2,
        "CD1_1": -scale,
        "CD2_2": scale,
    }
    header = fits.Header({**cards, "CRPIX1": FIELD / 2, "CRPIX2": FIELD / 2, "CUNIT1": "deg", "CUNIT2": "deg"})
    wcs = WCS(header)
    ra_N, dec_N = wcs.all_pix2world(*(rng.integers(SIDE, FIELD - SIDE, (2, n)) + 0.3), 0)
    rows = [f"{ra!r},{dec!r},{i % 2}" for i, (ra, dec) in enumerate(zip(ra_N.tolist(), dec_N.tolist(), strict=True))]
    (root / "catalog.csv").write_text("\n".join(["ra,dec,label", *rows]) + "\n", encoding="utf-8")
    for name, make in (("plain", fits.ImageHDU), ("fpack'd", fits.CompImageHDU)):
        path = root / f"{'field' if name == 'plain' else 'packed'}.fits"
        planes = [make(np.ascontiguousarray(field_HWC[..., c]), header, name=band) for c, band in enumerate(BANDS)]
        fits.HDUList([fits.PrimaryHDU(), *planes]).writeto(path)
        opened = fits.open(path)  # once, as ours does
        parts = [hdu.section if name != "plain" else hdu.data for hdu in opened[1:]]

        def cutout(i: int, parts: list[Any] = parts) -> Images:
            words: dict[str, Any] = {"wcs": wcs, "mode": "partial"}
            place = SkyCoord(ra_N[i], dec_N[i], unit="deg")
            planes = [np.asarray(Cutout2D(part, place, (SIDE, SIDE), **words).data, np.float32) for part in parts]
            return np.ascontiguousarray(np.stack(planes, axis=-1))

        yield f"mosaic with a catalog, {name}", Kind(f"{root}/catalog.csv@mosaic={path}@size={SIDE}", cutout)


# Measuring --------------------------------------------------------------------------------------------------


def seconds_of(read: Reads, n: int) -> float:
    """The processor's time for all images."""
    before = time.process_time()
    for i in range(n):
        read(i)
    return time.process_time() - before


def measure(kind: Kind, n: int, turns: int) -> dict[str, Any]:
    """Images a second of ours and of the library, and how many times as fast ours is.

    Raises:
        RuntimeError: they read different values.
    """
    images = open_source(kind.source, labelled=False)
    for i in range(n):
        if not np.array_equal(images.read(i), kind.library(i)):
            raise RuntimeError(f"'{kind.source}': image {i} is another one by the library of its format.")
    times = []
    for _ in range(turns):
        again = open_source(kind.source, labelled=False)  # which keeps no block of the turn before
        times.append((seconds_of(again.read, n), seconds_of(kind.library, n)))
    ours, library = (statistics.median(n / seconds for seconds in side) for side in zip(*times, strict=True))
    ratio = statistics.median(theirs / own for own, theirs in times)
    return {"ours": round(ours, 1), "library": round(library, 1), "ratio": round(ratio, 2)}


def libraries() -> dict[str, str]:
    """The versions of what reads."""
    return versions() | {name: version(name) for name in ("astropy", "h5py", "zarr")}


def table(rows: list[dict[str, Any]]) -> str:
    """The latest row of each kind, as Markdown."""
    lines = ["| kept as | images/s, ours | by the library alone | ratio |", "|---|---|---|---|"]
    for row in {row["kind"]: row for row in rows}.values():
        lines.append(f"| {row['kind']} | {row['ours']:,.0f} | {row['library']:,.0f} | {row['ratio']:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--table", action="store_true", help="print what was measured, and measure nothing")
    words = parser.parse_args()
    if not words.table:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        warnings.simplefilter("ignore")
        with tempfile.TemporaryDirectory() as folder:
            for name, kind in kinds(Path(folder), words.images):
                found = {"kind": name, "images": words.images, "turns": words.turns}
                found |= measure(kind, words.images, words.turns)
                found |= {"processor": processor("cpu"), "versions": libraries(), "code": code_version()}
                append_row(words.out, found)
    print(table(read_rows(words.out)))


if __name__ == "__main__":
    main()
