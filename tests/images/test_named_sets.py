from __future__ import annotations

import gzip
import importlib.util
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from astroformer.cli.main import main
from astroformer.errors import UserError
from astroformer.images import named_sets
from astroformer.images.named_sets import NAMED_SETS, FashionMnist, NamedSet
from astroformer.images.preprocessing import Preprocessing
from astroformer.images.reading import UnreadableImage
from astroformer.images.sources import LabelledImages, open_source
from astroformer.images.splits import holdout, kfold
from astroformer.images.store import ImageStore
from serving import Server
from tiny_sets import (
    cifar10_members,
    cifar100_members,
    fashion_files,
    galaxy10_columns,
    hdf5,
    idx,
    serve,
    tar,
    tiny_imagenet_members,
    zipped,
)

needs_h5py = pytest.mark.skipif(importlib.util.find_spec("h5py") is None, reason="needs h5py, of the extra [astro]")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("ASTROFORMER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(FashionMnist, "installed", tmp_path / "none")
    with Server() as server:
        yield server


@pytest.fixture
def served(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[..., NamedSet]:
    """Puts small files in place of a declared set's."""

    def replace(name: str, *files: bytes) -> NamedSet:
        monkeypatch.setitem(NAMED_SETS, name, serve(server, name, *files))
        return NAMED_SETS[name]

    return replace


def same_from_threads_and_pickled(images: LabelledImages) -> None:
    again = pickle.loads(pickle.dumps(images.reader))
    with ThreadPoolExecutor(4) as pool:
        for i, read in enumerate(pool.map(images.read, range(len(images)))):
            np.testing.assert_array_equal(read, again(i))


# What is declared


@pytest.mark.parametrize("name", NAMED_SETS)
def test_declarations_are_complete(name: str) -> None:
    declared = NAMED_SETS[name]
    assert declared.name == name
    assert list(declared.images) == ["train", "test"]
    assert declared.licence
    assert declared.citation
    assert declared.homepage.startswith("http")
    assert declared.classes == () or len(set(declared.classes)) == declared.number_of_classes
    for resource in declared.resources:
        assert resource.urls
        assert all(re.fullmatch(rf"https?://\S+/{re.escape(resource.name)}", url) for url in resource.urls)
        assert re.fullmatch("[0-9a-f]{64}", str(resource.sha256))
        assert re.fullmatch("[0-9a-f]{32}", str(resource.md5))
    json.dumps(declared.to_dict())


def test_the_part_must_be_said_where_one_does_not_train(served: Callable[..., NamedSet]) -> None:
    served("cifar10", tar(cifar10_members(), "x"))
    with pytest.raises(UserError, match="'cifar10' has several parts; write cifar10:train or cifar10:test"):
        open_source("cifar10")
    assert len(open_source("cifar10", part="train")) == 250
    with pytest.raises(UserError, match=r"unknown part of cifar10 'tets'. Did you mean 'test'"):
        open_source("cifar10:tets")
    with pytest.raises(UserError, match=r"'cifra10:test' is neither .* Did you mean 'cifar10'"):
        open_source("cifra10:test")


# CIFAR


def test_cifar10(served: Callable[..., NamedSet], server: Server) -> None:
    members = cifar10_members()
    served("cifar10", tar(members, "cifar-10-batches-bin"))
    images = open_source("cifar10:train")
    assert images.classes[3] == "cat"
    assert images.files[57] == "cifar10-train-57"
    assert images.counts() == dict.fromkeys(NAMED_SETS["cifar10"].classes, 25)
    record = members["data_batch_2.bin"][7 * 3073 : 8 * 3073]  # image 57 is the eighth of the second batch
    assert images.labels is not None
    assert images.labels[57] == record[0] == 7
    planes = np.frombuffer(record[1:], np.uint8)
    np.testing.assert_array_equal(images.read(57)[..., 1].ravel(), planes[1024:2048])  # green
    same_from_threads_and_pickled(images)
    assert images.about["licence"] == "none stated"
    assert images.about["part"] == "train"
    assert list(images.about["sha256"]) == ["cifar-10-binary.tar.gz"]
    assert len(open_source("cifar10:test")) == 20
    few = open_source("cifar10@per-class=1:3", part="train")
    assert few.files[:2] == ["cifar10-train-10", "cifar10-train-11"]
    assert few.counts() == dict.fromkeys(images.classes, 2)
    unlabelled = open_source("cifar10:test", labelled=False)
    assert unlabelled.labels is None
    assert len(server.asked) == 1


def test_cifar100_has_the_fine_labels(served: Callable[..., NamedSet]) -> None:
    members = cifar100_members()
    served("cifar100", tar(members, "cifar-100-binary"))
    images = open_source("cifar100:train")
    assert images.labels is not None
    assert images.labels.tolist() == [*range(100)] * 2
    np.testing.assert_array_equal(
        images.read(1)[..., 0].ravel(), np.frombuffer(members["train.bin"], np.uint8)[3074 + 2 : 3074 + 2 + 1024]
    )
    assert len(open_source("cifar100:test")) == 100


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda m: tar(m, "x")[:-4000], "is damaged"),
        (lambda m: b"no archive", "is damaged"),
        (lambda m: tar({k: v for k, v in m.items() if k != "data_batch_3.bin"}, "x"), "data_batch_3.bin is not in it"),
        (lambda m: tar(m | {"data_batch_3.bin": b"12345"}, "x"), "has 5 bytes, no multiple of 3,073"),
        (lambda m: tar(m | {"data_batch_3.bin": b""}, "x"), "has 0 bytes"),
        (lambda m: tar(m | {"data_batch_3.bin": b"\x0a" * 3073}, "x"), "a label is 10, of 10 classes"),
        (lambda m: tar(m | {"batches.meta.txt": b"cat\ndog\n"}, "x"), "names other classes"),
    ],
    ids=["truncated", "no archive", "member missing", "wrong size", "empty", "wrong label", "other classes"],
)
def test_damaged_cifar10(served: Callable[..., NamedSet], damage: Callable[[Any], bytes], sentence: str) -> None:
    served("cifar10", damage(cifar10_members()))
    with pytest.raises(UserError, match=sentence) as refused:
        open_source("cifar10:train")
    assert "Remove it, to have it downloaded again" in str(refused.value)


