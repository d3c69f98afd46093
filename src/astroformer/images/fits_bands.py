"""Which parts of a FITS file are the bands of its image.

What a file says decides it: names of extensions, keywords for filters, units. Masks, weights, variances and tables are
none. Where the file leaves it open, it is refused with the words that say more, `@hdu=` and `@bands=`.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from astroformer.errors import UserError
from astroformer.images.bands import Bands
from astroformer.images.fits_headers import Hdu
from astroformer.images.fits_sky import pixel_arcsec, zero_point
from astroformer.images.limits import Refused
from astroformer.images.stated import Stated

FITS_OPTIONS = ("hdu", "bands", "blank")
"""Options of a source that has FITS files: which of their parts are bands, which bands, in which order, and which
values stand for none."""

# Words in the name of a part that is no band: masks, weights, errors, and what else pipelines put beside an image.
_BESIDE = frozenset(
    {"BADPIX", "BPM", "DQ", "FLAG", "FLAGS", "MASKBITS", "QUALITY", "WHT", "WEIGHT", "WEIGHTS"}
    | {"IVAR", "INVVAR", "VAR", "VARIANCE", "ERR", "ERROR", "UNCERT", "UNCERTAINTY", "SIGMA", "STD", "STDDEV", "RMS"}
    | {"NOISE", "CON", "CONTEXT", "CTX", "PSF", "BEAM", "EXP", "EXPTIME", "EXPOSURE", "NEXP", "NIMAGES", "COVERAGE"}
    | {"BKG", "BACKGROUND", "SKY", "CHI", "CHI2", "MODEL", "RESIDUAL", "SEGMENTATION", "SEGM", "SEGMAP", "MAXVAL"}
    | {"CONFIDENCE", "CONF", "SAMP", "TIME", "SEG", "UNC", "COV", "IVM", "STDEV", "RESID", "NOBS", "AREA"}
)
_NO_NAME_OF_A_BAND = frozenset({"", "SCI", "IMAGE", "PRIMARY", "COMPRESSED_IMAGE", "DATA", "SCIENCE", "FLUX"})
# Names of polarisations by their number (FITS standard 4.0, table 28), and axes along which planes differ in colour.
_CIRCULAR_AND_LINEAR = ("RR", "LL", "RL", "LR", "XX", "YY", "XY", "YX")
_STOKES = dict(enumerate("IQUV", 1)) | {-i: name for i, name in enumerate(_CIRCULAR_AND_LINEAR, 1)}
_SPECTRAL = ("FREQ", "ENER", "WAVN", "VRAD", "WAVE", "VOPT", "ZOPT", "AWAV", "VELO", "BETA")


# Wheels of Hubble's cameras, each with a filter or a clear place. Webb has a second wheel, PUPIL, beside FILTER.
_WHEELS = ("FILTER1", "FILTER2", "FILTNAM1", "FILTNAM2")
_NO_FILTER = ("CLEAR", "OPEN", "NONE", "N/A")
# Filters with facts behind their names: of DECam the number, centre and width, of Pan-STARRS a version.
_LONG_NAMES = (
    (re.compile(r"(\w+) DECam .*[0-9.]+ [0-9.]+"), "DECam-{}"),
    (re.compile(r"([grizyw])\.0{5}"), "PS1-{}"),
)


@dataclass(frozen=True)
class Wanted:
    """What of a FITS file is asked for.

    Attributes:
        hdus: names or numbers of the parts that are bands, in their order; empty: what the file says.
        bands: names or numbers of the bands to take, in their order; empty: all.
        expected: the bands that have to come of it, since other images of the set have them.
        blank: values that stand for none; an infinite one stands for both.
    """

    hdus: tuple[str, ...] = ()
    bands: tuple[str, ...] = ()
    expected: Bands | None = None
    blank: tuple[float, ...] = ()

    def key(self) -> str:
        """A text that is the same for the same wishes, in every version."""
        expected = None if self.expected is None else self.expected.to_dict()
        return json.dumps([self.hdus, self.bands, expected, *([self.blank] if self.blank else [])])


class Band(NamedTuple):
    """Where one band lies.

    Attributes:
        hdu: that holds it.
        place: along the axes before rows and columns; None stands for the number of the image in a stack.
        name, unit: as the file has them.
        zero_point: the magnitude of the value 1, where the file says it.
    """

    hdu: Hdu
    place: tuple[int | None, ...]
    name: str
    unit: str
    zero_point: float | None = None


class Chosen(NamedTuple):
    """The bands of a FITS file, and the images in it that are none."""

    bands: tuple[Band, ...]
    beside: tuple[Hdu, ...]

    def named(self) -> Bands:
        """What they are called."""
        return Bands(tuple(band.name for band in self.bands), tuple(band.unit for band in self.bands))

    def stated(self) -> Stated:
        """What the file says of the sky and of the values."""
        first = self.bands[0].hdu
        return stated_by(self.bands, pixel_arcsec(first), min(first.shape[-2:]))

    def __str__(self) -> str:
        numbers = dict.fromkeys(band.hdu.number for band in self.bands)
        cube = " (a cube)" if len(self.bands) > len(numbers) else ""
        said = f"bands {self.named()} of HDU {', '.join(map(str, numbers))}{cube}"
        return said + (f"; not taken: {_listed(self.beside)}" if self.beside else "")


def stated_by(bands: Sequence[Band], arcsec: float | None, side: int) -> Stated:
    """What is stated of an image of these bands, with pixels of so many arcsec and a shorter side of so many pixels."""
    points = tuple(None if band.zero_point is None else (band.zero_point,) * 2 for band in bands)
    known = points if any(points) else ()
    if arcsec is None:
        return Stated(zero_points=known)
    return Stated((side * arcsec, side * arcsec), (arcsec, arcsec), known)


def wanted_of(options: Mapping[str, str]) -> Wanted:
    """What the options of a source ask for. Raises `UserError` where a word is missing or there twice."""
    found = {}
    for option in FITS_OPTIONS:
        words = tuple(word.strip() for word in options[option].split(",")) if option in options else ()
        for word, n in Counter(words).items():
            if not word or n > 1:
                what = f"'{word}' twice" if word else "an empty name"
                raise UserError(f"@{option}={options[option]} has {what}; write names or numbers, such as g,r or 0,2.")
        found[option] = words
    return Wanted(found["hdu"], found["bands"], blank=tuple(map(_value_of_none, found["blank"])))


def _value_of_none(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise UserError(
            f"@blank has '{word}', which is no value that stands for none; write numbers, such as -9999, or inf. NaN "
            "always does."
        )
    return value


def check_expected(found: Bands, expected: Bands) -> None:
    """Raises `Refused` where an image has other bands than its set. Units count where both say what they are."""
    units = zip(found.units, expected.units, strict=False)
    if found.names != expected.names or any(own and other and own != other for own, other in units):
        raise Refused(f"its bands are {found}, and those of the set are {expected}")


def choose(hdus: Sequence[Hdu], wanted: Wanted, stacked: int | None = None) -> Chosen:
    """The bands of a file, or of each image in it where so many are stacked.

    Raises:
        Refused: there are none, or it is not clear which are meant.
    """
    parts = _parts_named(hdus, wanted.hdus) if wanted.hdus else _parts_by_content(hdus)
    leading = [_leading_axes(hdu, stacked) for hdu in parts]
    shapes = {hdu.shape[-2:] for hdu in parts}
    if len(shapes) > 1 or (len(parts) > 1 and any(axes.planes is not None for axes in leading)):
        sizes = ", ".join(f"{hdu} of {_by(hdu.shape)}" for hdu in parts)
        raise Refused(f"it holds several images that are no bands of one ({sizes}); choose with @hdu=NAME or @hdu=1")
    along = leading[0].planes
    if along is not None:
        names = _names_of_planes(parts[0], hdus[0], along)
        bands = [Band(parts[0], leading[0].of_plane(i), name, parts[0].text("BUNIT")) for i, name in enumerate(names)]
    else:
        named = zip(parts, leading, _names_of_parts(parts, hdus[0], wanted.hdus), strict=True)
        bands = [Band(hdu, axes.place, name, hdu.text("BUNIT")) for hdu, axes, name in named]
    bands = [band._replace(zero_point=zero_point(band.hdu, hdus[0])) for band in bands]
    beside = tuple(hdu for hdu in hdus if hdu.is_image and hdu not in parts)
    return Chosen(tuple(bands_called(wanted.bands, bands)), beside)


def bands_called(words: Sequence[str], bands: Sequence[Band]) -> Sequence[Band]:
    """The bands of these names or numbers, in this order; all of them without words. Raises `Refused`."""
    return [_band_called(word, bands) for word in words] if words else bands


def _parts_by_content(hdus: Sequence[Hdu]) -> list[Hdu]:
    images = [hdu for hdu in hdus if hdu.is_image]
    if not images:
        said = [hdu for hdu in hdus if hdu.number or len(hdus) == 1]
        held = [f"{hdu} {'is a table' if 'TABLE' in hdu.text('XTENSION') else 'has no rows of pixels'}" for hdu in said]
        raise Refused(f"it holds no image ({', '.join(held[:5])})")
    parts = [hdu for hdu in images if not _is_beside(hdu.name)]
    if not parts:
        raise Refused(f"it holds no image beside {_listed(images)}; if that is meant, say @hdu={images[0].number}")
    # Parts without names may have a kind. Of a single part it tells what was observed, such as a sky.
    return [hdu for hdu in parts if hdu.name or not _is_beside(hdu.text("IMAGETYP"))] or parts


def _is_beside(name: str) -> bool:
    """Whether an image is a mask, a weight, an error or the like by its name: BMASK, VAR_POISSON, IVAR-R, g_psf."""
    return any(word in _BESIDE or word.endswith("MASK") for word in re.split(r"[^A-Z0-9]+", name.upper()))


def _parts_named(hdus: Sequence[Hdu], words: Sequence[str]) -> list[Hdu]:
    found = []
    for word in words:
        called = [hdu for hdu in hdus if hdu.name.upper() == word.upper()]
        if not called and word.isdecimal():
            called = [hdu for hdu in hdus if hdu.number == int(word)]
        if len(called) != 1:
            why = "has no part" if not called else f"has {len(called)} parts"
            raise Refused(f"it {why} '{word}' (it has {_listed(hdus)}); give @hdu= names or numbers of these")
        if not called[0].is_image:
            raise Refused(f"{called[0]} is no image; it has {_listed([hdu for hdu in hdus if hdu.is_image])}")
        found.append(called[0])
    return found


class _Leading(NamedTuple):
    """The axes before rows and columns: where an image lies along them, and along which of them its planes lie."""

    place: tuple[int | None, ...]
    planes: int | None

    def of_plane(self, i: int) -> tuple[int | None, ...]:
        assert self.planes is not None
        return (*self.place[: self.planes], i, *self.place[self.planes + 1 :])


def _leading_axes(hdu: Hdu, stacked: int | None) -> _Leading:
    """How bands, and images where so many are stacked, lie in an image of the file. Axes of one value do not count."""
    before = hdu.shape[:-2]
    long = [at for at, n in enumerate(before) if n > 1]
    index: list[int | None] = [0] * len(before)
    if stacked is not None:
        of_images = [at for at in long if before[at] == stacked]
        if len(of_images) != 1 and stacked > 1:
            which = f"two axes of {stacked:,}" if of_images else f"no axis of {stacked:,}"
            raise Refused(f"{hdu} has the axes {_by(hdu.shape)}, {which} for as many images")
        for at in of_images:
            index[at] = None
            long.remove(at)
    if len(long) > 1:
        raise Refused(f"{hdu} has the axes {_by(hdu.shape)}; rows, columns and one more for bands are read")
    rows, columns = hdu.shape[-2:]
    planes = before[long[0]] if long else 1
    # Rows and columns of a square come as planes and rows, however many bands there are.
    if min(planes, rows) >= 16 and (columns <= 4 or (planes == rows and 2 * columns <= rows)):
        images, to = ("image", 0) if stacked is None else ("images", 1)
        raise Refused(
            f"{hdu} has {planes} planes of {rows}×{columns} pixels, so the bands seem to lie along its first axis; "
            f"save it with bands before rows and columns: np.moveaxis({images}, -1, {to})"
        )
    return _Leading(tuple(index), long[0] if long else None)


def _names_of_planes(cube: Hdu, primary: Hdu, along: int) -> list[str]:
    """What a cube calls its planes: BANDS = 'grz', BAND0, BAND1, …, a polarisation or a wavelength; else numbers."""
    n = cube.shape[along]
    for hdu in (cube, primary):
        text = hdu.text("BANDS")
        said = [[word for word in re.split(r"[\s,;]+", text) if word], list(text)]
        for stem, first in itertools.product(("BAND", "FILTER"), (0, 1)):
            said.append([hdu.text(f"{stem}{i}") for i in range(first, first + n)])
        for names in said:
            if _tell_apart(names, n):
                return names
    axis = len(cube.shape) - along  # as FITS counts
    kind, step = cube.text(f"CTYPE{axis}").upper(), cube.get(f"CDELT{axis}") or cube.get(f"CD{axis}_{axis}")
    start, at = cube.get(f"CRVAL{axis}"), cube.get(f"CRPIX{axis}") or 0
    if isinstance(start, int | float) and isinstance(step, int | float) and isinstance(at, int | float):
        values = [start + (i + 1 - at) * step for i in range(n)]
        if kind.startswith("STOKES"):
            names = [_STOKES.get(round(value), "") for value in values]
        elif kind.startswith(_SPECTRAL):
            names = [f"{kind[:4]} {value:.7g} {cube.text(f'CUNIT{axis}')}".rstrip() for value in values]
        else:
            names = []
        if _tell_apart(names, n):
            return names
    return [str(i) for i in range(n)]


def _tell_apart(names: Sequence[str], n: int) -> bool:
    """Whether these are n names, each once."""
    return len(names) == n and all(names) and len(set(names)) == n


def _names_of_parts(parts: Sequence[Hdu], primary: Hdu, asked: Sequence[str]) -> list[str]:
    """What flat images are called: several by EXTNAME, the filter or their numbers, one by its filter or EXTNAME."""
    if len(parts) == 1:
        name = parts[0].name
        name = "" if name.upper() in _NO_NAME_OF_A_BAND else name
        return [_filter_of(parts[0], primary) or name or "0"]
    filters = [_filter_of(hdu) for hdu in parts]
    # Many programs write EXTNAME in capitals, and U is another filter than u.
    both = [(filter, hdu.name) for filter, hdu in zip(filters, parts, strict=True)]
    for names in ([filter if filter.upper() == name.upper() else name for filter, name in both], filters):
        if _tell_apart(names, len(parts)):
            return names
    repeated = [name for name, n in Counter(hdu.name for hdu in parts).items() if n > 1 and name]
    if repeated and not asked:
        twice = [hdu for hdu in parts if hdu.name == repeated[0]]
        numbers = ",".join(str(hdu.number) for hdu in twice)
        raise Refused(
            f"{len(twice)} of its parts are called '{repeated[0]}'; if they are bands, say @hdu={numbers}, or name one"
        )
    return [str(hdu.number) for hdu in parts]


def _filter_of(*hdus: Hdu) -> str:
    """The filter that these headers of one image name, the first one first: F814W, or F444W+F470N for two of them in
    the light; empty where they name none."""

    def text(*keywords: str) -> str:
        return next(filter(None, (hdu.text(*keywords) for hdu in hdus)), "")

    named = text("FILTER", "BAND")
    words = [word for word in ([named, text("PUPIL")] if named else map(text, _WHEELS)) if word]
    kept = [word for word in words if not word.upper().startswith(_NO_FILTER)] or words
    for pattern, short in _LONG_NAMES:
        kept = [short.format(found[1]) if (found := pattern.fullmatch(word)) else word for word in kept]
    return "+".join(kept)


def _band_called(word: str, bands: Sequence[Band]) -> Band:
    called = [band for band in bands if band.name == word] or [
        band for band in bands if band.name.upper() == word.upper()
    ]
    if len(called) == 1:
        return called[0]
    if word.isdecimal() and int(word) < len(bands):
        return bands[int(word)]
    raise Refused(f"it has no band '{word}'; it has {', '.join(band.name for band in bands)}")


def _by(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def _listed(hdus: Sequence[Hdu]) -> str:
    shown = ", ".join(map(str, hdus[:8]))
    return shown + (f" and {len(hdus) - 8} more" if len(hdus) > 8 else "") if hdus else "nothing"
