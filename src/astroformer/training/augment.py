"""Augmentation of a whole batch at once: settings, what is drawn for each image, and the batched program that
applies it.

What an image becomes depends on (seed, epoch, image, its pixels) alone: not on the batch it is in, nor on
what came before. All geometry is composed into one matrix per image and the image is resampled once; the
order in effect is crop, flip, quarter turn, stretch and zoom, shear, rotation, shift, then the policy's
geometric operations; after them brightness, contrast, saturation, hue, the policy's other operations, noise
and erasing. Mixing two images is a second step, `Augmenter.mix`.

Shape letters: B images, C channels, H and W pixels of the source, h and w of the result, N = h·w, P
operations of the policy, T tries, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from torch import Tensor

from astroformer.errors import UserError
from astroformer.training import colour
from astroformer.training.mixing import Mixer, box_mask
from astroformer.training.randomness import Stream, normals, uniforms


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

    The neutral value (0, 1, (1, 1), None or "none") turns a setting off. Other starting points: `PRESETS`.
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
        description="Scale differences from each pixel's luminance by 1 ± this; three channels only.",
    )
    hue: float = Field(
        default=0.0,
        ge=0,
        le=0.5,
        description="Turn hues by up to this share of the colour circle, either way; three channels only.",
    )
    noise: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Standard deviation of Gaussian noise on every pixel, in units of the full range.",
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

    def without_effect(self, channels: int, dtype: torch.dtype) -> list[str]:
        """What is asked for here and has no meaning for such images, so that a caller can say it.

        Saturation and hue need three channels. The policy's operations on 256 levels (posterize, solarize,
        autocontrast, equalize, invert) need a known range, which only uint8 images have.
        """
        names = []
        if channels != 3:
            names += [name for name in ("saturation", "hue") if getattr(self, name) > 0]
        if self.policy != "none":
            kept = _operations(self.policy, channels, dtype == torch.uint8)
            names += [f"{self.policy}: {name}" for name in _operations(self.policy, 3, True) if name not in kept]
        return names


_OFF = Augment(flip_horizontal=0, flip_vertical=0, quarter_turns=False, rotation=0, scale=(1, 1), shift=0)

PRESETS: dict[str, Augment] = {
    "sky": Augment(),
    "photo": _OFF.model_copy(
        update={
            "flip_horizontal": 0.5,
            "crop_scale": (0.5, 1.0),
            "brightness": 0.2,
            "contrast": 0.2,
            "saturation": 0.2,
        }
    ),
    "none": _OFF,
}
"""Starting points: the sky (no direction is special), photographs (up is up), and no augmentation at all."""


class _Policy(NamedTuple):
    operations: tuple[str, ...]
    shear: float  # largest tangent
    translate: float  # largest share of the frame
    rotate: float  # largest angle, degrees
    enhance: float  # brightness, contrast, saturation, sharpness: 1 ± this
    posterize: int  # most bits dropped


_GEOMETRIC = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
_ENHANCING = ("brightness", "contrast", "saturation", "sharpness")
_LEVELS = ("posterize", "solarize", "autocontrast", "equalize")
OPERATIONS = ("identity", *_GEOMETRIC, *_ENHANCING, *_LEVELS, "invert")
"""All operations of the policies; a `Draw` names them by their place here."""

_POLICIES = {
    # Cubuk et al., arXiv 1909.13719, with inversion, which later versions added.
    "randaugment": _Policy(OPERATIONS, shear=0.3, translate=0.45, rotate=30.0, enhance=0.9, posterize=4),
    # Müller and Hutter, arXiv 2103.10158, the wide ranges; 32 of 224 pixels are 1/7 of a frame.
    "trivialaugment": _Policy(OPERATIONS[:-1], shear=0.99, translate=1 / 7, rotate=135.0, enhance=0.99, posterize=6),
}


def _operations(policy: str, channels: int, integer: bool) -> list[str]:
    """The operations that mean something for such images."""
    left_out = () if integer else (*_LEVELS, "invert")
    return [
        name
        for name in _POLICIES[policy].operations
        if name not in left_out and not (name == "saturation" and channels != 3)
    ]


@dataclass(frozen=True)
class Draw:
    """What was drawn for a batch; None where the setting is off.

    Attributes:
        flip_B2: −1 where flipped, else 1; (horizontal, vertical).
        turn_B: number of quarter turns, clockwise as seen.
        angle_B: rotation in radians, clockwise as seen.
        zoom_B2: factors of enlargement (horizontal, vertical).
        shear_B2: tangents of the shear (along x, along y).
        shift_B2: shift to the (right, bottom), as fraction of the frame.
        window_B4: the crop, as fraction of the frame: (centre x, centre y, width, height).
        brightness_B, contrast_B, saturation_B: strengths; 1 changes nothing.
        hue_B: turn of the colour circle.
        erased_B4: rectangle (top, bottom, left, right) in pixels of the result; empty where nothing is
            erased.
        operation_BP: places in `OPERATIONS`, in order of application.
        strength_BP: their strengths in [−1, 1]; the sign is the direction, where an operation has one.
    """

    flip_B2: Tensor | None = None
    turn_B: Tensor | None = None
    angle_B: Tensor | None = None
    zoom_B2: Tensor | None = None
    shear_B2: Tensor | None = None
    shift_B2: Tensor | None = None
    window_B4: Tensor | None = None
    brightness_B: Tensor | None = None
    contrast_B: Tensor | None = None
    saturation_B: Tensor | None = None
    hue_B: Tensor | None = None
    erased_B4: Tensor | None = None
    operation_BP: Tensor | None = None
    strength_BP: Tensor | None = None


# Each draw has its own column: turning one setting on leaves the draws of the others as they were.
_TRIES = 10  # at a crop or rectangle that fits into the frame
_SINGLE = (
    *("flip_horizontal", "flip_vertical", "quarter_turns", "rotation", "scale", "aspect"),
    *("shear_x", "shear_y", "shift_x", "shift_y", "crop_x", "crop_y"),
    *("brightness", "contrast", "saturation", "hue", "erasing", "erasing_x", "erasing_y"),
)
_REPEATED = ("crop_area", "crop_ratio", "erasing_area", "erasing_aspect")
_COLUMN = {name: slice(i, i + 1) for i, name in enumerate(_SINGLE)} | {
    name: slice(len(_SINGLE) + _TRIES * i, len(_SINGLE) + _TRIES * (i + 1)) for i, name in enumerate(_REPEATED)
}
_POLICY_COLUMN = len(_SINGLE) + _TRIES * len(_REPEATED)


class Augmenter:
    """Applies an `Augment` to batches.

    Args:
        settings: what to do.
        seed: of the run.
        size: (h, w) of the results, in pixels; stored images may have another size.

    Raises:
        UserError: quarter turns are asked of a size that is not square.
    """

    def __init__(self, settings: Augment, *, seed: int, size: tuple[int, int]) -> None:
        if settings.quarter_turns and size[0] != size[1]:
            raise _not_square(size)
        self.settings = settings
        self.seed = seed
        self.size = size
        self._mixer = Mixer(
            mixup=settings.mixup,
            cutmix=settings.cutmix,
            probability=settings.mix_probability,
            switch=settings.mix_switch,
            seed=seed,
        )

    @property
    def mixes(self) -> bool:
        """Whether `mix` ever changes anything, so that a caller can spare itself the partners."""
        return self._mixer.active

    def transform(self, x_BCHW: Tensor, index_B: Tensor, epoch: int) -> Tensor:
        """Augment each image on its own.

        Where pixels must be resampled at more than 1.5 stored pixels per pixel of the result, aliasing is
        kept down without giving up detail that an enlarged image could show: stored pixels are first averaged
        in blocks as far as the strongest enlargement allows, and each pixel of the result is then the mean of
        as many samples as the strongest reduction needs. Both numbers follow from settings and sizes, not
        from what is drawn. With no resampling setting on, a stored image of another size is resized with an
        antialiasing filter.

        Args:
            x_BCHW: (B, C, H, W) images, uint8 or floating point. Not changed.
            index_B: (B,) int64, which image of the set each is. On the CPU or on the images' device; on the
                CPU is faster with a policy, which must know which images drew which operation.
            epoch: number of the epoch.

        Returns:
            (B, C, h, w) float32 on x_BCHW's device. uint8 images are divided by 255 and stay in [0, 1],
            clipped; floating point images keep their unit and are never clipped.

        Raises:
            UserError: images of another type, or quarter turns of images that are not square.
        """
        if x_BCHW.dtype != torch.uint8 and not x_BCHW.is_floating_point():
            raise UserError(
                f"images of type {x_BCHW.dtype} cannot be augmented; allowed are uint8 and floating point: "
                "convert them first."
            )
        height, width = x_BCHW.shape[-2:]
        if self.settings.quarter_turns and height != width:
            raise _not_square((height, width))
        integer = x_BCHW.dtype == torch.uint8
        drawn = self.draw(index_B, epoch, channels=x_BCHW.shape[1], integer=integer)
        if self.settings.resamples:
            x_BChw = self._resample(x_BCHW, drawn)
        else:
            x_BChw = self._rearrange(x_BCHW, drawn)
        if integer:
            x_BChw.div_(255.0)
        return self._recolour(x_BChw, drawn, index_B, epoch, integer)

    def mix(
        self,
        x_BChw: Tensor,
        partner_BChw: Tensor,
        y_BK: Tensor,
        partner_y_BK: Tensor,
        index_B: Tensor,
        epoch: int,
    ) -> tuple[Tensor, Tensor]:
        """Mixup and CutMix of transformed images with their partners, as `Mixer.mix`."""
        return self._mixer.mix(x_BChw, partner_BChw, y_BK, partner_y_BK, index_B, epoch)

    def draw(self, index_B: Tensor, epoch: int, *, channels: int, integer: bool) -> Draw:
        """What `transform` does to images `index_B` (B,) in `epoch`; on `index_B`'s device.

        A policy chooses among operations that suit the `channels`, and uint8 images (`integer`) or not.
        """
        s = self.settings
        policy_slots = {"none": 0, "randaugment": s.policy_operations, "trivialaugment": 1}[s.policy]
        # float64: angles and sizes lose nothing to rounding, and these tensors are tiny.
        u_BK = uniforms(self.seed, epoch, index_B, Stream.AUGMENT, _POLICY_COLUMN + 3 * policy_slots).double()

        def u(*names: str) -> Tensor:
            """(B,) for one column, (B, n) for several."""
            columns = torch.cat([u_BK[:, _COLUMN[name]] for name in names], dim=1)
            return columns[:, 0] if columns.shape[1] == 1 else columns

        def around(strength: float, name: str) -> Tensor:
            low = max(0.0, 1.0 - strength)
            return low + (1.0 + strength - low) * u(name)

        found: dict[str, Tensor] = {}
        if s.flip_horizontal > 0 or s.flip_vertical > 0:
            limit_2 = torch.tensor([s.flip_horizontal, s.flip_vertical], device=u_BK.device, dtype=u_BK.dtype)
            found["flip_B2"] = 1.0 - 2.0 * (u("flip_horizontal", "flip_vertical") < limit_2).double()
        if s.quarter_turns:
            found["turn_B"] = (4.0 * u("quarter_turns")).long()
        if s.rotation > 0:
            found["angle_B"] = math.radians(s.rotation) * (2.0 * u("rotation") - 1.0)
        if s.scale != (1.0, 1.0) or s.aspect > 1:
            zoom_B = _log_uniform(u("scale"), s.scale)
            stretch_B = _log_uniform(u("aspect"), (1.0 / math.sqrt(s.aspect), math.sqrt(s.aspect)))
            found["zoom_B2"] = torch.stack((zoom_B * stretch_B, zoom_B / stretch_B), dim=1)
        if s.shear > 0:
            found["shear_B2"] = torch.tan(math.radians(s.shear) * (2.0 * u("shear_x", "shear_y") - 1.0))
        if s.shift > 0:
            found["shift_B2"] = s.shift * (2.0 * u("shift_x", "shift_y") - 1.0)
        if s.crop_scale is not None:
            low, high = s.crop_scale
            area_BT = low + (high - low) * u("crop_area")
            ratio_BT = _log_uniform(u("crop_ratio"), s.crop_ratio)
            found["window_B4"] = _window(area_BT, ratio_BT, u("crop_x", "crop_y"), s.crop_ratio, self.size)
        if s.brightness > 0:
            found["brightness_B"] = around(s.brightness, "brightness").float()
        if s.contrast > 0:
            found["contrast_B"] = around(s.contrast, "contrast").float()
        if s.saturation > 0 and channels == 3:
            found["saturation_B"] = around(s.saturation, "saturation").float()
        if s.hue > 0 and channels == 3:
            found["hue_B"] = (s.hue * (2.0 * u("hue") - 1.0)).float()
        if s.erasing > 0:
            low, high = s.erasing_area
            area_BT = low + (high - low) * u("erasing_area")
            aspect_BT = _log_uniform(u("erasing_aspect"), s.erasing_aspect)
            box_B4 = _rectangle(area_BT, aspect_BT, u("erasing_y", "erasing_x"), self.size)
            found["erased_B4"] = box_B4 * (u("erasing") < s.erasing)[:, None]
        if policy_slots:
            u_BP3 = u_BK[:, _POLICY_COLUMN:].unflatten(1, (policy_slots, 3))
            names = _operations(s.policy, channels, integer)
            places = torch.tensor([OPERATIONS.index(name) for name in names], device=u_BK.device)
            found["operation_BP"] = places[(len(names) * u_BP3[..., 0]).long()]
            size_BP = u_BP3[..., 1]
            if s.policy == "randaugment":
                size_BP = torch.full_like(size_BP, s.policy_magnitude / 10.0)
            found["strength_BP"] = torch.where(u_BP3[..., 2] < 0.5, -size_BP, size_BP)
        return Draw(**found)

    def _resample(self, x_BCHW: Tensor, drawn: Draw) -> Tensor:
        """All geometry at once, at any position; float32 in the unit of the input."""
        height, width = x_BCHW.shape[-2:]
        theta_B23 = sampling_matrix(drawn, (height, width), self._policy()).float().to(x_BCHW.device)
        (block_y, block_x), (samples_y, samples_x) = self._antialiasing((height, width))
        x_BCHW = x_BCHW.to(torch.float32)
        if block_y > 1 or block_x > 1:
            x_BCHW = F.adaptive_avg_pool2d(x_BCHW, (height // block_y, width // block_x))
        grid_Bhw2 = _grid(theta_B23, (self.size[0] * samples_y, self.size[1] * samples_x))
        padding = {"reflect": "reflection", "edge": "border", "zero": "zeros"}[self.settings.border]
        x_BChw = F.grid_sample(
            x_BCHW, grid_Bhw2, mode=self.settings.interpolation, padding_mode=padding, align_corners=False
        )
        if samples_y > 1 or samples_x > 1:
            x_BChw = F.avg_pool2d(x_BChw, (samples_y, samples_x))
        return x_BChw

    def _antialiasing(self, source: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """Sides of the blocks averaged before; samples per pixel of the result; (vertical, horizontal)."""
        s = self.settings
        stretch = math.sqrt(s.aspect)
        finest, coarsest = 1 / (s.scale[1] * stretch), stretch / s.scale[0]
        if s.crop_scale is not None:
            finest *= math.sqrt(s.crop_scale[0] / max(s.crop_ratio[1], 1 / s.crop_ratio[0]))
            # The crop's longer side may be the frame's: nothing to take off the coarsest step.
        blocks, samples = [], []
        for stored, wanted in zip(source, self.size, strict=True):
            step = stored / wanted  # stored pixels per pixel of the result, before any zoom
            block = max(1, math.floor(step * finest))
            blocks.append(block)
            samples.append(max(1, math.ceil(step * coarsest / block - 0.5)))
        return (blocks[0], blocks[1]), (samples[0], samples[1])

    def _rearrange(self, x_BCHW: Tensor, drawn: Draw) -> Tensor:
        """Flips, quarter turns and shifts by whole pixels, exactly; a new float32 tensor, unit unchanged."""
        if x_BCHW.shape[-2:] != self.size:
            smooth: Literal["bilinear", "bicubic"] = self.settings.interpolation
            x_BCHW = F.interpolate(x_BCHW.float(), self.size, mode=smooth, align_corners=False, antialias=True)
        if drawn.flip_B2 is None and drawn.turn_B is None and drawn.shift_B2 is None:
            return x_BCHW.to(torch.float32, copy=True)
        place_BN, inside_BN = _places(drawn, self.size, self.settings.border)
        place_BCN = place_BN.to(x_BCHW.device)[:, None].expand(-1, x_BCHW.shape[1], -1)
        x_BChw = x_BCHW.flatten(2).gather(2, place_BCN).unflatten(2, self.size).to(torch.float32)
        if inside_BN is not None:
            x_BChw.mul_(inside_BN.to(x_BChw.device).view(-1, 1, *self.size))
        return x_BChw

    def _recolour(self, x_BCHW: Tensor, drawn: Draw, index_B: Tensor, epoch: int, integer: bool) -> Tensor:
        """All changes of values; x_BCHW is ours to overwrite."""
        s = self.settings
        device = x_BCHW.device

        def clip() -> None:
            if integer:
                x_BCHW.clamp_(0.0, 1.0)

        strengths = [
            None if strength_B is None else strength_B.to(device)
            for strength_B in (drawn.brightness_B, drawn.contrast_B, drawn.saturation_B)
        ]
        if any(strength_B is not None for strength_B in strengths):
            colour.adjust_(x_BCHW, *strengths)
        clip()  # even a bilinear mean may end a rounding above 1
        if drawn.hue_B is not None:
            x_BCHW = colour.turn_hue(x_BCHW, drawn.hue_B.to(device))
            clip()
        if drawn.operation_BP is not None and drawn.strength_BP is not None:
            self._apply_policy_(x_BCHW, drawn.operation_BP, drawn.strength_BP.float(), integer)
        if s.noise > 0:
            noise_BN = normals(self.seed, epoch, index_B.to(device), Stream.NOISE, x_BCHW[0].numel())
            x_BCHW.add_(noise_BN.view_as(x_BCHW), alpha=s.noise)
            clip()
        if drawn.erased_B4 is not None:
            self._erase_(x_BCHW, drawn.erased_B4, index_B, epoch)
            if s.erasing_fill == "noise":
                clip()
        return x_BCHW

    def _apply_policy_(self, x_BCHW: Tensor, operation_BP: Tensor, strength_BP: Tensor, integer: bool) -> None:
        """The policy's operations on values, in place, each on those images alone that drew it."""
        policy = self._policy()
        operation_BP, strength_BP = (
            operation_BP.cpu(),
            strength_BP.cpu(),
        )  # which rows: a question for the host
        on_values: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            "brightness": lambda x, v: colour.adjust_(x, brightness_B=1.0 + policy.enhance * v),
            "contrast": lambda x, v: colour.adjust_(x, contrast_B=1.0 + policy.enhance * v),
            "saturation": lambda x, v: colour.adjust_(x, saturation_B=1.0 + policy.enhance * v),
            "sharpness": lambda x, v: colour.sharpen(x, 1.0 + policy.enhance * v),
            "posterize": lambda x, v: colour.posterize(x, 8.0 - torch.round(policy.posterize * v.abs())),
            "solarize": lambda x, v: colour.solarize(x, 1.0 - v.abs()),
            "autocontrast": lambda x, v: colour.autocontrast(x),
            "equalize": lambda x, v: colour.equalize(x),
            "invert": lambda x, v: colour.invert(x),
        }
        for slot in range(operation_BP.shape[1]):
            for name, change in on_values.items():
                rows = (operation_BP[:, slot] == OPERATIONS.index(name)).nonzero()[:, 0]
                if len(rows) == 0:
                    continue
                strength = strength_BP[rows, slot].to(x_BCHW.device)
                rows = rows.to(x_BCHW.device)
                changed = change(x_BCHW.index_select(0, rows), strength)
                x_BCHW.index_copy_(0, rows, changed.clamp_(0.0, 1.0) if integer else changed)

    def _erase_(self, x_BCHW: Tensor, box_B4: Tensor, index_B: Tensor, epoch: int) -> None:
        """Fill each image's rectangle, in place."""
        rows = (box_B4[:, 1] > box_B4[:, 0]).nonzero()[:, 0]
        index = index_B[rows]
        box_B4, rows = box_B4[rows].to(x_BCHW.device), rows.to(x_BCHW.device)
        part = x_BCHW.index_select(0, rows)
        fill = part.mean((2, 3), keepdim=True)
        if self.settings.erasing_fill == "noise":
            spread = (part - fill).square_().mean((2, 3), keepdim=True).sqrt_()
            noise = normals(self.seed, epoch, index.to(part.device), Stream.ERASING, x_BCHW[0].numel())
            fill = fill + spread * noise.view_as(part)
        x_BCHW.index_copy_(0, rows, torch.where(box_mask(box_B4, self.size), fill, part))

    def _policy(self) -> _Policy:
        return _POLICIES["randaugment" if self.settings.policy == "none" else self.settings.policy]


