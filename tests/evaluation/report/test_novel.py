"""Images that are unlike the training images, in a report."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from astroformer.evaluation.report.novel import NovelImages, most_novel

NOVELTY_N = np.array([0.2, 1.5, 0.9, 3.0, 1.0, 0.4, 1.1, 0.8])
RIGHT_N = np.array([1, 0, 1, 0, 1, 1, 1, 0], bool)


def test_shares_are_those_of_scipy() -> None:
    found = NovelImages.measured(NOVELTY_N, RIGHT_N)
    assert found.n == 3  # 1 is not novel
    assert found.accuracy is not None
    assert found.usual_accuracy is not None
    for interval, hits, n in ((found.share, 3, 8), (found.accuracy, 1, 3), (found.usual_accuracy, 4, 5)):
        expected = binomtest(hits, n).proportion_ci(method="wilson")
        assert (interval.value, interval.low, interval.high) == pytest.approx((hits / n, *expected))


def test_the_most_novel_come_first() -> None:
    assert most_novel(NOVELTY_N)[:4] == [3, 1, 6, 4]
    many_N = np.random.default_rng(0).random(1000)
    found = NovelImages.measured(many_N, many_N > 0.5).most
    assert list(found) == np.argsort(-many_N)[: len(found)].tolist()


@pytest.mark.parametrize(
    ("novelty_N", "right_N", "says"),
    [
        (NOVELTY_N, RIGHT_N, "do not differ by more than their intervals"),
        (np.full(8, 0.5), RIGHT_N, "these images are like those that the model learned from"),
        (np.full(8, 2.0), RIGHT_N, "the model was made for images of another kind"),
        (np.repeat([2.0, 0.5], 50), np.repeat([False, True], 50), "Do not trust its answers on novel images"),
    ],
)
def test_what_it_says(novelty_N: np.ndarray, right_N: np.ndarray, says: str) -> None:
    found = NovelImages.measured(novelty_N, right_N)
    assert says in found.said
    kept = found.to_dict()
    assert kept["novel"] == int((novelty_N > 1).sum())
    assert (kept["accuracy"] is None) == (not (novelty_N > 1).any())
