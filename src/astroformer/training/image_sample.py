"""What the rules see of the training images: a sample of them, each reduced to a few facts.

Shape letters: H and W pixels, C channels, R square rings of pixels around the middle, P parts of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from astroformer.allocator import keep_freed_memory
from astroformer.errors import UserError
from astroformer.images.floats import why_not_whole
from astroformer.images.labelled import LabelledImages
from astroformer.images.preprocessing import Missing
from astroformer.images.reading import UnreadableImage
from astroformer.system import usable_cores
from astroformer.training.defaults import CROP_CONTENT, LEAST_CROP

_SAMPLE_SIZE = 256  # enough for shapes, channels and where the frames vary; reading them takes about half a second
_GRID = 48  # px a side of the reduced frames that the crop is measured on
_LEAST_IMAGES = 8  # that a crop can be measured on
# How many times as much as outside images have to differ in the middle half of each side. With less, nothing is special
# about the middle, and images stay whole.
_LEAST_CONTRAST = 1.1
_LOOKED_AT = 64  # images in which repeated values are counted
# A value stands out where more than this share of an image has it, in more than this share of the images, and so many
# times as often as any value between the smallest and the largest.
_REPEATED, _OFTEN, _TIMES_OTHERS = 0.01, 0.05, 3


class SeenImage(NamedTuple):
    """What is kept of an image.

    Attributes:
        channels: number of them.
        grey: whether it is grey, whatever the number of channels.
        dtype: of its pixels.
        side: the shorter one, in px.
        reduced_HW: a grey frame of `_GRID`², see `reduce_image`.
    """

    channels: int
    grey: bool
    dtype: np.dtype[Any]
    side: int
    reduced_HW: NDArray[Any]


def sample_images(images: LabelledImages, device: str, missing: Missing = "refuse") -> list[SeenImage]:
    """Some of the images, evenly over the set.

    Args:
        images: to choose from.
        device: that trains.
        missing: what happens to pixels without a value, see `Preprocessing`.

    Raises:
        UserError: none of them can be read.
    """

    def see(i: int) -> SeenImage | UnreadableImage:
        try:
            image = images.read(i)
            if missing == "refuse" and (why := why_not_whole(image)) is not None:
                raise UnreadableImage(images.files[i], why)
            return _seen(image)
        except UnreadableImage as error:
            return error  # the store reports every unreadable file

    if device == "cpu":
        keep_freed_memory()  # as in training: images that come and go take the same pages
    chosen = np.unique(np.linspace(0, len(images) - 1, _SAMPLE_SIZE).astype(int)).tolist()
    with ThreadPoolExecutor(usable_cores()) as pool:
        seen = list(pool.map(see, chosen))
    sample = [image for image in seen if isinstance(image, SeenImage)]
    if not sample:
        first = next(error for error in seen if isinstance(error, UnreadableImage))
        raise UserError(f"none of {len(seen)} images of '{images.source}' can be read. The first, {first}")
    return sample


def common_channels(sample: Sequence[SeenImage]) -> int:
    """1 if all are grey, 3 for grey and colour, else the number that all have.

    Raises:
        UserError: their channels differ in a way that needs a decision.
    """
    found = {seen.channels for seen in sample}
    if found <= {1, 3}:
        return 1 if all(seen.grey for seen in sample) else 3
    if len(found) == 1:
        return found.pop()
    raise UserError(f"the images have different numbers of channels {sorted(found)}; set channels in the recipe.")


def describe_repeated(images: LabelledImages) -> list[str]:
    """What to say of images of floats in which many pixels have exactly the same value, 0, the smallest or the largest.

    Noise makes every value another, so these may be no measurements: -9999 where there was no detector, 0 where no
    exposure reached. Counts of a few photons repeat as well, but then all values do. Some images are looked at, evenly
    over the set; those that can't be read say nothing here.
    """

    def repeated(i: int) -> dict[float, float]:
        try:
            image = images.read(i)
        except UserError:
            return {}
        if image.dtype.kind != "f" or np.isnan(image).all():
            return {}
        values, counts = np.unique(image[~np.isnan(image)], return_counts=True)
        special = np.isin(values, (0, values[0], values[-1]))
        others = int(counts[~special].max(initial=0))
        special &= counts > max(_REPEATED * image.size, _TIMES_OTHERS * others)
        return dict(zip(values[special].tolist(), (counts[special] / image.size).tolist(), strict=True))

    chosen = np.unique(np.linspace(0, len(images) - 1, _LOOKED_AT).astype(int)).tolist()
    with ThreadPoolExecutor(usable_cores()) as pool:
        seen = list(pool.map(repeated, chosen))
    said = []
    for value in sorted({value for found in seen for value in found}):
        shares = [found[value] for found in seen if value in found]
        if len(shares) > max(1, _OFTEN * len(chosen)):
            said.append(
                f"in {len(shares):,} of {len(chosen):,} images that were looked at, {100 * np.mean(shares):.1f} % of "
                f"the values on average are exactly {value:g}. If these are no measurements, write NaN in their place, "
                f"or say @blank={np.float32(value)!s} of FITS files, so that --missing fills them"
            )
    return said


def measure_crop(reduced: list[NDArray[Any]]) -> float:
    """The central share of each side that cutouts are cropped to, from `LEAST_CROP` in steps of 0.05.

    It is √2 times the smallest share that holds `CROP_CONTENT` of what differs between images, so that what a source
    fills stays inside when it is turned. How much a pixel differs is its range between the 10th and the 90th percentile
    over the images: a neighbouring star in one of them counts for nothing. Photographs have the same range everywhere,
    which gives 1 and keeps them whole; a source in the middle of empty sky gives less.

    Args:
        reduced: grey frames of `_GRID`², see `reduce_image`.
    """
    if len(reduced) < _LEAST_IMAGES:
        return 1.0
    low_HW, high_HW = np.quantile(np.stack(reduced), [0.1, 0.9], axis=0)
    y, x = np.indices((_GRID, _GRID))
    centre = (_GRID - 1) / 2
    # The range is averaged over each square ring of pixels around the middle. Pixel by pixel it is noisy where images
    # are few, and the noise of a large empty sky adds up to more than a source.
    ring_HW = np.maximum(abs(y - centre), abs(x - centre)).astype(int)
    pixels_R = np.bincount(ring_HW.ravel())
    range_R = np.bincount(ring_HW.ravel(), (high_HW - low_HW).ravel()) / pixels_R
    inner, outer = _mean_of_parts(range_R, pixels_R, 2)
    if inner <= _LEAST_CONTRAST * outer:
        return 1.0
    # The quietest eighth of the rings shows the noise of the sky, which is the same everywhere. What exceeds it is
    # signal.
    signal_R = np.maximum(range_R - _mean_of_parts(range_R, pixels_R, 8).min(), 0) * pixels_R
    within_R = np.cumsum([0.0, *signal_R])
    share = np.interp(CROP_CONTENT * within_R[-1], within_R, np.linspace(0, 1, len(within_R)))
    return float(np.clip(math.ceil(20 * math.sqrt(2) * share) / 20, LEAST_CROP, 1.0))


def reduce_image(image: NDArray[Any]) -> NDArray[Any]:
    """(H, W, C) to a grey frame of `_GRID`²."""
    # Channel by channel: numpy's mean over a last axis of three takes four times as long.
    grey = sum((image[..., c].astype(np.float32) for c in range(image.shape[2])), np.float32(0)) / image.shape[2]
    return np.asarray(Image.fromarray(grey).resize((_GRID, _GRID), Image.Resampling.BOX))


def _seen(image: NDArray[Any]) -> SeenImage:
    channels = image.shape[2]
    if image.dtype.kind == "f" and (missing_HWC := np.isnan(image)).any():
        # Filled in with the median of all bands: here it is only about where images vary. Of no value at all: 0.
        middle = np.nanmedian(image) if not missing_HWC.all() else 0.0
        image = np.where(missing_HWC, np.float32(middle), image)
    first, *others = (image[..., c] for c in range(min(3, channels)))
    grey = channels == 1 or all(np.array_equal(first, other) for other in others)
    return SeenImage(channels, grey, image.dtype, min(image.shape[:2]), reduce_image(image))


def _mean_of_parts(value_R: NDArray[Any], pixels_R: NDArray[Any], parts: int) -> NDArray[Any]:
    """(P,) the means over the pixels of so many equal parts of the rings, from the middle outwards."""
    value_PR, pixels_PR = value_R.reshape(parts, -1), pixels_R.reshape(parts, -1)
    return (value_PR * pixels_PR).sum(1) / pixels_PR.sum(1)
