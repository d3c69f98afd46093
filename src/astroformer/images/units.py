"""What the numbers of an image mean: their type, the value that is white, and the range that floats come in.

The same picture may come as uint8, as uint16, as floats from 0 to 255 or from 0 to 1. A network that learned from one
of these answers nonsense on another, so a model keeps the units of the images that it learned from, and an image in
others is converted where that needs no guess, or refused.

Shape letters: N images, C channels, H height, W width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from astroformer.errors import UserError, unknown_name
from astroformer.images.reading import Array

Pixels = Literal["uint8", "uint16", "float"]
PIXELS: tuple[Pixels, ...] = get_args(Pixels)
_WHITE_8, WHITE_16 = 255.0, 65535.0
# How many times as bright as the brightest training images, or as faint as the faintest, the middle one of other float
# images may be. Sets of one kind differ by less, and two units by more: 255, or the 16 between 12 and 16 bits.
_TIMES = 8.0
_DIM, _BRIGHT = 0.01, 0.99  # quantiles of the training images' largest values, and of their smallest ones
# How far the smallest value may lie below those of the training images, and above, as a share of the largest one. The
# noise of a subtracted sky reaches a little below 0, and misty pictures have nothing dark.
_BELOW, _ABOVE = 0.25, 0.5


def kind_of_pixels(dtype: np.dtype[Any]) -> Pixels:
    """What a type of pixels counts as.

    Raises:
        UserError: it is none that is understood.
    """
    dtype = dtype.newbyteorder("=")  # FITS is big-endian
    if dtype == np.uint16:
        return "uint16"
    if dtype in (np.uint8, np.bool_):
        return "uint8"
    if dtype.kind == "f":
        return "float"
    raise UserError(
        f"an image is {dtype}; uint8, uint16 and floats are understood. Save signed or wider whole numbers as float32."
    )


@dataclass(frozen=True)
class Units:
    """The units of the images that a network learns from.

    Attributes:
        pixels: the type of their pixels.
        white: of whole numbers, the value that is white: 255 for uint8, for uint16 what somebody states, such as 4095
            for 12 bits. None: nobody did.
        brightest: of floats, and of uint16 as shares of white, how large the largest value (without its sign) of an
            image is, for nearly all training images, after cropping and resizing, before scaling. None: not measured.
            What uses 12 of 16 bits looks like what uses all of them, but for this.
        darkest: the same of the smallest value of an image, with its sign. None: not measured, as in models of before.
            Images from -1 to 1, or with a constant subtracted, look like others but for this.

    Examples:
        >>> import numpy as np
        >>> deep = np.array([[[4095]]], np.uint16)
        >>> Units("uint8").shared(deep, white=4095)
        array([[[255]]], dtype=uint8)
        >>> Units("uint16", white=65535).shared(deep)
        array([[[0.06248569]]], dtype=float32)
    """

    pixels: Pixels
    white: float | None = None
    brightest: tuple[float, float] | None = None
    darkest: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.pixels not in PIXELS:
            raise unknown_name("type of pixels", self.pixels, PIXELS)
        for name in ("brightest", "darkest"):
            if getattr(self, name) is not None:
                low, high = map(float, getattr(self, name))
                object.__setattr__(self, name, (low, high))
        if self.pixels == "uint8" and self.white is None:
            object.__setattr__(self, "white", _WHITE_8)
        self._check_white(self.white, self.pixels, "the images are")

    def shared(self, image: Array, white: float | None = None) -> Array:
        """An image in these units: as it is if it is uint8 like these, whole numbers as shares of white (float32),
        floats as float32.

        Args:
            image: of any shape and of a type that `kind_of_pixels` knows.
            white: the value that is white in this image, if somebody states it; by default that of its type or, for
                an image of the same type, of these units.

        Raises:
            UserError: the image's units are others, and to convert it would be a guess.
        """
        kind = kind_of_pixels(image.dtype)
        self._check_white(white, kind, "an image is")
        if image.dtype == np.bool_:
            image = image.astype(np.uint8) * 255
        if "float" in (kind, self.pixels):
            if kind != self.pixels:
                raise UserError(
                    f"an image is {image.dtype}, and the model learned from {self}: floats have no white, so nothing "
                    "converts one into the other without a guess. Give images of the type that it learned from."
                )
            with np.errstate(over="ignore"):  # a float64 beyond float32 is refused when it is stored
                return image.astype(np.float32)
        of_kind = _WHITE_8 if kind == "uint8" else self.white if kind == self.pixels else None
        of_image = white if white is not None else of_kind
        if kind == self.pixels == "uint8":
            return image
        if of_image is None and kind != self.pixels:
            raise UserError(
                f"an image is {image.dtype}, and the model learned from {self}. State the value that is white in these "
                "images with --white (white=… in Python): 65535 if they use all 16 bits, 4095 for 12 bits. A run that "
                "trains on uint8 and validates on uint16 needs --pixels uint16 beside it."
            )
        if self.white is None and of_image is not None:
            raise UserError(
                f"an image is {image.dtype} with white at {of_image:g}, and the model learned from {self}, whose white "
                "nobody stated. Give images like those without --white, or train again with --white."
            )
        scale = of_image or WHITE_16
        if image.size and image.max() > scale:
            raise UserError(
                f"an image has the value {image.max()}, and white is stated as {scale:g}; state the largest value that "
                "these images can have."
            )
        share = image.astype(np.float32)
        share /= np.float32(scale)  # in place: an image may be large
        return np.rint(share * 255).astype(np.uint8) if self.pixels == "uint8" else share

    def check_brightness(self, images: Iterable[Array], *, padded: bool = False) -> None:
        """Raises a UserError if images are, by their median, far brighter, fainter or otherwise shifted than all
        training images.

        A single one may well be: a bright star among galaxies. Images of zeros alone do not count.

        Args:
            images: as they are stored; scaled ones as they were before that.
            padded: whether there may be a frame of zeros around an image, which is not its darkest part.
        """
        if self.brightest is None:
            return
        found_N2 = _extremes(images, padded)
        if not len(found_N2):
            return
        (smallest, largest), (low, high) = np.median(found_N2, axis=0).tolist(), self.brightest
        scale = 1.0 if self.pixels == "float" else self.white or WHITE_16
        if not low / _TIMES <= largest <= high * _TIMES:
            state = "" if self.white is None else ", state what is white in these with --white"
            raise UserError(
                f"the images have largest values about {largest * scale:.4g}, and the model learned from images whose "
                f"largest values are {low * scale:.4g} to {high * scale:.4g}. They are in another unit, or show "
                f"something else: give images in the unit of those{state}, or train on such as these."
            )
        if self.darkest is None:
            return
        # Where images are brighter or fainter as a whole, which is allowed, so are their smallest values.
        shares = (min(1.0, largest / low), max(1.0, largest / high))
        least = min(share * self.darkest[0] for share in shares) - _BELOW * largest
        most = max(share * self.darkest[1] for share in shares) + _ABOVE * largest
        if not least <= smallest <= most:
            first, last = (f"{end * scale:.4g}" for end in self.darkest)
            raise UserError(
                f"the images have smallest values about {smallest * scale:.4g}, and the model learned from images "
                f"whose smallest values are {first} to {last}. Something was subtracted from them or added to them, or "
                "they were scaled to another range, such as -1 to 1: undo that, so that the values are like those that "
                "the model learned from, or train on such as these."
            )

    def __str__(self) -> str:
        white = f" with white at {self.white:g}" if self.white is not None and self.pixels == "uint16" else ""
        return f"{self.pixels}{'s' if self.pixels == 'float' else ''}{white}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON keeps them; `from_dict` is the way back."""
        words = {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}
        if self.darkest is None:  # so models and stores of before stay what they are
            del words["darkest"]
        return words

    @classmethod
    def from_dict(cls, words: Mapping[str, Any]) -> Units:
        """Rebuild from `to_dict`. Raises `UserError` for an unknown word, `TypeError` for a wrong value."""
        known = [f.name for f in dataclasses.fields(cls)]
        for word in words:
            if word not in known:
                raise unknown_name("word of the units", word, known)
        ends = [None if words.get(k) is None else (words[k][0], words[k][1]) for k in ("brightest", "darkest")]
        return cls(words["pixels"], words.get("white"), *ends)

    @staticmethod
    def _check_white(white: float | None, pixels: Pixels, what: str) -> None:
        largest = {"uint8": _WHITE_8, "uint16": WHITE_16, "float": None}[pixels]
        if white is None:
            return
        if largest is None:
            raise UserError(f"white is {white:g}, but {what} floats, which have no white; leave --white out.")
        if pixels == "uint8" and white != _WHITE_8:
            raise UserError(f"white is {white:g}, but {what} uint8, whose white is 255; leave --white out.")
        if not 0 < white <= largest:
            raise UserError(
                f"white is {white:g}, but {what} {pixels}; a value above 0 and up to {largest:g} is needed."
            )


