from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from astroformer.errors import UserError
from astroformer.images.preprocessing import Preprocessing
from astroformer.images.sets import NAMED_SETS, NamedSet
from astroformer.images.sets.galaxy10_decals import split_by_position
from astroformer.images.sky_groups import friends_of_friends
from astroformer.images.sources import open_source
from astroformer.images.splits import holdout, kfold
from astroformer.images.store import ImageStore
from helpers.serving import Server
from helpers.tiny_sets import (
    galaxy10_columns,
    hdf5,
    same_from_threads_and_pickled,
)

needs_h5py = pytest.mark.skipif(importlib.util.find_spec("h5py") is None, reason="needs h5py, of the extra [astro]")
RNG = np.random.default_rng(3)
# Galaxy10 DECaLS as its authors count it.
COUNTS = (1081, 1853, 2645, 2027, 334, 2043, 1829, 2628, 1423, 1873)


@needs_h5py
def test_galaxy10_decals(served: Callable[..., NamedSet], tmp_path: Path) -> None:
    columns = galaxy10_columns()
    served("galaxy10-decals", hdf5(tmp_path / "g.h5", columns))
    parts = {name: open_source(f"galaxy10-decals:{name}") for name in ("train", "test")}
    rows = {name: [int(file.rpartition("-")[2]) for file in images.files] for name, images in parts.items()}
    assert sorted(rows["train"] + rows["test"]) == list(range(200))
    assert len(rows["test"]) == 40
    side = {row: name for name, of_part in rows.items() for row in of_part}
    assert all(side[i] == side[i + 1] for i in range(0, 40, 2))  # across 0° and 360°
    for name, images in parts.items():
        assert images.labels is not None
        assert images.labels.tolist() == columns["ans"][rows[name]].tolist()
        for i, row in enumerate(rows[name]):
            np.testing.assert_array_equal(images.read(i), columns["images"][row])
        same_from_threads_and_pickled(images)
    train = parts["train"]
    assert train.groups is not None
    assert train.labels is not None
    some = train.subset(np.arange(0, len(train), 2))
    assert some.groups is not None
    assert some.groups.tolist() == train.groups[::2].tolist()
    splits = [holdout(train.labels, 0.2, 0, groups=train.groups), *kfold(train.labels, 3, 0, groups=train.groups)]
    for kept, held in splits:
        assert not set(train.groups[kept]) & set(train.groups[held])
    store = ImageStore.build(train, Preprocessing((16, 16), 3), cache=tmp_path / "store")
    np.testing.assert_array_equal(store.array[5], columns["images"][rows["train"][5]].transpose(2, 0, 1))


@needs_h5py
def test_galaxies_without_a_place_stand_alone(served: Callable[..., NamedSet], tmp_path: Path) -> None:
    columns = galaxy10_columns()
    columns["ra"][:4], columns["pxscale"][4:8] = np.nan, 0
    served("galaxy10-decals", hdf5(tmp_path / "g.h5", columns))
    groups = [open_source(f"galaxy10-decals:{part}").groups for part in ("train", "test")]
    sizes = np.unique(np.concatenate([group for group in groups if group is not None]), return_counts=True)[1]
    assert sorted(sizes)[-17:] == [1] + [2] * 16


@needs_h5py
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"ans": None}, "is damaged.*ans"),
        ({"ra": np.zeros(9)}, "200 values of each column are needed"),
        ({"images": np.zeros((200, 16, 16), np.uint8)}, r"'images' is \(200, 16, 16\) of uint8"),
        ({"images": np.zeros((200, 16, 16, 3), np.float32)}, "of float32"),
        ({"ans": np.full(200, 10)}, "labels are 10 to 10, of 10 classes"),
    ],
)
def test_damaged_galaxy10(
    served: Callable[..., NamedSet], tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    columns = {name: values for name, values in {**galaxy10_columns(), **change}.items() if values is not None}
    served("galaxy10-decals", hdf5(tmp_path / "g.h5", columns))
    with pytest.raises(UserError, match=sentence):
        open_source("galaxy10-decals:train")


@needs_h5py
def test_truncated_galaxy10(served: Callable[..., NamedSet], tmp_path: Path) -> None:
    served("galaxy10-decals", hdf5(tmp_path / "g.h5", galaxy10_columns())[:5000])
    with pytest.raises(UserError, match="is damaged"):
        open_source("galaxy10-decals:train")


def test_without_h5py_the_extra_is_named_before_the_download(
    served: Callable[..., NamedSet], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    served("galaxy10-decals", b"never asked for")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs the extra \[astro\]; in a clone"):
        open_source("galaxy10-decals:train")
    assert server.asked == []


# The split, on a made-up sky with the set's numbers


def galaxy10_sky() -> tuple[np.ndarray, ...]:
    labels = RNG.permutation(np.repeat(np.arange(10), COUNTS))
    n = len(labels)
    ra, dec = RNG.uniform(0, 360, n), np.degrees(np.arcsin(RNG.uniform(-0.3, 0.55, n)))
    pairs = RNG.permutation(n)[:600].reshape(-1, 2)
    ra[pairs[:, 1]], dec[pairs[:, 1]] = ra[pairs[:, 0]], np.clip(dec[pairs[:, 0]] + 30 / 3600, -90, 90)
    return labels, ra, dec, friends_of_friends(ra, dec, 256 * 0.262)


def test_galaxy10_split_parts_no_group_and_keeps_the_share_of_each_class() -> None:
    labels, ra, dec, groups = galaxy10_sky()
    parts = split_by_position(labels, groups, ra, dec, 0.2)
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(len(labels)))
    assert not set(groups[parts["train"]]) & set(groups[parts["test"]])
    assert np.abs(np.bincount(labels[parts["test"]]) - 0.2 * np.array(COUNTS)).max() <= 0.5
    assert {name: len(part) for name, part in parts.items()} == NAMED_SETS["galaxy10-decals"].images
    in_groups = np.flatnonzero(np.bincount(groups, minlength=len(labels))[groups] > 1)
    assert abs(np.isin(in_groups, parts["test"]).mean() - 0.2) < 0.02  # not all the crowded ones in one part


def test_galaxy10_split_follows_from_the_positions_alone() -> None:
    labels, ra, dec, groups = galaxy10_sky()
    shuffled = RNG.permutation(len(labels))
    again = friends_of_friends(ra[shuffled], dec[shuffled], 256 * 0.262)
    first = split_by_position(labels, groups, ra, dec, 0.2)["test"]
    second = shuffled[split_by_position(labels[shuffled], again, ra[shuffled], dec[shuffled], 0.2)["test"]]
    np.testing.assert_array_equal(first, np.sort(second))
