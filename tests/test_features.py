"""`Classifier.features`: what the last linear layer makes its logits of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from astroformer.classifier import Classifier
from astroformer.errors import UserError
from astroformer.images.sets.mock_galaxies import mock_galaxies
from astroformer.network import Answers, AnswersConfig, Astroformer

IMAGES, _ = mock_galaxies(7, size=40, seed=3)


def plain_network(classifier: Classifier) -> Astroformer:
    assert isinstance(classifier.network, Astroformer)
    return classifier.network


def probabilities_of(features_ND: np.ndarray, network: Astroformer) -> np.ndarray:
    with torch.no_grad():
        logits_NK = network.get_classifier()(torch.from_numpy(features_ND))
    return torch.softmax(logits_NK.double(), 1).numpy()


def test_features_are_those_under_the_logits_of_the_network(classifier: Classifier) -> None:
    network = plain_network(classifier)
    features_ND = classifier.features(IMAGES)
    assert features_ND.dtype == np.float32
    assert features_ND.shape == (7, network.head_hidden_size)
    stored = np.stack([classifier.preprocessing.apply(image) for image in IMAGES])
    with torch.no_grad():
        x_BCHW = classifier.preprocessing.normalize(torch.from_numpy(stored))
        expected = network.forward_head(network.forward_features(x_BCHW), pre_logits=True).numpy()
    np.testing.assert_allclose(features_ND, expected, atol=1e-5)
    predictions = classifier.predict(IMAGES, features=True)
    np.testing.assert_allclose(probabilities_of(features_ND, network), predictions.probabilities_NK, atol=1e-6)
    assert predictions.features_ND is not None
    np.testing.assert_array_equal(predictions.features_ND, features_ND)
    np.testing.assert_array_equal(predictions.probabilities_NK, classifier.predict(IMAGES).probabilities_NK)
    assert classifier.predict(IMAGES).features_ND is None


@pytest.mark.parametrize("symmetry", ["shift+mirror", "shift+d4"])
def test_features_are_averaged_as_answers_are(classifier: Classifier, symmetry: str) -> None:
    network = plain_network(classifier)
    asked = replace(classifier, network=Answers(network, AnswersConfig(symmetry=symmetry)).eval())
    features_ND = asked.features(IMAGES)
    np.testing.assert_allclose(
        probabilities_of(features_ND, network), asked.predict(IMAGES).probabilities_NK, atol=1e-6
    )
    mirrored = np.ascontiguousarray(IMAGES[:, :, ::-1])
    np.testing.assert_allclose(asked.features(mirrored), features_ND, atol=1e-4)
    assert np.abs(classifier.features(mirrored) - classifier.features(IMAGES)).max() > 1e-2


def test_features_of_members_stand_side_by_side(classifier: Classifier) -> None:
    other = replace(classifier, network=Astroformer(plain_network(classifier).config).eval())
    both = Classifier.ensemble([classifier, other]).features(IMAGES)
    expected = np.concatenate([classifier.features(IMAGES), other.features(IMAGES)], 1)
    np.testing.assert_allclose(both, expected, atol=1e-6)


def test_rows_stay_beside_their_images(classifier: Classifier, tmp_path: Path, galaxy_folder: Path) -> None:
    files = sorted(galaxy_folder.rglob("*.png"))[:3]
    (tmp_path / "bad.png").write_bytes(b"no image")
    features_ND = classifier.features([files[0], tmp_path / "bad.png", files[2], files[1]])
    assert np.isnan(features_ND[1]).all()
    for row, file in ((0, files[0]), (2, files[2]), (3, files[1])):
        np.testing.assert_allclose(features_ND[row], classifier.features(file)[0], atol=1e-5)
    assert len(classifier.features(IMAGES, batch_size=2)) == 7


def test_a_network_of_another_kind_has_none(classifier: Classifier) -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    other = replace(classifier, network=linear)
    assert len(other.predict(IMAGES)) == 7
    with pytest.raises(UserError, match="features of a Sequential can't be asked for"):
        other.features(IMAGES)
