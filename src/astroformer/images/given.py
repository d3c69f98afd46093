"""Images that a program hands over: paths, bytes, arrays, tensors, Pillow's images, or several of these."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from astroformer.errors import UserError
from astroformer.files import is_url, without_secrets
from astroformer.images.bands import Bands
from astroformer.images.floats import why_not_float32
from astroformer.images.labelled import LabelledImages
from astroformer.images.reading import Array, UnreadableImage, array_of, read_image
from astroformer.images.sets.download import Listener
from astroformer.images.sources import open_source

Given = str | Path | bytes | bytearray | memoryview | NDArray[Any] | Tensor | Image.Image
Images = Given | LabelledImages | Iterable[Given]
"""What may be asked about, see `as_images`."""

_BYTES = (bytes, bytearray, memoryview)
_ONE = (str, Path, *_BYTES, np.ndarray, Tensor, Image.Image)
IN_MEMORY = "images in memory"
"""The source of images that were not named by a path."""


def as_images(
    images: Images, listener: Listener | None = None, bands: Sequence[str] | Bands | None = None
) -> LabelledImages:
    """Images without labels, from whatever a program has.

    Args:
        images: a path, opened as a source (image, folder, `.npz`, catalog, set by name); `LabelledImages`; one image or
            several: an array (H, W), (H, W, C) or (N, H, W, C), a tensor (H, W), (C, H, W) or (N, C, H, W), an image of
            Pillow, the bytes of an image file, or an iterable of these and of paths of image files.
        listener: what is told of a download.
        bands: the names of their bands, in their order or in one text with commas between them, or `Bands` with their
            units, where they do not say it themselves.

    Raises:
        UserError: it is nothing of the kind, or it says that it has other bands.

    Examples:
        >>> import numpy as np
        >>> as_images([np.zeros((8, 8), np.uint8), Image.new("RGB", (4, 4))]).files
        ['0', '1']
    """
    if bands is not None:
        opened = as_images(images, listener)
        if isinstance(bands, str):
            bands = [name.strip() for name in bands.split(",")]
        named = bands if isinstance(bands, Bands) else Bands(tuple(bands))
        if opened.bands is None:
            return replace(opened, bands=named)
        named.check(opened.bands, "you have named", f"those of '{opened.source}'")
        return opened
    if isinstance(images, LabelledImages):
        return images
    if isinstance(images, str | Path):
        return open_source(images, labelled=False, listener=listener)
    if isinstance(images, Tensor):
        images = _array_of_tensor(images, most=4)
    if isinstance(images, np.ndarray):
        if images.ndim not in (2, 3, 4):
            raise UserError(f"an array of shape {images.shape} is no image; (H, W), (H, W, C) or (N, H, W, C) is.")
        stack = images if images.ndim == 4 else (images[None] if images.ndim == 3 else images[None, :, :, None])
        return _numbered(stack)
    if isinstance(images, (*_BYTES, Image.Image)):
        return _numbered([images])
    if isinstance(images, io.IOBase):
        raise UserError(f"an opened file ({type(images).__name__}) is no image; give what its read() gives, or a path.")
    if not isinstance(images, Iterable) or isinstance(images, Mapping):
        raise UserError(
            f"{type(images).__name__} is no image; give a path, an array, a tensor (C, H, W), an image of Pillow, the "
            "bytes of an image file, or several of these."
        )
    several = list(images)
    if several and all(isinstance(one, str | Path) for one in several):
        if elsewhere := [one for one in several if is_url(one)]:
            shown = without_secrets(str(elsewhere[0]))
            raise UserError(f"'{shown}' stands in a list, which names files here; open a URL with open_source.")
        return LabelledImages("files", [str(one) for one in several], None, (), _read_each(several))
    for one in several:
        if not isinstance(one, _ONE):
            raise UserError(
                f"a list of images holds {type(one).__name__}; give paths, arrays (H, W, C), tensors (C, H, W), images "
                "of Pillow or the bytes of image files."
            )
    return _numbered(several)


def _numbered(images: Any) -> LabelledImages:
    names = [str(one) if isinstance(one, str | Path) else str(i) for i, one in enumerate(images)]
    return LabelledImages(IN_MEMORY, names, None, (), _read_each(images))


def _read_each(images: Any) -> Any:
    def read(i: int) -> Array:
        return _read(images[i], str(i))

    return read


def _read(image: Given, name: str) -> Array:
    if isinstance(image, _BYTES):
        return read_image(bytes(image), name=name)
    if isinstance(image, Image.Image):
        return array_of(image, name)
    if isinstance(image, Tensor):
        image = _array_of_tensor(image, most=3)
    if isinstance(image, np.ndarray):
        if image.ndim not in (2, 3):
            raise UserError(f"an array of shape {image.shape} is no image; (H, W) or (H, W, C) is.")
        if np.ma.is_masked(image):
            if image.dtype.kind != "f":
                raise UserError(
                    f"an array of {image.dtype} has masked values, which no network knows; fill them in first "
                    "(.filled(value))."
                )
            image = np.ma.filled(image, np.nan)  # a masked pixel is one without a value
        image = np.asarray(image, image.dtype.newbyteorder("="))  # in the machine's byte order, as files are read
        if image.dtype.kind == "f":
            if (why := why_not_float32(image)) is not None:
                raise UnreadableImage(name, why)
            image = image.astype(np.float32, copy=False)
        return image if image.ndim == 3 else image[:, :, None]
    return read_image(image)


def _array_of_tensor(tensor: Tensor, most: int) -> Array:
    """(H, W), (H, W, C) or (N, H, W, C) from a tensor whose channels come before its rows."""
    if not 2 <= tensor.ndim <= most:
        shapes = "(H, W) or (C, H, W)" if most == 3 else "(H, W), (C, H, W) or (N, C, H, W)"
        raise UserError(f"a tensor of shape {tuple(tensor.shape)} is no image; {shapes} is.")
    tensor = tensor.detach().cpu()
    array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array if array.ndim == 2 else np.moveaxis(array, -3, -1)
