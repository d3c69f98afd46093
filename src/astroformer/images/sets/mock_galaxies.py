"""Mock galaxies: survey-like cutouts drawn from analytic profiles, in the ten classes of Galaxy10 DECaLS.

They are for learning the tool and for tests. The pictures have the grammar of galaxies (profiles, bars, arms, dust,
tails, point spread, noise) but not their statistics: nothing measured on them is a result.

Image i is a function of (seed, first + i, label, size) alone: its numbers come from a counter-based generator of its
own (Philox, Salmon et al. 2011), and every operation is element by element, so neither the batch nor the chunk that it
is drawn in changes it. Layout does not depend on `size`; sampling and noise do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from astroformer.errors import UserError
from astroformer.images.hashes import hash_text
from astroformer.images.labelled import LabelledImages
from astroformer.images.reading import Array
from astroformer.images.sets.galaxy10_decals import Galaxy10Decals
from astroformer.images.sets.mock.galaxies import DRAWN_CLASSES
from astroformer.images.sets.mock.telescope import oversampling_of, render_class

__all__ = ["CLASSES", "NAME", "MockReader", "mock_galaxies", "open_mock_galaxies", "render"]

NAME = "mock-galaxies"
CLASSES = Galaxy10Decals.classes
MIN_SIZE, MAX_SIZE = 16, 1024

DRAWING_VERSION = "106de2d1a2595e2506b71806262a4a6a"
"""Stands for the drawing code in the digests of the images. Choose another text when the pixels of any image change.

It names the entries of the store and what a resumed run was made from. This one is the digest of the file that drew the
images in version 0.1.0, and the pixels have not changed since then.
"""

# Pixels drawn together: enough to spread the cost of the calls, few enough to stay in a third-level cache.
_CHUNK_PIXELS = 1 << 17


def render(labels: NDArray[np.integer], size: int, seed: int, first: int = 0) -> NDArray[np.uint8]:
    """Draw one image a label.

    Args:
        labels: (N,) class numbers, 0 to 9, positions in `CLASSES`.
        size: pixels a side, 16 to 1024.
        seed: which set of galaxies, 0 to 2⁶³ − 1.
        first: number of the first image in that set, so that a set can be drawn in parts:
            ``render(labels, …)[k]`` equals ``render(labels[k:k+1], …, first=k)[0]`` to the bit.

    Returns:
        (N, size, size, 3) uint8, RGB.

    Raises:
        UserError: a label, the size, the seed or `first` is out of range.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or (labels.size and not np.issubdtype(labels.dtype, np.integer)):
        raise UserError(
            f"labels have shape {labels.shape} and type {labels.dtype}; "
            "mock galaxies need a one-dimensional array of integers."
        )
    wrong = labels[(labels < 0) | (labels >= len(CLASSES))]
    if wrong.size:
        raise UserError(f"label {wrong[0]} is no class of the mock galaxies; use 0 to {len(CLASSES) - 1}.")
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise UserError(f"size {size} is out of range for mock galaxies; use {MIN_SIZE} to {MAX_SIZE} pixels.")
    for name, value in (("seed", seed), ("first", first)):
        if not 0 <= value < 2**63:
            raise UserError(f"{name} {value} is out of range for mock galaxies; use 0 to 2**63 - 1.")

    images = np.empty((len(labels), size, size, 3), np.uint8)
    drawn_size = size * oversampling_of(size)
    chunk = max(1, _CHUNK_PIXELS // drawn_size**2)
    for label in np.unique(labels):
        positions = np.flatnonzero(labels == label)
        for start in range(0, len(positions), chunk):
            part = positions[start : start + chunk]
            images[part] = render_class(
                DRAWN_CLASSES[CLASSES[label]], int(label), size, seed, [first + int(p) for p in part]
            )
    return images


def mock_galaxies(n: int, size: int = 64, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draw `n` mock galaxies, the ten classes in turn (0, 1, …, 9, 0, …): counts differ by one at most.

    Returns:
        images (n, size, size, 3) uint8, RGB; labels (n,) int64, positions in `CLASSES`.

    Raises:
        UserError: `n` < 1, or the size or the seed is out of range.
    """
    if n < 1:
        raise UserError(f"n is {n}; ask for at least 1 mock galaxy.")
    labels = mock_labels(n)
    return render(labels, size, seed), labels


def mock_labels(n: int) -> NDArray[np.int64]:
    """(n,) labels as `mock_galaxies(n)` gives them: the classes in turn."""
    return np.arange(n, dtype=np.int64) % len(CLASSES)


class MockReader:
    """Draws mock galaxy i when it is asked for, in blocks, and keeps the latest blocks (128 MiB)."""

    _BLOCK = 8

    def __init__(self, n: int, size: int, seed: int) -> None:
        self.n, self.size, self.seed = n, size, seed
        self._blocks: dict[int, Array] = {}

    def __call__(self, i: int) -> Array:
        block, row = divmod(i, self._BLOCK)
        drawn = self._blocks.get(block)
        if drawn is None:
            first = block * self._BLOCK
            labels = mock_labels(min(self.n, first + self._BLOCK))[first:]
            drawn = render(labels, self.size, self.seed, first)
            if (len(self._blocks) + 1) * drawn.nbytes > 1 << 27:
                self._blocks = {}
            self._blocks[block] = drawn
        return drawn[row]

    def digests(self, indices: NDArray[np.int64], cache: Path | None) -> Iterator[bytes]:
        # An image is a function of the drawing code and of these numbers; it would be slow to draw it to hash it.
        return (hash_text(f"{DRAWING_VERSION} {self.size} {self.seed} {i}") for i in indices)


def open_mock_galaxies(words: str, seed: int) -> LabelledImages:
    """The set that a user named.

    Args:
        words: what follows `mock-galaxies:`, the number of images and perhaps their size: `2000`, `2000x96`. The empty
            string stands for 1000 images.
        seed: which set of galaxies.

    Raises:
        UserError: the words, the number, the size or the seed is not as it should be.
    """
    match = re.fullmatch(r"([0-9]+)(?:x([0-9]+))?", words or "1000")
    if not match:
        raise UserError(
            f"'mock-galaxies:{words}' is not understood; write mock-galaxies:2000 or mock-galaxies:2000x96."
        )
    n, size = int(match[1]), int(match[2] or 64)
    if not 1 <= n <= 10_000_000:
        raise UserError(f"mock-galaxies:{n}: the number of images is 1 to 10,000,000.")
    reader = MockReader(n, size, seed)
    reader(0)  # so that an impossible size or seed is an error now, and not at the first image
    files = [f"mock-galaxies-{seed}-{i}" for i in range(n)]
    return LabelledImages("", files, mock_labels(n), CLASSES, reader)
