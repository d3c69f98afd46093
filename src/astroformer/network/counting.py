"""How large a network is: parameters and multiply-accumulates."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from astroformer.errors import unknown_name
from astroformer.network.astroformer import Astroformer
from astroformer.network.config import VARIANTS, AstroformerConfig


def count_parameters(module: nn.Module) -> int:
    """Number of trainable and frozen parameters; buffers (running statistics) are not among them."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_macs(network: Astroformer, size: tuple[int, int] | None = None) -> int:
    """Multiply-accumulates of one forward pass for one image.

    Counted are convolutions (those that compute the gates of channel attention too), linear layers and both
    matrix products of attention; not norms, activations, pooling, softmax, the position bias and
    element-wise products.

    Args:
        network: on any device; nothing is computed, and its state stays as it is.
        size: (height, width) of the image in pixels, `network.config.img_size` if not given.
    """
    height, width = network.config.img_size if size is None else size
    state = {name: tensor.to("meta") for name, tensor in [*network.named_parameters(), *network.named_buffers()]}
    parameter = next(network.parameters())
    # Two images, since in training a batch norm refuses one value a channel.
    images = torch.empty(2, network.config.in_chans, height, width, dtype=parameter.dtype, device="meta")
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        torch.func.functional_call(network, state, (images,))
    return int(counter.get_total_flops()) // 4  # two images, two operations a multiply-accumulate


def describe(
    name: str,
    *,
    config: AstroformerConfig | None = None,
    size: tuple[int, int] | None = None,
    num_classes: int = 10,
) -> dict[str, Any]:
    """A network's settings and size as JSON values, at once even for the largest: no weights are made.

    Args:
        name: a variant, or with `config` what to call it.
        config: the network, if it is not a plain variant; `num_classes` is then its own.
        size: (height, width) in pixels to count at; the config's `img_size` if not given.
        num_classes: classes of a variant's head.

    Returns:
        `name`, `image_size`, `parameters`, `macs` of one image, `map_sizes` of S0 to S4, and the config's fields.

    Raises:
        UserError: there is no variant `name`, or the size is too small for it.
    """
    if config is None:
        if name not in VARIANTS:
            raise unknown_name("network", name, VARIANTS)
        config = dataclasses.replace(VARIANTS[name], num_classes=num_classes)
    size = config.img_size if size is None else size
    with torch.device("meta"):
        network = Astroformer(config)
    return {
        "name": name,
        "image_size": list(size),
        "parameters": count_parameters(network),
        "macs": count_macs(network, size),
        "map_sizes": [list(map_size) for map_size in config.map_sizes(size)],
        **config.to_dict(),
    }
