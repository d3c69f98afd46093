"""Dealing images out to the parts of a split in groups that must stay together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def deal(
    labels: NDArray[np.integer],
    groups: NDArray[np.integer],
    shares: Sequence[float] | NDArray[np.floating],
    order: NDArray[np.integer],
) -> NDArray[np.int64]:
    """(N,) part of each image, 0 to P−1: a group is in one part, and every part has its share of each class.

    Groups of several images are dealt first, then the images alone, each to the part that lacks most of its classes so
    far. So the shares hold all along, also among the images in groups, which are not like the others (crowded,
    merging), and a class with enough images alone has its share to within an image.

    Args:
        labels: (N,) numbers from 0.
        groups: (N,) numbers; images with the same one stay together.
        shares: (P,), or (P, K) for each class, that sum to 1 over P.
        order: (N,) rank of each image; a group has its lowest.
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
    wanted_PK, wanted_P = np.zeros(share_PK.shape), np.zeros(len(share_PK))  # share of what was dealt, less what it has
    for of_group in sorted(members.values(), key=lambda group: len(group) == 1):
        lack_P = np.zeros(len(share_P))
        counts = Counter(int(labels[i]) for i in of_group)
        for label, n in counts.items():
            wanted_PK[:, label] += n * share_PK[:, label]
            lack_P += n * wanted_PK[:, label]
        wanted_P += len(of_group) * share_P
        chosen = int(np.argmax(np.round(lack_P + 1e-6 * wanted_P, 9)))  # equal lacks: the part that lacks most in all
        for label, n in counts.items():
            wanted_PK[chosen, label] -= n
        wanted_P[chosen] -= len(of_group)
        part[of_group] = chosen
    return part
