"""The page of a report: one HTML file that needs nothing else, made from facts, charts and a template by jinja2.

Whatever comes from the user's files is text in it: jinja2 escapes it, the charts do, and the data of the pictures is
JSON that holds no `<`. A policy in the page forbids it to load anything, and to run any script but its own.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.metadata import version
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroformer.curves import Curve
from astroformer.errors import check_installed, one_line
from astroformer.evaluation.pictures import MOST_IN_A_MATRIX
from astroformer.evaluation.report.calibrated import CalibrationBin
from astroformer.evaluation.report.charts import (
    cuts_chart,
    precision_recall_chart,
    reliability_chart,
    risk_coverage_chart,
    roc_chart,
    whisker,
)
from astroformer.evaluation.report.facts import ClassFacts, Facts, most_telling
from astroformer.evaluation.report.selective import ClassCuts, RiskCoverage
from astroformer.evaluation.report.words import (
    calibration_said,
    change_said,
    change_text,
    holding_said,
    meanings,
    measured_said,
    sets_said,
)
from astroformer.evaluation.symmetry import SymmetryReport
from astroformer.intervals import Interval
from astroformer.metrics import Confusion, Evaluation
from astroformer.summaries import metric_name, metric_text, percent
from astroformer.trust.thresholds import wish_text

Array = NDArray[Any]
_MOST_SECTIONS = 200  # classes that have a section of their own
_CLASS_TILES = 6  # mistakes that a section shows
_ANSWERS = 5  # most probable classes that the page keeps of an image
_CONFUSIONS = 10
_NOWHERE = "No two parts of the images differ by more than their 95 % intervals, so none of these says where it fails."
_CUT_ROWS = 12  # of a table beside a chart of cuts


class ShownImages(NamedTuple):
    """The N images that could be read.

    Attributes:
        files: their names.
        labels_N: true classes.
        probabilities_NK: predicted ones.
        seen_N: which the model was trained on; None where that is not known.
        pictures: by position, as the text of a `data:` address.
        said: how the pictures differ from what a screen shows.
    """

    files: Sequence[str]
    labels_N: Array
    probabilities_NK: Array
    seen_N: Array | None
    pictures: Mapping[int, str]
    said: str | None


@dataclass(frozen=True)
class Page:
    """All that a page shows.

    Attributes:
        title: of the page.
        sentence: that may be quoted.
        warning: what a reader must know before all figures, if there is something.
        facts: the numbers.
        new: what was measured without the images that the model was trained on, where there are some of both.
        images: that could be read.
        probabilities: how they were made, as the end of "the probabilities are …".
        symmetry: under shifts and turns, if it was measured.
        about: what the model and the images are, in groups of names and values.
        recipe: of the run, as YAML, if it is known.
    """

    title: str
    sentence: str
    warning: str | None
    facts: Facts
    new: Evaluation | None
    images: ShownImages
    probabilities: str
    symmetry: SymmetryReport | None
    about: Mapping[str, Mapping[str, str]]
    recipe: str | None

    def html(self) -> str:
        """The whole page."""
        facts = self.facts
        numbered = list(enumerate(facts.classes))
        shown = _worst(numbered) if len(numbered) > _MOST_SECTIONS else numbered
        script = _resource("report.js")
        most = most_telling(facts.where)
        wrong = _wrong_by_class(self.images)
        return _template().render(
            version=version("astroformer"),
            title=self.title,
            sentence=self.sentence,
            warning=self.warning,
            style=_safe(_resource("report.css")),
            script=_safe(script),
            script_hash=_safe(_hash(script)),
            meanings=meanings(facts),
            facts=facts,
            new=self.new,
            classes=numbered,
            recall_from=_start([each.recall for each in facts.classes]),
            where_from=_start([part.accuracy for each in facts.where for part in each.parts]),
            shown_classes=shown,
            sections={k for k, _ in shown},
            matrix=_matrix(facts.evaluation) if len(numbered) <= MOST_IN_A_MATRIX else None,
            confusions=_confusions(facts.evaluation),
            pictures_said=_pictures_said(self.images),
            mistakes=json.dumps([mistake.image for mistake in facts.mistakes]),
            doubtful=json.dumps(list(facts.doubtful)),
            novel=None if facts.novel is None else json.dumps(list(facts.novel.most)),
            probabilities=self.probabilities,
            calibration_said=calibration_said(facts),
            change_said=change_said(facts),
            reliabilities=_reliabilities(facts),
            selective=facts.selective,
            holding_said=holding_said(facts),
            measured_said=measured_said(facts.selective),
            risk_chart=_safe(risk_coverage_chart("risk", facts.selective.risk, facts.said("aurc"))),
            risk_points=_risk_points(facts.selective.risk),
            wish_rows=_wish_rows(facts),
            sets_of_classes=[each for each in facts.selective.sets if each.scores is not None],
            sets_said=sets_said(facts.selective),
            where_said=most or _NOWHERE,
            symmetry=self.symmetry and _symmetry(self.symmetry),
            class_words={k: _class_words(facts.evaluation, k) for k, _ in shown},
            rocs={k: _roc(k, each) for k, each in shown},
            precisions={k: _precision_recall(k, each, facts.n) for k, each in shown},
            cut_charts={k: _cuts(k, each, facts.selective.by_class[k]) for k, each in shown},
            class_mistakes={k: json.dumps(wrong.get(k, [])[:_CLASS_TILES]) for k, _ in shown},
            about={heading: {k: one_line(v) for k, v in rows.items()} for heading, rows in self.about.items()},
            recipe=self.recipe,
            data=_data(facts, self.images),
        )


def _template() -> Any:
    check_installed("jinja2", "report", "a report")
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        # A line does not begin with the sign.
        "metric": lambda value, name: _unbroken(metric_text(name, value)),
        "metric_name": metric_name,
        "percent": lambda share, digits=1: _unbroken(percent(share, digits)),
        "capitalized": lambda text: text[:1].upper() + text[1:],
        "whisker": lambda interval, low: _safe(whisker(interval, low)),
        "flowing": _unbroken,
        "wish": lambda wish: _unbroken(wish_text(wish)),
        "breakable": lambda name: _safe(escape(name).replace("_", "_<wbr>")),
        "pairs": _pairs,
        "cut_rows": _cut_rows,
        "change": change_text,
    }
    return environment.from_string(_resource("report.html.j2"))


def _unbroken(text: str) -> str:
    return text.replace(" %", "\u00a0%")


def _resource(name: str) -> str:
    return files("astroformer.evaluation.report").joinpath(name).read_text(encoding="utf-8")


def _safe(text: str) -> Any:
    """A text that is HTML already."""
    from markupsafe import Markup

    return Markup(text)


def _hash(script: str) -> str:
    """How the policy of a page names the one script that may run."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode('ascii')}"


