"""Turns files of whole rows into files of differences (`common/rows.py`), and proves that nothing is lost.

    python benchmarks/archive/compact_rows.py OLD.jsonl NEW.jsonl

Rows that are alike but for their figures share a file of defaults, of which there are as few as serve. That was done
once, to the rows of `low_data.py` up to commit e66d2f1.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.rows import append_row, read_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, help="file of whole rows")
    parser.add_argument("new", type=Path, help="file of differences to be written; defaults/ is made beside it")
    arguments = parser.parse_args()
    old, new = arguments.old, arguments.new
    if new.exists():
        sys.exit(f"'{new}' is there already.")
    lines = old.read_text(encoding="utf-8").splitlines()
    for line in lines:
        append_row(new, json.loads(line))
    if [json.dumps(row) for row in read_rows(new)] != lines:
        sys.exit("the rows that are read back are not those that were written")
    print(f"{len(lines)} rows, {old.stat().st_size:,} bytes before and {new.stat().st_size:,} now")


if __name__ == "__main__":
    main()
