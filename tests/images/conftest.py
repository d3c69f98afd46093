"""What tests of images share: class folders, and a loopback server in place of the published sets."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from astroformer.images.sets import NAMED_SETS, NamedSet
from astroformer.images.sets.fashion_mnist import FashionMnist
from helpers.serving import Server
from helpers.tiny_sets import serve, write_picture


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two class folders with five pictures of one value each, 0 to 4."""
    root = tmp_path / "set"
    for i, name in enumerate(
        ["class10/b.png", "class10/a.png", "class2/deep/er/x.PNG", "class2/x10.png", "class2/x9.png"]
    ):
        write_picture(root / name, i)
    return root


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own_cache: Path) -> Iterator[Server]:
    """A server, and a cache for what it serves that has nothing but kernels."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    shutil.copytree(own_cache / "native", tmp_path / "cache" / "native")
    monkeypatch.setenv("ASTROFORMER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(FashionMnist, "installed", tmp_path / "none")
    with Server() as server:
        yield server


@pytest.fixture
def served(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[..., NamedSet]:
    """Puts small files in place of a declared set's."""

    def replace(name: str, *files: bytes) -> NamedSet:
        monkeypatch.setitem(NAMED_SETS, name, serve(server, name, *files))
        return NAMED_SETS[name]

    return replace
