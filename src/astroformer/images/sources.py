"""Where labelled images come from: folders, `.npz` files, catalogs and named sets."""

from __future__ import annotations

import csv
import difflib
import hashlib
import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from astroformer.errors import UserError, unknown_name
from astroformer.images import mock_galaxies
from astroformer.images.download import Listener
from astroformer.images.named_sets import NAMED_SETS
from astroformer.images.reading import EXTENSIONS, Array, UnreadableImage, read_image

FILE_COLUMNS = (
    "file",
    "filename",
    "file_name",
    "filepath",
    "file_path",
    "file_loc",
    "path",
    "image",
    "image_path",
)
LABEL_COLUMNS = ("label", "labels", "label_name", "class", "class_name", "target", "category")
CATALOG_EXTENSIONS = frozenset({".csv", ".tsv", ".parquet"})

_SPLIT_NAMES = frozenset({"train", "training", "valid", "val", "validation", "test", "testing"})
_SETTLED_AFTER = 2_000_000_000  # ns since the last change of a file until its hash is remembered; FAT counts in 2 s

Reader = Callable[[int], Array]


@dataclass(frozen=True)
class LabelledImages:
    """N images, their labels and where they come from. Nothing is decoded until `read` is called.

    Attributes:
        source: what the user named, for messages.
        files: N names, each once: the path within the folder, the catalog's entry, or `FILE.npz#17`.
        labels: (N,) int64, positions in `classes`; None if the images have no labels.
        classes: class names in the order of the labels.
        reader: decodes image i to `(H, W, C)`, as `read_image` does. Every source's reader can be pickled and
            called from several threads. One that has `digests(indices, cache)` says what the content is
            without decoding.
        ignored: files that were found and are no images, as `name (why)`.
        groups: (N,) int64; images with the same number show the same thing and never part between training and
            validation. None where each stands alone.
        about: of a published set: its name, part, licence, citation and checksums, for the record.
    """

    source: str
    files: list[str]
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...]
    reader: Reader
    ignored: list[str] = field(default_factory=list)
    groups: NDArray[np.int64] | None = None
    about: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.files)

    def read(self, i: int) -> Array:
        """Image i, `(H, W, C)`. Raises `UnreadableImage` if it cannot be decoded."""
        return self.reader(i)

    def subset(self, indices: Sequence[int] | NDArray[np.integer]) -> LabelledImages:
        """The images at these positions, in this order. Classes stay, also those left without an image."""
        chosen = np.asarray(indices, np.int64)
        return replace(
            self,
            files=[self.files[i] for i in chosen],
            labels=None if self.labels is None else self.labels[chosen],
            reader=_Subset(self.reader, chosen),
            groups=None if self.groups is None else self.groups[chosen],
        )

    def counts(self) -> dict[str, int]:
        """Images a class, in the order of `classes`; empty if there are no labels."""
        if self.labels is None:
            return {}
        counted = np.bincount(self.labels, minlength=len(self.classes))
        return {name: int(n) for name, n in zip(self.classes, counted, strict=True)}

    def fingerprint(self, cache: Path | None = None) -> str:
        """Hash of what the images contain, in their order; names, labels and times of change do not enter.

        Image files are hashed whole. Hashes are kept in `cache` (a folder) and reused while a file stays as it
        is by its inode, size and times of change. Images without a reader of ours are decoded and hashed.
        """
        total = hashlib.blake2b(f"{len(self)} images".encode(), digest_size=16)
        for digest in _digests(self.reader, np.arange(len(self)), cache):
            total.update(digest)
        return total.hexdigest()


