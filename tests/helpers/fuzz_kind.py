"""`Kind`: a kind of input that is damaged at random, and how one of its cases ends."""

from __future__ import annotations

import random
from pathlib import Path


class Kind:
    """A kind of input. `case` returns "right" or "refused" and raises where something else comes of it."""

    name: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def case(self, rng: random.Random) -> str:
        raise NotImplementedError


def refused(error: object) -> str:
    """What a case ends in whose error is one sentence. Raises `AssertionError` where it is none."""
    text = str(error)
    assert text, "a refusal without a word"
    assert len(text) < 4200, f"a refusal of {len(text)} characters: {text[:100]}"
    assert "\n" not in text.strip(), f"a refusal of several lines: {text[:300]}"
    return "refused"
