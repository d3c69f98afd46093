"""The help of a command, on one page or on several, laid out by tyro."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import os
import re
import shutil
import textwrap
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple, get_origin

from astroformer.cli.options import NESTED, PLACE, Option, fields_of, is_nested, metavar_of, options_of
from astroformer.errors import UserError, unknown_name


class Pages(NamedTuple):
    """How the help of a command with very many options is cut up: a field of the command, named `pages`.

    Attributes:
        usual: the options that the first page describes.
        groups: what each other page is about, and its options by name; a name that ends with a dot means all that
            begin with it.
    """

    usual: tuple[str, ...]
    groups: dict[str, tuple[str, tuple[str, ...]]]


_FIRST, _ALL = "", "all"
_WIDEST = 80  # columns of a page


def described(option: Option) -> str:
    """An option, its values and what it is, in one line."""
    return (option.name if option.place else f"--{option.name} {option.metavar}") + f" ({option.help})"


def page_named(word: str, command: str, pages: Pages | None, *, asked: bool) -> str:
    """The page of help that the word after `--help` names; the first one if it is no page."""
    names = [] if pages is None else [_ALL, *pages.groups]
    if word in names:
        return word
    if asked:
        raise (
            unknown_name("page of help", word, names) if names else UserError(f"--help takes no value here: '{word}'.")
        )
    return _FIRST


def help_of(kind: type[Any], command: str, default: Any, pages: Pages | None, page: str) -> str:
    """A page of help at most 80 columns wide, laid out by tyro; where tyro can't, a plain list of its words."""
    wanted: tuple[str, ...] | None = None  # all
    if pages is not None and page != _ALL:
        wanted = pages.usual if page == _FIRST else pages.groups[page][1]
    text = ""
    with contextlib.suppress(Exception):  # of another version of tyro; nobody is to be left without help for that
        text = _help_by_tyro(kind, command, default, wanted)
    if not text:
        lines = [f"usage: astroformer {command}", "", inspect.getdoc(kind) or "", ""]
        text = "\n".join([*lines, *(f"  {described(option)}" for option in options_of(kind))])
    if pages is not None and page == _FIRST:
        rest = {**{name: what for name, (what, _) in pages.groups.items()}, _ALL: "everything at once"}
        lines = [f" more: astroformer {command} --help GROUP", f" {'-' * 78}"]
        for name, what in rest.items():
            lines += textwrap.wrap(what, _WIDEST, initial_indent=f"  {name:<26}", subsequent_indent=" " * 28)
        text = "\n".join([text.rstrip(), "", *lines])
    lines = [
        part for line in text.splitlines() for part in (textwrap.wrap(line, _WIDEST) if len(line) > _WIDEST else [line])
    ]
    # Behind a line that fills the page tyro leaves an empty one, also between two options.
    text = re.sub(r"\n *\n(?=  -)", "\n", "\n".join(lines))
    return "\n".join(line.rstrip() for line in text.splitlines()).strip() + "\n"


def _place(name: str, wanted: tuple[str, ...]) -> int:
    """Where an option, or a group of them, stands on a page of help; -1 if it is not on it."""
    return next((n for n, word in enumerate(wanted) if word in (name, f"{name}.")), -1)


@contextlib.contextmanager
def _columns() -> Iterator[None]:
    """Within it a terminal seems to be 80 columns wide at most, which is how a library lays out its text."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(min(_WIDEST, shutil.get_terminal_size().columns))
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def _help_by_tyro(kind: type[Any], command: str, default: Any, wanted: tuple[str, ...] | None) -> str:
    """What tyro prints for a command: with our words for the kinds of values, and no default where that is nothing."""
    import tyro
    from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

    def shown(kind: type[Any], default: Any, wanted: tuple[str, ...] | None) -> Iterator[StructFieldSpec]:
        for field in fields_of(kind, default):
            if NESTED in field.marks:
                yield from shown(field.type, field.default, wanted)
                continue
            marks: list[Any] = [tyro.conf.Positional] if PLACE in field.marks else []
            many = bool(marks) and get_origin(field.type) is tuple
            if not marks and wanted is not None and _place(field.name.replace("_", "-"), wanted) < 0:
                continue
            if not is_nested(field.type):
                spelled = field.name.upper() + " ..." * many if PLACE in field.marks else metavar_of(field.type)
                nothing = field.default is None or (field.type is bool and not field.default)
                marks.append(tyro.conf.arg(metavar=spelled, help_behavior_hint="" if nothing else None))
                if field.type is bool and not field.default:
                    marks.append(tyro.conf.FlagCreatePairsOff)
            standard = tyro.MISSING if field.default is dataclasses.MISSING else field.default
            annotated: Any = Annotated[(str if many else field.type, *marks)] if marks else field.type
            yield StructFieldSpec(field.name, annotated, standard, helptext=field.help or None)

    registry = ConstructorRegistry()

    @registry.struct_rule
    def fields_as_options(info: StructTypeInfo) -> StructConstructorSpec | None:
        if not is_nested(info.type):
            return None
        default = info.default if isinstance(info.default, info.type) else None
        some = wanted if info.type is kind else None
        fields = tuple(shown(info.type, default, some))
        if some is not None:  # in the order of the page
            fields = tuple(sorted(fields, key=lambda field: _place(field.name.replace("_", "-"), some)))
        return StructConstructorSpec(instantiate=info.type, fields=fields)

    helped = io.StringIO()
    more: dict[str, Any] = {} if default is None else {"default": default}
    with _columns(), contextlib.redirect_stdout(helped), contextlib.suppress(SystemExit):
        tyro.cli(
            kind,
            args=["--help"],
            prog=f"astroformer {command}",
            registry=registry,
            **more,
        )
    return helped.getvalue()
