"""A contact sheet: images side by side in rows, each with words under it, on as many pages as they need.

Shape letters: N images, C bands, H and W pixels.
"""

from __future__ import annotations

import importlib.util
import io
import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from astroformer.drawing import GREY, INK, PAGE, PALE, SMALL, USUAL, fitted, in_lines, new_figure, save, style
from astroformer.images.bands import Bands
from astroformer.images.reading import Array
from astroformer.images.scaling import Scaling

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LABEL, _GAP, _LINE, _TALLEST = 3.1, 0.12, 0.29, 24.0  # cm: of a row's name, between tiles, of a line, of a page
_LABEL_LETTERS = 22
_LUPTON = {"minimum": -0.005, "stretch": 0.06, "Q": 10}  # of values whose sky is 0, and 1 what 1 pixel in 200 exceeds
_DARK = 0.25  # share of what lies above the median, up to which what lies below it is the noise of a dark sky
_SIDE = 160  # px, the longer side of a tile at most, so that a PDF of many stays small
_TITLE_LETTERS = 115  # of a line of a title


class Tile(NamedTuple):
    """An image of a sheet.

    Attributes:
        image: (H, W) or (H, W, 3) uint8; None where there is none to show.
        lines: the words under it, each with its colour.
    """

    image: Array | None
    lines: tuple[tuple[str, str], ...] = ()


class Row(NamedTuple):
    """Images side by side, and what stands beside them."""

    tiles: Sequence[Tile]
    name: str = ""
    about: str = ""


