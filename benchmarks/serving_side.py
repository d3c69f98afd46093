"""One side of `serving.py`, in a process of its own: a model that is loaded once and asked again and again.

    python benchmarks/serving_side.py one SIDE FOLDER --size 64      # one JPEG after the other, from its bytes on
    python benchmarks/serving_side.py batch SIDE FOLDER --size 64    # the network alone, on a batch in memory

SIDE is timm, torch, or a runtime with a precision: "openvino int8". FOLDER is what `common.asked_model` made.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from common.turns import Measurement, serve

REQUESTS = 25  # a measurement
Ask = Callable[[Any], object]


def timm_asks(arguments: argparse.Namespace) -> tuple[Ask, Ask]:
    """What answers bytes, and what answers a batch (B, 3, H, W) of uint8."""
    import timm.data

    from common.timm_training import network

    model = network(arguments.variant, arguments.size, arguments.classes)
    model.load_state_dict(torch.load(arguments.folder / "weights.pt", weights_only=True))
    model.eval()
    given = {"input_size": (3, arguments.size, arguments.size)}
    transform = timm.data.create_transform(**timm.data.resolve_data_config(given, model=model, use_test_size=True))

    @torch.inference_mode()
    def ask_network(x_BCHW: torch.Tensor) -> object:
        return model(x_BCHW).softmax(-1).numpy()

    def ask_bytes(body: bytes) -> object:
        return ask_network(transform(Image.open(io.BytesIO(body)).convert("RGB"))[None])

    def ask_stored(stored_BCHW: np.ndarray) -> object:
        return ask_network((torch.from_numpy(stored_BCHW).float() / 255 - 0.5) / 0.25)

    return ask_bytes, ask_stored


def our_asks(arguments: argparse.Namespace) -> tuple[Ask, Ask]:
    from astroformer.classifier import load

    runtime, _, precision = arguments.side.partition(" ")
    model = load(arguments.folder / "model", runtime=runtime, precision=precision or "float32")

    def ask_bytes(body: bytes) -> object:
        return model.predict([body], quiet=True).probabilities_NK

    return ask_bytes, model.probabilities


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("one", "batch"))
    parser.add_argument("side")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--variant", default="astroformer_atto")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--classes", type=int, default=5)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=1.0, help="about so long is one measurement of batches")
    arguments = parser.parse_args()
    ask_bytes, ask_stored = (timm_asks if arguments.side == "timm" else our_asks)(arguments)
    if arguments.what == "one":
        files = sorted((arguments.folder / "images").iterdir())[:REQUESTS]
        bodies = [file.read_bytes() for file in files]
        for body in bodies[:5]:
            ask_bytes(body)

        def measure() -> Measurement:
            found: dict[str, float] = {}
            for i, body in enumerate(bodies):
                started = time.perf_counter()
                ask_bytes(body)
                found[f"ms {i}"] = 1e3 * (time.perf_counter() - started)
            return found

    else:
        shape = (arguments.batch, 3, arguments.size, arguments.size)
        stored = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        for _ in range(2):
            ask_stored(stored)
        started = time.perf_counter()
        ask_stored(stored)
        times = max(1, round(arguments.seconds / (time.perf_counter() - started)))

        def measure() -> Measurement:
            started = time.perf_counter()
            for _ in range(times):
                ask_stored(stored)
            return {"seconds": time.perf_counter() - started, "images": times * arguments.batch}

    serve(measure)


if __name__ == "__main__":
    main()