def open_source(
    source: str | Path,
    *,
    classes: Sequence[str] | None = None,
    labelled: bool = True,
    seed: int = 0,
    part: str | None = None,
    listener: Listener | None = None,
) -> LabelledImages:
    """Open what a user named as a source of images.

    `source` is one of
      - a folder of class folders (images may lie deeper within them). With `labelled=False` any folder: all
        images in it.
      - an `.npz` with `images` and `labels`, or with `jpeg` (all encoded images, one after the other),
        `offsets` (image i is `jpeg[offsets[i]:offsets[i+1]]`) and `labels`; class names in `classes`.
        `images` is (N, H, W), (N, H, W, C) or (N, C, H, W) with C of 1, 3 or 4 (other C: say `@layout=`), of
        uint8, uint16, bool or float. Float images are taken as they are, without scaling. The file is read
        into memory whole.
      - a catalog, `.csv`, `.tsv` or `.parquet`, with a column of files (see `FILE_COLUMNS`), relative to the
        catalog's folder, and one of labels (see `LABEL_COLUMNS`).
      - one image file, with `labelled=False`.
      - a named set: `mock-galaxies`, `mock-galaxies:2000` (number), `mock-galaxies:2000x96` (number and size
        in pixels); or a published one, downloaded at first use: `cifar10:train`, `cifar10:test` (see `NAMED_SETS`).
    and may be followed by options, each `@word=value`:
      - `@per-class=a:b` keeps images a to b−1 of each class, in the source's order
        (`train.npz@per-class=0:50`).
      - `@file=COLUMN`, `@label=COLUMN` name the columns of a catalog.
      - `@layout=NHWC` or `@layout=NCHW` says how the `images` of an `.npz` lie.

    Args:
        classes: names in the order that labels shall have (a model's classes). By default folder and catalog
            labels are sorted (numbers within names by value), and an `.npz` keeps the order of its `classes`.
        labelled: whether labels are needed. If False, labels are not read and `labels` is None.
        seed: for mock galaxies.
        part: what a published set's name alone means, `train` where one trains; without it the part must be said,
            so that nothing is tested on training images, or trained on test images, by mistake.
        listener: what is told of a download.

    Raises `UserError` if the source does not exist or cannot be read, has no images or an empty class folder,
    lists a file twice or has a label that is not in `classes`; without `classes` also if it has one class
    only or one without images.
    """
    name = str(source)
    path_name, options = _split_options(name)
    for word in options:
        if word not in ("per-class", "file", "label", "layout"):
            raise unknown_name("source option", word, ("per-class", "file", "label", "layout"))
    path = Path(path_name).expanduser()
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
        if not (is_folder or is_file):
            images = _named_set(path_name, labelled, seed, part, listener)
            if images is None:
                raise _not_found(path_name, path)
        elif is_folder:
            images = _open_folder(path, labelled)
        elif path.suffix.lower() == ".npz":
            images = _open_npz(path, labelled, options.pop("layout", None))
        elif path.suffix.lower() in CATALOG_EXTENSIONS:
            images = _open_catalog(path, labelled, options.pop("file", None), options.pop("label", None))
        elif path.suffix.lower() in EXTENSIONS:
            if labelled:
                raise UserError(
                    f"'{path}' is one image; labelled images come in a folder of class folders, an .npz or a catalog."
                )
            images = LabelledImages(str(path), [str(path)], None, (), FileReader((str(path),)))
        else:
            raise UserError(
                f"'{path}' is no source of images: a folder, an .npz, a catalog "
                f"({_listed(CATALOG_EXTENSIONS)}) or an "
                f"image ({_listed(EXTENSIONS)}) is."
            )
    except PermissionError as error:
        raise UserError(
            f"'{error.filename or path}' may not be read: {error.strerror}. Change its permissions."
        ) from None
    except OSError as error:
        raise UserError(f"'{error.filename or path}' cannot be read: {error.strerror or error}.") from None
    per_class = options.pop("per-class", None)
    if options:
        raise UserError(f"'{name}': the option @{next(iter(options))} does not apply to this kind of source.")
    images = replace(images, source=name)
    if labelled:
        images = _ordered(images, classes)
    elif classes is not None:
        images = replace(images, classes=tuple(classes))
    if per_class is not None:
        images = _per_class(images, per_class)
    if not len(images):
        raise UserError(f"'{name}' has no images.{_and_ignored(images.ignored)}")
    return images


# Options, order and checks ----------------------------------------------------------------------------------


def _split_options(name: str) -> tuple[str, dict[str, str]]:
    """`PATH@word=value@word=value` into the path and the options; a path that exists is never taken apart."""
    options: dict[str, str] = {}
    while not Path(name).exists():
        match = re.fullmatch(r"(.+)@([A-Za-z-]+)=([^@]*)", name, re.DOTALL)
        if not match:
            break
        name = match[1]
        options[match[2].lower()] = match[3]
    return name, options


