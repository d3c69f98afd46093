"""The words of a command line: read by what the command understands, and built into the command.

What is wrong is said here in one sentence, by the types of the command's fields; tyro prints the help.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import re
from collections.abc import Iterator
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ValidationError

from astroformer.cli.options import NESTED, PLACE, Option, fields_of, is_nested, metavar_of, options_of
from astroformer.errors import UserError, unknown_name

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
    values = _read(words, options_of(kind), name)
    if values is None:
        print(_help(kind, name, default), end="")
        return None
    try:
        command: Command = _built(kind, values, default)
    except ValidationError as error:
        from astroformer.training.recipe import explain

        raise UserError(explain(error)) from None
    return command


def _read(words: list[str], options: list[Option], command: str) -> dict[tuple[str, ...], Any] | None:
    """The values that the words give, by the fields that they are of; None when the words ask for help."""
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
            return None
        option = known.get(spelled.replace("_", "-"))
        if option is None:
            raise unknown_name("option", spelled, known, see=f"`astroformer {command} --help` lists them.")
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
    if len(at_places) > len(places):
        raise UserError(f"can't make sense of '{' '.join(at_places[len(places) :])}' here. {see}")
    for option, word in zip(places, at_places, strict=False):
        _, values[option.path] = option.take([word])
    if missing := [option for option in options if option.required and option.path not in values]:
        raise UserError(f"missing {'; '.join(_described(option) for option in missing)}. {see}")
    return values


def _looks_like_option(word: str) -> bool:
    return re.match(r"--?[A-Za-z]", word) is not None  # -1 is a number, - a file name


def _described(option: Option) -> str:
    return (option.name if option.place else f"--{option.name} {option.metavar}") + f" ({option.help})"


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


def _help(kind: type[Any], command: str, default: Any) -> str:
    """The help of a command as wide as the terminal, laid out by tyro; where tyro can't, a plain list of its words."""
    text = ""
    with contextlib.suppress(Exception):  # of another version of tyro; nobody is to be left without help for that
        text = _help_by_tyro(kind, command, default)
    if not text:
        lines = [f"usage: astroformer {command}", "", inspect.getdoc(kind) or "", ""]
        text = "\n".join([*lines, *(f"  {_described(option)}" for option in options_of(kind))])
    return "\n".join(line.rstrip() for line in text.splitlines()).strip() + "\n"


def _help_by_tyro(kind: type[Any], command: str, default: Any) -> str:
    """What tyro prints for a command: with our words for the kinds of values, and no default where that is nothing."""
    import tyro
    from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

    def shown(kind: type[Any], default: Any) -> Iterator[StructFieldSpec]:
        for field in fields_of(kind, default):
            if NESTED in field.marks:
                yield from shown(field.type, field.default)
                continue
            marks: list[Any] = [tyro.conf.Positional] if PLACE in field.marks else []
            if not is_nested(field.type):
                spelled = field.name.upper() if PLACE in field.marks else metavar_of(field.type)
                marks.append(tyro.conf.arg(metavar=spelled, help_behavior_hint="" if field.default is None else None))
            standard = tyro.MISSING if field.default is dataclasses.MISSING else field.default
            annotated: Any = Annotated[(field.type, *marks)] if marks else field.type
            yield StructFieldSpec(field.name, annotated, standard, helptext=field.help or None)

    registry = ConstructorRegistry()

    @registry.struct_rule
    def fields_as_options(info: StructTypeInfo) -> StructConstructorSpec | None:
        if not is_nested(info.type):
            return None
        default = info.default if isinstance(info.default, info.type) else None
        return StructConstructorSpec(instantiate=info.type, fields=tuple(shown(info.type, default)))

    helped = io.StringIO()
    more = {} if default is None else {"default": default}
    with contextlib.redirect_stdout(helped), contextlib.suppress(SystemExit):
        tyro.cli(kind, args=["--help"], prog=f"astroformer {command}", registry=registry, **more)
    return helped.getvalue()