def _pairs(curve: Curve) -> list[tuple[float, float]]:
    some = curve.thinned(20)
    return list(zip(some.x_T.tolist(), some.y_T.tolist(), strict=True))


# -- words -------------------------------------------------------------------------------------------------------------


def _symmetry(report: SymmetryReport) -> dict[str, Any]:
    said = (
        f"Measured on {report.n:,} of the images, drawn at random. Under a circular shift the answer should stay as it "
        "is: two shifted copies of an image get the same class in "
        f"{percent(report.c_cons.value)} of the cases (95 % interval {percent(report.c_cons.low)} to "
        f"{percent(report.c_cons.high)}). astroformer symmetry measures more."
    )
    return {"said": said, "changes": report.changes}


def _class_words(evaluation: Evaluation, k: int) -> str:
    counts, names = evaluation.confusion_KK, evaluation.classes
    n, called = int(counts[k].sum()), int(counts[:, k].sum())
    if not n and not called:
        return "No image is of this class, and none is called so."
    others = [i for i in range(len(names)) if i != k]

    def listed(numbers: Array) -> str:
        most = [i for i in sorted(others, key=lambda i: -numbers[i]) if numbers[i]][:3]
        return ", ".join(f"{names[i]} ({numbers[i]:,})" for i in most)

    words = f"{n:,} images are of this class; {counts[k, k]:,} of them are called so." if n else (
        "No image is of this class."
    )  # fmt: skip
    if taken := listed(counts[k]):
        words += f" The others are taken for {taken}."
    if false := listed(counts[:, k]):
        words += f" Wrongly called so: {false}."
    return words


