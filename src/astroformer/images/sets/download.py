"""Files fetched from the internet: resumed where they broke off, checked, and put in place whole or not at all.

While a file comes in it is `FILE.part`, and `FILE.part.json` says which answer it is a part of. A finished file is
checked (size, SHA-256 or MD5) and renamed; `checked.json` remembers the state and SHA-256 of files that passed, so
that a large one is hashed once. Processes that want the same folder wait for each other.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import os
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from astroformer.errors import UserError
from astroformer.files import read_cached_json
from astroformer.images.hashes import remember, remembered, state_of

_TIMEOUT = 30.0  # seconds without a byte
ATTEMPTS = 3  # of one address in a row without a byte gained
_PAUSE = 1.0  # seconds before the second attempt, doubled each time
_CHECKED = "checked.json"  # the index of the files of a folder that were checked
_BLOCK = 1 << 18  # bytes read at once
TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})  # HTTP statuses that pass
_OURS = {"User-Agent": "astroformer", "Accept-Encoding": "identity"}  # what every request says


class Listener(Protocol):
    """What shows a person how a download goes; `astroformer.progress.Reporter` is one."""

    def say(self, text: str) -> None: ...

    def transfer(self, name: str, done: int, total: int) -> None:
        """`done` of `total` bytes of the file `name`."""


@dataclass(frozen=True)
class Resource:
    """A file on the internet and how to know it.

    Attributes:
        name: its name on disk.
        urls: where it lies, tried in turn.
        size: bytes; what its authors round them to if `exact` is False.
        sha256, md5: lower-case hexadecimal, as published; None where nobody published one. At least one is given.
    """

    name: str
    urls: tuple[str, ...]
    size: int
    sha256: str | None = None
    md5: str | None = None
    exact: bool = True

    def checksum(self) -> str:
        """The strongest checksum in words."""
        return f"SHA-256 {self.sha256}" if self.sha256 else f"MD5 {self.md5}"


class AddressFailed(Exception):
    """An address does not give the file; the next address is tried."""


class AttemptFailed(Exception):
    """An attempt broke off; the same address is tried again."""


def fetch(resource: Resource, folder: Path, listener: Listener | None = None) -> tuple[Path, str]:
    """The file in `folder`, downloaded if it is not there, and its SHA-256.

    A file that is there, from us or put there by hand, is checked once.

    Raises:
        UserError: no address gives the file, the file that is there is another one, or `folder` can't be written.
    """
    path = folder / resource.name
    known = _checked_before(path)
    if known is not None and resource.sha256 in (None, known):
        return path, known
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with only_process_in(folder, listener):
            if path.is_file():
                wrong, sha256 = _check(path, resource)
                if wrong:
                    raise UserError(f"'{path}' is another file: {wrong}. Remove it, to have it downloaded.")
            else:
                sha256 = _download(resource, path, listener)
            _remember_checked(path, sha256)
    except OSError as error:
        raise refusal_of_disk(error, folder, resource.name, resource.size) from None
    return path, sha256


def refusal_of_disk(error: OSError, folder: Path, name: str, size: int) -> UserError:
    """The error for a folder that can't be written to, or whose disk is full, while `size` bytes come in as `name`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            f"the disk of '{folder}' is full: {name} has {readable_size(size)}. Free some space (what has come in is "
            "kept), or set ASTROFORMER_CACHE to a folder on another disk."
        )
    return UserError(
        f"'{error.filename or folder}' can't be written: {error.strerror or error}. Set ASTROFORMER_CACHE to a folder "
        "that can."
    )


def _download(resource: Resource, path: Path, listener: Listener | None) -> str:
    """Downloads to `path` from the first address that gives the file; its SHA-256."""
    part, failures = path.with_name(path.name + ".part"), []
    for url in resource.urls:
        try:
            for fresh in (False, True):
                if fresh:  # what was resumed may have been the part of another file
                    part.unlink(missing_ok=True)
                resumed = part.is_file() and part.stat().st_size > 0
                transfer(url, resource, part, listener)
                wrong, sha256 = _check(part, resource)
                if not wrong:
                    os.replace(part, path)
                    answer_record(part).unlink(missing_ok=True)
                    return sha256
                part.unlink(missing_ok=True)
                if not resumed:
                    break
            raise AddressFailed(f"sent another file, {wrong}")
        except AddressFailed as failure:
            if resource.exact and part.is_file() and part.stat().st_size > resource.size:
                part.unlink()
            failures.append(f"{url} {failure}")
            if listener is not None:
                listener.say(f"{failures[-1]}")
    known = f"{resource.size:,} bytes, {resource.checksum()}" if resource.exact else resource.checksum()
    raise UserError(
        f"{resource.name} can't be downloaded: {'; '.join(failures)}. Try again later (what has come in is kept), or "
        f"put the file there by hand, as '{path}' ({known})."
    )


def transfer(url: str, resource: Resource, part: Path, listener: Listener | None) -> None:
    """Brings `part` to its full length from one address, in several attempts if need be.

    Raises:
        AddressFailed: the address does not give the file.
        OSError: the disk is full or can't be written.
    """
    attempt = 0
    while True:
        before = part.stat().st_size if part.is_file() else 0
        try:
            _attempt(url, resource, part, listener)
            return
        except urllib.error.HTTPError as error:
            reason = f"answers {error.code} {error.reason}"
            if error.code == 416:  # nothing comes after what is here: it is whole, or another file by now
                if error.headers.get("Content-Range") == f"bytes */{before}":
                    return
                part.unlink(missing_ok=True)
            elif error.code not in TRY_AGAIN:
                raise AddressFailed(reason) from None
        except AttemptFailed as error:
            reason = str(error)
        now = part.stat().st_size if part.is_file() else 0
        attempt = 1 if now > before else attempt + 1
        if attempt >= ATTEMPTS:
            raise AddressFailed(reason)
        pause_after(attempt)


