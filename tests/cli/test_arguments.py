"""The words of a command line: what is understood, and what is said of what is not."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import BaseModel, Field
from typing_extensions import Doc

from astroformer import other_names
from astroformer.cli.arguments import given_options, parse
from astroformer.cli.help import Pages
from astroformer.cli.options import NESTED, PLACE, options_of
from astroformer.cli.train import Train
from astroformer.errors import UserError


class Inner(BaseModel):
    span: tuple[float, float] = (0.0, 1.0)
    on: bool = True
    both: bool | None = None
    share: float = Field(0.5, le=1, description="at most one")


class Settings(BaseModel):
    size: int | tuple[int, int] | None = None
    rate: float | None = Field(None, description="how fast")
    kind: Literal["none", "auto"] | dict[str, float] = "none"
    layout: Literal["a", "b"] | None = None
    count: Literal[1, 2] = 1
    inner: Inner = Inner()


@dataclass
class Group:
    device: Annotated[str, Doc("where")] = "auto"


@dataclass
class Command:
    """Does it."""

    place: Annotated[str, PLACE, Doc("where it is")]
    out: Annotated[Path, Doc("where it goes")]
    number: Annotated[int, Doc("how many")] = 1
    quiet: Annotated[bool, Doc("no words")] = False
    group: Annotated[Group, NESTED] = field(default_factory=Group)
    settings: Annotated[Settings, NESTED] = field(default_factory=Settings)


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
        (["--kind", "cat", "2", "--layout", "b"], "kind", {"cat": 2.0}),
        (["--layout", "b"], "layout", "b"),
        (["--count", "2"], "count", 2),
        (["--rate=-0.5"], "rate", -0.5),
        (["--rate", "-.5"], "rate", -0.5),
        (["--rate", "1", "--rate", "2"], "rate", 2.0),
    ],
)
def test_values_of_every_kind(words: list[str], name: str, value: Any) -> None:
    assert getattr(made(*words).settings, name) == value


def test_words_of_a_nested_model() -> None:
    inner = made("--inner.span", "0.5", "2", "--inner.no-on", "--inner.both", "TRUE").settings.inner
    assert (inner.span, inner.on, inner.both) == ((0.5, 2.0), False, True)
    assert made("--inner.span=0.5", "2").settings.inner.span == (0.5, 2.0)


def test_a_place_may_follow_an_option_that_takes_several_words() -> None:
    for words, size in ((["--size", "3", "P"], 3), (["--size", "3", "4", "P"], (3, 4)), (["--size=3", "P"], 3)):
        command = parse(Command, ["--out", "o", *words], "do")
        assert command is not None
        assert (command.place, command.settings.size) == ("P", size)
    command = parse(Command, ["--out", "o", "--kind", "cat", "2", "P"], "do")
    assert command is not None
    assert (command.place, command.settings.kind) == ("P", {"cat": 2.0})


def test_words_that_begin_with_a_dash() -> None:
    command = parse(Command, ["--out=-o", "--", "--place"], "do")
    assert command is not None
    assert (command.place, command.out) == ("--place", Path("-o"))


def test_names_may_be_spelled_as_in_python() -> None:
    @dataclass
    class Long:
        two_words: int = 1

    assert parse(Long, ["--two_words", "2"], "do") == parse(Long, ["--two-words=2"], "do") == Long(2)


def test_what_is_not_given_is_the_defaults() -> None:
    start = Command("P", Path("o"), 3, settings=Settings(rate=2.0, inner=Inner(share=0.25)))
    command = parse(Command, ["Q", "--out", "o", "--inner.no-on"], "do", start)
    assert command == Command("Q", Path("o"), 3, settings=Settings(rate=2.0, inner=Inner(share=0.25, on=False)))


def test_given_options() -> None:
    words = ["P", "--out=o", "--inner.share", "1", "--no-quiet", "--two_words", "-x", "--rate", "-1"]
    assert given_options(words) == {"out", "inner", "no-quiet", "two-words", "rate"}


SEE = "See `astroformer do --help`."


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--numbre", "1"], "unknown option '--numbre'. Did you mean '--number'? `astroformer do --help` lists them."),
        (["-number", "1"], "unknown option '-number'. Did you mean '--number'? `astroformer do --help` lists them."),
        (["-x"], "unknown option '-x'. `astroformer do --help` lists them."),
        (["--inner.spann", "1"], "unknown option '--inner.spann'. Did you mean '--inner.span'?"),
        (["--number"], f"--number needs a value. {SEE}"),
        (["--number", "--quiet"], f"--number needs a value. {SEE}"),
        (["--number="], f"--number needs a value. {SEE}"),
        (["--out", ""], f"--out needs a value. {SEE}"),
        (["--number", "1.5"], f"--number can't be '1.5'; a whole number is needed. {SEE}"),
        (["--number", "none"], f"--number can't be 'none'; a whole number is needed. {SEE}"),
        (["--rate", "fast"], f"--rate can't be 'fast'; a number is needed. {SEE}"),
        (["--size", "big", "P"], f"--size can't be 'big'; a whole number or 2 whole numbers are needed. {SEE}"),
        (["--layout", "c"], f"unknown --layout 'c'. Allowed: a, b. {SEE}"),
        (["--count", "3"], f"unknown --count '3'. Allowed: 1, 2. {SEE}"),
        (["--kind", "x"], f"--kind can't be 'x'; none, auto or pairs of a word and a number are needed. {SEE}"),
        (["--kind", "cat", "x"], "--kind can't be 'cat x'; none, auto or pairs of a word and a number are needed."),
        (["--inner.both", "maybe"], f"--inner.both can't be 'maybe'; true or false is needed. {SEE}"),
        (["--inner.span", "1"], f"--inner.span can't be '1'; 2 numbers are needed. {SEE}"),
        (["--inner.span", "1", "x"], f"--inner.span can't be '1 x'; 2 numbers are needed. {SEE}"),
        (["--inner.share", "2"], "can't be 2.0: input should be less than or equal to 1."),
        (["--quiet=yes"], f"--quiet takes no value; leave out '=yes'. {SEE}"),
        (["Q", "R"], f"can't make sense of 'Q R' here. {SEE}"),
        (["--quiet", "true"], f"can't make sense of 'true' here. {SEE}"),
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


def test_a_type_that_no_words_can_spell_is_our_own_fault() -> None:
    @dataclass
    class Wrong:
        data: bytes = b""

    with pytest.raises(AssertionError, match="no option can be a"):
        options_of(Wrong)


# -- help ------------------------------------------------------------------------------------------------------------


def helped(capsys: pytest.CaptureFixture[str], words: list[str], default: Command | None = None) -> str:
    assert parse(Command, words, "do", default) is None
    said = capsys.readouterr()
    assert said.err == ""
    return said.out


def test_help_is_printed_whatever_else_is_given(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    for words in (["--help"], ["-h"], ["P", "--number", "2", "--help"]):
        said = helped(capsys, words)
        assert said.startswith("usage: astroformer do")
        assert "Does it." in said
        flat = " ".join(said.replace("│", "").split())
        for line in (
            "PLACE where it is (required)",
            "--out PATH where it goes (required)",
            "--number INT how many (default: 1)",
            "--quiet no words",
            "--device STR where (default: auto)",
            "--size INT | INT INT --rate FLOAT how fast --kind {none,auto} | STR FLOAT ... (default: none)",
            "--layout {a,b} --count {1,2} (default: 1)",
            "--inner.both {true,false} --inner.share FLOAT at most one (default: 0.5)",
        ):
            assert line in flat
        assert "None" not in said
        assert all(line == line.rstrip() for line in said.splitlines())


def test_help_lists_the_words_in_the_order_of_the_fields(capsys: pytest.CaptureFixture[str]) -> None:
    said = helped(capsys, ["--help"])
    shown = [f"--{option.name}" for option in options_of(Command) if not option.place and option.meaning is not False]
    places = [said.index(f" {name}") for name in shown]
    assert places == sorted(places)


def test_help_shows_the_defaults_that_a_recipe_gives(capsys: pytest.CaptureFixture[str]) -> None:
    start = Command("P", Path("o"), settings=Settings(inner=Inner(share=0.125)))
    assert "at most one (default: 0.125)" in " ".join(helped(capsys, ["--help"], start).split())


@dataclass
class Paged(Command):
    """Does it."""

    pages: ClassVar[Pages] = Pages(
        usual=("number", "quiet"),
        groups={"where": ("where it is done", ("out", "device")), "inside": ("all of the inner part", ("inner.",))},
    )


def paged(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert parse(Paged, list(words), "do") is None
    return capsys.readouterr().out


def test_help_of_many_words_comes_in_pages(capsys: pytest.CaptureFixture[str]) -> None:
    first = paged(capsys, "--help")
    assert all(word in first for word in ("--number", "--quiet", "PLACE", "where it is done", "everything at once"))
    assert not any(word in first for word in ("--out", "--device", "--rate", "--inner"))
    where = paged(capsys, "--help", "where")
    assert where.index("--out") < where.index("--device")
    assert "--number" not in where
    inside = paged(capsys, "--help=inside")
    assert all(word in inside for word in ("--inner.span", "--inner.on", "--inner.share"))
    assert "--number" not in inside
    everything = paged(capsys, "P", "--help", "all")
    assert all(f"--{option.name}" in everything for option in options_of(Paged) if not option.place and option.shapes)
    assert paged(capsys, "--help", "P") == first
    with pytest.raises(UserError, match="unknown page of help 'wher'"):
        parse(Paged, ["--help=wher"], "do")


def test_every_option_of_train_is_on_one_page_of_its_help() -> None:
    options = [option.name for option in options_of(Train) if not option.place and option.meaning is not False]
    names = [name for _, names in Train.pages.groups.values() for name in names]
    assert len(set(names)) == len(names)
    for option in options:
        assert sum(option == name or (name.endswith(".") and option.startswith(name)) for name in names) == 1, option
    assert set(Train.pages.usual) <= set(options)
    assert {name for name in names if not name.endswith(".")} <= set(options)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_help_fits_80_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for words in (["--help"], ["--help", "all"]):
        assert parse(Train, words, "train") is None
        said = capsys.readouterr().out
        assert max(map(len, said.splitlines())) <= 80
        assert "\n\n  -" not in said  # options stand together
        assert said.count("\n\n options\n") == 1


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("--lr", "It is called '--learning-rate' here."),
        ("--batch", "It is called '--batch-size' here."),
        ("--size", "It is called '--image-size' here."),
        ("--img_size", "It is called '--image-size' here."),
        ("--rotation", "It is called '--augment.rotation' here."),
        ("--dropout", "It is called '--network.head-dropout' here."),
        ("--gpu", "The GPU is chosen by --device cuda"),
        ("--lr-scheduler", "falls as a cosine; --warmup and --final-learning-rate say how."),
        ("--patience", "its length is --minutes or --epochs."),
        ("--minuets", "Did you mean '--minutes'?"),
    ],
)
def test_a_word_of_other_tools_is_refused_with_ours(word: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        parse(Train, ["S", word, "1"], "train")
    assert f"'{word}'. " in str(error.value)
    assert said in str(error.value)
    assert str(error.value).endswith("`astroformer train --help all` lists them.")


def test_no_word_is_suggested_that_means_something_else() -> None:
    for word in ("--depth-multiplier", "--temperature", "--batch-norm"):
        with pytest.raises(UserError) as error:
            parse(Train, ["S", word, "1"], "train")
        assert "Did you mean" not in str(error.value), str(error.value)


def test_other_names_lead_to_words_that_there_are() -> None:
    """A word of another tool is none of ours, and what it leads to is."""
    known = {option.name for option in options_of(Train) if not option.place}
    for ours, others in (*other_names._SAME.items(), *((None, others) for others in other_names._INSTEAD)):
        assert ours is None or ours in known
        for other in others.split():
            assert other not in known
            assert other_names.instead(other, known, str) is not None


def test_a_version_of_tyro_that_prints_no_help_leaves_a_list_of_the_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(*_: Any, **__: Any) -> None:
        raise TypeError("cli() got an unexpected keyword argument 'registry'")

    for name in ("cli", "constructors.ConstructorRegistry"):
        with monkeypatch.context() as patch:
            patch.setattr(f"tyro.{name}", changed)
            said = helped(capsys, ["--help"])
        assert said.startswith("usage: astroformer do")
        assert "Does it." in said
        assert "  PLACE (where it is)\n  --out PATH (where it goes)\n  --number INT (how many)\n" in said


def test_reading_words_needs_no_tyro(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tyro.cli", None)
    assert made("--number", "2").number == 2
    with pytest.raises(UserError, match="needs a value"):
        made("--number")
