"""What images are read from: one module a format, with its opener and its readers.

To add a format, write a module beside these that ends with a `Format`, and list it in `FORMATS`.
"""

from __future__ import annotations

from astroformer.images.formats.catalogs import CATALOG
from astroformer.images.formats.folders import CLASS_FOLDERS, IMAGE_FILE
from astroformer.images.formats.format import Format
from astroformer.images.formats.hdf5 import HDF5
from astroformer.images.formats.npz import NPZ
from astroformer.images.formats.zarr import ZARR

FORMATS: tuple[Format, ...] = (ZARR, CLASS_FOLDERS, NPZ, HDF5, CATALOG, IMAGE_FILE)
"""All formats. The first one that takes a path opens it, so a format that is a folder goes before `CLASS_FOLDERS`."""

__all__ = ["FORMATS", "Format"]
