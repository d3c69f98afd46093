"""`Table`: the columns of a table in a file, by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroformer.errors import UserError, unknown_name

_EXACT = 2**53  # from here on a float can't tell a whole number from its neighbour


PACKED = (".gz", ".bz2", ".xz")
"""How the name of a table that is packed may end."""


def unpacked_name(path: Path) -> str:
    """The name of a file in lower case, without what packing puts behind it.

    Examples:
        >>> unpacked_name(Path("a/B.CSV.gz"))
        'b.csv'
    """
    name = path.name.lower()
    return next((name.removesuffix(end) for end in PACKED if name.endswith(end)), name)


class Role(NamedTuple):
    """What a column of a catalog is for, and how such columns are called.

    Attributes:
        name: of the role.
        usual: names in lower case.
        rarer: names that count where no column has a usual one.
        say: the option that names the column; empty: `@name=COLUMN`.
    """

    name: str
    usual: tuple[str, ...] = ()
    rarer: tuple[str, ...] = ()
    say: str = ""


@dataclass(frozen=True)
class Table:
    """The columns of a table in a file. Its rows are read when columns are asked for.

    Attributes:
        path: of the file.
        names: of all columns, in their order; the same name may occur twice.
        read: the values of columns, by name. Of CSV they are text without outer spaces, else of the file's types; None
            stands for a missing one.
        several: columns that hold several values a row, which can't be read.
        units: of the values, as the file writes them, of the columns for which it says them.
        notes: sentences on how the file was read.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "catalog.csv"
        >>> _ = path.write_text("file,class,ra\\na.png,disc,10.5\\nb.png,ring,\\n")
        >>> from astroformer.images.formats.tables import open_table
        >>> table = open_table(path)
        >>> table.names, table.column(Role("label", ("label", "class")))
        (['file', 'class', 'ra'], 'class')
        >>> table.texts(["file", "class"])
        {'file': ['a.png', 'b.png'], 'class': ['disc', 'ring']}
        >>> table.numbers("ra").tolist()
        [10.5, nan]
    """

    path: Path
    names: list[str]
    read: Callable[[Sequence[str]], dict[str, list[Any]]]
    several: frozenset[str] = frozenset()
    units: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def column(self, role: Role, asked: str | None = None) -> str:
        """The name of the column of a role: `asked`, or else the only one that is called as columns of this role are.

        Raises:
            UserError: there is no such column, or several.
        """
        if asked is not None:
            self.check(asked)
            return asked
        found = self.called(role)
        if len(found) == 1:
            return found[0]
        which = (
            f"the columns {', '.join(found)} could all be the {role.name}"
            if found
            else f"no column is named for the {role.name}"
        )
        repeated = [name for name, n in Counter(found).items() if n > 1]
        if repeated:
            which = f"the column '{repeated[0]}' occurs twice"
        say = role.say or f"@{role.name}=COLUMN"
        raise UserError(
            f"'{self.path}': {which} (one of {', '.join((*role.usual, *role.rarer))}). It has: "
            f"{', '.join(self.names) or 'no columns'}. Say which with '{self.path}{say}'."
        )

    def called(self, role: Role) -> list[str]:
        """The columns whose names, in any case, are among those of a role."""
        usual, rarer = ([n for n in self.names if n.strip().lower() in names] for names in (role.usual, role.rarer))
        return usual or rarer

    @property
    def unclear(self) -> list[str]:
        """Names of the columns that can't be told apart or hold several values a row."""
        return [name for name in dict.fromkeys(self.names) if self.names.count(name) > 1 or name in self.several]

    def check(self, name: str) -> None:
        """Raises `UserError` where there is no column of this name, or more than one."""
        if name not in self.names:
            raise unknown_name(f"column in '{self.path}'", name, self.names)
        if self.names.count(name) > 1:
            raise UserError(f"'{self.path}': the column '{name}' occurs twice; rename one of the two.")
        if name in self.several:
            raise UserError(
                f"'{self.path}': the column '{name}' holds several values a row, where one is needed. Save each as a "
                "column of its own."
            )

    def values(self, names: Sequence[str]) -> dict[str, list[Any]]:
        """The values of columns by name, as the file has them; a missing one is None.

        Raises:
            UserError: there is no such column, or more than one; or the file is damaged.
        """
        for name in names:
            self.check(name)
        return self.read(list(dict.fromkeys(names))) if names else {}

    def texts(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Columns of names or whole numbers as text; a missing value is an empty string.

        Raises:
            UserError: as `values`; or a column holds other values.
        """
        found = self.values(names)
        return {name: [self._text(name, value) for value in values] for name, values in found.items()}

    def numbers(self, name: str) -> NDArray[np.float64]:
        """(N,) float64, a column of numbers; a missing value is NaN.

        Raises:
            UserError: as `values`; or a value is no number.
        """
        numbers = []
        for row, value in enumerate(self.values([name])[name], start=1):
            try:
                if isinstance(value, list | dict | bytes):
                    raise TypeError
                numbers.append(np.nan if value is None or value == "" else float(value))
            except (TypeError, ValueError, OverflowError):
                what = f"'{value}'" if isinstance(value, str) else f"a value of type {type(value).__name__}"
                raise UserError(
                    f"'{self.path}': the column '{name}' has {what} in row {row}, which is no number. Mend the row, or "
                    "name another column."
                ) from None
        return np.array(numbers, np.float64)

    def _text(self, column: str, value: Any) -> str:
        if value is None or (isinstance(value, float) and value != value):
            return ""
        if isinstance(value, float) and value.is_integer():
            if abs(value) >= _EXACT:
                raise UserError(
                    f"'{self.path}': the column '{column}' holds whole numbers as floats, which are not exact above "
                    f"2^53 ({value:.0f}); save it as whole numbers or as text."
                )
            return str(int(value))
        if isinstance(value, float | list | dict | bytes):
            raise UserError(
                f"'{self.path}': the column '{column}' holds {type(value).__name__} values; names or whole numbers are "
                "needed."
            )
        return str(value).strip()
