"""Images: what reads them, sources of labelled images, preprocessing, splits and the store of decoded images."""

from __future__ import annotations

import importlib

TYPE_CHECKING = False
if TYPE_CHECKING:
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

# Where each name lies. It is imported when it is asked for, so that a source that is not there is refused before torch
# is imported, which preprocessing needs.
_PLACES = {
    "NAMED_SETS": "sets",
    "ImageStore": "store",
    "LabelledImages": "labelled",
    "Preprocessing": "preprocessing",
    "SetRecord": "labelled",
    "UnreadableImage": "reading",
    "holdout": "splits",
    "kfold": "splits",
    "measure_statistics": "preprocessing",
    "open_source": "sources",
    "read_image": "reading",
    "read_split": "splits",
    "write_split": "splits",
}


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module 'astroformer.images' has no attribute '{name}'")
    return getattr(importlib.import_module(f"astroformer.images.{_PLACES[name]}"), name)
