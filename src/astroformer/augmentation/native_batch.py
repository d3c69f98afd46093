"""`Augmenter.batch` on the CPU: hands settings, stored images and tables to the kernel in `native/augment.cpp`.

Whoever has no compiler, or images of a type that is not named here, gets the plain program of `augmenter.py`.
"""

from __future__ import annotations

import ctypes
import functools
import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from astroformer import native
from astroformer.augmentation.geometry import antialiasing
from astroformer.augmentation.mixing import Beta, Mixer
from astroformer.augmentation.settings import OPERATIONS, Augment, operations
from astroformer.images.preprocessing import Preprocessing

_STORED = (torch.uint8, torch.float16, torch.float32)
_BORDERS = ("reflect", "edge", "zero")
_LARGEST = 1 << 28  # values of a stored image and of a result: places in them are 32-bit numbers

_INT, _REAL, _POINTER = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p


class _Plan(ctypes.Structure):
    """`Plan` of the kernel, field by field."""

    _fields_ = (
        *((name, _INT) for name in ("channels", "stored_h", "stored_w", "height", "width", "stored_type", "bfloat16")),
        *((name, _INT) for name in ("resamples", "bicubic", "border", "block_y", "block_x", "samples_y", "samples_x")),
        ("seed", ctypes.c_uint64),
        *((name, _INT) for name in ("flips", "quarter_turns", "zooms", "crops")),
        *((name, _REAL) for name in ("flip_horizontal", "flip_vertical", "rotation", "scale_low", "scale_span")),
        *((name, _REAL) for name in ("aspect_low", "aspect_span", "shear", "shift", "crop_low", "crop_span")),
        *((name, _REAL) for name in ("ratio_low", "ratio_span", "ratio_least", "ratio_most")),
        *((name, _REAL) for name in ("brightness", "contrast", "saturation", "hue", "noise")),
        *((name, _REAL) for name in ("erasing", "erasing_low", "erasing_span")),
        *((name, _REAL) for name in ("erasing_aspect_low", "erasing_aspect_span")),
        *((name, _INT) for name in ("erasing_noise", "policy_slots", "policy_choices")),
        ("policy_places", _POINTER),
        *((f"policy_{name}", _REAL) for name in ("magnitude", "shear", "translate", "rotate", "enhance", "posterize")),
        *((name, _REAL) for name in ("mixup", "cutmix", "mix_probability", "mix_switch")),
        ("beta_nodes", _INT),
        *((name, _POINTER) for name in ("mixup_node", "mixup_below", "cutmix_node", "cutmix_below", "mean", "std")),
        *((name, _POINTER) for name in ("level", "resize_y", "resize_x", "bounds_y", "bounds_x")),
    )


