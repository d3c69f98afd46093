"""What several commands share: fields, and small things that they do alike."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from astroformer.cli.arguments import Needed
from astroformer.errors import UserError

_MODEL = "model folder, or the run folder that holds it"
Model = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL", help=_MODEL), Needed("MODEL", _MODEL)]
NESTED = tyro.conf.arg(name="")
"""Marks a field whose own fields are words of the command, without a prefix."""


@dataclass
class Asking:
    """How a model is asked."""

    batch_size: int = 64
    """images a forward pass, at most"""
    device: str = "auto"
    """auto, cpu or cuda"""
    precision: str = "float32"
    """float32, bfloat16 (may be faster; probabilities differ in the third digit) or auto (what is faster here)"""
    symmetry: str | None = None
    """shift: of the image alone, the fastest; shift+mirror, shift+d4: averaged over its mirror image, over turned and
    mirrored views; none: as the model says"""


@dataclass
class Showing:
    """What a person sees of the work."""

    quiet: bool = False
    """no progress"""
    debug: bool = False
    """show tracebacks"""


@contextlib.contextmanager
def first_imports() -> Iterator[None]:
    """Around a command's imports: what they make stays, so Python's collector looks at it neither now nor at the end.

    Without it `astroformer info astroformer_atto` takes 1.38 times as long (2.59 s and 1.83 s, the median of 20 pairs
    in turn on two shared cores). A program that has imported torch already is left as it is.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def make_folder(folder: Path) -> None:
    """Before the work, so that it can't be in vain."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"folder '{folder}' can't be made: {error.strerror}.") from None


def tell_beside(sentence: str) -> None:
    """Prints a sentence beside the results, which are on stdout."""
    print(sentence, file=sys.stderr)


def count_of_files(n: int) -> str:
    return f"{n:,} file" + ("s" if n != 1 else "")
