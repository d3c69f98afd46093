"""From an image of any size, type and number of channels to the fixed array that a network is trained on.

One `Preprocessing` serves the store, prediction and export, and lies in the model folder, so that the same
file always gives the same numbers.

Shapes: B batch, C channels, H height, W width, P = H·W pixels.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from astroformer.errors import UserError, unknown_name
from astroformer.images.bands import Bands
from astroformer.images.floats import why_not_whole
from astroformer.images.labelled import LabelledImages
from astroformer.images.reading import Array, one_at_a_time
from astroformer.images.resize import resize
from astroformer.images.scaling import Scaling, levelled
from astroformer.images.stated import Stated
from astroformer.images.units import Pixels, Units, kind_of_pixels

_FITS = ("crop", "pad", "stretch")
_DTYPES = ("uint8", "float16", "float32")
Missing = Literal["refuse", "median", "zero"]
_MISSING: tuple[Missing, ...] = get_args(Missing)
MOST_MISSING = 0.5  # share of a band's pixels in the kept frame that may lack a value
HALF_STEPS = 510  # of the range of an image: half a step of 8 bits, which float16 may be wrong by
_JUDGED = 32  # images of a set whose brightness is looked at before it is answered
_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601, what Pillow uses for 8-bit images


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a network's input.

    Attributes:
        image_size: (H, W) in pixels.
        channels: C of the result.
        crop: central share of the frame that is kept, per side, in (0, 1].
        fit: what happens when the frame's shape is not that of `image_size`: `crop` cuts the longer side at
            both ends, `pad` shrinks the whole frame into a black (zero) one, `stretch` scales the sides
            differently.
        mean, std: per channel, in the units of `normalize`; empty: 0 and 1.
        dtype: what is kept: `uint8` for 8-bit images, and for others that `scaling` brings to 0 to 1; else `float16`
            or `float32`.
        units: of the images that a network learns from. None: those of a model that did not keep them, for which
            uint8 counts by 255, uint16 by 65535, and floats as they are, unless `dtype` says that all were uint8.
        missing: what happens to pixels without a value (NaN): `refuse` takes no image with any, `median` fills them
            with the median of their band in the kept frame, which is mostly the sky, and `zero` with 0.
        scaling: how values are stretched, as it was measured on the training images; None: not at all.
        bands: of the images that a network learns from, where their source says what they are.
        stated: what their source states of the sky that they show, and of their values. It shapes no pixel: images that
            state something else are told of.
    """

    image_size: tuple[int, int]
    channels: int
    crop: float = 1.0
    fit: Literal["crop", "pad", "stretch"] = "crop"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    dtype: Literal["uint8", "float16", "float32"] = "uint8"
    units: Units | None = None
    missing: Missing = "refuse"
    scaling: Scaling | None = None
    bands: Bands | None = None
    stated: Stated | None = dataclasses.field(default=None, compare=False)

    def __post_init__(self) -> None:
        def fail(word: str, value: object, allowed: str) -> UserError:
            return UserError(f"preprocessing: {word} is {value}; {allowed}.")

        size = tuple(self.image_size)
        if len(size) != 2 or any(not isinstance(s, int) or isinstance(s, bool) or not 1 <= s <= 16384 for s in size):
            raise fail("image_size", self.image_size, "two whole numbers (height, width) from 1 to 16384 are needed")
        if not isinstance(self.channels, int) or not 1 <= self.channels <= 1024:
            raise fail("channels", self.channels, "a whole number from 1 to 1024 is needed")
        if not 0 < self.crop <= 1:
            raise fail("crop", self.crop, "a share above 0 and up to 1 is needed")
        if self.fit not in _FITS:
            raise unknown_name("fit", self.fit, _FITS)
        if self.dtype not in _DTYPES:
            raise unknown_name("dtype", self.dtype, _DTYPES)
        if self.missing not in _MISSING:
            raise unknown_name("missing", self.missing, _MISSING)
        not_8_bits = self.units is not None and self.units.pixels != "uint8"
        if self.dtype == "uint8" and not_8_bits and self.scaling is None:
            raise UserError(
                f"the images are {self.units}, which storage uint8 would degrade; choose float16, or a scaling that "
                "brings them to 0 to 1."
            )
        if self.scaling is not None and len(self.scaling.low) != self.channels:
            raise fail("scaling", f"of {len(self.scaling.low)} bands", f"{self.channels} channels need as many")
        if self.bands is not None and len(self.bands) != self.channels:
            raise fail("bands", self.bands, f"{self.channels} channels need as many")
        mean = tuple(float(m) for m in self.mean) or (0.0,) * self.channels
        std = tuple(float(s) for s in self.std) or (1.0,) * self.channels
        if len(mean) != self.channels or not all(map(math.isfinite, mean)):
            raise fail("mean", mean, f"{self.channels} finite numbers, one a channel, are needed")
        if len(std) != self.channels or not all(math.isfinite(s) and s > 0 for s in std):
            raise fail("std", std, f"{self.channels} numbers above 0, one a channel, are needed")
        for name, value in (("image_size", size), ("crop", float(self.crop)), ("mean", mean), ("std", std)):
            object.__setattr__(self, name, value)

    def apply(self, image: Array, white: float | None = None) -> Array:
        """`(H, W, C)` or `(H, W)` of uint8, uint16, bool or float → `(channels, *image_size)` of `dtype`.

        The frame is cut to whole pixels, pixels without a value are filled, and it is resized with an antialiased
        bicubic filter (Pillow); a frame that has the size already is left as it is. Then it is scaled: a mean of
        neighbouring pixels is one of fluxes before they are stretched, and of nothing after that. `pad` puts zeros
        around what is scaled.

        Values: `units` brings whole numbers to shares of white and refuses what would be a guess; uint8 stays uint8
        where that is the dtype; floats are kept in their own units, or as `scaling` makes them, and not clipped but for
        uint8. Channels: grey is repeated, and RGB to grey is the BT.601 luminance, unless the bands have names. Any
        other number of channels is kept if as many are asked for, and refused if not.

        Args:
            image: of one picture.
            white: the value that is white in it, if somebody states it, see `Units.shared`.

        Raises:
            UserError: the image's units or channels do not fit, it has pixels without a value that are not to be filled
                or too many of them, or the dtype cannot hold its values.
        """
        image, kind = self._checked(image)
        with one_at_a_time(image.nbytes):
            image = self._resized(image, kind, white)
            if self.scaling is not None:
                image_CHW = levelled(self.scaling.kind, _shares(image).transpose(2, 0, 1))
                image = self.scaling.apply(image_CHW).transpose(1, 2, 0)
            image_CHW = np.ascontiguousarray(self._framed(image).transpose(2, 0, 1))
        if self.scaling is not None and self.dtype == "uint8":
            return np.rint(255 * _finite(image_CHW).clip(0, 1)).astype(np.uint8)
        if image_CHW.dtype == np.uint8:
            return image_CHW if self.dtype == "uint8" else (image_CHW / np.float32(255)).astype(self.dtype)
        if self.dtype == "float32":
            return _finite(image_CHW)
        # The range of whole numbers needs no look.
        return image_CHW.astype(np.float16) if kind != "float" and self.scaling is None else _as_float16(image_CHW)

    def as_pixels(self, image: Array, white: float | None = None) -> Array:
        """`(H, W, channels)` of the type that the model learned from, not cut and not scaled, for an exported graph.

        Arguments as for `apply`. Grey is repeated and 8-bit RGB becomes grey, where the bands have no names.

        Raises:
            UserError: the image's units or channels are others than those of the model.
        """
        image, kind = self._checked(image)
        units = self.units or Units("uint8" if self.dtype == "uint8" else "float")
        shared = units.shared(image, white)  # which refuses what would be a guess
        if kind != "uint16" or units.pixels != "uint16" or white not in (None, units.white):
            image = shared
        if kind_of_pixels(image.dtype) != units.pixels or (image.shape[2] > self.channels and image.dtype != np.uint8):
            raise UserError(
                f"an image is {image.dtype} of {image.shape[2]} channels, and a graph of this model takes {units} of "
                f"{self.channels}; convert it before."
            )
        image = self._with_channels(image)
        return image if image.shape[2] == self.channels else np.repeat(image, self.channels, axis=2)

    def unscaled(self, image: Array, white: float | None = None) -> Array:
        """`apply` up to the scaling: `(channels, h, w)` float32 in the images' own units, without a frame of zeros, and
        without the sky of each where the scaling subtracts that."""
        image, kind = self._checked(image)
        with one_at_a_time(image.nbytes):
            image_CHW = np.ascontiguousarray(_shares(self._resized(image, kind, white)).transpose(2, 0, 1))
            return _finite(image_CHW if self.scaling is None else levelled(self.scaling.kind, image_CHW))

    @property
    def rgb(self) -> bool:
        """Whether three channels are red, green and blue, as they are unless their source names other bands."""
        return self.bands is None or self.bands.rgb

    def missing_share(self, image: Array) -> float:
        """The share of the values of the kept frame that `apply` fills, 0 where it fills none."""
        return float(np.isnan(self._cut(image)).mean()) if self.missing != "refuse" and image.dtype.kind == "f" else 0.0

    def check_brightness(self, read: Callable[[int], Array], n: int, white: float | None = None) -> None:
        """Raises a UserError if images are in another unit than those that a model learned from, by some of them.

        They are looked at before they are scaled.

        Args:
            read: gives image i of n.
            white: the value that is white in them, if somebody states it.
        """
        if self.units is None or self.units.brightest is None:
            return
        some: list[Array] = []
        for i in np.unique(np.linspace(0, n - 1, min(n, _JUDGED)).astype(int)):
            with contextlib.suppress(UserError):  # whoever asks about it is told why it can't be taken
                some.append((self.apply if self.scaling is None else self.unscaled)(read(int(i)), white))
        self.units.check_brightness(some, padded=self.fit == "pad" and self.scaling is None)

    def check_source(
        self, images: LabelledImages, learned: str = "the model learned from", those: str = "these images"
    ) -> list[str]:
        """Sentences to say of images whose source states something else than the training images did, or nothing.

        Args:
            images: that a model is to be asked about.
            learned: how a sentence names the training images.
            those: how it names `images`.

        Raises:
            UserError: they have other bands, or other units.
        """
        of_bands = None if self.bands is None else self.bands.check(images.bands, learned, those)
        others = [] if self.stated is None else self.stated.differences(images.stated, learned, those)
        return others if of_bands is None else [of_bands, *others]

    def normalize(self, x_BCHW: Tensor) -> Tensor:
        """What the network sees: `(x / 255 if x is uint8 - mean) / std` per channel, float32, of the same shape."""
        mean_C11, std_C11 = _per_channel(self.mean, x_BCHW.device), _per_channel(self.std, x_BCHW.device)
        scaled_BCHW = x_BCHW.float() / 255 if x_BCHW.dtype == torch.uint8 else x_BCHW.float()
        return (scaled_BCHW - mean_C11) / std_C11

    def described(self) -> str | None:
        """How values are scaled, with the limits of each band; None where they are not."""
        if self.scaling is None:
            return None
        unnamed = [f"band {c + 1}" for c in range(self.channels)] if self.channels > 1 else ["values"]
        return self.scaling.described(unnamed if self.bands is None else self.bands.names)

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON keeps them; `from_dict` is the way back."""
        words = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        if self.missing == "refuse":  # so models and stores of before stay what they are
            del words["missing"]
        for name in _PARTS:
            part = words.pop(name)
            if part is not None:
                words[name] = part.to_dict()
        return {k: list(v) if isinstance(v, tuple) else v for k, v in words.items()}

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Preprocessing:
        """Rebuild from `to_dict`. Raises `UserError` for an unknown or missing word or a wrong value."""
        known = [f.name for f in dataclasses.fields(cls)]
        for word in settings:
            if word not in known:
                raise unknown_name("preprocessing setting", word, known)
        for word in ("image_size", "channels"):
            if word not in settings:
                raise UserError(f"the preprocessing lacks '{word}'.")
        try:
            values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
            for name, kind in _PARTS.items():
                if values.get(name) is not None:
                    values[name] = kind.from_dict(values[name])
            return cls(**values)
        except UserError:
            raise
        except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            raise UserError(f"the preprocessing has a value of the wrong kind: {error}.") from None

    def _cut(self, image: Array) -> Array:
        """The central part of the frame, in whole pixels: `crop`, then the target's shape if `fit` says so."""
        height, width = image.shape[:2]
        kept_h, kept_w = height * self.crop, width * self.crop
        if self.fit == "crop":
            target_h, target_w = self.image_size
            scale = min(kept_h / target_h, kept_w / target_w)
            kept_h, kept_w = target_h * scale, target_w * scale
        rows, columns = max(1, round(kept_h)), max(1, round(kept_w))
        top, left = (height - rows) // 2, (width - columns) // 2
        return image[top : top + rows, left : left + columns]

    def _checked(self, image: Array) -> tuple[Array, Pixels]:
        """(H, W, C) and what its type counts as. Raises `UserError` if it is no image."""
        if image.ndim == 2:
            image = image[:, :, None]
        if image.ndim != 3 or 0 in image.shape:
            raise UserError(f"an image has shape {image.shape}; (height, width, channels), none of them 0, is needed.")
        if image.shape[2] not in (1, 3, self.channels) and image.shape[0] == self.channels:
            raise UserError(
                f"an image has {image.shape[2]} channels, {self.channels} are asked for; its bands seem to lie along "
                "its first axis, as FITS and torch have them: np.moveaxis(image, -3, -1) puts them last."
            )
        return image, kind_of_pixels(image.dtype)

    def _resized(self, image: Array, kind: Pixels, white: float | None) -> Array:
        """(h, w, channels) in the images' units: cut, filled and resized, without a frame of zeros."""
        if self.missing == "refuse" and (why := why_not_whole(image)) is not None:
            raise UserError(f"an image can't be taken: {why}.")
        units = self.units or Units("uint8" if self.dtype == "uint8" else kind)
        image = self._cut(units.shared(image, white))
        if image.dtype.kind == "f" and np.isnan(image).any():
            image = self._filled(image)
        image = resize(self._with_channels(image), *self._inner_size(image))
        if kind != "float" and image.dtype.kind == "f":
            image = image.clip(0, 1)  # a bicubic filter overshoots at edges; the scale of an integer image ends at 0, 1
        return image if image.shape[2] == self.channels else np.repeat(image, self.channels, axis=2)

    def _filled(self, image: Array) -> Array:
        """A copy of a float frame (H, W, C) with values where it has none."""
        image = image.copy()
        for c in range(image.shape[2]):
            missing_HW = np.isnan(image[:, :, c])
            share = float(missing_HW.mean())
            if share > MOST_MISSING:
                band = f"band {c + 1}" if self.bands is None else f"the band {self.bands.names[c]}"
                raise UserError(
                    f"an image has no value in {share:.0%} of the pixels that are kept of {band}, more than half."
                )
            if share:
                image[missing_HW, c] = np.median(image[~missing_HW, c]) if self.missing == "median" else 0
        return image

    def _with_channels(self, image: Array) -> Array:
        """1 channel, to be repeated after the resize, or `channels` of them."""
        have = image.shape[2]
        if have == self.channels:
            return image
        if self.bands is not None and not self.rgb:
            raise UserError(
                f"an image has {have} channel{'s' if have > 1 else ''}, and the model learned from the bands "
                f"{self.bands}; give images of these bands."
            )
        if {have, self.channels} != {1, 3}:
            raise UserError(
                f"an image has {have} channels, {self.channels} are asked for; only grey and RGB are made "
                f"from each other."
            )
        if self.channels == 1:
            if image.dtype == np.uint8:
                return np.asarray(Image.fromarray(np.ascontiguousarray(image)).convert("L"))[:, :, None]
            grey: Array = image @ np.array(_LUMINANCE, np.float32)
            return grey[:, :, None]
        return image

    def _inner_size(self, image: Array) -> tuple[int, int]:
        """Height and width that a frame is resized to; with `pad` one of them may be less than `image_size`."""
        height, width = self.image_size
        if self.fit != "pad":
            return height, width
        scale = min(height / image.shape[0], width / image.shape[1])
        inner_h = min(height, max(1, round(image.shape[0] * scale)))
        inner_w = min(width, max(1, round(image.shape[1] * scale)))
        return inner_h, inner_w

    def _framed(self, image: Array) -> Array:
        """An image (h, w, C) in the middle of zeros, where it is smaller than `image_size`."""
        (height, width), (inner_h, inner_w) = self.image_size, image.shape[:2]
        if (height, width) == (inner_h, inner_w):
            return image
        top, left = (height - inner_h) // 2, (width - inner_w) // 2
        framed = np.zeros((height, width, image.shape[2]), image.dtype)
        framed[top : top + inner_h, left : left + inner_w] = image
        return framed


