from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from astroformer.cache import default_cache
from astroformer.errors import UserError
from astroformer.images import store
from astroformer.images.labelled import LabelledImages
from astroformer.images.preprocessing import Preprocessing
from astroformer.images.sources import open_source
from astroformer.images.store import ImageStore

RNG = np.random.default_rng(3)
SETTINGS = Preprocessing((8, 10), 3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of 20 images each, of different sizes and modes."""
    root = tmp_path / "set"
    for label in ("a", "b"):
        (root / label).mkdir(parents=True)
        for i in range(20):
            shape = (int(RNG.integers(5, 30)), int(RNG.integers(5, 30)), (1, 3, 4)[i % 3])
            pixels = RNG.integers(0, 256, shape).astype(np.uint8)
            Image.fromarray(pixels[..., 0] if shape[2] == 1 else pixels).save(root / label / f"{i}.png")
    return root


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def unreadable(i: int) -> np.ndarray:
    raise AssertionError("nothing should be decoded")


def blind(images: LabelledImages) -> LabelledImages:
    """The same images with a reader that may be asked for digests but not for pixels."""

    class Blind:
        def __call__(self, i: int) -> np.ndarray:
            return unreadable(i)

        digests = staticmethod(images.reader.digests)  # type: ignore[attr-defined]

    return replace(images, reader=Blind())


@pytest.mark.parametrize("settings", [SETTINGS, Preprocessing((9, 7), 1, crop=0.7, fit="pad", dtype="float16")])
def test_rows_are_what_predict_would_see(folder: Path, cache: Path, settings: Preprocessing) -> None:
    images = open_source(folder)
    steps = []
    built = ImageStore.build(images, settings, cache=cache, progress=lambda done, n: steps.append((done, n)))
    assert built.array.shape == (40, settings.channels, *settings.image_size)
    assert isinstance(built.array, np.memmap)
    assert built.array.dtype == settings.dtype
    for i in range(40):
        np.testing.assert_array_equal(built.array[i], settings.apply(images.read(i)))
    np.testing.assert_array_equal(built.labels, images.labels)
    assert (built.files, built.classes, built.failures) == (images.files, images.classes, [])
    assert steps[-1] == (40, 40)
    assert steps == sorted(steps)
    assert not built.array.flags.writeable


def test_the_number_of_threads_changes_nothing(folder: Path, tmp_path: Path) -> None:
    one = ImageStore.build(open_source(folder), SETTINGS, cache=tmp_path / "1", workers=1)
    four = ImageStore.build(open_source(folder), SETTINGS, cache=tmp_path / "4", workers=4)
    np.testing.assert_array_equal(one.array, four.array)
    with pytest.raises(UserError, match="workers is 0"):
        ImageStore.build(open_source(folder), SETTINGS, cache=tmp_path / "0", workers=0)


def test_second_run_decodes_nothing(folder: Path, cache: Path) -> None:
    images = open_source(folder)
    first = ImageStore.build(images, SETTINGS, cache=cache)
    measured = replace(SETTINGS, mean=(0.5,) * 3, std=(0.2,) * 3)  # does not shape the array
    second = ImageStore.build(blind(images), measured, cache=cache)
    assert (first.reused, second.reused) == (False, True)
    assert second.preprocessing == measured
    np.testing.assert_array_equal(first.array, second.array)
    (folder / "a" / "0.png").rename(folder / "a" / "00.png")
    again = open_source(folder)
    assert ImageStore.build(blind(again), SETTINGS, cache=cache).files == again.files


def test_changed_bytes_or_settings_miss(folder: Path, cache: Path) -> None:
    before = ImageStore.build(open_source(folder), SETTINGS, cache=cache)
    with pytest.raises(AssertionError, match="nothing should be decoded"):
        ImageStore.build(blind(open_source(folder)), replace(SETTINGS, crop=0.9), cache=cache)
    shutil.copy(folder / "b" / "3.png", folder / "a" / "0.png")
    after = ImageStore.build(open_source(folder), SETTINGS, cache=cache)
    assert not after.reused
    assert not np.array_equal(before.array[0], after.array[0])
    np.testing.assert_array_equal(before.array[1:], after.array[1:])
    assert len(entries(cache)) == 2


def entries(cache: Path) -> list[str]:
    return sorted(p.name for p in cache.iterdir() if p.name != "hashes")


def damage(folder: Path, *names: str) -> None:
    for name in names:
        file = folder / name
        file.write_bytes(file.read_bytes()[:40])


def test_failures_are_left_out_listed_and_remembered(folder: Path, cache: Path) -> None:
    damage(folder, "a/0.png", "b/7.png")
    (folder / "b" / "19.png").write_text("words")
    Image.fromarray(RNG.integers(0, 65536, (9, 9)).astype(np.uint16)).save(folder / "a" / "4.png")
    images = open_source(folder)
    for expected_reuse in (False, True):
        built = ImageStore.build(blind(images) if expected_reuse else images, SETTINGS, cache=cache)
        assert built.reused == expected_reuse
        assert [file for file, _ in built.failures] == ["a/0.png", "a/4.png", "b/7.png", "b/19.png"]
        reasons = [reason for _, reason in built.failures]
        assert "uint16, and the model learned from uint8" in reasons[1]
        assert reasons[3] == "not a JPEG, PNG, TIFF, WebP, BMP, GIF or FITS image"
        assert len(built) == len(built.array) == len(built.files) == len(built.labels) == 36
        for row, i in enumerate(built.indices):
            assert built.files[row] == images.files[i]
            np.testing.assert_array_equal(built.array[row], SETTINGS.apply(images.read(i)))
        assert images.labels is not None
        np.testing.assert_array_equal(built.labels, images.labels[built.indices])
    with pytest.raises(UserError, match=r"4 of 40 images .*a/0\.png.*--strict"):
        ImageStore.build(images, SETTINGS, cache=cache, strict=True)


def test_too_many_failures(folder: Path, cache: Path) -> None:
    damage(folder, *(f"b/{i}.png" for i in range(20)))
    with pytest.raises(UserError, match=r"no image of the class 'b' can be read.*b/4\.png: .*; and 15 more"):
        ImageStore.build(open_source(folder), SETTINGS, cache=cache)
    damage(folder, *(f"a/{i}.png" for i in range(20)))
    with pytest.raises(UserError, match=r"40 of 40 images .* cannot be read"):
        ImageStore.build(open_source(folder), SETTINGS, cache=cache)
    assert len(entries(cache)) == 1  # that of the first build


def test_subsets_share_the_array(folder: Path, cache: Path) -> None:
    built = ImageStore.build(open_source(folder), SETTINGS, cache=cache)
    some = built.subset([30, 2, 5]).subset([0, 2])
    assert some.base is built.base
    assert some.files == [built.files[30], built.files[5]]
    np.testing.assert_array_equal(some.labels, [1, 0])
    np.testing.assert_array_equal(some.array, built.array[[30, 5]])
    np.testing.assert_array_equal(some.take([1, 1]), built.array[[5, 5]])
    run = built.subset(range(10, 20))
    assert np.shares_memory(run.array, built.array)
    np.testing.assert_array_equal(run.array, built.array[10:20])
    assert len(built.subset([]).array) == 0


def test_a_part_is_what_a_build_of_it_would_be(folder: Path, cache: Path, tmp_path: Path) -> None:
    (folder / "a" / "3.png").write_bytes(b"no image")
    images = open_source(folder)
    whole = ImageStore.build(images, SETTINGS, cache=cache)
    broken = images.files.index("a/3.png")
    chosen = np.array([30, broken, 2, 17, 25])
    part = whole.part(images, chosen)
    alone = ImageStore.build(images.subset(chosen), SETTINGS, cache=tmp_path / "other")
    np.testing.assert_array_equal(part.array, alone.array)
    np.testing.assert_array_equal(part.labels, alone.labels)
    np.testing.assert_array_equal(part.indices, alone.indices)
    assert (part.files, part.failures) == (alone.files, alone.failures)
    assert part.base is whole.base
    assert whole.part(images, np.array([0, 39])).failures == []
    with pytest.raises(UserError, match="1 of 5 images"):
        whole.part(images, chosen, strict=True)
    with pytest.raises(UserError, match="no image of the class 'a' can be read"):
        whole.part(images, np.array([broken, 30]))


def test_without_labels(folder: Path, cache: Path) -> None:
    built = ImageStore.build(open_source(folder, labelled=False), SETTINGS, cache=cache)
    assert len(built.subset([1])) == 1
    with pytest.raises(UserError, match="no labels"):
        _ = built.labels


@pytest.mark.parametrize("harm", ["short", "flipped", "gone", "meta", "key", "header"])
def test_damaged_entry_is_rebuilt(folder: Path, cache: Path, harm: str) -> None:
    images = open_source(folder)
    good = ImageStore.build(images, SETTINGS, cache=cache)
    expected = np.array(good.array)
    array, meta = good.folder / "array.npy", good.folder / "meta.json"
    data = bytearray(array.read_bytes())
    array.unlink()  # the mapped file stays as it was
    if harm == "short":
        array.write_bytes(data[:-1])
    elif harm == "flipped":
        data[len(data) // 2] ^= 4
        array.write_bytes(data)
    elif harm == "header":
        array.write_bytes(data.replace(b"'|u1'", b"'|i1'"))
    elif harm in ("meta", "key"):
        array.write_bytes(data)
        meta.write_text("{" if harm == "meta" else meta.read_text().replace('"key": "', '"key": "0'))
    again = ImageStore.build(images, SETTINGS, cache=cache)
    assert not again.reused
    np.testing.assert_array_equal(again.array, expected)
    assert ImageStore.build(blind(images), SETTINGS, cache=cache).reused
    assert len(entries(cache)) == 1


def test_a_failure_of_ours_in_the_middle_leaves_nothing(folder: Path, cache: Path) -> None:
    images = open_source(folder)

    def read(i: int) -> np.ndarray:
        if i == 30:
            raise KeyboardInterrupt
        return images.reader(i)

    with pytest.raises(KeyboardInterrupt):
        ImageStore.build(replace(images, reader=read), SETTINGS, cache=cache)
    assert not cache.exists() or entries(cache) == []

    reader = blind(images)
    with pytest.raises(AssertionError):
        ImageStore.build(reader, SETTINGS, cache=cache)
    assert entries(cache) == []


def test_a_killed_build_leaves_no_entry(folder: Path, cache: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path\n"
        "from astroformer.images.preprocessing import Preprocessing\n"
        "from astroformer.images.sources import open_source\n"
        "from astroformer.images.store import ImageStore\n"
        "stop = lambda done, n: done >= 16 and os.kill(os.getpid(), signal.SIGKILL)\n"
        "ImageStore.build(open_source(sys.argv[1]), Preprocessing((8, 10), 3), cache=Path(sys.argv[2]), "
        "progress=stop)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(folder), str(cache)], check=False)
    assert killed.returncode == -9
    left = entries(cache)
    assert len(left) == 1
    assert left[0].endswith(".part")
    old = 1_000_000
    for path in (*(cache / left[0]).iterdir(), cache / left[0]):
        os.utime(path, (old, old))
    built = ImageStore.build(open_source(folder), SETTINGS, cache=cache)
    assert not built.reused
    assert entries(cache) == [built.folder.name]


def test_two_builds_at_once_do_no_harm(folder: Path, cache: Path) -> None:
    """A second process finishes the same entry while the first is in the middle of it."""
    images = open_source(folder)
    inner: list[ImageStore] = []

    def progress(done: int, n: int) -> None:
        if not inner:
            inner.append(ImageStore.build(images, SETTINGS, cache=cache))

    outer = ImageStore.build(images, SETTINGS, cache=cache, progress=progress)
    np.testing.assert_array_equal(outer.array, inner[0].array)
    assert entries(cache) == [outer.folder.name]


def test_full_disk_and_unwritable_cache_are_sentences(
    folder: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = open_source(folder)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"cannot be written.*ASTROFORMER_CACHE"):
        ImageStore.build(images, SETTINGS, cache=tmp_path / "file" / "cache")

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(UserError, match=r"is full: 40 decoded images need 0\.00 GB.*ASTROFORMER_CACHE"):
        ImageStore.build(images, SETTINGS, cache=cache)
    monkeypatch.undo()

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store.os, "fsync", fail)
    with pytest.raises(UserError, match="is full"):
        ImageStore.build(images, SETTINGS, cache=cache)
    assert entries(cache) == []


def test_default_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ASTROFORMER_CACHE", str(tmp_path / "x"))
    assert default_cache() == tmp_path / "x"
    monkeypatch.delenv("ASTROFORMER_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if sys.platform == "linux":
        assert default_cache() == tmp_path / "astroformer"


DATA = Path(os.environ.get("ASTROFORMER_DATA", Path(__file__).parents[2].parent / "shared" / "data"))


@pytest.mark.skipif(not (DATA / "cifar10").is_dir(), reason="the real images are not here; set ASTROFORMER_DATA")
@pytest.mark.parametrize(
    ("source", "shape", "classes"),
    [
        ("galaxy-zoo2/valid@per-class=0:4", (424, 424, 3), 5),
        ("cifar10/train.npz@per-class=0:3", (32, 32, 3), 10),
        ("tiny-imagenet/train-50-per-class.npz@per-class=49:50", (64, 64, 3), 200),
        ("mirabest/train.npz@per-class=0:5", (150, 150, 1), 2),
    ],
)
def test_real_images(source: str, shape: tuple[int, int, int], classes: int, cache: Path) -> None:
    images = open_source(f"{DATA}/{source}")
    assert len(images.classes) == classes
    assert images.read(0).shape == shape
    settings = Preprocessing((32, 32), shape[2])
    built = ImageStore.build(images, settings, cache=cache)
    assert built.failures == []
    assert len(set(images.counts().values())) == 1
    assert built.array.std() > 1
    assert ImageStore.build(images, settings, cache=cache).reused