def natural_key(name: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """Sort key that puts `class2` before `class10`; ties go by the plain string."""
    parts = re.split(r"([0-9]+)", name)
    return tuple((0, int(p), "") if p[:1].isdecimal() else (1, 0, p.casefold()) for p in parts if p), name


def _ordered(images: LabelledImages, classes: Sequence[str] | None) -> LabelledImages:
    """Check the classes; bring the labels into the order of `classes` if it is given."""
    assert images.labels is not None
    if classes is None:
        for name, n in images.counts().items():
            if n == 0:
                raise UserError(
                    f"'{images.source}': the class '{name}' has no images. Add some or remove the class."
                    f"{_and_ignored(images.ignored)}"
                )
        if len(images.classes) == 1:
            raise UserError(
                f"'{images.source}' has one class only, '{images.classes[0]}'; a classifier needs two or more."
            )
        return images
    position = {name: i for i, name in enumerate(classes)}
    for name in images.classes:
        if name not in position:
            raise unknown_name(f"class in '{images.source}'", name, classes)
    new = np.array([position[name] for name in images.classes], np.int64)
    return replace(images, labels=new[images.labels], classes=tuple(classes))


def _per_class(images: LabelledImages, text: str) -> LabelledImages:
    match = re.fullmatch(r"([0-9]*):([0-9]*)", text)
    start, stop = (int(match[1] or 0), int(match[2]) if match[2] else None) if match else (0, 0)
    if not match or (stop is not None and stop <= start):
        raise UserError(f"@per-class={text} is no range; write @per-class=0:50 for the first 50 images of each class.")
    if images.labels is None:
        raise UserError(f"'{images.source}': @per-class needs labels, which are not read here.")
    kept = []
    for label, (name, n) in enumerate(images.counts().items()):
        if n < (start + 1 if stop is None else stop):
            raise UserError(
                f"'{images.source}': the class '{name}' has {n} images, too few for @per-class={text}. Ask for fewer."
            )
        kept.append(np.flatnonzero(images.labels == label)[start:stop])
    return images.subset(np.sort(np.concatenate(kept)))


def _not_found(name: str, path: Path) -> UserError:
    if "/" not in name and os.sep not in name and not path.suffix:
        named = ["mock-galaxies", *NAMED_SETS]
        near = difflib.get_close_matches(name.partition(":")[0], [*_names_in(Path()), *named], n=1, cutoff=0.5)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        return UserError(f"'{name}' is neither a file or folder here nor a named set ({', '.join(named)}).{hint}")
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    # What is missing is the next part of the path after the deepest folder that exists.
    missing = path.relative_to(folder).parts[0] if folder != Path() else path.parts[0]
    near = difflib.get_close_matches(missing, _names_in(folder), n=1, cutoff=0.6)
    hint = (
        f" Did you mean '{folder / near[0]}'?"
        if near
        else f" The folder '{folder.resolve()}' exists; '{missing}' is not in it."
    )
    return UserError(f"'{name}' does not exist.{hint}")


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _listed(names: Iterable[str], limit: int = 5) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - limit} more" if len(ordered) > limit + 1 else ""
    return ", ".join(ordered[:limit] if more else ordered) + more


def _and_ignored(ignored: list[str]) -> str:
    return f" Not taken for images: {_listed(ignored)}." if ignored else ""


# Readers ----------------------------------------------------------------------------------------------------


