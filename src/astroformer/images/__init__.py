"""Images: what reads them, sources of labelled images, preprocessing, splits and the store of decoded images."""

from __future__ import annotations

from astroformer.images.labelled import LabelledImages, SetRecord
from astroformer.images.preprocessing import Preprocessing, measure_statistics
from astroformer.images.reading import UnreadableImage, read_image
from astroformer.images.sets import NAMED_SETS
from astroformer.images.sources import open_source
from astroformer.images.splits import holdout, kfold, read_split, write_split
from astroformer.images.store import ImageStore

__all__ = [
    "NAMED_SETS",
    "ImageStore",
    "LabelledImages",
    "Preprocessing",
    "SetRecord",
    "UnreadableImage",
    "holdout",
    "kfold",
    "measure_statistics",
    "open_source",
    "read_image",
    "read_split",
    "write_split",
]
