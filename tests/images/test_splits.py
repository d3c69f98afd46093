from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from astroformer.errors import UserError
from astroformer.images.labelled import LabelledImages
from astroformer.images.splits import holdout, kfold, read_split, write_split


def random_labels(seed: int, least: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    counts = rng.integers(least, 60, rng.integers(2, 12))
    return rng.permutation(np.repeat(np.arange(len(counts)), counts))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.25, 0.5, 0.9])
def test_holdout_partitions_and_is_stratified(seed: int, fraction: float) -> None:
    labels = random_labels(seed, least=2)
    train, valid = holdout(labels, fraction, seed)
    assert np.array_equal(np.sort(np.concatenate([train, valid])), np.arange(len(labels)))
    assert (np.diff(train) > 0).all()
    assert (np.diff(valid) > 0).all()
    counts, taken = np.bincount(labels), np.bincount(labels[valid], minlength=labels.max() + 1)
    assert (taken >= 1).all()
    assert (taken < counts).all()
    assert (np.abs(taken - np.clip(fraction * counts, 1, counts - 1)) <= 1).all()
    quota = fraction * counts
    if (quota >= 1).all() and (quota <= counts - 1).all():  # no class is at its limit
        assert len(valid) == round(fraction * len(labels))


def test_holdout_is_a_function_of_the_seed() -> None:
    labels = random_labels(0, least=5)
    for a, b in zip(holdout(labels, 0.2, 1), holdout(labels, 0.2, 1), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(holdout(labels, 0.2, 1)[1], holdout(labels, 0.2, 2)[1])


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("k", [2, 3, 5])
def test_folds_partition_and_are_level(seed: int, k: int) -> None:
    labels = random_labels(seed, least=k)
    folds = kfold(labels, k, seed)
    assert len(folds) == k
    assert np.array_equal(np.sort(np.concatenate([valid for _, valid in folds])), np.arange(len(labels)))
    sizes = [len(valid) for _, valid in folds]
    assert max(sizes) - min(sizes) <= 1
    each = np.array([np.bincount(labels[valid], minlength=labels.max() + 1) for _, valid in folds])
    assert (each.max(0) - each.min(0) <= 1).all()
    assert each.min() >= 1
    for train, valid in folds:
        assert np.array_equal(np.sort(np.concatenate([train, valid])), np.arange(len(labels)))


def test_too_few_images_name_the_class() -> None:
    labels = np.array([0, 0, 0, 1, 2, 2])
    with pytest.raises(UserError, match="class 'bars' has 1 image, too few for a training and a validation part: 2"):
        holdout(labels, 0.3, 0, classes=["a", "bars", "c"])
    with pytest.raises(UserError, match="class '1' has 1 image, too few for 3 folds: 3"):
        kfold(labels, 3, 0)
    with pytest.raises(UserError, match="2 or more"):
        kfold(labels, 1, 0)
    for fraction in (0.0, 1.0, float("nan")):
        with pytest.raises(UserError, match="between 0 and 1"):
            holdout(labels, fraction, 0)
    with pytest.raises(UserError, match="no images"):
        holdout(np.array([], np.int64), 0.2, 0)


def test_split_files(tmp_path: Path) -> None:
    labels = np.array([0, 1, 1])
    images = LabelledImages("s", ["a, b.png", "c.png", "é.png"], labels, ("x", 'y"'), lambda i: np.zeros((1, 1, 1)))
    path = tmp_path / "run" / "valid.csv"
    write_split(path, images, [2, 0])
    assert path.read_text("utf-8") == 'file,label\né.png,"y"""\n"a, b.png",x\n'
    np.testing.assert_array_equal(read_split(path, images), [2, 0])
    np.testing.assert_array_equal(read_split(path, images.subset([2, 1, 0])), [0, 2])

    with pytest.raises(UserError, match=r"lists 'é\.png', which 's' does not have"):
        read_split(path, images.subset([0, 1]))
    relabelled = LabelledImages("s", images.files, np.array([0, 1, 0]), images.classes, images.reader)
    with pytest.raises(UserError, match=r"'é\.png' the label 'y\"', 's' the label 'x'"):
        read_split(path, relabelled)
    path.write_text('file,label\nc.png,y"\nc.png,y"\n')
    with pytest.raises(UserError, match=r"lists 'c\.png' twice"):
        read_split(path, images)
    path.write_text("name\nc.png\n")
    with pytest.raises(UserError, match="is no split"):
        read_split(path, images)
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_split(tmp_path / "none.csv", images)


# Groups that stay together


def grouped(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels of 8 to 60 images a class, and groups: pairs, a chain of five, the rest alone."""
    labels = random_labels(seed, least=8)
    groups = np.arange(len(labels)) + 1000
    chosen = np.random.default_rng(seed).permutation(len(labels))
    groups[chosen[1:5]] = groups[chosen[0]]
    pairs = chosen[5 : 5 + len(chosen) // 5 * 2 // 2 * 2].reshape(-1, 2)
    groups[pairs[:, 1]] = groups[pairs[:, 0]]
    return labels, groups


@pytest.mark.parametrize("seed", range(8))
def test_no_group_is_parted(seed: int) -> None:
    labels, groups = grouped(seed)
    splits = [holdout(labels, 0.25, seed, groups=groups), *kfold(labels, 4, seed, groups=groups)]
    for train, valid in splits:
        assert np.array_equal(np.sort(np.concatenate([train, valid])), np.arange(len(labels)))
        assert not set(groups[train]) & set(groups[valid])
        counts = np.bincount(labels)
        assert (np.abs(np.bincount(labels[valid], minlength=len(counts)) - counts / 4) <= 2).all()
    assert np.array_equal(np.sort(np.concatenate([valid for _, valid in splits[1:]])), np.arange(len(labels)))
    np.testing.assert_array_equal(holdout(labels, 0.25, seed, groups=groups)[1], splits[0][1])


def test_groups_of_one_change_nothing() -> None:
    labels = random_labels(1, least=5)
    alone = np.arange(len(labels))[::-1]
    np.testing.assert_array_equal(holdout(labels, 0.2, 1, groups=alone)[1], holdout(labels, 0.2, 1)[1])
    np.testing.assert_array_equal(kfold(labels, 3, 1, groups=alone)[2][1], kfold(labels, 3, 1)[2][1])


def test_a_class_in_one_group_cannot_be_split() -> None:
    labels, groups = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 1, 2, 3, 3, 3])
    for split in (
        lambda: holdout(labels, 0.4, 0, classes=["a", "b"], groups=groups),
        lambda: kfold(labels, 2, 0, classes=["a", "b"], groups=groups),
    ):
        with pytest.raises(UserError, match=r"class 'b' has too few images for .* stay together"):
            split()
