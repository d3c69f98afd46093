"""Rows of results: one JSON object a run, one line each, kept as what differs from a file of defaults beside them.

Half of a row is its recipe, which is nearly the same in all of them. So a line holds `{"defaults": "3f2a…", …}`: the
first digits of the SHA-256 of a file `defaults/3f2a….json`, which is a whole row, and the values that differ from it.
Only rows of the same fields have the same defaults, so nothing is lost: `read_rows` gives back every row with its
fields in their order. A line without `defaults` is a whole row.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from astroformer.files import replacing

Row = dict[str, Any]
RESULTS = Path(__file__).resolve().parents[1] / "results"
_DEFAULTS = "defaults"
_DIGITS = 12
_LONGEST = 800  # characters of a line; a row that differs by more becomes defaults itself


def read_rows(path: Path) -> list[Row]:
    """The rows of a file, whole. A last line that a crash cut short is dropped from the file, and that is said.

    Raises:
        ValueError: another line is no row, or its defaults are not there or are not the ones that it was kept with.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = text.splitlines(keepends=True)
    found = []
    for number, line in enumerate(lines, 1):
        try:
            kept = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines) and not line.endswith("\n"):
                path.write_text("".join(lines[:-1]), encoding="utf-8")
                print(f"{path}: the last line was cut short; it is removed, and its run is due again", file=sys.stderr)
                break
            raise ValueError(f"line {number} of {path} is no row ({error}); mend it or take it out.") from None
        try:
            found.append(_whole(kept, path.parent / _DEFAULTS))
        except FileNotFoundError as error:
            raise ValueError(f"line {number} of {path} needs '{error.filename}', which is not there.") from None
    return found


def append_row(path: Path, row: Row, *, whole: bool = False) -> None:
    """Adds a row to the end of a file.

    A row of new fields, or one that differs by much from all defaults, becomes a file of defaults itself; unless it is
    to be kept `whole`, as one whose numbers are all its own.

    Raises:
        ValueError: the row has a field `defaults`, which stands for the file; or a file of defaults is damaged.
    """
    if "defaults" in row:
        raise ValueError("a row has no field 'defaults': it is the name of the file that the row differs from.")
    path.parent.mkdir(parents=True, exist_ok=True)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    line = json.dumps(row if whole else _shortened(row, path.parent / _DEFAULTS))
    with path.open("a", encoding="utf-8") as stream:
        stream.write(("\n" if text and not text.endswith("\n") else "") + line + "\n")


def read_results(path: Path) -> dict[str, Row]:
    """The rows of a file that is one JSON object, by name; none where there is no file."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def write_results(path: Path, results: dict[str, Row]) -> None:
    """Writes rows by name as one JSON object, in one step."""
    with replacing(path) as part:
        part.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def _whole(line: Row, folder: Path) -> Row:
    name = line.get("defaults")
    if name is None:
        return line
    row = copy.deepcopy(_read_defaults(folder / f"{name}.json"))
    _put(row, {field: value for field, value in line.items() if field != "defaults"})
    return row


def _shortened(row: Row, folder: Path) -> Row:
    known = [path for path in sorted(folder.glob("*.json")) if _fields(_read_defaults(path)) == _fields(row)]
    lines = [{"defaults": path.stem, **_differences(row, _read_defaults(path))} for path in known]
    shortest = min(lines, key=lambda line: len(json.dumps(line)), default=None)
    if shortest is not None and len(json.dumps(shortest)) <= _LONGEST:
        return shortest
    text = json.dumps(row) + "\n"
    name = hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
    folder.mkdir(exist_ok=True)
    with replacing(folder / f"{name}.json", shared=True) as part:
        part.write_text(text, encoding="utf-8")
    return {"defaults": name}


@functools.cache
def _read_defaults(path: Path) -> Row:
    content = path.read_text(encoding="utf-8")  # with \n, whatever ends of lines git made of it
    if not hashlib.sha256(content.encode()).hexdigest().startswith(path.stem):
        raise ValueError(f"'{path}' is damaged: it is not what its name is the hash of; bring it back from git.")
    return dict(json.loads(content))


def _fields(row: Row) -> Any:
    """The names of all fields, nested ones too, in their order."""
    return [(name, _fields(value) if isinstance(value, dict) else None) for name, value in row.items()]


def _differences(row: Row, defaults: Row) -> Row:
    """What of a row differs from defaults of the same fields."""
    found: Row = {}
    for name, value in row.items():
        if isinstance(value, dict):
            if inner := _differences(value, defaults[name]):
                found[name] = inner
        # 1, 1.0 and true are equal, and not the same in JSON.
        elif json.dumps(value) != json.dumps(defaults[name]):
            found[name] = value
    return found


def _put(row: Row, differences: Row) -> None:
    for name, value in differences.items():
        if isinstance(value, dict) and isinstance(row[name], dict):
            _put(row[name], value)
        else:
            row[name] = value
