"""Rows that are kept as differences come back whole, those of the evidence among them."""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
rows: Any = importlib.import_module("common.rows")

# How many rows the files of whole rows had, and their SHA-256, before differences were kept; later rows come behind.
ORIGINALS = {
    "distil_product": (3, "b0e1f6ba8f547db5a554009342006655f976b1731a23b962147d607eaaeccc85"),
    "equivariance": (54, "adc53fe993987b5485b01c988a448a75e97a45ac4f195060eff0200bbbde9914"),
    "low_data": (469, "cf0de624ff0dfe4eedcd1614ef95d538c157354b51bdaa2ee8eede6c588e11da"),
    "low_data_search": (471, "a0d3d4426c20948def897dd7beed86037f9cbdbbacd93c96f504bb9bf20eb8e9"),
    "memory": (35, "496ab5d5c1903926b295c27b4ff1490fa09657186207b7a098e60ad9bc6fe65d"),
    "precision": (10, "052f63d454dc9315dcab1e97a2b7da8581bff439edffb967e0cd416f0c145c33"),
    "symmetry": (13, "cee9f95d8b977d2f565a37e9932cb0c3e49f72a1f71b573e7ac1d181c089e1a4"),
    "views": (6, "7768f5c092bfe220b6153a36ba7c485f46f6d8e5aec3769d8e48ace184b177ac"),
}


@pytest.mark.parametrize("name", ORIGINALS)
def test_the_evidence_is_whole(name: str) -> None:
    count, digest = ORIGINALS[name]
    found = rows.read_rows(BENCHMARKS / "results" / f"{name}.jsonl")[:count]
    text = "".join(json.dumps(row) + "\n" for row in found)
    assert hashlib.sha256(text.encode()).hexdigest() == digest


def test_every_file_of_defaults_is_named_by_its_hash_and_used() -> None:
    folder = BENCHMARKS / "results" / "defaults"
    used = {
        json.loads(line).get("defaults")
        for file in folder.parent.glob("*.jsonl")
        for line in file.read_text(encoding="utf-8").splitlines()
    }
    for path in folder.glob("*.json"):
        assert hashlib.sha256(path.read_bytes()).hexdigest().startswith(path.stem)
        assert path.stem in used


ROWS: list[dict[str, Any]] = [
    {"a": 1, "b": {"c": None, "d": [1, 2]}, "e": "x"},
    {"a": 1.0, "b": {"c": {"deep": True}, "d": [1, 2]}, "e": "x"},  # other fields
    {"a": True, "b": {"c": None, "d": [1]}, "e": "y"},
    {"b": {"c": None, "d": [1, 2]}, "a": 1, "e": "x"},  # another order
    {"a": 1, "b": {"c": None, "d": [1, 2]}, "e": "x"},
    {"a": 1, "b": {"c": None, "d": [1, 2]}, "e": "z" * 2000},  # differs by much
]


def test_any_row_comes_back_with_its_kinds_and_order(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for row in ROWS:
        rows.append_row(path, row)
    assert [json.dumps(row) for row in rows.read_rows(path)] == [json.dumps(row) for row in ROWS]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert set(lines[2]) == {"defaults", "a", "b", "e"}
    assert lines[2]["b"] == {"d": [1]}
    assert set(lines[4]) == {"defaults"}
    assert len(list((tmp_path / "defaults").iterdir())) == 4
    before = rows.read_rows(path)
    before[0]["b"]["c"] = "changed by who read it"
    assert json.dumps(rows.read_rows(path)[0]) == json.dumps(ROWS[0])


def test_whole_rows_are_read_too_and_missing_defaults_are_said(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n')
    assert rows.read_rows(path) == [{"a": 1}]
    path.write_text('{"defaults": "0123456789ab"}\n')
    with pytest.raises(ValueError, match=r"line 1 of .* needs '.*0123456789ab\.json', which is not there"):
        rows.read_rows(path)


def test_damaged_defaults_are_said_and_cost_no_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows.append_row(path, ROWS[0])
    (defaults,) = (tmp_path / "defaults").iterdir()
    assert [file.name for file in (tmp_path / "defaults").iterdir()] == [defaults.name]  # and no part of one
    path.write_text(path.read_text().rstrip("\n"))  # as a crash leaves it, but whole
    kept = path.read_text()
    for damaged in ('{"a": 1, "b', json.dumps({**ROWS[0], "a": 2}) + "\n"):
        defaults.write_text(damaged)
        rows._read_defaults.cache_clear()
        with pytest.raises(ValueError, match="is damaged"):
            rows.read_rows(path)
        with pytest.raises(ValueError, match="is damaged"):
            rows.append_row(path, ROWS[4])
        assert path.read_text() == kept


def test_a_field_named_as_the_defaults_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no field 'defaults'"):
        rows.append_row(tmp_path / "rows.jsonl", {"defaults": "x"})
