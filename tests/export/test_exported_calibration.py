"""The calibration of a graph is that of the model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from astroformer.export.calibrated import Calibrated
from astroformer.trust.calibration import METHODS, Calibration


@pytest.mark.parametrize("method", METHODS)
def test_each_method_gives_the_same_probabilities(method: str) -> None:
    rng = np.random.default_rng(0)
    logits = 3 * rng.normal(size=(400, 4))
    labels = np.array([rng.choice(4, p=p) for p in Calibration().apply(logits)])
    calibration = METHODS[method](0.4 * logits, np.eye(4)[labels])
    assert calibration.method == method
    asked = np.concatenate([logits, 40 * np.eye(4), -40 * np.eye(4)])  # beyond the ends of all knots, too
    got = Calibrated(calibration, 4)(torch.from_numpy(asked)).numpy()
    np.testing.assert_allclose(got, calibration.apply(asked), atol=1e-6)


def test_a_class_of_one_knot_is_constant() -> None:
    calibration = Calibration("isotonic", knots=(((0.5,), (0.3,)), ((0.1, 0.2, 0.9), (0.0, 0.5, 0.7))))
    logits = np.log([[0.9, 0.1], [0.2, 0.8], [0.85, 0.15], [1 - 1e-9, 1e-9]])
    got = Calibrated(calibration, 2)(torch.from_numpy(logits)).numpy()
    np.testing.assert_allclose(got, calibration.apply(logits), atol=1e-6)
