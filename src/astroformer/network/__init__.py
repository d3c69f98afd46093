"""The network: its config, its variants, and how large it is. Needs torch alone."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from astroformer.network.config import VARIANTS, AstroformerConfig

if TYPE_CHECKING:
    from astroformer.network.astroformer import Astroformer, create_network
    from astroformer.network.counting import count_macs, count_parameters
    from astroformer.network.ensemble import Ensemble
    from astroformer.network.group import Tie

__all__ = [
    "VARIANTS",
    "Astroformer",
    "AstroformerConfig",
    "Ensemble",
    "Tie",
    "count_macs",
    "count_parameters",
    "create_network",
]

# Imported when they are asked for: the config needs no torch, and the command line needs no more than the config.
_PLACES = {
    "Astroformer": "astroformer",
    "Ensemble": "ensemble",
    "Tie": "group",
    "count_macs": "counting",
    "count_parameters": "counting",
    "create_network": "astroformer",
}


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module 'astroformer.network' has no attribute '{name}'")
    return getattr(importlib.import_module(f"astroformer.network.{_PLACES[name]}"), name)
