"""`measure_symmetry`: the measures that the top of `evaluation/symmetry/__init__.py` defines.

Legend: N images, B batch, K classes, C channels, H height, W width, V views of an image. Shifts are (rows, columns) in
pixels, down and to the right positive.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from astroformer.errors import UserError
from astroformer.evaluation.symmetry.features import Features, feature_errors, find_features
from astroformer.evaluation.symmetry.report import Change, StageError, SymmetryReport, share
from astroformer.evaluation.symmetry.settings import Dtype, SymmetrySettings, distances, shift_range
from astroformer.evaluation.symmetry.transformations import (
    Move,
    cut,
    draw_along_axes,
    draw_angles,
    draw_crops,
    draw_shifts,
    roll,
    rotate,
)
from astroformer.intervals import Interval

Array = NDArray[Any]
_FEATURE_VIEWS = 4  # shifts an image that feature errors are measured under: maps cost more than logits, and vary less


@torch.no_grad()
def measure_symmetry(
    module: nn.Module,
    images_NCHW: Tensor | Array,
    labels_N: Array | None = None,
    *,
    seen_N: Array | None = None,
    frames_NCHW: Tensor | Array | None = None,
    settings: SymmetrySettings | None = None,
    device: str | torch.device = "cpu",
    asked: Callable[[nn.Module], Callable[[Tensor], Tensor]] | None = None,
    features: Callable[[nn.Module], Features | None] | None = find_features,
    progress: Callable[[int, int], None] | None = None,
) -> SymmetryReport:
    """Measure what moving the image does to a network's answers; definitions and sources stand at the top of
    `evaluation/symmetry/__init__.py`.

    The module is run in evaluation mode on `device`, and is left in the mode, on the device and in the dtype it had.

    Args:
        module: maps (B, C, H, W) to logits (B, K).
        images_NCHW: what the network sees, normalised; shifts, flips, turns and rotations are applied to it.
        labels_N: true classes in [0, K); without them accuracies are not measured.
        seen_N: (N,) whether the network was trained on an image: accuracy is then measured without them too.
        frames_NCHW: (N, C, H', W'), the same images with a margin, that crops are cut from; see `frame_size`. Without
            them S-Cons is not measured.
        asked: from the module (in the dtype measured) to what is asked for logits in its place, e.g. an average over
            views. By default the module itself.
        features: from the module to what is asked for feature maps; None: they are not measured, which saves a third
            of the time and more.
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
    along_NV2 = draw_along_axes(seed, n, distances(size))
    angle_NV = draw_angles(seed, n, settings.rotations)
    offset_NV2 = None if frame is None else draw_crops(seed, n, settings.crops, size, frame)

    logits: dict[str, list[Tensor]] = {}  # by transformation, of each batch (V, B, K) in float64
    errors: dict[str, list[Tensor]] = {}  # by transformation, of each batch (V, B, stages)
    maps_shape: list[tuple[int, int, int]] = []
    with _ready(module, dtype, torch.device(device)) as ready:
        ask = ready if asked is None else asked(ready)
        ask_features = None if features is None else features(ready)

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
            moves = {"circular shifts": [Move(False, 0, t) for t in of_each_view(shift_NV2[some])]}
            still_B2 = torch.zeros(len(x_BCHW), 2, dtype=torch.int64)
            moves["flips"] = [Move(True, 0, still_B2), Move(True, 2, still_B2)]
            if square:
                moves["quarter turns"] = [Move(False, turns, still_B2) for turns in (1, 2, 3)]
            group = {"untransformed": [answer(x_BCHW)]}
            _check_answers(group["untransformed"][0], labels_N)
            for name, views in moves.items():
                group[name] = [answer(move.image(x_BCHW)) for move in views]
            group["distance"] = [answer(roll(x_BCHW, t)) for t in of_each_view(along_NV2[some])]
            group["rotations"] = [answer(rotate(x_BCHW, a, settings.padding)) for a in angle_NV[some].unbind(1)]
            if frames_NCHW is not None and frame is not None and offset_NV2 is not None:
                wide_BCHW = frames_NCHW[some].to(device, dtype)
                middle_B2 = np.full((len(x_BCHW), 2), [(frame[i] - size[i]) // 2 for i in (0, 1)])
                group["central crop"] = [answer(cut(wide_BCHW, middle_B2, size))]
                group["crops"] = [
                    answer(cut(wide_BCHW, offset_NV2[some, v], size)) for v in range(settings.crops)
                ]  # fmt: skip
            for name, found in group.items():
                logits.setdefault(name, []).append(torch.stack(found))
            if ask_features is not None:
                maps, offsets = maps_of(x_BCHW)
                maps_shape = [(m.shape[1], m.shape[2], m.shape[3]) for m in maps]
                for name, views in moves.items():
                    rows = [
                        feature_errors(move, maps, offsets, *maps_of(move.image(x_BCHW)), size)
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
    if features is None:
        lacking["feature errors"] = "not asked for"
    elif not errors:
        lacking["feature errors"] = "the network has no feature_maps and no forward_intermediates"
    return _report(whole, errors, maps_shape, labels_N, seen_N, size, frame, str(device), settings, lacking)


def _report(
    logits: dict[str, Tensor],
    errors: dict[str, list[Tensor]],
    maps_shape: list[tuple[int, int, int]],
    labels_N: Array | None,
    seen_N: Array | None,
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
        if seen_N is not None and seen_N.any() and not seen_N.all():
            accuracy["new"] = share((called["untransformed"][0] == labels_N)[~seen_N])
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


def of_each_view(shift_BV2: Array) -> Iterator[Tensor]:
    return iter(torch.from_numpy(shift_BV2).unbind(1))


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
