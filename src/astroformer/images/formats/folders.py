"""Class folders, folders without labels, and single image files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from astroformer.errors import PartsNotClasses, UserError
from astroformer.images.formats.format import Format
from astroformer.images.hashes import hash_files
from astroformer.images.labelled import LabelledImages
from astroformer.images.names import class_name, ignored_sentence, natural_key, printable, same_name, shortened
from astroformer.images.reading import EXTENSIONS, UNREAD_EXTENSIONS, Array, looks_like_an_image, read_image

_SPLIT_NAMES = frozenset(
    {"train", "training", "valid", "val", "validation", "dev", "test", "testing", "unlabelled", "unlabeled"}
)
_LEFT_BY_SYSTEMS = frozenset({"__macosx", "__pycache__", "@eadir", "lost+found", "$recycle.bin", "thumbs.db"})


@dataclass(frozen=True)
class FileReader:
    """Reads image i from its file."""

    paths: tuple[str, ...]

    def __call__(self, i: int) -> Array:
        return read_image(self.paths[i])

    def digests(self, indices: NDArray[np.int64], cache: Path | None) -> Iterable[bytes]:
        return hash_files([self.paths[i] for i in indices], cache)


@dataclass
class _Listing:
    """What lies below a folder: paths with `/`, relative to the root of the source.

    Attributes:
        images: files that are read.
        unread: files that look like images of a kind that is not read.
        ignored: everything else, as `path (why)`.
    """

    images: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


def _open_folder(root: Path, labelled: bool, options: Mapping[str, str]) -> LabelledImages:
    if not labelled:
        listing = _list(root, "")
        files = sorted(listing.images + listing.unread, key=natural_key)  # the reader gives each of the latter a reason
        return _images(root, files, None, (), listing.ignored)
    names, loose, left_behind = _class_folders(root)
    listings = [_list(root, name) for name in names]
    _check_classes(root, names, listings, loose)
    ignored = [*left_behind, *(f"{name} (beside the class folders)" for name in loose)]
    files, labels = [], []
    for label, listing in enumerate(listings):
        ignored += listing.ignored + [f"{file} ({_kind(file)}, which is not read)" for file in listing.unread]
        files += sorted(listing.images, key=natural_key)
        labels += [label] * len(listing.images)
    return _images(root, files, np.array(labels, np.int64), tuple(map(class_name, names)), ignored)


def _images(
    root: Path, files: list[str], labels: NDArray[np.int64] | None, classes: tuple[str, ...], ignored: list[str]
) -> LabelledImages:
    reader = FileReader(tuple(os.path.join(root, file) for file in files))  # many times as fast as with Path
    return LabelledImages("", list(map(printable, files)), labels, classes, reader, list(map(printable, ignored)))


def _class_folders(root: Path) -> tuple[list[str], list[str], list[str]]:
    """The names of the class folders in their order, of the files beside them, and what systems left, with why."""
    folders, files, left_behind = list[str](), list[str](), list[str]()
    for entry in os.scandir(root):
        if _is_left_by_a_system(entry.name):
            left_behind.append(f"{entry.name} (hidden, or left by a system)")
        else:
            (folders if entry.is_dir() else files).append(entry.name)
    return sorted(folders, key=natural_key), sorted(files), sorted(left_behind)


def _check_classes(root: Path, names: list[str], listings: list[_Listing], loose: list[str]) -> None:
    """Raises a UserError where the folders of `root` are no classes, or not ones that can be learned."""
    if not names:
        kind = "images but no class folders" if any(_is_image(name) for name in loose) else "no class folders"
        raise UserError(
            f"'{root}' has {kind}: put the images of each class into a folder of its name, or give a catalog with "
            "labels."
        )
    parts = [name for name in names if name.lower() in _SPLIT_NAMES]
    if len(parts) > 1 or len(parts) == len(names):
        labelled = [name for name in parts if not name.lower().startswith("unlab")] or parts
        trained = min(labelled, key=lambda name: not name.lower().startswith("train"))
        held = next((name for name in labelled if name != trained), None)
        valid = f" --valid '{root / held}'" if held is not None else ""
        raise PartsNotClasses(
            f"'{root}' holds the parts {', '.join(parts)}, not classes",
            "name the one to train on and the one to validate on, such as: astroformer train "
            f"'{root / trained}'{valid}",
            root / (held or trained),
        )
    if len(names) == 1:
        below, _, _ = _class_folders(root / names[0])
        if len(below) > 1:
            raise UserError(
                f"'{root}' holds one folder, '{names[0]}', and that holds {shortened(below)}. If these are the "
                f"classes, name it: '{root / names[0]}'."
            )
    inner = [{file.split("/")[1] if file.count("/") > 1 else "" for file in listing.images} for listing in listings]
    if len(names) > 1 and len(inner[0]) > 1 and "" not in inner[0] and all(folders == inner[0] for folders in inner):
        raise UserError(
            f"'{root}': all of its folders ({shortened(names)}) hold the same folders ({shortened(inner[0])}), so "
            f"these seem to be the classes and those parts. Name one part, such as '{root / names[0]}', or give a "
            "catalog with labels."
        )
    for name, other in same_name(names):
        raise UserError(
            f"'{root}' has two class folders of the same name but for case, spaces or how accents are written: "
            f"'{other}' and '{name}'. Merge or rename."
        )
    for name, listing in zip(names, listings, strict=True):
        if not listing.images:
            found = [f"{file} ({_kind(file)}, which is not read)" for file in listing.unread]
            raise UserError(
                f"'{root}': the class folder '{name}' has no images. Add some ({shortened(EXTENSIONS, 20)}) or remove "
                f"the folder.{ignored_sentence(found + listing.ignored)}"
            )


def _list(root: Path, folder: str) -> _Listing:
    """Everything below `folder` of `root`. Links to folders are followed, but no folder is read twice.

    Raises `OSError` where a folder can't be read.
    """
    listing = _Listing()
    read: set[tuple[int, int]] = set()
    waiting, links = [folder], list[str]()
    while waiting or links:
        # Links come last, so that a folder has its own name where it lies below the root too.
        at = waiting.pop() if waiting else links.pop(0)
        place = os.path.join(root, at)
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in read:
            listing.ignored.append(f"{at} (a link to a folder that is read already)")
            continue
        read.add((status.st_dev, status.st_ino))
        for entry in sorted(os.scandir(place), key=lambda entry: entry.name):
            name = f"{at}/{entry.name}" if at else entry.name
            if _is_left_by_a_system(entry.name):
                listing.ignored.append(f"{name} (hidden, or left by a system)")
            elif entry.is_dir():
                (links if entry.is_symlink() else waiting).append(name)
            elif _is_image(entry.name) or (not _extension(entry.name) and looks_like_an_image(entry.path)):
                listing.images.append(name)
            elif _extension(entry.name) in UNREAD_EXTENSIONS:
                listing.unread.append(name)
            else:
                listing.ignored.append(f"{name} ({_kind(entry.name)})")
    listing.ignored.sort()
    return listing


def _extension(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _is_image(name: str) -> bool:
    return _extension(name) in EXTENSIONS


def _is_left_by_a_system(name: str) -> bool:
    return name.startswith(".") or name.lower() in _LEFT_BY_SYSTEMS


def _kind(file: str) -> str:
    extension = _extension(file)
    return f"a {extension} file" if extension else "a file without an extension that begins like no image"


def _open_file(path: Path, labelled: bool, options: Mapping[str, str]) -> LabelledImages:
    if labelled:
        raise UserError(
            f"'{path}' is one image; labelled images come in a folder of class folders, an .npz or a catalog."
        )
    return LabelledImages("", [str(path)], None, (), FileReader((str(path),)))


def _takes_file(path: Path) -> bool:
    extension = path.suffix.lower()
    return extension in EXTENSIONS | UNREAD_EXTENSIONS or (not extension and looks_like_an_image(path))


CLASS_FOLDERS = Format("a folder", Path.is_dir, _open_folder)
IMAGE_FILE = Format(f"an image ({shortened(EXTENSIONS)})", _takes_file, _open_file)
