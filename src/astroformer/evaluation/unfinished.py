"""Predictions that were ended before they were whole: what they were made of, and which rows there are.

Beside the rows, `OUT.part`, lies a record, `OUT.part.json`: predictions may only be continued with the same model,
asked in the same way, on the same images.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astroformer.errors import UserError
from astroformer.files import expanded, read_json, unfinished, write_json
from astroformer.images import remote
from astroformer.images.formats.band_files import BandFilesReader
from astroformer.images.formats.folders import FileReader
from astroformer.images.formats.mosaics import files_of_pieces
from astroformer.images.hashes import hash_bytes
from astroformer.images.labelled import LabelledImages
from astroformer.images.sources import split_options
from astroformer.model_folder import ModelFolder
from astroformer.predictions import NOVELTY

_ROUNDED = 1e-6  # more than what the sum of probabilities loses if 8 digits of each are written


@dataclass(frozen=True)
class UnfinishedRows:
    """Rows that are there.

    Attributes:
        done: how many.
        failed: how many of them tell of an image that could not be taken.
        first_reason: why the first of those could not.
        called: the prediction and the confidence of each of the others.
        novelty: theirs, where the table has it.
    """

    done: int = 0
    failed: int = 0
    first_reason: str = ""
    called: Sequence[tuple[str, float]] = ()
    novelty: Sequence[float] = ()


def made_of(
    model: Path, sources: Sequence[str], images: LabelledImages, columns: Sequence[str], **asked: object
) -> dict[str, Any]:
    """What decides a row, as JSON keeps it.

    Args:
        model: its folder.
        sources: of the images, without patterns.
        images: of all rows.
        columns: of the table.
        asked: how the model is asked, by the names of the options.
    """
    state: list[int | str] = []
    for source in sources:
        copied = remote.bring_kept(*split_options(source))
        state += [copy.version for copy in copied.copies]
        for path in (expanded(copied.name), *map(Path, files_of_pieces(copied.options))):
            if path.is_file():  # of a folder each image has a name; in a file they have numbers
                status = path.stat()
                state += [status.st_size, status.st_mtime_ns]
    states = (" ".join(map(_size_and_time, paths)) for paths in _paths(images))
    names = [f"{file} {said}" for file, said in zip(images.files, states, strict=True)]
    files = "\0".join(names).encode("utf-8", "surrogatepass")
    return {
        "model": dict(ModelFolder.find(model).config().hashes),
        "images": [len(images), hash_bytes(files).hex(), *state],
        "columns": list(columns),
        **asked,
    }


def _paths(images: LabelledImages) -> Iterable[Sequence[str]]:
    """The files of each image: of several sources they are the names; of an array there is nothing at the names."""
    if isinstance(images.reader, BandFilesReader):
        return images.reader.paths
    return ((path,) for path in (images.reader.paths if isinstance(images.reader, FileReader) else images.files))


def _size_and_time(path: str) -> str:
    """What changes with an image, or "" where there is none. Another picture may have taken the name of one."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"


def record_of(path: Path) -> Path:
    """Where the record of the unfinished rows of `path` lies."""
    part = unfinished(path)
    return part.with_name(f"{part.name}.json")


def forget(path: Path) -> None:
    """Removes unfinished rows and their record."""
    for file in (unfinished(path), record_of(path)):
        file.unlink(missing_ok=True)


def start(path: Path, made: dict[str, Any], *, overwrite: bool) -> None:
    """Writes the record of rows that are about to be written.

    Raises:
        UserError: there are unfinished rows already, and `overwrite` does not say to replace them.
    """
    if unfinished(path).exists() and not overwrite:
        raise UserError(
            f"'{unfinished(path)}' holds the rows of predictions that were ended before they were whole; go on from "
            "them with --resume, or start anew with --overwrite."
        )
    forget(path)
    write_json(record_of(path), made)