def _hash(data: bytes | memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _hash_array(array: Array) -> bytes:
    return _hash(f"{array.shape} {array.dtype}".encode() + _hash(np.ascontiguousarray(array).data))


def _digests(reader: Reader, indices: NDArray[np.int64], cache: Path | None) -> Iterable[bytes]:
    known = getattr(reader, "digests", None)
    if known is not None:
        return known(indices, cache)
    return (_digest_decoded(reader, int(i)) for i in indices)


def _digest_decoded(reader: Reader, i: int) -> bytes:
    try:
        return _hash_array(reader(i))
    except UnreadableImage as error:
        return _hash(error.reason.encode())


@dataclass(frozen=True)
class _Subset:
    reader: Reader
    indices: NDArray[np.int64]

    def __call__(self, i: int) -> Array:
        return self.reader(int(self.indices[i]))

    def digests(self, indices: NDArray[np.int64], cache: Path | None) -> Iterable[bytes]:
        return _digests(self.reader, self.indices[indices], cache)


@dataclass(frozen=True)
class FileReader:
    """Reads image i from its file."""

    paths: tuple[str, ...]

    def __call__(self, i: int) -> Array:
        return read_image(self.paths[i])

    def digests(self, indices: NDArray[np.int64], cache: Path | None) -> Iterable[bytes]:
        paths = [self.paths[i] for i in indices]
        return _hash_files(paths) if cache is None else _remembered(paths, cache)


def _remembered(paths: list[str], cache: Path) -> Iterator[bytes]:
    """Digests of the files, those of unchanged ones from `cache/hashes`, where each folder of files has an index."""
    known: dict[str, dict[str, list[str]]] = {}  # by folder and name: what `_mark` said, and the digest
    places = [os.path.split(os.path.abspath(path)) for path in paths]
    for folder in {folder for folder, _ in places}:
        try:
            known[folder] = json.loads(_index(folder, cache).read_text("utf-8"))
        except (OSError, ValueError):
            known[folder] = {}
    settled = time.time_ns() - _SETTLED_AFTER
    marks = [_mark(path, settled) for path in paths]
    new = [
        j
        for j, ((folder, name), mark) in enumerate(zip(places, marks, strict=True))
        if not mark or known[folder].get(name, [""])[0] != mark
    ]
    changed: set[str] = set()
    fresh = dict(zip(new, _hash_files([paths[j] for j in new]), strict=True))
    for j, digest in fresh.items():
        folder, name = places[j]
        if marks[j]:
            known[folder][name] = [marks[j], digest.hex()]
            changed.add(folder)
    for folder in changed:
        index = _index(folder, cache)
        part = index.with_name(f".{index.name}.{os.getpid()}.part")
        try:
            index.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(known[folder]), "utf-8")
            part.replace(index)
        except OSError:  # only a memory: the store says so if the folder cannot be written
            part.unlink(missing_ok=True)
    for j, (folder, name) in enumerate(places):
        yield fresh[j] if j in fresh else bytes.fromhex(known[folder][name][1])


def _index(folder: str, cache: Path) -> Path:
    return cache / "hashes" / f"{_hash(os.fsencode(folder)).hex()}.json"


def _mark(path: str, settled: int) -> str:
    """What changes with a file's content: inode, size, and the times of change of content and of all else.

    The last one can't be set by a program. "" for a file that was changed after `settled` (ns) or can't be looked at:
    a clock ticks slowly on some disks, and a second change within a tick would leave the mark as it was.
    """
    try:
        status = os.stat(path)
    except OSError:
        return ""
    if max(status.st_mtime_ns, status.st_ctime_ns) > settled:
        return ""
    return f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def _hash_file(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
    except OSError as error:  # once it can be read, its digest changes, and with it the store's key
        return _hash(f"unreadable: {error.strerror}".encode())


def _hash_files(paths: list[str]) -> Iterator[bytes]:
    """Digests of files, several at a time: hashing releases Python's lock."""
    batches = [paths[start : start + 256] for start in range(0, len(paths), 256)]
    with ThreadPoolExecutor() as pool:
        for digests in pool.map(lambda batch: [_hash_file(path) for path in batch], batches):
            yield from digests


@dataclass(frozen=True)
class JpegReader:
    """Reads image i from the encoded bytes `data[offsets[i]:offsets[i+1]]`."""

    name: str
    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]

    def __call__(self, i: int) -> Array:
        return read_image(self._slice(i).tobytes(), name=f"{self.name}#{i}")

    def _slice(self, i: int) -> NDArray[np.uint8]:
        return self.data[self.offsets[i] : self.offsets[i + 1]]

    def digests(self, indices: NDArray[np.int64], cache: Path | None) -> Iterator[bytes]:
        return (_hash(self._slice(int(i)).data) for i in indices)


@dataclass(frozen=True)
class ArrayReader:
    """Reads image i from an array `(N, H, W)`, `(N, H, W, C)` or, if `channels_first`, `(N, C, H, W)`."""

    name: str
    images: Array
    channels_first: bool

    def __call__(self, i: int) -> Array:
        image = self.images[i]
        if image.dtype == np.bool_:
            image = image.astype(np.uint8) * 255
        elif image.dtype.kind == "f":
            image = image.astype(np.float32)
            if not np.isfinite(image).all():
                bad = int((~np.isfinite(image)).sum())
                raise UnreadableImage(f"{self.name}#{i}", f"{bad} of its {image.size} values are NaN or infinite")
        if image.ndim == 2:
            return image[:, :, None]
        return np.ascontiguousarray(image.transpose(1, 2, 0)) if self.channels_first else image

    def digests(self, indices: NDArray[np.int64], cache: Path | None) -> Iterator[bytes]:
        layout = b"CHW" if self.channels_first else b"HWC"
        return (_hash(layout + _hash_array(self.images[int(i)])) for i in indices)


