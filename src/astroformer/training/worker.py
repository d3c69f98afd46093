"""One of several runs at once: `python -m astroformer.training.worker RUN THREADS`, started by
`training/side_by_side.py`.

It continues the run folder RUN with THREADS threads. What there is to say goes to stdout as a line of JSON each, what
libraries print to stderr. It saves and stops when its stdin is closed, which happens also when its parent dies.

Exit status: 0 done; 2 an error the user can mend, told as the last line; 1 ours, its traceback on stderr; 130 stopped.
"""

from __future__ import annotations

import _thread
import json
import os
import signal
import sys
import threading
import traceback
from typing import Any, TextIO

import torch

from astroformer.errors import UserError, explained
from astroformer.progress import Reporter
from astroformer.training.single import resume_run
from astroformer.training.stopping import Interrupted

_PATIENCE = 60.0  # seconds for a worker whose parent was killed: it saves and stops after its step


class LineReporter(Reporter):
    """Writes what would be shown as lines of JSON for the parent to show."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(quiet=True)
        self._stream = stream

    def send(self, kind: str, content: Any) -> None:
        try:
            self._stream.write(json.dumps([kind, content]) + "\n")
            self._stream.flush()
        except OSError:
            pass  # the parent is gone: its closing of our stdin stops the run, not this

    def say(self, text: str) -> None:
        self.send("say", text)

    def count(self, name: str, done: int, total: int) -> None:
        self.send("count", [name, done, total])

    def transfer(self, name: str, done: int, total: int) -> None:
        if done == total:  # files are there before workers begin; only one that has gone since is fetched here
            self.say(f"downloaded {name}")

    def training(self, *, name: str = "training", **shown: Any) -> None:
        self.send("training", shown)


def _stop_with_parent() -> None:
    """Waits for the end of stdin, then acts as Ctrl-C does in a run alone."""
    while os.read(0, 1):
        pass
    _thread.interrupt_main(signal.SIGINT)


def main(run: str, threads: str) -> int:
    """Continues `run` to its end and returns the exit status."""
    torch.set_num_threads(int(threads))
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    reporter = LineReporter(stream)
    try:
        threading.Thread(target=_stop_with_parent, daemon=True).start()
        resume_run(run, reporter, threads=int(threads), patience=_PATIENCE)
    except (UserError, OSError) as error:
        sentence = explained(error) if isinstance(error, OSError) else str(error)
        if sentence is None:
            traceback.print_exc()
            return 1
        reporter.send("error", sentence)
        return 2
    except (Interrupted, KeyboardInterrupt):
        return 130
    except Exception:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
