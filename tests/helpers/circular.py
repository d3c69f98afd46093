"""Networks whose maps have no edges."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def made_circular(network: Network) -> Network:
    """`network`, its convolutions wider than 1x1 replaced by circular ones of the same weights."""
    for module in list(network.modules()):
        for name, layer in module.named_children():
            if isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1):
                assert isinstance(layer.padding, tuple)
                (height, width), (down, across), (rows, columns) = layer.kernel_size, layer.stride, layer.padding
                fresh = nn.Conv2d(
                    layer.in_channels,
                    layer.out_channels,
                    (height, width),
                    stride=(down, across),
                    padding=(rows, columns),
                    groups=layer.groups,
                    bias=False,
                    padding_mode="circular",
                )
                fresh.weight = layer.weight
                setattr(module, name, fresh)
    return network
