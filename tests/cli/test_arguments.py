"""The words of a command line: what is understood, and what is said of what is not."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import tyro
from pydantic import BaseModel

from astroformer.cli import arguments
from astroformer.cli.arguments import Needed, parse
from astroformer.errors import UserError


class Inner(BaseModel):
    span: tuple[float, float] = (0.0, 1.0)
    on: bool = True
    both: bool | None = None


class Settings(BaseModel):
    size: int | tuple[int, int] | None = None
    rate: float | None = None
    kind: Literal["none", "auto"] | dict[str, float] = "none"
    layout: Literal["a", "b"] | None = None
    inner: Inner = Inner()


@dataclass
class Group:
    device: str = "auto"
    """where"""


@dataclass
class Command:
    """Does it."""

    place: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PLACE"), Needed("PLACE", "where it is")]
    out: Annotated[Path, Needed("--out PATH", "where it goes")]
    number: int = 1
    """how many"""
    quiet: bool = False
    """no words"""
    group: Annotated[Group, tyro.conf.arg(name="")] = field(default_factory=Group)
    settings: Annotated[Settings, tyro.conf.arg(name="")] = field(default_factory=Settings)


def made(*words: str) -> Any:
    return parse(Command, ["P", "--out", "o", *words], "do")


def test_words_become_a_command() -> None:
    assert made() == Command("P", Path("o"))
    command = made("--number=-3", "--quiet", "--device", "cpu", "--rate", "1e-3", "--layout", "none")
    assert (command.number, command.quiet, command.group.device) == (-3, True, "cpu")
    assert (command.settings.rate, command.settings.layout) == (0.001, None)
    assert made("--no-quiet").quiet is False


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--size", "3"], "size", 3),
        (["--size", "3", "4"], "size", (3, 4)),
        (["--size", "None"], "size", None),
        (["--rate", "null"], "rate", None),
        (["--kind", "none"], "kind", "none"),
        (["--kind", "cat", "2", "dog", "0.5"], "kind", {"cat": 2.0, "dog": 0.5}),
        (["--layout", "b"], "layout", "b"),
    ],
)
def test_values_of_every_kind(words: list[str], name: str, value: Any) -> None:
    assert getattr(made(*words).settings, name) == value


def test_words_of_a_nested_model() -> None:
    inner = made("--inner.span", "0.5", "2", "--inner.no-on", "--inner.both", "TRUE").settings.inner
    assert (inner.span, inner.on, inner.both) == ((0.5, 2.0), False, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--numbre", "1"], "unknown option '--numbre'. Did you mean '--number'? `astroformer do --help` lists them."),
        (["--number"], "--number needs a value."),
        (["--number", "--quiet"], "--number needs a value."),
        (["--number="], "--number needs a value."),
        (["--number", "1.5"], "--number can't be '1.5'; a whole number is needed."),
        (["--number", "none"], "--number can't be 'none'; a whole number is needed."),
        (["--rate", "fast"], "--rate can't be 'fast'; a number is needed."),
        (["--size", "big"], "--size can't be 'big'; a whole number is needed."),
        (["--layout", "c"], "unknown --layout 'c'."),
        (["--inner.span", "1"], "--inner.span needs a value."),
        (["--inner.span", "1", "x"], "--inner.span can't be '1 x'; 2 numbers are needed."),
        (["Q"], "can't make sense of 'Q' here."),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence(words: list[str], said: str) -> None:
    with pytest.raises(UserError) as caught:
        made(*words)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_missing_is_named_all_at_once() -> None:
    with pytest.raises(UserError, match=r"^missing PLACE \(where it is\); --out PATH \(where it goes\)\. See "):
        parse(Command, [], "do")
    with pytest.raises(UserError, match=r"^missing --out PATH \(where it goes\)\. See "):
        parse(Command, ["P", "--number", "2"], "do")


def test_help_is_printed_whatever_else_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--help"], ["-h"], ["P", "--number", "2", "--help"]):
        assert parse(Command, words, "do") is None
        said = capsys.readouterr().out
        assert "Does it." in said
        assert "--device STR" in said
        assert "(default: None)" not in said


def test_what_tyro_alone_refuses_is_one_sentence_whatever_it_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(*_: Any, **__: Any) -> None:
        print("╔══ another version draws another box ══╗")
        raise SystemExit(2)

    monkeypatch.setattr(arguments.tyro, "cli", refusing)
    with pytest.raises(UserError, match=r"^can't make sense of 'P --out o' here\. See `astroformer do --help`\.$"):
        made()


def test_help_of_another_version_is_printed_as_it_is() -> None:
    other = "usage: astroformer do [options]\n\nplaces:\n  PLACE   where it is\n"
    assert [line for line in arguments._tidy(other).splitlines() if line] == [x for x in other.splitlines() if x]
