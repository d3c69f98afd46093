from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from astroformer.errors import UserError
from astroformer.images.reading import UnreadableImage
from astroformer.images.sources import open_source
from helpers.tiny_sets import picture, save_npz

RNG = np.random.default_rng(1)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2", "float32", "float64", "bool"])
@pytest.mark.parametrize(
    ("stored", "to_read"),
    [
        ((4, 5, 6), lambda a: a[..., None]),
        ((4, 5, 6, 3), lambda a: a),
        ((4, 3, 5, 6), lambda a: a.transpose(0, 2, 3, 1)),
    ],
)
def test_npz_images(tmp_path: Path, dtype: str, stored: tuple[int, ...], to_read: object) -> None:
    images = (RNG.random(stored) * 2).astype(dtype)
    path = save_npz(tmp_path / "a.npz", images=images, labels=[0, 1, 1, 0], classes=["z", "a"], other=[1])
    opened = open_source(path)
    assert opened.classes == ("z", "a")
    assert opened.files[3] == "a.npz#3"
    assert opened.ignored == ["a.npz: other (an array that is not read)"]
    expected = to_read(images)  # type: ignore[operator]
    expected = expected.astype(np.uint8) * 255 if dtype == "bool" else expected
    expected = expected.astype("float32") if dtype == "float64" else expected
    for i in range(4):
        np.testing.assert_array_equal(opened.read(i), expected[i])
        assert opened.read(i).dtype == expected.dtype.newbyteorder("=")


def test_npz_layout_can_be_said(tmp_path: Path) -> None:
    images = RNG.integers(0, 9, (4, 7, 5, 6)).astype(np.uint8)
    path = save_npz(tmp_path / "a.npz", images=images, labels=[0, 1, 1, 0])
    with pytest.raises(UserError, match="@layout=NHWC or @layout=NCHW"):
        open_source(path)
    np.testing.assert_array_equal(open_source(f"{path}@layout=NCHW").read(2), images[2].transpose(1, 2, 0))
    np.testing.assert_array_equal(open_source(f"{path}@layout=NHWC").read(2), images[2])
    layouts = [open_source(f"{path}@layout={layout}").fingerprint() for layout in ("NCHW", "NHWC")]
    assert layouts[0] != layouts[1]  # the same bytes, but other images
    with pytest.raises(UserError, match="unknown layout 'CHW'"):
        open_source(f"{path}@layout=CHW")


def test_npz_of_jpegs_and_per_class(tmp_path: Path) -> None:
    encoded = []
    for value in range(8):
        buffer = io.BytesIO()
        Image.fromarray(picture(30 * value)).save(buffer, "JPEG")
        encoded.append(buffer.getvalue())
    offsets = np.cumsum([0] + [len(e) for e in encoded])
    arrays = {
        "jpeg": np.frombuffer(b"".join(encoded), np.uint8),
        "labels": [1, 0, 0, 1, 1, 0, 1, 0],
        "classes": ["a", "b"],
    }
    path = save_npz(tmp_path / "j.npz", offsets=offsets, **arrays)
    images = open_source(path)
    np.testing.assert_allclose(images.read(5).astype(int), 150, atol=2)
    some = open_source(f"{path}@per-class=1:3")
    assert some.files == ["j.npz#2", "j.npz#3", "j.npz#4", "j.npz#5"]
    assert some.counts() == {"a": 2, "b": 2}
    np.testing.assert_array_equal(some.read(3), images.read(5))
    assert len(open_source(f"{path}@per-class=3:")) == 2
    with pytest.raises(UserError, match=r"class 'a' has 4 images, too few for @per-class=0:5"):
        open_source(f"{path}@per-class=0:5")
    with pytest.raises(UserError, match="is no range"):
        open_source(f"{path}@per-class=3:2")
    with pytest.raises(UserError, match=r"unknown source option 'perclass'. Did you mean 'per-class'"):
        open_source(f"{path}@perclass=0:1")
    with pytest.raises(UserError, match="@file does not apply"):
        open_source(f"{path}@file=x")
    with pytest.raises(UserError, match="'offsets' should"):
        open_source(save_npz(tmp_path / "bad.npz", offsets=offsets[::-1], **arrays))


