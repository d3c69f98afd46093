from __future__ import annotations

import io
import os
import pickle
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from astroformer.errors import UserError
from astroformer.images import mock_galaxies, sources
from astroformer.images.reading import UnreadableImage
from astroformer.images.sources import LabelledImages, open_source

RNG = np.random.default_rng(1)


def picture(value: int) -> np.ndarray:
    return np.full((6, 8, 3), value, np.uint8)


def write(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(value)).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    for i, name in enumerate(
        ["class10/b.png", "class10/a.png", "class2/deep/er/x.PNG", "class2/x10.png", "class2/x9.png"]
    ):
        write(root / name, i)
    return root


def test_folder_order_labels_and_what_is_ignored(folder: Path) -> None:
    (folder / "class2" / "notes.txt").write_text("x")
    (folder / "class2" / ".hidden.png").write_text("x")
    (folder / "README").write_text("x")
    images = open_source(folder)
    assert images.classes == ("class2", "class10")
    assert images.files == [
        "class2/deep/er/x.PNG",
        "class2/x9.png",
        "class2/x10.png",
        "class10/a.png",
        "class10/b.png",
    ]
    assert images.labels is not None
    assert images.labels.dtype == np.int64
    assert images.labels.tolist() == [0, 0, 0, 1, 1]
    assert images.counts() == {"class2": 3, "class10": 2}
    assert [int(images.read(i)[0, 0, 0]) for i in range(5)] == [2, 4, 3, 1, 0]
    assert images.ignored == [
        "README (beside the class folders)",
        "class2/notes.txt (not an image's extension)",
    ]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(images.reader))(1), picture(4))


def test_subset_keeps_order_classes_and_reads_the_same(folder: Path) -> None:
    images = open_source(folder)
    some = images.subset([4, 1]).subset([1, 0])
    assert some.files == ["class2/x9.png", "class10/b.png"]
    assert some.counts() == {"class2": 1, "class10": 1}
    np.testing.assert_array_equal(some.read(0), images.read(1))
    assert images.subset([0]).counts() == {"class2": 1, "class10": 0}


def test_given_classes_set_the_order_and_unknown_ones_are_refused(folder: Path) -> None:
    images = open_source(folder, classes=["class10", "other", "class2"])
    assert images.labels is not None
    assert images.labels.tolist() == [2, 2, 2, 0, 0]
    assert images.classes == ("class10", "other", "class2")
    with pytest.raises(UserError, match=r"unknown class .*'class2'.*Allowed: class10, class3"):
        open_source(folder, classes=["class10", "class3"])


def test_unlabelled_folder_and_single_image(folder: Path) -> None:
    write(folder / "loose.png", 9)
    images = open_source(folder, labelled=False)
    assert images.labels is None
    assert len(images) == 6
    assert "loose.png" in images.files
    one = open_source(folder / "loose.png", labelled=False)
    np.testing.assert_array_equal(one.read(0), picture(9))
    with pytest.raises(UserError, match="is one image"):
        open_source(folder / "loose.png")


def test_folder_errors(folder: Path, tmp_path: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "empty" / "x.fits").write_text("x")
    with pytest.raises(UserError, match=r"class folder 'empty' has no images.*empty/x\.fits"):
        open_source(folder)
    one = tmp_path / "one"
    write(one / "only" / "a.png")
    with pytest.raises(UserError, match="one class only, 'only'"):
        open_source(one)
    assert open_source(one, classes=["only", "other"]).counts() == {"only": 1, "other": 0}
    with pytest.raises(UserError, match="images but no class folders"):
        open_source(one / "only")
    with pytest.raises(UserError, match="has no images"):
        open_source(folder / "empty", labelled=False)
    parts = tmp_path / "parts"
    write(parts / "train" / "a" / "a.png")
    write(parts / "valid" / "a" / "a.png")
    with pytest.raises(UserError, match="parts train, valid, not classes"):
        open_source(parts)
    twins = tmp_path / "twins"
    write(twins / "Spiral" / "a.png")
    write(twins / "spiral " / "a.png")
    if len(os.listdir(twins)) == 2:
        with pytest.raises(UserError, match="same name but for case"):
            open_source(twins)
    with pytest.raises(UserError, match=rf"does not exist. Did you mean '{folder}'"):
        open_source(tmp_path / "sett" / "x")
    with pytest.raises(UserError, match=r"is no source of images"):
        open_source(folder / "empty" / "x.fits")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_folder_without_permission(folder: Path) -> None:
    (folder / "class2").chmod(0)
    try:
        with pytest.raises(UserError, match="may not be read"):
            open_source(folder)
    finally:
        (folder / "class2").chmod(0o755)


