"""Weights from and for elsewhere: timm's registry, timm's `MaxxVit`, the released checkpoints."""

from __future__ import annotations

from astroformer.weights.adapters import from_maxxvit, from_released, maxxvit_reference, to_maxxvit
from astroformer.weights.timm_registry import create_model

__all__ = ["create_model", "from_maxxvit", "from_released", "maxxvit_reference", "to_maxxvit"]