# Fashion-MNIST


def test_fashion_mnist(
    served: Callable[..., NamedSet], server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = fashion_files()
    served("fashion-mnist", *files.values())
    images = open_source("fashion-mnist:train")
    assert images.counts() == dict.fromkeys(NAMED_SETS["fashion-mnist"].classes, 3)
    pixels = gzip.decompress(files["train-images-idx3-ubyte.gz"])[16:]
    np.testing.assert_array_equal(images.read(4).ravel(), np.frombuffer(pixels, np.uint8)[4 * 784 : 5 * 784])
    assert images.read(4).shape == (28, 28, 1)
    same_from_threads_and_pickled(images)
    assert len(open_source("fashion-mnist:test")) == 10
    assert len(server.asked) == 4
    # Debian's package has the same, packed anew
    installed = tmp_path / "installed"
    installed.mkdir()
    for name, data in files.items():
        (installed / name).write_bytes(gzip.compress(gzip.decompress(data), 1))
    monkeypatch.setattr(FashionMnist, "installed", installed)
    monkeypatch.setenv("ASTROFORMER_CACHE", str(tmp_path / "other"))
    again = open_source("fashion-mnist:train")
    assert again.fingerprint() == images.fingerprint()
    assert again.about["sha256"] != images.about["sha256"]
    assert len(server.asked) == 4


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda data: data[:-20], r"is damaged \(.*end-of-stream"),
        (lambda data: b"\x1f\x8b" + data[2:60] + b"x" * 99, "is damaged"),
        (lambda data: gzip.compress(gzip.decompress(data)[:-1]), "30 × 28 × 28 values are announced, 23,519 are there"),
        (lambda data: gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12), "4294967295 × .* announced, 0 are there"),
        (lambda data: gzip.compress(gzip.decompress(data)[:9]), "no IDX file of 3 dimensions"),
        (lambda data: idx(np.zeros((30, 28), np.uint8)), "no IDX file of 3 dimensions"),
        (lambda data: idx(np.zeros((29, 28, 28), np.uint8)), "29 images of 'train' have 30 labels"),
    ],
    ids=["truncated", "bytes", "short", "huge", "header", "dimensions", "number"],
)
def test_damaged_fashion_mnist(
    served: Callable[..., NamedSet], damage: Callable[[bytes], bytes], sentence: str
) -> None:
    files = fashion_files()
    files["train-images-idx3-ubyte.gz"] = damage(files["train-images-idx3-ubyte.gz"])
    served("fashion-mnist", *files.values())
    with pytest.raises(UserError, match=sentence):
        open_source("fashion-mnist:train")


# Tiny ImageNet


def test_tiny_imagenet(served: Callable[..., NamedSet]) -> None:
    served("tiny-imagenet", zipped(tiny_imagenet_members()))
    images = open_source("tiny-imagenet:train")
    assert images.classes == ("n01", "n02", "n03")
    assert images.files[3:6] == [f"train/n02/images/n02_{k}.JPEG" for k in (0, 2, 10)]
    assert images.labels is not None
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    np.testing.assert_allclose(images.read(5).astype(int), 60 + 2 * 10, atol=2)
    same_from_threads_and_pickled(images)
    test = open_source("tiny-imagenet:test")
    assert test.files == [f"val/images/val_{i}.JPEG" for i in (1, 0, 3)]
    assert test.labels is not None
    assert test.labels.tolist() == [2, 0, 1]
    np.testing.assert_allclose(test.read(0).astype(int), 10, atol=2)
    assert images.subset([1, 2]).fingerprint() != images.subset([1, 3]).fingerprint()


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda m: zipped(m)[:-100], "is damaged"),
        (lambda m: zipped({k: v for k, v in m.items() if k != "wnids.txt"}), "wnids.txt"),
        (lambda m: zipped(m | {"wnids.txt": b"n01\nn02\n"}), "n03 is not in it"),
        (lambda m: zipped({"wnids.txt": b"n01\nn02\n"}), "any image is not in it"),
    ],
)
def test_damaged_tiny_imagenet(served: Callable[..., NamedSet], damage: Callable[[Any], bytes], sentence: str) -> None:
    served("tiny-imagenet", damage(tiny_imagenet_members()))
    with pytest.raises(UserError, match=sentence):
        open_source("tiny-imagenet:train")


