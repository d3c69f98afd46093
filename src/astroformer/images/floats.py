"""Whether float pixels, of any width, can be taken as float32, in which images are read."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def why_not_float32(image: NDArray[Any]) -> str | None:
    """Why no float32 holds the values of an image; None where it does.

    Example:
        >>> import numpy as np
        >>> why_not_float32(np.array([[0.5, 1e300]]))
        'it has values up to 1e+300, and float32 ends at 3.4e+38; scale the images'
    """
    finite = np.isfinite(image)
    if not finite.all():
        return f"{int((~finite).sum())} of its {image.size} values are NaN or infinite"
    if image.dtype.itemsize > 4 and (largest := np.abs(image).max(initial=0)) > np.finfo(np.float32).max:
        return f"it has values up to {largest:.4g}, and float32 ends at 3.4e+38; scale the images"
    return None
