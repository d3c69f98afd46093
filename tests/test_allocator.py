from __future__ import annotations

import ctypes
import platform
import resource
from typing import Any

import pytest
import torch

from astroformer.allocator import keep_freed_memory


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_tensors_cause_no_new_page_faults() -> None:
    assert keep_freed_memory()

    def faults_of_ten_tensors() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(10):
            torch.ones(4_000_000)  # 16 MB, 3,906 pages
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    faults_of_ten_tensors()
    assert faults_of_ten_tensors() < 3_906  # given back each time, it would be ten times as many


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert keep_freed_memory() is False
