"""Answers of a model whose probabilities are those of Bayes' rule."""

from __future__ import annotations

import numpy as np


def bayes_answers(n: int, k: int = 3, seed: int = 0, skill: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels and the probabilities of Bayes' rule."""
    rng = np.random.default_rng(seed)
    labels_N = rng.integers(0, k, n)
    logits_NK = rng.normal(size=(n, k))
    logits_NK[np.arange(n), labels_N] += skill
    p_NK = np.exp(skill * logits_NK)
    return labels_N, p_NK / p_NK.sum(1, keepdims=True)
