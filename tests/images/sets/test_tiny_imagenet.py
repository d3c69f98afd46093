from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from astroformer.errors import UserError
from astroformer.images.reading import UnreadableImage
from astroformer.images.sets import NamedSet
from astroformer.images.sources import open_source
from helpers.tiny_sets import (
    same_from_threads_and_pickled,
    tiny_imagenet_members,
    zipped,
)


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
