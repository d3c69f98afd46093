"""`astroformer info`."""

from __future__ import annotations

import csv
import json
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from typing_extensions import Doc

from astroformer.cli.common import Debug, first_imports, tell_beside
from astroformer.cli.options import PLACE
from astroformer.errors import UserError, unknown_name
from astroformer.summaries import metric_text, percent

_NAMED = 30  # classes that are named one by one
_KEPT = "\xa0"  # a space at which a line is not broken


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
    json: Annotated[bool, Doc("print JSON: all there is to know")] = False
    verbose: Annotated[bool, Doc("print every setting of a model")] = False
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
            from astroformer.kept_graphs import kept_graphs
            from astroformer.model_folder import ModelFolder
            from astroformer.network import VARIANTS, Answers, Astroformer, Ensemble
            from astroformer.network.answers import answers_of
            from astroformer.network.counting import describe

        size = None if self.image_size is None else (self.image_size, self.image_size)
        rows: list[dict[str, Any]]
        if self.model is None or self.model in VARIANTS:
            names = list(VARIANTS) if self.model is None else [self.model]
            rows = [describe(name, size=size, num_classes=self.num_classes) for name in names]
        elif Path(self.model).exists():
            classifier, folder = load(self.model, runtime="torch", say=tell_beside), ModelFolder.find(self.model)
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
                    "exports": [str(graph) for graph in kept_graphs(folder, folder.config())],
                    **{k: v for k, v in classifier.info.to_dict().items() if k not in ("name", "parameters")},
                }
            ]
        else:
            raise unknown_name("model folder or variant", self.model, VARIANTS)
        if self.json:
            print(json.dumps(rows if len(rows) > 1 else rows[0], indent=2))
        elif self.model is not None and self.model not in VARIANTS and not self.verbose:
            print("\n".join(_screen(Path(self.model), rows[0])))
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
        extra = given - {flag, "json", "verbose", "debug"}
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
        print(f"{'name':<17}{'images':<40}{'classes':>7}{'MB':>7}   licence")
        for row in rows:
            images = ", ".join(f"{name} {n:,}" for name, n in row["images"].items())
            print(f"{row['name']:<17}{images:<40}{row['classes']:>7}{row['bytes'] / 1e6:>7,.0f}   {row['licence']}")

    def _tell_system(self, given: set[str]) -> None:
        self._alone(given, "system", "describes this machine")
        with first_imports():
            from astroformer.system import describe_system

        row = describe_system()
        print(json.dumps(row, indent=2) if self.json else "\n".join(_lines(row)))


def _screen(path: Path, described: dict[str, Any]) -> list[str]:
    """What a person wants to know of a model, in 80 columns: from what, how good, of which images, how large.

    Args:
        path: of the model folder, or of the run folder that holds it.
        described: the network, as `describe` has it.
    """
    from astroformer.evaluation.scores import metric_lines
    from astroformer.model_card import invariance
    from astroformer.model_folder import ModelFolder

    folder = ModelFolder.find(path)
    config = folder.config()
    record, preprocessing = config.record, config.input
    lines = _paragraph("model", f"{folder.path}: an image becomes one of {len(config.classes)} classes")
    lines += _paragraph("trained on", record.training or "not recorded")
    lines += _paragraph("classes", _classes(config.classes, _trained_images(folder.path, config.classes)))
    if record.metrics is None:
        lines += _paragraph("validation", "not measured; `astroformer evaluate` does")
    else:
        lines += _paragraph("validation", f"{record.metrics.n:,} images, {record.validation or 'held out'}")
        lines += [f"{'':<14}{line}" for line in metric_lines(record.metrics.intervals)]
    lines += _paragraph("probabilities", str(config.trust))
    height, width = preprocessing.image_size
    bands = {1: "grey", 3: "RGB"}.get(preprocessing.channels, f"{preprocessing.channels} bands")
    if preprocessing.bands is not None:
        bands = f"{'bands' if len(preprocessing.bands) > 1 else 'band'} {preprocessing.bands}"
    units = "" if preprocessing.units is None else f", {preprocessing.units}"
    shape = {"crop": "cut to a frame of", "pad": "laid into a frame of", "stretch": "stretched to"}[preprocessing.fit]
    crop = "all" if preprocessing.crop == 1 else f"the central {percent(preprocessing.crop, 0)} of each side"
    lines += _paragraph("images", f"{bands}{units}; {crop}, {shape} {_KEPT.join((str(height), '×', str(width), 'px'))}")
    size = f"{_large(described['parameters'])} parameters, {_large(described['macs'])} multiply-adds an image"
    members = f"{config.members} networks, " if config.members > 1 else ""
    layout = "-".join(config.network.layout)
    lines += _paragraph("network", f"{members}{record.name or 'Astroformer'}, {layout}, {size}")
    lines += _paragraph("unchanged by", invariance(config))
    files = [f"{file.name} {file.stat().st_size / 1e6:.1f}{_KEPT}MB" if file.stat().st_size >= 50_000 else file.name
             for file in sorted(folder.path.iterdir()) if file.is_file() and not file.name.startswith(".")]  # fmt: skip
    if described["exports"]:
        lines += _paragraph("exports", "; ".join(described["exports"]))
    made = config.versions.get("astroformer")
    lines += _paragraph("files", f"{', '.join(files)}; format {config.format}{f', astroformer {made}' if made else ''}")
    return [*lines, "", "--verbose prints every setting, --json the same for a program"]


