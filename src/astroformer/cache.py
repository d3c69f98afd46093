"""The folder for what the package can make or fetch again: decoded images, compiled kernels, published data sets."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from astroformer.errors import UserError


def default_cache() -> Path:
    """`$ASTROFORMER_CACHE` if that is set, else `astroformer` in the platform's folder for caches; it may not exist.

    Where there is no home folder it is a temporary one, which ends with this process.
    """
    try:
        chosen = os.environ.get("ASTROFORMER_CACHE")
        if chosen:
            return Path(chosen).expanduser()
        if sys.platform == "win32":
            return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "astroformer" / "Cache"
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "astroformer"
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "astroformer"
    except RuntimeError:  # no HOME, and no such user in the system's list
        return temporary_cache()


_temporary: list[tempfile.TemporaryDirectory[str]] = []  # at most one, which lives as long as the process


def temporary_cache() -> Path:
    """A folder that this process alone may read, and that is removed when it ends."""
    if not _temporary:
        _temporary.append(tempfile.TemporaryDirectory(prefix="astroformer-", ignore_cleanup_errors=True))
    return Path(_temporary[0].name)


def is_temporary(cache: Path) -> bool:
    """Whether a cache ends with this process."""
    return any(cache == Path(kept.name) for kept in _temporary)


def usable_cache(cache: Path) -> tuple[Path, str | None]:
    """A cache that can be written to: the given one or, where that can't be, a temporary one and a sentence about it.

    Raises:
        UserError: there is no place for a temporary one either.
    """
    why = "there is no home folder"
    if not is_temporary(cache):
        try:
            folder = cache.expanduser()
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder, None
        except (OSError, RuntimeError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            reason = "it is no folder" if isinstance(error, FileExistsError) else reason
            why = f"the cache '{cache}' can't be written ({reason})"
    try:
        return temporary_cache(), f"{why}: decoded images are kept in a temporary folder, for this process alone"
    except OSError as error:
        raise UserError(
            f"{why}, and there can be no temporary one ({error.strerror or error}). Set ASTROFORMER_CACHE to a folder "
            "that can be written."
        ) from None
