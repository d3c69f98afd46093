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
from astroformer.training.defaults import SMOOTHING
from astroformer.training.recipe import Recipe


class Objective:
    """Mean cross-entropy over a batch, in float32 or better.

    Args:
        weights_K: (K,) weights of the classes, or None.
        label_smoothing: share of each target that is spread evenly over the classes (Szegedy et al.,
            arXiv 1512.00567, section 7).
        weighted: whether a target sums to the weight of its image, and not to 1. The loss is linear in the targets, so
            an image of weight 2 counts as two.
    """

    def __init__(self, weights_K: Tensor | None, label_smoothing: float, *, weighted: bool = False) -> None:
        self._weights_K, self._label_smoothing, self._weighted = weights_K, label_smoothing, weighted

    def __call__(self, logits_BK: Tensor, y_BK: Tensor) -> Tensor:
        """A scalar, from logits and class probabilities `y_BK`, both (B, K)."""
        logits_BK = logits_BK.to(torch.promote_types(logits_BK.dtype, torch.float32))
        if self._weighted and self._label_smoothing:
            # torch would smooth by the same amount whatever the weight.
            even_B1 = y_BK.sum(1, keepdim=True) / y_BK.shape[1]
            return F.cross_entropy(logits_BK, torch.lerp(y_BK, even_B1, self._label_smoothing), weight=self._weights_K)
        return F.cross_entropy(logits_BK, y_BK, weight=self._weights_K, label_smoothing=self._label_smoothing)


def smoothing_of(recipe: Recipe, votes: bool) -> float:
    """The label smoothing of a recipe; where that is open, what is usual of labels, and none of votes."""
    if recipe.label_smoothing is not None:
        return recipe.label_smoothing
    return 0.0 if votes else SMOOTHING


def image_weights(weights_N: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
    """(N,) weights of the images to train on, with mean 1; None where all are alike, so that nothing is weighed.

    Raises:
        UserError: all are 0.
    """
    if weights_N is None or ((weights_N == weights_N[:1]).all() and weights_N.any()):
        return None
    if not weights_N.any():
        raise UserError("the weights of all images to train on are 0; give some a weight above 0.")
    return weights_N / weights_N.mean()


def soft_targets(
    votes_NK: NDArray[np.float64] | None,
    weights_N: NDArray[np.float64] | None,
    labels_N: NDArray[np.int64],
    classes: int,
) -> Tensor | None:
    """(N, K) float32 targets: the shares of votes, or 1 for the label, times the weight of the image.

    None where there are neither votes nor unequal weights, so that labels are all there is.

    Examples:
        >>> import numpy as np
        >>> votes_NK, labels_N = np.array([[0.75, 0.25], [0.0, 1.0]]), np.array([0, 1])
        >>> soft_targets(votes_NK, np.array([3.0, 1.0]), labels_N, 2).tolist()
        [[1.125, 0.375], [0.0, 0.5]]
        >>> soft_targets(None, np.array([2.0, 2.0]), labels_N, 2) is None
        True
    """
    weights = image_weights(weights_N)
    if votes_NK is None and weights is None:
        return None
    shares_NK = np.eye(classes)[labels_N] if votes_NK is None else votes_NK
    return torch.tensor(shares_NK if weights is None else shares_NK * weights[:, None], dtype=torch.float32)


def class_weights(
    asked: Literal["none", "auto"] | dict[str, float],
    labels_N: NDArray[np.int64],
    classes: tuple[str, ...],
    *,
    targets_NK: Tensor | None = None,
) -> Tensor | None:
    """(K,) weights of the loss with mean 1 over the images; None where none are asked for.

    Args:
        asked: "none", "auto" (the inverse frequency of each class) or a weight by class name, 1 if not named.
        targets_NK: of `soft_targets`: a class is as frequent as its targets sum to.

    Raises:
        UserError: there is a weight for a class that the images don't have, or none above 0.
    """
    if asked == "none":
        return None
    counts_K = np.bincount(labels_N, minlength=len(classes)).astype(np.float64)
    if targets_NK is not None:
        counts_K = targets_NK.double().sum(0).numpy()
    if asked == "auto":
        weights_K = 1.0 / np.where(counts_K > 0, counts_K, 1.0)
    else:
        unknown = sorted(set(asked) - set(classes))
        if unknown:
            raise UserError(f"class_weights names '{unknown[0]}', which is no class; classes: {', '.join(classes)}.")
        weights_K = np.array([asked.get(name, 1.0) for name in classes])
        if not (weights_K * counts_K).any():
            raise UserError("class_weights are 0 for every class that has images; give one of them a weight above 0.")
    return torch.tensor(weights_K / (weights_K * counts_K).sum() * counts_K.sum(), dtype=torch.float32)
