"""Image files that lie in a zip."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray

from astroformer.images.hashes import hash_text
from astroformer.images.reading import Array, UnreadableImage, read_image


class ZipReader:
    """Reads image i, a member of a zip, from several threads at once."""

    def __init__(self, path: Path, root: str, names: tuple[str, ...], digest: str) -> None:
        self.path, self.root, self.names, self.digest = path, root, names, digest
        self._archive: ZipFile | None = None
        self._opening = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.root, self.names, self.digest)

    def __call__(self, i: int) -> Array:
        name = self.names[i]
        with self._opening:
            if self._archive is None:
                self._archive = ZipFile(self.path)
        try:
            data = self._archive.read(self.root + name)
        except (BadZipFile, KeyError, zlib.error, EOFError, OSError) as error:
            raise UnreadableImage(name, f"damaged in '{self.path}' ({error})") from None
        return read_image(data, name=name)

    def digests(self, indices: NDArray[np.int64], cache: Path | None) -> Iterator[bytes]:
        return (hash_text(f"{self.digest} {self.names[int(i)]}") for i in indices)
