"""Small classifiers of every structure and kind of image, and pictures to ask them about."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from astroformer.classifier import Classifier
from astroformer.images.preprocessing import Preprocessing
from astroformer.images.scaling import Scaling
from astroformer.images.units import Units
from astroformer.network import VARIANTS, Answers, Ensemble
from astroformer.network.config import split_words
from astroformer.trust.calibration import METHODS, Calibration
from astroformer.trust.trust import Trust
from helpers.lively import lively

CLASSES = ("disc", "ring", "spiral", "merger")


@dataclass(frozen=True)
class Case:
    """A classifier in words.

    Attributes:
        network: words of its structure, and of how it is asked.
        size: of its images, in pixels.
        bands: their number.
        input: words of the preprocessing.
        calibration: a method.
        members: number of networks.
    """

    network: dict[str, Any] = field(default_factory=dict)
    size: tuple[int, int] = (32, 32)
    bands: int = 3
    input: dict[str, Any] = field(default_factory=dict)
    calibration: str = "none"
    members: int = 1

    @property
    def pixels(self) -> str:
        units = self.input.get("units")
        return "uint8" if units is None else str(units.pixels)


def scaled(kind: str, bands: int, **words: Any) -> dict[str, Any]:
    """Words of the preprocessing of floats that are scaled."""
    soft = (4.0,) * bands if kind.startswith("asinh") else ()
    low = (0.0 if kind == "asinh-sky" else 20.0,) * bands
    return {"units": Units("float"), "scaling": Scaling(kind, low, (260.0,) * bands, soft), **words}  # type: ignore[arg-type]


def pictures(case: Case, n: int = 12, size: tuple[int, int] = (41, 52), seed: int = 0) -> list[np.ndarray]:
    """Smooth pictures of the case's type of pixels, each with a lighter and a darker end."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(n):
        bands = [rng.integers(0, 256, (6, 6), np.uint8) for _ in range(case.bands)]
        resized = [Image.fromarray(b).resize(size[::-1], Image.Resampling.BICUBIC) for b in bands]
        image = np.stack([np.asarray(b) for b in resized], 2)
        if case.pixels == "uint16":
            image = image.astype(np.uint16) * 16 + rng.integers(0, 16, image.shape).astype(np.uint16)
        elif case.pixels == "float":
            image = image.astype(np.float32) + rng.normal(0, 2, image.shape).astype(np.float32)
            if case.input.get("missing", "refuse") != "refuse":
                image[rng.random(image.shape) < 0.05] = np.nan
        found.append(image)
    return found


def classifier_of(case: Case) -> Classifier:
    """A classifier whose answers differ clearly from picture to picture."""
    settings, answers = split_words(case.network)
    small = {"stem_width": 8, "widths": (16, 16, 32, 32), "depths": (1, 1, 1, 1), "head_width": 8}
    words = {"img_size": case.size, "in_chans": case.bands, "num_classes": len(CLASSES), **small, **settings}
    config = dataclasses.replace(VARIANTS["astroformer_atto"], **words)
    members = [lively(config, answers) for _ in range(case.members)]
    for k, member in enumerate(members[1:], 1):
        with torch.no_grad():
            for parameter in member.parameters():
                parameter.mul_(1 + 0.05 * k)
    network = members[0] if case.members == 1 else Ensemble(members)
    preprocessing = Preprocessing(case.size, case.bands, std=(0.25,) * case.bands, **{"crop": 0.9, **case.input})
    made = Classifier(network.eval(), preprocessing, CLASSES)
    logits_NK = _logits(made, case)
    spread = 1.5 / (logits_NK - logits_NK.mean(0)).std()
    assert spread < 200  # else the last digits of float32 would be seen
    for member in members:
        plain = member.network if isinstance(member, Answers) else member
        head = plain.head.classifier
        assert isinstance(head, torch.nn.Linear)
        with torch.no_grad():
            head.bias.sub_(torch.from_numpy(logits_NK.mean(0)).float())
            head.weight.mul_(spread)
            head.bias.mul_(spread)
    if case.calibration != "none":
        logits_NK = _logits(made, case)
        # As the network says: of other labels a calibration would learn that it knows nothing, and answer alike.
        rng, share_NK = np.random.default_rng(2), Calibration().apply(logits_NK)
        labels = np.array([rng.choice(len(CLASSES), p=share_K) for share_K in share_NK])
        made.trust = Trust(METHODS[case.calibration](logits_NK, np.eye(len(CLASSES))[labels]), len(labels))
    return made


def _logits(classifier: Classifier, case: Case) -> np.ndarray:
    stored = [classifier.preprocessing.apply(image) for image in pictures(case, 60, seed=1)]
    return classifier.logits(np.stack(stored))
