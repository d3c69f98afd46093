"""`show`: what a network will see of somebody's images, before it is trained on them."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from astroformer.augmentation.augmenter import Augmenter
from astroformer.drawing import class_name, shortened
from astroformer.errors import UserError
from astroformer.images import LabelledImages, Preprocessing
from astroformer.images.contact_sheet import ContactSheet, Row, Tile, in_title, visible
from astroformer.images.reading import Array
from astroformer.images.store import Filled
from astroformer.progress import Reporter, shown_by
from astroformer.system import usable_cores
from astroformer.training.measuring import preprocessing_of
from astroformer.training.recipe import Recipe, as_recipe
from astroformer.training.rules import decide
from astroformer.training.splitting import describe_images, filled_words, split_images
from astroformer.training.task import Task

PER_CLASS = 8
_MOST_CLASSES = 200  # that a sheet has room for
_NAMED_SIZES = 3
_NAMED_FAILURES = 5  # images that can't be read, of which each is named with its reason
_AT_ONCE = 64  # images that are augmented at once


@dataclass(frozen=True)
class Shown:
    """What `show` gives back. In a notebook it is the first page of its sheet.

    Attributes:
        sheet: the images, by class.
        sentences: what is to say of them: how many, of which classes, of which sizes, and how the network sees them.
        recipe: the decided one, as `train` would decide it.
    """

    sheet: ContactSheet
    sentences: tuple[str, ...]
    recipe: Recipe

    def save(self, path: str | Path) -> None:
        """Writes the first page as a PNG and, beside it, all pages as a PDF."""
        self.sheet.save(Path(path))

    def __repr__(self) -> str:
        return "\n".join(self.sentences)

    def _repr_png_(self) -> bytes:
        return self.sheet.png()


class _Seen(NamedTuple):
    """An image as its file has it, and as the network does."""

    shape: tuple[int, ...]
    dtype: str
    lacking: float  # share of its pixels
    stored_CHW: Array


def show(
    source: str | Path,
    recipe: Recipe | str | Path | None = None,
    *,
    per_class: int = PER_CLASS,
    augmented: bool = False,
    quiet: bool = False,
    reporter: Reporter | None = None,
) -> Shown:
    """Some images of each class as a network that is trained on them will see them.

    They are prepared as `train` would prepare them with the same source and recipe, which decides crop, size and units.
    Of each class the images are spread evenly over its list; of more than 200 classes, the classes are too.

    Args:
        source: folder of class folders, `.npz`, catalog (CSV, Parquet) or named set; see `open_source`.
        recipe: settings, or a name or path, as for `train`; what it leaves open is decided as there.
        per_class: images of a class, 1 to 12.
        augmented: show under each row what training makes of these images in its first epoch.
        quiet: as for `train`.
        reporter: as for `train`.

    Raises:
        UserError: anything about the input that the user can mend, as by `train`.

    Examples:
        >>> import tempfile
        >>> import astroformer
        >>> shown = astroformer.show("mock-galaxies:40x32", astroformer.Recipe(device="cpu"))
        >>> len(shown.sheet.rows)
        10
        >>> shown.save(f"{tempfile.mkdtemp()}/sheet.png")  # and sheet.pdf
    """
    if not 1 <= per_class <= 12:
        raise UserError(f"per_class is {per_class}; a row has room for 1 to 12 images of a class.")
    given = as_recipe(recipe)
    with shown_by(reporter, quiet=quiet) as open_reporter:
        return _shown(source, given, per_class, augmented, open_reporter)


def _shown(source: str | Path, given: Recipe, per_class: int, augmented: bool, reporter: Reporter) -> Shown:
    split = split_images(Task(source), given, reporter)
    images = split.images
    recipe, decisions = decide(given, images.subset(split.train_rows))
    for sentence in decisions:
        reporter.detail(sentence)
    unsuited: list[str] = []
    preprocessing = preprocessing_of(recipe, images.subset(split.train_rows), say=unsuited.append)
    chosen = _chosen(images, per_class)
    seen = _read([i for rows in chosen.values() for i in rows], images, preprocessing, reporter)
    stored = {i: image for i, image in seen.items() if isinstance(image, _Seen)}
    tiles, said = _tiles(stored, images, recipe, preprocessing, augmented)

    rows: list[Row] = []
    counts = list(images.counts().values())
    for k, positions in chosen.items():
        row = [tiles[0].get(i, Tile(None)) for i in positions]
        rows.append(Row(row, class_name(images.classes[k], k + 1), f"n = {counts[k]:,}"))
        if augmented:
            rows.append(Row([tiles[1].get(i, Tile(None)) for i in positions], "", "augmented"))

    failed = [str(image) for image in seen.values() if not isinstance(image, _Seen)]
    sentences = [*describe_images(split, recipe), _as_they_are(stored), _as_seen(preprocessing)]
    if lacking := [image.lacking for image in stored.values() if image.lacking]:
        words = filled_words(Filled(len(lacking), float(np.mean(lacking)), max(lacking)), preprocessing)
        sentences.append(f"{len(lacking):,} of the images shown {words}")
    sentences += [sentence for sentence in (preprocessing.described(), *unsuited, said) if sentence]
    if failed:
        of = f"{len(failed):,} of the {len(seen):,} images looked at"
        sentences.append(f"{of} can't be read and {'are' if len(failed) > 1 else 'is'} not shown")
        sentences += [f"  {reason}" for reason in failed[:_NAMED_FAILURES]]
    if len(failed) > _NAMED_FAILURES:
        sentences.append(f"  and {len(failed) - _NAMED_FAILURES:,} more")
    if len(chosen) < len(counts):
        sentences.append(f"the sheet shows {len(chosen)} of {len(counts):,} classes, spread evenly over them")
    title = in_title(f"{shortened(images.source, 60)}, {_as_seen(preprocessing)}", said)
    return Shown(ContactSheet(title, rows, per_class), tuple(sentences), recipe)


def _chosen(images: LabelledImages, per_class: int) -> dict[int, list[int]]:
    """The images to show of each class that is shown."""
    assert images.labels is not None
    shown = np.unique(np.linspace(0, len(images.classes) - 1, _MOST_CLASSES).astype(int))
    found = {}
    for k in shown:
        of_class = np.flatnonzero(images.labels == k)
        some = np.unique(np.linspace(0, len(of_class) - 1, min(per_class, len(of_class))).astype(int))
        found[int(k)] = of_class[some].tolist()
    return found


def _read(
    positions: list[int], images: LabelledImages, preprocessing: Preprocessing, reporter: Reporter
) -> dict[int, _Seen | UserError]:
    """These images, or why they can't be taken."""

    def see(i: int) -> _Seen | UserError:
        try:
            image = images.read(i)
            stored_CHW = preprocessing.apply(image)
            return _Seen(image.shape, str(image.dtype), preprocessing.missing_share(image), stored_CHW)
        except UserError as error:
            return error

    found: dict[int, _Seen | UserError] = {}
    with ThreadPoolExecutor(usable_cores()) as pool:
        for done, (i, image) in enumerate(zip(positions, pool.map(see, positions), strict=True), start=1):
            found[i] = image
            reporter.count("reading", done, len(positions))
    if not any(isinstance(image, _Seen) for image in found.values()):
        raise UserError(
            f"none of {len(found)} images of '{images.source}' can be taken. The first: {found[positions[0]]}"
        )
    return found


