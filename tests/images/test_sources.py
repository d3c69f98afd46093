from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from astroformer.errors import UserError
from astroformer.images.formats import FORMATS
from astroformer.images.sources import open_source

RNG = np.random.default_rng(1)


def test_given_classes_set_the_order_and_unknown_ones_are_refused(folder: Path) -> None:
    images = open_source(folder, classes=["class10", "other", "class2"])
    assert images.labels is not None
    assert images.labels.tolist() == [2, 2, 2, 0, 0]
    assert images.classes == ("class10", "other", "class2")
    with pytest.raises(UserError, match=r"unknown class .*'class2'.*Allowed: class10, class3"):
        open_source(folder, classes=["class10", "class3"])


def test_what_is_no_source_names_every_format(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"is no source of images: .*a folder, .* is\.$") as refused:
        open_source(tmp_path / "notes.txt")
    assert all(format.noun in str(refused.value) for format in FORMATS)


def test_options_belong_to_their_format(folder: Path) -> None:
    for option in ("layout=NHWC", "file=x"):
        with pytest.raises(UserError, match=f"the option @{option.partition('=')[0]} does not apply to this kind of"):
            open_source(f"{folder}@{option}")
    with pytest.raises(UserError, match="the option @label does not apply"):
        open_source("mock-galaxies:20x16@label=x")
    with pytest.raises(
        UserError,
        match=r"unknown source option 'pages'.*Allowed: bands, .*cube, dec, .*per-class, ra, .*size, ",
    ):
        open_source(f"{folder}@pages=3")


def test_unlabelled_named_set() -> None:
    images = open_source("mock-galaxies:20x16", labelled=False)
    assert images.labels is None
    assert images.classes == ()
    with pytest.raises(UserError, match="@per-class needs labels"):
        open_source("mock-galaxies:20x16@per-class=0:1", labelled=False)