def sampling_matrix(drawn: Draw, source: tuple[int, int], policy: _Policy) -> Tensor:
    """(B, 2, 3) float64: from places in the result to places in the stored image, as `F.affine_grid` counts
    them.

    It is a product of the inverses of what is done to the image, so nothing needs to be inverted. Rotation
    and shear are in pixels of the stored image (of shape `source`), about the centre of the crop.
    """
    given = [value for value in vars(drawn).values() if value is not None]
    eye_B33 = torch.eye(3, dtype=torch.float64, device=given[0].device).repeat(len(given[0]), 1, 1)

    def matrix(**entries: Tensor | float) -> Tensor:
        """The identity but for the entries named by row and column, as `xy=`, `xt=` …"""
        out_B33 = eye_B33.clone()
        for place, value in entries.items():
            out_B33[:, "xy".index(place[0]), "xyt".index(place[1])] = value
        return out_B33

    def rotation(angle_B: Tensor) -> Tensor:
        cos_B, sin_B = torch.cos(angle_B), torch.sin(angle_B)
        return matrix(xx=cos_B, xy=sin_B, yx=-sin_B, yy=cos_B)

    height, width = source
    half_x: Tensor | float = width / 2
    half_y: Tensor | float = height / 2
    steps: list[Tensor] = []  # from the stored image's side to the result's
    if drawn.window_B4 is not None:
        x_B, y_B, width_B, height_B = drawn.window_B4.unbind(1)
        half_x, half_y = half_x * width_B, half_y * height_B
        steps.append(matrix(xx=width_B, yy=height_B, xt=2.0 * x_B - 1.0, yt=2.0 * y_B - 1.0))
    if drawn.flip_B2 is not None:
        steps.append(matrix(xx=drawn.flip_B2[:, 0], yy=drawn.flip_B2[:, 1]))
    if drawn.turn_B is not None:
        cos_B, sin_B = (values.double() for values in _quarter(drawn.turn_B))
        steps.append(matrix(xx=cos_B, xy=sin_B, yx=-sin_B, yy=cos_B))
    steps.append(matrix(xx=1.0 / half_x, yy=1.0 / half_y))
    if drawn.zoom_B2 is not None:
        steps.append(matrix(xx=1.0 / drawn.zoom_B2[:, 0], yy=1.0 / drawn.zoom_B2[:, 1]))
    if drawn.shear_B2 is not None:
        steps.append(matrix(xy=-drawn.shear_B2[:, 0]))
        steps.append(matrix(yx=-drawn.shear_B2[:, 1]))
    if drawn.angle_B is not None:
        steps.append(rotation(drawn.angle_B))
    if drawn.shift_B2 is not None:
        steps.append(matrix(xt=-width * drawn.shift_B2[:, 0], yt=-height * drawn.shift_B2[:, 1]))
    if drawn.operation_BP is not None and drawn.strength_BP is not None:
        for operation_B, strength_B in zip(drawn.operation_BP.unbind(1), drawn.strength_BP.unbind(1), strict=True):
            amount = {  # 0 for the images that drew something else
                name: torch.where(operation_B == OPERATIONS.index(name), strength_B, 0.0) for name in _GEOMETRIC
            }
            # One operation an image: the others' parts are the identity, so that one matrix may hold several
            # of them.
            steps.append(
                matrix(
                    xy=-policy.shear * amount["shear_x"],
                    yx=-policy.shear * amount["shear_y"],
                    xt=-policy.translate * width * amount["translate_x"],
                    yt=-policy.translate * height * amount["translate_y"],
                )
            )
            steps.append(rotation(math.radians(policy.rotate) * amount["rotate"]))
    steps.append(matrix(xx=half_x, yy=half_y))
    product_B33 = steps[0]
    for step_B33 in steps[1:]:
        # Not matmul: its rounding may depend on the size of the batch.
        product_B33 = (product_B33[:, :, :, None] * step_B33[:, None, :, :]).sum(2)
    return product_B33[:, :2]