def _pictures_said(images: ShownImages) -> str:
    n, there = len(images.files), len(images.pictures)
    said = [] if there == n else [f"{there:,} of {n:,} have a picture here, mistakes first"]
    said += [images.said] if images.said else []
    return f"({'; '.join(said)})" if said else ""


# -- parts -------------------------------------------------------------------------------------------------------------


def _start(shares: Sequence[Interval | None]) -> float:
    """Where a scale begins that ends at 1 and has room for all shares and their intervals: at a quarter."""
    return min((int(4 * share.low) / 4 for share in shares if share is not None), default=0.0) % 1


def _worst(numbered: list[tuple[int, ClassFacts]]) -> list[tuple[int, ClassFacts]]:
    with_images = [each for each in numbered if each[1].scores.n]
    return sorted(with_images, key=lambda each: each[1].scores.f1 or 0.0)[:_MOST_SECTIONS]


def _matrix(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Rows of cells: how many, which share of the row as a text and as a depth of colour, and what is read aloud."""
    rows = []
    for k, (name, counts) in enumerate(zip(evaluation.classes, evaluation.confusion_KK.tolist(), strict=True)):
        total, cells = sum(counts), []
        for j, n in enumerate(counts):
            share = n / total if total else 0.0
            cells.append(
                {
                    "k": j,
                    "n": n,
                    # The square root parts small shares: 2 % have a seventh of the colour.
                    "depth": f"{share if j == k else share**0.5:.3f}",
                    "share": percent(share, 0) if share >= 0.01 else "<1 %",
                    "spoken": f"{'image' if n == 1 else 'images'} of {name} called {evaluation.classes[j]}",
                }
            )
        rows.append({"name": name, "k": k, "cells": cells})
    return rows


def _confusions(evaluation: Evaluation) -> list[dict[str, Any]]:
    def words(each: Confusion) -> str:
        share = percent(each.times / each.n)
        return f"{each.label} taken for {each.prediction}: {each.times:,} of {each.n:,} ({share})"

    places = {name: k for k, name in enumerate(evaluation.classes)}
    return [
        {"words": words(each), "label": places[each.label], "called": places[each.prediction]}
        for each in evaluation.confusions(_CONFUSIONS)
    ]


def _roc(k: int, each: ClassFacts) -> Any:
    if each.roc is None or each.roc_auc is None:
        return ""
    return _safe(roc_chart(f"roc-{k}", each.name, each.roc, metric_text("roc_auc", each.roc_auc.value)))


def _precision_recall(k: int, each: ClassFacts, n: int) -> Any:
    if each.precision_recall is None or each.average_precision is None:
        return ""
    area = metric_text("average_precision", each.average_precision.value)
    return _safe(precision_recall_chart(f"pr-{k}", each.name, each.precision_recall, area, each.scores.n / n))


def _reliabilities(facts: Facts) -> list[dict[str, Any]]:
    """The reliability diagrams: each with a caption and its numbers."""

    def diagram(name: str, bins: Sequence[CalibrationBin], error: str, caption: str, **words: Any) -> dict[str, Any]:
        chart = _safe(reliability_chart(name, bins, error, **words))
        shares = "Share of votes" if words.get("votes") else "Accuracy"
        return {"chart": chart, "bins": bins, "caption": caption, "shares": shares, "name": caption}

    found = []
    bars = "Bars: share of the images in each bin."
    if facts.own is not None:
        error = f"{percent(facts.own.metrics['ece'].value)}"
        words, caption = "before calibration", f"Before calibration: the network's own probabilities. {bars}"
        found.append(diagram("reliability-own", facts.own.bins, error, caption, title=words))
    caption = "After calibration: what this page reports." if facts.own is not None else "Bins of equal width."
    found.append(diagram("reliability", facts.calibration, facts.said("ece"), f"{caption} {bars}"))
    if facts.calibration_by_votes is not None:
        caption = f"Against votes: the mean share of votes for the class that is called. {bars}"
        error = facts.said("votes_ece")
        found.append(diagram("reliability-votes", facts.calibration_by_votes, error, caption, votes=True))
    by_number = "What this page reports, in bins of an equal number of images."
    error = facts.said("adaptive_ece")
    words = "bins of an equal number of images"
    found.append(diagram("reliability-n", facts.calibration_by_number, error, by_number, title=words, counts=False))
    return found


def _risk_points(risk: RiskCoverage) -> list[tuple[float, Interval]]:
    """The errors at each tenth that is kept, as far as images have different confidences."""
    return list(dict(risk.at(tenth / 10) for tenth in range(1, 11)).items())


def _wish_rows(facts: Facts) -> list[dict[str, Any]]:
    """What each wished purity keeps of all images, and the classes that have no cut."""
    rows = []
    for i, every in enumerate(facts.selective.kept):
        none = [
            f"{each.name} ({cuts.kept[i].why})"
            for each, cuts in zip(facts.classes, facts.selective.by_class, strict=True)
            if cuts.kept[i].cut is None
        ]
        more = f"; and {len(none) - 3:,} more" if len(none) > 3 else ""
        rows.append({"kept": every, "none": "; ".join(none[:3]) + more})
    return rows


def _cut_rows(cuts: ClassCuts) -> list[tuple[float, list[Interval | None]]]:
    """Some cuts, and the purity, completeness and share of each."""
    assert cuts.purity is not None
    lines = (cuts.purity, cuts.completeness, cuts.share)
    return [
        (float(cuts.purity.x_T[t]), [None if line is None else line.interval(t) for line in lines])
        for t in cuts.purity.curve.kept(_CUT_ROWS).tolist()
    ]


def _cuts(k: int, each: ClassFacts, cuts: ClassCuts) -> Any:
    return "" if cuts.purity is None else _safe(cuts_chart(f"cuts-{k}", each.name, cuts))


def _wrong_by_class(images: ShownImages) -> dict[int, list[int]]:
    """Of each class its images that are called something else, the surest first."""
    confidence_N, called_N = images.probabilities_NK.max(1), images.probabilities_NK.argmax(1)
    found: dict[int, list[int]] = {}
    for i in np.argsort(-confidence_N, kind="stable").tolist():
        if called_N[i] != images.labels_N[i]:
            found.setdefault(int(images.labels_N[i]), []).append(i)
    return found


def _data(facts: Facts, images: ShownImages) -> dict[str, Any]:
    """What the page's script knows of each image; see the head of `report.js`."""
    rows = []
    for i, p_K in enumerate(images.probabilities_NK):
        best = np.argsort(-p_K, kind="stable")[:_ANSWERS]
        rows.append(
            [
                images.pictures.get(i, 0),
                one_line(images.files[i]),
                int(images.labels_N[i]),
                int(best[0]),
                [[int(k), round(float(p_K[k]), 4)] for k in best],
                0 if images.seen_N is None else int(images.seen_N[i]),
                0 if facts.novel is None else round(float(facts.novel.novelty_N[i]), 3),
            ]
        )
    return {"classes": list(facts.evaluation.classes), "images": rows}
