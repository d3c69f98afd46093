"""The network: its config, its variants, how it is asked, and how large it is. Nothing here imports more than torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from astroformer.network.config import VARIANTS, AnswersConfig, AstroformerConfig

if TYPE_CHECKING:
    from astroformer.network.answers import Answers, create_answers
    from astroformer.network.astroformer import Astroformer, create_network
    from astroformer.network.counting import count_macs, count_parameters
    from astroformer.network.ensemble import Ensemble
    from astroformer.network.group import Tie

__all__ = [
    "VARIANTS",
    "Answers",
    "AnswersConfig",
    "Astroformer",
    "AstroformerConfig",
    "Ensemble",
    "Tie",
    "count_macs",
    "count_parameters",
    "create_answers",
    "create_network",
]

# These are imported when they are asked for: the configs need no torch, and the command line needs no more than them.
_PLACES = {
    "Answers": "answers",
    "Astroformer": "astroformer",
    "Ensemble": "ensemble",
    "Tie": "group",
    "count_macs": "counting",
    "count_parameters": "counting",
    "create_answers": "answers",
    "create_network": "astroformer",
}


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module 'astroformer.network' has no attribute '{name}'")
    return getattr(importlib.import_module(f"astroformer.network.{_PLACES[name]}"), name)
