"""Images of two sources that show the same thing: pixels of one mosaic, the same sky, what one group is of.

Exact copies are another thing, which is known once images are decoded (`copies.py`). Shape letters: N images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroformer.errors import UserError
from astroformer.images.labelled import LabelledImages, Whereabouts
from astroformer.images.run_split import is_run_split
from astroformer.images.sky_groups import Pairs, known_places, near_pairs, overlapping_pairs
from astroformer.images.sources import open_source

Numbers = NDArray[np.int64]

_SAME_OBJECT = 1.0  # arcsec, up to which two positions are of one object where nobody says more
_LARGEST = 80 * 3600.0  # arcsec; positions further apart are no neighbours


class Shared(NamedTuple):
    """Images of one source that show what images of another one do.

    Attributes:
        how: what they have in common with them, behind "images": "share pixels of a mosaic with".
        rows: their numbers, in order.
        example: the number of the image of the other source that the first of them has it in common with.
    """

    how: str
    rows: Numbers
    example: int


def shared_with(images: LabelledImages, others: LabelledImages) -> list[Shared]:
    """Which images show what others do, by each way in which that can be known; the surest one first.

    Where one source alone says up to which distance two images show the same sky, that holds for the other one too. For
    cutouts of another mosaic, or beside other images, it is the distance at which they share pixels. Where nobody says
    anything, positions within 1 arcsec are of the same object.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from astroformer.images import open_source
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "a.jpg").write_bytes(b"")
        >>> opened = []
        >>> for plate in ("p1", "p2"):
        ...     rows = ["file,label,plate", f"a.jpg,0,{plate}", "b.jpg,1,p2", "c.jpg,1,p3"]
        ...     _ = (folder / f"{plate}.csv").write_text("\\n".join(rows))
        ...     opened.append(open_source(f"{folder}/{plate}.csv@group=plate"))
        >>> [shared] = shared_with(opened[0], opened[1])
        >>> shared.how, shared.rows.tolist(), shared.example
        ("have the same 'plate' as", [1, 2], 0)
    """
    found: list[Shared] = []
    known_N = np.zeros(len(images), bool)  # by a surer way
    for how, own, other in _pairs(images, others):
        new = ~known_N[own]
        if new.any():
            rows, first = np.unique(own[new], return_index=True)
            found.append(Shared(how, rows, int(other[new][first[0]])))
            known_N[rows] = True
    return found


def sentences_on(found: Sequence[Shared], images: LabelledImages, others: LabelledImages, source: object) -> list[str]:
    """What to say of images of a source that show what training images, the others, do."""
    return [
        f"{len(shared.rows):,} of {len(images):,} images of '{source}' {shared.how} training images (the first: "
        f"{images.files[shared.rows[0]]} and {others.files[shared.example]})"
        for shared in found
    ]


def shown_in_training(model: Path, images: LabelledImages) -> tuple[NDArray[np.bool_], list[str]]:
    """Which images show what the training images of a model do, by their places, and what to say of them.

    The training images are those of the run whose folder the model lies in. Where there is no such folder, or the
    images have no places, none is known.

    Args:
        model: the folder of the model, or of its run.
        images: N images.

    Returns:
        (N,) whether an image does, and the sentences.
    """
    shown_N = np.zeros(len(images), bool)
    split = next((path for run in (model, model.parent) if is_run_split(path := run / "splits" / "train.csv")), None)
    if split is None or (images.positions_N2 is None and images.whereabouts == Whereabouts()):
        return shown_N, []
    try:
        trained = open_source(split, labelled=False)
    except UserError as error:
        return shown_N, [f"whether these images show what the model was trained on is not known: {error}"]
    found = shared_with(images, trained)
    for shared in found:
        shown_N[shared.rows] = True
    return shown_N, sentences_on(found, images, trained, images.source)


def _pairs(images: LabelledImages, others: LabelledImages) -> Iterator[tuple[str, Numbers, Numbers]]:
    """Each way in which two images can show the same, and the numbers of both images of each pair that does."""
    a, b = images.whereabouts.boxes, others.whereabouts.boxes
    one_mosaic = a is not None and b is not None and bool(a.layers & b.layers)
    if a is not None and b is not None and one_mosaic:
        own, other = np.flatnonzero(a.placed_N), np.flatnonzero(b.placed_N)
        corner_N2 = np.concatenate([a.corner_N2[own], b.corner_N2[other]])
        side_N = np.repeat([a.side, b.side], [len(own), len(other)])
        yield "share pixels of the mosaic with", *_between(overlapping_pairs(corner_N2, side_N), own, other)
    links = [link for some in (images, others) if (link := _link(some.whereabouts, one_mosaic))]
    (own, place_N2), (other, place_of_others_N2) = _places(images), _places(others)
    if len(own) and len(other):
        arcsec = sum(links) / len(links) if links else _SAME_OBJECT
        ra_N, dec_N = np.concatenate([place_N2, place_of_others_N2]).T
        yield f"lie within {arcsec:.4g} arcsec of", *_between(near_pairs(ra_N, dec_N, arcsec), own, other)
    named, of_others = images.whereabouts.named, others.whereabouts.named
    if named is not None and of_others is not None and named.column == of_others.column:
        values, first = np.unique(of_others.value_N, return_index=True)
        at_N = np.minimum(np.searchsorted(values, named.value_N), len(values) - 1)
        own = np.flatnonzero(values[at_N] == named.value_N)
        yield f"have the same '{named.column}' as", own, first[at_N[own]]


def _link(of: Whereabouts, one_mosaic: bool) -> float:
    """The distance in arcsec up to which images show the same sky, 0 where nobody says. Pixels of one mosaic are
    compared as such."""
    reach = 0.0 if of.boxes is None or one_mosaic else min(of.boxes.reach, _LARGEST)
    return max(of.same_sky or 0.0, reach)


def _places(images: LabelledImages) -> tuple[Numbers, NDArray[np.float64]]:
    """The images whose position in the sky is known, and these positions. A row outside its mosaic is no image."""
    if images.positions_N2 is None:
        return np.empty(0, np.int64), np.empty((0, 2))
    known_N = known_places(images.positions_N2)
    if images.whereabouts.boxes is not None:
        known_N &= images.whereabouts.boxes.placed_N
    return np.flatnonzero(known_N), images.positions_N2[known_N]


def _between(pairs: Pairs, own: Numbers, other: Numbers) -> tuple[Numbers, Numbers]:
    """Of pairs among images and others, one after the other, those between both, by their numbers in each."""
    n = len(own)
    low, high = np.minimum(*pairs), np.maximum(*pairs)
    between = (low < n) & (high >= n)
    low, high = low[between], high[between]
    order = np.lexsort((high, low))
    return own[low[order]], other[high[order] - n]
