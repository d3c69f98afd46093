"""Group-equivariant networks: what flips and turns of the image do to logits, maps, weights and gradients."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from astroformer.errors import UserError
from astroformer.fast_inference import FastInference
from astroformer.network import AnswersConfig, AstroformerConfig, Tie, create_network
from astroformer.network.config import split_words
from astroformer.network.views import d4_views
from helpers.lively import lively

SETTINGS: dict[str, dict[str, Any]] = {
    "CCCC": {"layout": "CCCC", "channel_attention": "none"},
    "se": {"layout": "CCCC"},
    "cbam": {"layout": "CCCC", "channel_attention": "cbam"},
    "CCCT": {},
    "TTTT": {"layout": "TTTT", "head_hidden": 24},
    "no bias": {"relative_bias": False},
    "hybrid": {"transformer": "hybrid", "head_width": 4},
    "hybrid TTTT, no bias": {"transformer": "hybrid", "layout": "TTTT", "relative_bias": False, "head_width": 2},
    "other strides": {"layout": "CCTT", "strides": (1, 2, 1, 2, 1)},
}
ORDERS = {"mirror": 2, "d4": 8}


def build(group: str, answers: AnswersConfig | None = None, **settings: Any) -> Any:
    """A small network in float64 whose answers depend on all of its parts, asked as `answers` says."""
    config = AstroformerConfig(8, (16, 16, 32, 32), (1, 1, 2, 1), head_width=16, strides=(2, 2, 2, 1, 1), img_size=33)
    return lively(dataclasses.replace(config, group=group, **settings), answers).double()


def views_of(group: str, x: Tensor) -> list[Tensor]:
    return d4_views(x) if group == "d4" else [x, x.flip(3)]


def images(side: int = 33, count: int = 3, width: int | None = None) -> Tensor:
    return torch.randn(count, 3, side, width or side, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("group", ORDERS)
def test_logits_are_the_same_for_every_view(group: str, setting: str) -> None:
    network = build(group, **SETTINGS[setting])
    sides = {"other strides": (33, 41)}.get(setting, (33, 49))
    for side in sides:  # at the second the position bias is resampled
        assert network.config.exact_group((side, side)) == group
        with torch.no_grad():
            logits = [network(view) for view in views_of(group, images(side))]
        assert logits[0].std() > 0.1
        for other in logits[1:]:
            torch.testing.assert_close(other, logits[0], rtol=0, atol=1e-11)


@pytest.mark.parametrize("setting", SETTINGS)
def test_what_is_not_of_the_group_changes_them(setting: str) -> None:
    x = images()
    with torch.no_grad():
        for group, view in (("mirror", x.flip(2)), ("mirror", x.rot90(1, (2, 3))), ("none", x.flip(3))):
            network = build(group, **SETTINGS[setting])
            assert (network(view) - network(x)).abs().max() > 1e-3


def test_maps_turn_with_the_image_and_channels_of_a_group_change_places() -> None:
    network = build("d4")
    x = images()
    with torch.no_grad():
        maps, turned, flipped = (network.feature_maps(view) for view in (x, x.rot90(1, (2, 3)), x.flip(3)))
    for before, quarter, mirror in zip(maps, turned, flipped, strict=True):
        # Channel (turns, flipped) is 4 flipped + turns: a quarter turn adds one turn, a flip turns the other way.
        for after, move, place in (
            (quarter, lambda m: m.rot90(1, (2, 3)), [1, 2, 3, 0, 5, 6, 7, 4]),
            (mirror, lambda m: m.flip(3), [4, 7, 6, 5, 0, 3, 2, 1]),
        ):
            expected = torch.empty_like(before)
            expected.unflatten(1, (-1, 8))[:, :, place] = move(before).unflatten(1, (-1, 8))
            torch.testing.assert_close(after, expected, rtol=0, atol=1e-11)


def test_filters_of_a_group_are_turned_copies_of_each_other() -> None:
    stem = build("d4").stem.conv1.weight.unflatten(0, (-1, 8))
    for flipped in (0, 1):
        for turns in range(4):
            first = stem[:, 0].flip(-1) if flipped else stem[:, 0]
            torch.testing.assert_close(stem[:, 4 * flipped + turns], first.rot90(turns, (-2, -1)))
    assert not torch.allclose(stem[0, 0], stem[0, 0].flip(-1))


@pytest.mark.parametrize("size", [(33, 49), (57, 41)])
def test_maps_need_not_be_square_for_a_mirror(size: tuple[int, int]) -> None:
    network = build("mirror", img_size=size)
    x = images(size[0], width=size[1])
    with torch.no_grad():
        torch.testing.assert_close(network(x.flip(3)), network(x), rtol=0, atol=1e-11)


@pytest.mark.parametrize("setting", ["CCCC", "cbam", "CCCT", "hybrid"])
@pytest.mark.parametrize("group", ORDERS)
def test_a_tied_gradient_is_the_mean_over_all_views(group: str, setting: str) -> None:
    """An independent way to the orbits: no view of the batch is preferred in training either."""
    network = build(group, **SETTINGS[setting]).train()
    x, y = images(count=4), torch.tensor([0, 3, 1, 2])

    def gradients(x: Tensor) -> list[Tensor]:
        network.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        return [p.grad.clone() for p in network.parameters()]

    each = [gradients(view) for view in views_of(group, x)]
    expected = [torch.stack(same).mean(0) for same in zip(*each, strict=True)]
    tied = [gradient.clone() for gradient in each[0]]
    Tie(network, group).tie(tied)
    assert max((a - b).abs().max() for a, b in zip(tied, each[0], strict=True)) > 1e-3
    for got, wanted in zip(tied, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-11)


def test_heads_of_a_group_change_places_and_look_another_way() -> None:
    """In the hybrid block; in the paper's each head keeps its place, and looks alike to all sides."""
    for settings, turned in ((SETTINGS["hybrid"], True), ({}, False)):
        network = build("d4", **settings)
        attention = network.stages[3][0].attention
        assert attention.heads_turn == turned
        tables_NHW = attention.position_bias.table
        for flipped in (0, 1):
            for turns in range(4):
                moved_NHW = (tables_NHW.flip(-1) if flipped else tables_NHW).rot90(turns, (-2, -1))
                if turned:  # 8 heads, one for each element
                    torch.testing.assert_close(tables_NHW[4 * flipped + turns], moved_NHW[0])
                else:
                    torch.testing.assert_close(tables_NHW, moved_NHW)
        alike = torch.allclose(tables_NHW[0], tables_NHW[0].rot90(1, (-2, -1)), atol=1e-3)
        assert alike != turned


