"""Parameters and multiply-accumulates: pinned, and checked against fvcore's independent count."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from astroformer.errors import UserError
from astroformer.network import VARIANTS, Astroformer, count_macs, count_parameters, create_network
from astroformer.network.counting import describe

# Parameters in M (10 classes, 224 px) and GMAC at 224 and 256 px of the released network, measured on its own code.
PAPER = {
    "astroformer_0": (22.77, 3.99, 5.22),
    "astroformer_1": (37.39, 6.81, 8.90),
    "astroformer_2": (66.37, 13.34, 17.42),
    "astroformer_3": (148.89, 29.88, 39.03),
    "astroformer_4": (241.08, 48.54, 63.39),
    "astroformer_5": (593.55, 108.24, 141.35),
}
# Our own; most parameters in M as designed, and MMAC at 64 px, so that no change slows them down unseen.
SMALL = {"astroformer_atto": (0.7, 36.0), "astroformer_pico": (2.5, 108.6), "astroformer_nano": (8.0, 309.7)}


def on_meta(name: str) -> Astroformer:
    with torch.device("meta"):
        return create_network(name)


@pytest.mark.parametrize("name", PAPER)
def test_paper_variants_are_as_large_as_released(name: str) -> None:
    network = on_meta(name)
    macs = [round(count_macs(network, (side, side)) / 1e9, 2) for side in (224, 256)]
    assert (round(count_parameters(network) / 1e6, 2), *macs) == PAPER[name]


@pytest.mark.parametrize("name", SMALL)
def test_small_variants_stay_small(name: str) -> None:
    network = on_meta(name)
    most, mmac = SMALL[name]
    assert count_parameters(network) <= most * 1e6
    assert round(count_macs(network, (64, 64)) / 1e6, 1) == mmac


def test_every_variant_is_pinned() -> None:
    assert set(PAPER) | set(SMALL) == set(VARIANTS)


def test_macs_agree_with_fvcore() -> None:
    fvcore = pytest.importorskip("fvcore.nn")
    network = create_network("astroformer_atto", layout="CCTT").eval()
    count = fvcore.FlopCountAnalysis(network, torch.zeros(1, 3, 64, 64))
    counted = count.unsupported_ops_warnings(False).uncalled_modules_warnings(False).by_operator()
    # fvcore does not know the fused attention: two products of (L, D) by (D, L) for each of N heads, at L = 64.
    attention = 2 * 64 * 64 * (3 * 80 + 2 * 96)
    assert count_macs(network) == counted["conv"] + counted["linear"] + attention


@pytest.mark.parametrize("layout", ["CCCT", "CTCT", "TTTT"])
@pytest.mark.parametrize("transformer", ["paper", "hybrid"])
@pytest.mark.parametrize("attention", ["se", "cbam", "none"])
def test_macs_are_what_torch_counts_while_a_pass_runs(layout: str, transformer: str, attention: str) -> None:
    settings = {"layout": layout, "transformer": transformer, "channel_attention": attention}
    settings |= {"strides": (2, 2, 1, 2, 1), "img_size": (49, 66)}
    counter = FlopCounterMode(display=False)
    with torch.device("meta"), torch.no_grad(), counter:  # there it sees into the fused attention
        network = create_network("astroformer_atto", **settings).eval()
        network(torch.zeros(1, 3, 49, 66))
    assert count_macs(network) == counter.get_total_flops() / 2


def test_describe_counts_at_the_size_asked_for() -> None:
    row = describe("astroformer_atto", size=(32, 64), num_classes=3)
    network = create_network("astroformer_atto", num_classes=3)
    assert row["parameters"] == count_parameters(network)
    assert row["macs"] == count_macs(network, (32, 64)) < count_macs(network)
    assert row["map_sizes"][-1] == [4, 8]
    with pytest.raises(UserError, match="least"):
        describe("astroformer_0", size=(16, 16))