class NativeBatch:
    """The kernel for one `Augmenter`."""

    def __init__(self, settings: Augment, mixer: Mixer, *, seed: int, size: tuple[int, int]) -> None:
        self.settings, self.mixer, self.seed, self.size = settings, mixer, seed, size
        self._plans: dict[Any, tuple[_Plan, list[Any]]] = {}

    def takes(self, stored_MCHW: Tensor, dtype: torch.dtype) -> bool:
        """Whether the kernel is there and does this; `native.why_not("augment")` says why it is not there."""
        return (
            stored_MCHW.device.type == "cpu"
            and stored_MCHW.dtype in _STORED
            and stored_MCHW.is_contiguous()
            and dtype in (torch.float32, torch.bfloat16)
            and stored_MCHW[:1].numel() < _LARGEST
            and stored_MCHW.shape[1] * self.size[0] * self.size[1] < _LARGEST
            and _kernel() is not None
        )

    def __call__(
        self,
        stored_MCHW: Tensor,
        row_B: Tensor,
        index_B: Tensor,
        epoch: int,
        label_B: Tensor,
        classes: int,
        preprocessing: Preprocessing,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        """As `Augmenter.batch`."""
        kernel = _kernel()
        assert kernel is not None, "`takes` was not asked"
        row_B, index_B, label_B = (t.to("cpu", torch.int64).contiguous() for t in (row_B, index_B, label_B))
        images = len(row_B) - self.mixer.active
        if not len(index_B) == len(label_B) == len(row_B) or images < 0:
            raise ValueError(f"{len(row_B)} rows, {len(index_B)} indices and {len(label_B)} labels do not go together")
        for name, value_B, end in (("row", row_B, len(stored_MCHW)), ("label", label_B, classes)):
            if len(value_B) and not 0 <= int(value_B.min()) <= int(value_B.max()) < end:
                raise IndexError(f"a {name} lies outside of 0 … {end - 1}")
        plan, _ = self._plan(tuple(stored_MCHW.shape[1:]), stored_MCHW.dtype, preprocessing, dtype)
        x_BChw = torch.empty(images, stored_MCHW.shape[1], *self.size, dtype=dtype, memory_format=torch.channels_last)
        y_BK = torch.empty(images, classes)
        kernel.augment_batch(
            ctypes.byref(plan),
            stored_MCHW.data_ptr(),
            row_B.data_ptr(),
            index_B.data_ptr(),
            images,
            epoch,
            label_B.data_ptr(),
            classes,
            x_BChw.data_ptr(),
            y_BK.data_ptr(),
            min(torch.get_num_threads(), max(images, 1)),
        )
        return x_BChw, y_BK

    def _plan(
        self, stored: tuple[int, ...], stored_dtype: torch.dtype, preprocessing: Preprocessing, dtype: torch.dtype
    ) -> tuple[_Plan, list[Any]]:
        """The plan for such images, and the arrays that it points into."""
        key = stored, stored_dtype, preprocessing.mean, preprocessing.std, dtype
        if key not in self._plans:
            kept: list[Any] = []

            def at(values: Any, kind: Any) -> int:
                kept.append(np.ascontiguousarray(values, dtype=kind))
                return int(kept[-1].ctypes.data)

            fields = {**self._of_images(stored, stored_dtype, at), **self._of_values(stored[0], stored_dtype, at)}
            plan = _Plan(
                **fields,
                **self._of_mixing(at),
                bfloat16=dtype == torch.bfloat16,
                mean=at(preprocessing.mean, np.float32),
                std=at(preprocessing.std, np.float32),
            )
            self._plans[key] = plan, kept
        return self._plans[key]

    def _of_images(self, stored: tuple[int, ...], stored_dtype: torch.dtype, at: Any) -> dict[str, Any]:
        """Shapes, and all of the geometry."""
        s = self.settings
        channels, stored_h, stored_w = stored
        (block_y, block_x), (samples_y, samples_x) = antialiasing(s, (stored_h, stored_w), self.size)
        fields = {
            "channels": channels,
            "stored_h": stored_h,
            "stored_w": stored_w,
            "height": self.size[0],
            "width": self.size[1],
            "stored_type": _STORED.index(stored_dtype),
            "resamples": s.resamples,
            "bicubic": s.interpolation == "bicubic",
            "border": _BORDERS.index(s.border),
            "block_y": block_y,
            "block_x": block_x,
            "samples_y": samples_y,
            "samples_x": samples_x,
            "seed": self.seed % 2**64,
            "flips": s.flip_horizontal > 0 or s.flip_vertical > 0,
            "flip_horizontal": s.flip_horizontal,
            "flip_vertical": s.flip_vertical,
            "quarter_turns": s.quarter_turns,
            "rotation": math.radians(s.rotation),
            "zooms": s.scale != (1.0, 1.0) or s.aspect > 1,
            "shear": math.radians(s.shear),
            "shift": s.shift,
            "crops": s.crop_scale is not None,
            "ratio_least": s.crop_ratio[0],
            "ratio_most": s.crop_ratio[1],
        }
        fields["scale_low"], fields["scale_span"] = _logarithms(s.scale)
        fields["aspect_low"], fields["aspect_span"] = _logarithms((1.0 / math.sqrt(s.aspect), math.sqrt(s.aspect)))
        fields["ratio_low"], fields["ratio_span"] = _logarithms(s.crop_ratio)
        if s.crop_scale is not None:
            fields["crop_low"], fields["crop_span"] = s.crop_scale[0], s.crop_scale[1] - s.crop_scale[0]
        if not s.resamples and (stored_h, stored_w) != self.size:
            for axis, have, wanted in (("y", stored_h, self.size[0]), ("x", stored_w, self.size[1])):
                weights, bounds = _filter(have, wanted, s.interpolation)
                fields[f"resize_{axis}"], fields[f"bounds_{axis}"] = at(weights, np.float32), at(bounds, np.int64)
        return fields

    def _of_values(self, channels: int, stored_dtype: torch.dtype, at: Any) -> dict[str, Any]:
        """Colour, policy, noise and erasing."""
        s = self.settings
        integer = stored_dtype == torch.uint8
        fields = {
            "brightness": s.brightness,
            "contrast": s.contrast,
            "saturation": s.saturation if channels == 3 else 0.0,
            "hue": s.hue if channels == 3 else 0.0,
            "noise": s.noise,
            "erasing": s.erasing,
            "erasing_low": s.erasing_area[0],
            "erasing_span": s.erasing_area[1] - s.erasing_area[0],
            "erasing_noise": s.erasing_fill == "noise",
            "policy_slots": s.policy_slots,
            "policy_magnitude": s.policy_magnitude / 10.0 if s.policy == "randaugment" else -1.0,
            "policy_shear": s.ranges.shear,
            "policy_translate": s.ranges.translate,
            "policy_rotate": math.radians(s.ranges.rotate),
            "policy_enhance": s.ranges.enhance,
            "policy_posterize": s.ranges.posterize,
            "level": at((torch.arange(256, dtype=torch.float32) / 255.0).numpy(), np.float32),
        }
        fields["erasing_aspect_low"], fields["erasing_aspect_span"] = _logarithms(s.erasing_aspect)
        if s.policy != "none":
            places = [OPERATIONS.index(name) for name in operations(s.policy, channels, integer)]
            fields["policy_choices"], fields["policy_places"] = len(places), at(places, np.int64)
        return fields

    def _of_mixing(self, at: Any) -> dict[str, Any]:
        fields: dict[str, Any] = {"mix_probability": self.mixer.probability, "mix_switch": self.mixer.switch}
        laws: list[tuple[str, Beta | None]] = [("mixup", self.mixer.mixup), ("cutmix", self.mixer.cutmix)]
        for name, law in laws:
            if law is not None:
                fields[name], fields["beta_nodes"] = law.exponent, len(law.node)
                fields[f"{name}_node"] = at(law.node.numpy(), np.float64)
                fields[f"{name}_below"] = at(law.below.numpy(), np.float64)
        return fields


def _logarithms(ends: tuple[float, float]) -> tuple[float, float]:
    """The logarithm of the lower end, and how far that of the upper one lies above it."""
    return math.log(ends[0]), math.log(ends[1]) - math.log(ends[0])


def _filter(have: int, wanted: int, mode: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Weights (wanted, have) of torch's antialiased resize of one side; where each row of them begins and ends."""
    each_11HH = torch.eye(have)[None, None]
    weights = F.interpolate(each_11HH, (wanted, have), mode=mode, align_corners=False, antialias=True)[0, 0].numpy()
    counts = weights != 0
    return weights, np.stack([counts.argmax(1), have - counts[:, ::-1].argmax(1)], axis=1)


@functools.cache
def _kernel() -> ctypes.CDLL | None:
    kernel = native.library("augment")
    if kernel is None:
        return None
    kernel.augment_plan_bytes.restype = _INT
    assert kernel.augment_plan_bytes() == ctypes.sizeof(_Plan), "the kernel's Plan is not the one here"
    kernel.augment_batch.restype = None
    kernel.augment_batch.argtypes = [
        *(_POINTER, _POINTER, _POINTER, _POINTER, _INT, ctypes.c_uint64, _POINTER, _INT, _POINTER, _POINTER),
        ctypes.c_int,
    ]
    return kernel
