"""Predictions that end in the middle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from astroformer.classifier import Classifier
from astroformer.images.labelled import LabelledImages
from astroformer.predictions import Predictions


def interrupted_after(batches: int, error: BaseException) -> Callable[..., Iterator[Predictions]]:
    """`Classifier.iter_predict`, which ends with an error after so many batches."""
    whole = Classifier.iter_predict

    def ended(self: Classifier, images: LabelledImages, **asked: Any) -> Iterator[Predictions]:
        for number, part in enumerate(whole(self, images, **asked)):
            if number == batches:
                raise error
            yield part

    return ended
