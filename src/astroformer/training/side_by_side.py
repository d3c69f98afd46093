"""Runs side by side, each in a process of its own (`training/worker.py`) with a share of the cores, or with a GPU."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from astroformer.progress import Reporter


def run_side_by_side(
    folders: list[Path],
    at_once: int,
    threads: int,
    reporter: Reporter,
    stop: Callable[[], bool],
    gpus: Sequence[str] = (),
) -> dict[str, str]:
    """Continues the runs in these folders side by side; why runs failed, by the names of their folders.

    Args:
        at_once: how many at a time.
        threads: of each.
        stop: asked several times a second whether the runs shall save and stop.
        gpus: those that the runs are dealt to, one run at a time each, as `CUDA_VISIBLE_DEVICES` names them; without
            any the runs see what this process sees.
    """
    events: queue.Queue[tuple[str, str, Any]] = queue.Queue()
    waiting, running, errors = list(folders), dict[str, _Worker](), dict[str, str]()
    free: list[str | None] = list(gpus) if gpus else [None] * at_once
    doubtful: list[str | None] = []  # GPUs on which a run has failed: dealt again where no other run is going on
    asked = False
    try:
        while running or (waiting and not asked):
            if not free and not running:
                free, doubtful = doubtful, []
            while waiting and free and not asked:
                folder = waiting.pop(0)
                running[folder.name] = _Worker(folder, threads, events, free.pop(0))
            if stop() and not asked:
                asked = True
                for worker in running.values():
                    worker.ask_to_stop()
            try:
                name, kind, content = events.get(timeout=0.2)
            except queue.Empty:
                continue
            if kind == "say":
                reporter.say(f"{name}: {content}")
            elif kind == "count":
                reporter.count(*content)
            elif kind == "training":
                reporter.training(name=name, **content)
            elif kind == "error":
                running[name].told = content
            elif kind == "end":
                worker = running.pop(name)
                error = worker.error()
                (free if error is None or worker.gpu is None else doubtful).append(worker.gpu)
                if error is not None:
                    errors[name] = error
                    reporter.say(f"{name} failed: {error}")
    finally:
        for worker in running.values():  # only if something went wrong here, or Ctrl-C came a second time
            worker.kill()
    return errors


_SEEN = "CUDA_VISIBLE_DEVICES"


class _Worker:
    """A run in a process of its own; what it says arrives in `events` as (name, kind, content)."""

    def __init__(
        self, folder: Path, threads: int, events: queue.Queue[tuple[str, str, Any]], gpu: str | None = None
    ) -> None:
        self.name, self.gpu = folder.name, gpu
        self.told: str | None = None  # the error that the run itself names
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the worker)
        command = [sys.executable, "-m", "astroformer.training.worker", str(folder), str(threads)]
        # In a session of its own, so that Ctrl-C reaches the parent alone, which then asks each worker once.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), **({} if gpu is None else {_SEEN: gpu})},
            start_new_session=True,
        )
        threading.Thread(target=self._listen, args=(events,), daemon=True).start()

    def _listen(self, events: queue.Queue[tuple[str, str, Any]]) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with contextlib.suppress(ValueError):  # the last line of a process that was killed amid it
                kind, content = json.loads(line)
                events.put((self.name, kind, content))
        events.put((self.name, "end", None))

    def ask_to_stop(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def error(self) -> str | None:
        """Waits for the end; why the run failed, None if it is done or was stopped."""
        status = self._process.wait()
        self.ask_to_stop()
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        self._stderr.close()
        if status in (0, 130):
            return None
        if self.told:
            return self.told
        if status < 0:
            killed = signal.Signals(-status).name
            hint = " (out of memory?)" if -status == signal.SIGKILL else ""
            return f"its process was ended by {killed}{hint}"
        return f"a fault of astroformer: {lines[-1] if lines else f'exit status {status}'}"

    def kill(self) -> None:
        self._process.kill()
