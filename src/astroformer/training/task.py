"""`Task`: the images of a run and what it starts from, as one value that goes from the door to the record."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

from astroformer.cache import default_cache, is_temporary, usable_cache
from astroformer.files import check_is_here, check_is_path, expanded, is_url

_VALUE = r"=((?:(?!@[A-Za-z-]+=).)*)"
_PLACES = rf"@(root|cube|mosaic){_VALUE}"  # behind a catalog, where its images lie
_COLUMNS_AND_PLACES = rf"@(?:root|id|pattern|votes|cube|mosaic){_VALUE}"  # long words behind a catalog


class TaskWords(TypedDict, total=False):
    """The words of a `Task` beside its source, as keywords of `train`, `train_many` and `train_ensemble`."""

    valid: str | Path | None
    init_from: str | Path | None
    strict: bool
    only_known: bool
    allow_shared: bool
    cache: str | Path | None


@dataclass(frozen=True)
class Task:
    """What to train on.

    Attributes:
        source: folder of class folders, `.npz`, catalog (CSV, Parquet) or named set; see `open_source`.
        valid: validation source. Without it `recipe.valid_fraction` of each class, or one of `recipe.folds`, is held
            out.
        init_from: model folder whose weights start the run; it brings its network with it.
        strict: make a file that can't be read an error instead of leaving it out.
        only_known: leave images of `valid` out whose class the source does not have, in place of an error.
        allow_shared: go on where images of `valid`, or the sky that they show, are trained on as well.
        cache: where decoded images are kept; default `default_cache()`.

    Raises:
        UserError: one of them is no path.

    Examples:
        >>> Task("galaxies/", strict=True).strict
        True
    """

    source: str | Path
    valid: str | Path | None = None
    init_from: str | Path | None = None
    strict: bool = False
    only_known: bool = False
    allow_shared: bool = False
    cache: str | Path | None = None

    def __post_init__(self) -> None:
        check_is_path(self.source, "a source of images")
        for name in ("valid", "init_from", "cache"):
            if getattr(self, name) is not None:
                check_is_path(getattr(self, name), name)
        if self.cache is not None:
            check_is_here(self.cache, "a cache")

    @property
    def source_name(self) -> str:
        """The source without the folders that it lies in, and without where a catalog's images and votes are found."""
        return Path(re.sub(_COLUMNS_AND_PLACES, "", str(self.source))).name

    @property
    def cache_folder(self) -> Path:
        """Where decoded images are kept."""
        return default_cache() if self.cache is None else Path(self.cache)

    def lasting(self) -> Task:
        """The same by absolute paths, so that a run can be resumed from another folder; named sets and URLs as they
        are called."""
        return replace(
            self,
            source=_lasting(self.source),
            valid=None if self.valid is None else _lasting(self.valid),
            init_from=None if self.init_from is None else _lasting(self.init_from),
            cache=None if self.cache is None and is_temporary(self.cache_folder) else _lasting(self.cache_folder),
        )

    def with_usable_cache(self, say: Callable[[str], None]) -> Task:
        """The same with a cache that can be written to; where that is another one, it is said."""
        folder, sentence = usable_cache(self.cache_folder)
        if sentence is not None:
            say(sentence)
        return replace(self, cache=folder)


def _lasting(source: str | Path) -> str:
    if Path(source).exists():
        return str(Path(source).absolute())
    if is_url(source):
        return re.sub(_PLACES, _absolute, str(source))
    path = str(source).split("@")[0]
    if not Path(path).exists():
        return str(source)
    return str(Path(path).absolute()) + re.sub(_PLACES, _absolute, str(source)[len(path) :])


def _absolute(option: re.Match[str]) -> str:
    """The option with absolute paths; `@mosaic=` may name several, with commas between them."""
    several = option[1] == "mosaic" and not expanded(option[2]).exists()
    paths = option[2].split(",") if several else [option[2]]
    lasting = (path.strip() if is_url(path.strip()) else str(expanded(path.strip()).absolute()) for path in paths)
    return f"@{option[1]}=" + ",".join(lasting)
