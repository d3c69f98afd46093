from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from astroformer.errors import UserError
from astroformer.images.sets import NAMED_SETS, NamedSet
from astroformer.images.sources import open_source
from helpers.serving import Server
from helpers.tiny_sets import (
    cifar10_members,
    cifar100_members,
    same_from_threads_and_pickled,
    tar,
)


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
