"""The same comparison on one CUDA GPU, and what is asked of the card alone; one command, under ten minutes.

    python benchmarks/speed_gpu.py --cifar ../shared/data/cifar10/train.npz     # writes speed_gpu.json as it goes
    python benchmarks/speed_gpu.py --device cpu --toy --out /tmp/toy.json       # whether it runs; the figures are none

Rows: `ceilings` (bfloat16 matrix products, copying); `attention` (the relative bias dense, dense with padded strides,
and as FlexAttention's score_mod); `products` (the 1 × 1 convolutions of variant 0 by shape, against the ceiling);
`cifar10` (seconds to 94 % of 5,000 held-out training images); `step` (ours and timm's MaxxVit C-C-C-T in turn, both in
bfloat16 autocast, channels_last and compiled); `epoch` (ours as it is, and timm's loader with that compiled step). A
row that fails keeps its error and the others go on; rows beyond `--budget` seconds are left for another call, which
begins with what is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from PIL import Image
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from astroformer.images import ImageStore, measure_statistics, open_source
from astroformer.network import VARIANTS, create_network
from astroformer.network.attention import PositionBias
from astroformer.network.counting import count_macs
from astroformer.training.loop import Loop
from astroformer.training.prepare import preprocessing_of
from astroformer.training.recipe import make_recipe
from astroformer.training.rules import decide
from astroformer.training.single import train_network
from astroformer.training.stopping import Interrupted
from common.ceilings import measure as measure_ceilings
from common.ceilings import rate, synchronize
from common.rows import RESULTS, Row, read_results, write_results
from common.timm_training import network as timm_network
from common.timm_training import training_loader

SIZES = (32, 64, 224)
NAMES = ("astroformer_atto", "astroformer_nano", "astroformer_0", "astroformer_2", "astroformer_4")
BATCH = {"astroformer_2": 64, "astroformer_4": 32}  # of 224 px; else 128; smaller images 4 times as many


class Card:
    """The device and how large and long its measurements are."""

    def __init__(self, device: str, toy: bool) -> None:
        self.device, self.toy = device, toy
        self.compiles = not toy
        self.rounds = 2 if toy else 5
        self.seconds = 0.05 if toy else 1.0

    def batch(self, variant: str, size: int) -> int:
        return 4 if self.toy else BATCH.get(variant, 128) * (1 if size > 64 else 4)

    def seconds_a_call(self, call: Callable[[], object]) -> float:
        """Median seconds of a call, over blocks of calls long enough that waiting for the device counts for nothing."""
        for _ in range(1 if self.toy else 3):
            call()
        calls = 1 if self.toy else max(3, round(0.1 / self._block(call, 3)))
        return statistics.median(self._block(call, calls) for _ in range(self.rounds))

    def _block(self, call: Callable[[], object], calls: int) -> float:
        synchronize(self.device)
        started = time.perf_counter()
        for _ in range(calls):
            call()
        synchronize(self.device)
        return (time.perf_counter() - started) / calls


def step(card: Card, variant: str, size: int, bf16: float) -> Row:
    """Forward, backward and optimizer on one batch on the device; the same for both networks."""
    batch = card.batch(variant, size)
    x_BCHW = torch.randn(batch, 3, size, size, device=card.device).contiguous(memory_format=torch.channels_last)
    target_B = torch.randint(10, (batch,), device=card.device)
    ours = create_network(variant, num_classes=10, img_size=size, stochastic_depth=0.05)
    macs = count_macs(ours, (size, size))

    makers = {"ours": _stepper(card, ours), "timm": _stepper(card, timm_network(variant, size, 10))}
    calls = {name: partial(make, x_BCHW, target_B) for name, make in makers.items()}
    for call in calls.values():
        for _ in range(3):
            call()
    speeds: dict[str, list[float]] = {name: [] for name in calls}
    number = 1 if card.toy else max(1, round(card.seconds / card._block(calls["ours"], 2)))
    for _ in range(card.rounds):
        for name, call in calls.items():
            speeds[name].append(batch / card._block(call, number))
    row = _compared(speeds) | {"batch": batch, "compiled": card.compiles}
    row["share_of_bfloat16"] = {
        name: round(6e-9 * macs * side / bf16, 4) for name, side in row["images_per_second"].items()
    }
    if card.device == "cuda":
        row["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return row


def _stepper(card: Card, network: nn.Module) -> Callable[[Tensor, Tensor], None]:
    """A training step of `network` as fast as torch alone makes it: bfloat16, channels_last, compiled, fused AdamW."""
    network = network.to(card.device).to(memory_format=torch.channels_last).train()
    options = {"fused": True} if card.device == "cuda" else {}
    optimizer = create_optimizer_v2(network, opt="adamw", lr=1e-3, weight_decay=0.05, **options)
    forward = torch.compile(network) if card.compiles else network

    def call(x_BCHW: Tensor, target: Tensor) -> None:
        with torch.autocast(card.device, torch.bfloat16):
            logits_BK = forward(x_BCHW.contiguous(memory_format=torch.channels_last))
        F.cross_entropy(logits_BK.float(), target, label_smoothing=0.1).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return call


def _compared(speeds: dict[str, list[float]]) -> Row:
    pairs = [a / b for a, b in zip(speeds["ours"], speeds["timm"], strict=True)]
    return {
        "images_per_second": {name: round(statistics.median(values), 1) for name, values in speeds.items()},
        "ratio": {"median": statistics.median(pairs), "min": min(pairs), "max": max(pairs)},
    }


def _random_images(folder: Path, count: int, size: int) -> Path:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    np.savez(folder / f"{size}.npz", images=images, labels=np.arange(count) % 10)
    return folder / f"{size}.npz"


class _Epochs:
    """The `stop` of a loop: notes the time at the end of every epoch and ends the run after `count` of them."""

    def __init__(self, device: str, count: int) -> None:
        self.device, self.count = device, count
        self.times: list[float] = []
        self.loop: Any = None

    def __call__(self) -> bool:
        if self.loop.state.step == self.loop.steps_per_epoch:
            synchronize(self.device)
            self.times.append(time.perf_counter())
        return len(self.times) > self.count


def _loader_epochs(card: Card, variant: str, size: int, source: Path, batch: int, scratch: Path, epochs: int) -> Row:
    """timm's way: the same images as JPEG files, its loader with as many workers as there are cores, `_stepper`; and
    the loader alone."""
    folder = scratch / f"jpeg-{size}"
    if not folder.exists():
        arrays = np.load(source)
        for i, (image, label) in enumerate(zip(arrays["images"], arrays["labels"], strict=True)):
            file = folder / "train" / str(label) / f"{i}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)
    loader = training_loader(folder, size, batch, 10, len(os.sched_getaffinity(0)), torch.device(card.device))
    step = _stepper(card, timm_network(variant, size, 10))
    found: dict[str, list[float]] = {"timm": [], "timm's loader alone": []}
    for train in [True, False] * (epochs + 1):
        images, started = 0, time.perf_counter()
        for x_BCHW, target_BK in loader:
            images += len(x_BCHW)
            if train:
                step(x_BCHW, target_BK)
        synchronize(card.device)
        found["timm" if train else "timm's loader alone"].append(images / (time.perf_counter() - started))
    return {name: round(statistics.median(speeds[1:]), 1) for name, speeds in found.items()}


def epoch(card: Card, variant: str, size: int, scratch: Path) -> Row:
    """Epochs of a whole run from the store on the device, sky augmentation, by the loop: our network, and none, which
    leaves the data path; and timm's way from files."""
    count = 32 if card.toy else (2048 if size > 64 else 16384)
    source = _random_images(scratch, count, size)
    images = open_source(source)
    settings = {
        "model": variant,
        "epochs": 1_000_000,
        "batch_size": card.batch(variant, size),
        "evaluations": 1,
        "progressive": 0.0,
        "image_size": size,
        "crop": 1.0,
        "device": card.device,
    }
    recipe, _ = decide(make_recipe(settings), images)
    preprocessing = preprocessing_of(recipe)
    store = ImageStore.build(images, preprocessing, cache=scratch)
    mean, std = measure_statistics(store.base, store.rows)
    preprocessing = dataclasses.replace(preprocessing, mean=mean, std=std)
    epochs = 1 if card.toy else 4
    networks: dict[str, nn.Module] = {
        "ours": create_network(variant, num_classes=10, img_size=size, stochastic_depth=0.05),
        "ours, the data path alone": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10)),
    }
    found: Row = {"images": count, "batch": recipe.batch_size, "images_per_second": {}}
    for name, network in networks.items():
        watch = _Epochs(card.device, epochs)
        accelerator = Accelerator(cpu=card.device == "cpu", mixed_precision=recipe.precision)
        loop = Loop(network, store, store, preprocessing, recipe, accelerator=accelerator, stop=watch)
        watch.loop = loop
        with contextlib.suppress(Interrupted):
            loop.fit()
        lengths = np.diff(watch.times)  # the first epoch, with whatever is compiled in it, is not among them
        found["images_per_second"][name] = round(count / float(np.median(lengths)), 1)
    found["images_per_second"] |= _loader_epochs(card, variant, size, source, recipe.batch_size, scratch, epochs)
    return found


