from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from astroformer.errors import UserError
from astroformer.images.sets import NAMED_SETS, NamedSet
from astroformer.images.sets.galaxy10_sdss import split_by_row
from astroformer.images.sources import open_source
from helpers.tiny_sets import hdf5, same_from_threads_and_pickled

pytest.importorskip("h5py")


def columns(n: int = 150) -> dict[str, Any]:
    images = np.random.default_rng(0).integers(0, 256, (n, 16, 16, 3), np.uint8)
    return {"images": images, "ans": (np.arange(n) % 10).astype(np.uint8)}


def test_galaxy10_sdss(served: Callable[..., NamedSet], tmp_path: Path) -> None:
    served("galaxy10-sdss", hdf5(tmp_path / "g.h5", columns()))
    parts = {name: open_source(f"galaxy10-sdss:{name}") for name in ("train", "test")}
    rows = {name: [int(file.rpartition("-")[2]) for file in images.files] for name, images in parts.items()}
    assert sorted(rows["train"] + rows["test"]) == list(range(150))
    assert parts["test"].counts() == dict.fromkeys(NAMED_SETS["galaxy10-sdss"].classes, 3)
    for name, images in parts.items():
        assert images.labels is not None
        assert images.labels.tolist() == columns()["ans"][rows[name]].tolist()
        for i, row in enumerate(rows[name]):
            np.testing.assert_array_equal(images.read(i), columns()["images"][row])
        same_from_threads_and_pickled(images)
    assert list(parts["test"].about["sha256"]) == ["Galaxy10.h5"]


def test_the_split_of_the_whole_set_is_as_declared() -> None:
    labels = np.random.default_rng(1).integers(0, 10, 21_785)
    labels[labels == 5] = 1
    labels[:17] = 5
    parts = split_by_row(labels)
    assert {name: len(part) for name, part in parts.items()} == NAMED_SETS["galaxy10-sdss"].images
    assert abs(np.bincount(labels[parts["test"]]) - np.bincount(labels) / 5).max() <= 1
    assert not set(parts["train"]) & set(parts["test"])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"ans": None}, "is damaged.*ans"),
        ({"ans": np.zeros(9, np.uint8)}, "150 values of each column are needed"),
        ({"images": np.zeros((150, 16, 16), np.uint8)}, r"'images' is \(150, 16, 16\) of uint8"),
        ({"ans": np.full(150, 10)}, "labels are 10 to 10, of 10 classes"),
    ],
)
def test_damaged_galaxy10_sdss(
    served: Callable[..., NamedSet], tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    changed = {name: values for name, values in {**columns(), **change}.items() if values is not None}
    served("galaxy10-sdss", hdf5(tmp_path / "g.h5", changed))
    with pytest.raises(UserError, match=sentence):
        open_source("galaxy10-sdss:train")
