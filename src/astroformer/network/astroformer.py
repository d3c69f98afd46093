"""The network whole: `Astroformer`, and `create_network` that builds one by name."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils.checkpoint import checkpoint

from astroformer.errors import UserError, unknown_name
from astroformer.network.blocks import Head, HybridBlock, MBConv, Stem, TransformerBlock
from astroformer.network.config import GROUPS, VARIANTS, AstroformerConfig, check_settings
from astroformer.network.framing import centred
from astroformer.network.group import Tie
from astroformer.network.phases import anchored

# They look at sizes and values, which a graph of torch.fx doesn't know: each is one node of it.
for _name in ("anchored", "centred", "check_images"):
    fx.wrap(_name)


class Astroformer(nn.Module):
    """Astroformer (R. Dagli, arXiv 2304.05350): a stem, four stages C or T, a head.

    It takes images (B, in_chans, H, W) of any size from 32x32 up (`config.min_size`), square or not.

    Args:
        config: what to build; kept as `.config`.

    Examples:
        >>> import dataclasses, torch
        >>> from astroformer.network import VARIANTS
        >>> network = Astroformer(dataclasses.replace(VARIANTS["astroformer_atto"], num_classes=5, img_size=32))
        >>> network(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 5])
    """

    def __init__(self, config: AstroformerConfig) -> None:
        super().__init__()
        self.config = config
        self.grad_checkpointing = False
        grouped = config.group != "none"
        self.stem = Stem(config.in_chans, config.stem_width, config.strides[0], config.on_torus)
        self.stages = nn.ModuleList(
            nn.Sequential(*(_block(config, stage, position) for position in range(depth)))
            for stage, depth in enumerate(config.depths)
        )
        width = config.widths[-1]
        self.num_features = width
        self.head = Head(width, config.head_hidden, config.num_classes, config.head_dropout)
        if grouped and not self.head.norm.weight.is_meta:  # without values, for which torch would import its compiler
            Tie(self, config.group).start(self)

    @property
    def num_classes(self) -> int:
        """Number of logits."""
        return self.config.num_classes

    @property
    def in_chans(self) -> int:
        """Channels of an image."""
        return self.config.in_chans

    @property
    def head_hidden_size(self) -> int:
        """Width of what `forward_head(..., pre_logits=True)` returns; timm's word for it."""
        return self.head.num_features

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) to logits (B, num_classes).

        Raises:
            UserError: the network doesn't take images of this shape (`check_images`).
        """
        return self.forward_head(self.forward_features(x_BCHW))

    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) to the map of S4, (B, num_features, h, w). Errors as in `forward`."""
        x_BCHW = self._laid_out(x_BCHW)
        for stage in range(1 + len(self.stages)):
            x_BCHW, _ = self._stage(stage, x_BCHW)
        return x_BCHW

    def forward_head(self, x_BCHW: Tensor, pre_logits: bool = False) -> Tensor:
        """The map of S4 to logits, or with `pre_logits` to the features (B, head_hidden_size) under them.

        Where `reset_classifier` has left out the mean over the map, both are there for each of its places.
        """
        return self.head(x_BCHW, pre_logits)

    def feature_maps(self, x_BCHW: Tensor) -> list[Tensor]:
        """Images (B, in_chans, H, W) to the maps of S0 to S4, sized as `config.map_sizes((H, W))` says.

        Where the network is shift-equivariant, each image's maps lie where the image chose; see
        `feature_maps_with_offsets`. Errors as in `forward`.
        """
        return self.feature_maps_with_offsets(x_BCHW)[0]

    def feature_maps_with_offsets(self, x_BCHW: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The maps of S0 to S4, and where in the image each lies: for dense use.

        Returns:
            The maps (B, C, h, w), and an offset (B, 2) of int64 in pixels for each. Row and column m of a map whose
            pixels are s apart is pixel (s m + offset) modulo (H, W) of the image. All 0 without equivariance. Errors as
            in `forward`.
        """
        x_BCHW = self._laid_out(x_BCHW)
        maps, offsets, apart = [], [], 1
        offset_B2 = torch.zeros(x_BCHW.shape[0], 2, dtype=torch.int64, device=x_BCHW.device)
        size_2 = torch.tensor(x_BCHW.shape[2:], device=x_BCHW.device)
        for stage in range(1 + len(self.stages)):
            x_BCHW, phase_B2 = self._stage(stage, x_BCHW)
            if phase_B2 is not None:
                offset_B2 = (offset_B2 + apart * phase_B2) % size_2
            apart *= self.config.strides[stage]
            maps.append(x_BCHW)
            offsets.append(offset_B2)
        return maps, offsets

    def _laid_out(self, x_BCHW: Tensor) -> Tensor:
        check_images(x_BCHW, self.config)
        # Pixels outermost: a fifth faster on a CPU, and the Transformer's tokens then are views. Written without
        # torch.channels_last, which vmap does not know.
        return x_BCHW.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)

    def _stage(self, stage: int, x_BCHW: Tensor) -> tuple[Tensor, Tensor | None]:
        """The map after stage S0 to S4, and how far (B, 2) the map before it was rolled, if it was."""
        phase_B2, period = None, self.config.anchor_period(stage)
        if period > 1:
            x_BCHW, phase_B2 = anchored(x_BCHW, period)
        elif stage == 0 and self.config.equivariance == "centre":
            x_BCHW, phase_B2 = centred(x_BCHW)
        if stage == 0:
            return self.stem(x_BCHW), phase_B2
        blocks = self.stages[stage - 1]
        if not (self.grad_checkpointing and torch.is_grad_enabled()):
            return blocks(x_BCHW), phase_B2
        for block in blocks.children():
            x_BCHW = checkpoint(block, x_BCHW, use_reentrant=False, context_fn=partial(_first_and_repeated_run, block))
        return x_BCHW, phase_B2

    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.head.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the last linear layer by a fresh one with `num_classes` outputs (0: by none).

        Args:
            num_classes: number of logits from now on.
            global_pool: timm's word for what the head begins with. `avg` is the mean over the map, an empty string
                leaves that out, so that each place of the map has its own logits, and None changes nothing.

        Raises:
            UserError: `global_pool` is something else.
        """
        if global_pool not in (None, "avg", ""):
            raise UserError(
                f"global_pool is {global_pool!r}: give 'avg', the mean over the map, or '', which leaves the map whole."
            )
        self.config = dataclasses.replace(self.config, num_classes=num_classes)
        if global_pool is not None:
            self.head.pooled = global_pool == "avg"
        like = next(self.parameters())
        fresh = nn.Linear(self.head.num_features, num_classes) if num_classes else nn.Identity()
        self.head.classifier = fresh.to(like.device, like.dtype).train(self.training)
        if self.config.group != "none" and not like.is_meta:
            Tie(self, self.config.group).start(self)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute blocks in the backward pass, and keep no activations: less memory, more time."""
        self.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Names of the position-bias tables, which weight decay spares as it spares biases and norms."""
        return {name for name, _ in self.named_parameters() if name.endswith("position_bias.table")}


def _block(config: AstroformerConfig, stage: int, position: int) -> nn.Module:
    """The block at a position of S1 to S4, which are the stages 0 to 3 here."""
    torus, grouped, kind = config.on_torus, config.group != "none", config.layout[stage]
    index, total = sum(config.depths[:stage]) + position, sum(config.depths)
    drop = config.stochastic_depth * index / max(1, total - 1)
    stride = config.strides[stage + 1] if position == 0 else 1
    out_width = config.widths[stage]
    width = out_width if position else (config.stem_width, *config.widths)[stage]
    map_size = config.map_sizes()[stage + 1] if config.relative_bias else None
    if kind == "T" and config.transformer == "paper":
        return TransformerBlock(
            width=width,
            out_width=out_width,
            stride=stride,
            head_width=config.head_width,
            mlp_ratio=config.mlp_ratio,
            map_size=map_size,
            drop=drop,
            torus=torus,
            centred=grouped,
        )
    mbconv = MBConv(
        width=width,
        out_width=out_width,
        stride=stride,
        attention=config.channel_attention,
        drop=drop,
        circular=torus,
        centred=grouped,
    )
    if kind == "C" or position < config.depths[stage] - 1:
        return mbconv
    return HybridBlock(
        mbconv,
        width=out_width,
        head_width=config.head_width,
        map_size=map_size,
        drop=drop,
        torus=torus,
        group_order=len(GROUPS[config.group]),
    )


def check_images(x_BCHW: Tensor, config: AstroformerConfig) -> None:
    """Raise a UserError unless the network of `config` takes these images."""
    if x_BCHW.ndim != 4 or x_BCHW.shape[1] != config.in_chans:
        raise UserError(
            f"the images are of shape {tuple(x_BCHW.shape)}, but the network takes (batch, "
            f"{config.in_chans}, height, width): convert the images to {config.in_chans} "
            "channel(s), or build a network with another in_chans."
        )
    config.check_size(*x_BCHW.shape[2:])


def create_network(name: str, **settings: Any) -> Astroformer:
    """The network of a variant, with some of its settings changed.

    Args:
        name: one of `VARIANTS`.
        settings: fields of `AstroformerConfig`.

    Raises:
        UserError: the name or a setting is unknown, or a value is impossible.
    """
    if name not in VARIANTS:
        raise unknown_name("network", name, VARIANTS)
    check_settings(settings)
    return Astroformer(dataclasses.replace(VARIANTS[name], **settings))


def _first_and_repeated_run(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts for the first run of a checkpointed block and for its repetition in the backward pass."""
    return contextlib.nullcontext(), _statistics_kept(block)


@contextlib.contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Batch norms work as ever, but a repeated pass does not count twice in their running statistics."""
    norms = [layer for layer in block.modules() if isinstance(layer, nn.BatchNorm2d)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
