"""Files that are there whole or not at all, and the JSON records that are kept in them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from astroformer.errors import UserError, explained


@contextlib.contextmanager
def replacing(
    path: Path, *, shared: bool = False, durable: bool = False, kept: bool = False, private: bool = False
) -> Iterator[Path]:
    """A place beside `path` to write a file to, which then takes the place of `path` in one step.

    Whoever reads `path` meanwhile, or after a crash, finds the file of before or the new one, never half of one. If the
    block raises, `path` stays as it was. The file has the permissions of any new file, whoever wrote it.

    Args:
        path: of the file that shall be there in the end; its folder exists.
        shared: several processes may write this file at once, so each writes to a name of its own. Otherwise the name
            is `unfinished(path)`, and what a killed process left there is overwritten.
        durable: wait until the content is on the disk before it takes its place.
        kept: what is at `unfinished(path)` already is not emptied, and what is there stays if a signal or the system
            ends the block, so that it can be continued.
        private: others may not write to it, whatever the user lets them do with new files.

    Raises:
        OSError: the system refused something; it names `path`, also where a library wrapped the error.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "answer.txt"
        >>> with replacing(path) as part:
        ...     _ = part.write_text("42")
        >>> path.read_text()
        '42'
    """
    own = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    part = own if shared else unfinished(path)
    try:
        if not kept:
            part.unlink(missing_ok=True)  # of a killed process, with permissions of its own
        part.open("ab").close()
        mode = stat.S_IMODE(part.stat().st_mode) & (~0o022 if private else ~0)
        yield part
        if stat.S_IMODE(part.stat().st_mode) != mode:  # safetensors makes files that other users may not read
            part.chmod(mode)
        if durable:
            with part.open("rb") as stream:
                os.fsync(stream.fileno())
        os.replace(part, path)
    except BaseException as error:
        named = _naming(error, path, part)
        if not (kept and isinstance(named, OSError | KeyboardInterrupt)):
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
        if named is not error:
            raise named from error
        raise


def unfinished(path: Path) -> Path:
    """Where a file is written before it takes its place."""
    return path.with_name(f"{path.name}.part")


def _naming(error: BaseException, path: Path, part: Path) -> BaseException:
    """The error that came up while `part` was written; one of the system says that it is about `path`."""
    found = re.search(r"\(os error ([0-9]+)\)", str(error))  # as libraries in Rust word it, safetensors among them
    if found and not isinstance(error, OSError):
        return OSError(int(found[1]), os.strerror(int(found[1])), str(path))
    if isinstance(error, OSError) and error.errno is not None and error.filename in (None, str(part), part):
        error.filename = str(path)
    return error


def check_readable(path: Path) -> None:
    """Opens a file that a library will read: some call every file that they can't open missing, or damaged.

    Raises:
        UserError: it can't be opened; the message says why.
    """
    try:
        path.open("rb").close()
    except OSError as error:
        raise UserError(explained(error, path) or f"'{path}' can't be read: {error}.") from None


def check_model_is_folder(path: Path) -> None:
    """Raises `UserError` where there is no folder that could be that of a model, or a run that has no model yet."""
    check_is_here(path, "a model folder")
    run = path.parent if path.name == "model" else path
    if not any((place / "config.json").is_file() for place in (path, path / "model")):
        goes_on = f"astroformer train --resume {run}"
        if (run / "run.json").is_file():
            raise UserError(f"run '{run}' is not finished, so it holds no model yet; go on with: {goes_on}")
        if (run / "runs.json").is_file():
            finished = sorted(each.parent.parent for each in run.glob("*/model/config.json"))
            one = f", or name the model of one of them, such as '{finished[0]}'" if finished else ""
            raise UserError(f"'{run}' holds several runs and no model of all; go on with: {goes_on}{one}")
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise UserError(f"'{path}' {what}; a model folder, or a run folder that holds one, is needed.")


def check_is_path(given: object, what: str) -> None:
    """Raises `UserError` where a program gives something else in place of a path, or a path of no letters, which would
    be the current folder.

    Examples:
        >>> import numpy as np
        >>> check_is_path(np.zeros(9), "a source of images")
        Traceback (most recent call last):
            ...
        astroformer.errors.UserError: a source of images is named by a path, as str or Path, not ndarray.
    """
    if not isinstance(given, str | Path):
        raise UserError(f"{what} is named by a path, as str or Path, not {type(given).__name__}.")
    if not str(given).strip():
        raise UserError(f"{what} is named by a path, and the one that is given is empty.")


_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://.*", re.DOTALL)
_URL_OF_PATH = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+:)/+")  # a Path drops one of two slashes
_PASSWORD = re.compile(r"(?<=://)[^/\s'\"]*:[^/\s'\"]*@|(?<=http://)[^/\s'\"]*@|(?<=https://)[^/\s'\"]*@")
_QUERY = re.compile(r"(://[^\s'\"?]*\?)[^\s'\"]+")


def is_url(name: object) -> bool:
    """Whether a text is a name with a scheme, such as `s3://bucket/survey.h5`.

    Examples:
        >>> is_url("https://example.org/field.fits"), is_url("C:/field.fits"), is_url("mock-galaxies:200")
        (True, False, False)
    """
    return _URL.fullmatch(str(name)) is not None


def without_secrets(text: str) -> str:
    """A text whose URLs have no password and no query, which may hold a key or a signature.

    Examples:
        >>> without_secrets("https://me:secret@example.org/field.fits?signature=1f3a is not there")
        'https://…@example.org/field.fits?… is not there'
    """
    return _QUERY.sub(r"\1…", _PASSWORD.sub("…@", text))


def check_is_here(path: str | Path, what: str) -> None:
    """Raises `UserError` where a URL is given for what has to lie on a disk of this machine.

    Examples:
        >>> check_is_here(Path("s3://bucket/model"), "a model")
        Traceback (most recent call last):
            ...
        astroformer.errors.UserError: 's3://bucket/model' is a URL: a model has to lie on this machine.
    """
    url = _URL_OF_PATH.sub(r"\1//", str(path), count=1)
    if _URL_OF_PATH.match(str(path)) and not Path(path).exists():
        raise UserError(f"'{without_secrets(url)}' is a URL: {what} has to lie on this machine.")


def expanded(path: str | Path) -> Path:
    """The path with `~` as the home folder, or as it is where there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def write_json(path: Path, content: Any) -> None:
    """Writes JSON in the place of `path`, see `replacing`."""
    with replacing(path) as part:
        part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_bounded(path: Path, most: int) -> bytes:
    """The content of a regular file of at most `most` bytes.

    Raises:
        UserError: it is a folder, a device or the like, or larger.
        OSError: it can't be read.
    """
    # A named pipe would wait here for whoever writes into it.
    opened = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise UserError(f"'{path}' is no regular file but a folder or a device; bring it back, or start anew.")
    with open(opened, "rb") as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise UserError(
            f"'{path}' has more than the {most / 2**20:g} MiB that such a file may have; bring it back from a copy, or "
            "start anew."
        )
    return content


