"""The charts of a report for papers, as PNG and PDF in the style of `drawing`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from astroformer.classifier import Classifier
from astroformer.curves import Curve
from astroformer.drawing import (
    BLUE,
    COLUMN,
    GREY,
    PAGE,
    PALE,
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
from astroformer.evaluation.report.facts import ClassFacts, Facts
from astroformer.images.labelled import LabelledImages
from astroformer.intervals import Interval
from astroformer.predictions import Predictions
from astroformer.summaries import metric_text, percent

FIGURES = ("calibration", "roc", "precision_recall", "where", "confusion", "mistakes")
_MOST_CURVES = 12  # classes; of more, the worst


def draw_figures(
    folder: Path, classifier: Classifier, images: LabelledImages, predictions: Predictions, facts: Facts
) -> list[str]:
    """Draws all `FIGURES` that there is something for into a folder.

    Returns:
        Why a picture could not be drawn, once each.
    """
    calibration, roc, precision_recall, where, confusion, mistakes = (folder / f"{name}.png" for name in FIGURES)
    failed = [
        _draw_calibration(facts, calibration),
        _draw_curves(facts, roc, "roc"),
        _draw_curves(facts, precision_recall, "precision_recall"),
        _draw_where(facts, where),
        plot_confusion(facts.evaluation, confusion),
        plot_mistakes(classifier, images, predictions, mistakes),
    ]
    return list(dict.fromkeys(why for why in failed if why is not None))


@picture
def _draw_calibration(facts: Facts, path: Path) -> None:
    figure = new_figure(COLUMN, 9.4)
    axes = figure.subplots()
    bins = [each for each in facts.calibration if each.accuracy is not None and each.images.confidence is not None]
    lows = [each.images.low for each in bins]
    widths = [each.images.high - each.images.low for each in bins]
    shares = [each.images.n / facts.n for each in bins]
    axes.bar(lows, shares, widths, align="edge", color=PALE, edgecolor="white", linewidth=0.5, label="share of images")
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=(0, (4, 2)), label="calibrated")
    confidences = [each.images.confidence or 0.0 for each in bins]
    accuracies = [each.accuracy for each in bins if each.accuracy is not None]
    axes.errorbar(
        confidences,
        [accuracy.value for accuracy in accuracies],
        yerr=_ends(accuracies),
        fmt="o",
        color=BLUE,
        elinewidth=1,
        label="accuracy, 95 % interval",
    )
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.01))
    _in_percent(axes.xaxis, axes.yaxis)
    axes.set_title(f"Calibration error {percent(facts.metrics['ece'].value)}, {facts.n:,} images")
    figure.legend(loc="outside lower left")
    save(figure, path)


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
