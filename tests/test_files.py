"""A file is there whole or not at all."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from astroformer.errors import UserError
from astroformer.files import read_json, replacing, sha256_of, write_json


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("durable", [False, True])
def test_the_old_content_stays_until_the_new_one_is_whole(tmp_path: Path, shared: bool, durable: bool) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with replacing(path, shared=shared, durable=durable) as part:
        part.write_text("new")
        assert path.read_text() == "old"
        assert part.parent == tmp_path
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def half() -> None:
        with replacing(path) as part:
            part.write_text("ne")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_a_shared_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    with replacing(path, shared=True) as first:
        first.write_text("first")
        with replacing(path, shared=True) as second:
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"


def test_json_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_json(path, {"a": [1, None]})
    assert read_json(path) == json.loads(path.read_text()) == {"a": [1, None]}


@pytest.mark.parametrize("content", [b"{", b"[1]", b'"text"', b"\xff\xfe"])
def test_what_is_no_json_object_is_said_to_be_damaged(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"record\.json' is damaged"):
        read_json(path)


def test_the_hash_is_that_of_the_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    assert sha256_of(path) == hashlib.sha256(b"content").hexdigest()
