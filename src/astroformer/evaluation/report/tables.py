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


def write_cuts(path: Path, facts: Facts) -> None:
    """Writes `cuts.csv`: what each wished purity keeps of each class, and of all images, where `class` is empty. A
    share has its ends beside it; a field is empty where there is nothing to say."""
    names = ("purity", "completeness", "share")
    header = ["wish", "class", "cut", "kept", *(f"{name}{end}" for name in names for end in ("", "_low", "_high"))]
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        selective = facts.selective
        for i, every in enumerate(selective.kept):
            classes = [(each.name, cuts.kept[i]) for each, cuts in zip(facts.classes, selective.by_class, strict=True)]
            for name, kept in [("", every), *classes]:
                shares = [getattr(kept, share) for share in names]
                numbers = [_number(found, end) for found in shares for end in ("value", "low", "high")]
                writer.writerow([kept.wish, name, "" if kept.cut is None else f"{kept.cut:.6g}", kept.n, *numbers])


def write_sets(path: Path, facts: Facts) -> None:
    """Writes `sets.csv`: the columns `wish`, `class`, `coverage`, `low` and `high`, a row for each class and one for
    all images, where `class` is empty and `size`, `single` and `empty` say how many classes their sets hold."""
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["wish", "class", "coverage", "low", "high", "size", "single", "empty"])
        for each in facts.selective.sets:
            if (found := each.scores) is None:
                continue
            sizes = [f"{found.size:.6g}", found.single, found.empty]
            writer.writerow([each.wish, "", *_ends(found.coverage), *sizes])
            for facts_of, share in zip(facts.classes, found.by_class, strict=True):
                writer.writerow([each.wish, facts_of.name, *_ends(share), "", "", ""])


def described_images(facts: Facts, files: Sequence[str]) -> Mapping[str, Any]:
    """Mistakes, doubtful and novel images as `report.json` lists them.

    Args:
        files: names of the images that the facts are about.
    """
    classes = facts.evaluation.classes
    mistakes = [
        {"file": files[m.image], "label": classes[m.true], "prediction": classes[m.said], "confidence": m.confidence}
        for m in facts.mistakes
    ]
    most = () if facts.novel is None else facts.novel.most
    novel = [{"file": files[i], "novelty": round(float(facts.novel.novelty_N[i]), 4)} for i in most if facts.novel]
    return {"mistakes": mistakes, "doubtful": [files[i] for i in facts.doubtful], "novel": novel}


def _ends(found: Interval | None) -> list[str]:
    return [_number(found, end) for end in ("value", "low", "high")]


def _number(found: Interval | None, end: str) -> str:
    return "" if found is None else f"{getattr(found, end):.6g}"
