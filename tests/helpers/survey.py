"""A small survey in the filters u, g, r, i, z: galaxies with Poisson noise, a point spread a band, masks and a TAN WCS,
as arrays and in FITS files.

Its classes differ by shape (Sérsic index and flattening) and by colour, so what a network makes of colour can be told:
`red round` and `blue round` have the same shapes.

Shape letters: N galaxies, H rows, W columns, C bands.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from astroformer.images.sets.mock.canvas import Plane
from astroformer.images.sets.mock.profiles import sersic

FILTERS = ("u", "g", "r", "i", "z")
CLASSES = ("blue disc", "blue round", "red round")
PIXEL = 0.262  # arcsec
UNIT = "nanomaggy"
_COLOURS = {"blue": (1.7, 1.4, 1.0, 0.45, 0.15), "red": (0.15, 0.45, 1.0, 1.4, 1.7)}  # flux relative to r
_SEEING = (2.4, 2.0, 1.8, 1.7, 1.7)  # sigma of the point spread in pixels / 1.5
_SKY = (0.05, 0.05, 0.08, 0.12, 0.2)  # UNIT a pixel
_ELECTRONS = 2000.0  # for one UNIT


@dataclass(frozen=True)
class Survey:
    """Cutouts around galaxies.

    Attributes:
        images_NHWC: float32 in UNIT, the sky subtracted.
        masks_NHW: where a pixel is saturated or a cosmic ray hit it; the images have values there all the same.
        labels: (N,) positions in `CLASSES`.
        ra, dec: (N,) of the centres in degrees, far from each other.
    """

    images_NHWC: NDArray[np.float32]
    masks_NHW: NDArray[np.bool_]
    labels: NDArray[np.int64]
    ra: NDArray[np.float64]
    dec: NDArray[np.float64]


@dataclass(frozen=True)
class Field:
    """One mosaic and the galaxies in it; `x` and `y` are their columns and rows, from 0."""

    image_HWC: NDArray[np.float32]
    labels: NDArray[np.int64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    ra: NDArray[np.float64]
    dec: NDArray[np.float64]
    header: dict[str, Any]


def survey(n: int, size: int = 32, seed: int = 0) -> Survey:
    """n cutouts of size × size pixels, the classes in turn; galaxy i is a function of (seed, i, size)."""
    labels = np.arange(n, dtype=np.int64) % len(CLASSES)
    images, masks = [], []
    for i, label in enumerate(labels):
        rng = np.random.default_rng((seed, i))
        light_HWC = _galaxy(rng, int(label), size)
        mask_HW = rng.random((size, size)) < 0.002
        images.append(_observed(rng, light_HWC))
        masks.append(mask_HW)
    rng = np.random.default_rng(seed)
    ra, dec = 360.0 * (np.arange(n) + rng.random(n) / 2) / max(n, 1), rng.uniform(-60, 60, n)
    return Survey(np.stack(images), np.stack(masks), labels, ra, dec)


def field(n: int, side: int = 300, size: int = 32, seed: int = 0) -> Field:
    """A mosaic of side × side pixels around 150.1 +2.2 with n galaxies, each within a square of `size` pixels."""
    rng = np.random.default_rng((seed, side))
    labels = np.arange(n, dtype=np.int64) % len(CLASSES)
    light_HWC = np.zeros((side, side, len(FILTERS)), np.float32)
    corner_N2 = rng.integers(0, side - size + 1, (n, 2))
    for label, (top, left) in zip(labels, corner_N2, strict=True):
        light_HWC[top : top + size, left : left + size] += _galaxy(rng, int(label), size)
    y, x = (corner_N2 + (size - 1) / 2).T
    header = tan_header(150.1, 2.2, side)
    ra, dec = sky_of(header, x, y)
    return Field(_observed(rng, light_HWC), labels, x, y, ra, dec, header)


def tan_header(ra: float, dec: float, size: int) -> dict[str, Any]:
    """The cards of a gnomonic projection (TAN) around the middle of size × size pixels, north up and east left."""
    scale = PIXEL / 3600
    return {
        **{"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": ra, "CRVAL2": dec, "CUNIT1": "deg", "CUNIT2": "deg"},
        **{"CRPIX1": (size + 1) / 2, "CRPIX2": (size + 1) / 2, "CD1_1": -scale, "CD1_2": 0.0, "CD2_1": 0.0},
        **{"CD2_2": scale, "RADESYS": "ICRS"},
    }


def sky_of(header: Mapping[str, Any], x: Any, y: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Right ascension and declination of pixels, columns and rows from 0."""
    from astropy.io import fits
    from astropy.wcs import WCS

    ra, dec = WCS(fits.Header(header)).all_pix2world(x, y, 0)
    return ra, dec


Layout = Literal["extensions", "cube", "compressed"]


