"""What timm's own tests ask of a model (`benchmarks/timm_contract.sh` runs those), and more exactly: values, not shapes
alone, and networks of other structures than the variants have."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import timm.optim
import torch
from timm.layers import create_feature_extractor
from timm.models import FeatureInfo, group_parameters

from astroformer.errors import UserError
from astroformer.network import VARIANTS
from astroformer.weights import create_model
from helpers.structures import SETTINGS

GROUPED = {"group": "d4", "stem_width": 16, "widths": (16, 32, 48, 64), "head_width": 8, "head_hidden": 64}
STRUCTURES = {**SETTINGS, "tied": GROUPED}
TURNED = ("four views", "eight views")
VIEWED = (*TURNED, "mirror image")


def model(structure: str = "plain", **words: Any) -> Any:
    """Atto in eval mode, at the least size that all structures take."""
    torch.manual_seed(0)
    words = {"img_size": 32, "num_classes": 3, **STRUCTURES[structure], **words}
    said = {word: 0 if value is None else value for word, value in words.items()}  # timm drops what is None
    return timm.create_model("astroformer_atto", **said).eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


# -- what timm is told of a model ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
def test_the_description_of_a_variant_is_true(name: str) -> None:
    network: Any = timm.create_model(name, device="meta")
    said = network.pretrained_cfg
    assert network.default_cfg is said
    assert said["architecture"] == name
    assert said["input_size"] == (network.in_chans, *network.config.img_size)
    assert said["num_classes"] == network.num_classes == 10
    assert network.get_submodule(said["first_conv"]).in_channels == network.in_chans == 3
    assert network.get_submodule(said["classifier"]).out_features == 10
    features = network.forward_features(torch.zeros(1, *said["input_size"], device="meta"))
    assert features.shape == (1, network.num_features, *said["pool_size"])
    network.forward(torch.zeros(1, *said["min_input_size"], device="meta"))


def test_a_description_of_ones_own_is_taken() -> None:
    assert model(pretrained_cfg_overlay={"mean": (0.1, 0.2, 0.3)}).pretrained_cfg["mean"] == (0.1, 0.2, 0.3)
    assert model(pretrained_cfg={"crop_pct": 0.5}).pretrained_cfg["crop_pct"] == 0.5
    assert model(in_chans=1).pretrained_cfg["mean"] == (0.5,)


def test_unknown_words_are_a_type_error_as_of_any_function() -> None:
    for word in ("not_a_word", "out_indices"):  # the second is one of features_only
        with pytest.raises(TypeError, match=f"unknown network setting '{word}'"):
            model(**{word: 1})
    with pytest.raises(UserError, match="unknown network setting 'not_a_word'"):
        create_model("astroformer_atto", not_a_word=1)


@pytest.mark.parametrize("structure", ["plain", "frame", "tied"])
def test_a_device_and_a_type_are_those_of_all_weights(structure: str, images: torch.Tensor) -> None:
    network = model(structure, device="meta", dtype=torch.float64)
    tensors = [*network.parameters(), *network.buffers()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert {tensor.dtype for tensor in network.parameters()} == {torch.float64}
    network.reset_classifier(2)
    assert network.get_classifier().weight.dtype == torch.float64
    assert network.get_classifier().weight.is_meta
    half = model(structure)
    half(images)
    assert half.to(torch.bfloat16)(images.bfloat16()).dtype == torch.bfloat16


# -- the head --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("structure", ["plain", "linear head", "frame"])
def test_the_head_without_classifier_and_without_pooling(structure: str, images: torch.Tensor) -> None:
    network = model(structure, head_hidden=40) if structure == "frame" else model(structure)
    features = network.forward_features(images)
    under = network.forward_head(features, pre_logits=True)
    assert under.shape == (2, network.head_hidden_size)
    network.reset_classifier(0)
    assert network.num_classes == 0
    assert torch.equal(network(images), under)
    assert torch.equal(model(structure, num_classes=0, head_hidden=network.config.head_hidden)(images), under)
    assert network.global_pool == "avg"
    network.reset_classifier(0, "")
    assert network.global_pool == ""
    places = (2, network.head_hidden_size, *features.shape[2:])
    assert network(images).shape == places
    again = model(structure, num_classes=0, global_pool="", head_hidden=network.config.head_hidden)
    assert torch.equal(again(images), network(images))
    network.requires_grad_(False)
    network.reset_classifier(0, "avg")
    assert not any(parameter.requires_grad for parameter in network.parameters())
    torch.testing.assert_close(network(images), under)


def test_a_classifier_is_replaced_in_the_state_of_the_network() -> None:
    for training in (True, False):
        network = model(device="meta", dtype=torch.float64).train(training)
        network.reset_classifier(0)
        network.reset_classifier(2)
        classifier = network.get_classifier()
        assert (classifier.weight.is_meta, classifier.weight.dtype) == (True, torch.float64)
        assert all(module.training is training for module in network.modules())


# -- maps of the stages ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("structure", STRUCTURES)
def test_maps_are_those_that_the_network_makes(structure: str, images: torch.Tensor) -> None:
    network = model(structure)
    with torch.no_grad():
        expected = network.feature_maps(images)
        last, maps = network.forward_intermediates(images)
        assert torch.equal(last, network.forward_features(images))
        for kind in ("getter", "hook") if structure not in VIEWED else ("getter",):
            extractor = model(structure, features_only=True, feature_cls=kind)
            extractor.load_state_dict(model_state(network, extractor, kind))
            taken = extractor(images)
            assert len(taken) == len(expected) == len(maps) == 5
            for found in zip(taken, expected, maps, strict=True):
                torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
                torch.testing.assert_close(found[2], found[1], rtol=0, atol=0)
    info = FeatureInfo(network.feature_info, len(network.feature_info))
    assert info.channels() == [x_BCHW.shape[1] for x_BCHW in expected]
    for reduction, x_BCHW in zip(info.reduction(), expected, strict=True):
        assert x_BCHW.shape[2:] == (-(-32 // reduction),) * 2
    for name in info.module_name():
        network.get_submodule(name)


def model_state(network: Any, extractor: Any, kind: str) -> dict[str, torch.Tensor]:
    """The weights of a network by the names that they have in timm's module around another one."""
    within = {"getter": "model.", "hook": "body."}[kind]
    return {name: network.state_dict()[name.removeprefix(within)] for name in extractor.state_dict()}


