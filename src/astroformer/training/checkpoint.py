"""Checkpoints: one safetensors file that holds a run's whole state and is replaced in one step.

The new file is written beside the old one, flushed to the disk and renamed over it, so a crash at any moment leaves
either the old checkpoint or the new one, never half of one. No pickle is involved.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from astroformer.errors import UserError
from astroformer.files import check_readable, replacing


def save_checkpoint(
    path: Path, *, tensors: dict[str, dict[str, Tensor]], optimizer: dict[str, Any], state: Any
) -> None:
    """Writes named groups of tensors, an optimizer's `state_dict()` and JSON-able `state` to `path`, atomically."""
    flat = {f"{group}/{name}": t for group, items in tensors.items() for name, t in items.items()}
    scalars: dict[str, dict[str, Any]] = {}
    for index, entries in optimizer["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                flat[f"optimizer/{index}/{name}"] = value
            else:
                scalars.setdefault(str(index), {})[name] = value
    header = {"state": state, "optimizer_scalars": scalars, "optimizer_groups": optimizer["param_groups"]}
    # safetensors keeps no memory format; the loader copies into tensors that have theirs.
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in flat.items()}
    with replacing(path, durable=True) as part:
        save_file(flat, part, {"json": json.dumps(header)})


def load_checkpoint(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any], Any]:
    """What `save_checkpoint` wrote: (groups of tensors, optimizer state dict, state).

    Raises:
        UserError: there is no checkpoint at `path`, or it is damaged.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint '{path}' to resume from; the run was stopped before its first one.")
    check_readable(path)
    try:
        with safe_open(path, framework="pt") as stream:
            header = json.loads(stream.metadata()["json"])
            flat = {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118 (no mapping)
        state, scalars, options = (header[name] for name in ("state", "optimizer_scalars", "optimizer_groups"))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"checkpoint '{path}' is damaged ({error}); start the run again.") from None
    optimizer: dict[str, Any] = {
        "state": {int(i): dict(entries) for i, entries in scalars.items()},
        "param_groups": options,
    }
    groups: dict[str, dict[str, Tensor]] = {}
    for key, value in flat.items():
        group, name = key.split("/", 1)
        if group == "optimizer":
            index, entry = name.split("/", 1)
            optimizer["state"].setdefault(int(index), {})[entry] = value
        else:
            groups.setdefault(group, {})[name] = value
    return groups, optimizer, state


def restore_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Takes up an optimizer's state as `load_checkpoint` gives it.

    Moments get the memory format of their parameters again: same kernels, same bits, and a fused step goes through
    parameters and moments side by side, as they lie in memory.
    """
    optimizer.load_state_dict(saved)
    for parameter, entries in optimizer.state.items():
        for name, value in entries.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                entries[name] = torch.empty_like(parameter).copy_(value)
