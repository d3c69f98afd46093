"""The Markdown tables of `speed.py`'s results."""

from __future__ import annotations

from common.rows import Row


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def shown_ratio(ratio: dict[str, float] | None) -> str:
    return f"{ratio['median']:.2f} ({ratio['min']:.2f} – {ratio['max']:.2f})" if ratio else ""


def table(results: dict[str, Row]) -> str:
    """Markdown tables: ours beside timm, memory, and how our cost grows."""
    lines = [
        "| measure | unit | ours | timm | ratio (min – max) | ratio, timm with our allocator settings "
        "| ours, share of the ceiling |",
        "|---|---|---|---|---|---|---|",
    ]
    held = ["", "| most memory held by the process | images a batch | ours, GiB | timm, GiB |", "|---|---|---|---|"]
    grown = ["", "| what grows | points | time over linear growth from the first point |", "|---|---|---|"]
    for name, row in results.items():
        if "cost" in row:
            costs = ", ".join(f"{c['median']:.2f}" for c in row["cost"].values())
            grown.append(f"| {name.removeprefix('scaling ')} ({row['grows']}) | {', '.join(row['cost'])} | {costs} |")
            continue
        if "peak_gib" in row:
            peaks = row["peak_gib"]
            held.append(f"| {name} | {row['batch']} | {peaks['ours']:.2f} | {peaks['timm']:.2f} |")
        share = row.get("share_of_ceiling", {}).get("ours", {})
        shares = ", ".join(f"{100 * value:.3g} % of {kind}" for kind, value in share.items())
        files = f", {row['files']:,} files" if "files" in row else ""
        lines.append(
            f"| {name}{files} | {row['unit']} | {number(row['sides']['ours']['median'])} "
            f"| {number(row['sides']['timm']['median'])} | {shown_ratio(row['ratios']['timm'])} "
            f"| {shown_ratio(row['ratios'].get('timm, our allocator settings'))} | {shares} |"
        )
    sittings = sorted({_ceilings(row) for row in results.values()})
    rates = [
        "",
        "| ceilings of | threads | float32, GFLOP/s | bfloat16, GFLOP/s | copied, GB/s |",
        "|---|---|---|---|---|",
        *sittings,
    ]
    return "\n".join([*lines, *(held if len(held) > 3 else []), *(grown if len(grown) > 3 else []), *rates])


def _ceilings(row: Row) -> str:
    """What the machine reached when a row was measured, a line of a table with a value for each number of threads."""
    threads = row["ceilings"].values()
    values = (
        f"{row['processor']}, torch {row['versions']['torch']}",
        ", ".join(row["ceilings"]),
        *(
            ", ".join(f"{c[rate]:.0f}" for c in threads)
            for rate in ("gflops_float32", "gflops_bfloat16", "copy_gbytes")
        ),
    )
    return f"| {' | '.join(values)} |"
