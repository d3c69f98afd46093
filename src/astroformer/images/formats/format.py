"""What a format is: which paths it takes, and how it opens them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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
        with_columns: opens `(path, labelled, options, wanted)` and fills `columns` with other columns of a table.
            `wanted` names them, or is None for all beside that of the files and, if `labelled`, that of the labels.
            None for a format that has no columns.
    """

    noun: str
    takes: Callable[[Path], bool]
    open: Callable[[Path, bool, Mapping[str, str]], LabelledImages]
    options: tuple[str, ...] = ()
    with_columns: Callable[[Path, bool, Mapping[str, str], Sequence[str] | None], LabelledImages] | None = None