@dataclass(frozen=True)
class ContactSheet:
    """Rows of images, with a title above them.

    Attributes:
        title: of one line or several.
        rows: from the top.
        columns: images that a row has room for.

    Examples:
        >>> import tempfile
        >>> black, white = np.zeros((8, 8), np.uint8), np.full((8, 8), 255, np.uint8)
        >>> sheet = ContactSheet("two", [Row([Tile(black), Tile(white)], "squares", "n = 2")], columns=2)
        >>> sheet.pages
        1
        >>> sheet.save(Path(tempfile.mkdtemp()) / "two.png")  # and two.pdf
    """

    title: str
    rows: Sequence[Row]
    columns: int

    @property
    def _label(self) -> float:
        return _LABEL if any(row.name for row in self.rows) else 0.0

    @property
    def _tile(self) -> tuple[float, float, float]:
        """Width and height of the place of an image, and the height of the words under it, in cm."""
        tiles = [tile for row in self.rows for tile in row.tiles]
        shapes = [tile.image.shape for tile in tiles if tile.image is not None]
        width = (PAGE - self._label - _GAP) / self.columns - _GAP
        height = width * min(1.5, max((shape[0] / shape[1] for shape in shapes), default=1.0))
        words = _LINE * max((len(tile.lines) for tile in tiles), default=0)
        return width, max(height, 2 * _LINE if self._label else 0.0), words + (0.1 if words else 0.0)

    @property
    def _heading(self) -> float:
        return 0.38 * (self.title.count("\n") + 1) + 0.2 if self.title else _GAP

    @property
    def rows_per_page(self) -> int:
        """How many rows a page has room for."""
        _, height, words = self._tile
        return max(1, int((_TALLEST - self._heading) / (height + words + _GAP)))

    @property
    def pages(self) -> int:
        """How many pages all rows take."""
        return max(1, math.ceil(len(self.rows) / self.rows_per_page))

    def save(self, path: Path) -> None:
        """Writes the first page as a PNG and, beside it, all pages as a PDF."""
        with style():
            first, *others = self._figures()
            save(first, path, *others)

    def png(self) -> bytes:
        """The first page as a PNG, for a notebook."""
        drawn = io.BytesIO()
        with style():
            next(self._figures()).savefig(drawn, format="png", dpi=150)
        return drawn.getvalue()

    def _figures(self) -> Iterator[Figure]:
        each = self.rows_per_page
        for page in range(self.pages):
            number = f"   page {page + 1} of {self.pages}" if self.pages > 1 else ""
            yield self._figure(self.rows[page * each : (page + 1) * each], number)

    def _figure(self, rows: Sequence[Row], number: str) -> Figure:
        """A page: everything on it lies in one frame, whose coordinates are cm from the upper left corner."""
        width, height, words = self._tile
        whole = self._heading + len(rows) * (height + words + _GAP) + _GAP
        figure = new_figure(PAGE, whole, layout=None)
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        if self.title:
            axes.text(_GAP, 0.12, self.title + number, va="top", fontsize=USUAL, linespacing=1.25)
        for k, row in enumerate(rows):
            top = self._heading + k * (height + words + _GAP)
            if row.name or row.about:
                lines = max(1, min(3, int(height / _LINE) - 1))
                name = in_lines(row.name, _LABEL_LETTERS, lines)
                name = "\n".join(fitted(line, _LABEL - 2 * _GAP) for line in name.split("\n"))
                axes.text(_GAP, top, name, va="top", fontsize=SMALL, linespacing=1.2)
                beneath = top + (_LINE * (name.count("\n") + 1) + 0.04 if name else 0)
                axes.text(_GAP, beneath, row.about, va="top", fontsize=SMALL, color=GREY)
            for place, tile in enumerate(row.tiles):
                left = self._label + _GAP + place * (width + _GAP)
                self._draw_tile(axes, tile, left, top, width, height)
                for n, (text, colour) in enumerate(tile.lines):
                    line = fitted(text, width)
                    axes.text(left, top + height + 0.06 + n * _LINE, line, va="top", fontsize=SMALL, color=colour)
        axes.set(xlim=(0, PAGE), ylim=(whole, 0), aspect="auto")  # an image sets them to its own
        axes.set_axis_off()
        return figure

    @staticmethod
    def _draw_tile(axes: Axes, tile: Tile, left: float, top: float, width: float, height: float) -> None:
        """An image as large as fits into its place, in the middle of it."""
        if tile.image is None:
            from matplotlib.patches import Rectangle

            axes.add_patch(Rectangle((left, top), width, height, facecolor="white", edgecolor=PALE))
            axes.text(left + width / 2, top + height / 2, "can't be\nread", ha="center", va="center", fontsize=SMALL,
                      color=INK)  # fmt: skip
            return
        h, w = tile.image.shape[:2]
        scale = min(width / w, height / h)
        image = tile.image
        if max(h, w) > _SIDE:
            small = round(w * _SIDE / max(h, w)) or 1, round(h * _SIDE / max(h, w)) or 1
            image = np.asarray(Image.fromarray(image).resize(small, Image.Resampling.LANCZOS))
        x, y = left + (width - w * scale) / 2, top + (height - h * scale) / 2
        axes.imshow(
            image,
            cmap="gray",
            vmin=0,
            vmax=255,
            interpolation="none",  # pixels of small images are shown as they are
            extent=(x, x + w * scale, y + h * scale, y),
        )


def in_title(*sentences: str | None) -> str:
    """Sentences as the lines of a title, each begun on a line of its own; one that is too long is broken at its
    semicolons, then between words."""
    lines: list[str] = []
    for text in filter(None, sentences):
        parts = [text] if len(text) <= _TITLE_LETTERS else text.replace("; ", ";\n").split("\n")
        lines += [line for part in parts for line in textwrap.wrap(part, _TITLE_LETTERS)]
    return "\n".join(lines)


def in_rows(tiles: Sequence[Tile], columns: int) -> list[Row]:
    """Tiles one after the other, so many a row."""
    return [Row(tiles[start : start + columns]) for start in range(0, len(tiles), columns)]


