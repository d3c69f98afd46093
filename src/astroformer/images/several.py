"""Several sources of images as one: paths, patterns with `*`, folders, catalogs."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from astroformer.errors import UserError
from astroformer.files import expanded, is_url
from astroformer.images import remote
from astroformer.images.formats.band_files import BandFilesReader
from astroformer.images.formats.folders import FileReader
from astroformer.images.labelled import LabelledImages, Reader, digests_of
from astroformer.images.names import natural_key, printable, shortened
from astroformer.images.reading import Array
from astroformer.images.sets.download import Listener
from astroformer.images.sources import open_source, split_options
from astroformer.images.stated import Stated


def matching(sources: Iterable[str]) -> list[str]:
    """The sources with patterns (`*`, `?`, `[…]`, and `**` for all folders below) replaced by what they stand for.

    What exists under its name is no pattern. Options behind a pattern go with each path that it stands for.

    Raises:
        UserError: a pattern stands for nothing.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("2.png", "10.png", "notes.txt"):
        ...     (folder / name).touch()
        >>> [Path(path).name for path in matching([f"{folder}/*.png"])]
        ['2.png', '10.png']
    """
    found: list[str] = []
    for source in sources:
        path, _ = split_options(source)
        if is_url(path) or not glob.has_magic(path) or os.path.exists(expanded(path)):
            found.append(source)
            continue
        paths = sorted(glob.glob(str(expanded(path)), recursive=True), key=natural_key)
        if not paths:
            raise UserError(f"'{source}' stands for no file or folder. Look at its spelling, and from which folder.")
        found += [f"{each}{source[len(path) :]}" for each in paths]
    return found


def open_sources(
    sources: Sequence[str],
    *,
    columns: Sequence[str] | Literal["all"] = (),
    listener: Listener | None = None,
) -> LabelledImages:
    """Images of one or several sources, one after the other, without labels.

    Of a single source `files` are what `open_source` says. Of several they are paths that lead to each image from
    where the command runs, so that images of the same name in two folders can be told apart.

    Args:
        sources: each as for `open_source`, or a pattern, see `matching`.
        columns: of catalogs, see `open_source`; one that another source does not have is None for its images.
        listener: what is told of a download.

    Raises:
        UserError: as `open_source`; a pattern stands for nothing, or an image is named twice.
    """
    named = matching(sources)
    if named == list(sources) and len(named) == 1:
        return open_source(named[0], labelled=False, columns=columns, listener=listener)
    parts = []
    for source in named:
        part = open_source(source, labelled=False, columns=columns, listener=listener)
        parts.append(replace(part, files=_paths(part)))
    seen: dict[str, str] = {}
    for part in parts:
        for file in part.files:
            place = os.path.normpath(file)
            if place in seen:
                raise UserError(f"'{file}' is named twice, by '{seen[place]}' and by '{part.source}'. Name it once.")
            seen[place] = part.source
    return _joined(parts)


def _paths(images: LabelledImages) -> list[str]:
    """Where each image of a source lies, seen from here."""
    path, options = split_options(images.source)
    if isinstance(images.reader, FileReader):
        named = remote.bring_kept(path, options).named
        return [named(printable(path)) for path in images.reader.paths]
    if is_url(path):
        return [f"{path.rstrip('/').rpartition('/')[0]}/{file}" for file in images.files]
    if isinstance(images.reader, BandFilesReader):
        return [remote.bring_kept(path, options).named(printable(name)) for name in images.reader.names]
    folder = expanded(path).parent if os.path.exists(expanded(path)) else Path()  # of an .npz; a set has names alone
    return [str(folder / file) for file in images.files]


def _joined(parts: Sequence[LabelledImages]) -> LabelledImages:
    names = list(dict.fromkeys(name for part in parts for name in part.columns))
    columns: dict[str, list[Any]] = {
        name: [value for part in parts for value in part.columns.get(name, [None] * len(part))] for name in names
    }
    first, notes = parts[0], [note for part in parts for note in part.notes]
    stated = Stated.of_each(part.stated for part in parts)
    for part in parts:
        if (part.bands is None) != (first.bands is None):
            raise UserError(
                f"of '{first.source}' and '{part.source}' one says what the bands of its images are, and the other "
                "does not; ask about each on its own."
            )
        if first.bands is not None:
            said = first.bands.check(part.bands, f"'{first.source}' has", f"those of '{part.source}'")
            notes += [] if said is None else [said]
    return LabelledImages(
        source=shortened([part.source for part in parts], 3),
        files=[file for part in parts for file in part.files],
        labels=None,
        classes=(),
        reader=_Joined(tuple(part.reader for part in parts), np.cumsum([len(part) for part in parts])),
        ignored=[entry for part in parts for entry in part.ignored],
        columns=columns,
        bands=first.bands,
        masks=any(part.masks for part in parts),
        positions_N2=_joined_positions(parts),
        stated=stated,
        notes=list(dict.fromkeys(notes + stated.notes())),
    )


def _joined_positions(parts: Sequence[LabelledImages]) -> NDArray[np.float64] | None:
    """The positions of all, NaN where a source knows none; None where no source knows any."""
    if all(part.positions_N2 is None for part in parts):
        return None
    unknown = (np.full((len(part), 2), np.nan) for part in parts)
    return np.concatenate(
        [u if part.positions_N2 is None else part.positions_N2 for part, u in zip(parts, unknown, strict=True)]
    )


@dataclass(frozen=True)
class _Joined:
    """Reads the images of several readers, one after the other; `ends` are the numbers at which each ends."""

    readers: tuple[Reader, ...]
    ends: NDArray[np.int64]

    def _number(self, i: int) -> int:
        return int(np.searchsorted(self.ends, i, side="right"))

    def _start(self, number: int) -> int:
        return int(self.ends[number - 1]) if number else 0

    def __call__(self, i: int) -> Array:
        number = self._number(i)
        return self.readers[number](i - self._start(number))

    def digests(self, indices: NDArray[np.int64], cache: Path | None) -> Iterable[bytes]:
        for number, some in itertools.groupby(indices, key=self._number):
            yield from digests_of(self.readers[number], np.array(list(some)) - self._start(number), cache)
