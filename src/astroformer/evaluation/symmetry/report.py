"""What was measured, with its intervals."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astroformer.evaluation.symmetry.settings import SymmetrySettings, crop_range, shift_range
from astroformer.intervals import Interval

Array = NDArray[Any]


@dataclass(frozen=True)
class Change:
    """What a transformation does to the answers, over all images and `views` views of each.

    Attributes:
        views: transformed copies of an image.
        consistency: share of views with the class of the untransformed image.
        largest: max |Δ logit|.
        relative: `largest` over the standard deviation of all untransformed logits; None where that is 0.
    """

    views: int
    consistency: Interval
    largest: float
    relative: float | None


@dataclass(frozen=True)
class StageError:
    """‖F(Tx) − T F(x)‖ / ‖F(x)‖ of one stage: mean and largest over images and views. `map` is (c, h, w)."""

    map: tuple[int, int, int]
    mean: float
    largest: float


@dataclass(frozen=True)
class SymmetryReport:
    """What `measure_symmetry` measured. Shares carry 95 % intervals over the images.

    Attributes:
        n: images.
        image_size: (H, W) in px.
        num_classes: K.
        classes_called: different classes that the untransformed images were given; where it is 1, as for many untrained
            networks, consistency says little, and the changes of the logits say more.
        frame: (H', W') that crops are cut from; None without frames.
        device: that it was computed on.
        logit_sd: standard deviation of all logits of the untransformed images, the unit of relative changes.
        c_cons, s_cons: see the top of `evaluation/symmetry/__init__.py`; `s_cons` is None without frames.
        accuracy: `plain`, `shifted` (mean under circular shifts), `worst` (of n shifts), `new` (plain,
            of images that the network was not trained on, where some were); empty without labels.
        changes: by transformation; that of `crops` is against the central cut of the frame.
        features: errors of the stages by transformation.
        distance: px of a circular shift along one axis → consistency with the unshifted image.
        not_measured: what is lacking → why.
    """

    n: int
    image_size: tuple[int, int]
    num_classes: int
    classes_called: int
    frame: tuple[int, int] | None
    device: str
    settings: SymmetrySettings
    logit_sd: float
    c_cons: Interval
    s_cons: Interval | None
    accuracy: dict[str, Interval]
    changes: dict[str, Change]
    features: dict[str, list[StageError]]
    distance: dict[int, Interval]
    not_measured: dict[str, str] = field(default_factory=dict)

    @property
    def shift_range(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Smallest and largest shift drawn, of rows and of columns, in px."""
        rows, columns = shift_range(self.image_size, self.settings.max_shift)
        return rows, columns

    @property
    def crop_offsets(self) -> tuple[tuple[int, int], tuple[int, int]] | None:
        """Smallest and largest offset drawn, of rows and of columns, in px."""
        return None if self.frame is None else crop_range(self.image_size, self.frame)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, complete: the figures and all that they depend on."""
        made = dataclasses.asdict(self)
        made["settings"] |= {
            "shift_range": self.shift_range,
            "shift_padding": "circular",
            "crop_offsets": self.crop_offsets,
            "angles": (-180, 180),
            "identity_excluded": True,
        }
        return made


def share(values_N: Array, *, resamples: int = 1000) -> Interval:
    """The mean of a value in [0, 1] an image and its 95 % interval over the images, as `metrics.score` makes it: by a
    Bayesian bootstrap with half an image of value 0 and half of value 1 more than there are."""
    distinct_U, counts_U = np.unique(np.append(values_N.astype(np.float64), [0.0, 1.0]), return_counts=True)
    counts_U = counts_U - 0.5 * np.isin(distinct_U, [0.0, 1.0])
    weights_RU = np.random.default_rng(0).dirichlet(counts_U, size=resamples)
    low, high = np.quantile(weights_RU @ distinct_U, [0.025, 0.975])
    value = float(values_N.mean())
    return Interval(value, min(float(low), value), max(float(high), value))
