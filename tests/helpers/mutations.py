"""Damage of many kinds, drawn by a seed: of bytes, of text, of JSON, of a file's place in its folder."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

DEEP = "[" * 5000 + "]" * 5000
NASTY_TEXT = [
    *("1e999", "9" * 5000, DEEP, '{"a":' * 3000 + "1" + "}" * 3000, "2024-99-99", "-1", "0", "1e308", ".nan", "NaN"),
    *(
        "null",
        "",
        "~",
        "*a",
        "&a [*a, *a]",
        "!!python/object:os.system x",
        "!!binary '*'",
        "0x" + "f" * 6000,
        "1:99:99",
    ),
    *(
        "[1, 2, 3, 1000000]",
        "{}",
        "[]",
        "\ud83d",
        "\x00",
        "\u2028",
        "café",
        "x" * 3000,
        "true",
        "1.5",
        "10000000000000",
    ),
    *("? [a]", "---", "...", "{a: 1, a: 2}", "<<: {a: 1}", "|", "> ", "'", '"', "\\", "%", "@", "`", "\t"),
]
NASTY_VALUES: list[Any] = [
    *(
        None,
        True,
        False,
        -1,
        0,
        1,
        2,
        7,
        2**31,
        2**63,
        10**12,
        1.5,
        1e308,
        -1e-308,
        "",
        "x",
        "x" * 3000,
        "\x00",
        "../x",
    ),
    *([], {}, [1, 2, 3, 1000000], [10**9] * 4, [[]], {"a": {"b": []}}, ["a", "a"], "nan", "1", "café", "cafe\u0301"),
    *([1, 1, 1, 1], [0.5], "CCCC", "TTTT", "d4", "hybrid", "frame", float("nan"), float("inf"), [float("nan")] * 3),
]


def changed_bytes(rng: random.Random, data: bytes) -> bytes:
    """`data` with one damage or a few of them; never `data` itself."""
    made = data
    while made == data:
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            made = _damaged(rng, bytearray(made))
    return made


def _damaged(rng: random.Random, data: bytearray) -> bytes:
    if not data:
        return rng.randbytes(rng.randrange(1, 50))
    # Headers decide more than bodies do.
    end = len(data) if rng.random() < 0.5 else min(len(data), 400)
    at, length = rng.randrange(end), rng.choice((1, 2, 4, 8, 64))
    kind = rng.randrange(9)
    if kind <= 2:
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 3:
        data[at : at + length] = rng.randbytes(len(data[at : at + length]))
    elif kind == 4:
        data[at : at + length] = rng.choice((b"\x00", b"\xff", b"\x7f", b" ")) * len(data[at : at + length])
    elif kind == 5:
        del data[at:]
    elif kind == 6:
        del data[at : at + length]
    elif kind == 7:
        data[at:at] = data[: rng.randrange(1, 200)]
    else:
        data += rng.randbytes(length)
    return bytes(data)


def changed_text(rng: random.Random, text: str) -> str:
    """`text` with a line, a word or a value replaced by what parsers stumble over, or a line that is there twice."""
    lines = text.split("\n")
    at = rng.randrange(len(lines))
    kind = rng.randrange(6)
    if kind == 0:
        lines.insert(at, lines[at])
    elif kind == 1:
        lines[at] = rng.choice(NASTY_TEXT)
    elif kind == 2:
        del lines[at]
    elif kind == 3:
        lines[at] = " " * rng.randrange(9) + lines[at].lstrip()
    else:
        for mark in rng.sample((": ", ",", "- "), 3):
            before, found, _ = lines[at].partition(mark)
            if found:
                lines[at] = before + mark + rng.choice(NASTY_TEXT)
                break
    return "\n".join(lines)


def changed_json(rng: random.Random, text: str) -> str:
    """A JSON object with a word changed, removed, renamed, added or given twice, at any depth."""
    content = json.loads(text)
    places: list[tuple[Any, Any]] = []
    level: list[Any] = [content]
    while level:
        group = level.pop()
        keys = list(group) if isinstance(group, dict) else range(len(group))
        places += [(group, key) for key in keys]
        level += [group[key] for key in keys if isinstance(group[key], dict | list)]
    group, key = rng.choice(places)
    kind = rng.randrange(8)
    if kind == 0:
        del group[key]
    elif kind == 1 and isinstance(group, dict):
        group[f"{key}x"] = group.pop(key)
    elif kind == 2 and isinstance(group, dict):
        group[rng.choice(("new", "", "\x00", str(key).upper()))] = copy.deepcopy(group[key])
    elif kind == 3:
        group[key] = "@HERE@"
        return json.dumps(content).replace('"@HERE@"', rng.choice(NASTY_TEXT))
    elif kind == 4 and isinstance(group[key], int | float) and not isinstance(group[key], bool):
        group[key] = rng.choice((group[key] + 1, -group[key], group[key] * 2, group[key] + 0.5))
    else:
        group[key] = rng.choice(NASTY_VALUES)
    return json.dumps(content)


def change_file(rng: random.Random, file: Path) -> str:
    """Damages a file where it lies, and says how."""
    data = file.read_bytes()
    ways: list[Callable[[], object]] = [
        lambda: file.write_bytes(changed_bytes(rng, data)),
        lambda: file.write_bytes(changed_bytes(rng, data)),
    ]
    if file.suffix in (".json", ".yaml", ".csv", ".md"):
        ways.append(lambda: file.write_bytes(changed_text(rng, data.decode()).encode(errors="surrogatepass")))
    if file.suffix == ".json":
        ways += [lambda: file.write_bytes(changed_json(rng, data.decode()).encode(errors="surrogatepass"))] * 4
    if rng.random() < 0.1:
        ways = [lambda: replace_file(rng, file)]
    number = rng.randrange(len(ways))
    ways[number]()
    return f"{file.name}, way {number} of {len(ways)}"


def replace_file(rng: random.Random, file: Path) -> None:
    """Puts nothing, or something that is no file, in the place of a file."""
    file.unlink()
    kind = rng.randrange(5)
    if kind == 0:
        file.mkdir()
    elif kind == 1:
        file.symlink_to(file.name)
    elif kind == 2:
        os.mkfifo(file)
    elif kind == 3:
        file.symlink_to("/dev/zero")


def fresh_copy(folder: Path, to: Path) -> Path:
    """A copy of a folder in the place of an earlier one."""
    if to.is_dir() and not to.is_symlink():
        shutil.rmtree(to)
    shutil.copytree(folder, to)
    return to