class MockReader:
    """Draws mock galaxy i when it is asked for, in blocks, and keeps the latest blocks (128 MiB)."""

    _BLOCK = 8

    def __init__(self, n: int, size: int, seed: int) -> None:
        self.n, self.size, self.seed = n, size, seed
        self._blocks: dict[int, Array] = {}

    def __call__(self, i: int) -> Array:
        block, row = divmod(i, self._BLOCK)
        drawn = self._blocks.get(block)
        if drawn is None:
            first = block * self._BLOCK
            labels = mock_labels(min(self.n, first + self._BLOCK))[first:]
            drawn = mock_galaxies.render(labels, self.size, self.seed, first)
            if (len(self._blocks) + 1) * drawn.nbytes > 1 << 27:
                self._blocks = {}
            self._blocks[block] = drawn
        return drawn[row]

    def digests(self, indices: NDArray[np.int64], cache: Path | None) -> Iterator[bytes]:
        # An image is a function of the code that draws it and of these numbers; drawing it to hash it would
        # be slow.
        code = _hash_file(mock_galaxies.__file__).hex()
        return (_hash(f"{code} {self.size} {self.seed} {i}".encode()) for i in indices)


def mock_labels(n: int) -> NDArray[np.int64]:
    """(n,) labels as `mock_galaxies(n)` gives them: the classes in turn."""
    return np.arange(n, dtype=np.int64) % len(mock_galaxies.CLASSES)


# Named sets -------------------------------------------------------------------------------------------------


def _mock_galaxies(words: str, seed: int) -> LabelledImages:
    match = re.fullmatch(r"([0-9]+)(?:x([0-9]+))?", words or "1000")
    if not match:
        raise UserError(
            f"'mock-galaxies:{words}' is not understood; write mock-galaxies:2000 or mock-galaxies:2000x96."
        )
    n, size = int(match[1]), int(match[2] or 64)
    if not 1 <= n <= 10_000_000:
        raise UserError(f"mock-galaxies:{n}: the number of images is 1 to 10,000,000.")
    reader = MockReader(n, size, seed)
    reader(0)  # an impossible size or seed is said now
    files = [f"mock-galaxies-{seed}-{i}" for i in range(n)]
    return LabelledImages("", files, mock_labels(n), mock_galaxies.CLASSES, reader)


def _named_set(
    name: str, labelled: bool, seed: int, part: str | None, listener: Listener | None
) -> LabelledImages | None:
    set_name, _, words = name.partition(":")
    if set_name == "mock-galaxies":
        images = _mock_galaxies(words, seed)
    elif set_name in NAMED_SETS:
        content, about = NAMED_SETS[set_name].open(words or part, listener)
        reader = content.images
        if isinstance(reader, np.ndarray):
            reader = ArrayReader(set_name, reader, channels_first=reader.ndim == 4)
        images = LabelledImages(
            "", content.files, content.labels, content.classes, reader, groups=content.groups, about=about
        )
    else:
        return None
    return images if labelled else replace(images, labels=None, classes=())


# Folders ----------------------------------------------------------------------------------------------------


