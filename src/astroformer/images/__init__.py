"""Images: reading files, sources of labelled images, preprocessing, splits, the store, mock galaxies."""

from __future__ import annotations

from astroformer.images.preprocessing import Preprocessing, measure_statistics
from astroformer.images.reading import UnreadableImage, read_image
from astroformer.images.sources import LabelledImages, open_source
from astroformer.images.splits import holdout, kfold, read_split, write_split
from astroformer.images.store import ImageStore

__all__ = [
    "ImageStore",
    "LabelledImages",
    "Preprocessing",
    "UnreadableImage",
    "holdout",
    "kfold",
    "measure_statistics",
    "open_source",
    "read_image",
    "read_split",
    "write_split",
]
