"""What training minimises: the cross-entropy, weighted by class, with smoothed labels.

Shape letters: N images, B batch, K classes.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from astroformer.errors import UserError


class Objective:
    """Mean cross-entropy over a batch, in float32 or better.

    Args:
        weights_K: (K,) weights of the classes, or None.
        label_smoothing: share of each target that is spread evenly over the classes (Szegedy et al.,
            arXiv 1512.00567, section 7).
    """

    def __init__(self, weights_K: Tensor | None, label_smoothing: float) -> None:
        self._weights_K, self._label_smoothing = weights_K, label_smoothing

    def __call__(self, logits_BK: Tensor, y_BK: Tensor) -> Tensor:
        """A scalar, from logits and class probabilities `y_BK`, both (B, K)."""
        logits_BK = logits_BK.to(torch.promote_types(logits_BK.dtype, torch.float32))
        return F.cross_entropy(logits_BK, y_BK, weight=self._weights_K, label_smoothing=self._label_smoothing)


def class_weights(
    asked: Literal["none", "auto"] | dict[str, float], labels_N: NDArray[np.int64], classes: tuple[str, ...]
) -> Tensor | None:
    """(K,) weights of the loss with mean 1 over the images; None where none are asked for.

    Args:
        asked: "none", "auto" (the inverse frequency of each class) or a weight by class name, 1 if not named.

    Raises:
        UserError: there is a weight for a class that the images don't have, or none above 0.
    """
    if asked == "none":
        return None
    counts_K = np.bincount(labels_N, minlength=len(classes))
    if asked == "auto":
        weights_K = 1.0 / np.maximum(counts_K, 1)
    else:
        unknown = sorted(set(asked) - set(classes))
        if unknown:
            raise UserError(f"class_weights names '{unknown[0]}', which is no class; classes: {', '.join(classes)}.")
        weights_K = np.array([asked.get(name, 1.0) for name in classes])
        if not (weights_K * counts_K).any():
            raise UserError("class_weights are 0 for every class that has images; give one of them a weight above 0.")
    return torch.tensor(weights_K / (weights_K * counts_K).sum() * counts_K.sum(), dtype=torch.float32)
