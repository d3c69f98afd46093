"""The page `docs/reference/commands.md`, made of what the commands understand (`options.py`). To write it anew:

python -m astroformer.cli.commands_page > docs/reference/commands.md
"""

from __future__ import annotations

import importlib
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any

from astroformer.cli.common import SOURCE_OPTIONS
from astroformer.cli.help import Pages
from astroformer.cli.main import COMMANDS
from astroformer.cli.options import Option, fields_of, options_of

_ABOUT = {SOURCE_OPTIONS: "[all forms](../your-images.md#forms)"}  # what another page says at length


def page() -> str:
    """The text of `docs/reference/commands.md`."""
    lines = [
        "# Commands",
        "",
        "Every command with its options. `astroformer COMMAND --help` prints the same, and this page is made of it.",
        "",
        "| command | what it does |",
        "|---|---|",
        *(f"| [`astroformer {name}`](#astroformer-{name}) | {what} |" for name, what in COMMANDS.items()),
    ]
    for name in COMMANDS:
        kind = getattr(importlib.import_module(f"astroformer.cli.{name}"), name.capitalize())
        lines += ["", *_command(name, kind)]
    return "\n".join(lines) + "\n"


def _command(name: str, kind: type[Any]) -> Iterator[str]:
    options = [option for option in options_of(kind) if option.meaning is not False]
    words = [(f"{option.name} ..." if option.repeats else option.name) for option in options if option.place]
    yield f"## astroformer {name}"
    yield ""
    for paragraph in (inspect.getdoc(kind) or "").split("\n\n"):
        yield from textwrap.wrap(paragraph, 120, break_long_words=False, break_on_hyphens=False)
        yield ""
    yield f"    astroformer {name} {' '.join(words)} [OPTIONS]"
    yield ""
    pages: Pages | None = getattr(kind, "pages", None)
    if pages is None:
        yield from _table(options, kind)
        return
    by_name = {option.name: option for option in options}
    first = [by_name[name] for name in pages.usual]
    yield from _table([option for option in options if option.place] + first, kind)
    if not pages.groups:
        yield ""
        yield "Every other setting of [`astroformer train`](#astroformer-train) is an option too."
    for group, (about, names) in pages.groups.items():
        yield from ("", f"### {group.capitalize()}", "")
        yield from textwrap.wrap(f"`astroformer {name} --help {group}`: {about}.", 120)
        yield ""
        yield from _table([option for option in options if _is_among(option, names) and option not in first], kind)


def _is_among(option: Option, names: tuple[str, ...]) -> bool:
    return any(option.name == name or (name.endswith(".") and option.name.startswith(name)) for name in names)


def _table(options: list[Option], kind: type[Any]) -> Iterator[str]:
    yield "| option | values | what it is | by default |"
    yield "|---|---|---|---|"
    for option in options:
        about = option.help
        for text, link in _ABOUT.items():
            about = about.replace(text, link)
        usual = "has to be given" if option.required else _shown(_default(option.path, kind))
        name = option.name if option.place else f"--{option.name}"
        yield f"| `{name}` | {'' if option.place else _values(option)} | {about} | {usual} |"


def _values(option: Option) -> str:
    """What may follow an option: words that it knows one by one, other values by their kind."""
    forms = option.metavar.split(" | ") if option.metavar else []
    known = [", ".join(f"`{word}`" for word in form[1:-1].split(",")) if form[0] == "{" else form for form in forms]
    return " or ".join(known)


def _default(path: tuple[str, ...], kind: type[Any]) -> Any:
    """The default of the field that a path of names leads to."""
    value: Any = None
    for name in path:
        field = next(field for field in fields_of(kind, value) if field.name == name)
        kind, value = field.type, field.default
    return value


def _shown(value: Any) -> str:
    """A default as a person types it; nothing where an option that is not given means nothing."""
    if value is None or value is False:
        return ""
    if value is True:
        return "yes; with `no-` before its name it is not"
    words = value if isinstance(value, tuple) else [value]
    return "`" + " ".join(f"{word:g}" if isinstance(word, float) else str(word) for word in words) + "`"


if __name__ == "__main__":
    print(page(), end="")
