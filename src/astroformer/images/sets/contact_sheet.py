"""A picture of some images side by side, each with its name under it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from astroformer.images.reading import Array

_TILE, _GAP, _TEXT = 128, 8, 11  # px


def draw_contact_sheet(images: Sequence[Array], names: Sequence[str], path: Path, *, columns: int = 10) -> None:
    """Writes a PNG of `images`, (H, W, C) uint8 with C of 1 or 3, up to `columns` a row."""
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    tile_width, tile_height = _TILE + _GAP, _TILE + _GAP + _TEXT + 4
    sheet = Image.new("RGB", (columns * tile_width + _GAP, rows * tile_height + _GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_TEXT)
    for k, (image, name) in enumerate(zip(images, names, strict=True)):
        left, top = _GAP + k % columns * tile_width, _GAP + k // columns * tile_height
        picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else np.ascontiguousarray(image[..., :3]))
        scale = _TILE / max(picture.size)
        size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        small = max(picture.size) < _TILE  # pixels of small images are shown as they are
        sheet.paste(picture.convert("RGB").resize(size, Image.Resampling.NEAREST if small else None), (left, top))
        text = name.replace("_", " ")
        while len(text) > 1 and draw.textlength(text, font) > _TILE:
            text = text.removesuffix("…")[:-1] + "…"
        draw.text((left, top + _TILE + 2), text, "black", font)
    sheet.save(path, "PNG")
