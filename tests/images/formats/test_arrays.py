"""Arrays of images in .npz, HDF5 and Zarr: the same rules, the same images, the same digests."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from astroformer.errors import UserError
from astroformer.images.formats.arrays import Blocks, BlockSizes, block_sizes
from astroformer.images.labelled import LabelledImages
from astroformer.images.preprocessing import Preprocessing
from astroformer.images.reading import UnreadableImage
from astroformer.images.several import open_sources
from astroformer.images.sources import open_source
from astroformer.images.store import ImageStore
from astroformer.images.units import Units
from astroformer.training.recipe import make_recipe
from astroformer.training.train import train
from helpers.array_files import BANDS, ENDINGS, five_bands, save_arrays
from helpers.tiny_sets import same_from_threads_and_pickled

pytest.importorskip("h5py")
pytest.importorskip("zarr")
RNG = np.random.default_rng(1)
KINDS = ("npz", "h5", "zarr")


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2", ">f4", "float16", "float64", "bool"])
def test_images_of_every_type(tmp_path: Path, ending: str, dtype: str) -> None:
    for stored in ((9, 5, 6), (9, 5, 6, 3), (9, 3, 5, 6)):
        images = (RNG.random(stored) * 2).astype(dtype)
        path = save_arrays(tmp_path / f"a.{ending}", {"images": images, "labels": np.arange(9) % 2, "more": [1]})
        opened = open_source(path)
        assert opened.classes == ("0", "1")
        assert opened.files[8] == f"a.{ending}#8"
        assert opened.ignored == [f"a.{ending}: more (an array that is not read)"]
        assert opened.bands is None
        expected = images[..., None] if len(stored) == 3 else images.transpose(0, 2, 3, 1) if stored[1] == 3 else images
        if dtype == "bool":
            expected = expected.astype(np.uint8) * 255
        elif dtype not in ("uint8", "uint16", ">u2"):
            expected = expected.astype(np.float32)
        for i in (8, 0, 3, 7):  # in no order
            np.testing.assert_array_equal(opened.read(i), expected[i])
            assert opened.read(i).dtype == expected.dtype.newbyteorder("=")
            assert opened.read(i).dtype.isnative


@pytest.mark.parametrize("ending", ENDINGS)
def test_classes_bands_and_units(tmp_path: Path, ending: str) -> None:
    images = open_source(save_arrays(tmp_path / f"a.{ending}", five_bands()))
    assert images.classes == ("faint", "bright")
    assert images.counts() == {"faint": 12, "bright": 12}
    assert str(images.bands) == "u, g, r, i, z (nJy)"
    assert images.ignored == []
    np.testing.assert_array_equal(images.read(5), five_bands()["images"][5])
    same_from_threads_and_pickled(images)
    without = open_source(tmp_path / f"a.{ending}", labelled=False)
    assert without.labels is None
    assert without.bands == images.bands
    few = open_source(f"{tmp_path}/a.{ending}@per-class=1:3")
    assert few.files == [f"a.{ending}#{i}" for i in (2, 3, 4, 5)]
    assert few.bands == images.bands


@pytest.mark.parametrize("ending", ENDINGS[2:])
def test_bands_and_classes_may_be_attributes(tmp_path: Path, ending: str) -> None:
    arrays = {key: five_bands()[key] for key in ("images", "labels")}
    words = {"classes": ["faint", "bright"], "bands": "u, g, r, i, z", "units": ["a", "b", "c", "d", "e"]}
    images = open_source(save_arrays(tmp_path / f"a.{ending}", arrays, attributes=words))
    assert images.classes == ("faint", "bright")
    assert str(images.bands) == "u (a), g (b), r (c), i (d), z (e)"
    twice = save_arrays(tmp_path / f"b.{ending}", five_bands(), attributes={"bands": list("zirgu")})
    with pytest.raises(UserError, match="says in two places what the bands are, and differently"):
        open_source(twice)


@pytest.mark.parametrize("ending", KINDS)
def test_the_number_of_bands_says_which_axis_is_theirs(tmp_path: Path, ending: str) -> None:
    five = five_bands()
    path = save_arrays(tmp_path / f"a.{ending}", {**five, "bands": None})
    with pytest.raises(UserError, match="@layout=NHWC or @layout=NCHW"):
        open_source(path)
    first = {**five, "images": five["images"].transpose(0, 3, 1, 2)}
    for arrays in (five, first):
        images = open_source(save_arrays(tmp_path / f"b.{ending}", arrays))
        np.testing.assert_array_equal(images.read(3), five["images"][3])
    with pytest.raises(UserError, match=r"'images' has shape \(24, 12, 12, 5\), and 4 bands are named: u, g, r, i"):
        open_source(save_arrays(tmp_path / f"c.{ending}", {**five, "bands": np.array(list("ugri"))}))
    with pytest.raises(UserError, match="@layout=NCHW, and 5 bands are named"):
        open_source(f"{save_arrays(tmp_path / f'd.{ending}', five)}@layout=NCHW")
    with pytest.raises(UserError, match="'u' is named 2 times"):
        open_source(save_arrays(tmp_path / f"e.{ending}", {**five, "bands": np.array(list("uugri"))}))
    with pytest.raises(UserError, match="5 bands have 2 units"):
        open_source(save_arrays(tmp_path / f"f.{ending}", {**five, "units": np.array(["a", "b"])}))
    square = {**five, "images": np.zeros((24, 5, 5, 5), np.float32)}
    with pytest.raises(UserError, match="say @layout=NHWC or @layout=NCHW"):
        open_source(save_arrays(tmp_path / f"g.{ending}", square))
    unnamed = open_source(f"{save_arrays(tmp_path / f'h.{ending}', {**five, 'bands': None})}@layout=NHWC")
    assert unnamed.bands is None
    assert unnamed.ignored == [f"h.{ending}: units (not read: no 'bands' are named)"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_values_that_are_not_numbers_are_refused_where_they_ever_were(tmp_path: Path, ending: str) -> None:
    images = np.zeros((6, 32, 32), np.float32)
    images[2, 0, 0], images[3, 0, 0] = np.nan, np.inf
    opened = open_source(save_arrays(tmp_path / f"n.{ending}", {"images": images, "labels": [0, 1, 0, 1, 0, 1]}))
    with pytest.raises(UnreadableImage, match=rf"n\.{ending}#3.*1 of its 1024 values are NaN or infinite"):
        opened.read(3)
    store = ImageStore.build(opened, Preprocessing((32, 32), 1, dtype="float16"), cache=tmp_path / "cache")
    assert store.indices.tolist() == [0, 1, 4, 5]
    assert "1 of its 1024 values are NaN: fill them in" in store.failures[0][1]


def test_the_same_images_have_the_same_digests_and_stores_in_every_kind_of_file(tmp_path: Path) -> None:
    settings = Preprocessing((12, 12), 5, dtype="float16", units=Units("float"))
    stores = set()
    for ending in ENDINGS:
        arrays = five_bands()
        if ending in ("h5", "v2.zarr"):  # nor does the order of the bytes matter
            arrays["images"] = arrays["images"].astype(">f4")
        images = open_source(save_arrays(tmp_path / f"a.{ending}", arrays))
        stores.add(ImageStore.build(images, settings, cache=tmp_path / "cache").folder)
    assert len(stores) == 1


def test_the_same_images_train_to_the_same_weights_in_every_kind_of_file(tmp_path: Path) -> None:
    words = {"model": "astroformer_atto", "epochs": 1, "image_size": 32, "batch_size": 8, "device": "cpu"}
    recipe = make_recipe(words)
    weights, answers = set(), []
    for ending in KINDS:
        source = save_arrays(tmp_path / f"a.{ending}", five_bands(24, 32))
        cache = tmp_path / f"cache-{ending}"  # each decodes its own
        made = train(source, recipe, out=tmp_path / f"run-{ending}", cache=cache, quiet=True)
        weights.add((made.model / "model.safetensors").read_bytes())
        answers.append(made.classifier.predict(source).probabilities_NK)
    assert len(weights) == 1
    np.testing.assert_array_equal(answers[0], answers[1])
    np.testing.assert_array_equal(answers[0], answers[2])


def test_several_files_are_predicted_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for ending in KINDS:
        save_arrays(Path(f"a.{ending}"), five_bands())
    images = open_sources([f"a.{ending}" for ending in KINDS])
    assert [images.files[i] for i in (17, 24 + 17, 48 + 17)] == ["a.npz#17", "a.h5#17", "a.zarr#17"]
    for i in (17, 41, 65):
        np.testing.assert_array_equal(images.read(i), five_bands()["images"][17])
    assert images.bands is not None
    assert images.bands.names == BANDS
    same_from_threads_and_pickled(images)
    save_arrays(Path("b.h5"), {**five_bands(), "bands": np.array(list("zirgu"))})
    with pytest.raises(UserError, match=r"'a.h5' has .*u, g, r, i, z.*'b.h5'.*z, i, r, g, u"):
        open_sources(["a.h5", "b.h5"])


# How a file is read


def test_in_order_each_block_is_unpacked_once() -> None:
    read: list[int] = []

    def rows(start: int, stop: int) -> np.ndarray:
        read.append(start)
        return np.zeros((stop - start, 64, 64, 5), np.float32)

    images = Blocks(Path("x.h5"), rows, (530, 64, 64, 5), np.dtype("f4"), BlockSizes(100, 100))
    for i in range(530):
        images[i]
    assert read == [0, 100, 200, 300, 400, 500]
    for i in range(16):  # as several threads read it, each a few images further
        for start in range(400, 528, 16):
            images[min(start + i, 529)]
    assert len(read) <= 8
    assert sum(block.nbytes for block in images._kept.blocks.values()) <= 64_000_000


def test_blocks_are_whole_ones_of_the_file_and_of_a_size_that_memory_holds() -> None:
    def length(shape: tuple[int, ...], chunk: tuple[int, ...] | None) -> int:
        return block_sizes(Path("x.h5"), "'images'", shape, np.dtype("f4"), chunk).at_once

    assert length((5000, 64, 64, 5), (100, 64, 64, 5)) == 100
    assert length((5000, 8, 8, 1), (100, 8, 8, 1)) == 3900  # 1 MB of small ones
    assert length((50, 8, 8, 1), (100, 8, 8, 1)) == 50
    assert length((5000, 64, 64, 5), (1, 64, 64, 5)) == 12
    assert length((5000, 64, 64, 5), None) == 12
    assert length((5000, 2048, 2048, 5), (100, 64, 64, 5)) == 3  # of these 100, images of 84 MB
    for shape, chunk, sentence in (
        ((5, 10_000, 10_000), None, "an image of 'images' takes 400,000,000 bytes, more than 300,000,000"),
        (
            (5000, 64, 64, 5),
            (5000, 64, 64, 5),
            r"in blocks of shape \(5000, 64, 64, 5\), of which each takes 409,600,000",
        ),
        ((10**12, 64, 64), (10, 64, 64), "claims 1,000,000,000,000 images"),
    ):
        with pytest.raises(UserError, match=sentence):
            length(shape, chunk)


@pytest.mark.parametrize("ending", ["h5", "zarr", "zarr.zip"])
def test_another_process_opens_the_file_for_itself(tmp_path: Path, ending: str) -> None:
    images = open_source(save_arrays(tmp_path / f"a.{ending}", five_bands()))
    images.read(3)
    if hasattr(os, "fork"):
        with multiprocessing.get_context("fork").Pool(1) as pool:
            np.testing.assert_array_equal(pool.apply_async(images.read, (20,)).get(60), five_bands()["images"][20])
        process = _forked(images)
        assert process == 0
    assert len(pickle.dumps(images.reader)) < 2000  # no image travels along


def _forked(images: LabelledImages) -> int:
    """What a child that has the reader as its parent left it ends with: 0 if it reads the right image."""
    child = os.fork()
    if child == 0:
        same = np.array_equal(images.read(20), five_bands()["images"][20])
        os._exit(0 if same else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("ending", ENDINGS)
def test_votes_stand_for_labels(tmp_path: Path, ending: str) -> None:
    arrays = {"images": RNG.integers(0, 255, (4, 5, 6)).astype(np.uint8), "votes": [[3, 1], [0, 2], [1, 1], [0, 0]]}
    images = open_source(save_arrays(tmp_path / f"a.{ending}", {**arrays, "classes": ["disc", "ring"]}))
    assert images.classes == ("disc", "ring")
    assert images.votes_NK is not None
    assert images.weights_N is not None
    assert images.votes_NK.tolist() == [[0.75, 0.25], [0, 1], [0.5, 0.5]]
    assert images.weights_N.tolist() == [4, 2, 2]
    assert images.ignored == [f"a.{ending}#3 (nobody voted on it)"]
    assert open_source(save_arrays(tmp_path / f"b.{ending}", arrays)).classes == ("0", "1")
    assert open_source(tmp_path / f"b.{ending}", labelled=False).votes_NK is None
    labelled = open_source(save_arrays(tmp_path / f"c.{ending}", {**arrays, "labels": [0, 1, 0, 1]}))
    assert labelled.votes_NK is None
    assert labelled.ignored == [f"c.{ending}: votes (an array that is not read)"]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    ("votes", "sentence"),
    [
        ([1, 2], "numbers of shape"),
        ([["a", "b"], ["c", "d"]], "numbers of shape"),
        ([[1, 2, 3], [1, 2, 3]], "'classes' has 2 names, and 'votes' 3 columns"),
        ([[1, 2], [1, 2], [1, 2]], r"\(2, 2\) is needed: images × classes"),
        ([[1, -2], [1, 2]], "negative"),
        ([[0.5, np.nan], [1, 0]], "no number"),
        ([[0.5, 0.1], [1, 0]], "do not sum to 1"),
    ],
)
def test_votes_that_can_not_be(tmp_path: Path, ending: str, votes: list[object], sentence: str) -> None:
    arrays = {"images": np.zeros((2, 5, 6), np.uint8), "votes": votes, "classes": ["disc", "ring"]}
    with pytest.raises(UserError, match=sentence):
        open_source(save_arrays(tmp_path / f"a.{ending}", arrays))
