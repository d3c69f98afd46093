"""Batches made one step ahead by another thread: which, in what order, and what becomes of errors and threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from astroformer.training.prefetcher import Prefetcher, halved_threads


@pytest.fixture
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_the_following_batch_is_made_while_nobody_waits() -> None:
    begun, going_on, made = threading.Event(), threading.Event(), []

    def make(number: int) -> int:
        if number == 1:
            begun.set()
            assert going_on.wait(10)
        made.append(number)
        return 10 * number

    prefetcher = Prefetcher(make)
    assert prefetcher.take(0, 1) == 0
    assert begun.wait(10)  # it was asked for by nobody yet
    going_on.set()
    assert prefetcher.take(1, 2) == 10
    assert prefetcher.take(2, None) == 20
    prefetcher.close()
    assert made == [0, 1, 2]


def test_another_batch_than_announced_is_made_anew() -> None:
    made = []
    prefetcher = Prefetcher(lambda number: made.append(number) or number)
    prefetcher.take(0, 1)
    assert prefetcher.take(5, 6) == 5
    assert prefetcher.take(6, None) == 6
    prefetcher.close()
    assert made == [0, 1, 5, 6]


def test_requests_are_compared_as_it_is_told() -> None:
    made = []
    prefetcher = Prefetcher(lambda array: made.append(array.tolist()), np.array_equal)
    prefetcher.take(np.array([0, 1]), np.array([2]))
    prefetcher.take(np.array([2]), np.array([3]))
    prefetcher.take(np.array([3, 4]), None)
    prefetcher.close()
    assert made == [[0, 1], [2], [3], [3, 4]]


def test_an_error_is_raised_where_the_batch_is_taken() -> None:
    def make(number: int) -> int:
        if number == 1:
            raise ValueError("no such batch")
        return number

    prefetcher = Prefetcher(make)
    assert prefetcher.take(0, 1) == 0
    with pytest.raises(ValueError, match="no such batch"):
        prefetcher.take(1, 2)
    assert prefetcher.take(2, None) == 2
    prefetcher.close()


def test_each_side_has_half_of_the_threads_until_it_is_left(four_threads: None) -> None:
    with halved_threads():
        prefetcher = Prefetcher(lambda _: torch.get_num_threads())
        assert torch.get_num_threads() == 2
        assert prefetcher.take(0, None) == 2
        prefetcher.close()
    assert torch.get_num_threads() == 4
