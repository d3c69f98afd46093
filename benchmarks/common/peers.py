"""The networks that ours is compared with, and the settings that each is offered.

Every network trains in the same loop (`common/training.py`), from the same decoded store, with the same augmentation,
schedule and averaged weights. What differs is in `PEERS`, one entry a network: how it is built, and two or three
settings after its authors or after those who tuned it for few images, with the source of each. `low_data.py --tune`
tries them on images dealt from the training images.

Peers that take any size (`any_size`) begin on images of 3/4 of each side as ours does (`progressive`), where these keep
32 px: ResNet-18, WRN, ConvNeXt, EfficientNetV2. CCT, CoAtNet, MaxViT and ViT are built for one size and see it from
the start. On a CPU all peers run as torch has them, in float32, which is their fastest way there. On a GPU the steps of
all networks are recorded as CUDA graphs. A run of so many epochs or FLOPs is the same wherever it runs: what the rules
would decide for a CPU, in float32.

Legend: C channels, H height, W width, K classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.models.maxxvit import MaxxVit, MaxxVitCfg, MaxxVitConvCfg, MaxxVitTransformerCfg
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from astroformer.network import VARIANTS, count_parameters, create_network
from astroformer.training.recipe import Recipe
from astroformer.weights import maxxvit_reference
from common.lite0 import STATISTICS, for_classes
from common.peer_networks import SMALL_IMAGE, CompactTransformer, WideResNet

PLAIN = {"speed": "plain", "precision": "no"}  # torch's own steps are fastest in float32 on a CPU
OURS = "astroformer"


# Peers and their settings --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """What a network is built for. `size` is (H, W) in px, `stochastic_depth` the rate of the deepest block."""

    channels: int
    classes: int
    size: tuple[int, int]
    stochastic_depth: float

    @property
    def small(self) -> bool:
        return min(self.size) < SMALL_IMAGE

    def words(self) -> dict[str, Any]:
        return {"in_chans": self.channels, "num_classes": self.classes}


@dataclass(frozen=True)
class Setting:
    """Words of a recipe (nested, as in YAML) that a network is trained with, and where they come from."""

    name: str
    words: dict[str, Any]
    source: str


@dataclass(frozen=True)
class Peer:
    """A network to compare with. The first setting is taken as long as `low_data.py --tune` has found no better one.
    Images are normalised by `statistics`, mean and standard deviation a channel, if given, else by their own."""

    build: Callable[[Shape], nn.Module]
    any_size: bool
    settings: tuple[Setting, ...]
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None


def _resnet18(shape: Shape) -> nn.Module:
    """timm's; below 64 px the stem of the CIFAR version, 3 × 3 with stride 1 and without max pool."""
    model = timm.create_model("resnet18", drop_path_rate=shape.stochastic_depth, **shape.words())
    if shape.small:
        model.conv1 = nn.Conv2d(shape.channels, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
    return model


def _wide(width: int) -> Callable[[Shape], nn.Module]:
    return lambda shape: WideResNet(16, width, size=shape.size, **shape.words())


def _cct(depth: int, width: int, heads: int, mlp_ratio: float, convolutions: int) -> Callable[[Shape], nn.Module]:
    """From 64 px on one convolution and pool more, so that there are as many tokens as at 32 px."""

    def build(shape: Shape) -> nn.Module:
        n = convolutions + (not shape.small)
        words = {"size": shape.size, "stochastic_depth": shape.stochastic_depth, **shape.words()}
        return CompactTransformer(depth, width, heads, mlp_ratio, n, **words)

    return build


def _coatnet(variant: str) -> Callable[[Shape], nn.Module]:
    """timm's MaxxVit as C-C-T-T, with the strides, depths and (nearly) the size of our `variant`."""

    def build(shape: Shape) -> nn.Module:
        config = dataclasses.replace(
            VARIANTS[variant],
            layout="CCTT",
            num_classes=shape.classes,
            in_chans=shape.channels,
            img_size=shape.size,
            stochastic_depth=shape.stochastic_depth,
        )
        return maxxvit_reference(config)

    return build


def _maxvit(shape: Shape) -> nn.Module:
    """timm's MaxxVit with MaxViT blocks (arXiv 2204.01697) at the scale of atto; windows and grids are 1/32 of the
    side that its five halvings expect. Below 64 px the stem has stride 1, and maps are those of twice the side."""
    scale = 2 if shape.small else 1
    config = MaxxVitCfg(
        embed_dim=(32, 32, 64, 96),
        depths=(1, 1, 2, 1),
        block_type=("M",) * 4,
        stem_width=16,
        conv_cfg=MaxxVitConvCfg(),
        transformer_cfg=MaxxVitTransformerCfg(),
    )
    size = tuple(side * scale for side in shape.size)
    model = MaxxVit(config, img_size=size, drop_path_rate=shape.stochastic_depth, **shape.words())
    if shape.small:
        model.stem.conv1.stride = (1, 1)
    return model


def _convnext(shape: Shape) -> nn.Module:
    """timm's; below 64 px patches of 2 px instead of 4."""
    patch = {"patch_size": 2} if shape.small else {}
    return timm.create_model("convnext_atto", drop_path_rate=shape.stochastic_depth, **patch, **shape.words())


def _efficientnet(shape: Shape) -> nn.Module:
    """timm's; below 64 px the stem has stride 1."""
    model = timm.create_model("tf_efficientnetv2_b0", drop_path_rate=shape.stochastic_depth, **shape.words())
    if shape.small:
        model.conv_stem.stride = (1, 1)
    return model


def _vit_tiny(shape: Shape) -> nn.Module:
    """timm's with patches of 1/8 of the side, 64 tokens whatever the size, averaged at the end."""
    words = {"patch_size": max(2, shape.size[0] // 8), "img_size": shape.size, "global_pool": "avg"}
    return timm.create_model(
        "vit_tiny_patch16_224", class_token=False, drop_path_rate=shape.stochastic_depth, **words, **shape.words()
    )


def _adamw(learning_rate: float, stochastic_depth: float, weight_decay: float = 0.05, **words: Any) -> dict[str, Any]:
    network = {"stochastic_depth": stochastic_depth}
    settings = {"learning_rate": learning_rate, "weight_decay": weight_decay, "batch_size": 64, "network": network}
    return settings | words


def _as_ours(learning_rate: float, stochastic_depth: float) -> Setting:
    """What our own rules make of few images: small batches, at half of the rate for batches of 64, and the weight decay
    by the length of the run."""
    words = _adamw(learning_rate / 2, stochastic_depth, batch_size=16) | {"weight_decay": None}
    return Setting(f"AdamW {learning_rate / 2:g}, as ours", words, "our own rules, at a rate that suits the network")


def _sgd(learning_rate: float, weight_decay: float, batch_size: int, **words: Any) -> dict[str, Any]:
    plain = {"label_smoothing": 0.0, "clip": None, "network": {"stochastic_depth": 0.0}}
    return {"optimizer": "sgd", "learning_rate": learning_rate, "weight_decay": weight_decay, "batch_size": batch_size,
            **plain, **words}  # fmt: skip


_MIXING = {"policy": "randaugment", "mixup": 0.8, "cutmix": 1.0}
_SMALL_SETS = Setting(
    "SGD, small sets",
    _sgd(4.55e-3, 5.29e-3, 10),
    "Brigato et al. 2021, arXiv 2108.13122: WRN-16-8 tuned for 50 images a class of ciFAIR-10, batch 10",
)
_WRN = (
    _SMALL_SETS,
    Setting("SGD 0.05", _sgd(0.05, 5e-4, 64), "Zagoruyko & Komodakis 2016: 0.1 at batch 128, Nesterov 0.9, 5e-4"),
    _as_ours(2e-3, 0.0),
)
_CCT = (
    _as_ours(1e-3, 0.1),
    Setting("AdamW 1e-3", _adamw(1e-3, 0.1, 0.06), "as the next without mixing, faster for a short schedule"),
    Setting("AdamW 5.5e-4", _adamw(5.5e-4, 0.1, 0.06), "Hassani et al. 2021: configs/pretrained/cct_7-3x1_cifar10"),
    Setting(
        "AdamW 5.5e-4, mixing",
        _adamw(5.5e-4, 0.1, 0.06, augment=_MIXING),
        "the same with its RandAugment 9, mixup 0.8 and CutMix 1.0",
    ),
)

PEERS: dict[str, Peer] = {
    "ResNet-18": Peer(
        _resnet18,
        any_size=True,
        settings=(
            _as_ours(1e-3, 0.0),
            Setting("AdamW 1e-3", _adamw(1e-3, 0.0), "the usual rate of AdamW for it"),
            Setting("SGD 0.05", _sgd(0.05, 5e-4, 64), "He et al. 2016, arXiv 1512.03385, CIFAR: 0.1 at batch 128"),
            _SMALL_SETS,
        ),
    ),
    # Width 8 is the network of the published small-set figures. Width 2 is the widest that learns in five minutes of
    # one core (AMD Zen 4): it sees 142 images of 32 px a second, a set of 500 images 85 times; width 4 sees it 25
    # times and width 8 7 times, where its authors train for 500 epochs.
    "WRN-16-2": Peer(_wide(2), any_size=True, settings=_WRN),
    "WRN-16-4": Peer(_wide(4), any_size=True, settings=_WRN),
    "WRN-16-8": Peer(_wide(8), any_size=True, settings=_WRN),
    # CCT-4/3×2 has the parameters of atto, CCT-7/3×1 is the paper's best for 32 px.
    "CCT-4/3x2": Peer(_cct(4, 128, 2, 1.0, 2), any_size=False, settings=_CCT),
    "CCT-7/3x1": Peer(_cct(7, 256, 4, 2.0, 1), any_size=False, settings=_CCT),
    "CoAtNet": Peer(
        _coatnet("astroformer_atto"),
        any_size=False,
        settings=(
            _as_ours(4e-3, 0.05),
            Setting("AdamW 2e-3", _adamw(2e-3, 0.05), "half of our first rate for a network of this size"),
            Setting("AdamW 1e-3", _adamw(1e-3, 0.05), "Dai et al. 2021, arXiv 2106.04803 (batch 4096)"),
        ),
    ),
    "ConvNeXt-atto": Peer(
        _convnext,
        any_size=True,
        settings=(
            _as_ours(1e-3, 0.1),
            Setting("AdamW 1e-3", _adamw(1e-3, 0.1), "a quarter of the next: batches of 64 instead of 4096"),
            Setting("AdamW 4e-3", _adamw(4e-3, 0.1), "Liu et al. 2022, arXiv 2201.03545 (batch 4096)"),
        ),
    ),
    "EfficientNetV2-b0": Peer(
        _efficientnet,
        any_size=True,
        settings=(
            _as_ours(1e-3, 0.1),
            Setting("AdamW 1e-3", _adamw(1e-3, 0.1), "AdamW in place of the authors' RMSProp, which needs long runs"),
            Setting("SGD 0.05", _sgd(0.05, 5e-4, 64), "as for ResNet-18"),
        ),
    ),
    "MaxViT": Peer(
        _maxvit,
        any_size=False,
        settings=(
            _as_ours(2e-3, 0.1),
            Setting("AdamW 2e-3", _adamw(2e-3, 0.1), "twice the next, for a narrow network"),
            Setting("AdamW 1e-3", _adamw(1e-3, 0.1), "Tu et al. 2022, arXiv 2204.01697: 3e-3 at batch 4096"),
        ),
    ),
    "ViT-tiny": Peer(
        _vit_tiny,
        any_size=False,
        settings=(
            _as_ours(5e-4, 0.1),
            Setting("AdamW 5e-4", _adamw(5e-4, 0.1), "DeiT (Touvron et al. 2021, arXiv 2012.12877), without mixing"),
            Setting("AdamW 5e-4, mixing", _adamw(5e-4, 0.1, augment=_MIXING), "DeiT's RandAugment, mixup and CutMix"),
        ),
    ),
}  # fmt: skip

# Networks that have learned from other images before, see `pretrained.py`; none of those that start from scratch.
LITE0 = "EfficientNet-Lite0"
PRETRAINED: dict[str, Peer] = {
    LITE0: Peer(
        lambda shape: for_classes(shape.classes, shape.stochastic_depth),
        any_size=True,
        settings=tuple(
            Setting(
                f"AdamW {rate:g}",
                _adamw(rate, 0.0, batch_size=16, image_size=128, channels=3),
                "rates to fine-tune at; ten times as much for the new head",
            )
            for rate in (3e-4, 1e-4, 1e-3, 3e-3, 1e-2)
        ),
        statistics=STATISTICS,
    ),
}

# Networks as timm has them, by timm's name, whatever the size: what `symmetry.py` has rows of.
# `img_size` stands for the size of the images.
TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "timm ResNet-18": ("resnet18", {}),
    "timm ConvNeXt-atto": ("convnext_atto", {}),
    "timm ViT-tiny": (
        "vit_tiny_patch16_224",
        {"img_size": None, "patch_size": 8, "global_pool": "avg", "class_token": False},
    ),
    "timm XCiT-nano": ("xcit_nano_12_p8_224", {"img_size": None}),
}


def settings_of(model: str) -> tuple[Setting, ...]:
    """What a network may be trained with; ours has its defaults alone."""
    peer = peer_of(model)
    return (Setting("default", {}, "decided by the rules"),) if peer is None else peer.settings


def peer_of(model: str) -> Peer | None:
    """The peer of this name; None for ours, and for networks as timm has them."""
    return PEERS.get(model) or PRETRAINED.get(model)


def settings_table() -> str:
    """`PEERS` as Markdown."""
    lines = ["| network | sizes | setting | recipe | after |", "|---|---|---|---|---|"]
    for model, peer in PEERS.items():
        for setting in peer.settings:
            words = ", ".join(f"{name} {value}" for name, value in flat(setting.words).items())
            sizes = "any" if peer.any_size else "one"
            lines.append(f"| {model} | {sizes} | {setting.name} | {words} | {setting.source} |")
    return "\n".join(lines)


def flat(words: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested words by their dotted names."""
    found: dict[str, Any] = {}
    for name, value in words.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def network(model: str, recipe: Recipe, classes: int, size: tuple[int, int]) -> nn.Module:
    """The network of a name, for images of `size` (H, W) px with the channels of the decided recipe."""
    channels, drop = recipe.channels, recipe.network.stochastic_depth
    assert channels is not None, "the recipe is not decided"
    if model == OURS:
        words = recipe.network.changes()
        return create_network(recipe.model, num_classes=classes, in_chans=channels, img_size=size, **words)
    shape = Shape(channels, classes, size, drop)
    peer = peer_of(model)
    if peer is not None:
        return peer.build(shape)
    if model == "timm C-C-T-T":
        return _coatnet(recipe.model)(shape)
    name, words = TIMM[model]
    if "img_size" in words:
        words = {**words, "img_size": size}
    return timm.create_model(name, drop_path_rate=drop, **words, **shape.words())


def macs(module: nn.Module, channels: int, size: tuple[int, int]) -> int:
    """Multiply-accumulates of one forward pass for one image of `size` (H, W) px; the module is left in eval mode."""
    module.eval()
    example = next(module.parameters())
    # Torch's counter does not know the CPU's fused attention; as plain matrix products it counts it.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module(torch.zeros(1, channels, *size, device=example.device, dtype=example.dtype))
    return counter.get_total_flops() // 2


def sizes_table() -> str:
    """What each network has and needs at 32 and 64 px, three channels and ten classes, as Markdown."""
    lines = ["| network | parameters M | MMAC at 32 px | MMAC at 64 px |", "|---|---|---|---|"]
    recipe = Recipe(model="astroformer_atto", channels=3)
    for model in (OURS, *PEERS):
        made = {side: network(model, recipe, 10, (side, side)) for side in (32, 64)}
        need = " | ".join(f"{macs(module, 3, (side, side)) / 1e6:.0f}" for side, module in made.items())
        lines.append(f"| {model} | {count_parameters(made[32]) / 1e6:.2f} | {need} |")
    return "\n".join(lines)
