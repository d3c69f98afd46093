"""The survey of `examples/mock_survey.py` in the kinds of files that only tests need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mock_survey import CLASSES, FILTERS, UNIT, Field, Layout, Survey, rows_of, write_bands, write_catalog, write_fits


def write_mosaic(root: Path, made: Field, *, files: bool = False, layout: Layout = "extensions") -> tuple[Path, str]:
    """A mosaic, in one file or one a band, and `catalog.csv`. Returns the catalog, and what `@mosaic=` has to name."""
    if files:
        written = write_bands(root, made, layout)
    else:
        written = [write_fits(root / "field.fits", made.image_HWC, layout, made.header)]
    catalog = write_catalog(root / "catalog.csv", ("id", "ra", "dec", "label"), rows_of(made))
    return catalog, ",".join(map(str, written))


def write_stack(root: Path, made: Survey) -> tuple[Path, Path]:
    """All cutouts in one file, an extension (N, H, W) each band, and a catalog of labels in their order."""
    from astropy.io import fits

    hdus: list[Any] = [fits.PrimaryHDU()]
    for c, name in enumerate(FILTERS):
        hdus.append(fits.ImageHDU(np.ascontiguousarray(made.images_NHWC[:, :, :, c]), name=name))
        hdus[-1].header.update({"BUNIT": UNIT, "FILTER": name})
    root.mkdir(parents=True, exist_ok=True)
    fits.HDUList(hdus).writeto(root / "stack.fits", overwrite=True)
    rows = [(CLASSES[label],) for label in made.labels]
    return write_catalog(root / "labels.csv", ("label",), rows), root / "stack.fits"
