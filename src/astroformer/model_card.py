"""The model card: the README of a model folder, in Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from astroformer.network.config import GROUPS
from astroformer.summaries import metric_text

if TYPE_CHECKING:
    from astroformer.model_config import ModelConfig


def model_card(config: ModelConfig) -> str:
    """The model folder's README in Markdown, with the front matter that model hubs read."""
    record, members = config.record, config.members
    intervals = record.metrics.intervals if record.metrics else {}
    rows = "\n".join(
        f"| {name} | {metric_text(name, m.value)} | {metric_text(name, m.low)} – {metric_text(name, m.high)} |"
        for name, m in intervals.items()
    )
    measured = "Not evaluated.\n"
    if record.metrics:
        measured = (
            f"Measured on {record.metrics.n} validation images ({record.validation or 'hold-out'}):\n\n"
            f"| metric | value | 95 % interval |\n|---|---|---|\n{rows}\n"
        )
    if record.metrics and record.member_metrics:
        measured += (
            "\nSingle members on the same images (mean ± standard deviation):\n\n| metric | a member |\n|---|---|\n"
        )
        spreads = {name: m for name, m in record.member_metrics.items() if m.sd is not None}
        measured += "".join(
            f"| {name} | {metric_text(name, m.mean)} ± {metric_text(name, m.sd or 0.0)} |\n"
            for name, m in spreads.items()
        )
    height, width = config.input.image_size
    pixels = "" if config.input.units is None else f" of {config.input.units}"
    values = ""
    if (bands := config.input.bands) is not None:
        values += f"- Bands, in this order: {bands}.\n"
    if (scaling := config.input.described()) is not None:
        values += f"- Values: {scaling}. These limits were measured on the training images.\n"
    if config.input.missing != "refuse":
        filled = {"median": "the median of their band in the image", "zero": "0"}[config.input.missing]
        values += f"- Pixels without a value (NaN) are filled with {filled}.\n"
    layout, channels = "-".join(config.network.layout), config.network.in_chans
    parameters = "?" if record.parameters is None else f"{record.parameters:,}"
    what = (
        f"An Astroformer (arXiv 2304.05350), vertical layout {layout}, {parameters} parameters,"
        if members == 1
        else f"An ensemble of {members} Astroformers (arXiv 2304.05350), vertical layout {layout}, "
        f"{parameters} parameters in all;\nits probabilities are the mean of theirs "
        "(arXiv 1612.01474),"
    )
    return f"""---
library_name: astroformer
pipeline_tag: image-classification
tags: [astroformer, image-classification, from-scratch]
---
# {record.name or "Astroformer"}: {len(config.classes)} classes

{what}
trained from scratch with astroformer {config.versions["astroformer"]}.

- Input: {channels} channel(s){pixels}, {height} × {width} px; the central {config.input.crop:.0%} of the frame is used.
{values}- Classes: {", ".join(config.classes)}.
- Trained on: {record.training or "not recorded"}.
- Probabilities: {config.trust}.
- Unchanged by: {invariance(config)}.

{measured}
## Use
```python
import astroformer

model = astroformer.load("path/of/this/folder")
predictions = model.predict(["image.jpg"])
print(predictions.names, predictions.confidence_N)
```

## Limits
The probabilities speak of images drawn like the training set: same instrument, preprocessing and mix of classes.
An image of anything else is still given one of the classes above.
"""


def invariance(config: ModelConfig) -> str:
    """What leaves the answers unchanged, in words."""
    words: dict[str, list[str]] = {"mirror": ["left-right flips"], "d4": ["quarter turns and flips"], "none": []}
    network, answers = config.network, config.answers
    averaged = answers.symmetry.removeprefix("shift").removeprefix("+") or "none"
    own = answers.exact_group(network, config.input.image_size)
    found = ["circular shifts by whole pixels"] * (answers.frame or network.equivariance != "none")
    found += words[max(own, averaged, key=lambda group: len(GROUPS[group]))]
    return " and ".join(found) or "nothing; a shift by a pixel may change a class (`astroformer symmetry` measures it)"
