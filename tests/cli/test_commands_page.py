"""`docs/reference/commands.md` is what the commands understand."""

from __future__ import annotations

import importlib
from pathlib import Path

from astroformer.cli import commands_page
from astroformer.cli.main import COMMANDS
from astroformer.cli.options import options_of

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "commands.md"


def test_the_page_is_what_the_commands_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == commands_page.page(), (
        "make it anew: python -m astroformer.cli.commands_page > docs/reference/commands.md"
    )


def test_every_option_of_every_command_has_one_row() -> None:
    sections = dict(part.split("\n", 1) for part in commands_page.page().split("\n## astroformer ")[1:])
    assert list(sections) == list(COMMANDS)
    for name, text in sections.items():
        kind = getattr(importlib.import_module(f"astroformer.cli.{name}"), name.capitalize())
        pages = getattr(kind, "pages", None)
        for option in options_of(kind):
            if option.meaning is False or (pages and not pages.groups and option.name not in pages.usual):
                continue  # `--no-…` stands with what it undoes; show names the settings of train
            shown = option.name if option.place else f"--{option.name}"
            assert text.count(f"\n| `{shown}` |") == 1, f"{name} {shown}"
