"""Whether an exported graph answers as `Classifier.predict` does, on real images.

Legend: N images, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astroformer.classifier import Classifier
from astroformer.errors import UserError
from astroformer.images.labelled import LabelledImages
from astroformer.runtimes import Exported
from astroformer.summaries import percent

Array = NDArray[Any]
MOST_IMAGES = 1024  # that are compared, of a large source every so many-th
ALLOWED = {"float32": 1e-4, "bf16": 0.03}
"""By how much a probability may differ. int8 is judged by its scores."""
_AGREE = {"float32": 0.999, "bf16": 0.98}  # share of the images with the same class


@dataclass(frozen=True)
class Check:
    """How an exported graph answers, beside `predict`.

    Attributes:
        images: how many were compared.
        left_out: how many of the source were not.
        refused_by_one: how many of these either `predict` or the graph answers, and the other one does not take.
        largest, mean: absolute difference of a probability, over images and classes.
        agreement: share of the images whose most probable class is the same.
    """

    images: int
    left_out: int
    refused_by_one: int
    largest: float
    mean: float
    agreement: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON keeps it."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"on {self.images:,} images probabilities differ by {self.largest:.2g} at most, and the class is the same "
            f"for {percent(self.agreement)}"
        )

    def why_not(self, precision: str) -> str | None:
        """Why such a graph is not written; None where it agrees as well as its precision allows."""
        if self.refused_by_one:
            return f"{self.refused_by_one:,} images are taken by one of predict and the graph, and refused by the other"
        allowed, agree = ALLOWED[precision], _AGREE[precision]
        if not self.largest <= allowed:
            return f"{self}; with {precision} {allowed:g} is allowed"
        if self.agreement < agree:
            return f"{self}; with {precision} {percent(agree)} is needed"
        return None


def some_of(images: LabelledImages, most: int = MOST_IMAGES) -> LabelledImages:
    """At most so many of the images, evenly taken."""
    rows = np.unique(np.linspace(0, len(images) - 1, min(len(images), most)).astype(int))
    return images if len(rows) == len(images) else images.subset(rows)


def asked_of(classifier: Classifier, takes: str) -> Callable[[Array], Array]:
    """What makes the input of a graph of one image that was read."""
    preprocessing, white = classifier.preprocessing, classifier.white
    prepare = preprocessing.as_pixels if takes == "pixels" else preprocessing.apply
    return lambda image: prepare(image, white)


def answers(exported: Exported, classifier: Classifier, images: LabelledImages) -> tuple[Array, Array]:
    """(N, K) probabilities by a graph, an image after the other, and (N,) which images it could be asked about."""
    made = asked_of(classifier, exported.facts["takes"])
    found_NK = np.full((len(images), len(classifier.classes)), np.nan)
    asked_N = np.zeros(len(images), bool)
    for i in range(len(images)):
        try:
            row = made(images.read(i))
        except UserError:  # `predict` has the reason
            continue
        found_NK[i], asked_N[i] = exported.ask(np.ascontiguousarray(row[None]))[0], True
    return found_NK, asked_N


def compare(predicted_NK: Array, found_NK: Array, asked_N: Array) -> Check:
    """The check of what `predict` and a graph answer, (N, K) each, about the images that the graph was asked about.

    Raises:
        UserError: the graph could be asked about none that `predict` takes.
    """
    taken_N, given_N = np.isfinite(predicted_NK).all(1), np.isfinite(found_NK).all(1)
    both_N = asked_N & taken_N & given_N
    if not (asked_N & taken_N).any():
        raise UserError("none of the images is taken by both the model and the graph; name others with --images.")
    difference_NK = np.abs(predicted_NK - found_NK)[both_N]
    same_N = predicted_NK[both_N].argmax(1) == found_NK[both_N].argmax(1)
    return Check(
        images=int(both_N.sum()),
        left_out=int((~both_N).sum()),
        refused_by_one=int((asked_N & (taken_N != given_N)).sum()),
        largest=float(difference_NK.max(initial=0)),
        mean=float(difference_NK.mean()) if both_N.any() else 0.0,
        agreement=float(same_N.mean()) if both_N.any() else 0.0,
    )
