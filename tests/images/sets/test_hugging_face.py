"""Sets of Hugging Face: small ones that `datasets` itself has written, without a network."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from astroformer.errors import UserError
from astroformer.images.reading import UnreadableImage
from astroformer.images.sources import open_source
from helpers.encoded import png16
from helpers.tiny_sets import same_from_threads_and_pickled

datasets = pytest.importorskip("datasets")
RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (12, 16, 16, 3), np.uint8)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")
    monkeypatch.chdir(tmp_path)
    datasets.disable_progress_bars()


def made(n: int = 12, **columns: Any) -> Any:
    """A data set of n PNGs with the labels cat, dog, cat, …"""
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["dog", "cat"])}
    rows: dict[str, Any] = {
        "image": [Image.fromarray(picture) for picture in PICTURES[:n]],
        "label": [(i + 1) % 2 for i in range(n)],
    }
    for name, values in columns.items():
        rows[name] = values
        if name not in features:
            features[name] = datasets.Value("string" if isinstance(values[0], str) else "float64")
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Parquet files of two splits, as the hub has them."""
    for split, n in (("train", 12), ("test", 4)):
        made(n, note=["x"] * n).to_parquet(tmp_path / "set" / "data" / f"{split}-00000-of-00001.parquet")
    return tmp_path / "set"


def test_images_labels_and_names(folder: Path) -> None:
    images = open_source("hf:./set", part="train")
    assert images.classes == ("dog", "cat")
    assert images.counts() == {"dog": 6, "cat": 6}
    assert images.files[5] == "./set/train#5"
    for i in range(12):
        np.testing.assert_array_equal(images.read(i), PICTURES[i])
    same_from_threads_and_pickled(images)
    assert images.about["name"] == "hf:./set"
    assert images.about["revision"] == "a folder on this disk"
    test = open_source("hf:./set@split=test@per-class=0:1")
    assert test.files == ["./set/test#0", "./set/test#1"]
    assert test.about["part"] == "test"
    assert open_source("hf:./set@split=test", labelled=False).labels is None
    first, again = (open_source("hf:./set", part="train").fingerprint() for _ in range(2))
    assert first == again != open_source("hf:./set@split=test").fingerprint()


def test_what_save_to_disk_writes_is_read_as_well(tmp_path: Path) -> None:
    made().save_to_disk(tmp_path / "one")
    assert len(open_source("hf:./one")) == 12
    datasets.DatasetDict({"a": made(4), "b": made(6)}).save_to_disk(tmp_path / "two")
    assert len(open_source("hf:./two@split=b")) == 6


def test_images_keep_all_of_their_bits(tmp_path: Path) -> None:
    deep = RNG.integers(0, 65536, (8, 8, 3), np.uint16)
    rows = {"image": [{"bytes": png16(deep), "path": None}] * 2, "label": [0, 1]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "deep" / "train.parquet")
    np.testing.assert_array_equal(open_source("hf:./deep").read(1), deep)


def test_other_columns_may_be_named(tmp_path: Path) -> None:
    kinds = ["b", "a"] * 6
    made(kind=kinds).to_parquet(tmp_path / "set" / "train.parquet")
    images = open_source("hf:./set@label=kind")
    assert images.classes == ("a", "b")
    assert images.labels is not None
    assert images.labels[:2].tolist() == [1, 0]
    for options, sentence in (
        ("@label=kid", r"unknown column of hf:./set 'kid'. Did you mean 'kind'"),
        ("@image=kind", "the column 'kind' holds no images; image does"),
        ("@split=tran", r"unknown split of hf:./set 'tran'. Did you mean 'train'"),
        ("@revision=abc", "is a folder on this disk, which has no @revision"),
        ("@layout=NHWC", "@layout does not apply"),
    ):
        with pytest.raises(UserError, match=sentence):
            open_source(f"hf:./set{options}")


