"""A small survey in the filters u, g, r, i, z: galaxies with Poisson noise, a point spread a band, masks and a TAN WCS.

    python examples/mock_survey.py survey

writes the files that docs/fits-tutorial.md works with, 50 MB. It needs `pip install ".[astro]"`.

The classes differ by shape (Sérsic index and flattening) and by colour, so what a network makes of colour can be told:
`red_round` and `blue_round` have the same shapes. Nothing measured on these images tells anything about real galaxies.

Shape letters: N galaxies, H rows, W columns, C bands, K classes.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from astroformer.errors import UserError, check_installed
from astroformer.images.sets.mock.canvas import Plane
from astroformer.images.sets.mock.profiles import sersic

FILTERS = ("u", "g", "r", "i", "z")
CLASSES = ("blue_disc", "blue_round", "red_round")
PIXEL = 0.262  # arcsec
SIZE, FLUX = 40, (0.5, 50.0)  # of what is written: pixels a side of a cutout, and the range of brightness in UNIT
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


def survey(n: int, size: int = 32, seed: int = 0, flux: tuple[float, float] = (20.0, 60.0)) -> Survey:
    """n cutouts of size × size pixels, the classes in turn; galaxy i is a function of (seed, i, size, flux).

    `flux` is the range of their brightness in r, in UNIT, its logarithm uniform.
    """
    labels = np.arange(n, dtype=np.int64) % len(CLASSES)
    images, masks = [], []
    for i, label in enumerate(labels):
        rng = np.random.default_rng((seed, i))
        light_HWC = _galaxy(rng, int(label), size, flux)
        mask_HW = rng.random((size, size)) < 0.002
        images.append(_observed(rng, light_HWC))
        masks.append(mask_HW)
    rng = np.random.default_rng(seed)
    ra, dec = 360.0 * (np.arange(n) + rng.random(n) / 2) / max(n, 1), rng.uniform(-60, 60, n)
    return Survey(np.stack(images), np.stack(masks), labels, ra, dec)


def field(
    n: int,
    side: int = 300,
    size: int = 32,
    seed: int = 0,
    flux: tuple[float, float] = (20.0, 60.0),
    over: int = 0,
) -> Field:
    """A mosaic of side × side pixels around 150.1 +2.2 with n galaxies, each within a square of `size` pixels.

    `flux` is as for `survey`; `over` is how many pixels of a square may lie outside.
    """
    rng = np.random.default_rng((seed, side))
    labels = np.arange(n, dtype=np.int64) % len(CLASSES)
    light_HWC = np.zeros((side + 2 * over, side + 2 * over, len(FILTERS)), np.float32)
    corner_N2 = rng.integers(-over, side - size + over + 1, (n, 2))
    for label, (top, left) in zip(labels, corner_N2 + over, strict=True):
        light_HWC[top : top + size, left : left + size] += _galaxy(rng, int(label), size, flux)
    light_HWC = light_HWC[over : over + side, over : over + side]
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


def write_folder(root: Path, made: Survey, layout: Layout = "extensions", *, by_class: bool = True) -> Path:
    """A FITS file each galaxy, called by its number, with its mask; in class folders or all in `root`."""
    size = made.images_NHWC.shape[1]
    for i, (image_HWC, mask_HW, label) in enumerate(zip(made.images_NHWC, made.masks_NHW, made.labels, strict=True)):
        header = tan_header(float(made.ra[i]), float(made.dec[i]), size)
        folder, extension = root / CLASSES[label] if by_class else root, "fz" if layout == "compressed" else "fits"
        write_fits(folder / f"{i:04d}.{extension}", image_HWC, layout, header, mask_HW=mask_HW)
    return root


def write_bands(root: Path, made: Field, layout: Layout = "extensions") -> list[Path]:
    """A mosaic as a file a band, `u.fits` and so on, which it returns."""
    return [
        write_fits(root / f"{name}.fits", made.image_HWC[:, :, c : c + 1], layout, made.header, [name])
        for c, name in enumerate(FILTERS)
    ]


def rows_of(made: Field) -> list[tuple[str, float, float, str]]:
    """A catalog of the galaxies of a field: id, right ascension, declination, label."""
    labels = [CLASSES[label] for label in made.labels]
    return [(f"g{i}", *row) for i, row in enumerate(zip(made.ra.tolist(), made.dec.tolist(), labels, strict=True))]


def write_catalog(path: Path, names: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names, *rows])
    return path


def votes(labels: NDArray[np.int64], seed: int = 0) -> NDArray[np.int64]:
    """(N, K) of 20 to 60 people, how many took each galaxy for each class. Some galaxies leave them in doubt."""
    rng = np.random.default_rng((seed, len(labels)))
    sure_N1 = rng.uniform(0.4, 1.0, (len(labels), 1))
    shares_NK = sure_N1 * np.eye(len(CLASSES))[labels] + (1 - sure_N1) / len(CLASSES)
    return rng.multinomial(rng.integers(20, 61, len(labels)), shares_NK)


def write_survey(root: Path) -> None:
    """Everything that the tutorial works with."""
    made, later = survey(300, SIZE, flux=FLUX), survey(30, SIZE, seed=1, flux=FLUX)
    mosaic = field(340, 1200, SIZE, flux=FLUX, over=SIZE // 4)
    for one in (made, later):
        one.images_NHWC[one.masks_NHW] = np.nan
    mosaic.image_HWC[600:606] = np.nan  # where two detectors meet
    files = sorted(write_folder(root / "cutouts", made).rglob("*.fits"), key=lambda file: file.stem)
    voted = zip((file.relative_to(root) for file in files), *votes(made.labels).T.tolist(), strict=True)
    write_catalog(root / "votes.csv", ("file", *CLASSES), list(voted))
    write_folder(root / "new", later, by_class=False)
    write_bands(root / "mosaic", mosaic)
    rows = rows_of(mosaic)
    write_catalog(root / "catalog.csv", ("id", "ra", "dec", "label"), rows[:300])
    write_catalog(root / "new.csv", ("id", "ra", "dec"), [row[:3] for row in rows[300:]])


def main() -> None:
    parser = argparse.ArgumentParser(description="Renders a small survey in five bands as FITS files and catalogs.")
    parser.add_argument("out", type=Path, help="a new folder")
    root = parser.parse_args().out
    try:
        check_installed("astropy", "astro", "writing FITS files")
        if root.exists():
            raise UserError(f"'{root}' exists; name a new folder.")
    except UserError as error:
        sys.exit(f"error: {error}")
    write_survey(root)


def _galaxy(rng: np.random.Generator, label: int, size: int, flux: tuple[float, float]) -> NDArray[np.float32]:
    """The light of one galaxy in the middle of a square, through the atmosphere: (size, size, C)."""
    colour, shape = CLASSES[label].split("_")
    axis = np.arange(size, dtype=np.float32) - np.float32((size - 1) / 2)
    angle = np.float32(rng.uniform(0, np.pi))
    x, y = axis[None, None, :], axis[None, :, None]
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    plane = Plane(u, v, np.full((1, 1, 1), 0.3, np.float32))
    index, q = (1.0, rng.uniform(0.3, 0.5)) if shape == "disc" else (3.0, rng.uniform(0.8, 1.0))
    light, radius = np.exp(rng.uniform(*np.log(flux))), size * rng.uniform(0.08, 0.14)
    light_HW = sersic(plane, *(np.array([value], np.float32) for value in (light, radius, index, q)))[0]
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


if __name__ == "__main__":
    main()
