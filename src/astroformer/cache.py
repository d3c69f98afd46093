"""The folder for what the package can make or fetch again: decoded images, compiled kernels, published data sets."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def default_cache() -> Path:
    """`$ASTROFORMER_CACHE` if that is set, else `astroformer` in the platform's folder for caches; it may not exist."""
    chosen = os.environ.get("ASTROFORMER_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "astroformer" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "astroformer"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "astroformer"
