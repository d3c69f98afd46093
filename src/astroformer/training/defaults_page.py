"""The page `docs/defaults.md`, made of the table of rules (`defaults.py`). To write it anew:

python -m astroformer.training.defaults_page > docs/defaults.md
"""

from __future__ import annotations

import textwrap

from astroformer.training.defaults import RULES, Rule

# The site holds the pages alone, so a link out of docs/ is to the repository.
_SOURCE = "https://github.com/astroformer/astroformer/blob/main/src/astroformer"


def page() -> str:
    """The text of `docs/defaults.md`."""
    lines = [
        "# What is decided for you",
        "",
        *_wrapped(
            "A recipe leaves open what follows from your images and your machine. Rules fill it in, from the training "
            "images and the device alone: they never see labels or validation images. What you set yourself is taken "
            "as it is. A run prints what was decided, and keeps the complete recipe in its folder, so that it can be "
            "repeated exactly."
        ),
        "",
        *_wrapped(
            f"This page and the help of `astroformer train` are made from one table, "
            f"{_linked('training/defaults.py')}. Where a rule names no other file, {_linked(Rule.where)} decides by it "
            "before a run begins."
        ),
        "",
        "| rule | settings | by default |",
        "|---|---|---|",
    ]
    for rule in RULES.values():
        settings = ", ".join(f"`{name}`" for name in rule.settings)
        lines.append(f"| [{rule.title}](#{_anchor(rule.title)}) | {settings} | {rule.short} |")
    for rule in RULES.values():
        lines += ["", f"## {rule.title}", "", *_wrapped(rule.text), ""]
        if rule.figures:
            columns, *rows = (f"| {case} | {value} |" for case, value in rule.figures)
            lines += [columns, "|---|---|", *rows, ""]
        lines += _wrapped(f"- Why: {rule.why}")
        lines += _wrapped(f"- To decide yourself: {rule.overruled_by}")
        if rule.where != Rule.where:
            file, _, when = rule.where.partition(", ")
            lines += _wrapped(f"- In the code: {_linked(file)}" + (f", {when}" if when else ""))
    return "\n".join(lines) + "\n"


def _linked(file: str) -> str:
    """A file of the package as the page links to it."""
    return f"[`{file}`]({_SOURCE}/{file})"


def _wrapped(text: str) -> list[str]:
    """The lines of a paragraph, or of an item of a list."""
    indent = "  " if text.startswith("- ") else ""
    return textwrap.wrap(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _anchor(title: str) -> str:
    """Where a heading is found, as GitHub makes it."""
    return title.lower().replace(" ", "-")


if __name__ == "__main__":
    print(page(), end="")
