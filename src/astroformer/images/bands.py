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

    @property
    def rgb(self) -> bool:
        """Whether these are red, green and blue, of which grey and a hue can be made.

        Example:
            >>> Bands(("red", "green", "blue")).rgb, Bands(("g", "r", "z")).rgb
            (True, False)
        """
        return tuple(name.lower() for name in self.names) in (("red", "green", "blue"), ("r", "g", "b"))

    def check(
        self, found: Bands | None, learned: str = "the model learned from", images: str = "these images"
    ) -> str | None:
        """Whether a model that learned from these bands can take images of those that a source has.

        Units count where both sides say what they are.

        Args:
            found: of the images; None where their source says nothing of them.
            learned, images: how the sentence names both sides.

        Returns:
            A sentence to say where the source says nothing and the images are taken for these bands.

        Raises:
            UserError: the names, their order or the units are others.
        """
        if found is None:
            return f"{images} do not say what their bands are; they are taken for {self}"
        units = zip(self.units, found.units, strict=False)
        if self.names != found.names or any(own and other and own != other for own, other in units):
            raise UserError(
                f"{learned} the bands {self}, and {images} have {found}. Give the same bands in the same order and "
                "units, or train on images such as these."
            )
        return None

    def to_dict(self) -> dict[str, Any]:
        """As JSON keeps them; `from_dict` is the way back."""
        return {"names": list(self.names), "units": list(self.units)}

    @classmethod
    def from_dict(cls, words: Mapping[str, Any]) -> Bands:
        """Rebuild from `to_dict`."""
        return cls(tuple(words["names"]), tuple(words["units"]))
