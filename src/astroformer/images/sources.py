"""Where labelled images come from: folders, files of arrays, catalogs and named sets."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from astroformer.errors import PartsNotClasses, UserError, unknown_name
from astroformer.files import check_is_path, expanded, is_url
from astroformer.images import remote
from astroformer.images.formats import FORMATS
from astroformer.images.formats.band_files import BandFilesReader
from astroformer.images.formats.folders import FileReader
from astroformer.images.formats.tables import is_table
from astroformer.images.labelled import LabelledImages
from astroformer.images.names import class_name, ignored_sentence
from astroformer.images.run_split import is_run_split, origin_of
from astroformer.images.sets import NAMED_SETS, hugging_face, mock_galaxies
from astroformer.images.sets.download import Listener
from astroformer.images.splits import read_split
from astroformer.images.unlabelled import UNLABELLED, note_of_odd_classes, without_unlabelled

_PER_CLASS = "per-class"
_OF_ALL = (_PER_CLASS, UNLABELLED)  # options of every kind of source
_SETS = (mock_galaxies.NAME, *NAMED_SETS, hugging_face.NAME)


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

    Examples:
        >>> images = open_source("mock-galaxies:20x32", seed=1)
        >>> len(images), images.read(0).shape, images.classes[:3]
        (20, (32, 32, 3), ('disturbed', 'merging', 'round_smooth'))
        >>> open_source("mock-galaxies:40x32@per-class=0:3").counts()["merging"]
        3

    `source` is one of
      - a folder of class folders (images may lie deeper within them). With `labelled=False` any folder: all
        images in it.
      - an `.npz` with `images` and `labels` (and `bands`, their names, with `units`), or with `jpeg` (all encoded
        images, one after the other), `offsets` (image i is `jpeg[offsets[i]:offsets[i+1]]`) and `labels`; class names
        in `classes`. In place of `labels` there may be `votes` (N, K), see `votes.shares_of`.
        `images` is (N, H, W), (N, H, W, C) or (N, C, H, W) with C of 1, 3 or 4 (other C: say `@layout=`), of
        uint8, uint16, bool or float. Float images are taken as they are, without scaling. Images are read from
        the file one by one if it is not compressed, else it is read into memory whole.
      - an HDF5 file (`.h5`, `.hdf5`, `.he5`) or a Zarr (folder `.zarr`, or `.zarr.zip`) with the same arrays, read
        in their blocks. Class names, bands and units may be attributes.
      - a catalog, `.csv`, `.tsv`, `.parquet`, or, with the extra [astro], a FITS table, `.vot`, `.votable`, `.xml` or
        `.ecsv`, with a column of files (`FILE` of `formats.catalogs`), relative to the catalog's folder, and
        one of labels (`LABEL`).
      - `RUN/splits/train.csv` or `valid.csv` of a run folder: the images that the run trained on or held out.
      - one image file, with `labelled=False`.
      - the URL of one of these, `s3://bucket/survey.h5`, `https://example.org/cube.fits`: it is copied
        once, see `remote`. `@root=`, `@cube=` and `@mosaic=` may name URLs too.
      - a named set: `mock-galaxies`, `mock-galaxies:2000` (number), `mock-galaxies:2000x96` (number and size
        in pixels); or a published one, downloaded at first use: `cifar10:train`, `cifar10:test` (`NAMED_SETS` of
        `sets` has all of them); or any image set of Hugging Face, `hf:owner/name`.
    and may be followed by options, each `@word=value`:
      - `@per-class=a:b` keeps images a to b−1 of each class, in the source's order
        (`train.npz@per-class=0:50`).
      - `@unlabelled=skip` leaves images without a label out, `@unlabelled=-1,unknown` those with these labels too.
      - `@file=COLUMN`, `@label=COLUMN` name the columns of a catalog, `@root=FOLDER` says where its images lie, if that
        is not the catalog's folder. `@id=COLUMN@pattern=images/{id}.jpg` in place of `@file` says where the image of an
        id lies; `*`, `?` and `[…]` in a pattern stand for what file names have beside it. FITS files of one band each
        are `@pattern={id}.[gri].fits`, `@pattern={id}_g.fits,{id}_r.fits` or `@file=COLUMN+COLUMN+…`.
      - `@votes=COLUMN+COLUMN+…` in place of `@label`: what people voted, a column a class (see `votes.shares_of`);
        `@votes-as=counts` or `fractions` says how they are meant, `@classes=NAME+NAME+…` how the classes are called.
      - `@weight=COLUMN`: how much an image counts in the loss of training. `@group=COLUMN`: images with the same value
        are never parted by a split. `@ra=COLUMN`, `@dec=COLUMN`: positions in degrees, found by their names otherwise;
        `@same-sky=60` keeps images within 60 arcsec of each other, directly or through others, together in a split.
      - `@table=NAME`: which table of a FITS or VOTable file with several.
      - `@hdu=SCI`, `@hdu=1,2` name the parts of FITS files that are bands, where those that a file's names and keywords
        suggest are not meant; `@bands=g,r,i` or `@bands=0,2` choose bands and their order; `@blank=-9999,inf` names
        values of FITS files that stand for none, which makes them missing.
      - `@cube=stack.fits` behind a catalog: row i is image i of a stack in one FITS file.
      - `@mosaic=field.fits@size=64` behind a catalog: a row is a cutout of a mosaic around its right ascension and
        declination in degrees (`@ra=COLUMN`, `@dec=COLUMN`), of 64 pixels or `@size=20arcsec` a side. Bands in several
        files are `@mosaic=g.fits,r.fits` or a pattern. `@id=COLUMN` names the images.
      - `@layout=NHWC` or `@layout=NCHW` says how the `images` of an `.npz`, HDF5 file or Zarr lie.
      - `@images=NAME`, `@labels=NAME` name the arrays of an `.npz`, HDF5 file or Zarr; `@unwritten=fill` reads what was
        never written as the value that stands for it.
      - `@config=`, `@split=`, `@image=COLUMN`, `@label=COLUMN`, `@revision=` say what of a set of Hugging Face.

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
    of_formats = (word for format in FORMATS for word in format.options)
    known = list(dict.fromkeys([*_OF_ALL, *of_formats, *hugging_face.OPTIONS]))
    for word in options:
        if word not in known:
            raise unknown_name("source option", word, known)
    brought = remote.bring(path_name, options, listener)
    path, words = brought.name, brought.options
    taken: Sequence[str] = ()
    with brought.errors_named():
        try:
            _refuse_lone_catalog(path_name, Path(path), words)
            if set(words) <= {_PER_CLASS} and is_run_split(expanded(path)):
                images = _open_run_split(expanded(path), labelled, columns, listener)
            else:
                images, taken = _open(path, words, labelled, seed, part, columns, listener)
        except PartsNotClasses as error:
            if classes is None:
                raise
            # Of a model whose classes are known: nobody trains on these images.
            how = f"in its place name the part that is meant, such as '{error.part}'"
            raise UserError(f"{error.found}: {how}.") from None
    for word in options:
        if word not in (*_OF_ALL, *taken):
            raise UserError(f"'{name}': the option @{word} does not apply to this kind of source.")
    images = brought.name_in(replace(images, source=name))
    if labelled:
        images = without_unlabelled(images, options)
        if classes is None:
            images = replace(images, notes=[*images.notes, *note_of_odd_classes(images)])
        images = _in_order(images, classes, only_known)
    elif classes is not None:
        images = replace(images, classes=tuple(classes))
    if _PER_CLASS in options:
        images = _some_of_each_class(images, options[_PER_CLASS])
    if not len(images):
        raise UserError(f"'{name}' has no images.{ignored_sentence(images.ignored)}")
    return images


def check_there(source: str | Path) -> None:
    """Raises `UserError` where a source is neither a path nor a named set, which is known before anything is read; or
    where it has a URL that can't be one of a source."""
    name, options = split_options(str(source))
    for url in remote.urls_in(name, options):
        remote.check_url(url)
    if is_url(name):
        return
    path = expanded(name)
    if not os.path.exists(path) and name.partition(":")[0] not in _SETS:
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
            if columns and format.with_columns is not None:
                wanted = None if columns == "all" else columns
                return format.with_columns(path, labelled, options, wanted), format.options
            _refuse_columns(name, columns)
            return format.open(path, labelled, options), format.options
        if "\0" not in name and os.path.lexists(path):  # where `exists` means the end of a link
            what = "no regular file, but a pipe or a device" if path.exists() else "a link to a place that is not there"
            raise UserError(f"'{path}' is {what}; name a folder, an .npz, a catalog or an image.")
        set_name, _, words = name.partition(":")
        if set_name == hugging_face.NAME:
            _refuse_columns(name, columns)
            return hugging_face.open_hugging_face(words, options, labelled, part, listener), hugging_face.OPTIONS
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


