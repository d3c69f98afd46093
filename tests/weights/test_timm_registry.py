"""The variants under timm's roof."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import timm
import torch

from astroformer.errors import UserError
from astroformer.network import VARIANTS, Answers, AnswersConfig, Astroformer
from astroformer.weights import create_model


def test_timm_lists_every_variant() -> None:
    assert set(timm.list_models("astroformer*")) == set(VARIANTS)
    assert timm.is_model("astroformer_5")
    assert not timm.list_models("astroformer*", pretrained=True)


EVERY_WORD: dict[str, Any] = {
    "stem_width": 24,
    "widths": (32, 48, 64, 80),
    "depths": (1, 1, 2, 1),
    "layout": "CCTT",
    "strides": (2, 1, 2, 2, 1),
    "img_size": (64, 96),
    "in_chans": 2,
    "num_classes": 4,
    "channel_attention": "cbam",
    "relative_bias": False,
    "stochastic_depth": 0.1,
    "head_dropout": 0.2,
    "head_hidden": 24,
    "transformer": "hybrid",
    "head_width": 8,
    "mlp_ratio": 2,
    "group": "mirror",
    "equivariance": "centre",
    "symmetry": "shift+mirror",
    "views": 2,
}


def test_every_field_of_the_config_is_a_word() -> None:
    network = timm.create_model("astroformer_atto", **EVERY_WORD)
    assert isinstance(network, Answers)
    held = {**dataclasses.asdict(network.config), **dataclasses.asdict(network.answers)}
    assert held == {**EVERY_WORD, "frame": False}
    again = create_model("astroformer_atto", **EVERY_WORD)
    assert (again.config, again.answers) == (network.config, network.answers)
    assert network(torch.zeros(1, 2, 64, 96)).shape == (1, 4)


def test_a_framed_network_is_answers_and_one_that_is_asked_of_the_image_alone_is_not() -> None:
    network = timm.create_model("astroformer_atto", img_size=32, equivariance="frame").eval()
    assert isinstance(network, Answers)
    assert network.answers == AnswersConfig(frame=True)
    x_BCHW = torch.randn(2, 3, 32, 32)
    assert torch.equal(network(x_BCHW), network(x_BCHW.roll((3, 5), (2, 3))))
    assert isinstance(timm.create_model("astroformer_atto", img_size=32, symmetry="shift", views=8), Astroformer)
    with pytest.raises(UserError, match=r"unknown equivariance 'fram'.*Did you mean 'frame'"):
        timm.create_model("astroformer_atto", equivariance="fram")


def test_timm_finds_its_way_in_answers() -> None:
    network = timm.create_model("astroformer_atto", img_size=32, symmetry="shift+d4")
    assert network.get_submodule(network.default_cfg["classifier"]) is network.get_classifier()
    network.get_submodule(network.default_cfg["first_conv"])
    network.set_grad_checkpointing()
    network.reset_classifier(3)
    x_BCHW = torch.randn(2, 3, 32, 32)
    assert network(x_BCHW).shape == (2, network.num_classes) == (2, 3)
    assert network.forward_features(x_BCHW).shape[1] == network.num_features
    features_BC = network.forward_head(network.forward_features(x_BCHW), pre_logits=True)
    assert features_BC.shape == (2, network.head_hidden_size)
    assert network.no_weight_decay() <= {name for name, _ in network.named_parameters()}
    assert network.no_weight_decay()


def test_the_issues_example() -> None:
    with torch.device("meta"):
        network = timm.create_model(
            "astroformer_0", num_classes=10, in_chans=3, img_size=64, layout="CCTT", channel_attention="cbam"
        )
    assert (network.config.img_size, network.config.layout) == ((64, 64), "CCTT")


def test_timms_own_words_are_understood() -> None:
    network = timm.create_model("astroformer_atto", drop_rate=0.3, drop_path_rate=0.1, global_pool="avg")
    assert (network.config.head_dropout, network.config.stochastic_depth) == (0.3, 0.1)
    with pytest.raises(UserError, match="drop_rate and head_dropout"):
        timm.create_model("astroformer_atto", drop_rate=0.3, head_dropout=0.3)
    with pytest.raises(UserError, match="global_pool is 'max'"):
        timm.create_model("astroformer_atto", global_pool="max")


def test_a_linear_head_can_be_asked_for_through_timm() -> None:
    with torch.device("meta"):
        network = timm.create_model("astroformer_0", head_hidden=0)
    assert network.config.head_hidden is None


def test_pretrained_weights_are_refused() -> None:
    with pytest.raises(UserError, match="no weights of astroformer_atto are published"):
        timm.create_model("astroformer_atto", pretrained=True)


def test_unknown_words_and_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="Did you mean 'img_size'"):
        timm.create_model("astroformer_atto", image_size=64)
    with pytest.raises(UserError, match="Did you mean 'astroformer_pico'"):
        create_model("astroformer_pio")


def test_timm_resolves_the_data_config() -> None:
    network = timm.create_model("astroformer_atto", img_size=(48, 64))
    config = timm.data.resolve_model_data_config(network)
    assert config["input_size"] == (3, 48, 64)
    assert len(config["mean"]) == len(config["std"]) == 3
    grey = timm.data.resolve_model_data_config(timm.create_model("astroformer_atto", in_chans=1))
    assert grey["input_size"] == (1, 64, 64)
    assert len(grey["mean"]) == len(grey["std"]) == 1
    # The layers that timm replaces or freezes by name are there.
    network.get_submodule(network.default_cfg["first_conv"])
    assert network.get_submodule(network.default_cfg["classifier"]) is network.get_classifier()
