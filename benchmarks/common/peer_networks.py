"""Networks that ours is compared with and that timm does not have.

Legend: B batch, C channels, H height, W width, N tokens, D channels of a token, K classes.
"""

from __future__ import annotations

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

SMALL_IMAGE = 64  # px a side; networks made for 224 px get a finer stem below it


class WideBasic(nn.Module):
    """Two 3 × 3 convolutions, each after BN and ReLU; where the map changes, a 1 × 1 convolution on the shortcut."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_width)
        self.conv1 = nn.Conv2d(in_width, width, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        changes = in_width != width or stride != 1
        self.shortcut = nn.Conv2d(in_width, width, 1, stride, bias=False) if changes else None

    def forward(self, x_BCHW: Tensor) -> Tensor:
        active_BCHW = torch.relu(self.norm1(x_BCHW))
        made_BCHW = self.conv2(torch.relu(self.norm2(self.conv1(active_BCHW))))
        return made_BCHW + (x_BCHW if self.shortcut is None else self.shortcut(active_BCHW))


class WideResNet(nn.Sequential):
    """WRN-depth-width (Zagoruyko & Komodakis, "Wide residual networks", arXiv 1605.07146, table 1), without dropout.

    Made for 32 px, where the three groups have maps of 32, 16 and 8 px a side. From 64 px on the stem has stride 2, so
    that they are the same.

    Args:
        depth: 6 n + 4 convolutions.
        width: factor on the 16, 32 and 64 channels of the groups.
        size: (H, W) of the images in px; other sizes are taken too.
    """

    def __init__(self, depth: int, width: int, *, in_chans: int, num_classes: int, size: tuple[int, int]) -> None:
        blocks, left = divmod(depth - 4, 6)
        if left or blocks < 1:
            raise ValueError(f"depth is {depth}; 6 n + 4 is needed, such as 16 or 28.")
        stride = 1 if min(size) < SMALL_IMAGE else 2
        layers: list[nn.Module] = [nn.Conv2d(in_chans, 16, 3, stride, padding=1, bias=False)]
        channels = 16
        for group, stride in enumerate((1, 2, 2)):
            for block in range(blocks):
                layers.append(WideBasic(channels, 16 * 2**group * width, stride if block == 0 else 1))
                channels = 16 * 2**group * width
        head = [nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        super().__init__(*layers, *head, nn.Linear(channels, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self[-1].bias)


class CompactTransformer(nn.Module):
    """CCT-depth/3×n (Hassani et al., "Escaping the big data paradigm with compact transformers", arXiv 2104.05704).

    n times a 3 × 3 convolution, ReLU and a max pool of stride 2 make tokens, pre-norm Transformer blocks (timm's) mix
    them, and "sequence pooling" averages them with weights of their own (eq. 3 of the paper) before the last layer.
    Dropout of attention 0.1 and learnt positions as in the paper.

    Args:
        depth, width, heads, mlp_ratio: of the blocks; CCT-7 is 7, 256, 4, 2, CCT-4 is 4, 128, 2, 1.
        convolutions: n.
        size: (H, W) of the images in px, the only one that is taken.
    """

    def __init__(
        self,
        depth: int,
        width: int,
        heads: int,
        mlp_ratio: float,
        convolutions: int,
        *,
        in_chans: int,
        num_classes: int,
        size: tuple[int, int],
        stochastic_depth: float = 0.1,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_chans
        for i in range(convolutions):
            out = width if i == convolutions - 1 else 64
            layers += [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)]
            nn.init.kaiming_normal_(layers[-3].weight)
            channels = out
        self.tokenizer = nn.Sequential(*layers)
        height, breadth = (-(-side // 2**convolutions) for side in size)
        self.positions_1ND = nn.Parameter(torch.empty(1, height * breadth, width))
        rates = torch.linspace(0, stochastic_depth, depth).tolist()
        self.blocks = nn.Sequential(*(Block(width, heads, mlp_ratio, attn_drop=0.1, drop_path=rate) for rate in rates))
        self.norm = nn.LayerNorm(width)
        self.pool = nn.Linear(width, 1)
        self.head = nn.Linear(width, num_classes)
        nn.init.trunc_normal_(self.positions_1ND, std=0.2)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def no_weight_decay(self) -> set[str]:
        return {"positions_1ND"}

    def forward(self, x_BCHW: Tensor) -> Tensor:
        tokens_BND = self.tokenizer(x_BCHW).flatten(2).transpose(1, 2)
        tokens_BND = self.norm(self.blocks(tokens_BND + self.positions_1ND))
        weights_B1N = self.pool(tokens_BND).softmax(1).transpose(1, 2)
        return self.head((weights_B1N @ tokens_BND).squeeze(1))
