"""The split of a run as a source of images: `RUN/splits/train.csv` and `valid.csv`, with `run.json` beside them.

A split names images as their source does: files of a folder, rows of an `.npz`, images of a set. Which source that was,
and with which seed it was opened, stands in the run folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astroformer.errors import UserError
from astroformer.files import read_json, sha256_of

_PARTS = ("train.csv", "valid.csv")


@dataclass(frozen=True)
class Origin:
    """Where the images of a split are from.

    Attributes:
        source: as it was named.
        seed: that it was opened with.
        classes: of the run, in their order.
        only_known: whether images of other classes were left out.
    """

    source: str
    seed: int
    classes: tuple[str, ...]
    only_known: bool


def is_run_split(path: Path) -> bool:
    """Whether a file is the split of a run, by where it lies."""
    return path.name in _PARTS and path.parent.name == "splits" and (path.parent.parent / "run.json").is_file()


def origin_of(path: Path) -> Origin:
    """Where the images of a run's split are from.

    Raises:
        UserError: the split is not the one that the run used, or the records of the run are damaged.
    """
    import yaml

    run = path.parent.parent
    name = f"splits/{path.name}"
    try:
        record: dict[str, Any] = read_json(run / "run.json")
        recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
        kept = record.get("hashes")
        changed = kept is not None and kept[name] != sha256_of(path)
        given = path.name == "valid.csv" and record["valid"] is not None
        source = record["valid"] if given else record["source"]
        seed = recipe["seed"] if recipe["split_seed"] is None else recipe["split_seed"]
        only_known, classes = bool(given and record.get("only_known")), tuple(record["counts"])
        if not isinstance(source, str) or not isinstance(seed, int) or not all(isinstance(c, str) for c in classes):
            raise TypeError("a word is of another kind")
    except (UserError, OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError, LookupError, TypeError) as error:
        why = " ".join(str(error).split())
        raise UserError(
            f"'{path}' is the split of a run whose records can't be read ({why}), which say where its images lie. "
            "Bring run.json and recipe.yaml back, or say where the images lie with @root=FOLDER."
        ) from None
    if changed:
        raise UserError(
            f"'{path}' was changed since the run began (its SHA-256 differs), so it is not the split of that run. "
            "Bring it back; or copy it to another folder, which makes it a catalog, with @root=FOLDER for its images."
        )
    return Origin(source, seed, classes, only_known)
