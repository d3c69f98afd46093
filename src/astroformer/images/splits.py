"""Stratified splits: the same share of every class in each part, the same split for the same seed."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

from astroformer.errors import UserError
from astroformer.files import replacing
from astroformer.images.grouped_split import split_groups
from astroformer.images.labelled import LabelledImages

Indices = NDArray[np.int64]


def holdout(
    labels: NDArray[np.integer],
    fraction: float,
    seed: int,
    *,
    classes: Sequence[str] | None = None,
    groups: NDArray[np.integer] | None = None,
) -> tuple[Indices, Indices]:
    """Split into training and validation indices, each sorted.

    Every class has at least one image in each part. Otherwise the validation part has round(fraction · N)
    images, and of each class its share by largest remainder: within one image of fraction · n. With `groups`,
    of which none is in both parts, shares are as near as `split_groups` comes.

    Args:
        labels: (N,) whole numbers.
        fraction: share to validate on, in (0, 1).
        classes: names, for the error's sentence.
        groups: (N,) numbers; images with the same one stay together.

    Raises `UserError` if a class has fewer than two images, or than two groups.
    """
    if not 0 < fraction < 1:
        raise UserError(f"the validation fraction is {fraction}; it lies between 0 and 1, for instance 0.2.")
    members = _members(labels, seed, need=2, what="a training and a validation part", classes=classes)
    counts = np.array([len(m) for m in members])
    if _has_groups(groups):
        share_K = np.clip(fraction, 1 / counts, 1 - 1 / counts)
        shares_PK = np.stack([1 - share_K, share_K])
        train, valid = _split_with_groups(labels, groups, shares_PK, seed, "a training and a validation part", classes)
        return train, valid
    quota = fraction * counts
    taken = np.clip(np.floor(quota).astype(np.int64), 1, counts - 1)
    total = int(np.clip(round(fraction * counts.sum()), len(counts), counts.sum() - len(counts)))
    # Largest remainder first; sorting is stable, so ties go to the class with the lower number.
    for c in np.argsort(taken - quota, kind="stable"):
        if taken.sum() < total and taken[c] < counts[c] - 1 and taken[c] < quota[c]:
            taken[c] += 1
    valid = np.sort(np.concatenate([m[:n] for m, n in zip(members, taken, strict=True)]))
    train = np.sort(np.concatenate([m[n:] for m, n in zip(members, taken, strict=True)]))
    return train, valid


def kfold(
    labels: NDArray[np.integer],
    k: int,
    seed: int,
    *,
    classes: Sequence[str] | None = None,
    groups: NDArray[np.integer] | None = None,
) -> list[tuple[Indices, Indices]]:
    """k splits into training and validation indices, each sorted; every image is validated on once.

    Folds differ by at most one image, in all and in each class. With `groups` (as in `holdout`) they are as
    level as `split_groups` comes.

    Raises `UserError` if k < 2 or a class has fewer than k images, or than k groups.
    """
    if k < 2:
        raise UserError(f"{k} folds are asked for; there are 2 or more.")
    members = _members(labels, seed, need=k, what=f"{k} folds", classes=classes)
    everything = np.sort(np.concatenate(members))
    if _has_groups(groups):
        parts = _split_with_groups(labels, groups, np.full((k, len(members)), 1 / k), seed, f"{k} folds", classes)
        return [(np.setdiff1d(everything, fold, assume_unique=True), fold) for fold in parts]
    # Image i of this list goes to fold i modulo k. The classes follow each other in it, so the folds are level in each
    # class and in all.
    shuffled = np.concatenate(members)
    folds = [np.sort(shuffled[fold::k]) for fold in range(k)]
    return [(np.setdiff1d(everything, fold, assume_unique=True), fold) for fold in folds]


def _has_groups(groups: NDArray[np.integer] | None) -> TypeGuard[NDArray[np.integer]]:
    """Whether there are groups of more than one image."""
    return groups is not None and len(np.unique(groups)) < len(groups)


def _split_with_groups(
    labels: NDArray[np.integer],
    groups: NDArray[np.integer],
    shares_PK: NDArray[np.floating],
    seed: int,
    what: str,
    classes: Sequence[str] | None,
) -> list[Indices]:
    """The sorted indices of each of P parts, no group in two of them; `shares_PK` is for K classes that occur."""
    present, numbers = np.unique(labels, return_inverse=True)
    part = split_groups(numbers, groups, shares_PK, np.random.default_rng(seed).permutation(len(numbers)))
    parts = [np.flatnonzero(part == p) for p in range(len(shares_PK))]
    for found in parts:
        lacking = np.setdiff1d(np.arange(len(present)), numbers[found])
        if len(lacking):
            label = present[lacking[0]]
            raise UserError(
                f"the class '{classes[label] if classes is not None else label}' has too few images for {what}: those "
                "that show the same thing stay together. Add images or leave the class out."
            )
    return parts


def _members(
    labels: NDArray[np.integer], seed: int, *, need: int, what: str, classes: Sequence[str] | None
) -> list[Indices]:
    """The indices of each class that occurs, shuffled by (seed, class)."""
    labels = np.asarray(labels)
    present = np.unique(labels)
    if not len(present):
        raise UserError("there are no images to split.")
    members = []
    for label in present:
        found = np.flatnonzero(labels == label).astype(np.int64)
        if len(found) < need:
            name = classes[label] if classes is not None else str(label)
            raise UserError(
                f"the class '{name}' has {len(found)} image{'s' * (len(found) != 1)}, too few for {what}: {need} are "
                "needed. Add images or leave the class out."
            )
        members.append(np.random.default_rng([seed, int(label)]).permutation(found))
    return members


def write_split(path: Path, images: LabelledImages, indices: Sequence[int] | Indices) -> None:
    """Write one part of a split as CSV: `file`, and `label`, the class name (empty without labels).

    Where the images have votes, `votes:CLASS` of each class follow, and `weight` where they have weights, so that it
    shows when they change.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("file", "label", *_beside(images)))
        for i in indices:
            label = "" if images.labels is None else images.classes[images.labels[i]]
            writer.writerow((images.files[i], label, *_values_beside(images, int(i))))


