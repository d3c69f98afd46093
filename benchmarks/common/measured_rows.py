"""A benchmark of speed whose rows are measured one after the other and kept by name: its options and its loop."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

from common.machine import processor
from common.rows import Row, read_results, write_results
from common.speed_table import number

Measure = Callable[[], Row]


def all_threads() -> int:
    """As many as this process has cores."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def measure_rows(
    about: str,
    out: Path,
    rows: Callable[[argparse.Namespace], dict[str, Measure]],
    table: Callable[[dict[str, Row]], str],
    *,
    rounds: int,
    every: int,
) -> None:
    """Reads the command line, measures the rows that it asks for and the file of results lacks, and prints the tables.

    Every row is kept as soon as it is measured, with what it ran on, so the same command resumes.

    Args:
        about: the head of the script.
        out: where results go unless `--out` says otherwise.
        rows: the measurements by name, given the options `data`, `rounds`, `every` and `quick`. It may be asked for
            the names alone, so that it measures nothing itself.
        table: Markdown of the results.
        rounds, every: their defaults.

    Raises:
        SystemExit: an option can't be; with status 2.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="folder with train/ and valid/ of class folders")
    parser.add_argument("--rows", nargs="+", default=[""], metavar="NAME", help="beginnings of the rows' names")
    parser.add_argument("--again", action="store_true", help="measure rows anew that are there already")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--every", type=int, default=every, help="at 224 px ask about one file of so many; 1: all")
    parser.add_argument("--quick", action="store_true", help="a smoke test: toy sizes, figures that mean nothing")
    parser.add_argument("--table", action="store_true", help="only print the tables of the results")
    parser.add_argument("--list", action="store_true", help="only print the names of the rows")
    parser.add_argument("--out", type=Path, help=f"results; default {out.name}, needed with --quick")
    arguments = parser.parse_args()
    kept: Path = arguments.out or out
    if arguments.table:
        print(table(read_results(kept)))
        return
    if arguments.data is None or not (arguments.data / "train").is_dir():
        parser.error(f"DATA is {arguments.data}; a folder with train/ and valid/ of class folders is needed")
    if arguments.quick and arguments.out is None:
        parser.error("--quick measures nothing; say with --out where its results go")
    every_row = rows(arguments)
    chosen = {name: measure for name, measure in every_row.items() if name.startswith(tuple(arguments.rows))}
    if not chosen:
        parser.error(f"no row begins with {', '.join(arguments.rows)}; rows: {', '.join(every_row)}")
    if arguments.list:
        print("\n".join(chosen))
        return
    for name, measure in chosen.items():
        if name in read_results(kept) and not arguments.again:
            continue
        started = time.monotonic()
        row = measure() | _measured_on()
        write_results(kept, {**read_results(kept), name: row})
        found = {side: s["median"] for side, s in row.get("sides", {}).items() if "median" in s}
        what = "; ".join(f"{side} {number(value)}" for side, value in found.items())
        print(f"{name}: {what} {row['unit']}   [{time.monotonic() - started:.0f} s]", flush=True)
    print(table(read_results(kept)))


def _measured_on() -> Row:
    from astroformer.system import versions

    return {"processor": processor("cpu"), "versions": versions(), "finished": time.strftime("%Y-%m-%d %H:%M")}
