"""Catalogs: tables whose rows are images, with columns of files or ids, labels or votes, weights, groups, positions."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astroformer.errors import UserError, unknown_name
from astroformer.files import expanded
from astroformer.images.fits_bands import FITS_OPTIONS
from astroformer.images.formats.band_files import Layered, read_band_files, told_apart
from astroformer.images.formats.folders import read_files
from astroformer.images.formats.format import Format
from astroformer.images.formats.id_patterns import ID as ID_HERE
from astroformer.images.formats.id_patterns import files_of_ids, patterns_of_bands
from astroformer.images.formats.mosaics import PIECE_OPTIONS, open_mosaic, open_stack, refuse_alone
from astroformer.images.formats.positions import (
    POSITION_OPTIONS,
    Places,
    both_groupings,
    columns_of_places,
    places_in_mosaic,
    positions_of,
    with_same_sky,
)
from astroformer.images.formats.table import Role, Table
from astroformer.images.formats.tables import TABLE_EXTENSIONS, is_table, open_table
from astroformer.images.labelled import LabelledImages, Named
from astroformer.images.names import (
    class_name,
    encode_labels,
    refuse_duplicates,
    refuse_gaps,
    refuse_repeated,
    shortened,
)
from astroformer.images.unlabelled import NO_LABEL, SKIP, UNLABELLED
from astroformer.images.votes import COUNTS, KINDS, checked_weights, voted

FILE = Role(
    "file",
    ("file", "filename", "file_name", "filepath", "file_path", "file_loc", "path", "image", "image_path"),
    ("png_loc", "jpg_loc", "fits_loc", "image_file", "imagefile", "img", "img_path", "cutout", "fits_file"),
)
LABEL = Role(
    "label",
    ("label", "labels", "label_name", "class", "class_name", "target", "category"),
    ("morphology", "morph", "morph_class", "morphological_type", "classification", "type", "gal_type", "galaxy_type"),
)
ID = Role(
    "id",
    ("id", "objid", "object_id", "objectid", "source_id", "name", "iauname"),
    ("objname", "obj_name", "objectname", "object_name", "id_str", "galaxyid", "galaxy_id", "dr7objid", "galid"),
)
_MOST_FRACTIONS = 20  # classes whose names are numbers with digits behind the point


def _open_catalog(path: Path, labelled: bool, options: Mapping[str, str]) -> LabelledImages:
    return _open_with_columns(path, labelled, options, ())


def _open_with_columns(
    path: Path, labelled: bool, options: Mapping[str, str], wanted: Sequence[str] | None
) -> LabelledImages:
    table = open_table(path, options.get("table"))
    refuse_alone(options, path)
    if _in_pieces(options):
        images = replace(_pieces(table, options), source=str(path))
    else:
        images = _placed(replace(_files(table, options), source=str(path)), positions_of(table, options))
    images = _with_groups(images, table, options)
    images = replace(images, columns=_other_columns(table, labelled, options, wanted))
    notes = [*table.notes, *images.notes, *(_note_of_unclear(table) if wanted is None else [])]
    images = replace(images, notes=notes)
    if not labelled:
        return images
    if "weight" in options:
        weights_N = checked_weights(table.numbers(options["weight"]), str(path), lambda i: f"row {i + 1}")
        images = replace(images, weights_N=weights_N)
    if "votes" in options:
        return _with_votes(images, table, options)
    for option in ("votes-as", "classes"):
        if option in options:
            raise UserError(f"'{path}': @{option}={options[option]} is about votes; name them with @votes=.")
    return _with_labels(images, table, options)


# Where the images lie ---------------------------------------------------------------------------------------


def _files(table: Table, options: Mapping[str, str]) -> LabelledImages:
    """The images of a catalog, without labels, by a column of files or by one of ids and a pattern."""
    path = table.path
    root = expanded(options["root"]) if "root" in options else path.parent
    if not root.is_dir():
        raise UserError(f"'{path}': its images are to lie in '{root}', and there is no such folder.")
    columns = _columns_of_files(table, options)
    if len(columns) > 1:
        by_column = table.texts(columns)
        several = list(zip(*(by_column[name] for name in columns), strict=True))
        return _band_files(Layered(_names_of(several), several, told_apart(columns)), root, options, path)
    (column,) = columns
    files = table.texts([column])[column]
    refuse_gaps(str(path), column, files)
    if patterns := patterns_of_bands(files, options.get("pattern", ""), root):
        by_band = [files_of_ids(files, pattern, root, str(path)) for pattern in patterns]
        names = [options["pattern"].replace(ID_HERE, one) for one in files]
        layered = Layered(names, list(zip(*by_band, strict=True)), told_apart(patterns))
        return _band_files(layered, root, options, path)
    if "pattern" in options:
        files = files_of_ids(files, options["pattern"], root, str(path))
    refuse_duplicates(str(path), files)
    paths = tuple(str(root / expanded(file)) for file in files)
    if paths and not any(os.path.exists(p) for p in paths):
        where = "the pattern" if "pattern" in options else "paths"
        raise UserError(
            f"'{path}': none of its {len(paths)} files exists; {where} {'is' if where != 'paths' else 'are'} relative "
            f"to '{root}'. The first: '{files[0]}'. Say where they lie with '{path}@root=FOLDER'."
        )
    return LabelledImages("", files, None, (), **read_files(paths, options, path)._asdict())


def _band_files(layered: Layered, root: Path, options: Mapping[str, str], path: Path) -> LabelledImages:
    """Images of which each band is a file."""
    refuse_duplicates(str(path), layered.names)
    for of_band in zip(*layered.files, strict=True):
        refuse_duplicates(str(path), filter(None, of_band))
    read = read_band_files(layered, root, options, path)
    return LabelledImages("", layered.names, None, (), **read._asdict())


def _names_of(files: Sequence[Sequence[str]]) -> list[str]:
    """How images are called whose bands are these files: as the first of them."""
    return [next(filter(None, of_image), f"row {row}") for row, of_image in enumerate(files, start=1)]


def _in_pieces(options: Mapping[str, str]) -> bool:
    """Whether the images of a catalog lie in one large file."""
    return "cube" in options or "mosaic" in options


def _pieces(table: Table, options: Mapping[str, str]) -> LabelledImages:
    """Images that lie in one file: row i is plane i of a stack, or a cutout of a mosaic around the row's position."""
    path, column = table.path, _column_of_names(table, options)
    if "mosaic" in options:
        columns_of_places(table, options)  # what they lack is said first
    clear = [name for name in table.names if name not in table.unclear]
    if not clear:
        raise UserError(f"'{path}' has no column that can be read.")
    n = len(table.values(clear[:1])[clear[0]])
    if not n:
        raise UserError(f"'{path}' has no rows.")
    names = [f"{path.name}#{i}" for i in range(n)]
    if column is not None:
        names = table.texts([column])[column]
        refuse_gaps(str(path), column, names)
        refuse_repeated(str(path), column, names)
    if "cube" in options:
        pieces = open_stack(options["cube"], options, names)
        return _placed(LabelledImages("", names, None, (), **pieces._asdict()), positions_of(table, options))
    places = places_in_mosaic(table, options)
    pieces = open_mosaic(options, names, places)
    images = LabelledImages("", names, None, (), **pieces._asdict())
    return replace(images, notes=[*places.notes, *images.notes])


