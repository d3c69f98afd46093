"""Which images a model was trained on, of those that it is measured on, and what it scores on the others.

A model knows its training images by their pixels, and its run knows where in the sky, in a mosaic or in which group
they lie (`images/shared.py`). Letters: N images, M of them that could be read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroformer.images.labelled import LabelledImages
from astroformer.images.shared import shown_in_training
from astroformer.metrics import Evaluation, score
from astroformer.predictions import Predictions

Array = NDArray[Any]


class SeenImages(NamedTuple):
    """What is known of the images that a model was trained on.

    Attributes:
        seen_N: (N,) whether an image, or what it shows, was trained on; None where nothing is known.
        said: what to say of images that show what training images do, in sentences.
    """

    seen_N: Array | None
    said: tuple[str, ...] = ()


def seen_in_training(model: Path | None, images: LabelledImages, predictions: Predictions) -> SeenImages:
    """Which of the images a model was trained on.

    Args:
        model: its folder, or that of its run, which knows what its training images show; None: their pixels alone are
            known.
        images: N.
        predictions: of these, which say what their pixels tell.
    """
    same_N, good_N = predictions.seen_N, predictions.readable_N
    shown_N, said = (np.zeros(len(images), bool), []) if model is None else shown_in_training(model, images)
    if same_N is not None and shown_N.any() and not (shown_N & good_N & ~same_N).any():
        said = []  # pixels say as much
    if same_N is None and not shown_N.any():
        return SeenImages(None, tuple(said))
    return SeenImages(shown_N if same_N is None else shown_N | same_N, tuple(said))


def without_seen(
    seen_N: Array | None, images: LabelledImages, predictions: Predictions, classes: tuple[str, ...]
) -> Evaluation | None:
    """What is measured without the images that were trained on; None where there are not some of both."""
    good_N = predictions.readable_N
    if seen_N is None or not seen_N[good_N].any() or seen_N[good_N].all():
        return None
    new_N = good_N & ~seen_N
    assert images.labels is not None
    votes_NK, groups_N = (None if some is None else some[new_N] for some in (images.votes_NK, images.groups))
    new_NK = predictions.probabilities_NK[new_N]
    return score(images.labels[new_N], new_NK, classes, votes_NK=votes_NK, groups_N=groups_N)
