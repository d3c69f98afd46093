"""How large a network is: parameters and multiply-accumulates."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from astroformer.errors import unknown_name
from astroformer.network.astroformer import Astroformer
from astroformer.network.attention import ConvBlockAttention, SqueezeExcitation
from astroformer.network.blocks import HybridBlock, MBConv, TransformerBlock
from astroformer.network.config import VARIANTS, AnswersConfig, AstroformerConfig, joined_words


def count_parameters(module: nn.Module) -> int:
    """Number of trainable and frozen parameters; buffers (running statistics) are not among them."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_macs(network: Astroformer, size: tuple[int, int] | None = None) -> int:
    """Multiply-accumulates of one forward pass for one image.

    Counted are convolutions (those that compute the gates of channel attention too), linear layers and both
    matrix products of attention; not norms, activations, pooling, softmax, the position bias and
    element-wise products.

    Args:
        network: on any device, the meta device too; nothing is computed.
        size: (height, width) of the image in pixels, `network.config.img_size` if not given.
    """
    size = network.config.img_size if size is None else size
    network.config.check_size(*size)
    # Of each layer its weights, times the places of the map that it is applied to. (Counting while a pass runs on
    # torch's meta device needs no such list, and imports torch's compiler: two seconds.)
    pixels = [height * width for height, width in network.config.map_sizes(size)]
    total = _weights(network.stem) * pixels[0] + _weights(network.head)
    for stage, before, after in zip(network.stages, pixels, pixels[1:], strict=False):
        for position, block in enumerate(stage.children()):
            total += _weights(block) * after
            if isinstance(block, TransformerBlock | HybridBlock):
                total += 2 * after * after * block.attention.project.in_features
            convolution = block.mbconv if isinstance(block, HybridBlock) else block
            if isinstance(convolution, MBConv):
                inside = before if position == 0 else after  # the first block strides after it has widened
                total += _weights(convolution.expand) * (inside - after)
                attention = convolution.attention
                if isinstance(attention, SqueezeExcitation | ConvBlockAttention):  # gates: once an image, CBAM's twice
                    times = 1 if isinstance(attention, SqueezeExcitation) else 2
                    total += (_weights(attention.reduce) + _weights(attention.restore)) * (times - after)
    return total


def _weights(module: nn.Module) -> int:
    """Multiply-accumulates of the convolutions and linear layers in `module` at one place of the map."""
    return sum(layer.weight.numel() for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear))


def describe(
    name: str,
    *,
    config: AstroformerConfig | None = None,
    answers: AnswersConfig | None = None,
    size: tuple[int, int] | None = None,
    num_classes: int = 10,
) -> dict[str, Any]:
    """A network's settings and size as JSON values, at once even for the largest: no weights are made.

    Args:
        name: a variant, or with `config` what to call it.
        config: the network, if it is not a plain variant; `num_classes` is then its own.
        answers: how the network is asked, if not about the image alone.
        size: (height, width) in pixels to count at; the config's `img_size` if not given.
        num_classes: classes of a variant's head.

    Returns:
        `name`, `image_size`, `parameters`, `macs` of one pass, `map_sizes` of S0 to S4, and the words of
        `joined_words`.

    Raises:
        UserError: there is no variant `name`, or the size is too small for it.
    """
    if config is None:
        if name not in VARIANTS:
            raise unknown_name("network", name, VARIANTS)
        config = dataclasses.replace(VARIANTS[name], num_classes=num_classes)
    size = config.img_size if size is None else size
    with torch.device("meta"), WithoutValues():
        network = Astroformer(config)
    return {
        "name": name,
        "image_size": list(size),
        "parameters": count_parameters(network),
        "macs": count_macs(network, size),
        "map_sizes": [list(map_size) for map_size in config.map_sizes(size)],
        **joined_words(config, answers or AnswersConfig()),
    }


class WithoutValues(TorchFunctionMode):
    """Within it, torch.nn.init draws nothing: on the meta device that would import torch's whole compiler."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)
