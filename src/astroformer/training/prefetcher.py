"""What is needed next, made by a thread of its own while the present one is in use."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

Request = TypeVar("Request")
Made = TypeVar("Made")


class Prefetcher(Generic[Request, Made]):
    """Makes what is asked for, and one request ahead what is announced.

    Args:
        make: from a request to what is made of it; called in the thread.
        same: whether two requests are equal.
    """

    def __init__(self, make: Callable[[Request], Made], same: Callable[[Request, Request], bool] = operator.eq) -> None:
        self._make, self._same = make, same
        self._pool = ThreadPoolExecutor(1)
        self._announced: tuple[Request, Future[Made]] | None = None

    def take(self, request: Request, following: Request | None) -> Made:
        """What is made of `request`; then the thread begins with `following`.

        Nobody waits for it where it was the `following` of the call before. An error of `make` is raised here.
        """
        announced, self._announced = self._announced, None
        if announced is not None and self._same(announced[0], request):
            future = announced[1]
        else:
            future = self._pool.submit(self._make, request)
        made = future.result()
        if following is not None:
            self._announced = following, self._pool.submit(self._make, following)
        return made

    def close(self) -> None:
        """Ends the thread; what it is making is still finished."""
        self._pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def halved_threads() -> Iterator[None]:
    """Within it torch has half of its threads here, and the other half in threads that start meanwhile.

    A step on small images is little faster on two cores than on one. Where another thread's work takes as long, the two
    side by side, on half of the cores each, end sooner than one after the other on all.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // 2))
    try:
        yield
    finally:
        torch.set_num_threads(threads)
