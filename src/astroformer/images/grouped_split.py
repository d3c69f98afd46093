"""A split of images into parts, of which some images must stay together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def split_groups(
    labels: NDArray[np.integer],
    groups: NDArray[np.integer],
    shares: Sequence[float] | NDArray[np.floating],
    order: NDArray[np.integer],
) -> NDArray[np.int64]:
    """Splits images into P parts: each group is in one part, and every part has its share of each of K classes.

    Groups of several images are assigned first, then the images that stand alone, each to the part that lacks most of
    its classes so far. So the shares hold all along. They hold also among the images in groups, which differ from the
    others (they are crowded or merging). A class with enough images that stand alone has its share to within an image.

    Args:
        labels: (N,) class numbers from 0.
        groups: (N,) numbers; images with the same number stay together.
        shares: (P,), or (P, K) for each class, that sum to 1 over P.
        order: (N,) rank in which images are assigned; a group has the lowest rank of its images.

    Returns:
        (N,) int64, the part of each image, 0 to P−1.
    """
    labels, groups = np.asarray(labels), np.asarray(groups)
    number_of_classes = int(labels.max()) + 1 if len(labels) else 0
    given = np.asarray(shares, np.float64)
    share_PK = np.broadcast_to(given if given.ndim == 2 else given[:, None], (len(given), number_of_classes))
    share_P = share_PK.mean(1)
    members: dict[int, list[int]] = {}
    for i in np.argsort(order, kind="stable"):
        members.setdefault(int(groups[i]), []).append(int(i))  # groups come in the order of their lowest rank
    part = np.empty(len(labels), np.int64)
    # What each part should have of the images assigned so far, less what it has.
    wanted_PK, wanted_P = np.zeros(share_PK.shape), np.zeros(len(share_PK))
    for of_group in sorted(members.values(), key=lambda indices: len(indices) == 1):
        lack_P = np.zeros(len(share_P))
        counts = Counter(int(labels[i]) for i in of_group)
        for label, n in counts.items():
            wanted_PK[:, label] += n * share_PK[:, label]
            lack_P += n * wanted_PK[:, label]
        wanted_P += len(of_group) * share_P
        chosen = int(
            np.argmax(np.round(lack_P + 1e-6 * wanted_P, 9))
        )  # of equal ones, the part that lacks most images in all
        for label, n in counts.items():
            wanted_PK[chosen, label] -= n
        wanted_P[chosen] -= len(of_group)
        part[of_group] = chosen
    return part
