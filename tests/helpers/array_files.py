"""The same arrays as .npz, HDF5 and Zarr."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

ENDINGS = ("npz", "packed.npz", "h5", "zarr", "v2.zarr", "sharded.zarr", "zarr.zip")
"""Kinds of files that `save_arrays` writes, by the end of their names."""

BANDS = ("u", "g", "r", "i", "z")


def five_bands(n: int = 24, size: int = 12) -> dict[str, Any]:
    """n images (H, W, 5) float32 of two classes, the second of which is bright in the last band, and what they are."""
    rng = np.random.default_rng(5)
    labels = np.arange(n) % 2
    images = rng.random((n, size, size, 5), dtype=np.float32)
    images[..., 4] += 2 * labels[:, None, None]
    return {
        "images": images,
        "labels": labels,
        "classes": np.array(["faint", "bright"]),
        "bands": np.array(BANDS),
        "units": np.array("nJy"),
    }


def save_arrays(
    path: Path, arrays: Mapping[str, Any], chunk: int = 7, attributes: Mapping[str, Any] | None = None
) -> Path:
    """Writes arrays to a file of a kind that its name tells; `images` in blocks of `chunk` images, packed."""
    name = path.name
    kept = {key: np.asarray(value) for key, value in arrays.items() if value is not None}
    if name.endswith(".npz"):
        (np.savez_compressed if name.endswith("packed.npz") else np.savez)(path, **kept)  # type: ignore[arg-type]
    elif name.endswith(".h5"):
        _save_hdf5(path, kept, chunk, attributes or {})
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # fixed-length text is not part of the standard of version 3
            _save_zarr(path, kept, chunk, attributes or {})
    return path


def _save_hdf5(path: Path, arrays: Mapping[str, Any], chunk: int, attributes: Mapping[str, Any]) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        for key, value in arrays.items():
            text = value.dtype.kind == "U"
            blocks = value.ndim > 2 and value.size > 0
            words = {"chunks": (min(chunk, len(value)), *value.shape[1:]), "compression": "gzip"} if blocks else {}
            file.create_dataset(key, data=value.astype(object) if text else value, **words)
        file.attrs.update(attributes)


def _save_zarr(path: Path, arrays: Mapping[str, Any], chunk: int, attributes: Mapping[str, Any]) -> None:
    import zarr

    if path.exists():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    store = zarr.storage.ZipStore(path, mode="w") if path.suffix == ".zip" else zarr.storage.LocalStore(path)
    group = zarr.open_group(store, mode="w", zarr_format=2 if "v2" in path.name else 3)
    for key, value in arrays.items():
        words: dict[str, Any] = {}
        if value.ndim > 2:
            words["chunks"] = (min(chunk, len(value)), *value.shape[1:])
            if "sharded" in path.name:
                words["shards"] = (2 * words["chunks"][0], *value.shape[1:])
        group.create_array(key, data=value, config={"write_empty_chunks": True}, **words)
    group.attrs.update(attributes)
    store.close()
