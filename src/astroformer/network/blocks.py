"""The building blocks: stem, MBConv, Transformer and hybrid block, head.

Shapes: B batch, C channels, H and W rows and columns. A stride of 2 halves H and W, rounding up.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from astroformer.network.attention import RelativeAttention, channel_attention
from astroformer.network.config import HYBRID_HEADS
from astroformer.network.torus import convolution

EXPANSION = 4  # hidden over outer width of an MBConv block
LAYER_NORM_EPS = 1e-6


def init_convolutions(module: nn.Module) -> None:
    """Draw the weights of all convolutions in `module` from N(0, 2 / fan_out), per group; biases are 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = layer.kernel_size[0] * layer.kernel_size[1] * layer.out_channels // layer.groups
            nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_out))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class StochasticDepth(nn.Module):
    """In training, zeroes samples with probability `rate` and scales the others up (arXiv 1603.09382)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        shape = [x.shape[0]] + [1] * (x.ndim - 1)  # no tuple, for TorchScript's sake
        keep = torch.full(shape, 1 - self.rate, dtype=x.dtype, device=x.device)
        return x * torch.bernoulli(keep).div_(1 - self.rate)  # one pass over the map, there and back

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3f}"


class HalvingPool(nn.AvgPool2d):
    """2x2 average pooling; at odd sizes the last row or column is averaged from the pixels that there are."""

    def __init__(self) -> None:
        super().__init__(2, ceil_mode=True, count_include_pad=False)


class CentredPool(nn.AvgPool2d):
    """3x3 average pooling around the pixels that a stride of 2 keeps; what lies outside is not counted.

    At odd sizes, unlike a 2x2 pool, it treats both ends of a row alike.
    """

    def __init__(self) -> None:
        super().__init__(3, 2, 1, count_include_pad=False)


def pool(stride: int, centred: bool = False) -> nn.Module:
    """What halves a map where a block has a stride of 2; `centred` for networks whose maps turn."""
    if stride == 1:
        return nn.Identity()
    return CentredPool() if centred else HalvingPool()


class Shortcut(nn.Module):
    """The way around a residual branch: pooled if the stride is 2, projected if the width changes."""

    def __init__(self, width: int, out_width: int, stride: int, centred: bool = False) -> None:
        super().__init__()
        self.pool = pool(stride, centred)
        self.project = nn.Conv2d(width, out_width, 1) if width != out_width else nn.Identity()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.project(self.pool(x_BCHW))


class Stem(nn.Module):
    """S0: two 3x3 convolutions, the first with the stride, batch norm and GELU between them."""

    def __init__(self, in_chans: int, width: int, stride: int, circular: bool = False) -> None:
        super().__init__()
        convolve = convolution(circular)
        self.conv1 = convolve(in_chans, width, 3, stride=stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.conv2 = convolve(width, width, 3, padding=1, bias=False)
        init_convolutions(self)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.conv2(F.gelu(self.norm(self.conv1(x_BCHW))))


class MBConv(nn.Module):
    """The convolutional block: pre-normalized inverted residual (arXiv 1801.04381) with channel attention.

    Args:
        width: channels of the input.
        out_width: channels of the output; inside, the block widens to `EXPANSION` times as many.
        stride: 1 or 2, of the depthwise convolution.
        attention: `se`, `cbam` or `none`; its hidden width is a quarter of `out_width`.
        drop: stochastic depth, the probability of dropping the residual branch of a sample.
        circular: whether the depthwise convolution (and CBAM's) is.
        centred: see `pool`.
    """

    def __init__(
        self,
        *,
        width: int,
        out_width: int,
        stride: int,
        attention: str,
        drop: float,
        circular: bool = False,
        centred: bool = False,
    ) -> None:
        super().__init__()
        middle = EXPANSION * out_width
        self.shortcut = Shortcut(width, out_width, stride, centred)
        self.norm = nn.BatchNorm2d(width)
        self.expand = nn.Conv2d(width, middle, 1, bias=False)
        self.expand_norm = nn.BatchNorm2d(middle)
        convolve = convolution(circular)
        self.depthwise = convolve(middle, middle, 3, stride=stride, padding=1, groups=middle, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(middle)
        self.attention = channel_attention(attention, middle, max(1, out_width // 4), circular)
        self.project = nn.Conv2d(middle, out_width, 1)
        self.drop = StochasticDepth(drop)
        init_convolutions(self)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW = self.expand(self.norm(x_BCHW))
        y_BCHW = self.depthwise(F.gelu(self.expand_norm(y_BCHW)))
        y_BCHW = self.attention(F.gelu(self.depthwise_norm(y_BCHW)))
        return self.shortcut(x_BCHW) + self.drop(self.project(y_BCHW))


class Mlp(nn.Module):
    """Two linear layers with GELU between them, on the last dimension."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width, hidden)
        self.project = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(F.gelu(self.expand(x)))


class TransformerBlock(nn.Module):
    """The Transformer block: pre-normalized relative attention, then an MLP.

    x <- shortcut(x) + drop(attention(pool(norm(x)))), x <- x + drop(mlp(norm(x))); the pooling is there at
    stride 2 alone, and the attention does the widening.

    Args:
        width: channels of the input.
        out_width: channels of the output.
        stride: 1 or 2.
        head_width: channels of an attention head.
        mlp_ratio: hidden over outer width of the MLP.
        map_size: (H, W) of the output that the position bias is built for, None for no bias.
        drop: stochastic depth, the probability of dropping a residual branch of a sample.
        torus: whether the position bias goes by circular offsets.
        centred: see `pool`.
    """

    def __init__(
        self,
        *,
        width: int,
        out_width: int,
        stride: int,
        head_width: int,
        mlp_ratio: int,
        map_size: tuple[int, int] | None,
        drop: float,
        torus: bool = False,
        centred: bool = False,
    ) -> None:
        super().__init__()
        self.shortcut = Shortcut(width, out_width, stride, centred)
        self.norm1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.pool = pool(stride, centred)
        self.attention = RelativeAttention(width, out_width, head_width, map_size, torus)
        self.norm2 = nn.LayerNorm(out_width, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(out_width, mlp_ratio * out_width)
        self.drop = StochasticDepth(drop)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform weights; biases are 0, those of the MLP N(0, 1e-6)."""
        for name, layer in self.named_modules():
            if isinstance(layer, (nn.Linear, nn.Conv2d)):
                nn.init.xavier_uniform_(layer.weight)
                assert layer.bias is not None
                if name.startswith("mlp."):
                    nn.init.normal_(layer.bias, std=1e-6)
                else:
                    nn.init.zeros_(layer.bias)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BHWC = self.norm1(x_BCHW.permute(0, 2, 3, 1))
        y_BHWC = self.pool(y_BHWC.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x_BHWC = self.shortcut(x_BCHW).permute(0, 2, 3, 1) + self.drop(self.attention(y_BHWC))
        x_BHWC = x_BHWC + self.drop(self.mlp(self.norm2(x_BHWC)))
        return x_BHWC.permute(0, 3, 1, 2)


class HybridBlock(nn.Module):
    """The last block of a hybrid Transformer stage: an MBConv block, then attention.

    x <- mbconv(x), x <- x + drop(gamma * attention(norm(x))), gamma one number a channel. An MBConv block in place of
    the MLP, before the attention, is how MOAT builds its blocks (Yang et al., arXiv 2210.01820, which puts no number
    before the attention); the number is LayerScale's (Touvron et al., arXiv 2103.17239).

    At the start gamma is 0: the block is its MBConv block, and attention comes in as far as it helps. What comes in
    first is a blur: queries and keys hardly matter yet, and each head sees what is near, some less far than others.

    Args:
        mbconv: the convolutional block, which has the stride and does the widening.
        width: channels of its output.
        head_width: channels of an attention head.
        map_size: (H, W) of the output that the position bias is built for, None for no bias.
        drop: stochastic depth, the probability of dropping the attention of a sample.
        torus: whether the position bias goes by circular offsets.
        group_order: elements of the network's group; so many heads, one for each, change places as the image turns.
    """

    CONTENT, STRENGTHS = 0.1, (0.3, 3.0, 0.1, 1.0)  # at the start

    def __init__(
        self,
        mbconv: MBConv,
        *,
        width: int,
        head_width: int,
        map_size: tuple[int, int] | None,
        drop: float,
        torus: bool = False,
        group_order: int = 1,
    ) -> None:
        super().__init__()
        self.mbconv = mbconv
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.attention = RelativeAttention(
            width, width, head_width, map_size, torus, heads=HYBRID_HEADS, heads_turn=group_order > 1
        )
        self.gamma = nn.Parameter(torch.empty(width))
        self.drop = StochasticDepth(drop)
        self.group_order = group_order
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform weights, those of queries and keys times `CONTENT`; biases and gamma are 0; the
        position bias falls with the distance (`PositionBias.start_near`)."""
        attention = self.attention
        for layer in (attention.qkv, attention.project):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.gamma)
        if attention.qkv.weight.is_meta:  # without values, for which torch would import its compiler
            return
        with torch.no_grad():
            attention.qkv.weight.unflatten(0, (attention.heads, 3, -1))[:, :2] *= self.CONTENT
        if attention.position_bias is not None:
            kinds = torch.arange(attention.heads) // self.group_order
            attention.position_bias.start_near(torch.tensor(self.STRENGTHS)[kinds % len(self.STRENGTHS)])

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BHWC = self.mbconv(x_BCHW).permute(0, 2, 3, 1)
        x_BHWC = x_BHWC + self.drop(self.attention(self.norm(x_BHWC)) * self.gamma)
        return x_BHWC.permute(0, 3, 1, 2)


class Head(nn.Module):
    """The classifier: mean over the map, layer norm, hidden linear layer with tanh (if any), dropout, linear.

    Args:
        width: channels of the feature map.
        hidden: width of the hidden layer, None for none.
        num_classes: number of logits; 0 leaves the last linear layer out.
        dropout: probability of dropping a feature before the last layer.

    Attributes:
        pooled: whether the mean over the map is taken; without, all that follows is done at each of its places.
    """

    def __init__(self, width: int, hidden: int | None, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.pooled = True
        self.num_features = hidden or width
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.hidden = None if hidden is None else nn.Linear(width, hidden)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward(self, x_BCHW: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, width, H, W) to logits (B, num_classes), or with `pre_logits` to the features under them.

        Without the mean over the map, either has its places too: (B, num_classes, H, W).
        """
        x = self.norm(x_BCHW.mean((2, 3)) if self.pooled else x_BCHW.permute(0, 2, 3, 1))
        if self.hidden is not None:
            x = torch.tanh(self.hidden(x))
        x = self.dropout(x)
        if not pre_logits:
            x = self.classifier(x)
        return x if self.pooled else x.permute(0, 3, 1, 2)