def attention(card: Card, tokens: int) -> Row:
    """Forward and backward of attention alone, in bfloat16: heads of 32 channels, variant 0's 24 of them."""
    side = round(tokens**0.5)
    heads, width, batch = (2, 16, 2) if card.toy else (24, 32, max(1, 65536 // tokens // 4))
    table = PositionBias(heads, (side, side)).to(card.device)
    q, k, v = (
        torch.randn(batch, heads, tokens, width, device=card.device, dtype=torch.bfloat16, requires_grad=True)
        for _ in range(3)
    )

    def dense() -> None:
        bias = table(side, side)[None].to(q.dtype)
        F.scaled_dot_product_attention(q, k, v, attn_mask=bias).sum().backward()

    def padded() -> None:
        bias = F.pad(table(side, side)[None].to(q.dtype), (0, -tokens % 8))[..., :tokens]
        F.scaled_dot_product_attention(q, k, v, attn_mask=bias).sum().backward()

    def without() -> None:
        F.scaled_dot_product_attention(q, k, v).sum().backward()

    ways: dict[str, Callable[[], None]] = {"dense bias": dense, "padded bias": padded, "no bias": without}
    if card.device == "cuda":
        from torch.nn.attention.flex_attention import flex_attention

        compiled = torch.compile(flex_attention)

        def flex() -> None:
            weights = table.table.to(q.dtype)

            def relative(score: Tensor, _b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
                return score + weights[h, i // side - j // side + side - 1, i % side - j % side + side - 1]

            compiled(q, k, v, score_mod=relative).sum().backward()

        ways["flex"] = flex
    row: Row = {"batch": batch, "milliseconds": {}, "errors": {}}
    for name, way in ways.items():
        try:
            row["milliseconds"][name] = round(1e3 * card.seconds_a_call(way), 4)
        except Exception as error:  # one way that a card or version refuses must not hide the others
            row["errors"][name] = f"{type(error).__name__}: {str(error)[:300]}"
    return row


def products(card: Card, bf16: float) -> Row:
    """The 1 × 1 convolutions of variant 0 at 224 px as matrix products (pixels × in) (in × out), in bfloat16."""
    config = VARIANTS["astroformer_0"]
    batch = 1 if card.toy else 128
    shapes: dict[str, float] = {}
    for (height, across), out in zip(config.map_sizes()[1:], config.widths, strict=True):
        for inner, outer in ((out, 4 * out), (4 * out, out)):
            pixels = batch * height * across
            a = torch.randn(pixels, inner, device=card.device, dtype=torch.bfloat16)
            b = torch.randn(inner, outer, device=card.device, dtype=torch.bfloat16)
            seconds = card.seconds_a_call(lambda a=a, b=b: a @ b)  # type: ignore[misc]
            shapes[f"{pixels} × {inner} × {outer}"] = round(2e-9 * pixels * inner * outer / seconds / bf16, 4)
    return {"share_of_bfloat16": shapes}


def cifar10(card: Card, file: Path, scratch: Path) -> Row:
    """Seconds of training until 94 % of the last 500 images of each class, held out of the training file."""
    found: Row = {"runs": []}
    for minutes in (5 / 60, 20 / 60, 1.0):
        settings = {"augment": "photo", "minutes": minutes, "device": card.device, "evaluations": 10, "image_size": 32}
        train = open_source(f"{file}@per-class=0:4500")
        valid = open_source(f"{file}@per-class=4500:5000", classes=train.classes)
        recipe, _ = decide(make_recipe({**settings, "batch_size": 512}), train)
        preprocessing = preprocessing_of(recipe)
        stores = [ImageStore.build(images, preprocessing, cache=scratch) for images in (train, valid)]
        mean, std = measure_statistics(stores[0].base, stores[0].rows)
        preprocessing = dataclasses.replace(preprocessing, mean=mean, std=std)
        network = create_network(recipe.model, num_classes=10, img_size=32, **recipe.network.changes())
        fit = train_network(network, stores[0], stores[1], recipe, preprocessing=preprocessing)
        top1 = fit.state.history[-1]["valid_top1"]
        found["runs"].append({"seconds": round(60 * minutes, 1), "model": recipe.model, "top1": top1})
        if top1 >= 0.94:
            break
    reached = [run["seconds"] for run in found["runs"] if run["top1"] >= 0.94]
    return found | {"seconds_to_94_percent": min(reached) if reached else None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--toy", action="store_true", help="toy sizes, nothing compiled")
    parser.add_argument("--cifar", type=Path, help="CIFAR-10's training images, .npz with jpeg, offsets, labels")
    parser.add_argument("--budget", type=float, default=560, help="seconds; no row is begun after them")
    parser.add_argument("--out", type=Path, default=RESULTS / "speed_gpu.json")
    parser.add_argument("--scratch", type=Path, help="folder for decoded images; default a temporary one")
    arguments = parser.parse_args()
    card, began = Card(arguments.device, arguments.toy), time.monotonic()
    torch.set_float32_matmul_precision("high")
    with tempfile.TemporaryDirectory() as temporary:
        scratch = arguments.scratch or Path(temporary)
        size = 256 if card.toy else 8192
        bf16 = rate(torch.bfloat16, card.device, size, card.seconds)
        rows: dict[str, Callable[[], Row]] = {"ceilings": lambda: measure_ceilings(card.device, size, card.seconds)}
        names, sizes = (NAMES[:1], SIZES[:1]) if card.toy else (NAMES, SIZES)
        for tokens in (49,) if card.toy else (49, 196, 1024, 4096):
            rows[f"attention {tokens} tokens"] = lambda t=tokens: attention(card, t)  # type: ignore[misc]
        rows["products astroformer_0 224 px"] = lambda: products(card, bf16)
        if arguments.cifar:
            rows["cifar10"] = lambda: cifar10(card, arguments.cifar, scratch)
        for variant in names:
            for px in sizes:
                rows[f"step {variant} {px} px"] = lambda v=variant, s=px: step(card, v, s, bf16)  # type: ignore[misc]
        for variant in names[:3]:
            for px in sizes:
                rows[f"epoch {variant} {px} px"] = lambda v=variant, s=px: epoch(card, v, s, scratch)  # type: ignore[misc]
        what = torch.cuda.get_device_name() if card.device == "cuda" else "cpu"
        for name, measure in rows.items():
            done = read_results(arguments.out)
            if name in done and "error" not in done[name]:
                continue
            if time.monotonic() - began > arguments.budget:
                print(f"{name}: left for another call", flush=True)
                continue
            started = time.monotonic()
            if card.device == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            try:
                row = measure()
            except Exception as error:  # out of memory in one row must not cost the others
                row = {"error": f"{type(error).__name__}: {str(error)[:500]}", "where": traceback.format_exc()[-1500:]}
            row |= {"device": what, "torch": torch.__version__, "took": round(time.monotonic() - started, 1)}
            write_results(arguments.out, {**read_results(arguments.out), name: row})
            print(f"{name}: {json.dumps(row)}", flush=True)


if __name__ == "__main__":
    main()