def test_what_is_not_clear_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has the splits train, test; say which with hf:./set@split=NAME"):
        open_source("hf:./set")
    table = made().rename_columns({"label": "x"}).cast_column("x", datasets.Value("int64"))
    table.to_parquet(tmp_path / "none" / "train.parquet")
    with pytest.raises(UserError, match=r"no column is the label. It has: image, x. Say which with hf:./none@label="):
        open_source("hf:./none")
    assert open_source("hf:./none@label=x").classes == ("0", "1")
    table.remove_columns("image").to_parquet(tmp_path / "bare" / "train.parquet")
    with pytest.raises(UserError, match="no column is the image"):
        open_source("hf:./bare")
    features = datasets.Features({**made().features, "other": datasets.Image()})
    rows = {**made().to_dict(), "other": made().to_dict()["image"]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "two" / "train.parquet")
    with pytest.raises(UserError, match="the columns image, other could all be the image"):
        open_source("hf:./two")
    with pytest.raises(UserError, match="there is no folder"):
        open_source("hf:./nothing")
    with pytest.raises(UserError, match="names no set; write hf:owner/name"):
        open_source("hf:a/b/c")
    (tmp_path / "owner" / "name").mkdir(parents=True)
    with pytest.raises(UserError, match=r"there is a folder 'owner/name' here as well; write hf:./owner/name"):
        open_source("hf:owner/name")


def test_hidden_labels_are_refused(tmp_path: Path) -> None:
    rows = made()
    hidden = datasets.Dataset.from_dict({**rows.to_dict(), "label": [-1] * 12}, features=rows.features)
    hidden.to_parquet(tmp_path / "set" / "test.parquet")
    with pytest.raises(UserError, match="12 of 12 images have no 'label'"):
        open_source("hf:./set@split=test")
    assert len(open_source("hf:./set@split=test", labelled=False)) == 12


def test_damaged_files_and_images(folder: Path) -> None:
    file = folder / "data" / "train-00000-of-00001.parquet"
    whole = file.read_bytes()
    for data in (b"", whole[: len(whole) // 2], b"x" * 1000):
        file.write_bytes(data)
        with pytest.raises(UserError, match="can't be loaded"):
            open_source("hf:./set@split=train")
    rows = {"image": [{"bytes": b"no image", "path": None}, None], "label": [0, 1]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(folder.parent / "bad" / "train.parquet")
    images = open_source("hf:./bad")
    for i, sentence in enumerate(("not a JPEG", "the set has none in this row")):
        with pytest.raises(UnreadableImage, match=sentence):
            images.read(i)
    assert len(images.fingerprint()) == 32


def test_a_set_of_the_hub_is_pinned_to_a_commit_and_runs_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def load(path: str, **words: Any) -> Any:
        asked.append({"path": path, **words})
        return datasets.DatasetDict({"train": made(), "test": made(4)})

    class Api:
        def dataset_info(self, name: str, revision: str | None) -> Any:
            return SimpleNamespace(sha={None: "c0ffee", "v1": "0ddba11"}[revision])

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    images = open_source("hf:owner/name@config=small", part="train")
    assert images.about["revision"] == "c0ffee"
    assert images.about["homepage"] == "https://huggingface.co/datasets/owner/name"
    assert images.files[3] == "owner/name/train#3"
    assert open_source("hf:owner/name@revision=v1@split=test").about["revision"] == "0ddba11"
    assert asked == [
        {"path": "owner/name", "name": "small", "revision": "c0ffee"},
        {"path": "owner/name", "name": None, "revision": "0ddba11"},
    ]


def test_without_a_network_the_set_that_is_named_is_said_to_be_out_of_reach() -> None:
    with pytest.raises(UserError, match=r"'hf:owner/nothing' can't be loaded: .*owner/nothing"):
        open_source("hf:owner/nothing@split=train")


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"hf:owner/name needs the extra \[hf\]; in a clone"):
        open_source("hf:owner/name")
