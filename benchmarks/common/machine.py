"""What a benchmark ran on, and which code."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import torch

from astroformer.system import describe_system, pick_device


def processor(device: str) -> str:
    """What runs on `device` compute with: the GPU, or the CPU with the instructions that decide how fast it is."""
    if pick_device(device) != "cpu":
        return torch.cuda.get_device_name()
    system = describe_system()
    return ", ".join([system["processor"], *system["instructions"]])


def code_version() -> dict[str, Any]:
    """The commit, and whether code differs from it (rows and documents don't count); None where git doesn't know."""

    def git(*words: str) -> str | None:
        folder = Path(__file__).resolve().parents[2]
        try:
            done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=False)
        except OSError:  # no git here
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    changed = git("status", "--porcelain", "--", ":(glob)src/**", ":(glob)benchmarks/**/*.py")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if changed is None else bool(changed)}
