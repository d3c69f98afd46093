"""One owner at a time for a folder or a file that a process writes.

The owner holds a lock of the operating system on a small file, which is freed whenever the process ends, however that
happens. The file names the process and its host: a second start says who the owner is. On a disk without such locks,
the file alone decides: its owner is gone if it names a process of this host that has ended.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from astroformer.errors import UserError

LOCK = ".lock"
"""Name of the file in a folder that has an owner, or that was left by an owner that was killed."""
_held: dict[Path, int] = {}  # by lock file: its open descriptor


class InUse(UserError):
    """Another process is the owner."""


def take(place: Path, *, patience: float = 0.0) -> None:
    """Makes this process the owner of a folder, or of an output that is yet to be written.

    Args:
        place: an existing folder, whose lock lies in it; or the path of a file, or of a folder to come, whose lock
            lies beside it.
        patience: seconds to wait for another owner that is about to end.

    Raises:
        InUse: another process, or another thread of this one, is the owner.
        OSError: the lock can't be written.
    """
    end = time.monotonic() + patience
    while (owner := _owner_unless_taken(_lock_of(place))) is not None:
        if time.monotonic() >= end:
            raise InUse(f"'{place}' is in use by {owner}.")
        time.sleep(0.1)


def release(place: Path) -> None:
    """Ends the ownership of this process, if it has it. Nothing happens if it has not."""
    for file in (_in(place), _beside(place)):  # an output may have become a folder since it was taken
        descriptor = _held.pop(file, None)
        if descriptor is not None:
            with contextlib.suppress(OSError):
                file.unlink()  # before the lock is freed: who takes it then sees that its file is gone, and looks again
            os.close(descriptor)


def is_held(place: Path) -> bool:
    """Whether this process is the owner."""
    return not _held.keys().isdisjoint((_in(place), _beside(place)))


@contextlib.contextmanager
def owned(place: Path) -> Iterator[None]:
    """Within it this process is the owner, see `take`."""
    take(place)
    with released(place):
        yield


@contextlib.contextmanager
def released(place: Path) -> Iterator[None]:
    """Releases a place that this process owns when the block ends."""
    try:
        yield
    finally:
        release(place)


def _in(place: Path) -> Path:
    return place.resolve() / LOCK


def _beside(place: Path) -> Path:
    resolved = place.resolve()
    return resolved.with_name(f".{resolved.name}{LOCK}")


def _lock_of(place: Path) -> Path:
    return _in(place) if place.is_dir() else _beside(place)


def _owner_unless_taken(file: Path) -> str | None:
    """Takes the lock and gives None; or who has it, in words."""
    if file in _held:
        return f"this process, {os.getpid()}"
    while True:
        made = True
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            made = False
            try:
                descriptor = os.open(file, os.O_RDWR)
            except FileNotFoundError:  # its owner has just ended
                continue
        locked = _lock(descriptor)
        if locked is not False and not _is_open(descriptor, file):  # its owner has ended and removed it meanwhile
            os.close(descriptor)
            continue
        if locked or (locked is None and made):
            break
        who = os.read(descriptor, 300).decode("utf-8", "replace").strip() or "another process"
        os.close(descriptor)
        if locked is False:
            return f"{who}; wait for it, or stop it"
        if not _has_ended(who):
            return f"{who}; wait for it, or stop it. If it is gone, remove '{file}'"
        file.unlink(missing_ok=True)
    os.ftruncate(descriptor, 0)
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    os.write(descriptor, f"process {os.getpid()} on {platform.node()}, since {started}\n".encode())
    _held[file] = descriptor
    return None


def _lock(descriptor: int) -> bool | None:
    """Whether the lock of an open file is ours now; None where the disk has no locks."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(descriptor, 1 << 30, os.SEEK_SET)  # behind the text, which others may read then
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            os.lseek(descriptor, 0, os.SEEK_SET)
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # no such locks on this disk
        return None
    return True


def _is_open(descriptor: int, file: Path) -> bool:
    """Whether the open file is still the one at its path."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(file))
    except FileNotFoundError:
        return False


def _has_ended(who: str) -> bool:
    """Whether a process, as `_owner_unless_taken` writes it, has certainly ended."""
    found = re.match(r"process ([0-9]+) on (.*), since ", who)
    if found is None or found[2] != platform.node() or sys.platform == "win32":
        return False
    try:
        os.kill(int(found[1]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False
