"""What an evaluation found, as text for a person: metrics, classes and confusions, in 80 columns.

Shape letter: K classes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from astroformer.intervals import Interval
from astroformer.metrics import ClassScores, Evaluation
from astroformer.summaries import metric_name, metric_text, percent
from astroformer.terminal import fitted, widest

_FEW = 30  # classes whose table a person reads whole
_WORST = 10  # classes that are shown of more
_NAME = 36  # columns of the longest name
_SHORTEST = 8  # columns that a name needs to be known by
_WORTH = 4  # letters that names begin with alike, from which leaving them out helps
_USUAL_NOVEL = 0.03  # share; of few training images the 99 % are known no better
_LONG = 22  # columns of a name in a sentence on two classes


def evaluation_text(evaluation: Evaluation, width: int) -> str:
    """All that a person should see of an evaluation, in paragraphs.

    Up to 30 classes these are the metrics, a table of the classes, the most frequent confusions, and the whole
    confusion matrix if `width` columns are enough for it. Of more classes the worst are shown, and more confusions.
    """
    few = len(evaluation.classes) <= _FEW
    parts = [metrics_text(evaluation), by_class_text(evaluation), confusions_text(evaluation, 5 if few else 20)]
    if few:
        matrix = confusion_text(evaluation, width)
        title = "confusion matrix: a row for each true class, a column for each predicted one"
        parts.append(f"{title}\n{matrix}" if matrix else "confusion.txt has the confusion matrix")
    return "\n\n".join(filter(None, parts))


def metrics_text(evaluation: Evaluation) -> str:
    """The metrics as aligned lines: value and 95 % interval."""
    width = _width(evaluation.metrics)
    return "\n".join([f"{'images':<{width}} {evaluation.n:>8,}", *metric_lines(evaluation.metrics)])


def metric_lines(metrics: Mapping[str, Interval]) -> list[str]:
    """A line for each metric: value and 95 % interval."""
    lines = []
    for name, m in metrics.items():
        value, low, high = (metric_text(name, each) for each in (m.value, m.low, m.high))
        lines.append(f"{metric_name(name):<{_width(metrics)}} {value:>8}   95 % interval {low} to {high}")
    return lines


def _width(metrics: Iterable[str]) -> int:
    """Columns of the names of metrics."""
    return max(18, *(len(metric_name(name)) for name in metrics))


def by_class_text(evaluation: Evaluation) -> str:
    """A table of the classes, or of the worst of many by F1: number of images, precision, recall and F1."""
    rows = list(enumerate(evaluation.by_class()))
    if len(rows) <= _FEW:
        return "\n".join(_class_lines(rows, "class"))
    with_images = [(k, row) for k, row in rows if row.n]
    worst = sorted(with_images, key=lambda item: item[1].f1 or 0.0)[:_WORST]
    lines = _class_lines(worst, f"the {len(worst)} worst of {len(rows)} by F1")
    return "\n".join([*lines, f"by_class.csv has all {len(rows)} classes, confusion.txt the whole matrix"])


def _class_lines(rows: list[tuple[int, ClassScores]], title: str) -> list[str]:
    width = max(widest([row.name for _, row in rows], _NAME), len(title))
    lines = [f"     {fitted(title, width)}{'n':>8}{'precision':>11}{'recall':>9}{'F1':>9}"]
    lines += [
        f"{k:>3}  {fitted(row.name, width)}{row.n:>8,}{_share(row.precision):>11}{_share(row.recall):>9}"
        f"{_share(row.f1):>9}"
        for k, row in rows
    ]
    return lines


def confusions_text(evaluation: Evaluation, most: int) -> str:
    """The most frequent confusions, a line each; empty where there are none."""
    found = evaluation.confusions(most)
    if not found:
        return ""
    common = _common_beginning([name for c in found for name in (c.label, c.prediction)])
    lines = [
        f"  {_cut(c.label, common)} taken for {_cut(c.prediction, common)}: {c.times:,} of {c.n:,} "
        f"({percent(c.times / c.n)})"
        for c in found
    ]
    return "\n".join(["most frequent confusions", *lines])


def _common_beginning(names: Sequence[str]) -> str:
    """What long names begin with alike, up to the end of a word; empty where they are short.

    Examples:
        >>> _common_beginning(["smooth-or-featured_featured", "smooth-or-featured_smooth"])
        'smooth-or-featured_'
    """
    if max(map(len, names)) <= _LONG:
        return ""
    low, high = min(names), max(names)  # what these two begin with alike, all names between them do
    n = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), 0)
    found = re.match(r".*[^A-Za-z0-9]", low[:n])
    return found[0] if found and len(found[0]) >= _WORTH else ""


def _cut(name: str, common: str) -> str:
    short = f"…{name[len(common) :]}" if common and len(name) > len(common) else name
    return fitted(short, widest([short], _LONG))


def confusion_text(evaluation: Evaluation, width: int | None = None) -> str:
    """The confusion matrix as text: a row for each true class, a column for each predicted one, numbered alike.

    Args:
        evaluation: whose matrix it is.
        width: of the terminal, for which the names of classes are cut; the text is empty if even that is not enough.
    """
    counts = evaluation.confusion_KK
    cell = max(len(str(counts.max())), len(str(len(counts)))) + 2
    names = widest(list(evaluation.classes), 10**6)
    if width is not None:
        names = min(names, width - 4 - cell * len(counts) - len("   recall"))
        if names < min(_SHORTEST, max(map(len, evaluation.classes))):
            return ""
    header = " " * (names + 4) + "".join(f"{k:>{cell}}" for k in range(len(counts))) + "   recall"
    lines: Iterable[str] = (
        f"{k:>2}  {fitted(name, names)}"
        + "".join(f"{n:>{cell}}" for n in row)
        + f"{_share(row[k] / row.sum() if row.sum() else None):>9}"
        for k, (name, row) in enumerate(zip(evaluation.classes, counts, strict=True))
    )
    return "\n".join([header, *lines])


class Called:
    """Counts what images are called, over any number of predictions.

    Examples:
        >>> called = Called(("disc", "ring"))
        >>> called.add([("ring", 0.75), ("ring", 0.25)])
        >>> print(called.text())
        class      images    share  mean confidence
        ring            2  100.0 %           50.0 %
        1 more          0    0.0 %
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self._images = dict.fromkeys(classes, 0)
        self._confidence = dict.fromkeys(classes, 0.0)

    def add(self, called: Iterable[tuple[str, float]]) -> None:
        """Adds images, each by what it is called and how surely."""
        for name, confidence in called:
            self._images[name] = self._images.get(name, 0) + 1
            self._confidence[name] = self._confidence.get(name, 0.0) + confidence

    def text(self) -> str:
        """A table of the classes, the most frequent first; of many the first ten, and what is left."""
        total = sum(self._images.values())
        order = sorted(self._images, key=lambda name: -self._images[name])
        shown = [name for name in order if self._images[name]]
        shown = shown if len(shown) <= _WORST + 2 else shown[:_WORST]
        rest = order[len(shown) :]
        width = max(widest(shown, _NAME), len("class") + 4)
        lines = [f"{'class':<{width}}{'images':>8}{'share':>9}{'mean confidence':>17}"]
        for name in shown:
            n = self._images[name]
            confidence = percent(self._confidence[name] / n)
            lines.append(f"{fitted(name, width)}{n:>8,}{percent(n / total):>9}{confidence:>17}")
        if rest:
            n = sum(self._images[name] for name in rest)
            lines.append(f"{f'{len(rest)} more':<{width}}{n:>8,}{_share(n / total if total else None):>9}")
        return "\n".join(lines)


def _share(share: float | None) -> str:
    """A share, or a dash where there is nothing to be one of."""
    return "–" if share is None else percent(share)


def novelty_sentence(novelty_N: NDArray[np.float64] | None) -> str | None:
    """How many images are unlike the training images; None where none is, or it is not known.

    Args:
        novelty_N: see `Predictions.novelty_N`.
    """
    if novelty_N is None or not (novel := int((novelty_N > 1).sum())):
        return None
    n = int(np.isfinite(novelty_N).sum())
    sentence = f"{novel:,} of {n:,} images {'are' if novel > 1 else 'is'} unlike the training images (novelty above 1)"
    if novel <= _USUAL_NOVEL * n:
        return sentence
    return f"{sentence}, where 1 % is usual; look at them before you trust their classes"


def seen_sentence(seen: int, n: int) -> str:
    """What to say where a model was trained on some of the images that it is measured on."""
    which = "all of these images" if seen == n else f"{seen:,} of these {n:,} images"
    return f"the model was trained on {which}: figures on them say nothing of new images"
