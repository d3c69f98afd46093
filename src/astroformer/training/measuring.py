"""What is measured of the images to train on before they are decoded: how they are scaled, and the range of their
values. Validation images enter nowhere here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from astroformer.errors import UserError
from astroformer.images.labelled import LabelledImages
from astroformer.images.preprocessing import Preprocessing
from astroformer.images.reading import Array
from astroformer.images.scaling import levelled, measured_scaling
from astroformer.images.stated import Stated
from astroformer.images.units import Units, measured
from astroformer.system import usable_cores
from astroformer.training.recipe import Recipe

_MEASURED = 512  # images that are looked at, evenly over the set
_AT_ONCE = 32  # of them in memory


def preprocessing_of(
    recipe: Recipe,
    images: LabelledImages,
    initial: Preprocessing | None = None,
    say: Callable[[str], object] | None = None,
) -> Preprocessing:
    """What decoding depends on; mean and deviation follow from the decoded store.

    Args:
        recipe: a decided one.
        images: those to train on, of which some are read where their values are scaled.
        initial: that of a model which the run starts from, whose scaling stays as it was measured.
        say: is given a sentence where the images do not suit the scaling.

    Raises:
        UserError: none of the images that are read can be taken.
    """
    preprocessing = unmeasured(recipe, images, initial)
    kind, storage = recipe.scaling, recipe.storage
    if kind is None or kind == "none":
        return preprocessing
    assert storage is not None, "the recipe is not decided"
    ends: list[Array] = []

    def frames() -> Iterator[Array]:
        for frame_CHW in (levelled(kind, frame_CHW) for frame_CHW in _some_of(images, preprocessing)):
            ends.append(np.array([frame_CHW.min(), frame_CHW.max()]))
            yield frame_CHW

    if initial is not None and initial.scaling is not None:
        scaling = initial.scaling
        for _ in frames():  # for the range of their values
            pass
    else:
        scaling = measured_scaling(kind, frames(), say)
    units = preprocessing.units
    if units is not None and units.pixels != "uint8":
        units = measured(units, ends)
    return replace(preprocessing, scaling=scaling, dtype=storage, units=units)


def unmeasured(recipe: Recipe, images: LabelledImages, initial: Preprocessing | None = None) -> Preprocessing:
    """The same before anything is measured: without a scaling, and in float32 where there is to be one.

    Args:
        recipe: a decided one.
        images: those to train on, of which none is read.
        initial: that of a model which the run starts from; its bands are those of images that say nothing of theirs.
    """
    crop, channels, storage = recipe.crop, recipe.channels, recipe.storage
    assert crop is not None, "the recipe is not decided"
    assert channels is not None, "the recipe is not decided"
    assert storage is not None, "the recipe is not decided"
    units = None if recipe.pixels is None else Units(recipe.pixels, recipe.white)  # None in runs of before
    bands, stated = images.bands, images.stated
    if initial is not None:
        bands, stated = bands or initial.bands, stated if stated != Stated() else initial.stated or stated
    return Preprocessing(
        recipe.sides,
        channels,
        crop,
        recipe.fit,
        dtype=storage if recipe.scaling in (None, "none") else "float32",
        units=units,
        missing=recipe.missing or "refuse",
        bands=bands if bands is not None and len(bands) == channels else None,
        stated=None if bands is None and stated == Stated() else stated,
    )


def _some_of(images: LabelledImages, preprocessing: Preprocessing) -> Iterator[Array]:
    """Up to so many of the images, as they are before they are scaled; those that can't be taken are left out."""
    chosen = np.unique(np.linspace(0, len(images) - 1, _MEASURED).astype(int)).tolist()
    refused: list[str] = []

    def read(i: int) -> Array | UserError:
        try:
            return preprocessing.unscaled(images.read(i))
        except UserError as error:
            return error  # the store lists every one of them

    with ThreadPoolExecutor(usable_cores()) as pool:
        for start in range(0, len(chosen), _AT_ONCE):
            some = chosen[start : start + _AT_ONCE]
            for i, frame_CHW in zip(some, pool.map(read, some), strict=True):
                if isinstance(frame_CHW, UserError):
                    refused.append(f"{images.files[i]}: {frame_CHW}")
                else:
                    yield frame_CHW
    if len(refused) == len(chosen):
        raise UserError(f"none of {len(chosen)} images of '{images.source}' can be taken. The first: {refused[0]}")