def test_permission_error_is_a_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(sources.os, "scandir", refuse)
    with pytest.raises(UserError, match=r"may not be read: Permission denied"):
        open_source(folder)


# npz


def save_npz(path: Path, **arrays: object) -> Path:
    np.savez(path, **{k: np.asarray(v) for k, v in arrays.items()})  # type: ignore[arg-type]
    return path


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
    assert opened.ignored == ["a.npz: other (not read)"]
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
        ({"images": np.zeros((2, 3, 3), np.int64), "labels": [0, 1]}, "'images' is int64; save it as uint8"),
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
    path = save_npz(tmp_path / "n.npz", images=np.array([[[0.0, np.nan]], [[1, 1]]]), labels=[0, 1])
    with pytest.raises(UnreadableImage, match=r"n\.npz#0.*1 of its 2 values"):
        open_source(path).read(0)


# Catalogs


def catalog(root: Path, rows: list[tuple[object, object]], names: tuple[str, str], kind: str) -> Path:
    path = root / f"catalog.{kind}"
    if kind == "parquet":
        columns = [list(column) for column in zip(*rows, strict=True)]
        pyarrow.parquet.write_table(
            pyarrow.table({names[0]: columns[0], "ra": [1.5] * len(rows), names[1]: columns[1]}), path
        )
    else:
        comma = "\t" if kind == "tsv" else ","
        lines = [(names[0], "ra", names[1]), *((a, 1.5, b) for a, b in rows)]
        path.write_text("\n".join(comma.join(map(str, line)) for line in lines) + "\n")
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_catalog(folder: Path, kind: str) -> None:
    rows: list[tuple[object, object]] = [
        ("class2/x9.png", "10"),
        (folder / "class10" / "a.png", "9"),
        ("class10/b.png", "10"),
    ]
    rows = [(str(file), label) for file, label in rows]
    images = open_source(catalog(folder, rows, ("File", "Label"), kind))
    assert images.classes == ("9", "10")
    assert images.labels is not None
    assert images.labels.tolist() == [1, 0, 1]
    assert images.files == [row[0] for row in rows]
    assert [int(images.read(i)[0, 0, 0]) for i in range(3)] == [4, 1, 0]
    assert open_source(folder / f"catalog.{kind}", labelled=False).labels is None


def test_catalog_numbers_stay_as_written(folder: Path) -> None:
    path = catalog(folder, [("class2/x9.png", "01"), ("class2/x10.png", "1")], ("path", "class"), "csv")
    assert open_source(path).classes == ("01", "1")
    path = catalog(folder, [("class2/x9.png", 3.0), ("class2/x10.png", 1.0)], ("path", "class"), "parquet")
    assert open_source(path).classes == ("1", "3")


def test_catalog_columns(folder: Path) -> None:
    path = folder / "c.csv"
    path.write_text("file,filename,kind\nclass2/x9.png,class10/a.png,s\nclass2/x10.png,class10/b.png,e\n")
    with pytest.raises(
        UserError, match=r"file, filename could all be the file.*It has: file, filename, kind.*@file=COLUMN"
    ):
        open_source(path)
    with pytest.raises(UserError, match=r"no column is named for the label.*It has: file, filename, kind"):
        open_source(f"{path}@file=filename")
    images = open_source(f"{path}@file=filename@label=kind")
    assert images.files == ["class10/a.png", "class10/b.png"]
    assert images.classes == ("e", "s")
    with pytest.raises(UserError, match=r"unknown column in .* 'kinds'. Did you mean 'kind'"):
        open_source(f"{path}@file=filename@label=kinds")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("file,label\nclass2/x9.png,a\nclass2/./x9.png,b\n", "lists 1 files more than once: class2/x9.png"),
        (
            "file,label\nclass2/x9.png,a\nclass2/x10.png,\n",
            r"'label' is empty in 1 of 2 rows \(the first: 2\)",
        ),
        ("file,label\nclass2/x9.png,a\nclass2/x10.png\n", "row 2 has 1 values, the header 2"),
        ("file,label\nclass2/x9.png,a\nclass2/x10.png,a\n", "one class only"),
        ("file,label\nno.png,a\nnone.png,b\n", r"none of its 2 files exists.*'no\.png'"),
        ("file,label\n", "has no images"),
        ("", "It has: no columns"),
    ],
)
def test_catalog_errors(folder: Path, text: str, sentence: str) -> None:
    (folder / "c.csv").write_text(text)
    with pytest.raises(UserError, match=sentence):
        open_source(folder / "c.csv")


