"""Small pictures, small archives in the formats of the published sets, and sets that fetch them from a server."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import pickle
import struct
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from astroformer.images.labelled import LabelledImages
from astroformer.images.sets import NAMED_SETS, NamedSet
from astroformer.images.sets.download import Resource
from helpers.serving import Answer, Server


def picture(value: int) -> np.ndarray:
    return np.full((6, 8, 3), value, np.uint8)


def write_picture(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(value)).save(path)
    return path


def save_npz(path: Path, **arrays: object) -> Path:
    np.savez(path, **{k: np.asarray(v) for k, v in arrays.items()})  # type: ignore[arg-type]
    return path


def two_kinds_of_radio_sources(data: Path) -> Path:
    """Writes `mirabest/train.npz` into the folder: 624 images with one blob or two."""
    rng = np.random.default_rng(0)
    y, x = np.indices((32, 32))
    images = rng.integers(0, 40, (624, 32, 32)).astype(np.uint8)
    labels = np.arange(624) % 2
    for image, label in zip(images, labels, strict=True):
        for dx in (-8, 8) if label else (0,):
            image += (200 * np.exp(-((y - 16) ** 2 + (x - 16 - dx) ** 2) / 8)).astype(np.uint8)
    (data / "mirabest").mkdir()
    save_npz(data / "mirabest" / "train.npz", images=images, labels=labels, classes=["one", "two"])
    return data


def same_from_threads_and_pickled(images: LabelledImages) -> None:
    again = pickle.loads(pickle.dumps(images.reader))
    with ThreadPoolExecutor(4) as pool:
        for i, read in enumerate(pool.map(images.read, range(len(images)))):
            np.testing.assert_array_equal(read, again(i))


def records(labels: np.ndarray, label_bytes: int = 1, seed: int = 0) -> bytes:
    """CIFAR's records: label bytes (coarse before fine), then 3,072 of pixels."""
    images = np.random.default_rng(seed).integers(0, 256, (len(labels), 3072), np.uint8)
    fine = labels.astype(np.uint8)[:, None]
    return np.concatenate([fine // 5, fine, images] if label_bytes == 2 else [fine, images], axis=1).tobytes()


def tar(members: dict[str, bytes], folder: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def cifar10_members(a_class: int = 5) -> dict[str, bytes]:
    """Five batches of `a_class` images of each class, and a test batch of two."""
    names = "\n".join(NAMED_SETS["cifar10"].classes) + "\n\n"
    labels = np.tile(np.arange(10), a_class)
    batches = {f"data_batch_{i}.bin": records(labels, seed=i) for i in range(1, 6)}
    return {"batches.meta.txt": names.encode(), **batches, "test_batch.bin": records(labels[:20], seed=9)}


def cifar100_members() -> dict[str, bytes]:
    names = "\n".join(NAMED_SETS["cifar100"].classes) + "\n"
    labels = np.tile(np.arange(100), 2)
    return {
        "fine_label_names.txt": names.encode(),
        "train.bin": records(labels, 2, 1),
        "test.bin": records(labels[:100], 2, 2),
    }


def idx(array: np.ndarray) -> bytes:
    return gzip.compress(bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes())


def fashion_files(n: int = 30) -> dict[str, bytes]:
    images = np.random.default_rng(0).integers(0, 256, (n, 28, 28), np.uint8)
    labels = (np.arange(n) % 10).astype(np.uint8)
    return {
        "train-images-idx3-ubyte.gz": idx(images),
        "train-labels-idx1-ubyte.gz": idx(labels),
        "t10k-images-idx3-ubyte.gz": idx(images[:10]),
        "t10k-labels-idx1-ubyte.gz": idx(labels[:10]),
    }


def jpeg(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((64, 64, 3), value, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def tiny_imagenet_members() -> dict[str, bytes]:
    """Three classes with images 0, 2 and 10; image k of class c is of the grey 60 c + 2 k."""
    classes = ("n02", "n01", "n03")
    members = {"": b"", "wnids.txt": "\n".join(classes).encode(), "words.txt": b"n01\tgoldfish\n"}
    for c, name in enumerate(sorted(classes)):
        members[f"train/{name}/{name}_boxes.txt"] = b"0 0 1 1"
        members |= {f"train/{name}/images/{name}_{k}.JPEG": jpeg(60 * c + 2 * k) for k in (10, 2, 0)}
    members |= {f"val/images/val_{i}.JPEG": jpeg(10 * i) for i in range(4)}
    members["val/val_annotations.txt"] = b"val_1.JPEG\tn03\t0\t9\nval_0.JPEG\tn01\t0\t9\nval_3.JPEG\tn02\t0\t9\n"
    members["test/images/test_0.JPEG"] = jpeg(0)
    return members


def zipped(members: dict[str, bytes], root: str = "tiny-imagenet-200/") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(root + name, data)
    return buffer.getvalue()


def galaxy10_columns(n: int = 200) -> dict[str, np.ndarray]:
    """n galaxies; of the first forty each even one lies 20 arcsec from the next, on both sides of 0°."""
    rng = np.random.default_rng(0)
    ra, dec = 8.0 * np.arange(n) % 360, np.linspace(-60, 60, n)
    ra[0:40:2] = 360 - 10 / 3600
    ra[1:40:2] = 10 / 3600
    dec[1:40:2] = dec[0:40:2]
    return {
        "images": rng.integers(0, 256, (n, 16, 16, 3), np.uint8),
        "ans": (np.arange(n) % 10).astype(np.uint8),
        "ra": ra,
        "dec": dec,
        "pxscale": np.full(n, 67 / 16),
        "redshift": rng.random(n),
    }


def hdf5(path: Path, columns: dict[str, np.ndarray]) -> bytes:
    import h5py

    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            words = {"chunks": (7, 8, 16, 1), "compression": "gzip"} if values.ndim == 4 else {}
            file.create_dataset(name, data=values, **words)
    return path.read_bytes()


def serve(server: Server, name: str, *files: bytes, **answer: object) -> NamedSet:
    """The declared set `name`, but of these files, in the declared order, from the server."""
    declared = NAMED_SETS[name]
    resources = []
    for resource, data in zip(declared.resources, files, strict=True):
        path = f"/{resource.name}"
        server.answers[path] = Answer(data, **answer)  # type: ignore[arg-type]
        sha256 = hashlib.sha256(data).hexdigest() if resource.sha256 else None  # by what its publisher gives
        md5 = hashlib.md5(data).hexdigest() if resource.sha256 is None else resource.md5
        words = {"urls": (server.url(path),), "size": len(data), "sha256": sha256, "md5": md5, "exact": True}
        resources.append(dataclasses.replace(resource, **words))  # type: ignore[arg-type]
    return with_resources(declared, *resources)


def with_resources(declared: NamedSet, *resources: Resource) -> NamedSet:
    """A declared set that consists of other files."""
    kind = type(declared)
    changed: NamedSet = type(kind.__name__, (kind,), {"resources": resources})()
    return changed
