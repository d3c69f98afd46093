"""Networks whose features turn with the image: weights that commute with flips and quarter turns.

In a group-equivariant network (Cohen & Welling, arXiv 1602.07576) the channels of a map come in groups of |G|, one for
each element of a group G of flips and turns of the plane. When the image turns, its maps turn, and the channels of each
group change places; the mean over the map and a head with weights alike for a group then give the same logits. Such a
layer is an ordinary one whose weights W[c, i, x] are the same along the orbits of G, which moves output channels c,
input channels i and places x of the kernel:

    W[h c, h i, h x] = W[c, i, x] for each h in G.

So the network is built, run, stored and exported as ever, at the same cost. What differs is how it is trained: weights
begin tied along their orbits, and each gradient is replaced by its mean over the orbit, so that they stay tied under
any optimizer that treats all entries alike. One with |G| times fewer weights of its own learns from an image what
others learn from |G| views of it.

Exact where every stride of 2 meets an odd number of pixels (`AstroformerConfig.nearest_size`), of which it keeps the
same ones from either end; at other sizes nearly.

Legend: G elements of the group, N weights of the network, O orbits, K networks.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from astroformer.network.attention import ConvBlockAttention, PositionBias, RelativeAttention, SqueezeExcitation
from astroformer.network.blocks import Head, Stem
from astroformer.network.config import GROUPS


class Tie:
    """The orbits of a network's weights, and what ties tensors of their shapes along them.

    Args:
        network: an `Astroformer`; it is not kept.
        group: of its config, mirror or d4.

    Attributes:
        order: of the group, G.
        free: number of orbits O, the weights that the network has of its own.
        members: of each parameter, (G, its orbits): where the entries of its orbits are, once it is flattened.
    """

    def __init__(self, network: nn.Module, group: str) -> None:
        self.order = len(GROUPS[group])
        self._sizes: list[int] = []
        self.free = 0
        self.members: list[Tensor] = []
        orbits = []
        device = next(network.parameters()).device
        for parameter, axes in _parameters(network):
            moved_GN = [moved.flatten() for moved in _moved_entries(parameter.shape, axes, group)]
            first_N = functools.reduce(torch.minimum, moved_GN)  # of the orbit, which it is known by
            is_first_N = first_N == moved_GN[0]
            self.members.append(torch.stack([moved_N[is_first_N] for moved_N in moved_GN]))
            orbits.append((is_first_N.cumsum(0, dtype=torch.int32) - 1)[first_N] + self.free)
            self._sizes.append(parameter.numel())
            self.free += int(is_first_N.sum())
        starts = itertools.accumulate(self._sizes, initial=0)
        places = [members + start for members, start in zip(self.members, starts, strict=False)]
        # G times O places in all of them, one after the other.
        self._members = torch.cat(places, 1).flatten().to(device)
        self._orbit_N = torch.cat(orbits).to(device)

    @torch.no_grad()
    def tie(self, tensors: Sequence[Tensor]) -> None:
        """Gives the entries of an orbit their mean, in place.

        Args:
            tensors: of the shapes of `network.parameters()`, in that order, or all with a further axis before it, of
                several networks.
        """
        self._write(tensors, self._values(tensors).mean(1))

    @torch.no_grad()
    def start(self, network: nn.Module) -> None:
        """Gives the weights of an orbit the value of one of them: their spread stays that of the initialization."""
        parameters = list(network.parameters())
        self._write(parameters, self._values(parameters)[:, 0])

    def even(self, network: nn.Module) -> None:
        """Ties weights, which drift apart by rounding, and the running statistics of each group of channels, each of
        which saw the batches from one side."""
        self.tie(list(network.parameters()))
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                for kept in (layer.running_mean, layer.running_var):
                    assert kept is not None
                    groups = kept.view(-1, self.order)
                    groups.copy_(groups.mean(1, keepdim=True).expand_as(groups))

    def _values(self, tensors: Sequence[Tensor]) -> Tensor:
        """(K, G, O): the entries of each orbit; one that is shorter than the group comes several times."""
        networks = tensors[0].numel() // self._sizes[0]
        flat = torch.cat([tensor.reshape(networks, -1) for tensor in tensors], 1)
        return flat.index_select(1, self._members).unflatten(1, (self.order, -1))

    def _write(self, tensors: Sequence[Tensor], value_KO: Tensor) -> None:
        pieces = value_KO.index_select(1, self._orbit_N).split(self._sizes, 1)
        torch._foreach_copy_(list(tensors), [piece.view(t.shape) for piece, t in zip(pieces, tensors, strict=True)])


class _Axis(NamedTuple):
    """What an axis of a weight holds. A turn takes channels to others of their group; where each has `inner` entries,
    these move together (the entries of a head that turns)."""

    kind: str  # channels; fixed: channels that stay; places, of a kernel or of a table
    inner: int = 1


_CHANNELS, _FIXED, _PLACES = _Axis("channels"), _Axis("fixed"), _Axis("places")


def _parameters(network: nn.Module) -> Iterator[tuple[nn.Parameter, tuple[_Axis, ...]]]:
    """Every parameter with its axes.

    What stays in place: the channels of the image, those between the layers of a channel gate, the logits, and heads
    that do not turn.
    """
    outputs: dict[nn.Module, _Axis] = {}  # where they are not channels
    inputs: dict[nn.Module, _Axis] = {}
    for module in network.modules():
        if isinstance(module, Stem):
            inputs[module.conv1] = _FIXED
        elif isinstance(module, SqueezeExcitation | ConvBlockAttention):
            outputs[module.reduce] = inputs[module.restore] = _FIXED
            if isinstance(module, ConvBlockAttention):
                inputs[module.spatial] = outputs[module.spatial] = _FIXED
        elif isinstance(module, RelativeAttention):
            if module.heads_turn:
                outputs[module.qkv] = _Axis("channels", 3 * module.head_width)
                inputs[module.project] = _Axis("channels", module.head_width)
            elif module.position_bias is not None:
                outputs[module.position_bias] = _FIXED
        elif isinstance(module, Head):
            outputs[module.classifier] = _FIXED
    for module in network.modules():
        out, into = outputs.get(module, _CHANNELS), inputs.get(module, _CHANNELS)
        for parameter in module.parameters(recurse=False):
            if isinstance(module, PositionBias):
                yield parameter, (out, _PLACES, _PLACES)
            elif parameter.ndim == 1:
                yield parameter, (out,)
            elif isinstance(module, nn.Conv2d):
                yield parameter, (out, _FIXED if module.groups > 1 else into, _PLACES, _PLACES)
            else:
                yield parameter, (out, into)


def _moved_entries(shape: torch.Size, axes: tuple[_Axis, ...], group: str) -> Iterator[Tensor]:
    """For each element, of a weight's shape: which entry of the flattened weight it brings to each place."""
    entries = torch.arange(shape.numel(), dtype=torch.int32, device="cpu").view(shape)
    for (turns, flipped), source_G in zip(GROUPS[group], _sources(group), strict=True):
        moved = entries
        for number, axis in enumerate(axes):
            if axis.kind == "channels":
                moved = moved.unflatten(number, (-1, len(source_G), axis.inner)).index_select(number + 1, source_G)
                moved = moved.flatten(number, number + 2)
        if axes[-1] == _PLACES:
            moved = (moved.flip(-1) if flipped else moved).rot90(turns, (-2, -1))
        yield moved


@functools.cache
def _sources(group: str) -> list[Tensor]:
    """For each element h, which channel of a group comes to each place: h takes channel g to that of h g."""
    elements = GROUPS[group]
    places = [[elements.index(_product(h, g)) for g in elements] for h in elements]
    return [torch.tensor(place, device="cpu").argsort() for place in places]


def _product(h: tuple[int, int], g: tuple[int, int]) -> tuple[int, int]:
    """h after g: a flip turns what was turned before it the other way."""
    return (h[0] + (-g[0] if h[1] else g[0])) % 4, (h[1] + g[1]) % 2
