"""What several test files share: one thread, a cache of their own, a tiny set of images, a tiny model."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from astroformer import drawing
from astroformer.classifier import Classifier
from astroformer.cli.main import main
from astroformer.images.preprocessing import Preprocessing
from astroformer.images.sets.mock_galaxies import CLASSES, mock_galaxies
from astroformer.metrics import score
from astroformer.model_config import ModelRecord, ValidationScores
from astroformer.native import kept
from astroformer.network import create_network
from helpers.command_line import Run, Said

torch.set_num_threads(1)  # tests run side by side, one process a core
gc.set_threshold(50_000, 20, 50)  # torch's traces are many small objects, and looking through them often takes long


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Path]:
    """Decoded images of the tests stay out of the user's cache.

    Kernels that tests have built before are there, which takes half a minute: their names say what they were built of.
    """
    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp("cache")
        patch.setenv("ASTROFORMER_CACHE", str(cache))
        built = pytestconfig.rootpath / ".pytest_cache" / "native"
        kept.make_private(cache / "native")
        for file in built.glob("*.so"):
            shutil.copy2(file, cache / "native")
        yield cache
        kept.make_private(built)
        for file in (cache / "native").glob("*.so"):
            if not (built / file.name).exists():
                shutil.copy2(file, part := built / f"{file.name}.{os.getpid()}")
                part.replace(built / file.name)


FINE = drawing.DPI  # of the pictures that users get


@pytest.fixture(scope="session", autouse=True)
def coarse_pictures() -> Iterator[None]:
    """Hundreds are drawn, a quarter of the time; tests that look at their pixels ask for `fine_pictures`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "DPI", 60)
        yield


@pytest.fixture
def fine_pictures(coarse_pictures: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As users get them."""
    monkeypatch.setattr(drawing, "DPI", FINE)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "90")

    def call(*words: str | Path) -> Said:
        status = main([str(word) for word in words])
        said = capsys.readouterr()
        return Said(status, said.out, said.err)

    return call


@pytest.fixture(scope="session")
def galaxy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of three 40 px PNGs each. Read only."""
    root = tmp_path_factory.mktemp("galaxies")
    images, labels = mock_galaxies(30, size=40, seed=5)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = root / CLASSES[label]
        folder.mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / f"{i:02d}.png")
    return root


@pytest.fixture
def classifier() -> Classifier:
    """An untrained network whose answers differ clearly from image to image."""
    torch.manual_seed(0)
    network = create_network("astroformer_atto", num_classes=10, in_chans=3, img_size=32)
    rng = np.random.default_rng(0)
    measured = score(rng.integers(0, 10, 50), rng.dirichlet(np.ones(10), 50), CLASSES)
    info = ModelRecord(name="astroformer_atto", training="nothing", metrics=ValidationScores.of(measured))
    preprocessing = Preprocessing((32, 32), 3, crop=0.9, mean=(0.08, 0.07, 0.06), std=(0.1, 0.1, 0.1))
    made = Classifier(network.eval(), preprocessing, CLASSES, info)
    # An untrained head answers nearly the same to everything: centre its answers and spread them.
    images, _ = mock_galaxies(30, size=32, seed=6)
    logits_NK = torch.from_numpy(np.log(made.probabilities(images.transpose(0, 3, 1, 2)))).float()
    weight_KC, bias_K = list(network.parameters())[-2:]
    with torch.no_grad():
        bias_K -= logits_NK.mean(0)
        spread = 1.0 / (logits_NK - logits_NK.mean(0)).std()
        weight_KC *= spread
        bias_K *= spread
    return made


@pytest.fixture
def model_folder(classifier: Classifier, tmp_path: Path) -> Path:
    """A model folder that a test may damage."""
    return classifier.save(tmp_path / "model")
