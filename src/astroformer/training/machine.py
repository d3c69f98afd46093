"""What the last bits of a run depend on beside its recipe and its images, so that a resumed run has them again.

Sums are taken in another order by another number of threads, by other instructions and by another version of torch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch

from astroformer.system import instructions, usable_cores, versions


@dataclass(frozen=True)
class Machine:
    """The machine that a run began on; None where a record of before does not say it.

    Attributes:
        threads: of torch.
        instructions: of the processor, by their names.
        torch: its version.
    """

    threads: int | None
    instructions: list[str] | None
    torch: str | None

    @classmethod
    def here(cls) -> Self:
        """This machine, as torch is set now."""
        return cls(torch.get_num_threads(), instructions(), versions()["torch"])

    @classmethod
    def from_record(cls, fields: Mapping[str, Any]) -> Self:
        """What `run.json` says of it. Raises `TypeError` where something is of another kind."""
        threads, words = fields.get("threads"), fields.get("instructions")
        if threads is not None and (type(threads) is not int or threads < 1):
            raise TypeError(f"threads is {threads!r}")
        if words is not None and not (isinstance(words, list) and all(isinstance(word, str) for word in words)):
            raise TypeError(f"instructions is {words!r}")
        return cls(threads, words, fields.get("versions", {}).get("torch"))

    def usable_threads(self) -> int:
        """As many threads as the run began with, if there are so many cores or torch was given so many."""
        here = torch.get_num_threads()
        return here if self.threads is None else min(self.threads, max(here, usable_cores()))

    def sentences(self) -> list[str]:
        """What is to be said of a run that began on this machine and is resumed here, with `usable_threads`."""
        said, differences = list[str](), list[str]()
        threads, here = self.usable_threads(), self.here()
        if self.threads is not None and threads != self.threads:
            differences.append(f"it began with {_count(self.threads)}, and there are cores for {threads}")
        elif threads != here.threads:
            said.append(f"{_count(threads)}, as the run began with, in place of {here.threads}")
        if self.torch is not None and self.torch != here.torch:
            differences.append(f"it began with torch {self.torch}, and this is {here.torch}")
        if self.instructions is not None and self.instructions != here.instructions:
            then, now = _list(self.instructions), _list(here.instructions)
            differences.append(f"it began on a processor with {then}, and this one has {now}")
        if differences:
            said.append(
                f"the last bits of the weights can differ from those of a run that is not stopped: "
                f"{'; '.join(differences)}"
            )
        return said


@contextlib.contextmanager
def so_many_threads(number: int) -> Iterator[None]:
    """Within it torch has this number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _count(threads: int) -> str:
    return f"{threads} thread{'s' * (threads > 1)}"


def _list(words: list[str] | None) -> str:
    return ", ".join(words or []) or "none of the instructions that matter"
