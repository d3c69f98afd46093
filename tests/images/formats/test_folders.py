from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from astroformer.errors import UserError
from astroformer.images.formats import folders
from astroformer.images.sources import open_source
from helpers.tiny_sets import picture, write_picture

RNG = np.random.default_rng(1)


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
        "class2/.hidden.png (hidden, or left by a system)",
        "class2/notes.txt (a .txt file)",
    ]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(images.reader))(1), picture(4))


def test_unlabelled_folder_and_single_image(folder: Path) -> None:
    write_picture(folder / "loose.png", 9)
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
    write_picture(one / "only" / "a.png")
    with pytest.raises(UserError, match="one class only, 'only'"):
        open_source(one)
    assert open_source(one, classes=["only", "other"]).counts() == {"only": 1, "other": 0}
    with pytest.raises(UserError, match="images but no class folders"):
        open_source(one / "only")
    assert open_source(folder / "empty", labelled=False).files == ["x.fits"]  # a row, whose reason the reader has
    (folder / "nothing").mkdir()
    with pytest.raises(UserError, match="has no images"):
        open_source(folder / "nothing", labelled=False)
    parts = tmp_path / "parts"
    write_picture(parts / "train" / "a" / "a.png")
    write_picture(parts / "valid" / "a" / "a.png")
    with pytest.raises(UserError, match="parts train, valid, not classes"):
        open_source(parts)
    twins = tmp_path / "twins"
    write_picture(twins / "Spiral" / "a.png")
    write_picture(twins / "spiral " / "a.png")
    if len(os.listdir(twins)) == 2:
        with pytest.raises(UserError, match="same name but for case"):
            open_source(twins)
    with pytest.raises(UserError, match=rf"does not exist. Did you mean '{folder}'"):
        open_source(tmp_path / "sett" / "x")
    (folder / "empty" / "x.odt").write_text("x")
    with pytest.raises(UserError, match=r"is no source of images"):
        open_source(folder / "empty" / "x.odt")


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

    monkeypatch.setattr(folders.os, "scandir", refuse)
    with pytest.raises(UserError, match=r"may not be read: Permission denied"):
        open_source(folder)
