"""What a FITS header says of the sky without astropy: the size of a pixel, and the zero point of the values."""

from __future__ import annotations

import contextlib
import math
import re

from astroformer.images.fits_headers import Hdu
from astroformer.images.limits import Refused

_OF_THE_SKY = re.compile(r"(RA-|DEC-|[A-Z]LON-|[A-Z]LAT-)")
_ARCSEC = {"": 3600.0, "deg": 3600.0, "degree": 3600.0, "degrees": 3600.0, "arcmin": 60.0, "arcsec": 1.0}
_ZERO_POINTS = ("MAGZERO", "MAGZP", "MAGZPT", "MAGZEROP", "ZEROPT", "ZEROPNT", "ZEROPOIN", "PHOTZP", "MAG_ZP", "ZP")
_LARGEST_ZERO_POINT = 100.0  # magnitudes


def pixel_arcsec(hdu: Hdu) -> float | None:
    """The side in arcsec of a square as large as a pixel, by CD or by CDELT and PC; None where the header lacks it."""
    with contextlib.suppress(Refused):  # of a card that is there twice nobody knows which holds
        unit = _ARCSEC.get(hdu.text("CUNIT1").lower())
        if unit is None or not _OF_THE_SKY.match(hdu.text("CTYPE1").upper()):
            return None
        by_cd = any(f"CD{i}_{j}" in hdu.cards for i in (1, 2) for j in (1, 2))
        stem, same = ("CD", 0.0) if by_cd else ("PC", 1.0)
        (a, b), (c, d) = ([_number(hdu, f"{stem}{i}_{j}", same if i == j else 0.0) for j in (1, 2)] for i in (1, 2))
        area = abs(a * d - b * c)
        if not by_cd:
            area *= abs(_number(hdu, "CDELT1", 0.0) * _number(hdu, "CDELT2", 0.0))
        side = math.sqrt(area) * unit
        return side if side > 0 and math.isfinite(side) else None
    return None


def zero_point(*headers: Hdu) -> float | None:
    """The magnitude of the value 1, by the first header that says it; None where none does."""
    for hdu in headers:
        with contextlib.suppress(Refused):
            for keyword in _ZERO_POINTS:
                found = _number(hdu, keyword, math.nan)
                if abs(found) < _LARGEST_ZERO_POINT:
                    return found
            if 0 < (flux := _number(hdu, "FLUXMAG0", 0.0)) < math.inf:  # of magnitude 0, as LSST's pipelines write it
                return 2.5 * math.log10(flux)
    return None


def _number(hdu: Hdu, keyword: str, default: float) -> float:
    """The number of a keyword, or the default where it is none."""
    value = hdu.get(keyword)
    return default if value is None or isinstance(value, str | bool) else float(value)
