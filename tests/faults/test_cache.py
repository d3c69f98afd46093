"""A cache is never trusted and always repaired: whatever is done to its files, a run has the right images."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from astroformer.errors import UserError
from astroformer.images import hashes
from astroformer.images.preprocessing import Preprocessing
from astroformer.images.sets.download import Resource, fetch
from astroformer.images.sources import open_source
from astroformer.images.store import ImageStore
from astroformer.training.recipe import make_recipe
from astroformer.training.single import train_network

SETTINGS = Preprocessing((32, 32), 1)
VALUES = ["[]", "{}", "0", "null", '"x"', "1e999", "[[]]", "{", "", "\0", "[" * 100_000, '{"files": {"x": 5}}', "NaN"]
"""What a JSON file may hold by mistake."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of six images each; one of them can't be read."""
    rng = np.random.default_rng(0)
    for label in "ab":
        (tmp_path / "set" / label).mkdir(parents=True)
        for i in range(6):
            Image.fromarray(rng.integers(0, 256, (32, 32), np.uint8)).save(tmp_path / "set" / label / f"{i}.png")
    (tmp_path / "set" / "a" / "2.png").write_bytes(b"broken")
    return tmp_path / "set"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def build(folder: Path, cache: Path) -> ImageStore:
    return ImageStore.build(open_source(folder), SETTINGS, cache=cache)


def instead(file: Path, content: str | bytes) -> None:
    """Writes another file in the place of one that may be mapped."""
    file.unlink()
    file.write_bytes(content.encode() if isinstance(content, str) else content)


def as_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def as_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


# The index of hashes ----------------------------------------------------------------------------------------


