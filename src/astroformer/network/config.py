"""The settings of a network, how a network is asked, and the named variants.

`AstroformerConfig` says what a network is made of, `AnswersConfig` how it is asked once it is trained. A config
rebuilds its network exactly, survives JSON, and refuses values that no network can be built from. Nothing here imports
torch.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from astroformer.errors import UserError, brief, unknown_name

CHANNEL_ATTENTIONS = ("se", "cbam", "none")
TRANSFORMERS = ("paper", "hybrid")
HYBRID_HEADS = 8  # as many as the largest group has elements
EQUIVARIANCES = ("none", "centre", "anchor", "input")
# The largest values, many times those of any network that was trained: what is beyond them is damage or a slip.
MOST = {"depths": 512, "in_chans": 1024, "num_classes": 100_000, "img_size": 16384, "mlp_ratio": 64}
MOST_WIDTH = 2**16  # of all other settings, which are numbers of channels
SYMMETRIES = ("shift", "shift+mirror", "shift+d4")
VIEWS = (1, 2, 4, 8)
# The elements of each group, as (quarter turns, flipped from left to right before). Their order is that of the channels
# that a group-equivariant network keeps for them.
GROUPS: dict[str, tuple[tuple[int, int], ...]] = {
    "none": ((0, 0),),
    "mirror": ((0, 0), (0, 1)),
    "d4": tuple((turns, flipped) for flipped in (0, 1) for turns in range(4)),
}


@dataclass(frozen=True)
class AstroformerConfig:
    """The settings of one Astroformer (R. Dagli, arXiv 2304.05350, section 3).

    The network has five stages: the stem S0, and S1 to S4, each `C` (convolutional) or `T` (Transformer).

    Args:
        stem_width: channels of S0.
        widths: channels of S1 to S4. Those of the paper's Transformer stages are multiples of `head_width`.
        depths: number of blocks of S1 to S4.
        layout: four letters over C and T, one a stage; the paper's is `CCCT`.
        strides: 1 or 2 for S0 to S4; a stage's first block (the stem's first convolution) carries it.
        img_size: (height, width) in pixels that the position-bias tables are built for; a number means a
            square. The network runs at other sizes too, with resampled tables.
        in_chans: channels of the image.
        num_classes: number of logits; 0 leaves the last linear layer out.
        channel_attention: in the convolutional blocks, `se` (squeeze and excitation), `cbam` or `none`.
        relative_bias: whether Transformer blocks add a learnt scalar per relative offset to the attention
            logits.
        stochastic_depth: probability of dropping the residual branch of the last block, for each sample by
            itself; it grows linearly over the blocks, from 0 in the first. In [0, 1).
        head_dropout: probability of dropping a feature just before the last linear layer. In [0, 1).
        head_hidden: width of the head's hidden layer (linear, tanh); None (or 0) goes from the normalized
            features straight to the logits.
        transformer: what Transformer stages are made of. `paper`: blocks of attention and an MLP. `hybrid`: the
            convolutional blocks, and after the last of them attention of 8 heads, of which as much is added as a learnt
            number a channel says.
        head_width: channels of one attention head. The paper's blocks have as many heads as that makes of the width.
        mlp_ratio: hidden over outer width in the MLP of the paper's Transformer blocks.
        group: the flips and turns of the image under which the maps transform (`group.py`): `d4` (quarter turns and
            flips), `mirror` (the swap of left and right) or `none`. Channels then come in groups of 8 or 2, and weights
            are equal along the orbits of the group, at the same cost or less.
        equivariance: how the network is made to commute exactly with circular shifts by whole pixels. `none`: it is
            not, as in the paper's code. `centre`: the brightest place of an image is moved to its middle
            (`framing.py`). `anchor`: a phase is chosen before every stride (`phases.py`). `input`: one phase is chosen
            for all strides, on the image. With `anchor` and `input`, convolutions and position bias are circular, and
            the sides of an image are multiples of the product of the strides. (The word `frame` of the command line
            and of `create_model` belongs to `AnswersConfig`.)

    Raises:
        UserError: a value is of the wrong kind, out of range, or does not fit the others.

    Examples:
        >>> config = AstroformerConfig(16, (32, 48, 80, 96), (1, 2, 3, 2), strides=(2, 2, 2, 1, 1), img_size=64,
        ...                            head_width=16)
        >>> config.map_sizes()
        [(32, 32), (16, 16), (8, 8), (8, 8), (8, 8)]
        >>> AstroformerConfig.from_dict(config.to_dict()) == config
        True
    """

    stem_width: int
    widths: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    layout: str = "CCCT"
    strides: tuple[int, int, int, int, int] = (2, 2, 2, 2, 2)
    img_size: tuple[int, int] = (224, 224)
    in_chans: int = 3
    num_classes: int = 10
    channel_attention: str = "se"
    relative_bias: bool = True
    stochastic_depth: float = 0.0
    head_dropout: float = 0.0
    head_hidden: int | None = None
    transformer: str = "paper"
    head_width: int = 32
    mlp_ratio: int = 4
    group: str = "none"
    equivariance: str = "none"

    def __post_init__(self) -> None:
        def normalize(name: str, value: object) -> None:
            object.__setattr__(self, name, value)  # the dataclass is frozen for everyone else

        img_size: Any = self.img_size
        normalize("img_size", _integers("img_size", (img_size,) * 2 if _is_int(img_size) else img_size, 2, least=1))
        normalize("widths", _integers("widths", self.widths, 4, least=1))
        normalize("depths", _integers("depths", self.depths, 4, least=1))
        normalize("strides", _integers("strides", self.strides, 5, least=1))
        if not self.head_hidden and not isinstance(self.head_hidden, bool):
            normalize("head_hidden", None)  # 0 is the only way to say "none" through timm, which drops None
        for name, least in (("stem_width", 1), ("in_chans", 1), ("num_classes", 0), ("head_width", 1)):
            _integers(name, (getattr(self, name),), 1, least=least)
        for name in ("mlp_ratio", "head_hidden"):
            if getattr(self, name) is not None:
                _integers(name, (getattr(self, name),), 1, least=1)
        for name in ("stochastic_depth", "head_dropout"):
            rate = getattr(self, name)
            if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate < 1:
                raise UserError(f"{name} is {rate!r}: give a probability of at least 0 and below 1.")
            normalize(name, float(rate))
        if not isinstance(self.relative_bias, bool):
            raise UserError(f"relative_bias is {self.relative_bias!r}: give true or false.")
        if self.equivariance == "frame":
            raise UserError(
                "equivariance is 'frame', which says how a network is asked and is no setting of its own; give it to "
                "astroformer.create_model, or put the network into Answers(network, AnswersConfig(frame=True))."
            )
        for name, allowed in (
            ("channel_attention", CHANNEL_ATTENTIONS),
            ("transformer", TRANSFORMERS),
            ("group", tuple(GROUPS)),
            ("equivariance", EQUIVARIANCES),
        ):
            if getattr(self, name) not in allowed:
                raise unknown_name(name, getattr(self, name), allowed)
        if not isinstance(self.layout, str) or len(self.layout) != 4 or set(self.layout) - set("CT"):
            raise UserError(
                f"layout is {self.layout!r}: give four letters, C (convolutional) or T (Transformer), one "
                "for each of the stages S1 to S4, such as 'CCCT'."
            )
        if self.transformer == "hybrid" and "T" not in self.layout:
            raise UserError(
                f"transformer is 'hybrid', but layout '{self.layout}' has no Transformer stage, so it would change "
                "nothing; put a T into the layout, such as 'CCCT', or leave transformer out."
            )
        if set(self.strides) - {1, 2}:
            raise UserError(f"strides are {self.strides}: each is 1 or 2, for the stem and the stages S1 to S4.")
        if min(self.img_size) < self.min_size:
            raise UserError(
                f"img_size is {self.img_size[0]}x{self.img_size[1]} pixels: a network with strides "
                f"{self.strides} takes images of at least {self.min_size}x{self.min_size}; resize to that "
                "or more."
            )
        self._check_shape("img_size is", self.img_size)
        for stage, (kind, width) in enumerate(zip(self.layout, self.widths, strict=True), start=1):
            if kind == "T" and self.transformer == "paper" and width % self.head_width:
                raise UserError(
                    f"widths are {self.widths}, layout is '{self.layout}': stage S{stage} is a Transformer, "
                    f"so its width {width} must be a multiple of head_width ({self.head_width}); change one "
                    "of the three."
                )

        self._check_group()

    def _check_group(self) -> None:
        order = len(GROUPS[self.group])
        if order == 1:
            return
        if self.group == "d4" and self.img_size[0] != self.img_size[1]:
            raise UserError(
                f"img_size is {self.img_size[0]}x{self.img_size[1]} pixels: with group 'd4' images are turned by 90 "
                "degrees, so they must be square; cut them square, or choose group 'mirror'."
            )
        if self.on_torus:
            raise UserError(
                f"group is '{self.group}' and equivariance '{self.equivariance}', which chooses phases that do not "
                "turn with the image; choose equivariance 'none', 'frame' or 'centre', or group 'none'."
            )
        channels = {"stem_width": self.stem_width, "head_hidden": self.head_hidden or 0}
        channels |= {f"widths[{stage}]": width for stage, width in enumerate(self.widths)}
        if self.transformer == "paper" and "T" in self.layout:
            channels["head_width"] = self.head_width
        for name, width in channels.items():
            if width % order:
                raise UserError(
                    f"{name} is {width}, but with group '{self.group}' channels come in groups of {order}: give a "
                    "multiple of that."
                )

    @property
    def min_size(self) -> int:
        """Least height and width of an image: 32 pixels, or fewer where they still leave S4 a map of 4x4."""
        return min(32, 3 * self.total_stride + 1)

    def check_size(self, height: int, width: int) -> None:
        """Raise a UserError if images of this size, in pixels, are too small for the network, or too large for any."""
        least, most = self.min_size, MOST["img_size"]
        if max(height, width) > most:
            raise UserError(f"the images are of {height}x{width} pixels: each side has at most {most}.")
        if height < least or width < least:
            raise UserError(
                f"the images are of {height}x{width} pixels: the network takes at least {least}x{least}; "
                "resize or pad them to that or more."
            )
        self._check_shape("the images are of", (height, width))

    def _check_shape(self, what: str, size: tuple[int, int]) -> None:
        """Raise a UserError if the network is not equivariant at this size."""
        total = self.size_multiple
        if any(side % total for side in size):
            nearest = "x".join(str(max(total, round(side / total) * total)) for side in size)
            raise UserError(
                f"{what} {size[0]}x{size[1]} pixels: with equivariance '{self.equivariance}' each side must be a "
                f"multiple of {total}, the product of the strides; the nearest such size is {nearest}."
            )

    @property
    def total_stride(self) -> int:
        """The product of the strides: pixels of the image from one place of S4's map to the next."""
        return math.prod(self.strides)

    @property
    def size_multiple(self) -> int:
        """What the sides of an image must be multiples of."""
        return self.total_stride if self.on_torus else 1

    def nearest_size(self, side: float) -> int:
        """The number of pixels nearest to `side` at which the network has its symmetry exactly.

        On the torus that is a multiple of the product of the strides. With a group it is one more than a multiple,
        because a stride of 2 keeps the same pixels of an odd number whichever end it counts from.
        """
        total, more = self.total_stride, int(self.group != "none")
        if not (self.on_torus or more):
            return round(side)
        return max(1, round((side - more) / total)) * total + more

    def exact_group(self, size: tuple[int, int]) -> str:
        """The group whose flips and turns leave the network's own logits unchanged, for images of this `size` (height,
        width) in pixels.

        It is `none` with `centre`, because the brightest place that this finds need not turn with the image.
        """
        exact = self.equivariance == "none" and all(self.nearest_size(side) == side for side in size)
        return self.group if exact else "none"

    @property
    def on_torus(self) -> bool:
        """Whether opposite sides of a map are neighbours, for convolutions and the position bias."""
        return self.equivariance in ("anchor", "input")

    def anchor_period(self, stage: int) -> int:
        """The number of phases, along each side, that are chosen from before `stage` (0 to 4); 1 means no choice."""
        if self.equivariance == "anchor":
            return self.strides[stage]
        return self.total_stride if self.equivariance == "input" and stage == 0 else 1

    def map_sizes(self, size: tuple[int, int] | None = None) -> list[tuple[int, int]]:
        """(height, width) of the feature maps of S0 to S4 for images of `size`, `img_size` if not given.

        A stride of 2 halves a size and rounds up, whatever the size.
        """
        height, width = self.img_size if size is None else size
        sizes = []
        for stride in self.strides:
            height, width = -(-height // stride), -(-width // stride)
            sizes.append((height, width))
        return sizes

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON values; `from_dict` reads them back."""
        settings = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> AstroformerConfig:
        """The config of `to_dict`'s settings.

        Raises:
            UserError: a setting is unknown, one without a default is missing, or a value is impossible.
        """
        check_settings(settings)
        needed = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]
        missing = [name for name in needed if name not in settings]
        if missing:
            raise UserError(f"the network config lacks {', '.join(missing)}; a config names at least {needed}.")
        return cls(**settings)


@dataclass(frozen=True)
class AnswersConfig:
    """How a trained network is asked; see `network/answers.py`.

    Args:
        frame: whether an image is first moved to where its frame began, as far as that shows (`framing.py`). Circular
            shifts by whole pixels then change nothing.
        symmetry: the flips and turns that leave the logits unchanged beside what the network does by itself. `shift`:
            none. `shift+mirror`: the swap of left and right, by the mean over an image and its mirror image.
            `shift+d4`: quarter turns and flips of square images, by the mean over some of their views (`views.py`).
        views: how many views `shift+d4` averages: 1, 2, 4 or 8, at as many times the cost.

    Raises:
        UserError: a value is none of these.

    Examples:
        >>> AnswersConfig(symmetry="shift+d4").to_dict()
        {'frame': False, 'symmetry': 'shift+d4', 'views': 4}
    """

    frame: bool = False
    symmetry: str = "shift"
    views: int = 4

    def __post_init__(self) -> None:
        if not isinstance(self.frame, bool):
            raise UserError(f"frame is {self.frame!r}: give true or false.")
        if self.symmetry not in SYMMETRIES:
            raise unknown_name("symmetry", self.symmetry, SYMMETRIES)
        if not _is_int(self.views) or self.views not in VIEWS:
            raise UserError(f"views is {self.views!r}: choose 1, 2, 4 or 8 of the eight turns and flips.")

    @property
    def changes_nothing(self) -> bool:
        """Whether the network is asked about the image alone, as it is."""
        return not self.frame and self.symmetry == "shift"

    def check_size(self, height: int, width: int, what: str = "the images are of") -> None:
        """Raise a UserError if images of this size, in pixels, can't be turned as `symmetry` says."""
        if self.symmetry == "shift+d4" and height != width:
            raise UserError(
                f"{what} {height}x{width} pixels: symmetry 'shift+d4' turns images by 90 degrees, so they must be "
                "square; cut them square, or choose symmetry 'shift'."
            )

    def exact_group(self, network: AstroformerConfig, size: tuple[int, int]) -> str:
        """`AstroformerConfig.exact_group` of a network that is asked so, whatever is averaged: `none` with `frame`,
        because the place where the frame is found need not turn with the image."""
        return "none" if self.frame else network.exact_group(size)

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON values; `from_dict` reads them back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> AnswersConfig:
        """The config of `to_dict`'s settings. Raises a UserError if a setting is unknown or impossible."""
        _check_names("setting of the answers", settings, cls)
        return cls(**settings)


def split_words(words: dict[str, Any]) -> tuple[dict[str, Any], AnswersConfig]:
    """The words of the command line, of recipes and of `create_model`, as settings of the network and of its answers.

    There `equivariance`, `symmetry` and `views` stand beside the settings of the network, and `frame` is one of the
    values of `equivariance`. Configs written by versions before 0.2 hold the same words.

    Returns:
        the fields of `AstroformerConfig` among the words, and how the network is asked.

    Raises:
        UserError: `equivariance`, `symmetry` or `views` is impossible.

    Examples:
        >>> split_words({"img_size": 64, "equivariance": "frame", "symmetry": "shift+mirror"})
        ({'img_size': 64}, AnswersConfig(frame=True, symmetry='shift+mirror', views=4))
    """
    settings = dict(words)
    if "equivariance" in settings and settings["equivariance"] not in (*EQUIVARIANCES, "frame"):
        raise unknown_name("equivariance", settings["equivariance"], (*EQUIVARIANCES, "frame"))
    answers = {name: settings.pop(name) for name in ("symmetry", "views") if name in settings}
    frame = settings.get("equivariance") == "frame"
    if frame:
        del settings["equivariance"]
    return settings, AnswersConfig(frame=frame, **answers)


def joined_words(network: AstroformerConfig, answers: AnswersConfig) -> dict[str, Any]:
    """The inverse of `split_words`, complete, as JSON values."""
    words = {**network.to_dict(), "symmetry": answers.symmetry, "views": answers.views}
    return {**words, "equivariance": "frame"} if answers.frame else words


def check_settings(settings: dict[str, Any]) -> None:
    """Raise a UserError, with the nearest valid name, if a setting is not a field of `AstroformerConfig`."""
    _check_names("network setting", settings, AstroformerConfig)


def _check_names(what: str, settings: dict[str, Any], config: type[AstroformerConfig] | type[AnswersConfig]) -> None:
    names = [f.name for f in dataclasses.fields(config)]
    for name in settings:
        if name not in names:
            raise unknown_name(what, name, names)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _integers(name: str, values: Any, count: int, *, least: int) -> tuple[int, ...]:
    """`values` as a tuple, if it is `count` integers of at least `least` and at most what `MOST` says."""
    good, most = isinstance(values, (tuple, list)) and len(values) == count, MOST.get(name, MOST_WIDTH)
    if not good or not all(_is_int(value) and least <= value <= most for value in values):
        shown = values[0] if good and count == 1 else values
        wanted = f"{count} integers" if count > 1 else "an integer"
        raise UserError(f"{name} is {brief(shown)}: give {wanted} of at least {least} and at most {most}.")
    return tuple(values)


def _paper(stem_width: int, widths: tuple[int, int, int, int], depths: tuple[int, int, int, int]) -> AstroformerConfig:
    return AstroformerConfig(stem_width, widths, depths, head_hidden=widths[-1])


def _small(
    stem_width: int, widths: tuple[int, int, int, int], depths: tuple[int, int, int, int], head_width: int
) -> AstroformerConfig:
    return AstroformerConfig(
        stem_width, widths, depths, strides=(2, 2, 2, 1, 1), img_size=(64, 64), head_width=head_width
    )


VARIANTS: dict[str, AstroformerConfig] = {
    # The paper's six, as its released code builds them: for 224 px, five halvings.
    "astroformer_0": _paper(64, (96, 192, 384, 768), (2, 3, 5, 2)),
    "astroformer_1": _paper(64, (96, 192, 384, 768), (2, 6, 14, 2)),
    "astroformer_2": _paper(128, (128, 256, 512, 1024), (2, 6, 14, 2)),
    "astroformer_3": _paper(192, (192, 384, 768, 1536), (2, 6, 14, 2)),
    "astroformer_4": _paper(192, (192, 384, 768, 1536), (2, 12, 28, 2)),
    "astroformer_5": _paper(192, (256, 512, 1280, 2048), (2, 12, 28, 2)),
    # Our own, for 28 to 128 px: three halvings, so that 28 px still leave S4 4x4 tokens. They come early
    # because a CPU spends its time on wide maps of many pixels, not on the arithmetic. Every width suits
    # every layout.
    "astroformer_atto": _small(16, (32, 48, 80, 96), (1, 2, 3, 2), head_width=16),
    "astroformer_pico": _small(24, (32, 64, 128, 192), (1, 2, 4, 2), head_width=32),
    "astroformer_nano": _small(32, (64, 96, 192, 320), (1, 2, 6, 2), head_width=32),
}
"""The config of each variant by its name: the paper's six, and three small ones for few images."""
