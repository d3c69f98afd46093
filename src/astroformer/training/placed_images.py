"""Where the training images lie while a run is going on, and how a batch of them is named to the augmentation.

On the CPU that is the memory map of the store, which the operating system keeps in memory: nothing is copied. On a GPU
it is the GPU's own memory where the store takes less than half of what is free; a larger one is streamed.

Shape letters: N images of the store, M stored ones, B batch, C channels, H and W pixels.
"""

from __future__ import annotations

import warnings
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from astroformer.images.store import ImageStore
from astroformer.training.prefetcher import Prefetcher

Positions = NDArray[np.int64]


class PlacedImages(Protocol):
    """The images of a store, on the device that trains or on their way to it."""

    def __call__(self, positions: Positions, following: Positions | None = None) -> tuple[Tensor, Tensor]:
        """An array (M, C, H, W) on the device, and its rows (B,) that hold the images at `positions` of the store.

        `following` are those that are expected to be asked for next.
        """
        ...

    def close(self) -> None:
        """Ends what goes on beside."""
        ...


def place_images(store: ImageStore, device: torch.device) -> PlacedImages:
    """The images of a store in the fastest place that holds them all."""
    if device.type == "cpu":
        return InMemory(_mapped(store.base), store.rows)
    size = len(store) * store.base[0].nbytes
    if device.type == "cuda" and size < torch.cuda.mem_get_info(device)[0] // 2:
        whole_NCHW = torch.from_numpy(store.take(np.arange(len(store)))).to(device)
        return InMemory(whole_NCHW, np.arange(len(store)))
    return Streamed(store, device)


class InMemory:
    """Images that lie in the device's memory as one array.

    Args:
        stored_MCHW: the array.
        row_N: (N,) where in it each image of the store is.
    """

    def __init__(self, stored_MCHW: Tensor, row_N: Positions) -> None:
        self._stored_MCHW, self._row_N = stored_MCHW, row_N

    def __call__(self, positions: Positions, following: Positions | None = None) -> tuple[Tensor, Tensor]:
        return self._stored_MCHW, to_device(self._row_N[positions], self._stored_MCHW.device)

    def close(self) -> None:
        """There is nothing to end."""


class Streamed:
    """Batches read from the memory map one after the other, for a store that the device can't hold.

    A thread reads the following batch and, on CUDA, copies it from pinned memory on a stream of its own, while the
    device works on the present one.
    """

    def __init__(self, store: ImageStore, device: torch.device) -> None:
        self._store, self._device = store, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._reader = Prefetcher(self._read, np.array_equal)

    def __call__(self, positions: Positions, following: Positions | None = None) -> tuple[Tensor, Tensor]:
        x_BCHW, copied = self._reader.take(positions, following)
        if copied is not None:  # the device waits for the copy, not the host
            now = torch.cuda.current_stream(self._device)
            now.wait_event(copied)
            x_BCHW.record_stream(now)
        return x_BCHW, torch.arange(len(positions), device=self._device)

    def close(self) -> None:
        self._reader.close()

    def _read(self, positions: Positions) -> tuple[Tensor, Any]:
        """The images on the device, and what happens there when their copy is complete."""
        x_BCHW = torch.from_numpy(self._store.take(positions))
        if self._stream is None:
            return x_BCHW.to(self._device), None
        with torch.cuda.stream(self._stream):
            return x_BCHW.pin_memory().to(self._device, non_blocking=True), self._stream.record_event()


def to_device(values: NDArray[Any] | Tensor, device: torch.device) -> Tensor:
    """A small array on the device, without waiting for it."""
    tensor = torch.as_tensor(values)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def _mapped(array: NDArray[Any]) -> Tensor:
    """A tensor on the memory of an array that can't be written, which torch warns of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable.*")
        return torch.from_numpy(array)
