"""The structures that a network can have, as words of a config and of how it is asked."""

from __future__ import annotations

from typing import Any

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "CCCC": {"layout": "CCCC"},
    "CCTT": {"layout": "CCTT"},
    "CTTT": {"layout": "CTTT"},
    "TTTT": {"layout": "TTTT"},
    "TCTC": {"layout": "TCTC"},
    "hybrid": {"transformer": "hybrid", "head_width": 8},
    "hybrid CCTT, cbam, no bias": {
        "transformer": "hybrid",
        "layout": "CCTT",
        "channel_attention": "cbam",
        "relative_bias": False,
    },
    "hybrid anchor": {"transformer": "hybrid", "head_width": 4, "equivariance": "anchor"},
    "cbam": {"channel_attention": "cbam"},
    "no channel attention": {"channel_attention": "none"},
    "no relative bias": {"layout": "CCTT", "relative_bias": False},
    "regularized": {"stochastic_depth": 0.3, "head_dropout": 0.2},
    "hidden head": {"head_hidden": 40},
    "linear head": {"head_hidden": None},
    "other strides": {"strides": (1, 2, 1, 2, 2)},
    "frame": {"equivariance": "frame"},
    "centre": {"equivariance": "centre"},
    "anchor": {"equivariance": "anchor"},
    "input, cbam": {"equivariance": "input", "channel_attention": "cbam"},
    "four views": {"symmetry": "shift+d4"},
    "eight views": {"symmetry": "shift+d4", "views": 8},
    "mirror image": {"symmetry": "shift+mirror"},
}
"""Without the groups, which need widths that are multiples of their order."""
