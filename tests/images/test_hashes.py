from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from astroformer.images import hashes
from astroformer.images.labelled import LabelledImages
from astroformer.images.preprocessing import Preprocessing
from astroformer.images.sets.galaxy10 import Galaxy10Reader
from astroformer.images.sets.tiny_imagenet import ZipReader
from astroformer.images.sources import open_source
from astroformer.images.store import ImageStore
from helpers.tiny_sets import save_npz

RAMP = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)


def unnamed(reader: Callable[[int], np.ndarray]) -> LabelledImages:
    return LabelledImages("", ["a", "b"], None, (), reader)


def two_files(root: Path) -> LabelledImages:
    for i, name in enumerate("ab"):
        (root / name).mkdir()
        (root / name / "x.png").write_bytes(bytes([i]) * 7)  # hashed, never decoded
    return open_source(root)


@pytest.mark.parametrize(
    ("opened", "fingerprint"),
    [
        (
            lambda at: open_source(save_npz(at / "a.npz", images=RAMP, labels=[0, 1])),
            "1ad9064b7ce25e4d3e4e26027e18246c",
        ),
        (
            lambda at: open_source(
                save_npz(at / "a.npz", images=RAMP.transpose(0, 3, 1, 2).astype(np.float32), labels=[0, 1])
            ),
            "96ee2330614567c7788674c0ab87c81b",
        ),
        (
            lambda at: open_source(
                save_npz(at / "a.npz", jpeg=np.arange(9, dtype=np.uint8), offsets=[0, 4, 9], labels=[0, 1])
            ),
            "55b68a452688e435fda8acf65116ba8b",
        ),
        (two_files, "bdf69241e57ef03b767eb7047b23a634"),
        (lambda at: open_source("mock-galaxies:10x16", seed=5), "ebfe10f266da3608ac770cb1be42c669"),
        (lambda at: unnamed(RAMP.__getitem__), "e75f8b97fca34dd31bcb2934f51f2645"),
        (lambda at: unnamed(ZipReader(Path("z"), "r/", ("a", "b"), "0f")), "fa2f20e12d7704d053a8b608f04a991d"),
        (lambda at: unnamed(Galaxy10Reader(Path("z"), np.array([3, 1]), "0f")), "e77c71d1943c943c694c26f826ee2029"),
    ],
    ids=["array", "channels first", "encoded", "files", "mock galaxies", "plain reader", "zip", "hdf5"],
)
def test_fingerprints_are_those_of_version_0_1(
    tmp_path: Path, opened: Callable[[Path], LabelledImages], fingerprint: str
) -> None:
    assert opened(tmp_path).fingerprint() == fingerprint


def test_entries_of_the_store_have_the_names_of_version_0_1(tmp_path: Path) -> None:
    images = open_source("mock-galaxies:10x16", seed=5)
    store = ImageStore.build(images, Preprocessing((16, 16), 3), cache=tmp_path)
    assert store.folder.name == "3f3b0f4d2c53ede65a54f6056cf489a5"


def test_hashes_are_remembered(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = open_source(folder)
    plain = images.fingerprint()
    cache = tmp_path / "cache"
    hashed: list[str] = []
    whole = hashes._hash_file
    monkeypatch.setattr(hashes, "_hash_file", lambda path: hashed.append(Path(path).name) or whole(path))
    for _ in range(2):  # these files are new: a further change might leave their times as they are
        assert images.fingerprint(cache) == plain
    assert len(hashed) == 2 * len(images)
    monkeypatch.setattr(hashes, "_SETTLED_AFTER", -(10**9))
    assert images.fingerprint(cache) == plain
    hashed.clear()
    assert images.fingerprint(cache) == plain
    assert images.subset([1, 0]).fingerprint(cache) == images.subset([1, 0]).fingerprint()
    assert len(hashed) == 2  # of the plain one
    hashed.clear()
    file = folder / "class2" / "x9.png"
    before = file.stat()
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)  # as many bytes, and with the time that it had
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert images.fingerprint(cache) != plain
    assert hashed == ["x9.png"]
    for index in (cache / "hashes").iterdir():
        index.write_text("{ damaged")
    assert images.fingerprint(cache) != plain
    assert len(hashed) == 1 + len(images)


def test_a_cache_that_cannot_be_written_costs_only_time(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, where a folder should be")
    images = open_source(folder)
    paths = [str(folder / file) for file in images.files]
    for path in paths:
        os.utime(path, (1, 1))
    assert list(hashes.hash_files(paths, tmp_path / "cache")) == list(hashes.hash_files(paths))


def test_a_file_that_cannot_be_read_has_a_digest_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    [missing] = hashes.hash_files([str(path)])
    path.write_bytes(b"here")
    [there] = hashes.hash_files([str(path)])
    assert len({missing, there, hashes.hash_bytes(b"")}) == 3
    assert there == hashes.hash_bytes(b"here")
