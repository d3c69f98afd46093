from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from astroformer.errors import UserError
from astroformer.images.labelled import LabelledImages
from astroformer.images.reading import UnreadableImage
from astroformer.images.sources import open_source
from astroformer.training import rules
from astroformer.training.recipe import NetworkSettings, Recipe, make_recipe
from astroformer.training.rules import decide

CPU = Recipe(device="cpu")
Array = np.ndarray[Any, Any]


def images_of(arrays: list[Array]) -> LabelledImages:
    labels = np.arange(len(arrays)) % 2
    return LabelledImages("test", [str(i) for i in range(len(arrays))], labels, ("a", "b"), lambda i: arrays[i])


def noise(n: int, height: int, width: int, channels: int, dtype: Any = np.uint8, seed: int = 0) -> list[Array]:
    pixels = np.random.default_rng(seed).integers(0, 256, (n, height, width, channels))
    return list(pixels.astype(dtype))


def test_everything_open_is_decided_and_nothing_given_is_changed() -> None:
    recipe, said = decide(CPU, images_of(noise(10, 40, 40, 3)))
    for name in ("channels", "storage", "crop", "image_size", "batch_size", "learning_rate", "minutes"):
        assert getattr(recipe, name) is not None
    assert recipe.network.symmetry is not None
    assert recipe.model == "astroformer_atto"
    assert recipe.speed != "auto"
    assert recipe.precision in ("no", "bf16")
    assert any("10 minutes" in sentence for sentence in said)
    given = make_recipe(
        {
            "device": "cpu",
            "channels": 3,
            "pixels": "uint8",
            "missing": "zero",
            "scaling": "linear",
            "storage": "float16",
            "crop": 0.5,
            "image_size": 32,
            "learning_rate": 0.3,
            "batch_size": 24,
            "label_smoothing": 0.3,
            "epochs": 2,
            "model": "astroformer_pico",
            "precision": "bf16",
            "speed": "plain",
            "network": {"symmetry": "shift"},
        }
    )
    assert decide(given, images_of(noise(10, 40, 40, 1))) == (given, [])


def test_labels_are_smoothed_and_votes_are_not() -> None:
    images = images_of(noise(10, 40, 40, 1))
    voted = replace(images, votes_NK=np.full((len(images), 2), 0.5))
    assert decide(Recipe(device="cpu"), images)[0].label_smoothing == 0.1
    recipe, said = decide(Recipe(device="cpu"), voted)
    assert recipe.label_smoothing == 0
    assert any("shares of votes, without label smoothing (--label-smoothing 0.1" in sentence for sentence in said)
    recipe, said = decide(Recipe(device="cpu", label_smoothing=0.2), voted)
    assert recipe.label_smoothing == 0.2
    assert not any("label smoothing" in sentence for sentence in said)


@pytest.mark.parametrize(("channels", "expected"), [([1], 1), ([3], 3), ([1, 3], 3), ([4], 4), ([2], 2), ([5], 5)])
def test_channels(channels: list[int], expected: int) -> None:
    arrays = [image for c in channels for image in noise(4, 32, 32, c)]
    recipe, said = decide(CPU, images_of(arrays))
    assert recipe.channels == expected
    assert (f"{expected} bands an image, all kept" in said) == (expected not in (1, 3))


def test_colour_images_that_are_all_grey_are_one_channel() -> None:
    grey = [np.repeat(image, 3, axis=2) for image in noise(6, 32, 32, 1)]
    assert decide(CPU, images_of(grey))[0].channels == 1
    one_coloured = [*grey, noise(1, 32, 32, 3)[0]]
    assert decide(CPU, images_of(one_coloured))[0].channels == 3


def test_channels_that_differ_need_a_word() -> None:
    with pytest.raises(UserError, match=r"\[3, 5\].*set channels"):
        decide(CPU, images_of(noise(2, 32, 32, 3) + noise(2, 32, 32, 5)))


@pytest.mark.parametrize(("dtype", "expected"), [(np.uint8, "uint8"), (np.uint16, "float16"), (np.float32, "float16")])
def test_storage(dtype: Any, expected: str) -> None:
    assert decide(CPU, images_of(noise(6, 32, 32, 1, dtype)))[0].storage == expected


