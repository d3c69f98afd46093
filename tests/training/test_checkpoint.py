from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from astroformer.errors import UserError
from astroformer.training import checkpoint
from astroformer.training.checkpoint import load_checkpoint, restore_optimizer, save_checkpoint
from astroformer.training.steps.optimizer import create_optimizer

STATE = {"epoch": 3, "elapsed": 0.1 + 0.2, "history": [{"loss": 1 / 3}, {"loss": 2.0}]}


def trained(name: str, steps: int = 3) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3))
    network = network.to(memory_format=torch.channels_last)
    optimizer = create_optimizer(network, name, learning_rate=0.01, weight_decay=0.1, momentum=0.9)
    walk(network, optimizer, steps)
    return network, optimizer


def walk(network: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        network(torch.randn(5, 2, 3, 3, generator=generator)).square().sum().backward()
        optimizer.step()


def save(path: Path, network: nn.Module, optimizer: torch.optim.Optimizer, state: Any = STATE) -> None:
    save_checkpoint(path, tensors={"network": network.state_dict()}, optimizer=optimizer.state_dict(), state=state)


def plain(value: Any) -> Any:
    """Tuples as lists, as JSON has them."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("name", ["adamw", "sgd", "muon"])
def test_round_trip_and_the_next_steps_are_equal_to_the_bit(tmp_path: Path, name: str) -> None:
    network, optimizer = trained(name)
    path = tmp_path / "c.safetensors"
    save(path, network, optimizer)
    groups, loaded, state = load_checkpoint(path)
    assert state == STATE
    assert set(groups) == {"network"}
    for key, value in network.state_dict().items():
        assert torch.equal(groups["network"][key], value)
        assert groups["network"][key].dtype == value.dtype
    own = optimizer.state_dict()
    assert plain(loaded["param_groups"]) == plain(own["param_groups"])
    assert set(loaded["state"]) == set(own["state"])
    for index, entries in own["state"].items():
        assert set(loaded["state"][index]) == set(entries)
        for key, value in entries.items():
            found = loaded["state"][index][key]
            assert type(found) is type(value)
            assert torch.equal(found, value) if isinstance(value, torch.Tensor) else found == value

    other, other_optimizer = trained(name, steps=0)
    other.load_state_dict(groups["network"])
    restore_optimizer(other_optimizer, loaded)
    walk(network, optimizer, 3)
    walk(other, other_optimizer, 3)
    for a, b in zip(network.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_scalars_of_an_optimizer_survive(tmp_path: Path) -> None:
    state = {"state": {0: {"step": 7, "mu": 0.1 + 0.2, "moment": torch.ones(2)}, 1: {"step": 8}}, "param_groups": []}
    save_checkpoint(tmp_path / "c", tensors={}, optimizer=state, state=None)
    groups, loaded, _ = load_checkpoint(tmp_path / "c")
    assert groups == {}
    assert loaded["state"][1] == {"step": 8}
    assert torch.equal(loaded["state"][0].pop("moment"), torch.ones(2))
    assert loaded["state"][0] == {"step": 7, "mu": 0.1 + 0.2}


@pytest.mark.parametrize("when", ["while writing", "before renaming", "at flushing"])
def test_a_crash_in_the_writing_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    path = tmp_path / "c.safetensors"
    network, optimizer = trained("adamw")
    save(path, network, optimizer, {"epoch": 1})
    before = path.read_bytes()

    def half_written(tensors: Any, file: Path, metadata: Any) -> None:
        save_file(tensors, file, metadata)
        with file.open("r+b") as stream:
            stream.truncate(100)
        raise OSError("no space left")

    def crash(*_: Any) -> None:
        raise OSError("crash")

    with monkeypatch.context() as patch:
        if when == "while writing":
            patch.setattr(checkpoint, "save_file", half_written)
        else:
            patch.setattr(os, "replace" if when == "before renaming" else "fsync", crash)
        with pytest.raises(OSError, match=r"no space left|crash"):
            save(path, network, optimizer, {"epoch": 2})
    assert path.read_bytes() == before
    assert load_checkpoint(path)[2] == {"epoch": 1}
    save(path, network, optimizer, {"epoch": 3})  # what the crash left behind is no hindrance
    assert load_checkpoint(path)[2] == {"epoch": 3}
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_missing_and_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    with pytest.raises(UserError, match="there is no checkpoint"):
        load_checkpoint(path)
    save(path, *trained("adamw"))
    whole = path.read_bytes()
    for damaged in (whole[:-10], whole[:40], b"", b"x" * 200, whole[:8] + b"?" + whole[9:]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="is damaged"):
            load_checkpoint(path)
    save_file({"a": torch.ones(1)}, path)  # a whole file of another kind
    with pytest.raises(UserError, match="is damaged"):
        load_checkpoint(path)
    save_file({"a": torch.ones(1)}, path, {"json": "{}"})
    with pytest.raises(UserError, match="is damaged"):
        load_checkpoint(path)
