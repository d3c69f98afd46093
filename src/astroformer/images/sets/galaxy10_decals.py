"""Galaxy10 DECaLS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from astroformer.errors import check_installed
from astroformer.images.grouped_split import split_groups
from astroformer.images.hashes import hash_text
from astroformer.images.sets.declared import Content, NamedSet
from astroformer.images.sets.download import Resource
from astroformer.images.sets.galaxy10 import Galaxy10Reader, read_galaxy10
from astroformer.images.sky_groups import group_overlapping_cutouts


class Galaxy10Decals(NamedSet):
    """17,736 colour cutouts of galaxies, of 256 × 256 pixels, in ten classes.

    One HDF5 file holds `images` (N, H, W, 3) uint8, and (N,) of `ans` (label), `ra`, `dec` (degrees), `pxscale` (arcsec
    a pixel) and `redshift`. Its authors publish no split.

    Attributes:
        test_share: share of each class in our test part.
    """

    name = "galaxy10-decals"
    title = "Galaxy10 DECaLS"
    # SHA-256 and size: its authors (github.com/henrysky/Galaxy10), the size as "2.54 GB". MD5: Zenodo's record.
    resources = (
        Resource(
            "Galaxy10_DECals.h5",
            (
                "https://zenodo.org/records/10845026/files/Galaxy10_DECals.h5",
                "https://www.astro.utoronto.ca/~hleung/shared/Galaxy10/Galaxy10_DECals.h5",
            ),
            2_540_000_000,
            "19aefc477c41bb7f77ff07599a6b82a038dc042f889a111b0d4d98bb755c1571",
            "c6b7b4db82b3a5d63d6a7e3e5249b51c",
            exact=False,
        ),
    )
    licence = "not checked by us; see doi.org/10.5281/zenodo.10845026"
    citation = (
        "H. Leung, J. Bovy, Galaxy10 DECaLS, Zenodo, 2024, doi:10.5281/zenodo.10845026; labels: Galaxy Zoo (Lintott et "
        "al. 2008, 2011; Walmsley et al. 2021); images: DESI Legacy Surveys (Dey et al. 2019)"
    )
    homepage = "https://github.com/henrysky/Galaxy10"
    classes = (
        "disturbed",
        "merging",
        "round_smooth",
        "in_between_round_smooth",
        "cigar_shaped_smooth",
        "barred_spiral",
        "unbarred_tight_spiral",
        "unbarred_loose_spiral",
        "edge_on_without_bulge",
        "edge_on_with_bulge",
    )
    number_of_classes = 10
    images: ClassVar[Mapping[str, int]] = {"train": 14_187, "test": 3_549}
    split = "ours (none is official): a fifth of each class to test, cutouts less than a side apart together"

    test_share: ClassVar[float] = 0.2

    def prepare(self) -> None:
        check_installed("h5py", "astro", self.name)

    def read(self, files: Sequence[Path], part: str, digest: str) -> Content:
        images, columns = read_galaxy10(files[0], ("ans", "ra", "dec", "pxscale"), len(self.classes))
        labels, shape = columns["ans"].astype(np.int64), images.shape
        groups = group_overlapping_cutouts(columns["ra"], columns["dec"], columns["pxscale"] * max(shape[1:3]))
        chosen = split_by_position(labels, groups, columns["ra"], columns["dec"], self.test_share)[part]
        reader = Galaxy10Reader(images, chosen, digest)
        names = [f"{self.name}-{i}" for i in chosen]
        return Content(reader, labels[chosen], self.classes, names, groups[chosen])


def split_by_position(
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    ra_N: NDArray[np.floating],
    dec_N: NDArray[np.floating],
    share: float,
) -> dict[str, NDArray[np.int64]]:
    """Indices of `train` and `test`, each sorted: no group is in both, and of each class about `share` is in `test`.

    Who goes where follows from the positions (hashed to 1e-6 degrees) alone, whichever order the file has.
    """
    rank = np.argsort([hash_text(f"{ra:.6f} {dec:.6f}") for ra, dec in zip(ra_N, dec_N, strict=True)], kind="stable")
    order = np.empty(len(labels), np.int64)
    order[rank] = np.arange(len(labels))
    part = split_groups(labels, groups, (1 - share, share), order)
    return {"train": np.flatnonzero(part == 0), "test": np.flatnonzero(part == 1)}
