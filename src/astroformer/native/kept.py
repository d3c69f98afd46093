"""Built kernels in the cache: what is kept there, which of it may run, and how it is loaded.

A kernel is code that runs as the user, so the cache is not trusted. A file holds a built library and behind it the
SHA-256 of its name and content, and is written in one step: a file that was cut, changed or renamed is noticed. What is
loaded is a copy of the very bytes that were checked, which nobody can change afterwards.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import stat
import tempfile
from pathlib import Path

from astroformer.files import replacing

_DIGEST_BYTES = 32
_LARGEST = 2**26  # bytes; ours have less than a hundredth of that
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def why_not_trusted(folder: Path) -> str | None:
    """Why no kernel of this folder of the cache may be loaded, as half a sentence; None where they may, or if there is
    no such folder yet.

    Nobody but the user and root may write to it or to the cache that it lies in.
    """
    for place in (folder.parent, folder):
        try:
            status = place.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            return f"the cache folder '{place}' can't be looked at: {error.strerror}; set ASTROFORMER_CACHE to another"
        if not stat.S_ISDIR(status.st_mode):
            return f"'{place}' is no folder; set ASTROFORMER_CACHE to one"
        if status.st_uid not in _trusted_users():
            return (
                f"the cache folder '{place}' belongs to another user, who could put other kernels there; set "
                "ASTROFORMER_CACHE to a folder of your own"
            )
        if _others_may_write(status):
            return (
                f"others may write to the cache folder '{place}' and could put other kernels there; `chmod go-w "
                f"'{place}'`, or set ASTROFORMER_CACHE to a folder of your own"
            )
    return None


def read(path: Path) -> bytes | None:
    """The library in a file that `keep` wrote; None where there is none, or one that must not be loaded.

    It must not be where the file is no plain one, belongs to somebody else, can be written by others, or is damaged.
    """
    try:
        # Not waiting, since a pipe in its place would never answer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as stream:
            status = os.fstat(descriptor)
            own = status.st_uid in _trusted_users() and not _others_may_write(status)
            if not stat.S_ISREG(status.st_mode) or not own or status.st_size > _LARGEST:
                return None
            content = stream.read(_LARGEST)
    except OSError:
        return None
    library, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    return library if digest == _digest(path.name, library) else None


def keep(path: Path, library: bytes) -> None:
    """Writes a library for `read`, in a folder that only this user may enter. Processes may write the same at once.

    Raises:
        OSError: it can't be written.
    """
    make_private(path.parent)
    with replacing(path, shared=True, durable=True, private=True) as part:
        part.write_bytes(library + _digest(path.name, library))


def make_private(folder: Path) -> None:
    """Makes a folder in the cache that only this user may enter, where it is not there. Raises `OSError`."""
    folder.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)


def load(library: bytes, name: str) -> ctypes.CDLL:
    """Loads a library out of memory, or out of a private folder where the system can't do that.

    Raises:
        OSError: it can't be loaded.
    """
    try:
        # Stays open for good. The loader knows a library by its path, so a number that is given away a second time
        # would bring this library again in place of another one.
        descriptor = os.memfd_create(name)
        with open(descriptor, "wb", closefd=False) as stream:
            stream.write(library)
        return ctypes.CDLL(f"/proc/self/fd/{descriptor}")
    except (AttributeError, OSError):  # a Python built without it, or a system that forbids it
        with tempfile.TemporaryDirectory() as private:
            path = Path(private) / f"{name}.so"
            path.write_bytes(library)
            return ctypes.CDLL(str(path))


def _digest(name: str, library: bytes) -> bytes:
    """The SHA-256 of a library and of the name of its file, which says what it was built from."""
    return hashlib.sha256(name.encode() + b"\0" + library).digest()


def _trusted_users() -> tuple[int, int]:
    """Whose files may be loaded: root's, who may do anything, and those of the user that this process runs as."""
    return 0, os.geteuid()


def _others_may_write(status: os.stat_result) -> bool:
    """Whether somebody else than its owner may write to a file or folder.

    Not if only a group may that is the user's own one: many systems give each user a group of the same name, and let
    it write to all files.
    """
    if not status.st_mode & _WRITABLE_BY_OTHERS:
        return False
    return bool(status.st_mode & stat.S_IWOTH) or not _is_own_group(status.st_gid)


def _is_own_group(number: int) -> bool:
    import grp  # not on Windows, where there are no kernels
    import pwd

    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(number)
    except KeyError:
        return False
    return group.gr_name == user.pw_name and user.pw_gid == number and set(group.gr_mem) <= {user.pw_name}