def _placed(images: LabelledImages, places: Places | None) -> LabelledImages:
    """The images with the positions that a catalog gives them, if it does."""
    if places is None:
        return images
    return replace(images, positions_N2=places.positions_N2, notes=[*images.notes, *places.notes])


def _column_of_names(table: Table, options: Mapping[str, str]) -> str | None:
    """The column that names pieces of a large file. Without one, images have the rows' numbers."""
    if "id" in options or table.called(ID._replace(rarer=())):
        return table.column(ID, options.get("id"))
    return None


def _columns_of_files(table: Table, options: Mapping[str, str]) -> list[str]:
    """The column of files or ids; of files of one band each several, in the order of the bands."""
    if "id" not in options and "pattern" not in options:
        asked = options.get("file", "")
        if "+" in asked and asked not in table.names:
            columns = [name.strip() for name in asked.split("+")]
            if len(set(columns)) < len(columns):
                raise UserError(f"'{table.path}': @file={asked} names a column twice; each band has one of its own.")
            return [table.column(FILE, name) for name in columns]
        return [table.column(FILE, options.get("file"))]
    path = table.path
    if "id" not in options or "pattern" not in options:
        raise UserError(
            f"'{path}': @id=COLUMN and @pattern=FOLDER/{{id}}.jpg belong together: the column of the ids, and where in "
            "the folder the image of an id lies."
        )
    if "file" in options:
        raise UserError(f"'{path}': @file names a column of files, @id one of ids; give one of the two.")
    return [table.column(ID, options["id"])]


# What is known of them --------------------------------------------------------------------------------------


def _with_labels(images: LabelledImages, table: Table, options: Mapping[str, str]) -> LabelledImages:
    path, column = table.path, table.column(LABEL, options.get("label"))
    names = table.texts([column])[column]
    if UNLABELLED not in options:
        how = f"leave the rows out: @{UNLABELLED}={SKIP} behind the source does that"
        refuse_gaps(str(path), column, names, how)
    labels = np.full(len(names), NO_LABEL)
    known = [i for i, name in enumerate(names) if name]
    labels[known], classes = encode_labels([names[i] for i in known], None, str(path))
    _refuse_continuous(str(path), column, classes, np.bincount(labels[known], minlength=1))
    return replace(images, labels=labels, classes=classes)


