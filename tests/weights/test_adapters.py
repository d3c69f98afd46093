"""The proof: with the same weights the logits are those of timm's MaxxVit, and weights travel both ways unchanged."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from astroformer.errors import UserError
from astroformer.network import VARIANTS, Astroformer, create_network
from astroformer.weights import from_maxxvit, from_released, maxxvit_reference, to_maxxvit


def trained_looking(network: nn.Module) -> nn.Module:
    """Statistics, norms and tables as training leaves them, not the neutral ones of a fresh network."""
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif name.endswith(("running_mean", "table")):
            tensor.normal_(std=0.5)
        elif "norm" in name and tensor.ndim == 1:
            tensor.add_(torch.randn_like(tensor), alpha=0.3)
    return network.double().eval()


CASES: list[tuple[str, dict[str, Any]]] = [
    *[(f"astroformer_{i}", {"img_size": side}) for i in (0, 1, 2) for side in (64, 96)],
    ("astroformer_atto", {"img_size": (64, 96)}),
    ("astroformer_nano", {}),
    ("astroformer_pico", {"layout": "CCTT", "in_chans": 1, "num_classes": 3}),
    ("astroformer_atto", {"layout": "TTTT", "strides": (1, 2, 2, 1, 2)}),
    ("astroformer_atto", {"layout": "TCTC", "channel_attention": "none", "relative_bias": False, "head_hidden": 50}),
]


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_logits_equal_those_of_timms_maxxvit(name: str, settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    network = create_network(name, **settings)
    trained_looking(network)
    config = network.config
    reference = maxxvit_reference(config).double().eval()
    reference.load_state_dict(to_maxxvit(network.state_dict(), config))
    images = torch.randn(1, config.in_chans, *config.img_size, dtype=torch.float64)
    with torch.no_grad():
        ours, theirs = network(images), reference(images)
    assert ours.std() > 0.01
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_weights_of_timm_give_timms_logits() -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(VARIANTS["astroformer_0"], img_size=64)
    reference = trained_looking(maxxvit_reference(config))
    network = Astroformer(config).double().eval()
    network.load_state_dict(from_maxxvit(reference.state_dict(), config))
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(network(images), reference(images), rtol=0, atol=1e-10)


@pytest.mark.parametrize("layout", ["CCCT", "TTTT"])
def test_weights_come_back_to_the_bit(layout: str) -> None:
    network = create_network("astroformer_atto", layout=layout)
    state = network.state_dict()
    back = from_maxxvit(to_maxxvit(state, network.config), network.config)
    assert list(back) == list(state)
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("name", ["astroformer_3", "astroformer_4", "astroformer_5"])
def test_large_variants_have_the_names_and_shapes_of_maxxvit(name: str) -> None:
    config = VARIANTS[name]
    with torch.device("meta"):
        ours, theirs = Astroformer(config).state_dict(), maxxvit_reference(config).state_dict()
    carried = to_maxxvit(ours, config)
    assert {key: tensor.shape for key, tensor in carried.items()} == {key: t.shape for key, t in theirs.items()}
    back = from_maxxvit(theirs, config)
    assert {key: tensor.shape for key, tensor in back.items()} == {key: t.shape for key, t in ours.items()}


# A few names and shapes of the released variant 0 (224 px, 10 classes), written down from its code.
RELEASED = {
    "stem.conv1.weight": (64, 3, 3, 3),
    "stem.norm1.running_mean": (64,),
    "stages.0.blocks.0.shortcut.expand.weight": (96, 64, 1, 1),
    "stages.1.blocks.2.pre_norm.weight": (192,),
    "stages.2.blocks.4.conv1_1x1.weight": (1536, 384, 1, 1),
    "stages.2.blocks.4.conv2_kxk.weight": (1536, 1, 3, 3),
    "stages.2.blocks.4.se.fc1.weight": (96, 1536, 1, 1),
    "stages.2.blocks.4.conv3_1x1.bias": (384,),
    "stages.3.blocks.0.norm1.norm.weight": (384,),
    "stages.3.blocks.0.attn.qkv.weight": (2304, 384, 1, 1),
    "stages.3.blocks.0.attn.rel_pos.relative_position_bias_table": (169, 24),
    "stages.3.blocks.1.norm1.weight": (768,),
    "stages.3.blocks.1.mlp.fc2.weight": (768, 3072, 1, 1),
    "head.norm.weight": (768,),
    "head.pre_logits.fc.weight": (768, 768),
    "head.fc.bias": (10,),
}


def test_released_names_and_shapes() -> None:
    with torch.device("meta"):
        network = create_network("astroformer_0")
    carried = to_maxxvit(network.state_dict(), network.config)
    assert {name: tuple(carried[name].shape) for name in RELEASED} == RELEASED


@pytest.mark.parametrize("key", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_released_checkpoints_load_in_every_wrapping(key: str | None, prefix: str) -> None:
    network = create_network("astroformer_atto")
    state = network.state_dict()
    weights = {prefix + name: tensor for name, tensor in to_maxxvit(state, network.config).items()}
    weights[f"{prefix}stages.3.blocks.0.attn.rel_pos.relative_position_index"] = torch.arange(4)  # older timm's
    checkpoint: dict[str, Any] = weights if key is None else {"epoch": 3, key: weights}
    back = from_released(checkpoint, network.config)
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


def test_weights_that_do_not_fit_are_listed() -> None:
    network = create_network("astroformer_atto", num_classes=10)
    weights = to_maxxvit(network.state_dict(), network.config)
    with pytest.raises(UserError, match=r"2 of another shape: head\.fc\.weight \(10, 96\) instead of \(3, 96\)"):
        from_released(weights, dataclasses.replace(network.config, num_classes=3))
    with pytest.raises(UserError, match=r"relative_position_bias_table \(225, 6\) instead of \(529, 6\)"):
        from_released(weights, dataclasses.replace(network.config, img_size=96))
    del weights["stem.norm1.weight"]
    weights["extra"] = torch.zeros(1)
    with pytest.raises(UserError, match=r"1 missing: stem\.norm1\.weight; 1 unexpected: extra"):
        from_released(weights, network.config)
    with pytest.raises(UserError, match="no state dict"):
        from_released({"epoch": 3}, network.config)
    with pytest.raises(UserError, match="missing"):
        to_maxxvit({}, network.config)


def test_what_maxxvit_cannot_be_is_refused() -> None:
    config = VARIANTS["astroformer_atto"]
    with pytest.raises(UserError, match="cbam"):
        maxxvit_reference(dataclasses.replace(config, channel_attention="cbam"))
    with pytest.raises(UserError, match="hybrid"):
        maxxvit_reference(dataclasses.replace(config, transformer="hybrid"))
    with pytest.raises(UserError, match="equivariance is 'anchor'"):
        to_maxxvit({}, dataclasses.replace(config, equivariance="anchor"))
    with pytest.raises(UserError, match="group is 'mirror'"):
        to_maxxvit({}, dataclasses.replace(config, group="mirror"))
    with pytest.raises(UserError, match="multiples of 8"):
        maxxvit_reference(dataclasses.replace(config, img_size=60))
    with pytest.raises(UserError, match="even"):
        maxxvit_reference(dataclasses.replace(config, widths=(33, 48, 80, 96)))


def test_the_reference_has_the_regularization_of_the_config() -> None:
    config = dataclasses.replace(VARIANTS["astroformer_atto"], stochastic_depth=0.7, head_dropout=0.2, layout="CCTT")
    reference: Any = maxxvit_reference(config)
    assert reference.head.drop.p == 0.2
    assert reference.stages[3].blocks[-1].drop_path1.drop_prob == pytest.approx(0.7)
    assert reference.stages[1].blocks[0].drop_path.drop_prob == pytest.approx(0.1)
