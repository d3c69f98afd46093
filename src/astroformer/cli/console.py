"""A console, or a file, that can't show every letter: none of them stops a command."""

from __future__ import annotations

import codecs
import io
import os
import sys

_PLAIN = {
    **{"×": "x", "–": "-", "−": "-", "±": "+/-", "·": "-", "…": "...", "→": "->", "²": "^2", "μ": "u"},
    **dict.fromkeys("╭╮╰╯┌┐└┘├┤┬┴┼", "+"),
    **dict.fromkeys("─━═╴╶╸╺", "-"),
    **dict.fromkeys("│┃", "|"),
}


def show_what_can_be_shown() -> None:
    """Lets stdout and stderr replace what their encoding lacks: signs by plain ones, other letters by their number."""
    codecs.register_error("astroformer", _plainly)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed before Python began: what would be shown goes nowhere
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  as long as the process
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="astroformer")


def _plainly(error: UnicodeError) -> tuple[str, int]:
    """What stands for letters that can't be encoded; see `codecs.register_error`."""
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    plain = (_PLAIN.get(letter) or letter.encode("ascii", "backslashreplace").decode() for letter in lacking)
    return "".join(plain), error.end
