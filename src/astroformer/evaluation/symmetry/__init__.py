"""How far a network's answers hold still when its image moves: shifts, crops, flips, quarter turns, free rotations.

Any `nn.Module` that maps (B, C, H, W) to logits can be measured. The measures and where they come from:

- **C-Cons**, consistency under circular shifts: P[argmax f(T_a x) = argmax f(T_b x)] for two independent whole-pixel
  shifts that wrap around (Chaman & Dokmanić, "Truly shift-invariant convolutional neural networks", arXiv 2011.14214;
  their code draws from [−32, 31] px of 224, and [−3, 2] of 32).
- **S-Cons**, consistency under real shifts: the same for two random crops of a larger frame, 224 of 256 px with offsets
  in [0, 31] (Zhang, "Making convolutional networks shift-invariant again", arXiv 1904.11486). Other sizes in
  proportion, see `frame_size`.
- **Worst of n**: the share of images called right under all of n random circular shifts (worst-of-k of Engstrom et al.,
  "Exploring the landscape of spatial robustness", arXiv 1712.02779).
- **Logit change**: the largest |f(Tx) − f(x)| over images, views and classes, as it is and over the standard deviation
  of all logits of the untransformed images.
- **Feature error** of a stage F: ‖F(Tx) − T F(x)‖ / ‖F(x)‖.
- **Consistency** of a transformation, and against the distance of a shift: P[argmax f(Tx) = argmax f(x)].

The papers' code draws one shift a batch and lets it be (0, 0); here each image draws its own, and the identity is never
drawn, since it says nothing. The two shifts of a pair may be equal by chance, as in the papers.

`measure_symmetry` measures; `measured.py` opens what `astroformer symmetry` measures.

Legend: N images, B batch, K classes, C channels, H height, W width, V views of an image, h and w sides of a map, R
bootstrap resamples, U distinct values. Shifts are (rows, columns) in pixels, down and to the right positive.
"""

from __future__ import annotations

from astroformer.evaluation.symmetry.features import Features, find_features
from astroformer.evaluation.symmetry.measures import measure_symmetry
from astroformer.evaluation.symmetry.report import Change, StageError, SymmetryReport, share
from astroformer.evaluation.symmetry.settings import (
    Dtype,
    Padding,
    SymmetrySettings,
    distances,
    frame_size,
    shift_range,
)
from astroformer.evaluation.symmetry.transformations import draw_shifts

__all__ = [
    "Change",
    "Dtype",
    "Features",
    "Padding",
    "StageError",
    "SymmetryReport",
    "SymmetrySettings",
    "distances",
    "draw_shifts",
    "find_features",
    "frame_size",
    "measure_symmetry",
    "share",
    "shift_range",
]
