"""The random numbers: statistics, and that they depend on their address alone."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy import stats

from astroformer.randomness import Stream, normals, permutation, uniforms

N = 200_000


def test_uniforms_are_uniform() -> None:
    u = uniforms(3, 7, torch.arange(N // 4), 1, 4).flatten()
    assert 0.0 <= u.min() < 1e-3
    assert 1 - 1e-3 < u.max() < 1.0
    counts = torch.histc(u, bins=256, min=0, max=1)
    assert 1e-4 < stats.chisquare(counts.numpy()).pvalue < 1 - 1e-4
    low_bits = (u * 2**24).long() % 256  # the lowest bits are as good as the highest
    assert 1e-4 < stats.chisquare(low_bits.bincount(minlength=256).numpy()).pvalue < 1 - 1e-4


INDEX = torch.arange(N)
NEIGHBOURS = {
    "index": (uniforms(0, 0, INDEX, 1, 1), uniforms(0, 0, INDEX + 1, 1, 1)),
    "epoch": (uniforms(0, 0, INDEX, 1, 1), uniforms(0, 1, INDEX, 1, 1)),
    "seed": (uniforms(0, 0, INDEX, 1, 1), uniforms(1, 0, INDEX, 1, 1)),
    "stream": (uniforms(0, 0, INDEX, 1, 1), uniforms(0, 0, INDEX, 2, 1)),
    "position": tuple(uniforms(0, 0, INDEX, 1, 2).split(1, dim=1)),
    "seed and epoch": (uniforms(0, 1, INDEX, 1, 1), uniforms(1, 0, INDEX, 1, 1)),
}


@pytest.mark.parametrize("which", NEIGHBOURS)
def test_neighbouring_addresses_are_independent(which: str) -> None:
    first, second = (u.flatten() for u in NEIGHBOURS[which])
    assert abs(torch.corrcoef(torch.stack((first, second)))[0, 1]) < 4.5 / N**0.5
    cells = ((first * 32).long() * 32 + (second * 32).long()).bincount(minlength=1024)
    assert 1e-4 < stats.chisquare(cells.numpy()).pvalue < 1 - 1e-4


def test_positions_within_an_image_are_independent() -> None:
    u = uniforms(5, 2, torch.arange(4), 3, N // 4)
    for lag in (1, 2, 3, 64):
        r = torch.corrcoef(torch.stack((u[:, :-lag].flatten(), u[:, lag:].flatten())))[0, 1]
        assert abs(r) < 4.5 / N**0.5, lag
    between = torch.corrcoef(u) - torch.eye(4)
    assert between.abs().max() < 4.5 / (N // 4) ** 0.5


def test_a_draw_depends_on_its_own_address_alone() -> None:
    index = torch.tensor([5, 0, 123_456_789_012, 7])
    u = uniforms(9, 4, index, 2, 6)
    for row, image in enumerate(index):
        assert torch.equal(uniforms(9, 4, image[None], 2, 6)[0], u[row])
    assert torch.equal(uniforms(9, 4, index.flip(0), 2, 3), u.flip(0)[:, :3])
    assert torch.equal(normals(9, 4, index, 2, 3), normals(9, 4, index, 2, 6)[:, :3])
    assert index.tolist() == [5, 0, 123_456_789_012, 7]


def test_all_bits_of_seed_epoch_and_index_count() -> None:
    one = torch.tensor([1])
    addresses = itertools.product((0, 1 << 20, 1 << 40, -1), (0, 1, 1 << 33), (one, one << 33))
    draws = [uniforms(seed, epoch, index, 0, 4) for seed, epoch, index in addresses]
    assert len({tuple(u[0].tolist()) for u in draws}) == 24


def test_values_are_pinned() -> None:
    """A change here changes every run that anybody has recorded."""
    u = uniforms(0, 0, torch.arange(3), 1, 2) * 2**24
    assert u.long().tolist() == [[13825771, 6221143], [2389781, 3648519], [16089356, 3178660]]
    assert permutation(0, 0, 8).tolist() == [1, 6, 2, 5, 7, 0, 4, 3]


def test_streams_differ_and_keep_their_numbers() -> None:
    """Also those that two names share, which an enumeration would take for one stream."""
    numbers = {name: int(stream) for name, stream in Stream.__members__.items()}
    assert len(set(numbers.values())) == len(numbers)
    symmetry = {"SYMMETRY_SHIFT": 100, "SYMMETRY_CROP": 101, "SYMMETRY_ROTATION": 102, "SYMMETRY_DIRECTION": 103}
    training = {"ORDER": 0, "AUGMENT": 1, "NOISE": 2, "ERASING": 3, "MIX": 4, "OWN": 5, "SAMPLING": 7_001}
    assert numbers == {**training, **symmetry, "SETS": 200}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_devices_agree_to_the_bit() -> None:
    index = torch.arange(1000) * 7_654_321
    u = uniforms(1, 2, index, 3, 100)
    assert torch.equal(uniforms(1, 2, index.cuda(), 3, 100).cpu(), u)
    torch.testing.assert_close(
        normals(1, 2, index.cuda(), 3, 100).cpu(), normals(1, 2, index, 3, 100), rtol=0, atol=2e-6
    )


def test_normals_are_normal() -> None:
    z = normals(1, 0, torch.arange(1001), 0, 101)
    assert z.shape == (1001, 101)
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-3
    r = torch.corrcoef(torch.stack((z[:, 0:100:2].flatten(), z[:, 1:101:2].flatten())))[0, 1]
    assert abs(r) < 4.5 / 50_050**0.5


def test_permutation_is_a_fair_shuffle() -> None:
    assert torch.equal(permutation(0, 0, 1000).sort().values, torch.arange(1000))
    assert not torch.equal(permutation(0, 0, 1000), permutation(0, 1, 1000))
    assert permutation(0, 0, 0).tolist() == []
    seen = [tuple(permutation(seed, 3, 4).tolist()) for seed in range(1200)]
    counts = [seen.count(order) for order in itertools.permutations(range(4))]
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("index", [torch.arange(3.0), torch.zeros(2, 2, dtype=torch.int64)])
def test_index_of_another_kind_is_refused(index: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="int64"):
        uniforms(0, 0, index, 0, 1)
