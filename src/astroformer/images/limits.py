"""What an image may be before it is decoded: a regular file, not too large, and one large one at a time."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from typing import Any

import numpy as np

from astroformer.errors import UserError

Array = np.ndarray[Any, np.dtype[Any]]

MAX_PIXELS = 89_478_485
"""Largest image decoded, in pixels (Pillow's own limit, 256 MiB of RGB): a few bytes can claim any size."""

MAX_BYTES = 300_000_000
"""Largest image decoded, in bytes of pixels: its bands and bits count too."""

MAX_FILE = 1 << 30
"""Bytes of a file that are read at most."""

# Bytes of a file or of its pixels from which an image is large. Only one large image is decoded at a time, so that many
# threads need no more memory than one.
_LARGE = 100_000_000
_large_images = threading.RLock()


class UnreadableImage(UserError):
    """One image could not be decoded. `file` says which, `reason` why (without the file's name)."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"cannot read the image '{file}': {reason}.")
        self.file = file
        self.reason = reason

    def __reduce__(self) -> tuple[type[UnreadableImage], tuple[str, str]]:
        return type(self), (self.file, self.reason)


class Refused(Exception):
    """The reason why a file is not decoded. It becomes an `UnreadableImage` where the file's name is known."""


def why_never_read(status: os.stat_result) -> str | None:
    """Why a file of this kind and size is not even opened: a pipe may wait for ever, a device may have no end."""
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        return f"it is {kinds.get(stat.S_IFMT(status.st_mode), 'a device')} and no file"
    return f"its file has {status.st_size:,} bytes, more than {MAX_FILE:,}" if status.st_size > MAX_FILE else None


def one_at_a_time(size: int) -> contextlib.AbstractContextManager[object]:
    """What is entered to handle so many bytes of a file or an image: a lock where they are many."""
    return _large_images if size > _LARGE else contextlib.nullcontext()


def check_size(width: int, height: int, bands: int, sample: int) -> int:
    """The bytes that so many pixels take, with samples of so many bytes, unless they are too many."""
    if width < 1 or height < 1:
        raise Refused(f"it has no pixels ({width}×{height})")
    if width * height > MAX_PIXELS:
        raise Refused(f"{width}×{height} is more than {MAX_PIXELS} pixels; cut it into smaller images")
    size = width * height * bands * sample
    if size > MAX_BYTES:
        raise Refused(
            f"{width}×{height} pixels of {bands} bands and {8 * sample} bits take {size:,} bytes, more than "
            f"{MAX_BYTES:,}; cut it into smaller images"
        )
    return size