def test_some_maps_and_no_more_than_them(images: torch.Tensor) -> None:
    network = model(layout="CCTT")
    with torch.no_grad():
        every = network.forward_intermediates(images, intermediates_only=True)
        some = network.forward_intermediates(images, indices=[1, -1], intermediates_only=True)
        assert [torch.equal(x, y) for x, y in zip(some, [every[1], every[4]], strict=True)] == [True, True]
        assert len(network.forward_intermediates(images, indices=2, norm=True, intermediates_only=True)) == 2
        stopped, (second,) = network.forward_intermediates(images, indices=[2], stop_early=True)
        assert torch.equal(stopped, every[2])
        assert torch.equal(second, every[2])
    assert [x.shape[1] for x in model(features_only=True, out_indices=(0, 3))(images)] == [16, 80]
    with pytest.raises(UserError, match="unknown output_fmt 'NHWC'"):
        network.forward_intermediates(images, output_fmt="NHWC")
    with pytest.raises(UserError, match="unknown feature_cls 'list'"):
        model(features_only=True, feature_cls="list")
    with pytest.raises(UserError, match=r"'hook' would give the maps of every view of symmetry 'shift\+d4'"):
        model("four views", features_only=True, feature_cls="hook")


@pytest.mark.parametrize("structure", ["plain", "anchor", "frame", "tied"])
def test_a_pruned_network_makes_the_maps_that_are_left(structure: str, images: torch.Tensor) -> None:
    network = model(structure)
    with torch.no_grad():
        logits = network(images)
        maps = network.forward_intermediates(images, intermediates_only=True)
        whole = copy.deepcopy(network)
        assert whole.prune_intermediate_layers([-1], prune_head=False) == [4]
        assert torch.equal(whole(images), logits)
    for index, expected in enumerate(maps):
        pruned = copy.deepcopy(network)
        assert pruned.prune_intermediate_layers([index], prune_norm=True) == [index]
        with torch.no_grad():
            assert torch.equal(pruned.forward_features(images), expected)
            assert torch.equal(pruned(images), expected)
            pruned.reset_classifier(0, "avg")
            torch.testing.assert_close(pruned(images), expected.mean((2, 3)))
        pruned.reset_classifier(7)
        assert pruned(images).shape == (2, 7)
        assert pruned.head_hidden_size == pruned.num_features == expected.shape[1]
        pruned.train()(images).sum().backward()
        assert all(parameter.grad is not None for parameter in pruned.parameters())