def _paragraph(title: str, text: str) -> list[str]:
    lines = textwrap.wrap(f"{title:<14}{text}", 80, subsequent_indent=" " * 14, break_on_hyphens=False)
    return [line.replace(_KEPT, " ") for line in lines]


def _large(number: int) -> str:
    """`492018` → "492 k"."""
    unit, name = next((unit, name) for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1, "")) if number >= unit)
    return f"{number / unit:.3g}{_KEPT}{name}"


def _classes(classes: Sequence[str], images: Mapping[str, int]) -> str:
    """The classes with the number of images of each that were trained on, where that is known; of many the first."""
    each = set(images.values())
    counts = "" if not images else f", {each.pop():,} images each" if len(each) == 1 else " with the images of each"
    uneven = bool(counts) and len(set(images.values())) > 1
    named = [f"{name}{_KEPT}{images[name]:,}" if uneven else name for name in classes[:_NAMED]]
    more = f" and {len(classes) - _NAMED} more" if len(classes) > _NAMED else ""
    return f"{len(classes)}{counts}: {', '.join(named)}{more}"


def _trained_images(folder: Path, classes: Sequence[str]) -> dict[str, int]:
    """How many images of each class a model was trained on, by the split in the run folder that it lies in; nothing
    where it lies elsewhere. Members of an ensemble share their split."""
    splits = [folder.parent / "splits" / "train.csv", *sorted(folder.parent.glob("seed-*/splits/train.csv"))]
    split = next((file for file in splits if file.is_file()), None)
    if split is None:
        return {}
    try:
        with split.open(newline="", encoding="utf-8") as stream:
            labels = Counter(row.get("label") for row in csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        tell_beside(f"'{split}' can't be read ({error}), so the number of images of each class is not known")
        return {}
    return {name: labels[name] for name in classes} if set(labels) <= set(classes) else {}


def _lines(row: dict[str, Any], indent: str = "") -> list[str]:
    """A description as aligned lines; groups are indented, a measured value stands with its interval or deviation."""
    lines = []
    for key, value in row.items():
        head = f"{indent + key:<20} "
        if isinstance(value, dict) and value.keys() == {"value", "low", "high"}:
            shown, low, high = (metric_text(key, value[word]) for word in ("value", "low", "high"))
            lines.append(f"{head}{shown} (95 % interval {low} to {high})")
        elif isinstance(value, dict) and value.keys() == {"mean", "sd", "n"}:
            mean, sd = (metric_text(key, value[word]) for word in ("mean", "sd"))
            lines.append(f"{head}{mean} ± {sd} (mean ± sd, n = {value['n']})")
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
