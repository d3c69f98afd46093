"""Measuring in turn: each side is a fresh process that prepares itself once and is then asked for one measurement at a
time, A, B, C, A, B, C …, so that whatever else the machine does falls on all sides alike.

A side's process calls `serve` with a function that makes one measurement; `Side` is its other end. Between two
measurements a process waits for a line on its stdin and uses no core.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Measurement = dict[str, float]
_MARK = "measured "  # begins the lines that are answers; anything else a library prints is passed over


def serve(measure: Callable[[], Measurement]) -> None:
    """Answers every line of stdin with one measurement, until stdin ends."""
    answer({"ready": 1.0})
    while asked():
        answer(measure())


def asked() -> bool:
    """Waits for the next question; False when there is none any more."""
    return bool(sys.stdin.readline())


def answer(measurement: Measurement) -> None:
    """Gives one measurement, and beside it the most memory that the process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB
    print(_MARK + json.dumps({**measurement, "peak_gib": round(peak, 3)}), flush=True)


class Side:
    """A process of `command` that answers questions; made with its own number of threads."""

    def __init__(self, command: list[str], threads: int, environment: dict[str, str] | None = None) -> None:
        self.command = command
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed by `close`
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), **(environment or {})},
        )

    def read(self) -> Measurement:
        """The next answer.

        Raises:
            RuntimeError: the process ended without one; with the end of what it wrote to stderr.
        """
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(_MARK):
                return dict(json.loads(line.removeprefix(_MARK)))
        self.process.wait()
        self.errors.seek(0)
        tail = "\n".join(self.errors.read().splitlines()[-15:])
        raise RuntimeError(f"{' '.join(self.command)} ended with status {self.process.returncode}:\n{tail}")

    def ask(self) -> Measurement:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self.read()

    def close(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):  # it may have ended by itself
            self.process.stdin.close()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.errors.close()


@contextlib.contextmanager
def sides(commands: dict[str, list[str]], threads: int, environment: dict[str, str] | None = None) -> Iterator[Any]:
    """The sides by name, each prepared; one after the other, so that preparing disturbs no one."""
    opened: dict[str, Side] = {}
    try:
        for name, command in commands.items():
            opened[name] = Side(command, threads, environment)
            opened[name].read()
        yield opened
    finally:
        for side in opened.values():
            side.close()


def in_turn(
    commands: dict[str, list[str]], *, rounds: int, threads: int, environment: dict[str, str] | None = None
) -> dict[str, list[Measurement]]:
    """`rounds` measurements of each side, in turn."""
    found: dict[str, list[Measurement]] = {name: [] for name in commands}
    with sides(commands, threads, environment) as opened:
        for _ in range(rounds):
            for name, side in opened.items():
                found[name].append(side.ask())
    return found


def timed_commands(
    commands: dict[str, Callable[[], list[str]]], *, rounds: int, threads: int, until: str | None = None
) -> dict[str, list[float]]:
    """Seconds of whole commands, in turn: from the start of the process to its end, or to the first line of its
    stdout that begins with `until`, upon which it is ended.

    A command is a function, since each time it may have to write elsewhere.

    Raises:
        RuntimeError: a command failed.
    """
    found: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, make in commands.items():
            found[name].append(_timed(make(), threads, until))
    return found


def _timed(command: list[str], threads: int, until: str | None) -> float:
    with tempfile.TemporaryFile("w+") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
        assert process.stdout is not None
        reached = None
        for line in process.stdout:
            if until is not None and line.startswith(until):
                reached = time.perf_counter() - started
                break
        process.stdout.close()
        status = process.wait()
        if (until is None and status != 0) or (until is not None and reached is None):
            errors.seek(0)
            tail = "\n".join(errors.read().splitlines()[-15:])
            raise RuntimeError(f"{' '.join(command)} ended with status {status}:\n{tail}")
        return reached if reached is not None else time.perf_counter() - started


def spread(values: list[float]) -> dict[str, float]:
    """Median, minimum and maximum."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratios(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """How many times as fast ours is: median, minimum and maximum of the ratios of neighbours in time."""
    return spread([a / b for a, b in zip(ours, theirs, strict=True)])


def python(script: str, *words: object) -> list[str]:
    """The command of a benchmark script, by its name in `benchmarks/`."""
    return [sys.executable, str(Path(__file__).resolve().parents[1] / script), *map(str, words)]
