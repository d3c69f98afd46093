"""The order of an epoch: which image comes when, how many steps there are, and what each step is seeded with.

Everything here is a function of (seed, epoch, step), so that a resumed run equals an uninterrupted one.

Shape letters: N images.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from astroformer.randomness import Stream, permutation, uniforms

Integers = NDArray[np.int64]


def epoch_order(seed: int, epoch: int, labels_N: Integers, *, balanced: bool = False) -> Integers:
    """(N,) positions of the images in the order of this epoch.

    A permutation. With `balanced` sampling, N draws with replacement in which every class is equally likely.
    """
    n = len(labels_N)
    order_N = permutation(seed, epoch, n).numpy()
    if not balanced:
        return order_N
    counts_K = np.bincount(labels_N)
    cumulative_N = np.cumsum(1.0 / counts_K[labels_N])
    draws_N = uniforms(seed, epoch, torch.arange(n), Stream.SAMPLING, 1)[:, 0].double().numpy()
    return np.minimum(np.searchsorted(cumulative_N, draws_N * cumulative_N[-1], side="right"), n - 1)


def draw_keys(order_N: Integers) -> Integers:
    """(N,) what the augmentation of each place of the order is drawn from; a key modulo N is the image.

    The key of an image is the image itself the first time that it comes in an epoch, and another number each further
    time. So balanced sampling shows a rare image in different ways.
    """
    n = len(order_N)
    by_image_N = np.argsort(order_N, kind="stable")
    sorted_N = order_N[by_image_N]
    repetition_N = np.empty(n, np.int64)
    repetition_N[by_image_N] = np.arange(n) - np.searchsorted(sorted_N, sorted_N)
    return order_N + n * repetition_N


def count_steps(images: int, batch_size: int) -> int:
    """Steps an epoch, of nearly equal size.

    Every image is used, a set smaller than a batch is one batch, and no batch is a single image unless a batch size of
    1 is asked for.
    """
    steps = round(images / batch_size)
    return max(1, steps if batch_size == 1 else min(steps, images // 2))


def even_parts(n: int, parts: int) -> Integers:
    """(parts + 1,) where each of so many nearly equal parts of n things begins, and where the last one ends."""
    return np.linspace(0, n, parts + 1).round().astype(np.int64)


def step_seed(seed: int, epoch: int, step: int, rank: int = 0) -> int:
    """What torch's generator starts a step from: all that is random within the network follows from it."""
    return (((seed * 1_000_003 + epoch) * 1_000_003 + step) * 64 + rank) % 2**63  # torch takes 64 bits


def seed_step(seed: int, device: torch.device) -> None:
    """Sets the generators that a step on `device` draws from.

    `torch.manual_seed` asks every kind of device that torch knows, at every step, and notes the whole stack where one
    is not there yet.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
