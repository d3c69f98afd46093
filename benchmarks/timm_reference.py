"""The reference of `speed.py`: the same network as timm builds and trains it, with timm's own parts and defaults.

    python benchmarks/timm_reference.py step --variant astroformer_0 --size 64 --batch 64
    python benchmarks/timm_reference.py epoch|data|cold|first-step DATA …
    python benchmarks/timm_reference.py predict IMAGES --weights FILE --out FILE.csv …

It does what timm's train.py and inference.py do (float32, eager, contiguous NCHW, AdamW of `create_optimizer_v2`, no
averaged weights, the loader of `create_loader` with two workers, `loss.item()` a step) and leaves out only what would
slow it down: logging, checkpoints, the summary, pandas. Of astroformer it runs the config and the adapter that build
the network, whose import is about 2 % of its start.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path
from typing import Any

import timm.data
import timm.utils
import torch
import torchvision.utils  # noqa: F401  # train.py imports it, and waiting for it is part of its start
import yaml  # noqa: F401  # as above
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import Tensor, nn

from common.timm_training import CPU, network, training_loader
from common.turns import answer, asked, serve


def training_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, criterion: nn.Module, x_BCHW: Tensor, target: Tensor
) -> None:
    loss = criterion(model(x_BCHW), target)
    loss.item()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def step(arguments: argparse.Namespace) -> None:
    """Steps on one batch that is in memory already: no loader, no augmentation."""
    if arguments.keep_freed_memory:
        from astroformer.allocator import keep_freed_memory

        keep_freed_memory()
    torch.manual_seed(0)
    model = network(arguments.variant, arguments.size, arguments.classes).train()
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05)
    criterion = LabelSmoothingCrossEntropy(0.1)
    x_BCHW = torch.randn(arguments.batch, 3, arguments.size, arguments.size)
    target_B = torch.randint(arguments.classes, (arguments.batch,))

    def run(steps: int) -> float:
        started = time.perf_counter()
        for _ in range(steps):
            training_step(model, optimizer, criterion, x_BCHW, target_B)
        return time.perf_counter() - started

    run(1)
    steps = max(1, round(arguments.seconds / run(1)))

    def measure() -> dict[str, float]:
        seconds = run(steps)
        return {"seconds": seconds, "images": steps * arguments.batch}

    serve(measure)


def epoch(arguments: argparse.Namespace) -> None:
    """Whole epochs from files: loader and training (`epoch`, `cold`), or the loader alone (`data`).

    `cold` answers once, with the first epoch and all that comes before it.
    """
    alone, cold = arguments.what == "data", arguments.what == "cold"
    if cold:
        answer({"ready": 1.0})
        asked()
    started = time.perf_counter()
    torch.manual_seed(0)
    loader = training_loader(arguments.data, arguments.size, arguments.batch, arguments.classes, arguments.workers)
    model = optimizer = None
    if not alone:
        model = network(arguments.variant, arguments.size, arguments.classes).train()
        optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05)
    criterion = SoftTargetCrossEntropy()

    def measure() -> dict[str, float]:
        images, begun = 0, time.perf_counter()
        for x_BCHW, target_BK in loader:
            images += len(x_BCHW)
            if model is not None and optimizer is not None:
                training_step(model, optimizer, criterion, x_BCHW, target_BK)
        return {"seconds": time.perf_counter() - begun, "images": images}

    if cold:
        images = measure()["images"]
        answer({"seconds": time.perf_counter() - started, "images": images})
        return
    measure()
    serve(measure)


def first_step(arguments: argparse.Namespace) -> None:
    """All that train.py does up to its first step, then a line, then the end."""
    timm.utils.setup_default_logging()
    timm.utils.random_seed(42, 0)
    model = network(arguments.variant, arguments.size, arguments.classes)
    config = timm.data.resolve_data_config({"input_size": (3, arguments.size, arguments.size)}, model=model)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05)
    scheduler, _ = create_scheduler_v2(optimizer, sched="cosine", num_epochs=100, warmup_epochs=5)
    loader = training_loader(arguments.data, arguments.size, arguments.batch, arguments.classes, arguments.workers)
    held_out = timm.data.create_dataset("", root=str(arguments.data), split="validation", batch_size=arguments.batch)
    timm.data.create_loader(
        held_out,
        input_size=config["input_size"],
        batch_size=arguments.batch,
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
        crop_pct=config["crop_pct"],
        num_workers=arguments.workers,
        device=CPU,
    )
    criterion = SoftTargetCrossEntropy()
    model.train()
    for x_BCHW, target_BK in loader:
        training_step(model, optimizer, criterion, x_BCHW, target_BK)
        assert scheduler is not None
        print("first step", flush=True)
        break


def predict(arguments: argparse.Namespace) -> None:
    """Files to CSV with the most probable class, as inference.py does it."""
    timm.utils.setup_default_logging()
    model = network(arguments.variant, arguments.size, arguments.classes)
    model.load_state_dict(torch.load(arguments.weights, weights_only=True))
    model.eval()
    given = {"input_size": (3, arguments.size, arguments.size)}
    config = timm.data.resolve_data_config(given, model=model, use_test_size=True)
    dataset = timm.data.create_dataset("", root=str(arguments.data), split="", search_split=False)
    loader = timm.data.create_loader(
        dataset, batch_size=arguments.batch, use_prefetcher=True, num_workers=arguments.workers, device=CPU, **config
    )
    probabilities, indices = [], []
    with torch.inference_mode():
        for x_BCHW, _ in loader:
            top, index = model(x_BCHW).softmax(-1).topk(1)
            probabilities.append(top.cpu())
            indices.append(index.cpu())
    columns: list[Any] = [loader.dataset.filenames(basename=True)]
    columns += [torch.cat(parts)[:, 0].tolist() for parts in (indices, probabilities)]
    with arguments.out.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["filename", "index", "prob"])
        writer.writerows(zip(*columns, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("step", "epoch", "data", "cold", "first-step", "predict"))
    parser.add_argument("data", type=Path, nargs="?", help="folder of class folders, or of images to predict")
    parser.add_argument("--variant", default="astroformer_atto")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--classes", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2.0, help="about so long is one measurement of steps")
    parser.add_argument("--keep-freed-memory", action="store_true", help="give it our allocator settings")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    what = {"step": step, "first-step": first_step, "predict": predict}
    what.get(arguments.what, epoch)(arguments)


if __name__ == "__main__":
    main()
