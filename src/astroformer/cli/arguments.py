"""tyro's command line in our words: options checked by name, help without noise, a wrong word as one sentence.

tyro builds the command line from types and prints framed messages; what is told to a user is one `UserError`. Where a
message of another tyro version is not understood, its text is given as it is.
"""

from __future__ import annotations

import contextlib
import io
import re
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import tyro
from pydantic import BaseModel, ValidationError

from astroformer.errors import UserError, unknown_name
from astroformer.training.recipe import explain

Command = TypeVar("Command")


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
    words = _checked(words, _options(kind), name)
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
        raise UserError(_sentence(said.getvalue(), name)) from None


def _options(kind: type[Any]) -> dict[str, Any]:
    """Every option of a command without its dashes, and its type."""
    found: dict[str, Any] = {"help": bool}

    def add(prefix: str, name: str, annotation: Any) -> None:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            group = "" if name == "settings" else f"{prefix}{name}."
            for word, setting in annotation.model_fields.items():
                add(group, word, setting.annotation)
            return
        found[(prefix + name).replace("_", "-")] = annotation
        if annotation is bool:
            found[f"{prefix}no-{name}".replace("_", "-")] = annotation

    for name, annotation in get_type_hints(kind, include_extras=True).items():
        parts = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
        if tyro.conf.Positional not in parts[1:]:
            add("", name, parts[0])
    return found


def _checked(rest: list[str], options: dict[str, Any], command: str) -> list[str]:
    """The words of a command with `none`, `true` and `false` spelled as tyro wants them.

    Raises:
        UserError: an option that the command does not have.
    """
    words: list[str] = []
    name = ""
    for word in rest:
        value: str | None = word
        if re.match(r"--?[A-Za-z]", word):
            name, _, after = word.lstrip("-").partition("=")
            name, value = name.replace("_", "-"), after or None
            if name not in options and word != "-h":
                given = word.partition("=")[0]
                near = str(unknown_name("option", given, [f"--{option}" for option in options]))
                raise UserError(f"{near.split(' Allowed: ')[0]} `astroformer {command} --help` lists them.")
        if value is not None and value.lower() in ("none", "null", "true", "false"):
            kinds = get_args(options.get(name))
            literals = {choice for kind in kinds for choice in get_args(kind)}
            if (value[0] in "nN" and type(None) in kinds and "none" not in literals) or (
                value[0] not in "nN" and bool in kinds
            ):
                capital = "None" if value[0] in "nN" else value.capitalize()
                word = word.removesuffix(value) + capital
        words.append(word)
    return words


def _tidy(text: str) -> str:
    """tyro's help without what only repeats that a setting may be left out."""
    text = re.sub(r" *\(default:\s+None\)", "", text)
    text = text.replace("{None}|{FLOAT FLOAT}", "FLOAT FLOAT").replace("{None}|INT|{INT INT}", "INT | INT INT")
    text = re.sub(r"\{None\}\|(\S+)", r"\1       ", text).replace("{None,", "{")
    # A blank line only before a group.
    text = re.sub(r"\s*\n(?=\S| \S|  [-A-Z])", "\n", "\n".join(line.rstrip() for line in text.splitlines()))
    return re.sub(r"\n(?= [a-z])", "\n\n", text).strip() + "\n"


def _sentence(box: str, command: str) -> str:
    """tyro's framed message as one sentence."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [re.sub(r"^[│|]|[│|]$", "", line).strip() for line in text.splitlines()]
    titles = r"[╭╰─-].*|Parsing error|Value error|Missing|Missing argument|Unrecognized options|Invalid choice|"
    kept = [line for line in lines if not re.fullmatch(titles, line) or line.startswith("--")]
    words = " ".join(" ".join(line for line in kept if set(line) - {"-"}).split())
    words = re.sub(r"\s*For full helptext, (see|run).*$", "", words)
    words = re.sub(rf"^Missing from astroformer {command}: ", "", words)
    see = f"See `astroformer {command} --help`."
    value_of = r"Error parsing (\S+): .*?(?:(?:from|with) \[(.*?)\]|base 10: (\S+)|to float: (\S+))"
    if wrong := re.search(value_of, words):
        takes = re.search(r"Argument helptext: \S+ (\S+) ", words)
        kinds = {"INT": "a whole number", "FLOAT": "a number"}
        kind = kinds.get(takes[1].removeprefix("{None}|")) if takes else None
        value = wrong[2] or wrong[3] or wrong[4]
        return f"{wrong[1]} can't be {value}" + (f"; {kind} is needed. " if kind else ". ") + see
    if choice := re.search(r"invalid choice '(.*?)' for argument '(\S+)'. Expected one of \((.*?)\)", words):
        allowed = [name for name in re.findall(r"'(.*?)'", choice[3]) if name != "None"]
        return str(unknown_name(choice[2], choice[1], allowed))
    if lacking := re.search(r"Missing value for argument '(.*?)'", words):
        return f"{lacking[1]} needs a value. {see}"
    if missing := re.findall(r"(--\S+ \S+|\b[A-Z]+) ([^()]*?) \(required\)", words):
        return "missing " + "; ".join(f"{name} ({what})" for name, what in missing) + f". {see}"
    if extra := re.match(r"Unrecognized options: (.*)", words):
        return f"can't make sense of '{extra[1]}' here. {see}"
    return f"{words}  {see}"
