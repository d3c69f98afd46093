"""`.npz` files: an array of images, or encoded images one after the other."""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray

from astroformer.errors import UserError, unknown_name
from astroformer.images.array_file import file_state
from astroformer.images.formats.arrays import Beside, could_be_labels, open_arrays, with_labels
from astroformer.images.formats.format import Format
from astroformer.images.formats.positions import is_position
from astroformer.images.hashes import hash_bytes, hash_text
from astroformer.images.labelled import LabelledImages
from astroformer.images.limits import MAX_FILE
from astroformer.images.reading import MAX_BYTES, Array, UnreadableImage, read_image

OPTIONS = ("layout", "images", "labels", "same-sky")

_BLOCK = 1 << 20  # bytes read at once
_MOST_HEADER = 10_000  # bytes of the header of an array; numpy reads no more without trust in the file
_MOST_PACKED = 200  # times that images of gigabytes may be smaller when they are packed
_READ_HEADER = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_DAMAGE = (ValueError, EOFError, OSError, NotImplementedError, RuntimeError, zlib.error, BadZipFile)
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a zip's member: PK\3\4, and the lengths of two fields that follow it


@dataclass(frozen=True)
class StoredArray:
    """An array that lies in a file as it is in memory: what is asked for is read from its place, and nothing is kept.

    The file is read and not mapped into memory: of a map that another program cuts short, reading ends the process.

    Attributes:
        path: of the file.
        offset: bytes before the array.
        shape, dtype: of the array, whose first axis changes slowest.
        state: of the file when the array was found, see `file_state`.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    state: tuple[int, int, int]

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, rows: int | slice, /) -> Array:
        start, stop, _ = (slice(rows, rows + 1) if isinstance(rows, int) else rows).indices(len(self))
        name = f"{self.path.name}#{start}" if isinstance(rows, int) else self.path.name
        row = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize
        try:
            with self.path.open("rb", buffering=0) as file:
                same = file_state(os.fstat(file.fileno())) == self.state
                file.seek(self.offset + start * row)
                data = file.read((stop - start) * row)
        except OSError as error:
            raise UnreadableImage(name, error.strerror or str(error)) from None
        if not same or len(data) != (stop - start) * row:
            raise UnreadableImage(name, "the file has changed since it was opened")
        array = np.frombuffer(data, self.dtype).reshape(stop - start, *self.shape[1:])
        return array[0] if isinstance(rows, int) else array


@dataclass(frozen=True)
class JpegReader:
    """Reads image i from the encoded bytes `data[offsets[i]:offsets[i+1]]`."""

    name: str
    data: NDArray[np.uint8] | StoredArray
    offsets: NDArray[np.int64]

    def __call__(self, i: int) -> Array:
        return read_image(self._slice(i).tobytes(), name=f"{self.name}#{i}")

    def _slice(self, i: int) -> NDArray[np.uint8]:
        return self.data[self.offsets[i] : self.offsets[i + 1]]

    def digests(self, indices: NDArray[np.int64], cache: Path | None) -> Iterator[bytes]:
        for i in indices:
            try:
                yield hash_bytes(self._slice(int(i)).data)
            except UnreadableImage as error:
                yield hash_text(error.reason)


def _open_npz(path: Path, labelled: bool, options: Mapping[str, str]) -> LabelledImages:
    called = {key: options.get(key, key) for key in ("images", "labels")}
    arrays: dict[str, Any] = {}
    keys: list[str] = []
    places: list[str] = []
    try:
        with np.load(path, allow_pickle=False) as archive:
            keys = list(archive.files)
            for option in called:
                if option in options and options[option] not in keys:
                    raise unknown_name(f"array in '{path}'", options[option], keys)
            wanted = {called["images"], "jpeg", "offsets"} | (set() if "jpeg" in keys else {"bands", "units"})
            places = [key for key, shape in _shapes(path).items() if is_position(key) and len(shape) in (1, 2)]
            wanted |= set(places)
            wanted |= {called["labels"] if called["labels"] in keys else "votes", "classes"} if labelled else set()
            for key in keys:
                if key in wanted:
                    of_images = key in (called["images"], "jpeg")
                    _check_member(archive.zip, key, of_images)
                    plain = _plain(path, archive.zip, key) if of_images else None
                    arrays[key] = archive[key] if plain is None else plain
                    if isinstance(arrays[key], bytes):
                        raise BadZipFile(f"its member '{key}' is no array")
    except UserError:
        raise
    except ValueError as error:
        if "pickle" in str(error):
            raise UserError(
                f"'{path}' holds Python objects, which are never loaded: they could run code. Save plain arrays; class "
                "names as np.array(names) of text, images of one size as one array."
            ) from None
        raise UserError(f"'{path}' is not an .npz file or is damaged ({error}).") from None
    except (BadZipFile, EOFError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"'{path}' is not an .npz file or is damaged ({error}).") from None
    except MemoryError:
        raise UserError(f"'{path}' is larger than the memory; keep such a set as image files and a catalog.") from None
    except OSError:
        raise
    except Exception as error:  # zlib.error among others: damaged bytes
        raise UserError(f"'{path}' is damaged ({error}).") from None
    has = f"it has {', '.join(keys) or 'nothing'}"
    images = arrays.get(called["images"])
    lacks_labels = labelled and called["labels"] not in arrays and "votes" not in arrays
    beside = Beside(
        has,
        arrays.get(called["labels"]),
        **{key: arrays.get(key) for key in ("classes", "bands", "units", "votes")},
        places={key: arrays[key] for key in places},
        ignored=tuple(f"{key} (an array that is not read)" for key in keys if key not in arrays),
        possible=could_be_labels(_shapes(path), len(images)) if lacks_labels and images is not None else (),
    )
    if images is not None and "jpeg" in arrays:
        raise UserError(f"'{path}' has both '{called['images']}' and 'jpeg'; keep one of them.")
    if images is not None:
        return open_arrays(path, images, f"'{called['images']}'", beside, labelled, options)
    if "jpeg" in arrays and "offsets" in arrays:
        if "layout" in options:
            raise UserError(f"'{path}': @layout applies to an array of images, not to encoded ones.")
        reader = _jpeg_reader(path, arrays["jpeg"], arrays["offsets"])
        return with_labels(path, reader, len(arrays["offsets"]) - 1, beside, labelled, options)
    possible = [name for name, shape in _shapes(path).items() if len(shape) in (3, 4)]
    hint = f" If '{possible[0]}' holds the images, say @images={possible[0]} after the path." if possible else ""
    raise UserError(f"'{path}' needs 'images', or 'jpeg' and 'offsets'; {has}.{hint}")


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the arrays in an archive, of which only the beginnings are read; without those that say none
    or hold Python objects."""
    found = {}
    with ZipFile(path) as archive:
        for info in archive.infolist():
            with contextlib.suppress(*_DAMAGE), archive.open(info) as member:
                if np.lib.format.read_magic(member) == (1, 0):  # of which a header is short
                    shape, _, dtype = np.lib.format.read_array_header_1_0(member)
                    if not dtype.hasobject:
                        found[info.filename.removesuffix(".npy")] = shape
    return found


