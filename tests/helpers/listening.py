"""A reporter that keeps what is said."""

from __future__ import annotations

from astroformer.progress import Reporter


class Listening(Reporter):
    """Shows nothing, and keeps the sentences that a person would see."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)
