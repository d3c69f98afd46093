"""Images that lie in large FITS files beside a catalog: planes of a stack, and cutouts of a mosaic around positions.

Nothing is resampled: a cutout has whole pixels of the mosaic, those of astropy's `Cutout2D`. What lies beyond the edge
is missing, NaN. Of a plain file the rows that are needed are read, of a compressed one the tiles are unpacked.

Shape letters: N images, C bands.
"""

from __future__ import annotations

import glob
import math
import os
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroformer.errors import UserError
from astroformer.files import expanded
from astroformer.images.array_file import file_state
from astroformer.images.bands import Bands
from astroformer.images.fits import FITS_START, astropy_fits, bytes_a_value, used, values_of
from astroformer.images.fits_bands import Band, Chosen, Wanted, bands_called, choose, stated_by, wanted_of
from astroformer.images.fits_headers import Hdu, check_sums, read_headers
from astroformer.images.fits_sky import pixel_arcsec
from astroformer.images.fits_tiles import check_tiles
from astroformer.images.formats.positions import Places
from astroformer.images.hashes import hash_bytes, hash_files, hash_text, new_hash
from astroformer.images.labelled import Boxes, Whereabouts
from astroformer.images.limits import Array, Refused, UnreadableImage, check_size, one_at_a_time
from astroformer.images.names import natural_key
from astroformer.images.sky_groups import group_overlapping_boxes
from astroformer.images.sky_pixels import centre_of, common_wcs, pixels_at, side_of, sky_at
from astroformer.images.stated import Stated

PIECE_OPTIONS = ("cube", "mosaic", "size")
"""Options of a catalog whose images lie in one large file."""

_CHANGED = "its file has changed since it was opened"
_LOOKED_AT = 32  # cutouts whose pixels are looked at for missing ones before they are needed


class Layer(NamedTuple):
    """One band in a file.

    Attributes:
        path: of the file.
        band: where in it.
        state: of the file when its headers were read, see `file_state`.
        blank: values that stand for none.
    """

    path: str
    band: Band
    state: tuple[int, int, int]
    blank: tuple[float, ...] = ()


class _Pixels(NamedTuple):
    """The pixels of an image that is not compressed: what is asked for is read from its place, and nothing is kept.

    The file is not mapped into memory: of a map that another program cuts short, reading ends the process.
    """

    path: str
    hdu: Hdu
    state: tuple[int, int, int]

    def at(self, place: Sequence[int], rows: slice, columns: slice) -> Array:
        """Rows and columns of the plane at a place along the axes before them."""
        *before, height, width = self.hdu.shape
        plane = int(np.ravel_multi_index(tuple(place), tuple(before))) if before else 0
        (top, bottom, _), (left, right, _) = rows.indices(height), columns.indices(width)
        size = self.hdu.stored.itemsize
        first, whole = self.hdu.data_at + plane * height * width * size, (left, right) == (0, width)
        with open(self.path, "rb", buffering=0) as file:
            _check_unchanged(os.fstat(file.fileno()), self.state)
            data = bytearray()
            for row in (top,) if whole else range(top, bottom):
                file.seek(first + (row * width + left) * size)
                data += file.read((right - left) * size * (bottom - top if whole else 1))
        if len(data) != (bottom - top) * (right - left) * size:
            raise Refused(_CHANGED)
        return np.frombuffer(data, self.hdu.stored).reshape(bottom - top, right - left)


def _check_unchanged(status: os.stat_result, state: tuple[int, int, int]) -> None:
    """Raises `Refused` where a file is not the one whose headers were read: its pixels may lie elsewhere."""
    if file_state(status) != state:
        raise Refused(_CHANGED)


