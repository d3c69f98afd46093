from __future__ import annotations

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn

from astroformer.network import create_network
from astroformer.training.steps.averaging import AveragedNetwork, _StateTensors


def test_equals_timms_average_to_the_bit() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    ours, theirs = AveragedNetwork(network), ModelEmaV3(network, decay=0.0)
    assert not ours.module.training
    for step in range(4):
        network(torch.randn(8, 2, 4, 4))
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += torch.randn_like(parameter)
        theirs.decay = 0.3 * step
        ours.update(network, 1.0 - theirs.decay)
        theirs.update(network)
    expected = theirs.module.state_dict()
    assert {k: v.tolist() for k, v in ours.module.state_dict().items()} == {k: v.tolist() for k, v in expected.items()}
    assert int(expected["1.num_batches_tracked"]) == 4
    assert not torch.equal(expected["1.running_mean"], network.state_dict()["1.running_mean"])


def test_a_network_without_batch_norms_is_averaged_too() -> None:
    network = nn.Linear(3, 2)
    average = AveragedNetwork(network)
    before = network.weight.detach().clone()
    with torch.no_grad():
        network.weight += 1.0
    average.update(network, 0.75)
    torch.testing.assert_close(average.module.weight, before + 0.75)
    average.update(network, torch.tensor(0.5))
    torch.testing.assert_close(average.module.weight, before + 0.875)


@pytest.mark.parametrize("name", ["astroformer_atto", "astroformer_3"])
def test_averages_what_the_state_dict_holds(name: str) -> None:
    """Fails if torch keeps parameters and buffers elsewhere than it does, or knows other ones as persistent."""
    with torch.device("meta"):
        network = create_network(name, channel_attention="cbam")
    network.register_buffer("of_no_state", torch.zeros(2), persistent=False)
    network.register_buffer("empty", None)
    network.register_buffer("steps", torch.zeros((), dtype=torch.int64))
    found = _StateTensors(network)
    network.steps = torch.ones((), dtype=torch.int64)  # another tensor under the same name
    floating, whole = found.now()
    state = network.state_dict(keep_vars=True).values()
    assert {id(tensor) for tensor in floating} == {id(tensor) for tensor in state if tensor.is_floating_point()}
    assert {id(tensor) for tensor in whole} == {id(tensor) for tensor in state if not tensor.is_floating_point()}
    assert any(tensor is network.steps for tensor in whole)
    assert len(floating) + len(whole) == len(state)
