"""The charts of a report for papers, as PNG and PDF in the style of `drawing`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from astroformer.classifier import Classifier
from astroformer.curves import Curve
from astroformer.drawing import (
    BLUE,
    COLUMN,
    GREY,
    PAGE,
    PALE,
    RED,
    SMALL,
    class_name,
    looks,
    new_figure,
    picture,
    save,
    shortened,
)
from astroformer.evaluation.mistakes import plot_mistakes
from astroformer.evaluation.pictures import plot_confusion
from astroformer.evaluation.report.calibrated import CalibrationBin
from astroformer.evaluation.report.charts import risk_top
from astroformer.evaluation.report.facts import ClassFacts, Facts
from astroformer.evaluation.report.selective import Sets
from astroformer.images.labelled import LabelledImages
from astroformer.intervals import Interval
from astroformer.predictions import Predictions
from astroformer.summaries import metric_text, percent
from astroformer.trust.thresholds import wish_text

FIGURES = (
    *("calibration", "risk_coverage", "cuts", "sets", "roc", "precision_recall", "where", "confusion", "mistakes"),
)
_MOST_CURVES = 12  # classes; of more, the worst
_LISTED = 20  # classes, one above the other


def draw_figures(
    folder: Path, classifier: Classifier, images: LabelledImages, predictions: Predictions, facts: Facts
) -> list[str]:
    """Draws all `FIGURES` that there is something for into a folder.

    Returns:
        Why a picture could not be drawn, once each.
    """
    calibration, risk, cuts, sets, roc, precision_recall, where, confusion, mistakes = (
        folder / f"{name}.png" for name in FIGURES
    )
    failed = [
        _draw_calibration(facts, calibration),
        _draw_risk(facts, risk),
        _draw_cuts(facts, cuts),
        _draw_sets(facts, sets),
        _draw_curves(facts, roc, "roc"),
        _draw_curves(facts, precision_recall, "precision_recall"),
        _draw_where(facts, where),
        plot_confusion(facts.evaluation, confusion),
        plot_mistakes(classifier, images, predictions, mistakes),
    ]
    return list(dict.fromkeys(why for why in failed if why is not None))


@picture
def _draw_calibration(facts: Facts, path: Path) -> None:
    """Reliability, with that of the network's own probabilities as open squares."""
    figure = new_figure(COLUMN, 9.8)
    axes = figure.subplots()
    bins = _filled(facts.calibration)
    lows = [each.images.low for each in bins]
    widths = [each.images.high - each.images.low for each in bins]
    shares = [each.images.n / facts.n for each in bins]
    axes.bar(lows, shares, widths, align="edge", color=PALE, edgecolor="white", linewidth=0.5, label="share of images")
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=(0, (4, 2)), label="calibrated")
    label = "accuracy, 95 % interval"
    if facts.own is not None:
        _points(axes, _filled(facts.own.bins), fmt="s", color=RED, markerfacecolor="white", label="before calibration")
        label = "after calibration, 95 % intervals"
    _points(axes, bins, fmt="o", color=BLUE, label=label)
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.01))
    _in_percent(axes.xaxis, axes.yaxis)
    before = "" if facts.own is None else f"\n({percent(facts.own.metrics['ece'].value)} before calibration)"
    axes.set_title(f"Calibration error {percent(facts.metrics['ece'].value)}, {facts.n:,} images{before}")
    figure.legend(loc="outside lower left")
    save(figure, path)


def _filled(bins: Sequence[CalibrationBin]) -> list[CalibrationBin]:
    return [each for each in bins if each.accuracy is not None and each.images.confidence is not None]


def _points(axes: Any, bins: Sequence[CalibrationBin], **look: Any) -> None:
    """Accuracy against confidence with intervals."""
    confidences = [each.images.confidence or 0.0 for each in bins]
    accuracies = [each.accuracy for each in bins if each.accuracy is not None]
    values = [accuracy.value for accuracy in accuracies]
    axes.errorbar(confidences, values, yerr=_ends(accuracies), elinewidth=1, **look)


