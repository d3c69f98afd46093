"""How training images are varied: the settings, their presets, and the policies' operations and ranges.

`draws.py` says what is drawn from them for each image, `augmenter.py` does it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    import torch


def _ordered(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"the lower end {pair[0]} is above the upper end {pair[1]}; write them as (lower, upper)")
    return pair


Probability = Annotated[float, Field(ge=0, le=1)]
Strength = Annotated[float, Field(ge=0, le=5)]
Share = Annotated[float, Field(gt=0, le=1)]
Factor = Annotated[float, Field(ge=0.05, le=20)]
Factors = Annotated[tuple[Factor, Factor], AfterValidator(_ordered)]
Shares = Annotated[tuple[Share, Share], AfterValidator(_ordered)]


class Augment(BaseModel):
    """How training images are varied. The defaults suit images of the sky, where no direction is special.

    The neutral value (0, 1, (1, 1), None or "none") turns a setting off. What a recipe begins with: `PRESETS`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    flip_horizontal: Probability = Field(default=0.5, description="Probability of swapping left and right.")
    flip_vertical: Probability = Field(default=0.5, description="Probability of swapping top and bottom.")
    quarter_turns: bool = Field(
        default=True, description="Turn by 0, 90, 180 or 270 degrees, equally likely; square images only."
    )
    rotation: float = Field(default=180.0, ge=0, le=180, description="Rotate by up to this many degrees, either way.")
    scale: Factors = Field(
        default=(0.8, 1.25), description="Zoom by a factor between these, log-uniform; above 1 enlarges."
    )
    aspect: float = Field(
        default=1.0, ge=1, le=5, description="Stretch width against height by up to this factor, log-uniform."
    )
    shear: float = Field(
        default=0.0, ge=0, le=60, description="Shear along each axis by up to this many degrees, either way."
    )
    shift: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Shift along each axis by up to this fraction of the frame. "
        "By whole pixels, exactly, where nothing else asks for resampling.",
    )
    crop_scale: Shares | None = Field(
        default=None,
        description="Random-resized crop: share of the frame's area cut out and enlarged; None: no crop.",
    )
    crop_ratio: Factors = Field(default=(3 / 4, 4 / 3), description="Width over height of that crop, log-uniform.")
    interpolation: Literal["bilinear", "bicubic"] = Field(default="bilinear", description="How pixels are resampled.")
    border: Literal["reflect", "edge", "zero"] = Field(
        default="reflect",
        description="What lies outside the frame: its mirror image, its rim's pixels, or 0.",
    )

    brightness: Strength = Field(default=0.0, description="Multiply by a factor in 1 ± this (not below 0).")
    contrast: Strength = Field(
        default=0.0, description="Scale differences from the image's mean luminance by 1 ± this."
    )
    saturation: Strength = Field(
        default=0.0,
        description="Scale differences from each pixel's luminance by 1 ± this; red, green and blue only.",
    )
    hue: float = Field(
        default=0.0,
        ge=0,
        le=0.5,
        description="Turn hues by up to this share of the colour circle, either way; red, green and blue only.",
    )
    noise: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Standard deviation of Gaussian noise on every pixel, in units of the full range: of white, or of "
        "what a scaling makes 1; of floats without a scaling in their own units.",
    )
    erasing: Probability = Field(default=0.0, description="Probability of erasing a rectangle.")
    erasing_area: Shares = Field(default=(0.02, 1 / 3), description="Share of the frame that is erased, uniform.")
    erasing_aspect: Factors = Field(
        default=(0.3, 1 / 0.3), description="Height over width of the rectangle, log-uniform."
    )
    erasing_fill: Literal["mean", "noise"] = Field(
        default="mean",
        description="Fill with the image's mean of each channel, or with noise of that mean and its spread.",
    )

    policy: Literal["none", "randaugment", "trivialaugment"] = Field(
        default="none",
        description="Random operations from a fixed list: several of one strength (RandAugment), "
        "or one of any strength (TrivialAugment).",
    )
    policy_magnitude: float = Field(default=9.0, ge=0, le=10, description="Strength of RandAugment's operations.")
    policy_epochs: int = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="Epochs that a run takes at least for the policy to be applied; a shorter one goes without it. "
        "By the clock, as many as are expected. 175 for the sky, 150 for photographs, 0 where a recipe lists its own "
        "augmentation.",
    )
    policy_operations: int = Field(default=2, ge=1, le=8, description="Number of operations that RandAugment applies.")

    mixup: float = Field(
        default=0.0, ge=0, le=100, description="Blend pairs of images with a share from Beta(a, a); 0: off."
    )
    cutmix: float = Field(
        default=0.0, ge=0, le=100, description="Paste a box of another image, area from Beta(a, a); 0: off."
    )
    mix_probability: Probability = Field(
        default=1.0, description="Probability that an image is mixed, by mixup or CutMix."
    )
    mix_switch: Probability = Field(
        default=0.5, description="Probability of CutMix for a mixed image, where both are on."
    )
    mix_epochs: int = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="Epochs that a run takes at least for images to be mixed, as policy_epochs has it. 150 for "
        "photographs, 0 where a recipe says how it mixes.",
    )

    @property
    def ranges(self) -> Policy:
        """Of the policy's operations; those of RandAugment where there is none."""
        return POLICIES["randaugment" if self.policy == "none" else self.policy]

    @property
    def policy_slots(self) -> int:
        """The number of operations that the policy applies to an image."""
        return {"none": 0, "randaugment": self.policy_operations, "trivialaugment": 1}[self.policy]

    @property
    def resamples(self) -> bool:
        """Whether any setting moves pixels by less than whole pixels."""
        return (
            self.rotation > 0
            or self.scale != (1.0, 1.0)
            or self.aspect > 1
            or self.shear > 0
            or self.crop_scale is not None
            or self.policy != "none"
        )

    def at_length(self, epochs: float) -> Augment:
        """The settings of a run of so many epochs: without the policy and without mixing where it is too short."""
        off: dict[str, object] = {}
        if epochs < self.policy_epochs:
            off["policy"] = "none"
        if epochs < self.mix_epochs:
            off |= {"mixup": 0.0, "cutmix": 0.0}
        return self.model_copy(update=off) if off else self

    def asked_for(self, names: Collection[str]) -> Augment:
        """The settings of a recipe that changes those of these names; what it asks for is applied at any length."""
        always = {"policy_epochs": 0} if "policy" in names else {}
        if not _MIXING.isdisjoint(names):
            always["mix_epochs"] = 0
        return self.model_copy(update=always)

    def without_effect(self, channels: int, dtype: torch.dtype, *, rgb: bool = True) -> list[str]:
        """Settings that are on and have no meaning for such images, so that a caller can say so.

        Saturation and hue need red, green and blue: three channels that are no other bands (`rgb`). The policy's
        operations on 256 levels (posterize, solarize, autocontrast, equalize, invert) need a known range, which only
        uint8 images have.
        """
        names = []
        if channels != 3 or not rgb:
            names += [name for name in ("saturation", "hue") if getattr(self, name) > 0]
        if self.policy != "none":
            kept = operations(self.policy, channels, str(dtype) == "torch.uint8", rgb=rgb)
            names += [f"{self.policy}: {name}" for name in operations(self.policy, 3, True) if name not in kept]
        return names