def visible(
    images: Sequence[Array], bands: Bands | None = None, scaling: Scaling | None = None
) -> tuple[list[Array], str | None]:
    """Images as a screen can show them, and a sentence where that is not just as they are.

    Args:
        images: each (C, H, W), of as many bands and of one type. uint8 is shown as it is. Of floats black and white
            are, in each band, the values that one pixel in 200 of all images lies below and above.
        bands: what the bands are, where that is known. Three or more that are not red, green and blue are shown by
            three of them, the longest wavelength as red. Where most pixels are dark sky that is done by Lupton's
            method, which is for pictures alone.
        scaling: of the images; bands are shown as they were before it.

    Returns:
        Each image as (H, W) or (H, W, 3) uint8: of one band as grey, of two the mean, of three as red, green and blue,
        of more the first three.
    """
    if not images:
        return [], None
    if bands is not None and len(bands) > 2 and not bands.rgb:
        return _false_colour(images, bands, scaling)
    channels, said = len(images[0]), []
    if channels > 3:
        said.append(f"bands 1, 2 and 3 of {channels} are shown as red, green and blue")
        images = [image[:3] for image in images]
    elif channels == 2:
        said.append("the mean of both bands is shown")
    low_C11 = np.zeros((1, 1, 1), np.float32)
    span_C11 = np.full((1, 1, 1), 255, np.float32)
    if images[0].dtype != np.uint8:
        pixels_CN = np.concatenate([image.reshape(len(image), -1) for image in images], axis=1)
        low_C, high_C = np.quantile(pixels_CN.astype(np.float32), [0.005, 0.995], axis=1)
        said.append(f"black to white: {', '.join(_ranges(low_C, high_C))}")
        low_C11, span_C11 = _ends(low_C, high_C)
    return [_on_screen(image, low_C11, span_C11) for image in images], "; ".join(said) or None


def _false_colour(images: Sequence[Array], bands: Bands, scaling: Scaling | None) -> tuple[list[Array], str]:
    """Three bands as red, green and blue.

    Of a dark sky with sources in it an asinh of their sum, from the sky on, that keeps colours, and that of a bright
    core too; of anything else, such as land, what is darkest is black and what is brightest white.
    """
    chosen = list(bands.red_green_blue())
    named = [bands.names[c] for c in chosen]
    said = f"the bands {named[0]}, {named[1]} and {named[2]} are shown as red, green and blue"
    linear = [image / np.float32(255) if image.dtype == np.uint8 else image.astype(np.float32) for image in images]
    if scaling is not None:
        linear = [scaling.inverse(image) for image in linear]
    colours = [image[chosen] for image in linear]
    pixels_CN = np.concatenate([image.reshape(3, -1) for image in colours], axis=1)
    dark_C, middle_C, high_C = np.quantile(pixels_CN, [0.005, 0.5, 0.995], axis=1).astype(np.float32)
    sky = bool((middle_C - dark_C <= _DARK * (high_C - middle_C)).all())
    low_C = middle_C if sky else dark_C
    low_C11, span_C11 = _ends(low_C, high_C)
    ranges = ", ".join(f"{name} {ends}" for name, ends in zip(named, _ranges(low_C, high_C), strict=True))
    if not sky or importlib.util.find_spec("astropy") is None:
        return [_on_screen(image, low_C11, span_C11) for image in colours], f"{said}; black to white: {ranges}"
    from astropy.visualization import make_lupton_rgb

    shown = [make_lupton_rgb(*((image - low_C11) / span_C11), **_LUPTON) for image in colours]
    return shown, f"{said} (Lupton et al. 2004); black to bright: {ranges}"


def _ranges(low_C: Array, high_C: Array) -> list[str]:
    """Both ends in words, with three digits of them: "0.0123 to 4.57", "71.7 to 1,620"."""

    def in_words(value: float) -> str:
        rounded = float(f"{value:.3g}")
        return f"{rounded:,.0f}" if 1000 <= abs(rounded) < 1e7 else f"{rounded:.3g}"

    return [f"{in_words(low)} to {in_words(high)}" for low, high in zip(low_C, high_C, strict=True)]


def _ends(low_C: Array, high_C: Array) -> tuple[Array, Array]:
    """(C, 1, 1) each: what is black, and how far above it white is; of one value all is black."""
    return low_C[:, None, None], np.where(high_C > low_C, high_C - low_C, 1.0)[:, None, None].astype(np.float32)


def _on_screen(image_CHW: Array, low_C11: Array, span_C11: Array) -> Array:
    """(H, W) or (H, W, 3) uint8 of up to three bands."""
    x_CHW = 255 * np.clip((image_CHW.astype(np.float32) - low_C11) / span_C11, 0, 1)
    x = x_CHW.mean(0) if len(x_CHW) < 3 else x_CHW.transpose(1, 2, 0)
    shown: Array = np.rint(x).astype(np.uint8)
    return shown
