from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

import astroformer
from astroformer.augmentation.settings import PRESETS, Augment
from astroformer.errors import UserError
from astroformer.training.recipe import BUILT_IN, NetworkSettings, Recipe, as_recipe, load_recipe, make_recipe

# A value other than the default for every setting, so that nothing can be lost unnoticed.
CHANGED: dict[str, Any] = {
    "model": "astroformer_pico",
    "network": {
        "widths": [16, 32, 48, 64],
        "depths": [1, 1, 2, 1],
        "strides": [1, 2, 2, 2, 1],
        "views": 8,
        "layout": "CCTT",
        "channel_attention": "cbam",
        "relative_bias": False,
        "stochastic_depth": 0.2,
        "head_dropout": 0.1,
    },
    "image_size": [48, 64],
    "crop": 0.7,
    "fit": "pad",
    "channels": 1,
    "storage": "float16",
    "valid_fraction": 0.3,
    "split_seed": 7,
    "folds": 5,
    "fold": 2,
    "epochs": 7,
    "minutes": None,
    "optimizer": "muon",
    "pixels": "uint16",
    "white": 4095.0,
    "missing": "zero",
    "scaling": "zscale",
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
    "momentum": 0.8,
    "batch_size": 12,
    "accumulate": 3,
    "checkpointing": True,
    "warmup": 0.1,
    "final_learning_rate": 0.2,
    "clip": None,
    "progressive": 0.5,
    "label_smoothing": 0.0,
    "ema": 0.5,
    "class_weights": {"a": 2.0, "b": 0.5},
    "balanced_sampling": False,
    "augment": {"preset": "photo", "rotation": 5.0, "scale": [0.9, 1.1], "policy": "randaugment"},
    "seed": 3,
    "precision": "bf16",
    "speed": "compiled",
    "device": "cpu",
    "evaluations": 4,
    "checkpoint_seconds": 0.0,
    "track": "tensorboard",
}


def test_yaml_round_trip_keeps_every_setting(tmp_path: Path) -> None:
    recipe = make_recipe(CHANGED)
    text = recipe.to_yaml()
    (tmp_path / "recipe.yaml").write_text(text)
    assert load_recipe(tmp_path / "recipe.yaml") == recipe
    written = yaml.safe_load(text)
    kinds: list[tuple[dict[str, Any], type[BaseModel]]] = [
        (written, Recipe),
        (written["network"], NetworkSettings),
        (written["augment"], Augment),
    ]
    for part, kind in kinds:
        assert list(part) == list(kind.model_fields)


def test_every_setting_of_the_round_trip_differs_from_its_default() -> None:
    assert set(CHANGED) == set(Recipe.model_fields)
    same = {name for name in Recipe.model_fields if getattr(make_recipe(CHANGED), name) == getattr(Recipe(), name)}
    assert same == {"minutes", "balanced_sampling"}  # they exclude epochs and class_weights


def test_defaults_round_trip() -> None:
    assert make_recipe(yaml.safe_load(Recipe().to_yaml())) == Recipe()
    assert make_recipe({"minutes": 2, "balanced_sampling": True}) != Recipe()


def test_presets_and_words_that_change_them() -> None:
    assert make_recipe({"augment": "photo"}).augment == PRESETS["photo"]
    changed = make_recipe({"augment": {"preset": "photo", "rotation": 5}}).augment
    assert changed == PRESETS["photo"].model_copy(update={"rotation": 5.0})
    assert make_recipe({"augment": {"rotation": 5}}).augment == Augment(rotation=5)
    for name in BUILT_IN:
        assert load_recipe(name) == make_recipe(BUILT_IN[name])
    assert load_recipe("photo").augment == PRESETS["photo"]


