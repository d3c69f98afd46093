"""Asks an exported graph about image files, without torch: `python consumer.py graph.onnx image.jpg ...`

It needs numpy, Pillow and onnxruntime (for FITS files nothing more), and prints what `astroformer predict` writes: the
file, its class and the probability of that. The graph does the rest: it cuts, resizes, scales and calibrates.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def read(file: str, facts: dict[str, Any]) -> np.ndarray:
    """One image (1, height, width, channels) of the graph's type of pixels."""
    if file.endswith((".fits", ".fit")):  # of one plain image: cards of 80 characters in blocks of 2,880 bytes
        data = Path(file).read_bytes()
        end = data.index(b"END" + b" " * 77) // 2880 * 2880 + 2880
        cards = {data[i : i + 8].decode().strip(): data[i + 10 : i + 80].decode() for i in range(0, end, 80)}
        value = {name: int(cards[name].partition("/")[0]) for name in cards if name.startswith(("NAXIS", "BITPIX"))}
        shape = [value[f"NAXIS{axis}"] for axis in range(value["NAXIS"], 0, -1)]
        image = np.frombuffer(data, f">f{-value['BITPIX'] // 8}", int(np.prod(shape)), end).reshape(-1, *shape[-2:])
        image = np.moveaxis(image, 0, -1)
    else:
        picture = ImageOps.exif_transpose(Image.open(file))
        wide = picture.mode.startswith(("I;16", "F"))
        image = np.asarray(picture if wide else picture.convert("L" if facts["channels"] == 1 else "RGB"))
    if image.dtype.kind != np.dtype(facts["type"]).kind or (image.dtype.kind == "u" and image.dtype != facts["type"]):
        sys.exit(f"{file} is {image.dtype}, and the graph takes {facts['type']}; convert it before")
    return image.reshape(1, *image.shape[:2], -1).astype(facts["type"], order="C")


session = onnxruntime.InferenceSession(sys.argv[1])
facts = json.loads(session.get_modelmeta().custom_metadata_map["astroformer"])
for file in sys.argv[2:]:
    probabilities = session.run(None, {"images": read(file, facts)})[0][0]
    if np.isnan(probabilities).any():  # the model refuses the image
        print(f"{file},,")
        continue
    best = int(np.argmax(probabilities))
    print(f"{file},{facts['classes'][best]},{probabilities[best]:.6f}")
