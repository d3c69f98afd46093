"""Class folders, folders without labels, and single image files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroformer.errors import PartsNotClasses, UserError
from astroformer.images.bands import Bands
from astroformer.images.fits import FITS_EXTENSIONS, FITS_START, astropy_fits, bands_of_file
from astroformer.images.fits_bands import FITS_OPTIONS, Chosen, Wanted, check_expected, wanted_of
from astroformer.images.formats.band_files import note_of_bands_apart
from astroformer.images.formats.format import Format
from astroformer.images.hashes import hash_bytes, hash_files, hash_text
from astroformer.images.labelled import LabelledImages
from astroformer.images.limits import Refused
from astroformer.images.names import class_name, ignored_sentence, natural_key, printable, same_name, shortened
from astroformer.images.reading import (
    EXTENSIONS,
    UNREAD_EXTENSIONS,
    Array,
    extension_of,
    looks_like_an_image,
    read_image,
    start_of,
)
from astroformer.images.stated import Stated

_SPLIT_NAMES = frozenset(
    {"train", "training", "valid", "val", "validation", "dev", "test", "testing", "unlabelled", "unlabeled"}
)
_LEFT_BY_SYSTEMS = frozenset({"__macosx", "__pycache__", "@eadir", "lost+found", "$recycle.bin", "thumbs.db"})


_LOOKED_AT = 9  # FITS files of a set whose headers say which bands it has


@dataclass(frozen=True)
class FileReader:
    """Reads image i from its file; `wanted` is what is taken of FITS files, where there are any."""

    paths: tuple[str, ...]
    wanted: Wanted | None = None

    def __call__(self, i: int) -> Array:
        return read_image(self.paths[i], wanted=self.wanted)

    def part(self, rows: Sequence[int] | NDArray[np.int64]) -> FileReader:
        """What reads the images at these positions."""
        return replace(self, paths=tuple(self.paths[i] for i in rows))

    def digests(self, indices: NDArray[np.int64], cache: Path | None) -> Iterable[bytes]:
        of_files = hash_files([self.paths[i] for i in indices], cache)
        if self.wanted is None:
            return of_files
        asked = hash_text(self.wanted.key())  # which makes this image or another of the same file
        return (hash_bytes(asked + digest) for digest in of_files)


class Files(NamedTuple):
    """What `LabelledImages` needs to know of image files; the names are those of its fields."""

    reader: FileReader
    bands: Bands | None
    masks: bool
    notes: list[str]
    stated: Stated = Stated()


def read_files(paths: Sequence[str], options: Mapping[str, str], source: str | Path) -> Files:
    """A reader of image files, and what the FITS files among them say of their bands.

    The bands of a set are those that most of some of its FITS files have. A file of others is an image that can't be
    read.

    Args:
        options: of the source; those of FITS are used.
        source: what the user named, for messages.

    Raises:
        UserError: there are options for FITS and no FITS files; or FITS files need astropy, which is missing.
    """
    wanted = wanted_of(options)
    of_fits = [path for path in paths if _is_fits(path)]
    if not of_fits:
        for option in FITS_OPTIONS:
            if option in options:
                what = "missing values" if option == "blank" else "parts"
                raise UserError(f"'{source}' has no FITS files, of which @{option} chooses {what}; leave it out.")
        return Files(FileReader(tuple(paths)), None, False, [])
    found, reasons = list[Chosen](), list[str]()
    for i in np.unique(np.linspace(0, len(of_fits) - 1, _LOOKED_AT).astype(int)):
        try:
            found.append(bands_of_file(of_fits[i], wanted))
        except (Refused, OSError, ValueError) as error:  # the reader says of each what is wrong with it
            reasons.append(f"'{of_fits[i]}': {str(error).rstrip('.')}")
    if not found and (wanted.hdus or wanted.bands):
        raise UserError(f"'{source}': none of {len(reasons)} files has what the options ask for. {reasons[0]}.")
    if not found:
        return Files(FileReader(tuple(paths), wanted), None, True, [])
    if any(band.hdu.compressed for chosen in found for band in chosen.bands):
        astropy_fits()
    bands, _ = Counter(chosen.named() for chosen in found).most_common(1)[0]
    first = next(chosen for chosen in found if chosen.named() == bands)
    reader = FileReader(tuple(paths), replace(wanted, expected=bands))
    stated = Stated.of_each(chosen.stated() for chosen in found).reading_as_missing(wanted.blank)
    notes = [f"FITS: {first}", *_note_of_others(found, bands), *_note_of_units(found), *stated.notes()]
    if len(bands) == 1:
        notes += note_of_bands_apart(of_fits)
    return Files(reader, bands if len(of_fits) == len(paths) else None, True, notes, stated)


def _note_of_others(found: Sequence[Chosen], bands: Bands) -> list[str]:
    """That some files have other bands than most, for which they are refused."""
    others = list[Bands]()
    for chosen in found:
        try:
            check_expected(chosen.named(), bands)
        except Refused:
            others.append(chosen.named())
    if not others:
        return []
    return [
        f"of {len(found)} files that were looked at, {len(others)} have other bands than {bands} and can't be read "
        f"beside the others (the first: {others[0]})"
    ]


def _note_of_units(found: Sequence[Chosen]) -> list[str]:
    """That some files state a unit and others none, which are read as the same. Those of another one are refused."""
    units = Counter(unit for chosen in found for unit in chosen.named().units)
    named = [unit for unit in units if unit]
    if not named or not units[""]:
        return []
    return [
        f"of {len(found)} files that were looked at, some do not say the unit of their values (BUNIT), and others say "
        f"{', '.join(named)}; their numbers are taken alike"
    ]


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
        if any(option in options for option in FITS_OPTIONS):
            _take_one_kind(root, [listing], options)
            files = sorted(listing.images, key=natural_key)
        return _images(root, files, None, (), listing.ignored, options)
    names, loose, left_behind = _class_folders(root)
    listings = [_list(root, name) for name in names]
    _take_one_kind(root, listings, options)
    _check_classes(root, names, listings, loose)
    ignored = [*left_behind, *(f"{name} (beside the class folders)" for name in loose)]
    files, labels = [], []
    for label, listing in enumerate(listings):
        ignored += listing.ignored + [f"{file} ({_kind(file)}, which is not read)" for file in listing.unread]
        files += sorted(listing.images, key=natural_key)
        labels += [label] * len(listing.images)
    return _images(root, files, np.array(labels, np.int64), tuple(map(class_name, names)), ignored, options)


def _images(
    root: Path,
    files: list[str],
    labels: NDArray[np.int64] | None,
    classes: tuple[str, ...],
    ignored: list[str],
    options: Mapping[str, str],
) -> LabelledImages:
    paths = [os.path.join(root, file) for file in files]  # many times as fast as with Path
    read = read_files(paths, options, root)._asdict()
    return LabelledImages(
        "", list(map(printable, files)), labels, classes, ignored=list(map(printable, ignored)), **read
    )


def _take_one_kind(root: Path, listings: Sequence[_Listing], options: Mapping[str, str]) -> None:
    """Leaves FITS files out that lie among pictures, or with an option for FITS the pictures.

    Surveys put a picture beside each cutout, and a network learns from one of the two.
    """
    of_fits = [[file for file in listing.images if _is_fits(os.path.join(root, file))] for listing in listings]
    if not any(of_fits) or all(len(some) == len(each.images) for some, each in zip(of_fits, listings, strict=True)):
        return
    wanted = any(option in options for option in FITS_OPTIONS)
    why = "a picture among FITS files" if wanted else "a FITS file among pictures; @hdu= or @bands= takes FITS alone"
    for listing, some in zip(listings, of_fits, strict=True):
        fits = set(some)
        left = [file for file in listing.images if (file in fits) != wanted]
        listing.images = [file for file in listing.images if (file in fits) == wanted]
        listing.ignored = sorted([*listing.ignored, *(f"{file} ({why})" for file in left)])


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
            elif _is_image(entry.name) or (not extension_of(entry.name) and looks_like_an_image(entry.path)):
                listing.images.append(name)
            elif extension_of(entry.name) in UNREAD_EXTENSIONS:
                listing.unread.append(name)
            else:
                listing.ignored.append(f"{name} ({_kind(entry.name)})")
    listing.ignored.sort()
    return listing


def _is_image(name: str) -> bool:
    return extension_of(name) in EXTENSIONS


def _is_fits(path: str) -> bool:
    """Whether a file is FITS by its name, or by how it begins if the name has no extension."""
    extension = extension_of(os.path.basename(path))
    return extension in FITS_EXTENSIONS or (not extension and start_of(path).startswith(FITS_START))


def _is_left_by_a_system(name: str) -> bool:
    return name.startswith(".") or name.lower() in _LEFT_BY_SYSTEMS


def _kind(file: str) -> str:
    extension = extension_of(file)
    return f"a {extension} file" if extension else "a file without an extension that begins like no image"


def _open_file(path: Path, labelled: bool, options: Mapping[str, str]) -> LabelledImages:
    if labelled:
        raise UserError(
            f"'{path}' is one image; labelled images come in a folder of class folders, an .npz or a catalog."
        )
    return LabelledImages("", [str(path)], None, (), **read_files([str(path)], options, path)._asdict())


def _takes_file(path: Path) -> bool:
    extension = extension_of(path.name)
    return extension in EXTENSIONS | UNREAD_EXTENSIONS or (not extension and looks_like_an_image(path))


CLASS_FOLDERS = Format("a folder", Path.is_dir, _open_folder, options=FITS_OPTIONS)
IMAGE_FILE = Format(f"an image ({shortened(EXTENSIONS)})", _takes_file, _open_file, options=FITS_OPTIONS)
