"""The networks that ours is compared with, the settings that each is offered, and how any of them is trained once.

Every network trains in the same `Loop`, from the same decoded store, with the same augmentation, schedule and averaged
weights. What differs is in `PEERS`, one entry a network: how it is built, and two or three settings after its authors
or after those who tuned it for few images, with the source of each. `low_data.py --tune` tries them on images dealt
from the training images.

Peers that take any size (`any_size`) begin on images of 3/4 of each side as ours does (`progressive`), where these keep
32 px: ResNet-18, WRN, ConvNeXt, EfficientNetV2. CCT, CoAtNet, MaxViT and ViT are built for one size and see it from
the start. On a CPU all peers run as torch has them, in float32, which is their fastest way there. On a GPU the steps of
all networks are recorded as CUDA graphs. A run of so many epochs or FLOPs is the same wherever it runs: what the rules
would decide for a CPU, in float32.

Legend: B batch, C channels, H height, W width, N tokens, D channels of a token, K classes.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import timm
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from timm.models.maxxvit import MaxxVit, MaxxVitCfg, MaxxVitConvCfg, MaxxVitTransformerCfg
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from astroformer.cache import default_cache
from astroformer.classifier import Classifier
from astroformer.images import ImageStore, LabelledImages, measure_statistics
from astroformer.network import VARIANTS, count_parameters, create_network
from astroformer.progress import Reporter
from astroformer.system import describe_system, pick_device, versions
from astroformer.training.loop import Loop
from astroformer.training.recipe import Recipe
from astroformer.training.rules import decide
from astroformer.training.steps.graphed import why_not_graphed
from astroformer.training.train import preprocessing_of
from astroformer.weights import maxxvit_reference

PLAIN = {"speed": "plain", "precision": "no"}  # torch's own steps are fastest in float32 on a CPU
OURS = "astroformer"
_SMALL_IMAGE = 64  # px a side; networks made for 224 px get a finer stem below it


# Networks that timm does not have ------------------------------------------------------------------------------------


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
        stride = 1 if min(size) < _SMALL_IMAGE else 2
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
        return min(self.size) < _SMALL_IMAGE

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
    """A network to compare with. The first setting is taken as long as `low_data.py --tune` has found no better one."""

    build: Callable[[Shape], nn.Module]
    any_size: bool
    settings: tuple[Setting, ...]


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
    return PEERS[model].settings if model in PEERS else (Setting("default", {}, "decided by the rules"),)


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
        words = recipe.network.words()
        return create_network(recipe.model, num_classes=classes, in_chans=channels, img_size=size, **words)
    shape = Shape(channels, classes, size, drop)
    if model in PEERS:
        return PEERS[model].build(shape)
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


# Training ------------------------------------------------------------------------------------------------------------


@dataclass
class Trained:
    """What a run made, and what it says of itself."""

    classifier: Classifier
    valid: ImageStore
    recipe: Recipe  # decided
    row: dict[str, Any]


def trained(
    model: str,
    recipe: Recipe,
    train_images: LabelledImages,
    valid_images: LabelledImages,
    *,
    flops: float | None = None,
    teacher: Classifier | None = None,
) -> Trained:
    """Trains once, from the store that all networks share.

    A training FLOP count is 3 times that of the forward pass (the backward pass makes two products for each one), with
    2 FLOPs a multiply-accumulate, over all images seen, each at the size it was seen at.

    Args:
        model: a name that `network` knows.
        recipe: what it leaves open is decided from the training images.
        train_images, valid_images: of the same classes; the second choose nothing.
        flops: length of the run, in training FLOPs; the recipe's own length is then not used.
        teacher: of the same images, whose answers are learned in place of labels.
    """
    with Reporter() as reporter:
        if flops is not None:
            recipe = recipe.model_copy(update={"epochs": 1, "minutes": None})
        recipe = decided(recipe, train_images)
        preprocessing = preprocessing_of(recipe)
        train = ImageStore.build(train_images, preprocessing, cache=default_cache())
        valid = ImageStore.build(valid_images, preprocessing, cache=default_cache())
        mean, std = measure_statistics(train.base, train.rows)
        preprocessing = dataclasses.replace(preprocessing, mean=mean, std=std)
        size, channels = preprocessing.image_size, preprocessing.channels
        torch.manual_seed(recipe.seed)
        module = network(model, recipe, len(train.classes), size)
        seen: Counter[tuple[int, int]] = Counter()  # images by their size
        row: dict[str, Any] = {"parameters": count_parameters(module), "macs": macs(module, channels, size)}
        reporter.say(f"{model}, seed {recipe.seed}")
        # The row before may have had another precision.
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        on_cpu = pick_device(recipe.device) == "cpu"
        accelerator = Accelerator(cpu=on_cpu, mixed_precision=recipe.precision)
        # A single evaluation comes after the last step, on the clock, and nobody asks for it: an image will do.
        watched = valid.subset(np.arange(1)) if recipe.evaluations == 1 else valid
        given: Any = {"accelerator": accelerator, "reporter": reporter, "teacher": teacher}
        loop = Loop(module, train, watched, preprocessing, recipe, **given)
        if flops is not None:
            recipe = loop.recipe = recipe.model_copy(update={"epochs": _epochs(loop, flops, module)})
        make_batch = loop._batch_of_step  # a recorded step calls no hooks of the network

        def counted(keys: np.ndarray, labels_N: Tensor) -> tuple[Tensor, Tensor]:
            x_BCHW, y_BK = make_batch(keys, labels_N)
            seen[tuple(x_BCHW.shape[2:])] += len(x_BCHW)
            return x_BCHW, y_BK

        loop._batch_of_step = counted
        began = time.process_time()
        fit = loop.fit()
        cpu_seconds = time.process_time() - began
        row["training_flops"] = sum(6 * macs(module, channels, s) * n for s, n in seen.items())
    row |= {
        "epochs": fit.state.epoch,
        "images_seen": fit.state.images,
        "minutes_taken": round(fit.state.elapsed / 60, 4),
        # Of one core. Below the number of threads others took the cores.
        "cpu_share": round(cpu_seconds / max(fit.state.elapsed, 1e-9), 3),
        "image_size": list(size),
        "crop": preprocessing.crop,
        "threads": torch.get_num_threads(),
        "processor": processor(recipe.device),
        "versions": versions(),
        "finished": time.strftime("%Y-%m-%d %H:%M"),
    }
    return Trained(Classifier(fit.network, preprocessing, train.classes), valid, recipe, row)


def decided(recipe: Recipe, images: LabelledImages) -> Recipe:
    """The recipe with what it leaves open. Of a run by the clock as the machine has it, of others as on a CPU."""
    if recipe.minutes is not None or pick_device(recipe.device) == "cpu":
        return decide(recipe, images)[0]
    precision = "no" if recipe.precision == "auto" else recipe.precision
    alike = {"device": "cpu", "speed": "plain", "precision": precision}
    made, _ = decide(recipe.model_copy(update=alike), images)
    speed = "graph" if why_not_graphed(made, "cuda") is None else "plain"
    return made.model_copy(update={"device": "cuda", "speed": speed})


def processor(device: str) -> str:
    """What runs on `device` compute with: the GPU, or the CPU with the instructions that decide how fast it is."""
    if pick_device(device) != "cpu":
        return torch.cuda.get_device_name()
    system = describe_system()
    return ", ".join([system["processor"], *system["instructions"]])


def _epochs(loop: Loop, flops: float, module: nn.Module) -> int:
    """How many epochs take so many training FLOPs: to the nearest one, at least one."""
    full, channels = loop.preprocessing.image_size, loop.preprocessing.channels
    small, share = loop.small_augmenter, loop.recipe.progressive
    each = macs(module, channels, full)
    if small is not None and share > 0:
        each = (1 - share) * each + share * macs(module, channels, small.size)
    return max(1, round(flops / (6 * each * len(loop.train))))


def _sizes() -> str:
    """What each network has and needs at 32 and 64 px, three channels and ten classes, as Markdown."""
    lines = ["| network | parameters M | MMAC at 32 px | MMAC at 64 px |", "|---|---|---|---|"]
    recipe = Recipe(model="astroformer_atto", channels=3)
    for model in (OURS, *PEERS):
        made = {side: network(model, recipe, 10, (side, side)) for side in (32, 64)}
        need = " | ".join(f"{macs(module, 3, (side, side)) / 1e6:.0f}" for side, module in made.items())
        lines.append(f"| {model} | {count_parameters(made[32]) / 1e6:.2f} | {need} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(settings_table(), _sizes(), sep="\n\n")
