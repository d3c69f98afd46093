from __future__ import annotations

import copy
import dataclasses
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from astroformer.cli import main as cli
from astroformer.errors import UserError
from astroformer.network import VARIANTS, create_network
from astroformer.training import memory
from astroformer.training import prepare as prepare_module
from astroformer.training.memory import GIB, Footprint, decide_parts, footprint, footprint_bound, free_memory
from astroformer.training.recipe import Recipe, make_recipe
from astroformer.training.run import RunFolder
from astroformer.training.steps.fused import fuse, why_not_fused
from astroformer.training.train import train
from astroformer.training.validation import predict_batch

CONFIG = dataclasses.replace(VARIANTS["astroformer_atto"], num_classes=10, img_size=(64, 64))
SIZE = (64, 64)
needs_fused = pytest.mark.skipif(why_not_fused() is not None, reason="no fused kernels here")


def kept_for_backward(batch: int) -> int:
    """Bytes that a pass over real tensors keeps, counted apart from the module under test."""
    network = create_network("astroformer_atto", num_classes=10, img_size=64).train()
    own = {p.data_ptr() for p in network.parameters()} | {b.data_ptr() for b in network.buffers()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        logits_BK = network(torch.rand(batch, 3, *SIZE))
        loss = F.cross_entropy(logits_BK, torch.full_like(logits_BK, 0.1))
    assert loss.requires_grad  # alive until here, and all that it keeps with it
    return sum(t.untyped_storage().nbytes() for t in kept.values())


def test_what_is_counted_without_data_is_what_a_real_pass_keeps() -> None:
    expected = (kept_for_backward(6) - kept_for_backward(2)) / 4
    with torch.device("meta"):
        network = create_network("astroformer_atto", num_classes=10, img_size=64).train()
        counted = [
            memory._kept_for_backward(copy.deepcopy(network), torch.zeros(n, 3, *SIZE), False)[0] for n in (2, 6)
        ]
    assert (counted[1] - counted[0]) / 4 == pytest.approx(expected, rel=0.01)


def test_the_estimate_follows_what_takes_memory() -> None:
    plain = footprint(Recipe(), CONFIG, SIZE)
    network = create_network("astroformer_atto", num_classes=10, img_size=64)
    parameters = 4 * sum(p.numel() for p in network.parameters())
    fewer = footprint(Recipe(optimizer="sgd", ema=0), CONFIG, SIZE)
    assert plain.fixed - fewer.fixed == 2 * parameters  # one state less, no average
    # Four times the pixels, and sixteen times the scores of attention, which are few here.
    assert 4 < footprint(Recipe(), CONFIG, (128, 128)).image / plain.image < 4.5
    assert footprint(Recipe(checkpointing=True), CONFIG, SIZE).image < 0.75 * plain.image
    assert plain.of(10) == plain.fixed + 10 * plain.image


@pytest.mark.parametrize("name", ["astroformer_atto", "astroformer_nano", "astroformer_1"])
@pytest.mark.parametrize(
    "words",
    [
        {},
        {"layout": "CCTT"},
        {"layout": "TTTT", "mlp_ratio": 1},
        {"mlp_ratio": 8},
        {"channel_attention": "cbam"},
        {"transformer": "hybrid", "layout": "CTTT"},
        {"depths": (1, 1, 1, 1), "in_chans": 64},
    ],
    ids=str,
)
def test_where_the_bound_fits_the_count_fits(name: str, words: dict[str, Any]) -> None:
    for size in ((32, 32), (64, 64), (100, 33)):
        config = dataclasses.replace(VARIANTS[name], img_size=size, **words)
        for recipe in (Recipe(), Recipe(optimizer="sgd", checkpointing=True)):
            counted, bound = footprint(recipe, config, size), footprint_bound(recipe, config, size)
            assert bound.fixed == counted.fixed
            assert counted.image < bound.image < 9 * counted.image * (4 if recipe.checkpointing else 1)


MEASURED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import memory
print(memory.measure("atto", 2, False)["peak"], memory.estimate("atto", 2, False))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_measured_peak_is_near_the_estimate() -> None:
    benchmarks = Path(__file__).parents[2] / "benchmarks"
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(benchmarks)], capture_output=True, text=True, check=True, timeout=300
    )
    peak, estimate = (int(word) for word in done.stdout.split()[-2:])
    assert memory.PLANNED_MEMORY < estimate / peak < 1.5


# Free memory ------------------------------------------------------------------------------------------------


def test_free_memory_is_what_the_system_and_its_groups_leave(tmp_path: Path) -> None:
    free = free_memory("cpu")
    assert free is None or 2**20 < free < 2**50
    (tmp_path / "meminfo").write_text("MemTotal:  100 kB\nMemAvailable:   42 kB\n")
    assert memory._available_in_system(tmp_path / "meminfo") == 42 * 1024
    own = tmp_path / "own"
    own.write_text("0::/job/step\n")
    (tmp_path / "job/step").mkdir(parents=True)
    for folder, limit in (("job/step", "max"), ("job", "1000")):
        (tmp_path / folder / "memory.max").write_text(limit)
        (tmp_path / folder / "memory.current").write_text("700")
        (tmp_path / folder / "memory.stat").write_text("anon 600\ninactive_file 50\n")
    assert memory._available_in_groups(tmp_path, own) == [350]
    (tmp_path / "memory" / "slurm").mkdir(parents=True)
    own.write_text("5:cpu,memory:/slurm\n")
    for name, text in (
        ("memory.limit_in_bytes", "500"),
        ("memory.usage_in_bytes", "600"),
        ("memory.stat", "total_inactive_file 10"),
    ):
        (tmp_path / "memory" / "slurm" / name).write_text(text)
    assert memory._available_in_groups(tmp_path, own) == [0]
    assert memory._available_in_groups(tmp_path, tmp_path / "none") == []


