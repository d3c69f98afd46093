"""The network and the loader of timm that ours are timed against, with timm's own parts and defaults."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import timm.data
import torch
from torch import Tensor, nn

from astroformer.network import VARIANTS
from astroformer.weights import maxxvit_reference

CPU = torch.device("cpu")


def network(variant: str, size: int, classes: int) -> nn.Module:
    config = dataclasses.replace(VARIANTS[variant], img_size=(size, size), num_classes=classes, stochastic_depth=0.05)
    return maxxvit_reference(config)


def training_loader(
    data: Path, size: int, batch: int, classes: int, workers: int, device: torch.device = CPU
) -> Iterable[tuple[Tensor, Tensor]]:
    """RandAugment, random-resized crop, random erasing and mixup, as `train.py --aa rand-m9-mstd0.5-inc1 --reprob 0.25
    --mixup 0.8` sets them up.

    The magnitude is held at 9 where noise would raise it: above, timm asks for 0 bits, which Pillow refuses.
    """
    dataset = timm.data.create_dataset("", root=str(data), split="train", is_training=True, batch_size=batch)
    mixup = timm.data.FastCollateMixup(mixup_alpha=0.8, label_smoothing=0.1, num_classes=classes)
    return timm.data.create_loader(
        dataset,
        input_size=(3, size, size),
        batch_size=batch,
        is_training=True,
        re_prob=0.25,
        re_mode="pixel",
        scale=(0.08, 1.0),
        ratio=(3 / 4, 4 / 3),
        auto_augment="rand-m9-mstd0.5-mmax9-inc1",
        interpolation="random",
        num_workers=workers,
        collate_fn=mixup,
        device=device,
    )
