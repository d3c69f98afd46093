"""EuroSAT, with all of its bands."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar
from zipfile import BadZipFile, ZipFile

import numpy as np

from astroformer.images.bands import Bands
from astroformer.images.reading import Array
from astroformer.images.sets.declared import Content, NamedSet, damaged
from astroformer.images.sets.download import Resource
from astroformer.images.sets.zipped import ZipReader

_PLACE = "https://hf.co/datasets/torchgeo/eurosat/resolve/1ce6f1bfb56db63fd91b6ecc466ea67f2509774c"


class EuroSat(NamedSet):
    """27,000 cutouts of Sentinel-2 images of land, of 64 × 64 pixels and 13 bands, in ten classes of its use.

    They lie as TIFF files, uint16, in a zip, in a folder for each class. A list of files says which are in a part.
    """

    name = "eurosat"
    title = "EuroSAT, 13 bands"
    # MD5 of all four: torchgeo (torchgeo/datasets/eurosat.py), whose copy at this revision it is. Sizes: that copy's
    # page, in three digits; of the list of `val`, which it cuts off, what the names take.
    resources = (
        Resource(
            "EuroSATallBands.zip",
            (f"{_PLACE}/EuroSATallBands.zip",),
            2_070_000_000,
            md5="5ac12b3b2557aa56e1826e981e8e200e",
            exact=False,
        ),
        Resource(
            "eurosat-train.txt",
            (f"{_PLACE}/eurosat-train.txt",),
            314_000,
            md5="908f142e73d6acdf3f482c5e80d851b1",
            exact=False,
        ),
        Resource(
            "eurosat-val.txt",
            (f"{_PLACE}/eurosat-val.txt",),
            104_000,
            md5="95de90f2aa998f70a3b2416bfe0687b4",
            exact=False,
        ),
        Resource(
            "eurosat-test.txt",
            (f"{_PLACE}/eurosat-test.txt",),
            104_000,
            md5="7ae5ab94471417b6e315763121e67c5f",
            exact=False,
        ),
    )
    licence = "MIT"  # of its homepage, and of torchgeo's copy
    citation = (
        "P. Helber, B. Bischke, A. Dengel, D. Borth, EuroSAT: A Novel Dataset and Deep Learning Benchmark for Land Use "
        "and Land Cover Classification, IEEE J. Sel. Top. Appl. Earth Obs. Remote Sens., 2019, "
        "doi:10.1109/JSTARS.2019.2918242; split: M. Neumann et al., arXiv 1911.06721"
    )
    homepage = "https://github.com/phelber/EuroSAT"
    classes = (
        "AnnualCrop",
        "Forest",
        "HerbaceousVegetation",
        "Highway",
        "Industrial",
        "Pasture",
        "PermanentCrop",
        "Residential",
        "River",
        "SeaLake",
    )
    number_of_classes = 10
    # In the order of the files, which have the narrow infrared band last: torchgeo, whose means of the bands agree (12
    # for B10, which sees hardly any land). Nobody states a unit.
    bands = Bands(("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A"))
    # Those of timm/eurosat-rgb (Hugging Face), which has this split; the sizes of torchgeo's lists agree.
    images: ClassVar[Mapping[str, int]] = {"train": 16_200, "val": 5_400, "test": 5_400}
    split = "that of arXiv 1911.06721, as torchgeo publishes it"

    def read(self, files: Sequence[Path], part: str, digest: str) -> Content:
        archive = files[0]
        listed = next(file for file in files if file.name == f"eurosat-{part}.txt")
        try:
            with ZipFile(archive) as zipped:
                members = {Path(name).stem: name for name in zipped.namelist() if name.endswith(".tif")}
            wanted = [Path(line.strip()).stem for line in listed.read_text("utf-8").splitlines() if line.strip()]
        except (BadZipFile, UnicodeDecodeError, zlib.error, EOFError) as error:
            raise damaged(archive if not isinstance(error, UnicodeDecodeError) else listed, str(error)) from None
        missing = [stem for stem in wanted if stem not in members]
        if missing or not wanted:
            raise damaged(archive, f"{missing[0] if missing else 'any image of the part'} is not in it")
        named = [Path(members[stem]).parent.name for stem in wanted]
        strange = sorted(set(named) - set(self.classes))
        if strange:
            raise damaged(archive, f"'{strange[0]}' is none of its classes")
        labels = np.array([self.classes.index(name) for name in named], np.int64)
        names = [f"{name}/{stem}.tif" for name, stem in zip(named, wanted, strict=True)]
        reader = ZipReader(archive, "", tuple(members[stem] for stem in wanted), digest)
        return Content(reader, labels, self.classes, names)

    def picture(self, image: Array) -> Array:
        """Red, green and blue (B04, B03, B02), of which 2,750 is white, as its homepage makes pictures."""
        visible: Array = (image[..., [3, 2, 1]] * (255 / 2750)).clip(0, 255).astype(np.uint8)
        return visible
