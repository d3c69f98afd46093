"""The charts of a report as SVG: text that a page holds, in colours that its style sheet gives to light and dark.

A chart has a title and a description for whoever does not see it, and the page has its numbers as a table beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from astroformer.curves import Curve
from astroformer.evaluation.report.calibrated import CalibrationBin
from astroformer.evaluation.report.selective import MOST_POINTS, ClassCuts, Line, RiskCoverage
from astroformer.intervals import Interval
from astroformer.summaries import percent
from astroformer.trust.thresholds import Band

_WIDTH, _HEIGHT = 340, 300  # of a chart, in the units of its viewBox, which are about px
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 22, 12, 44


@dataclass(frozen=True)
class Axes:
    """A square field from 0 to `right` and from 0 to `top`, with the labels of its sides.

    Examples:
        >>> Axes("confidence", "accuracy").x(1.0), Axes("confidence", "accuracy").y(0.0)
        (318.0, 256.0)
    """

    x_label: str
    y_label: str
    right: float = 1.0
    top: float = 1.0

    def x(self, value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * value / self.right

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * value / self.top

    def drawn(self) -> list[str]:
        """Grid, ticks and labels."""
        bottom, left = self.y(0), self.x(0)
        parts = []
        for share in (0.0, 0.25, 0.5, 0.75, 1.0):
            x, y = self.x(share * self.right), self.y(share * self.top)
            digits = [1 - (limit >= 0.04) for limit in (self.right, self.top)]
            parts += [
                f'<path class="grid" d="M{left:.1f} {y:.1f}H{self.x(self.right):.1f}"/>',
                f'<path class="grid" d="M{x:.1f} {bottom:.1f}V{self.y(self.top):.1f}"/>',
                _text(x, bottom + 16, percent(share * self.right, digits[0]), "tick"),
                _text(left - 6, y + 4, percent(share * self.top, digits[1]), "tick end"),
            ]
        middle = (bottom + self.y(self.top)) / 2
        return [
            *parts,
            f'<path class="axis" d="M{left:.1f} {self.y(self.top):.1f}V{bottom:.1f}H{self.x(self.right):.1f}"/>',
            _text((left + self.x(self.right)) / 2, _HEIGHT - 6, self.x_label, "label"),
            f'<text class="label" transform="translate(12 {middle:.1f}) rotate(-90)">{escape(self.y_label)}</text>',
        ]


def _text(x: float, y: float, words: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>'


def _chart(name: str, title: str, description: str, axes: Axes, marks: Sequence[str]) -> str:
    """An SVG of its own name, which the page has once."""
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-labelledby="{name}-t {name}-d">'
        f'<title id="{name}-t">{escape(title)}</title><desc id="{name}-d">{escape(description)}</desc>'
        f"{''.join([*axes.drawn(), *marks])}</svg>"
    )


def _line(axes: Axes, curve: Curve, kind: str, *, steps: bool = False) -> str:
    points = [
        (axes.x(x), axes.y(min(y, axes.top))) for x, y in zip(curve.x_T.tolist(), curve.y_T.tolist(), strict=True)
    ]
    if not points:
        return ""
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for x, y in points[1:]:
        path += f"H{x:.1f}V{y:.1f}" if steps else f"L{x:.1f} {y:.1f}"
    return f'<path class="{kind}" d="{path}"/>'


def roc_chart(name: str, of: str, curve: Curve, area: str) -> str:
    """ROC of a class against all others; dashed what guessing gives."""
    axes = Axes("share of the other classes", f"share of {_short(of)}")
    marks = [_guess(axes, (0, 0), (1, 1)), _line(axes, curve, "line")]
    description = (
        f"For every cut of the probability of {of}: the share of its images above the cut, against the share of all "
        f"other images above it. The area under the curve is {area}; guessing gives 0.5."
    )
    return _chart(name, f"ROC curve of {of}", description, axes, marks)


def precision_recall_chart(name: str, of: str, curve: Curve, area: str, share: float) -> str:
    """Precision against recall of a class; dashed what guessing gives.

    Args:
        share: of the class among all images.
    """
    axes = Axes("completeness (recall)", "purity (precision)")
    marks = [_guess(axes, (0, share), (1, share)), _line(axes, curve, "line")]
    description = (
        f"For every cut of the probability of {of}: the share of the images above the cut that are {of}, against the "
        f"share of all {of} that are above it. The average precision is {area}; guessing gives {share:.3f}."
    )
    return _chart(name, f"Purity and completeness of {of}", description, axes, marks)


def _guess(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> str:
    ends = (axes.x(start[0]), axes.y(start[1]), axes.x(end[0]), axes.y(end[1]))
    return '<path class="guess" d="M{:.1f} {:.1f}L{:.1f} {:.1f}"/>'.format(*ends)


def reliability_chart(
    name: str, bins: Sequence[CalibrationBin], error: str, *, title: str = "", votes: bool = False, counts: bool = True
) -> str:
    """Accuracy against confidence with intervals.

    Args:
        title: of which probabilities; "": those of the report.
        votes: whether accuracy is the share of votes for the class that is called.
        counts: draw the shares of images in each bin as grey bars.
    """
    y_label = "share of votes for that class" if votes else "accuracy: what is right"
    axes = Axes("confidence: what the model says", y_label)
    total = sum(each.images.n for each in bins)
    marks = [_guess(axes, (0, 0), (1, 1))]
    for each in bins if counts else ():
        left, right = axes.x(each.images.low), axes.x(each.images.high)
        height = axes.y(0) - axes.y(each.images.n / total)
        marks.append(
            f'<rect class="count" x="{left:.1f}" y="{axes.y(0) - height:.1f}" width="{max(0.5, right - left - 1):.1f}" '
            f'height="{height:.1f}"/>'
        )
    for each in bins:
        if each.accuracy is None or each.images.confidence is None:
            continue
        x = axes.x(each.images.confidence)
        low, middle, high = (axes.y(v) for v in (each.accuracy.low, each.accuracy.value, each.accuracy.high))
        marks.append(f'<path class="whisker" d="M{x:.1f} {low:.1f}V{high:.1f}"/>')
        marks.append(f'<circle class="dot" cx="{x:.1f}" cy="{middle:.1f}" r="3.5"/>')
    means = "have 80 % of the votes on average" if votes else "are right in 80 % of the cases"
    description = (
        f"Points on the dashed diagonal: images of which the model says it is 80 % sure {means}. "
        f"Points below it: the model is too sure. The expected calibration error is {error}. The table below has "
        "the numbers."
    )
    against = "share of votes" if votes else "accuracy"
    return _chart(name, f"Reliability: {against} against confidence{title and f', {title}'}", description, axes, marks)


def risk_coverage_chart(name: str, risk: RiskCoverage, area: str) -> str:
    """Errors among the surest images, with their band; dashed an order that says nothing, dotted the best one."""
    top = risk_top(risk)
    axes = Axes("share of the images that is kept, the surest first", "errors among those that are kept", top=top)
    line, accuracy = risk.line.thinned(MOST_POINTS), 1 - risk.errors
    best_x = np.linspace(accuracy, 1, 40)
    best = Curve(np.append(0.0, best_x), np.append(0.0, (best_x - accuracy) / np.maximum(best_x, 1e-12)))
    marks = [
        _band(axes, line, "band"),
        _guess(axes, (0, risk.errors), (1, risk.errors)),
        _line(axes, best, "best"),
        _line(axes, line.curve, "line"),
    ]
    description = (
        f"If only the surest images are kept, fewer of them are wrong. All images: {percent(risk.errors)} are wrong. "
        f"The area under the curve is {area}; dashed, an order that says nothing ({risk.errors:.3f}); dotted, the best "
        f"order ({risk.best:.3f}), in which all wrong images come last. The table below has the numbers."
    )
    return _chart(name, "Risk and coverage: errors among the surest images", description, axes, marks)


def cuts_chart(name: str, of: str, cuts: ClassCuts) -> str:
    """Purity, completeness and share kept of a class against the cut, with their bands."""
    axes = Axes(f"cut: least probability of {_short(of)}", "share")
    lines = ((cuts.share, "third"), (cuts.completeness, "second"), (cuts.purity, "first"))
    there = [(_from_zero(line), kind) for line, kind in lines if line is not None]
    marks = [_band(axes, line, f"band {kind}", steps=True) for line, kind in there]
    marks += [_line(axes, line.curve, f"line {kind}", steps=True) for line, kind in there]
    description = (
        f"Images that are called {of} are kept where its probability is at least the cut. Solid: the purity, how many "
        f"of those that are kept are {of}. Dashed: the completeness, how many of all {of} are kept. Dotted: the share "
        "that is kept of those called so. The bands are 95 % intervals at each cut. The table below has the numbers."
    )
    return _chart(name, f"What a cut keeps of {of}", description, axes, marks)


def risk_top(risk: RiskCoverage) -> float:
    """Where the axis of the errors ends, which begins at 0 and whose quarters are easily read."""
    least = 1.5 * risk.errors
    return next((end for end in (0.02, 0.04, 0.08, 0.12, 0.2, 0.4, 0.6, 0.8) if end >= least), 1.0)


def _from_zero(line: Line) -> Line:
    """The same with the point of the cut 0, which keeps as much as the lowest probability does."""
    return Line(np.append(line.x_T, 0.0), Band(*(np.append(end_T, end_T[-1]) for end_T in line.band)))


def _band(axes: Axes, line: Line, kind: str, *, steps: bool = False) -> str:
    """What lies between the ends of the intervals of a line; `steps` as of the line."""
    x_T, low_T, high_T = line.x_T, line.band.low_T, line.band.high_T
    if steps:
        x_T, low_T, high_T = np.repeat(x_T, 2)[1:], np.repeat(low_T, 2)[:-1], np.repeat(high_T, 2)[:-1]
    around = np.stack([np.append(x_T, x_T[::-1]), np.append(high_T, low_T[::-1])], 1).tolist()
    points = " ".join(f"{axes.x(x):.1f} {axes.y(min(y, axes.top)):.1f}" for x, y in around)
    return f'<path class="{kind}" d="M{points}Z"/>'


def whisker(interval: Interval | None, low: float) -> str:
    """A share and its interval as a dot on a line from `low` to 1, for a cell of a table that says the numbers."""
    if interval is None:
        return ""
    left, middle, right = (100 * (v - low) / (1 - low) for v in (interval.low, interval.value, interval.high))
    return (
        '<svg class="whiskers" viewBox="-3 0 106 12" preserveAspectRatio="none" aria-hidden="true" focusable="false">'
        '<path class="grid" d="M0 6H100M0 2V10M50 3V9M100 2V10"/>'
        f'<path class="whisker" d="M{left:.1f} 6H{right:.1f}"/><path class="dot" d="M{middle:.1f} 1.5V10.5"/></svg>'
    )


def _short(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:23]}…"
