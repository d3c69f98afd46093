"""What the bands of an image are: their names, their order and their units."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from astroformer.errors import UserError


@dataclass(frozen=True)
class Bands:
    """The bands of an image, in their order.

    Two sets have the same bands only if these are equal: a network that learned from g, r, i answers nonsense where
    they come as i, r, g.

    Attributes:
        names: one a band, each once.
        units: of the values, one a band, as the source writes it (`nJy`, `adu`); empty where it says nothing.

    Example:
        >>> str(Bands(("g", "r"), ("nJy", "nJy")))
        'g, r (nJy)'
    """

    names: tuple[str, ...]
    units: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(map(str, self.names)))
        object.__setattr__(self, "units", tuple(map(str, self.units)) or ("",) * len(self.names))
        if not self.names:
            raise UserError("an image needs one band at least.")
        for name, n in Counter(self.names).items():
            if n > 1:
                raise UserError(f"the band '{name}' is named {n} times; give each band its own name.")
        if len(self.units) != len(self.names):
            raise UserError(f"{len(self.names)} bands have {len(self.units)} units; give one for each band, or none.")

    def __len__(self) -> int:
        return len(self.names)

    def __str__(self) -> str:
        if len(set(self.units)) == 1:
            return ", ".join(self.names) + (f" ({self.units[0]})" if self.units[0] else "")
        return ", ".join(
            f"{name} ({unit})" if unit else name for name, unit in zip(self.names, self.units, strict=True)
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON keeps them; `from_dict` is the way back."""
        return {"names": list(self.names), "units": list(self.units)}

    @classmethod
    def from_dict(cls, words: Mapping[str, Any]) -> Bands:
        """Rebuild from `to_dict`."""
        return cls(tuple(words["names"]), tuple(words["units"]))
