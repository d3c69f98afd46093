"""Names of files and classes: their order, their numbers, and checks that hold wherever they were read from."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from astroformer.errors import UserError, unknown_name


def natural_key(name: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """Sort key that puts `class2` before `class10`; ties go by the plain string."""
    parts = re.split(r"([0-9]+)", name)
    # Other digits than these stay text: Python would take some of them for numbers, and some not.
    return tuple((0, int(p), "") if "0" <= p[:1] <= "9" else (1, 0, p.casefold()) for p in parts if p), name


def class_name(value: object) -> str:
    """How a class is called, whatever wrote its name: the same for the label 1, 1.0, "1" and " 1 ", and for an accent
    that is written as one character or as two (Unicode's NFC).

    Examples:
        >>> [class_name(value) for value in (1.0, "1.0", " spiral ", b"disc")]
        ['1', '1', 'spiral', 'disc']
    """
    text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
    text = unicodedata.normalize("NFC", printable(text)).strip()
    return re.sub(r"^([+-]?[0-9]+)\.0+$", r"\1", text)


def same_name(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Those of the names, each with an earlier one, that are the same class but for case, spaces, accents, digits."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(class_name(name).casefold(), name)
        if other != name:
            yield name, other


def printable(name: str) -> str:
    """The name of a file as it can be written and read anywhere: bytes that are not UTF-8 become `\\xe9` and the like.

    Examples:
        >>> printable(os.fsdecode(b"caf\xe9.png"))
        'caf\\\\xe9.png'
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return name


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
    called = [class_name(name) for name in names]
    order = classes if classes is not None else tuple(sorted(set(called), key=natural_key))
    position = {class_name(name): i for i, name in enumerate(order)}
    for name in called:
        if name not in position:
            raise unknown_name(f"class in '{source}'", name, order)
    return np.array([position[name] for name in called], np.int64), order


def refuse_gaps(source: str, column: str, values: Sequence[str], how: str = "remove the rows") -> None:
    """Raises `UserError` if a value of a column is empty; `how` says what to do beside filling them in."""
    rows = [str(i) for i, value in enumerate(values, start=1) if not value]
    if rows:
        raise UserError(
            f"'{source}': the column '{column}' is empty in {len(rows)} of {len(values)} rows (the first: "
            f"{', '.join(rows[:5])}). Fill them in or {how}."
        )


def refuse_duplicates(source: str, files: Iterable[str]) -> None:
    """Raises `UserError` if two entries name the same file."""
    counts = Counter(os.path.normpath(file) for file in files)
    duplicates = [file for file, n in counts.items() if n > 1]
    if duplicates:
        raise UserError(
            f"'{source}' lists {len(duplicates)} files more than once: {shortened(duplicates)}. Keep one row of each."
        )


def refuse_repeated(source: str, column: str, names: Sequence[str]) -> None:
    """Raises `UserError` if two rows of a column have the same name."""
    repeated = [name for name, n in Counter(names).items() if n > 1]
    if repeated:
        raise UserError(
            f"'{source}': the column '{column}' names {len(repeated)} images more than once: {shortened(repeated)}. "
            "Keep one row of each, or say which column names the images with @id=COLUMN."
        )


def shortened(names: Iterable[str], limit: int = 5) -> str:
    """The first names in sorted order, and how many more there are: `a, b, c, d, e and 12 more`."""
    ordered = sorted(names)
    more = f" and {len(ordered) - limit} more" if len(ordered) > limit + 1 else ""
    return ", ".join(ordered[:limit] if more else ordered) + more


def ignored_kinds(ignored: Sequence[str]) -> str:
    """How many files were not taken for images, by the reason that stands behind each in brackets: `5 files are no
    images and left out (a .txt file 3, beside the class folders 2)`."""
    kinds = Counter(entry.rpartition(" (")[2].removesuffix(")") for entry in ignored)
    counted = ", ".join(f"{kind}: {n:,}" for kind, n in sorted(kinds.items(), key=lambda item: (-item[1], item[0])))
    return f"not taken for images: {len(ignored):,} ({counted})"


def ignored_sentence(ignored: Sequence[str]) -> str:
    """A sentence, to follow another one, about files that were not taken for images; empty if there are none."""
    return f" Not taken for images: {shortened(ignored)}." if ignored else ""