def _grid(theta_B23: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, h, w, 2): `F.affine_grid` without a matrix product, so with the same bits in any batch."""
    y_h, x_w = ((2.0 * torch.arange(n, device=theta_B23.device, dtype=torch.float32) + 1.0 - n) / n for n in size)
    grid_Bhw2 = theta_B23.new_empty(len(theta_B23), *size, 2)
    for axis in range(2):
        along_Bw = theta_B23[:, axis, 0, None] * x_w
        down_Bh = theta_B23[:, axis, 1, None] * y_h + theta_B23[:, axis, 2, None]
        torch.add(down_Bh[:, :, None], along_Bw[:, None, :], out=grid_Bhw2[..., axis])
    return grid_Bhw2


def _places(drawn: Draw, size: tuple[int, int], border: str) -> tuple[Tensor, Tensor | None]:
    """For each pixel of the result, row by row, the number of the pixel it comes from: (B, N) int64; with a
    border of 0, also whether that lies in the frame: (B, N) bool."""
    height, width = size
    given = next(value for value in (drawn.flip_B2, drawn.turn_B, drawn.shift_B2) if value is not None)
    device, batch = given.device, len(given)
    flip_B2 = torch.ones(batch, 2, device=device) if drawn.flip_B2 is None else drawn.flip_B2
    turn_B = torch.zeros(batch, dtype=torch.int64, device=device) if drawn.turn_B is None else drawn.turn_B
    column_Bw = torch.arange(width, device=device).expand(batch, -1)
    row_Bh = torch.arange(height, device=device).expand(batch, -1)
    inside_BN = None
    if drawn.shift_B2 is not None:
        column_Bw = column_Bw - torch.round(drawn.shift_B2[:, 0, None] * width).long()
        row_Bh = row_Bh - torch.round(drawn.shift_B2[:, 1, None] * height).long()
        if border == "zero":
            inside_Bw = (column_Bw >= 0) & (column_Bw < width)
            inside_Bh = (row_Bh >= 0) & (row_Bh < height)
            inside_BN = (inside_Bh[:, :, None] & inside_Bw[:, None, :]).flatten(1)
        if border == "reflect":
            column_Bw, row_Bh = column_Bw.remainder(2 * width), row_Bh.remainder(2 * height)
            column_Bw = torch.minimum(column_Bw, 2 * width - 1 - column_Bw)
            row_Bh = torch.minimum(row_Bh, 2 * height - 1 - row_Bh)
        else:
            column_Bw, row_Bh = column_Bw.clamp(0, width - 1), row_Bh.clamp(0, height - 1)
    # Twice the distance from the centre is a whole number; a turn and a flip are then whole-number matrices.
    across_Bw, down_Bh = 2 * column_Bw - (width - 1), 2 * row_Bh - (height - 1)
    cos_B, sin_B = _quarter(turn_B)
    flip_x_B, flip_y_B = flip_B2.long().unbind(1)
    per_across_B = flip_x_B * cos_B - flip_y_B * sin_B * width
    per_down_B = flip_x_B * sin_B + flip_y_B * cos_B * width
    twice_Bhw = (per_down_B[:, None] * down_Bh)[:, :, None] + (per_across_B[:, None] * across_Bw)[:, None, :]
    return ((twice_Bhw + (height * width - 1)) // 2).flatten(1), inside_BN


def _quarter(turn_B: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of a number of quarter turns, as whole numbers."""
    return (1 - turn_B) * (1 - turn_B % 2), (2 - turn_B) * (turn_B % 2)


