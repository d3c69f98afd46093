"""Random numbers as a pure function of (seed, epoch, image, stream, position): no state, no order, no worker.

A generator that is advanced gives different numbers when the batch size, the number of workers or the point
of resumption changes. Here each number is a hash of its address instead (a counter-based generator, as in
Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), so what is drawn for an image in an epoch does
not depend on its batch.

The hash runs in int64 on values below 2³², with multipliers below 2³¹: no product overflows, and every device
gives the same bits. Shape letters: B images, K draws per image.
"""

from __future__ import annotations

import math
from enum import IntEnum, unique
from typing import TypeVar

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_GOLDEN = 0x9E3779B9  # 2³² / golden ratio: successive positions land far apart
_KEY_STARTS = (0x243F6A88, 0x85A308D3)  # digits of π: two keys from different starts, 64 bits together

_Word = TypeVar("_Word", int, Tensor)


@unique
class Stream(IntEnum):
    """What a draw is for. Two uses with different streams are independent, and a new use takes a new number.

    The numbers never change: every recorded run was drawn with them.
    """

    ORDER = 0  # in which an epoch takes its images
    AUGMENT = 1  # geometry, colour, the policy and where a rectangle is erased
    NOISE = 2  # that is added to every pixel
    ERASING = 3  # noise that fills an erased rectangle
    MIX = 4  # mixup and CutMix
    OWN = 5  # what an augmentation of a program's own draws
    SYMMETRY_SHIFT = 100  # by which the symmetry report moves an image
    SYMMETRY_CROP = 101  # where the report cuts an image out of its frame
    SYMMETRY_ROTATION = 102  # angle by which the report turns an image
    SYMMETRY_DIRECTION = 103  # in which the report moves an image by a given distance
    SETS = 200  # the random part of a randomized conformal set
    SAMPLING = 7_001  # which images an epoch takes where every class is drawn equally often


def uniforms(seed: int, epoch: int, index_B: Tensor, stream: int, count: int) -> Tensor:
    """`count` numbers in [0, 1) for each image, uniform on the multiples of 2⁻²⁴.

    Args:
        seed: of the run; any integer, taken modulo 2⁶⁴.
        epoch: number of the epoch.
        index_B: (B,) int64, which image of the set each row is (not its place in the batch).
        stream: what the draws are for, a `Stream`.
        count: K, the number of draws per image; draw k does not depend on it.

    Returns:
        (B, K) float32 on `index_B`'s device, equal to the bit on every device and for every composition of
        the batch.
    """
    return _random_words(seed, epoch, index_B, stream, count).bitwise_right_shift_(8).to(torch.float32).mul_(2.0**-24)


def normals(seed: int, epoch: int, index_B: Tensor, stream: int, count: int) -> Tensor:
    """`count` standard normal numbers for each image, by Box and Muller's transform of `uniforms`.

    Arguments as for `uniforms`. Returns (B, K) float32; between devices equal up to the rounding of log and
    cos. No number is larger than 5.8, the most that 24 bits give.
    """
    pairs = (count + 1) // 2
    u_BK = uniforms(seed, epoch, index_B, stream, 2 * pairs)
    radius_BP = u_BK[:, 0::2].neg().log1p_().mul_(-2.0).sqrt_()  # log(1 − u): u may be 0, never 1
    angle_BP = u_BK[:, 1::2] * (2.0 * math.pi)
    return torch.stack((radius_BP * angle_BP.cos(), radius_BP * angle_BP.sin()), dim=2).flatten(1)[:, :count]


def permutation(seed: int, epoch: int, n: int) -> Tensor:
    """A shuffled order of n images: (n,) int64 on the CPU, each of 0 … n − 1 once."""
    high_N, low_N = _image_keys(seed, epoch, torch.arange(n), Stream.ORDER)
    return torch.argsort((high_N << 31) | (low_N >> 1), stable=True)


def seed_of(seed: int, epoch: int, index: int, stream: int) -> int:
    """A seed in [0, 2⁶²) for a generator of torch, which follows from the same address as a draw."""
    first, second = (int(key_B) for key_B in _image_keys(seed, epoch, torch.tensor([index]), stream))
    return (first << 30) ^ second


def _random_words(seed: int, epoch: int, index_B: Tensor, stream: int, count: int) -> Tensor:
    """(B, K) int64 in [0, 2³²): the hash. For each image it is a bijection of k, chosen by the image's two keys."""
    first_B, second_B = _image_keys(seed, epoch, index_B, stream)
    steps_K = (torch.arange(count, device=index_B.device) * _GOLDEN) & _MASK
    word_BK = first_B[:, None] + steps_K
    word_BK &= _MASK
    word_BK = _scramble(word_BK)
    word_BK ^= second_B[:, None]
    return _scramble(word_BK)


def _image_keys(seed: int, epoch: int, index_B: Tensor, stream: int) -> tuple[Tensor, Tensor]:
    """Two numbers (B,) int64 in [0, 2³²) for each image, hashes of its address without the position."""
    if index_B.dtype != torch.int64 or index_B.ndim != 1:
        raise ValueError(f"index_B must be (B,) int64, not {tuple(index_B.shape)} {index_B.dtype}")
    keys = []
    for key in _KEY_STARTS:
        for number in (seed, seed >> 32, epoch, epoch >> 32, stream):
            key = _scramble(key ^ (number & _MASK))
        key_B = _scramble((index_B & _MASK) ^ key)
        keys.append(_scramble(key_B ^ ((index_B >> 32) & _MASK)))
    return keys[0], keys[1]


def _scramble(word: _Word) -> _Word:
    """A bijection of 32 bits in which each input bit flips each output bit about half of the time.

    The shifts and multipliers are a published result of searching for the least bias
    (github.com/skeeto/hash-prospector).
    """
    # In place for a tensor, which halves the time, so every caller gives it a tensor that nobody else holds.
    word ^= word >> 16
    word *= 0x21F0AAAD
    word &= _MASK
    word ^= word >> 15
    word *= 0x735A2D97
    word &= _MASK
    word ^= word >> 15
    return word
