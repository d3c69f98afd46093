"""State dicts carried between this network, timm's `MaxxVit` and the released Astroformer code.

The three compute the same function. The released code names its weights as timm does; ours differ so:

| here | there |
|---|---|
| linear layers of Transformer blocks, (out, in) | 1x1 convolutions, (out, in, 1, 1) |
| position-bias table (N, 2H-1, 2W-1) | the same transposed, ((2H-1)(2W-1), N) |
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from timm.layers import LayerNorm2d, NormMlpClassifierHead, RelPosBias
from timm.models.maxxvit import MaxxVit, MaxxVitCfg, MaxxVitConvCfg, MaxxVitTransformerCfg
from torch import Tensor, nn

from astroformer.errors import UserError
from astroformer.network import Astroformer, AstroformerConfig

StateDict = dict[str, Tensor]

_CONVOLUTIONAL = {
    "norm": "pre_norm",
    "expand": "conv1_1x1",
    "expand_norm": "norm1",
    "depthwise": "conv2_kxk",
    "depthwise_norm": "norm2",
    "attention.reduce": "se.fc1",
    "attention.restore": "se.fc2",
    "project": "conv3_1x1",
    "shortcut.project": "shortcut.expand",
}
_TRANSFORMER = {
    "shortcut.project": "shortcut.expand",
    "norm1": "norm1",
    "attention.qkv": "attn.qkv",
    "attention.position_bias.table": "attn.rel_pos.relative_position_bias_table",
    "attention.project": "attn.proj",
    "norm2": "norm2",
    "mlp.expand": "mlp.fc1",
    "mlp.project": "mlp.fc2",
}
_OUTSIDE = {
    "stem.conv1": "stem.conv1",
    "stem.norm": "stem.norm1",
    "stem.conv2": "stem.conv2",
    "head.norm": "head.norm",
    "head.hidden": "head.pre_logits.fc",
    "head.classifier": "head.fc",
}


def to_maxxvit(state_dict: Mapping[str, Tensor], config: AstroformerConfig) -> StateDict:
    """The weights of an `Astroformer(config)` as a state dict of `maxxvit_reference(config)`.

    Raises:
        UserError: the weights do not fit the config, or it has settings that `MaxxVit` builds otherwise.
    """
    _refuse_others(config)
    own = _template(config)
    require(state_dict, own, "this network")
    return {_their_name(name, config): _theirs(name, tensor, config) for name, tensor in state_dict.items()}


def from_maxxvit(state_dict: Mapping[str, Tensor], config: AstroformerConfig) -> StateDict:
    """The state dict of timm's `MaxxVit` as one for `Astroformer(config)`; the inverse of `to_maxxvit`.

    Raises:
        UserError: the weights do not fit the config (names and shapes are listed), or it has settings that `MaxxVit`
            has no counterpart of.
    """
    _refuse_others(config)
    own = _template(config)
    theirs = {_their_name(name, config): _theirs(name, tensor, config) for name, tensor in own.items()}
    require(state_dict, theirs, "timm's MaxxVit")
    carried = {}
    for name, like in own.items():
        tensor = state_dict[_their_name(name, config)]
        if name.endswith("position_bias.table"):
            tensor = tensor.t()
        carried[name] = tensor.reshape(like.shape).contiguous()
    return carried


def from_released(checkpoint: Mapping[str, Any], config: AstroformerConfig) -> StateDict:
    """A checkpoint of the released Astroformer code as a state dict for `Astroformer(config)`.

    Args:
        checkpoint: the state dict itself, or a training checkpoint that holds it under `state_dict` or
            `model`; names may start with `module.`, as DistributedDataParallel leaves them.
        config: the variant, with the checkpoint's `img_size`, `num_classes` and `in_chans`.

    Raises:
        UserError: there is no state dict in it, or it does not fit the config (names and shapes are listed).
    """
    weights: Any = checkpoint
    for key in ("state_dict", "model"):
        if isinstance(weights, Mapping) and isinstance(weights.get(key), Mapping):
            weights = weights[key]
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise UserError(
            "the checkpoint holds no state dict: give a mapping from names to tensors, by itself or under "
            "the key 'state_dict' or 'model'."
        )
    # Some timm versions store the lookup index of the bias table; it follows from the map's size.
    kept = {
        str(name).removeprefix("module."): tensor
        for name, tensor in weights.items()
        if not str(name).endswith("relative_position_index")
    }
    return from_maxxvit(kept, config)


def maxxvit_reference(config: AstroformerConfig) -> nn.Module:
    """timm's `MaxxVit` with the settings of `config`: independent code of the same function, to compare with.

    With sizes that all strides divide, its logits are those of `Astroformer(config)` with the same weights.
    It runs at `config.img_size` only. Built with timm's initial weights, on torch's default device.

    Raises:
        UserError: the config is equivariant, has `cbam`, an odd width, or an `img_size` that its strides do not divide.
    """
    _refuse_others(config)
    if any(width % 2 for width in config.widths):
        raise UserError(
            f"widths are {config.widths}: timm's MaxxVit rounds what comes of odd ones; choose even widths."
        )
    total = math.prod(config.strides)
    if any(size % total for size in config.img_size):
        raise UserError(
            f"img_size is {config.img_size}: timm's MaxxVit needs sizes that the strides divide, multiples of {total}."
        )
    attention = "se" if config.channel_attention == "se" else ""
    model = MaxxVit(
        MaxxVitCfg(
            embed_dim=config.widths,
            depths=config.depths,
            block_type=tuple(config.layout),
            stem_width=config.stem_width,
            conv_cfg=MaxxVitConvCfg(attn_layer=attention),
            transformer_cfg=MaxxVitTransformerCfg(
                dim_head=config.head_width,
                expand_ratio=float(config.mlp_ratio),
                rel_pos_type="bias" if config.relative_bias else "",
            ),
            head_hidden_size=config.head_hidden or config.widths[-1],
        ),
        # MaxxVit halves five times: a size from which that ends at our last map. _set_strides does the rest.
        img_size=tuple(size * 32 // total for size in config.img_size),
        in_chans=config.in_chans,
        num_classes=config.num_classes,
        drop_rate=config.head_dropout,
        drop_path_rate=config.stochastic_depth,
    )
    if config.head_hidden is None:
        # Its own head without hidden layer normalizes before it pools; this one pools first, as ours does.
        model.head = NormMlpClassifierHead(
            config.widths[-1],
            config.num_classes,
            drop_rate=config.head_dropout,
            norm_layer=partial(LayerNorm2d, eps=1e-6),
        )
    _set_strides(model, config)
    return model


def _set_strides(model: Any, config: AstroformerConfig) -> None:
    """Turn `MaxxVit`'s stride of 2 into 1 where the config says so, and size the bias tables after that."""
    if config.strides[0] == 1:
        model.stem.conv1.stride = (1, 1)
    for stage, stride, size in zip(model.stages, config.strides[1:], config.map_sizes()[1:], strict=True):
        first = stage.blocks[0]
        if stride == 1:
            first.shortcut.pool = nn.Identity()
            if hasattr(first, "conv2_kxk"):
                first.conv2_kxk.stride = (1, 1)
            else:
                first.norm1.down.pool = nn.Identity()
        for block in stage.blocks:
            attention = getattr(block, "attn", None)
            if attention is not None and attention.rel_pos is not None and attention.rel_pos.window_size != size:
                attention.rel_pos = RelPosBias(window_size=size, num_heads=attention.num_heads)


