"""Batches made one step ahead by another thread: which, in what order, and what becomes of errors and threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from astroformer.training.ahead import Ahead


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

    with Ahead(make) as ahead:
        assert ahead.take(0, 1) == 0
        assert begun.wait(10)  # it was asked for by nobody yet
        going_on.set()
        assert ahead.take(1, 2) == 10
        assert ahead.take(2, None) == 20
    assert made == [0, 1, 2]


def test_another_batch_than_foreseen_is_made_anew() -> None:
    made = []
    with Ahead(lambda number: made.append(number) or number) as ahead:
        ahead.take(0, 1)
        assert ahead.take(5, 6) == 5
        assert ahead.take(6, None) == 6
    assert made == [0, 1, 5, 6]


def test_an_error_is_raised_where_the_batch_is_taken() -> None:
    def make(number: int) -> int:
        if number == 1:
            raise ValueError("no such batch")
        return number

    with Ahead(make) as ahead:
        assert ahead.take(0, 1) == 0
        with pytest.raises(ValueError, match="no such batch"):
            ahead.take(1, 2)
        assert ahead.take(2, None) == 2


def test_each_side_has_half_of_the_threads_until_it_is_left(four_threads: None) -> None:
    with Ahead(lambda _: torch.get_num_threads()) as ahead:
        assert torch.get_num_threads() == 2
        assert ahead.take(0, None) == 2
    assert torch.get_num_threads() == 4
