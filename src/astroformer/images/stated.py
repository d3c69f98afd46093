"""What a source states of its images beside their bands: how large they are on the sky, their zero points, and which
values stand for none.

A network sees none of it. One that learned from cutouts of 20 arcsec takes a galaxy in one of 40 arcsec for a galaxy of
half the size, and values of another zero point for other fluxes, so a model keeps what its training images stated.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from astroformer.errors import unknown_name

Range = tuple[float, float]
"""The smallest and the largest number of some."""

_SIDE = 1.2  # times as large, or as small, as all training images another image may be before that is said
_MIXED = 1.5  # times the smallest training image the largest one has, from which single images tell nothing
_MAGNITUDES = 0.05  # by which zero points may differ before that is said


@dataclass(frozen=True)
class Stated:
    """What is stated of some images, by their headers or by whoever named them; None, or nothing, where nobody does.

    Attributes:
        side: arcsec of sky along the shorter side of an image.
        pixel: arcsec of sky along a pixel.
        zero_points: the magnitude of the value 1, one a band.
        blank: values that stand for none (`@blank=`), as `reading_as_missing` writes them.

    Examples:
        >>> learned, found = Stated(zero_points=((22.5, 22.5),)), Stated(zero_points=((23.9, 23.9),))
        >>> [sentence] = learned.differences(found)
        >>> sentence.split(": ")[1]
        'the same source has 3.63 times the value. Scale the images to one zero point'
    """

    side: Range | None = None
    pixel: Range | None = None
    zero_points: tuple[Range | None, ...] = ()
    blank: tuple[str, ...] = ()

    def reading_as_missing(self, values: Iterable[float]) -> Stated:
        """The same of images of which these values are read as missing ones; an infinite one stands for both.

        Examples:
            >>> Stated().reading_as_missing([-9999, float("-inf"), -0.0]).blank
            ('-9999', '0', 'inf')
        """
        words = {str(abs(value) if math.isinf(value) else float(value) + 0.0).removesuffix(".0") for value in values}
        return dataclasses.replace(self, blank=tuple(sorted(words)))

    @classmethod
    def of_each(cls, several: Iterable[Stated]) -> Stated:
        """What images state together, of which each states something or nothing."""
        found = list(several)
        # One of other bands than most is an image that can't be read, or a set that is refused.
        bands = max((len(one.zero_points) for one in found), default=0)
        points = zip(*(one.zero_points for one in found if len(one.zero_points) == bands), strict=True)
        together = tuple(_around(each) for each in points)
        blank = tuple(word for word in found[0].blank if all(word in one.blank for one in found)) if found else ()
        return cls(_around(one.side for one in found), _around(one.pixel for one in found), together, blank)

    @classmethod
    def of_bands(cls, each: Sequence[Stated]) -> Stated:
        """What is stated of images whose bands lie apart, by what is stated of each band."""
        points = tuple(one.zero_points[0] if one.zero_points else None for one in each)
        side, pixel = _around(one.side for one in each), _around(one.pixel for one in each)
        return cls(side, pixel, points if any(points) else ())

    def differences(
        self, found: Stated, learned: str = "the model learned from", images: str = "these images"
    ) -> list[str]:
        """Sentences where images are not stated to be as large on the sky as these, of the same zero point, and without
        the same values.

        Args:
            found: what is stated of the images.
            learned, images: how a sentence names both sides.
        """
        said = []
        if self.side is not None and found.side is None:
            said.append(f"{images} do not say how large they are on the sky; {learned} {self._size()} along a side")
        elif self.side is not None and found.side is not None and _is_beyond(found.side, self.side):
            smaller = sum(found.side) > sum(self.side)
            said.append(
                f"{images} show {found._size('arcsec of sky along a side')}, and {learned} {self._size('')}, so all "
                f"things look {'smaller' if smaller else 'larger'} to the network: give images that show as much sky "
                f"(@size={self.side[0]:.4g}arcsec cuts such out of a mosaic), or train on such as these"
            )
        if (point := self._zero_point(found, learned, images)) is not None:
            said.append(point)
        if words := ",".join(word for word in self.blank if word not in found.blank):
            said.append(
                f"{learned} images of which @blank={words} reads values as missing, and {images} are read without it: "
                "say it behind the name of FITS files, and write NaN for these values in others"
            )
        return said

    def _size(self, unit: str = "arcsec") -> str:
        assert self.side is not None
        pixel = "" if self.pixel is None else f" ({_words(self.pixel)} a pixel)"
        return f"{_words(self.side)}{' ' if unit else ''}{unit}{pixel}"

    def _zero_point(self, found: Stated, learned: str, images: str) -> str | None:
        own, other = self.zero_points, found.zero_points
        if not any(own):
            named = f"{images} state zero points of {_points(other)}" if any(other) else None
            return named and f"{named}, and {learned} images that state none: see that they are the same"
        if not any(other):
            return f"{images} state no zero point, and {learned} zero points of {_points(own)}: see that it is theirs"
        pairs = [(a, b) for a, b in zip(own, other, strict=False) if a and b]
        off = [b[0] - a[1] if b[0] > a[1] else b[1] - a[0] if b[1] < a[0] else 0.0 for a, b in pairs]
        largest = max(off, key=abs, default=0.0)
        if abs(largest) <= _MAGNITUDES:
            return None
        return (
            f"{images} state zero points of {_points(other)}, and {learned} zero points of {_points(own)}: the same "
            f"source has {10 ** (0.4 * largest):.3g} times the value. Scale the images to one zero point"
        )

    def notes(self) -> list[str]:
        """What is to be said of a set whose images state different things."""
        apart = max((high - low for low, high in filter(None, self.zero_points)), default=0.0)
        if apart <= _MAGNITUDES:
            return []
        return [
            f"zero points differ from file to file, from {_points(self.zero_points)}: the same source has up to "
            f"{10 ** (0.4 * apart):.3g} times the value. Scale the images to one zero point"
        ]

    def to_dict(self) -> dict[str, Any]:
        """As JSON keeps it; `from_dict` is the way back."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v}

    @classmethod
    def from_dict(cls, words: Mapping[str, Any]) -> Stated:
        """Rebuild from `to_dict`. Raises `UserError` for an unknown word, `TypeError` for a wrong value."""
        known = [f.name for f in dataclasses.fields(cls)]
        for word in words:
            if word not in known:
                raise unknown_name("word of what is stated", word, known)
        side, pixel = (_range(words.get(name)) for name in ("side", "pixel"))
        points, blank = words.get("zero_points", ()), words.get("blank", ())
        return cls(side, pixel, tuple(map(_range, points)), tuple(map(str, blank)))


def _range(found: Sequence[float] | None) -> Range | None:
    return None if found is None else (float(found[0]), float(found[1]))


def _around(ranges: Iterable[Range | None]) -> Range | None:
    """From the smallest end of ranges to the largest one."""
    known = [each for each in ranges if each is not None]
    return (min(low for low, _ in known), max(high for _, high in known)) if known else None


def _is_beyond(found: Range, learned: Range) -> bool:
    """Whether images are larger or smaller than those of a model; of many sizes their middle counts."""
    low, high = found
    if learned[1] > _MIXED * learned[0]:
        low = high = (low * high) ** 0.5
    return low < learned[0] / _SIDE or high > learned[1] * _SIDE


def _words(ends: Range) -> str:
    low, high = (f"{end:.3g}" for end in ends)
    return low if low == high else f"{low} to {high}"


def _points(points: Iterable[Range | None]) -> str:
    """Zero points in words, of all bands together."""
    ends = _around(points)
    assert ends is not None
    low, high = (f"{end:.5g}" for end in ends)
    return low if low == high else f"{low} to {high}"
