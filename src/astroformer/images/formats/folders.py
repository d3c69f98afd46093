"""Class folders, folders without labels, and single image files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from astroformer.errors import UserError
from astroformer.images.formats.format import Format
from astroformer.images.hashes import hash_files
from astroformer.images.labelled import LabelledImages
from astroformer.images.names import ignored_sentence, natural_key, shortened
from astroformer.images.reading import EXTENSIONS, Array, read_image

_SPLIT_NAMES = frozenset({"train", "training", "valid", "val", "validation", "test", "testing"})


@dataclass(frozen=True)
class FileReader:
    """Reads image i from its file."""

    paths: tuple[str, ...]

    def __call__(self, i: int) -> Array:
        return read_image(self.paths[i])

    def digests(self, indices: NDArray[np.int64], cache: Path | None) -> Iterable[bytes]:
        return hash_files([self.paths[i] for i in indices], cache)


def _open_folder(root: Path, labelled: bool, options: Mapping[str, str]) -> LabelledImages:
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
            f"'{root}' has {kind}: put the images of each class into a folder of its name, or give a catalog with "
            "labels."
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
            of_class = [file for file in ignored if file.startswith(name + "/")]
            raise UserError(
                f"'{root}': the class folder '{name}' has no images. Add some ({shortened(EXTENSIONS, 20)}) or remove "
                f"the folder.{ignored_sentence(of_class)}"
            )
        files += found
        labels += [label] * len(found)
    return LabelledImages("", files, np.array(labels, np.int64), tuple(names), _file_reader(root, files), ignored)


def _file_reader(root: Path, files: list[str]) -> FileReader:
    return FileReader(tuple(os.path.join(root, file) for file in files))  # many times as fast as with Path


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def _images_in(folder: Path, root: Path, ignored: list[str]) -> list[str]:
    """Paths of all images below `folder`, relative to `root` with `/`, in natural order, without hidden ones.

    What is no image is added to `ignored`.
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


def _open_file(path: Path, labelled: bool, options: Mapping[str, str]) -> LabelledImages:
    if labelled:
        raise UserError(
            f"'{path}' is one image; labelled images come in a folder of class folders, an .npz or a catalog."
        )
    return LabelledImages("", [str(path)], None, (), FileReader((str(path),)))


CLASS_FOLDERS = Format("a folder", Path.is_dir, _open_folder)
IMAGE_FILE = Format(f"an image ({shortened(EXTENSIONS)})", lambda path: _is_image(path.name), _open_file)
