"""What a person sees while work goes on: live bars in a terminal or a notebook, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import importlib.util
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from astroformer.errors import check_installed
from astroformer.summaries import percent


def duration(seconds: float) -> str:
    """`75` → "1:15", `4000` → "1:06:40"."""
    whole = max(0, round(seconds))
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


_WIDE = 110  # columns of a terminal that shows the loss and the speed too
_NOTEBOOK = 96  # columns that the cell of a notebook has room for


class Reporter:
    """Shows how far an activity is: images counted, bytes downloaded, a training run.

    It is a context: while it is open, a terminal or a Jupyter notebook shows a bar for each activity. Elsewhere (a log,
    a pipe, a thread, a notebook without `ipywidgets`) there is a plain line now and then. All of it goes to stderr.

    Args:
        console: where to write; stderr without it.
        quiet: show no progress.
        verbose: show the details too.
        warns: whether `warn` is heard though it is quiet.
    """

    def __init__(
        self, console: Console | None = None, *, quiet: bool = False, verbose: bool = False, warns: bool = False
    ) -> None:
        # stdout is for the results, whose last line names the model.
        self.console = console or Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self._loud = Console(stderr=True, highlight=False, soft_wrap=True) if quiet and warns else self.console
        if self.console.is_jupyter:  # where a long line would have to be moved to be read
            self.console.soft_wrap, self.console.width = False, _NOTEBOOK
        # Where there are bars, rich passes on what others print meanwhile; only one thread of a program can have that.
        can_draw = importlib.util.find_spec("ipywidgets") if self.console.is_jupyter else self.console.is_terminal
        self.live = bool(can_draw) and not quiet and threading.current_thread() is threading.main_thread()
        self.verbose = verbose
        self._open = False
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._last_line: dict[str, float] = {}
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        self._open = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False
        if self._progress:
            self._progress.stop()

    def say(self, text: str) -> None:
        """Prints one line, which stays."""
        self.console.print(text, markup=False)

    def detail(self, text: str) -> None:
        """Prints one line of what was decided, which stays, where details are asked for."""
        if self.verbose:
            self.say(text)

    def warn(self, text: str) -> None:
        """Prints one line about what is left out or doubtful, which no progress may hide."""
        if self._loud is self.console:
            self.say(text)
        else:
            self._loud.print(text, markup=False)

    def _bar(self, name: str, share: float, text: str) -> None:
        if not (self.live and self._open):
            return
        if self._progress is None:  # at the first bar: what is done at once, or only says a line, needs none
            # In a narrow terminal the end of the text gives way, not the name of a run or how far it is. In one of 80
            # columns all of it fits while a run trains.
            columns = (
                TextColumn("[bold]{task.description:<9}", table_column=Column(no_wrap=True, min_width=9)),
                BarColumn(bar_width=20),
                TextColumn("{task.percentage:>3.0f} %", table_column=Column(no_wrap=True, min_width=5)),
                TextColumn("{task.fields[text]}", style="dim", table_column=Column(no_wrap=True)),
            )
            self._progress = Progress(*columns, console=self.console, refresh_per_second=4)
            self._progress.start()
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=1.0, text="")
        self._progress.update(self._tasks[name], completed=share, text=text)

    def count(self, name: str, done: int, total: int) -> None:
        """Shows that `done` of `total` images of the activity `name` are done; a log has one line, at the end."""
        self._bar(name, done / max(total, 1), f"{done:,} of {total:,} image{'s' * (total != 1)}")
        if not self.live and done == total:
            self.say(f"{name}: {total:,} image{'s' * (total != 1)}")

    def transfer(self, name: str, done: int, total: int) -> None:
        """Shows that `done` of `total` bytes of the file `name` are here.

        A log has a line every 15 seconds at most, and one at the end.
        """
        text = f"{done / 1e6:,.1f} of {total / 1e6:,.1f} MB"
        self._bar(name, done / max(total, 1), text)
        if not self.live and (done == total or time.monotonic() - self._last_line.get(name, self._began) >= 15):
            self._last_line[name] = time.monotonic()
            self.say(f"downloading {name}: {text}")

    def training(
        self,
        *,
        progress: float,
        epoch: int,
        loss: float,
        images_per_second: float,
        valid: float | None,
        left: float,
        name: str = "training",
    ) -> None:
        """Shows how far a training run is. A terminal shows each call, a log one line every 15 seconds at most.

        Args:
            progress: share of the run that is done.
            epoch: the epoch that the run is in.
            loss: smoothed training loss in nats.
            images_per_second: how many images are trained on in a second.
            valid: balanced accuracy at the last validation; None before the first.
            left: seconds to go.
            name: of the run, where there are several at once; each has a bar and lines of its own.
        """
        score = "" if valid is None else f" · validation {percent(valid)}"
        text = f"{duration(left)} left · epoch {epoch}{score}"
        if not self.live or self.console.width >= _WIDE:
            text += f" · loss {loss:.3f} · {images_per_second:,.0f} images/s"
        self._bar(name, progress, text)
        if not self.live and time.monotonic() - self._last_line.get(name, self._began) >= 15:
            self._last_line[name] = time.monotonic()
            self.say(("" if name == "training" else f"{name}: ") + f"{progress:4.0%} · {text}")


@contextlib.contextmanager
def shown_by(reporter: Reporter | None, *, quiet: bool) -> Iterator[Reporter]:
    """What shows the progress of a call: the caller's reporter, if there is one, else one that is open meanwhile, which
    says what is left out or doubtful even if it is quiet."""
    if reporter is not None:
        yield reporter
    else:
        with Reporter(quiet=quiet, warns=True) as own:
            yield own


def trackers(track: str) -> str | None:
    """The name of the tracker that accelerate logs with, or None for none.

    Raises:
        UserError: its package is not installed.
    """
    if track == "none":
        return None
    check_installed(track, "track", f"track: {track}")
    return track
