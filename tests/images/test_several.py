"""Several sources as one: patterns, names that tell the images apart, columns."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from astroformer.errors import UserError
from astroformer.images.bands import Bands
from astroformer.images.labelled import LabelledImages
from astroformer.images.several import _joined, matching, open_sources
from helpers.tiny_sets import same_from_threads_and_pickled, save_npz, write_picture


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two folders with an image of the same name, one beside them, a catalog and an archive."""
    monkeypatch.chdir(tmp_path)
    for value, name in enumerate(("a/1.png", "a/10.png", "a/2.png", "b/1.png", "one.png", "b/deep/er.png")):
        write_picture(Path(name), value)
    Path("b/cat.csv").write_text("file,z\n1.png,0.5\ndeep/er.png,\n")
    save_npz(Path("b/two.npz"), images=np.full((2, 6, 8, 3), 77, np.uint8))
    return tmp_path


def test_a_single_source_is_named_as_ever(here: Path) -> None:
    assert open_sources(["a"]).files == ["1.png", "2.png", "10.png"]
    assert open_sources(["one.png"]).files == ["one.png"]
    assert open_sources(["b/cat.csv"]).files == ["1.png", "deep/er.png"]


def test_files_of_several_sources_are_paths_from_here(here: Path) -> None:
    images = open_sources(["one.png", "a/", "b/cat.csv", "b/two.npz", "mock-galaxies:1x16"])
    named = ["one.png", "a/1.png", "a/2.png", "a/10.png", "b/1.png", "b/deep/er.png", "b/two.npz#0", "b/two.npz#1"]
    assert images.files[:-1] == named
    assert images.files[-1].startswith("mock-galaxies")
    assert [int(images.read(i).max()) for i in range(8)] == [4, 0, 2, 1, 3, 5, 77, 77]
    same_from_threads_and_pickled(images)
    alone = [open_sources([source]).fingerprint() for source in ("a/2.png", "a/10.png")]
    part = images.subset([3, 2])
    assert part.files == ["a/10.png", "a/2.png"]
    assert part.fingerprint() == pickle.loads(pickle.dumps(part)).fingerprint()
    assert images.subset([2]).fingerprint() == alone[0]
    assert images.subset([3]).fingerprint() == alone[1]


def test_a_pattern_stands_for_files_in_the_order_of_numbers(here: Path) -> None:
    assert matching(["a/*.png", "one.png"]) == ["a/1.png", "a/2.png", "a/10.png", "one.png"]
    assert open_sources(["b/**/*.png"]).files == ["b/1.png", "b/deep/er.png"]
    assert open_sources(["[ab]"]).files == ["a/1.png", "a/2.png", "a/10.png", "b/1.png", "b/deep/er.png"]
    assert matching(["b/*.csv@file=file"]) == ["b/cat.csv@file=file"]
    write_picture(Path("a/[1].png"))  # a name is no pattern
    assert matching(["a/[1].png"]) == ["a/[1].png"]


def test_columns_of_a_catalog_beside_images_without(here: Path) -> None:
    assert open_sources(["one.png", "b/cat.csv"], columns="all").columns == {"z": [None, "0.5", None]}
    assert open_sources(["b/cat.csv"], columns=["z", "file"]).columns == {
        "z": ["0.5", None],
        "file": ["1.png", "deep/er.png"],
    }


@pytest.mark.parametrize(
    ("sources", "columns", "says"),
    [
        (["x*.png"], (), r"'x\*.png' stands for no file or folder"),
        (["a", "a/1.png"], (), "'a/1.png' is named twice, by 'a' and by 'a/1.png'"),
        (["one.png", "./one.png"], (), "named twice"),
        (["a"], ["z"], "'a' has no column 'z'"),
        (["b/cat.csv"], ["zz"], "unknown column in 'b/cat.csv' 'zz'.*Did you mean 'z'"),
    ],
)
def test_what_is_refused(here: Path, sources: list[str], columns: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        open_sources(sources, columns=columns)


def test_several_sources_have_the_same_bands_or_none() -> None:
    def part(name: str, *bands: str) -> LabelledImages:
        words = {"bands": Bands(bands) if bands else None, "masks": name == "a"}
        return LabelledImages(name, [name], None, (), lambda i: np.zeros((4, 4, 2), np.float32), **words)

    both = _joined([part("a", "g", "r"), part("b", "g", "r")])
    assert (both.bands, both.masks) == (Bands(("g", "r")), True)
    assert (_joined([part("b"), part("c")]).bands, _joined([part("b"), part("c")]).masks) == (None, False)
    with pytest.raises(UserError, match="'a' has the bands g, r, and those of 'b' have r, g"):
        _joined([part("a", "g", "r"), part("b", "r", "g")])
    for parts in ([part("a", "g"), part("b")], [part("a"), part("b", "g")]):
        with pytest.raises(UserError, match="of 'a' and 'b' one says what the bands"):
            _joined(parts)