# Parts ------------------------------------------------------------------------------------------------------


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """What is free is what the test says; an image takes 1 GiB and everything else 10."""
    found: list[int | None] = [None]
    monkeypatch.setattr(memory, "free_memory", lambda device: found[0])
    for count in ("footprint_bound", "footprint"):
        monkeypatch.setattr(memory, count, lambda *_: Footprint(10 * GIB, GIB))
    monkeypatch.setattr(memory, "PLANNED_MEMORY", 0.5)
    return found


@pytest.mark.parametrize(
    ("gib", "processes", "parts"),
    [(200, 1, 1), (148, 1, 1), (146, 1, 2), (84, 1, 2), (60, 1, 4), (24, 1, 32), (148, 2, 2)],
)
def test_as_few_parts_as_fit(free: list[int | None], gib: int, processes: int, parts: int) -> None:
    free[0] = gib * GIB
    found, said = decide_parts(Recipe(batch_size=64), CONFIG, SIZE, "cpu", processes=processes)
    assert found == parts
    assert (said is None) == (parts == 1)
    largest = math.ceil(64 / processes / parts)
    assert (10 + largest) * processes <= gib / 2
    if said:
        assert f"batches of 64 in {parts} parts" in said
        assert "--checkpointing" in said


def test_too_little_memory_is_said_with_what_to_do(free: list[int | None]) -> None:
    free[0] = 23 * GIB
    with pytest.raises(UserError, match=r"about 12.0 GiB with two images at a time, and 11.5 GiB of cpu memory"):
        decide_parts(Recipe(batch_size=64), CONFIG, SIZE, "cpu")
    free[0] = None
    assert decide_parts(Recipe(batch_size=64), CONFIG, SIZE, "cpu")[0] == 1


def test_the_parts_are_decided_once_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prepare_module, "decide_parts", lambda *_, **__: (3, "batches in 3 parts"))
    words = ["--epochs", "1", "--image-size", "32", "--crop", "1", "--device", "cpu"]
    words += ["--cache", str(tmp_path / "cache")]
    (tmp_path / "r.yaml").write_text("batch_size: 12\naccumulate: 2\n")
    options = ["--recipe", str(tmp_path / "r.yaml"), "--batch-size", "auto", "--out", str(tmp_path / "run")]
    assert cli.main(["train", "mock-galaxies:30x32", *words, *options, "--verbose"]) == 0
    decided = RunFolder(tmp_path / "run").read_recipe()
    assert (decided.batch_size, decided.accumulate) == (12, 3)
    assert "batches in 3 parts" in capsys.readouterr().err
    assert predict_batch(decided.batch, decided.parts) == 8
    # A number that is given stays.
    settings = make_recipe({"epochs": 1, "image_size": 32, "crop": 1, "device": "cpu", "accumulate": 2})
    train("mock-galaxies:30x32", settings, out=tmp_path / "two", cache=tmp_path / "cache")
    assert RunFolder(tmp_path / "two").read_recipe().accumulate == 2


def test_batch_size_auto_is_the_recipes_batch_in_parts_to_be_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    assert make_recipe({"batch_size": "auto"}) == Recipe()
    for settings in ({"batch_size": "auto", "accumulate": 2}, {"batch_size": 64, "accumulate": 65}):
        with pytest.raises(UserError, match="accumulate"):
            make_recipe(settings)
    assert cli.main(["train", "mock-galaxies", "--batch-size=auto", "--accumulate", "2"]) == 2
    assert "leave out --accumulate" in capsys.readouterr().err


# Checkpointing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [False, pytest.param(True, marks=needs_fused)])
def test_checkpointing_changes_no_gradient(fused: bool) -> None:
    torch.manual_seed(0)
    network = create_network("astroformer_atto", num_classes=10, img_size=64, stochastic_depth=0.3, head_dropout=0.2)
    again = copy.deepcopy(network)
    again.set_grad_checkpointing()
    if fused:
        assert fuse(network) == fuse(again) > 0
    x_BCHW = torch.rand(4, 3, 64, 64)
    for each in (network.train(), again.train()):
        torch.manual_seed(7)
        each(x_BCHW).square().sum().backward()
    whole = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]).norm()
    for (name, ours), theirs in zip(again.named_parameters(), network.parameters(), strict=True):
        # Fused, the guess at the mean has moved when a block is computed again; that changes the rounding alone.
        assert ours.grad is not None
        assert theirs.grad is not None
        if fused:
            assert (ours.grad - theirs.grad).norm() < 1e-5 * whole, name
        else:
            assert torch.equal(ours.grad, theirs.grad), name
    for ours, theirs in zip(again.buffers(), network.buffers(), strict=True):
        assert torch.equal(ours, theirs)  # the repeated pass counts in no running statistics


def test_a_run_with_checkpointing_ends_with_the_same_bits(tmp_path: Path) -> None:
    def run(**changes: Any) -> dict[str, Tensor]:
        settings = {"epochs": 1, "image_size": 32, "crop": 1, "device": "cpu", "batch_size": 8, **changes}
        settings |= {"speed": "plain", "precision": "no"}
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        trained = train("mock-galaxies:30x32", make_recipe(settings), out=out, cache=tmp_path / "cache")
        return trained.classifier.network.state_dict()

    plain, again = run(), run(checkpointing=True)
    assert all(torch.equal(plain[k], again[k]) for k in plain)
