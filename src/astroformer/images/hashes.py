"""Digests of what images contain: of bytes, of arrays and of files, with a memory of files that did not change.

A digest is 16 bytes of BLAKE2b (RFC 7693). Digests decide which entry of the store belongs to a source and whether a
run may be resumed, so the bytes that they are made of must stay the same from version to version.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from astroformer.files import read_cached_json, replacing
from astroformer.images.reading import Array, why_never_read

# Nanoseconds that must have passed since a file last changed before its digest is remembered: FAT counts in 2 s.
_SETTLED_AFTER = 2_000_000_000


def new_hash() -> hashlib.blake2b:
    """A hash object whose digest has 16 bytes."""
    return hashlib.blake2b(digest_size=16)


def hash_bytes(data: bytes | memoryview) -> bytes:
    """The digest of these bytes."""
    return hashlib.blake2b(data, digest_size=16).digest()


def hash_text(text: str) -> bytes:
    """The digest of a text, encoded as UTF-8."""
    return hash_bytes(text.encode())


def hash_array(array: Array) -> bytes:
    """The digest of an array's shape, type and values."""
    return hash_bytes(f"{array.shape} {array.dtype}".encode() + hash_bytes(np.ascontiguousarray(array).data))


def hash_files(paths: Sequence[str], cache: Path | None = None) -> Iterator[bytes]:
    """The digest of each file's whole content, in the order of `paths`.

    A file that can't be read has a digest of its own, which changes once the file can be read.

    Args:
        cache: folder in which digests are remembered. A file is hashed again only if its inode, its size or one of its
            times of change differs from what is remembered. Without a folder every file is hashed.
    """
    return _hash_files_at_once(paths) if cache is None else _hash_changed_files(paths, cache)


def _hash_file(path: str) -> bytes:
    try:
        if (why := why_never_read(os.stat(path))) is not None:
            return hash_text(f"unreadable: {why}")
        with open(path, "rb") as file:
            return hashlib.file_digest(file, new_hash).digest()
    except OSError as error:
        return hash_text(f"unreadable: {error.strerror}")
    except ValueError:  # a NUL in its name
        return hash_text("unreadable: its name can't be one of a file")


def _hash_files_at_once(paths: Sequence[str]) -> Iterator[bytes]:
    """Hashes several files at a time: hashing releases Python's lock."""
    batches = [paths[start : start + 256] for start in range(0, len(paths), 256)]
    with ThreadPoolExecutor() as pool:
        for digests in pool.map(lambda batch: [_hash_file(path) for path in batch], batches):
            yield from digests


def _hash_changed_files(paths: Sequence[str], cache: Path) -> Iterator[bytes]:
    """The digests of all files: of unchanged ones from `cache/hashes`, where each folder of files has an index."""
    places = [os.path.split(os.path.abspath(path)) for path in paths]
    known = {folder: remembered(_index_of(folder, cache)) for folder in {folder for folder, _ in places}}
    settled = time.time_ns() - _SETTLED_AFTER
    states = [state_of(path, settled) for path in paths]
    new = [
        j
        for j, ((folder, name), state) in enumerate(zip(places, states, strict=True))
        if not state or known[folder].get(name, [""])[0] != state
    ]
    changed: set[str] = set()
    fresh = dict(zip(new, _hash_files_at_once([paths[j] for j in new]), strict=True))
    for j, digest in fresh.items():
        folder, name = places[j]
        if states[j]:
            known[folder][name] = [states[j], digest.hex()]
            changed.add(folder)
    for folder in changed:
        with contextlib.suppress(OSError):  # without its memory the next run is only slower
            remember(_index_of(folder, cache), known[folder])
    for j, (folder, name) in enumerate(places):
        yield fresh[j] if j in fresh else bytes.fromhex(known[folder][name][1])


def _index_of(folder: str, cache: Path) -> Path:
    return cache / "hashes" / f"{hash_bytes(os.fsencode(folder)).hex()}.json"


def remembered(index: Path) -> dict[str, list[str]]:
    """What `remember` wrote; empty where there is nothing, or where the index is damaged in any way."""
    content = read_cached_json(index)
    files: Any = content.get("files", {})
    return files if content.get("digest") == _digest_of(files) else {}


def remember(index: Path, files: dict[str, list[str]]) -> None:
    """Writes an index: by the name of each file what `state_of` said of it, and its digest.

    Raises:
        OSError: it can't be written.
    """
    index.parent.mkdir(parents=True, exist_ok=True)
    with replacing(index, shared=True) as part:
        part.write_text(json.dumps({"files": files, "digest": _digest_of(files)}), "utf-8")


def _digest_of(files: Any) -> str:
    return hash_text(json.dumps(files, sort_keys=True)).hex()


def state_of(path: str | Path, settled: int | None = None) -> str:
    """What changes with a file's content: inode, size, and the times when content and metadata last changed.

    No program can set the last of these times. The state is "" for a file that changed after `settled` (ns; by default
    just now) or that can't be looked at: some disks count time in coarse ticks, and a second change within one tick
    would leave the state as it was.
    """
    if settled is None:
        settled = time.time_ns() - _SETTLED_AFTER
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return ""
    if max(status.st_mtime_ns, status.st_ctime_ns) > settled:
        return ""
    return f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
