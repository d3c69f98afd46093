"""The views of an image under quarter turns and flips.

Legend: B images, C channels, H and W rows and columns.
"""

from __future__ import annotations

from torch import Tensor


def d4_views(x_BCHW: Tensor) -> list[Tensor]:
    """The eight views of square images under quarter turns and flips (the group D4), the image itself first."""
    turned = [x_BCHW.rot90(k, (2, 3)) for k in range(4)]
    return turned + [view.flip(3) for view in turned]
