"""`astroformer info`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from typing_extensions import Doc

from astroformer.cli.common import Debug, first_imports, tell_beside
from astroformer.cli.options import PLACE
from astroformer.errors import UserError, unknown_name


@dataclass
class Info:
    """Describe a MODEL folder or a variant by name (layers, parameters, multiply-accumulates), or this machine."""

    model: Annotated[str | None, PLACE, Doc("model folder or variant; without it a table of all variants")] = None
    image_size: Annotated[int | None, Doc("side in px to count multiply-accumulates at")] = None
    num_classes: Annotated[int, Doc("classes of a variant's head")] = 10
    system: Annotated[
        bool,
        Doc("describe this machine instead: processor, measured speed, native kernels, CUDA devices"),
    ] = False
    data: Annotated[bool, Doc("list the published data sets that are known by name")] = False
    json: Annotated[bool, Doc("print JSON")] = False
    debug: Debug = False

    def run(self, given: set[str]) -> None:
        if self.system:
            self._tell_system(given)
            return
        if self.data:
            self._tell_data(given)
            return
        with first_imports():
            from astroformer.classifier import load
            from astroformer.network import VARIANTS, Answers, Astroformer, Ensemble
            from astroformer.network.answers import answers_of
            from astroformer.network.counting import describe

        size = None if self.image_size is None else (self.image_size, self.image_size)
        rows: list[dict[str, Any]]
        if self.model is None or self.model in VARIANTS:
            names = list(VARIANTS) if self.model is None else [self.model]
            rows = [describe(name, size=size, num_classes=self.num_classes) for name in names]
        elif Path(self.model).exists():
            classifier = load(self.model, say=tell_beside)
            network = classifier.network
            assert isinstance(network, Astroformer | Answers | Ensemble)
            name, answers = classifier.info.name or "model", answers_of(network)
            described = describe(name, config=network.config, answers=answers, size=size)
            if isinstance(network, Ensemble):
                described["members"] = members = len(network.members)
                described |= {name: members * described[name] for name in ("parameters", "macs")}
            rows = [
                {
                    **described,
                    "classes": list(classifier.classes),
                    "preprocessing": classifier.preprocessing.to_dict(),
                    **{k: v for k, v in classifier.info.to_dict().items() if k not in ("name", "parameters")},
                }
            ]
        else:
            raise unknown_name("model folder or variant", self.model, VARIANTS)
        if self.json:
            print(json.dumps(rows if len(rows) > 1 else rows[0], indent=2))
        elif self.model is None:
            print(f"{'variant':<18}{'layout':>7}{'size':>6}{'params M':>10}{'GMAC':>9}   widths, depths")
            for row in rows:
                print(
                    f"{row['name']:<18}{row['layout']:>7}{row['image_size'][0]:>6}{row['parameters'] / 1e6:>10.2f}"
                    f"{row['macs'] / 1e9:>9.3f}   {row['widths']}, {row['depths']}"
                )
        else:
            for line in _lines(rows[0]):
                print(line)

    def _alone(self, given: set[str], flag: str, does: str) -> None:
        extra = given - {flag, "json", "debug"}
        if self.model is not None or extra:
            what = f"'{self.model}'" if self.model is not None else f"--{min(extra)}"
            raise UserError(f"--{flag} {does}; leave out {what}.")

    def _tell_data(self, given: set[str]) -> None:
        self._alone(given, "data", "lists the published data sets")
        from astroformer.images.sets import NAMED_SETS

        rows = [declared.to_dict() for declared in NAMED_SETS.values()]
        if self.json:
            print(json.dumps(rows, indent=2))
            return
        print(f"{'name':<17}{'images':<29}{'classes':>7}{'MB':>7}   licence")
        for row in rows:
            images = ", ".join(f"{name} {n:,}" for name, n in row["images"].items())
            print(f"{row['name']:<17}{images:<29}{row['classes']:>7}{row['bytes'] / 1e6:>7,.0f}   {row['licence']}")

    def _tell_system(self, given: set[str]) -> None:
        self._alone(given, "system", "describes this machine")
        with first_imports():
            from astroformer.system import describe_system

        row = describe_system()
        print(json.dumps(row, indent=2) if self.json else "\n".join(_lines(row)))


def _lines(row: dict[str, Any], indent: str = "") -> list[str]:
    """A description as aligned lines; groups are indented, a measured value stands with its interval or deviation."""
    lines = []
    for key, value in row.items():
        head = f"{indent + key:<20} "
        if isinstance(value, dict) and value.keys() == {"value", "low", "high"}:
            lines.append(f"{head}{value['value']:.4f} (95 % interval {value['low']:.4f} to {value['high']:.4f})")
        elif isinstance(value, dict) and value.keys() == {"mean", "sd", "n"}:
            lines.append(f"{head}{value['mean']:.4f} ± {value['sd']:.4f} (mean ± sd, n = {value['n']})")
        elif isinstance(value, dict):
            lines += [head.rstrip(), *_lines(value, indent + "  ")]
        elif isinstance(value, list):
            words = (f"{v:.4g}" if isinstance(v, float) else "×".join(map(str, v)) if isinstance(v, list) else str(v)
                     for v in value)  # fmt: skip
            lines.append(head + ", ".join(words))
        elif isinstance(value, int) and not isinstance(value, bool):
            lines.append(f"{head}{value:,}")
        else:
            lines.append(f"{head}{'-' if value is None else value}")
    return lines
