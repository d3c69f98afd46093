"""What a format is: which paths it takes, and how it opens them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astroformer.images.labelled import LabelledImages


@dataclass(frozen=True)
class Format:
    """A kind of file or folder that images are read from.

    Attributes:
        noun: what a sentence calls it, with its article: `an .npz`.
        takes: whether a path, which exists, is of this format. It looks at the name, and at the first bytes of a
            file whose name has no extension.
        open: opens `(path, labelled, options)`. The images it returns have an empty `source`, which `open_source` fills
            in. Without `labelled`, labels are not read and `labels` is None. It raises `UserError` if the file is not
            what it should be, and may raise `OSError`.
        options: words that may follow the path as `@word=value`; `options` has those that the user gave.
        columns: reads `(path, labelled, options, wanted)`: other columns of a table, by name, with a value an image.
            `wanted` names them, or is None for all beside that of the files and, if `labelled`, that of the labels.
            None for a format that has no columns.
        unclear: says of `(path, options)` which columns can't be read, as `name (why)`; they are left out of all.
    """

    noun: str
    takes: Callable[[Path], bool]
    open: Callable[[Path, bool, Mapping[str, str]], LabelledImages]
    options: tuple[str, ...] = ()
    columns: Callable[[Path, bool, Mapping[str, str], Sequence[str] | None], dict[str, list[Any]]] | None = None
    unclear: Callable[[Path, Mapping[str, str]], list[str]] | None = None
