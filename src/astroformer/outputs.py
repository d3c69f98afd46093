"""Where a command writes: never over what it reads, over what was there when asked to, and with one owner meanwhile."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from astroformer import ownership
from astroformer.errors import UserError
from astroformer.files import check_is_here, expanded, unfinished

Inputs = Iterable[str | Path | None]


def numbered(path: Path, suffix: str = "") -> Iterator[Path]:
    """`runs/galaxies-1`, `runs/galaxies-2`, … of `runs/galaxies`, with the `suffix` behind each.

    Examples:
        >>> [path.name for path, _ in zip(numbered(Path("predictions"), ".csv"), range(2))]
        ['predictions-1.csv', 'predictions-2.csv']
    """
    for number in itertools.count(1):
        yield path.with_name(f"{path.name}-{number}{suffix}")


def make_folder(path: Path) -> list[Path]:
    """Makes a folder and those above it that are missing; which were made, the deepest first.

    Raises:
        UserError: it can't be made.
    """
    check_is_here(path, "what a command writes")
    made: list[Path] = []
    for folder in (path, *path.parents):
        if folder.exists():
            break
        made.append(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UserError(f"folder '{path}' can't be made: it is a file. Choose another name.") from None
    except OSError as error:
        raise UserError(f"folder '{path}' can't be made: {error.strerror}. Choose another name.") from None
    return made


def remove_empty(folders: Iterable[Path]) -> None:
    """Removes those of the folders that are empty, the deepest first."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


@contextlib.contextmanager
def output_file(path: Path | None, default: str, *, inputs: Inputs, overwrite: bool) -> Iterator[Path]:
    """The path of a file that a command may write while this process is its owner.

    Args:
        path: that the user gave; without it the first numbered `default` that is free.
        inputs: files and folders that the command reads, as the user named them.
        overwrite: whether a file that is there may be replaced.

    Raises:
        UserError: the file is an input, exists, or another process writes it.
    """
    if path is None:
        path = _first_free(Path(default))
    else:
        check_is_here(path, "what a command writes")
        if path.is_dir():
            raise UserError(f"'{path}' can't be written: it is a folder. Choose the name of a file in it.")
        if not path.parent.is_dir():
            raise UserError(f"'{path}' can't be written: folder '{path.parent}' does not exist.")
        _refuse_inputs([path], inputs)
        ownership.take(path)
    with ownership.released(path):
        if path.exists() and not overwrite:
            raise _exists(path)
        yield path


@dataclass(frozen=True)
class ResultFolder:
    """A folder of results that is being made.

    Attributes:
        place: where the results are in the end.
        folder: where to write them.
    """

    place: Path
    folder: Path


@contextlib.contextmanager
def output_folder(
    path: Path | None, default: str, *, names: Sequence[str], model: str | Path, source: str | None, overwrite: bool
) -> Iterator[ResultFolder]:
    """A folder that a command writes results into; they come to their place when the block ends without an error.

    Args:
        path: that the user gave; without it the first numbered `default` that is free.
        names: of the files that the command may write into it. Of a folder that is there, only these are replaced.
        model, source: what the command reads, as the user named it.
        overwrite: whether files that are there may be replaced.

    Raises:
        UserError: the folder or a file in it is an input, or lies inside the images; there are results already; or
            another process writes them.
    """
    made: list[Path] = []
    if path is None:
        refuse_inside(Path(default), [source])
        place = _first_free(Path(default))
    else:
        if path.exists() and not path.is_dir():
            raise UserError(f"folder '{path}' can't be made: it is a file. Choose another name.")
        place = path.resolve()  # a link to a folder, or `.`
        _refuse_inputs([place, *(place / name for name in names)], [model, source])
        refuse_inside(path, [source])
        made = make_folder(place.parent)
        ownership.take(place)
    shown, folder = path or place, place.with_name(f".{place.name}.part")
    try:
        with ownership.released(place):
            if place.is_dir() and not overwrite and any(entry.name != ownership.LOCK for entry in place.iterdir()):
                raise _exists(shown)
            try:
                shutil.rmtree(folder, ignore_errors=True)  # that a killed process left
                folder.mkdir()
                yield ResultFolder(shown, folder)
                _move(folder, place, names)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    except BaseException as error:
        remove_empty(made)
        if isinstance(error, OSError) and error.filename and Path(error.filename).is_relative_to(folder):
            error.filename = str(shown / Path(error.filename).relative_to(folder))
        raise


def _move(folder: Path, place: Path, names: Sequence[str]) -> None:
    """Brings results to their place: as a whole where nothing is there yet."""
    if not place.exists():
        folder.rename(place)
        return
    for name in names:
        if (folder / name).exists():
            os.replace(folder / name, place / name)
        else:  # of the results before, and not of these
            (place / name).unlink(missing_ok=True)


def _first_free(path: Path) -> Path:
    """The first numbered path at which there is nothing, finished or not, and which nobody else writes; now we do."""
    for candidate in numbered(path.with_suffix(""), path.suffix):
        if candidate.exists() or unfinished(candidate).exists():
            continue
        with contextlib.suppress(ownership.InUse):
            ownership.take(candidate)
            if not candidate.exists():
                return candidate
            ownership.release(candidate)
    raise AssertionError("numbers do not end")


def _exists(path: Path) -> UserError:
    what = "holds files already" if path.is_dir() else "exists already"
    return UserError(f"'{path}' {what}; choose another --out, or replace what is there with --overwrite.")


def _refuse_inputs(outputs: Sequence[Path], inputs: Inputs) -> None:
    """Raises a UserError if one of the outputs is one of the inputs, however either is spelled."""
    for given in inputs:
        read = None if given is None else _existing(str(given))
        for output in outputs:
            if read is not None and output.exists() and os.path.samefile(read, output):
                raise UserError(
                    f"'{output}' is what this command reads ('{given}'), so it is not written to; choose another --out."
                )


def refuse_inside(output: Path, sources: Inputs) -> None:
    """Raises a UserError if a folder with pictures in it is to be made inside a folder of images: it would be taken for
    a class, or its pictures for images, by whoever reads that folder next."""
    for given in sources:
        read = None if given is None else _existing(str(given))
        if read is not None and read.is_dir() and output.resolve().is_relative_to(read.resolve()):
            raise UserError(
                f"'{output}' would lie inside '{given}', and be taken for images of it from then on; choose an --out "
                "elsewhere."
            )


def _existing(source: str) -> Path | None:
    """The file or folder that a source names, with options behind it or without; None if there is none."""
    while source:
        try:
            path = expanded(source)
            if path.exists():
                return path
        except (OSError, ValueError):  # no name of a file
            return None
        source = source.rpartition("@")[0]
    return None