@picture
def _draw_risk(facts: Facts, path: Path) -> None:
    """Errors among the surest images."""
    figure = new_figure(COLUMN, 8.6)
    axes = figure.subplots()
    risk = facts.selective.risk
    line, accuracy = risk.line, 1 - risk.errors
    axes.fill_between(line.x_T, line.band.low_T, line.band.high_T, color=BLUE, alpha=0.16, linewidth=0)
    axes.plot(line.x_T, line.band.value_T, color=BLUE, label="by confidence, 95 % interval at each share")
    axes.axhline(risk.errors, color=GREY, linewidth=0.8, linestyle=(0, (4, 2)), label="an order that says nothing")
    last = np.linspace(accuracy, 1, 60)
    best = np.append(0.0, (last - accuracy) / np.maximum(last, 1e-12))
    axes.plot(np.append(0.0, last), best, color=GREY, linewidth=1, linestyle=(0, (1, 1.5)), label="the best order")
    axes.set(xlabel="share of the images that is kept", ylabel="errors among those that are kept")
    top = risk_top(risk)
    axes.set(xlim=(0, 1), ylim=(0, top), yticks=np.linspace(0, top, 5))
    _in_percent(axes.xaxis)
    axes.yaxis.set_major_formatter(lambda share, _: percent(share, 1 - (top >= 0.04)))
    axes.set_title(f"Area (AURC) {metric_text('aurc', risk.area.value)}, {facts.n:,} images")
    figure.legend(loc="outside lower left")
    save(figure, path)


