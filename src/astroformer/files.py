"""Files that are there whole or not at all, and the JSON records that are kept in them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from astroformer.errors import UserError


@contextlib.contextmanager
def replacing(path: Path, *, shared: bool = False, durable: bool = False) -> Iterator[Path]:
    """A place beside `path` to write a file to, which then takes the place of `path` in one step.

    Whoever reads `path` meanwhile, or after a crash, finds the file of before or the new one, never half of one. If the
    block raises, `path` stays as it was.

    Args:
        path: of the file that shall be there in the end; its folder exists.
        shared: several processes may write this file at once, so each writes to a name of its own. Otherwise the name
            is `path` with `.part` behind it, and what a killed process left there is overwritten.
        durable: wait until the content is on the disk before it takes its place.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "answer.txt"
        >>> with replacing(path) as part:
        ...     _ = part.write_text("42")
        >>> path.read_text()
        '42'
    """
    own = f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part" if shared else f"{path.name}.part"
    part = path.with_name(own)
    try:
        yield part
        if durable:
            with part.open("rb") as stream:
                os.fsync(stream.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any) -> None:
    """Writes JSON in the place of `path`, see `replacing`."""
    with replacing(path) as part:
        part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        UserError: the file holds no JSON object.
        OSError: it can't be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, no UTF-8
        raise UserError(f"'{path}' is damaged ({error}); bring it back from a copy, or start anew.") from None
    if not isinstance(content, dict):
        raise UserError(f"'{path}' is damaged (it holds a {type(content).__name__}); bring it back, or start anew.")
    return content


def read_cached_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file of the cache, which is made anew; empty where there is none or it is damaged."""
    try:
        return read_json(path) if path.is_file() else {}
    except (OSError, UserError, RecursionError):
        return {}


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
