"""What lies at a URL, and how it is read: one file of a web server, or a file or folder on a file system of fsspec."""

from __future__ import annotations

import errno
import json
import os
import shutil
import urllib.error
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from astroformer.files import without_secrets
from astroformer.images.hashes import hash_text
from astroformer.images.sets.download import (
    ATTEMPTS,
    TRY_AGAIN,
    AddressFailed,
    AttemptFailed,
    Listener,
    Resource,
    answer_record,
    ask,
    pause_after,
    transfer,
)

WEB = ("https", "http")  # schemes that are read with Python alone
_PIECE = 1 << 23  # bytes that are asked for at once of one file
_PIECES = 64  # that are asked for together, where the file system can
_TOGETHER = 1 << 26  # bytes of these
# What the file systems of fsspec call what tells two versions of a file apart, in lower case.
_CHECKSUMS = {"etag", "md5hash", "content_md5", "crc32c", "checksum", "sha", "blob_id", "generation", "versionid"}
_TIMES = {"last_modified", "lastmodified", "modified", "modify", "mtime", "modificationtime", "updated", "created"}


@dataclass(frozen=True)
class Found:
    """What lies at a URL.

    Attributes:
        version: a hash of what the server says of it.
        files: bytes of each file of a folder, by its path in that; of a single file by "".
        dated: whether the server says what changes with the content.
    """

    version: str
    files: Mapping[str, int]
    dated: bool

    @property
    def size(self) -> int:
        return sum(self.files.values())


class Unreachable(Exception):
    """The server does not answer, or in a way that may pass; the reason as a clause."""


class Refused(Exception):
    """The server says that it does not give this; the reason as a clause."""


class Place(Protocol):
    """A URL and how it is read. All raise `Unreachable` and `Refused`."""

    def look(self) -> Found: ...

    def copy(self, found: Found, to: Path, listener: Listener | None) -> None:
        """Brings what was found to a place, where a part of it may lie already. Raises `OSError` of the disk alone."""


class _Http:
    """One file on a web server."""

    def __init__(self, url: str) -> None:
        self.url = urllib.parse.quote(url, safe="%/:=&~+!$,;'@()[]#")  # umlauts and spaces are no part of a URL

    def look(self) -> Found:
        try:
            with ask(self.url) as answer:  # and hang up: not every server knows HEAD
                headers = answer.headers
        except urllib.error.HTTPError as error:
            said = f"its server answers {error.code} {error.reason}"
            raise (Unreachable if error.code in TRY_AGAIN else Refused)(said) from None
        except AttemptFailed as error:
            raise Unreachable(f"it {error}") from None
        length = headers.get("Content-Length", "")
        if headers.get_content_type() == "text/html":
            raise Refused("its server sends a web page; name one file, since web servers list no folders")
        if not length.isdecimal():
            raise Refused("its server does not say how many bytes it has, so nobody could tell whether all came")
        if not int(length):
            raise Refused("it is empty")
        facts = [headers.get("ETag"), headers.get("Last-Modified")]
        return Found(hash_of(facts, length), {"": int(length)}, any(facts))

    def copy(self, found: Found, to: Path, listener: Listener | None) -> None:
        try:
            transfer(self.url, Resource(to.name, (self.url,), found.size), to, listener)
        except AddressFailed as error:
            raise Unreachable(f"its server {error}") from None
        answer_record(to).unlink(missing_ok=True)