def _open_folder(root: Path, labelled: bool) -> LabelledImages:
    ignored: list[str] = []
    if not labelled:
        found = _images_in(root, root, ignored)
        return LabelledImages("", found, None, (), _file_reader(root, found), ignored)
    names = sorted(
        (e.name for e in os.scandir(root) if e.is_dir() and not e.name.startswith((".", "__"))),
        key=natural_key,
    )
    loose = [e.name for e in os.scandir(root) if not e.is_dir() and not e.name.startswith(".")]
    if not names:
        kind = "images but no class folders" if any(_is_image(n) for n in loose) else "no class folders"
        raise UserError(
            f"'{root}' has {kind}: put the images of each class into a folder of its name, or give a catalog "
            f"with labels."
        )
    if {name.lower() for name in names} <= _SPLIT_NAMES:
        raise UserError(
            f"'{root}' holds the parts {', '.join(names)}, not classes: name one part as the source "
            f"('{root / names[0]}') and another to validate on."
        )
    seen: dict[str, str] = {}
    for name in names:
        same = seen.setdefault(name.strip().casefold(), name)
        if same != name:
            raise UserError(
                f"'{root}' has two class folders of the same name but for case or spaces: '{same}' and "
                f"'{name}'. Merge or rename."
            )
    ignored += [f"{name} (beside the class folders)" for name in sorted(loose)]
    files: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        found = _images_in(root / name, root, ignored)
        if not found:
            raise UserError(
                f"'{root}': the class folder '{name}' has no images. Add some ({_listed(EXTENSIONS, 20)}) or "
                f"remove the "
                f"folder.{_and_ignored([f for f in ignored if f.startswith(name + '/')])}"
            )
        files += found
        labels += [label] * len(found)
    return LabelledImages("", files, np.array(labels, np.int64), tuple(names), _file_reader(root, files), ignored)


def _file_reader(root: Path, files: list[str]) -> FileReader:
    return FileReader(tuple(os.path.join(root, file) for file in files))  # many times as fast as with Path


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def _images_in(folder: Path, root: Path, ignored: list[str]) -> list[str]:
    """Paths of all images below `folder`, relative to `root` with `/`, in natural order; hidden ones left
    out.
    """

    def refuse(error: OSError) -> None:
        raise error

    found: list[str] = []
    for at, folders, names in os.walk(folder, onerror=refuse):
        place = Path(at)
        for name in folders:
            if (place / name).is_symlink():
                ignored.append(f"{(place / name).relative_to(root).as_posix()} (a link to a folder)")
        folders[:] = [f for f in folders if not f.startswith((".", "__MACOSX"))]
        for name in names:
            if name.startswith("."):
                continue
            relative = (place / name).relative_to(root).as_posix()
            if _is_image(name):
                found.append(relative)
            else:
                ignored.append(f"{relative} (not an image's extension)")
    return sorted(found, key=natural_key)


# npz --------------------------------------------------------------------------------------------------------


