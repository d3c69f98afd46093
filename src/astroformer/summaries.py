"""How a result shows itself where a person looks at it: some lines in a terminal, a small table in a notebook."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import NamedTuple

from astroformer.errors import one_line

_MOST = 60  # characters of a list of names


def percent(share: float, digits: int = 1) -> str:
    """A share as a person reads it everywhere: `0.365` → "36.5 %"."""
    return f"{100 * share:.{digits}f} %"


class Metric(NamedTuple):
    """How a person reads a metric.

    Attributes:
        name: what it is called.
        share: whether it is a share, which is written as a percentage; others are numbers, in nats or without a unit.
    """

    name: str
    share: bool


METRICS = {
    "top1": Metric("accuracy", True),
    "balanced_accuracy": Metric("balanced accuracy", True),
    "macro_f1": Metric("macro F1", True),
    "nll": Metric("log loss", False),
    "votes_cross_entropy": Metric("votes cross-entropy", False),
    "votes_brier": Metric("votes Brier score", False),
    "brier": Metric("Brier score", False),
    "ece": Metric("calibration error", True),
    "adaptive_ece": Metric("adaptive calibration error", True),
    "votes_ece": Metric("calibration error against votes", True),
    "aurc": Metric("risk–coverage area", False),
    "roc_auc": Metric("ROC area", False),
    "average_precision": Metric("average precision", False),
}
"""All metrics of an evaluation, by the names that files have them under."""


def metric_name(metric: str) -> str:
    """What a person calls a metric; one that this version does not know has its own name."""
    return METRICS[metric].name if metric in METRICS else metric


def metric_text(metric: str, value: float) -> str:
    """The value of a metric as a person reads it: a share as a percentage, others as a number."""
    return percent(value) if metric not in METRICS or METRICS[metric].share else f"{value:.3f}"


class Summary(NamedTuple):
    """What matters of a result: a title, and a value for each of a few names."""

    title: str
    lines: dict[str, str]


class Summarized:
    """A result that shows itself as its `summary`, in a terminal (`repr`) and in a notebook (HTML)."""

    def summary(self) -> Summary:
        """What a person wants to know at first sight."""
        raise NotImplementedError

    def __repr__(self) -> str:
        title, lines = self.summary()
        rows = [(one_line(name), one_line(value)) for name, value in lines.items()]
        width = max((len(name) for name, _ in rows), default=0)
        return "\n".join([one_line(title), *(f"  {name:<{width}}  {value}" for name, value in rows)])

    def _repr_html_(self) -> str:
        title, lines = self.summary()
        cell = '<td style="text-align: left">{}</td>'
        rows = "".join(f"<tr>{cell.format(_escaped(k))}{cell.format(_escaped(v))}</tr>" for k, v in lines.items())
        return f"<b>{_escaped(title)}</b><table>{rows}</table>"


def some_of(names: Iterable[str]) -> str:
    """The first of many names, and how many more there are.

    Examples:
        >>> some_of(["disc", "ring"])
        'disc, ring'
        >>> some_of(f"class_{k}" for k in range(200))
        'class_0, class_1, class_2, class_3, class_4, class_5, … (194 more)'
    """
    names = list(names)
    shown = names[:1]
    for name in names[1:]:
        if len(", ".join([*shown, name])) > _MOST:
            break
        shown.append(name)
    left = len(names) - len(shown)
    return ", ".join(shown) + (f", … ({left:,} more)" if left else "")


def _escaped(text: str) -> str:
    return html.escape(one_line(text))