class PieceReader:
    """Reads image i: plane i of stacks, or a square that begins at `corner_N2[i]`, which may reach over the edge.

    Attributes:
        names: of the images, for messages.
        layers: one a band.
        corner_N2: row and column of the first pixel of each square; None: whole planes.
        side: of the squares in pixels.
        unplaced: why an image has no square, by its number.
    """

    def __init__(
        self,
        names: Sequence[str],
        layers: tuple[Layer, ...],
        corner_N2: NDArray[np.int64] | None = None,
        side: int = 0,
        unplaced: Mapping[int, str] | None = None,
    ) -> None:
        self.names, self.layers, self.corner_N2, self.side = names, layers, corner_N2, side
        self.unplaced = dict(unplaced or {})
        rows, columns = (side, side) if side else layers[0].band.hdu.shape[-2:]
        self._bytes = rows * columns * sum(layer.band.hdu.stored.itemsize for layer in layers)
        self._opened: dict[tuple[str, int], Any] = {}
        self._one_at_a_time = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.names, self.layers, self.corner_N2, self.side, self.unplaced)

    def __call__(self, i: int) -> Array:
        if i in self.unplaced:
            raise UnreadableImage(self.names[i], self.unplaced[i])
        try:
            with one_at_a_time(self._bytes):
                image = self._whole(i) if self.corner_N2 is None else self._square(i, *self.corner_N2[i].tolist())
        except Refused as error:
            raise UnreadableImage(self.names[i], str(error)) from None
        except UserError:
            raise
        except Exception as error:  # the file is gone, or is another one by now; damaged tiles raise nearly anything
            why = " ".join(str(error).split()) or type(error).__name__
            raise UnreadableImage(self.names[i], f"damaged ({why})") from None
        if image.dtype.kind == "f" and np.isnan(image).all():
            raise UnreadableImage(self.names[i], "none of its pixels has a value (all are NaN or stand for none)")
        return image

    def digests(self, indices: NDArray[np.int64], cache: Path | None) -> Iterator[bytes]:
        paths = list(dict.fromkeys(layer.path for layer in self.layers))
        of_file = dict(zip(paths, hash_files(paths, cache), strict=True))
        whole = new_hash()
        for layer in self.layers:
            blank = f" {layer.blank}" if layer.blank else ""
            whole.update(of_file[layer.path] + hash_text(f"{layer.band.hdu.number} {layer.band.place}{blank}"))
        of_files = whole.digest()
        for i in map(int, indices):
            place = self.unplaced.get(i) or (i if self.corner_N2 is None else (*self.corner_N2[i].tolist(), self.side))
            yield hash_bytes(of_files + hash_text(str(place)))

    def _whole(self, i: int) -> Array:
        everything = slice(None)
        planes = [self._values(layer, i, everything, everything) for layer in self.layers]
        return np.stack(planes, axis=-1)

    def _square(self, i: int, top: int, left: int) -> Array:
        side = self.side
        height, width = self.layers[0].band.hdu.shape[-2:]
        rows, columns = (slice(max(0, at), min(end, at + side)) for at, end in ((top, height), (left, width)))
        image = np.full((side, side, len(self.layers)), np.nan, np.float32)
        inner = image[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        for c, layer in enumerate(self.layers):
            inner[:, :, c] = self._values(layer, i, rows, columns)
        return image

    def _values(self, layer: Layer, i: int, rows: slice, columns: slice) -> Array:
        return values_of(self._stored(layer, i, rows, columns), layer.band.hdu, layer.blank)

    def _stored(self, layer: Layer, i: int, rows: slice, columns: slice) -> Array:
        """Pixels of a layer as they are stored."""
        place, hdu = [i if at is None else at for at in layer.band.place], layer.band.hdu
        if not hdu.compressed:
            return _Pixels(layer.path, hdu, layer.state).at(place, rows, columns)
        key = layer.path, hdu.number
        with self._one_at_a_time:
            if key not in self._opened:
                self._opened[key] = self._open(layer)
            return np.asarray(self._opened[key][(*place, rows, columns)])

    def _open(self, layer: Layer) -> Any:
        """What unpacks stored pixels of a layer by index."""
        _check_unchanged(os.stat(layer.path), layer.state)
        opened = astropy_fits().open(layer.path, memmap=True, lazy_load_hdus=True, do_not_scale_image_data=True)
        weakref.finalize(self, opened.close)
        return opened[layer.band.hdu.number].section  # which unpacks only the tiles that are needed


class Pieces(NamedTuple):
    """What `LabelledImages` needs to know of pieces of large files; the names are those of its fields."""

    reader: PieceReader
    bands: Bands
    masks: bool
    notes: list[str]
    groups: NDArray[np.int64] | None = None
    positions_N2: NDArray[np.float64] | None = None
    whereabouts: Whereabouts = Whereabouts()
    stated: Stated = Stated()


def open_stack(name: str, options: Mapping[str, str], names: Sequence[str]) -> Pieces:
    """The planes of a stack of images, one for each name.

    Args:
        name: of the FITS file, from where the command runs.
        options: of the source.
        names: of N images.

    Raises:
        UserError: the file is not there, is damaged, or is no stack of so many images.
    """
    path = str(expanded(name))
    wanted = wanted_of(options)
    chosen = _chosen(path, wanted, stacked=len(names))
    state = file_state(os.stat(path))
    layers = tuple(Layer(path, band, state, wanted.blank) for band in chosen.bands)
    _check(layers, None)
    note = f"'{path}': {len(names):,} images; {chosen}"
    stated = chosen.stated().reading_as_missing(wanted.blank)
    return Pieces(PieceReader(tuple(names), layers), chosen.named(), True, [note], stated=stated)


def open_mosaic(options: Mapping[str, str], names: Sequence[str], places: Places) -> Pieces:
    """Square cutouts of a mosaic around positions in the sky.

    Cutouts that share pixels are of one group, so that no split parts them.

    Args:
        options: of the source: `mosaic` names files, or a pattern, of one band each or of all; `size` is a side in
            pixels, or with `arcsec` or `arcmin` behind it.
        names: of N cutouts.
        places: where their centres are, in the sky or in pixels.

    Raises:
        UserError: a file is not there or damaged, or says nothing of positions; files have other pixels; a word is
            wrong; or no position lies in the mosaic.
    """
    paths = files_of(options["mosaic"])
    wanted = wanted_of(options)
    layers, bands, beside = _layers(paths, wanted)
    wcs = common_wcs([(layer.path, layer.band.hdu) for layer in layers])
    side, arcsec, said = side_of(options.get("size"), wcs)
    _check(layers, side)
    height, width = layers[0].band.hdu.shape[-2:]
    if places.pixels_N2 is None:
        (ra_N, dec_N), unit = places.positions_N2.T, "Right ascension and declination are needed in degrees"
        x_N, y_N = pixels_at(wcs, ra_N, dec_N)
    else:
        (x_N, y_N), unit = places.pixels_N2.T, "Columns and rows of its pixels are needed"
        ra_N, dec_N = sky_at(wcs, x_N, y_N)
    placed = np.isfinite(x_N) & np.isfinite(y_N)
    # As `astropy.nddata.overlap_slices` rounds, but that a centre on a pixel stays there whatever its last digits are.
    corner_N2 = np.stack([np.where(placed, np.round(at, 6), -1e9) for at in (y_N, x_N)], axis=1)
    corner_N2 = np.ceil(np.clip(corner_N2, -1e9, 1e9) - side / 2).astype(np.int64)
    inside = placed & (corner_N2 > -side).all(axis=1) & (corner_N2 < (height, width)).all(axis=1)
    unplaced = {int(i): _why_outside(places, int(i), placed[i]) for i in np.flatnonzero(~inside)}
    of = f"mosaic '{paths[0]}'" + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
    if not inside.any():
        raise UserError(
            f"none of the {len(names):,} positions lies in the {of}, {width} × {height} px around "
            f"{centre_of(wcs, width, height)}. {unit}."
        )
    groups = np.arange(len(names))
    groups[inside] = np.flatnonzero(inside)[group_overlapping_boxes(corner_N2[inside], side)]
    reader = PieceReader(tuple(names), layers, corner_N2, side, unplaced)
    notes = [f"{of}: cutouts of {said}; bands {bands}{beside}"]
    over = inside & ~((corner_N2 >= 0) & (corner_N2 + side <= (height, width))).all(axis=1)
    if over.any():
        notes.append(f"{int(over.sum()):,} of {len(names):,} cutouts reach over the edge; beyond it pixels are missing")
    notes += _note_of_missing_sky(reader, np.flatnonzero(inside & ~over))
    parts = frozenset((os.path.realpath(layer.path), layer.band.hdu.number) for layer in layers)
    whereabouts = Whereabouts(Boxes(parts, corner_N2, side, (side - 1) * arcsec, inside))
    pixel = pixel_arcsec(layers[0].band.hdu) or arcsec  # as of a file of such a cutout
    stated = stated_by([layer.band for layer in layers], pixel, side).reading_as_missing(wanted.blank)
    return Pieces(reader, bands, True, notes, groups, np.stack([ra_N, dec_N], axis=1), whereabouts, stated)


def files_of(text: str) -> list[str]:
    """The files that `@mosaic=` names: one, several with commas between them, or a pattern.

    Raises:
        UserError: one of them is not there.
    """
    found: list[str] = []
    for word in [text] if os.path.exists(expanded(text)) else [word.strip() for word in text.split(",")]:
        path = str(expanded(word))
        several = sorted(glob.glob(path), key=natural_key) if word and not os.path.exists(path) else [path]
        if not word or not several:
            raise UserError(f"'{word}' of @mosaic={text} is no file and stands for none. Look at its spelling.")
        found += several
    return found


def files_of_pieces(options: Mapping[str, str]) -> list[str]:
    """The large files that the options of a catalog name, where they are there."""
    try:
        cube = [str(expanded(options["cube"]))] if "cube" in options else []
        return cube + (files_of(options["mosaic"]) if "mosaic" in options else [])
    except UserError:
        return []


# Opening ----------------------------------------------------------------------------------------------------


def _headers(path: str) -> list[Hdu]:
    with open(path, "rb") as stream:
        if stream.read(len(FITS_START)) != FITS_START:
            raise Refused("it does not begin as FITS does; unpack a file in gzip, since parts of it can't be read")
        return read_headers(stream, os.fstat(stream.fileno()).st_size)


def _chosen(path: str, wanted: Wanted, stacked: int | None = None) -> Chosen:
    """The bands of a file. Raises `UserError` where it is not there, is damaged or leaves open which are meant."""
    try:
        if not os.path.isfile(path):
            raise Refused("there is no such file")
        hdus = _headers(path)
        chosen = choose(hdus, wanted, stacked)
        with open(path, "rb") as stream:
            for hdu in used(chosen, hdus):
                check_sums(stream, hdu)
                if hdu.compressed:
                    check_tiles(stream, hdu)
    except Refused as error:
        raise UserError(f"'{path}': {error}.") from None
    if any(band.hdu.compressed for band in chosen.bands):
        astropy_fits()
    return chosen


def _layers(paths: Sequence[str], wanted: Wanted) -> tuple[tuple[Layer, ...], Bands, str]:
    """The bands of all files, what they are called, and what is not taken."""
    of_files = [_chosen(path, Wanted(wanted.hdus)) for path in paths]
    each = zip(paths, of_files, (file_state(os.stat(path)) for path in paths), strict=True)
    layers = [Layer(path, band, state, wanted.blank) for path, chosen, state in each for band in chosen.bands]
    names = [layer.band.name for layer in layers]
    if len(set(names)) < len(names) and all(len(chosen.bands) == 1 for chosen in of_files):
        # Their headers do not tell them apart, so their names have to.
        layers = [one._replace(band=one.band._replace(name=Path(one.path).name.split(".")[0])) for one in layers]
    try:
        bands_of_layers = [layer.band for layer in layers]
        chosen = [layers[bands_of_layers.index(band)] for band in bands_called(wanted.bands, bands_of_layers)]
    except Refused as error:
        raise UserError(f"'{paths[0]}': {error}.") from None
    bands = Bands(tuple(layer.band.name for layer in chosen), tuple(layer.band.unit for layer in chosen))
    beside = sorted({str(hdu) for chosen in of_files for hdu in chosen.beside})
    return tuple(chosen), bands, f"; not taken: {', '.join(beside)}" if beside else ""


def _check(layers: Sequence[Layer], side: int | None) -> None:
    """Raises `UserError` where a piece is larger than any image may be."""
    height, width = layers[0].band.hdu.shape[-2:] if side is None else (side, side)
    try:
        size = max(bytes_a_value(layer.band.hdu, layer.blank) for layer in layers)
        check_size(width, height, len(layers), size)
    except Refused as error:
        raise UserError(f"'{layers[0].path}': {error}.") from None


def _why_outside(places: Places, i: int, has_pixel: bool) -> str:
    across, along = (places.positions_N2 if places.pixels_N2 is None else places.pixels_N2)[i].tolist()
    if not (math.isfinite(across) and math.isfinite(along)):
        what = "right ascension or declination" if places.pixels_N2 is None else "its column or row"
        return f"the catalog gives it no position ({what} is empty or NaN)"
    if places.pixels_N2 is not None:
        return f"its position, column {across:.6g} and row {along:.6g} (from 0), lies outside the mosaic"
    projection = "" if has_pixel else " and its projection"
    return f"its position, {across:.6g} {along:+.6g}, lies outside the mosaic{projection}"


def _note_of_missing_sky(reader: PieceReader, inside: NDArray[np.int64]) -> list[str]:
    """How many of some cutouts that lie wholly within the mosaic have pixels without a value, or none with one."""
    some = inside[np.unique(np.linspace(0, len(inside) - 1, _LOOKED_AT).astype(int))] if len(inside) else inside
    missing = 0
    for i in some:
        try:
            missing += bool(np.isnan(reader(int(i))).any())
        except UnreadableImage:
            missing += 1
    if not missing:
        return []
    return [f"of {len(some)} cutouts that were looked at, {missing} lack pixels inside the mosaic (no value there)"]


def refuse_alone(options: Mapping[str, str], source: object) -> None:
    """Raises `UserError` for options of pieces that mean nothing without the file that they are pieces of."""
    if "cube" in options and "mosaic" in options:
        raise UserError(f"'{source}': @cube and @mosaic name two places for the images; give one of them.")
    if "size" in options and "mosaic" not in options:
        raise UserError(f"'{source}': @size says what is cut out of a mosaic; name that with @mosaic=FILE.fits.")
    for option in ("file", "root", "pattern"):
        if option in options and ("cube" in options or "mosaic" in options):
            raise UserError(f"'{source}': @{option} is about files of images, and @cube or @mosaic replaces those.")
