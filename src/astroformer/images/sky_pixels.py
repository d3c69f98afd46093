"""Where positions in the sky lie among the pixels of FITS images, by their world coordinates (WCS) and astropy."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astroformer.errors import UserError
from astroformer.images.fits import astropy_fits
from astroformer.images.fits_headers import Hdu

_LARGEST_SIDE = 16384  # of a cutout in pixels
_SAME_PIXEL = 0.01  # by how much of a pixel two mosaics of one grid may differ
_LOST = 0.1  # of a pixel, by how much a position may miss itself on its way to a pixel and back
_OF_WCS = re.compile(
    r"(WCSAXES|LONPOLE|LATPOLE|RADE(SYS|CSYS)|EQUINOX|EPOCH|(CTYPE|CUNIT|CRVAL|CRPIX|CDELT|CROTA|CD|PC|PV|PS)[0-9])"
)
_SQUARE = 0.01  # share by which the sides of a pixel may differ where a size is given in arcsec


def common_wcs(images: Sequence[tuple[str, Hdu]]) -> Any:
    """The world coordinates of the pixels of images in files, which are the same in all of them.

    Raises:
        UserError: they are not the same, an image has none, or they have no inverse; or astropy is missing.
    """
    first, hdu_of_first = images[0]
    height, width = hdu_of_first.shape[-2:]
    wcs = _wcs_of(first, hdu_of_first)
    step = _step(wcs)
    x = np.array([0, width - 1, 0, width - 1, (width - 1) / 2])
    y = np.array([0, 0, height - 1, height - 1, (height - 1) / 2])
    for path, hdu in {(path, hdu.number): (path, hdu) for path, hdu in images}.values():
        if hdu.shape[-2:] != (height, width):
            here, there = ("×".join(map(str, shape[::-1])) for shape in (hdu.shape[-2:], (height, width)))
            what = f"it has {here} pixels, and '{first}' {there}"
        else:
            other = _wcs_of(path, hdu)
            # By the sky of the same pixels, since distortions may have no inverse in the corners.
            with np.errstate(invalid="ignore"):
                (lon, lat), (other_lon, other_lat) = _to_world(wcs, x, y), _to_world(other, x, y)
                across = np.cos(np.radians(lat)) * ((other_lon - lon + 180) % 360 - 180)
                off = np.hypot(across, other_lat - lat) / step
            # Corners of a map of the whole sky lie nowhere.
            if not (off[np.isfinite(off)] > _SAME_PIXEL).any() and np.isfinite(off[-1]):
                continue
            what = "its pixels lie at other places in the sky"
        raise UserError(
            f"'{path}', {hdu}: {what}, so they are no bands of one image: nothing is resampled here. Bring them onto "
            "one grid first, for instance with the package reproject."
        )
    return wcs


def why_other_sky(images: Sequence[tuple[str, Hdu]]) -> str | None:
    """Why the pixels of images in files, which are equally many, lie at other places in the sky; None where they do not
    or where an image does not say it. astropy is asked only where headers are not the same."""
    says = [{key: hdu.get(key) for key in hdu.cards if _OF_WCS.match(key)} for _, hdu in images]
    if any("CTYPE1" not in words for words in says) or all(words == says[0] for words in says):
        return None
    try:
        common_wcs(images)
    except UserError as error:
        return str(error).rstrip(".")
    return None


def _step(wcs: Any) -> float:
    """The smaller side of a pixel in degrees."""
    from astropy.wcs.utils import proj_plane_pixel_scales

    return float(min(proj_plane_pixel_scales(wcs)))


def _wcs_of(path: str, hdu: Hdu) -> Any:
    fits = astropy_fits()
    from astropy.wcs import WCS

    why = "it has no WCS (CTYPE1, CRVAL1 and so on) that says where in the sky its pixels lie"
    try:
        unclear = sorted(filter(_OF_WCS.match, hdu.unclear))
        if unclear:
            raise ValueError(f"{unclear[0]} is there twice, with different values")
        for row in ("CD1", "CD2"):  # astropy would take 1° a pixel in its place, with a warning
            if f"{row}_1" in hdu.cards and not hdu.number_of(f"{row}_1", 0) and not hdu.number_of(f"{row}_2", 0):
                raise ValueError(f"{row}_1 and {row}_2 are 0")
        with fits.open(path, memmap=True, lazy_load_hdus=True) as opened:
            wcs = WCS(opened[hdu.number].header, opened)
            if wcs.has_celestial:
                flat = wcs.celestial
                x, y = (np.array([(n - 1) / 2]) for n in hdu.shape[-1:-3:-1])
                there = _to_pixels(flat, *_to_world(flat, x, y))
                if {wcs.wcs.lng, wcs.wcs.lat} != {0, 1}:
                    why = "the sky of its WCS does not lie along rows and columns"
                elif np.isfinite(there).all():
                    return flat
                else:
                    why = "its WCS has no inverse at the middle of the mosaic"
    except Exception as error:  # what is wrong with a WCS raises errors of many kinds
        why = f"its WCS can't be used ({' '.join(str(error).split())[:200] or type(error).__name__})"
    raise UserError(f"'{path}', {hdu}: {why}.")


@contextlib.contextmanager
def _frame_of(wcs: Any) -> Iterator[Any]:
    """The frame of astropy in which the coordinates of a mosaic are. Raises `UserError` where it, or what is done with
    it within, is none of the sky of stars: of the Sun, of Mars."""
    from astropy.wcs.utils import wcs_to_celestial_frame

    try:
        yield wcs_to_celestial_frame(wcs)
    except Exception as error:  # which are of many kinds
        why = " ".join(str(error).split()).rstrip(".")
        raise UserError(
            "the mosaic has coordinates that can't be turned into right ascension and declination, "
            f"{' and '.join(wcs.wcs.ctype)} ({why}). Cut the images out of it, and give them as files."
        ) from None


# The axes of a WCS may be declination and right ascension, in this order, which astropy keeps.


def _to_world(wcs: Any, x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Longitude and latitude in degrees of columns and rows, from 0."""
    return tuple(wcs.all_pix2world(x, y, 0)[:: -1 if wcs.wcs.lng else 1])


