"""`import astroformer.timm` registers every variant with timm.

Examples:
    >>> import timm
    >>> import astroformer.timm
    >>> timm.is_model("astroformer_atto")
    True
    >>> network = timm.create_model("astroformer_atto", num_classes=5, img_size=32)
"""

from __future__ import annotations

from astroformer.weights.timm_registry import create_model

__all__ = ["create_model"]
