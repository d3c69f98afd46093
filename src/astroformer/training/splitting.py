"""The images of a run: opened, split, decoded, and what is to say of copies among them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroformer.errors import UserError
from astroformer.images import (
    ImageStore,
    LabelledImages,
    Preprocessing,
    SetRecord,
    holdout,
    kfold,
    open_source,
    read_split,
)
from astroformer.images.copies import describe_copies, groups_with_copies
from astroformer.images.names import ignored_kinds, same_name, shortened
from astroformer.images.shared import sentences_on, shared_with
from astroformer.images.store import Filled
from astroformer.images.votes import describe_votes
from astroformer.progress import Reporter
from astroformer.training.image_sample import describe_repeated
from astroformer.training.objective import image_weights
from astroformer.training.recipe import Recipe
from astroformer.training.run import RunFolder
from astroformer.training.run_record import RunRecord
from astroformer.training.task import Task

_NAMED = 30  # classes that are named one by one
_TELLING = 60  # validation images; with fewer, the 95 % interval of an accuracy reaches over more than 25 points
_UNEVEN = 3  # times as many images as the smallest class the largest one has, from which a run speaks of it


class Split(NamedTuple):
    """The images of a run, and which of them are trained on and validated on."""

    images: LabelledImages
    valid_images: LabelledImages  # the same ones where none are given
    train_rows: NDArray[np.int64]
    valid_rows: NDArray[np.int64]


def split_images(task: Task, recipe: Recipe, reporter: Reporter) -> Split:
    """The images of a task, and those that are held out."""
    images = open_source(task.source, seed=recipe.images_seed, part="train", listener=reporter)
    for name, other in same_name(images.classes):
        raise UserError(
            f"'{images.source}' has two classes of the same name but for case: '{other}' and '{name}'. As folders some "
            "disks take them for one. Merge or rename."
        )
    if task.valid is not None:
        if recipe.folds is not None:
            raise UserError(f"folds ({recipe.folds}) hold images of the source out, --valid gives others; choose one.")
        valid = open_validation(task, images.classes, recipe, reporter)
        return Split(images, valid, np.arange(len(images)), np.arange(len(valid)))
    try:
        return Split(images, images, *_rows(images, recipe, images.groups))
    except UserError as error:
        boxes = images.whereabouts.boxes
        most = 0 if images.groups is None else int(np.unique(images.groups, return_counts=True)[1].max(initial=0))
        if boxes is None or most < 2:
            raise
        raise UserError(
            f"{error} Cutouts of {boxes.side:,} px overlap: {most:,} of {len(images):,} share pixels, directly or "
            "through others, and no split parts them. A smaller @size= parts more."
        ) from None


def open_validation(task: Task, classes: tuple[str, ...], recipe: Recipe, reporter: Reporter) -> LabelledImages:
    """The given validation images of a task, with labels of these classes."""
    assert task.valid is not None
    seed, known = recipe.images_seed, task.only_known
    return open_source(task.valid, classes=classes, seed=seed, only_known=known, listener=reporter)


def split_of(run: RunFolder, record: RunRecord, recipe: Recipe, reporter: Reporter) -> Split:
    """The images of a run that has begun, split as its folder records it.

    Raises:
        UserError: images are not there any more, or the classes have changed.
    """
    task = record.task
    images = open_source(task.source, seed=recipe.images_seed, part="train", listener=reporter)
    valid_images = images if task.valid is None else open_validation(task, images.classes, recipe, reporter)
    rows = read_split(run.splits / "train.csv", images), read_split(run.splits / "valid.csv", valid_images)
    if images.classes != tuple(record.counts):
        raise UserError(
            f"the classes of '{task.source}' have changed since run '{run.path}' began with {', '.join(record.counts)}"
            "; bring them back, or start a new run."
        )
    return Split(images, valid_images, *rows)


def describe_images(split: Split, recipe: Recipe) -> list[str]:
    """What a person should see of the images before they are decoded: how many of which classes, what their
    reader notes, whether so few validate that their scores say little."""
    counts, n, valid = split.images.counts(), len(split.train_rows), len(split.valid_rows)
    each = set(counts.values())
    if len(counts) > _NAMED:
        classes = f"{len(counts):,} classes, " + " to ".join(f"{count:,}" for count in sorted({min(each), max(each)}))
        classes += " images each"
    elif len(each) == 1:
        classes = f"{len(counts)} classes, {each.pop():,} images each: {', '.join(counts)}"
    else:
        classes = f"{len(counts)} classes: " + ", ".join(f"{name} {count:,}" for name, count in counts.items())
    if split.images.votes_NK is not None:
        classes = f"{classes}, each image by most of its votes, which are learned as shares"
    said = [f"{n:,} images to train on, {valid:,} to validate on; {classes}", *describe_votes(split.images)]
    said += dict.fromkeys(split.images.notes + split.valid_images.notes)
    if split.images.bands is not None and (unit := split.images.bands.magnitudes) is not None:
        said.append(
            f"the images are in {unit}: magnitudes are small where it is bright, and have no value in an empty sky. "
            "Scalings, and what is filled in, are made for fluxes; better give those: 10 ** (-0.4 * magnitude)"
        )
    # Of pictures nothing is to be said: black and white are colours.
    if split.images.bands is not None or split.images.masks or recipe.scaling not in (None, "none"):
        said += describe_repeated(split.images.subset(split.train_rows))
    if split.images.groups is not None and split.valid_images is split.images:
        sizes = np.unique(split.images.groups, return_counts=True)[1]
        if together := int(sizes[sizes > 1].sum()):
            said.append(
                f"{together:,} of {len(split.images):,} images have a group or sky in common with others; these stay "
                "on one side of the split"
            )
    if valid < _TELLING:
        within = 1.96 * (0.25 / max(valid, 1)) ** 0.5
        said.append(
            f"{valid:,} validation images tell an accuracy to about ± {100 * within:.0f} points; for more give "
            "--valid, a larger --valid-fraction, or --folds 5 --all-folds"
        )
    weights_N = None if split.images.weights_N is None else split.images.weights_N[split.train_rows]
    if image_weights(weights_N) is not None:
        assert weights_N is not None
        said.append(
            f"images are weighted in the loss of training, from {weights_N.min():g} to {weights_N.max():g} (mean "
            f"{weights_N.mean():.3g}); scores count every image once"
        )
    amounts = split.images.amounts().values()
    least, most = min(amounts), max(amounts)
    weighed = recipe.balanced_sampling or recipe.class_weights != "none"
    what = "images" if split.images.votes_NK is None else "votes"
    if most >= _UNEVEN * least and not weighed:
        said.append(
            f"the largest class has {most / least:.3g} times as many {what} as the smallest; with --class-weights auto "
            "each class counts alike"
        )
    return said


def describe_ignored(split: Split) -> list[str]:
    """What in the sources is not taken for images."""
    sources = [split.images] if split.valid_images is split.images else [split.images, split.valid_images]
    return [ignored_kinds(images.ignored) for images in sources if images.ignored]


def describe_unvalidated(split: Split) -> list[str]:
    """Which classes no given validation image is of: the scores say nothing of them."""
    lacking = [name for name, n in split.valid_images.amounts().items() if not n]
    if not lacking:
        return []
    of = "class" if len(lacking) == 1 else f"{len(lacking)} classes"
    return [
        f"--valid has no image of {of} {shortened(lacking)}, so no score says whether images of it are told from others"
    ]


def _rows(
    images: LabelledImages, recipe: Recipe, groups: NDArray[np.int64] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which images are trained on and which are held out; none of a group is on both sides."""
    strata = _strata(images, recipe.folds or 2)
    if recipe.folds is None:
        return holdout(strata, recipe.valid_fraction, recipe.images_seed, classes=images.classes, groups=groups)
    return kfold(strata, recipe.folds, recipe.images_seed, classes=images.classes, groups=groups)[recipe.fold]


