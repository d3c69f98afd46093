"""Where the training images lie while a run is going on, and how a batch of them is named to the augmentation.

On the CPU that is the memory map of the store, which the operating system keeps in memory: nothing is copied. On a GPU
it is the GPU's own memory where the store takes less than half of what is free; a larger one is streamed.

Shape letters: N images of the store, M stored ones, B batch, C channels, H and W pixels.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from astroformer.images.store import ImageStore

Positions = NDArray[np.int64]
Resident = Callable[[Positions], tuple[Tensor, Tensor]]
"""From positions (B,) in the store to (an array (M, C, H, W) on the device, its rows (B,) that hold those images)."""


def resident(store: ImageStore, device: torch.device) -> Resident:
    """The fastest place that holds the whole store."""
    if device.type == "cuda":
        size = len(store) * store.base[0].nbytes
        if size >= torch.cuda.mem_get_info(device)[0] // 2:
            return Streamed(store, device)
        whole_NCHW = torch.from_numpy(store.take(np.arange(len(store)))).to(device)
        return lambda positions: (whole_NCHW, to_device(positions, device))
    if device.type == "cpu":
        mapped_MCHW = read_only(store.base)
        return lambda positions: (mapped_MCHW, torch.from_numpy(store.rows[positions]))
    return Streamed(store, device)


class Streamed:
    """Batches read from the memory map one after the other, for a store that the device can't hold.

    After `prefetch` a thread reads the batch and, on CUDA, copies it from pinned memory on a stream of its own, while
    the device works on the batch before.
    """

    def __init__(self, store: ImageStore, device: torch.device) -> None:
        self._store, self._device = store, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._pool = ThreadPoolExecutor(1)
        self._ahead: tuple[Positions, Future[tuple[Tensor, Any]]] | None = None

    def prefetch(self, positions: Positions) -> None:
        """Begins with the batch that will be asked for next; asking for another one then is only slower."""
        self._ahead = positions.copy(), self._pool.submit(self._read, positions.copy())

    def __call__(self, positions: Positions) -> tuple[Tensor, Tensor]:
        ahead, self._ahead = self._ahead, None
        if ahead is not None and np.array_equal(ahead[0], positions):
            x_BCHW, copied = ahead[1].result()
        else:
            x_BCHW, copied = self._read(positions)
        if copied is not None:  # the device waits for the copy, not the host
            now = torch.cuda.current_stream(self._device)
            now.wait_event(copied)
            x_BCHW.record_stream(now)
        return x_BCHW, torch.arange(len(positions), device=self._device)

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


def read_only(array: NDArray[Any]) -> Tensor:
    """A tensor on the memory of an array that can't be written, which torch has no word for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable.*")
        return torch.from_numpy(array)
