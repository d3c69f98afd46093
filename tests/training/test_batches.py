"""Batches: what each process gets of them, what is counted, and the sizes of first images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from astroformer.images.labelled import LabelledImages
from astroformer.images.preprocessing import Preprocessing
from astroformer.images.store import ImageStore
from astroformer.network import VARIANTS, AstroformerConfig
from astroformer.training.batches import Batches, Processes, smaller_size
from astroformer.training.recipe import make_recipe

CPU = torch.device("cpu")
PREPROCESSING = Preprocessing((8, 8), 1)


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    images = np.random.default_rng(0).integers(0, 256, (11, 8, 8, 1)).astype(np.uint8)
    labels = (np.arange(11) % 2).astype(np.int64)
    source = LabelledImages("noise", [str(i) for i in range(11)], labels, ("a", "b"), images.__getitem__)
    return ImageStore.build(source, PREPROCESSING, cache=tmp_path)


def batches(store: ImageStore, processes: Processes, batch_size: int, **augment: Any) -> Batches:
    recipe = make_recipe({"batch_size": batch_size, "augment": {"noise": 0.1, **augment}})
    made = Batches(store, PREPROCESSING, recipe, CPU, processes=processes)
    made.begin_epoch(3)
    return made


@pytest.mark.parametrize("augment", [{}, {"mixup": 0.4}])
@pytest.mark.parametrize(("world", "parts"), [(2, 1), (3, 1), (2, 2)])
def test_the_shares_of_all_processes_are_the_batch(
    store: ImageStore, world: int, parts: int, augment: dict[str, float]
) -> None:
    alone = batches(store, Processes(), 4, **augment)
    shares = [batches(store, Processes(rank, world, parts), 4, **augment) for rank in range(world)]
    for step in range(alone.steps):
        whole = alone.take(step, 0.0)
        taken = [some.take(step, 0.0) for some in shares]
        assert {batch.images for batch in taken} == {whole.images} == {len(whole.x_BCHW)}
        assert sum(batch.own for batch in taken) == whole.images
        assert torch.equal(torch.cat([batch.x_BCHW for batch in taken]), whole.x_BCHW)
        assert torch.equal(torch.cat([batch.y_BK for batch in taken]), whole.y_BK)


def test_a_process_without_images_has_one_that_stands_in(store: ImageStore) -> None:
    taken = [batches(store, Processes(rank, 4), 2).take(0, 0.0) for rank in range(4)]
    assert sorted(batch.own for batch in taken) == [0, 0, 1, 1]
    assert all(len(batch.x_BCHW) == 1 for batch in taken)


def test_images_are_counted_by_their_size(store: ImageStore) -> None:
    recipe = make_recipe({"batch_size": 4, "augment": "none", "progressive": 0.5})
    made = Batches(store, PREPROCESSING, recipe, CPU, smaller=(6, 6))
    with made:
        for epoch, progress in ((0, 0.0), (1, 0.6)):
            made.begin_epoch(epoch)
            for step in range(made.steps):
                made.take(step, progress)
    assert made.seen == {(6, 6): 11, (8, 8): 11}


def test_policies_and_mixing_are_taken_up_once(store: ImageStore) -> None:
    augment = {"policy": "trivialaugment", "policy_epochs": 5, "mixup": 0.5, "mix_epochs": 9}
    made = batches(store, Processes(), 4, **augment)
    assert made.expect_epochs(4.0) == []
    assert made.expect_epochs(6.0) == ["trivialaugment: on, since the run has some 6 epochs"]
    assert made.expect_epochs(5.0) == []  # what was foreseen may become less; what is on stays on
    assert made.expect_epochs(7.0) == []
    assert made.expect_epochs(20.0) == ["mixing of images: on, since the run has some 20 epochs"]


@pytest.mark.parametrize(
    ("size", "config", "small"),
    [
        ((64, 64), None, (48, 48)),
        ((48, 64), None, (36, 48)),
        ((40, 40), None, (32, 32)),  # 30 px, brought to a multiple of 4
        ((36, 36), None, None),  # would be less than 32 px
        ((57, 57), {"group": "d4", "img_size": 57}, (41, 41)),
        ((128, 128), {"equivariance": "anchor", "img_size": 128}, (96, 96)),
    ],
)
def test_first_images_have_three_quarters_of_each_side(
    size: tuple[int, int], config: dict[str, Any] | None, small: tuple[int, int] | None
) -> None:
    words = {**VARIANTS["astroformer_atto"].to_dict(), **(config or {})}
    assert smaller_size(size, None if config is None else AstroformerConfig.from_dict(words)) == small
