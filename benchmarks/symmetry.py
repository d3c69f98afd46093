"""How far networks hold still when a galaxy moves: ours plain and equivariant, and timm's, trained alike.

    python benchmarks/symmetry.py ../shared/data/galaxy-zoo2
    python benchmarks/symmetry.py --table                       # and the picture docs/images/consistency.png
    python benchmarks/symmetry.py ../shared/data/galaxy-zoo2 --margins

Every network trains for the same epochs in the same loop from the same decoded images, which is few for most of them:
what is compared is how their answers change, not how good they become. `measure_symmetry` then asks about validation
galaxies. Rows that only ask trained weights in another way (`frame`, `Canonicalize`, views) train nothing. One row a
network is appended to `results/symmetry.jsonl`; rows that are there are not measured again. `--margins` prints how
far the best phase is ahead of the second, by the score of `network/phases.py` and by the norm of the phases.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from astroformer.cache import default_cache
from astroformer.drawing import DPI, PAGE, looks, new_figure, style
from astroformer.evaluation.symmetry import SymmetrySettings, measure_symmetry
from astroformer.evaluation.symmetry.measured import MeasuredImages, MeasuredNetwork, read_images
from astroformer.images import ImageStore, open_source
from astroformer.network import Answers, AnswersConfig
from astroformer.network.framing import FRAME_IMAGES, Canonicalize
from astroformer.network.phases import phase_score
from astroformer.training.recipe import NetworkSettings, Recipe
from common.first_defaults import FIRST_DEFAULTS
from common.peers import PLAIN
from common.rows import RESULTS
from common.training import Trained, trained

OUT = RESULTS / "symmetry.jsonl"
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "consistency.png"
PEER: dict[str, Any] = {
    "progressive": 0.0,
    "learning_rate": 1e-3,
    **PLAIN,
}  # they take one size; the usual rate for them
# A name that `common/peers.py` knows, words of its recipe, and ways to ask its weights.
NETWORKS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "astroformer, plain": ("astroformer", {}, ("as it is", "frame", "frame, shift+d4")),
    "astroformer, anchor": (
        "astroformer",
        {"network": NetworkSettings(equivariance="anchor")},
        ("as it is", "shift+d4"),
    ),
    "astroformer, input": ("astroformer", {"network": NetworkSettings(equivariance="input")}, ("as it is",)),
    "astroformer, centre": ("astroformer", {"network": NetworkSettings(equivariance="centre")}, ("as it is",)),
    "timm C-C-T-T": ("timm C-C-T-T", {"progressive": 0.0, **PLAIN}, ("as it is",)),
    "timm ResNet-18": ("timm ResNet-18", PEER, ("as it is", "Canonicalize")),
    "timm ConvNeXt-atto": ("timm ConvNeXt-atto", PEER, ("as it is",)),
    "timm ViT-tiny": ("timm ViT-tiny", PEER, ("as it is",)),
    "timm XCiT-nano": ("timm XCiT-nano", PEER, ("as it is",)),
}


def rows() -> list[dict[str, Any]]:
    """In the order of `NETWORKS`, whenever they were made."""
    text = OUT.read_text(encoding="utf-8") if OUT.exists() else ""
    order = list(NETWORKS)
    return sorted((json.loads(line) for line in text.splitlines()), key=lambda row: order.index(row["network"]))


def asked(network: nn.Module, way: str, images_NCHW: torch.Tensor) -> nn.Module:
    """The network, or another one around the same weights, which learns from images where their frame begins."""
    if way == "Canonicalize":
        return Canonicalize(network, images_NCHW)
    symmetry = "shift+d4" if way.endswith("shift+d4") else "shift"
    asked = Answers.around(copy.deepcopy(network), AnswersConfig(frame=way.startswith("frame"), symmetry=symmetry))
    if isinstance(asked, Answers) and asked.frame is not None:
        asked.frame.fit(images_NCHW)
    return asked


def trained_on(data: Path, model: str, recipe: Recipe) -> Trained:
    """Trains once on `data`/train, with `data`/valid to be measured on."""
    train = open_source(data / "train")
    return trained(model, recipe, train, open_source(data / "valid", classes=train.classes))


def inputs_of(made: Trained, name: str, data: Path, images: int) -> MeasuredImages:
    classifier = made.classifier
    subject = MeasuredNetwork(name, classifier.network, "trained", classifier.preprocessing, classifier.classes)
    return read_images(subject, str(data / "valid"), images=images)


def measure(name: str, data: Path, epochs: int, images: int) -> list[dict[str, Any]]:
    """Trains a network, and measures it in each way that it is asked."""
    model, words, ways = NETWORKS[name]
    made = trained_on(data, model, Recipe(epochs=epochs, evaluations=1, **{**FIRST_DEFAULTS, **words}))
    inputs = inputs_of(made, name, data, images)
    preprocessing = made.classifier.preprocessing
    store = ImageStore.build(open_source(data / "train"), preprocessing, cache=default_cache())
    some = np.unique(np.linspace(0, len(store) - 1, FRAME_IMAGES).astype(int))
    learned_from = preprocessing.normalize(torch.from_numpy(store.take(some)))
    found = []
    for way in ways:
        report = measure_symmetry(
            asked(made.classifier.network, way, learned_from),
            inputs.images_NCHW,
            inputs.labels_N,
            frames_NCHW=inputs.frames_NCHW,
            settings=SymmetrySettings(rotations=2),
        )
        found.append({"network": name, "way": way, **made.row, "report": report.to_dict()})
    return found


def table() -> str:
    lines = [
        "| network | M parameters | accuracy | under circular shifts | worst of 16 | C-Cons | S-Cons "
        "| largest change of a logit, in sd | same class after a quarter turn |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows():
        report = row["report"]
        shares = [report["accuracy"][key]["value"] for key in ("plain", "shifted", "worst")]
        shares += [report[key]["value"] for key in ("c_cons", "s_cons")]
        name = row["network"] + ("" if row["way"] == "as it is" else f", {row['way']}")
        turned = report["changes"]["quarter turns"]["consistency"]["value"]
        lines.append(
            f"| {name} | {row['parameters'] / 1e6:.2f} | {' | '.join(f'{100 * share:.2f}' for share in shares)} "
            f"| {report['changes']['circular shifts']['relative']:.2g} | {100 * turned:.2f} |"
        )
    return "\n".join(lines)


@style()
def draw() -> None:
    """Consistency against the distance of a circular shift: a line a network, and one for all that lose no galaxy."""
    figure = new_figure(PAGE, 8.5)
    axes = figure.subplots()
    lines: dict[tuple[float, ...], list[str]] = {}
    places: list[int] = []
    for row in rows():
        if row["way"] in ("as it is", "frame"):
            distance = row["report"]["distance"]
            places = [int(px) for px in distance]
            name = row["network"] if row["way"] == "as it is" else row["way"]
            lines.setdefault(tuple(100 * share["value"] for share in distance.values()), []).append(name)
    for look, (shares, names) in zip(looks(len(lines)), lines.items(), strict=True):
        ours = len(names) > 1 or names[0].startswith("astroformer")
        label = names[0] if len(names) == 1 else "astroformer, " + ", ".join(n.split(", ")[-1] for n in names)
        axes.plot(places, shares, label=label, **look._asdict(), linewidth=1.8 if ours else 1)
    axes.set_xlabel("circular shift along one axis, px")
    axes.set_ylabel("galaxies that keep their class, %")
    axes.grid()
    figure.legend(loc="outside lower center", ncols=3)
    figure.savefig(PICTURE, dpi=DPI)


def margins(data: Path) -> str:
    """Best phase minus second, over the sum of all: least and median over galaxies, and over mirror-symmetric ones."""
    images_NCHW = inputs_of(trained_on(data, "astroformer", Recipe(epochs=1)), "margins", data, 256).images_NCHW
    kinds = {"galaxies": images_NCHW, "mirror-symmetric galaxies": (images_NCHW + images_NCHW.flip(3)) / 2}
    scores = {"score": lambda x: phase_score(x).double(), "norm": lambda x: x.double().square().sum(1)}
    lines = ["| images | phases a side | chosen by | least margin | median margin |", "|---|---|---|---|---|"]
    for kind, x_NCHW in kinds.items():
        for period in (2, 8):
            for name, score in scores.items():
                s_NHW = score(x_NCHW)
                n, height, width = s_NHW.shape
                s_NP = s_NHW.view(n, height // period, period, width // period, period).sum((1, 3)).flatten(1)
                best_N2 = s_NP.topk(2).values
                margin_N = ((best_N2[:, 0] - best_N2[:, 1]) / s_NP.sum(1)).numpy()
                lines.append(f"| {kind} | {period} | {name} | {margin_N.min():.1g} | {np.median(margin_N):.1g} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", help="folder with train/ and valid/ of class folders")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--images", type=int, default=256, help="validation galaxies to measure on")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--margins", action="store_true")
    parser.add_argument("--table", action="store_true", help="only print the table of the rows that are there")
    arguments = parser.parse_args()
    if arguments.margins:
        print(margins(arguments.data))
        return
    if arguments.data is not None and not arguments.table:
        torch.set_num_threads(1)
        done = {row["network"] for row in rows()}
        for name in arguments.networks:
            if name not in done:
                found = measure(name, arguments.data, arguments.epochs, arguments.images)
                with OUT.open("a", encoding="utf-8") as stream:
                    stream.writelines(json.dumps(row) + "\n" for row in found)
    draw()
    print(table())


if __name__ == "__main__":
    main()
