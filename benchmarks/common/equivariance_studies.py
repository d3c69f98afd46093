"""The data sets of `equivariance.py` and `framing.py`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Study:
    """A data set: sources (`{a}` and `{b}` bound the images a class of a seed's split), and the length of a run."""

    train: str
    valid: str
    epochs: int
    words: tuple[str, ...] = ()
    per_class: int = 0


STUDIES = {
    "Galaxy Zoo 2, 400 a class": Study("galaxy-zoo2/train", "galaxy-zoo2/valid", 40),
    "CIFAR-10 (JPEG), 50 a class": Study(
        "cifar10/train.npz@per-class={a}:{b}", "cifar10/train.npz@per-class=4000:4100", 200, ("--recipe", "photo"), 50
    ),
    "CIFAR-10 (JPEG), 500 a class": Study(
        "cifar10/train.npz@per-class={a}:{b}", "cifar10/train.npz@per-class=4000:4100", 40, ("--recipe", "photo"), 500
    ),
    "MiraBest, 200 a class": Study("mirabest/train.npz@per-class=0:200", "mirabest/train.npz@per-class=200:312", 100),
}