def test_npz_labels_of_every_kind(tmp_path: Path) -> None:
    images = np.zeros((4, 5, 6), np.uint8)
    cases = [
        ([2, 10, 2, 10], None, ("2", "10"), [0, 1, 0, 1]),
        (["b", "a", "b", "b"], None, ("a", "b"), [1, 0, 1, 1]),
    ]
    cases += [
        (["b", "a", "b", "b"], ["b", "a"], ("b", "a"), [0, 1, 0, 0]),
        ([[1], [0], [1], [1]], ["b", "a"], ("b", "a"), [1, 0, 1, 1]),
    ]
    for labels, classes, names, numbers in cases:
        arrays = {"images": images, "labels": labels} | ({"classes": classes} if classes else {})
        opened = open_source(save_npz(tmp_path / "a.npz", **arrays))
        assert opened.classes == names
        assert opened.labels is not None
        assert opened.labels.tolist() == numbers


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"labels": [0, 1]}, "needs 'images', or 'jpeg' and 'offsets'; it has labels"),
        ({"images": np.zeros((2, 3, 3), np.uint8)}, "has no 'labels'; it has images"),
        (
            {"images": np.zeros((2, 3, 3), np.int64), "labels": [0, 1]},
            "'images' is int64; uint8, uint16 and floats are read. Save .*float32",
        ),
        ({"images": np.zeros((2, 9), np.uint8), "labels": [0, 1]}, r"has shape \(2, 9\)"),
        ({"images": np.zeros((2, 3, 3), np.uint8), "labels": np.eye(2)}, "one-hot rows"),
        ({"images": np.zeros((2, 3, 3), np.uint8), "labels": [0, 1, 1]}, "for each of the 2 images"),
        (
            {"images": np.zeros((2, 3, 3), np.uint8), "labels": [0, 2], "classes": ["a", "b"]},
            "label 2 has no class",
        ),
        (
            {"images": np.zeros((2, 3, 3), np.uint8), "labels": [0, 1], "classes": ["a", "a"]},
            "names 'a' twice",
        ),
        (
            {"images": np.zeros((2, 3, 3), np.uint8), "labels": [0, 0], "classes": ["a", "b"]},
            "class 'b' has no images",
        ),
        ({"images": np.array([None, 1]), "labels": [0, 1]}, "holds Python objects"),
    ],
)
def test_npz_errors(tmp_path: Path, arrays: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        open_source(save_npz(tmp_path / "a.npz", **arrays))


def test_damaged_npz_and_values(tmp_path: Path) -> None:
    whole = save_npz(tmp_path / "a.npz", images=np.zeros((2, 30, 30)), labels=[0, 1]).read_bytes()
    for data in (b"", b"words", whole[: len(whole) // 2], whole[:200] + b"x" * 900 + whole[1100:]):
        (tmp_path / "b.npz").write_bytes(data)
        with pytest.raises(UserError, match="damaged"):
            open_source(tmp_path / "b.npz")
    path = save_npz(tmp_path / "n.npz", images=np.array([[[0.0, np.inf]], [[1, np.nan]]]), labels=[0, 1])
    with pytest.raises(UnreadableImage, match=r"n\.npz#0.*1 of its 2 values"):
        open_source(path).read(0)
    assert np.isnan(open_source(path).read(1)).sum() == 1  # a pixel without a value, for the preprocessing to judge


def test_arrays_of_other_names(tmp_path: Path) -> None:
    pixels = np.arange(4, dtype=np.uint8)[:, None, None] * np.ones((1, 8, 8), np.uint8)
    np.savez(tmp_path / "x.npz", X=pixels, y=np.array([0, 1, 0, 1]), ra=np.zeros(4))
    with pytest.raises(UserError, match=r"needs 'images'.*it has X, y, ra. If 'X' holds the images, say @images=X"):
        open_source(tmp_path / "x.npz")
    with pytest.raises(UserError, match=r"has no 'labels'; it has X, y, ra. If .*@labels=y or @labels=ra"):
        open_source(f"{tmp_path}/x.npz@images=X")
    with pytest.raises(UserError, match=r"unknown array in .* 'z'"):
        open_source(f"{tmp_path}/x.npz@images=X@labels=z")
    images = open_source(f"{tmp_path}/x.npz@images=X@labels=y")
    assert images.labels is not None
    assert images.labels.tolist() == [0, 1, 0, 1]
    assert int(images.read(3)[0, 0, 0]) == 3
    assert images.positions_N2 is None  # of two columns there is one


def test_hdf5_suggests_which_array_may_be_the_labels(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "g.h5", "w") as file:
        file["images"], file["ans"], file["redshift"] = np.zeros((4, 8, 8), np.uint8), [0, 1, 0, 1], np.zeros((4, 2))
    with pytest.raises(UserError, match=r"has no 'labels'; it has .*ans.*say @labels=ans after the path"):
        open_source(tmp_path / "g.h5")
    assert open_source(f"{tmp_path}/g.h5@labels=ans").classes == ("0", "1")


@pytest.mark.parametrize("kind", ["npz", "h5"])
def test_positions_beside_images_keep_the_same_sky_together(tmp_path: Path, kind: str) -> None:
    arrays = {
        "images": np.zeros((4, 8, 8), np.uint8),
        "labels": np.array([0, 1, 0, 1]),
        "ra": np.array([10.0, 50.0, 10.001, np.nan]),
        "dec": np.array([5.0, 5.0, 5.0, np.nan]),
    }
    path = tmp_path / f"g.{kind}"

    def write() -> None:
        if kind == "npz":
            np.savez(path, **arrays)  # type: ignore[arg-type]
            return
        with pytest.importorskip("h5py").File(path, "w") as file:
            file.update(arrays)

    write()
    images = open_source(path)
    assert images.positions_N2 is not None
    np.testing.assert_array_equal(images.positions_N2, np.stack([arrays["ra"], arrays["dec"]], axis=1))
    assert images.groups is None
    assert images.ignored == []
    groups = open_source(f"{path}@same-sky=10").groups
    assert groups is not None
    assert groups.tolist() == [0, 1, 0, 3]
    arrays["dec"][1] = 100
    write()
    assert open_source(path).positions_N2 is None
    with pytest.raises(UserError, match=r"@same-sky needs right ascension and declination; save them, in degrees, as"):
        open_source(f"{path}@same-sky=10")


def test_positions_that_nobody_asks_for_may_be_anything(tmp_path: Path) -> None:
    whole = {"images": np.zeros((2, 8, 8), np.uint8), "labels": np.array([0, 1])}
    for ra in (np.array([{}, {}]), np.array(["10h", "11h"]), np.zeros((3, 3)), np.zeros(5)):
        np.savez(tmp_path / "a.npz", **whole, ra=ra, dec=ra)  # type: ignore[arg-type]
        assert open_source(tmp_path / "a.npz").positions_N2 is None