def write_fits(
    path: Path,
    image_HWC: NDArray[Any],
    layout: Layout = "extensions",
    header: Mapping[str, Any] | None = None,
    names: Sequence[str] = FILTERS,
    mask_HW: NDArray[np.bool_] | None = None,
    unit: str = UNIT,
) -> Path:
    """Writes one image: an extension a band, a cube with BANDS, or compressed extensions (gzip, without loss)."""
    from astropy.io import fits

    planes_CHW = np.ascontiguousarray(image_HWC.transpose(2, 0, 1))
    cards = {**(header or {}), "BUNIT": unit}
    hdus: list[Any] = []
    if layout == "cube":
        hdus.append(fits.PrimaryHDU(planes_CHW, fits.Header({"BANDS": ",".join(names), **cards})))
    else:
        hdus.append(fits.PrimaryHDU())
        for name, plane_HW in zip(names, planes_CHW, strict=True):
            cards["FILTER"] = name  # EXTNAME becomes upper case
            if layout == "compressed":
                words = {"compression_type": "GZIP_2", "quantize_level": 0.0}
                hdus.append(fits.CompImageHDU(plane_HW, fits.Header(cards), name=name, **words))
            else:
                hdus.append(fits.ImageHDU(plane_HW, fits.Header(cards), name=name))
    if mask_HW is not None:
        hdus.append(fits.ImageHDU(mask_HW.astype(np.uint8), name="MASK"))
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return path


def write_folder(root: Path, made: Survey, layout: Layout = "extensions") -> Path:
    """Class folders of a FITS file each galaxy, with its mask."""
    size = made.images_NHWC.shape[1]
    for i, (image_HWC, mask_HW, label) in enumerate(zip(made.images_NHWC, made.masks_NHW, made.labels, strict=True)):
        header = tan_header(float(made.ra[i]), float(made.dec[i]), size)
        extension = "fz" if layout == "compressed" else "fits"
        write_fits(root / CLASSES[label] / f"{i:04d}.{extension}", image_HWC, layout, header, mask_HW=mask_HW)
    return root


def write_mosaic(root: Path, made: Field, *, files: bool = False, layout: Layout = "extensions") -> tuple[Path, str]:
    """A mosaic and `catalog.csv` with id, ra, dec and label. Returns the catalog, and what `@mosaic=` has to name."""
    if files:
        paths = []
        for c, name in enumerate(FILTERS):
            one_HWC = made.image_HWC[:, :, c : c + 1]
            paths.append(write_fits(root / f"{name}.fits", one_HWC, layout, made.header, [name]))
        named = ",".join(map(str, paths))
    else:
        named = str(write_fits(root / "field.fits", made.image_HWC, layout, made.header))
    rows = zip(made.ra, made.dec, (CLASSES[label] for label in made.labels), strict=True)
    numbered = [(f"g{i}", *row) for i, row in enumerate(rows)]
    return write_catalog(root / "catalog.csv", ("id", "ra", "dec", "label"), numbered), named


def write_stack(root: Path, made: Survey) -> tuple[Path, Path]:
    """All cutouts in one file, an extension (N, H, W) each band, and a catalog of labels in their order."""
    from astropy.io import fits

    hdus: list[Any] = [fits.PrimaryHDU()]
    for c, name in enumerate(FILTERS):
        hdus.append(fits.ImageHDU(np.ascontiguousarray(made.images_NHWC[:, :, :, c]), name=name))
        hdus[-1].header.update({"BUNIT": UNIT, "FILTER": name})
    root.mkdir(parents=True, exist_ok=True)
    fits.HDUList(hdus).writeto(root / "stack.fits", overwrite=True)
    rows = [(CLASSES[label],) for label in made.labels]
    return write_catalog(root / "labels.csv", ("label",), rows), root / "stack.fits"


def write_catalog(path: Path, names: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names, *rows])
    return path


def _galaxy(rng: np.random.Generator, label: int, size: int) -> NDArray[np.float32]:
    """The light of one galaxy in the middle of a square, through the atmosphere: (size, size, C)."""
    colour, shape = CLASSES[label].split()
    axis = np.arange(size, dtype=np.float32) - np.float32((size - 1) / 2)
    angle = np.float32(rng.uniform(0, np.pi))
    x, y = axis[None, None, :], axis[None, :, None]
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    plane = Plane(u, v, np.full((1, 1, 1), 0.3, np.float32))
    index, q = (1.0, rng.uniform(0.3, 0.5)) if shape == "disc" else (3.0, rng.uniform(0.8, 1.0))
    flux, radius = rng.uniform(20, 60), size * rng.uniform(0.08, 0.14)
    light_HW = sersic(plane, *(np.array([value], np.float32) for value in (flux, radius, index, q)))[0]
    light_HWC = light_HW[:, :, None] * np.array(_COLOURS[colour], np.float32)
    for c, sigma in enumerate(_SEEING):
        spread = np.exp(-0.5 * ((axis[:, None] - axis[None, :]) / np.float32(sigma / 1.5)) ** 2)
        spread /= spread.sum(axis=0)
        light_HWC[:, :, c] = spread @ light_HWC[:, :, c] @ spread.T
    return light_HWC.astype(np.float32)


def _observed(rng: np.random.Generator, light_HWC: NDArray[np.float32]) -> NDArray[np.float32]:
    """Light as a camera counts it: Poisson noise of light and sky, the sky subtracted."""
    sky = np.array(_SKY)
    return (rng.poisson((light_HWC + sky) * _ELECTRONS) / _ELECTRONS - sky).astype(np.float32)