_MIXING = frozenset(("mixup", "cutmix", "mix_probability", "mix_switch"))

_OFF = Augment(flip_horizontal=0, flip_vertical=0, quarter_turns=False, rotation=0, scale=(1, 1), shift=0)

# TrivialAugment slows learning and reduces overfitting: with 50 images a class runs of 100 epochs lose 5 points by it,
# and runs of 200 and more gain 2 to 3 (docs/lab/experiments.md).
_SKY_POLICY = {"policy": "trivialaugment", "policy_epochs": 175}
# Photographs are mixed too, and both are for somewhat shorter runs: after 150 and 200 epochs they are as accurate as
# without, with far better probabilities, and after 670 more accurate.
_PHOTO_POLICY = {"policy": "trivialaugment", "policy_epochs": 150}
_PHOTO_MIXING = {"mixup": 0.2, "cutmix": 1.0, "mix_probability": 0.5, "mix_epochs": 150}

PRESETS: dict[str, Augment] = {
    "sky": Augment().model_copy(update=_SKY_POLICY),
    "photo": _OFF.model_copy(
        update={
            "flip_horizontal": 0.5,
            "crop_scale": (0.5, 1.0),
            "brightness": 0.2,
            "contrast": 0.2,
            "saturation": 0.2,
            **_PHOTO_POLICY,
            **_PHOTO_MIXING,
        }
    ),
    "none": _OFF,
}
"""Starting points: the sky (no direction is special), photographs (up is up), and no augmentation at all."""


class Policy(NamedTuple):
    """The operations of a policy, and how far they go at the largest strength."""

    operations: tuple[str, ...]
    shear: float  # largest tangent
    translate: float  # largest share of the frame
    rotate: float  # largest angle, degrees
    enhance: float  # brightness, contrast, saturation, sharpness: 1 ± this
    posterize: int  # most bits dropped


GEOMETRIC = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
_ENHANCING = ("brightness", "contrast", "saturation", "sharpness")
_LEVELS = ("posterize", "solarize", "autocontrast", "equalize")
OPERATIONS = ("identity", *GEOMETRIC, *_ENHANCING, *_LEVELS, "invert")
"""All operations of the policies; a `Draw` names them by their place here."""

POLICIES = {
    # Cubuk et al., arXiv 1909.13719, with inversion, which later versions added.
    "randaugment": Policy(OPERATIONS, shear=0.3, translate=0.45, rotate=30.0, enhance=0.9, posterize=4),
    # Müller and Hutter, arXiv 2103.10158, the wide ranges; 32 of 224 pixels are 1/7 of a frame.
    "trivialaugment": Policy(OPERATIONS[:-1], shear=0.99, translate=1 / 7, rotate=135.0, enhance=0.99, posterize=6),
}


def operations(policy: str, channels: int, integer: bool, *, rgb: bool = True) -> list[str]:
    """The policy's operations that mean something for images of so many channels, uint8 (`integer`) or not.

    Args:
        rgb: whether three channels are red, green and blue, and no other bands.
    """
    left_out = () if integer else (*_LEVELS, "invert")
    return [
        name
        for name in POLICIES[policy].operations
        if name not in left_out and not (name == "saturation" and (channels != 3 or not rgb))
    ]