class _FileSystem:
    """A file or folder on a file system of fsspec."""

    def __init__(self, url: str) -> None:
        import fsspec

        self.fs, path = fsspec.core.url_to_fs(url)
        self.path = path.rstrip("/")

    def look(self) -> Found:
        with _failures_of_a_file_system():
            self.fs.invalidate_cache()
            info = self.fs.info(self.path)
            folder = info["type"] == "directory"
            listed = self.fs.find(self.path, detail=True) if folder else {self.path: info}
        infos = {name[len(self.path) + 1 :]: listed[name] for name in sorted(listed)}
        if folder:  # object stores may have an object without content for a folder, called as that with a slash
            infos = {name: one for name, one in infos.items() if one["size"] or (name and not name.endswith("/"))}
        for name, info in infos.items():
            if not isinstance(info["size"], int):
                raise Refused(f"its server does not say how many bytes '{name or self.path}' has")
            if folder and any(part in ("", ".", "..") or "\0" in part for part in name.split("/")):
                raise Refused(f"it holds '{name}', which can't be the name of a file here")
        if not infos:
            raise Refused("it is a folder without files")
        sizes = {name: info["size"] for name, info in infos.items()}
        facts = {name: _facts(info) for name, info in infos.items()}
        return Found(hash_of(facts, sizes), sizes, all(facts.values()))

    def copy(self, found: Found, to: Path, listener: Listener | None) -> None:
        done, waiting = 0, list[tuple[str, int, int]]()
        for name, size in found.files.items():
            file = to / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
            here = file.stat().st_size
            if here > size:
                os.truncate(file, 0)
                here = 0
            done += here
            waiting += [(name, start, min(start + _PIECE, size)) for start in range(here, size, _PIECE)]
        if shutil.disk_usage(to.parent).free < found.size - done:
            raise OSError(errno.ENOSPC, "no space left")
        while waiting:
            n, size = 0, 0
            while n < min(_PIECES, len(waiting)) and size + waiting[n][2] - waiting[n][1] <= _TOGETHER:
                size += waiting[n][2] - waiting[n][1]
                n += 1
            for (name, _, _), content in zip(waiting[:n], self._read(waiting[:n]), strict=True):
                with (to / name).open("ab") as stream:
                    stream.write(content)
            del waiting[:n]
            done += size
            if listener is not None:
                listener.transfer(to.name, done, found.size)

    def _read(self, pieces: Sequence[tuple[str, int, int]]) -> list[bytes]:
        """The content of pieces, (file, first byte, end); those that break off are asked for again."""
        read: dict[int, bytes] = {}
        attempt = 0
        while True:
            missing = [i for i in range(len(pieces)) if i not in read]
            asked = [pieces[i] for i in missing]
            why = "it broke off"
            with _failures_of_a_file_system():
                paths = [f"{self.path}/{name}" if name else self.path for name, _, _ in asked]
                answers = self.fs.cat_ranges(paths, [piece[1] for piece in asked], [piece[2] for piece in asked])
            for i, (name, start, end), answer in zip(missing, asked, answers, strict=True):
                try:
                    if isinstance(answer, BaseException):
                        with _failures_of_a_file_system():
                            raise answer
                except Unreachable as error:
                    why = str(error)
                    continue
                if len(answer) == end - start:
                    read[i] = answer
                else:
                    why = f"it sends {len(answer):,} bytes in place of {end - start:,} of '{name or self.path}'"
            if len(read) == len(pieces):
                return [read[i] for i in range(len(pieces))]
            attempt = attempt + 1 if len(asked) == len(pieces) - len(read) else 1
            if attempt >= ATTEMPTS:
                raise Unreachable(why)
            pause_after(attempt)


@contextmanager
def _failures_of_a_file_system() -> Iterator[None]:
    """What the packages raise, each in its own way, as what it means."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise Refused("nothing is there") from None
    except PermissionError as error:
        raise Refused(f"it may not be read ({_said(error)})") from None
    except (NotImplementedError, TypeError, ValueError) as error:
        raise Refused(f"it can't be read ({_said(error)})") from None
    except (MemoryError, AssertionError):
        raise
    except Exception as error:  # no network, no answer in time, no credentials
        raise Unreachable(f"it can't be reached ({_said(error)})") from None


def _said(error: BaseException) -> str:
    """What an error says, in one line and without keys."""
    words = " ".join(without_secrets(str(error)).split())
    return (words if len(words) <= 300 else f"{words[:300]}…") or type(error).__name__


def _facts(info: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: str(info[name]) for name in sorted(info) if name.lower() in _CHECKSUMS | _TIMES and info[name] is not None
    }


def hash_of(*facts: object) -> str:
    """16 hexadecimal digits of the hash of what JSON can keep."""
    return hash_text(json.dumps(facts, sort_keys=True)).hex()[:16]


def opened(url: str) -> Place:
    """What reads a URL that `remote.check_url` lets pass. Raises `Unreachable` and `Refused`."""
    scheme, _, rest = url.partition("://")
    if scheme.lower() in WEB:
        return _Http(url)
    with _failures_of_a_file_system():
        return _FileSystem(f"{scheme.lower()}://{rest}")


def look(place: Place, attempts: int) -> Found:
    """What lies there now, asked for several times if need be. Raises `Unreachable` and `Refused`."""
    for attempt in range(1, attempts):
        try:
            return place.look()
        except Unreachable:
            pause_after(attempt)
    return place.look()
