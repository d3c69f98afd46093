from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from astroformer.errors import UserError
from astroformer.images.sets import download
from astroformer.images.sets.download import Resource, fetch
from helpers.serving import Answer, Server

BODY = np.random.default_rng(0).integers(0, 256, 900_000, np.uint8).tobytes()
OTHER = BODY[:-1] + b"x"


class Heard:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.transfers: list[tuple[str, int, int]] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def transfer(self, name: str, done: int, total: int) -> None:
        self.transfers.append((name, done, total))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "_PAUSE", 0.0)
    with Server() as server:
        yield server


def resource(*urls: str, body: bytes = BODY, **words: object) -> Resource:
    return Resource("file.bin", urls, len(body), hashlib.sha256(body).hexdigest(), **words)  # type: ignore[arg-type]


def whole(folder: Path) -> bool:
    """Whether the file is there, and nothing unfinished beside it."""
    return (folder / "file.bin").read_bytes() == BODY and not list(folder.glob("*.part*"))


def test_a_file_is_fetched_once_and_checked_again_when_it_changes(server: Server, tmp_path: Path) -> None:
    server.answers["/f"] = Answer(BODY)
    heard = Heard()
    path, sha256 = fetch(resource(server.url("/f")), tmp_path / "a" / "b", heard)
    assert whole(path.parent)
    assert sha256 == hashlib.sha256(BODY).hexdigest()
    assert heard.transfers[-1] == ("file.bin", len(BODY), len(BODY))
    assert heard.lines == []
    assert fetch(resource(server.url("/f")), path.parent) == (path, sha256)
    assert len(server.asked) == 1
    path.write_bytes(OTHER)
    os.utime(path, (1, 1))
    with pytest.raises(UserError, match=r"is another file: its SHA-256 is .*Remove it"):
        fetch(resource(server.url("/f")), path.parent)
    path.write_bytes(BODY)  # as somebody without a network puts it there
    assert fetch(resource(), path.parent) == (path, sha256)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_broken_connection_is_resumed(server: Server, tmp_path: Path, chunked: bool) -> None:
    server.answers["/f"] = Answer(BODY, '"1"', breaks_after=300_000, breaks=2, chunked=chunked)
    fetch(resource(server.url("/f")), tmp_path)
    assert whole(tmp_path)
    assert [asked for _, asked, _ in server.asked] == [None, "bytes=300000-", "bytes=600000-"]


def test_a_later_process_resumes(server: Server, tmp_path: Path) -> None:
    server.answers["/f"] = Answer(BODY, '"1"', breaks_after=0, breaks=99)
    (tmp_path / "file.bin.part").write_bytes(BODY[:1000])
    (tmp_path / "file.bin.part.json").write_text(json.dumps({"url": server.url("/f"), "mark": '"1"'}))
    with pytest.raises(UserError, match="what has come in is kept"):
        fetch(resource(server.url("/f")), tmp_path)
    assert (tmp_path / "file.bin.part").read_bytes() == BODY[:1000]
    server.answers["/f"].breaks = 0
    fetch(resource(server.url("/f")), tmp_path)
    assert whole(tmp_path)
    assert server.asked[-1] == ("/f", "bytes=1000-", 206)


def test_a_server_without_ranges_sends_all_again(server: Server, tmp_path: Path) -> None:
    server.answers["/f"] = Answer(BODY, ranges=False, breaks_after=300_000, breaks=1)
    fetch(resource(server.url("/f")), tmp_path)
    assert whole(tmp_path)
    assert [status for *_, status in server.asked] == [200, 200]


def test_a_file_that_changed_meanwhile_is_sent_whole(server: Server, tmp_path: Path) -> None:
    server.answers["/f"] = Answer(BODY, '"new"')
    (tmp_path / "file.bin.part").write_bytes(b"old" * 500)
    (tmp_path / "file.bin.part.json").write_text(json.dumps({"url": server.url("/f"), "mark": '"old"'}))
    fetch(resource(server.url("/f")), tmp_path)
    assert whole(tmp_path)
    assert server.asked == [("/f", "bytes=1500-", 200)]


def test_a_part_of_another_file_is_given_up_after_the_check(server: Server, tmp_path: Path) -> None:
    server.answers["/f"] = Answer(BODY)
    (tmp_path / "file.bin.part").write_bytes(b"old" * 500)  # no note says where it is from
    fetch(resource(server.url("/f")), tmp_path)
    assert whole(tmp_path)
    assert [status for *_, status in server.asked] == [206, 200]
    for length in (len(BODY), len(BODY) + 5):  # as long as the file, or longer
        (tmp_path / "file.bin").unlink()
        (tmp_path / "file.bin.part").write_bytes(b"o" * length)
        fetch(resource(server.url("/f")), tmp_path)
        assert whole(tmp_path)