def _strata(images: LabelledImages, least: int) -> NDArray[np.int64]:
    """(N,) what each part of a split has its share of: the labels.

    Of votes a class may be the first choice for too few images to be split, and still be learned from the votes that
    others have for it. These images count as the most voted class that has enough.
    """
    assert images.labels is not None
    if images.votes_NK is None:
        return images.labels
    enough_K = np.bincount(images.labels, minlength=len(images.classes)) >= least
    return np.where(enough_K, images.votes_NK, -1.0).argmax(1) if enough_K.any() else np.zeros_like(images.labels)


def without_parted_copies(split: Split, train: ImageStore, valid: ImageStore, recipe: Recipe) -> Split | None:
    """The split anew with copies as groups; None where validation images are given or there are no copies.

    Copies are only known once the images are decoded, and nearly always there are none.

    Raises:
        UserError: all images to train on are one picture; or a class has too few different ones for a split.
    """
    if len(train) > 1 and len(np.unique(train.digests)) == 1:
        raise UserError(
            f"all {len(train):,} images to train on are one picture (the first two: {train.files[0]}, "
            f"{train.files[1]}), so there is nothing to tell the classes by. Look at what wrote them."
        )
    if split.valid_images is not split.images:
        return None
    positions = np.concatenate([split.train_rows[train.indices], split.valid_rows[valid.indices]])
    digests = np.concatenate([train.digests, valid.digests])
    groups = groups_with_copies(digests, positions, len(split.images), split.images.groups)
    if groups is None:
        return None
    return Split(split.images, split.images, *_rows(split.images, recipe, groups))