def _refuse_continuous(source: str, column: str, classes: Sequence[str], counts: NDArray[np.int64]) -> None:
    """Raises `UserError` where a column holds measured numbers: many with a fraction, and some of them only once."""
    fractions = [name for name in classes if re.fullmatch(r"[+-]?[0-9]*\.[0-9]+([eE][+-]?[0-9]+)?", name)]
    if len(classes) > _MOST_FRACTIONS and 2 * len(fractions) > len(classes) and counts.min() == 1:
        raise UserError(
            f"'{source}': the column '{column}' holds {len(classes):,} different numbers ({fractions[0]}, "
            f"{fractions[1]}, ...), so it seems to be continuous, and a classifier needs classes. Save the class of "
            "each row, such as its range, in a column of its own, and name that with @label=COLUMN."
        )


def _with_votes(images: LabelledImages, table: Table, options: Mapping[str, str]) -> LabelledImages:
    path, kind = table.path, options.get("votes-as")
    if "label" in options:
        raise UserError(f"'{path}': votes say the label of an image; give @votes or @label, not both.")
    if kind is not None and kind not in KINDS:
        raise unknown_name("word of @votes-as", kind, KINDS)
    columns = [name.strip() for name in options["votes"].split("+")]
    if len(columns) < 2 or len(set(columns)) < len(columns) or "" in columns:
        raise UserError(
            f"'{path}': @votes={options['votes']} should name two columns or more, each once, as in "
            "@votes=smooth+featured+artifact."
        )
    votes_NK = np.stack([table.numbers(name) for name in columns], axis=1)
    advice = (
        f"If they are numbers of votes, or shares of all people of whom some were not asked, say @votes-as={COUNTS}: "
        "each row is divided by its sum, and the sum is the weight of the image."
    )
    classes = _classes_of_votes(path, columns, options)
    return voted(images, votes_NK, classes, kind=kind, advice=advice, skip=UNLABELLED in options)


def _classes_of_votes(path: Path, columns: Sequence[str], options: Mapping[str, str]) -> tuple[str, ...]:
    """What the classes are called that people voted on: as `@classes=` says, else as the columns."""
    if "classes" not in options:
        return tuple(map(class_name, columns))
    classes = tuple(map(class_name, options["classes"].split("+")))
    if len(classes) != len(columns) or len(set(classes)) < len(classes) or "" in classes:
        raise UserError(
            f"'{path}': @classes={options['classes']} should name {len(columns)} classes, each once, in the order of "
            f"@votes={options['votes']}."
        )
    return classes


def _with_groups(images: LabelledImages, table: Table, options: Mapping[str, str]) -> LabelledImages:
    """The images with the groups that no split may part: of `@group=`, and of those that show the same sky."""
    groups, whereabouts, path = images.groups, images.whereabouts, table.path
    if "group" in options:
        names = table.texts([options["group"]])[options["group"]]
        refuse_gaps(str(path), options["group"], names)
        named = Named(options["group"], np.array(names, str))
        whereabouts = replace(whereabouts, named=named)
        numbers = np.unique(named.value_N, return_inverse=True)[1].astype(np.int64)
        groups = numbers if groups is None else both_groupings(groups, numbers)
    images = replace(images, groups=groups, whereabouts=whereabouts)
    return with_same_sky(images, options, str(path), "name their columns with @ra= and @dec=")


# Other columns ----------------------------------------------------------------------------------------------


def _other_columns(
    table: Table, labelled: bool, options: Mapping[str, str], wanted: Sequence[str] | None
) -> dict[str, list[Any]]:
    """The columns of these names, or all but those of the files and of the labels that are used, by name. Ids that a
    pattern takes and positions are kept.

    Of all, those are left out whose name occurs twice, since nobody could tell one from the other, and those that hold
    several values a row. Values of CSV are text, others have the types of the file; a missing one is None.
    """
    if wanted is None:
        if _in_pieces(options):
            used = [name for name in [_column_of_names(table, options)] if name is not None]
        else:
            used = [] if "id" in options else _columns_of_files(table, options)
        if labelled:
            used += [table.column(LABEL, options.get("label"))] if "votes" not in options else []
        wanted = [name for name in table.names if name not in used and name not in table.unclear]
    return table.values(wanted)


def _note_of_unclear(table: Table) -> list[str]:
    names = [
        f"{name} ({'several values a row' if name in table.several else 'a name that occurs twice'})"
        for name in table.unclear
    ]
    return [f"columns of '{table.path}' that are not carried over: {shortened(names)}"] if names else []


CATALOG = Format(
    f"a catalog ({shortened(TABLE_EXTENSIONS, 8)})",
    is_table,
    _open_catalog,
    options=(
        *("file", "id", "pattern", "root", "table", "label", "votes", "votes-as", "classes"),
        *("weight", "group", "same-sky", *POSITION_OPTIONS, *FITS_OPTIONS, *PIECE_OPTIONS),
    ),
    with_columns=_open_with_columns,
)