def test_size_unknown_to_the_byte(server: Server, tmp_path: Path) -> None:
    server.answers["/f"] = Answer(BODY)
    (tmp_path / "file.bin.part").write_bytes(BODY)  # killed before it was renamed
    about = Resource("file.bin", (server.url("/f"),), 10, hashlib.sha256(BODY).hexdigest(), exact=False)
    fetch(about, tmp_path)
    assert whole(tmp_path)
    assert [status for *_, status in server.asked] == [416]


def test_md5_alone(server: Server, tmp_path: Path) -> None:
    server.answers["/f"] = Answer(BODY)
    md5 = hashlib.md5(BODY).hexdigest()
    with pytest.raises(UserError, match=rf"its MD5 is {md5}, not 00.*by hand, as '.*file.bin' \(900,000 bytes, MD5 00"):
        fetch(Resource("file.bin", (server.url("/f"),), len(BODY), md5="0" * 32), tmp_path)
    fetch(Resource("file.bin", (server.url("/f"),), len(BODY), md5=md5), tmp_path)
    assert whole(tmp_path)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Answer(OTHER), "sent another file, its SHA-256 is"),
        (Answer(BODY[:-7]), "sends 899,993 bytes in place of 900,000"),
        (Answer(BODY + b"more", chunked=True), "sends more than 900,000 bytes"),
        (Answer(b"<html>log in</html>", kind="text/html"), "sends a web page in place of the file"),
        (Answer(b"gone", status=404), "answers 404 Not Found"),
        (Answer(b"busy", status=503), "answers 503 Service Unavailable"),
        (Answer(BODY, breaks_after=0, breaks=99), "broke off after 0 bytes"),
    ],
    ids=["other bytes", "shorter", "longer", "web page", "404", "503", "nothing comes"],
)
def test_mirrors_are_tried_in_turn_and_nothing_wrong_is_kept(
    server: Server, tmp_path: Path, answer: Answer, why: str
) -> None:
    server.answers.update({"/bad": answer, "/good": Answer(BODY)})
    heard = Heard()
    fetch(resource(server.url("/bad"), server.url("/good")), tmp_path / "two", heard)
    assert whole(tmp_path / "two")
    assert len(heard.lines) == 1
    assert why in heard.lines[0]
    if answer.breaks:
        answer.breaks = 99
    with pytest.raises(UserError, match="can't be downloaded") as refused:
        fetch(resource(server.url("/bad")), tmp_path / "one")
    assert why in str(refused.value)
    sha256 = hashlib.sha256(BODY).hexdigest()
    by_hand = f"put the file there by hand, as '{tmp_path / 'one' / 'file.bin'}' (900,000 bytes, SHA-256 {sha256})."
    assert str(refused.value).endswith(by_hand)
    assert not (tmp_path / "one" / "file.bin").exists()


def test_no_network_is_a_sentence(server: Server, tmp_path: Path) -> None:
    closed = server.url("/f")
    server.__exit__()
    try:
        with pytest.raises(UserError, match=r"can't be reached \(Connection refused\)"):
            fetch(resource(closed), tmp_path)
    finally:
        server.__enter__()
    with pytest.raises(UserError, match="can't be reached"):
        fetch(resource("http://no-such-host.invalid/f"), tmp_path)


def test_a_full_disk_is_a_sentence(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answers["/f"] = Answer(BODY)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"disk of .* is full: file.bin has 0.9 MB. Free .*ASTROFORMER_CACHE"):
        fetch(resource(server.url("/f")), tmp_path)
    monkeypatch.undo()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download.os, "replace", full)
    with pytest.raises(UserError, match="is full"):
        fetch(resource(server.url("/f")), tmp_path / "b")
    (tmp_path / "a file").write_text("")
    with pytest.raises(UserError, match=r"can't be written: Not a directory.*ASTROFORMER_CACHE"):
        fetch(resource(server.url("/f")), tmp_path / "a file" / "folder")


def test_two_at_once_download_once(server: Server, tmp_path: Path) -> None:
    server.answers["/f"] = Answer(BODY)
    asked, go = threading.Event(), threading.Event()

    def hold(path: str) -> None:
        asked.set()
        go.wait(5)

    server.before = hold
    heard = Heard()
    first = threading.Thread(target=fetch, args=(resource(server.url("/f")), tmp_path))
    second = threading.Thread(target=fetch, args=(resource(server.url("/f")), tmp_path, heard))
    first.start()
    assert asked.wait(5)
    second.start()
    while not heard.lines:
        second.join(0.01)
    go.set()
    first.join()
    second.join()
    assert whole(tmp_path)
    assert len(server.asked) == 1
    assert heard.lines == [f"another process is downloading to '{tmp_path}'; waiting for it"]
