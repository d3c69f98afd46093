"""Work in several threads at once, whose results come in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

from astroformer.system import usable_cores

Result = TypeVar("Result")
WORKERS = 8
"""Threads that ask a network at most: of more, some would wait for Python's lock; on larger CPUs each computes with
several cores."""


def pieces(total: int, batch: int, size: int) -> list[tuple[int, int]]:
    """The numbers 0 to `total` in pieces (start, stop) of at most `size`; one ends wherever a batch does.

    Examples:
        >>> pieces(9, batch=4, size=3)
        [(0, 3), (3, 4), (4, 7), (7, 8), (8, 9)]
    """
    return [
        (start, min(start + size, stop))
        for begin in range(0, total, batch)
        for stop in [min(begin + batch, total)]
        for start in range(begin, stop, size)
    ]


def in_threads(task: Callable[[int, int], Result], bounds: Sequence[tuple[int, int]], workers: int) -> Iterator[Result]:
    """`task(start, stop)` of all bounds, in their order, by so many threads that begin a little ahead.

    Each computes with its share of the threads that torch may use, since threads that wait for each other are slow on
    a busy machine. Where there is one task, the thread that asks does it.

    Examples:
        >>> list(in_threads(lambda start, stop: stop - start, [(0, 4), (4, 8), (8, 9)], workers=2))
        [4, 4, 1]
    """
    threads = torch.get_num_threads()
    share = max(1, min(threads, usable_cores()) // workers)
    if len(bounds) == 1:
        torch.set_num_threads(share)
        try:
            only = task(*bounds[0])
        finally:
            torch.set_num_threads(threads)
        yield only
        return
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(share,))
    running: deque[Future[Result]] = deque()
    try:
        waiting = iter(bounds)
        for _ in bounds:
            while len(running) < 2 * workers and (some := next(waiting, None)) is not None:
                running.append(pool.submit(task, *some))
            yield running.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(threads)  # the workers' number is what torch gives to threads that start later