def pause_after(attempt: int) -> None:
    """Waits after so many attempts without success, longer each time."""
    time.sleep(_PAUSE * 2 ** (attempt - 1))


def _attempt(url: str, resource: Resource, part: Path, listener: Listener | None) -> None:
    """One request, from where `part` ends; returns when the answer has come in whole."""
    have = part.stat().st_size if part.is_file() else 0
    if resource.exact and have == resource.size:
        return
    headers = {**_OURS}
    if have:
        headers["Range"] = f"bytes={have}-"
        mark = _mark_of(part, url)
        if mark:  # the rest is sent only if the file is still the same, else all of it
            headers["If-Range"] = mark
    with ask(url, headers) as answer:
        if answer.headers.get_content_type() == "text/html":
            raise AddressFailed("sends a web page in place of the file")
        continued = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if have and not continued:
            if answer.status == 206:
                raise AddressFailed("sends another part than was asked for")
            have = 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length and length.isdecimal() else None
        if resource.exact and total not in (None, resource.size):
            raise AddressFailed(f"sends {total:,} bytes in place of {resource.size:,}")
        expected = total or resource.size
        if shutil.disk_usage(part.parent).free < expected - have:
            raise OSError(errno.ENOSPC, "no space left")
        mark = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
        answer_record(part).write_text(json.dumps({"url": url, "mark": mark}), "utf-8")
        with part.open("ab" if have else "wb") as file:
            while block := _read(answer):
                file.write(block)
                have += len(block)
                if resource.exact and have > resource.size:
                    raise AddressFailed(f"sends more than {resource.size:,} bytes")
                if listener is not None:
                    listener.transfer(resource.name, have, max(expected, have))
    if have < (total if total is not None else resource.size if resource.exact else 0):
        raise AttemptFailed(f"broke off after {have:,} bytes")


def ask(url: str, headers: Mapping[str, str] = _OURS) -> Any:
    """The answer of a server, open.

    Raises:
        HTTPError: the server refuses.
        AttemptFailed: it can't be reached.
    """
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers={**headers}), timeout=_TIMEOUT)
    except urllib.error.HTTPError:
        raise
    except (OSError, http.client.HTTPException) as error:
        cause = getattr(error, "reason", error)
        raise AttemptFailed(f"can't be reached ({getattr(cause, 'strerror', None) or cause})") from None


def _read(answer: Any) -> bytes:
    try:
        block: bytes = answer.read(_BLOCK)
    except http.client.IncompleteRead as error:
        return error.partial  # what is missing is noticed by its length
    except (OSError, http.client.HTTPException) as error:  # of the network: nothing here touches the disk
        raise AttemptFailed(f"broke off ({getattr(error, 'strerror', None) or error})") from None
    return block


def answer_record(part: Path) -> Path:
    """Where it is kept which answer a part came in."""
    return part.with_name(part.name + ".json")


def _mark_of(part: Path, url: str) -> str | None:
    """The strong entity tag, or the date, of the answer that `part` came in, if that was from this address."""
    note = read_cached_json(answer_record(part))
    mark = note.get("mark") if note.get("url") == url else None
    return mark if isinstance(mark, str) and not mark.startswith("W/") else None


# Checks -----------------------------------------------------------------------------------------------------


def _check(path: Path, resource: Resource) -> tuple[str | None, str]:
    """What is wrong with a file, None if nothing, and its SHA-256."""
    size = path.stat().st_size
    if resource.exact and size != resource.size:
        return f"it has {size:,} bytes, not {resource.size:,}", ""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha256.update(block)
            if resource.sha256 is None:
                md5.update(block)
    if resource.sha256 not in (None, sha256.hexdigest()):
        return f"its SHA-256 is {sha256.hexdigest()}, not {resource.sha256}", sha256.hexdigest()
    if resource.sha256 is None and md5.hexdigest() != resource.md5:
        return f"its MD5 is {md5.hexdigest()}, not {resource.md5}", sha256.hexdigest()
    return None, sha256.hexdigest()


def _checked_before(path: Path) -> str | None:
    """SHA-256 of a file that has been checked and has not changed since."""
    state, sha256 = remembered(path.parent / _CHECKED).get(path.name, ["", ""])
    return sha256 if state and state == state_of(path) else None


def _remember_checked(path: Path, sha256: str) -> None:
    memory = path.parent / _CHECKED
    if state := state_of(path):
        with suppress(OSError):  # then it is checked again
            remember(memory, {**remembered(memory), path.name: [state, sha256]})


@contextmanager
def only_process_in(folder: Path, listener: Listener | None) -> Iterator[None]:
    """Lets one process at a time into its block; the lock ends with the process that holds it."""
    try:
        lock = (folder / ".lock").open("w")
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EROFS):
            raise
        yield  # nobody writes here, so that what is there can be checked
        return
    with lock as file:
        if not _lock(file, wait=False):
            if listener is not None:
                listener.say(f"another process is downloading to '{folder}'; waiting for it")
            while not _lock(file, wait=True):
                pass
        yield


def _lock(file: IO[str], *, wait: bool) -> bool:
    """Locks an open file until it is closed; False if another process has it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            return True  # a file system without locks: two downloads at once are checked all the same
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            return False
        raise
    return True


def readable_size(size: int) -> str:
    """ "1.25 GB", "3.5 MB"."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
