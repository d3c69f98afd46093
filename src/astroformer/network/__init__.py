"""The network: its config, its variants, and how large it is. Needs torch alone."""

from __future__ import annotations

from astroformer.network.astroformer import Astroformer, create_network
from astroformer.network.config import VARIANTS, AstroformerConfig
from astroformer.network.counting import count_macs, count_parameters

__all__ = ["VARIANTS", "Astroformer", "AstroformerConfig", "count_macs", "count_parameters", "create_network"]
