"""What a report costs beyond asking the model: seconds and bytes, of 3,000 JPEG images of 10 classes.

    python benchmarks/report_cost.py            # about three minutes on two cores

The images are mock galaxies of 128 × 128 px with noise, which neither JPEG nor WebP can make small. A model is trained
on others for a few epochs, so that it keeps calibration images. Then it is evaluated on the 3,000 images, and reported
on: without shifts and turns, as by default, and with figures for papers. `beyond` is what a report takes more than the
evaluation. `results/report_cost.json` keeps all. The promise is 30 seconds and 15 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import astroformer
from astroformer.images.sets.mock_galaxies import CLASSES, mock_galaxies
from common.machine import code_version, processor
from common.rows import RESULTS

OUT = RESULTS / "report_cost.json"
SIDE = 128
NOISE = 60  # standard deviation, grey values
SECONDS, MEGABYTES = 30, 15  # what is promised


def write_images(folder: Path, n: int) -> Path:
    """n JPEG files in a folder for each class."""
    rng = np.random.default_rng(0)
    pixels, labels = mock_galaxies(n, size=SIDE, seed=1)
    for i, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        place = folder / CLASSES[label]
        place.mkdir(parents=True, exist_ok=True)
        noisy = np.clip(image + rng.normal(0, NOISE, image.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(place / f"{i:05d}.jpg", quality=92)
    return folder


def timed(work: Callable[[], Any]) -> dict[str, float]:
    """Seconds of the clock and of the processor."""
    clock, cores = time.perf_counter(), time.process_time()
    work()
    return {
        "seconds": round(time.perf_counter() - clock, 2),
        "processor_seconds": round(time.process_time() - cores, 2),
    }


def measured(n: int, epochs: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        source = write_images(root / "images", n)
        recipe = astroformer.Recipe(epochs=epochs, device="cpu")
        trained = astroformer.train("mock-galaxies:600x64", recipe, out=root / "run", quiet=True)
        model = astroformer.load(trained.model)
        model.predict(str(source / CLASSES[0]), quiet=True)  # kernels are built, and the files are in memory
        found: dict[str, Any] = {"asking": timed(partial(model.evaluate, source, quiet=True))}
        reports: dict[str, dict[str, Any]] = {
            "plain": {"symmetry_images": 0},
            "default": {},
            "figures": {"symmetry_images": 0, "figures": "pdf"},
        }
        for kind, more in reports.items():
            out = root / kind
            row: dict[str, Any] = timed(partial(astroformer.report, model, source, out=out, quiet=True, **more))
            row["beyond"] = round(row["seconds"] - found["asking"]["seconds"], 2)
            row["page_bytes"] = (out / "report.html").stat().st_size
            row["folder_bytes"] = sum(file.stat().st_size for file in out.iterdir())
            found[kind] = row
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--epochs", type=int, default=4)
    asked = parser.parse_args()
    found = measured(asked.images, asked.epochs)
    kept = {
        "images": asked.images,
        "side": SIDE,
        "classes": len(CLASSES),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        **found,
        "processor": processor("cpu"),
        "code": code_version(),
    }
    OUT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    plain = found["plain"]
    print(
        f"beyond asking: {plain['beyond']} s ({SECONDS} s are promised); page: {plain['page_bytes'] / 1e6:.1f} MB "
        f"({MEGABYTES} MB are promised)"
    )


if __name__ == "__main__":
    main()
