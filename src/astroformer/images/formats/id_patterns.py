"""Where the images of a catalog of ids lie: a pattern such as `images/{id}.jpg` or `*/{id}_g.fits`."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from astroformer.errors import UserError
from astroformer.images.fits import FITS_EXTENSIONS
from astroformer.images.names import natural_key, shortened
from astroformer.images.reading import extension_of

ID = "{id}"  # stands in a pattern for an id; all other braces mean themselves


def files_of_ids(ids: Sequence[str], pattern: str, root: Path, source: str) -> list[str]:
    """The file of each id, relative to `root`.

    In a pattern `{id}` stands for the id; `*`, `?` and `[…]` for what file names have beside it, within a folder's
    name. A pattern without these gives each file's name, whether it exists or not. With them, an id that has no file
    keeps the pattern for its name, which is then one that can't be read.

    Raises:
        UserError: the pattern has no `{id}` or stands for no file, or an id has several.

    Examples:
        >>> files_of_ids(["7", "8"], "images/{id}.jpg", Path(), "catalog.csv")
        ['images/7.jpg', 'images/8.jpg']
    """
    if ID not in pattern:
        raise UserError(
            f"'{source}': @pattern={pattern} has no {ID}, which stands for the id of an image, as in images/{ID}.jpg."
        )
    if not glob.has_magic(pattern.replace(ID, "")):
        return [pattern.replace(ID, one) for one in ids]
    expanded, found = _files_found(ids, pattern, root)
    if not found:
        raise UserError(
            f"'{source}': @pattern={pattern} stands for none of the files in '{root}'. The first that it should find: "
            f"'{expanded.replace(ID, ids[0]) if ids else expanded}'."
        )
    for one in ids:
        if len(found.get(one, ())) > 1:
            raise UserError(
                f"'{source}': @pattern={pattern} stands for {len(found[one])} files of the id {one}: "
                f"{shortened(found[one], 3)}. Make the pattern stand for one. Of FITS files of one band each, "
                f"write the bands as [gri] or with commas: {ID}_g.fits,{ID}_r.fits."
            )
    return [found[one][0] if one in found else expanded.replace(ID, one) for one in ids]


def patterns_of_bands(ids: Sequence[str], pattern: str, root: Path) -> list[str]:
    """The pattern of each band where a pattern stands for several files of an id; empty where it does not.

    That is so where patterns stand with commas between them, each with `{id}`; and where a pattern of FITS files has
    letters in brackets, and some id has files of several letters.

    Examples:
        >>> patterns_of_bands(["7"], "{id}_g.fits,{id}_r.fits", Path())
        ['{id}_g.fits', '{id}_r.fits']
    """
    parts = [part.strip() for part in pattern.split(",")]
    if len(parts) > 1 and all(ID in part for part in parts):
        return parts
    letters = re.fullmatch(r"([^\[\]]*)\[([A-Za-z0-9]{2,})\]([^\[\]]*)", pattern)
    if letters is None or extension_of(pattern) not in FITS_EXTENSIONS:
        return []
    if all(len(files) == 1 for files in _files_found(ids, pattern, root)[1].values()):
        return []
    return [f"{letters[1]}{letter}{letters[3]}" for letter in letters[2]]


def _files_found(ids: Sequence[str], pattern: str, root: Path) -> tuple[str, dict[str, list[str]]]:
    """The pattern from the home folder on, and the files of each id."""
    expanded = os.path.expanduser(pattern)
    wide = glob.glob(expanded.replace(ID, "*"), root_dir=root)
    return expanded, _found(sorted(wide, key=natural_key), set(ids), expanded)


def _found(files: Sequence[str], ids: set[str], pattern: str) -> dict[str, list[str]]:
    """The files of each id. A file may belong to several ids by its name: `*{id}.jpg` of 7 and of 17."""
    lengths = sorted({len(one) for one in ids})
    of_ids: dict[str, list[str]] = {}
    for file in files:
        parts = {file[i : i + n] for n in lengths for i in range(len(file) - n + 1)}
        for one in parts & ids:
            if _matches(file, pattern.replace(ID, glob.escape(one))):
                of_ids.setdefault(one, []).append(file)
    return of_ids


def _matches(file: str, pattern: str) -> bool:
    """Whether a pattern stands for a file, part by part of the path: `*` reaches over no `/`."""
    names, patterns = file.split(os.sep), os.path.normpath(pattern).split(os.sep)
    return len(names) == len(patterns) and all(map(fnmatch.fnmatchcase, names, patterns))
