from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from astroformer.errors import UserError
from astroformer.images.sets import NAMED_SETS, NamedSet
from astroformer.images.sets.fashion_mnist import FashionMnist
from astroformer.images.sources import open_source
from helpers.serving import Server
from helpers.tiny_sets import (
    fashion_files,
    idx,
    same_from_threads_and_pickled,
)


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
