"""Votes of people on what an image shows, as shares of its classes and a weight.

Shape letters: N images, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroformer.errors import UserError
from astroformer.images.labelled import LabelledImages

COUNTS, FRACTIONS = "counts", "fractions"
KINDS = (COUNTS, FRACTIONS)
_ROUNDING = 0.02  # how far from 1 fractions that are written with a few digits may sum


class Votes(NamedTuple):
    """Votes on N images.

    Attributes:
        shares_NK: (N, K) float64, the share of the votes on each class; a row sums to 1, or is 0 where nobody voted.
        weights_N: (N,) float64, the sum of each row of counts; None of fractions, which all count alike.
    """

    shares_NK: NDArray[np.float64]
    weights_N: NDArray[np.float64] | None


def shares_of(votes_NK: NDArray[Any], source: str, kind: str | None = None, advice: str = "") -> Votes:
    """Votes as shares, from counts or fractions.

    Counts are whole numbers of which some image has more than one. Each row is divided by its sum, which becomes the
    weight of the image. Fractions sum to 1 for each image, but for rounding (2 %).

    Args:
        votes_NK: (N, K) numbers, 0 or more.
        source: where they are from, for messages.
        kind: "counts" takes any sums, "fractions" only sums of 1; None: as said above.
        advice: a sentence for whoever has fractions that don't sum to 1.

    Raises:
        UserError: a number is missing, negative or infinite; nobody voted on any image; or fractions do not sum to 1.

    Examples:
        >>> import numpy as np
        >>> shares_of(np.array([[3, 1], [0, 10]]), "votes")
        Votes(shares_NK=array([[0.75, 0.25],
               [0.  , 1.  ]]), weights_N=array([ 4., 10.]))
    """
    votes_NK = np.asarray(votes_NK).astype(np.float64)
    if votes_NK.ndim != 2 or votes_NK.shape[1] < 2:
        raise UserError(
            f"'{source}': votes have shape {votes_NK.shape}; (images, classes) with two classes or more is needed."
        )
    for what, wrong_NK in (("no number", np.isnan(votes_NK)), ("infinite", np.isinf(votes_NK))):
        _refuse(wrong_NK, votes_NK, source, what)
    _refuse(votes_NK < 0, votes_NK, source, "negative")
    sums_N = votes_NK.sum(1)
    if len(votes_NK) and not sums_N.any():
        raise UserError(f"'{source}': all votes are 0. Name the columns of votes that were given.")
    shares_NK = votes_NK / np.where(sums_N > 0, sums_N, 1.0)[:, None]
    counted = bool((votes_NK == np.round(votes_NK)).all() and (sums_N > 1).any())
    if kind == COUNTS or (kind is None and counted):
        return Votes(shares_NK, sums_N)
    wrong_N = (np.abs(sums_N - 1) > _ROUNDING) & (sums_N > 0)
    if wrong_N.any():
        row = int(np.argmax(wrong_N))
        raise UserError(
            f"'{source}': the votes of {wrong_N.sum():,} of {len(votes_NK):,} images do not sum to 1 (row {row + 1}: "
            f"{sums_N[row]:g}), as the fractions of one question do.{advice and ' '}{advice}"
        )
    return Votes(shares_NK, None)


def _refuse(wrong_NK: NDArray[np.bool_], votes_NK: NDArray[np.float64], source: str, what: str) -> None:
    if wrong_NK.any():
        row, column = (int(i) for i in np.argwhere(wrong_NK)[0])
        n = int(wrong_NK.any(1).sum())
        unasked = int(np.isnan(votes_NK).all(1).sum())
        advice = f"; @unlabelled=skip leaves the {unasked:,} out that have no vote at all" if unasked else ""
        raise UserError(
            f"'{source}': votes of {n:,} of {len(votes_NK):,} images are {what} (the first: row {row + 1}, vote "
            f"{column + 1}, {votes_NK[row, column]:g}); they are numbers of 0 or more. Mend or remove the rows{advice}."
        )


def voted(
    images: LabelledImages,
    votes_NK: NDArray[Any],
    classes: tuple[str, ...],
    *,
    kind: str | None = None,
    advice: str = "",
    skip: bool = False,
) -> LabelledImages:
    """Images with votes in place of labels: the label of each is the class with most votes, of equal ones the first.

    Images that nobody voted on are left out, and `ignored` has them. Where the images carry no weights and the votes
    are counts, an image weighs as many as voted on it.

    Args:
        images: N images.
        votes_NK, kind, advice: as for `shares_of`.
        classes: the K class names.
        skip: leave images out of which all votes are NaN, since nobody was asked about them, in place of an error.

    Raises:
        UserError: as `shares_of`; or numbers do not go together.

    Examples:
        >>> import numpy as np
        >>> images = LabelledImages("three", ["a", "b", "c"], None, (), np.zeros((3, 8, 8, 1)).__getitem__)
        >>> asked = voted(images, np.array([[3, 1], [0, 0], [1, 1]]), ("smooth", "spiral"))
        >>> asked.files, asked.labels.tolist(), asked.weights_N.tolist(), asked.ignored
        (['a', 'c'], [0, 0], [4.0, 2.0], ['b (nobody voted on it)'])
    """
    source = images.source or "votes"
    if np.shape(votes_NK) != (len(images), len(classes)):
        raise UserError(
            f"'{source}': votes have shape {np.shape(votes_NK)}; ({len(images)}, {len(classes)}) is needed: images × "
            "classes."
        )
    votes_NK = np.asarray(votes_NK).astype(np.float64)
    if skip:
        votes_NK = np.where(np.isnan(votes_NK).all(1, keepdims=True), 0.0, votes_NK)
    shares_NK, weights_N = shares_of(votes_NK, source, kind, advice)
    if images.weights_N is not None:
        weights_N = images.weights_N
    labels = shares_NK.argmax(1) if len(shares_NK) else np.empty(0, np.int64)
    made = replace(images, labels=labels, classes=classes, votes_NK=shares_NK, weights_N=weights_N)
    asked_N = shares_NK.any(1)
    if asked_N.all():
        return made
    left_out = [f"{images.files[i]} (nobody voted on it)" for i in np.flatnonzero(~asked_N)]
    return replace(made.subset(np.flatnonzero(asked_N)), ignored=[*images.ignored, *left_out])


def describe_votes(images: LabelledImages) -> list[str]:
    """What a person should know of the votes of images: how many are ties."""
    if images.votes_NK is None:
        return []
    ties = int(((images.votes_NK == images.votes_NK.max(1, keepdims=True)).sum(1) > 1).sum())
    if not ties:
        return []
    have = "images have" if ties > 1 else "image has"
    return [f"{ties:,} {have} equally many votes for several classes; the first of them counts as the label"]


def checked_weights(
    weights_N: NDArray[Any], source: str, name: Callable[[int], str] = lambda i: f"image {i}"
) -> NDArray[np.float64]:
    """Weights of images, which must be 0 or more and finite, and not all 0. Raises `UserError` where they are not."""
    weights_N = np.asarray(weights_N).astype(np.float64)
    wrong_N = ~(np.isfinite(weights_N) & (weights_N >= 0))
    if wrong_N.any():
        first = int(np.argmax(wrong_N))
        what = "missing" if np.isnan(weights_N[first]) else f"{weights_N[first]:g}"
        raise UserError(
            f"'{source}': the weights of {wrong_N.sum():,} of {len(weights_N):,} images are no weights (the first: "
            f"{name(first)}, {what}); numbers of 0 or more are needed, of every image."
        )
    if len(weights_N) and not weights_N.any():
        raise UserError(f"'{source}': all weights are 0, so no image would count. Give some a weight above 0.")
    return weights_N