def _open_run_split(
    path: Path, labelled: bool, columns: Sequence[str] | Literal["all"], listener: Listener | None
) -> LabelledImages:
    """The images of a run's split, out of the source that the run had them from."""
    origin = origin_of(path)
    try:
        whole = open_source(
            origin.source,
            classes=origin.classes,
            seed=origin.seed,
            part="train",
            only_known=origin.only_known,
            columns=columns,
            listener=listener,
        )
    except RecursionError:
        raise UserError(f"'{path}' is a split of '{origin.source}', and that one of this one.") from None
    except UserError as error:
        if is_run_split(expanded(origin.source)):
            raise
        raise UserError(f"'{path}' is a split of '{origin.source}', which can't be opened: {error}") from None
    rows = read_split(path, whole)
    images = whole.subset(rows)
    if isinstance(whole.reader, FileReader | BandFilesReader):  # whose paths others ask for
        images = replace(images, reader=whole.reader.part(rows))
    if labelled:
        return images
    return replace(images, labels=None, classes=(), votes_NK=None, weights_N=None)


def _refuse_lone_catalog(name: str, path: Path, options: Mapping[str, str]) -> None:
    """Raises a UserError for a catalog that was copied from a URL without the images that it lists."""
    if is_url(name) and is_table(path) and not options.keys() & {"root", "cube", "mosaic"}:
        folder = name.rpartition("/")[0]
        raise UserError(
            f"'{name}' is a catalog, and its images are not copied with it: say where they lie, such as @root=FOLDER, "
            f"or @root={folder} to have that folder copied whole."
        )


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
    """`PATH@word=value@word=value` into the path and the options; a path that exists is never taken apart.

    Raises:
        UserError: a URL in it holds a password or a key, which no output may show.
    """
    options: dict[str, str] = {}
    while not os.path.exists(name):  # which a name of 5,000 letters does not, where a Path raises
        match = re.fullmatch(r"(.+)@([A-Za-z-]+)=((?:(?!@[A-Za-z-]+=).)*)", name, re.DOTALL)
        if not match:
            break
        name = match[1]
        options[match[2].lower()] = match[3]
    for url in remote.urls_in(name, options):
        remote.check_no_secrets(url)
    return name, options


