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

Legend: N images, B batch, K classes, C channels, H height, W width, V views of an image, h and w sides of a map, R
bootstrap resamples, U distinct values. Shifts are (rows, columns) in pixels, down and to the right positive.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from astroformer.errors import UserError, unknown_name
from astroformer.metrics import Interval
from astroformer.randomness import Stream, uniforms

Array = NDArray[Any]
Dtype = Literal["float64", "float32", "bfloat16"]
Padding = Literal["reflection", "border", "zeros"]
Features = Callable[[Tensor], tuple[list[Tensor], list[Tensor]]]
"""Images (B, C, H, W) to the maps (B, c, h, w) of some stages and the offset of each, (B, 2) in input pixels: token m
of a map with stride s sits at pixel (s·m + offset) mod (H, W)."""

_FEATURE_VIEWS = 4  # shifts an image that feature errors are measured under: maps cost more than logits, and vary less


@dataclass(frozen=True)
class SymmetrySettings:
    """What is drawn and how it is computed.

    Attributes:
        seed: of all draws; each is a function of (seed, image's position, view).
        shifts: n, circular shifts an image: worst of n, and ⌊n/2⌋ pairs for C-Cons.
        max_shift: rows and columns are drawn from [−max_shift, max_shift] px; None: from all shifts of the torus.
        crops: crops an image, ⌊crops/2⌋ pairs for S-Cons.
        rotations: free rotations an image, of angles uniform in [−180°, 180°).
        padding: what a rotated image shows beyond its frame (bilinear `grid_sample`).
        dtype: of weights and images; `bfloat16` is autocast over float32.
        batch_size: images a forward pass; what is drawn does not depend on it.
    """

    seed: int = 0
    shifts: int = 16
    max_shift: int | None = None
    crops: int = 8
    rotations: int = 8
    padding: Padding = "reflection"
    dtype: Dtype = "float32"
    batch_size: int = 64

    def __post_init__(self) -> None:
        for name, least, of in (
            ("shifts", 2, "an image"),
            ("crops", 2, "an image"),
            ("rotations", 1, "an image"),
            ("batch_size", 1, "a forward pass"),
        ):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}; at least {least} {of} is needed.")
        if self.max_shift is not None and self.max_shift < 1:
            raise UserError(f"max_shift is {self.max_shift}; at least 1 px is needed, or none for all circular shifts.")
        if self.padding not in get_args(Padding):
            raise unknown_name("padding", self.padding, get_args(Padding))
        if self.dtype not in get_args(Dtype):
            raise unknown_name("dtype", self.dtype, get_args(Dtype))


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
    """What `measure_symmetry` measured. Shares carry 95 % bootstrap intervals over the images.

    Attributes:
        n: images.
        image_size: (H, W) in px.
        num_classes: K.
        classes_called: different classes that the untransformed images were given; where it is 1, as for many untrained
            networks, consistency says little, and the changes of the logits say more.
        frame: (H', W') that crops are cut from; None without frames.
        device: that it was computed on.
        logit_sd: standard deviation of all logits of the untransformed images, the unit of relative changes.
        c_cons, s_cons: see the top of this file; `s_cons` is None without frames.
        accuracy: `plain`, `shifted` (mean under circular shifts), `worst` (of n shifts); empty without labels.
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
        return None if self.frame is None else _crop_range(self.image_size, self.frame)

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


def shift_range(size: tuple[int, int], max_shift: int | None) -> tuple[tuple[int, int], tuple[int, int]]:
    """Smallest and largest shift of rows and of columns, both included; None: every shift of the torus once.

    Raises:
        UserError: `max_shift` is more than half of a side, from where a circular shift is a shorter one the other way.
    """
    if max_shift is None:
        (top, bottom), (left, right) = ((-(side // 2), side - side // 2 - 1) for side in size)
        return (top, bottom), (left, right)
    if not 1 <= max_shift <= min(size) // 2:
        raise UserError(
            f"max_shift is {max_shift}; images of {size[0]} × {size[1]} px take 1 to {min(size) // 2}, half of their "
            "shorter side."
        )
    return (-max_shift, max_shift), (-max_shift, max_shift)


def frame_size(size: tuple[int, int]) -> tuple[int, int]:
    """The frame that crops of (H, W) are cut from: 256 px for 224, and for other sides a seventh more, rounded.

    Offsets are drawn from [0, margin − 1] as Zhang's code does: [0, 31] for 224 px, [0, 8] for 64. The margin is at
    least 2 px, so that there are two crops to compare.
    """
    height, width = (side + max(2, round(side * 32 / 224)) for side in size)
    return height, width


def _crop_range(size: tuple[int, int], frame: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    rows, columns = ((0, outer - side - 1) for outer, side in zip(frame, size, strict=True))
    return rows, columns


def distances(size: tuple[int, int]) -> list[int]:
    """Distances in px from 1 to half of the shorter side: each up to 8, then eight more, odd and even in turn."""
    half = min(size) // 2
    if half <= 24:
        return list(range(1, half + 1))
    return [*range(1, 9), *(round(d) | (i % 2 == 0) for i, d in enumerate(np.linspace(8, half, 9)[1:]))]


# What is drawn: functions of (seed, image, view) ---------------------------------------------------------------------


def draw_shifts(seed: int, n: int, views: int, rows: tuple[int, int], columns: tuple[int, int]) -> NDArray[np.int64]:
    """(N, V, 2) shifts, uniform over the rectangle of whole (row, column) in the two ranges without (0, 0)."""
    across = columns[1] - columns[0] + 1
    total = (rows[1] - rows[0] + 1) * across
    zero = -rows[0] * across - columns[0]  # the place of (0, 0) when the rectangle is counted row by row
    place_NV = np.floor(_uniforms(seed, n, views, Stream.SYMMETRY_SHIFT) * (total - 1)).astype(np.int64)
    place_NV += place_NV >= zero
    return np.stack((place_NV // across + rows[0], place_NV % across + columns[0]), axis=2)


def _draw_crops(seed: int, n: int, views: int, size: tuple[int, int], frame: tuple[int, int]) -> NDArray[np.int64]:
    """(N, V, 2) offsets of crops in the frame, rows and columns independent and uniform."""
    most = np.array([last + 1 for _, last in _crop_range(size, frame)])
    u_NV2 = _uniforms(seed, n, 2 * views, Stream.SYMMETRY_CROP).reshape(n, views, 2)
    return np.floor(u_NV2 * most).astype(np.int64)


def _draw_along_axes(seed: int, n: int, steps: list[int]) -> NDArray[np.int64]:
    """(N, V, 2) shifts of the given distances, each up, down, left or right."""
    unit_42 = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])
    direction_NV = np.floor(_uniforms(seed, n, len(steps), Stream.SYMMETRY_DIRECTION) * 4).astype(np.int64)
    return unit_42[direction_NV] * np.array(steps)[None, :, None]


def _uniforms(seed: int, n: int, count: int, stream: Stream) -> NDArray[np.float64]:
    """(N, count) in [0, 1), 48 bits: those of one hash would not reach every shift of a large image."""
    u_NK = uniforms(seed, 0, torch.arange(n), stream, 2 * count).double().numpy()
    return u_NK[:, :count] + u_NK[:, count:] * 2.0**-24


# What is done to images and maps -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Move:
    """A flip left-right, then quarter turns counterclockwise, then a circular shift of each image, (B, 2) in px."""

    flip: bool
    turns: int
    shift_B2: Tensor

    def image(self, x_BCHW: Tensor) -> Tensor:
        return _roll(self._turn(x_BCHW), self.shift_B2)

    def map(self, map_BChw: Tensor, before_B2: Tensor, after_B2: Tensor, size: tuple[int, int]) -> Tensor:
        """T F(x) as the map of the moved image should show it, both with their offsets.

        Token m sits at pixel s·m + o(x), which moves with the image, and token m′ of the new map at s·m′ + o(Tx): for a
        shift by t, m′ = m + (t + o(x) − o(Tx)) / s. A fraction of a token is interpolated bilinearly on the torus; so
        under shifts that are no multiples of the stride, the error of a stage without offsets also holds what its map
        has of detail finer than that (aliasing).
        """
        down, right = (side / tokens for side, tokens in zip(size, map_BChw.shape[2:], strict=True))
        down_B, right_B = before_B2.double().unbind(1)
        # Turned round, an axis of stride s counts its offset from the other end of the token's s pixels.
        if self.flip:
            right_B = right - 1 - right_B
        for _ in range(self.turns):
            (down, down_B), (right, right_B) = (right, right - 1 - right_B), (down, down_B)
        pixels_B2 = self.shift_B2 + torch.stack((down_B, right_B), 1) - after_B2
        return _roll(self._turn(map_BChw), pixels_B2 / torch.tensor([down, right], dtype=torch.float64))

    def _turn(self, x_BCHW: Tensor) -> Tensor:
        return torch.rot90(x_BCHW.flip(3) if self.flip else x_BCHW, self.turns, (2, 3))


def _roll(x_BCHW: Tensor, shift_B2: Tensor) -> Tensor:
    """Each image rolled by its own shift; fractions by circular bilinear interpolation, whole numbers exactly."""
    rolled = []
    for x_CHW, shift_2 in zip(x_BCHW, shift_B2.tolist(), strict=True):
        for axis, by in enumerate(shift_2, start=1):
            whole = math.floor(by)
            share = by - whole
            near_CHW = torch.roll(x_CHW, whole, axis)
            x_CHW = near_CHW if share == 0 else near_CHW.lerp(torch.roll(x_CHW, whole + 1, axis), share)
        rolled.append(x_CHW)
    return torch.stack(rolled)


def _rotate(x_BCHW: Tensor, angle_B: Tensor, padding: Padding) -> Tensor:
    """Each image turned about its centre by its own angle in radians, bilinear."""
    height, width = x_BCHW.shape[2:]
    cos_B, sin_B = angle_B.cos(), angle_B.sin()
    theta_B23 = torch.zeros(len(x_BCHW), 2, 3, dtype=angle_B.dtype)
    theta_B23[:, 0, 0], theta_B23[:, 0, 1] = cos_B, -sin_B * height / width  # in units of half of each side
    theta_B23[:, 1, 0], theta_B23[:, 1, 1] = sin_B * width / height, cos_B
    grid_BHW2 = F.affine_grid(theta_B23, list(x_BCHW.shape), align_corners=False).to(x_BCHW)
    return F.grid_sample(x_BCHW, grid_BHW2, mode="bilinear", padding_mode=padding, align_corners=False)


def _cut(frame_BCHW: Tensor, offset_B2: Array, size: tuple[int, int]) -> Tensor:
    return torch.stack([
        frame_CHW[:, top : top + size[0], left : left + size[1]]
        for frame_CHW, (top, left) in zip(frame_BCHW, offset_B2.tolist(), strict=True)
    ])  # fmt: skip


# Feature maps --------------------------------------------------------------------------------------------------------


def find_features(module: nn.Module) -> Features | None:
    """How a module is asked for its feature maps: `feature_maps_with_offsets`, `feature_maps`, or timm's
    `forward_intermediates`; None if it has none of them. The second and third know of no offsets, and a token is then
    taken to sit in the middle of its s × s pixels.
    """
    module_any: Any = module  # methods by name are no modules
    if hasattr(module, "feature_maps_with_offsets"):
        return lambda x_BCHW: module_any.feature_maps_with_offsets(x_BCHW)
    if hasattr(module, "feature_maps"):
        return lambda x_BCHW: _centred(x_BCHW, module_any.feature_maps(x_BCHW))
    if hasattr(module, "forward_intermediates"):
        return lambda x_BCHW: _centred(x_BCHW, module_any.forward_intermediates(x_BCHW, intermediates_only=True))
    return None


def _centred(x_BCHW: Tensor, maps: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    sides, n = x_BCHW.shape[2:], x_BCHW.shape[0]
    middles = [[(side / tokens - 1) / 2 for side, tokens in zip(sides, m.shape[2:], strict=True)] for m in maps]
    return maps, [torch.tensor(middle, dtype=torch.float64).repeat(n, 1) for middle in middles]


# The measurement -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def measure_symmetry(
    module: nn.Module,
    images_NCHW: Tensor | Array,
    labels_N: Array | None = None,
    *,
    frames_NCHW: Tensor | Array | None = None,
    settings: SymmetrySettings | None = None,
    device: str | torch.device = "cpu",
    asked: Callable[[nn.Module], Callable[[Tensor], Tensor]] | None = None,
    features: Callable[[nn.Module], Features | None] = find_features,
    progress: Callable[[int, int], None] | None = None,
) -> SymmetryReport:
    """Measure what moving the image does to a network's answers; definitions and sources at the top of this file.

    The module is run in evaluation mode on `device`, and is left in the mode, on the device and in the dtype it had.

    Args:
        module: maps (B, C, H, W) to logits (B, K).
        images_NCHW: what the network sees, normalised; shifts, flips, turns and rotations are applied to it.
        labels_N: true classes in [0, K); without them accuracies are not measured.
        frames_NCHW: (N, C, H', W'), the same images with a margin, that crops are cut from; see `frame_size`. Without
            them S-Cons is not measured.
        asked: from the module (in the dtype measured) to what is asked for logits in its place, e.g. an average over
            views. By default the module itself.
        features: from the module to what is asked for feature maps.
        progress: called with (images done, N).

    Raises:
        UserError: shapes or labels that do not fit, or a `max_shift` beyond half of a side.
    """
    settings = settings or SymmetrySettings()
    dtype = torch.float64 if settings.dtype == "float64" else torch.float32
    images_NCHW = torch.as_tensor(images_NCHW)
    labels_N = None if labels_N is None else np.asarray(labels_N)
    frames_NCHW = None if frames_NCHW is None else torch.as_tensor(frames_NCHW)
    _check(images_NCHW, labels_N, frames_NCHW)
    n, size = len(images_NCHW), (images_NCHW.shape[2], images_NCHW.shape[3])
    frame = None if frames_NCHW is None else (frames_NCHW.shape[2], frames_NCHW.shape[3])
    seed, square = settings.seed, size[0] == size[1]
    shift_NV2 = draw_shifts(seed, n, settings.shifts, *shift_range(size, settings.max_shift))
    along_NV2 = _draw_along_axes(seed, n, distances(size))
    angle_NV = torch.from_numpy((_uniforms(seed, n, settings.rotations, Stream.SYMMETRY_ROTATION) * 2 - 1) * math.pi)
    offset_NV2 = None if frame is None else _draw_crops(seed, n, settings.crops, size, frame)

    logits: dict[str, list[Tensor]] = {}  # by transformation, of each batch (V, B, K) in float64
    errors: dict[str, list[Tensor]] = {}  # by transformation, of each batch (V, B, stages)
    maps_shape: list[tuple[int, int, int]] = []
    with _ready(module, dtype, torch.device(device)) as ready:
        ask = ready if asked is None else asked(ready)
        ask_features = features(ready)

        def answer(x_BCHW: Tensor) -> Tensor:
            with _autocast(settings.dtype, x_BCHW.device):
                return ask(x_BCHW).double().cpu()

        def maps_of(x_BCHW: Tensor) -> tuple[list[Tensor], list[Tensor]]:
            assert ask_features is not None
            with _autocast(settings.dtype, x_BCHW.device):
                maps, offsets = ask_features(x_BCHW)
            return [m.to(dtype) for m in maps], [offset_B2.cpu() for offset_B2 in offsets]

        for start in range(0, n, settings.batch_size):
            some = slice(start, min(n, start + settings.batch_size))
            x_BCHW = images_NCHW[some].to(device, dtype)
            moves = {"circular shifts": [_Move(False, 0, t) for t in _views(shift_NV2[some])]}
            still_B2 = torch.zeros(len(x_BCHW), 2, dtype=torch.int64)
            moves["flips"] = [_Move(True, 0, still_B2), _Move(True, 2, still_B2)]
            if square:
                moves["quarter turns"] = [_Move(False, turns, still_B2) for turns in (1, 2, 3)]
            group = {"untransformed": [answer(x_BCHW)]}
            _check_answers(group["untransformed"][0], labels_N)
            for name, views in moves.items():
                group[name] = [answer(move.image(x_BCHW)) for move in views]
            group["distance"] = [answer(_roll(x_BCHW, t)) for t in _views(along_NV2[some])]
            group["rotations"] = [answer(_rotate(x_BCHW, a, settings.padding)) for a in angle_NV[some].unbind(1)]
            if frames_NCHW is not None and frame is not None and offset_NV2 is not None:
                wide_BCHW = frames_NCHW[some].to(device, dtype)
                middle_B2 = np.full((len(x_BCHW), 2), [(frame[i] - size[i]) // 2 for i in (0, 1)])
                group["central crop"] = [answer(_cut(wide_BCHW, middle_B2, size))]
                group["crops"] = [
                    answer(_cut(wide_BCHW, offset_NV2[some, v], size)) for v in range(settings.crops)
                ]  # fmt: skip
            for name, found in group.items():
                logits.setdefault(name, []).append(torch.stack(found))
            if ask_features is not None:
                maps, offsets = maps_of(x_BCHW)
                maps_shape = [(m.shape[1], m.shape[2], m.shape[3]) for m in maps]
                for name, views in moves.items():
                    rows = [
                        _feature_errors(move, maps, offsets, *maps_of(move.image(x_BCHW)), size)
                        for move in views[:_FEATURE_VIEWS]
                    ]
                    errors.setdefault(name, []).append(torch.stack(rows))
            if progress:
                progress(some.stop, n)
    whole = {name: torch.cat(parts, 1) for name, parts in logits.items()}
    lacking = {}
    if labels_N is None:
        lacking["accuracy"] = "no labels"
    if frame is None:
        lacking["S-Cons"] = "no larger frames to cut crops from"
    if not square:
        lacking["quarter turns"] = f"{size[0]} × {size[1]} px is not square"
    if not errors:
        lacking["feature errors"] = "the network has no feature_maps and no forward_intermediates"
    return _report(whole, errors, maps_shape, labels_N, size, frame, str(device), settings, lacking)


def _report(
    logits: dict[str, Tensor],
    errors: dict[str, list[Tensor]],
    maps_shape: list[tuple[int, int, int]],
    labels_N: Array | None,
    size: tuple[int, int],
    frame: tuple[int, int] | None,
    device: str,
    settings: SymmetrySettings,
    lacking: dict[str, str],
) -> SymmetryReport:
    plain_1NK = logits["untransformed"]
    called = {name: found.argmax(2).numpy() for name, found in logits.items()}  # (V, N)
    sd = float(plain_1NK.std(correction=0))

    def change(name: str, against: str = "untransformed") -> Change:
        largest = float((logits[name] - logits[against]).abs().max())
        same_VN = called[name] == called[against]
        return Change(len(same_VN), share(same_VN.mean(0)), largest, largest / sd if sd else None)

    def pairs(name: str) -> Interval:
        even_VN = called[name][: len(called[name]) // 2 * 2]
        return share((even_VN[0::2] == even_VN[1::2]).mean(0))

    accuracy = {}
    if labels_N is not None:
        right_VN = called["circular shifts"] == labels_N
        accuracy = {
            "plain": share(called["untransformed"][0] == labels_N),
            "shifted": share(right_VN.mean(0)),
            "worst": share(right_VN.all(0)),
        }
    changes: dict[str, Change] = {
        name: change(name, "central crop" if name == "crops" else "untransformed")
        for name in ("circular shifts", "crops", "flips", "quarter turns", "rotations")
        if name in logits
    }
    found = {name: torch.cat(parts, 1).flatten(0, 1) for name, parts in errors.items()}  # (V·N, stages)
    stages = {
        name: [
            StageError(shape, float(e_VN.mean()), float(e_VN.max()))
            for shape, e_VN in zip(maps_shape, e_VNS.unbind(1), strict=True)
        ]
        for name, e_VNS in found.items()
    }
    same_VN = called["distance"] == called["untransformed"]
    return SymmetryReport(
        n=plain_1NK.shape[1],
        image_size=size,
        num_classes=plain_1NK.shape[2],
        classes_called=len(np.unique(called["untransformed"])),
        frame=frame,
        device=device,
        settings=settings,
        logit_sd=sd,
        c_cons=pairs("circular shifts"),
        s_cons=pairs("crops") if "crops" in logits else None,
        accuracy=accuracy,
        changes=changes,
        features=stages,
        distance={px: share(same_N) for px, same_N in zip(distances(size), same_VN, strict=True)},
        not_measured=lacking,
    )


def share(values_N: Array, *, resamples: int = 1000) -> Interval:
    """The mean of a value in [0, 1] an image and its 95 % percentile-bootstrap interval over the images."""
    distinct_U, counts_U = np.unique(values_N.astype(np.float64), return_counts=True)
    counts_RU = np.random.default_rng(0).multinomial(len(values_N), counts_U / len(values_N), size=resamples)
    low, high = np.quantile(counts_RU @ distinct_U / len(values_N), [0.025, 0.975])
    return Interval(float(values_N.mean()), float(low), float(high))


def _views(shift_BV2: Array) -> Iterator[Tensor]:
    return iter(torch.from_numpy(shift_BV2).unbind(1))


def _feature_errors(
    move: _Move,
    maps: list[Tensor],
    offsets: list[Tensor],
    moved_maps: list[Tensor],
    moved_offsets: list[Tensor],
    size: tuple[int, int],
) -> Tensor:
    """(B, stages) relative errors; 0 where a map is zero before and after."""
    errors = []
    for map_BChw, offset_B2, moved_BChw, moved_B2 in zip(maps, offsets, moved_maps, moved_offsets, strict=True):
        expected_BChw = move.map(map_BChw, offset_B2, moved_B2, size)
        off_B, norm_B = (m.flatten(1).double().norm(dim=1) for m in (moved_BChw - expected_BChw, map_BChw))
        errors.append((off_B / norm_B.clamp_min(torch.finfo(torch.float64).tiny)).cpu())
    return torch.stack(errors, 1)


def _check(images_NCHW: Tensor, labels_N: Array | None, frames_NCHW: Tensor | None) -> None:
    if images_NCHW.ndim != 4 or not len(images_NCHW) or not images_NCHW.is_floating_point():
        raise UserError(
            f"images are {images_NCHW.dtype} of shape {tuple(images_NCHW.shape)}; floats (N, C, H, W), normalised as "
            "the network sees them, with N of 1 or more, are needed."
        )
    n, channels, height, width = images_NCHW.shape
    if min(height, width) < 2:
        raise UserError(f"images are {height} × {width} px; at least 2 a side are needed to shift them.")
    if labels_N is not None and (labels_N.shape != (n,) or labels_N.dtype.kind not in "iu"):
        raise UserError(f"labels are {labels_N.dtype} of shape {labels_N.shape}; {n} whole numbers are needed.")
    if frames_NCHW is not None:
        got = tuple(frames_NCHW.shape)
        if len(got) != 4 or got[:2] != (n, channels) or got[2] < height + 2 or got[3] < width + 2:
            raise UserError(
                f"frames have shape {got}; ({n}, {channels}, {height + 2} or more, {width + 2} or more) is needed: the "
                "images with a margin."
            )


def _check_answers(logits_BK: Tensor, labels_N: Array | None) -> None:
    if logits_BK.ndim != 2 or not logits_BK.isfinite().all():
        what = "are not all finite" if logits_BK.ndim == 2 else f"have shape {tuple(logits_BK.shape)}"
        raise UserError(f"the network's answers {what}; finite logits (B, K) are needed.")
    classes = logits_BK.shape[1]
    if labels_N is not None and (labels_N.min() < 0 or labels_N.max() >= classes):
        raise UserError(
            f"labels run from {labels_N.min()} to {labels_N.max()}; the network's {classes} classes are 0 to "
            f"{classes - 1}."
        )


@contextlib.contextmanager
def _ready(module: nn.Module, dtype: torch.dtype, device: torch.device) -> Iterator[nn.Module]:
    """The module itself in evaluation mode, each part's mode restored; a copy where dtype or device are others."""
    tensors = [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]
    if any(t.dtype != dtype or t.device.type != device.type for t in tensors):
        yield copy.deepcopy(module).to(device, dtype).eval()
        return
    modes = [(part, part.training) for part in module.modules()]
    try:
        yield module.eval()
    finally:
        for part, training in modes:
            part.training = training


def _autocast(dtype: Dtype, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    return torch.autocast(device.type, torch.bfloat16) if dtype == "bfloat16" else contextlib.nullcontext()