def test_images_of_several_types_need_a_word() -> None:
    eight, sixteen, floats = (noise(3, 32, 32, 1, dtype) for dtype in (np.uint8, np.uint16, np.float32))
    with pytest.raises(UserError, match=r"uint16, some of uint8.*--white.*--pixels uint16"):
        decide(CPU, images_of(eight + sixteen))
    with pytest.raises(UserError, match=r"float, some of uint8(?!.*--white).*--pixels float"):
        decide(CPU, images_of(eight + floats))
    for recipe, pixels, storage in (
        (Recipe(device="cpu", white=4095), "uint16", "float16"),
        (Recipe(device="cpu", pixels="uint8"), "uint8", "uint8"),
        (Recipe(device="cpu", pixels="uint16"), "uint16", "float16"),
    ):
        decided, _ = decide(recipe, images_of(eight + sixteen))
        assert (decided.pixels, decided.storage) == (pixels, storage)
    with pytest.raises(UserError, match=r"pixels are float, .* those of the images are uint8"):
        decide(Recipe(device="cpu", pixels="float"), images_of(eight))
    _, said = decide(CPU, images_of(sixteen))
    assert any("white not stated (--white N" in sentence for sentence in said)
    assert not any("white" in sentence for sentence in decide(Recipe(device="cpu", white=4095), images_of(sixteen))[1])


def test_crop_is_said() -> None:
    recipe, said = decide(CPU, open_source("mock-galaxies:60x64"))
    assert recipe.crop is not None
    assert recipe.crop < 1
    assert any(f"{recipe.crop:.0%}" in sentence for sentence in said)


@pytest.mark.parametrize(
    ("shape", "crop", "expected"),
    [
        ((28, 28), 1.0, 32),  # small images are enlarged to the smallest size
        ((40, 40), 1.0, 40),
        ((47, 47), 1.0, 40),  # steps of 8
        ((100, 50), 1.0, 48),  # the shorter side
        ((424, 424), 1.0, 64),  # at most 64 on a CPU
        ((100, 100), 0.5, 48),  # what the crop keeps
    ],
)
def test_image_size_on_a_cpu(shape: tuple[int, int], crop: float, expected: int) -> None:
    recipe = make_recipe({"device": "cpu", "crop": crop, "network": {"group": "none"}})
    assert decide(recipe, images_of(noise(9, *shape, 1)))[0].image_size == expected


def test_a_gpu_gets_a_larger_network_and_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "pick_device", lambda name: "cuda")
    for has_bf16, precision in ((True, "bf16"), (False, "no")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has_bf16=has_bf16: has_bf16)
        recipe = decide(make_recipe({"crop": 1.0, "augment": "none"}), images_of(noise(9, 200, 200, 1)))[0]
        assert (recipe.image_size, recipe.model, recipe.precision) == (128, "astroformer_nano", precision)
        assert recipe.network.strides is None


def test_on_a_gpu_small_images_keep_fine_maps_and_small_steps_are_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)

    def made(side: int, device: str = "cuda", **settings: Any) -> tuple[Any, str]:
        monkeypatch.setattr(rules, "pick_device", lambda name: device)
        recipe = make_recipe({"crop": 1.0, "augment": "photo", "speed": "plain", **settings})
        decided = decide(recipe, images_of(noise(9, side, side, 3)))[0]
        return decided.network.strides, decided.precision

    fine = (1, 2, 2, 2, 1)
    assert made(28) == made(32) == made(47) == (fine, "no")
    assert made(48) == (None, "no")
    assert made(200) == (None, "bf16")
    assert made(200, image_size=32) == (fine, "no")
    assert made(32, batch_size=128) == (fine, "bf16")
    assert made(32, precision="bf16", network={"strides": [2, 2, 2, 2, 2]}) == ((2, 2, 2, 2, 2), "bf16")
    assert made(32, model="astroformer_nano") == (None, "bf16")
    assert made(32, device="cpu", epochs=9_999)[0] is None


