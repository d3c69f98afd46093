"""What this machine can do at most, measured: matrix products in float32 and bfloat16, and copying memory.

    OMP_NUM_THREADS=2 python benchmarks/ceilings.py

It takes about three seconds and prints `gflops_float32`, `gflops_bfloat16` (two operations a multiply-accumulate) and
`copy_gbytes` (bytes read and written a second, 10^9 each) as one line of JSON. The threads are torch's, so
OMP_NUM_THREADS sets them.
"""

from __future__ import annotations

import argparse
import json

from common.ceilings import measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=2048, help="rows and columns of the matrices")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each of the three measurements")
    arguments = parser.parse_args()
    print(json.dumps(measure("cpu", arguments.size, arguments.seconds)))


if __name__ == "__main__":
    main()
