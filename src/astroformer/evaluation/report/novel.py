"""Images that are unlike the training images: how many there are, and how often they are called right.

Shape letter: N images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from astroformer.evaluation.report.calibrated import share_of
from astroformer.intervals import Interval
from astroformer.summaries import percent

Array = NDArray[Any]
_SHOWN = 24


@dataclass(frozen=True)
class NovelImages:
    """What `Predictions.novelty_N` tells of labelled images.

    Attributes:
        novelty_N: above 1 an image is novel.
        share: of the images that are novel.
        accuracy, usual_accuracy: of those that are and of those that are not; None where there are none.
        most: positions of the most novel ones.
    """

    novelty_N: Array
    share: Interval
    accuracy: Interval | None
    usual_accuracy: Interval | None
    most: tuple[int, ...]

    @classmethod
    def measured(cls, novelty_N: Array, right_N: Array, groups_N: Array | None = None) -> Self:
        """Of images of which `right_N` says whether they are called right."""
        novel_N, every_N = novelty_N > 1, np.ones(len(novelty_N), bool)
        share = share_of(int(novel_N.sum()), every_N, groups_N)
        assert share is not None, "there are no images"
        return cls(
            novelty_N,
            share,
            share_of(int((right_N & novel_N).sum()), novel_N, groups_N),
            share_of(int((right_N & ~novel_N).sum()), ~novel_N, groups_N),
            tuple(most_novel(novelty_N)),
        )

    @property
    def n(self) -> int:
        """How many are novel."""
        return int((self.novelty_N > 1).sum())

    @property
    def said(self) -> str:
        """What it shows and what to conclude, in sentences."""
        first = (
            "An image is novel (its novelty is above 1) where it is farther from the training images than 99 of 100 "
            f"images of their kind: here {self.n:,} of {len(self.novelty_N):,}, {_said(self.share)}."
        )
        if self.accuracy is None:
            return f"{first} So these images are like those that the model learned from."
        if self.usual_accuracy is None:
            return f"{first} All are, so the model was made for images of another kind."
        second = (
            f"The model is right on {_said(self.accuracy)} of them, and on {_said(self.usual_accuracy)} of the others."
        )
        if self.accuracy.high < self.usual_accuracy.low:
            return f"{first} {second} Do not trust its answers on novel images."
        return f"{first} {second} These shares do not differ by more than their intervals."

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "novel": self.n,
            "share": self.share.to_dict(),
            "accuracy": None if self.accuracy is None else self.accuracy.to_dict(),
            "accuracy_of_others": None if self.usual_accuracy is None else self.usual_accuracy.to_dict(),
        }


def most_novel(novelty_N: Array) -> list[int]:
    """Positions of the most novel images, the first one first."""
    return np.argsort(-novelty_N, kind="stable")[:_SHOWN].tolist()


def _said(share: Interval) -> str:
    return f"{percent(share.value)} ({percent(share.low)} to {percent(share.high)})"
