"""Checkpoints: one safetensors file that holds a run's whole state and is replaced in one step.

The new file is written beside the old one, flushed to the disk and renamed over it, so a crash at any moment leaves
either the old checkpoint or the new one, never half of one. No pickle is involved.

A digest of the state and of all tensors lies in the file's metadata and is proved before anything is taken up. Beside
it stands which run wrote the file. Checkpoints of versions before 0.2 have neither; whoever resumes one is told so.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from astroformer.errors import UserError
from astroformer.files import check_readable, parse_json, replacing
from astroformer.model_folder import different_shapes, shapes_in
from astroformer.network import AnswersConfig, AstroformerConfig

FRAME = "frame."  # before the names of a frame's tensors, which lie beside those of the network
_FORMAT = 2


def save_checkpoint(
    path: Path,
    *,
    tensors: dict[str, dict[str, Tensor]],
    optimizer: dict[str, Any],
    state: Any,
    run: str | None = None,
) -> None:
    """Writes named groups of tensors, an optimizer's `state_dict()` and JSON-able `state` to `path`, atomically.

    `run` is the identity of the run that writes, see `RunFolder.identity`.
    """
    flat = {f"{group}/{name}": t for group, items in tensors.items() for name, t in items.items()}
    scalars: dict[str, dict[str, Any]] = {}
    for index, entries in optimizer["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                flat[f"optimizer/{index}/{name}"] = value
            else:
                scalars.setdefault(str(index), {})[name] = value
    header = {
        "format": _FORMAT,
        "run": run,
        "state": state,
        "optimizer_scalars": scalars,
        "optimizer_groups": optimizer["param_groups"],
    }
    # safetensors keeps no memory format; the loader copies into tensors that have theirs.
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in flat.items()}
    text = json.dumps(header)
    with replacing(path, durable=True) as part:
        save_file(flat, part, {"json": text, "sha256": _digest(text, flat)})


def load_checkpoint(
    path: Path, *, run: str | None = None, say: Callable[[str], None] | None = None
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any], Any]:
    """What `save_checkpoint` wrote: (groups of tensors, optimizer state dict, state).

    Args:
        path: of the file.
        run: the identity of the run that is resumed.
        say: is told where the checkpoint has no digest.

    Raises:
        UserError: there is no checkpoint at `path`, or it is damaged, or another run's.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint '{path}' to resume from; the run was stopped before its first one.")
    check_readable(path)
    try:
        with safe_open(path, framework="pt") as stream:
            metadata = stream.metadata()
            flat = {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118 (no mapping)
        header = parse_json(metadata["json"])
        covered = header.get("format", 1) >= _FORMAT
        if covered and metadata["sha256"] != _digest(metadata["json"], flat):
            raise ValueError("its content is not what was written: its SHA-256 differs")
        groups, optimizer = _grouped(flat, header)
        bad = next((name for name, t in flat.items() if t.is_floating_point() and not t.isfinite().all()), None)
        if bad is not None:
            raise ValueError(f"'{bad}' holds NaN or infinite values")
        state, writer = header["state"], header["run"] if covered else None
    except (SafetensorError, OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise UserError(f"checkpoint '{path}' is damaged ({what}); start the run again.") from None
    if writer is not None and run is not None and writer != run:
        raise UserError(f"checkpoint '{path}' was written by another run; bring this run's own back, or start anew.")
    if not covered and say is not None:
        say(f"checkpoint '{path}' has no digest, as versions before 0.2 wrote it: damage in it may not show")
    return groups, optimizer, state


def check_network(path: Path, network: AstroformerConfig) -> None:
    """Proves by a checkpoint's header, before anything is made, that it holds the weights of such a network.

    Raises:
        UserError: it does not, or is damaged.
    """
    try:
        shapes = shapes_in(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"checkpoint '{path}' is damaged ({error}); start the run again.") from None
    group = "network/"
    held = {name.removeprefix(group): shape for name, shape in shapes.items() if name.startswith(group)}
    held = {name: shape for name, shape in held.items() if not name.startswith(FRAME)}
    wrong = different_shapes(network, AnswersConfig(), 1, held)
    if wrong:
        raise UserError(
            f"checkpoint '{path}' does not hold the network that run.json says: {len(wrong)} tensors differ, e.g. "
            f"'{min(wrong)}'; bring both back from a copy, or start the run again."
        )


def _digest(header: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of all that a checkpoint holds, whatever the order in the file."""
    digest = hashlib.sha256(header.encode("utf-8"))
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _grouped(flat: dict[str, Tensor], header: Any) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The groups of tensors, and the state dict of the optimizer."""
    optimizer: dict[str, Any] = {
        "state": {int(i): dict(entries) for i, entries in header["optimizer_scalars"].items()},
        "param_groups": header["optimizer_groups"],
    }
    groups: dict[str, dict[str, Tensor]] = {}
    for key, value in flat.items():
        group, name = key.split("/", 1)
        if group == "optimizer":
            index, entry = name.split("/", 1)
            optimizer["state"].setdefault(int(index), {})[entry] = value
        else:
            groups.setdefault(group, {})[name] = value
    return groups, optimizer


def restore_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Takes up an optimizer's state as `load_checkpoint` gives it.

    Moments get the memory format of their parameters again: same kernels, same bits, and a fused step goes through
    parameters and moments side by side, as they lie in memory.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, entries in saved["state"].items():
        names = {"momentum_buffer"}
        if isinstance(optimizer, torch.optim.AdamW) or entries.get("use_muon") is False:
            names = {"step", "exp_avg", "exp_avg_sq"}
        fits = 0 <= index < len(parameters) and entries.keys() - {"use_muon"} == names
        sizes = {v.shape for v in entries.values() if isinstance(v, Tensor) and v.ndim}
        if not fits or not sizes <= {parameters[index].shape}:
            raise UserError(f"what the optimizer keeps of parameter {index} does not fit it")
    optimizer.load_state_dict(saved)
    for parameter, entries in optimizer.state.items():
        for name, value in entries.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                entries[name] = torch.empty_like(parameter).copy_(value)
