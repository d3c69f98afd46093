"""`HeldOut`: what a network answers of the images that it was not trained on, kept with the model.

From these answers the calibration is fitted, and whatever else says how far to trust a probability.

Shape letters: N images, K classes.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from astroformer.trust.calibration import Calibration, Fitted, fit_calibration, folds_of, log_softmax

Array = NDArray[Any]
_PREFIX = "held_out."


@dataclass(frozen=True, eq=False)
class HeldOut:
    """N images with what is right of them and what the network says, in an order that means nothing.

    Attributes:
        logs_NK: float32, the logarithms of the network's own probabilities.
        labels_N: int64 classes.
        digests_N: uint64 `pixel_digest` of each, by which an image is known again.
        votes_NK: float32 shares of votes in place of labels, or None.

    Examples:
        >>> import numpy as np
        >>> logs = np.log(np.full((40, 2), 0.5))
        >>> held_out = HeldOut.of(logs, np.arange(40) % 2, np.arange(40).astype(np.uint64))
        >>> held_out.fitted.calibration.method
        'none'
    """

    logs_NK: Array
    labels_N: Array
    digests_N: Array
    votes_NK: Array | None = None

    @classmethod
    def of(cls, logits_NK: Array, labels_N: Array, digests_N: Array, votes_NK: Array | None = None) -> HeldOut:
        """Those of logits (N, K)."""
        votes_NK = None if votes_NK is None else votes_NK.astype(np.float32)
        return cls(log_softmax(logits_NK).astype(np.float32), labels_N.astype(np.int64), digests_N, votes_NK)

    def __len__(self) -> int:
        return len(self.labels_N)

    @functools.cached_property
    def fold_N(self) -> Array:
        """(N,) the fold of each image in cross-fitting."""
        return folds_of(self.labels_N, self.digests_N)

    @functools.cached_property
    def targets_NK(self) -> Array:
        """(N, K) what is right: votes, else 1 for the class."""
        if self.votes_NK is not None:
            return self.votes_NK.astype(np.float64)
        return np.eye(self.logs_NK.shape[1])[self.labels_N]

    @functools.cached_property
    def fitted(self) -> Fitted:
        """The calibration that cross-validation chooses."""
        return fit_calibration(self.logs_NK, self.targets_NK, self.fold_N)

    @functools.cached_property
    def _without_folds(self) -> dict[str, tuple[Calibration, ...]]:
        return {}

    def crossed(self, calibration: Calibration) -> Fitted:
        """A calibration, and the same method fitted without each fold."""
        method, found = calibration.method, self._without_folds
        if method not in found:
            found[method] = fit_calibration(self.logs_NK, self.targets_NK, self.fold_N, method).folds
        return Fitted(calibration, found[method])

    @functools.cached_property
    def _in_order(self) -> tuple[Array, Array]:
        """(N,) the digests, rising, and the fold of each."""
        order = np.argsort(self.digests_N, kind="stable")
        return self.digests_N[order], self.fold_N[order]

    def folds_by_digest(self, digests_M: Array) -> Array:
        """(M,) the fold of images that are known by their digests, −1 for all others."""
        digests_N, fold_N = self._in_order
        place_M = np.searchsorted(digests_N, digests_M).clip(max=len(self) - 1)
        return np.where(digests_N[place_M] == digests_M, fold_N[place_M], -1)

    # -- keeping -----------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """As `extra.safetensors` keeps it; `from_tensors` reads it back."""
        kept = {"logs": self.logs_NK, "labels": self.labels_N, "digests": self.digests_N.view(np.int64)}
        if self.votes_NK is not None:
            kept["votes"] = self.votes_NK
        return {_PREFIX + name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in kept.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> HeldOut | None:
        """The inverse of `tensors`; None where there are none."""
        kept = {name.removeprefix(_PREFIX): t.numpy() for name, t in tensors.items() if name.startswith(_PREFIX)}
        if not kept:
            return None
        return cls(kept["logs"], kept["labels"], kept["digests"].view(np.uint64), kept.get("votes"))
