"""Images that a classifier was not made for: of other sets, and spoiled ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from astroformer.images import LabelledImages, open_source
from common.grid import SETS

Array = NDArray[np.uint8]
SPOILED = ("noise", "blank", "inverted", "doubled")
IMAGES = 300  # of each kind


def others(data: str) -> tuple[str, ...]:
    """The sets that are unlike a data set, and what can be made of its own images."""
    names = ("Galaxy Zoo 2", "MiraBest", "Fashion-MNIST", "CIFAR-10 (JPEG)")
    return (*(name for name in names if name != data), *SPOILED)


def unlike_images(kind: str, own: LabelledImages, data: Path, channels: int, seed: int = 0) -> list[Array]:
    """Images (H, W, C) of a kind that `others` names, with the channels that the network takes.

    - noise: each value drawn evenly from 0 to 255, of the size of an own image.
    - blank: one value, drawn for the image.
    - inverted: 255 minus an own image.
    - doubled: of two own images the brighter value at each place, the second moved by a sixth of its sides, so that
      two sources are seen.
    """
    rng = np.random.default_rng((seed, 27))
    if kind not in SPOILED:
        some = SETS[kind]
        images = open_source(some.test if some.named else str(data / some.test))
        rows = rng.permutation(len(images))[:IMAGES]
        return [with_channels(images.read(int(i)), channels) for i in rows]
    rows = rng.permutation(len(own))[:IMAGES]
    made = []
    for i in rows:
        own_HWC = with_channels(own.read(int(i)), channels)
        if kind == "noise":
            image = rng.integers(0, 256, own_HWC.shape, dtype=np.uint8)
        elif kind == "blank":
            image = np.full_like(own_HWC, rng.integers(0, 256))
        elif kind == "inverted":
            image = 255 - own_HWC
        else:
            other_HWC = with_channels(own.read(int(rng.integers(len(own)))), channels)
            height, width, _ = own_HWC.shape
            image = np.maximum(own_HWC, np.roll(other_HWC, (height // 6, width // 6), (0, 1)))
        made.append(image)
    return made


def with_channels(image: np.ndarray, channels: int) -> Array:
    """A grey image in all channels, or the mean of several as grey."""
    image_HWC = image[..., None] if image.ndim == 2 else image
    if image_HWC.shape[2] == channels:
        return image_HWC
    if image_HWC.shape[2] == 1:
        return np.repeat(image_HWC, channels, 2)
    return image_HWC.mean(2, keepdims=True).round().astype(np.uint8)