def rows_to_keep(
    path: Path, made: dict[str, Any], files: Sequence[str], *, batch_size: int, added: Sequence[str]
) -> UnfinishedRows:
    """Looks at the unfinished rows of `path`, and cuts off what is behind the last whole batch.

    Args:
        path: of the file to come.
        made: what the new rows are made of.
        files: the first column of each row.
        batch_size: rows are continued where a batch begins, so that they are those of an uninterrupted prediction.
        added: the columns that predictions bring behind `error`.

    Raises:
        UserError: there are none, or they are of another model, other images, other columns or other options.
    """
    part = unfinished(path)
    if path.suffix.lower() == ".parquet":
        raise UserError("a Parquet file is of no use before it is whole, so it can't be continued; leave out --resume.")
    if not part.is_file() or not record_of(path).is_file():
        raise UserError(f"there is no '{part}' with its record '{record_of(path).name}' to go on from.")
    before = read_json(record_of(path))
    for word in [*made, *sorted(before.keys() - made.keys())]:
        if before.get(word) != made.get(word):
            raise UserError(
                f"'{part}' can't be continued: its rows were made with another value of '{word}'. Go on as it was "
                "begun, or start anew with --overwrite."
            )
    error = made["columns"].index("error")
    ends, failed, first, called, novelty = [0], [0], "", list[tuple[str, float]](), list[float]()
    novel = error + 1 + list(added).index(NOVELTY) if NOVELTY in added else None
    for number, (row, end) in enumerate(_whole_rows(part)):
        if number == 0:
            right = row == made["columns"]
        else:
            right = number <= len(files) and len(row) == len(made["columns"]) and row[0] == files[number - 1]
        if not right:
            raise UserError(f"'{part}' can't be continued: its row {number} is not what it should be. Start anew.")
        if number and (wrong := _contradiction(row, made["columns"], error, novel)) is not None:
            raise UserError(
                f"'{part}' can't be continued: in its row {number} {wrong}, so it was changed or damaged. Start anew "
                "with --overwrite."
            )
        ends.append(end)
        reason = row[error] if number else ""
        failed.append(failed[-1] + bool(reason))
        first = first or reason
        if number and not reason:
            called.append((row[1], float(row[2])))
            if novel is not None:
                novelty.append(float(row[novel]))
    done = max(0, len(ends) - 2)
    done -= done % max(1, batch_size) if done < len(files) else 0
    if len(ends) < 2:
        raise UserError(f"'{part}' holds no whole row; start anew with --overwrite.")
    os.truncate(part, ends[done + 1])
    lost = failed[done + 1]
    return UnfinishedRows(done, lost, first if lost else "", called[: done - lost], novelty[: done - lost])


def _contradiction(row: list[str], columns: Sequence[str], error: int, novel: int | None) -> str | None:
    """What can't be in a row of predictions; None where it agrees with itself.

    Args:
        row: the texts of `columns`.
        error: number of the column of the reason why there is no prediction.
        novel: that of the novelty, if there is one.
    """
    name, confidence, *probabilities = row[1:error]
    if row[error]:
        return "there is a prediction beside an error" if any(row[1:error]) else None
    try:
        values = [float(text) for text in probabilities]
    except ValueError:
        return "a probability is no number"
    if not (abs(sum(values) - 1) <= _ROUNDED and min(values) >= 0):  # written so that NaN is none
        return "the probabilities do not sum to 1"
    highest = {p for p, value in zip(probabilities, values, strict=True) if value == max(values)}
    if confidence not in highest:
        return f"the confidence '{confidence[:50]}' is not the highest probability"
    # Probabilities that differ may be written alike, so one of several names may be right.
    if f"p:{name}" not in {c for c, p in zip(columns[3:error], probabilities, strict=True) if p in highest}:
        return f"the prediction '{name[:50]}' is not the class of the highest probability"
    if novel is not None and not re.fullmatch(r"\d+(\.\d+)?(e[+-]\d+)?", row[novel]):
        return f"the novelty '{row[novel][:50]}' is no number from 0 on"
    return None


def _whole_rows(part: Path) -> Iterator[tuple[list[str], int]]:
    """The rows of a CSV file that are whole, each with the byte at which it ends."""
    end, last = 0, b""
    with part.open("rb") as stream:

        def lines() -> Iterator[str]:
            nonlocal end, last
            for last in stream:
                end += len(last)
                yield last.decode("utf-8", "surrogateescape")

        try:
            for row in csv.reader(lines(), strict=True):
                if not last.endswith(b"\r\n"):
                    return
                yield row, end
        except csv.Error:  # the end of the file within quotes
            return
