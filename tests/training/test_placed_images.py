"""Where the training images lie: every place names the same images, and nothing of it waits for a GPU."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from astroformer.augmentation.augmenter import Augmenter
from astroformer.augmentation.settings import PRESETS, Augment
from astroformer.images.preprocessing import Preprocessing
from astroformer.images.sources import open_source
from astroformer.images.store import ImageStore
from astroformer.training.placed_images import Streamed, place_images

CPU = torch.device("cpu")


@pytest.fixture
def store(galaxy_folder: Path, tmp_path: Path) -> ImageStore:
    whole = ImageStore.build(open_source(galaxy_folder), Preprocessing((16, 16), 3), cache=tmp_path)
    return whole.subset(np.random.default_rng(0).permutation(len(whole))[:20])


def test_the_memory_map_itself_is_used_on_a_cpu(store: ImageStore) -> None:
    stored, rows = place_images(store, CPU)(np.array([3, 19, 3]))
    assert stored.data_ptr() == store.base.ctypes.data
    np.testing.assert_array_equal(stored[rows].numpy(), store.take([3, 19, 3]))


def test_streamed_batches_are_those_asked_for_whatever_was_expected(store: ImageStore) -> None:
    streamed = Streamed(store, CPU)
    for asked, expected in (([0, 1], [2, 3]), ([4, 5, 6], None), ([4], [7, 8]), ([7, 8], None)):
        stored, rows = streamed(np.array(asked), None if expected is None else np.array(expected))
        np.testing.assert_array_equal(stored[rows].numpy(), store.take(asked))
    streamed.close()


def test_streaming_reads_ahead_and_nothing_twice(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[list[int]] = []
    take = ImageStore.take
    monkeypatch.setattr(ImageStore, "take", lambda self, some: (read.append(list(some)), take(self, some))[1])
    streamed = Streamed(store, CPU)
    streamed(np.array([1, 2]), np.array([3]))
    deadline = time.monotonic() + 10
    while len(read) < 2:  # nobody has asked for the second one yet
        assert time.monotonic() < deadline
        time.sleep(0.01)
    streamed(np.array([3]))
    assert read == [[1, 2], [3]]
    streamed.close()


class NothingFromTheHost(TorchDispatchMode):
    """Fails where a tensor goes from the host to the device. (The way back fails on the meta device by itself, and so
    does whatever asks a value of it.)"""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.device.type == "meta" and "copy" in str(func):
            for given in args:
                assert not (isinstance(given, torch.Tensor) and given.device.type == "cpu"), f"{func} copies"
        return out


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"policy": "randaugment", "crop_scale": (0.2, 1.0), "hue": 0.1, "saturation": 0.2, "contrast": 0.2},
        {"policy": "trivialaugment", "erasing": 0.3, "erasing_fill": "noise", "noise": 0.1, "border": "zero"},
        {"mixup": 0.4, "cutmix": 1.0, "erasing": 0.3},
        {"scale": (1, 1), "rotation": 0.0, "brightness": 0.3, "mixup": 0.4},
    ],
)
def test_no_step_of_the_plain_batch_waits_for_a_device(changes: dict[str, object], dtype: torch.dtype) -> None:
    settings = Augment.model_validate(PRESETS["sky"].model_dump() | changes)
    maker = Augmenter(settings, seed=0, size=(16, 16))
    preprocessing = Preprocessing((16, 16), 3, mean=(0.1, 0.2, 0.3), std=(0.1, 0.1, 0.1))
    meta = torch.device("meta")
    stored = torch.empty(20, 3, 24, 24, dtype=dtype, device=meta)
    index = torch.empty(9, dtype=torch.int64, device=meta)

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        return maker.batch(stored, index, index, 0, index, classes=4, preprocessing=preprocessing)

    batch()  # tables are copied once
    with NothingFromTheHost():
        x, y = batch()
    assert x.shape == (8 if maker.mixes else 9, 3, 16, 16)
    assert y.shape == (len(x), 4)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("fill", ["mean", "noise"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16])
def test_what_a_device_does_to_all_images_equals_what_the_host_does_to_some(
    dtype: torch.dtype, fill: str, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Augment(policy="randaugment", policy_operations=3, erasing=0.5, erasing_fill=fill)
    maker = Augmenter(settings, seed=0, size=(16, 16))
    x = torch.randint(0, 256, (64, channels, 16, 16), generator=torch.Generator().manual_seed(0)).to(dtype)
    by_rows = maker.transform(x, torch.arange(64), 0)
    monkeypatch.setattr("astroformer.augmentation.augmenter._known_without_waiting", lambda _: False)
    assert torch.equal(maker.transform(x, torch.arange(64), 0), by_rows)