def _open_npz(path: Path, labelled: bool, layout: str | None) -> LabelledImages:
    arrays: dict[str, Array] = {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            keys = list(archive.files)
            wanted = {"images", "jpeg", "offsets"} | ({"labels", "classes"} if labelled else set())
            for key in keys:
                if key in wanted:
                    arrays[key] = archive[key]
    except ValueError as error:
        if "pickle" in str(error):
            raise UserError(
                f"'{path}' holds Python objects, which are never loaded: they could run code. Save plain "
                f"arrays; class "
                f"names as np.array(names) of text, images of one size as one array."
            ) from None
        raise UserError(f"'{path}' is not an .npz file or is damaged ({error}).") from None
    except (BadZipFile, EOFError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"'{path}' is not an .npz file or is damaged ({error}).") from None
    except MemoryError:
        raise UserError(f"'{path}' is larger than the memory; keep such a set as image files and a catalog.") from None
    except OSError:
        raise
    except Exception as error:  # zlib.error among others: damaged bytes
        raise UserError(f"'{path}' is damaged ({error}).") from None
    has = f"it has {', '.join(keys) or 'nothing'}"
    if "images" in arrays and "jpeg" in arrays:
        raise UserError(f"'{path}' has both 'images' and 'jpeg'; keep one of them.")
    if "images" in arrays:
        reader: Reader = _array_reader(path, arrays["images"], layout)
        n = len(arrays["images"])
    elif "jpeg" in arrays and "offsets" in arrays:
        if layout is not None:
            raise UserError(f"'{path}': @layout applies to an array of images, not to encoded ones.")
        reader = _jpeg_reader(path, arrays["jpeg"], arrays["offsets"])
        n = len(arrays["offsets"]) - 1
    else:
        raise UserError(f"'{path}' needs 'images', or 'jpeg' and 'offsets'; {has}.")
    files = [f"{path.name}#{i}" for i in range(n)]
    ignored = [f"{path.name}: {key} (not read)" for key in keys if key not in arrays]
    if not labelled:
        return LabelledImages("", files, None, (), reader, ignored)
    if "labels" not in arrays:
        raise UserError(f"'{path}' has no 'labels'; {has}.")
    labels, classes = _npz_labels(path, arrays["labels"], arrays.get("classes"), n)
    return LabelledImages("", files, labels, classes, reader, ignored)


def _array_reader(path: Path, images: Array, layout: str | None) -> ArrayReader:
    if images.ndim not in (3, 4) or 0 in images.shape:
        raise UserError(
            f"'{path}': 'images' has shape {images.shape}; (N, H, W), (N, H, W, C) or (N, C, H, W) is read."
        )
    images = images.astype(images.dtype.newbyteorder("="), copy=False)
    if images.dtype not in (np.uint8, np.uint16, np.bool_) and images.dtype.kind != "f":
        raise UserError(
            f"'{path}': 'images' is {images.dtype}; save it as uint8, uint16 or float32, for instance "
            f"images.astype('uint8')."
        )
    if layout not in (None, "NHWC", "NCHW"):
        raise unknown_name("layout", layout, ("NHWC", "NCHW"))
    if images.ndim == 3:
        if layout is not None:
            raise UserError(
                f"'{path}': 'images' has shape {images.shape}, without channels; leave @layout={layout} out."
            )
        return ArrayReader(path.name, images, False)
    if layout is None:
        layout = "NHWC" if images.shape[3] in (1, 3, 4) else "NCHW" if images.shape[1] in (1, 3, 4) else None
    if layout is None:
        raise UserError(
            f"'{path}': 'images' has shape {images.shape}, and no axis of 1, 3 or 4 that would be the "
            f"channels; "
            f"say @layout=NHWC or @layout=NCHW after the path."
        )
    return ArrayReader(path.name, images, layout == "NCHW")


def _jpeg_reader(path: Path, data: Array, offsets: Array) -> JpegReader:
    if data.dtype != np.uint8 or data.ndim != 1:
        raise UserError(f"'{path}': 'jpeg' is {data.dtype} of shape {data.shape}; it should be one row of uint8.")
    fits = offsets.ndim == 1 and offsets.dtype.kind in "iu" and len(offsets) >= 1
    if not fits or offsets[0] < 0 or offsets[-1] > len(data) or (offsets[1:] < offsets[:-1]).any():
        raise UserError(
            f"'{path}': 'offsets' should be whole numbers that rise from 0 to the length of 'jpeg', {len(data)}."
        )
    return JpegReader(path.name, data, offsets.astype(np.int64))


def _npz_labels(path: Path, labels: Array, classes: Array | None, n: int) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    if labels.shape == (n, 1):
        labels = labels[:, 0]
    if labels.shape != (n,) or labels.dtype.kind not in "iuUSb":
        raise UserError(
            f"'{path}': 'labels' is {labels.dtype} of shape {labels.shape}; one whole number or name for "
            f"each of the {n} "
            f"images is needed (one-hot rows: labels.argmax(1))."
        )
    names = None if classes is None else tuple(_text(c) for c in classes.reshape(-1))
    if names is not None:
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise UserError(f"'{path}': 'classes' names '{twice[0]}' twice; give every class its own name.")
    if labels.dtype.kind in "US":
        return _encoded([_text(v) for v in labels], names, str(path))
    if names is None:
        return _encoded([str(int(v)) for v in labels], None, str(path))
    numbers = labels.astype(np.int64)
    if n and (numbers.min() < 0 or numbers.max() >= len(names)):
        bad = int(numbers[(numbers < 0) | (numbers >= len(names))][0])
        raise UserError(
            f"'{path}': the label {bad} has no class; 'classes' names {len(names)}, so labels are 0 to "
            f"{len(names) - 1}."
        )
    return numbers, names


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _encoded(
    names: list[str], classes: tuple[str, ...] | None, source: str
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Label names as positions in `classes`, by default the names that occur, sorted."""
    order = classes if classes is not None else tuple(sorted(set(names), key=natural_key))
    position = {name: i for i, name in enumerate(order)}
    for name in names:
        if name not in position:
            raise unknown_name(f"class in '{source}'", name, order)
    return np.array([position[name] for name in names], np.int64), order


# Catalogs ---------------------------------------------------------------------------------------------------


def _open_catalog(path: Path, labelled: bool, file_column: str | None, label_column: str | None) -> LabelledImages:
    columns = _column_names(path)
    file_column = _column(path, columns, "file", FILE_COLUMNS, file_column)
    wanted = [file_column]
    if labelled:
        label_column = _column(path, columns, "label", LABEL_COLUMNS, label_column)
        wanted.append(label_column)
    table = _read_columns(path, wanted)
    files = table[file_column]
    _refuse_gaps(path, file_column, files)
    _refuse_twice(path, files)
    paths = tuple(path.parent / Path(file).expanduser() for file in files)
    if paths and not any(p.exists() for p in paths):
        raise UserError(
            f"'{path}': none of its {len(paths)} files exists; paths are relative to '{path.parent}'. The "
            f"first: '{files[0]}'."
        )
    reader = FileReader(tuple(map(str, paths)))
    if not labelled:
        return LabelledImages("", files, None, (), reader)
    assert label_column is not None
    _refuse_gaps(path, label_column, table[label_column])
    labels, classes = _encoded(table[label_column], None, str(path))
    return LabelledImages("", files, labels, classes, reader)


def _column(path: Path, columns: list[str], role: str, allowed: tuple[str, ...], asked: str | None) -> str:
    if asked is not None:
        if asked not in columns:
            raise unknown_name(f"column in '{path}'", asked, columns)
        return asked
    twice = [name for name, n in Counter(columns).items() if n > 1 and name.strip().lower() in allowed]
    found = [name for name in columns if name.strip().lower() in allowed]
    if len(found) == 1:
        return found[0]
    which = f"the columns {', '.join(found)} could all be the {role}" if found else f"no column is named for the {role}"
    if twice:
        which = f"the column '{twice[0]}' occurs twice"
    raise UserError(
        f"'{path}': {which} (one of {', '.join(allowed)}). It has: {', '.join(columns) or 'no columns'}. "
        f"Say which with '{path}@{role}=COLUMN'."
    )


def _column_names(path: Path) -> list[str]:
    if path.suffix.lower() == ".parquet":
        return list(_parquet(path).schema_arrow.names)
    return next(iter(_csv_rows(path)), [])


def _read_columns(path: Path, wanted: list[str]) -> dict[str, list[str]]:
    """The columns as text; a missing value is an empty string."""
    if path.suffix.lower() == ".parquet":
        table = _parquet(path).read(columns=wanted).to_pydict()
        return {name: [_cell(path, name, value) for value in table[name]] for name in wanted}
    rows = iter(_csv_rows(path))
    header = next(rows)
    columns: dict[str, list[str]] = {name: [] for name in wanted}
    places = [(columns[name], header.index(name)) for name in wanted]
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise UserError(f"'{path}': row {number} has {len(row)} values, the header {len(header)}. Mend the row.")
        for values, place in places:
            values.append(row[place].strip())
    return columns


def _csv_rows(path: Path) -> Iterator[list[str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
            yield from (row for row in csv.reader(file, delimiter=delimiter, strict=True) if row)
    except UnicodeDecodeError:
        raise UserError(f"'{path}' is not UTF-8 text; save it as UTF-8.") from None
    except csv.Error as error:
        raise UserError(f"'{path}' is not read as a table: {error}.") from None


def _parquet(path: Path) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowException as error:
        raise UserError(f"'{path}' is not a Parquet file or is damaged ({error}).") from None


def _cell(path: Path, column: str, value: Any) -> str:
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, float | list | dict | bytes):
        raise UserError(
            f"'{path}': the column '{column}' holds {type(value).__name__} values; names or whole numbers are needed."
        )
    return str(value).strip()


def _refuse_gaps(path: Path, column: str, values: list[str]) -> None:
    rows = [str(i) for i, value in enumerate(values, start=1) if not value]
    if rows:
        raise UserError(
            f"'{path}': the column '{column}' is empty in {len(rows)} of {len(values)} rows (the first: "
            f"{', '.join(rows[:5])}). "
            f"Fill them in or remove the rows."
        )


def _refuse_twice(path: Path, files: list[str]) -> None:
    twice = [file for file, n in Counter(os.path.normpath(file) for file in files).items() if n > 1]
    if twice:
        raise UserError(f"'{path}' lists {len(twice)} files more than once: {_listed(twice)}. Keep one row of each.")
