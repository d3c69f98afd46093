"""Augmentation of a whole batch at once: the plain program in torch, for every device.

What an image becomes depends on (seed, epoch, image, its pixels) alone: not on the batch it is in, nor on what came
before. All geometry is composed into one matrix per image and the image is resampled once; the order in effect is
crop, flip, quarter turn, stretch and zoom, shear, rotation, shift, then the policy's geometric operations; after them
brightness, contrast, saturation, hue, the policy's other operations, noise and erasing; then mixing with another image
and normalisation. On the CPU `native_batch.py` does all of it in one pass an image, where it can.

Shape letters: M stored images, B images, C channels, H and W pixels of the source, h and w of the result, N = h·w, P
operations of the policy, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from astroformer.augmentation import colour
from astroformer.augmentation.draws import Draw, draw
from astroformer.augmentation.geometry import antialiasing, sampling_grid, sampling_matrix, whole_places
from astroformer.augmentation.mixing import Mixer, box_mask
from astroformer.augmentation.native_batch import NativeBatch
from astroformer.augmentation.settings import OPERATIONS, Augment, operations
from astroformer.errors import UserError
from astroformer.images.preprocessing import Preprocessing
from astroformer.randomness import Stream, normals


class Augmenter:
    """Applies an `Augment` to batches.

    Args:
        settings: what to do.
        seed: of the run.
        size: (h, w) of the results, in pixels; stored images may have another size.
        rgb: whether images of three channels are red, green and blue. Other bands have no saturation and no hue, and
            their luminance, about which contrast changes, is the mean of all bands.

    Raises:
        UserError: quarter turns are asked of a size that is not square.
    """

    def __init__(self, settings: Augment, *, seed: int, size: tuple[int, int], rgb: bool = True) -> None:
        if settings.quarter_turns and size[0] != size[1]:
            raise _not_square(size)
        self.settings = settings
        self.seed = seed
        self.size = size
        self.rgb = rgb
        self._mixer = Mixer(
            mixup=settings.mixup,
            cutmix=settings.cutmix,
            probability=settings.mix_probability,
            switch=settings.mix_switch,
            seed=seed,
        )
        self._native = NativeBatch(settings, self._mixer, seed=seed, size=size, rgb=rgb)
        self._at_length: dict[tuple[bool, bool], Augmenter] = {(True, True): self}

    def at_length(self, epochs: float) -> Augmenter:
        """The augmenter of a run of so many epochs (`Augment.at_length`); the same object each time."""
        # This is asked at every step, and comparing two numbers takes less time than making settings.
        long_enough = epochs >= self.settings.policy_epochs, epochs >= self.settings.mix_epochs
        if long_enough not in self._at_length:
            self._at_length[long_enough] = Augmenter(
                self.settings.at_length(epochs), seed=self.seed, size=self.size, rgb=self.rgb
            )
        return self._at_length[long_enough]

    @property
    def mixes(self) -> bool:
        """Whether `mix` ever changes anything; if not, a caller needs no partners."""
        return self._mixer.active

    def batch(
        self,
        stored_MCHW: Tensor,
        row_B: Tensor,
        index_B: Tensor,
        epoch: int,
        label_B: Tensor,
        *,
        classes: int,
        preprocessing: Preprocessing,
        dtype: torch.dtype = torch.float32,
    ) -> tuple[Tensor, Tensor]:
        """What a training step takes: augmented, mixed and normalised images, and their soft targets.

        On the CPU the kernel in C++ makes them in one pass an image (`native_batch.py`), within 2e-4 of the range of
        values of the plain program here. The plain program runs on other devices, for other types and without a
        compiler. On a GPU nothing in it waits for the device.

        Args:
            stored_MCHW: (M, C, H, W) stored images, which may be a view of a memory map. Not changed.
            row_B: (B,) int64, which of them are taken, on their device. If `mixes`, B is one more than the images
                of the batch: each is mixed with the next, and the last is only a partner.
            index_B: (B,) int64, which image of the set each is drawn for.
            epoch: number of the epoch.
            label_B: (B,) int64 in 0 … classes − 1, or (B, K) float32 targets, on the device of the images.
            classes: K.
            preprocessing: its `mean` and `std` normalise the images.
            dtype: of the images, float32 or bfloat16.

        Returns:
            (B, C, h, w) images, `channels_last` in memory, and (B, K) float32 class probabilities, of targets their
            mixture; B without the last partner.

        Raises:
            UserError: as `transform`.
        """
        self._check(stored_MCHW)
        if self._native.takes(stored_MCHW, dtype):
            return self._native(stored_MCHW, row_B, index_B, epoch, label_B, classes, preprocessing, dtype)
        x_BCHW = self.transform(stored_MCHW.index_select(0, row_B), index_B, epoch)
        y_BK = label_B
        if label_B.ndim == 1:
            y_BK = (label_B[:, None] == torch.arange(classes, device=label_B.device)).float()
        if self.mixes:
            x_BCHW, y_BK = self.mix(x_BCHW[:-1], x_BCHW[1:], y_BK[:-1], y_BK[1:], index_B[:-1], epoch)
        return preprocessing.normalize(x_BCHW).to(dtype, memory_format=torch.channels_last), y_BK

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
            index_B: (B,) int64, which image of the set each is; on the images' device, so that nothing waits for
                it, or on the CPU.
            epoch: number of the epoch.

        Returns:
            (B, C, h, w) float32 on x_BCHW's device. uint8 images are divided by 255 and stay in [0, 1],
            clipped; floating point images keep their unit and are never clipped.

        Raises:
            UserError: images of another type, or quarter turns of images that are not square.
        """
        self._check(x_BCHW)
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
        """What `transform` does to images `index_B` (B,) in `epoch`; see `draws.draw`."""
        return draw(
            self.settings,
            index_B,
            seed=self.seed,
            epoch=epoch,
            size=self.size,
            channels=channels,
            integer=integer,
            rgb=self.rgb,
        )

    def _check(self, x_BCHW: Tensor) -> None:
        if x_BCHW.dtype != torch.uint8 and not x_BCHW.is_floating_point():
            raise UserError(
                f"images of type {x_BCHW.dtype} cannot be augmented; allowed are uint8 and floating point: "
                "convert them first."
            )
        height, width = x_BCHW.shape[-2:]
        if self.settings.quarter_turns and height != width:
            raise _not_square((height, width))

    def _resample(self, x_BCHW: Tensor, drawn: Draw) -> Tensor:
        """All geometry at once, at any position; float32 in the unit of the input."""
        height, width = x_BCHW.shape[-2:]
        theta_B23 = sampling_matrix(drawn, (height, width), self.settings.ranges).float().to(x_BCHW.device)
        (block_y, block_x), (samples_y, samples_x) = antialiasing(self.settings, (height, width), self.size)
        x_BCHW = x_BCHW.to(torch.float32)
        if block_y > 1 or block_x > 1:
            x_BCHW = F.adaptive_avg_pool2d(x_BCHW, (height // block_y, width // block_x))
        grid_Bhw2 = sampling_grid(theta_B23, (self.size[0] * samples_y, self.size[1] * samples_x))
        padding = {"reflect": "reflection", "edge": "border", "zero": "zeros"}[self.settings.border]
        x_BChw = F.grid_sample(
            x_BCHW, grid_Bhw2, mode=self.settings.interpolation, padding_mode=padding, align_corners=False
        )
        if samples_y > 1 or samples_x > 1:
            x_BChw = F.avg_pool2d(x_BChw, (samples_y, samples_x))
        return x_BChw

    def _rearrange(self, x_BCHW: Tensor, drawn: Draw) -> Tensor:
        """Flips, quarter turns and shifts by whole pixels, exactly; a new float32 tensor, unit unchanged."""
        if x_BCHW.shape[-2:] != self.size:
            smooth: Literal["bilinear", "bicubic"] = self.settings.interpolation
            x_BCHW = F.interpolate(x_BCHW.float(), self.size, mode=smooth, align_corners=False, antialias=True)
        if drawn.flip_B2 is None and drawn.turn_B is None and drawn.shift_B2 is None:
            return x_BCHW.to(torch.float32, copy=True)
        place_BN, inside_BN = whole_places(drawn, self.size, self.settings.border)
        place_BCN = place_BN.to(x_BCHW.device)[:, None].expand(-1, x_BCHW.shape[1], -1)
        x_BChw = x_BCHW.flatten(2).gather(2, place_BCN).unflatten(2, self.size).to(torch.float32)
        if inside_BN is not None:
            x_BChw.mul_(inside_BN.to(x_BChw.device).view(-1, 1, *self.size))
        return x_BChw

    def _recolour(self, x_BCHW: Tensor, drawn: Draw, index_B: Tensor, epoch: int, integer: bool) -> Tensor:
        """All changes of values; overwrites x_BCHW."""
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
            colour.adjust_(x_BCHW, *strengths, rgb=self.rgb)
        clip()  # rounding can leave even a bilinear mean above 1
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
        policy = self.settings.ranges
        on_values: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            "brightness": lambda x, v: colour.adjust_(x, brightness_B=1.0 + policy.enhance * v),
            "contrast": lambda x, v: colour.adjust_(x, contrast_B=1.0 + policy.enhance * v, rgb=self.rgb),
            "saturation": lambda x, v: colour.adjust_(x, saturation_B=1.0 + policy.enhance * v),
            "sharpness": lambda x, v: colour.sharpen(x, 1.0 + policy.enhance * v),
            "posterize": lambda x, v: colour.posterize(x, 8.0 - torch.round(policy.posterize * v.abs())),
            "solarize": lambda x, v: colour.solarize(x, 1.0 - v.abs()),
            "autocontrast": lambda x, v: colour.autocontrast(x),
            "equalize": lambda x, v: colour.equalize(x),
            "invert": lambda x, v: colour.invert(x),
        }
        possible = operations(
            self.settings.policy, x_BCHW.shape[1], integer, rgb=self.rgb
        )  # others raise for such images
        for slot in range(operation_BP.shape[1]):
            for name, change in on_values.items():
                if name not in possible:
                    continue
                drew_B = operation_BP[:, slot] == OPERATIONS.index(name)
                if not _known_without_waiting(drew_B):  # change all images, and take the change where it was drawn
                    changed = change(x_BCHW.clone(), strength_BP[:, slot])
                    changed = changed.clamp_(0.0, 1.0) if integer else changed
                    x_BCHW.copy_(torch.where(drew_B[:, None, None, None], changed, x_BCHW))
                    continue
                rows = drew_B.nonzero()[:, 0]
                if len(rows) == 0:
                    continue
                strength = strength_BP[rows, slot].to(x_BCHW.device)
                rows = rows.to(x_BCHW.device)
                changed = change(x_BCHW.index_select(0, rows), strength)
                x_BCHW.index_copy_(0, rows, changed.clamp_(0.0, 1.0) if integer else changed)

    def _erase_(self, x_BCHW: Tensor, box_B4: Tensor, index_B: Tensor, epoch: int) -> None:
        """Fill each image's rectangle, in place."""
        if not _known_without_waiting(box_B4):
            part, index = x_BCHW, index_B  # an empty rectangle changes nothing
        else:
            rows = (box_B4[:, 1] > box_B4[:, 0]).nonzero()[:, 0]
            index, box_B4, rows = index_B[rows], box_B4[rows].to(x_BCHW.device), rows.to(x_BCHW.device)
            part = x_BCHW.index_select(0, rows)
        fill = part.mean((2, 3), keepdim=True)
        if self.settings.erasing_fill == "noise":
            spread = (part - fill).square_().mean((2, 3), keepdim=True).sqrt_()
            noise = normals(self.seed, epoch, index.to(part.device), Stream.ERASING, x_BCHW[0].numel())
            fill = fill + spread * noise.view_as(part)
        erased = torch.where(box_mask(box_B4, self.size), fill, part)
        if part is x_BCHW:
            x_BCHW.copy_(erased)
        else:
            x_BCHW.index_copy_(0, rows, erased)


def _known_without_waiting(drawn: Tensor) -> bool:
    """Whether the host can read what was drawn at once; to read a GPU's tensor it waits for the GPU."""
    return drawn.device.type == "cpu"


def _not_square(size: tuple[int, int]) -> UserError:
    return UserError(
        f"quarter_turns needs square images, not {size[0]}×{size[1]} pixels; set quarter_turns to false, "
        "or choose a square image size."
    )