def _tiles(
    stored: dict[int, _Seen], images: LabelledImages, recipe: Recipe, preprocessing: Preprocessing, augmented: bool
) -> tuple[tuple[dict[int, Tile], dict[int, Tile]], str | None]:
    """The images as tiles and, if asked for, as training makes them; and a sentence where these are not shown as they
    are."""
    plain = [seen.stored_CHW for seen in stored.values()]
    made = _augmented(plain, list(stored), images, recipe, preprocessing) if augmented else []
    shown, said = visible([*plain, *made], preprocessing.bands, preprocessing.scaling)
    tiles = [Tile(image) for image in shown]
    n = len(plain)
    both = dict(zip(stored, tiles[:n], strict=True)), dict(zip(stored, tiles[n:], strict=False))
    return both, said


def _augmented(
    stored: list[Array], positions: list[int], images: LabelledImages, recipe: Recipe, preprocessing: Preprocessing
) -> list[Array]:
    """What the first epoch of a run makes of images, as they are stored; each is mixed, if any are, with another one
    that is shown."""
    assert images.labels is not None
    augmenter = Augmenter(recipe.augment, seed=recipe.seed, size=preprocessing.image_size, rgb=preprocessing.rgb)
    if recipe.epochs is not None:  # by the clock nobody knows the length, and all that a long run does is shown
        augmenter = augmenter.at_length(recipe.epochs)
    made: list[Array] = []
    for start in range(0, len(stored), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        index_B = torch.tensor(positions[part])
        x_BCHW = augmenter.transform(torch.from_numpy(np.stack(stored[part])), index_B, 0)
        if augmenter.mixes:
            label_B = torch.from_numpy(images.labels[positions[part]])
            y_BK = torch.nn.functional.one_hot(label_B, len(images.classes)).float()
            x_BCHW, _ = augmenter.mix(x_BCHW, x_BCHW.roll(-1, 0), y_BK, y_BK.roll(-1, 0), index_B, 0)
        x = x_BCHW.numpy()
        made += list(np.rint(255 * x).astype(np.uint8) if preprocessing.dtype == "uint8" else x)
    return made


def _as_they_are(stored: dict[int, _Seen]) -> str:
    """The sizes, bands and types of the images that are shown, as their files have them."""
    sizes = Counter(image.shape[:2] for image in stored.values())
    named = [f"{h} × {w} px" + (f" ({n})" if len(sizes) > 1 else "") for (h, w), n in sizes.most_common(_NAMED_SIZES)]
    if len(sizes) > _NAMED_SIZES:
        heights, widths = zip(*sizes, strict=True)
        named = [
            f"{len(sizes)} sizes, from {min(heights)} to {max(heights)} px high and {min(widths)} to {max(widths)} wide"
        ]
    kinds = sorted({f"{image.shape[2]} × {image.dtype}" for image in stored.values()})
    return f"the {len(stored):,} images shown, as they are: {', '.join(named)}; bands and type: {', '.join(kinds)}"


def _as_seen(preprocessing: Preprocessing) -> str:
    """How the network will see images."""
    height, width = preprocessing.image_size
    channels = {1: "grey", 3: "3 bands"}.get(preprocessing.channels, f"{preprocessing.channels} bands")
    if preprocessing.bands is not None:
        channels = f"{'bands' if len(preprocessing.bands) > 1 else 'band'} {', '.join(preprocessing.bands.names)}"
    if preprocessing.scaling is not None:
        channels += f", scaling {preprocessing.scaling.kind}"
    part = "the whole frame" if preprocessing.crop == 1 else f"the middle {100 * preprocessing.crop:.0f} % of each side"
    return f"as the network sees them: {height} × {width} px, {channels}, {part}"
