"""What a report shows of the images themselves: small pictures, and how bright and how wide each one is.

Shape letters: N images, C bands, H and W pixels.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from astroformer.errors import UserError
from astroformer.images.contact_sheet import visible
from astroformer.images.labelled import LabelledImages
from astroformer.system import usable_cores
from astroformer.threads import in_threads, pieces

if TYPE_CHECKING:
    from astroformer.classifier import Classifier

Array = NDArray[Any]
SIDE = 96  # px, the longer side of a picture at most
MOST_PICTURES = 3000
_MOST_BYTES = 9_000_000  # of all pictures as text
_QUALITY = 75  # of WebP
_AT_ONCE = 16  # images that a thread looks at


@dataclass(frozen=True)
class Seen:
    """What was seen of N images.

    Attributes:
        brightness: the mean of the pixels as the network gets them, over all bands; of whole numbers as a share of
            white. NaN of an image that can't be read any more.
        radius: of the circle around the centre of the light that holds half of it, in px as the network gets them.
            Light is what lies above the median of the pixels; NaN where there is none.
        pictures: by position, a picture as the text of a `data:` address.
        said: how bands are shown, where that is not just as they are.
    """

    brightness: list[float]
    radius: list[float]
    pictures: dict[int, str]
    said: str | None


class _One(NamedTuple):
    brightness: float
    radius: float
    small_CHW: Array | None


def look(
    classifier: Classifier,
    images: LabelledImages,
    wanted: Sequence[int],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Seen:
    """Looks at each image as the network sees it, and makes pictures of some.

    Args:
        classifier: the model.
        images: that it was asked about.
        wanted: positions of those to make pictures of, the most important ones first; at most `MOST_PICTURES` are made,
            and fewer where they would take more than 9 MB.
        progress: called with (images done, images in all).
    """
    pictured = set(wanted[:MOST_PICTURES])

    def task(start: int, stop: int) -> list[_One]:
        found = []
        for i in range(start, stop):
            try:
                x_CHW = classifier.preprocessing.apply(images.read(i), classifier.white)
            except UserError:  # it was not predicted either, or has changed since
                found.append(_One(np.nan, np.nan, None))
                continue
            found.append(_One(_brightness(x_CHW), half_light_radius(x_CHW), _small(x_CHW) if i in pictured else None))
        return found

    bounds = pieces(len(images), _AT_ONCE, _AT_ONCE)
    seen: list[_One] = []
    for part in in_threads(task, bounds, usable_cores()):
        seen += part
        if progress is not None:
            progress(len(seen), len(images))
    small = {i: one for i in wanted[:MOST_PICTURES] if (one := seen[i].small_CHW) is not None}
    shown, said = visible(list(small.values()), classifier.preprocessing.bands, classifier.preprocessing.scaling)
    pictures, total = dict[int, str](), 0
    for i, pixels in zip(small, shown, strict=True):
        address = _address(pixels)
        total += len(address)
        if total > _MOST_BYTES:
            break
        pictures[i] = address
    return Seen([one.brightness for one in seen], [one.radius for one in seen], pictures, said)


def half_light_radius(image_CHW: Array) -> float:
    """The radius of the circle around the centre of the light that holds half of it, in px; NaN without any light.

    Light is the mean over the bands less its median over the pixels, where that is above 0.

    Examples:
        >>> y, x = np.mgrid[-20:21, -20:21]
        >>> round(half_light_radius((np.hypot(x, y) <= 10).astype(float)[None]), 1)  # of a disc: 10 / √2
        7.1
    """
    light_HW = image_CHW.astype(np.float64).mean(0)
    light_HW = np.maximum(light_HW - np.median(light_HW), 0)
    total = light_HW.sum()
    if not total > 0 or not np.isfinite(total):
        return float("nan")
    rows_H1, columns_1W = np.arange(light_HW.shape[0])[:, None], np.arange(light_HW.shape[1])[None]
    row, column = (light_HW * rows_H1).sum() / total, (light_HW * columns_1W).sum() / total
    distance_P = np.hypot(rows_H1 - row, columns_1W - column).ravel()
    order_P = np.argsort(distance_P, kind="stable")
    inside_P = np.cumsum(light_HW.ravel()[order_P])
    return float(distance_P[order_P[np.searchsorted(inside_P, total / 2)]])


def _brightness(image_CHW: Array) -> float:
    mean = float(image_CHW.astype(np.float64).mean())
    return mean / 255 if image_CHW.dtype == np.uint8 else mean


def _small(image_CHW: Array) -> Array:
    """An image whose longer side is at most `SIDE`: means of squares of pixels, and of floats float32."""
    step = -(-max(image_CHW.shape[1:]) // SIDE)
    if step == 1:
        return image_CHW
    c, h, w = image_CHW.shape
    cut = image_CHW[:, : h // step * step or h, : w // step * step or w].astype(np.float32)
    rows, columns = max(1, h // step), max(1, w // step)
    small = cut.reshape(c, rows, -1, columns, cut.shape[2] // columns).mean((2, 4))
    return np.rint(small).astype(np.uint8) if image_CHW.dtype == np.uint8 else small


def _address(pixels: Array) -> str:
    """A picture as the text of a `data:` address, WebP."""
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "WEBP", quality=_QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(written.getvalue()).decode('ascii')}"