def _in_order(images: LabelledImages, classes: Sequence[str] | None, only_known: bool) -> LabelledImages:
    """The images with their labels in the order of `classes`, if it is given, and with checked classes.

    Images of other classes are an error, or left out with `only_known`.
    """
    assert images.labels is not None
    votes_NK = images.votes_NK
    if classes is None:
        for name, n in images.amounts().items():
            if n == 0:
                what = "images" if votes_NK is None else "votes"
                raise UserError(
                    f"'{images.source}': the class '{name}' has no {what}. Add some or remove the class."
                    f"{ignored_sentence(images.ignored)}"
                )
        if len(images.classes) == 1:
            raise UserError(
                f"'{images.source}' has one class only, '{images.classes[0]}'; a classifier needs two or more."
            )
        return images
    position = {class_name(name): i for i, name in enumerate(classes)}
    if votes_NK is not None:
        return _votes_in_order(images, votes_NK, position, tuple(classes))
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


def _votes_in_order(
    images: LabelledImages, votes_NK: NDArray[np.float64], position: Mapping[str, int], classes: tuple[str, ...]
) -> LabelledImages:
    """The images with their votes in the order of the classes; a class that they have no votes of has a share of 0."""
    for name in images.classes:
        if class_name(name) not in position:
            refusal = unknown_name(f"class in the votes of '{images.source}'", name, classes)
            raise UserError(
                f"{refusal} Name the columns of the model's classes in @votes, and with @classes "
                "how the model calls them where that differs."
            )
    shares_NK = np.zeros((len(images), len(classes)))
    shares_NK[:, [position[class_name(name)] for name in images.classes]] = votes_NK
    return replace(images, votes_NK=shares_NK, labels=shares_NK.argmax(1), classes=classes)


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
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/[^/]", name):
        return UserError(f"'{name}' does not exist. Give a URL as str, with two slashes; a Path drops one.")
    if "/" not in name and os.sep not in name and not path.suffix:
        named = [*_SETS[:-1], f"{hugging_face.NAME}:owner/name"]
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
