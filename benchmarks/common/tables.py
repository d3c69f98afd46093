"""Tables of the rows of `low_data.py`.

Means over seeds with 95 % intervals by Student's t, differences paired by seed; nothing is claimed of fewer than three.
"""

from __future__ import annotations

import numpy as np

from common.grid import CELLS, Cell, chosen_setting, length_of, mean_of, place_of
from common.peers import OURS
from common.rows import Row
from common.statistics import difference, shown
from common.studies import arm_name

_WHOLE_CORE = 0.9  # share of a thread's core; with less, other programs took a part of a run's minutes

Arm = tuple[str, str, str, int, bool]  # model, setting, words, members, distilled


def arms_of(rows: list[Row]) -> dict[Arm, dict[int, Row]]:
    """The rows of one cell and length by arm and seed, best mean balanced accuracy first."""
    arms: dict[Arm, dict[int, Row]] = {}
    for row in rows:
        arm = (row["model"], row["setting"], row["words"], row["members"], row.get("distilled", False))
        arms.setdefault(arm, {})[row["seed"]] = row
    return dict(sorted(arms.items(), key=lambda arm: -mean_of(list(arm[1].values()), "balanced_accuracy")))


def name_of(arm: Arm) -> str:
    model, setting, words, members, distilled = arm
    words = arm_name(words) or words
    several = "one network" if members == 1 else f"ensemble of {members}"
    several = f"distilled from {several}" if distilled else several if members > 1 else ""
    inside = "; ".join(part for part in ("" if setting == "default" else setting, words, several) if part)
    return model + (f" ({inside})" if inside else "")


def differences(arm: dict[int, Row], other: dict[int, Row], score: str = "balanced_accuracy") -> np.ndarray:
    """Of each seed that both have."""
    return np.array([arm[seed][score] - other[seed][score] for seed in sorted(arm.keys() & other.keys())])


def measure_of(row: Row) -> str:
    """What runs have to share to be compared: their length, and where that is minutes the processor."""
    place = place_of(row)
    return f"{length_of(row)} a run" + (f" on {place}" if place else "")


def grouped(rows: list[Row], kind: str) -> dict[tuple[str, str, int], list[Row]]:
    """Rows by (cell, `measure_of`, images measured on), cells in the order of the grid."""
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        if row["kind"] == kind:
            cell = str(Cell(row["data"], row["per_class"]))
            groups.setdefault((cell, measure_of(row), row["images"]["test"]), []).append(row)
    order = list(CELLS)
    return dict(sorted(groups.items(), key=lambda g: (order.index(g[0][0]) if g[0][0] in order else 99, g[0][1])))


