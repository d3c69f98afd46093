"""The fast path equals the plain network: every variant and setting, odd sizes, with and without native kernels."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from astroformer import fast_inference
from astroformer.errors import UserError
from astroformer.fast_inference import FastInference
from astroformer.fast_pass import fast_pass
from helpers.circular import made_circular
from helpers.lively import lively

sys.path.insert(0, str(Path(__file__).parent / "network"))
from test_network_contract import CASES, config_of, fitting, network_of

SIZES = [(3, (64, 64)), (1, (40, 56)), (5, (97, 65))]


@pytest.fixture(params=["native", "torch"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "torch":
        monkeypatch.setattr(fast_inference, "library", lambda name: None)
    elif fast_inference.library("inference") is None:
        pytest.skip("no compiler here")
    return str(request.param)


@pytest.mark.parametrize(("name", "setting"), CASES)
def test_float32_equals_the_plain_network(name: str, setting: str, kernels: str) -> None:
    for channels, size in SIZES:
        network = network_of(name, setting, in_chans=channels, num_classes=7)
        images = torch.randn(3, channels, *fitting(network, size))
        with torch.no_grad():
            expected = network(images)
        got = fast_pass(network)(images)
        torch.testing.assert_close(got, expected, rtol=0, atol=2e-5 * expected.abs().max().item())


@pytest.mark.parametrize(("name", "setting"), CASES)
def test_circular_maps_too(name: str, setting: str, kernels: str) -> None:
    # torch wraps round once only, and the widest window, that of CBAM, reaches three pixels beyond the map.
    for size in [(96, 96), (128, 160)] if setting == "cbam" else [(32, 32), (64, 96)]:
        network = made_circular(network_of(name, setting))
        images = torch.randn(2, 3, *fitting(network, size))
        with torch.no_grad():
            expected = network(images)
        got = fast_pass(network)(images)
        torch.testing.assert_close(got, expected, rtol=0, atol=2e-5 * expected.abs().max().item())


@pytest.mark.parametrize(("height", "width", "stride"), [(1, 1, 1), (1, 3, 1), (2, 2, 2), (7, 9, 1), (8, 12, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_middle_of_a_block_shifts_with_its_map(
    height: int, width: int, stride: int, dtype: torch.dtype, kernels: str
) -> None:
    middle = fast_inference._Operations(dtype, on_cpu=True).middle
    y_BHWM = torch.randn(2, height, width, 48).to(dtype)
    others = torch.randn(48), torch.randn(9, 48), torch.randn(48)
    z_BHWM, means_BM = middle(y_BHWM, *others, stride, circular=True)
    for down in range(0, height, stride):
        for right in range(0, width, stride):
            shifted_BHWM, shifted_BM = middle(y_BHWM.roll((down, right), (1, 2)), *others, stride, circular=True)
            expected_BHWM = z_BHWM.roll((down // stride, right // stride), (1, 2))
            if kernels == "native":
                assert torch.equal(shifted_BHWM, expected_BHWM)
            torch.testing.assert_close(shifted_BHWM, expected_BHWM)
            torch.testing.assert_close(shifted_BM, means_BM, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "setting"), CASES)
def test_bfloat16_is_as_near_as_autocast(name: str, setting: str, kernels: str) -> None:
    network = network_of(name, setting)
    images = torch.randn(8, 3, 64, 64)
    with torch.no_grad():
        exact = network(images)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = network(images).float()
    got = fast_pass(network, torch.bfloat16)(images)
    assert got.dtype == torch.float32
    assert not torch.equal(got, exact)
    assert (got - exact).square().mean().sqrt() < 1.5 * (rounded - exact).square().mean().sqrt()


def test_pieces_of_a_batch_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    network = lively(config_of("astroformer_atto", "plain"))
    images = torch.randn(7, 3, 48, 80)
    whole = FastInference(network)(images)
    monkeypatch.setattr(fast_inference, "_MAP_VALUES", 1)  # an image each
    torch.testing.assert_close(FastInference(network)(images), whole, rtol=0, atol=2e-5 * whole.abs().max().item())


def test_many_tokens_go_another_way(monkeypatch: pytest.MonkeyPatch) -> None:
    network = lively(config_of("astroformer_atto", "CCTT"))
    images = torch.randn(2, 3, 64, 64)
    few = FastInference(network)(images)
    monkeypatch.setattr(fast_inference, "_MOST_TOKENS", 1)
    torch.testing.assert_close(FastInference(network)(images), few, rtol=0, atol=2e-5 * few.abs().max().item())


def test_the_network_is_copied_and_left_as_it_is() -> None:
    network = lively(config_of("astroformer_atto", "cbam")).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    images = torch.randn(2, 3, 32, 32)
    fast = FastInference(network)
    first = fast(images)
    assert network.training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.zero_()
    assert torch.equal(fast(images), first)


def test_wrong_images_are_refused_as_the_network_refuses_them() -> None:
    fast = FastInference(lively(config_of("astroformer_atto", "plain")))
    with pytest.raises(UserError, match=r"\(1, 1, 64, 64\).*takes \(batch, 3"):
        fast(torch.zeros(1, 1, 64, 64))
    with pytest.raises(UserError, match=r"16x64 pixels.*at least 25x25"):
        fast(torch.zeros(1, 3, 16, 64))
