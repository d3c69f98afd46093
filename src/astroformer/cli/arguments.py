"""The words of a command line: checked by name and kind here, then built into a command by tyro.

Every option and its type is known from the command's dataclass, so what is wrong is found before tyro sees it and told
in one sentence of ours. tyro builds the command, and prints the help.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import re
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro
from pydantic import BaseModel, ValidationError

from astroformer.errors import UserError, unknown_name
from astroformer.training.recipe import explain

Command = TypeVar("Command")
_NOTHING, _BOOLEANS = ("none", "null"), ("true", "false")


@dataclass(frozen=True)
class Needed:
    """Marks a word that has to be given: how help spells it, and what it is."""

    spelled: str
    what: str


class _Words(NamedTuple):
    """What a command understands."""

    options: dict[str, Any]  # the type of each option, by its name without dashes
    places: int  # for words that are no options
    needed: list[tuple[str, Needed]]  # the name of an option, "" for a place


def given_options(words: list[str]) -> set[str]:
    """The names of the options among `words`, without dashes; of a nested one (`--augment.rotation`) the first part."""
    return {re.split("[=.]", word[2:])[0].replace("_", "-") for word in words if word.startswith("--")}


def parse(kind: type[Command], words: list[str], name: str, default: Command | None = None) -> Command | None:
    """The command of type `kind` (a dataclass) that `words` spell; None when they ask for help, which is printed.

    Args:
        kind: what to build; its docstrings are the help.
        words: what the user typed after the command's name.
        name: the command's name, for help and messages.
        default: the values of options that are not given.

    Raises:
        UserError: an unknown option, a value of the wrong kind, or something missing.
    """
    words = _checked(words, _words_of(kind), name)
    options: dict[str, Any] = {} if default is None else {"default": default}
    said, helped = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(helped):
            # Comments above a field are for readers of the code, not help.
            config = (tyro.conf.HelptextFromCommentsOff,)
            return tyro.cli(kind, args=words, prog=f"astroformer {name}", config=config, **options)
    except ValidationError as error:
        raise UserError(explain(error)) from None
    except SystemExit as stop:
        if not stop.code:
            print(_tidy(helped.getvalue()), end="")
            return None
        raise UserError(f"can't make sense of '{' '.join(words)}' here. {_see(name)}") from None


def _words_of(kind: type[Any]) -> _Words:
    """The options and places of a command, with those of the dataclasses and models that are nested in it."""
    found = _Words({"help": bool}, 0, [])

    def add(prefix: str, name: str, annotation: Any) -> None:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            for word, setting in annotation.model_fields.items():
                add(f"{prefix}{name}.", word, setting.annotation)
            return
        found.options[(prefix + name).replace("_", "-")] = annotation
        if annotation is bool:
            found.options[f"{prefix}no-{name}".replace("_", "-")] = annotation

    def add_fields(kind: type[Any]) -> None:
        nonlocal found
        for name, annotation in get_type_hints(kind, include_extras=True).items():
            inner, *marks = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
            needed = [mark for mark in marks if isinstance(mark, Needed)]
            place = tyro.conf.Positional in marks
            found.needed.extend(("" if place else name.replace("_", "-"), mark) for mark in needed)
            if place:
                found = found._replace(places=found.places + 1)
            elif dataclasses.is_dataclass(inner):
                assert isinstance(inner, type)
                add_fields(inner)
            elif isinstance(inner, type) and issubclass(inner, BaseModel):  # whose words need no prefix
                for word, setting in inner.model_fields.items():
                    add("", word, setting.annotation)
            else:
                add("", name, inner)

    add_fields(kind)
    return found


def _checked(given: list[str], known: _Words, command: str) -> list[str]:
    """The words of a command with `none`, `true` and `false` spelled as tyro wants them.

    Raises:
        UserError: an option that the command does not have, a value of the wrong kind, or something missing.
    """
    words: list[str] = []
    places: list[str] = []
    options: set[str] = set()
    waiting = list(given)
    while waiting:
        word = waiting.pop(0)
        if not _is_option(word):
            places.append(word)
            words.append(word)
            continue
        name, equals, value = word.lstrip("-").partition("=")
        name = name.replace("_", "-")
        if name not in known.options and word != "-h":
            near = str(unknown_name("option", word.partition("=")[0], [f"--{option}" for option in known.options]))
            raise UserError(f"{near.split(' Allowed: ')[0]} `astroformer {command} --help` lists them.")
        if word == "-h" or name == "help":
            return ["--help"]
        options.add(name.removeprefix("no-") if known.options[name] is bool else name)
        kinds = _kinds(known.options[name])
        least, most = _number_of_values(kinds)
        values = [value] if equals else []
        while not equals and len(values) < most and waiting and not _is_option(waiting[0]):
            values.append(waiting.pop(0))
        if len(values) < least or values == [""]:
            raise UserError(f"--{name} needs a value. {_see(command)}")
        values = _spelled(name, values, kinds, command) if most else values
        words += [f"--{name}={values[0]}"] if equals else [word, *values]
    if len(places) > known.places:
        raise UserError(f"can't make sense of '{' '.join(places[known.places :])}' here. {_see(command)}")
    of_places = iter(places)
    missing = [
        f"{mark.spelled} ({mark.what})"
        for option, mark in known.needed
        if (option not in options if option else next(of_places, None) is None)
    ]
    if missing:
        raise UserError(f"missing {'; '.join(missing)}. {_see(command)}")
    return words


def _is_option(word: str) -> bool:
    return re.match(r"--?[A-Za-z]", word) is not None  # -1 is a number


def _see(command: str) -> str:
    return f"See `astroformer {command} --help`."


def _kinds(annotation: Any) -> list[Any]:
    """The kinds of value that a type allows: a plain type, a tuple of types, or the names of a Literal."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kinds(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [kind for part in get_args(annotation) for kind in _kinds(part)]
    return [annotation]


