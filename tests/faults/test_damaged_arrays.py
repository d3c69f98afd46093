"""Damaged, strange and hostile files of arrays: each ends in a sentence, at once, and nothing is read wrongly."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from astroformer.errors import UserError
from astroformer.images.formats import hdf5_heaps
from astroformer.images.reading import UnreadableImage
from astroformer.images.sources import open_source
from helpers.array_files import five_bands, save_arrays

h5py = pytest.importorskip("h5py")
zarr = pytest.importorskip("zarr")
KINDS = ("npz", "packed.npz", "h5", "zarr", "v2.zarr", "zarr.zip")
N = 24


@pytest.fixture(autouse=True)
def at_once() -> Iterator[None]:
    begin = time.monotonic()
    yield
    assert time.monotonic() - begin < 60


def refused(path: Path, sentence: str, options: str = "") -> None:
    with pytest.raises(UserError, match=sentence):
        open_source(f"{path}{options}")


# Every kind of file


@pytest.mark.parametrize("ending", KINDS)
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"images": None}, "images"),
        ({"labels": None}, "has no 'labels'; it has .*images"),
        ({"images": np.zeros((N, 9), np.float32)}, r"has shape \(24, 9\)|no data set has|no array has"),
        ({"images": np.zeros((N, 5, 5, 5, 5), np.float32)}, "has shape|dimensions"),
        ({"images": np.zeros((0, 8, 8, 5), np.float32), "labels": np.zeros(0, int)}, r"has shape \(0, 8, 8, 5\)"),
        ({"images": np.zeros((N, 8, 8, 5), np.int64)}, "is int64; uint8, uint16 and floats are read"),
        ({"images": np.zeros((N, 8, 8, 5), np.complex64)}, "is complex64; uint8"),
        ({"images": np.zeros((N, 8, 8, 5), [("a", "f4"), ("b", "f4")])}, "'images' is .*; uint8, uint16 and floats"),
        ({"labels": np.arange(N + 1) % 2}, "for each of the 24 images"),
        ({"labels": np.zeros((N, 3), int)}, "for each of the 24 images"),
        ({"labels": np.arange(N) % 3}, "the label 2 has no class"),
        ({"labels": np.full(N, 0.5)}, "one whole number or name for each"),
        ({"classes": np.array(["a", "a"])}, "names 'a' twice"),
        ({"bands": np.array(["u", "g"])}, "2 bands are named: u, g"),
        ({"bands": np.full(5, 0.5)}, "'bands' holds float"),
    ],
)
def test_contents_that_are_not_what_they_should_be(
    tmp_path: Path, ending: str, change: dict[str, Any], sentence: str
) -> None:
    compound = change.get("images") is not None and change["images"].dtype.kind == "V"
    if compound and "zarr" in ending:
        sentence = "'images' is .*; uint8|is not a Zarr or is damaged"
    refused(save_arrays(tmp_path / f"a.{ending}", {**five_bands(N), **change}), sentence)


@pytest.mark.parametrize("ending", ["npz", "packed.npz", "h5", "zarr.zip"])
def test_files_that_are_cut_or_are_something_else(tmp_path: Path, ending: str) -> None:
    path = save_arrays(tmp_path / f"a.{ending}", five_bands(N))
    whole = path.read_bytes()
    for content in (b"", b"words", whole[:8], whole[: len(whole) // 2], whole[:-40], os.urandom(5000)):
        path.write_bytes(content)
        refused(path, r"damaged|is not an? (\.npz|HDF5|Zarr)|never loaded")
    path.unlink()
    path.mkdir()
    refused(path, "no class folders|has no|Zarr|no images")


@pytest.mark.parametrize("ending", ["npz", "packed.npz", "h5", "zarr.zip"])
def test_a_zeroed_page_is_noticed_wherever_it_lies(tmp_path: Path, ending: str) -> None:
    path = save_arrays(tmp_path / f"a.{ending}", five_bands(N), chunk=4)
    whole, good = path.read_bytes(), open_source(path)
    expected = [good.read(i) for i in range(N)]
    noticed = 0
    for start in range(0, len(whole) - 512, max(512, len(whole) // 25)):
        path.write_bytes(whole[:start] + bytes(512) + whole[start + 512 :])
        try:
            images = open_source(path)
            read = [images.read(i) for i in range(len(images))]
        except UserError:
            noticed += 1
            continue
        assert all(np.array_equal(a, b) for a, b in zip(read, expected, strict=True))
        assert (images.classes, images.bands) == (good.classes, good.bands)
    assert noticed > 10


# .npz: what is stored plain is not loaded, and its checksum holds all the same


def test_a_changed_byte_of_a_plain_npz_is_noticed_when_it_is_opened(tmp_path: Path) -> None:
    path = save_arrays(tmp_path / "a.npz", five_bands(N))
    whole = path.read_bytes()
    begin = whole.index(five_bands(N)["images"].tobytes())
    for at in (0, 12345, five_bands(N)["images"].nbytes - 1):
        changed = bytearray(whole)
        changed[begin + at] ^= 1
        path.write_bytes(changed)
        refused(path, "Bad CRC-32 for file 'images.npy'")


def test_an_npz_that_changes_while_it_is_used_is_noticed(tmp_path: Path) -> None:
    path = save_arrays(tmp_path / "a.npz", five_bands(N))
    images, whole = open_source(path), path.read_bytes()
    before = images.fingerprint()
    path.write_bytes(whole[:-1000])
    for i in (0, N - 1):
        with pytest.raises(UnreadableImage, match=rf"a.npz#{i}.*has changed since it was opened"):
            images.read(i)
    assert images.fingerprint() != before
    path.unlink()
    with pytest.raises(UnreadableImage, match="No such file"):
        images.read(0)


def test_headers_that_claim_what_is_not_there(tmp_path: Path) -> None:
    for shape, descr in (((10**12, 64, 64), "<f4"), ((23, 12, 12, 5), "<f4"), ((24, 12, 12, 5), "<f8")):
        header = str({"descr": descr, "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
        member = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + five_bands(N)["images"].tobytes()
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("images.npy", member)
        refused(tmp_path / "a.npz", r"damaged \('images' is float.., of|damaged \('images' is float.* bytes are there")


def test_orders_that_are_not_the_files_own(tmp_path: Path) -> None:
    images = five_bands(N)["images"]
    for other in (np.asfortranarray(images), images[:, ::-1], images[::-1], images.astype(">f4"), images[..., ::2]):
        words = {"images": other, "labels": np.arange(N) % 2}
        opened = open_source(f"{save_arrays(tmp_path / 'a.npz', words)}@layout=NHWC")
        for i in (0, 7, N - 1):
            np.testing.assert_array_equal(opened.read(i), other[i])


def test_a_header_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    for key in ("images", "labels"):
        others = {name: value for name, value in five_bands(N).items() if name != key}
        path = save_arrays(tmp_path / "a.npz", others)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(f"{key}.npy", b"\x93NUMPY\x02\x00" + (10**9).to_bytes(4, "little") + bytes(99))
        refused(path, f"damaged .'{key}' has a header of 1,000,000,000 bytes")


def test_python_objects_are_never_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.array([None] * 3, dtype=object), labels=[0, 1, 0])
    refused(tmp_path / "a.npz", "holds Python objects, which are never loaded")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("images", b"no array")
    refused(tmp_path / "b.npz", "its member 'images' is no array")


MEMORY = """
import resource, sys
from astroformer.images.sources import open_source
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
open_source(sys.argv[2], labelled=False).read(0)  # what a small file needs
before = peak()
images = open_source(sys.argv[1], labelled=False)
for i in range(0, len(images), len(images) // 10):
    images.read(i)
print(peak() - before)
"""


@pytest.mark.parametrize("ending", ["npz", "h5", "zarr"])
def test_a_file_of_200_mb_is_not_loaded(tmp_path: Path, ending: str) -> None:
    small = save_arrays(tmp_path / f"small.{ending}", {"images": np.zeros((4, 64, 64), np.uint8)})
    large = save_arrays(tmp_path / f"large.{ending}", {"images": np.zeros((12_800, 128, 128), np.uint8)}, chunk=50)
    ran = subprocess.run([sys.executable, "-c", MEMORY, large, small], capture_output=True, text=True, timeout=100)
    assert int(ran.stdout) * (1 if sys.platform == "darwin" else 1024) < 50_000_000, ran.stderr
    shutil.rmtree(large) if large.is_dir() else large.unlink()


# HDF5


def hdf5(path: Path, write: Callable[[Any], object]) -> Path:
    """A good file, to which something has been done."""
    save_arrays(path, five_bands(N))
    with h5py.File(path, "a") as file:
        write(file)
    return path


def instead(name: str, make: Callable[[Any], object]) -> Callable[[Any], None]:
    def write(file: Any) -> None:
        del file[name]
        make(file)

    return write


def virtual(file: Any) -> None:
    layout = h5py.VirtualLayout((N, 12, 12, 5), "f4")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "x", (N, 12, 12, 5))
    file.create_virtual_dataset("images", layout)


def circle(file: Any) -> None:
    file["images"] = h5py.SoftLink("/b")
    file["b"] = h5py.SoftLink("/images")


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (instead("images", lambda f: f.create_group("images")), "'images' is a group; name a data set in it"),
        (
            instead("images", lambda f: f.__setitem__("images", h5py.ExternalLink("other.h5", "/x"))),
            "'images' is a link into another file, 'other.h5'",
        ),
        (
            instead("labels", lambda f: f.__setitem__("labels", h5py.ExternalLink("/etc/passwd", "/x"))),
            "'labels' is a link into another file, '/etc/passwd'",
        ),
        (
            instead("images", lambda f: f.__setitem__("images", h5py.SoftLink("/nowhere"))),
            "unknown data set .*'images'",
        ),
        (instead("images", circle), "the links of 'images' lead in a circle"),
        (instead("images", virtual), "put together from other data sets or files"),
        (
            instead(
                "images",
                lambda f: f.create_dataset("images", (N, 9, 9), "u1", external=[("raw.bin", 0, N * 81)]),
            ),
            "put together from other data sets or files",
        ),
        (
            instead("images", lambda f: f.create_dataset("images", (N, 9, 9), "u1", chunks=(4, 9, 9))),
            "'images' lacks 6 of its 6 blocks: they were never written",
        ),
        (instead("images", lambda f: f.create_dataset("images", (N, 9, 9), "u1")), "lacks 1 of its 1 blocks"),
        (
            instead("images", lambda f: f.create_dataset("images", (10**12, 64, 64), "f4", chunks=(100, 64, 64))),
            "lacks 10,000,000,000 of its 10,000,000,000 blocks",
        ),
        (
            instead("images", lambda f: f.create_dataset("images", (N, 30_000, 30_000), "u1", chunks=(1, 100, 100))),
            "lacks",
        ),
        (instead("images", lambda f: f.create_dataset("images", data=h5py.Empty("f4"))), "is an empty data set"),
        (
            instead("labels", lambda f: f.create_dataset("labels", (N,), h5py.vlen_dtype(np.int32))),
            "lacks|one whole number or name",
        ),
        (
            instead("labels", lambda f: f.create_dataset("labels", data=[f["images"].ref] * N, dtype=h5py.ref_dtype)),
            "one whole number or name for each",
        ),
        (
            instead("labels", lambda f: f.create_dataset("labels", data=["x" * 100_000] + ["y"] * (N * 40))),
            "for each of the 24 images|texts of up to 100,000 letters",
        ),
    ],
)
def test_hdf5_that_is_no_set_of_images(tmp_path: Path, write: Callable[[Any], object], sentence: str) -> None:
    refused(hdf5(tmp_path / "a.h5", write), sentence)


def test_images_that_are_too_large_for_any_memory(tmp_path: Path) -> None:
    def large(file: Any) -> None:
        images = file.create_dataset(
            "images", (2, 20_000, 20_000), "u1", chunks=(1, 20_000, 20_000), compression="gzip"
        )
        for i in (0, 1):
            images.id.write_direct_chunk((i, 0, 0), b"a few bytes")

    refused(hdf5(tmp_path / "a.h5", instead("images", large)), "an image of 'images' takes 400,000,000 bytes, more")


@pytest.mark.parametrize(
    ("behind", "value"),
    [
        (16 + 24 + 8, bytes(8)),  # the bytes of the second text
        (16 + 8, b"\xff" * 8),
        (16, bytes(16)),  # nothing, of which there are 0 bytes
        (5, b"\xff\xff\xff\xff"),  # the length of all of them
    ],
)
def test_a_heap_of_texts_that_never_ends(tmp_path: Path, behind: int, value: bytes) -> None:
    path = save_arrays(tmp_path / "a.h5", five_bands(N))
    data = bytearray(path.read_bytes())
    at = data.index(b"GCOL\1") + behind
    data[at : at + len(value)] = value
    path.write_bytes(data)
    code = "import sys; from astroformer.images.sources import open_source; open_source(sys.argv[1])"
    ran = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=50, check=False)
    assert "damaged (texts in it lie beyond their heap, or it has no end)" in ran.stderr


def test_a_heap_that_claims_much_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.h5"
    free = 8192 - 16
    path.write_bytes(
        b"GCOL\1\0\0\0" + (8192).to_bytes(8, "little") + bytes(8) + free.to_bytes(8, "little") + bytes(free)
    )
    hdf5_heaps.check_heaps(path, [])
    monkeypatch.setattr(hdf5_heaps, "MAX_BYTES", 8191)
    with pytest.raises(ValueError, match="texts in it lie beyond their heap"):
        hdf5_heaps.check_heaps(path, [])


def test_a_packed_block_of_no_bytes_does_not_end_the_process(tmp_path: Path) -> None:
    path = save_arrays(tmp_path / "a.h5", {"images": five_bands(N)["images"]}, chunk=4)
    with h5py.File(path) as file:
        sizes = [file["images"].id.get_chunk_info(i).size for i in range(6)]
    data = path.read_bytes()
    key = sizes[2].to_bytes(4, "little") + bytes(4)  # of the third block in the tree: its bytes, and no filter left out
    assert data.count(key) == 1
    path.write_bytes(data.replace(key, bytes(8)))
    images = open_source(f"{path}@layout=NHWC", labelled=False)
    for i in range(N):
        if i // 4 == 2:
            with pytest.raises(UnreadableImage, match="a block of 0 bytes, where 5 to"):
                images.read(i)
        else:
            np.testing.assert_array_equal(images.read(i), five_bands(N)["images"][i])


def test_what_was_never_written_may_be_said_to_be_empty(tmp_path: Path) -> None:
    def half(file: Any) -> None:
        file.create_dataset("images", (N, 9, 9, 5), "f4", chunks=(4, 9, 9, 5), fillvalue=7)
        file["images"][:8] = 1

    path = hdf5(tmp_path / "a.h5", instead("images", half))
    refused(path, "'images' lacks 4 of its 6 blocks: .* would be read as 7.0. .* say @unwritten=fill")
    refused(path, "unknown word for @unwritten 'yes'", "@unwritten=yes")
    images = open_source(f"{path}@unwritten=fill")
    assert [float(images.read(i).max()) for i in (7, 8)] == [1, 7]


def test_a_filter_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_arrays(tmp_path / "a.h5", five_bands(N))
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda number: number != 1)
    refused(path, r"'images' is packed with the HDF5 filter 1 \(deflate\), which is not installed. Pack it with gzip")


def test_links_within_the_file_and_other_names(tmp_path: Path) -> None:
    def move(file: Any) -> None:
        file.move("images", "deep/er/stack")
        file.move("labels", "deep/er/labels")
        file["deep/er/loop"] = file["deep"]  # a group that holds itself
        file["here"] = h5py.SoftLink("/deep/er/stack")
        file["y"] = np.arange(N) % 2

    path = hdf5(tmp_path / "a.h5", move)
    for options in ("", "@images=/deep/er/stack", "@images=deep/er/loop/er/stack", "@images=here@labels=y"):
        images = open_source(f"{path}{options}@layout=NHWC")
        np.testing.assert_array_equal(images.read(7), five_bands(N)["images"][7])
    refused(path, r"unknown data set in .* 'stack'", "@images=stack")
    refused(path, "'deep' is a group", "@images=deep")
    refused(path, "has no 'labels'; it has", "@images=here")
    second = tmp_path / "b.h5"
    with h5py.File(second, "w") as file:
        file["a"], file["labels"] = np.zeros((N, 4, 4)), np.arange(N) % 2
    assert len(open_source(second)) == N
    with h5py.File(second, "a") as file:
        file["c"] = np.zeros((N, 4, 4))
    refused(second, r"has no 'images', and a, c could all be the images; say which with '.*@images=NAME'")


def test_hdf5_that_changes_while_it_is_used_is_noticed(tmp_path: Path) -> None:
    path = save_arrays(tmp_path / "a.h5", five_bands(N), chunk=4)
    images = open_source(path)
    save_arrays(path, {**five_bands(N), "images": five_bands(N)["images"] + 1}, chunk=4)  # it is not open
    os.utime(path, ns=(1, 1))
    with pytest.raises(UnreadableImage, match="has changed since it was opened"):
        images.read(N - 1)


# Zarr


@pytest.fixture(params=["zarr", "v2.zarr", "sharded.zarr"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return save_arrays(tmp_path / f"a.{request.param}", five_bands(N), chunk=4)


def chunks(path: Path) -> list[Path]:
    return sorted(
        file
        for file in (path / "images").rglob("*")
        if file.is_file() and file.name[0] != "." and file.suffix != ".json"
    )


def meta(path: Path, key: str = "images") -> Path:
    return path / key / ("zarr.json" if (path / "zarr.json").exists() else ".zarray")


def test_a_lost_block_is_not_read_as_zeros(store: Path) -> None:
    chunks(store)[1].unlink()
    refused(store, r"'images' lacks 1 of its \d blocks: they were never written, or are lost, and would be read as 0.0")
    assert len(open_source(f"{store}@unwritten=fill")) == N
    for file in chunks(store):
        file.unlink()
    refused(store, "lacks 6 of its 6 blocks|lacks 3 of its 3 blocks")


def test_blocks_that_are_cut_or_of_another_kind(store: Path) -> None:
    file = chunks(store)[0]
    whole = file.read_bytes()
    for content in (b"x", whole[:40], os.urandom(300)):
        file.write_bytes(content)
        images = open_source(store)
        with pytest.raises(UnreadableImage, match=rf"{store.name}#0.*damaged"):
            images.read(0)
        images.read(N - 1)  # which lies in another block
    file.write_bytes(b"")
    refused(store, "'images' lacks 1 of its")
    if hasattr(os, "mkfifo"):
        file.unlink()
        os.mkfifo(file)
        refused(store, "is no regular file, and part of a Zarr")


def test_a_block_of_blosc_that_is_cut_is_not_read_on_behind_its_end(tmp_path: Path) -> None:
    path = save_arrays(tmp_path / "a.zarr", {"labels": np.arange(N) % 2})
    images = five_bands(N)["images"]
    codec = zarr.codecs.BloscCodec()
    zarr.open_group(path, mode="a").create_array("images", data=images, chunks=(4, 12, 12, 5), compressors=[codec])
    file = chunks(path)[1]
    whole = file.read_bytes()
    for content in (whole[:1000], whole[:-1], whole[:15], whole[:4] + b"\xff" * 4 + whole[8:]):
        file.write_bytes(content)
        opened = open_source(f"{path}@layout=NHWC")
        for i in range(4, 8):
            with pytest.raises(UnreadableImage, match=r"is cut off|says that it unpacks to 4,294,967,295 bytes"):
                opened.read(i)
        np.testing.assert_array_equal(opened.read(8), images[8])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
@pytest.mark.parametrize("place", ["zarr.json", "images/zarr.json", "labels/zarr.json"])
def test_metadata_are_regular_files(tmp_path: Path, place: str) -> None:
    path = save_arrays(tmp_path / "a.zarr", five_bands(N))
    (path / place).unlink()
    os.mkfifo(path / place)
    refused(path, r"its file 'zarr\.json' is no regular file")
    (path / place).unlink()
    (path / place).symlink_to("/dev/zero")
    refused(path, r"its file 'zarr\.json' is no regular file")


@pytest.mark.parametrize("key", ["images", "labels", "classes", "bands"])
def test_metadata_that_are_lost_or_damaged(store: Path, key: str) -> None:
    file = meta(store, key)
    whole = file.read_bytes()
    for content in (b"", b"{", b"[]", b"null", whole[: len(whole) // 2], b"[" * 100_000, b"\xff" * 50):
        file.write_bytes(content)
        refused(store, "is not a Zarr or is damaged|neither an array nor a group|more than|has shape")
    file.unlink()
    refused(store, f"has a folder '{key}' that is neither an array nor a group")


def test_metadata_that_claim_what_is_not_there(store: Path) -> None:
    file = meta(store)
    words = json.loads(file.read_text())
    for shape, sentence in (
        ([10**15, 12, 12, 5], r"lacks [\d,]+ of its"),
        ([N + 1, 12, 12, 5], r"lacks \d+ of its|for each of the 25 images"),
        ([N, 100_000, 100_000, 5], "lacks|takes 200,000,000,000 bytes"),
        ([-1, 12, 12, 5], "damaged|has shape"),
        ([], "damaged|has shape"),
    ):
        file.write_text(json.dumps({**words, "shape": shape}))
        refused(store, sentence)


def test_codecs_that_load_python_objects_are_never_run(tmp_path: Path) -> None:
    path, ran = save_arrays(tmp_path / "a.v2.zarr", five_bands(N)), tmp_path / "ran"
    evil = b"cos\nsystem\n(S'touch " + os.fsencode(ran) + b"'\ntR."
    for key in ("images", "labels", "classes", "bands"):
        file = meta(path, key)
        before = file.read_text()
        blocks = {block: block.read_bytes() for block in (path / key).iterdir() if not block.name.startswith(".")}
        for block in blocks:
            block.write_bytes(evil)
        for words in (
            {"filters": [{"id": "pickle", "protocol": 5}], "compressor": None},
            {"filters": None, "compressor": {"id": "pickle", "protocol": 5}},
            {"filters": [{"id": "pickle", "protocol": 5}], "compressor": None, "dtype": "|O", "fill_value": None},
        ):
            file.write_text(json.dumps({**json.loads(before), **words}))
            refused(
                path, f"'{key}' is packed with 'pickle', which is not read: it may hold Python objects|No Zarr data"
            )
        file.write_text(before)
        for block, content in blocks.items():
            block.write_bytes(content)
    assert not ran.exists()
    assert len(open_source(path)) == N


def test_codecs_of_both_versions_are_read(tmp_path: Path) -> None:
    images = five_bands(N)["images"]
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    codecs = {"a": zarr.codecs.BloscCodec(), "b": zarr.codecs.GzipCodec(), "c": zarr.codecs.ZstdCodec(checksum=True)}
    for name, codec in codecs.items():
        group.create_array(name, data=images, chunks=(5, 12, 6, 5), compressors=[codec], filters=[])
        opened = open_source(f"{tmp_path}/a.zarr@images={name}@layout=NHWC", labelled=False)
        np.testing.assert_array_equal(opened.read(7), images[7])
    with pytest.raises(UserError, match=r"has no 'images', and a, b, c could all be the images"):
        open_source(tmp_path / "a.zarr")


def test_groups_and_names(store: Path) -> None:
    refused(store, "unknown array in .* 'image'. Did you mean 'images'", "@images=image")
    for name in ("../a", ".", "images/..", "images/zarr.json"):
        refused(store, "unknown array in|neither an array", f"@images={name}")
    group = zarr.open_group(store, mode="a")
    group.create_group("deep").create_array("x", data=np.ones((N, 4, 4), np.uint8))
    refused(store, "'deep' is a group; name an array in it", "@images=deep")
    assert open_source(f"{store}@images=deep/x", labelled=False).read(0).shape == (4, 4, 1)
    assert open_source(f"{store}@images=deep/x@labels=labels").classes == ("0", "1")


def test_a_zarr_that_is_one_array(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", data=five_bands(N)["images"]).attrs["bands"] = "u,g,r,i,z"
    images = open_source(tmp_path / "a.zarr", labelled=False)
    assert str(images.bands) == "u, g, r, i, z"
    np.testing.assert_array_equal(images.read(7), five_bands(N)["images"][7])
    refused(tmp_path / "a.zarr", "has no 'labels'; it has one array")
