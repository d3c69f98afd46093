"""Names of files and classes: their order, their numbers, and checks that hold wherever they were read from."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from astroformer.errors import UserError, unknown_name


def natural_key(name: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """Sort key that puts `class2` before `class10`; ties go by the plain string."""
    parts = re.split(r"([0-9]+)", name)
    return tuple((0, int(p), "") if p[:1].isdecimal() else (1, 0, p.casefold()) for p in parts if p), name


def encode_labels(
    names: Sequence[str], classes: tuple[str, ...] | None, source: str
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels and classes of images whose classes are known by name.

    Args:
        names: N class names, one an image.
        classes: class names in the order that labels shall have. None stands for the names that occur, sorted by
            `natural_key`.
        source: where the names are from, for the message.

    Returns:
        (N,) labels, positions in the classes; the classes.

    Raises:
        UserError: a name is not among `classes`.
    """
    order = classes if classes is not None else tuple(sorted(set(names), key=natural_key))
    position = {name: i for i, name in enumerate(order)}
    for name in names:
        if name not in position:
            raise unknown_name(f"class in '{source}'", name, order)
    return np.array([position[name] for name in names], np.int64), order


def refuse_gaps(source: str, column: str, values: Sequence[str]) -> None:
    """Raises `UserError` if a value of a column is empty."""
    rows = [str(i) for i, value in enumerate(values, start=1) if not value]
    if rows:
        raise UserError(
            f"'{source}': the column '{column}' is empty in {len(rows)} of {len(values)} rows (the first: "
            f"{', '.join(rows[:5])}). Fill them in or remove the rows."
        )


def refuse_duplicates(source: str, files: Iterable[str]) -> None:
    """Raises `UserError` if two entries name the same file."""
    counts = Counter(os.path.normpath(file) for file in files)
    duplicates = [file for file, n in counts.items() if n > 1]
    if duplicates:
        raise UserError(
            f"'{source}' lists {len(duplicates)} files more than once: {shortened(duplicates)}. Keep one row of each."
        )


def shortened(names: Iterable[str], limit: int = 5) -> str:
    """The first names in sorted order, and how many more there are: `a, b, c, d, e and 12 more`."""
    ordered = sorted(names)
    more = f" and {len(ordered) - limit} more" if len(ordered) > limit + 1 else ""
    return ", ".join(ordered[:limit] if more else ordered) + more


def ignored_sentence(ignored: Sequence[str]) -> str:
    """A sentence, to follow another one, about files that were not taken for images; empty if there are none."""
    return f" Not taken for images: {shortened(ignored)}." if ignored else ""
