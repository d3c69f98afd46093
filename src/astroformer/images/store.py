"""Decode every image once, into one array on disk that all later runs map into memory.

A store is a folder `CACHE/<key>/` with `array.npy`, the images (N, C, H, W) that could be read, `digests.npy`, 64 bits
of the hash of each one's pixels, and `meta.json`. The key is a hash of what the images contain and of the settings that
shape the array, so an entry never goes stale. It is written under a temporary name and renamed when it is complete:
there is no half-made entry. Whoever opens it hashes all of it (a second a GB): one that is damaged is decoded anew.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroformer.errors import UserError
from astroformer.files import expanded, read_cached_json
from astroformer.images.array_file import HEADER_BYTES, ArrayFile, digest_of, header
from astroformer.images.copies import Digests, pixel_digest
from astroformer.images.hashes import hash_bytes, hash_text, new_hash
from astroformer.images.labelled import LabelledImages
from astroformer.images.preprocessing import Preprocessing
from astroformer.images.reading import Array, UnreadableImage
from astroformer.system import usable_cores

_FORMAT = 1  # raise it when reading or preprocessing changes what it makes of the same file
_CHUNK = 16  # images a task: large enough that handing it to a thread costs nothing
_ABANDONED_AFTER = 24 * 3600  # seconds until a temporary folder counts as left by a crash


class _Row(NamedTuple):
    """A finished image (C, H, W), the digest of its pixels, and the share of its values that were filled in."""

    pixels: Array
    digest: int
    filled: float


class Filled(NamedTuple):
    """How many images lacked values that were filled in, which share of the values of these images, and which of the
    one that lacked most: 0 in entries of before, which do not know it."""

    images: int = 0
    share: float = 0.0
    most: float = 0.0


class _Entry(NamedTuple):
    """What an entry on disk holds: images (M, C, H, W), digests (M,), and (position, reason) of those left out."""

    base: NDArray[Any]
    digests: Digests
    failed: list[tuple[int, str]]
    array_file: ArrayFile
    filled: Filled


@dataclass(frozen=True)
class ImageStore:
    """N decoded images with their labels. Made by `build`.

    Attributes:
        base: the array of the whole entry, (M, C, H, W) uint8, float16 or float32, mapped read-only from disk.
        rows: (N,) int64, which row of `base` image i is.
        files: N names, as in `LabelledImages`.
        classes: class names.
        indices: (N,) int64, positions in the `LabelledImages` that the store was built from.
        failures: (file, reason) of the images of that source that could not be read.
        preprocessing: what was applied.
        folder: the entry on disk.
        reused: whether the entry was there already, so that nothing was decoded.
        array_file: the file that `base` is a map of.
        votes_NK: (N, K) float64, the shares of votes, as in `LabelledImages`; None where there are none.
        weights_N: (N,) float64, how much each image counts in the loss; None: all alike.
        filled: what was filled in of the images of the whole entry.
    """

    base: NDArray[Any]
    rows: NDArray[np.int64]
    files: list[str]
    classes: tuple[str, ...]
    indices: NDArray[np.int64]
    failures: list[tuple[str, str]]
    preprocessing: Preprocessing
    folder: Path
    reused: bool
    array_file: ArrayFile
    filled: Filled
    _labels: NDArray[np.int64] | None
    _digests: Digests  # of the rows of `base`
    votes_NK: NDArray[np.float64] | None = None
    weights_N: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) int64, positions in `classes`. Raises `UserError` if the source was opened without labels."""
        if self._labels is None:
            raise UserError("these images have no labels.")
        return self._labels

    @property
    def digests(self) -> Digests:
        """(N,) the `pixel_digest` of each image: images of equal pixels have the same one."""
        return self._digests[self.rows]

    @property
    def array(self) -> NDArray[Any]:
        """(N, C, H, W), row i is image i.

        The memory map itself for a store as built, a view of it for a subset that is a range; for any other
        subset a copy in memory, so use `take` there if the set is large.
        """
        n = len(self.rows)
        if n and (np.diff(self.rows) == 1).all():
            first = int(self.rows[0])
            return self.base if n == len(self.base) else self.base[first : first + n]
        return self.base[self.rows]

    def take(self, positions: Sequence[int] | NDArray[np.integer]) -> NDArray[Any]:
        """(B, C, H, W), a copy of the images at these positions."""
        return np.asarray(self.base[self.rows[np.asarray(positions, np.int64)]])

    def subset(self, positions: Sequence[int] | NDArray[np.integer]) -> ImageStore:
        """The images at these positions, in this order, on the same array: nothing is copied."""
        chosen = np.asarray(positions, np.int64)
        return replace(
            self,
            rows=self.rows[chosen],
            files=[self.files[i] for i in chosen],
            indices=self.indices[chosen],
            _labels=None if self._labels is None else self._labels[chosen],
            votes_NK=None if self.votes_NK is None else self.votes_NK[chosen],
            weights_N=None if self.weights_N is None else self.weights_N[chosen],
        )

    def part(self, images: LabelledImages, positions: NDArray[np.integer], *, strict: bool = False) -> ImageStore:
        """The readable ones of the images at these positions of `images`, the source that the store was built from.

        The same as a store built from `images.subset(positions)`, but nothing is read: one entry on disk serves every
        split of a source.

        Raises `UserError` as `build` does, about these images alone.
        """
        chosen = images.subset(positions)
        row = np.full(len(images), -1, np.int64)
        row[self.indices] = self.rows
        reasons = dict(self.failures)
        rows = row[np.asarray(positions, np.int64)]
        failed = [(int(i), reasons[chosen.files[i]]) for i in np.flatnonzero(rows < 0)]
        if len(failed) == len(chosen):
            raise UserError(_failures_text(chosen, [(chosen.files[i], reason) for i, reason in failed]))
        entry = _Entry(self.base, self._digests, failed, self.array_file, self.filled)
        made = _assemble(chosen, self.preprocessing, entry, self.folder, self.reused, strict)
        return replace(made, rows=rows[rows >= 0])

    @classmethod
    def build(
        cls,
        images: LabelledImages,
        preprocessing: Preprocessing,
        *,
        cache: Path,
        workers: int | None = None,
        strict: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> ImageStore:
        """Open the entry for these images and settings, or decode them into a new one.

        Args:
            preprocessing: `mean`, `std`, the brightness that is measured afterwards and what the source states do not
                shape the array and do not enter the key.
            cache: folder of all entries; made if it is not there.
            workers: threads that decode, by default one a core (Pillow decodes outside Python's lock).
            strict: an image that cannot be read is an error, not a failure to list.
            progress: called with (images done, N) from time to time, not at all if the entry is there.

        Raises `UserError` if no image can be read, a class loses all of its images, the disk is full or the
        cache cannot be written; with `strict`, if any image cannot be read.
        """
        if not len(images):
            raise UserError(f"'{images.source}' has no images.")
        cache = expanded(cache)
        units = None if preprocessing.units is None else replace(preprocessing.units, brightest=None, darkest=None)
        decoding = replace(preprocessing, mean=(), std=(), units=units, stated=None)
        settings = {k: v for k, v in decoding.to_dict().items() if k not in ("mean", "std")}
        key_text = json.dumps([_FORMAT, images.fingerprint(cache), settings], sort_keys=True)
        key = hash_text(key_text).hex()
        folder = cache / key
        entry = _open_entry(folder, key, len(images), preprocessing)
        reused = entry is not None
        if entry is None:
            try:
                entry = _write_entry(folder, key, images, decoding, workers, progress)
            except OSError as error:
                raise _cache_error(cache, error, len(images), preprocessing) from None
        return _assemble(images, preprocessing, entry, folder, reused, strict)


def _assemble(
    images: LabelledImages,
    preprocessing: Preprocessing,
    entry: _Entry,
    folder: Path,
    reused: bool,
    strict: bool,
) -> ImageStore:
    """The store of an entry, once its failures have been judged."""
    failures = [(images.files[i], reason) for i, reason in entry.failed]
    if failures and strict:
        raise UserError(_failures_text(images, failures) + " Mend or remove them, or run without --strict.")
    left_out = np.array([i for i, _ in entry.failed], np.int64)
    indices = np.setdiff1d(np.arange(len(images)), left_out, assume_unique=True)
    labels = None if images.labels is None else images.labels[indices]
    if images.labels is not None:
        before = np.bincount(images.labels, minlength=len(images.classes))
        after = np.bincount(images.labels[indices], minlength=len(images.classes))
        lost = np.flatnonzero((before > 0) & (after == 0))
        if len(lost) and images.votes_NK is None:  # votes for a class are on images of other classes too
            of_class = [failures[j] for j in np.flatnonzero(images.labels[left_out] == lost[0])]
            raise UserError(
                f"no image of the class '{images.classes[lost[0]]}' can be read. {_failures_text(images, of_class)}"
            )
    return ImageStore(
        base=entry.base,
        rows=np.arange(len(indices)),
        files=[images.files[i] for i in indices],
        classes=images.classes,
        indices=indices,
        failures=failures,
        preprocessing=preprocessing,
        folder=folder,
        reused=reused,
        array_file=entry.array_file,
        filled=entry.filled,
        _labels=labels,
        _digests=entry.digests,
        votes_NK=None if images.votes_NK is None else images.votes_NK[indices],
        weights_N=None if images.weights_N is None else images.weights_N[indices],
    )


def _failures_text(images: LabelledImages, failures: list[tuple[str, str]]) -> str:
    shown = "; ".join(f"{file}: {reason}" for file, reason in failures[:5])
    more = f"; and {len(failures) - 5} more" if len(failures) > 5 else ""
    return f"{len(failures)} of {len(images)} images of '{images.source}' cannot be read ({shown}{more})."


# One entry on disk ------------------------------------------------------------------------------------------


def _open_entry(folder: Path, key: str, n: int, preprocessing: Preprocessing) -> _Entry | None:
    """The entry of n images; None if it is not there, damaged or of a version that kept no digests."""
    meta, path = read_cached_json(folder / "meta.json"), folder / "array.npy"
    try:
        failed = [(int(i), str(reason)) for i, reason in meta["failures"]]
        dtype = np.dtype(preprocessing.dtype)
        shape = (n - len(failed), preprocessing.channels, *preprocessing.image_size)
        size = HEADER_BYTES + int(np.prod(shape)) * dtype.itemsize
        if meta["key"] != key or not path.is_file() or path.stat().st_size != size:
            return None
        with path.open("rb") as file:
            if file.read(HEADER_BYTES) != header(dtype, shape):
                return None
            array_file = ArrayFile(path, file, failed, meta["digest"])
            if not array_file.is_whole(file):
                return None
            base = np.memmap(file, dtype, "r", HEADER_BYTES, shape)
        digests = _open_digests(folder / "digests.npy", len(base), meta["digests"])
        filled = Filled(*meta.get("filled", ()))  # none in entries of before
        return None if digests is None else _Entry(base, digests, failed, array_file, filled)
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None


def _open_digests(path: Path, n: int, digest: str) -> Digests | None:
    """The digests of n images; None if the file holds others. Raises `OSError` if it can't be read."""
    first = header(np.dtype(np.uint64), (n,))
    if not path.is_file() or path.stat().st_size != len(first) + 8 * n:
        return None
    content = path.read_bytes()
    digests = np.frombuffer(content, np.uint64, offset=len(first))
    return digests if content.startswith(first) and hash_bytes(digests.tobytes()).hex() == digest else None


def _write_entry(
    folder: Path,
    key: str,
    images: LabelledImages,
    preprocessing: Preprocessing,
    workers: int | None,
    progress: Callable[[int, int], None] | None,
) -> _Entry:
    cache = folder.parent
    cache.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(cache)
    part = cache / f".{key}.{os.getpid()}.{secrets.token_hex(4)}.part"
    part.mkdir()
    try:
        shape = (preprocessing.channels, *preprocessing.image_size)
        dtype = np.dtype(preprocessing.dtype)
        needed = len(images) * int(np.prod(shape)) * dtype.itemsize
        if shutil.disk_usage(cache).free < needed:
            raise OSError(errno.ENOSPC, "no space left")
        failed: list[tuple[int, str]] = []
        digest, digests, filled = new_hash(), list[int](), list[float]()
        with (part / "array.npy").open("wb") as file:
            file.write(bytes(HEADER_BYTES))
            done = 0
            for results in _decoded(images, preprocessing, workers):
                for row in results:
                    if isinstance(row, str):
                        failed.append((done, row))
                    else:
                        file.write(row.pixels.data)
                        digest.update(row.pixels.data)
                        digests.append(row.digest)
                        filled += [row.filled] if row.filled else []
                    done += 1
                if progress is not None:
                    progress(done, len(images))
            if len(failed) == len(images):
                raise UserError(_failures_text(images, [(images.files[i], reason) for i, reason in failed]))
            array_shape = (len(images) - len(failed), *shape)
            file.seek(0)
            file.write(header(dtype, array_shape))
            file.flush()
            os.fsync(file.fileno())
        meta = {
            "key": key,
            "shape": array_shape,
            "dtype": dtype.str,
            "digest": digest_of(digest.hexdigest(), failed),
            "digests": hash_bytes(np.array(digests, np.uint64).tobytes()).hex(),
            "failures": failed,
            "preprocessing": preprocessing.to_dict(),
            "source": images.source,
            "filled": Filled(len(filled), float(np.mean(filled)), max(filled)) if filled else Filled(),
        }
        with (part / "digests.npy").open("wb") as file:
            np.save(file, np.array(digests, np.uint64))
            file.flush()
            os.fsync(file.fileno())
        with (part / "meta.json").open("w", encoding="utf-8") as text:
            json.dump(meta, text, indent=1)
            text.flush()
            os.fsync(text.fileno())
        return _publish(part, folder, key, len(images), preprocessing)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _publish(part: Path, folder: Path, key: str, n: int, preprocessing: Preprocessing) -> _Entry:
    """Rename a finished entry to its place, unless another process was first; remove a damaged one there."""
    for _ in range(5):
        entry = _open_entry(folder, key, n, preprocessing)
        if entry is not None:
            return entry
        try:
            if os.path.lexists(folder):
                aside = part.with_name(f"{part.name}.old")
                folder.rename(aside)
                if aside.is_dir() and not aside.is_symlink():
                    shutil.rmtree(aside, ignore_errors=True)
                else:
                    aside.unlink()
            part.rename(folder)
        except OSError:  # another process renamed its own in between: look again
            time.sleep(0.05)
    entry = _open_entry(folder, key, n, preprocessing)
    if entry is None:
        raise OSError(errno.EIO, "the entry cannot be put in its place", str(folder))
    return entry


def _remove_abandoned(cache: Path) -> None:
    """Remove temporary folders of runs that were killed."""
    for part in cache.glob(".*.part*"):
        try:
            newest = max(p.stat().st_mtime for p in (part, *part.glob("*")))
            if part.is_dir() and time.time() - newest > _ABANDONED_AFTER:
                shutil.rmtree(part, ignore_errors=True)
        except OSError:
            continue


def _decoded(images: LabelledImages, preprocessing: Preprocessing, workers: int | None) -> Any:
    """Yield, in order, lists of finished rows (C, H, W) with their digests, or of the reasons why there is none.

    Threads are enough: on two idle cores, two of them decode and resize JPEGs of 424 px 1.9 times as fast as
    one (tiny images gain less). Few tasks are in flight at a time, so that memory does not grow with the set.
    """
    threads = workers if workers is not None else usable_cores()
    if threads < 1:
        raise UserError(f"workers is {workers}; 1 or more are needed.")

    def task(start: int) -> list[_Row | str]:
        return [_row(images, preprocessing, i) for i in range(start, min(start + _CHUNK, len(images)))]

    starts = iter(range(0, len(images), _CHUNK))
    flying: deque[Future[list[_Row | str]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            while True:
                while len(flying) < 2 * threads + 2 and (start := next(starts, None)) is not None:
                    flying.append(pool.submit(task, start))
                if not flying:
                    return
                yield flying.popleft().result()
        finally:
            for future in flying:
                future.cancel()


def _row(images: LabelledImages, preprocessing: Preprocessing, i: int) -> _Row | str:
    try:
        image = images.read(i)
        return _Row(preprocessing.apply(image), pixel_digest(image), preprocessing.missing_share(image))
    except UnreadableImage as error:
        return error.reason
    except UserError as error:  # its type, channels or values do not fit the settings
        return str(error).rstrip(".")


def _cache_error(cache: Path, error: OSError, n: int, preprocessing: Preprocessing) -> UserError:
    pixels = preprocessing.channels * preprocessing.image_size[0] * preprocessing.image_size[1]
    size = n * pixels * np.dtype(preprocessing.dtype).itemsize
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            f"the disk of the cache '{cache}' is full: {n} decoded images need {size / 1e9:.2f} GB. Free "
            f"some space, or set "
            f"ASTROFORMER_CACHE to a folder on another disk."
        )
    return UserError(
        f"the cache '{cache}' cannot be written: {error.strerror or error}. Set ASTROFORMER_CACHE to a folder that can."
    )
