"""The same picture in other units: converted where that needs no guess, refused where it would."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from astroformer.errors import UserError
from astroformer.images.preprocessing import Preprocessing
from astroformer.images.units import Units, kind_of_pixels, measured

RNG = np.random.default_rng(4)
EIGHT = RNG.integers(0, 256, (9, 9, 3)).astype(np.uint8)
SIXTEEN = EIGHT.astype(np.uint16) * 257  # the same picture, white at 65535
TWELVE = (EIGHT.astype(np.float64) / 255 * 4095).round().astype(np.uint16)  # white at 4095
FLOATS = EIGHT.astype(np.float32)


def test_images_of_the_same_units_are_taken_as_they_are() -> None:
    np.testing.assert_array_equal(Units("uint8").shared(EIGHT), EIGHT)
    np.testing.assert_array_equal(Units("uint8").shared(EIGHT > 99), (EIGHT > 99) * np.uint8(255))
    np.testing.assert_array_equal(Units("float").shared(FLOATS), FLOATS)
    np.testing.assert_allclose(Units("uint16").shared(SIXTEEN), SIXTEEN / 65535, rtol=1e-6)
    np.testing.assert_allclose(Units("uint16", white=4095).shared(TWELVE), TWELVE / 4095, rtol=1e-6)


def test_whole_numbers_are_converted_where_both_sides_state_what_is_white() -> None:
    np.testing.assert_array_equal(Units("uint8").shared(SIXTEEN, white=65535), EIGHT)
    np.testing.assert_array_equal(Units("uint8").shared(TWELVE, white=4095), EIGHT)
    np.testing.assert_allclose(Units("uint16", white=4095).shared(EIGHT), EIGHT / 255, rtol=1e-6)
    np.testing.assert_allclose(Units("uint16", white=4095).shared(SIXTEEN, white=65535), EIGHT / 255, rtol=1e-6)


@pytest.mark.parametrize(
    ("units", "image", "white", "words"),
    [
        (Units("uint8"), SIXTEEN, None, ["uint16", "learned from uint8", "--white"]),
        (Units("uint8"), FLOATS, None, ["float32", "learned from uint8", "without a guess"]),
        (Units("uint8"), FLOATS, 255, ["white is 255", "floats", "leave --white out"]),
        (Units("uint8"), SIXTEEN, 4095, ["the value", "white is stated as 4095"]),
        (Units("uint8"), SIXTEEN, 70000, ["white is 70000", "up to 65535"]),
        (Units("uint8"), EIGHT, 200, ["white is 200", "uint8, whose white is 255"]),
        (Units("uint16"), EIGHT, None, ["uint8 with white at 255", "whose white nobody stated"]),
        (Units("uint16"), SIXTEEN, 65535, ["whose white nobody stated", "train again with --white"]),
        (Units("float"), EIGHT, None, ["uint8", "learned from floats"]),
        (Units("float"), SIXTEEN, 65535, ["uint16", "learned from floats"]),
        (Units("uint16"), EIGHT.astype(np.int16), None, ["int16", "float32"]),
        (Units("uint8"), EIGHT.astype(np.uint32), None, ["uint32", "float32"]),
        (Units("uint8"), EIGHT.astype(complex), None, ["complex128"]),
    ],
)
def test_what_would_be_a_guess_is_refused(units: Units, image: Any, white: float | None, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        units.shared(image, white)
    assert all(word in str(caught.value) for word in words), caught.value


def test_floats_in_another_unit_are_refused_by_their_range() -> None:
    stack = RNG.normal(0, 40, (50, 3, 8, 8)).astype(np.float16)
    stack[:3] = 0  # zeros say nothing of the unit
    floats = Units("float")
    low, high = measured(floats, stack).brightest or (0.0, 0.0)
    largest = np.abs(stack[3:]).max((1, 2, 3))
    assert largest.min() <= low < high <= largest.max()
    assert measured(floats, stack[:3]) == floats
    one = measured(floats, stack, np.array([5]))
    assert one.brightest == (largest[2], largest[2])
    assert one.darkest == (stack[5].min(), stack[5].min())
    units = measured(floats, stack)
    for fits in (stack[5:], stack[5:] * 3, stack[5:] / 3, stack[:3], [], [*stack[5:], stack[5] * 200]):
        units.check_brightness(fits)
    for other in (stack / 255, stack * 200, [stack[5] / 255]):
        with pytest.raises(UserError, match="in another unit"):
            units.check_brightness(other)


def test_units_are_words_of_the_preprocessing() -> None:
    for units in (
        Units("uint8"),
        Units("uint16", 4095),
        Units("uint16"),
        Units("float", brightest=(0.5, 2.0)),
        Units("float", None, (0.5, 2.0), (-1.0, 0.0)),
    ):
        settings = Preprocessing((8, 8), 1, dtype="float16", units=units)
        assert Preprocessing.from_dict(settings.to_dict()) == settings
    assert "units" not in Preprocessing((8, 8), 1).to_dict()  # so models and stores of before stay what they are
    assert "darkest" not in Units("float", brightest=(0.5, 2.0)).to_dict()
    with pytest.raises(UserError, match="floats, which storage uint8 would degrade"):
        Preprocessing((8, 8), 1, units=Units("float"))
    for words, sentence in (
        ({"pixels": "int8"}, "type of pixels 'int8'"),
        ({"pixels": "uint8", "gain": 2}, "'gain'"),
        ({"pixels": "float", "brightest": [1]}, "wrong kind"),
        ({"pixels": "float", "darkest": [1]}, "wrong kind"),
        ({"white": 3}, "wrong kind"),
        ([], "wrong kind"),
    ):
        with pytest.raises(UserError, match=sentence):
            Preprocessing.from_dict({**Preprocessing((8, 8), 1).to_dict(), "dtype": "float16", "units": words})


def test_preprocessing_is_alike_for_one_picture_in_stated_units() -> None:
    settings = Preprocessing((6, 6), 3, 0.9, units=Units("uint8"))
    np.testing.assert_array_equal(settings.apply(SIXTEEN, white=65535), settings.apply(EIGHT))
    deep = Preprocessing((6, 6), 3, 0.9, dtype="float16", units=Units("uint16", 4095))
    np.testing.assert_allclose(deep.apply(EIGHT), deep.apply(TWELVE), atol=2e-3)
    floats = Preprocessing((6, 6), 3, dtype="float16", units=Units("float", brightest=(100, 255)))
    floats.check_brightness([FLOATS, FLOATS / 255, FLOATS].__getitem__, 3)  # one may differ
    with pytest.raises(UserError, match="in another unit"):
        floats.check_brightness([FLOATS / 255, FLOATS, FLOATS / 255, FLOATS[:0]].__getitem__, 4)


def test_kinds() -> None:
    for dtype, kind in ((np.bool_, "uint8"), (np.float64, "float"), (np.float16, "float"), (np.uint16, "uint16")):
        assert kind_of_pixels(np.dtype(dtype)) == kind
