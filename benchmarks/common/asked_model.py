"""A model of a variant with weights that were drawn, and files to ask it about, for ours and for timm alike."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from astroformer.classifier import Classifier
from astroformer.images import Preprocessing
from astroformer.network import create_network
from astroformer.weights import to_maxxvit
from common.turns import python

ASTROFORMER = [sys.executable, "-c", "import sys; from astroformer.cli.main import main; sys.exit(main())"]
"""The command line, as a process."""


def make_model(folder: Path, variant: str, size: int, classes: int) -> Classifier:
    """`model/`, a model folder without calibration and views, and `weights.pt`, the same for timm's network.

    Its answer is always the first class.
    """
    torch.manual_seed(0)
    network = create_network(variant, num_classes=classes, img_size=size).eval()
    with torch.no_grad():
        network.get_classifier().bias[0] += 5  # type: ignore[operator, index]
    torch.save(to_maxxvit(network.state_dict(), network.config), folder / "weights.pt")
    preprocessing = Preprocessing((size, size), 3, crop=0.875, mean=(0.5,) * 3, std=(0.25,) * 3)
    classifier = Classifier(network, preprocessing, tuple(f"class {k}" for k in range(classes)))
    classifier.save(folder / "model")
    return classifier


def link_files(folder: Path, data: Path, every: int) -> int:
    """`images/` with links to every so many-th file of DATA/train and DATA/valid; their number."""
    (folder / "images").mkdir()
    files = sorted(file for part in ("train", "valid") for file in (data / part).rglob("*") if file.is_file())[::every]
    for i, file in enumerate(files):
        (folder / "images" / f"{i:05d}{file.suffix}").symlink_to(file.resolve())
    return len(files)


def timm_predicts(folder: Path, variant: str, size: int, classes: int, workers: int, out: Path) -> list[str]:
    """The command by which timm answers about these files."""
    words = ["--variant", variant, "--size", size, "--classes", classes, "--workers", workers]
    # inference.py's own batch is 256 images; 64 spare the reference tens of GB at 224 px (an estimate).
    rest = ["--batch", 64, "--weights", folder / "weights.pt", "--out", out]
    return python("timm_reference.py", "predict", folder / "images", *words, *rest)