def _log_uniform(u: Tensor, ends: tuple[float, float]) -> Tensor:
    low, high = math.log(ends[0]), math.log(ends[1])
    return torch.exp(low + (high - low) * u)


def _first_that_fits(fits_BT: Tensor, *candidates_BT: Tensor) -> tuple[Tensor, ...]:
    """Of each image's tries, the first that fits (the first of all where none does)."""
    first_B1 = fits_BT.to(torch.uint8).argmax(1, keepdim=True)
    return tuple(candidate_BT.gather(1, first_B1)[:, 0] for candidate_BT in candidates_BT)


def _window(
    area_BT: Tensor, ratio_BT: Tensor, place_B2: Tensor, ratios: tuple[float, float], size: tuple[int, int]
) -> Tensor:
    """Random-resized crop (B, 4), as fractions of the frame.

    Where no try fits, it is the largest central one of an allowed ratio. Ratios are width over height as they
    appear at `size`.
    """
    frame = size[1] / size[0]
    width_BT, height_BT = torch.sqrt(area_BT * ratio_BT / frame), torch.sqrt(area_BT / ratio_BT * frame)
    fits_BT = (width_BT <= 1.0) & (height_BT <= 1.0)
    width_B, height_B = _first_that_fits(fits_BT, width_BT, height_BT)
    none_B = ~fits_BT.any(1)
    width_B = torch.where(none_B, min(1.0, ratios[1] / frame), width_B)
    height_B = torch.where(none_B, min(1.0, frame / ratios[0]), height_B)
    place_B2 = torch.where(none_B[:, None], 0.5, place_B2)
    x_B = width_B / 2 + place_B2[:, 0] * (1.0 - width_B)
    y_B = height_B / 2 + place_B2[:, 1] * (1.0 - height_B)
    return torch.stack((x_B, y_B, width_B, height_B), dim=1)


def _rectangle(area_BT: Tensor, aspect_BT: Tensor, place_B2: Tensor, size: tuple[int, int]) -> Tensor:
    """Random erasing (Zhong et al., arXiv 1708.04896): (B, 4) int64 pixels, empty where no try fits."""
    pixels = size[0] * size[1]
    height_BT, width_BT = (
        torch.sqrt(pixels * area_BT * aspect_BT).round(),
        torch.sqrt(pixels * area_BT / aspect_BT).round(),
    )
    fits_BT = (height_BT < size[0]) & (width_BT < size[1])
    side_B2 = torch.stack(_first_that_fits(fits_BT, height_BT, width_BT), dim=1).long()
    frame_2 = torch.tensor(size, device=side_B2.device)
    low_B2 = (place_B2 * (frame_2 - side_B2 + 1)).long()
    box_B4 = torch.stack((low_B2, low_B2 + side_B2), dim=2).flatten(1)  # (top, bottom), (left, right)
    return box_B4 * fits_BT.any(1)[:, None]


def _not_square(size: tuple[int, int]) -> UserError:
    return UserError(
        f"quarter_turns needs square images, not {size[0]}×{size[1]} pixels; set quarter_turns to false, "
        "or choose a square image size."
    )