def _beside(images: LabelledImages) -> list[str]:
    """The columns of a split beside `file` and `label`."""
    votes = [] if images.votes_NK is None else [f"votes:{name}" for name in images.classes]
    return votes + ([] if images.weights_N is None else ["weight"])


def _values_beside(images: LabelledImages, i: int) -> list[str]:
    """The values of these columns for image i, with all digits."""
    votes = [] if images.votes_NK is None else images.votes_NK[i].tolist()
    return [repr(value) for value in (*votes, *([] if images.weights_N is None else [float(images.weights_N[i])]))]


def read_split(path: Path, images: LabelledImages) -> Indices:
    """The indices in `images` of the files that a split lists, in its order.

    Raises `UserError` if the file is no split, lists a file twice or one that `images` lacks, or if a label, votes or a
    weight have changed.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"the split '{path}' cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    header = ["file", "label", *_beside(images)]
    if not rows or rows[0][:2] != header[:2] or any(len(row) != len(rows[0]) for row in rows):
        raise UserError(f"'{path}' is no split: it should have the columns file,label.")
    if rows[0] != header:
        raise UserError(
            f"the split '{path}' has the columns {','.join(rows[0])}, and by '{images.source}' it should have "
            f"{','.join(header)}: votes or weights have been added or taken away. Split anew."
        )
    if len(rows) == 1:
        raise UserError(f"the split '{path}' lists no image. Split anew.")
    position = {name: i for i, name in enumerate(images.files)}
    indices: list[int] = []
    seen: set[str] = set()
    for name, label, *beside in rows[1:]:
        if name in seen:
            raise UserError(f"the split '{path}' lists '{name}' twice. Split anew.")
        if name not in position:
            raise UserError(f"the split '{path}' lists '{name}', which '{images.source}' does not have. Split anew.")
        seen.add(name)
        i = position[name]
        now = "" if images.labels is None else images.classes[images.labels[i]]
        if images.labels is not None and label != now:
            raise UserError(
                f"the split '{path}' gives '{name}' the label '{label}', '{images.source}' the label "
                f"'{now}'. Split anew."
            )
        if beside != (values := _values_beside(images, i)):
            raise UserError(
                f"the split '{path}' gives '{name}' other votes or another weight ({', '.join(beside)}) than "
                f"'{images.source}' ({', '.join(values)}). Split anew."
            )
        indices.append(i)
    return np.array(indices, np.int64)