def measured(
    units: Units,
    array_NCHW: NDArray[Any] | Iterable[Array],
    rows: NDArray[np.integer] | None = None,
    *,
    padded: bool = False,
) -> Units:
    """Units with `brightest` and `darkest` of images, as they are stored or before they are scaled: between which
    bounds the largest and the smallest values of nearly all of them lie.

    Images of zeros alone say nothing of a unit and do not count; both are None if all are.

    Args:
        array_NCHW: the images. They are read one by one, so they may be larger than memory.
        rows: those of an array that count; all by default.
        padded: see `Units.check_brightness`.
    """
    images: Iterable[Array] = array_NCHW
    if rows is not None:
        assert isinstance(array_NCHW, np.ndarray), "rows are those of an array"
        images = (array_NCHW[int(i)] for i in rows)
    found_N2 = _extremes(images, padded)
    if not len(found_N2):
        return dataclasses.replace(units, brightest=None, darkest=None)
    (dark_low, bright_low), (dark_high, bright_high) = np.quantile(found_N2, [_DIM, _BRIGHT], axis=0).tolist()
    return dataclasses.replace(units, brightest=(bright_low, bright_high), darkest=(dark_low, dark_high))


def _extremes(images: Iterable[Array], padded: bool) -> NDArray[np.float64]:
    """(N, 2) the smallest value of each image that is not all zeros, and the size of its largest one.

    Of padded images a smallest value above 0 counts as 0, whether or not this one has a frame of zeros.
    """
    found = [(float(image.min()), float(image.max())) for image in images]
    pairs = [(min(low, 0.0) if padded else low, max(abs(low), abs(high))) for low, high in found if low or high]
    return np.array(pairs, np.float64).reshape(-1, 2)
