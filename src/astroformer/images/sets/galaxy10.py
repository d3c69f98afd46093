"""The files of Galaxy10: HDF5, with colour images and a column for each thing that is known of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroformer.images.array_file import file_state
from astroformer.images.formats.arrays import Blocks, block_sizes
from astroformer.images.formats.hdf5 import DataSet
from astroformer.images.hashes import hash_text
from astroformer.images.reading import Array
from astroformer.images.sets.declared import damaged


class Galaxy10File(NamedTuple):
    """The images (N, H, W, 3) of a file, and its columns of N values, `ans` (the label) among them."""

    images: Blocks
    columns: dict[str, NDArray[Any]]


def read_galaxy10(path: Path, names: Sequence[str], classes: int) -> Galaxy10File:
    """The images of a file, none of which is read yet, and the columns of these names.

    Raises:
        UserError: the file is damaged.
    """
    import h5py

    columns = {}
    try:
        state = file_state(path.stat())
        with h5py.File(path, "r") as file:
            shape, kind, chunk = file["images"].shape, file["images"].dtype, file["images"].chunks
            for name in names:
                columns[name] = np.asarray(file[name][()])
    except (OSError, KeyError, AttributeError, TypeError) as error:
        raise damaged(path, str(error).strip("'\"")) from None
    n = shape[0] if len(shape) == 4 else 0
    if not n or shape[3] != 3 or kind != np.uint8 or any(column.shape != (n,) for column in columns.values()):
        raise damaged(path, f"'images' is {shape} of {kind}, and {n} values of each column are needed")
    labels = columns["ans"].astype(np.int64)
    if labels.min() < 0 or labels.max() >= classes:
        raise damaged(path, f"labels are {labels.min()} to {labels.max()}, of {classes} classes")
    sizes = block_sizes(path, "'images'", shape, kind, chunk)
    return Galaxy10File(Blocks(path, DataSet(path, "images", state), shape, kind, sizes), columns)


@dataclass(frozen=True)
class Galaxy10Reader:
    """Reads row `rows[i]` of the images."""

    images: Blocks
    rows: NDArray[np.int64]
    digest: str

    def __call__(self, i: int) -> Array:
        return self.images[int(self.rows[i])]

    def digests(self, indices: NDArray[np.int64], cache: Path | None) -> Iterator[bytes]:
        return (hash_text(f"{self.digest} {self.rows[int(i)]}") for i in indices)
