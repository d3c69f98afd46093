"""Sources that lie elsewhere: what a URL may be, how it is copied, and that all is then as with files here."""

from __future__ import annotations

import errno
import re
import shutil
import socket
import threading
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from astroformer import load
from astroformer.cache import default_cache
from astroformer.errors import UserError
from astroformer.evaluation.unfinished import made_of
from astroformer.images import remote_places
from astroformer.images.given import as_images
from astroformer.images.remote import check_url, copy_of
from astroformer.images.sets import download
from astroformer.images.several import open_sources
from astroformer.images.sources import check_there, open_source, split_options
from astroformer.training.task import Task
from helpers.array_files import five_bands, save_arrays
from helpers.command_line import TINY, Run, command, table
from helpers.listening import Listening
from helpers.serving import Answer, Server
from helpers.survey import write_mosaic, write_stack
from helpers.tiny_sets import picture, save_npz, write_picture
from mock_survey import field, survey

URL = "memory://bucket"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> Path:
    shutil.copytree(own_cache / "native", tmp_path / "cache" / "native")  # built kernels, which take half a minute
    monkeypatch.setenv("ASTROFORMER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "_PAUSE", 0.0)
    return tmp_path / "cache"


@pytest.fixture
def bucket() -> Iterator[Any]:
    """A file system in memory, with an empty folder `/bucket`."""
    there = fsspec.filesystem("memory")
    yield there
    there.store.clear()
    there.pseudo_dirs[:] = [""]


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture
def galaxies(tmp_path: Path) -> Path:
    """A folder of two classes, with three pictures each."""
    for i in range(6):
        write_picture(tmp_path / "galaxies" / "ab"[i % 2] / f"{i} [deep].png", 40 * i)
    return tmp_path / "galaxies"


def npz(path: Path, n: int = 8, first: int = 0) -> Path:
    images = np.stack([picture((first + i) % 256) for i in range(n)])
    return save_npz(path, images=images, labels=np.arange(n) % 2, classes=["a", "b"])


def put(bucket: Any, path: Path, name: str | None = None) -> str:
    """Puts a file or folder into the bucket; its URL."""
    name = name or path.name
    for file in [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]:
        within = "" if path.is_file() else f"/{file.relative_to(path).as_posix()}"
        bucket.pipe_file(f"/bucket/{name}{within}", file.read_bytes())
    return f"{URL}/{name}"


def kept(cache: Path) -> list[str]:
    """What lies in the folders of all URLs: whole copies, and unfinished ones."""
    return sorted(each.name for each in cache.glob("remote/*/*") if each.is_dir())


def same_images(one: Any, other: Any) -> None:
    assert one.classes == other.classes
    assert one.labels.tolist() == other.labels.tolist()
    assert one.bands == other.bands
    for i in range(len(other)):
        np.testing.assert_array_equal(one.read(i), other.read(i))


# Sources of every kind --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["set.npz", "set.h5", "set.zarr", "set.zarr.zip"])
def test_arrays_elsewhere_are_those_of_a_file_here(bucket: Any, tmp_path: Path, name: str) -> None:
    pytest.importorskip({"h5": "h5py", "npz": "numpy"}.get(name.partition(".")[2], "zarr"))
    path = save_arrays(tmp_path / name, five_bands(8))
    url = put(bucket, path)
    images = open_source(f"{url}@layout=NHWC")
    same_images(images, open_source(f"{path}@layout=NHWC"))
    assert images.source == f"{url}@layout=NHWC"
    assert images.files[:2] == [f"{name}#0", f"{name}#1"]


def test_a_folder_elsewhere(bucket: Any, galaxies: Path) -> None:
    bucket.pipe_file("/bucket/galaxies/a/deeper/6.png", (galaxies / "a" / "0 [deep].png").read_bytes())
    url = put(bucket, galaxies)
    (galaxies / "a" / "deeper").mkdir()
    shutil.copy(galaxies / "a" / "0 [deep].png", galaxies / "a" / "deeper" / "6.png")
    for name in (url, f"{url}/"):
        images = open_source(name)
        same_images(images, open_source(galaxies))
        assert images.files == open_source(galaxies).files
        assert images.source == name


def test_an_image_elsewhere_is_called_by_its_url(bucket: Any, tmp_path: Path) -> None:
    url = put(bucket, write_picture(tmp_path / "new.png", 7))
    images = open_source(url, labelled=False)
    assert images.files == [url]
    assert images.read(0).max() == 7


def test_of_several_sources_each_image_is_called_by_its_url(bucket: Any, galaxies: Path, tmp_path: Path) -> None:
    folder, array, other = put(bucket, galaxies), put(bucket, npz(tmp_path / "set.npz")), npz(tmp_path / "set.npz")
    files = open_sources([f"{folder}/", array, str(other)]).files
    assert [files[0], files[6], files[14]] == [
        f"{URL}/galaxies/a/0 [deep].png",
        f"{URL}/set.npz#0",
        f"{tmp_path}/set.npz#0",
    ]


def test_a_catalog_may_have_its_images_elsewhere_and_lie_there_itself(
    bucket: Any, galaxies: Path, tmp_path: Path
) -> None:
    rows = [f"{label}/{i} [deep].png,{label}" for i, label in enumerate("ababab")]
    catalog = tmp_path / "galaxies" / "list.csv"
    catalog.write_text("\n".join(["file,label", *rows]) + "\n")
    expected, url = open_source(catalog), put(bucket, galaxies)
    for source in (f"{catalog}@root={url}", f"{url}/list.csv@root={galaxies}", f"{url}/list.csv@root={url}"):
        same_images(open_source(source), expected)
        assert open_source(source).files == expected.files
    with pytest.raises(UserError, match=rf"'{url}/list.csv' is a catalog, .* such as @root=FOLDER, or @root={url} "):
        open_source(f"{url}/list.csv")
    assert "galaxies@root" not in str(open_sources([f"{catalog}@root={url}", str(galaxies)]).files)


def test_stacks_and_mosaics_elsewhere(bucket: Any, tmp_path: Path) -> None:
    pytest.importorskip("astropy")
    catalog, stack = write_stack(tmp_path, survey(6, size=16))
    url = put(bucket, stack)
    images = open_source(f"{catalog}@cube={url}")
    same_images(images, open_source(f"{catalog}@cube={stack}"))
    assert f"'{url}': 6 images" in images.notes[0]
    catalog, _ = write_mosaic(tmp_path / "m", field(8, side=120, size=16), files=True)
    mosaics = sorted((tmp_path / "m").glob("*.fits"))
    here, there = ",".join(map(str, mosaics)), ",".join(put(bucket, path) for path in mosaics)
    images = open_source(f"{catalog}@mosaic={there}@size=16")
    same_images(images, open_source(f"{catalog}@mosaic={here}@size=16"))
    assert str(tmp_path / "cache") not in " ".join(images.notes)


def test_what_is_wrong_with_a_source_is_said_of_its_url(bucket: Any, tmp_path: Path) -> None:
    (tmp_path / "set.npz").write_bytes(b"no archive")
    url = put(bucket, tmp_path / "set.npz")
    with pytest.raises(UserError, match=rf"^'{url}' ") as raised:
        open_source(url)
    assert str(tmp_path) not in str(raised.value)
    write_picture(tmp_path / "parts" / "train" / "a" / "0.png")
    write_picture(tmp_path / "parts" / "test" / "a" / "0.png")
    parts = put(bucket, tmp_path / "parts")
    for classes in (None, ("a", "b")):
        with pytest.raises(UserError, match=rf"^'{parts}' holds the parts .*'{parts}/t") as raised:
            open_source(parts, classes=classes)
        assert str(tmp_path) not in str(raised.value)


# Copies -----------------------------------------------------------------------------------------------------


def test_a_source_is_copied_once_and_again_when_it_has_changed(bucket: Any, tmp_path: Path, cache: Path) -> None:
    url, heard = put(bucket, npz(tmp_path / "set.npz")), Listening()
    first = copy_of(url, heard)
    assert heard.said[0].startswith(f"copying '{url}' (1 file, 0.0 MB) to '{cache}/remote/set.npz-")
    before, heard.said = first.path.stat(), []
    assert copy_of(url, heard) == first
    assert (first.path.stat(), heard.said) == (before, [])
    put(bucket, npz(tmp_path / "set.npz", first=100))
    assert open_source(url, listener=heard).read(0).max() == 100
    assert heard.said[0].startswith(f"'{url}' has changed since the copy of 20")
    assert first.path.exists()  # a run may be reading it
    assert len(kept(cache)) == 2


def test_a_copy_that_is_not_whole_is_made_anew(bucket: Any, galaxies: Path, cache: Path) -> None:
    url = put(bucket, galaxies)
    path = copy_of(url).path
    (path / "a" / "0 [deep].png").write_bytes(b"")
    (path / "b" / "1 [deep].png").unlink()
    (path / "b" / "other").touch()
    assert copy_of(url).path == path
    same_images(open_source(url), open_source(galaxies))
    assert not (path / "b" / "other").exists()
    (path.parent.parent / "entry.json").write_text('{"version": 3, "files": [4]}')
    same_images(open_source(url), open_source(galaxies))


def test_a_copy_goes_on_where_it_broke_off(bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_places, "_PIECE", 1000)
    monkeypatch.setattr(remote_places, "_PIECES", 2)
    content = np.random.default_rng(0).bytes(10_500)
    (tmp_path / "some.fits").write_bytes(content)
    url, asked, read = put(bucket, tmp_path / "some.fits"), list[int](), type(bucket).cat_file
    broken = 0

    def breaking(self: Any, path: str, start: int, end: int, **words: Any) -> bytes:
        nonlocal broken
        asked.append(start)
        if start == 5000 and broken > 0:
            broken -= 1
            raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
        return read(self, path, start, end, **words)

    monkeypatch.setattr(type(bucket), "cat_file", breaking)
    broken = 9
    with pytest.raises(
        UserError, match=rf"^'{url}' can't be copied: it can't be reached \(.*reset by peer\)\. Try again;"
    ):
        copy_of(url)
    assert kept(tmp_path / "cache")[0].endswith(".part")
    broken, asked[:] = 2, []
    heard = Listening()
    assert copy_of(url, heard).path.read_bytes() == content
    assert asked == [4000, 5000, 5000, 5000, *range(6000, 11_000, 1000)]
    assert not kept(tmp_path / "cache")[0].endswith(".part")


def test_an_interrupt_leaves_no_copy_and_the_next_command_goes_on(
    bucket: Any, galaxies: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_places, "_PIECES", 1)
    url, read, asked = put(bucket, galaxies), type(bucket).cat_file, list[str]()

    def interrupted(self: Any, path: str, *place: int, **words: Any) -> bytes:
        asked.append(path)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return read(self, path, *place, **words)

    monkeypatch.setattr(type(bucket), "cat_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        open_source(url)
    [part] = kept(cache)
    assert part.endswith(".part")
    same_images(open_source(url), open_source(galaxies))
    assert len(asked) == 7
    assert kept(cache) == [part.removesuffix(".part")]


def test_what_has_come_in_of_another_version_is_dropped(
    bucket: Any, galaxies: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = put(bucket, galaxies)
    with monkeypatch.context() as patch:
        patch.setattr(type(bucket), "cat_file", lambda *_, **__: b"")
        with pytest.raises(UserError, match="it sends 0 bytes in place of"):
            copy_of(url)
    [part] = kept(cache)
    put(bucket, galaxies)
    copy_of(url)
    assert part not in kept(cache)
    assert len(kept(cache)) == 1


def test_a_source_that_changes_meanwhile_is_copied_anew(
    bucket: Any, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, read, changes = put(bucket, npz(tmp_path / "set.npz")), type(bucket).cat_file, 0

    def changing(self: Any, *place: Any, **words: Any) -> bytes:
        nonlocal changes
        content = read(self, *place, **words)
        if changes:
            changes -= 1
            put(bucket, npz(tmp_path / "set.npz", first=200 - changes))
        return content

    monkeypatch.setattr(type(bucket), "cat_file", changing)
    changes = 2
    assert open_source(url).read(0).max() == 200
    assert len(kept(cache)) == 1
    changes = 100
    put(bucket, npz(tmp_path / "set.npz", first=9))
    with pytest.raises(UserError, match="it has changed 3 times while it was copied"):
        copy_of(url)
    assert len(kept(cache)) == 1


def test_two_at_once_make_one_copy(bucket: Any, galaxies: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, read, asked = put(bucket, galaxies), type(bucket).cat_file, list[str]()

    def slow(self: Any, path: str, *place: int, **words: Any) -> bytes:
        asked.append(path)
        time.sleep(0.02)
        return read(self, path, *place, **words)

    monkeypatch.setattr(type(bucket), "cat_file", slow)
    heard, made = Listening(), list[Path]()
    threads = [threading.Thread(target=lambda: made.append(copy_of(url, heard).path)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 3
    assert len(set(made)) == 1
    assert len(asked) == 6
    assert any("another process is downloading" in line for line in heard.said)


@pytest.mark.parametrize("name", ["../../outside.png", "a/./b.png", "a//b.png"])
def test_no_name_leads_out_of_a_copy(
    bucket: Any, galaxies: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    url, find = put(bucket, galaxies), type(bucket).find

    def found(self: Any, path: str, **words: Any) -> Any:
        return {**find(self, path, **words), f"/bucket/galaxies/{name}": {"size": 3, "type": "file"}}

    monkeypatch.setattr(type(bucket), "find", found)
    with pytest.raises(UserError, match="which can't be the name of a file here"):
        copy_of(url)
    assert kept(cache) == []


def test_markers_of_folders_are_no_files(bucket: Any, galaxies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, find = put(bucket, galaxies), type(bucket).find
    empty = {"size": 0, "type": "file"}

    def found(self: Any, path: str, **words: Any) -> Any:
        return {"/bucket/galaxies": empty, "/bucket/galaxies/a/": empty, **find(self, path, **words)}

    monkeypatch.setattr(type(bucket), "find", found)
    same_images(open_source(url), open_source(galaxies))


def test_a_full_disk_and_a_cache_that_is_read_only(
    bucket: Any, galaxies: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = put(bucket, galaxies)
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage(10, 9, 1))
        with pytest.raises(UserError, match=rf"^the disk of '{cache}.*' is full: '{url}' has 0.0 MB"):
            copy_of(url)
    shutil.rmtree(cache)
    cache.write_text("")
    with pytest.raises(UserError, match=r"can't be written: .*Set ASTROFORMER_CACHE"):
        copy_of(url)


def test_a_copy_serves_where_its_server_can_not_be_asked(
    bucket: Any, galaxies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = put(bucket, galaxies)
    with monkeypatch.context() as patch:
        patch.setattr(type(bucket), "info", lambda *_, **__: exec("raise TimeoutError('no answer')"))
        with pytest.raises(UserError, match=r"can't be copied: it can't be reached \(no answer\). Try again later."):
            copy_of(url)
    assert open_source(url).notes == []
    monkeypatch.setattr(type(bucket), "info", lambda *_, **__: exec("raise TimeoutError('no answer')"))
    images = open_source(url)
    same_images(images, open_source(galaxies))
    [note] = images.notes
    assert note.startswith(
        f"'{url}': it can't be reached (no answer), so nobody knows whether it has changed; the copy"
    )


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FileNotFoundError("/bucket/galaxies"), "nothing is there"),
        (PermissionError("Access Denied"), r"it may not be read \(Access Denied\)"),
        (ValueError("https://h/x?sig=SECRET is odd"), r"it can't be read \(https://h/x\?… is odd\)"),
        (
            RuntimeError("no credentials at https://me:SECRET@h/"),
            r"it can't be reached \(no credentials at https://…@h/\)",
        ),
    ],
)
def test_what_a_server_refuses_is_no_matter_of_a_copy(
    bucket: Any, galaxies: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    url = put(bucket, galaxies)

    def refused(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(type(bucket), "info", refused)
        with pytest.raises(UserError, match=rf"^'{url}' can't be copied: {said}\.") as raised:
            copy_of(url)
        assert "SECRET" not in str(raised.value)
    path = copy_of(url).path
    monkeypatch.setattr(type(bucket), "info", refused)
    if isinstance(error, RuntimeError):
        assert "SECRET" not in str(copy_of(url).note)
    else:
        with pytest.raises(UserError, match=rf"{said}\. The copy of 20.* is still in '{path}'"):
            copy_of(url)


def test_a_server_that_tells_no_times_is_said(bucket: Any, galaxies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, find = put(bucket, galaxies), type(bucket).find

    def found(self: Any, path: str, **words: Any) -> Any:
        return {name: {"size": info["size"]} for name, info in find(self, path, **words).items()}

    monkeypatch.setattr(type(bucket), "find", found)
    assert open_source(url).notes == []
    [note] = open_source(url).notes
    assert note.startswith(f"'{url}': its server does not say when it changes; the copy of 20")


# Web servers ------------------------------------------------------------------------------------------------


def test_a_file_of_a_web_server(server: Server, tmp_path: Path) -> None:
    path = npz(tmp_path / "set.npz", n=400)
    server.answers["/a%20b/set.npz"] = Answer(path.read_bytes(), '"1"', breaks_after=20_000, breaks=2)
    url = server.url("/a b/set.npz")
    same_images(open_source(url), open_source(path))
    asked = [begin for _, begin, _ in server.asked]
    assert "bytes=20000-" in asked  # it was resumed
    n = len(asked)
    assert open_source(url).notes == []
    assert len(server.asked) == n + 1
    server.answers["/a%20b/set.npz"] = Answer(npz(path, n=400, first=3).read_bytes(), '"2"')
    assert open_source(url).read(0).max() == 3


def test_a_web_server_that_is_gone(server: Server, tmp_path: Path) -> None:
    path = npz(tmp_path / "set.npz")
    server.answers["/set.npz"] = Answer(path.read_bytes(), '"1"')
    url = server.url("/set.npz")
    copy_of(url)
    server.answers["/set.npz"] = Answer(b"", status=503)
    [note] = open_source(url).notes
    assert "its server answers 503" in note
    server.answers["/set.npz"] = Answer(b"", status=410)
    with pytest.raises(UserError, match=r"can't be copied: its server answers 410 Gone\. The copy of 20"):
        open_source(url)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(b"", status=404), "answers 404 Not Found"),
        (Answer(b"", status=403), "answers 403 Forbidden"),
        (Answer(b"", status=503), "answers 503 Service Unavailable. Try again later"),
        (Answer(b"<html>", kind="text/html"), "sends a web page; name one file, since web servers list no folders"),
        (Answer(b"1234", chunked=True), "does not say how many bytes it has"),
        (Answer(b"", '"1"'), "it is empty"),
        (Answer(b"1" * 50_000, '"1"', breaks_after=9, breaks=99), r"broke off after \d+ bytes. Try again; what has"),
    ],
)
def test_what_a_web_server_does_not_give(server: Server, cache: Path, answer: Answer, said: str) -> None:
    server.answers["/set.npz"] = answer
    answer.ranges = answer.breaks == 0
    url = server.url("/set.npz")
    with pytest.raises(UserError, match=f"^'{url}' can't be copied: (its server )?{said}"):
        copy_of(url)
    assert all(name.endswith(".part") for name in kept(cache))


def test_no_server() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/set.npz"
    with pytest.raises(UserError, match=rf"'{url}' can't be copied: it can't be reached \(Connection refused\). Try"):
        copy_of(url)


# What a URL may be ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://me:SECRET@example.org/x.npz", r"'https://…@example.org/x.npz' holds a password"),
        ("https://SECRET@example.org/x.npz", r"'https://…@example.org/x.npz' holds a password"),
        ("s3://key:SEC@RET@bucket/x.npz", r"'s3://…@bucket/x.npz' holds a password"),
        ("https://example.org/x.npz?X-Amz-Signature=SECRET", r"'https://example.org/x.npz\?…' holds"),
        ("list.csv@root=https://example.org/x?sig=SECRET", r"'https://example.org/x\?…' holds"),
        ("list.csv@mosaic=g.fits,https://me:SECRET@example.org/r.fits", r"'https://…@example.org/r.fits' holds"),
    ],
)
def test_passwords_and_keys_are_shown_nowhere(
    run: Run, model_folder: Path, tmp_path: Path, url: str, said: str
) -> None:
    def open_all() -> Iterator[str]:
        for opened in (open_source, check_there, split_options):
            with pytest.raises(UserError) as raised:
                opened(url)
            yield str(raised.value)
        yield run("train", url, *TINY, "--out", "r").refusal()
        yield run("train", "mock-galaxies", "--valid", url, *TINY, "--out", "r").refusal()
        yield run("predict", model_folder, "mock-galaxies", url, "--root", "x", "--out", "p.csv").refusal()
        yield run("evaluate", model_folder, url).refusal()

    for sentence in open_all():
        assert "SECRET" not in sentence
        assert "RET@" not in sentence
        assert re.search(said, sentence)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://", "names no file or folder"),
        ("https://example.org/a/../b", "names no file or folder"),
        (f"{URL}/*.png", "is a pattern, and those stand for files here alone"),
        ("list.csv@id=a@pattern=https://example.org/{id}.png", "is a pattern"),
        ("file:///data/x.npz", "name a file here by its path"),
        (f"zip://x.npz::{URL}/x.zip", "name a file here by its path"),
        ("s4://bucket/x.npz", "unknown kind of URL 's4://'. Did you mean 's3://'"),
    ],
)
def test_other_urls_are_refused_before_any_network(tmp_path: Path, url: str, said: str) -> None:
    for opened in (open_source, check_there):
        with pytest.raises(UserError, match=said):
            opened(url)
    with pytest.raises(UserError, match=said):
        open_sources([url])


def test_a_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(scheme: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(UserError, match=r"Install s3fs to access S3\): pip install \"fsspec\[s3\]\"$"):
        check_url("s3://bucket/x.npz")
    with pytest.raises(UserError, match=r"pip install \"fsspec\[abfs\]\"$"):
        check_url("az://bucket/x.npz")
    check_url("https://example.org/x.npz")  # needs none


def test_a_url_leads_to_images_alone(run: Run, model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'s3://bucket/model' is a URL: a model folder has to lie on this machine"):
        load("s3://bucket/model")
    refused = run("predict", "s3://bucket/model", "mock-galaxies:20")
    assert "'s3://bucket/model' is a URL: a model folder has to lie" in refused.refusal()
    for words in (("train", "mock-galaxies:40"), ("predict", model_folder, "mock-galaxies:20")):
        refused = run(*words, "--out", "s3://bucket/out.csv")
        assert "'s3://bucket/out.csv' is a URL: what a command writes has to lie" in refused.refusal()
    refused = run("train", "mock-galaxies:40", "--cache", "s3://bucket/cache")
    assert "'s3://bucket/cache' is a URL: a cache has to lie" in refused.refusal()
    with pytest.raises(UserError, match="stands in a list, which names files here"):
        as_images([f"{URL}/a.png"])
    with pytest.raises(UserError, match="Give a URL as str"):
        open_source(Path("s3://bucket/x.npz"))
    assert not list(tmp_path.glob("s3*"))


# Commands ---------------------------------------------------------------------------------------------------


def test_the_task_of_a_run_keeps_urls_and_makes_paths_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("list.csv").touch()
    for source, lasting in [
        ("s3://b/set.h5@per-class=0:5", "s3://b/set.h5@per-class=0:5"),
        ("s3://b/list.csv@root=images@file=name", f"s3://b/list.csv@root={tmp_path}/images@file=name"),
        ("list.csv@root=s3://b/images", f"{tmp_path}/list.csv@root=s3://b/images"),
        ("list.csv@mosaic=s3://b/g.fits,r.fits", f"{tmp_path}/list.csv@mosaic=s3://b/g.fits,{tmp_path}/r.fits"),
    ]:
        assert Task(source).lasting().source == lasting


def test_rows_of_a_source_that_has_changed_there_are_not_gone_on_with(
    bucket: Any, galaxies: Path, tmp_path: Path, model_folder: Path
) -> None:
    url, folder = put(bucket, npz(tmp_path / "set.npz")), put(bucket, galaxies)

    def made() -> list[dict[str, Any]]:
        return [made_of(model_folder, urls, open_sources(urls), ["file"]) for urls in ([url], [folder, url])]

    before = made()
    assert made() == before
    put(bucket, npz(tmp_path / "set.npz", first=9))
    assert all(one != other for one, other in zip(made(), before, strict=True))
    before = made()
    put(bucket, galaxies)
    assert [one != other for one, other in zip(made(), before, strict=True)] == [False, True]


def test_every_command_takes_a_url(bucket: Any, galaxies: Path, run: Run, model_folder: Path) -> None:
    url = put(bucket, galaxies)
    assert run("show", url).status == 0
    assert run("predict", model_folder, url, "--out", "p.csv").status == 0
    assert [row["file"] for row in table(Path("p.csv"))][:1] == ["a/0 [deep].png"]
    assert run("symmetry", model_folder, url, "--only-known", "--quiet").status == 2  # of none of the model's classes
    Path("list.csv").write_text("file\na/0 [deep].png\nb/none.png\n")
    predicted = run("predict", model_folder, "list.csv", "--root", url, "--out", "q.csv")
    assert predicted.status == 0
    rows = table(Path("q.csv"))
    assert rows[0]["file"] == "a/0 [deep].png"
    assert "No such file" in rows[1]["error"]


def test_a_run_from_a_web_server_is_evaluated_without_it(server: Server, run: Run, tmp_path: Path) -> None:
    server.answers["/set.npz"] = Answer(npz(tmp_path / "set.npz", n=20).read_bytes(), '"1"')
    url = server.url("/set.npz")
    trained = command("train", url, *TINY, "--valid-fraction", "0.3", cwd=tmp_path)  # the one in a process of its own
    assert trained.returncode == 0, trained.stderr
    assert f"copying '{url}' (1 file, " in trained.stderr
    folder = tmp_path / "runs" / "set-1"
    assert f'"source": "{url}"' in (folder / "run.json").read_text()
    assert str(default_cache()) not in (folder / "splits" / "valid.csv").read_text()
    server.answers["/set.npz"] = Answer(b"", status=503)
    evaluated = run("evaluate", folder)
    assert evaluated.status == 0, evaluated.err
    assert f"'{url}': its server answers 503 Service Unavailable, so nobody knows" in evaluated.err
    again = run("evaluate", folder, folder / "splits" / "valid.csv")
    assert again.status == 0, again.err
