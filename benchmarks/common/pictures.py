"""Pictures of the rows of `low_data.py`: scores, scores against images a class, costs, and studies."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from astroformer.drawing import CM, COLUMN, DPI, GREEN, PAGE, Look, looks, style
from common.grid import CELLS, CELLS_1, TIER_2, Cell, mean_of
from common.peers import OURS
from common.rows import Row
from common.statistics import interval
from common.studies import CONVOLUTIONS, STUDIES, Study, kind_of_network
from common.tables import arms_of, differences, grouped, measure_of

_LOOKS = dict(zip(TIER_2, looks(len(TIER_2)), strict=True))
_OTHER = Look("#444444", "-", "o")  # of a network that is not in the grid


@style()
def plots(rows: list[Row], folder: Path) -> list[Path]:
    """Draws what the rows allow: scores and costs in the cells of tier 1, scores against images a class, and studies.

    Each length, and each processor that minutes were spent on, has its own pictures. Outside of studies, rows with
    changed words, of ensembles and of what was distilled are left out, and of a network with several settings the best
    in the cell is shown.
    """
    plain = [row for row in rows if row["kind"] == "run" and not row["words"] and row["members"] == 1]
    plain = [row for row in plain if not row.get("distilled")]
    made = []
    for measure in dict.fromkeys(map(measure_of, plain)):
        some = [row for row in plain if measure_of(row) == measure]
        for name, draw in (("scores", _draw_scores), ("images-a-class", _draw_sizes), ("cost", _draw_cost)):
            figure = draw(some, measure)
            if figure is not None:
                made.append(_saved(figure, folder, name, measure))
    for name, study in STUDIES.items():
        arms = set(study.arms.values())
        answers = [row for row in rows if row["kind"] == "run" and row["model"] == OURS and row["words"] in arms]
        for measure in dict.fromkeys(measure_of(row) for row in answers if row["flops"] is not None):
            some = [row for row in answers if measure_of(row) == measure]
            if len({row["words"] for row in some}) > 2:
                beside = [row for row in plain if row["model"] in study.peers and measure_of(row) == measure]
                draw = _draw_scale if study.peers else _draw_study
                made.append(_saved(draw(some + beside, study, measure), folder, name, measure))
    attention = _draw_attention(rows)
    if attention is not None:
        made.append(_saved(attention, folder, "attention", "images-a-class"))
    return made


def _saved(figure: Any, folder: Path, name: str, measure: str) -> Path:
    ending = re.sub(r"[^\w.]+", "-", measure.replace(" a run", "").replace("+", ""))
    path = folder / f"low-data-{name}-{ending}.png"
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    return path


def _best_arms(rows: list[Row]) -> dict[str, list[Row]]:
    """The rows of each network's best arm in one cell, best network first."""
    found: dict[str, list[Row]] = {}
    for arm, by_seed in arms_of(rows).items():
        found.setdefault(arm[0], list(by_seed.values()))
    return found


def _reach(values: np.ndarray) -> float:
    return interval(values) or 0.0


