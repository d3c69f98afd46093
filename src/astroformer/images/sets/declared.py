"""What a published data set declares: its files, its authors, its classes and parts, and how its files are read."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from astroformer.cache import default_cache
from astroformer.drawing import INK, class_name
from astroformer.errors import UserError, unknown_name
from astroformer.images.bands import Bands
from astroformer.images.contact_sheet import ContactSheet, Tile, in_rows
from astroformer.images.formats.arrays import ArrayReader
from astroformer.images.labelled import LabelledImages, Reader, SetRecord
from astroformer.images.reading import Array
from astroformer.images.sets.download import Listener, Resource, fetch


@dataclass(frozen=True)
class Content:
    """The images of one part of a set, as its files hold them.

    Attributes:
        images: (N, H, W) or (N, C, H, W) uint8, or what reads image i.
        labels: (N,) int64, positions in `classes`.
        classes: class names.
        files: N names, each once.
        groups: (N,) int64, images with the same number show the same place; None where each stands alone.
    """

    images: Array | Reader
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    files: list[str]
    groups: NDArray[np.int64] | None = None


class NamedSet(ABC):
    """A published data set. Each one is a class of its own, in a file of its own, listed in `sets.NAMED_SETS`.

    Our readers are small and our own: the formats are plain records, and common readers of some of these sets load
    pickles, which could run code.

    Attributes:
        name: the word for it.
        title: its full name.
        resources: its files. Their sizes and checksums are those that the places named beside them publish.
        licence: as its authors state it.
        citation: what to cite.
        homepage: where its authors describe it.
        classes: class names in the order of the labels; empty if only the files hold them.
        number_of_classes: how many classes there are.
        bands: of every image; None for grey and colour images.
        images: how many images each part has.
        split: how the parts come about.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    resources: ClassVar[tuple[Resource, ...]]
    licence: ClassVar[str]
    citation: ClassVar[str]
    homepage: ClassVar[str]
    classes: ClassVar[tuple[str, ...]] = ()
    number_of_classes: ClassVar[int]
    bands: ClassVar[Bands | None] = None
    images: ClassVar[Mapping[str, int]]
    split: ClassVar[str] = "official"

    @abstractmethod
    def read(self, files: Sequence[Path], part: str, digest: str) -> Content:
        """The images of one part.

        Args:
            files: of `resources`, in their order, checked.
            part: a key of `images`.
            digest: stands for what is in the files.

        Raises:
            UserError: the files do not hold what they should.
        """

    def prepare(self) -> None:  # noqa: B027 (most need nothing)
        """Raises `UserError` if reading the set needs something that is missing, before it is downloaded."""

    def folder(self) -> Path:
        """Where its files lie."""
        return default_cache() / "data-sets" / self.name

    def open(self, part: str | None, listener: Listener | None = None) -> LabelledImages:
        """The images of one part, downloaded if need be. Their `about` says where they are from.

        Raises:
            UserError: no such part; the files can't be had, or do not hold what they should.
        """
        parts = " or ".join(f"{self.name}:{name}" for name in self.images)
        if part is None:
            raise UserError(f"'{self.name}' has several parts; write {parts}.")
        if part not in self.images:
            raise unknown_name(f"part of {self.name}", part, self.images)
        self.prepare()
        found = self.find_files(listener)
        digest = hashlib.sha256(" ".join(sha256 for _, sha256 in found).encode()).hexdigest()
        content = self.read([path for path, _ in found], part, digest)
        reader = content.images
        if isinstance(reader, np.ndarray):
            reader = ArrayReader(self.name, reader, channels_first=reader.ndim == 4)
        about = SetRecord(
            name=self.name,
            part=part,
            licence=self.licence,
            citation=self.citation,
            homepage=self.homepage,
            split=self.split,
            sha256={path.name: sha256 for path, sha256 in found},
        )
        return LabelledImages(
            "",
            content.files,
            content.labels,
            content.classes,
            reader,
            groups=content.groups,
            about=about,
            bands=self.bands,
        )

    def find_files(self, listener: Listener | None) -> list[tuple[Path, str]]:
        """Each of `resources` as a file that is there and checked, and its SHA-256."""
        folder = self.folder()
        if listener is not None and not all((folder / resource.name).is_file() for resource in self.resources):
            listener.say(f"{self.title}, to '{folder}'. Licence: {self.licence}. Cite: {self.citation}.")
        return [fetch(resource, folder, listener) for resource in self.resources]

    def picture(self, image: Array) -> Array:
        """What a person is shown of an image (H, W, C): (H, W, 1) or (H, W, 3) uint8."""
        return image

    def plot(self, path: Path, part: str = "train", listener: Listener | None = None) -> None:
        """Writes a picture of the first image of each class, as a PNG with a PDF beside it."""
        images = self.open(part, listener)
        assert images.labels is not None
        chosen = [int(np.flatnonzero(images.labels == k)[0]) for k in np.unique(images.labels)]
        tiles = []
        for i in chosen:
            image = self.picture(images.read(i))
            name = class_name(images.classes[images.labels[i]], int(images.labels[i]) + 1)
            tiles.append(Tile(image[..., 0] if image.shape[2] == 1 else image, ((name, INK),)))
        columns = 10 if len(tiles) <= 100 else 16  # so that 200 classes are on one page
        ContactSheet(f"{self.title}: the first image of each class", in_rows(tiles, columns), columns).save(path)

    def to_dict(self) -> dict[str, Any]:
        """What is declared of it, for JSON."""
        return {
            "name": self.name,
            "title": self.title,
            "images": dict(self.images),
            "classes": self.number_of_classes,
            "class_names": list(self.classes),
            "bands": None if self.bands is None else self.bands.to_dict(),
            "split": self.split,
            "bytes": sum(resource.size for resource in self.resources),
            "licence": self.licence,
            "citation": self.citation,
            "homepage": self.homepage,
            "files": [
                {
                    "name": resource.name,
                    "urls": list(resource.urls),
                    "bytes": resource.size,
                    "exact": resource.exact,
                    "sha256": resource.sha256,
                    "md5": resource.md5,
                }
                for resource in self.resources
            ],
            "folder": str(self.folder()),
        }


def mirrored(name: str, places: Sequence[str], size: int, sha256: str, md5: str | None = None) -> Resource:
    """A file that lies under the same name in several places."""
    return Resource(name, tuple(f"{place}/{name}" for place in places), size, sha256, md5)


def damaged(path: Path, why: str) -> UserError:
    """The error for a file that does not hold what it should."""
    return UserError(f"'{path}' is damaged ({why}). Remove it, to have it downloaded again.")
