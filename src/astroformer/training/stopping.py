"""How a run is asked to stop, and what it raises when it has."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


class Interrupted(Exception):
    """The run was asked to stop, by the signal `number` if by one, and has saved its state."""

    def __init__(self, message: str = "", number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.number = number

    @classmethod
    def saved(cls, folder: object, number: int = 0) -> Interrupted:
        """That of a run, or a study, in `folder`, with the command that continues it."""
        how = f"stopped and saved; continue with: astroformer train --resume {folder}"
        return cls(how, number or signal.SIGINT)


@dataclass
class StopRequest:
    """Whether a signal has asked to stop, and which."""

    number: int = 0

    def __call__(self) -> bool:
        return self.number != 0


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Within it, the first SIGINT or SIGTERM asks a run to save and stop; a second one stops at once."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # only the main thread may handle signals
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if request():
            raise KeyboardInterrupt
        request.number = number

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
