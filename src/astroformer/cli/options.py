"""What a command understands: its options and places, read from the types of its fields.

A command is a dataclass. Each of its fields is an option (`--batch-size 16`) or, where it is marked `PLACE`, a word
that is known by where it stands (`MODEL`). Where a field is a dataclass or a pydantic model, the fields of that are
words of the command too: with its name before theirs (`--augment.rotation`), or without where it is marked `NESTED`.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from typing_extensions import Doc

from astroformer.errors import UserError, unknown_name


class _Mark:
    """What `Annotated` says of a field beside its help."""


NESTED = _Mark()
"""The words of this field need no prefix."""
PLACE = _Mark()
"""This field is a word without an option's name, at its place among others."""


class Field(NamedTuple):
    """A field of a command, or of a dataclass or model in it."""

    name: str
    type: Any  # without Annotated
    marks: tuple[Any, ...]
    default: Any  # dataclasses.MISSING if the field has to be given
    help: str


def fields_of(kind: type[Any], default: Any = None) -> list[Field]:
    """The fields of a dataclass (their help is a `Doc` each) or of a pydantic model (a `description`).

    Args:
        kind: the dataclass or model.
        default: an instance that holds the defaults; those of the class without it.
    """
    defaults: dict[str, tuple[Any, str]] = {}
    if issubclass(kind, BaseModel):
        for name, setting in kind.model_fields.items():
            defaults[name] = (setting.get_default(call_default_factory=True), setting.description or "")
    else:
        for item in dataclasses.fields(kind):
            factory = item.default_factory
            defaults[item.name] = (item.default if factory is dataclasses.MISSING else factory(), "")
    found, hints = [], get_type_hints(kind, include_extras=True)
    for name, (usual, text) in defaults.items():
        annotation = hints[name]
        inner, *marks = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
        text = text or next((mark.documentation for mark in marks if isinstance(mark, Doc)), "")
        found.append(Field(name, inner, tuple(marks), usual if default is None else getattr(default, name), text))
    return found


def is_nested(kind: Any) -> bool:
    """Whether a field of this type has fields of its own."""
    return isinstance(kind, type) and (dataclasses.is_dataclass(kind) or issubclass(kind, BaseModel))


@dataclass(frozen=True)
class Shape:
    """One form that the value of an option may have: so many words, each of a type of its own."""

    parts: tuple[Any, ...]
    repeats: bool = False  # the parts may come several times

    def value(self, words: list[str]) -> Any:
        """What the words mean. Raises `ValueError` where they are no value of this form."""
        times, rest = divmod(len(words), len(self.parts))
        if rest or times == 0 or (times > 1 and not self.repeats):
            raise ValueError
        values = [_value_of(part, word) for part, word in zip(self.parts * times, words, strict=True)]
        if self.repeats:
            return dict(zip(values[::2], values[1::2], strict=True)) if len(self.parts) > 1 else tuple(values)
        return tuple(values) if len(values) > 1 else values[0]

    def fitting(self, words: list[str]) -> int:
        """How many of the first words could begin a value of this form."""
        for n, (part, word) in enumerate(zip(self.parts, words, strict=False)):
            try:
                _value_of(part, word)
            except ValueError:
                return n
        return min(len(self.parts), len(words))

    @property
    def metavar(self) -> str:
        """How help spells it: `INT`, `FLOAT FLOAT`, `{a,b}`."""
        names = {int: "INT", float: "FLOAT", str: "STR", Path: "PATH", bool: "{true,false}"}
        words = [names.get(part) or "{" + ",".join(map(str, get_args(part))) + "}" for part in self.parts]
        return " ".join(words) + (" ..." if self.repeats else "")

    @property
    def needed(self) -> list[str]:
        """What a message says can be given, as nouns."""
        one = {int: "a whole number", float: "a number", str: "a word", Path: "a path"}
        if self.repeats:
            return ["pairs of " + " and ".join(one[part] for part in self.parts)]
        if len(self.parts) > 1:
            return [f"{len(self.parts)} {one[self.parts[0]].removeprefix('a ')}s"]
        first = self.parts[0]
        return ["true", "false"] if first is bool else [one[first]] if first in one else list(map(str, get_args(first)))