def table(rows: list[Row], kind: str = "run") -> str:
    """Every cell and length as Markdown: mean ± sd (95 % interval); n seeds; differences paired by seed."""
    parts = []
    images = "test images" if kind == "run" else "images to choose by"
    for (cell, measure, test), some in grouped(rows, kind).items():
        arms = arms_of(some)
        best = next((arm for arm in arms if arm[0] != OURS), None)
        lines = [
            f"**{cell}**, {measure}, {test:,} {images}",
            "",
            "| network | M parameters | MMAC | training TFLOPs | images/s | epochs | balanced accuracy, % "
            "| with views, % | accuracy, % | NLL | with views | ECE, % | with views, % | S-Cons, % | n "
            "| from the best peer, points |",
            "|" + "---|" * 16,
        ]
        for arm, by_seed in arms.items():
            found = list(by_seed.values())

            def values(field: str, scale: float = 100, found: list[Row] = found) -> np.ndarray:
                return scale * np.array([row[field] for row in found if row[field] is not None])

            s_cons = values("s_cons")
            cells = [
                name_of(arm),
                f"{found[0]['parameters'] / 1e6:.2f}",
                f"{found[0]['macs'] / 1e6:.0f}",
                f"{np.median(values('training_flops', 1e-12)):.3g}",
                f"{np.median(values('images_per_second', 1)):.0f}",
                f"{np.median(values('epochs_done', 1)):.3g}",
                shown(values("balanced_accuracy")),
                shown(values("balanced_accuracy_views")),
                shown(values("accuracy")),
                *(shown(values(name, 1), 3) for name in ("nll", "nll_views")),
                *(shown(values(name)) for name in ("ece", "ece_views")),
                shown(s_cons) if len(s_cons) else "–",
                str(len(found)),
                "–" if best is None or arm == best else difference(100 * differences(by_seed, arms[best])),
            ]
            lines.append(f"| {' | '.join(cells)} |")
        starved = sum(row["cpu_share"] < _WHOLE_CORE * row["threads"] for row in some)
        if starved and some[0]["minutes"] is not None:
            lines += [
                "",
                f"{starved} of {len(some)} runs had less than {_WHOLE_CORE:.0%} of a core a thread for their minutes.",
            ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def against_table(rows: list[Row], words: str) -> str:
    """Our arms beside the one of these words, as Markdown: in each cell and length, and over all pairs of runs.

    A pair are runs of one seed, so of the same images. Pairs of one split are not independent, so that the intervals
    over all pairs are somewhat too narrow.
    """
    lines = [
        "| data | length | arm | balanced accuracy, % | with views, % | NLL | ECE, % | n | difference, points "
        "| in NLL |",
        "|" + "---|" * 10,
    ]
    pairs: dict[tuple[str, str], list[np.ndarray]] = {}
    scores = (("balanced_accuracy", 100, 1), ("balanced_accuracy_views", 100, 1), ("nll", 1, 3), ("ece", 100, 1))
    for kind in ("develop", "run"):
        images = "" if kind == "run" else " (to choose by)"
        for (cell, measure, _), some in grouped([row for row in rows if row["model"] == OURS], kind).items():
            arms = arms_of(some)
            first = next((arm for arm in arms if arm[2:] == (words, 1, False)), None)
            for arm, by_seed in arms.items() if first is not None and len(arms) > 1 else ():
                found = list(by_seed.values())
                cells = [f"{cell}{images}", measure, name_of(arm)]
                for score, scale, digits in scores:
                    values = scale * np.array([row[score] for row in found])
                    spread = f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
                    cells.append(f"{values.mean():.{digits}f}{spread}")
                points, nll = (differences(by_seed, arms[first], score) for score in ("balanced_accuracy", "nll"))
                if arm == first:
                    cells += [str(len(found)), "", ""]
                else:
                    pairs.setdefault((kind, name_of(arm)), []).append(np.stack([100 * points, nll]))
                    cells += [str(len(found)), difference(100 * points), difference(nll, 3)]
                lines.append(f"| {' | '.join(cells)} |")
    if not pairs:
        return f"no arm of ours has the words '{words}' in a cell and length that has another arm."
    lines += ["", "| over all cells | images | pairs | difference, points | better in | in NLL | better in |"]
    lines += ["|" + "---|" * 7]
    for (kind, name), parts in pairs.items():
        points, nll = np.concatenate(parts, axis=1)
        if len(points):
            cells = [name, "to test on" if kind == "run" else "to choose by", str(len(points)), difference(points),
                     str((points > 0).sum()), difference(nll, 3), str((nll < 0).sum())]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def tune_table(rows: list[Row]) -> str:
    """What each setting reached on images dealt from the training images, as Markdown; empty without such rows."""
    lines = [
        "| data | length | network | setting | balanced accuracy, % | NLL | n | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (cell, measure, _), some in grouped(rows, "tune").items():
        for model in dict.fromkeys(row["model"] for row in some):
            names = list(dict.fromkeys(row["setting"] for row in some if row["model"] == model))
            taken = chosen_setting(some, CELLS[cell], model, names) if cell in CELLS else ""
            for name in names:
                found = [row for row in some if row["model"] == model and row["setting"] == name]
                accuracy, nll = (np.array([row[field] for row in found]) for field in ("balanced_accuracy", "nll"))
                mark = "chosen" if name == taken else ""
                lines.append(
                    f"| {cell} | {measure} | {model} | {name} | {shown(100 * accuracy)} | {shown(nll, 3)} "
                    f"| {len(found)} | {mark} |"
                )
    return "\n".join(lines) if len(lines) > 2 else ""
