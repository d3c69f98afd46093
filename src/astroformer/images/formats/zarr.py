"""Zarr arrays, of versions 2 and 3 of the format, in a folder or a zip file."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import stat
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np

from astroformer.errors import UserError, check_installed
from astroformer.images.formats.arrays import said
from astroformer.images.formats.containers import OPTIONS, Container, Written, as_text, open_container
from astroformer.images.formats.format import Format
from astroformer.images.labelled import LabelledImages
from astroformer.images.reading import MAX_BYTES, Array

_MOST_METADATA = 10_000_000  # bytes of a file of metadata
_LARGER = 1 << 16  # bytes by which a packed block may be larger than twice what it unpacks to
_HEAD = 18  # bytes of a packed block that may say what it unpacks to
_DEPTH = 8  # groups within groups that are looked into
# Codecs of version 2 that turn bytes into bytes or numbers into numbers. Others load Python objects, which could run
# code (pickle), or make what no image is.
_CODECS = frozenset(
    {"adler32", "astype", "bitround", "blosc", "bz2", "crc32", "crc32c", "delta", "fixedscaleoffset", "fletcher32"}
    | {"gzip", "jenkins_lookup3", "lz4", "lzma", "packbits", "pcodec", "quantize", "shuffle", "vlen-utf8", "zfpy"}
    | {"zlib", "zstd"}
)


@dataclass(frozen=True)
class ZarrArray:
    """An array of a Zarr, opened anew whenever some of it is read."""

    path: Path
    name: str

    def __call__(self, start: int, stop: int) -> Array:
        with _opened(self.path) as root:
            array = root[self.name] if self.name else root
            # A block that is larger than what it is to give is none; it could unpack to any size.
            array.store.most = _LARGER + 2 * math.prod(array.shards or array.chunks) * array.dtype.itemsize
            array.store.claimed, array.store.shards = _claimed_by(array), array.shards is not None
            return np.asarray(array[start:stop])


class _Zarr(Container):
    noun = "array"

    def __init__(self, path: Path, root: Any) -> None:
        super().__init__(path)
        self._root = root

    def arrays(self) -> dict[str, tuple[int, ...]]:
        import zarr

        if isinstance(self._root, zarr.Array):
            return {"": self._root.shape}
        found, waiting = dict[str, tuple[int, ...]](), self._names_in("")
        while waiting:
            node = self._at(name := waiting.pop(0))
            if isinstance(node, zarr.Array):
                found[name] = node.shape
            elif name.count("/") < _DEPTH:
                waiting += [f"{name}/{inside}" for inside in self._names_in(name)]
        return found

    def find(self, name: str) -> Any | None:
        import zarr

        at_root = isinstance(self._root, zarr.Array)
        if at_root or not name or any(part in ("", ".", "..") for part in name.split("/")):
            return self._root if at_root and not name else None
        node = self._at(name)
        if isinstance(node, zarr.Group):
            raise UserError(f"'{self.path}': '{name}' is a group; name an array in it, such as '{name}/images'.")
        return node

    def group(self, name: str) -> tuple[list[str], Mapping[str, Any]]:
        import zarr

        group = self._root[name] if name else self._root
        return [] if isinstance(group, zarr.Array) else self._names_in(name), dict(group.attrs)

    def _at(self, name: str) -> Any | None:
        """The array or group of this name; None if there is none.

        One at a time: where the library opens several at once, it prints what it finds damaged.
        """
        try:
            return self._root[name]
        except KeyError:
            folder, _, last = name.rpartition("/")
            if last in self._names_in(folder):
                raise UserError(
                    f"'{self.path}' has a folder '{name}' that is neither an array nor a group: its zarr.json (or "
                    ".zarray) is lost, or does not belong there."
                ) from None
            return None

    def _names_in(self, group: str) -> list[str]:
        """The names of the folders in a group."""
        if self.path.is_dir():
            place = self.path / group
            return sorted(entry.name for entry in os.scandir(place) if entry.is_dir()) if place.is_dir() else []
        start = f"{group}/" if group else ""
        with ZipFile(self.path) as archive:
            inside = [name.removeprefix(start) for name in archive.namelist() if name.startswith(start)]
        return sorted({name.partition("/")[0] for name in inside if "/" in name})

    def check(self, array: Any, named: str) -> None:
        for codec in _codecs(array):
            name = getattr(codec, "codec_id", None)
            if name not in _CODECS if name is not None else not type(codec).__module__.startswith("zarr."):
                raise UserError(
                    f"'{self.path}': {named} is packed with '{name or type(codec).__name__}', which is not read: it "
                    "may hold Python objects, which could run code. Write it as plain numbers."
                )

    def written(self, array: Any) -> Written:
        block = array.shards or array.chunks
        if 0 in block:
            raise ValueError(f"its blocks have the shape {block}")
        expected = math.prod(-(-int(n) // int(of)) for n, of in zip(array.shape, block, strict=True))
        # What is claimed is compared with what is there first: the library goes through all that is claimed. It takes
        # an empty file for a block that was never written.
        there = sum(1 for _ in _files(self.path, array.path))
        if there >= expected:
            a_file = math.prod(s // c for s, c in zip(block, array.chunks, strict=True))
            there = min(there, int(array.nchunks_initialized) // a_file)
        return Written(array.chunks, expected, min(there, expected), array.fill_value)

    def reader(self, array: Any) -> ZarrArray:
        return ZarrArray(self.path, array.path)

    def values(self, array: Any) -> Array:
        values = np.asarray(array[...])
        if values.dtype.kind not in "OT":
            return values
        return as_text(self.path, f"'{array.path}'", values.reshape(-1).tolist(), values.shape)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The group or the array at the top. Copies of metadata that a group may keep (consolidated) are not read."""
    import zarr

    _check_blosc()
    store = _store(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of types that are not part of the standard yet
        try:
            try:
                root = zarr.open_group(store, mode="r", use_consolidated=False)
            except zarr.errors.ContainsArrayError:
                root = zarr.open_array(store, mode="r")
            yield root
        finally:
            store.close()


def _store(path: Path) -> Any:
    """What gives the library the files of a Zarr, which it reads whole.

    Reading one of them raises `ValueError` where it is no regular file, or too large for memory.
    """
    from zarr.abc.store import RangeByteRequest, Store
    from zarr.storage import LocalStore, WrapperStore, ZipStore

    sizes = None
    if not path.is_dir():
        with ZipFile(path) as archive:
            sizes = {member.filename: member.file_size for member in archive.infolist()}

    class Checked(WrapperStore[Any]):  # type: ignore[misc]
        most = 2 * MAX_BYTES  # of a file that is not metadata
        claimed: Callable[[bytes], int] | None = None  # see `_claimed_by`
        shards = False

        async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
            self.check(key, byte_range)
            data = await super().get(key, prototype, byte_range)
            in_part = isinstance(byte_range, RangeByteRequest) if self.shards else byte_range is None
            if data is not None and self.claimed is not None and in_part and not _is_meta(key):
                size = self.claimed(data.as_numpy_array()[:_HEAD].tobytes())
                if size > 2 * MAX_BYTES:
                    raise ValueError(f"a block of its file '{key}' says that it unpacks to {size:,} bytes")
            return data

        async def get_partial_values(self, prototype: Any, key_ranges: Any) -> Any:
            return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

        _get_many = Store._get_many  # which asks `get`

        def check(self, key: str, byte_range: Any) -> None:
            size = _size_of_file(path / key) if sizes is None else sizes.get(key, 0)
            most = _MOST_METADATA if _is_meta(key) else self.most
            if byte_range is not None:
                size = min(size, getattr(byte_range, "end", 0) - getattr(byte_range, "start", 0))
            if size > most:
                raise ValueError(f"{size:,} bytes of its file '{key}', where no more than {most:,} make sense")

    return Checked(ZipStore(path, mode="r") if sizes is not None else LocalStore(path, read_only=True))


def _size_of_file(path: Path) -> int:
    """Bytes of a file of a Zarr; 0 where there is none, which means something. Raises `ValueError` for a pipe."""
    try:
        status = os.stat(path)
    except OSError:
        return 0
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise ValueError(f"its file '{path.name}' is no regular file")
    return status.st_size


@functools.cache
def _check_blosc() -> None:
    """Lets the decoder of Blosc compare what a block says of its length with the bytes that are there.

    It would read on behind the end of a block that was cut, and give what lies there in memory for pixels.
    """
    import numcodecs

    decode = numcodecs.Blosc.decode

    def checked(self: Any, buf: Any, out: Any = None) -> Any:
        view = memoryview(buf).cast("B")
        if len(view) < 16 or int.from_bytes(view[12:16], "little") > len(view):
            raise ValueError(f"a block of {len(view):,} bytes is cut off")
        return decode(self, buf, out)

    numcodecs.Blosc.decode = checked


def _claimed_by_blosc(head: bytes) -> int:
    """Bytes that a block says that it unpacks to."""
    return int.from_bytes(head[4:8], "little")


def _claimed_by_zstd(head: bytes) -> int:
    """The same (RFC 8878, 3.1.1.1); 0 where a block does not say it."""
    if len(head) < _HEAD or not head.startswith(b"\x28\xb5\x2f\xfd"):
        return 0
    kind, one_segment, dictionary = head[4] >> 6, head[4] >> 5 & 1, (0, 1, 2, 4)[head[4] & 3]
    at = 6 - one_segment + dictionary
    return int.from_bytes(head[at : at + (one_segment, 2, 4, 8)[kind]], "little")


def _claimed_by_lz4(head: bytes) -> int:
    return int.from_bytes(head[:4], "little")


_CLAIMED = {"blosc": _claimed_by_blosc, "zstd": _claimed_by_zstd, "lz4": _claimed_by_lz4}


def _claimed_by(array: Any) -> Callable[[bytes], int] | None:
    """What says to how much a stored block of an array unpacks, from its first bytes; None where nothing does."""
    names = [getattr(codec, "codec_id", None) or type(codec).__name__.removesuffix("Codec") for codec in _codecs(array)]
    found = [_CLAIMED[name.lower()] for name in names if name.lower() in _CLAIMED]
    return found[0] if len(found) == 1 else None


def _codecs(array: Any) -> Iterator[Any]:
    """All codecs of an array, those within shards as well."""
    metadata = array.metadata
    if metadata.zarr_format == 2:
        yield from (codec for codec in (*(metadata.filters or ()), metadata.compressor) if codec is not None)
        return
    waiting = list(metadata.codecs)
    while waiting:
        codec = waiting.pop()
        yield codec
        waiting += [*getattr(codec, "codecs", ()), *getattr(codec, "index_codecs", ())]


def _files(path: Path, inside: str) -> Iterator[str]:
    """The files of an array in its store that are not empty, beside its metadata."""
    if not path.is_dir():
        start = f"{inside}/" if inside else ""
        with ZipFile(path) as archive:
            sizes = {member.filename: member.file_size for member in archive.infolist()}
        yield from (name for name in sizes if sizes[name] and name.startswith(start) and not _is_meta(name))
        return
    for folder, _, names in os.walk(path / inside):
        for name in (name for name in names if not _is_meta(name)):
            file = os.path.join(folder, name)
            status = os.stat(file)
            if not stat.S_ISREG(status.st_mode):
                raise UserError(f"'{file}' is no regular file, and part of a Zarr.")
            if status.st_size:
                yield name


def _is_meta(name: str) -> bool:
    return name.rpartition("/")[2] in ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")


def _takes(path: Path) -> bool:
    name = path.name.lower()
    return name.endswith(".zarr.zip") if path.is_file() else name.endswith(".zarr")


def _open_zarr(path: Path, labelled: bool, options: Mapping[str, str]) -> LabelledImages:
    check_installed("zarr", "zarr", f"'{path}' is Zarr, which")
    try:
        with _opened(path) as root:
            return open_container(_Zarr(path, root), labelled, options)
    except UserError:
        raise
    except Exception as error:  # damaged metadata make the library raise nearly anything
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, FileNotFoundError):
            raise
        raise UserError(f"'{path}' is not a Zarr or is damaged ({said(error)}).") from None


ZARR = Format("a Zarr (folder .zarr, or .zarr.zip)", _takes, _open_zarr, options=OPTIONS)
