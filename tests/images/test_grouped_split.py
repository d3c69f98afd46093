from __future__ import annotations

import numpy as np
import pytest

from astroformer.images.grouped_split import split_groups


@pytest.mark.parametrize("seed", range(6))
def test_groups_alone_keep_the_shares_without_images_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(60), rng.integers(1, 9, 60))
    labels = rng.integers(0, 3, len(groups))
    part = split_groups(labels, groups, (0.5, 0.3, 0.2), rng.permutation(len(groups)))
    assert all(len(set(part[groups == group])) == 1 for group in range(60))
    for share, p in ((0.5, 0), (0.3, 1), (0.2, 2)):
        assert np.abs(np.bincount(labels[part == p]) / np.bincount(labels) - share).max() < 0.12
