from __future__ import annotations

import pytest

from astroformer.errors import UserError
from astroformer.images.names import (
    encode_labels,
    ignored_sentence,
    natural_key,
    refuse_duplicates,
    refuse_gaps,
    shortened,
)


def test_numbers_in_names_sort_by_value() -> None:
    assert sorted(["b10", "B2", "b2", "10", "9a", "a"], key=natural_key) == ["9a", "10", "a", "B2", "b2", "b10"]


def test_labels_are_positions_in_the_classes() -> None:
    labels, classes = encode_labels(["c10", "c9", "c10"], None, "here")
    assert labels.tolist() == [1, 0, 1]
    assert classes == ("c9", "c10")
    labels, _ = encode_labels(["c10", "c9"], ("c10", "x", "c9"), "here")
    assert labels.tolist() == [0, 2]
    with pytest.raises(UserError, match=r"unknown class in 'here' 'c8'"):
        encode_labels(["c8"], classes, "here")


def test_gaps_and_duplicates_are_refused_by_row_and_name() -> None:
    refuse_gaps("t", "label", ["a", "b"])
    refuse_duplicates("t", ["a", "b/a"])
    with pytest.raises(UserError, match=r"'label' is empty in 2 of 3 rows \(the first: 1, 3\)"):
        refuse_gaps("t", "label", ["", "a", ""])
    with pytest.raises(UserError, match="'t' lists 1 files more than once: b/a"):
        refuse_duplicates("t", ["a", "b/a", "b/../b/a"])


def test_long_lists_are_shortened() -> None:
    assert shortened("fedcba") == "a, b, c, d, e, f"  # one more would take as much room as its name
    assert shortened("gfedcba") == "a, b, c, d, e and 2 more"
    assert ignored_sentence([]) == ""
    assert ignored_sentence(["x.txt (why)"]) == " Not taken for images: x.txt (why)."