@pytest.mark.parametrize(
    ("n", "minutes", "late"),
    [
        (600, 10, (1, 2, 2, 2, 1)),
        (600, None, (1, 2, 2, 2, 1)),
        (601, 10, (2, 1, 2, 2, 1)),
        (600, 5, (2, 1, 2, 2, 1)),
        (601, 5, None),
        (25, 0.2, None),
    ],
)
def test_on_a_cpu_small_images_are_halved_late_in_long_runs(
    n: int, minutes: float | None, late: tuple[int, ...] | None
) -> None:
    def strides(side: int, **settings: Any) -> Any:
        one = noise(1, side, side, 3)[0]
        many = LabelledImages("test", ["x"] * n, np.zeros(n, int), ("a", "b"), lambda i: one)
        settings = {"device": "cpu", "minutes": minutes, "speed": "plain", **settings}
        return decide(make_recipe(settings), many)[0].network.strides

    assert strides(32) == late
    assert strides(48) is None
    assert strides(32, network={"strides": [2, 2, 2, 1, 1]}) == (2, 2, 2, 1, 1)
    assert strides(32, model="astroformer_atto") is None


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_learning_rate_follows_the_optimizer_and_the_batch(optimizer: Any) -> None:
    at_64 = {"adamw": 4e-3, "sgd": 0.05, "muon": 2e-3}[optimizer]
    for batch_size, share in ((16, 0.5), (64, 1.0), (2048, 1.0), (None, 0.5)):
        settings = Recipe(device="cpu", optimizer=optimizer, batch_size=batch_size)
        recipe = decide(settings, images_of(noise(4, 32, 32, 1)))[0]
        assert recipe.learning_rate == at_64 * share


@pytest.mark.parametrize(("images", "expected"), [(4, 16), (1_000, 16), (2_048, 32), (4_096, 64), (50_000, 64)])
def test_batches_grow_with_the_number_of_images(images: int, expected: int) -> None:
    one = noise(1, 32, 32, 1)[0]
    many = LabelledImages("test", ["x"] * images, np.zeros(images, int), ("a", "b"), lambda i: one)
    assert decide(CPU, many)[0].batch_size == expected
    assert decide(make_recipe({"device": "cpu", "accumulate": 40}), many)[0].batch == max(40, expected)
    assert decide(make_recipe({"device": "cpu", "batch_size": 5}), many)[0].batch == 5


def test_few_images_are_left_to_convolutions_unless_a_network_is_asked_for() -> None:
    one = noise(1, 32, 32, 1)[0]

    def decided(n: int, **settings: Any) -> tuple[NetworkSettings, list[str]]:
        many = LabelledImages("test", ["x"] * n, np.zeros(n, int), ("a", "b"), lambda i: one)
        recipe, said = decide(make_recipe({"device": "cpu", **settings}), many)
        return recipe.network, said

    def network(n: int, **settings: Any) -> tuple[str | None, str | None]:
        made, _ = decided(n, **settings)
        return made.layout, made.channel_attention

    assert network(5_000) == network(1_001) == ("CCCC", "none")
    turning: dict[str, Any] = {"network": {"group": "d4"}, "augment": "photo"}
    for n, settings in ((200, {}), (1_000, {}), (1_000, turning)):  # attention pays where its heads turn
        made, said = decided(n, **settings)
        assert (made.layout, made.transformer, made.head_width, made.group) == ("CCCT", "hybrid", 8, "d4")
        assert any("convolutions in all stages, attention after them" in sentence for sentence in said)
    for n, settings in ((199, {}), (999, {"augment": "photo"}), (999, {"network": {"group": "none"}})):
        made, said = decided(n, **settings)
        assert (made.layout, made.transformer, made.head_width) == ("CCCC", None, None)
        assert any("convolutions in all stages, without" in sentence for sentence in said)
    assert network(5_001) == (None, None)  # the variant's own: C-C-C-T with squeeze and excitation
    assert network(9, model="astroformer_atto") == (None, None)
    assert network(9, network={"layout": "CCTT"}) == ("CCTT", None)
    assert network(9, network={"channel_attention": "cbam"}) == (None, "cbam")
    assert network(9, network={"relative_bias": False}) == (None, None)
    assert network(9, network={"transformer": "hybrid"}) == (None, None)  # else there would be no attention
    assert network(9, network={"head_width": 8}) == (None, None)
    assert network(9, network={"stochastic_depth": 0.2}) == ("CCCC", "none")


