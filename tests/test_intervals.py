from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from astroformer.intervals import bootstrapped, drawn, share_interval, share_limits


def test_groups_are_drawn_as_wholes() -> None:
    groups_N = np.array([5, 5, 2, 9, 9, 9])
    for times_N in drawn(6, groups_N, resamples=50):
        assert times_N[0] == times_N[1]
        assert times_N[3] == times_N[4] == times_N[5]
        assert times_N[0] + times_N[2] + times_N[3] == 3
    totals = np.array([times_N[0] for times_N in drawn(6, groups_N, resamples=3000)])
    assert totals.mean() == pytest.approx(1, abs=0.06)


def test_a_bootstrapped_mean_has_the_interval_of_its_standard_error() -> None:
    values_N = np.random.default_rng(0).normal(size=2000)
    mean = bootstrapped({"mean": lambda times_N: times_N @ values_N / times_N.sum()}, 2000)["mean"]
    assert mean.value == pytest.approx(values_N.mean())
    half = 1.96 * values_N.std() / np.sqrt(2000)
    assert (mean.low, mean.high) == pytest.approx((mean.value - half, mean.value + half), abs=0.1 * half)


def test_resamples_without_a_figure_count_for_nothing() -> None:
    first = bootstrapped({"first": lambda times_N: 1.0 if times_N[0] else float("nan")}, 3, resamples=50)["first"]
    assert (first.low, first.high) == (1, 1)
    never = bootstrapped({"never": lambda times_N: float("nan")}, 3, resamples=5)["never"]
    assert np.isnan([never.value, never.low, never.high]).all()


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (1, 1), (0, 5), (5, 5), (3, 7), (870, 1000)])
def test_the_interval_of_a_share_is_wilsons(hits: int, n: int) -> None:
    reference = binomtest(hits, n).proportion_ci(method="wilson")
    found = share_interval(hits, n)
    assert (found.value, found.low, found.high) == pytest.approx((hits / n, reference.low, reference.high), abs=1e-12)
    copies = share_interval(4 * hits, 4 * n, np.repeat(np.arange(n), 4))
    assert (copies.low, copies.high) == pytest.approx((found.low, found.high), abs=1e-12)


def test_many_shares_at_once_are_each_alone() -> None:
    hits_T, n_T = np.array([0, 3, 7, 0]), np.array([4, 9, 7, 0])
    low_T, high_T = share_limits(hits_T, n_T)
    for hits, n, low, high in zip(hits_T[:3], n_T[:3], low_T, high_T, strict=False):
        found = share_interval(int(hits), int(n))
        assert (low, high) == pytest.approx((found.low, found.high), abs=1e-12)
    assert (low_T[3], high_T[3]) == (0, 1)
