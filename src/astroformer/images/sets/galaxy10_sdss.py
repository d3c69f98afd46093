"""Galaxy10 SDSS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from astroformer.errors import check_installed
from astroformer.images.hashes import hash_text
from astroformer.images.sets.declared import Content, NamedSet
from astroformer.images.sets.download import Resource
from astroformer.images.sets.galaxy10 import Galaxy10Reader, read_galaxy10


class Galaxy10Sdss(NamedSet):
    """21,785 colour cutouts of galaxies, of 69 × 69 pixels, in ten classes, one of which has a few images only.

    One HDF5 file holds `images` (N, H, W, 3) uint8 and (N,) `ans` (label). Its authors publish neither a split nor
    positions. They made the colours of the bands g, r and i for the eye, so these are no fluxes.
    """

    name = "galaxy10-sdss"
    title = "Galaxy10 SDSS"
    # SHA-256, address, size, classes and the number of images: its authors (astroNN, docs/source/galaxy10sdss.rst).
    # Of each class they count images that sum to 21,830; others who read the file found 21,785 as well.
    resources = (
        Resource(
            "Galaxy10.h5",
            ("https://zenodo.org/records/10844811/files/Galaxy10.h5",),
            210_234_548,
            "969a6b1cefcc36e09fffa86febd2f699a4aa19b837ba0427f01b0bc6ded458af",
        ),
    )
    licence = "not checked by us; see doi.org/10.5281/zenodo.10844811"
    citation = (
        "H. Leung, J. Bovy, Galaxy10 SDSS, Zenodo, 2024, doi:10.5281/zenodo.10844811; labels: Galaxy Zoo (Lintott et "
        "al. 2008, 2011); images: Sloan Digital Sky Survey"
    )
    homepage = "https://astronn.readthedocs.io/en/latest/galaxy10sdss.html"
    classes = (
        "face_on_without_spiral",
        "round_smooth",
        "in_between_round_smooth",
        "cigar_shaped_smooth",
        "edge_on_with_rounded_bulge",
        "edge_on_with_boxy_bulge",
        "edge_on_without_bulge",
        "tight_spiral",
        "medium_spiral",
        "loose_spiral",
    )
    number_of_classes = 10
    images: ClassVar[Mapping[str, int]] = {"train": 17_428, "test": 4_357}
    split = "ours (none is official): a fifth of each class to test"

    def prepare(self) -> None:
        check_installed("h5py", "astro", self.name)

    def read(self, files: Sequence[Path], part: str, digest: str) -> Content:
        images, columns = read_galaxy10(files[0], ("ans",), len(self.classes))
        labels = columns["ans"].astype(np.int64)
        chosen = split_by_row(labels)[part]
        names = [f"{self.name}-{i}" for i in chosen]
        return Content(Galaxy10Reader(images, chosen, digest), labels[chosen], self.classes, names)


def split_by_row(labels: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """Indices of `train` and `test`, each sorted: a fifth of all and, to within one image, of each class is in `test`.

    Which ones follows from the hash of an image's number in the file.
    """
    rank = np.argsort([hash_text(f"galaxy10-sdss {i}") for i in range(len(labels))], kind="stable")
    order = rank[np.argsort(labels[rank], kind="stable")]  # by class, and at random within it
    test = np.zeros(len(labels), bool)
    test[order[2::5]] = True
    return {"train": np.flatnonzero(~test), "test": np.flatnonzero(test)}
