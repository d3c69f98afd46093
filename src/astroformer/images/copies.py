"""Exact copies among images, found by what their decoded pixels are: other names, links, another file of the same.

Shape letters: N images.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from astroformer.images.hashes import hash_array
from astroformer.images.names import shortened
from astroformer.images.reading import Array

Digests = NDArray[np.uint64]


def pixel_digest(image: Array) -> int:
    """64 bits of the hash of an image as it was decoded: shape, type and values."""
    return int.from_bytes(hash_array(image)[:8], "little")


def groups_with_copies(
    digests: Digests, positions: NDArray[np.int64], n: int, groups: NDArray[np.int64] | None
) -> NDArray[np.int64] | None:
    """Groups of images that a split must not part: those of before, joined wherever an image of each is the same.

    Args:
        digests: of the images that could be read.
        positions: of these images among all.
        n: number of all images.
        groups: (n,) numbers of before; images with the same one stay together. None: each stands alone.

    Returns:
        (n,) numbers, or None where there are no copies, so that nothing changes.

    Examples:
        >>> import numpy as np
        >>> groups_with_copies(np.array([7, 9, 7], np.uint64), np.array([0, 1, 3]), 4, None).tolist()
        [0, 1, 2, 0]
    """
    _, pictures = np.unique(digests, return_inverse=True)
    if len(pictures) == 0 or pictures.max() + 1 == len(pictures):
        return None
    joined = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
    before = joined.copy()
    while True:  # the least number spreads over copies, then over groups, until it reaches no more
        least = np.full(pictures.max() + 1, n)
        np.minimum.at(least, pictures, joined[positions])
        spread = joined.copy()
        spread[positions] = least[pictures]
        of_group = np.full(before.max() + 1, n)
        np.minimum.at(of_group, before, spread)
        spread = of_group[before]
        if (spread == joined).all():
            return joined
        joined = spread


def describe_copies(
    digests: Digests, files: Sequence[str], labels: NDArray[np.int64], classes: Sequence[str]
) -> list[str]:
    """What a person should know of the copies among images: how many, and which picture has two labels.

    Args:
        digests, files, labels: (N,) of the images that could be read.
        classes: names of the labels.
    """
    _, pictures, counts = np.unique(digests, return_inverse=True, return_counts=True)
    if counts.max(initial=1) == 1:
        return []
    order = np.argsort(pictures, kind="stable")
    sets = [members for members in np.split(order, np.cumsum(counts)[:-1]) if len(members) > 1]
    examples = [" = ".join(files[i] for i in members[:2]) for members in sets]
    more = sum(len(members) - 1 for members in sets)
    said = [
        f"{more:,} image{'s are exact copies' if more > 1 else ' is an exact copy'} of others: {shortened(examples, 3)}"
    ]
    torn = [members for members in sets if len(set(labels[members].tolist())) > 1]
    if torn:
        named = [", ".join(f"{files[i]} ({classes[labels[i]]})" for i in members[:3]) for members in torn]
        said.append(
            f"{len(torn):,} picture{'s have' if len(torn) > 1 else ' has'} several labels, of which at most one is "
            f"right: {shortened(named, 3)}"
        )
    return said
