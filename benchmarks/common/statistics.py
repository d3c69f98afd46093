"""Means, intervals and differences: 95 % by Student's t, and nothing is claimed of fewer than three values."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}  # Student's t, by n


def interval(values: np.ndarray) -> float | None:
    """Half of the 95 % interval of the mean, by Student's t; None for fewer than three, which bound nothing."""
    n = len(values)
    return T_95[min(n, max(T_95))] * float(values.std(ddof=1)) / math.sqrt(n) if n > 2 else None


def shown(values: np.ndarray, digits: int = 1) -> str:
    """Mean ± standard deviation (95 % interval of the mean)."""
    text = f"{values.mean():.{digits}f}"
    if len(values) > 1:
        text += f" ± {values.std(ddof=1):.{digits}f}"
    reach = interval(values)
    return (
        text if reach is None else f"{text} ({values.mean() - reach:.{digits}f} to {values.mean() + reach:.{digits}f})"
    )


def difference(off: np.ndarray, digits: int = 1) -> str:
    """Mean of differences, and its 95 % interval from three on."""
    if not len(off):
        return "–"
    reach = interval(off)
    return f"{off.mean():+.{digits}f}" + (
        "" if reach is None else f" ({off.mean() - reach:+.{digits}f} to {off.mean() + reach:+.{digits}f})"
    )


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Mean ± standard deviation."""
    more = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{more}"