@picture
def _draw_cuts(facts: Facts, path: Path) -> None:
    """What a cut keeps of each class: a field each, three beside one another; of many classes those that do worst."""
    found = [
        (k, each, cuts)
        for k, (each, cuts) in enumerate(zip(facts.classes, facts.selective.by_class, strict=True), start=1)
        if cuts.purity is not None
    ]
    found = sorted(sorted(found, key=lambda item: item[1].scores.f1 or 0.0)[:_MOST_CURVES], key=lambda item: item[0])
    if not found:
        return
    rows = -(-len(found) // 3)
    figure = new_figure(PAGE, 4.9 * rows + 1.4)
    fields = figure.subplots(rows, 3, squeeze=False, sharex=True, sharey=True).ravel()
    for axes, (k, each, cuts) in zip(fields, found, strict=False):
        lines = {"share kept": cuts.share, "completeness": cuts.completeness, "purity": cuts.purity}
        for (name, line), look in zip(lines.items(), reversed(looks(3)), strict=True):
            if line is None:
                continue
            x_T, *band = (np.append(0.0, end_T[::-1]) for end_T in (line.x_T, *line.band))
            value_T, low_T, high_T = (np.append(end_T[1], end_T[1:]) for end_T in band)
            axes.fill_between(x_T, low_T, high_T, step="pre", color=look.color, alpha=0.13, linewidth=0)
            axes.step(x_T, value_T, where="pre", color=look.color, linestyle=look.linestyle, label=name)
        axes.set(xlim=(0, 1), ylim=(0, 1.01))
        _in_percent(axes.xaxis, axes.yaxis)
        axes.set_title(shortened(class_name(each.name, k), 30))
    for axes in fields[len(found) :]:
        axes.set_visible(False)
    for place, axes in enumerate(fields[: len(found)]):
        if place + 3 >= len(found):
            axes.set_xlabel("cut: least probability")
            axes.tick_params(labelbottom=True)
    handles, labels = fields[0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower left", ncols=3)
    some = "" if len(found) == len(facts.classes) else f", the worst {len(found)} of {len(facts.classes)} classes"
    figure.suptitle(f"What a cut keeps of the images that are called a class; bands: 95 %{some}", x=0.01, ha="left")
    save(figure, path)


@picture
def _draw_sets(facts: Facts, path: Path) -> None:
    """How often sets hold each class, and all images; of many classes those that are held the least."""
    found = [each for each in facts.selective.sets if each.scores is not None]
    if not found:
        return
    lowest = [(share.value, k) for k, share in enumerate(_by_class(found[0])) if share is not None]
    chosen = sorted(k for _, k in sorted(lowest)[:_LISTED])
    names = ["all images", *(shortened(class_name(facts.classes[k].name, k + 1), 28) for k in chosen)]
    figure = new_figure(COLUMN, 0.62 * len(names) + 3.2)
    axes = figure.subplots()
    apart = np.linspace(-0.22, 0.22, len(found)) if len(found) > 1 else [0.0]
    for look, each, beside in zip(looks(len(found)), found, apart, strict=True):
        assert each.scores is not None
        shares = [each.scores.coverage, *(share for k in chosen if (share := _by_class(each)[k]) is not None)]
        label = f"wish {wish_text(each.wish)}: {each.scores.size:.2f} classes on average"
        places = np.arange(len(shares)) + beside
        values = [share.value for share in shares]
        axes.errorbar(values, places, xerr=_ends(shares), fmt=look.marker, color=look.color, elinewidth=1, label=label)
        axes.axvline(each.wish, color=look.color, linewidth=0.7, linestyle=(0, (4, 2)))
    axes.set_yticks(range(len(names)), names)
    axes.set(ylim=(len(names) - 0.5, -0.5), xlabel="sets that hold the true class")
    axes.set_xlim(right=1.01)
    _in_percent(axes.xaxis)
    figure.legend(loc="outside lower left")
    save(figure, path)


def _by_class(sets: Sets) -> Sequence[Interval | None]:
    assert sets.scores is not None
    return sets.scores.by_class


@picture
def _draw_curves(facts: Facts, path: Path, kind: str) -> None:
    """ROC, or precision and recall, of each class against all others; of many classes the worst."""
    area_name = "roc_auc" if kind == "roc" else "average_precision"
    area: Callable[[ClassFacts], Interval | None] = lambda each: getattr(each, area_name)  # noqa: E731
    found = [(k, each) for k, each in enumerate(facts.classes, start=1) if area(each) is not None]
    found = sorted(found, key=lambda item: _value(area(item[1])))[:_MOST_CURVES]
    if not found:
        return
    figure = new_figure(COLUMN, 8.0 + 0.36 * len(found))
    axes = figure.subplots()
    for look, (k, each) in zip(looks(len(found)), found, strict=True):
        curve: Curve | None = each.roc if kind == "roc" else each.precision_recall
        assert curve is not None
        label = f"{metric_text(area_name, _value(area(each)))}  {shortened(class_name(each.name, k), 34)}"
        axes.plot(curve.x_T, curve.y_T, color=look.color, linestyle=look.linestyle, label=label)
    if kind == "roc":
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
        axes.set(xlabel="share of the other classes", ylabel="share of the class")
    else:
        axes.set(xlabel="completeness (recall)", ylabel="purity (precision)")
    axes.set(xlim=(0, 1), ylim=(0, 1.01))
    _in_percent(axes.xaxis, axes.yaxis)
    named = "ROC: area and class" if kind == "roc" else "Average precision and class"
    some = "" if len(found) == len(facts.classes) else f", the worst {len(found)} of {len(facts.classes)}"
    figure.legend(loc="outside lower left", title=f"{named}{some}", alignment="left", title_fontsize=SMALL)
    save(figure, path)


@picture
def _draw_where(facts: Facts, path: Path) -> None:
    """How accuracy goes with each thing: a field each, two beside one another."""
    if not facts.where:
        return
    rows = -(-len(facts.where) // 2)
    most = max(len(each.parts) for each in facts.where)
    figure = new_figure(PAGE, min(24.0, rows * (0.5 * most + 1.9)))
    fields = figure.subplots(rows, 2, squeeze=False).ravel()
    for axes, each in zip(fields, facts.where, strict=False):
        accuracies = [part.accuracy for part in each.parts]
        places = range(len(each.parts))
        values = [accuracy.value for accuracy in accuracies]
        axes.errorbar(values, places, xerr=_ends(accuracies), fmt="o", color=BLUE, elinewidth=1)
        axes.set_yticks(places, [f"{shortened(part.label, 22)}  (n = {part.n:,})" for part in each.parts])
        axes.set(ylim=(len(each.parts) - 0.5, -0.5), xlim=(min(0.5, *(a.low for a in accuracies)), 1.01))
        axes.axvline(facts.metrics["top1"].value, color=GREY, linewidth=0.8, linestyle=(0, (4, 2)))
        _in_percent(axes.xaxis)
        axes.set_title(shortened(each.name, 40))
    for axes in fields[len(facts.where) :]:
        axes.set_visible(False)
    figure.suptitle("Accuracy with 95 % intervals; dashed: of all images", x=0.01, ha="left")
    save(figure, path)


def _value(interval: Interval | None) -> float:
    return 0.0 if interval is None else interval.value


def _ends(intervals: list[Interval]) -> list[list[float]]:
    """How far intervals reach to either side."""
    return [[each.value - each.low for each in intervals], [each.high - each.value for each in intervals]]


def _in_percent(*axes: object) -> None:
    for axis in axes:
        axis.set_major_formatter(lambda share, _: percent(share, 0))  # type: ignore[attr-defined]
