"""Batches made by a thread of its own, one step ahead, where to make one takes as long as to learn from it.

That is so where a teacher is asked about every batch. A step on small images is little faster on two cores than on one,
so the two halves of the work, side by side on half of the cores each, end sooner than one after the other on all.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import torch

What = TypeVar("What")
Batch = TypeVar("Batch")


class Ahead(Generic[What, Batch]):
    """While it is entered, torch has half of its threads here, and the other half where batches are made."""

    def __init__(self, make: Callable[[What], Batch]) -> None:
        self._make = make
        self._pool = ThreadPoolExecutor(1)
        self._following: tuple[What, Future[Batch]] | None = None

    def __enter__(self) -> Ahead[What, Batch]:
        self._threads = torch.get_num_threads()
        torch.set_num_threads(max(1, self._threads // 2))  # of threads that start later too
        return self

    def __exit__(self, *_: Any) -> None:
        self._pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self._threads)

    def take(self, what: What, following: What | None) -> Batch:
        """The batch of `what`, made already if it was the `following` of the call before; then begins with that of
        `following`. What `make` raised is raised here."""
        foreseen, self._following = self._following, None
        future = foreseen[1] if foreseen is not None and foreseen[0] == what else self._pool.submit(self._make, what)
        batch = future.result()
        if following is not None:
            self._following = following, self._pool.submit(self._make, following)
        return batch
