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

Legend: G elements of the group, N weights of the network, O orbits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from astroformer.network.attention import ConvBlockAttention, PositionBias, SqueezeExcitation
from astroformer.network.blocks import Head, Stem
from astroformer.network.config import AstroformerConfig

# Each as (quarter turns, whether flipped left to right before); their numbers are the channels of a group.
_ELEMENTS: dict[str, tuple[tuple[int, int], ...]] = {
    "mirror": ((0, 0), (0, 1)),
    "d4": tuple((turns, flipped) for flipped in (0, 1) for turns in range(4)),
}


class Tie:
    """The orbits of a network's weights, and what keeps these tied along them.

    Args:
        network: an `Astroformer` whose config has a group. Its parameters stay where they are in memory, or a new tie
            is made.

    Attributes:
        free: number of orbits O, the weights that the network has of its own.
    """

    def __init__(self, network: nn.Module) -> None:
        config = network.config
        assert isinstance(config, AstroformerConfig)
        members, orbits, self._parameters = [], [], []
        weights = self.free = 0
        for parameter, kinds in _parameters(network):
            entries_GN = _moved_entries(parameter.shape, kinds, config.group)
            first_N = entries_GN.amin(0)  # of the orbit, which it is known by
            first_O = first_N.unique()
            members.append(entries_GN[:, first_O] + weights)
            orbits.append(torch.searchsorted(first_O, first_N) + self.free)
            weights, self.free = weights + parameter.numel(), self.free + len(first_O)
            self._parameters.append(parameter)
        device = self._parameters[0].device
        members_GO = torch.cat(members, 1).to(device)
        self._order = len(members_GO)
        self._members = members_GO.flatten()
        self._orbit_N = torch.cat(orbits).to(device)
        self._statistics = [
            kept
            for layer in network.modules()
            if isinstance(layer, nn.BatchNorm2d)
            for kept in (layer.running_mean, layer.running_var)
            if kept is not None
        ]

    @torch.no_grad()
    def start(self) -> None:
        """Gives the weights of an orbit the value of one of them: their spread stays that of the initialization."""
        self._write(self._parameters, self._values(self._parameters)[..., 0, :])

    @torch.no_grad()
    def even(self) -> None:
        """Gives the weights of an orbit their mean, from which they differ by rounding, and the running statistics of a
        group of channels theirs, which batches saw from one side each."""
        self.tie(self._parameters)
        for kept in self._statistics:
            groups = kept.view(-1, self._order)
            groups.copy_(groups.mean(1, keepdim=True).expand_as(groups))

    def gradients(self) -> None:
        """Gives the gradients of an orbit their mean; all parameters have one."""
        self.tie([parameter.grad for parameter in self._parameters if parameter.grad is not None])

    @torch.no_grad()
    def tie(self, tensors: list[Tensor]) -> None:
        """Gives the entries of an orbit their mean, in place.

        Args:
            tensors: one for each parameter, in the order of `network.parameters()` and of its shape, or all with one
                more axis before it.
        """
        self._write(tensors, self._values(tensors).mean(-2))

    def _values(self, tensors: list[Tensor]) -> Tensor:
        """(…, G, O): the entries of each orbit; one that is shorter than the group comes several times."""
        flat = torch.cat([t.flatten(t.ndim - p.ndim) for t, p in zip(tensors, self._parameters, strict=True)], -1)
        return flat.index_select(-1, self._members).unflatten(-1, (self._order, -1))

    def _write(self, tensors: list[Tensor], value_O: Tensor) -> None:
        pieces = value_O.index_select(-1, self._orbit_N).split([p.numel() for p in self._parameters], -1)
        torch._foreach_copy_(tensors, [piece.view(t.shape) for piece, t in zip(pieces, tensors, strict=True)])


def _parameters(network: nn.Module) -> Iterator[tuple[nn.Parameter, str]]:
    """Every parameter with the kinds of its axes: c channels in groups, f channels that stay in place, and s s places.

    What stays: the channels of the image, those between the layers of a channel gate, and the logits.
    """
    fixed_inputs: set[nn.Module] = set()
    fixed_outputs: set[nn.Module] = set()
    for module in network.modules():
        if isinstance(module, Stem):
            fixed_inputs.add(module.conv1)
        elif isinstance(module, SqueezeExcitation | ConvBlockAttention):
            fixed_outputs.add(module.reduce)
            fixed_inputs.add(module.restore)
            if isinstance(module, ConvBlockAttention):
                fixed_inputs.add(module.spatial)
                fixed_outputs.add(module.spatial)
        elif isinstance(module, Head):
            fixed_outputs.add(module.classifier)
    for module in network.modules():
        out, into = ("f" if module in fixed else "c" for fixed in (fixed_outputs, fixed_inputs))
        for parameter in module.parameters(recurse=False):
            if isinstance(module, PositionBias):
                yield parameter, "fss"
            elif parameter.ndim == 1:
                yield parameter, out
            elif isinstance(module, nn.Conv2d):
                depthwise = module.groups > 1
                yield parameter, out + ("f" if depthwise else into) + "ss"
            else:
                yield parameter, out + into


def _moved_entries(shape: Iterable[int], kinds: str, group: str) -> Tensor:
    """(G, N) for each element, which entry of a flattened weight it brings to each place."""
    elements = _ELEMENTS[group]
    entries = torch.arange(torch.Size(shape).numel()).view(*shape)
    images = []
    for turns, flipped in elements:
        moved = entries
        for axis, kind in enumerate(kinds):
            if kind == "c":
                # Channel g of a group comes to h g, so from h⁻¹ g.
                places = [elements.index(_product((turns, flipped), element)) for element in elements]
                source = torch.tensor(places).argsort()
                moved = moved.unflatten(axis, (-1, len(elements))).index_select(axis + 1, source)
                moved = moved.flatten(axis, axis + 1)
        if kinds.endswith("ss"):
            moved = (moved.flip(-1) if flipped else moved).rot90(turns, (-2, -1))
        images.append(moved.flatten())
    return torch.stack(images)


def _product(h: tuple[int, int], g: tuple[int, int]) -> tuple[int, int]:
    """h after g: a flip turns what was turned before it the other way."""
    return (h[0] + (-g[0] if h[1] else g[0])) % 4, (h[1] + g[1]) % 2
