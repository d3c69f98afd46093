"""The facts of a report as files for programs: JSON and CSV."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from astroformer.evaluation.report.facts import Facts
from astroformer.evaluation.tables import write_by_class
from astroformer.files import replacing
from astroformer.intervals import Interval


def write_classes(path: Path, facts: Facts) -> None:
    """Writes `classes.csv`: the columns of `write_by_class`, and behind them the 95 % interval of recall and precision,
    and both areas with theirs; empty where there is none."""
    columns = {
        "precision": [each.precision for each in facts.classes],
        "recall": [each.recall for each in facts.classes],
        "roc_auc": [each.roc_auc for each in facts.classes],
        "average_precision": [each.average_precision for each in facts.classes],
    }
    beside: dict[str, Sequence[str]] = {}
    for name, intervals in columns.items():
        if name in ("roc_auc", "average_precision"):
            beside[name] = [_number(found, "value") for found in intervals]
        beside[f"{name}_low"] = [_number(found, "low") for found in intervals]
        beside[f"{name}_high"] = [_number(found, "high") for found in intervals]
    write_by_class(path, facts.evaluation, beside=beside)


def write_where(path: Path, facts: Facts) -> None:
    """Writes `where.csv`: the columns `by`, `part`, `n`, `accuracy`, `low` and `high`, a row for each part."""
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["by", "part", "n", "accuracy", "low", "high"])
        for each in facts.where:
            for some in each.parts:
                ends = (f"{end:.6g}" for end in (some.accuracy.value, some.accuracy.low, some.accuracy.high))
                writer.writerow([each.name, some.label, some.n, *ends])


def described_images(facts: Facts, files: Sequence[str]) -> Mapping[str, Any]:
    """Mistakes and doubtful images as `report.json` lists them.

    Args:
        files: names of the images that the facts are about.
    """
    classes = facts.evaluation.classes
    mistakes = [
        {"file": files[m.image], "label": classes[m.true], "prediction": classes[m.said], "confidence": m.confidence}
        for m in facts.mistakes
    ]
    return {"mistakes": mistakes, "doubtful": [files[i] for i in facts.doubtful]}


def _number(found: Interval | None, end: str) -> str:
    return "" if found is None else f"{getattr(found, end):.6g}"
