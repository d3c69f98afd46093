from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from astroformer.errors import UserError
from astroformer.images.sets import NAMED_SETS, NamedSet
from astroformer.images.sources import open_source
from helpers.encoded import tiff
from helpers.serving import Server
from helpers.tiny_sets import same_from_threads_and_pickled, zipped

FOLDER = "ds/images/remote_sensing/otherDatasets/sentinel_2/tif/"
CLASSES = NAMED_SETS["eurosat"].classes
PIXELS = np.random.default_rng(0).integers(0, 4000, (20, 8, 8, 13), np.uint16)


def files(*more: str) -> list[bytes]:
    """A zip with two images of each class, of which one is in `train` and one in `test`; the lists name JPEGs."""
    members = {
        f"{name}/{name}_{i}.tif": tiff(PIXELS[2 * k + i], t262=1) for k, name in enumerate(CLASSES) for i in (0, 1)
    }
    lists = {
        "train": [f"{name}_0.jpg" for name in CLASSES] + list(more),
        "val": ["Forest_1.jpg"],
        "test": [f"{name}_1.jpg" for name in reversed(CLASSES)],
    }
    return [zipped(members, FOLDER), *("\n".join(names).encode() + b"\n" for names in lists.values())]


def test_eurosat(served: Callable[..., NamedSet]) -> None:
    served("eurosat", *files())
    train, test = (open_source(f"eurosat:{part}") for part in ("train", "test"))
    assert train.counts() == test.counts() == dict.fromkeys(CLASSES, 1)
    assert train.bands is not None
    assert (len(train.bands), train.bands.names[8], train.bands.names[12]) == (13, "B09", "B8A")
    assert test.files[0] == "SeaLake/SeaLake_1.tif"
    for i in range(10):
        np.testing.assert_array_equal(train.read(i), PIXELS[2 * i])
        np.testing.assert_array_equal(test.read(i), PIXELS[19 - 2 * i])
    same_from_threads_and_pickled(train)
    assert open_source("eurosat:val", labelled=False).files == ["Forest/Forest_1.tif"]
    # Its publisher gives MD5; the record has the SHA-256 that we have found as well.
    assert sorted(train.about["sha256"]) == [
        "EuroSATallBands.zip",
        *(f"eurosat-{p}.txt" for p in ("test", "train", "val")),
    ]
    assert all(len(sha256) == 64 for sha256 in train.about["sha256"].values())


def test_the_parts_are_as_large_as_their_lists() -> None:
    """27,000 names take 522,430 bytes (`Forest_1.jpg` and so on, 2,000 to 3,000 of each class)."""
    declared = NAMED_SETS["eurosat"]
    sizes = {resource.name: resource.size for resource in declared.resources}
    assert sum(declared.images.values()) == 27_000
    for part, n in declared.images.items():
        assert sizes[f"eurosat-{part}.txt"] == pytest.approx(522_430 * n / 27_000, rel=0.01)


def test_a_picture_shows_the_visible_bands(served: Callable[..., NamedSet], tmp_path: Path) -> None:
    served("eurosat", *files()).plot(tmp_path / "eurosat.png")
    shown = NAMED_SETS["eurosat"].picture(PIXELS[0])
    assert shown.dtype == np.uint8
    assert shown[0, 0, 0] == min(255, int(PIXELS[0, 0, 0, 3]) * 255 // 2750)
    with Image.open(tmp_path / "eurosat.png") as picture:
        seen = {tuple(pixel) for pixel in np.asarray(picture.convert("RGB")).reshape(-1, 3)}
    assert seen >= {tuple(pixel) for pixel in shown.reshape(-1, 3)}


def test_damaged_eurosat(served: Callable[..., NamedSet]) -> None:
    for given, sentence in (
        (files("Forest_7.jpg"), "Forest_7 is not in it"),
        ([files()[0], b"\n", *files()[2:]], "any image of the part is not in it"),
        ([files()[0][:500], *files()[1:]], "EuroSATallBands.zip' is damaged"),
        ([zipped({"Moon/Forest_0.tif": b""}, FOLDER), b"Forest_0.jpg", *files()[2:]], "'Moon' is none of its classes"),
        ([files()[0], b"\xff\xfe", *files()[2:]], "eurosat-train.txt' is damaged"),
    ):
        declared = served("eurosat", *given)
        for file in declared.folder().glob("*"):
            file.unlink()
        with pytest.raises(UserError, match=sentence):
            open_source("eurosat:train")


def test_a_file_of_another_md5_is_refused(served: Callable[..., NamedSet], server: Server) -> None:
    declared = served("eurosat", *files())
    server.answers["/eurosat-val.txt"].body = b"Forest_0.jpg\n"  # as long as it should be
    with pytest.raises(UserError, match=r"eurosat-val.txt can't be downloaded: .* another file, its MD5 is .*, not"):
        open_source("eurosat:train")
    assert not (declared.folder() / "eurosat-val.txt").exists()
