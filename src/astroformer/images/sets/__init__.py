"""Data sets by name: published ones, one file each, and the rendered one.

To add a published set, copy the file of one (`tiny_imagenet.py` is the shortest), and list its class in `NAMED_SETS`.
"""

from __future__ import annotations

from astroformer.images.sets.cifar import Cifar10, Cifar100
from astroformer.images.sets.declared import NamedSet
from astroformer.images.sets.eurosat import EuroSat
from astroformer.images.sets.fashion_mnist import FashionMnist
from astroformer.images.sets.galaxy10_decals import Galaxy10Decals
from astroformer.images.sets.galaxy10_sdss import Galaxy10Sdss
from astroformer.images.sets.medmnist import MEDMNIST
from astroformer.images.sets.tiny_imagenet import TinyImageNet

NAMED_SETS: dict[str, NamedSet] = {
    declared.name: declared
    for declared in (
        Galaxy10Decals(),
        Cifar10(),
        Cifar100(),
        TinyImageNet(),
        FashionMnist(),
        Galaxy10Sdss(),
        EuroSat(),
        *MEDMNIST,
    )
}
"""The published sets by name."""

__all__ = ["NAMED_SETS", "NamedSet"]