def read_json(path: Path, most: int = 2**26) -> dict[str, Any]:
    """The JSON object in a file of at most `most` bytes; the largest records list files, and have some MB.

    Raises:
        UserError: the file holds no JSON object, or is larger or nested more deeply than any record.
        OSError: it can't be read.
    """
    try:
        content = parse_json(read_bounded(path, most).decode("utf-8"))
    except UserError:
        raise
    except ValueError as error:  # no JSON, no UTF-8
        raise UserError(f"'{path}' is damaged ({error}); bring it back from a copy, or start anew.") from None
    if not isinstance(content, dict):
        raise UserError(f"'{path}' is damaged (it holds a {type(content).__name__}); bring it back, or start anew.")
    return content


def read_cached_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file of the cache, which is made anew; empty where there is none or it is damaged."""
    try:
        return read_json(path, 2**30) if path.is_file() else {}
    except (OSError, UserError):
        return {}


def parse_json(text: str) -> Any:
    """What a JSON text holds. Raises `ValueError` where it is none, or is such as no record of ours is."""
    try:
        content = json.loads(text, object_pairs_hook=_once_each, parse_int=_whole, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    level = [content]
    for _ in range(_MOST_LEVELS):
        groups = [item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list)]
        level = [item for group in groups for item in group]
    if level:
        raise ValueError("it is nested too deeply")
    return content


_MOST_LEVELS = 32  # of objects and arrays within each other; records have 5


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in pairs:
        if name in made:
            raise ValueError(f"'{name[:200]}' is given twice")
        made[name] = value
    return made


def _whole(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError(f"a number has {len(digits):,} digits")
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits[:20]} is larger than any number")
    return number


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
