"""Image sets of Hugging Face, by `hf:owner/name`, or a folder with a copy of one, by `hf:./folder`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astroformer.errors import UserError, check_installed, unknown_name
from astroformer.files import expanded
from astroformer.images.formats.arrays import said
from astroformer.images.hashes import hash_bytes, hash_text
from astroformer.images.labelled import LabelledImages, SetRecord
from astroformer.images.names import encode_labels
from astroformer.images.reading import Array, UnreadableImage, read_image
from astroformer.images.sets.download import Listener

NAME = "hf"
OPTIONS = ("config", "split", "image", "label", "revision")
_LABELS = ("label", "labels", "fine_label", "class", "target")  # columns that are taken for labels, by their names
_HUB_NAME = re.compile(r"([\w.-]+/)?[\w.-]+")


@dataclass(frozen=True)
class HuggingFaceReader:
    """Reads image i of a column of encoded images, which our own decoder decodes: the library's keeps 8 bits.

    Attributes:
        name: of the set and its split.
        rows: the table, with this column alone.
        column: its name.
    """

    name: str
    rows: Any
    column: str

    def __call__(self, i: int) -> Array:
        kept, name = self._stored(i), f"{self.name}#{i}"
        if kept is None:
            raise UnreadableImage(name, "the set has none in this row")
        return read_image(kept, name=name)

    def _stored(self, i: int) -> bytes | str | None:
        """The bytes of a file, or where it lies."""
        image = self.rows[i][self.column] or {}
        found: bytes | str | None = image.get("bytes") or image.get("path")
        return found

    def digests(self, indices: NDArray[np.int64], cache: Path | None) -> Iterator[bytes]:
        for i in indices:
            kept = self._stored(int(i))
            if isinstance(kept, str):
                try:
                    kept = Path(kept).read_bytes()
                except OSError as error:
                    kept = f"unreadable: {error.strerror}"
            yield hash_bytes(kept) if isinstance(kept, bytes) else hash_text(kept or "none")


def open_hugging_face(
    name: str, options: Mapping[str, str], labelled: bool, part: str | None, listener: Listener | None
) -> LabelledImages:
    """The images of one split of a set, downloaded if need be. No code of the set is run.

    Args:
        name: `owner/name`, or a path that begins with `.`, `/` or `~`.
        options: `config`, `split`, `image` and `label` (columns), `revision`; see `OPTIONS`.
        labelled: whether labels are needed.
        part: the split that is meant where none is named.
        listener: what is told of a download.

    Raises:
        UserError: there is no such set, or it is not said which of its configurations, splits or columns is meant.
    """
    called = f"{NAME}:{name}"
    check_installed("datasets", "hf", called)
    table, about = _loaded(name, called, options, listener)
    split = options.get("split") or (part if part in table else next(iter(table)) if len(table) == 1 else None)
    if split is None:
        raise UserError(f"'{called}' has the splits {', '.join(table)}; say which with {called}@split=NAME.")
    if split not in table:
        raise unknown_name(f"split of {called}", split, table)
    rows, named = table[split], f"{name.rstrip('/')}/{split}"
    column = _column(rows.features, "image", options, called)
    reader = HuggingFaceReader(named, _undecoded(rows, column), column)
    files = [f"{named}#{i}" for i in range(len(rows))]
    about["part"], about["split"] = split, "that of the set"
    if not labelled:
        return LabelledImages("", files, None, (), reader, about=about)
    label = _column(rows.features, "label", options, called)
    labels, classes = _labels(rows, label, called)
    return LabelledImages("", files, labels, classes, reader, about=about)


def _loaded(
    name: str, called: str, options: Mapping[str, str], listener: Listener | None
) -> tuple[Mapping[str, Any], SetRecord]:
    """The splits of a set by their names, and what its record keeps."""
    import datasets
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    config, revision = options.get("config"), options.get("revision")
    local = name.startswith((".", "/", "~"))
    if not local and not _HUB_NAME.fullmatch(name):
        raise UserError(
            f"'{called}' names no set; write {NAME}:owner/name, or {NAME}:./folder for a copy on this disk."
        )
    if not local and os.path.exists(name):
        raise UserError(f"'{called}': there is a folder '{name}' here as well; write {NAME}:./{name} if it is meant.")
    bars_were_off = datasets.are_progress_bars_disabled()
    try:
        if listener is None:
            datasets.disable_progress_bars()
        if local:
            folder = expanded(name)
            if not folder.is_dir():
                raise UserError(f"'{called}': there is no folder '{folder}'.")
            if revision is not None:
                raise UserError(f"'{called}' is a folder on this disk, which has no @revision.")
            saved = (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()
            found = datasets.load_from_disk(str(folder)) if saved else datasets.load_dataset(str(folder), name=config)
            pinned = "a folder on this disk"
        else:
            try:
                pinned = str(HfApi().dataset_info(name, revision=revision).sha)
                revision = pinned
            except HfHubHTTPError:  # the hub answers that there is no such set or revision, or that it may not be read
                raise
            except Exception:  # there is no network: what was downloaded before may serve
                pinned = f"{revision or 'the latest'}, from the cache, without a network"
            found = datasets.load_dataset(name, name=config, revision=revision)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # of the network, of the hub, of a table, of each in its own way
        hint = " Say which with @config=NAME." if "onfig" in str(error) and config is None else ""
        raise UserError(f"'{called}' can't be loaded: {said(error).rstrip('.')}.{hint}") from None
    finally:
        if listener is None and not bars_were_off:
            datasets.enable_progress_bars()
    table = {"train": found} if isinstance(found, datasets.Dataset) else dict(found)
    info = next(iter(table.values())).info
    return table, SetRecord(
        name=called,
        revision=pinned,
        licence=info.license or "see its page",
        citation=info.citation or "see its page",
        homepage=info.homepage or ("" if local else f"https://huggingface.co/datasets/{name}"),
    )


def _undecoded(rows: Any, column: str) -> Any:
    """The table with this column alone, whose images stay encoded."""
    import datasets

    return rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))


def _column(features: Mapping[str, Any], role: str, options: Mapping[str, str], called: str) -> str:
    """The column of the images, by its type, or that of the labels, by its type or name."""
    import datasets

    asked = options.get(role)
    kind = datasets.Image if role == "image" else datasets.ClassLabel
    found = [name for name, feature in features.items() if isinstance(feature, kind)]
    if role == "label" and len(found) != 1:
        found = [name for name in found or features if name in _LABELS]
    if asked is None and len(found) == 1:
        return found[0]
    if asked is None:
        which = f"the columns {', '.join(found)} could all be the {role}" if found else f"no column is the {role}"
        raise UserError(f"'{called}': {which}. It has: {', '.join(features)}. Say which with {called}@{role}=COLUMN.")
    if asked not in features:
        raise unknown_name(f"column of {called}", asked, features)
    if role == "image" and asked not in found:
        raise UserError(f"'{called}': the column '{asked}' holds no images; {', '.join(found) or 'no column'} does.")
    return asked


def _labels(rows: Any, column: str, called: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    import datasets

    values: Sequence[Any] = list(rows[column])
    names = rows.features[column].names if isinstance(rows.features[column], datasets.ClassLabel) else None
    missing = [i for i, value in enumerate(values) if value is None or (names is not None and value < 0)]
    if missing:
        raise UserError(
            f"'{called}': {len(missing):,} of {len(values):,} images have no '{column}' (the first: {missing[0]}). Its "
            "authors may keep the labels of this split; name another with @split=."
        )
    if names is not None:
        return np.array(values, np.int64), tuple(names)
    if not all(isinstance(value, str | int) for value in values):
        raise UserError(
            f"'{called}': '{column}' holds {type(values[0]).__name__}, where names or whole numbers are needed."
        )
    return encode_labels([str(int(value)) if isinstance(value, int) else value for value in values], None, called)
