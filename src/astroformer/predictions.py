"""`Predictions`: what a model answers about images.

Shape letters: N images, K classes, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Predictions:
    """One row an image. Rows of files that could not be read hold NaN and their reason in `errors`.

    Attributes:
        files: path of each image, or its number in an array.
        classes: names of the K columns.
        probabilities_NK: (N, K) float64; the rows of images that were read sum to 1.
        errors: why an image could not be read, "" where it was.
        seen_N: (N,) whether the model was trained on an image of the same pixels; None where nobody asked.
        features_ND: (N, D) float32, see `Classifier.features`; None where nobody asked.

    Example:
        >>> import numpy as np
        >>> two = Predictions(["a.png", "b.png"], ("disc", "ring"), np.array([[0.9, 0.1], [0.25, 0.75]]), ["", ""])
        >>> two.names
        ['disc', 'ring']
        >>> two.confidence_N.tolist()
        [0.9, 0.75]
    """

    files: list[str]
    classes: tuple[str, ...]
    probabilities_NK: Array
    errors: list[str]
    seen_N: Array | None = None
    features_ND: Array | None = None

    @property
    def readable_N(self) -> Array:
        return np.array([not error for error in self.errors], dtype=bool)

    @property
    def names(self) -> list[str]:
        """The most probable class of each image; "" where the image could not be read."""
        best_N = np.nan_to_num(self.probabilities_NK, nan=0.0).argmax(1)
        return ["" if error else self.classes[k] for k, error in zip(best_N, self.errors, strict=True)]

    @property
    def confidence_N(self) -> Array:
        """The probability of the most probable class of each image."""
        return self.probabilities_NK.max(1)

    def __len__(self) -> int:
        return len(self.files)

    @classmethod
    def joined(cls, parts: Sequence[Predictions], classes: tuple[str, ...]) -> Predictions:
        """Several predictions of the same classes, one after the other."""
        seen = [part.seen_N for part in parts if part.seen_N is not None]
        features = [part.features_ND for part in parts if part.features_ND is not None]
        return cls(
            [file for part in parts for file in part.files],
            classes,
            np.concatenate([np.empty((0, len(classes))), *(part.probabilities_NK for part in parts)]),
            [error for part in parts for error in part.errors],
            np.concatenate(seen) if parts and len(seen) == len(parts) else None,
            np.concatenate(features) if parts and len(features) == len(parts) else None,
        )
