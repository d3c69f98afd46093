"""Names of a user in the tables of a terminal."""

from __future__ import annotations

from rich.cells import cell_len, set_cell_size


def fitted(name: str, width: int) -> str:
    """A name in exactly so many columns of a terminal: filled up with spaces, or cut at its end.

    Letters that take two columns, as Chinese ones do, are counted as two. What is no letter at all is shown as `?`.

    Examples:
        >>> fitted("spiral", 8), fitted("a_class_with_a_long_name", 8)
        ('spiral  ', 'a_class…')
    """
    name = plain(name)
    return set_cell_size(name, width) if cell_len(name) <= width else set_cell_size(name, width - 1) + "…"


def plain(name: str) -> str:
    """A name in one line: `?` for a line break or another sign that moves the cursor."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)


def widest(names: list[str], most: int) -> int:
    """How many columns of a terminal the widest of the names takes, at most `most`."""
    return min(most, max((cell_len(plain(name)) for name in names), default=0))