def _number_of_values(kinds: list[Any]) -> tuple[int, float]:
    """The least and the largest number of words that values of these kinds have."""
    counts: list[tuple[int, float]] = []
    for kind in kinds:
        if kind is bool and len(kinds) == 1:
            counts.append((0, 0))
        elif get_origin(kind) is tuple:
            counts.append((len(get_args(kind)),) * 2)
        elif get_origin(kind) is dict:
            counts.append((1, math.inf))
        else:
            counts.append((1, 1))
    return min(least for least, _ in counts), max(most for _, most in counts)


def _spelled(name: str, values: list[str], kinds: list[Any], command: str) -> list[str]:
    """The values of an option as tyro wants them. Raises `UserError` where no kind allows them."""
    low = [value.lower() for value in values]
    choices = [str(choice) for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    if len(values) == 1:
        if values[0] in choices:
            return values
        if type(None) in kinds and low[0] in _NOTHING:
            return ["None"]
        if bool in kinds and low[0] in _BOOLEANS:
            return [low[0].capitalize()]
    others = [kind for kind in kinds if kind not in (type(None), bool) and get_origin(kind) is not Literal]
    if any(_fits(kind, values) for kind in others):
        return values
    if choices and len(values) == 1:
        raise unknown_name(f"--{name}", values[0], choices)
    numbers = {int: "a whole number is needed. ", float: "a number is needed. "}
    simple = next((numbers[kind] for kind in others if kind in numbers), "")
    lengths = {len(get_args(kind)) for kind in others if get_origin(kind) is tuple}
    wanted = f"{' or '.join(map(str, sorted(lengths)))} numbers are needed. " if lengths and not simple else simple
    raise UserError(f"--{name} can't be '{' '.join(values)}'" + (f"; {wanted}" if wanted else ". ") + _see(command))


def _fits(kind: Any, values: list[str]) -> bool:
    """Whether the values can be of this kind, as far as it can be told from their spelling."""
    origin = get_origin(kind)
    if origin is tuple:
        parts = get_args(kind)
        return len(parts) == len(values) and all(
            any(_fits(one, [value]) for one in _kinds(part)) for part, value in zip(parts, values, strict=True)
        )
    if origin is dict:
        return True
    if len(values) != 1:
        return False
    if origin is Literal:
        return values[0] in map(str, get_args(kind))
    if kind in (int, float):
        try:
            kind(values[0])
        except ValueError:
            return False
    return kind in (int, float, str, Path)


def _tidy(text: str) -> str:
    """tyro's help without what only repeats that a setting may be left out.

    What these patterns do not find stays as tyro printed it, so that another version of tyro gives other help and never
    a wrong one.
    """
    text = re.sub(r" *\(default:\s+None\)", "", text)
    text = text.replace("{None}|{FLOAT FLOAT}", "FLOAT FLOAT").replace("{None}|INT|{INT INT}", "INT | INT INT")
    text = re.sub(r"\{None\}\|(\S+)", r"\1       ", text).replace("{None,", "{")
    # A blank line only before a group.
    text = re.sub(r"\s*\n(?=\S| \S|  [-A-Z])", "\n", "\n".join(line.rstrip() for line in text.splitlines()))
    return re.sub(r"\n(?= [a-z])", "\n\n", text).strip() + "\n"
