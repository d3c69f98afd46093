"""Images of which each band lies in a FITS file of its own."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroformer.errors import UserError
from astroformer.images.bands import Bands, wavelength
from astroformer.images.fits import astropy_fits, bands_of_file
from astroformer.images.fits_bands import Band, Wanted, bands_called, stated_by, wanted_of
from astroformer.images.fits_sky import pixel_arcsec
from astroformer.images.hashes import hash_bytes, hash_files, hash_text
from astroformer.images.limits import Array, Refused, UnreadableImage
from astroformer.images.reading import read_image
from astroformer.images.sky_pixels import why_other_sky
from astroformer.images.stated import Stated

_LOOKED_AT = 9  # files of each band whose headers say what it is
_OF_SPACE = re.compile(r"F[0-9]{3,4}[A-Z]{1,2}[0-9]?", re.IGNORECASE)  # filters of Hubble and Webb: F606W


class Layered(NamedTuple):
    """The files of images, of each a file a band.

    Attributes:
        names: of the images.
        files: of each image, one a band; empty where a band has none.
        bands: what tells the bands apart in the names of files or columns.
    """

    names: list[str]
    files: list[tuple[str, ...]]
    bands: tuple[str, ...]


@dataclass(frozen=True)
class BandFilesReader:
    """Reads image i from its files, one a band.

    Attributes:
        names: of the images, where they lie.
        paths: of each image, one a band; empty where there is no file.
        bands: names of the bands.
        wanted: of each band, what is taken of its file.
    """

    names: tuple[str, ...]
    paths: tuple[tuple[str, ...], ...]
    bands: tuple[str, ...]
    wanted: tuple[Wanted, ...]

    def __call__(self, i: int) -> Array:
        try:
            return self._read(i)
        except Refused as error:
            raise UnreadableImage(self.names[i], str(error)) from None

    def part(self, rows: Sequence[int] | NDArray[np.int64]) -> BandFilesReader:
        """What reads the images at these positions."""
        return replace(self, **{key: tuple(getattr(self, key)[i] for i in rows) for key in ("names", "paths")})

    def digests(self, indices: NDArray[np.int64], cache: Path | None) -> Iterator[bytes]:
        of_files = hash_files([path for i in indices for path in self.paths[i]], cache)
        asked = hash_text(json.dumps([wanted.key() for wanted in self.wanted]))
        of_files = iter(of_files)
        for _ in indices:
            yield hash_bytes(asked + b"".join(next(of_files) for _ in self.bands))

    def _read(self, i: int) -> Array:
        for band, path in zip(self.bands, self.paths[i], strict=True):
            if not path or not os.path.exists(path):
                raise Refused(f"its band {band} is missing" + (f" (there is no '{path}')" if path else ""))
        planes, parts = [], []
        for band, path, wanted in zip(self.bands, self.paths[i], self.wanted, strict=True):
            try:
                planes.append(read_image(path, wanted=wanted))
                parts.append((path, bands_of_file(path, wanted).bands[0].hdu))
            except (UnreadableImage, Refused, OSError) as error:
                why = error.reason if isinstance(error, UnreadableImage) else error
                raise Refused(f"band {band}, '{path}': {why}") from None
        for what, found in (
            ("pixels", [f"{plane.shape[1]} × {plane.shape[0]}" for plane in planes]),
            ("types", [str(plane.dtype) for plane in planes if plane.dtype.kind == "u"]),
        ):
            if len(set(found)) > 1:
                raise Refused(f"its bands have different {what}: {', '.join(found)}")
        if (why_other := why_other_sky(parts)) is not None:
            raise Refused(why_other)
        return np.concatenate(planes, axis=2)


class BandFiles(NamedTuple):
    """What `LabelledImages` needs to know of such images; the names are those of its fields."""

    reader: BandFilesReader
    bands: Bands
    masks: bool
    notes: list[str]
    stated: Stated = Stated()


def read_band_files(layered: Layered, root: Path, options: Mapping[str, str], source: str | Path) -> BandFiles:
    """A reader of images of which each band is a file.

    Bands are called as the headers say where that tells them apart, else as `layered` says. A file of another band
    than the others of its kind, or of other pixels than the other bands, makes its image one that can't be read.

    Args:
        layered: the files, relative to `root`.
        root: the folder of the files.
        options: of the source; those of FITS are used.
        source: what the user named, for messages.

    Raises:
        UserError: a band has no file that can be read, or several bands in one; or compressed ones need astropy.
    """
    wanted = wanted_of(options)
    paths = [tuple(str(root / os.path.expanduser(file)) if file else "" for file in files) for files in layered.files]
    of_files = [
        _bands_in([files[k] for files in paths], name, Wanted(wanted.hdus), source)
        for k, name in enumerate(layered.bands)
    ]
    found = [_most(bands) for bands in of_files]
    if any(band.hdu.compressed for band in found):
        astropy_fits()
    by_header = len({band.name for band in found}) == len(found)
    named = found if by_header else [b._replace(name=n) for b, n in zip(found, layered.bands, strict=True)]
    try:
        order = [named.index(band) for band in bands_called(wanted.bands, named)]
    except Refused as error:
        raise UserError(f"'{source}': {error}.") from None
    bands = Bands(tuple(named[k].name for k in order), tuple(named[k].unit for k in order))
    reader = BandFilesReader(
        tuple(str(root / os.path.expanduser(name)) for name in layered.names),
        tuple(tuple(files[k] for k in order) for files in paths),
        bands.names,
        tuple(
            Wanted(wanted.hdus, expected=Bands((found[k].name,), (found[k].unit,)), blank=wanted.blank) for k in order
        ),
    )
    lacking = [sum(not path or not os.path.exists(path) for path in files) for files in zip(*reader.paths, strict=True)]
    notes = [f"a FITS file for each band: {bands}, {'by their headers' if by_header else 'by the names of the files'}"]
    if any(lacking):
        listed = ", ".join(f"{name} {n:,}" for name, n in zip(bands.names, lacking, strict=True) if n)
        whole = sum(all(path and os.path.exists(path) for path in files) for files in reader.paths)
        notes.append(f"{len(paths) - whole:,} of {len(paths):,} images lack a band ({listed}) and can't be read")
    stated = Stated.of_bands([Stated.of_each(map(_stated, of_files[k])) for k in order])
    stated = stated.reading_as_missing(wanted.blank)
    return BandFiles(reader, bands, True, notes + stated.notes(), stated)


def _most(bands: Sequence[Band]) -> Band:
    """One of the bands that most of these are."""
    most, _ = Counter((band.name, band.unit) for band in bands).most_common(1)[0]
    return next(band for band in bands if (band.name, band.unit) == most)


def _stated(band: Band) -> Stated:
    return stated_by([band], pixel_arcsec(band.hdu), min(band.hdu.shape[-2:]))


def _bands_in(paths: Sequence[str], name: str, wanted: Wanted, source: str | Path) -> list[Band]:
    """The bands that some of these files have."""
    there = [path for path in paths if path and os.path.exists(path)]
    if not there:
        first = next(filter(None, paths), None)
        where = f"The first that it should have: '{first}'. " if first else ""
        raise UserError(f"'{source}': no image has a file of the band '{name}'. {where}Leave the band out, or mend it.")
    found, reasons = list[Band](), list[str]()
    for i in np.unique(np.linspace(0, len(there) - 1, _LOOKED_AT).astype(int)):
        try:
            chosen = bands_of_file(there[i], wanted)
        except (Refused, OSError, ValueError) as error:  # the reader says of each what is wrong with it
            reasons.append(f"'{there[i]}': {str(error).rstrip('.')}")
            continue
        if len(chosen.bands) > 1:
            raise UserError(
                f"'{there[i]}' has the bands {chosen.named()}, and one band of each file is combined; choose it with "
                "@hdu=."
            )
        found.append(chosen.bands[0])
    if not found:
        raise UserError(f"'{source}': the band '{name}' can't be read. {reasons[0]}.")
    return found


def note_of_bands_apart(paths: Sequence[str]) -> list[str]:
    """That FITS files, of which each is read as an image, are called as the bands of one image are.

    Examples:
        >>> note_of_bands_apart(["a/7_g.fits", "a/7_r.fits", "a/8_g.fits", "a/8_r.fits"])[0].partition(",")[0]
        "'7_g.fits' and '7_r.fits' are called as bands of one image"
    """
    of_image: dict[str, list[str]] = {}
    for path in paths:
        without = re.sub(r"\.fi?ts?(\.\w+)?$", "", path, flags=re.IGNORECASE)
        stem, _, band = re.sub("[.-]", "_", without).rpartition("_")
        if stem and (wavelength(band) or _OF_SPACE.fullmatch(band)):
            of_image.setdefault(stem, []).append(os.path.basename(path))
    several = {stem: files for stem, files in of_image.items() if len(files) > 1}
    if 2 * sum(map(len, several.values())) <= len(paths):
        return []
    stem, (first, second, *_) = next(iter(several.items()))
    pattern = ",".join("{id}" + name[len(os.path.basename(stem)) :] for name in (first, second))
    return [
        f"'{first}' and '{second}' are called as bands of one image, and each is read as an image of its own. A "
        f"catalog makes one of them, for instance with @id=COLUMN@pattern={pattern}"
    ]


def told_apart(names: Sequence[str]) -> tuple[str, ...]:
    """What tells names of files or columns apart: the words of each that are not in all of them.

    Examples:
        >>> told_apart(["file_g", "file_r"]), told_apart(["{id}_F115W.fits", "{id}_F200W.fits"])
        (('g', 'r'), ('F115W', 'F200W'))
    """
    words = [re.split(r"[^A-Za-z0-9]+", name) for name in names]
    common = set(words[0]).intersection(*words)
    short = tuple("_".join(word for word in some if word not in common) for some in words)
    return short if all(short) and len(set(short)) == len(short) else tuple(names)
