"""Images that nobody labelled: how they are left out, and labels that look as if they stood for none."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from astroformer.errors import UserError
from astroformer.images.labelled import LabelledImages
from astroformer.images.names import class_name

UNLABELLED = "unlabelled"
"""The option of a source: `skip` leaves images without a label out; other words are labels that stand for none."""

NO_LABEL = -1
"""What the opener of a format gives as the label of an image without one, where the option is there."""

SKIP = "skip"
_LIKE_NONE = re.compile(
    r"-1|-9+|-|\?|n/?a|nan|none|null|unknown|undefined|unlabell?ed|not[ _-]labell?ed|no[ _-]label|missing", re.I
)


def standing_for_none(options: Mapping[str, str]) -> frozenset[str] | None:
    """The labels that stand for none, as `class_name` writes them; None where the option is not there.

    Raises:
        UserError: the option names nothing.

    Examples:
        >>> sorted(standing_for_none({"unlabelled": "-1,unknown"}))
        ['', '-1', 'unknown']
    """
    if UNLABELLED not in options:
        return None
    words = [class_name(word) for word in options[UNLABELLED].split(",")]
    if "" in words:
        raise UserError(
            f"@{UNLABELLED}={options[UNLABELLED]} names an empty label; @{UNLABELLED}={SKIP} leaves images without a "
            f"label out, and @{UNLABELLED}=-1,unknown those with these labels too."
        )
    return frozenset({"", *words} - {SKIP})


def without_unlabelled(images: LabelledImages, options: Mapping[str, str]) -> LabelledImages:
    """The images that have a label, and the classes that do not stand for none; `ignored` has the others."""
    words = standing_for_none(options)
    if words is None or images.labels is None or images.votes_NK is not None:
        return images
    none_K = np.array([name in words for name in images.classes], bool)
    new_K = np.where(none_K, NO_LABEL, np.cumsum(~none_K) - 1)
    labels = np.append(new_K, NO_LABEL)[images.labels]  # of which the last one is that of NO_LABEL
    classes = tuple(name for name, none in zip(images.classes, none_K, strict=True) if not none)
    unlabelled = np.flatnonzero(labels == NO_LABEL)
    known = replace(images, labels=labels, classes=classes)
    notes = [f"@{UNLABELLED}: no image has the label '{word}'" for word in sorted(words - {""} - set(images.classes))]
    if not len(unlabelled):
        return replace(known, notes=[*images.notes, *notes])
    left = Counter("" if k == NO_LABEL else images.classes[k] for k in images.labels[unlabelled])
    listed = ", ".join(f"'{name}' {n:,}" if name else f"empty {n:,}" for name, n in sorted(left.items()))
    notes = [f"{len(unlabelled):,} of {len(images):,} images have no label and are left out ({listed})", *notes]
    left_out = [f"{images.files[i]} (without a label)" for i in unlabelled]
    known = known.subset(np.flatnonzero(labels != NO_LABEL))
    return replace(known, ignored=[*images.ignored, *left_out], notes=[*images.notes, *notes])


def note_of_odd_classes(images: LabelledImages) -> list[str]:
    """What to say of classes whose names look as if they stood for no label."""
    odd = [name for name in images.classes if not name or _LIKE_NONE.fullmatch(name)]
    if not odd or set(images.classes) == {"-1", "1"} or images.votes_NK is not None:
        return []
    counts = images.counts()
    named = ", ".join(f"'{name}' ({counts[name]:,})" for name in odd)
    are = "are classes, and look" if len(odd) > 1 else "is a class, and looks"
    words = ",".join(name for name in odd if name) or SKIP
    return [f"{named} {are} like 'no label'; if so, @{UNLABELLED}={words} behind the source leaves these images out"]
