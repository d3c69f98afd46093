"""The config: JSON and back, and a sentence for each thing no network can be built from."""

from __future__ import annotations

import dataclasses
import json

import pytest

from astroformer.errors import UserError
from astroformer.network import VARIANTS, AstroformerConfig, create_network


@pytest.mark.parametrize("name", VARIANTS)
def test_a_config_survives_json(name: str) -> None:
    config = dataclasses.replace(VARIANTS[name], img_size=(96, 160), stochastic_depth=0.1, layout="CCTT")
    assert AstroformerConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_img_size_is_a_number_or_a_pair() -> None:
    base = VARIANTS["astroformer_0"]
    assert dataclasses.replace(base, img_size=96).img_size == (96, 96)
    assert dataclasses.replace(base, img_size=[64, 96]).img_size == (64, 96)


def test_head_hidden_zero_means_none() -> None:
    # timm.create_model drops settings that are None, so that None alone could not be said through it.
    assert dataclasses.replace(VARIANTS["astroformer_0"], head_hidden=0).head_hidden is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"layout": "CCXT"}, ["layout", "'CCXT'", "C", "T"]),
        ({"layout": "CCC"}, ["layout", "'CCC'", "four letters"]),
        ({"layout": "CCTT", "widths": (96, 192, 100, 768)}, ["S3", "100", "multiple of head_width (32)"]),
        ({"widths": (96, 192, 384)}, ["widths", "(96, 192, 384)", "4 integers"]),
        ({"widths": (96, 192, 384, 0)}, ["widths", "at least 1"]),
        ({"depths": (1, 1, 0, 1)}, ["depths", "at least 1"]),
        ({"strides": (4, 2, 2, 2, 2)}, ["strides", "(4, 2, 2, 2, 2)", "1 or 2"]),
        ({"in_chans": 0}, ["in_chans is 0", "at least 1"]),
        ({"num_classes": -1}, ["num_classes is -1", "at least 0"]),
        ({"img_size": 31}, ["img_size is 31x31", "32x32"]),
        ({"img_size": (64, 16)}, ["img_size is 64x16", "32x32"]),
        ({"img_size": 64.0}, ["img_size is 64.0", "integers"]),
        ({"transformer": "hybird"}, ["transformer 'hybird'", "Did you mean 'hybrid'"]),
        ({"transformer": "hybrid", "layout": "CCCC"}, ["'hybrid'", "'CCCC' has no Transformer stage", "'CCCT'"]),
        ({"channel_attention": "cbma"}, ["channel_attention 'cbma'", "Did you mean 'cbam'"]),
        ({"relative_bias": 1}, ["relative_bias is 1", "true or false"]),
        ({"stochastic_depth": 1.0}, ["stochastic_depth is 1.0", "below 1"]),
        ({"head_dropout": -0.1}, ["head_dropout is -0.1", "at least 0"]),
        ({"head_hidden": -5}, ["head_hidden is -5", "at least 1"]),
        ({"layuot": "CCCT"}, ["'layuot'", "Did you mean 'layout'"]),
    ],
)
def test_an_impossible_setting_is_refused_in_a_sentence(settings: dict[str, object], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        create_network("astroformer_0", **settings)
    assert all(word in str(caught.value) for word in words), caught.value


def test_an_unknown_variant_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="Did you mean 'astroformer_nano'"):
        create_network("astroformer_nanno")


def test_from_dict_names_what_is_unknown_and_what_lacks() -> None:
    settings = VARIANTS["astroformer_0"].to_dict()
    with pytest.raises(UserError, match=r"'depth'.*Did you mean 'depths'"):
        AstroformerConfig.from_dict({**settings, "depth": 3})
    del settings["widths"]
    with pytest.raises(UserError, match="lacks widths"):
        AstroformerConfig.from_dict(settings)


@pytest.mark.parametrize("name", ["astroformer_atto", "astroformer_pico", "astroformer_nano"])
@pytest.mark.parametrize("side", [28, 32])
def test_small_variants_keep_four_by_four_tokens(name: str, side: int) -> None:
    assert VARIANTS[name].map_sizes((side, side))[-1] == (4, 4)
    assert VARIANTS[name].min_size <= 28