_PARTS: dict[str, Any] = {"units": Units, "scaling": Scaling, "bands": Bands, "stated": Stated}
"""Of what class each part of the settings is that has settings of its own."""


def _shares(image: Array) -> Array:
    """uint8 as shares of 255, in float32; others as they are."""
    return image / np.float32(255) if image.dtype == np.uint8 else image


def _finite(image_CHW: Array) -> Array:
    """The image itself. Raises `UserError` where a value is none."""
    if not np.isfinite(image_CHW).all():
        raise UserError("an image has NaN or infinite values; mend or mask them first.")
    return image_CHW


@functools.lru_cache(maxsize=64)
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """(C, 1, 1) on the device; kept, since a copy to a GPU waits for it."""
    with torch.inference_mode(False):  # one made for a prediction may serve a training step
        return torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]


def _as_float16(image_CHW: Array) -> Array:
    """float16, or an error if that would change the image visibly: scientific images come in any units."""
    with np.errstate(over="ignore"):
        half_CHW = _finite(image_CHW).astype(np.float16)
    low, high = float(image_CHW.min()), float(image_CHW.max())
    if not np.isfinite(half_CHW).all():
        raise UserError(
            f"an image has values from {low:g} to {high:g}, and float16 ends at 65504; scale the images to about 0 to "
            "1 (--scaling), or keep them as --storage float32."
        )
    # Coarser steps than 8 bits give would be visible: errors beyond half of 1/255 of the range.
    if float(np.abs(half_CHW.astype(np.float32) - image_CHW).max()) > (high - low) / HALF_STEPS and high > low:
        raise UserError(
            f"an image has values from {low:g} to {high:g}, of which float16 keeps fewer than 8 bits; subtract the "
            "background and scale the images to about 0 to 1, or keep them as --storage float32."
        )
    return half_CHW


