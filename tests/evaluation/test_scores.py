"""What an evaluation found, as text."""

from __future__ import annotations

import numpy as np

from astroformer.evaluation.scores import confusions_text
from astroformer.metrics import score


def confusions(*classes: str) -> str:
    answers_NK = np.eye(len(classes))[[1, 1, 2]]
    return confusions_text(score(np.array([0, 1, 2]), answers_NK, classes), 5)


def test_what_all_long_names_of_a_question_begin_with_is_left_out() -> None:
    question = "smooth-or-featured-gz2_"
    text = confusions(f"{question}smooth", f"{question}featured", f"{question}artifact")
    assert "  …smooth taken for …featured: 1 of 1" in text
    assert "  disc_a taken for disc_b: 1 of 1" in confusions("disc_a", "disc_b", "disc_c")
    long = confusions("a lenticular galaxy seen edge-on", "a spiral galaxy", "star")
    assert "  a lenticular" in long  # two letters in common tell no more if they are left out