def test_tiny_imagenet_with_an_image_missing_or_damaged(served: Callable[..., NamedSet]) -> None:
    members = tiny_imagenet_members()
    del members["val/images/val_1.JPEG"]
    members["train/n01/images/n01_0.JPEG"] = b"no picture"
    served("tiny-imagenet", zipped(members))
    with pytest.raises(UserError, match=r"val/images/val_1\.JPEG is not in it"):
        open_source("tiny-imagenet:test")
    with pytest.raises(UnreadableImage, match=r"n01_0\.JPEG"):
        open_source("tiny-imagenet:train").read(0)


# Galaxy10 DECaLS


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
    monkeypatch.setattr(named_sets.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs the extra \[astro\]: pip install 'astroformer\[astro\]'"):
        open_source("galaxy10-decals:train")
    assert server.asked == []


# Pictures and the command line


def test_plot_shows_an_image_a_class(served: Callable[..., NamedSet], tmp_path: Path) -> None:
    served("cifar10", tar(cifar10_members(), "x")).plot(tmp_path / "cifar10.png")
    served("tiny-imagenet", zipped(tiny_imagenet_members())).plot(tmp_path / "tiny.png")
    served("fashion-mnist", *fashion_files().values()).plot(tmp_path / "fashion.png")
    with Image.open(tmp_path / "cifar10.png") as picture:
        first = open_source("cifar10:train").read(0)
        shown = np.asarray(picture)[8 : 8 + 128, 8 : 8 + 128]
        np.testing.assert_array_equal(shown[2::4, 2::4], first)
        assert picture.width == 10 * 136 + 8
    with Image.open(tmp_path / "fashion.png") as picture:
        assert len(np.unique(np.asarray(picture))) > 50


PROGRAM = """
import json, sys
from dataclasses import replace
from astroformer.cli.main import main
from astroformer.images.named_sets import NAMED_SETS
url, size, sha256, commands = sys.argv[1:]
declared = NAMED_SETS["cifar10"]
resource = replace(declared.resources[0], urls=(url,), size=int(size), sha256=sha256)
NAMED_SETS["cifar10"] = replace(declared, resources=(resource,))
print(*[main(words.split()) for words in json.loads(commands)])
"""


def test_train_and_evaluate_cifar10_by_name(server: Server, tmp_path: Path) -> None:
    served = serve(server, "cifar10", tar(cifar10_members(), "cifar-10-batches-bin"), etag='"1"')
    server.answers["/cifar-10-binary.tar.gz"].breaks_after = 100_000
    server.answers["/cifar-10-binary.tar.gz"].breaks = 1
    file = served.resources[0]
    commands = [
        "train cifar10 --epochs 1 --recipe photo --image-size 32",
        "evaluate runs/cifar10-1 cifar10 --out e",
        "evaluate runs/cifar10-1 cifar10:test --out e",
    ]
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, file.urls[0], str(file.size), str(file.sha256), json.dumps(commands)],
        cwd=tmp_path,
        env={**os.environ, "ASTROFORMER_NATIVE": "0"},  # no kernels are built for this cache
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.stdout.endswith("\n0 2 0\n"), ran.stderr
    assert "Licence: none stated. Cite: A. Krizhevsky" in ran.stderr
    assert "downloading cifar-10-binary.tar.gz: " in ran.stderr
    assert "\nerror: 'cifar10' has several parts; write cifar10:train or cifar10:test.\n" in ran.stderr
    assert [status for *_, status in server.asked] == [200, 206]
    record = json.loads((tmp_path / "runs" / "cifar10-1" / "run.json").read_text())
    assert record["data_sets"][0]["sha256"] == {"cifar-10-binary.tar.gz": file.sha256}
    assert record["data_sets"][0]["citation"].startswith("A. Krizhevsky")
    held_out = (tmp_path / "runs" / "cifar10-1" / "splits" / "valid.csv").read_text().splitlines()[1:]
    assert len(held_out) == 50
    assert all(row.startswith("cifar10-train-") for row in held_out)  # no test image was looked at
    assert json.loads((tmp_path / "e" / "metrics.json").read_text())["n"] == 20


def test_info_lists_the_sets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--data"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["name", *NAMED_SETS]
    assert lines[2].split() == ["cifar10", "train", "50,000,", "test", "10,000", "10", "170", "none", "stated"]
    assert main(["info", "--data", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[1]["files"][0]["bytes"] == 170_052_171
    assert main(["info", "--data", "--system"]) == 2
    assert main(["info", "astroformer_1", "--data"]) == 2
    assert "--data lists the published data sets; leave out 'astroformer_1'" in capsys.readouterr().err