@dataclass(frozen=True)
class Option:
    """A word of a command and the values that it takes.

    Attributes:
        name: `batch-size`, `augment.rotation`; of a place its name in capitals.
        path: the fields that lead to its value, from the command on.
        shapes: the forms that its value may have; none for a flag.
        meaning: the value of a flag.
        required: whether it has to be given.
        place: whether it is a place; one that `repeats` takes all words that are left.
        help: what it is.
    """

    name: str
    path: tuple[str, ...]
    shapes: tuple[Shape, ...]
    help: str
    meaning: bool | None = None
    required: bool = False
    place: bool = False

    @property
    def metavar(self) -> str:
        return _metavar(self.shapes)

    @property
    def repeats(self) -> bool:
        return any(shape.repeats for shape in self.shapes)

    def take(self, words: list[str]) -> tuple[int, Any]:
        """How many of the words are this option's value, as many as can be, and what they mean.

        Raises:
            UserError: none of them is.
        """
        for n in range(len(words), 0, -1):
            for shape in self.shapes:
                try:
                    value = shape.value(words[:n])
                except ValueError:
                    continue
                if not all(word.strip() for word in words[:n]):  # as a path it would be the folder that one is in
                    shown = self.name if self.place else f"--{self.name}"
                    raise UserError(f"{shown} has an empty word, which names nothing; give a name, or leave it out.")
                return n, value
        raise self._refused(words)

    def _refused(self, words: list[str]) -> UserError:
        shapes = [shape for shape in self.shapes if shape.parts != (type(None),)]
        if len(shapes) == 1 and get_origin(shapes[0].parts[0]) is Literal:
            return unknown_name(f"--{self.name}", words[0], map(str, get_args(shapes[0].parts[0])))
        shown = " ".join(words[: 1 + max(shape.fitting(words) for shape in shapes)])  # up to the first that is wrong
        *others, last = [noun for shape in shapes for noun in shape.needed]
        needed = f"{', '.join(others)} or {last}" if others else last
        verb = "are" if any(len(shape.parts) > 1 for shape in shapes) else "is"
        return UserError(f"--{self.name} can't be '{shown}'; {needed} {verb} needed.")


def metavar_of(annotation: Any) -> str | None:
    """How help spells the values of a type; None for a flag, which has none."""
    return None if annotation is bool else _metavar(_shapes_of(annotation))


def _metavar(shapes: tuple[Shape, ...]) -> str:
    return " | ".join(shape.metavar for shape in shapes if shape.parts != (type(None),))


def options_of(kind: type[Any]) -> list[Option]:
    """All options and places of a command, in the order of its fields."""
    return list(_options_of(kind, (), ""))


def _options_of(kind: type[Any], above: tuple[str, ...], prefix: str) -> Iterator[Option]:
    for field in fields_of(kind):
        path, name = (*above, field.name), prefix + field.name.replace("_", "-")
        if is_nested(field.type):
            yield from _options_of(field.type, path, prefix if NESTED in field.marks else f"{name}.")
        elif field.type is bool:
            yield Option(name, path, (), field.help, meaning=True)
            yield Option(f"{prefix}no-{name.removeprefix(prefix)}", path, (), field.help, meaning=False)
        else:
            place = PLACE in field.marks
            shown = name.upper() if place else name
            required = field.default is dataclasses.MISSING
            yield Option(shown, path, _shapes_of(field.type), field.help, required=required, place=place)


def _shapes_of(annotation: Any) -> tuple[Shape, ...]:
    """The forms of a type's values; text comes last, since any word is text."""
    kinds = list(get_args(annotation)) if get_origin(annotation) in (Union, types.UnionType) else [annotation]
    kinds = [get_args(kind)[0] if get_origin(kind) is Annotated else kind for kind in kinds]
    order = {Literal: 0, type(None): 1, str: 3, Path: 3}
    kinds.sort(key=lambda kind: order.get(get_origin(kind) or kind, 2))
    return tuple(_shape_of(kind) for kind in kinds)


def _shape_of(kind: Any) -> Shape:
    inner = [get_args(part)[0] if get_origin(part) is Annotated else part for part in get_args(kind)]
    if get_origin(kind) is tuple:
        return Shape((inner[0],), repeats=True) if inner[1:] == [...] else Shape(tuple(inner))
    if get_origin(kind) is dict:
        return Shape(tuple(inner), repeats=True)
    assert get_origin(kind) is Literal or kind in (int, float, bool, str, Path, type(None)), (
        f"no option can be a {kind}"
    )
    return Shape((kind,))


def _value_of(part: Any, word: str) -> Any:
    """What one word means. Raises `ValueError` where it is no value of the type `part`."""
    known: dict[str, Any]
    if get_origin(part) is Literal:
        known = {str(choice): choice for choice in get_args(part)}
    elif part is type(None):
        known, word = {"none": None, "null": None}, word.lower()
    elif part is bool:
        known, word = {"true": True, "false": False}, word.lower()
    else:
        return part(word)
    if word not in known:
        raise ValueError(word)
    return known[word]
