"""Whether float pixels, of any width, can be taken as float32, in which images are read; and pixels without a value."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def why_not_float32(image: NDArray[Any]) -> str | None:
    """Why no float32 holds the values of an image; None where it does.

    NaN is a pixel without a value. Whether such an image is taken is for the preprocessing to decide.

    Examples:
        >>> import numpy as np
        >>> why_not_float32(np.array([[0.5, 1e300]]))
        'it has values up to 1e+300, and float32 ends at 3.4e+38; scale the images'
    """
    if np.isinf(image).any():
        return f"{int((~np.isfinite(image)).sum())} of its {image.size} values are NaN or infinite"
    largest = np.fmax.reduce(np.abs(image), axis=None, initial=0) if image.dtype.itemsize > 4 else 0
    if largest > np.finfo(np.float32).max:
        return f"it has values up to {largest:.4g}, and float32 ends at 3.4e+38; scale the images"
    return None


def why_not_whole(image: NDArray[Any]) -> str | None:
    """Why an image is refused where each pixel needs a value; None where each has one.

    Examples:
        >>> import numpy as np
        >>> why_not_whole(np.array([[0.5, np.nan]]))
        '1 of its 2 values are NaN: fill them in, or train with --missing median'
    """
    if image.dtype.kind != "f" or not (missing := np.isnan(image)).any():
        return None
    return f"{int(missing.sum())} of its {image.size} values are NaN: fill them in, or train with --missing median"