def measure_statistics(
    array: NDArray[Any], indices: NDArray[np.integer] | None = None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of `(N, C, H, W)`, in the units of `Preprocessing.normalize`.

    uint8 counts in [0, 1]. The array is read in pieces, so it may be larger than memory. A constant channel
    has no scale, and its standard deviation is given as 1. `indices` restricts it to some images (those
    trained on).
    """
    n = len(array) if indices is None else len(indices)
    if not n:
        raise UserError("there are no images to measure the mean and standard deviation of.")
    scale = 255.0 if array.dtype == np.uint8 else 1.0
    channels, pixels = array.shape[1], int(np.prod(array.shape[2:]))
    shift_C1 = np.zeros((channels, 1), np.float32)
    total_C = square_C = np.zeros(channels)
    step = max(1, (1 << 22) // (channels * pixels))
    for start in range(0, n, step):
        some = slice(start, start + step)
        x_BCP = array[some if indices is None else np.asarray(indices)[some]].astype(np.float32)
        x_BCP = x_BCP.reshape(len(x_BCP), channels, pixels)
        if start == 0:  # squares about a value near the mean lose no digits where the mean is far from 0
            shift_C1 = x_BCP.mean(axis=(0, 2), dtype=np.float64).astype(np.float32)[:, None]
        x_BCP -= shift_C1
        total_C = total_C + x_BCP.sum(axis=2).sum(axis=0, dtype=np.float64)
        # float32 within an image, float64 over images
        square_BC = np.matmul(x_BCP[:, :, None, :], x_BCP[:, :, :, None])[:, :, 0, 0]
        square_C = square_C + square_BC.sum(axis=0, dtype=np.float64)
    mean_C = total_C / (n * pixels)
    std_C = np.sqrt(np.maximum(square_C / (n * pixels) - mean_C**2, 0.0)) / scale
    mean_C = (mean_C + shift_C1[:, 0]) / scale
    # Below the resolution of the type there is no signal, only rounding.
    std_C = np.where(std_C > 1e-6 * np.maximum(np.abs(mean_C), 1e-6), std_C, 1.0)
    return tuple(float(m) for m in mean_C), tuple(float(s) for s in std_C)
