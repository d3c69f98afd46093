"""What Ctrl-C and SIGTERM do to a command before and beside a training, which saves its state first (`stopping.py`)."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType


class Stopped(KeyboardInterrupt):
    """The signal `number` has come."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


_importing = False


@contextlib.contextmanager
def signals_stop() -> Iterator[list[int]]:
    """Within it a signal raises `Stopped`, and its number is in the list, whatever is raised in the end. A second one
    ends the process at once.

    Until `imports_are_done`, the first one does so in a fresh process: what is imported may swallow an exception, or
    turn it into another one, and there is nothing to tidy up yet.
    """
    global _importing
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came  # only the main thread may handle signals
        return

    def stop(number: int, frame: FrameType | None) -> None:
        if _importing or came:
            with contextlib.suppress(OSError):
                os.write(2, b"stopped.\n")
            os._exit(128 + number)
        came.append(number)
        raise Stopped(number)

    _importing = "torch" not in sys.modules
    before = {
        number: signal.signal(number, stop)
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) != signal.SIG_IGN  # as of a job in the background, which Ctrl-C does not mean
    }
    try:
        yield came
    finally:
        _importing = False
        for number, handler in before.items():
            signal.signal(number, handler)


def imports_are_done() -> None:
    """From here on a command may have something to tidy up."""
    global _importing
    _importing = False
