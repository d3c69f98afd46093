"""The words of a command line: read by what the command understands, and built into the command.

What is wrong is said here in one sentence, by the types of the command's fields.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from astroformer.cli.help import Pages, described, help_of, page_named
from astroformer.cli.options import Option, fields_of, is_nested, options_of
from astroformer.errors import UserError, unknown_name
from astroformer.other_names import instead

Command = TypeVar("Command")


def given_options(words: list[str]) -> set[str]:
    """The names of the options among `words`, without dashes; of a nested one (`--augment.rotation`) the first part."""
    return {re.split("[=.]", word[2:])[0].replace("_", "-") for word in words if word.startswith("--")}


def parse(kind: type[Command], words: list[str], name: str, default: Command | None = None) -> Command | None:
    """The command of type `kind` (a dataclass) that `words` spell; None when they ask for help, which is printed.

    Args:
        kind: what to build; see `astroformer.cli.options` for what its fields say.
        words: what the user typed after the command's name.
        name: the command's name, for help and messages.
        default: the values of options that are not given.

    Raises:
        UserError: an unknown option, a value of the wrong kind or out of its range, or something missing.
    """
    pages: Pages | None = getattr(kind, "pages", None)
    values = _read(words, options_of(kind), name, pages)
    if isinstance(values, str):
        print(help_of(kind, name, default, pages, values), end="")
        return None
    try:
        command: Command = _built(kind, values, default)
    except ValidationError as error:
        from astroformer.training.recipe import explain

        raise UserError(explain(error)) from None
    return command


def _read(
    words: list[str], options: list[Option], command: str, pages: Pages | None
) -> dict[tuple[str, ...], Any] | str:
    """The values that the words give, by the fields that they are of; the page of help when they ask for one."""
    see = f"See `astroformer {command} --help`."
    known = {f"--{option.name}": option for option in options if not option.place}
    values: dict[tuple[str, ...], Any] = {}
    at_places: list[str] = []
    i = 0
    while i < len(words):
        word, i = words[i], i + 1
        if word == "--":  # what follows is no option, whatever it looks like
            at_places += words[i:]
            break
        if not _looks_like_option(word):
            at_places.append(word)
            continue
        spelled, equals, attached = word.partition("=")
        if spelled in ("-h", "--help"):
            return page_named(attached or next(iter(words[i:]), ""), command, pages, asked=bool(equals))
        option = known.get(spelled.replace("_", "-"))
        if option is None:
            raise _unknown_option(spelled, known, command, pages)
        if option.meaning is not None:
            if equals:
                raise UserError(f"{spelled} takes no value; leave out '={attached}'. {see}")
            values[option.path] = option.meaning
            continue
        following = words[i:]
        end = next((n for n, later in enumerate(following) if later == "--" or _looks_like_option(later)), None)
        offered = ([attached] if equals else []) + following[:end]
        if not offered or offered[0] == "":
            raise UserError(f"--{option.name} needs a value. {see}")
        try:
            taken, values[option.path] = option.take(offered)
        except UserError as error:
            raise UserError(f"{error} {see}") from None
        i += taken - bool(equals)
    places = [option for option in options if option.place]
    if len(at_places) > len(places) and not (places and places[-1].repeats):
        raise UserError(f"can't make sense of '{' '.join(at_places[len(places) :])}' here. {see}")
    for n, option in enumerate(places[: len(at_places)]):
        _, values[option.path] = option.take(at_places[n:] if option.repeats else at_places[n : n + 1])
    if missing := [option for option in options if option.required and option.path not in values]:
        raise UserError(f"missing {'; '.join(described(option) for option in missing)}. {see}")
    return values


def _unknown_option(spelled: str, known: Collection[str], command: str, pages: Pages | None) -> UserError:
    """The error for an option that there is not: with ours where other tools call it so, else with the nearest name."""
    words = [word.removeprefix("--") for word in known]
    every = "" if pages is None else " all"
    see = f"`astroformer {command} --help{every}` lists them."
    if (said := instead(spelled.lstrip("-"), words, lambda word: f"--{word}")) is not None:
        return UserError(f"there is no option '{spelled}'. {said} {see}")
    return unknown_name("option", spelled, known, see=see, near=0.8)


def _looks_like_option(word: str) -> bool:
    return re.match(r"--?[A-Za-z]", word) is not None  # -1 is a number, - a file name


def _built(
    kind: type[Any],
    values: dict[tuple[str, ...], Any],
    default: Any,
    above: tuple[str, ...] = (),
    *,
    checked: bool = True,
) -> Any:
    """An instance of a dataclass or a model of the values, with the default's where there are none.

    A model inside a model is a dictionary at first, and `checked` with it, so that an error names the whole way to the
    setting.
    """
    model = issubclass(kind, BaseModel)
    inside = {}
    for field in fields_of(kind, default):
        path = (*above, field.name)
        if is_nested(field.type):
            inside[field.name] = _built(field.type, values, field.default, path, checked=not model)
        else:
            inside[field.name] = values.get(path, field.default)
    if not model:
        return kind(**inside)
    return kind.model_validate(inside) if checked else inside
