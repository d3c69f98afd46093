"""What the bands of an image are: their names, their order and their units."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from astroformer.errors import UserError

# Of broad filters in nm, roughly: the order counts.
_WAVELENGTHS = {"u": 354, "g": 477, "r": 623, "i": 763, "z": 913, "y": 962, "U": 365, "B": 445, "V": 551, "R": 658}
_WAVELENGTHS |= {"I": 806, "G": 477, "Z": 880, "Y": 1020, "J": 1220, "H": 1630, "K": 2190, "Ks": 2150, "NUV": 231}
_WAVELENGTHS |= {"FUV": 153, "W1": 3400, "W2": 4600, "W3": 12000, "W4": 22000, "VIS": 715}

_SENTINEL_2 = ("B04", "B03", "B02")  # red, green and blue


@dataclass(frozen=True)
class Bands:
    """The bands of an image, in their order.

    Two sets have the same bands only if these are equal: a network that learned from g, r, i answers nonsense where
    they come as i, r, g.

    Attributes:
        names: one a band, each once.
        units: of the values, one a band, as the source writes it (`nJy`, `adu`); empty where it says nothing.

    Examples:
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

        Examples:
            >>> Bands(("red", "green", "blue")).rgb, Bands(("g", "r", "z")).rgb
            (True, False)
        """
        return tuple(name.lower() for name in self.names) in (("red", "green", "blue"), ("r", "g", "b"))

    def red_green_blue(self) -> tuple[int, int, int]:
        """Which three bands a picture shows as red, green and blue: the one of the longest wavelength, one in the
        middle and the one of the shortest, where the names tell wavelengths; of Sentinel-2 those that the eye sees as
        such; else the first three.

        Examples:
            >>> Bands(("u", "g", "r", "i", "z")).red_green_blue(), Bands(("F444W", "F115W", "F200W")).red_green_blue()
            ((4, 2, 0), (0, 2, 1))
        """
        if "B8A" in self.names and set(_SENTINEL_2) <= set(self.names):  # whose numbers go by wavelength, too
            red, green, blue = map(self.names.index, _SENTINEL_2)
            return red, green, blue
        lengths = [wavelength(name) for name in self.names]
        numbers = [re.search(r"[0-9]+", name) for name in self.names]
        order: list[int] | None = None
        if all(lengths):
            order = sorted(range(len(self)), key=lambda c: lengths[c] or 0)
        elif all(numbers):
            order = sorted(range(len(self)), key=lambda c: int(found[0]) if (found := numbers[c]) else 0)
        return (0, 1, 2) if order is None else (order[-1], order[len(order) // 2], order[0])

    def check(
        self, found: Bands | None, learned: str = "the model learned from", images: str = "these images"
    ) -> str | None:
        """Whether a model that learned from these bands can take images of those that a source has.

        Units are an error where both sides say what they are, and they differ.

        Args:
            found: of the images; None where their source says nothing of them.
            learned, images: how the sentence names both sides.

        Returns:
            A sentence to say where the source says nothing and the images are taken for these bands, or where one of
            both sides alone states units.

        Raises:
            UserError: the names, their order or the units are others.
        """
        if found is None:
            return f"{images} do not say what their bands are; they are taken for {self}"
        units = zip(self.units, found.units, strict=False)
        if self.names != found.names or any(own and other and own != other for own, other in units):
            among = self.names != found.names and set(self.names) <= set(found.names)
            option = f" (of FITS files by @bands={','.join(self.names)})" if among else ""
            raise UserError(
                f"{learned} the bands {self}, and {images} have {found}. Give the same bands in the same order and "
                f"units{option}, or train on images such as these."
            )
        both = list(zip(self.names, self.units, found.units, strict=True))
        if lacking := [(name, own) for name, own, other in both if own and not other]:
            unit = " and ".join(dict.fromkeys(own for _, own in lacking))
            return f"{images} do not state the unit of {_all_or(lacking, both)}; it is taken for {unit}"
        if more := [(name, other) for name, own, other in both if other and not own]:
            unit = " and ".join(dict.fromkeys(other for _, other in more))
            return f"{images} have {unit} as the unit of {_all_or(more, both)}, and {learned} images that state none"
        return None

    @property
    def magnitudes(self) -> str | None:
        """The first unit that is a magnitude, in which bright is a small number; None where none is.

        Examples:
            >>> Bands(("g", "r"), ("nJy", "mag/arcsec2")).magnitudes
            'mag/arcsec2'
        """
        return next((unit for unit in self.units if re.match(r"\w*mag(?![a-z])", unit, re.IGNORECASE)), None)

    def to_dict(self) -> dict[str, Any]:
        """As JSON keeps them; `from_dict` is the way back."""
        return {"names": list(self.names), "units": list(self.units)}

    @classmethod
    def from_dict(cls, words: Mapping[str, Any]) -> Bands:
        """Rebuild from `to_dict`."""
        return cls(tuple(words["names"]), tuple(words["units"]))


def _all_or(some: Sequence[tuple[str, str]], both: Sequence[object]) -> str:
    """Whose unit it is: of all bands, or of some of them."""
    return "their values" if len(some) == len(both) else ", ".join(name for name, _ in some)


def wavelength(name: str) -> int | None:
    """In nm, roughly, of a broad filter by its name, also behind that of a survey: `g`, `sdss_g`, `HSC-G`."""
    return _WAVELENGTHS.get(re.split(r"[^A-Za-z0-9]+", name)[-1])
