"""How fast a device multiplies matrices and copies memory at most: the ceilings that a speed is a share of."""

from __future__ import annotations

import time

import torch


def rate(dtype: torch.dtype, device: str = "cpu", size: int = 2048, seconds: float = 1.0) -> float:
    """GFLOP/s of a square product, the best of several."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best, started = 0.0, time.perf_counter()
    while best == 0.0 or time.perf_counter() - started < seconds:
        best = max(best, 2e-9 * size**3 / _time(lambda: a @ b, device))
    return best


def copy_rate(device: str = "cpu", mebibytes: int = 256, seconds: float = 1.0) -> float:
    """GB/s read and written by a copy that no cache holds, the best of several."""
    a = torch.ones(mebibytes << 20, dtype=torch.uint8, device=device)
    b = torch.empty_like(a)
    b.copy_(a)
    best, started = 0.0, time.perf_counter()
    while best == 0.0 or time.perf_counter() - started < seconds:
        best = max(best, 2e-9 * a.numel() / _time(lambda: b.copy_(a), device))
    return best


def _time(call: object, device: str) -> float:
    calls = 20 if device == "cuda" else 1
    synchronize(device)
    started = time.perf_counter()
    for _ in range(calls):
        call()  # type: ignore[operator]
    synchronize(device)
    return (time.perf_counter() - started) / calls


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def measure(device: str = "cpu", size: int = 2048, seconds: float = 1.0) -> dict[str, float]:
    mebibytes = 256 if size >= 1024 else 8
    return {
        "gflops_float32": round(rate(torch.float32, device, size, seconds), 1),
        "gflops_bfloat16": round(rate(torch.bfloat16, device, size, seconds), 1),
        "copy_gbytes": round(copy_rate(device, mebibytes, seconds), 2),
    }
