"""The file in which a store keeps its images: its first bytes, its digest, and whether it is still what was written.

This package never writes to a file that stands in its place: it renames another one over it, which leaves a map of the
old one as it was. Where another program writes to it in place, the map shows what is written; where it cuts the file,
reading ends the process.
"""

from __future__ import annotations

import hashlib
import json
import os
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from astroformer.errors import UserError
from astroformer.images.hashes import hash_text, new_hash

HEADER_BYTES = 128  # of the .npy file: fixed, so that the number of rows can be written when it is known


def header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Header of a .npy file, version 1.0 (numpy.lib.format), padded to `HEADER_BYTES` whatever the shape."""
    text = f"{{'descr': '{np.lib.format.dtype_to_descr(dtype)}', 'fortran_order': False, 'shape': {shape}, }}"
    length = HEADER_BYTES - 10
    return b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little") + text.encode("latin1").ljust(length - 1) + b"\n"


def digest_of(rows: str, failed: list[tuple[int, str]]) -> str:
    """The digest of an entry, made of that of its rows and, where there are any, of its failures."""
    return hash_text(rows + json.dumps(failed)).hex() if failed else rows


class ArrayFile:
    """The file of an entry while it is mapped, to notice when somebody else writes to it.

    Args:
        path: where it stands.
        file: the same, open.
        failed: of the entry, see `digest_of`.
        digest: of the entry.
    """

    def __init__(self, path: Path, file: BufferedReader, failed: list[tuple[int, str]], digest: str) -> None:
        self._path, self._failed, self._digest = path, failed, digest
        self._state = file_state(os.fstat(file.fileno()))

    def is_whole(self, file: BufferedReader) -> bool:
        """Whether the file, given open, holds what was written. All of it is read: a second a GB."""
        file.seek(HEADER_BYTES)
        return digest_of(hashlib.file_digest(file, new_hash).hexdigest(), self._failed) == self._digest

    def check(self) -> None:
        """Raises `UserError` if somebody has changed what is mapped. Costs nothing while nobody has touched it."""
        try:
            now = file_state(self._path.stat())
            if now == self._state or now[0] != self._state[0]:
                return  # nobody did, or another file stands there now, and ours is kept by the map
            with self._path.open("rb") as file:
                same = now[1] == self._state[1] and self.is_whole(file)
        except OSError:  # it was removed, and is kept by the map
            return
        if not same:
            raise UserError(
                f"another program has changed '{self._path}' while images were read from it, so what was learned since "
                "may be wrong. Begin the run anew, or resume it if its checkpoint is older than that; the images are "
                "decoded anew then."
            )
        self._state = now  # only its time was set


def file_state(status: os.stat_result) -> tuple[int, int, int]:
    """What changes when a file is written to, or when another one takes its place."""
    return status.st_ino, status.st_size, status.st_mtime_ns
