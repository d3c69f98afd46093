"""Where the rows of a catalog lie: right ascension and declination as their columns are written, or pixels."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroformer.errors import UserError, check_installed
from astroformer.images.copies import groups_with_copies
from astroformer.images.formats.table import Role, Table
from astroformer.images.labelled import LabelledImages
from astroformer.images.sky_groups import friends_of_friends, known_places

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

    Columns that `@ra=` and `@dec=` name must be positions, and so must others where `@same-sky=` goes by them. Else
    these are taken where their names and all of their values are those of positions: nobody asked for them, so nothing
    is wrong if they are not.

    Raises:
        UserError: columns that were named or are needed are no positions.
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
            if "same-sky" in options:
                raise
            return None
    return _on_the_sky(table, table.column(RA, asked[0]), table.column(DEC, asked[1]))


def is_position(name: str) -> bool:
    """Whether an array is called as columns of positions are."""
    return name.lower() in (*RA.usual, *DEC.usual)


def positions_in_arrays(found: Mapping[str, NDArray[Any]], n: int) -> NDArray[np.float64] | None:
    """(N, 2) right ascension and declination in degrees of n images, from the arrays that are called as columns of
    positions are; None where there are none, or their values are no positions in degrees."""
    pair = []
    for role, most in ((RA, 360.0), (DEC, 90.0)):
        called = [values for name, values in found.items() if name.lower() in role.usual]
        if len(called) != 1 or called[0].dtype.kind not in "fiu" or called[0].reshape(-1).shape != (n,):
            return None
        pair.append(called[0].reshape(-1).astype(np.float64))
        if (np.abs(pair[-1]) > most).any():
            return None
    return np.stack(pair, axis=1)


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


# Images of the same sky -------------------------------------------------------------------------------------


def with_same_sky(images: LabelledImages, options: Mapping[str, str], source: str, advice: str) -> LabelledImages:
    """The images with the groups of those that show the same sky, if `@same-sky=` asks for that.

    Args:
        images: with positions, if these are known.
        options: of the source.
        source, advice: where positions are from, and how they are given, for messages.

    Raises:
        UserError: positions are not known, or the distance is none.
    """
    if "same-sky" not in options:
        return images
    if images.positions_N2 is None:
        raise UserError(f"'{source}': @same-sky needs right ascension and declination; {advice}.")
    arcsec = _arcsec(options["same-sky"], source)
    groups = both_groupings(images.groups, _same_sky(images.positions_N2, arcsec))
    notes, unknown = images.notes, int((~known_places(images.positions_N2)).sum())
    if unknown:
        said = f"{unknown:,} of {len(images):,} images have no position (empty, or 0 and 0)"
        notes = [*notes, f"{said}: @same-sky keeps none of these together"]
    return replace(images, groups=groups, whereabouts=replace(images.whereabouts, same_sky=arcsec), notes=notes)


def both_groupings(groups: NDArray[np.int64] | None, others: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """(N,) the groups of images that are together in either of two groupings, directly or through others; None where
    each stands alone."""
    joined = groups_with_copies(others.astype(np.uint64), np.arange(len(others)), len(others), groups)
    return groups if joined is None else joined


def _arcsec(text: str, source: str) -> float:
    """What `@same-sky=` says. Raises `UserError` where that is no distance."""
    try:
        arcsec = float(text)
    except ValueError:
        arcsec = math.nan
    if not 0 < arcsec < 3600:
        raise UserError(
            f"'{source}': @same-sky={text} should be the largest distance in arcsec at which two images show the same "
            "sky, such as the side of a cutout: more than 0 and less than 3600."
        )
    return arcsec


def _same_sky(positions_N2: NDArray[np.float64], arcsec: float) -> NDArray[np.int64]:
    """(N,) the lowest number of the images within so many arcsec of each other; one of unknown place stands alone."""
    known = np.flatnonzero(known_places(positions_N2))
    groups = np.arange(len(positions_N2))
    groups[known] = known[friends_of_friends(positions_N2[known, 0], positions_N2[known, 1], arcsec)]
    return groups
