"""README and the pages under docs/ as a reader meets them: blocks of commands and programs, links, paragraphs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
# The site holds the pages under docs/ alone, so that these name what lies elsewhere by its place in the repository.
REPOSITORY = re.compile(r"https://github\.com/astroformer/astroformer/(?:blob|tree)/main/")


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, *languages: str) -> Iterator[tuple[str, str]]:
    """The fenced blocks of a page in these languages: language and content."""
    for language, content in re.findall(r"^```(\w*)\n(.*?)^```$", read(page), flags=re.M | re.S):
        if language in languages:
            yield language, content


def prose(page: str) -> list[str]:
    """The paragraphs and points of a page, without tables, blocks, pictures, headings and addresses of links."""
    text = re.sub(r"^```.*?^```$", "", read(page), flags=re.M | re.S)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    text = re.sub(r"`[^`]*`", "", text)
    text = re.sub(r"^- ", "\n", text, flags=re.M)
    paragraphs = (part.strip() for part in re.split(r"\n\s*\n", text))
    return [part for part in paragraphs if part and not part.startswith(("#", "|"))]


def anchor(heading: str) -> str:
    """What a link to a heading says, as GitHub makes it."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", re.sub(r"[`*]", "", heading.strip())).lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def links(page: str) -> Iterator[str]:
    """The links of a page to files and headings of the repository, and the places of its pictures."""
    text = re.sub(r"^```.*?^```$", "", read(page), flags=re.M | re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"", text):
        place = link[0] or link[1]
        if REPOSITORY.match(place):
            yield os.path.relpath(ROOT / REPOSITORY.sub("", place), (ROOT / page).parent)
        elif not place.startswith(("http://", "https://", "mailto:")):
            yield place
