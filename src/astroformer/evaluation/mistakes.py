"""The mistakes that a model was surest of: which they are, and a picture of them.

Shape letters: N images, K classes.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from astroformer.drawing import GREY, INK, RED, class_name, picture
from astroformer.errors import UserError
from astroformer.images.contact_sheet import ContactSheet, Tile, in_rows, in_title, visible
from astroformer.images.labelled import LabelledImages
from astroformer.images.reading import Array
from astroformer.predictions import Predictions
from astroformer.summaries import percent

if TYPE_CHECKING:
    from astroformer.classifier import Classifier

SHOWN = 24
_COLUMNS = 6
_ALIKE = 2  # mistakes of one true class and one answer that are taken before others have had their turn


class Mistake(NamedTuple):
    """An image that was called a wrong class.

    Attributes:
        image: its position.
        true: its class.
        said: the class that the model said.
        confidence: the probability that the model gave to it.
    """

    image: int
    true: int
    said: int
    confidence: float


def worst_mistakes(labels_N: Array, probabilities_NK: Array, most: int = SHOWN) -> list[Mistake]:
    """The mistakes that a model was surest of, the surest first.

    Of each pair of a true class and an answer the two surest are taken first, so that one common confusion leaves room
    for others; where places are left, the surest of the rest fill them.

    Args:
        labels_N: (N,) true classes, integers in [0, K).
        probabilities_NK: (N, K) predicted probabilities; rows of NaN, of images that could not be read, are no
            mistakes.
        most: how many at most.

    Examples:
        >>> probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]])
        >>> [mistake.image for mistake in worst_mistakes(np.array([1, 1, 1, 0]), probabilities)]
        [0, 2]
    """
    confidence_N = np.nan_to_num(probabilities_NK, nan=0.0).max(1)
    said_N = np.nan_to_num(probabilities_NK, nan=0.0).argmax(1)
    wrong = np.flatnonzero((said_N != labels_N) & ~np.isnan(probabilities_NK).any(1))
    wrong = wrong[np.argsort(-confidence_N[wrong], kind="stable")]
    taken: Counter[tuple[int, int]] = Counter()
    first: list[Mistake] = []
    rest: list[Mistake] = []
    for i in wrong:
        pair = int(labels_N[i]), int(said_N[i])
        taken[pair] += 1
        (first if taken[pair] <= _ALIKE else rest).append(Mistake(int(i), *pair, float(confidence_N[i])))
    return sorted((first + rest)[:most], key=lambda mistake: -mistake.confidence)


@picture
def plot_mistakes(
    classifier: Classifier, images: LabelledImages, predictions: Predictions, path: Path, most: int = SHOWN
) -> None:
    """The mistakes that a model was surest of (`worst_mistakes`), each image as the network sees it, with what the
    model said and how surely, its true class and its file. No picture is made where there is no mistake.

    Args:
        classifier: the model.
        images: labelled, as the model was asked about them; its classes are theirs.
        predictions: what it answered, a row an image.
        path: of the PNG file; a PDF comes beside it.
        most: how many mistakes at most.
    """
    assert images.labels is not None, "these images have no labels"
    good_N = predictions.readable_N
    mistakes = worst_mistakes(images.labels, predictions.probabilities_NK, most)
    if not mistakes:
        return
    wrong = int((predictions.probabilities_NK[good_N].argmax(1) != images.labels[good_N]).sum())
    tiles, said = mistake_tiles(classifier, images, mistakes)
    title, chosen = f"{wrong:,} mistakes among {int(good_N.sum()):,} images, each as the network sees it", None
    if len(mistakes) < wrong:
        title = f"The {len(mistakes)} surest of {title};"
        chosen = f"of the same label and answer at most {_ALIKE}, as long as there are others"
    ContactSheet(in_title(title, chosen, said), in_rows(tiles, _COLUMNS), _COLUMNS).save(path)


def mistake_tiles(
    classifier: Classifier, images: LabelledImages, mistakes: list[Mistake]
) -> tuple[list[Tile], str | None]:
    """Each mistake as an image with its words, and a sentence where the image is not shown just as it is."""
    seen: dict[int, Array] = {}
    for mistake in mistakes:
        try:
            seen[mistake.image] = classifier.preprocessing.apply(images.read(mistake.image), classifier.white)
        except UserError:  # a file that has changed since
            continue
    preprocessing = classifier.preprocessing
    shown, said = visible(list(seen.values()), preprocessing.bands, preprocessing.scaling)
    of_image = dict(zip(seen, shown, strict=True))
    tiles = []
    for mistake in mistakes:
        said_name, true_name = (class_name(classifier.classes[k], k + 1) for k in (mistake.said, mistake.true))
        lines = (
            (f"said, {percent(mistake.confidence)} sure:", GREY),
            (said_name, RED),
            ("label:", GREY),
            (true_name, INK),
            (images.files[mistake.image], GREY),
        )
        tiles.append(Tile(of_image.get(mistake.image), lines))
    return tiles, said