@pytest.fixture
def index(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The index of the folder of class a."""
    monkeypatch.setattr(hashes, "_SETTLED_AFTER", -(10**9))
    build(folder, cache)
    return hashes._index_of(str(folder / "a"), cache)


def in_index(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        *(lambda file, text=text: file.write_text(text) for text in VALUES),
        as_folder,
        as_pipe,
        in_index(lambda content: content.update(files=[])),
        in_index(lambda content: content["files"].update({"1.png": "text"})),
        in_index(lambda content: content["files"].update({"1.png": [1, 2]})),
        in_index(lambda content: content["files"]["1.png"].reverse()),
        in_index(lambda content: content["files"]["1.png"].pop()),
        # As many files, as valid digests, but of other files: the images of another class would be taken for these.
        in_index(lambda content: content["files"]["1.png"].__setitem__(1, 32 * "0")),
        in_index(lambda content: content.pop("digest")),
        lambda file: file.write_text(json.dumps({"1.png": ["1 2 3 4", "00"]})),  # as versions before wrote it
    ],
)
def test_a_damaged_index_of_hashes_is_made_anew(
    folder: Path, index: Path, cache: Path, damage: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = open_source(folder)
    right, whole = images.fingerprint(), hashes.remembered(index)
    assert len(whole) == 6
    damage(index)
    hashed: list[str] = []
    real = hashes._hash_file
    monkeypatch.setattr(hashes, "_hash_file", lambda path: hashed.append(path) or real(path))
    assert images.fingerprint(cache) == right
    assert len(hashed) == 6
    assert build(folder, cache).reused
    if not index.is_dir():
        assert hashes.remembered(index) == whole  # repaired


@pytest.mark.parametrize("text", VALUES)
def test_a_damaged_index_of_downloads_is_made_anew(tmp_path: Path, text: str) -> None:
    content = b"published"
    resource = Resource("file.bin", (), len(content), hashlib.sha256(content).hexdigest())
    (tmp_path / "file.bin").write_bytes(content)
    os.utime(tmp_path / "file.bin", (1, 1))
    (tmp_path / "checked.json").write_text(text)
    for _ in range(2):
        assert fetch(resource, tmp_path) == (tmp_path / "file.bin", resource.sha256)
    damaged = (tmp_path / "file.bin").stat()
    (tmp_path / "file.bin").write_bytes(b"publishes")
    os.utime(tmp_path / "file.bin", ns=(damaged.st_atime_ns, damaged.st_mtime_ns))
    with pytest.raises(UserError, match="is another file"):
        fetch(resource, tmp_path)


# Entries of the store ---------------------------------------------------------------------------------------


def in_meta(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def damage(entry: Path) -> None:
        content = json.loads((entry / "meta.json").read_text())
        change(content)
        (entry / "meta.json").write_text(json.dumps(content))

    return damage


def in_array(change: Callable[[bytes], bytes], name: str = "array.npy") -> Callable[[Path], None]:
    return lambda entry: instead(entry / name, change((entry / name).read_bytes()))


def in_digests(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return in_array(change, "digests.npy")


def flipped(data: bytes, byte: int) -> bytes:
    changed = bytearray(data)
    changed[byte] ^= 1
    return bytes(changed)


def entry_as_file(entry: Path) -> None:
    entry.rename(entry.with_name(".elsewhere"))
    entry.write_text("no folder")


def entry_as_broken_link(entry: Path) -> None:
    entry.rename(entry.with_name(".elsewhere"))
    entry.symlink_to("nowhere")


@pytest.mark.parametrize(
    "damage",
    [
        *(lambda entry, text=text: instead(entry / "meta.json", text) for text in VALUES),
        *(in_array(lambda data, byte=byte: flipped(data, byte)) for byte in (0, 30, 127, 128, 5000, -1)),
        *(in_array(lambda data, length=length: data[:length]) for length in (0, 60, 128, 4096, -1)),
        in_array(lambda data: data + b"\0"),
        in_array(lambda data: data[:128] + data[128 + 1024 :] + data[128 : 128 + 1024]),  # rows in another order
        *(in_digests(lambda data, byte=byte: flipped(data, byte)) for byte in (0, 60, 127, 128, -1)),
        *(in_digests(lambda data, length=length: data[:length]) for length in (0, 100, 128, -8)),
        in_digests(lambda data: data.replace(b"(11,)", b"(10,)")),
        in_digests(lambda data: data.replace(b"(11,)", b"(9999999999999,)")),
        # Another image is said to be the broken one: all labels between the two would be wrong.
        in_meta(lambda meta: meta["failures"][0].__setitem__(0, 9)),
        in_meta(lambda meta: meta["failures"][0].__setitem__(0, 99)),
        in_meta(lambda meta: meta["failures"][0].__setitem__(0, -1)),
        in_meta(lambda meta: meta["failures"][0].__setitem__(0, float("inf"))),
        in_meta(lambda meta: meta["failures"][0].__setitem__(1, "another reason")),
        in_meta(lambda meta: meta.update(failures=[])),
        in_meta(lambda meta: meta.update(failures=5)),
        in_meta(lambda meta: meta.update(failures=[[2]])),
        in_meta(lambda meta: meta["failures"].extend([[i, "x"] for i in range(20)])),
        in_meta(lambda meta: meta.update(digest=None)),
        in_meta(lambda meta: meta.update(digest=32 * "0")),
        in_meta(lambda meta: meta.update(key=32 * "0")),
        *(in_meta(lambda meta, name=name: meta.pop(name)) for name in ("key", "digest", "digests", "failures")),
        *(
            lambda entry, change=change, name=name: change(entry / name)
            for name in ("meta.json", "array.npy", "digests.npy")
            for change in (Path.unlink, as_folder, as_pipe)
        ),
        entry_as_file,
        entry_as_broken_link,
    ],
)
def test_a_damaged_entry_is_decoded_anew(folder: Path, cache: Path, damage: Callable[[Path], object]) -> None:
    before = build(folder, cache)
    images, labels, digests = np.array(before.array), before.labels, before.digests
    assert [file for file, _ in before.failures] == ["a/2.png"]
    damage(before.folder)
    for reused in (False, True):
        again = build(folder, cache)
        assert again.reused == reused
        assert (again.files, again.failures) == (before.files, before.failures)
        np.testing.assert_array_equal(again.labels, labels)
        np.testing.assert_array_equal(again.digests, digests)
        np.testing.assert_array_equal(again.array, images)
    assert [path.name for path in cache.iterdir() if path.name[0] != "." and path.name != "hashes"] == [
        before.folder.name
    ]


# While it is used -------------------------------------------------------------------------------------------


def overwrite(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.seek(700)
        stream.write(b"other pixels")


@pytest.mark.parametrize("change", [overwrite, lambda file: os.truncate(file, 1000), lambda file: os.truncate(file, 0)])
def test_a_store_notices_what_is_done_to_its_file(folder: Path, cache: Path, change: Callable[[Path], None]) -> None:
    store = build(folder, cache)
    store.array_file.check()
    change(store.folder / "array.npy")
    refusals = []
    for part in (store, store.subset([1, 2])):
        try:
            part.array_file.check()
        except UserError as error:
            refusals.append(str(error))  # nothing may look at the images themselves, which are gone
    del store, part
    assert len(refusals) == 2
    assert all("another program has changed" in refusal and "array.npy" in refusal for refusal in refusals)
    assert not build(folder, cache).reused


@pytest.mark.parametrize("of", ["train", "valid"])
def test_a_run_ends_with_a_sentence_where_its_images_are_changed(folder: Path, cache: Path, of: str) -> None:
    settings = {"epochs": 3, "image_size": 32, "crop": 1.0, "channels": 1, "storage": "uint8", "batch_size": 4}
    settings |= {"learning_rate": 1e-3, "device": "cpu", "speed": "plain", "precision": "no", "evaluations": 3}
    train, valid = build(folder, cache), build(folder, cache / "other")
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1024, 2))
    steps = 0

    def stop() -> bool:
        nonlocal steps
        steps += 1
        if steps == 2:
            overwrite((train if of == "train" else valid).folder / "array.npy")
        return False

    with pytest.raises(UserError, match=rf"another program has changed '{cache}.*array\.npy'.*decoded anew"):
        train_network(network, train, valid, make_recipe({**settings, "augment": "none", "progressive": 0}), stop=stop)
    assert steps == (2 if of == "train" else 3)


def test_what_is_done_to_a_store_in_use_without_harm_goes_unnoticed(folder: Path, cache: Path) -> None:
    store = build(folder, cache)
    before, file = np.array(store.array), store.folder / "array.npy"
    store.array_file.check()
    os.utime(file, (1, 1))  # as those do who keep files from being cleaned away
    store.array_file.check()
    instead(file, b"another file")  # as a repair by another process
    store.array_file.check()
    file.unlink()
    store.array_file.check()
    np.testing.assert_array_equal(store.array, before)
