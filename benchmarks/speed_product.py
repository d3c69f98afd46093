"""Our side of `speed.py`: training through `Loop`, as `astroformer.train` drives it, in a process of its own.

    python benchmarks/speed_product.py step --variant astroformer_0 --size 64 --batch 64
    python benchmarks/speed_product.py epoch|data|cold DATA …
    python benchmarks/speed_product.py first-step WORDS OF `astroformer train`

A whole run is begun and looked at from its `stop`, which the loop asks after every step; so what is measured is all
that a step of a real run does: order, augmentation, normalisation, network, loss, clipping, optimizer, averaging.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from common.turns import answer, asked

EQUAL = {  # what the reference's loader does to an image, in the words of a recipe
    "preset": "none",
    "flip_horizontal": 0.5,
    "crop_scale": (0.08, 1.0),
    "crop_ratio": (3 / 4, 4 / 3),
    "policy": "randaugment",
    "policy_magnitude": 9.0,
    "policy_operations": 2,
    "erasing": 0.25,
    "erasing_fill": "noise",
    "mixup": 0.8,
}


class Watch:
    """The `stop` of a loop: lets it run block by block, one block a question, and ends it when there are none left.

    Args:
        warm_up: steps before the first question is read, at least 2; the last one decides the length of a block.
        block: steps a block; None for as many as take about `seconds`.
        started: if given, there is one block, which began then, and no warm-up.
    """

    def __init__(self, warm_up: int, block: int | None, seconds: float, started: float | None = None) -> None:
        self.block, self.seconds, self.warm_up = block, seconds, warm_up
        self.steps = 0
        self.began = started if started is not None else time.perf_counter()
        self.only_one = started is not None
        self.loop: Any = None

    def __call__(self) -> bool:
        self.steps += 1
        if self.only_one:
            if self.steps < (self.block or 1):
                return False
            answer({"seconds": time.perf_counter() - self.began, "images": self.loop.state.images})
            return True
        if self.warm_up:
            self.warm_up -= 1
            if self.warm_up == 1:
                self.began = time.perf_counter()  # the last step of the warm-up is timed
            if self.warm_up:
                return False
            if self.block is None:
                self.block = max(1, round(self.seconds / (time.perf_counter() - self.began)))
            answer({"ready": 1.0})
            return self._next()
        assert self.block is not None
        if self.steps < self.block:
            return False
        answer({"seconds": time.perf_counter() - self.began, "images": self.loop.state.images - self.images})
        return self._next()

    def _next(self) -> bool:
        if not asked():
            return True
        self.steps, self.images, self.began = 0, self.loop.state.images, time.perf_counter()
        return False


def run(arguments: argparse.Namespace) -> None:
    from accelerate import Accelerator
    from torch import Tensor, nn

    from astroformer.cache import default_cache
    from astroformer.images import ImageStore, measure_statistics, open_source
    from astroformer.network import create_network
    from astroformer.training.loop import Loop
    from astroformer.training.order import count_steps
    from astroformer.training.prepare import preprocessing_of
    from astroformer.training.recipe import make_recipe
    from astroformer.training.rules import decide
    from astroformer.training.stopping import Interrupted

    class Nothing(nn.Module):
        """Next to no network, so that what is left of a step is the data path."""

        def __init__(self, channels: int, classes: int) -> None:
            super().__init__()
            self.linear = nn.Linear(channels, classes)

        def forward(self, x_BCHW: Tensor) -> Tensor:
            return self.linear(x_BCHW[:, :, 0, 0])

    cold = arguments.what == "cold"
    if cold:  # both sides have imported what they need by now
        answer({"ready": 1.0})
        asked()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        source = arguments.data or _images(Path(scratch), arguments.images, arguments.size, arguments.classes)
        settings: dict[str, Any] = {
            "model": arguments.variant,
            "epochs": 1_000_000,
            "batch_size": arguments.batch,
            "evaluations": 1,
            "progressive": 0.0,
            "image_size": arguments.size,
        }
        if arguments.augment == "equal":
            settings |= {"augment": EQUAL, "crop": 1.0}
        if arguments.data is None:
            settings["crop"] = 1.0
        images = open_source(source)
        recipe, _ = decide(make_recipe(settings), images)
        preprocessing = preprocessing_of(recipe)
        cache = Path(scratch) if cold or arguments.data is None else default_cache()
        store = ImageStore.build(images, preprocessing, cache=cache)
        mean, std = measure_statistics(store.base, store.rows)
        preprocessing = dataclasses.replace(preprocessing, mean=mean, std=std)
        words: dict[str, Any] = recipe.network.changes()
        if arguments.depth_factor > 1:
            from astroformer.network import VARIANTS

            words["depths"] = tuple(arguments.depth_factor * depth for depth in VARIANTS[recipe.model].depths)
        network: nn.Module = (
            Nothing(preprocessing.channels, len(images.classes))
            if arguments.what == "data"
            else create_network(
                recipe.model,
                num_classes=len(images.classes),
                in_chans=preprocessing.channels,
                img_size=preprocessing.image_size,
                **words,
            )
        )
        steps = count_steps(len(store), recipe.batch_size)
        if arguments.what == "step":
            watch = Watch(arguments.warm_up, None, arguments.seconds)
        else:
            watch = Watch(steps, steps, 0.0, started if cold else None)
        accelerator = Accelerator(cpu=True, mixed_precision=recipe.precision)
        loop = Loop(network, store, store, preprocessing, recipe, accelerator=accelerator, stop=watch)
        watch.loop = loop
        with contextlib.suppress(Interrupted):
            loop.fit()


def _images(folder: Path, count: int, size: int, classes: int) -> Path:
    """A source of random images; what they show does not matter to the clock."""
    import numpy as np

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (max(count, 2 * classes), size, size, 3), dtype=np.uint8)
    np.savez(folder / "images.npz", images=images, labels=np.arange(len(images)) % classes)
    return folder / "images.npz"


def first_step(words: list[str]) -> int:
    """`astroformer train` up to the end of its first step, then a line, then the end.

    The loop is watched from a thread that waits until the command itself has imported it, so that nothing is imported
    earlier or in another order than by the command alone.
    """

    def watch() -> None:
        while not hasattr(sys.modules.get("astroformer.training.loop"), "Loop"):
            time.sleep(0.002)
        loop: Any = sys.modules["astroformer.training.loop"].Loop
        progress = loop.progress  # asked before and after every step

        def watched(self: Any) -> float:
            if self.state.updates:
                print("first step", flush=True)
                os._exit(0)
            return float(progress(self))

        loop.progress = watched

    threading.Thread(target=watch, daemon=True).start()
    from astroformer.cli.main import main as command

    return command(["train", *words])


def main() -> None:
    if sys.argv[1:2] == ["first-step"]:
        sys.exit(first_step(sys.argv[2:]))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("step", "epoch", "data", "cold"))
    parser.add_argument("data", type=Path, nargs="?", help="folder of class folders; without it random images")
    parser.add_argument("--variant", default="astroformer_atto")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--classes", type=int, default=5)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--depth-factor", type=int, default=1)
    parser.add_argument("--augment", choices=("sky", "equal"), default="sky")
    parser.add_argument("--warm-up", type=int, default=6, help="steps")
    parser.add_argument("--seconds", type=float, default=2.0, help="about so long is one measurement of steps")
    run(parser.parse_args())


if __name__ == "__main__":
    main()
