"""Makes the folders beside this file, which a version before 0.2 wrote: a model folder of format 1 and a stopped run.

    git worktree add --detach /tmp/before e66d2f1
    PYTHONPATH=/tmp/before/src python tests/old_folders/make.py
    git worktree remove /tmp/before

They are test data and are made once; `tests/test_old_folders.py` reads them. Both networks are tiny, know where the
frame of an image begins, and average their answers over turned and mirrored views. The images are kept too, since
another processor may render others. Paths of the machine are replaced by `@HERE@` and `@CACHE@`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import tempfile
from pathlib import Path

import numpy as np
import torch
from astroformer.images.mock_galaxies import mock_galaxies

import astroformer
from astroformer.training.loop import Interrupted
from astroformer.training.recipe import make_recipe

HERE = Path(__file__).parent
SETTINGS = {
    "model": "astroformer_atto",
    "network": {
        "widths": [8, 8, 8, 8],
        "depths": [1, 1, 1, 1],
        "layout": "CCCC",
        "channel_attention": "none",
        "equivariance": "frame",
        "symmetry": "shift+d4",
        "group": "none",
    },
    "image_size": 32,
    "crop": 1.0,
    "channels": 1,
    "storage": "uint8",
    "batch_size": 6,
    "epochs": 4,
    "evaluations": 4,
    "device": "cpu",
    "precision": "no",
    "speed": "plain",
}


class StopsAfter:
    """Stands for a `Reporter`; asks the run to stop, as Ctrl-C does, when it has shown so many steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def training(self, **shown: object) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)

    def __getattr__(self, name: str) -> object:
        return lambda *_, **__: None


def main() -> None:
    torch.set_num_threads(1)
    images, labels = mock_galaxies(16, size=32, seed=3)
    grey = images.mean(3, keepdims=True).astype(np.uint8)
    np.savez_compressed(HERE / "images.npz", images=grey, labels=labels % 2, classes=np.array(["even", "odd"]))
    recipe = make_recipe(SETTINGS)
    with tempfile.TemporaryDirectory() as scratch:
        cache = Path(scratch) / "cache"
        whole = astroformer.train(HERE / "images.npz", recipe, out=Path(scratch) / "whole", cache=cache)
        stopped = Path(scratch) / "run"
        with contextlib.suppress(Interrupted):
            astroformer.train(HERE / "images.npz", recipe, out=stopped, cache=cache, reporter=StopsAfter(5))
        for name, made in (("model", whole.model), ("run", stopped)):
            shutil.rmtree(HERE / name, ignore_errors=True)
            shutil.copytree(made, HERE / name)
    record = json.loads((HERE / "run" / "run.json").read_text())
    record |= {"source": "@HERE@/images.npz", "cache": "@CACHE@", "command": [], "platform": ""}
    (HERE / "run" / "run.json").write_text(json.dumps(record, indent=2) + "\n")
    model = astroformer.load(HERE / "model")
    expected = {
        "probabilities": model.predict(str(HERE / "images.npz")).probabilities_NK.tolist(),
        "frame": model.network.frame.weights_2K.tolist(),
    }
    (HERE / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
