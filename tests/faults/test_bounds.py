"""Whatever a file claims, its refusal takes less than 2 GB and 60 s."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import hostile
from helpers.fuzzing import MEMORY, SECONDS

pytest.importorskip("astropy")
pytest.importorskip("h5py")
pytest.importorskip("zarr")
AS_THEY_ARE = {"FITS: all that may be"}  # which is read
LENGTHS = ["quick", pytest.param("slow", marks=pytest.mark.slow)]


@pytest.mark.parametrize("length", LENGTHS)
def test_files_that_claim_much_are_refused_within_bounds(tmp_path: Path, length: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run(
        [sys.executable, "-m", "helpers.hostile", str(tmp_path), length],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    found = [json.loads(line) for line in ran.stdout.splitlines()]
    names = {f"{family}: {name}" for family, cases in hostile.FAMILIES.items() for name in cases}
    assert {name for name, *_ in found} == (hostile.SLOW if length == "slow" else names - hostile.SLOW)
    for name, said, seconds, memory in found:
        assert said.startswith("read" if name in AS_THEY_ARE else "refused: "), f"{name}: {said}"
        assert seconds < SECONDS, name
        assert memory < MEMORY, name