def _figure(panels: int, columns: int, height: float) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    columns = min(columns, panels)
    lines = -(-panels // columns)
    figure = Figure(figsize=((PAGE if columns > 1 else COLUMN) * CM, 0.85 * height * lines), layout="constrained")
    axes = list(np.atleast_1d(figure.subplots(lines, columns)).flat)
    for spare in axes[panels:]:
        spare.remove()
    for axis in axes[:panels]:
        axis.grid()
    return figure, axes[:panels]


def _main_cells(rows: list[Row]) -> dict[str, list[Row]]:
    """The rows of the cells of tier 1; where there are none, of the first four others."""
    cells = {cell: some for (cell, *_), some in grouped(rows, "run").items()}
    main = {cell: some for cell, some in cells.items() if CELLS.get(cell) in CELLS_1}
    return main or dict(list(cells.items())[:4])


def _draw_scores(rows: list[Row], measure: str) -> Any:
    """A panel a cell: balanced accuracy of each seed, their mean and its 95 % interval."""
    cells = _main_cells(rows)
    most = max(len(_best_arms(some)) for some in cells.values())
    figure, axes = _figure(len(cells), 2, 0.9 + 0.32 * most)
    for axis, (cell, some) in zip(axes, cells.items(), strict=True):
        arms = _best_arms(some)
        for place, (model, found) in enumerate(arms.items()):
            _draw_arm(axis, place, found, _LOOKS.get(model, _OTHER).color)
        _name_lines(axis, cell, list(arms))
    explained = "dots: means with 95 % intervals, hollow: of fewer than three seeds; ticks: seeds"
    figure.suptitle(f"{measure}\n{explained}")
    return figure


def _draw_arm(axis: Any, place: int, rows: list[Row], colour: str) -> float:
    """Mean, interval and seeds of one arm in a line of a panel; returns the mean in percent."""
    values = 100 * np.array([row["balanced_accuracy"] for row in rows])
    fill = colour if len(values) > 2 else "white"  # fewer bound nothing
    axis.errorbar(values.mean(), place, xerr=_reach(values), color=colour, fmt="o", markersize=4, capsize=2,
                  markerfacecolor=fill)  # fmt: skip
    if len(values) > 1:
        axis.plot(values, np.full(len(values), place + 0.25), "|", color=colour, alpha=0.7)
    return float(values.mean())


def _name_lines(axis: Any, title: str, names: list[str]) -> None:
    """What the lines of a panel are, from the top."""
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    axis.set_title(title, loc="left")
    axis.set_xlabel("balanced accuracy, %")


def _draw_study(rows: list[Row], study: Study, measure: str) -> Any:
    """A panel a cell: balanced accuracy of each seed of each arm, their mean and its 95 % interval."""
    cells = {cell: some for (cell, *_), some in grouped(rows, "run").items()}
    named = {words: name for name, words in study.arms.items()}
    figure, axes = _figure(len(cells), 3, 1.1 + 0.3 * len(named))
    for axis, (cell, some) in zip(axes, cells.items(), strict=True):
        for place, words in enumerate(named):
            if found := [row for row in some if row["words"] == words]:
                mean = _draw_arm(axis, place, found, _LOOKS[OURS].color if place == 0 else GREEN)
                if place == 0:
                    axis.axvline(mean, color=_LOOKS[OURS].color, linewidth=0.8, alpha=0.5)
        _name_lines(axis, cell, list(named.values()) if axis is axes[0] else [""] * len(named))
    explained = "dots: means with 95 % intervals, hollow: of fewer than three seeds; ticks: seeds; line: the first arm"
    figure.suptitle(f"{study.question}\n{measure}; {explained}")
    return figure


def _draw_scale(rows: list[Row], study: Study, measure: str) -> Any:
    """Two panels a cell: balanced accuracy against parameters, and against multiply-accumulates of an image; the arms
    of ours joined, peers apart. Cells in which none of our arms was run are left out."""
    cells = {cell: some for (cell, *_), some in grouped(rows, "run").items()}
    cells = {cell: some for cell, some in cells.items() if any(row["model"] == OURS for row in some)}
    named = {words: name for name, words in study.arms.items()}
    figure, axes = _figure(2 * len(cells), 2, 3.3)
    handles: dict[str, Any] = {}
    for i, (cell, some) in enumerate(cells.items()):
        peers = _best_arms([row for row in some if row["model"] != OURS])
        ours = {name: [row for row in some if row["words"] == words] for words, name in named.items()}
        ours = {name: found for name, found in ours.items() if found}
        for axis, field, label in (
            (axes[2 * i], "parameters", "million parameters"),
            (axes[2 * i + 1], "macs", "million multiply-accumulates an image"),
        ):
            means = [100 * mean_of(found, "balanced_accuracy") for found in ours.values()]
            axis.plot(
                [found[0][field] / 1e6 for found in ours.values()], means, color=_LOOKS[OURS].color, linewidth=1.5
            )
            for name, found in (*ours.items(), *peers.items()):
                at, values = found[0][field] / 1e6, 100 * np.array([row["balanced_accuracy"] for row in found])
                colour, _, marker = _LOOKS[OURS] if name in ours else _LOOKS.get(name, _OTHER)
                drawn = axis.errorbar(at, values.mean(), yerr=_reach(values), color=colour, fmt=marker, markersize=4,
                                      capsize=2, markerfacecolor=colour if len(values) > 2 else "white")  # fmt: skip
                handles[OURS if name in ours else name] = drawn
                if name in ours:
                    axis.annotate(
                        name, (at, values.mean()), (5, 4), textcoords="offset points", fontsize=8, color=colour
                    )
            _log_scale(axis, label, cell)
    explained = "means with 95 % intervals, hollow: of fewer than three seeds; the line: our network at several sizes"
    figure.suptitle(f"{study.question}\n{measure}; {explained}")
    _legend(figure, handles, "")
    return figure


def _draw_sizes(rows: list[Row], measure: str) -> Any:
    """A panel a data set that has several sizes: balanced accuracy against images a class."""
    sets: dict[str, dict[int, dict[str, list[Row]]]] = {}
    for some in grouped(rows, "run").values():
        cell = Cell(some[0]["data"], some[0]["per_class"])
        sets.setdefault(cell.data, {})[cell.images] = _best_arms(some)
    sets = {name: by_size for name, by_size in sets.items() if len(by_size) > 1}
    if not sets:
        return None
    figure, axes = _figure(len(sets), 3, 3.3)
    handles: dict[str, Any] = {}
    for axis, (name, by_size) in zip(axes, sets.items(), strict=True):
        sizes = sorted(by_size)
        for place, model in enumerate(_in_order({model for arms in by_size.values() for model in arms})):
            beside = (sizes[-1] / sizes[0]) ** (0.006 * place)  # so that intervals don't hide each other
            at = [size for size in sizes if model in by_size[size]]
            values = [100 * np.array([row["balanced_accuracy"] for row in by_size[size][model]]) for size in at]
            ours = model == OURS
            handles[model] = axis.errorbar(
                [size * beside for size in at],
                [v.mean() for v in values],
                yerr=[_reach(v) for v in values],
                **_LOOKS.get(model, _OTHER)._asdict(),
                markersize=4 if ours else 3,
                linewidth=1.8 if ours else 1,
                capsize=2,
                zorder=3 if ours else 2,
            )
        axis.set_xscale("log")
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.minorticks_off()
        axis.set_title(name, loc="left")
        axis.set_xlabel("images a class")
        axis.set_ylabel("balanced accuracy, %")
    _legend(figure, handles, measure)
    return figure


def _draw_attention(rows: list[Row]) -> Any:
    """A panel a data set: by how many points a network with attention differs from C-C-C-C on the same splits and after
    as many FLOPs, against images a class. Only cells that have a hybrid."""
    sets: dict[str, dict[str, dict[int, np.ndarray]]] = {}
    for kind in ("develop", "run"):
        for some in grouped([row for row in rows if row["flops"] is not None], kind).values():
            arms = {kind_of_network(arm[2]): by_seed for arm, by_seed in arms_of(some).items() if arm[0] == OURS}
            if CONVOLUTIONS not in arms or "C-C-C-T, hybrid" not in arms:
                continue
            cell = Cell(some[0]["data"], some[0]["per_class"])
            for name, by_seed in arms.items():
                if name not in (None, CONVOLUTIONS):
                    points = 100 * differences(by_seed, arms[CONVOLUTIONS])
                    sets.setdefault(cell.data, {}).setdefault(str(name), {})[cell.images] = points
    if not sets:
        return None
    figure, axes = _figure(len(sets), 2, 3.0)
    handles: dict[str, Any] = {}
    lines = dict(zip(("C-C-C-T, hybrid", "C-C-C-T", "C-C-T-T"), looks(3), strict=True))
    for axis, (data, arms) in zip(axes, sets.items(), strict=True):
        sizes = sorted({size for by_size in arms.values() for size in by_size})
        for place, (name, look) in enumerate(lines.items()):
            if by_size := arms.get(name):
                at = sorted(by_size)
                handles[name] = axis.errorbar(
                    [size * 1.05**place for size in at],  # so that intervals don't hide each other
                    [by_size[size].mean() for size in at],
                    yerr=[_reach(by_size[size]) for size in at],
                    **look._asdict(),
                    capsize=2,
                )
        axis.axhline(0, color="#444444", linewidth=1)
        axis.set_xscale("log")
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axis.minorticks_off()
        axis.margins(x=0.15)
        axis.set_title(data, loc="left")
        axis.set_xlabel("images a class")
        axis.set_ylabel("points from C-C-C-C")
    ends = [end for axis in axes for end in axis.get_ylim()]
    for axis in axes:  # one scale, so that panels can be compared
        axis.set_ylim(min(ends), max(ends))
    figure.suptitle("Balanced accuracy, after equal training FLOPs on the same splits; means with 95 % intervals of "
                    "the differences")  # fmt: skip
    _legend(figure, handles, "")
    return figure


def _draw_cost(rows: list[Row], measure: str) -> Any:
    """A row of panels a cell: balanced accuracy against parameters, and against what training computed."""
    cells = _main_cells(rows)
    figure, axes = _figure(2 * len(cells), 2, 2.7)
    handles: dict[str, Any] = {}
    for i, (cell, some) in enumerate(cells.items()):
        for axis, field, unit, label in (
            (axes[2 * i], "parameters", 1e6, "million parameters"),
            (axes[2 * i + 1], "training_flops", 1e12, "training TFLOPs"),
        ):
            arms = _best_arms(some)
            for model in _in_order(arms):
                values = 100 * np.array([row["balanced_accuracy"] for row in arms[model]])
                at = float(np.median([row[field] for row in arms[model]])) / unit
                colour, _, marker = _LOOKS.get(model, _OTHER)
                handles[model] = axis.errorbar(
                    at, values.mean(), yerr=_reach(values), color=colour, fmt=marker,
                    markersize=6 if model == OURS else 4, capsize=2)  # fmt: skip
            _log_scale(axis, label, cell)
    _legend(figure, handles, measure)
    return figure


def _log_scale(axis: Any, label: str, cell: str) -> None:
    """Balanced accuracy of a cell against something that networks differ in by its ratio."""
    from matplotlib.ticker import LogLocator

    axis.set_xscale("log")
    axis.margins(x=0.12, y=0.12)
    low, high = axis.get_xlim()
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
    axis.xaxis.set_major_formatter(lambda value, place: f"{value:g}")
    axis.minorticks_off()
    axis.set_xlabel(label)
    axis.set_ylabel("balanced accuracy, %")
    axis.set_title(cell, loc="left")


def _in_order(models: Any) -> list[str]:
    """Ours first, then as in the grid."""
    known = [model for model in TIER_2 if model in models]
    return known + sorted(set(models) - set(known))


def _legend(figure: Any, handles: dict[str, Any], title: str) -> None:
    names = _in_order(handles)
    columns = max(1, int(figure.get_figwidth() / 1.4))  # inches that a name takes
    figure.legend([handles[name] for name in names], names, loc="outside lower center", ncols=min(columns, len(names)),
                  title=title)  # fmt: skip
