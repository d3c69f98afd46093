"""Attention over positions (relative, with its position bias) and over channels (SE, CBAM).

Shapes: B batch, C channels, H and W rows and columns of the map, L = H*W tokens, N heads, D channels of a
head, E = 3D (query, key and value of a head side by side).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from astroformer.network.torus import convolution


class PositionBias(nn.Module):
    """A learnt scalar per head and relative offset: w_{i-j} of the paper's equation 2.

    The table holds w for the offsets -(H-1)..H-1 and -(W-1)..W-1 between query i and key j of one map size, or, if the
    map is a torus, for the circular offsets 0..H-1 and 0..W-1. For a map of another size the same table, read as a
    function of the offset as a fraction of the image, is resampled.

    Args:
        heads: number of heads N.
        map_size: (H, W) that the table is built for.
        torus: whether offsets are circular.
    """

    def __init__(self, heads: int, map_size: tuple[int, int], torus: bool = False) -> None:
        super().__init__()
        self.torus = torus
        sides = map_size if torus else [2 * size - 1 for size in map_size]
        self.table = nn.Parameter(torch.empty(heads, *sides))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.table, std=0.02)

    @torch.no_grad()
    def start_near(self, strengths_N: Tensor) -> None:
        """Lets each head begin with what lies near: w = -a d^2 at a distance of d places, a its strength (N,)."""
        _, *sides = self.table.shape
        rows, columns = (torch.arange(side, dtype=self.table.dtype, device=self.table.device) for side in sides)
        if self.torus:
            rows, columns = (torch.minimum(x, len(x) - x) for x in (rows, columns))
        else:
            rows, columns = (x - len(x) // 2 for x in (rows, columns))
        self.table.copy_(-strengths_N.to(self.table)[:, None, None] * (rows[:, None] ** 2 + columns**2))

    def forward(self, height: int, width: int) -> Tensor:
        """The bias (N, L, L) of queries (rows) and keys (columns) on a map of `height` by `width`."""
        # Not kept between calls: it takes tens of microseconds, and a kept one would go stale whenever
        # weights are written behind autograd's back (averaging, loading).
        table: Tensor = self.table
        heads, rows, columns = table.shape
        if self.torus:
            if (rows, columns) != (height, width):
                down, across = _resampling_circular(rows, height, table), _resampling_circular(columns, width, table)
                table = down @ table @ across.T
            # Offset -d is size - d.
            table = torch.cat([table[:, 1:], table], 1)
            table = torch.cat([table[:, :, 1:], table], 2)
        elif (rows, columns) != (2 * height - 1, 2 * width - 1):
            down = _resampling((rows + 1) // 2, height, table)
            across = _resampling((columns + 1) // 2, width, table)
            table = down @ table @ across.T
        # bias[i, j] = table[i - j + size - 1]: of the table turned round, the window that starts at size - 1
        # - i. Sliding windows need no index tensor, and cost a third of what indexing does.
        windows_NHWHW = table.flip(1, 2).unfold(1, height, 1).unfold(2, width, 1)
        return windows_NHWHW.flip(1, 2).reshape(heads, height * width, height * width)


def _resampling(built: int, size: int, like: Tensor) -> Tensor:
    """The matrix (2 size - 1, 2 built - 1) that takes w from the offsets of one map size to those of another.

    Offset d on a map of `size` is the offset d built / size on that of `built`: the same share of the image. Between
    entries of the table w is interpolated by cubic convolution (Keys 1981, a = -1/2), beyond them it stays as at the
    edge. Resizing as images are resized (torch's `interpolate`) has no such exact share, and errs three times as much.
    """
    precise = torch.promote_types(like.dtype, torch.float32)
    share = torch.arange(1 - size, size, dtype=precise, device=like.device) * (built / size)
    position = (share + (built - 1)).clamp(0, 2 * built - 2)
    entries = torch.arange(2 * built - 1, dtype=precise, device=like.device)
    weights = _cubic((position[:, None] - entries[None, :]).abs())
    # Sums differ from 1 at the edges alone, where the kernel reaches beyond the table.
    return (weights / weights.sum(1, keepdim=True)).to(like.dtype)


def _resampling_circular(built: int, size: int, like: Tensor) -> Tensor:
    """The matrix (size, built) that does the same on a circle, where the table has no edges."""
    precise = torch.promote_types(like.dtype, torch.float32)
    position = torch.arange(size, dtype=precise, device=like.device) * (built / size)
    entries = torch.arange(-2, built + 2, dtype=precise, device=like.device)
    weights = _cubic((position[:, None] - entries[None, :]).abs())
    # Two entries beyond either end are those of the other end.
    circle = torch.arange(-2, built + 2, device=like.device) % built
    return torch.zeros(size, built, dtype=precise, device=like.device).index_add(1, circle, weights).to(like.dtype)


def _cubic(d: Tensor) -> Tensor:
    """Weight of an entry at distance d >= 0 in cubic convolution."""
    near = (1.5 * d - 2.5) * d * d + 1
    far = ((2.5 - 0.5 * d) * d - 4) * d + 2
    return torch.where(d < 1, near, torch.where(d < 2, far, torch.zeros_like(d)))


class RelativeAttention(nn.Module):
    """Global self-attention with relative position bias.

    y_i = sum_j softmax_j(q_i . k_j / sqrt(D) + w_{i-j}) v_j, over all positions j of the map (paper, equation 2;
    query, key and value maps and the scale as in Dai et al., arXiv 2106.04803). Without bias, w = 0.

    Args:
        width: channels of the input.
        out_width: channels of the output.
        head_width: channels of a head D.
        map_size: (H, W) that the bias table is built for, None for no bias.
        torus: whether the bias goes by circular offsets.
        heads: their number N; as in the paper `out_width` / D if not given.
        heads_turn: of a network with a group, whether heads come in groups, as channels do, and change places when
            the image turns; else each keeps its place, and its bias looks alike from all sides (`group.py`).
    """

    def __init__(
        self,
        width: int,
        out_width: int,
        head_width: int,
        map_size: tuple[int, int] | None,
        torus: bool = False,
        *,
        heads: int | None = None,
        heads_turn: bool = False,
    ) -> None:
        super().__init__()
        self.heads_turn = heads_turn
        self.head_width = head_width
        self.heads = heads or out_width // head_width
        self.qkv = nn.Linear(width, 3 * self.heads * head_width)
        self.position_bias = None if map_size is None else PositionBias(self.heads, map_size, torus)
        self.project = nn.Linear(self.heads * head_width, out_width)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """(B, H, W, width) to (B, H, W, out_width)."""
        batch, height, width, _ = x_BHWC.shape
        qkv_BLNE = self.qkv(x_BHWC).view(batch, height * width, self.heads, 3 * self.head_width)
        q_BNLD, k_BNLD, v_BNLD = qkv_BLNE.transpose(1, 2).chunk(3, dim=-1)
        bias = None if self.position_bias is None else self.position_bias(height, width)[None].to(q_BNLD.dtype)
        y_BNLD = F.scaled_dot_product_attention(q_BNLD, k_BNLD, v_BNLD, attn_mask=bias, scale=self.head_width**-0.5)
        return self.project(y_BNLD.transpose(1, 2).reshape(batch, height, width, -1))


class SqueezeExcitation(nn.Module):
    """Scales each channel by a gate computed from the means of all (Hu et al., arXiv 1709.01507).

    Args:
        width: channels.
        hidden: channels between the gate's two layers.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(width, hidden, 1)
        self.restore = nn.Conv2d(hidden, width, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        gate_BC11 = self.restore(F.silu(self.reduce(x_BCHW.mean((2, 3), keepdim=True))))
        return x_BCHW * gate_BC11.sigmoid()


class ConvBlockAttention(nn.Module):
    """CBAM: a channel gate, then a spatial one (Woo et al., arXiv 1807.06521, equations 1 to 3).

    The channel gate puts the mean and the maximum over the map through one shared MLP and adds them; the
    spatial gate is a 7x7 convolution of the mean and the maximum over the channels.

    Args:
        width: channels.
        hidden: channels between the shared MLP's two layers.
        circular: whether the spatial gate's convolution is.
    """

    def __init__(self, width: int, hidden: int, circular: bool = False) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(width, hidden, 1)
        self.restore = nn.Conv2d(hidden, width, 1)
        self.spatial = convolution(circular)(2, 1, 7, padding=3, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        mean_BC11 = x_BCHW.mean((2, 3), keepdim=True)
        peak_BC11 = x_BCHW.amax((2, 3), keepdim=True)
        gate_BC11 = self.restore(F.relu(self.reduce(mean_BC11))) + self.restore(F.relu(self.reduce(peak_BC11)))
        x_BCHW = x_BCHW * gate_BC11.sigmoid()
        maps_B2HW = torch.cat([x_BCHW.mean(1, keepdim=True), x_BCHW.amax(1, keepdim=True)], dim=1)
        return x_BCHW * self.spatial(maps_B2HW).sigmoid()


def channel_attention(kind: str, width: int, hidden: int, circular: bool = False) -> nn.Module:
    """The module that `AstroformerConfig.channel_attention` names, for (B, width, H, W) maps."""
    if kind == "se":
        return SqueezeExcitation(width, hidden)
    if kind == "cbam":
        return ConvBlockAttention(width, hidden, circular)
    return nn.Identity()