def test_checkpointing_leaves_the_maps_and_gradients_as_they_are(images: torch.Tensor) -> None:
    plain, saving = model().train(), model().train()
    saving.set_grad_checkpointing()
    for network in (plain, saving):
        sum(x.square().mean() for x in network.forward_intermediates(images, intermediates_only=True)).backward()
    for name, parameter in plain.named_parameters():
        if not name.startswith("head."):
            torch.testing.assert_close(saving.get_parameter(name).grad, parameter.grad)


# -- groups of layers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("structure", ["plain", "frame"])
def test_groups_follow_the_network_from_the_input_to_the_head(structure: str) -> None:
    network = model(structure)
    within = "network." if structure == "frame" else ""
    depths = network.config.depths
    for coarse, blocks in ((True, len(depths)), (False, sum(depths))):
        group_of = group_parameters(network, network.group_matcher(coarse), reverse=True)
        assert set(group_of) == {name for name, _ in network.named_parameters()}
        assert group_of[f"{within}stem.conv1.weight"] == 0
        assert group_of[f"{within}stages.3.1.mlp.expand.weight"] == blocks
        assert group_of[f"{within}head.classifier.bias"] == blocks + 1
        order = [group_of[name] for name, _ in network.named_parameters()]
        assert order == sorted(order)
    assert network.no_weight_decay() == {f"{within}stages.3.{k}.attention.position_bias.table" for k in (0, 1)}


def test_timms_optimizer_decays_learning_rates_by_layer() -> None:
    optimizer = timm.optim.create_optimizer_v2(model(), opt="adamw", lr=1.0, layer_decay=0.5)
    scales = {group["lr_scale"] for group in optimizer.param_groups}
    assert scales == {0.5**k for k in range(1 + sum(VARIANTS["astroformer_atto"].depths) + 1)}


# -- graphs ----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:NOTE. The nodes obtained by tracing")
@pytest.mark.parametrize("structure", [name for name in STRUCTURES if name not in TURNED])
def test_a_graph_of_torch_fx_answers_alike_at_any_size(structure: str, images: torch.Tensor) -> None:
    network = model(structure)
    within = "network." if hasattr(network, "network") else ""
    graph = create_feature_extractor(network, {f"{within}stages.1": "map", f"{within}head": "logits"})
    for some in (images, torch.cat([images, images], 3)[:1]):
        with torch.no_grad():
            found, logits = graph(some), network(some)
        views = 2 if structure == "mirror image" else 1
        torch.testing.assert_close(found["logits"].unflatten(0, (views, -1)).mean(0), logits, rtol=0, atol=1e-6)
        assert found["map"].shape[1] == network.config.widths[1]
    graph.train()(images)["logits"].sum().backward()
    assert all(parameter.grad is not None for parameter in graph.parameters())


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="torch has no TorchScript for this Python")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("structure", ["CCTT", "hybrid CCTT, cbam, no bias", "regularized", "mirror image", "tied"])
def test_torchscript_answers_alike_at_any_size(structure: str, images: torch.Tensor, tmp_path: Path) -> None:
    network = model(structure)
    torch.jit.save(torch.jit.script(network), tmp_path / "network.pt")
    scripted = torch.jit.load(tmp_path / "network.pt")
    for some in (images, torch.cat([images, images], 3)[:1]):
        with torch.no_grad():
            torch.testing.assert_close(scripted(some), network(some), rtol=0, atol=1e-6)


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="torch has no TorchScript for this Python")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("structure", ["anchor", "centre", "frame", "four views"])
def test_what_torchscript_has_no_words_for_is_said(structure: str) -> None:
    with pytest.raises(UserError, match=r"TorchScript can't say.*torch\.export\.export"):
        torch.jit.script(model(structure))
