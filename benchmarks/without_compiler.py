"""How many times as fast training is with the native kernels as without: what a C++ compiler is worth.

    python benchmarks/without_compiler.py

`astroformer train mock-galaxies` in fresh processes, with the kernels and with `ASTROFORMER_NATIVE=0`, which does what
a missing compiler does. The two are measured in turn, on one core. A figure is the processor's time of two epochs: that
of a run of three less that of a run of one. Ratios are of neighbours, and their median counts;
`results/without_compiler.json` keeps all.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import tempfile
from pathlib import Path

from common.machine import code_version, processor
from common.rows import RESULTS

OUT = RESULTS / "without_compiler.json"
SOURCE = "mock-galaxies:500"
FEW, MANY = 1, 3  # epochs


def seconds_of(epochs: int, *, native: bool, out: Path) -> float:
    """The processor's time of one run, in seconds.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    words = [
        "astroformer",
        "train",
        SOURCE,
        "--epochs",
        str(epochs),
        "--evaluations",
        "1",
        "--quiet",
        "--out",
        str(out),
    ]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(words, check=True, env={**os.environ, "ASTROFORMER_NATIVE": "1" if native else "0"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    found: dict[bool, list[float]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as folder:
        seconds_of(1, native=True, out=Path(folder, "first"))  # builds the kernels and the store
        for repeat in range(repeats):
            for native in found:
                few, many = (
                    seconds_of(epochs, native=native, out=Path(folder, f"{repeat}-{native}-{epochs}"))
                    for epochs in (FEW, MANY)
                )
                found[native].append(round(many - few, 2))
    ratios = [without / with_kernels for with_kernels, without in zip(found[True], found[False], strict=True)]
    result = {
        "source": SOURCE,
        "epochs": MANY - FEW,
        "seconds_with": found[True],
        "seconds_without": found[False],
        "ratio": round(statistics.median(ratios), 2),
        "processor": processor("cpu"),
        "code": code_version(),
    }
    OUT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{result['ratio']:g} times as fast with the kernels ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
