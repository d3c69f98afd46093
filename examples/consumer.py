"""Asks an exported graph about image files, without torch: `python consumer.py graph.onnx image.jpg ... > answers.csv`

It needs numpy, Pillow, onnxruntime and, beside it, plain_fits.py. It prints the table that `astroformer predict`
writes: file, class, the probability of each class, and why an image can't be taken. The graph does the rest: it cuts,
resizes, scales and calibrates. What would be read otherwise than by the package is refused, since a wrong answer looks
like a right one. The exit status is 2 where no image could be answered.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps, UnidentifiedImageError

from plain_fits import is_fits, read_fits

Array = np.ndarray[Any, Any]
TIMES = 8  # as many times as bright as the training images, or as faint, is another unit


def read(file: str, facts: dict[str, Any]) -> Array:
    """An image (height, width, channels) as the graph takes it. Raises `ValueError` for any other."""
    data, bands, unit = Path(file).read_bytes(), None, ""
    if data.startswith((b"\x1f\x8b", b"BZh")):
        raise ValueError("it is packed; unpack it before, such as with gunzip")
    if is_fits(data):
        image, bands, unit = read_fits(data)
    else:
        image = read_picture(data, grey=facts["channels"] == 1)
    if (image.dtype, image.shape[2]) != (facts["type"], facts["channels"]):
        taken = f"{facts['channels']} of {facts['type']}"
        raise ValueError(f"the graph takes channels: {taken}, and it has {image.shape[2]} of {image.dtype}; convert it")
    if facts["bands"] not in (None, bands):
        found = "does not name its bands" if bands is None else f"has the bands {', '.join(bands)}"
        raise ValueError(f"it {found}, and the graph takes {', '.join(facts['bands'])}")
    if unit and any(own not in ("", unit) for own in facts.get("units") or ()):
        raise ValueError(f"its values are in {unit}, and the graph takes {', '.join(facts['units'])}")
    return image


def read_picture(data: bytes, *, grey: bool) -> Array:
    """A picture of 8 bits, upright, in grey or RGB whichever it was, or one of 16 bits in grey."""
    try:  # in memory, since Pillow 13 reads a turned TIFF of 16 bits wrongly where it is given its name
        picture = Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "TIFF", "WEBP", "BMP"))
    except UnidentifiedImageError:
        raise ValueError("it is damaged, or no JPEG, PNG, TIFF, WebP, BMP or plain FITS file") from None
    deep, tags = picture.mode.startswith("I;16"), getattr(picture, "tag_v2", {})
    if "transparency" in picture.info or not (deep or picture.mode in ("L", "RGB")):
        raise ValueError(f"it has the colours {picture.mode}; save it as grey or RGB, without transparency")
    # Pillow keeps 8 bits of several channels of 16, drops further bands (277), and leaves 16 bits inverted (262).
    lost = tags.get(277, 1) > len(picture.getbands()) or (";16" in str(picture.tile) and not deep)
    if lost or (deep and tags.get(262) == 0):
        raise ValueError(
            "some of its bits or bands would be lost; save it as RGB of 8 bits, or as grey where 0 is black"
        )
    if getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO":  # in which a camera keeps previews
        raise ValueError("it has several pages or frames; save one image a file")
    upright = ImageOps.exif_transpose(picture)
    image = np.asarray(upright).astype(np.uint16) if deep else np.asarray(upright.convert("L" if grey else "RGB"))
    return image.reshape(*image.shape[:2], -1)


def main(graph: str, files: list[str]) -> int:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns of each size that is not known before
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    facts = json.loads(session.get_modelmeta().custom_metadata_map.get("astroformer", "{}"))
    if facts.get("takes") != "pixels":
        sys.exit(f"{graph} does not take raw pixels; write one that does with astroformer export --takes pixels.")
    classes, brightest = facts["classes"], []
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["file", "prediction", "confidence", *(f"p:{name}" for name in classes), "error"])
    for file in files:
        try:
            image = read(file, facts)
            probabilities = session.run(None, {"images": image[None]})[0][0]
            if np.isnan(probabilities).any():
                raise ValueError("the model refuses its values: missing, infinite, beyond white or too large to keep")
        except Exception as error:  # damaged bytes make decoders raise nearly anything
            table.writerow([file, *[""] * (2 + len(classes)), " ".join(f"{error}".split()) or type(error).__name__])
            continue
        best = int(np.argmax(probabilities))
        table.writerow([file, classes[best], *(f"{p:.8g}" for p in (probabilities[best], *probabilities)), ""])
        brightest.append(np.nanmax(np.abs(image)) / (facts["white"] or 1))
    learned = (facts["range"] or [None, None])[1]  # between which limits the largest values of the training images lie
    if learned and brightest and not learned[0] / TIMES <= np.median(brightest) <= learned[1] * TIMES:
        print("the images are far brighter or fainter than those that the model learned from; is that the same unit?",
              file=sys.stderr)  # fmt: skip
    return 0 if brightest else 2


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(f"usage: {(__doc__ or '').splitlines()[0]}")
    sys.exit(main(sys.argv[1], sys.argv[2:]))
