"""The charts of a report as SVG: text that a page holds, in colours that its style sheet gives to light and dark.

A chart has a title and a description for whoever does not see it, and the page has its numbers as a table beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from astroformer.curves import Curve
from astroformer.evaluation.report.facts import CalibrationBin
from astroformer.intervals import Interval
from astroformer.summaries import percent

_WIDTH, _HEIGHT = 340, 300  # of a chart, in the units of its viewBox, which are about px
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 22, 12, 44


@dataclass(frozen=True)
class Axes:
    """A square field from 0 to `right` and from 0 to `top`, with the labels of its sides.

    Example:
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
            digits = [0 if limit >= 0.04 else 1 for limit in (self.right, self.top)]
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
    points = [(axes.x(x), axes.y(y)) for x, y in zip(curve.x_T.tolist(), curve.y_T.tolist(), strict=True)]
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


def reliability_chart(name: str, bins: Sequence[CalibrationBin], error: str, *, counts: bool = True) -> str:
    """Accuracy against confidence with intervals.

    Args:
        counts: draw the shares of images in each bin as grey bars.
    """
    axes = Axes("confidence: what the model says", "accuracy: what is right")
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
    description = (
        "Points on the dashed diagonal: images of which the model says it is 80 % sure are right in 80 % of the cases. "
        f"Points below it: the model is too sure. The expected calibration error is {error}. The table below has "
        "the numbers."
    )
    return _chart(name, "Reliability: accuracy against confidence", description, axes, marks)


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