def test_a_policy_and_mixing_that_are_asked_for_are_applied_however_short_the_run() -> None:
    for name in ("sky", "photo"):
        assert make_recipe({"augment": name}).augment.policy_epochs > 0
        assert make_recipe({"augment": {"preset": name, "policy": "trivialaugment"}}).augment.policy_epochs == 0
    asked = {"preset": "sky", "policy": "randaugment", "policy_epochs": 9}
    assert make_recipe({"augment": asked}).augment.policy_epochs == 9
    photo = PRESETS["photo"]
    assert photo.mix_epochs > 0
    # As README and docs/lab/experiments.md say, and as the rows of the benchmark are named by.
    assert (PRESETS["sky"].policy_epochs, photo.policy_epochs, photo.mix_epochs) == (175, 150, 150)
    for word in ("mixup", "cutmix", "mix_probability", "mix_switch"):
        asked = make_recipe({"augment": {"preset": "photo", word: 0.25}}).augment.model_dump()
        assert asked == {**photo.model_dump(), word: 0.25, "mix_epochs": 0}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epoch": 3}, ["unknown setting 'epoch'", "Did you mean 'epochs'"]),
        ({"network": {"layuot": "CCCC"}}, ["'network.layuot'", "Did you mean 'network.layout'"]),
        ({"augment": {"rotatoin": 5}}, ["'augment.rotatoin'", "Did you mean 'augment.rotation'"]),
        ({"augment": {"preset": "sky", "mixupp": 1}}, ["'augment.mixupp'", "Did you mean 'augment.mixup'"]),
        ({"augment": "skyy"}, ["'skyy'", "Did you mean 'sky'"]),
        ({"model": "astroformer_ato"}, ["'astroformer_ato'", "Did you mean 'astroformer_atto'"]),
        ({"optimizer": "adam"}, ["'optimizer'", "'adam'", "'adamw', 'sgd' or 'muon'"]),
        ({"image_size": "big"}, ["'image_size'", "'big'", "integer"]),
        ({"class_weights": "aut"}, ["'class_weights'", "'aut'", "'none' or 'auto'"]),
        ({"augment": {"scale": [2, 1]}}, ["'augment.scale'", "lower end 2.0 is above"]),
        ({"epochs": 0}, ["'epochs'", "0", "greater than or equal to 1"]),
        ({"learning_rate": float("inf")}, ["'learning_rate'", "finite"]),
        ({"epochs": 3, "minutes": 1}, ["epochs (3) and minutes (1)", "give one"]),
        ({"balanced_sampling": True, "class_weights": "auto"}, ["balanced_sampling and class_weights", "choose one"]),
        ({"class_weights": {"a": -1}}, ["-1", "at least 0"]),
        ({"image_size": 24}, ["24", "at least 32 px"]),
        ({"image_size": [64, 24]}, ["24", "at least 32 px"]),
        ({"image_size": [64, 32]}, ["64 × 32", "quarter_turns"]),
        ({"accumulate": 8, "batch_size": 4}, ["accumulate (8)", "batch_size (4)"]),
    ],
)
def test_unknown_and_impossible_settings_are_refused_in_a_sentence(settings: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        make_recipe(settings)
    message = str(caught.value)
    for word in words:
        assert word in message
    assert message.endswith(".")
    assert "\n" not in message
    assert "pydantic" not in message


def test_a_size_that_is_not_square_goes_without_quarter_turns() -> None:
    recipe = make_recipe({"image_size": [64, 32], "augment": {"quarter_turns": False}})
    assert recipe.image_size == (64, 32)


def test_length_is_epochs_or_minutes_or_open() -> None:
    assert (make_recipe({"epochs": 3}).epochs, make_recipe({"epochs": 3}).minutes) == (3, None)
    assert (make_recipe({"minutes": 0.5}).epochs, make_recipe({"minutes": 0.5}).minutes) == (None, 0.5)
    assert (Recipe().epochs, Recipe().minutes) == (None, None)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"epochs: [1", ["no valid YAML"]),
        (b"- epochs", ["holds a list", "setting: value"]),
        (b"\xff\xfe\x00", ["no valid YAML"]),
        (b"epochz: 3", ["Did you mean 'epochs'"]),
    ],
)
def test_bad_recipe_files(tmp_path: Path, content: bytes, words: list[str]) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_recipe(path)
    for word in words:
        assert word in str(caught.value)


def test_missing_recipe_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no recipe file"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="Did you mean 'photo'"):
        load_recipe("foto")
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert load_recipe(tmp_path / "empty.yaml") == Recipe()


def test_a_recipe_made_in_python_says_what_the_command_line_says() -> None:
    with pytest.raises(UserError, match=r"unknown setting 'minute'\. Did you mean 'minutes'\?"):
        Recipe(minute=3)  # type: ignore[call-arg]
    with pytest.raises(UserError, match=r"epochs \(1\) and minutes \(3\) exclude each other; give one\."):
        Recipe(epochs=1, minutes=3)
    with pytest.raises(UserError, match="setting 'epochs' can't be 'x'"):
        Recipe(epochs="x")


def test_help_describes_every_setting_in_80_columns() -> None:
    text = inspect.getdoc(Recipe) or ""
    said = " ".join(text.split())
    settings = Recipe.model_fields
    parts = {name: settings[name].default for name in ("network", "augment")}
    for prefix, fields in [("", settings), *((f"{name}.", type(part).model_fields) for name, part in parts.items())]:
        for name, setting in fields.items():
            if prefix + name not in parts:
                assert f" {prefix}{name} = " in said
                assert " ".join((setting.description or "").split()) in said
    assert "augment.policy = 'trivialaugment':" in said  # the default of a recipe, not of the class
    after = text[text.index("Settings, with") :].splitlines()
    assert max(map(len, after)) <= 80


def test_a_door_takes_a_recipe_its_name_or_its_path(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("epochs: 7\n", encoding="utf-8")
    recipe = Recipe(epochs=3)
    assert as_recipe(None) == Recipe()
    assert as_recipe(recipe) is recipe
    assert as_recipe("photo").augment == PRESETS["photo"]
    assert as_recipe(str(path)).epochs == as_recipe(path).epochs == 7
    with pytest.raises(UserError, match=r"unknown recipe 'foto'\. Did you mean 'photo'\?"):
        as_recipe("foto")
    with pytest.raises(UserError, match=r"recipe can't be \{'epochs': 3\}; give a Recipe, the path of a recipe file"):
        as_recipe({"epochs": 3})  # type: ignore[arg-type]
    with pytest.raises(UserError, match="train_many needs a list of recipes"):
        astroformer.train_many("mock-galaxies:20x32", recipe)  # type: ignore[arg-type]
    # All doors ask it.
    for door, words in ((astroformer.train, {}), (astroformer.train_ensemble, {"members": 2}), (astroformer.show, {})):
        with pytest.raises(UserError, match="unknown recipe 'foto'"):
            door("mock-galaxies:20x32", "foto", **words)  # type: ignore[operator]
    with pytest.raises(UserError, match="unknown recipe 'foto'"):
        astroformer.train_many("mock-galaxies:20x32", ["foto"])
