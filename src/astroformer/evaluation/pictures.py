"""Pictures of a run and of an evaluation, as PNG and PDF files in the style of `drawing`.

A function here gives back why there is no picture, as a sentence, or None where there is one.

Shape letters: K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from astroformer.drawing import (
    BLUE,
    COLUMN,
    GREY,
    INK,
    PAGE,
    RED,
    SMALL,
    class_name,
    in_lines,
    looks,
    new_figure,
    picture,
    room,
    save,
    shortened,
)
from astroformer.metrics import Evaluation
from astroformer.summaries import percent

if TYPE_CHECKING:
    from astroformer.evaluation.symmetry import SymmetryReport

MOST_IN_A_MATRIX = 30  # classes
_IN_A_COLUMN = 4  # classes whose matrix is no wider than a column
_LISTED = 20  # classes, and confusions, where there are more


@picture
def plot_history(
    history: list[dict[str, float]], path: Path, *, classes: int | None = None, whole_from: float | None = None
) -> None:
    """Loss, and accuracy from chance to 100 %, against the epoch; no picture is made of an empty history.

    Args:
        history: a row for each validation, with `epoch`, `train_loss`, `valid_nll`, `valid_top1`,
            `valid_balanced_accuracy` and, where `whole_from` is given, `progress`; of votes also
            `valid_votes_cross_entropy`.
        path: of the PNG file; a PDF comes beside it.
        classes: number of classes, whose inverse is chance.
        whole_from: the share of the run after which images had their whole size; None where they always had.
    """
    if not history:
        return
    column = {name: [row[name] for row in history] for name in history[0]}
    # Of votes both curves are the cross-entropy against them.
    of_votes = "valid_votes_cross_entropy" in column
    epochs, loss = column["epoch"], column["valid_votes_cross_entropy" if of_votes else "valid_nll"]
    balanced, plain = column["valid_balanced_accuracy"], column["valid_top1"]
    figure = new_figure(PAGE, 6.6)
    losses, scores = figure.subplots(1, 2)
    main, beside = (look._asdict() | {"markevery": math.ceil(len(epochs) / 12)} for look in looks(2))
    losses.plot(epochs, column["train_loss"], **beside, label="training")
    losses.plot(epochs, loss, **main, label="validation")
    losses.set_title(f"Loss: {'cross-entropy with votes' if of_votes else 'negative log-likelihood'} (nats)", pad=12)
    scores.plot(epochs, plain, **beside, label="accuracy: share of all images")
    scores.plot(epochs, balanced, **main, label="balanced accuracy: mean of the classes")
    scores.set_title("Validation images that are called right", pad=12)
    chance = 0.0 if classes is None else 1 / classes
    bottom = min(chance, *balanced, *plain)
    scores.set_ylim(bottom - 0.02 * (1 - bottom), 1)
    scores.yaxis.set_major_formatter(lambda share, _: percent(share, 0))
    if classes is not None:
        scores.axhline(chance, color=GREY, linewidth=0.8, label=f"chance, {100 * chance:.3g} %")
    for axes, end in ((losses, f"{loss[-1]:.2f}"), (scores, percent(balanced[-1]))):
        if whole_from and whole_from < 1:
            at = float(np.interp(whole_from, [0.0, *column["progress"]], [0.0, *epochs]))
            axes.axvline(at, color=GREY, linewidth=0.8, linestyle=(0, (4, 2)), label="full image size from here on")
        axes.axvline(epochs[-1], color=GREY, linewidth=0.8)
        axes.annotate(f"end: {end}", (epochs[-1], 1), (0, 2), xycoords=axes.get_xaxis_transform(),
                      textcoords="offset points", fontsize=SMALL, ha="right")  # fmt: skip
        axes.xaxis.get_major_locator().set_params(integer=epochs[-1] >= 4)
        axes.set(xlabel="epoch", xlim=(0, epochs[-1] * 1.01))
        axes.grid(axis="y")
        # Where it hides least.
        axes.legend(loc="best", frameon=True, framealpha=0.85, edgecolor="none")
    how = "each counting by its number of votes" if of_votes else "by default with smoothed labels"
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(rect=(0, 0.13, 1, 0.87))  # type: ignore[call-arg]
    figure.text(
        0.01,
        0.02,
        f"Training loss is that of augmented images, {how}, while the weights change: it may "
        "lie above validation.\nValidation is of the averaged weights, and those of the end are the model.",
        fontsize=SMALL,
        color=GREY,
    )
    save(figure, path)


@picture
def plot_confusion(evaluation: Evaluation, path: Path) -> None:
    """Which classes are taken for which.

    Up to `MOST_IN_A_MATRIX` classes this is the confusion matrix, with number and percent of the true class in each
    cell that is not empty; the errors have a scale of colours of their own, on which 2 % can be told from none. Of more
    classes it is the share that is called right of those that do worst, and the commonest confusions.

    Args:
        evaluation: of any number of classes.
        path: of the PNG file; a PDF comes beside it.
    """
    accuracy = evaluation.metrics["balanced_accuracy"]
    title = f"{evaluation.n:,} images, balanced accuracy {percent(accuracy.value)}"
    interval = f"(95 % interval {percent(accuracy.low)} to {percent(accuracy.high)})"
    if len(evaluation.classes) <= MOST_IN_A_MATRIX:
        between = "\n" if len(evaluation.classes) <= _IN_A_COLUMN else " "
        _draw_matrix(evaluation, f"{title}{between}{interval}", path)
    else:
        _draw_lists(evaluation, f"{title} {interval}", path)


def _draw_matrix(evaluation: Evaluation, title: str, path: Path) -> None:
    from matplotlib import colormaps
    from matplotlib.colors import PowerNorm
    from matplotlib.ticker import FixedLocator

    counts_KK = evaluation.confusion_KK
    k = len(counts_KK)
    share_KK = counts_KK / np.maximum(counts_KK.sum(1, keepdims=True), 1)
    names = [in_lines(class_name(name, i), 18) for i, name in enumerate(evaluation.classes, start=1)]
    longest = max(room(line) for name in names for line in name.split("\n"))
    # cm: of the names at the side (7 points), of the matrix, and of a cell.
    beside = 0.14 * longest + 1.0
    width = COLUMN if k <= _IN_A_COLUMN else PAGE
    side = min(width - beside - 0.4, 1.9 * k)
    cell = side / k
    figure = new_figure(width, side + 0.75 * beside + 1.6)
    axes = figure.subplots()
    errors_KK = np.where(np.eye(k, dtype=bool), 0.0, share_KK)
    # The square root parts small shares: of 100 %, 2 % have a seventh of the colour.
    orange, blue = colormaps["Oranges"], colormaps["Blues"]
    colours_KK4 = orange(0.85 * PowerNorm(0.5, 0, 1)(errors_KK))
    colours_KK4[errors_KK == 0] = 1.0
    for i in range(k):
        if counts_KK[i, i]:
            colours_KK4[i, i] = blue(0.1 + 0.25 * share_KK[i, i])
    axes.imshow(colours_KK4, interpolation="nearest")
    axes.set_xticks(range(k), names, rotation=45, ha="right", va="top", rotation_mode="anchor")
    axes.set_yticks(range(k), names)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(FixedLocator([place - 0.5 for place in range(k + 1)]))
    axes.grid(which="minor")
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    # Both lines of a cell fit: a letter is 0.022 cm wide a point, a line 0.042 cm high.
    size = min(SMALL, cell / (5 * 0.024), cell / (2 * 0.048))
    for i in range(k):
        for j in range(k):
            if counts_KK[i, j]:
                of_class = percent(share_KK[i, j], 0) if share_KK[i, j] >= 0.005 else "<1 %"
                axes.text(j, i, f"{counts_KK[i, j]}\n{of_class}", ha="center", va="center", fontsize=size,
                          linespacing=1.1, color="white" if errors_KK[i, j] > 0.5 else INK)  # fmt: skip
    axes.set(xlabel="what the model said", ylabel="true class")
    figure.suptitle(f"{title}\nImages, and percent of the true class; orange: errors", x=0.01, ha="left")
    save(figure, path)


def _draw_lists(evaluation: Evaluation, title: str, path: Path) -> None:
    counts_KK = evaluation.confusion_KK
    names = [class_name(name, i) for i, name in enumerate(evaluation.classes, start=1)]
    n_K = counts_KK.sum(1)
    share_KK = counts_KK / np.maximum(n_K[:, None], 1)
    recall_K = np.diag(share_KK)
    there = np.flatnonzero(n_K)
    worst = there[np.argsort(recall_K[there], kind="stable")][:_LISTED]
    errors_KK = np.where(np.eye(len(names), dtype=bool), 0, counts_KK)
    # The most images first; of as many, the larger share of the class.
    order = np.lexsort((-share_KK.ravel(), -errors_KK.ravel()))[:_LISTED]
    pairs = [(i, j) for i, j in zip(*np.unravel_index(order, errors_KK.shape), strict=True) if errors_KK[i, j]]
    figure = new_figure(PAGE, 0.42 * _LISTED + 2.6)
    left, right = figure.subplots(1, 2)
    _bars(
        left,
        [shortened(names[i], 24) for i in worst],
        [recall_K[i] for i in worst],
        [f"{percent(recall_K[i], 0)} of {n_K[i]:,}" for i in worst],
        BLUE,
    )
    mean = float(recall_K[there].mean())
    rest = len(there) - len(worst)
    left.set_title(f"The worst {len(worst)} of {len(names):,} classes:\nshare that is called right", loc="right")
    above = f"; the other {rest:,} have {percent(recall_K[worst[-1]], 0)} or more" if rest else ""
    left.set_xlabel(f"mean of all classes: {percent(mean)}{above}")
    _bars(
        right,
        [f"{shortened(names[i], 18)} → {shortened(names[j], 18)}" for i, j in pairs],
        [share_KK[i, j] for i, j in pairs],
        [f"{errors_KK[i, j]:,} of {n_K[i]:,}" for i, j in pairs],
        RED,
    )
    right.set_title(f"The {len(pairs)} commonest confusions:\ntrue class → what the model said", loc="right")
    right.set_xlabel("share of the true class")
    figure.suptitle(title, x=0.01, ha="left")
    save(figure, path)


def _bars(axes: Any, names: list[str], shares: list[float], said: list[str], colour: str) -> None:
    """A line each: a name, a bar from 0 and what it says."""
    bars = axes.barh(range(len(names)), shares, color=colour, height=0.62)
    axes.bar_label(bars, said, padding=2, fontsize=SMALL)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(_LISTED - 0.4, -0.6)
    axes.set_xlim(0, max([*shares, 0.01]) * 1.45)
    axes.xaxis.set_major_formatter(lambda share, _: percent(share, 0))
    axes.tick_params(axis="y", length=0)


@picture
def plot_symmetry(reports: Mapping[str, SymmetryReport], path: Path) -> None:
    """Consistency against the distance of a shift: a line for each network with its 95 % band.

    Args:
        reports: by the name of the network.
        path: of the PNG file; a PDF comes beside it.
    """
    figure = new_figure(COLUMN, 6.4 + 0.35 * len(reports))
    axes = figure.subplots()
    lowest, farthest = 1.0, 1
    for look, (name, report) in zip(looks(len(reports)), reports.items(), strict=True):
        px, shares = list(report.distance), list(report.distance.values())
        axes.fill_between(
            px, [m.low for m in shares], [m.high for m in shares], color=look.color, alpha=0.15, linewidth=0
        )
        axes.plot(
            px,
            [m.value for m in shares],
            **look._asdict(),
            label=f"{percent(report.c_cons.value)}  {shortened(name, 36)}",
        )
        lowest = min(lowest, *(m.low for m in shares))
        farthest = max(farthest, *px)
    first, bottom = next(iter(reports.values())), max(0.0, lowest - 0.08)
    axes.set(
        xlabel="distance of the circular shift along one axis (px)",
        ylabel="images that keep their class",
        xlim=(0, farthest * 1.02),
        ylim=(bottom, 1 + 0.03 * (1 - bottom)),
    )
    axes.yaxis.set_major_formatter(lambda share, _: percent(share, 0))
    size = " × ".join(map(str, first.image_size))
    axes.set_title(f"Same class after a shift?\n{first.n:,} images of {size} px, {first.settings.dtype}")
    axes.grid()
    figure.legend(
        loc="outside lower left", title="consistency under circular shifts", alignment="left", title_fontsize=SMALL
    )
    save(figure, path)