def check_copies(train: ImageStore, valid: ImageStore, task: Task) -> list[str]:
    """What is to say of copies among the images.

    Raises:
        UserError: given validation images are trained on as well.
    """
    shared = np.flatnonzero(np.isin(valid.digests, train.digests))
    if len(shared) and task.valid is not None:
        same = train.files[int(np.flatnonzero(train.digests == valid.digests[shared[0]])[0])]
        if not task.allow_shared:
            raise UserError(
                f"{len(shared):,} of {len(valid):,} images of '{task.valid}' are trained on as well (the first: "
                f"{valid.files[shared[0]]} = {same}), so they would say nothing of new images. Take them out of one of "
                "the two, or go on with --allow-shared."
            )
    said = [f"{len(shared):,} of {len(valid):,} validation images are trained on as well"] if len(shared) else []
    stores = (train, valid) if task.valid is None else (train,)
    copies = describe_copies(
        np.concatenate([store.digests for store in stores]),
        [file for store in stores for file in store.files],
        np.concatenate([store.labels for store in stores]),
        train.classes,
    )
    split = ["copies are all trained on or all validated on"] if copies and task.valid is None else []
    return said + copies + split


def check_shared(split: Split, task: Task) -> list[str]:
    """What is to say of given validation images that show what is trained on, as far as their sources tell it.

    Raises:
        UserError: there are such images, and the task does not allow them.
    """
    if task.valid is None:
        return []
    train, valid = (
        images.subset(rows)
        for images, rows in ((split.images, split.train_rows), (split.valid_images, split.valid_rows))
    )
    said = sentences_on(shared_with(valid, train), valid, train, task.valid)
    if said and not task.allow_shared:
        raise UserError(
            f"{', and '.join(said)}, so they would say little of new images. Take them out of one of the two, or go on "
            "with --allow-shared."
        )
    return said


def describe_filled(train: ImageStore, valid: ImageStore) -> list[str]:
    """What was filled in of images with pixels that have no value."""
    stores = [train] if valid.folder == train.folder else [train, valid]
    images = sum(store.filled.images for store in stores)
    if not images:
        return []
    share = sum(store.filled.images * store.filled.share for store in stores) / images
    filled = Filled(images, share, max(store.filled.most for store in stores))
    whole = sum(len(store.base) for store in stores)
    return [f"{images:,} of {whole:,} images {filled_words(filled, train.preprocessing)}"]


def filled_words(filled: Filled, preprocessing: Preprocessing) -> str:
    """What images lack, on average and at most, and what it is filled with."""
    percent, most = ("less than 0.1 %" if x < 0.001 else f"{100 * x:.1f} %" for x in (filled.share, filled.most))
    with_what = {"median": "the median of their band in the image", "zero": "0"}[preprocessing.missing]
    lack = f"lack {percent} of their pixels on average" if filled.images > 1 else f"lacks {percent} of its pixels"
    if filled.most and most != percent:
        lack += f" and {most} at most"
    return f"{lack}: filled with {with_what}"


def descriptions(split: Split) -> list[SetRecord]:
    """What published sets say of themselves."""
    both = [split.images.about]
    return both if split.valid_images is split.images else [*both, split.valid_images.about]


def decode(split: Split, preprocessing: Preprocessing, task: Task, reporter: Reporter) -> tuple[ImageStore, ImageStore]:
    """The images to train on and to validate on.

    Where both come from one source they share one store, and so does every other split of it.
    """
    strict = task.strict

    def build(some: LabelledImages, name: str) -> ImageStore:
        def progress(done: int, total: int) -> None:
            reporter.count(f"decoding {name}", done, total)

        return ImageStore.build(some, preprocessing, cache=task.cache_folder, strict=strict, progress=progress)

    images, valid_images, *rows = split
    if valid_images is not images:
        return (
            build(images.subset(rows[0]), "training images"),
            build(valid_images.subset(rows[1]), "validation images"),
        )
    # Of a resumed run the source may have more images by now than were split.
    both = np.union1d(*rows)
    used = images.subset(both)
    whole = build(used, "images")
    train, valid = (whole.part(used, np.searchsorted(both, part), strict=strict) for part in rows)
    return train, valid