def _their_name(name: str, config: AstroformerConfig) -> str:
    """timm's name of our parameter or buffer `name`."""
    match = re.fullmatch(r"stages\.(\d)\.(\d+)\.(.+)", name)
    if match is None:
        return _renamed(name, _OUTSIDE)
    stage, block, rest = int(match[1]), int(match[2]), match[3]
    transformer = config.layout[stage] == "T"
    renamed = _renamed(rest, _TRANSFORMER if transformer else _CONVOLUTIONAL)
    if transformer and rest.startswith("norm1.") and block == 0:
        renamed = rest.replace("norm1.", "norm1.norm.")  # the first block keeps its pooling beside its norm
    return f"stages.{stage}.blocks.{block}.{renamed}"


def _renamed(name: str, table: dict[str, str]) -> str:
    if name in table:
        return table[name]
    layer, _, kind = name.rpartition(".")
    return f"{table[layer]}.{kind}"


def _theirs(name: str, tensor: Tensor, config: AstroformerConfig) -> Tensor:
    """Our tensor `name` in timm's shape."""
    if name.endswith("position_bias.table"):
        return tensor.flatten(1).t().contiguous()
    if tensor.ndim == 2 and name.startswith("stages."):
        return tensor[:, :, None, None]
    return tensor


def _template(config: AstroformerConfig) -> StateDict:
    """The state dict of `Astroformer(config)` in names and shapes, without values."""
    with torch.device("meta"):
        return dict(Astroformer(config).state_dict())


def require(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], whose: str) -> None:
    """Raise a UserError that lists what is missing, unexpected or of another shape."""
    faults = {
        "missing": [name for name in wanted if name not in given],
        "unexpected": [name for name in given if name not in wanted],
        "of another shape": [
            f"{name} {tuple(given[name].shape)} instead of {tuple(tensor.shape)}"
            for name, tensor in wanted.items()
            if name in given and given[name].shape != tensor.shape
        ],
    }
    if any(faults.values()):
        listed = "; ".join(
            f"{len(names)} {kind}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
            for kind, names in faults.items()
            if names
        )
        raise UserError(
            f"the weights do not fit the config as those of {whose} ({listed}). Give the variant, layout, "
            "img_size, num_classes and in_chans that the weights were made with."
        )


def _refuse_others(config: AstroformerConfig) -> None:
    if config.equivariance != "none":
        raise UserError(
            f"equivariance is '{config.equivariance}', which timm's MaxxVit has no counterpart of; allowed: none."
        )
    if config.group != "none":
        raise UserError(f"group is '{config.group}', which timm's MaxxVit has no counterpart of; allowed: none.")
    if config.transformer != "paper":
        raise UserError(
            f"transformer is '{config.transformer}', which timm's MaxxVit has no counterpart of; allowed: paper."
        )
    if config.channel_attention == "cbam":
        raise UserError("channel_attention is 'cbam', which timm's MaxxVit has no counterpart of; allowed: none, se.")