@pytest.mark.parametrize("group", ORDERS)
def test_tying_several_networks_is_tying_each(group: str) -> None:
    network = build(group)
    tie = Tie(network, group)
    several = [torch.randn(3, *p.shape).double() for p in network.parameters()]
    alone = [[t[k].clone() for t in several] for k in range(3)]
    tie.tie(several)
    for k, tensors in enumerate(alone):
        tie.tie(tensors)
        again = [t.clone() for t in tensors]
        tie.tie(again)
        for a, b, c in zip(tensors, several, again, strict=True):
            assert torch.equal(a, b[k])
            torch.testing.assert_close(c, a, rtol=1e-12, atol=1e-12)  # a projection


@pytest.mark.parametrize("group", ORDERS)
def test_weights_start_as_spread_as_those_of_a_plain_network(group: str) -> None:
    torch.manual_seed(0)
    tied = create_network("astroformer_atto", layout="CCCC", group=group)
    plain = create_network("astroformer_atto", layout="CCCC")
    for (name, a), b in zip(tied.named_parameters(), plain.parameters(), strict=True):
        if a.numel() > 5000:
            assert a.std().item() == pytest.approx(b.std().item(), rel=0.2), name
    free = Tie(tied, group).free
    whole = sum(p.numel() for p in tied.parameters())
    assert whole / ORDERS[group] <= free < 1.1 * whole / ORDERS[group]


def test_a_fresh_head_keeps_the_symmetry() -> None:
    network = build("d4")
    network.reset_classifier(7)
    x = images()
    with torch.no_grad():
        logits = network(x)
        torch.testing.assert_close(network(x.rot90(1, (2, 3))), logits, rtol=0, atol=1e-11)
    assert logits.shape == (3, 7)
    network.reset_classifier(0)
    assert network(x).shape == (3, 32)


def test_statistics_are_evened_out() -> None:
    network = build("d4").train()
    network(images())
    network.eval()
    x = images(count=2)
    with torch.no_grad():
        assert (network(x.flip(3)) - network(x)).abs().max() > 1e-6  # batches saw each channel from one side
        Tie(network, "d4").even(network)
        torch.testing.assert_close(network(x.flip(3)), network(x), rtol=0, atol=1e-11)


@pytest.mark.parametrize("setting", ["CCCC", "cbam", "CCCT", "hybrid"])
@pytest.mark.parametrize("side", [33, 40])
def test_the_fast_pass_equals_the_plain_one(setting: str, side: int) -> None:
    network = build("d4", **SETTINGS[setting]).float()
    x = images(side).float()
    with torch.no_grad():
        torch.testing.assert_close(FastInference(network)(x), network(x), rtol=0, atol=1e-4)


@pytest.mark.parametrize("equivariance", ["frame", "centre"])
def test_an_image_that_is_moved_first_is_the_same_for_every_view_by_averaging(equivariance: str) -> None:
    settings, moved = split_words({"equivariance": equivariance})
    network = build("d4", moved, **settings)
    assert moved.exact_group(network.config, (33, 33)) == "none"
    x = images(count=8)
    with torch.no_grad():
        alone = [network(view) for view in d4_views(x)]
        network = build("d4", dataclasses.replace(moved, symmetry="shift+d4"), **settings)
        averaged = [network(view) for view in d4_views(x)]
    assert max((other - alone[0]).abs().max() for other in alone) > 1e-3
    for other in averaged:
        torch.testing.assert_close(other, averaged[0], rtol=0, atol=1e-11)


def test_the_nearest_size() -> None:
    config = build("d4").config
    assert [config.nearest_size(side) for side in (1, 33, 36, 38, 48.75)] == [9, 33, 33, 41, 49]
    assert config.exact_group((33, 40)) == "none"
    assert build("none").config.nearest_size(48.75) == 49
    assert build("none", equivariance="anchor", img_size=32).config.nearest_size(45) == 48


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"group": "d8"}, "group"),
        ({"group": "d4", "stem_width": 12}, "stem_width is 12.*groups of 8"),
        ({"group": "d4", "widths": (16, 16, 32, 36), "layout": "CCCC"}, r"widths\[3\] is 36"),
        ({"group": "d4", "head_hidden": 30}, "head_hidden is 30"),
        ({"group": "d4", "head_width": 4}, "head_width is 4"),
        ({"group": "mirror", "stem_width": 7}, "groups of 2"),
        ({"group": "d4", "img_size": (33, 41)}, "must be square"),
        ({"group": "mirror", "equivariance": "anchor", "img_size": 32}, "choose equivariance"),
    ],
)
def test_what_can_not_be_is_said(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(**{"group": "d4", **settings})
