from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from astroformer.errors import UserError
from astroformer.images.sets import NAMED_SETS, NamedSet
from astroformer.images.sets.medmnist import MEDMNIST
from astroformer.images.sources import open_source
from helpers.serving import Server
from helpers.tiny_sets import same_from_threads_and_pickled

RNG = np.random.default_rng(0)


def arrays(classes: int, shape: tuple[int, ...]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for part, n in (("train", 3 * classes), ("val", classes), ("test", 2 * classes)):
        made[f"{part}_images"] = RNG.integers(0, 256, (n, *shape), np.uint8)
        made[f"{part}_labels"] = (np.arange(n) % classes).astype(np.uint8)[:, None]
    return made


def npz(content: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **content)
    return buffer.getvalue()


@pytest.mark.parametrize(("name", "shape"), [("bloodmnist", (28, 28, 3)), ("breastmnist", (28, 28))])
def test_medmnist(served: Callable[..., NamedSet], server: Server, name: str, shape: tuple[int, ...]) -> None:
    declared = NAMED_SETS[name]
    content = arrays(declared.number_of_classes, shape)
    served(name, npz(content))
    for part, n in (("train", 3), ("val", 1), ("test", 2)):
        images = open_source(f"{name}:{part}")
        assert images.counts() == dict.fromkeys(declared.classes, n)
        assert images.files[1] == f"{name}-{part}-1"
        for i in range(len(images)):
            np.testing.assert_array_equal(images.read(i), content[f"{part}_images"][i].reshape(28, 28, -1))
        same_from_threads_and_pickled(images)
    assert len(server.asked) == 1
    assert len(images.about["sha256"][f"{name}.npz"]) == 64


def test_each_set_says_its_licence() -> None:
    assert [declared.name for declared in MEDMNIST if declared.licence != "CC BY 4.0"] == ["dermamnist"]
    assert len(MEDMNIST) == 11  # of the twelve, all but chestmnist, whose images have several labels


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"train_labels": None}, "train_labels"),
        ({"train_images": np.zeros((6, 28, 28), np.float32)}, "of float32"),
        ({"train_images": np.zeros((6, 28), np.uint8)}, "images \\(6, 28\\)"),
        ({"train_labels": np.zeros((6, 2), np.uint8)}, "labels \\(6, 2\\)"),
        ({"train_labels": np.full((6, 1), 2, np.uint8)}, "labels are 2 to 2, of 2 classes"),
        ({"train_images": np.array([None])}, "allow_pickle"),
    ],
)
def test_damaged_medmnist(served: Callable[..., NamedSet], change: dict[str, Any], sentence: str) -> None:
    content = {key: value for key, value in {**arrays(2, (28, 28)), **change}.items() if value is not None}
    served("breastmnist", npz(content))
    with pytest.raises(UserError, match=f"is damaged.*{sentence}"):
        open_source("breastmnist:train")


@pytest.mark.parametrize("keep", [1, 10, 900])
def test_a_truncated_file(served: Callable[..., NamedSet], keep: int) -> None:
    served("breastmnist", npz(arrays(2, (28, 28)))[:keep])
    with pytest.raises(UserError, match="is damaged"):
        open_source("breastmnist:train")
