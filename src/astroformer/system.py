"""What this machine is and can do: `astroformer info --system`, and how device and precision are picked."""

from __future__ import annotations

import functools
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from astroformer import native
from astroformer.allocator import keep_freed_memory
from astroformer.errors import UserError, unknown_name

PRECISIONS = ("float32", "bfloat16", "auto")

# Instruction sets that decide how fast a network runs: how Linux spells them, and how they are shown.
_INSTRUCTIONS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_bf16": "AVX-512 bf16",
    "amx_bf16": "AMX bf16",
    "asimd": "NEON",
    "sve": "SVE",
    "bf16": "bf16",
}

# Those that multiply matrices of bfloat16, the fastest first. A processor without them only emulates bfloat16, slowly.
_BFLOAT16 = ("amx_bf16", "avx512_bf16", "bf16")


class MatrixRates(NamedTuple):
    """How fast torch multiplies large matrices here, in GFLOP/s; a multiplication and an addition count as two."""

    float32: float
    bfloat16: float


@functools.cache
def matrix_rates() -> MatrixRates:
    """How fast this CPU multiplies matrices in each precision; measured once a process, in a tenth of a second.

    It is for people to read. Nothing may be decided by it: whatever else the machine does changes it.
    """
    rows, columns = 2048, 512  # pixels of a batch by channels; small, since an emulated product is slow
    operations = 2 * rows * columns * columns
    pairs = {
        dtype: (torch.ones(rows, columns, dtype=dtype), torch.ones(columns, columns, dtype=dtype))
        for dtype in (torch.float32, torch.bfloat16)
    }
    best = dict.fromkeys(pairs, float("inf"))
    with torch.inference_mode():
        for a, b in pairs.values():
            torch.mm(a, b)  # the first product of a kind prepares its kernel
        # In turn, so that other processes disturb both alike; the best time, since a disturbance only adds to it.
        end = time.perf_counter() + 0.08
        while True:
            for dtype, (a, b) in pairs.items():
                start = time.perf_counter()
                torch.mm(a, b)
                best[dtype] = min(best[dtype], time.perf_counter() - start)
            if time.perf_counter() > end:
                break
    return MatrixRates(*(operations / best[dtype] / 1e9 for dtype in pairs))


def pick_device(name: str) -> str:
    """The device of a name, "cpu" or "cuda"; "auto" is "cuda" where torch finds such a device.

    Raises:
        UserError: another name, or CUDA where there is none.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise unknown_name("device", name, ("auto", "cpu", "cuda"))
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device 'cuda' was asked for, but torch finds no CUDA device here; use 'cpu'.")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


def cuda_devices() -> list[str]:
    """The CUDA devices that this process may use, as `CUDA_VISIBLE_DEVICES` names them; none where there are none."""
    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] if named else [str(number) for number in range(count)]


def pick_precision(name: str, device: str) -> str:
    """The precision of a name, "float32" or "bfloat16"; "auto" is bfloat16 where `device` has instructions for it.

    Raises:
        UserError: another name.
    """
    if name not in PRECISIONS:
        raise unknown_name("precision", name, PRECISIONS)
    if name != "auto":
        return name
    if device == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "float32" if bfloat16_instructions() is None else "bfloat16"


def bfloat16_instructions() -> str | None:
    """The instructions by which torch multiplies matrices of bfloat16 on this CPU, by their name; None without any.

    It is what the processor says of itself, and nothing is timed: so one machine decides alike whatever else it does.
    Only Linux says it. On ARM torch has kernels for them where it was built with the Arm Compute Library.
    """
    words = _instruction_words()
    found = next((word for word in _BFLOAT16 if word in words), None)
    if found is None or (found == "bf16" and not torch.backends.mkldnn.is_acl_available()):
        return None
    return _INSTRUCTIONS[found]


def usable_cores() -> int:
    """The number of cores that this process may use; in a container that can be fewer than the machine has."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows do not say
        return os.cpu_count() or 1


def instructions() -> list[str]:
    """Which instruction sets that matter here the CPU has; only Linux says so, and the list is empty elsewhere."""
    words = _instruction_words()
    return [shown for word, shown in _INSTRUCTIONS.items() if word in words]


def _instruction_words() -> set[str]:
    """What Linux says of the instructions of the CPU, in its own words: on x86, and on ARM."""
    return {*_cpuinfo("flags").split(), *_cpuinfo("Features").split()}


def memory_bytes() -> int | None:
    """Bytes of memory that this process may use: the machine's, or a container's limit; None if unknown."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return None
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total


def versions() -> dict[str, str]:
    """The versions of Python and of the libraries here, as a model or run records them."""
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in ("astroformer", "torch", "timm", "accelerate", "numpy", "pillow")},
    }


def describe_system() -> dict[str, Any]:
    """Machine, versions, kernels and measured rates as JSON values. Builds the native kernels if it has to."""
    rates = matrix_rates()
    memory = memory_bytes()
    return {
        "processor": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "memory_gb": None if memory is None else round(memory / 1e9, 1),
        "instructions": instructions(),
        "matrix_gflops": {
            "float32": round(rates.float32, 1),
            "bfloat16": round(rates.bfloat16, 1),
            "bfloat16_over_float32": round(rates.bfloat16 / rates.float32, 2),
        },
        "native_kernels": _native_kernels(),
        "keeps_freed_memory": keep_freed_memory(),
        "cuda": {str(i): _cuda_device(i) for i in range(torch.cuda.device_count())} or None,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def _cuda_device(index: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(index)
    return {
        "name": properties.name,
        "memory_gb": round(properties.total_memory / 1e9, 1),
        "compute_capability": f"{properties.major}.{properties.minor}",
    }


def _native_kernels() -> str:
    """The word "yes", or "no" with the reasons why some or all are missing."""
    if reason := native.why_not():
        return f"no: {reason}"
    failed = []
    for source in sorted(Path(native.__file__).parent.glob("*.cpp")):
        if native.library(source.stem) is None:
            failed.append(str(native.why_not(source.stem)))
    return f"no: {'; '.join(failed)}" if failed else "yes"


@functools.cache
def _cpuinfo(key: str) -> str:
    """What Linux says about the first processor under `key`; an empty string if it says nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key), "")
