"""Catalogs: tables in CSV, TSV or Parquet with a column of files and one of labels."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from astroformer.errors import UserError
from astroformer.files import expanded
from astroformer.images.formats.folders import FileReader
from astroformer.images.formats.format import Format
from astroformer.images.formats.tables import TABLE_EXTENSIONS, Table, is_table, open_table
from astroformer.images.labelled import LabelledImages
from astroformer.images.names import encode_labels, refuse_duplicates, refuse_gaps, shortened

FILE_COLUMNS = (
    "file",
    "filename",
    "file_name",
    "filepath",
    "file_path",
    "file_loc",
    "path",
    "image",
    "image_path",
)
LABEL_COLUMNS = ("label", "labels", "label_name", "class", "class_name", "target", "category")


def _open_catalog(path: Path, labelled: bool, options: Mapping[str, str]) -> LabelledImages:
    opened = open_table(path)
    file_column, label_column = _roles(opened, labelled, options)
    table = opened.texts([file_column] if label_column is None else [file_column, label_column])
    files = table[file_column]
    refuse_gaps(str(path), file_column, files)
    refuse_duplicates(str(path), files)
    root = expanded(options["root"]) if "root" in options else path.parent
    if not root.is_dir():
        raise UserError(f"'{path}': its images are to lie in '{root}', and there is no such folder.")
    paths = tuple(root / expanded(file) for file in files)
    if paths and not any(os.path.exists(p) for p in paths):
        raise UserError(
            f"'{path}': none of its {len(paths)} files exists; paths are relative to '{root}'. The first: "
            f"'{files[0]}'. Say where they lie with '{path}@root=FOLDER'."
        )
    reader = FileReader(tuple(map(str, paths)))
    if label_column is None:
        return LabelledImages("", files, None, (), reader)
    refuse_gaps(str(path), label_column, table[label_column])
    labels, classes = encode_labels(table[label_column], None, str(path))
    return LabelledImages("", files, labels, classes, reader)


def _other_columns(
    path: Path, labelled: bool, options: Mapping[str, str], wanted: Sequence[str] | None
) -> dict[str, list[Any]]:
    """The columns of these names, or all but those of the files and of the labels that are used, by name.

    Of all, those are left out whose name occurs twice: nobody could tell one from the other. Values of CSV are text,
    those of Parquet have their types; a missing one is None.
    """
    table = open_table(path)
    if wanted is None:
        used = _roles(table, labelled, options)
        wanted = [name for name in table.names if name not in used and table.names.count(name) == 1]
    return table.values(wanted)


def _roles(table: Table, labelled: bool, options: Mapping[str, str]) -> tuple[str, str | None]:
    """The columns of the files and, if they are needed, of the labels."""
    file_column = table.column("file", FILE_COLUMNS, options.get("file"))
    return file_column, table.column("label", LABEL_COLUMNS, options.get("label")) if labelled else None


CATALOG = Format(
    f"a catalog ({shortened(TABLE_EXTENSIONS)})",
    is_table,
    _open_catalog,
    options=("file", "label", "root"),
    columns=_other_columns,
)
