"""Where the rows of a catalog lie: right ascension and declination as their columns are written, or pixels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroformer.errors import UserError, check_installed
from astroformer.images.formats.table import Role, Table

_SAY_BOTH = "@ra=COLUMN@dec=COLUMN"
RA = Role(
    "ra",
    (
        *("ra", "ra_deg", "radeg", "raj2000", "ra_j2000", "_raj2000", "ra_icrs", "ra_icrs_deg", "right_ascension"),
        "alpha_j2000",
    ),
    ("_ra", "_ra_icrs", "alphawin_j2000", "target_ra", "ramean", "rastack", "ra_gal", "coord_ra", "raicrs"),
    _SAY_BOTH,
)
DEC = Role(
    "dec",
    (
        *("dec", "dec_deg", "decdeg", "dedeg", "dej2000", "decj2000", "dec_j2000", "_dej2000", "de_icrs", "dec_icrs"),
        *("declination", "delta_j2000"),
    ),
    (
        *("_de", "_dec", "_de_icrs", "deltawin_j2000", "target_dec", "decmean", "decstack", "dec_gal", "coord_dec"),
        "deicrs",
    ),
    _SAY_BOTH,
)
POSITION_OPTIONS = ("ra", "dec", "x", "y", "first-pixel")
"""Options of a catalog that say which columns hold positions, and how pixels are counted."""

_PLAIN = ("", "deg", "degree", "degrees", "d", "°")
_HOURS = ("h", "hr", "hour", "hours")  # of right ascension, which are no time
_SEXAGESIMAL = re.compile(r"[+-]?\d{1,3}\s*[:hd°\s]\s*\d{1,2}(\s*[:m'′\s]\s*\d{1,2}(\.\d*)?\s*[s\"″]?|\s*[m'′])?", re.I)


class Places(NamedTuple):
    """Where the rows of a catalog lie.

    Attributes:
        positions_N2: (N, 2) right ascension and declination in degrees (ICRS), NaN where a row has none.
        notes: how the columns were read, where they are no plain degrees.
        pixels_N2: (N, 2) columns and rows of a mosaic, in place of positions, which are then NaN. The middle of the
            first pixel is 0.
    """

    positions_N2: NDArray[np.float64]
    notes: list[str]
    pixels_N2: NDArray[np.float64] | None = None


def columns_of_places(table: Table, options: Mapping[str, str]) -> list[str]:
    """The two columns that say where the rows of a catalog lie in a mosaic.

    Raises:
        UserError: there are none, or the words contradict each other.
    """
    given = [option for option in POSITION_OPTIONS if option in options]
    if not {"x", "y", "first-pixel"} & set(given):
        return [table.column(RA, options.get("ra")), table.column(DEC, options.get("dec"))]
    if "x" not in given or "y" not in given or {"ra", "dec"} & set(given):
        raise UserError(
            f"'{table.path}': @{', @'.join(given)}: positions are two columns, of pixels, @x=COLUMN@y=COLUMN, or of "
            "the sky, @ra=COLUMN@dec=COLUMN."
        )
    return [table.column(Role(axis), options[axis]) for axis in ("x", "y")]


def places_in_mosaic(table: Table, options: Mapping[str, str]) -> Places:
    """Where the rows of a catalog lie in a mosaic.

    Raises:
        UserError: as `columns_of_places`; or values are no positions, or nobody says how pixels are counted.
    """
    columns = columns_of_places(table, options)
    if "x" not in options:
        return _on_the_sky(table, *columns)
    first, why = _first_pixel(table, columns, options.get("first-pixel"))
    pixels_N2 = np.stack([table.numbers(name) for name in columns], axis=1)
    note = f"positions in pixels by '{columns[0]}' and '{columns[1]}', of which the first pixel is {first}{why}"
    return Places(np.full(pixels_N2.shape, np.nan), [note], pixels_N2 - first)


def positions_of(table: Table, options: Mapping[str, str]) -> Places | None:
    """Right ascension and declination of the rows of a catalog; None where it has none.

    Columns that `@ra=` and `@dec=` name must be positions. Others are taken where their names and all of their values
    are those of positions: nobody asked for them, so nothing is wrong if they are not.

    Raises:
        UserError: columns that were named are no positions.
    """
    for option in ("x", "y", "first-pixel"):
        if option in options:
            raise UserError(f"'{table.path}': @{option} is about pixels of a mosaic; name that with @mosaic=FILE.fits.")
    asked = [options.get("ra"), options.get("dec")]
    if asked == [None, None]:
        found = table.called(RA), table.called(DEC)
        if [len(names) for names in found] != [1, 1]:
            return None
        try:
            return _on_the_sky(table, found[0][0], found[1][0])
        except UserError:
            return None
    return _on_the_sky(table, table.column(RA, asked[0]), table.column(DEC, asked[1]))


def _first_pixel(table: Table, columns: Sequence[str], said: str | None) -> tuple[int, str]:
    """The number of the first pixel, and why it is taken for that where nobody says it."""
    if said in ("0", "1"):
        return int(said), ""
    if said is not None:
        raise UserError(f"@first-pixel={said} should be 1, as FITS and SExtractor count, or 0, as numpy and photutils.")
    if all(name.upper().endswith("_IMAGE") for name in columns):
        return 1, ", as SExtractor counts"
    if all(name.lower().replace("_", "")[1:].startswith("centroid") for name in columns):
        return 0, ", as photutils counts"
    raise UserError(
        f"'{table.path}': is the first pixel of '{columns[0]}' and '{columns[1]}' 1, as FITS and SExtractor count, or "
        "0, as numpy and photutils? Say @first-pixel=1 or @first-pixel=0."
    )


def _on_the_sky(table: Table, ra: str, dec: str) -> Places:
    notes = list[str]()
    found = [
        _degrees(table, ra, "right ascension", 360.0, notes, hourly=True),
        _degrees(table, dec, "declination", 90.0, notes, hourly=False),
    ]
    return Places(np.stack(found, axis=1), notes)


def _degrees(table: Table, name: str, what: str, most: float, notes: list[str], *, hourly: bool) -> NDArray[np.float64]:
    """(N,) a column of angles in degrees, from -most to most; says in `notes` what was converted."""
    unit = table.units.get(name, "").strip()
    texts = [value if isinstance(value, str) else "" for value in table.values([name])[name]]
    if any(_SEXAGESIMAL.fullmatch(text.strip()) for text in texts):
        values_N = _from_sexagesimal(table, name, hourly=hourly)
        notes.append(f"{what} by '{name}', written as {'hours' if hourly else 'degrees'}, minutes and seconds")
    else:
        values_N = table.numbers(name)
        if unit.lower().rstrip(".") not in _PLAIN:
            values_N = values_N * _degrees_in(unit, table, name, hourly=hourly)
            notes.append(f"{what} by '{name}', converted from {unit} to degrees")
    wrong_N = np.abs(values_N) > most
    if wrong_N.any():
        row = int(np.argmax(wrong_N))
        raise UserError(
            f"'{table.path}': the column '{name}' has {values_N[row]:g} in row {row + 1}; degrees from {-most:g} to "
            f"{most:g} are needed."
        )
    return values_N


def _degrees_in(unit: str, table: Table, name: str, *, hourly: bool) -> float:
    """How many degrees a unit has. Raises `UserError` where it is none of angles."""
    if hourly and unit.lower() in _HOURS:
        return 15.0
    check_installed("astropy", "astro", f"'{table.path}': the column '{name}', in '{unit}',")
    from astropy import units

    try:
        return float(units.Unit(unit).to("deg"))
    except (ValueError, TypeError):  # unknown, or of something else
        what = "degrees, radians, hours" if hourly else "degrees, radians"
        raise UserError(
            f"'{table.path}': the column '{name}' is in '{unit}'; {what} or another unit of angles is needed."
        ) from None


def _from_sexagesimal(table: Table, name: str, *, hourly: bool) -> NDArray[np.float64]:
    """(N,) degrees of texts such as 12:30:49.4 or 12h30m49.4s; a missing one is NaN."""
    check_installed("astropy", "astro", f"'{table.path}': the column '{name}', of angles such as 12:30:49.4,")
    from astropy.coordinates import Angle

    texts = table.texts([name])[name]
    for row, text in enumerate(texts, start=1):
        if text and not _SEXAGESIMAL.fullmatch(text):
            raise UserError(
                f"'{table.path}': the column '{name}' has '{text}' in row {row}, and angles such as 12:30:49.4 in "
                "others. Mend the row."
            )
    degrees_N = np.full(len(texts), np.nan)
    known = [i for i, text in enumerate(texts) if text]
    try:
        angles = Angle([texts[i] for i in known], unit="hourangle" if hourly else "deg")
    except ValueError as error:
        why = " ".join(str(error).split())
        raise UserError(f"'{table.path}': the column '{name}' has an angle that can't be read ({why}).") from None
    degrees_N[known] = angles.deg
    return degrees_N
