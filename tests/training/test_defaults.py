"""That the table of rules, the code that decides, help and docs/defaults.md say the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import astroformer
from astroformer.images.labelled import LabelledImages
from astroformer.images.sources import open_source
from astroformer.network import VARIANTS
from astroformer.training import defaults_page, rules
from astroformer.training.batches import smaller_size
from astroformer.training.defaults import RULES
from astroformer.training.recipe import Recipe, make_recipe
from astroformer.training.rules import decide

DOCS = Path(__file__).resolve().parents[2] / "docs"
PACKAGE = Path(astroformer.__file__).parent
# Settings of a recipe that may be left open and that no rule decides: they have a meaning of their own then.
OPEN_WITHOUT_RULE = {"epochs", "folds", "split_seed", "clip", "white"}
# Settings that are never open. The table has them since users ask for them.
FIXED = {"progressive", "augment"}


def field(setting: str) -> Any:
    """The field of a setting by its name with dots."""
    model: Any = Recipe
    *groups, name = setting.split(".")
    for group in groups:
        model = model.model_fields[group].annotation
    return model.model_fields[name]


def many_images(n: int, side: int) -> LabelledImages:
    one = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    return LabelledImages("test", ["x"] * n, np.zeros(n, int), ("a", "b"), lambda i: one)


def test_the_page_is_what_the_table_says() -> None:
    assert (DOCS / "defaults.md").read_text(encoding="utf-8") == defaults_page.page(), (
        "make it anew: python -m astroformer.training.defaults_page > docs/defaults.md"
    )


def test_every_setting_that_may_be_left_open_has_a_rule() -> None:
    decided = {setting for rule in RULES.values() for setting in rule.settings}
    is_open = {name for name, of in Recipe.model_fields.items() if of.default in (None, "auto")}
    assert is_open - OPEN_WITHOUT_RULE == {setting for setting in decided if "." not in setting} - FIXED


def test_help_of_a_setting_says_what_its_rule_says() -> None:
    for rule in RULES.values():
        for setting in rule.settings:
            if setting not in FIXED and not setting.startswith("augment."):  # which lie under the rules
                assert field(setting).description.endswith(f": {rule.short}") or setting == "batch_size", setting
    assert f"none: {RULES['batch size'].short}; auto:" in field("batch_size").description


def test_every_rule_has_its_code() -> None:
    here = {name for name, rule in RULES.items() if rule.where == "training/rules.py"}
    assert rules._DECIDERS.keys() == here
    for rule in RULES.values():
        assert (PACKAGE / rule.where.partition(",")[0]).is_file(), rule.where


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"augment": "photo"},
        {"model": "astroformer_pico", "network": {"layout": "CCCT"}},
        {"epochs": 3, "image_size": 40, "network": {"views": 8}},
    ],
)
def test_a_rule_decides_its_own_settings_alone(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, set[str]] = {}

    def watched(name: str) -> Any:
        function = rules._DECIDERS[name]

        def decider(recipe: Recipe, facts: rules.Facts) -> rules.Decision:
            decision = function(recipe, facts)
            seen[name] = {*decision.settings, *(f"network.{word}" for word in decision.network)}
            return decision

        return decider

    monkeypatch.setattr(rules, "_DECIDERS", {name: watched(name) for name in rules._DECIDERS})
    decide(make_recipe({"device": "cpu", **settings}), open_source("mock-galaxies:20x40"))
    assert seen.keys() == rules._DECIDERS.keys()
    for name, decided in seen.items():
        assert decided <= set(RULES[name].settings), name
    assert seen["channels"] == {"channels"}


def test_the_figures_of_the_page_are_those_of_the_code() -> None:
    def decided(n: int, side: int, **settings: Any) -> Recipe:
        return decide(make_recipe({"device": "cpu", "speed": "plain", "crop": 1, **settings}), many_images(n, side))[0]

    sizes = dict(RULES["image size"].figures)
    assert sizes["at most, on a CPU"] == (
        f"{decided(9, 500, network={'group': 'none'}).image_size}; {decided(9, 500).image_size} with tied weights"
    )
    assert sizes["at least"] == str(decided(9, 20).image_size)
    batches = RULES["batch size"].figures
    (_, (small, least), _, (large, most)) = batches
    for words, expected in ((small, least), (large, most)):
        number = int(re.sub(r"[^0-9]", "", words))
        assert decided(number, 32).batch_size == int(expected)
    assert decided(int(re.sub(r"[^0-9]", "", large)) - 64, 32).batch == int(most) - 1
    for (_, rate), optimizer in zip(RULES["learning rate"].figures[1:], ("adamw", "sgd", "muon"), strict=True):
        assert decided(9, 32, optimizer=optimizer, batch_size=64).learning_rate == float(rate)
    assert f"adamw {decided(9, 32, batch_size=16).learning_rate:g} for" in RULES["learning rate"].short
    # For a network whose weights are free: 75 % of each side.
    assert smaller_size((64, 64), VARIANTS["astroformer_atto"]) == (48, 48)
    assert "75 % of each side" in RULES["smaller first images"].text
    assert f"{Recipe().progressive:.0%}".replace("%", " %") in RULES["smaller first images"].text


def test_sentences_have_the_values_that_they_name() -> None:
    """Those of rules that are decided elsewhere: `decide` fills in the others, which its tests read."""
    memory = RULES["parts of a batch"].said.format(batch=64, parts=2, taken=1.25, free=2.0, advice="; more")
    assert memory == "batches of 64 in 2 parts, about 1.2 GiB of the 2.0 free; more"
    on = RULES["policy and mixing"].said.format(what="trivialaugment", epochs=180.4)
    assert on == "trivialaugment: on, since the run has some 180 epochs"


def test_links_of_the_page_lead_somewhere() -> None:
    page = defaults_page.page()
    links = re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", page)
    assert links
    for file, anchor in links:
        if file.startswith("https://"):
            continue
        target = DOCS / (file or "defaults.md")
        assert target.is_file(), file
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.M)
            anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, f"{file}#{anchor}"


def test_no_paragraph_of_the_page_has_more_than_two_numbers() -> None:
    """More belong into a table."""
    for paragraph in re.split(r"\n\n|\n(?=- )", defaults_page.page()):
        if not paragraph.startswith(("|", "#")):
            words = re.sub(r"\[[^]]*\]\([^)]*\)|`[^`]*`", "", paragraph)  # without links and code
            assert len(re.findall(r"(?<![\w.,])\d[\d.,]*", words)) <= 2, paragraph


def test_the_lines_of_the_page_can_be_read_as_they_are() -> None:
    assert all(len(line) <= 120 or line.startswith("|") for line in defaults_page.page().splitlines())
