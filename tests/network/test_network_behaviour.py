"""What a network does beside computing logits: initial weights, regularization, checkpointing, a new head."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from astroformer.errors import UserError
from astroformer.network import create_network
from astroformer.network.blocks import HalvingPool, HybridBlock, MBConv, StochasticDepth, TransformerBlock


def test_initial_weights_are_drawn_as_the_released_ones() -> None:
    torch.manual_seed(0)
    conv = MBConv(width=64, out_width=96, stride=2, attention="se", drop=0.0)
    # sigma^2 = 2 / fan_out, fan_out divided by the groups.
    for layer, fan_out in ((conv.expand, 384), (conv.project, 96), (conv.depthwise, 9)):
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.05)
    assert conv.project.bias is not None
    assert not conv.project.bias.any()

    transformer = TransformerBlock(
        width=64, out_width=96, stride=2, head_width=32, mlp_ratio=4, map_size=(8, 8), drop=0.0
    )
    bound = math.sqrt(6 / (64 + 3 * 96))
    assert transformer.attention.qkv.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert not transformer.attention.qkv.bias.any()
    assert 0 < transformer.mlp.expand.bias.std() < 2e-6
    assert transformer.attention.position_bias is not None
    assert transformer.attention.position_bias.table.std().item() == pytest.approx(0.02, rel=0.1)


def test_what_attention_of_a_hybrid_block_adds_first_is_a_blur_of_what_is_near() -> None:
    torch.manual_seed(0)
    network = create_network("astroformer_atto", transformer="hybrid", head_width=8, channel_attention="none").eval()
    block = network.stages[3][1]
    assert isinstance(block, HybridBlock)
    x_BCHW = torch.randn(2, 96, 8, 8)
    with torch.no_grad():
        convolved_BCHW = block.mbconv(x_BCHW)
        block.gamma.fill_(0.1)
        mixed_BCHW = block(x_BCHW)
        attention = block.attention
        assert attention.position_bias is not None
        bias_NLL = attention.position_bias(8, 8)
        normed_BHWC = block.norm(convolved_BCHW.permute(0, 2, 3, 1))
        blurred_BNLD = bias_NLL.softmax(-1) @ (
            attention.qkv(normed_BHWC).view(2, 64, 8, 3, 8)[:, :, :, 2].transpose(1, 2)
        )
        blurred_BHWC = attention.project(blurred_BNLD.transpose(1, 2).reshape(2, 8, 8, 64))
    # Queries and keys hardly matter: what is added is near a tenth of the fixed blur.
    added_BHWC = (mixed_BCHW - convolved_BCHW).permute(0, 2, 3, 1)
    assert (added_BHWC - 0.1 * blurred_BHWC).std() < 0.02 * added_BHWC.std()
    # Heads of four kinds: -a d^2 with each head's own a, over the places of the map.
    middle, beside, across = 8 * 4 + 4, 8 * 4 + 5, 8 * 5 + 6
    strengths = torch.tensor([0.3, 3.0, 0.1, 1.0]).repeat(2)
    torch.testing.assert_close(bias_NLL[:, middle, middle], torch.zeros(8))
    torch.testing.assert_close(bias_NLL[:, middle, beside], -strengths)
    torch.testing.assert_close(bias_NLL[:, across, middle], -5 * strengths)


def test_a_torus_has_the_nearer_way_to_each_place() -> None:
    settings = {"transformer": "hybrid", "head_width": 8, "equivariance": "anchor"}
    network = create_network("astroformer_atto", **settings)
    bias_NLL = network.stages[3][1].attention.position_bias(8, 8)
    assert bias_NLL[3, 0, [0, 1, 4, 7, 8, 63]].tolist() == [0, -1, -16, -1, -1, -2]


def test_a_fresh_hybrid_network_is_the_convolutional_one() -> None:
    """To the bit, forward and backward; of its attention the gammas alone have a gradient then."""
    hybrid = create_network("astroformer_atto", transformer="hybrid", head_width=8, img_size=32)
    plain = create_network("astroformer_atto", layout="CCCC", img_size=32)

    def shared(name: str) -> str | None:
        """What the plain network calls a weight; None for those of the attention."""
        return name.replace("mbconv.", "") if "mbconv" in name or not name.startswith("stages.3.1") else None

    plain.load_state_dict({shared(name): weight for name, weight in hybrid.state_dict().items() if shared(name)})
    images = torch.randn(4, 3, 32, 32)
    outputs = [network(images) for network in (hybrid, plain)]
    assert torch.equal(outputs[0], outputs[1])
    for output in outputs:
        output.square().sum().backward()
    gradients = {shared(name): weight.grad for name, weight in hybrid.named_parameters()}
    for name, weight in plain.named_parameters():
        assert weight.grad is not None
        torch.testing.assert_close(gradients[name], weight.grad)
    assert hybrid.stages[3][1].gamma.grad.abs().min() > 0  # they learn at once


@pytest.mark.parametrize("size", [1, 2, 7, 8, 33])
def test_pooling_and_strided_convolution_halve_alike(size: int) -> None:
    x = torch.ones(1, 1, size, size)
    pooled = HalvingPool()(x)
    assert pooled.shape == nn.Conv2d(1, 1, 3, stride=2, padding=1)(x).shape
    assert torch.equal(pooled, torch.ones_like(pooled))  # no zeros are averaged in at an odd edge


def test_stochastic_depth_grows_linearly_over_the_blocks() -> None:
    network = create_network("astroformer_atto", stochastic_depth=0.7, layout="CCTT")
    rates = [m.rate for m in network.modules() if isinstance(m, StochasticDepth)]
    assert rates == pytest.approx([0.7 * i / 7 for i in range(8)])


def test_stochastic_depth_drops_whole_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    drop = StochasticDepth(0.25)
    x = torch.ones(4000, 2, 3)
    out = drop(x)
    assert out.unique().tolist() == pytest.approx([0, 4 / 3])
    assert torch.equal(out.amin((1, 2)), out.amax((1, 2)))
    assert out.mean().item() == pytest.approx(1, abs=0.03)
    assert torch.equal(drop.eval()(x), x)


def test_head_dropout_works_in_training_alone() -> None:
    torch.manual_seed(0)
    network = create_network("astroformer_atto", head_dropout=0.5)
    features = torch.randn(8, network.num_features, 4, 4)
    dropped = network.forward_head(features, pre_logits=True)
    assert 0.4 < (dropped == 0).float().mean() < 0.6
    assert (network.eval().forward_head(features, pre_logits=True) != 0).all()


@pytest.mark.parametrize("hidden", [None, 40])
def test_forward_is_features_then_head(hidden: int | None) -> None:
    network = create_network("astroformer_atto", head_hidden=hidden, num_classes=5).eval()
    images = torch.randn(2, 3, 64, 64)
    features = network.forward_features(images)
    assert features.shape == (2, network.num_features, 8, 8)
    assert torch.equal(features, network.feature_maps(images)[-1])
    assert torch.equal(network.forward_head(features), network(images))
    pre_logits = network.forward_head(features, pre_logits=True)
    assert pre_logits.shape == (2, hidden or network.num_features) == (2, network.head_hidden_size)
    assert torch.equal(network.get_classifier()(pre_logits), network(images))


def test_reset_classifier_replaces_the_last_layer_alone() -> None:
    network = create_network("astroformer_atto").double().eval()
    before = copy.deepcopy(network.state_dict())
    network.reset_classifier(3)
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    assert network(images).shape == (2, 3)
    assert network.config.num_classes == network.num_classes == 3
    changed = [name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])]
    assert changed == ["head.classifier.weight", "head.classifier.bias"]
    network.reset_classifier(0)
    assert network(images).shape == (2, network.num_features)
    with pytest.raises(UserError, match="global_pool is 'max'"):
        network.reset_classifier(3, "max")


@pytest.mark.parametrize("hidden", [None, 40])
def test_a_head_without_the_mean_answers_at_each_place_of_the_map(hidden: int | None) -> None:
    network = create_network("astroformer_atto", head_hidden=hidden, num_classes=5).eval()
    features_BCHW = network.forward_features(torch.randn(2, 3, 48, 64))
    network.reset_classifier(3, "")
    logits_BKHW = network.forward_head(features_BCHW)
    assert logits_BKHW.shape == (2, 3, 6, 8)
    assert network.forward_head(features_BCHW, pre_logits=True).shape == (2, network.head_hidden_size, 6, 8)
    network.reset_classifier(0)  # the mean stays away until it is asked for again
    assert network.forward_head(features_BCHW).shape == (2, network.head_hidden_size, 6, 8)
    network.reset_classifier(3, "avg")
    place_B3 = network.forward_head(features_BCHW[:, :, 2:3, 5:6])  # the mean over one place is that place
    network.head.pooled = False
    torch.testing.assert_close(network.forward_head(features_BCHW)[:, :, 2, 5], place_B3)


def test_checkpointing_changes_memory_and_nothing_else() -> None:
    plain = create_network("astroformer_atto", layout="CCTT", stochastic_depth=0.5)
    saving = copy.deepcopy(plain)
    saving.set_grad_checkpointing()
    images = torch.randn(4, 3, 64, 64)
    kept = []
    for network in (plain, saving):
        held = 0

        def count(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal held
            held += tensor.numel()
            return tensor

        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = network(images).square().sum()
        kept.append(held)
        loss.backward()
    assert kept[1] < kept[0] / 4
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name
    for (name, a), b in zip(plain.named_buffers(), saving.buffers(), strict=True):
        assert torch.equal(a, b), name  # running statistics too: the second pass must not count again


def test_weight_decay_spares_the_bias_tables() -> None:
    network = create_network("astroformer_atto", layout="CCTT")
    spared = network.no_weight_decay()
    assert len(spared) == 5
    assert spared == {name for name, p in network.named_parameters() if p.ndim == 3}
    assert not create_network("astroformer_atto", relative_bias=False).no_weight_decay()
