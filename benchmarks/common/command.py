"""The command line of a benchmark that trains on a folder of data, or only shows the rows that are there."""

from __future__ import annotations

import argparse
from pathlib import Path


def data_or_table(about: str, data: str) -> argparse.ArgumentParser:
    """A parser with `data`, a folder, and `--table`.

    Args:
        about: the head of the script.
        data: what the folder holds.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help=data)
    parser.add_argument("--table", action="store_true", help="only print the table of the rows that are there")
    return parser


def checked(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """What was given: either the data or `--table`."""
    given = parser.parse_args()
    if (given.data is None) != given.table:
        parser.error("give the folder of the data, to train, or --table, to see what is there.")
    return given
