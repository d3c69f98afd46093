from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from astroformer.images.labelled import LabelledImages
from astroformer.images.sources import open_source

RNG = np.random.default_rng(1)


def test_subset_keeps_order_classes_and_reads_the_same(folder: Path) -> None:
    images = open_source(folder)
    some = images.subset([4, 1]).subset([1, 0])
    assert some.files == ["class2/x9.png", "class10/b.png"]
    assert some.counts() == {"class2": 1, "class10": 1}
    np.testing.assert_array_equal(some.read(0), images.read(1))
    assert images.subset([0]).counts() == {"class2": 1, "class10": 0}


def test_fingerprint_follows_content_and_order(folder: Path) -> None:
    images = open_source(folder)
    first = images.fingerprint()
    file = folder / "class2" / "x9.png"
    os.utime(file, (1, 1))
    file.rename(folder / "class2" / "x9b.png")
    assert open_source(folder).fingerprint() == first
    assert images.subset([0, 1]).fingerprint() != images.subset([1, 0]).fingerprint()
    data = bytearray((folder / "class10" / "a.png").read_bytes())
    data[-20] ^= 1
    (folder / "class10" / "a.png").write_bytes(data)
    assert open_source(folder).fingerprint() != first


def test_fingerprint_of_a_plain_reader() -> None:
    stack = RNG.integers(0, 9, (3, 4, 4, 1))
    images = LabelledImages("array", ["0", "1", "2"], None, (), stack.__getitem__)
    before = images.fingerprint()
    stack[1, 0, 0, 0] += 1
    assert images.fingerprint() != before
