"""The fast path equals the plain network: every variant and setting, odd sizes, with and without native kernels."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from astroformer import fast_inference
from astroformer.fast_inference import FastInference

sys.path.insert(0, str(Path(__file__).parent / "network"))
from test_network_contract import CASES, build, config_of

SIZES = [((3, (64, 64))), (1, (40, 56)), (5, (97, 65))]


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
        network = build(config_of(name, setting, in_chans=channels, num_classes=7))
        images = torch.randn(3, channels, *size)
        with torch.no_grad():
            expected = network(images)
        got = FastInference(network)(images)
        torch.testing.assert_close(got, expected, rtol=0, atol=2e-5 * expected.abs().max().item())


@pytest.mark.parametrize(("name", "setting"), CASES)
def test_bfloat16_is_near_it(name: str, setting: str, kernels: str) -> None:
    network = build(config_of(name, setting))
    images = torch.randn(8, 3, 64, 64)
    with torch.no_grad():
        expected = network(images)
    got = FastInference(network, torch.bfloat16)(images)
    assert got.dtype == torch.float32
    # Rounded to 8 bits at every product; the answers of an untrained network hardly differ, so their size is the scale.
    assert (got - expected).abs().max() < 0.03 * expected.abs().max()
    assert not torch.equal(got, expected)
