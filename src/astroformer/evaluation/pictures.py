"""Pictures of a run and of an evaluation, drawn with matplotlib into PNG files.

A picture is a help beside the numbers and never costs them: a function here gives back why there is none, as a
sentence, or None where there is one.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np

from astroformer.errors import explained
from astroformer.files import replacing
from astroformer.metrics import Evaluation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from astroformer.evaluation.symmetry import SymmetryReport

Arguments = ParamSpec("Arguments")
_INK, _BLUE, _RED, _GREY = "#222222", "#2563a8", "#c2452d", "#8a8a8a"


def _picture(draw: Callable[Arguments, None]) -> Callable[Arguments, str | None]:
    """`draw`, which shows the texts of a user as they are, and whose failure is a sentence."""

    @functools.wraps(draw)
    def drawn(*args: Arguments.args, **kwargs: Arguments.kwargs) -> str | None:
        try:
            import matplotlib

            # `$` in a class name begins no formula, whatever the user's own settings say; and that a font lacks a
            # letter, for which it draws a box, is no news for the screen.
            plain: dict[Any, bool] = {"text.usetex": False, "text.parse_math": False}
            with matplotlib.rc_context(plain), warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                draw(*args, **kwargs)
        except Exception as error:
            said = explained(error) if isinstance(error, OSError) else None
            told = said or " ".join([type(error).__name__, *str(error).splitlines()[:1]])
            return f"there is no picture: {told}"
        return None

    return drawn


def _save(figure: Figure, path: Path, *, tight: bool = False) -> None:
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=130, bbox_inches="tight" if tight else None)


def _new_figure(width: float, height: float) -> Figure:
    """An empty figure, its sides in inches. matplotlib is imported here: it takes long, and few commands need it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


@_picture
def plot_history(history: list[dict[str, float]], path: Path) -> None:
    """Training loss and validation scores against the epoch; no picture is made of an empty history.

    Args:
        history: a row for each validation, with `epoch`, `train_loss`, `valid_nll`, `valid_top1` and
            `valid_balanced_accuracy`.
        path: of the PNG file.
    """
    if not history:
        return
    epochs = [row["epoch"] for row in history]
    figure = _new_figure(8, 3.4)
    losses, scores = figure.subplots(1, 2)
    losses.plot(epochs, [row["train_loss"] for row in history], color=_BLUE, label="training loss")
    losses.plot(epochs, [row["valid_nll"] for row in history], color=_RED, label="validation NLL")
    losses.set(xlabel="epoch", ylabel="nats", title="Loss (training: augmented, smoothed)")
    balanced = [row["valid_balanced_accuracy"] for row in history]
    scores.plot(epochs, [row["valid_top1"] for row in history], color=_GREY, label="top-1")
    scores.plot(epochs, balanced, color=_RED, label="balanced accuracy")
    scores.annotate(
        f"{balanced[-1]:.1%}",
        (epochs[-1], balanced[-1]),
        xytext=(-4, 6 if balanced[-1] < 0.85 else -8),  # below the curve where the frame ends
        textcoords="offset points",
        ha="right",
        va="bottom" if balanced[-1] < 0.85 else "top",
        color=_RED,
    )
    scores.set(xlabel="epoch", title="Validation, averaged weights", ylim=(0, 1.02))
    scores.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    for axes in (losses, scores):
        if len(epochs) == 1:
            for line in axes.lines:
                line.set_marker("o")
        axes.set_xlim(0, epochs[-1] * 1.02)
        axes.legend(frameon=False, fontsize=9)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _shortened(name: str, longest: int = 36) -> str:
    name = name.encode("utf-8", "replace").decode()  # what is no letter in a name can't be drawn
    return name if len(name) <= longest else name[: longest - 1] + "…"


@_picture
def plot_confusion(evaluation: Evaluation, path: Path) -> None:
    """The confusion matrix. Colours are shares of the true class; up to 20 classes have the counts as numbers too."""
    counts = evaluation.confusion_KK
    k = len(counts)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    names = [_shortened(name.replace("_", " ")) for name in evaluation.classes] if k <= 40 else []
    # Inches of the matrix and of the longest name beside it; at least as wide as the title.
    side, beside = min(max(0.5 * k, 2.8), 13.0), 0.085 * max(map(len, names), default=4)
    figure = _new_figure(max(side + beside + 1.9, 6.2), side + 0.65 * beside + 1.2)
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if names:
        axes.set_xticks(range(k), names, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(k), names)
    if k <= 20:
        for i in range(k):
            for j in range(k):
                if counts[i, j]:
                    axes.text(j, i, f"{counts[i, j]}", ha="center", va="center", fontsize=9,
                              color="white" if share[i, j] > 0.55 else _INK)  # fmt: skip
    accuracy = evaluation.metrics["balanced_accuracy"]
    axes.set(xlabel="predicted", ylabel="true")
    figure.suptitle(
        f"{evaluation.n:,} images, balanced accuracy {accuracy.value:.1%} ({accuracy.low:.1%} to {accuracy.high:.1%})",
        fontsize=10,
    )
    bar = figure.colorbar(image, ax=axes, shrink=0.8, format=lambda share, _: f"{share:.0%}")
    bar.set_label("share of the true class")
    _save(figure, path, tight=True)  # long names may need more room than was planned


@_picture
def plot_symmetry(reports: Mapping[str, SymmetryReport], path: Path) -> None:
    """Consistency against the distance of a shift: a line for each network with its 95 % band; C-Cons in the legend."""
    figure = _new_figure(7.2, 4.2)
    axes = figure.subplots()
    lowest, farthest = 1.0, 1
    for i, (name, report) in enumerate(reports.items()):
        px, shares = list(report.distance), list(report.distance.values())
        colour = (_BLUE, _RED, _GREY, "#3b8f5a", "#8a5aa8", "#c98a1b")[i % 6]
        axes.fill_between(px, [m.low for m in shares], [m.high for m in shares], color=colour, alpha=0.15, linewidth=0)
        label = f"{_shortened(name)} (C-Cons {report.c_cons.value:.1%})"
        axes.plot(px, [m.value for m in shares], color=colour, marker="o", markersize=3.5, label=label)
        lowest = min(lowest, *(m.low for m in shares))
        farthest = max(farthest, *px)
    first, bottom = next(iter(reports.values())), max(0.0, lowest - 0.08)
    axes.set(
        xlabel="distance of the circular shift along one axis (px)",
        ylabel="images that keep their class",
        xlim=(0, farthest * 1.02),
        ylim=(bottom, 1 + 0.03 * (1 - bottom)),
    )
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    size = "×".join(map(str, first.image_size))
    axes.set_title(f"Same class after a shift? {first.n:,} images of {size} px, {first.settings.dtype}", fontsize=11)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="lower left")
    _save(figure, path)
