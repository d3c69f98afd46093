"""What Python and C++ share: the plan's fields, the streams' numbers."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from astroformer.augmentation.augmenter import Augmenter
from astroformer.augmentation.settings import PRESETS, Augment
from astroformer.images.preprocessing import Preprocessing
from astroformer.native.headers import AugmentPlan, headers
from astroformer.randomness import Stream

FIELDS = dict(AugmentPlan._fields_)  # type: ignore[misc,arg-type]


def test_the_header_has_the_fields_of_the_python_structure_in_their_order() -> None:
    text = headers()["augment_plan.h"]
    members = re.findall(r"^    (u?int64_t|double|const \w+\*) (\w+);", text, re.MULTILINE)
    assert [name for _, name in members] == list(FIELDS)
    for name in FIELDS:
        assert f"static_assert(offsetof(Plan, {name}) == {getattr(AugmentPlan, name).offset});" in text


def test_the_header_has_the_numbers_of_the_streams() -> None:
    members = re.findall(r"^    (\w+) = (\d+),$", headers()["streams.h"], re.MULTILINE)
    assert {name: int(number) for name, number in members} == {stream.name: stream.value for stream in Stream}


def test_a_plan_has_a_value_for_every_field_and_for_nothing_else() -> None:
    values: dict[str, Any] = dict.fromkeys(FIELDS, 0)
    assert AugmentPlan.of({**values, "rotation": 0.5}).rotation == 0.5
    with pytest.raises(TypeError, match=r"without \['hue'\], with \[\]"):
        AugmentPlan.of({name: value for name, value in values.items() if name != "hue"})
    with pytest.raises(TypeError, match=r"without \[\], with \['hues'\]"):
        AugmentPlan.of({**values, "hues": 0})


@pytest.mark.parametrize(
    "settings",
    [*PRESETS.values(), Augment(crop_scale=(0.5, 1), mixup=1.0), PRESETS["none"].model_copy(update={"cutmix": 1.0})],
)
@pytest.mark.parametrize("stored", [(3, 24, 24), (1, 30, 20)])
def test_settings_of_all_kinds_fill_a_plan(settings: Augment, stored: tuple[int, int, int]) -> None:
    maker = Augmenter(settings, seed=-1, size=(24, 24))
    for dtype in (torch.uint8, torch.float32):
        plan = maker._native._plan(stored, dtype, Preprocessing((24, 24), stored[0]), torch.float32)
        assert plan.seed == 2**64 - 1
        assert (plan.channels, plan.stored_h, plan.stored_w) == stored
        assert bool(plan.resize_y) == (not settings.resamples and stored[1:] != (24, 24))
        assert bool(plan.mixup_node) == (plan.mixup > 0) == (settings.mixup > 0)
