"""HDF5 files."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from astroformer.errors import UserError, check_installed
from astroformer.images.array_file import file_state
from astroformer.images.formats.arrays import said
from astroformer.images.formats.containers import OPTIONS, Container, Written, as_text, open_container
from astroformer.images.formats.format import Format
from astroformer.images.formats.hdf5_heaps import check_heaps
from astroformer.images.labelled import LabelledImages
from astroformer.images.reading import Array

HDF5_EXTENSIONS = frozenset({".h5", ".hdf5", ".he5"})
_MOST = 1000  # names of a file that are looked at
_LARGE = 1 << 26  # bytes of data that are not searched for texts
_CHECKSUM = 4  # bytes, of which a packed block has more
_LARGER = 1 << 16  # bytes by which a packed block may be larger than twice what it unpacks to
_MOST_LINKS = 32  # that lead from one to the next


@dataclass(frozen=True)
class DataSet:
    """A data set of an HDF5 file, opened anew whenever some of it is read.

    Attributes:
        path: of the file.
        name: of the data set.
        state: of the file when it was opened first, see `file_state`.
    """

    path: Path
    name: str
    state: tuple[int, int, int]

    def __call__(self, start: int, stop: int) -> Array:
        import h5py

        if file_state(self.path.stat()) != self.state:
            raise ValueError("the file has changed since it was opened")
        with h5py.File(self.path, "r") as file:
            array = file[self.name]
            _check_blocks(array, start, stop)
            return np.asarray(array[start:stop])


def _check_blocks(array: Any, start: int, stop: int) -> None:
    """Raises `ValueError` where a block of these rows has no size that makes sense.

    A packed one that is far larger than what it is to give could unpack to any size, and one of no bytes ends the
    process.
    """
    if array.chunks is None:
        return
    whole = math.prod(map(int, array.chunks)) * array.id.get_type().get_size()
    packed = array.id.get_create_plist().get_nfilters() > 0
    least, most = (_CHECKSUM + 1, _LARGER + 2 * whole) if packed else (whole, whole)
    places = [range(start // array.chunks[0] * array.chunks[0], stop, array.chunks[0])]
    places += [range(0, n, of) for n, of in zip(array.shape[1:], array.chunks[1:], strict=True)]
    for place in itertools.product(*places):
        block = array.id.get_chunk_info_by_coord(place)
        if block.byte_offset is not None and not least <= block.size <= most:
            raise ValueError(f"a block of {block.size:,} bytes, where {least:,} to {most:,} make sense")


class _Hdf5(Container):
    """Soft links are followed, within the file. What lies in other files is not read: a link may point anywhere."""

    noun = "data set"

    def __init__(self, path: Path, file: Any, state: tuple[int, int, int]) -> None:
        super().__init__(path)
        self._file, self._state = file, state

    def arrays(self) -> dict[str, tuple[int, ...]]:
        import h5py

        found: dict[str, tuple[int, ...]] = {}

        def note(name: str, node: Any) -> bool | None:
            if isinstance(node, h5py.Dataset) and node.shape is not None:
                found[name] = node.shape
            return True if len(found) >= _MOST else None  # True ends the visit

        self._file.visititems(note)  # which visits what is linked in a circle once, and follows no soft link
        return found

    def find(self, name: str) -> Any | None:
        import h5py

        node = self._at(name)
        if node is not None and not isinstance(node, h5py.Dataset):
            raise UserError(f"'{self.path}': '{name}' is a group; name a data set in it, such as '{name}/images'.")
        if node is not None and node.shape is None:
            raise UserError(f"'{self.path}': '{name}' is an empty data set, without a shape.")
        return node

    def group(self, name: str) -> tuple[list[str], Mapping[str, Any]]:
        group = self._at(name)
        return list(itertools.islice(group, _MOST)), group.attrs

    def _at(self, name: str) -> Any:
        """What a name leads to, by way of links within the file; None if there is nothing."""
        import h5py

        node, steps, links = self._file, _steps(name), 0
        while steps:
            link = node.get(steps[0], getlink=True) if isinstance(node, h5py.Group) else None
            if link is None:
                return None
            if isinstance(link, h5py.ExternalLink):
                raise UserError(
                    f"'{self.path}': '{name}' is a link into another file, '{link.filename}', and such links are not "
                    f"followed; name that file, or copy the data into this one."
                )
            if isinstance(link, h5py.SoftLink):
                links += 1
                if links > _MOST_LINKS:
                    raise UserError(f"'{self.path}': the links of '{name}' lead in a circle.")
                steps = _steps(link.path) + steps[1:]
                node = self._file if link.path.startswith("/") else node
            else:
                node = node[steps.pop(0)]
        return node

    def check(self, array: Any, named: str) -> None:
        import h5py

        if array.external or array.is_virtual:
            raise UserError(
                f"'{self.path}': {named} is put together from other data sets or files, of which missing ones would be "
                "filled in silently; copy it into a data set of its own."
            )
        settings = array.id.get_create_plist()
        for i in range(settings.get_nfilters()):
            number, _, _, called = settings.get_filter(i)
            if not h5py.h5z.filter_avail(number):
                raise UserError(
                    f"'{self.path}': {named} is packed with the HDF5 filter {number} "
                    f"({called.decode('utf-8', 'replace')}), which is not installed. Pack it with gzip (h5repack -f "
                    "GZIP=4 IN OUT), or set HDF5_PLUGIN_PATH to the folder with that filter."
                )

    def check_texts(self) -> None:
        import h5py

        large: list[tuple[int, int]] = []  # places of data, where no texts lie

        def note(_: str, node: Any) -> None:
            if not isinstance(node, h5py.Dataset) or node.id.get_storage_size() < _LARGE:
                return
            if (at := node.id.get_offset()) is not None:
                large.append((at, at + node.id.get_storage_size()))
            elif node.chunks is not None:
                node.id.chunk_iter(lambda block: large.append((block.byte_offset, block.byte_offset + block.size)))

        if self.path.stat().st_size > _LARGE:
            self._file.visititems(note)
        check_heaps(self.path, large)

    def written(self, array: Any) -> Written:
        block = array.chunks
        if block is None:
            size = math.prod(map(int, array.shape)) * array.id.get_type().get_size()
            return Written(None, 1, int(array.id.get_storage_size() >= size), array.fillvalue)
        expected = math.prod(-(-int(n) // int(of)) for n, of in zip(array.shape, block, strict=True))
        return Written(block, expected, array.id.get_num_chunks(), array.fillvalue)

    def reader(self, array: Any) -> DataSet:
        return DataSet(self.path, array.name, self._state)

    def values(self, array: Any) -> Array:
        import h5py

        if array.chunks is not None:
            _check_blocks(array, 0, array.shape[0])
        if h5py.check_string_dtype(array.dtype) is None or array.dtype.kind == "S":
            return np.asarray(array[()])
        texts = array.asstr(errors="backslashreplace")[()]
        return as_text(self.path, f"'{array.name}'", np.asarray(texts, object).reshape(-1), array.shape)


def _steps(name: str) -> list[str]:
    return [part for part in name.split("/") if part not in ("", ".")]


def _open_hdf5(path: Path, labelled: bool, options: Mapping[str, str]) -> LabelledImages:
    check_installed("h5py", "astro", f"'{path}' is HDF5, which")
    import h5py

    try:
        state = file_state(path.stat())
        with h5py.File(path, "r") as file:
            return open_container(_Hdf5(path, file, state), labelled, options)
    except UserError:
        raise
    except Exception as error:  # damaged bytes make the library raise nearly anything
        if isinstance(error, OSError) and error.errno is not None:  # of the disk, and not of the file's content
            raise
        raise UserError(f"'{path}' is not an HDF5 file or is damaged ({said(error)}).") from None


HDF5 = Format("an HDF5 file (.h5)", lambda path: path.suffix.lower() in HDF5_EXTENSIONS, _open_hdf5, options=OPTIONS)
