"""The text of a recipe: YAML of plain settings, in which nothing is given twice and nothing refers to another place."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from astroformer.errors import UserError
from astroformer.files import read_bounded

_MOST = 2**20  # bytes; a recipe that names weights of 20,000 classes has half of it


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a recipe file; none where it is empty.

    Raises:
        UserError: it is no YAML of `setting: value` lines.
        OSError: it can't be read.
    """
    try:
        settings = yaml.load(read_bounded(path, _MOST).decode("utf-8"), Loader=_Loader)
    except UserError:
        raise
    except RecursionError:
        raise UserError(f"recipe '{path}' is no valid YAML: it is nested too deeply.") from None
    except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # Beside YAML's own errors those of Python, where a text only looks like a date or a number.
        raise UserError(f"recipe '{path}' is no valid YAML: {' '.join(str(error).split())}") from None
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise UserError(f"recipe '{path}' holds a {type(settings).__name__}; it should hold `setting: value` lines.")
    for name in settings:
        if not isinstance(name, str):
            raise UserError(f"recipe '{path}' has a setting {name!r}, and the names of settings are words.")
    return settings


class _Loader(yaml.SafeLoader):
    """YAML's safe part without its surprises."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.MarkedYAMLError(
                None, None, f"'*{event.anchor}' refers to another place; write it out", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[str] = set()
        for name, _ in node.value:
            if isinstance(name, yaml.ScalarNode) and name.value in seen:
                raise yaml.MarkedYAMLError(None, None, f"'{name.value}' is given twice", name.start_mark)
            seen.add(str(name.value))
        return super().construct_mapping(node, deep)

    def construct_fraction(self, node: Any) -> float:
        if ":" in node.value:
            raise yaml.MarkedYAMLError(
                None, None, f"'{node.value}' is no plain number; write it in decimal digits", node.start_mark
            )
        return super().construct_yaml_float(node)

    def construct_number(self, node: Any) -> int:
        if len(node.value) > 24:
            raise yaml.MarkedYAMLError(None, None, f"a number has {len(node.value):,} digits", node.start_mark)
        if not re.fullmatch(r"[+-]?(0|[1-9][0-9_]*)", node.value):  # 010 is 8 in YAML, and 1:30 is 90
            raise yaml.MarkedYAMLError(
                None, None, f"'{node.value}' is no plain number; write it in decimal digits", node.start_mark
            )
        return super().construct_yaml_int(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_number)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_fraction)
