"""Attention against its formulas written out, and what resampling the position bias costs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from astroformer.network import Astroformer, create_network
from astroformer.network.attention import ConvBlockAttention, PositionBias, RelativeAttention


def test_bias_depends_on_the_offset_from_key_to_query() -> None:
    bias = PositionBias(2, (3, 4))
    out = bias(3, 4)
    for i in range(12):
        for j in range(12):
            row, column = i // 4 - j // 4, i % 4 - j % 4
            assert torch.equal(out[:, i, j], bias.table[:, row + 2, column + 3])


@pytest.mark.parametrize("biased", [True, False])
def test_attention_is_the_papers_sum(biased: bool) -> None:
    torch.manual_seed(0)
    attention = RelativeAttention(6, 8, 4, (2, 3) if biased else None).double()
    x = torch.randn(1, 2, 3, 6, dtype=torch.float64)
    tokens = x.reshape(6, 6)
    # The layer keeps query, key and value of a head together.
    qkv = attention.qkv(tokens).reshape(6, 2, 3, 4)
    heads = []
    for n in range(2):
        q, k, v = qkv[:, n].unbind(1)
        rows = []
        for i in range(6):
            weights = []
            for j in range(6):
                w = 0.0
                if attention.position_bias is not None:
                    w = attention.position_bias.table[n, i // 3 - j // 3 + 1, i % 3 - j % 3 + 2].item()
                weights.append(math.exp((q[i] @ k[j]).item() / 2 + w))
            rows.append(sum(weight * v[j] for j, weight in enumerate(weights)) / sum(weights))
        heads.append(torch.stack(rows))
    wanted = attention.project(torch.cat(heads, dim=1)).reshape(1, 2, 3, 8)
    torch.testing.assert_close(attention(x), wanted, rtol=0, atol=1e-12)


def test_cbam_is_a_channel_gate_then_a_spatial_gate() -> None:
    torch.manual_seed(0)
    cbam = ConvBlockAttention(8, 2)
    x = torch.randn(2, 8, 5, 6)
    mlp = torch.nn.Sequential(cbam.reduce, torch.nn.ReLU(), cbam.restore)
    pools = torch.nn.AdaptiveAvgPool2d(1), torch.nn.AdaptiveMaxPool2d(1)
    x1 = torch.sigmoid(sum(mlp(pool(x)) for pool in pools)) * x
    spatial = torch.nn.functional.conv2d(
        torch.stack([x1.mean(1), x1.max(1).values], dim=1), cbam.spatial.weight, padding=3
    )
    torch.testing.assert_close(cbam(x), torch.sigmoid(spatial) * x1)


def smooth_table(heads: int, rows: int, columns: int) -> Tensor:
    """w as a smooth function of the offset's share of the image: bumps of height 2 beside and wider than the centre."""
    row = torch.arange(1 - rows, rows) / rows
    column = torch.arange(1 - columns, columns) / columns
    bumps = [
        2 * torch.exp(-((row[:, None] - 0.1 * n) ** 2 + column[None, :] ** 2) / (0.1 + 0.1 * n)) for n in range(heads)
    ]
    return torch.stack(bumps)


@pytest.mark.parametrize(
    ("size", "rms"),
    # Of a bias of height 2. What is left comes from offsets beyond the built table: there are more of them on a
    # larger map, and none on one of half the size, whose offsets all are entries of the table.
    [((4, 4), 1e-6), ((6, 6), 0.003), ((12, 12), 0.008), ((16, 16), 0.009), ((6, 12), 0.006)],
)
def test_resampled_bias_is_near_the_exact_one(size: tuple[int, int], rms: float) -> None:
    built, exact = PositionBias(3, (8, 8)), PositionBias(3, size)
    built.table.data = smooth_table(3, 8, 8)
    exact.table.data = smooth_table(3, *size)
    error = (built(*size) - exact(*size)).square().mean().sqrt().item()
    assert error < rms


def test_bias_at_the_built_size_is_the_table_to_the_bit() -> None:
    bias = PositionBias(3, (5, 7))
    out = bias(5, 7)
    assert torch.equal(out[:, 17, 17], bias.table[:, 4, 6])
    assert set(out.flatten().tolist()) == set(bias.table.flatten().tolist())


def test_a_constant_bias_stays_constant_and_gradients_pass() -> None:
    bias = PositionBias(2, (4, 4))
    bias.table.data.fill_(1.5)
    out = bias(9, 3)
    torch.testing.assert_close(out, torch.full_like(out, 1.5))
    out.sum().backward()
    # The gradient spreads over the table, and sums to the number of pairs.
    assert bias.table.grad is not None
    torch.testing.assert_close(bias.table.grad.sum(), torch.tensor(2.0 * 27 * 27))


def with_tables(network: Astroformer) -> Astroformer:
    for module in network.modules():
        if isinstance(module, PositionBias):
            heads, rows, columns = module.table.shape
            module.table.data = smooth_table(heads, (rows + 1) // 2, (columns + 1) // 2)
    return network.eval()


@pytest.mark.parametrize("side", [32, 48, 96, 128])
def test_what_another_size_costs_in_logits(side: int) -> None:
    """A network built for 64 px against one built for `side`, with the same smooth w: the cost of resampling alone.

    It is under 3 % of what the bias does to the logits, which leaving the bias out shows.
    """
    torch.manual_seed(0)
    network = with_tables(create_network("astroformer_atto", img_size=64))
    weights = {name: tensor for name, tensor in network.state_dict().items() if not name.endswith("table")}
    exact = with_tables(create_network("astroformer_atto", img_size=side))
    exact.load_state_dict(weights, strict=False)
    without = create_network("astroformer_atto", img_size=side, relative_bias=False).eval()
    without.load_state_dict(weights)
    images = torch.nn.functional.interpolate(torch.randn(4, 3, 12, 12), size=(side, side), mode="bicubic")
    with torch.no_grad():
        logits = exact(images)
        cost = (network(images) - logits).abs().max()
        effect = (without(images) - logits).abs().max()
    assert effect > 0.01
    assert cost < 0.03 * effect