def _to_pixels(wcs: Any, lon: NDArray[np.float64], lat: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Columns and rows, from 0, of longitude and latitude in degrees; some number where there is no inverse."""
    return tuple(wcs.all_world2pix(*((lat, lon) if wcs.wcs.lng else (lon, lat)), 0, quiet=True))


def pixels_at(
    wcs: Any, ra_N: NDArray[np.float64], dec_N: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Column and row, from 0, of positions; NaN where a position is none or the projection gives it no pixel.

    Raises:
        UserError: a declination is beyond ±90°, or the coordinates of the mosaic are of an unknown kind.
    """
    from astropy.coordinates import SkyCoord
    from astropy.wcs.utils import proj_plane_pixel_scales

    known = np.isfinite(ra_N) & np.isfinite(dec_N)
    for what, values, most in (("right ascension", ra_N, 360), ("declination", dec_N, 90)):
        wrong = np.flatnonzero(known & (np.abs(np.where(known, values, 0)) > most))
        if len(wrong):
            raise UserError(
                f"the {what} in row {wrong[0] + 1} is {values[wrong[0]]:g}; degrees up to {most} are needed."
            )
    x_N, y_N = np.full(len(ra_N), np.nan), np.full(len(ra_N), np.nan)
    if not known.any():
        return x_N, y_N
    with _frame_of(wcs) as frame:
        sky = SkyCoord(ra_N[known], dec_N[known], unit="deg", frame="icrs").transform_to(frame)
    lon, lat = sky.spherical.lon.deg, sky.spherical.lat.deg
    with np.errstate(invalid="ignore"):
        x, y = _to_pixels(wcs, lon, lat)
        # A projection may give a pixel to the other side of the sky, and distortions far outside have no inverse.
        again_lon, again_lat = _to_world(wcs, x, y)
        across = np.cos(np.radians(lat)) * ((again_lon - lon + 180) % 360 - 180)
        found = np.hypot(across, again_lat - lat) < _LOST * max(proj_plane_pixel_scales(wcs))
    x_N[known], y_N[known] = np.where(found, x, np.nan), np.where(found, y, np.nan)
    return x_N, y_N


def sky_at(
    wcs: Any, x_N: NDArray[np.float64], y_N: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Right ascension and declination in degrees (ICRS) of columns and rows, from 0; NaN where there is no such place.

    Raises:
        UserError: the coordinates of the mosaic are of an unknown kind.
    """
    from astropy.coordinates import SkyCoord

    ra_N, dec_N = np.full(len(x_N), np.nan), np.full(len(x_N), np.nan)
    with np.errstate(invalid="ignore"):
        lon_N, lat_N = _to_world(wcs, x_N, y_N)
    known = np.isfinite(lon_N) & np.isfinite(lat_N)
    with _frame_of(wcs) as frame:
        sky = SkyCoord(lon_N[known], lat_N[known], unit="deg", frame=frame).icrs
    ra_N[known], dec_N[known] = sky.ra.deg, sky.dec.deg
    return ra_N, dec_N


def side_of(text: str | None, wcs: Any) -> tuple[int, float, str]:
    """The side in pixels that a text asks for (`64`, `20arcsec`), the arcsec of a pixel, and how a sentence says the
    side. Raises `UserError`."""
    from astropy.wcs.utils import proj_plane_pixel_scales

    match = re.fullmatch(r"([0-9]{1,9}\.?[0-9]{0,9}|\.[0-9]{1,9})(px|arcsec|arcmin)?", (text or "").strip())
    advice = "a side in pixels, @size=64, or in the sky, @size=20arcsec, is needed"
    if text is None:
        raise UserError(f"cutouts of a mosaic have a size; {advice}.")
    if match is None:
        raise UserError(f"@size={text} is no size of cutouts; {advice}.")
    number, unit = float(match[1]), match[2] or "px"
    across, along = (float(scale) * 3600 for scale in proj_plane_pixel_scales(wcs))
    if unit != "px":
        if abs(across - along) > _SQUARE * across:
            raise UserError(f"@size={text}: a pixel has {across:.3g} × {along:.3g} arcsec; give a side in pixels.")
        number = round(number * (60 if unit == "arcmin" else 1) / across)
    if number != int(number) or not 1 <= number <= _LARGEST_SIDE:
        raise UserError(f"@size={text} would be {number:g} pixels; {advice}, from 1 to {_LARGEST_SIDE:,} pixels.")
    side = int(number)
    said = f"{side} × {side} px ({side * across:.4g} × {side * along:.4g} arcsec)"
    return side, max(across, along), said


def centre_of(wcs: Any, width: int, height: int) -> str:
    """Right ascension and declination of the middle of a mosaic, in degrees."""
    centre = wcs.pixel_to_world((width - 1) / 2, (height - 1) / 2).icrs
    return f"{centre.ra.deg:.4f} {centre.dec.deg:+.4f}"