@pytest.mark.parametrize(
    ("n", "settings", "group"),
    [
        (1_000, {}, "d4"),
        (1_001, {}, None),  # the variant's own: none
        (9, {"augment": "photo"}, "mirror"),
        (9, {"augment": "none"}, None),
        (9, {"augment": {"flip_horizontal": 0, "flip_vertical": 0}}, None),  # galaxies that have a handedness
        (9, {"augment": {"quarter_turns": False}}, "mirror"),
        (9, {"network": {"group": "none"}}, "none"),
        (9, {"network": {"group": "mirror"}}, "mirror"),
        (9, {"network": {"equivariance": "frame"}}, "d4"),
        (9, {"network": {"equivariance": "anchor"}}, None),  # whose phases don't turn
        (9, {"network": {"widths": [20, 20, 20, 20]}}, None),
        (9, {"network": {"layout": "CCCT"}}, None),
        (9, {"model": "astroformer_atto"}, None),
    ],
)
def test_weights_are_tied_where_images_are_very_few(n: int, settings: Any, group: str | None) -> None:
    one = noise(1, 32, 32, 1)[0]
    many = LabelledImages("test", ["x"] * n, np.zeros(n, int), ("a", "b"), lambda i: one)
    recipe, said = decide(make_recipe({"device": "cpu", **settings}), many)
    assert recipe.network.group == group
    asked_for = "group" in settings.get("network", {})
    assert any("weights: tied" in sentence for sentence in said) == (group is not None and not asked_for)


@pytest.mark.parametrize(
    ("side", "settings", "size", "symmetry"),
    [
        (65, {}, 57, "shift"),  # the network answers alike of all views
        (34, {}, 33, "shift"),
        (40, {}, 41, "shift"),
        (40, {"augment": "photo"}, 33, "shift"),
        (200, {"crop": 0.5}, 57, "shift"),
        (200, {"image_size": 64}, 64, "shift+d4"),
        (200, {"image_size": 65}, 65, "shift"),
        (200, {"augment": "photo"}, 57, "shift"),
        (32, {"augment": "photo"}, 32, "shift+mirror"),
        (200, {"network": {"group": "mirror"}}, 57, "shift+d4"),  # more is the same than the network knows
        (200, {"network": {"group": "d4"}, "augment": "photo"}, 57, "shift"),
        (200, {"network": {"group": "none"}}, 64, "shift+d4"),
        (200, {"network": {"views": 8}}, 57, "shift+d4"),
        (200, {"network": {"equivariance": "frame"}}, 57, "shift+d4"),  # which may find another place when turned
        (200, {"network": {"equivariance": "centre"}}, 57, "shift+d4"),
        (200, {"network": {"symmetry": "shift+d4"}}, 57, "shift+d4"),
    ],
)
def test_a_network_that_turns_gets_sizes_at_which_nothing_need_be_averaged(
    side: int, settings: Any, size: int, symmetry: str
) -> None:
    recipe, said = decide(make_recipe({"device": "cpu", "crop": 1.0, **settings}), images_of(noise(9, side, side, 1)))
    assert (recipe.image_size, recipe.network.symmetry) == (size, symmetry)
    chosen = symmetry != "shift" and "symmetry" not in settings.get("network", {})
    assert any(sentence.startswith("answers: averaged") for sentence in said) == chosen


@pytest.mark.parametrize(
    ("settings", "expected", "said"),
    [
        ({}, "shift+d4", "averaged over 4 turned and mirrored views"),
        ({"network": {"views": 8}}, "shift+d4", "averaged over 8 turned and mirrored views"),
        ({"network": {"views": 1}}, "shift+d4", "of one view, which the image chooses"),
        ({"augment": "photo"}, "shift+mirror", "averaged over an image and its mirror image"),
        ({"augment": "none"}, "shift", None),
        ({"augment": {"flip_horizontal": 0, "flip_vertical": 0}}, "shift", None),  # galaxies that have a handedness
        ({"augment": {"flip_horizontal": 0}}, "shift+d4", "averaged"),  # a flip and quarter turns make the other
        ({"augment": {"quarter_turns": False}, "image_size": [32, 48]}, "shift+mirror", "averaged"),
        ({"augment": {"quarter_turns": False, "flip_horizontal": 0}}, "shift", None),
        ({"network": {"symmetry": "shift"}}, "shift", None),
        ({"network": {"symmetry": "shift+mirror"}}, "shift+mirror", None),
        ({"network": {"symmetry": "shift+d4"}, "augment": "none"}, "shift+d4", None),
    ],
)
def test_answers_have_the_symmetry_of_the_augmentation(settings: Any, expected: str, said: str | None) -> None:
    settings = {**settings, "network": {"group": "none", **settings.get("network", {})}}
    recipe, sentences = decide(make_recipe({"device": "cpu", **settings}), images_of(noise(9, 40, 40, 3)))
    assert recipe.network.symmetry == expected
    spoken = [sentence for sentence in sentences if sentence.startswith("answers: ")]
    assert len(spoken) == (said is not None)
    assert all(said in sentence for sentence in spoken)