def _check_member(archive: ZipFile, key: str, of_images: bool) -> None:
    """Raises `BadZipFile` where an array would take all memory, of which the few bytes of the file claim very many."""
    for info in archive.infolist():
        if info.filename not in (key, f"{key}.npy"):
            continue
        uniform = info.file_size > MAX_FILE and info.file_size > _MOST_PACKED * info.compress_size
        if uniform or (not of_images and info.file_size > MAX_BYTES):
            raise BadZipFile(f"'{key}' would unpack to {info.file_size:,} bytes, from {info.compress_size:,}")
        with archive.open(info) as member:
            start = member.read(12)
        if start[6:7] > b"\1" and int.from_bytes(start[8:12], "little") > _MOST_HEADER:
            raise BadZipFile(f"'{key}' has a header of {int.from_bytes(start[8:12], 'little'):,} bytes")


def _plain(path: Path, archive: ZipFile, key: str) -> StoredArray | None:
    """An array of an archive that need not be unpacked; None where it has to be.

    All of it is read once, since only so the checksum of the archive shows whether it is whole: a third of a second a
    GB, and no memory.

    Raises:
        ValueError, BadZipFile, EOFError: it is damaged.
    """
    named = [info for info in archive.infolist() if info.filename == f"{key}.npy"]
    if len(named) != 1 or named[0].compress_type != ZIP_STORED or named[0].flag_bits & 1:
        return None
    (info,) = named
    with path.open("rb") as file:
        state = file_state(os.fstat(file.fileno()))
        file.seek(info.header_offset)
        signature, name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        begin = info.header_offset + _LOCAL_HEADER.size + name + extra
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        if signature != b"PK\3\4" or version not in _READ_HEADER:
            return None
        shape, fortran_order, dtype = _READ_HEADER[version](member)
        if fortran_order or dtype.hasobject or not shape or 0 in shape:
            return None
        before = member.tell()
        size = before + int(np.prod(shape, dtype=object)) * dtype.itemsize
        if size != info.file_size:
            raise ValueError(
                f"'{key}' is {dtype} of shape {shape}, of which {info.file_size - before:,} bytes are there"
            )
        while member.read(_BLOCK):  # the last one raises where the checksum is another
            pass
    return StoredArray(path, begin + before, shape, dtype, state)


def _jpeg_reader(path: Path, data: Array | StoredArray, offsets: Array) -> JpegReader:
    if data.dtype != np.uint8 or data.ndim != 1:
        raise UserError(f"'{path}': 'jpeg' is {data.dtype} of shape {data.shape}; it should be one row of uint8.")
    fits = offsets.ndim == 1 and offsets.dtype.kind in "iu" and len(offsets) >= 1
    if not fits or offsets[0] < 0 or offsets[-1] > len(data) or (offsets[1:] < offsets[:-1]).any():
        raise UserError(
            f"'{path}': 'offsets' should be whole numbers that rise from 0 to the length of 'jpeg', {len(data)}."
        )
    return JpegReader(path.name, data, offsets.astype(np.int64))


NPZ = Format("an .npz", lambda path: path.suffix.lower() == ".npz", _open_npz, options=OPTIONS)
