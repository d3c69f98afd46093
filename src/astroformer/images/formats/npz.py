"""`.npz` files: an array of images, or encoded images one after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from astroformer.errors import UserError, unknown_name
from astroformer.images.floats import why_not_float32
from astroformer.images.formats.format import Format
from astroformer.images.hashes import hash_array, hash_bytes
from astroformer.images.labelled import LabelledImages, Reader
from astroformer.images.names import class_name, encode_labels
from astroformer.images.reading import Array, UnreadableImage, read_image


@dataclass(frozen=True)
class ArrayReader:
    """Reads image i from an array `(N, H, W)`, `(N, H, W, C)` or, if `channels_first`, `(N, C, H, W)`."""

    name: str
    images: Array
    channels_first: bool

    def __call__(self, i: int) -> Array:
        image = self.images[i]
        if image.dtype == np.bool_:
            image = image.astype(np.uint8) * 255
        elif image.dtype.kind == "f":
            if (why := why_not_float32(image)) is not None:
                raise UnreadableImage(f"{self.name}#{i}", why)
            image = image.astype(np.float32)
        if image.ndim == 2:
            return image[:, :, None]
        return np.ascontiguousarray(image.transpose(1, 2, 0)) if self.channels_first else image

    def digests(self, indices: NDArray[np.int64], cache: Path | None) -> Iterator[bytes]:
        layout = b"CHW" if self.channels_first else b"HWC"
        return (hash_bytes(layout + hash_array(self.images[int(i)])) for i in indices)


@dataclass(frozen=True)
class JpegReader:
    """Reads image i from the encoded bytes `data[offsets[i]:offsets[i+1]]`."""

    name: str
    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]

    def __call__(self, i: int) -> Array:
        return read_image(self._slice(i).tobytes(), name=f"{self.name}#{i}")

    def _slice(self, i: int) -> NDArray[np.uint8]:
        return self.data[self.offsets[i] : self.offsets[i + 1]]

    def digests(self, indices: NDArray[np.int64], cache: Path | None) -> Iterator[bytes]:
        return (hash_bytes(self._slice(int(i)).data) for i in indices)


def _open_npz(path: Path, labelled: bool, options: Mapping[str, str]) -> LabelledImages:
    layout = options.get("layout")
    arrays: dict[str, Array] = {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            keys = list(archive.files)
            wanted = {"images", "jpeg", "offsets"} | ({"labels", "classes"} if labelled else set())
            for key in keys:
                if key in wanted:
                    arrays[key] = archive[key]
    except ValueError as error:
        if "pickle" in str(error):
            raise UserError(
                f"'{path}' holds Python objects, which are never loaded: they could run code. Save plain arrays; class "
                "names as np.array(names) of text, images of one size as one array."
            ) from None
        raise UserError(f"'{path}' is not an .npz file or is damaged ({error}).") from None
    except (BadZipFile, EOFError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"'{path}' is not an .npz file or is damaged ({error}).") from None
    except MemoryError:
        raise UserError(f"'{path}' is larger than the memory; keep such a set as image files and a catalog.") from None
    except OSError:
        raise
    except Exception as error:  # zlib.error among others: damaged bytes
        raise UserError(f"'{path}' is damaged ({error}).") from None
    has = f"it has {', '.join(keys) or 'nothing'}"
    if "images" in arrays and "jpeg" in arrays:
        raise UserError(f"'{path}' has both 'images' and 'jpeg'; keep one of them.")
    if "images" in arrays:
        reader: Reader = _array_reader(path, arrays["images"], layout)
        n = len(arrays["images"])
    elif "jpeg" in arrays and "offsets" in arrays:
        if layout is not None:
            raise UserError(f"'{path}': @layout applies to an array of images, not to encoded ones.")
        reader = _jpeg_reader(path, arrays["jpeg"], arrays["offsets"])
        n = len(arrays["offsets"]) - 1
    else:
        raise UserError(f"'{path}' needs 'images', or 'jpeg' and 'offsets'; {has}.")
    files = [f"{path.name}#{i}" for i in range(n)]
    ignored = [f"{path.name}: {key} (not read)" for key in keys if key not in arrays]
    if not labelled:
        return LabelledImages("", files, None, (), reader, ignored)
    if "labels" not in arrays:
        raise UserError(f"'{path}' has no 'labels'; {has}.")
    labels, classes = _npz_labels(path, arrays["labels"], arrays.get("classes"), n)
    return LabelledImages("", files, labels, classes, reader, ignored)


def _array_reader(path: Path, images: Array, layout: str | None) -> ArrayReader:
    if images.ndim not in (3, 4) or 0 in images.shape:
        raise UserError(
            f"'{path}': 'images' has shape {images.shape}; (N, H, W), (N, H, W, C) or (N, C, H, W) is read."
        )
    images = images.astype(images.dtype.newbyteorder("="), copy=False)
    if images.dtype not in (np.uint8, np.uint16, np.bool_) and images.dtype.kind != "f":
        raise UserError(
            f"'{path}': 'images' is {images.dtype}; uint8, uint16 and floats are read. Save signed or wider whole "
            "numbers as images.astype('float32')."
        )
    if layout not in (None, "NHWC", "NCHW"):
        raise unknown_name("layout", layout, ("NHWC", "NCHW"))
    if images.ndim == 3:
        if layout is not None:
            raise UserError(
                f"'{path}': 'images' has shape {images.shape}, without channels; leave @layout={layout} out."
            )
        return ArrayReader(path.name, images, False)
    if layout is None:
        layout = "NHWC" if images.shape[3] in (1, 3, 4) else "NCHW" if images.shape[1] in (1, 3, 4) else None
    if layout is None:
        raise UserError(
            f"'{path}': 'images' has shape {images.shape}, and no axis of 1, 3 or 4 that would be the channels; say "
            "@layout=NHWC or @layout=NCHW after the path."
        )
    return ArrayReader(path.name, images, layout == "NCHW")


def _jpeg_reader(path: Path, data: Array, offsets: Array) -> JpegReader:
    if data.dtype != np.uint8 or data.ndim != 1:
        raise UserError(f"'{path}': 'jpeg' is {data.dtype} of shape {data.shape}; it should be one row of uint8.")
    fits = offsets.ndim == 1 and offsets.dtype.kind in "iu" and len(offsets) >= 1
    if not fits or offsets[0] < 0 or offsets[-1] > len(data) or (offsets[1:] < offsets[:-1]).any():
        raise UserError(
            f"'{path}': 'offsets' should be whole numbers that rise from 0 to the length of 'jpeg', {len(data)}."
        )
    return JpegReader(path.name, data, offsets.astype(np.int64))


def _npz_labels(path: Path, labels: Array, classes: Array | None, n: int) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    if labels.shape == (n, 1):
        labels = labels[:, 0]
    whole = labels.dtype.kind == "f" and np.isfinite(labels).all() and (labels == np.floor(labels)).all()
    if labels.shape != (n,) or not (labels.dtype.kind in "iuUSb" or whole):
        raise UserError(
            f"'{path}': 'labels' is {labels.dtype} of shape {labels.shape}; one whole number or name for each of the "
            f"{n} images is needed (one-hot rows: labels.argmax(1))."
        )
    names = None if classes is None else tuple(class_name(c) for c in classes.reshape(-1))
    if names is not None:
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if repeated:
            raise UserError(f"'{path}': 'classes' names '{repeated[0]}' twice; give every class its own name.")
    if labels.dtype.kind in "US":
        return encode_labels([class_name(v) for v in labels], names, str(path))
    if names is None:
        return encode_labels([str(int(v)) for v in labels], None, str(path))
    numbers = labels.astype(np.int64)
    if n and (numbers.min() < 0 or numbers.max() >= len(names)):
        bad = int(numbers[(numbers < 0) | (numbers >= len(names))][0])
        raise UserError(
            f"'{path}': the label {bad} has no class; 'classes' names {len(names)}, so labels are 0 to "
            f"{len(names) - 1}."
        )
    return numbers, names


NPZ = Format("an .npz", lambda path: path.suffix.lower() == ".npz", _open_npz, options=("layout",))
