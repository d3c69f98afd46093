"""`Augmenter.batch` on the CPU: hands settings, stored images and tables to the kernel in `native/augment.cpp`.

Where there is no compiler, and for images of other types, the plain program of `augmenter.py` runs instead.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, DTypeLike, NDArray
from torch import Tensor

from astroformer import native
from astroformer.augmentation.geometry import antialiasing
from astroformer.augmentation.mixing import BETA_NODES, Beta, Mixer
from astroformer.augmentation.settings import OPERATIONS, Augment, operations
from astroformer.images.preprocessing import Preprocessing
from astroformer.native.headers import AugmentPlan

_STORED = (torch.uint8, torch.float16, torch.float32)
_BORDERS = ("reflect", "edge", "zero")
_LARGEST = 1 << 28  # values of a stored image and of a result: the kernel counts places in them in 32 bits

_Values = dict[str, Any]  # of some fields of an `AugmentPlan`
_Address = Callable[[ArrayLike, DTypeLike], int]  # keeps the values in an array of a type; its address


class NativeBatch:
    """The kernel for one `Augmenter`."""

    def __init__(self, settings: Augment, mixer: Mixer, *, seed: int, size: tuple[int, int], rgb: bool = True) -> None:
        self.settings, self.mixer, self.seed, self.size, self.rgb = settings, mixer, seed, size, rgb
        self._plans: dict[Any, tuple[AugmentPlan, list[NDArray[Any]]]] = {}  # and the arrays that they point into

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
        if label_B.ndim == 2:
            # The kernel knows labels. With each row as a class of its own it says what share a row keeps for itself.
            row = torch.arange(len(label_B))
            x_BChw, share_BM = self(stored_MCHW, row_B, index_B, epoch, row, len(row), preprocessing, dtype)
            if not self.mixer.active:
                return x_BChw, label_B
            return x_BChw, torch.lerp(label_B[1:], label_B[:-1], share_BM.diagonal()[:, None])
        kernel = _kernel()
        assert kernel is not None, "`takes` was not asked"
        row_B, index_B, label_B = (t.to("cpu", torch.int64).contiguous() for t in (row_B, index_B, label_B))
        images = len(row_B) - self.mixer.active
        if not len(index_B) == len(label_B) == len(row_B) or images < 0:
            raise ValueError(f"{len(row_B)} rows, {len(index_B)} indices and {len(label_B)} labels do not go together")
        for name, value_B, end in (("row", row_B, len(stored_MCHW)), ("label", label_B, classes)):
            if len(value_B) and not 0 <= int(value_B.min()) <= int(value_B.max()) < end:
                raise IndexError(f"a {name} lies outside of 0 … {end - 1}")
        plan = self._plan(tuple(stored_MCHW.shape[1:]), stored_MCHW.dtype, preprocessing, dtype)
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
    ) -> AugmentPlan:
        """The plan for stored images of a shape (C, H, W) and type, and results of a type; made once."""
        key = stored, stored_dtype, preprocessing.mean, preprocessing.std, dtype
        if key not in self._plans:
            arrays: list[NDArray[Any]] = []

            def address(values: ArrayLike, kind: DTypeLike) -> int:
                arrays.append(np.ascontiguousarray(values, dtype=kind))
                return int(arrays[-1].ctypes.data)

            plan = AugmentPlan.of(
                {
                    "seed": self.seed % 2**64,
                    "bfloat16": dtype == torch.bfloat16,
                    "mean": address(preprocessing.mean, np.float32),
                    "std": address(preprocessing.std, np.float32),
                    **self._sizes(stored, stored_dtype),
                    **self._geometry(),
                    **self._resize(stored[1:], address),
                    **self._colours(stored[0]),
                    **self._policy(stored[0], stored_dtype == torch.uint8, address),
                    **self._mixing(address),
                }
            )
            self._plans[key] = plan, arrays
        return self._plans[key][0]

    def _sizes(self, stored: tuple[int, ...], stored_dtype: torch.dtype) -> _Values:
        channels, stored_h, stored_w = stored
        (block_y, block_x), (samples_y, samples_x) = antialiasing(self.settings, (stored_h, stored_w), self.size)
        return {
            "channels": channels,
            "stored_h": stored_h,
            "stored_w": stored_w,
            "height": self.size[0],
            "width": self.size[1],
            "stored_type": _STORED.index(stored_dtype),
            "block_y": block_y,
            "block_x": block_x,
            "samples_y": samples_y,
            "samples_x": samples_x,
        }

    def _geometry(self) -> _Values:
        s = self.settings
        crop_low, crop_high = s.crop_scale or (0.0, 0.0)
        return {
            "resamples": s.resamples,
            "bicubic": s.interpolation == "bicubic",
            "border": _BORDERS.index(s.border),
            "flips": s.flip_horizontal > 0 or s.flip_vertical > 0,
            "flip_horizontal": s.flip_horizontal,
            "flip_vertical": s.flip_vertical,
            "quarter_turns": s.quarter_turns,
            "rotation": math.radians(s.rotation),
            "zooms": s.scale != (1.0, 1.0) or s.aspect > 1,
            **_log_range("scale", s.scale),
            **_log_range("aspect", (1.0 / math.sqrt(s.aspect), math.sqrt(s.aspect))),
            "shear": math.radians(s.shear),
            "shift": s.shift,
            "crops": s.crop_scale is not None,
            "crop_low": crop_low,
            "crop_span": crop_high - crop_low,
            **_log_range("ratio", s.crop_ratio),
            "ratio_least": s.crop_ratio[0],
            "ratio_most": s.crop_ratio[1],
        }

    def _resize(self, stored: tuple[int, ...], address: _Address) -> _Values:
        """The filters of a frame that is resized and not resampled."""
        values: _Values = dict.fromkeys(("resize_y", "resize_x", "bounds_y", "bounds_x"))
        if not self.settings.resamples and stored != self.size:
            for axis, source, wanted in zip("yx", stored, self.size, strict=True):
                weights, bounds = _resize_filter(source, wanted, self.settings.interpolation)
                values[f"resize_{axis}"] = address(weights, np.float32)
                values[f"bounds_{axis}"] = address(bounds, np.int64)
        return values

    def _colours(self, channels: int) -> _Values:
        """Colour, noise and erasing."""
        s, rgb = self.settings, self.rgb and channels == 3
        return {
            "brightness": s.brightness,
            "contrast": s.contrast,
            "rgb": rgb,
            "saturation": s.saturation if rgb else 0.0,
            "hue": s.hue if rgb else 0.0,
            "noise": s.noise,
            "erasing": s.erasing,
            "erasing_low": s.erasing_area[0],
            "erasing_span": s.erasing_area[1] - s.erasing_area[0],
            **_log_range("erasing_aspect", s.erasing_aspect),
            "erasing_noise": s.erasing_fill == "noise",
        }

    def _policy(self, channels: int, integer: bool, address: _Address) -> _Values:
        s = self.settings
        names = [] if s.policy == "none" else operations(s.policy, channels, integer, rgb=self.rgb)
        return {
            "policy_slots": s.policy_slots,
            "policy_choices": len(names),
            "policy_places": address([OPERATIONS.index(name) for name in names], np.int64),
            "policy_magnitude": s.policy_magnitude / 10.0 if s.policy == "randaugment" else -1.0,
            "policy_shear": s.ranges.shear,
            "policy_translate": s.ranges.translate,
            "policy_rotate": math.radians(s.ranges.rotate),
            "policy_enhance": s.ranges.enhance,
            "policy_posterize": s.ranges.posterize,
            "level": address((torch.arange(256, dtype=torch.float32) / 255.0).numpy(), np.float32),
        }

    def _mixing(self, address: _Address) -> _Values:
        values: _Values = {
            "mix_probability": self.mixer.probability,
            "mix_switch": self.mixer.switch,
            "beta_nodes": BETA_NODES,
        }
        laws: dict[str, Beta | None] = {"mixup": self.mixer.mixup, "cutmix": self.mixer.cutmix}
        for name, law in laws.items():
            values[name] = 0.0 if law is None else law.exponent
            values[f"{name}_node"] = None if law is None else address(law.node.numpy(), np.float64)
            values[f"{name}_below"] = None if law is None else address(law.below.numpy(), np.float64)
        return values


def _log_range(name: str, ends: tuple[float, float]) -> _Values:
    """Lower end and length of the range between the logarithms of two ends."""
    low = math.log(ends[0])
    return {f"{name}_low": low, f"{name}_span": math.log(ends[1]) - low}


def _resize_filter(source: int, wanted: int, mode: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """The weights (wanted, source) of torch's antialiased resize along one axis, and (wanted, 2) where those of each
    row begin and end."""
    identity_11SS = torch.eye(source)[None, None]
    shape = (wanted, source)
    weights = F.interpolate(identity_11SS, shape, mode=mode, align_corners=False, antialias=True)[0, 0].numpy()
    counts = weights != 0
    return weights, np.stack([counts.argmax(1), source - counts[:, ::-1].argmax(1)], axis=1)


@functools.cache
def _kernel() -> ctypes.CDLL | None:
    kernel = native.library("augment")
    if kernel is None:
        return None
    pointer = ctypes.c_void_p
    kernel.augment_batch.restype = None
    kernel.augment_batch.argtypes = [
        *(ctypes.POINTER(AugmentPlan), pointer, pointer, pointer, ctypes.c_int64, ctypes.c_uint64),
        *(pointer, ctypes.c_int64, pointer, pointer, ctypes.c_int),
    ]
    return kernel
