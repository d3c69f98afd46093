"""Novelty: how unlike the training images an image is, whatever class it is given.

A network names one of its classes whatever it is shown, and often it is sure of it. `Novelty` looks at what the network
makes of an image on its way: the map of each stage averaged over its places, and the features under the last layer.
Colour, noise and texture show in the first stages, the shape of a source in the last ones. From these traces the
distance to the fifth-nearest training image is taken (Sun et al. 2022, arXiv 2204.06507, who take the features alone)
along the principal axes of the training images, each divided by their spread along it.

Shape letters: N training images, M images, L numbers of a trace, R axes, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.floating]
MOST_IMAGES = 1000  # training images to compare with: with more, the scores hardly change
LEAST_IMAGES = 50  # fewer say too little of what is usual
LIMIT = 0.99  # share of images of the same kind that are not novel
LEAST_HELD_OUT = 100  # images; of fewer the 99 % are the oddest one
_NEIGHBOUR = 5  # the nearest ones may be odd images themselves
_MOST_AXES = 128
_IMAGES_OF_AN_AXIS = 4  # with fewer, axes fit the training images alone, and all others lie far off
_RIDGE = 0.1  # of the mean variance of a number: along axes of less, differences are no news
_ROUNDED = 1e-4  # distances of what is the same, in spreads along an axis, are below
_TOGETHER = 256  # images whose distances are computed at once
_PREFIX = "novelty."


@dataclass(frozen=True, eq=False)
class Novelty:
    """A score of traces: 0 where five training images are alike, 1 where it is farther from them than 99 of 100 images
    of their kind.

    These are the training images among each other, and where there are enough of them the images that were held out:
    a network has seen the first, and may know them better than others of their kind. The larger of both limits counts.

    Attributes:
        mean_L: float32, of the training images.
        axes_LR: float32, along which they spread, divided by how much.
        images_NR: float32, the training images along these axes.
        limit: the distance that is a score of 1.

    Examples:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> novelty = Novelty.fit(rng.normal(size=(400, 8)))
        >>> usual, far = novelty.scores(np.stack([np.zeros(8), np.full(8, 9.0)]))
        >>> bool(usual < 1 < far)
        True
    """

    mean_L: Array
    axes_LR: Array
    images_NR: Array
    limit: float

    @classmethod
    def fit(cls, traces_NL: Array, held_out_ML: Array | None = None) -> Novelty | None:
        """That of training images, as `chosen` chooses them; None where they are too few or all alike.

        Args:
            traces_NL: of the training images.
            held_out_ML: of images of the same kind that the network has not seen.
        """
        n = len(traces_NL)
        if n < LEAST_IMAGES:
            return None
        traces_NL = traces_NL.astype(np.float64)
        mean_L, spread_L = traces_NL.mean(0), traces_NL.std(0)
        known_L = spread_L > 1e-6 * np.abs(traces_NL).max(0)  # what is the same in all says nothing
        if not known_L.any():
            return None
        scale_L = np.where(known_L, 1 / np.where(known_L, spread_L, 1.0), 0.0)
        _, singular_R, axes_RL = np.linalg.svd((traces_NL - mean_L) * scale_L, full_matrices=False)
        r = min(_MOST_AXES, n // _IMAGES_OF_AN_AXIS, int(known_L.sum()))
        variance_R = singular_R[:r] ** 2 / n
        axes_LR = scale_L[:, None] * axes_RL[:r].T / np.sqrt(variance_R + _RIDGE)  # a known number has variance 1
        images_NR = ((traces_NL - mean_L) @ axes_LR).astype(np.float32)
        made = cls(mean_L.astype(np.float32), axes_LR.astype(np.float32), images_NR, 1.0)
        # Each is one of its own neighbours.
        distances_N = made._distances(traces_NL, _NEIGHBOUR + 1)
        limit = float(np.quantile(distances_N, LIMIT))
        if held_out_ML is not None and len(held_out_ML) >= LEAST_HELD_OUT:
            limit = max(limit, float(np.quantile(made._distances(held_out_ML, _NEIGHBOUR), LIMIT)))
        return cls(made.mean_L, made.axes_LR, images_NR, limit) if limit > _ROUNDED else None

    def scores(self, traces_ML: Array) -> NDArray[np.float64]:
        """(M,) scores; above 1 an image is novel."""
        return self._distances(traces_ML, _NEIGHBOUR) / self.limit

    def _distances(self, traces_ML: Array, neighbour: int) -> NDArray[np.float64]:
        """(M,) to the so-many-th nearest of the training images."""
        known_NR = self.images_NR.astype(np.float64)
        asked_MR = (traces_ML.astype(np.float64) - self.mean_L) @ self.axes_LR
        found = [np.empty(0)]
        for start in range(0, len(asked_MR), _TOGETHER):
            some = torch.cdist(torch.from_numpy(asked_MR[start : start + _TOGETHER]), torch.from_numpy(known_NR))
            found.append(some.kthvalue(neighbour, dim=1).values.numpy())
        return np.concatenate(found)

    # -- keeping -----------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """As `extra.safetensors` keeps it; `from_tensors` reads it back."""
        kept = {"mean": self.mean_L, "axes": self.axes_LR, "images": self.images_NR, "limit": np.array([self.limit])}
        return {_PREFIX + name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in kept.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Novelty | None:
        """The inverse of `tensors`; None where there are none."""
        kept = {name.removeprefix(_PREFIX): t.numpy() for name, t in tensors.items() if name.startswith(_PREFIX)}
        return cls(kept["mean"], kept["axes"], kept["images"], float(kept["limit"][0])) if kept else None


def chosen(labels_N: NDArray[np.int64], most: int = MOST_IMAGES) -> NDArray[np.int64]:
    """The rows of at most so many training images, in rising order: as many of each class as it has, up to an equal
    share. Of a class with more they are spread evenly over its rows.

    Examples:
        >>> chosen(np.array([0, 0, 0, 0, 0, 1, 0, 0]), most=4).tolist()
        [0, 3, 5, 7]
    """
    counts_K = np.bincount(labels_N)
    share, left = 0, min(most, len(labels_N))
    for class_, n in enumerate(np.sort(counts_K)):  # those with few leave more to the others
        share = left // (len(counts_K) - class_)
        left -= min(int(n), share)
        if n > share:
            break
    rows = [np.flatnonzero(labels_N == k) for k in range(len(counts_K))]
    some = [r[np.unique(np.linspace(0, len(r) - 1, min(len(r), max(share, 1))).astype(int))] for r in rows if len(r)]
    return np.sort(np.concatenate(some))
