"""Where labelled images come from: folders, `.npz` files, catalogs and named sets."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from astroformer.errors import PartsNotClasses, UserError, unknown_name
from astroformer.files import check_is_path, expanded
from astroformer.images.formats import FORMATS
from astroformer.images.labelled import LabelledImages
from astroformer.images.names import class_name, ignored_sentence
from astroformer.images.sets import NAMED_SETS, mock_galaxies
from astroformer.images.sets.download import Listener

_PER_CLASS = "per-class"


def open_source(
    source: str | Path,
    *,
    classes: Sequence[str] | None = None,
    labelled: bool = True,
    seed: int = 0,
    part: str | None = None,
    only_known: bool = False,
    columns: Sequence[str] | Literal["all"] = (),
    listener: Listener | None = None,
) -> LabelledImages:
    """Open what a user named as a source of images.

    Example:
        >>> images = open_source("mock-galaxies:20x32", seed=1)
        >>> len(images), images.read(0).shape, images.classes[:3]
        (20, (32, 32, 3), ('disturbed', 'merging', 'round_smooth'))
        >>> open_source("mock-galaxies:40x32@per-class=0:3").counts()["merging"]
        3

    `source` is one of
      - a folder of class folders (images may lie deeper within them). With `labelled=False` any folder: all
        images in it.
      - an `.npz` with `images` and `labels`, or with `jpeg` (all encoded images, one after the other),
        `offsets` (image i is `jpeg[offsets[i]:offsets[i+1]]`) and `labels`; class names in `classes`.
        `images` is (N, H, W), (N, H, W, C) or (N, C, H, W) with C of 1, 3 or 4 (other C: say `@layout=`), of
        uint8, uint16, bool or float. Float images are taken as they are, without scaling. The file is read
        into memory whole.
      - a catalog, `.csv`, `.tsv` or `.parquet`, with a column of files (`FILE_COLUMNS` of `formats.catalogs`), relative
        to the catalog's folder, and one of labels (`LABEL_COLUMNS`).
      - one image file, with `labelled=False`.
      - a named set: `mock-galaxies`, `mock-galaxies:2000` (number), `mock-galaxies:2000x96` (number and size
        in pixels); or a published one, downloaded at first use: `cifar10:train`, `cifar10:test` (`NAMED_SETS` of
        `sets` has all of them).
    and may be followed by options, each `@word=value`:
      - `@per-class=a:b` keeps images a to b−1 of each class, in the source's order
        (`train.npz@per-class=0:50`).
      - `@file=COLUMN`, `@label=COLUMN` name the columns of a catalog, `@root=FOLDER` says where its images lie, if that
        is not the catalog's folder.
      - `@hdu=SCI`, `@hdu=1,2` name the parts of FITS files that are bands, where those that a file's names and keywords
        suggest are not meant; `@bands=g,r,i` or `@bands=0,2` choose bands and their order.
      - `@cube=stack.fits` behind a catalog: row i is image i of a stack in one FITS file.
      - `@mosaic=field.fits@size=64` behind a catalog: a row is a cutout of a mosaic around its right ascension and
        declination in degrees (`@ra=COLUMN`, `@dec=COLUMN`), of 64 pixels or `@size=20arcsec` a side. Bands in several
        files are `@mosaic=g.fits,r.fits` or a pattern. `@id=COLUMN` names the images.
      - `@layout=NHWC` or `@layout=NCHW` says how the `images` of an `.npz` lie.

    Args:
        classes: names in the order that labels shall have (a model's classes). By default folder and catalog
            labels are sorted (numbers within names by value), and an `.npz` keeps the order of its `classes`.
        labelled: whether labels are needed. If False, labels are not read and `labels` is None.
        seed: for mock galaxies.
        part: what a published set's name alone means, `train` where one trains; without it the part must be said,
            so that nothing is tested on training images, or trained on test images, by mistake.
        only_known: leave images of classes that are not in `classes` out, in place of an error; `ignored` counts them.
        columns: names of other columns of a catalog that `columns` of the images shall hold; `all` takes every one, and
            is no error for a source that has none.
        listener: what is told of a download.

    Raises `UserError` if the source does not exist or cannot be read, has no images or an empty class folder,
    lists a file twice or has a label that is not in `classes`; without `classes` also if it has one class
    only or one without images.
    """
    check_is_path(source, "a source of images (folder, .npz, catalog, image or set)")
    name = str(source)
    path_name, options = split_options(name)
    known = {_PER_CLASS, *(word for format in FORMATS for word in format.options)}
    for word in options:
        if word not in known:
            raise unknown_name("source option", word, known)
    try:
        images, taken = _open(path_name, options, labelled, seed, part, columns, listener)
    except PartsNotClasses as error:
        if classes is None:
            raise
        # Of a model whose classes are known: nobody trains on these images.
        raise UserError(f"{error.found}: in its place name the part that is meant, such as '{error.part}'.") from None
    for word in options:
        if word not in (_PER_CLASS, *taken):
            raise UserError(f"'{name}': the option @{word} does not apply to this kind of source.")
    images = replace(images, source=name)
    if labelled:
        images = _in_order(images, classes, only_known)
    elif classes is not None:
        images = replace(images, classes=tuple(classes))
    if _PER_CLASS in options:
        images = _some_of_each_class(images, options[_PER_CLASS])
    if not len(images):
        raise UserError(f"'{name}' has no images.{ignored_sentence(images.ignored)}")
    return images


def check_there(source: str | Path) -> None:
    """Raises `UserError` where a source is neither a path nor a named set, which is known before anything is read."""
    name, _ = split_options(str(source))
    path = expanded(name)
    if not os.path.exists(path) and name.partition(":")[0] not in (mock_galaxies.NAME, *NAMED_SETS):
        raise _not_found(name, path)


def _open(
    name: str,
    options: Mapping[str, str],
    labelled: bool,
    seed: int,
    part: str | None,
    columns: Sequence[str] | Literal["all"],
    listener: Listener | None,
) -> tuple[LabelledImages, Sequence[str]]:
    """The images of a path or a named set, and the options that this kind of source takes."""
    path = expanded(name)
    try:
        if path.is_dir() or path.is_file():
            format = next((format for format in FORMATS if format.takes(path)), None)
            if format is None:
                nouns = [format.noun for format in FORMATS]
                raise UserError(f"'{path}' is no source of images: {', '.join(nouns[:-1])} or {nouns[-1]} is.")
            opened = format.open(path, labelled, options)
            if columns and format.columns is not None:
                wanted = None if columns == "all" else columns
                opened = replace(opened, columns=format.columns(path, labelled, options, wanted))
            else:
                _refuse_columns(name, columns)
            return opened, format.options
        if "\0" not in name and os.path.lexists(path):  # where `exists` means the end of a link
            what = "no regular file, but a pipe or a device" if path.exists() else "a link to a place that is not there"
            raise UserError(f"'{path}' is {what}; name a folder, an .npz, a catalog or an image.")
        images = _open_named_set(name, seed, part, listener)
        if images is None:
            raise _not_found(name, path)
        _refuse_columns(name, columns)
    except PermissionError as error:
        raise UserError(
            f"'{error.filename or path}' may not be read: {error.strerror}. Change its permissions."
        ) from None
    except OSError as error:
        raise UserError(f"'{error.filename or path}' cannot be read: {error.strerror or error}.") from None
    return images if labelled else replace(images, labels=None, classes=()), ()


def _refuse_columns(name: str, columns: Sequence[str]) -> None:
    """Raises a UserError where columns are asked for by name of a source that has none."""
    if columns and columns != "all":
        raise UserError(f"'{name}' has no column '{columns[0]}': a catalog has columns, other sources have none.")


def _open_named_set(name: str, seed: int, part: str | None, listener: Listener | None) -> LabelledImages | None:
    """The images of a rendered or published set, None if no set has this name."""
    set_name, _, words = name.partition(":")
    if set_name == mock_galaxies.NAME:
        return mock_galaxies.open_mock_galaxies(words, seed)
    if set_name in NAMED_SETS:
        return NAMED_SETS[set_name].open(words or part, listener)
    return None


# Options, order and checks ----------------------------------------------------------------------------------


def split_options(name: str) -> tuple[str, dict[str, str]]:
    """`PATH@word=value@word=value` into the path and the options; a path that exists is never taken apart."""
    options: dict[str, str] = {}
    while not os.path.exists(name):  # which a name of 5,000 letters does not, where a Path raises
        match = re.fullmatch(r"(.+)@([A-Za-z-]+)=((?:(?!@[A-Za-z-]+=).)*)", name, re.DOTALL)
        if not match:
            break
        name = match[1]
        options[match[2].lower()] = match[3]
    return name, options


def _in_order(images: LabelledImages, classes: Sequence[str] | None, only_known: bool) -> LabelledImages:
    """The images with their labels in the order of `classes`, if it is given, and with checked classes.

    Images of other classes are an error, or left out with `only_known`.
    """
    assert images.labels is not None
    if classes is None:
        for name, n in images.counts().items():
            if n == 0:
                raise UserError(
                    f"'{images.source}': the class '{name}' has no images. Add some or remove the class."
                    f"{ignored_sentence(images.ignored)}"
                )
        if len(images.classes) == 1:
            raise UserError(
                f"'{images.source}' has one class only, '{images.classes[0]}'; a classifier needs two or more."
            )
        return images
    position = {class_name(name): i for i, name in enumerate(classes)}
    new = np.array([position.get(class_name(name), -1) for name in images.classes], np.int64)[images.labels]
    unknown = {name: n for name, n in images.counts().items() if class_name(name) not in position}
    if unknown and not only_known:
        refusal = unknown_name(f"class in '{images.source}'", next(iter(unknown)), classes)
        raise UserError(f"{refusal} --only-known leaves the {sum(unknown.values()):,} images of such classes out.")
    known = replace(images, labels=new, classes=tuple(classes))
    if not unknown:
        return known
    left_out = [f"{images.files[i]} (of a class that the model does not know)" for i in np.flatnonzero(new < 0)]
    return replace(known.subset(np.flatnonzero(new >= 0)), ignored=[*images.ignored, *left_out])


def _some_of_each_class(images: LabelledImages, text: str) -> LabelledImages:
    """The images that `@per-class=` asks for, in the source's order."""
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
        named = [mock_galaxies.NAME, *NAMED_SETS]
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
