"""What Python and the C++ kernels share, written down once: the headers are generated here and given to the compiler.

`augment_plan.h` holds `Plan`, the settings that `augment.cpp` works by; `streams.h` holds the numbers of
`randomness.Stream`. Python passes a plan as `AugmentPlan`, whose layout the compiler checks field by field.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

from astroformer.randomness import Stream


class _Field(NamedTuple):
    name: str
    type: str  # of C++
    comment: str


_TYPES: dict[str, Any] = {"int64_t": ctypes.c_int64, "uint64_t": ctypes.c_uint64, "double": ctypes.c_double}


def _fields(type_: str, names: str, comment: str = "") -> list[_Field]:
    return [_Field(name, type_, comment) for name in names.split()]


# Angles are in radians. `_low` and `_span` are the lower end and the length of a range, of logarithms where what is
# drawn is log-uniform.
_PLAN = [
    *_fields("int64_t", "channels stored_h stored_w", "of the stored images"),
    *_fields("int64_t", "height width", "of the results"),
    *_fields("int64_t", "stored_type", "0 uint8, 1 float16, 2 float32"),
    *_fields("int64_t", "bfloat16", "type of the batch: 1 bfloat16, 0 float32"),
    *_fields("int64_t", "resamples", "whether pixels move by less than whole pixels"),
    *_fields("int64_t", "bicubic", "interpolation: 1 bicubic, 0 bilinear"),
    *_fields("int64_t", "border", "0 reflect, 1 edge, 2 zero"),
    *_fields("int64_t", "block_y block_x", "sides of the blocks that are averaged before resampling"),
    *_fields("int64_t", "samples_y samples_x", "samples per pixel of the result"),
    *_fields("uint64_t", "seed", "of the run"),
    *_fields("int64_t", "flips quarter_turns zooms crops", "whether these are on"),
    *_fields("double", "flip_horizontal flip_vertical", "probability"),
    *_fields("double", "rotation"),
    *_fields("double", "scale_low scale_span", "factor of the zoom"),
    *_fields("double", "aspect_low aspect_span", "factor of the width against the height"),
    *_fields("double", "shear shift"),
    *_fields("double", "crop_low crop_span", "share of the frame's area"),
    *_fields("double", "ratio_low ratio_span ratio_least ratio_most", "width over height of the crop"),
    *_fields("int64_t", "rgb", "whether the channels are red, green and blue"),
    *_fields("double", "brightness contrast saturation hue noise"),
    *_fields("double", "erasing", "probability"),
    *_fields("double", "erasing_low erasing_span", "share of the frame's area"),
    *_fields("double", "erasing_aspect_low erasing_aspect_span", "height over width of the rectangle"),
    *_fields("int64_t", "erasing_noise", "fill: 1 noise, 0 mean"),
    *_fields("int64_t", "policy_slots", "operations that are applied to an image"),
    *_fields("int64_t", "policy_choices", "operations that they are drawn from"),
    *_fields("const int64_t*", "policy_places", "(policy_choices,) their places in `settings.OPERATIONS`"),
    *_fields("double", "policy_magnitude", "strength in [0, 1]; below 0: drawn for each image"),
    *_fields(
        "double",
        "policy_shear policy_translate policy_rotate policy_enhance policy_posterize",
        "at the largest strength",
    ),
    *_fields("double", "mixup cutmix", "exponent of the Beta law's quantile; 0 where off"),
    *_fields("double", "mix_probability", "that an image is mixed"),
    *_fields("double", "mix_switch", "that a mixed image takes CutMix"),
    *_fields("int64_t", "beta_nodes", "length of the tables that follow"),
    *_fields("const double*", "mixup_node mixup_below cutmix_node cutmix_below", "of `mixing.Beta`"),
    *_fields("const float*", "mean std", "(channels,)"),
    *_fields("const float*", "level", "(256,) v / 255"),
    *_fields("const float*", "resize_y", "(height, stored_h) weights, where a result is a resized frame; else null"),
    *_fields("const float*", "resize_x", "(width, stored_w)"),
    *_fields("const int64_t*", "bounds_y", "(height, 2) first and end of each row's weights in resize_y"),
    *_fields("const int64_t*", "bounds_x", "(width, 2)"),
]


class AugmentPlan(ctypes.Structure):
    """`Plan` of the kernel. Pointers are addresses, or None; what they point to must outlive the plan."""

    _fields_ = [(field.name, _TYPES.get(field.type, ctypes.c_void_p)) for field in _PLAN]

    @classmethod
    def of(cls, values: dict[str, Any]) -> AugmentPlan:
        """A plan of all its fields: ctypes itself would take a missing one for 0, and keep an unknown one aside."""
        names = {field.name for field in _PLAN}
        if values.keys() != names:
            raise TypeError(f"a plan without {sorted(names - values.keys())}, with {sorted(values.keys() - names)}")
        return cls(**values)


def headers() -> dict[str, str]:
    """The generated headers: file names and texts."""
    return {"augment_plan.h": _plan_header(), "streams.h": _streams_header()}


def _plan_header() -> str:
    members = [f"    {field.type} {field.name};{field.comment and f'  // {field.comment}'}" for field in _PLAN]
    checks = [
        f"static_assert(offsetof(Plan, {field.name}) == {getattr(AugmentPlan, field.name).offset});" for field in _PLAN
    ]
    return "\n".join(
        [
            "#pragma once",
            "#include <cstddef>",
            "#include <cstdint>",
            *("struct Plan {", *members, "};"),
            *checks,
            f"static_assert(sizeof(Plan) == {ctypes.sizeof(AugmentPlan)});",
            "",
        ]
    )


def _streams_header() -> str:
    members = [f"    {stream.name} = {int(stream)}," for stream in Stream]
    return "\n".join(["#pragma once", "#include <cstdint>", "enum class Stream : uint32_t {", *members, "};", ""])
