"""Tiny ImageNet."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar
from zipfile import BadZipFile, ZipFile

import numpy as np

from astroformer.images.sets.declared import Content, NamedSet, damaged, mirrored
from astroformer.images.sets.zipped import ZipReader


class TinyImageNet(NamedSet):
    """110,000 photographs of 64 × 64 pixels in 200 classes, as JPEGs in a zip; the classes are WordNet ids.

    The labels of its own test images were never published: `test` is what it calls `val`, as in published figures.
    """

    name = "tiny-imagenet"
    title = "Tiny ImageNet"
    # Its authors publish no checksum. MD5, SHA-256 and size: what several projects independently found.
    resources = (
        mirrored(
            "tiny-imagenet-200.zip",
            ("http://cs231n.stanford.edu", "https://cs231n.stanford.edu"),
            248_100_043,
            "6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821",
            "90528d7ca1a48142e341f4ef8d21d0de",
        ),
    )
    licence = "none stated (its images are ImageNet's, whose terms allow non-commercial research and education)"
    citation = "Y. Le, X. Yang, Tiny ImageNet Visual Recognition Challenge, Stanford CS 231N, 2015"
    homepage = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
    number_of_classes = 200
    images: ClassVar[Mapping[str, int]] = {"train": 100_000, "test": 10_000}
    split = "official; test is its val, whose labels are published"

    def read(self, files: Sequence[Path], part: str, digest: str) -> Content:
        path = files[0]
        try:
            with ZipFile(path) as archive:
                members = archive.namelist()
                root = members[0].partition("/")[0] + "/"
                classes = tuple(sorted(archive.read(root + "wnids.txt").decode().split()))
                if part == "train":
                    inside = [name.removeprefix(root).split("/") for name in members]
                    found = [(parts[1], "/".join(parts)) for parts in inside
                             if len(parts) == 4 and parts[0] == "train" and parts[3].endswith(".JPEG")]  # fmt: skip
                    found.sort(key=lambda pair: (pair[0], len(pair[1]), pair[1]))  # n01443537_9 before n01443537_10
                else:
                    text = archive.read(root + "val/val_annotations.txt").decode()
                    rows = [row.split("\t") for row in text.splitlines() if row.strip()]
                    found = [(row[1], f"val/images/{row[0]}") for row in rows]
        except (BadZipFile, KeyError, IndexError, UnicodeDecodeError, zlib.error, EOFError) as error:
            raise damaged(path, str(error).strip("'\"")) from None
        position = {name: k for k, name in enumerate(classes)}
        stray = sorted({name for name, _ in found if name not in position})
        missing = sorted({file for _, file in found} - {name.removeprefix(root) for name in members})
        if stray or missing or not found:
            raise damaged(path, f"{(stray or missing or ['any image'])[0]} is not in it")
        labels = np.array([position[name] for name, _ in found], np.int64)
        names = [file for _, file in found]
        return Content(ZipReader(path, root, tuple(names), digest), labels, classes, names)