def test_an_equivariance_that_is_no_longer_trained_is_refused_before_the_work() -> None:
    recipe = make_recipe({"network": {"equivariance": "input"}})  # as the run folders of before have it
    with pytest.raises(UserError, match=r"equivariance is 'input', which is no longer trained.*choose anchor"):
        decide(recipe, open_source("mock-galaxies:20x32"))


@pytest.mark.parametrize("settings", [{"augment": "photo"}, {"network": {"symmetry": "shift"}}])
def test_a_number_of_views_is_refused_where_none_are_averaged(settings: Any) -> None:
    recipe = make_recipe({"device": "cpu", **settings})
    recipe = recipe.model_copy(update={"network": recipe.network.model_copy(update={"views": 8})})
    with pytest.raises(UserError, match=r"network.views is 8, but with symmetry 'shift.*set network.symmetry to shift"):
        decide(recipe, images_of(noise(9, 40, 40, 3)))


def test_learning_rate_falls_with_the_width_that_is_asked_for() -> None:
    wide = {"network": {"widths": [64, 96, 160, 192]}}
    settings = make_recipe({"model": "astroformer_atto", "device": "cpu", "batch_size": 64, **wide})
    recipe, _ = decide(settings, images_of(noise(4, 32, 32, 1)))
    assert recipe.learning_rate == 2e-3  # of atto 4e-3, at half of the width


def test_labels_play_no_part() -> None:
    images = open_source("mock-galaxies:60x48")
    assert images.labels is not None
    decided = decide(CPU, images)
    shuffled = np.random.default_rng(0).permutation(images.labels)
    assert decide(CPU, replace(images, labels=shuffled)) == decided
    assert decide(CPU, replace(images, labels=None, classes=())) == decided


def test_unreadable_images_are_passed_over_until_all_are() -> None:
    good = noise(10, 32, 32, 1)

    def read(i: int) -> Array:
        if i % 2:
            raise UnreadableImage(str(i), "broken")
        return good[i]

    images = replace(images_of(good), reader=read)
    assert decide(CPU, images)[0].channels == 1
    with pytest.raises(UserError, match=r"none of 3 images of 'test' can be read. The first.*broken"):
        decide(CPU, images.subset([1, 3, 5]))


def test_what_is_decided_is_checked_against_what_is_given() -> None:
    with pytest.raises(UserError, match="quarter_turns"):
        decide(Recipe(device="cpu").model_copy(update={"image_size": (64, 32)}), images_of(noise(4, 40, 40, 1)))


@pytest.mark.parametrize(
    ("reason", "has_it", "settings", "decided"),
    [
        (None, True, {}, ("fused", "bf16")),
        (None, False, {}, ("fused", "no")),
        (None, True, {"precision": "no"}, ("fused", "no")),
        (None, True, {"speed": "plain"}, ("plain", "no")),
        ("there is no compiler", True, {}, ("plain", "no")),
        (None, True, {"network": {"channel_attention": "cbam"}}, ("plain", "no")),
        ("there is no compiler", True, {"precision": "bf16"}, ("plain", "bf16")),
    ],
)
def test_speed_follows_from_what_the_machine_can(
    monkeypatch: pytest.MonkeyPatch,
    reason: str | None,
    has_it: bool,
    settings: dict[str, Any],
    decided: tuple[str, str],
) -> None:
    monkeypatch.setattr(rules, "why_not_fused", lambda: reason)
    monkeypatch.setattr(rules, "bfloat16_instructions", lambda: "AVX-512 bf16" if has_it else None)
    recipe, said = decide(make_recipe({"device": "cpu", **settings}), images_of(noise(10, 40, 40, 3)))
    assert (recipe.speed, recipe.precision) == decided
    line = next(sentence for sentence in said if sentence.startswith("speed: "))
    assert decided[0] in line
    assert ("bfloat16" if decided[1] == "bf16" else "float32") in line
    assert reason is None or reason in line
    if reason is None and not settings:
        has = "AVX-512 bf16" if has_it else "no instructions"
        assert line.endswith(f"(this CPU has {has} for bfloat16 matrices)")


def test_fused_where_it_cannot_be_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "why_not_fused", lambda: "there is no compiler")
    with pytest.raises(UserError, match="speed can't be fused here: there is no compiler"):
        decide(make_recipe({"device": "cpu", "speed": "fused"}), images_of(noise(10, 40, 40, 3)))