def test_damaged_catalogs(folder: Path) -> None:
    (folder / "c.parquet").write_bytes(b"PAR1 and words")
    with pytest.raises(UserError, match="not a Parquet file"):
        open_source(folder / "c.parquet")
    (folder / "c.csv").write_bytes("file,label\né.png,a\n".encode("latin1"))
    with pytest.raises(UserError, match="not UTF-8"):
        open_source(folder / "c.csv")


def test_one_missing_file_of_a_catalog_is_left_to_reading(folder: Path) -> None:
    path = catalog(folder, [("class2/x9.png", "a"), ("gone.png", "b")], ("file", "label"), "csv")
    with pytest.raises(UnreadableImage, match=r"gone\.png.*No such file"):
        open_source(path).read(1)


# Named sets


def test_mock_galaxies_is_the_set_of_its_module() -> None:
    images = open_source("mock-galaxies:23x32", seed=3)
    pixels, labels = mock_galaxies.mock_galaxies(23, 32, 3)
    assert images.labels is not None
    np.testing.assert_array_equal(images.labels, labels)
    assert images.classes == mock_galaxies.CLASSES
    for i in (22, 0, 9, 8):
        np.testing.assert_array_equal(images.read(i), pixels[i])
    assert len(open_source("mock-galaxies")) == 1000
    assert open_source("mock-galaxies:23x32", seed=4).fingerprint() != images.fingerprint()
    assert open_source("mock-galaxies:23x32", seed=3).fingerprint() == images.fingerprint()
    with pytest.raises(UserError, match=r"Did you mean 'mock-galaxies'"):
        open_source("mock-galaxy")
    for bad in ("mock-galaxies:x", "mock-galaxies:0", "mock-galaxies:10x3"):
        with pytest.raises(UserError, match=r"mock.galaxies"):
            open_source(bad)


# Fingerprints


def test_fingerprint_follows_content_and_order(folder: Path) -> None:
    images = open_source(folder)
    first = images.fingerprint()
    file = folder / "class2" / "x9.png"
    os.utime(file, (1, 1))
    file.rename(folder / "class2" / "x9b.png")
    assert open_source(folder).fingerprint() == first
    assert images.subset([0, 1]).fingerprint() != images.subset([1, 0]).fingerprint()
    data = bytearray((folder / "class10" / "a.png").read_bytes())
    data[-20] ^= 1
    (folder / "class10" / "a.png").write_bytes(data)
    assert open_source(folder).fingerprint() != first


def test_hashes_are_remembered(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = open_source(folder)
    plain = images.fingerprint()
    cache = tmp_path / "cache"
    hashed: list[str] = []
    whole = sources._hash_file
    monkeypatch.setattr(sources, "_hash_file", lambda path: hashed.append(Path(path).name) or whole(path))
    for _ in range(2):  # these files are new: a further change might leave their times as they are
        assert images.fingerprint(cache) == plain
    assert len(hashed) == 2 * len(images)
    monkeypatch.setattr(sources, "_SETTLED_AFTER", -(10**9))
    assert images.fingerprint(cache) == plain
    hashed.clear()
    assert images.fingerprint(cache) == plain
    assert images.subset([1, 0]).fingerprint(cache) == images.subset([1, 0]).fingerprint()
    assert len(hashed) == 2  # of the plain one
    hashed.clear()
    file = folder / "class2" / "x9.png"
    before = file.stat()
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)  # as many bytes, and with the time that it had
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert images.fingerprint(cache) != plain
    assert hashed == ["x9.png"]
    for index in (cache / "hashes").iterdir():
        index.write_text("{ damaged")
    assert images.fingerprint(cache) != plain
    assert len(hashed) == 1 + len(images)


def test_fingerprint_of_a_plain_reader() -> None:
    stack = RNG.integers(0, 9, (3, 4, 4, 1))
    images = LabelledImages("array", ["0", "1", "2"], None, (), stack.__getitem__)
    before = images.fingerprint()
    stack[1, 0, 0, 0] += 1
    assert images.fingerprint() != before
