from __future__ import annotations

import importlib.util
import io
import re
import threading
import time
from typing import Any

import pytest
from rich.console import Console

from astroformer import progress
from astroformer.errors import UserError
from astroformer.progress import Reporter, duration, shown_by, trackers


def reporter(terminal: bool, width: int = 160) -> tuple[Reporter, io.StringIO]:
    text = io.StringIO()
    return Reporter(Console(file=text, force_terminal=terminal, width=width, highlight=False)), text


def training(**changes: Any) -> dict[str, Any]:
    return {
        "progress": 0.25,
        "epoch": 3,
        "loss": 1.2345,
        "images_per_second": 1234.5,
        "valid": 0.678,
        "left": 75,
        **changes,
    }


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (-3, "0:00"), (75, "1:15"), (59.6, "1:00"), (3599, "59:59"), (4000, "1:06:40")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_without_a_terminal_there_are_plain_lines_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    shown, text = reporter(terminal=False)
    with shown:
        for _ in range(40):
            now[0] += 1.0
            shown.training(**training())
    lines = text.getvalue().splitlines()
    assert len(lines) == 2  # 40 seconds, a line every 15
    for word in ("25%", "epoch 3", "loss 1.23", "67.8 %", "1,23", "images/s", "1:15 left"):
        assert word in lines[0]
    assert "\x1b" not in text.getvalue()


def test_before_the_first_evaluation_no_accuracy_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, text = reporter(terminal=False)
    monkeypatch.setattr(progress.time, "monotonic", lambda: shown._began + 20)
    shown.training(**training(valid=None))
    assert "accuracy" not in text.getvalue()
    assert "epoch 3" in text.getvalue()


def test_a_terminal_shows_a_bar_with_everything() -> None:
    shown, text = reporter(terminal=True)
    with shown:
        shown.count("decoding", 5, 10)
        shown.training(**training())
        shown.say("a [line] that stays")
    for word in ("decoding", "5 of 10 images", "training", "25 %", "epoch 3", "loss 1.23", "67.8 %", "1:15 left"):
        assert word in text.getvalue()
    assert "a [line] that stays" in text.getvalue()


def test_in_80_columns_the_whole_line_fits_with_its_bar() -> None:
    shown, text = reporter(terminal=True, width=80)
    with shown:
        shown.training(**training(epoch=999, valid=1.0, left=3599))
    line = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text.getvalue()).split("\r")[-1].strip("\n")
    assert "59:59 left · epoch 999 · validation 100.0 %" in line
    assert line.count("━") + line.count("╺") == 20
    assert "…" not in line
    assert len(line.rstrip()) <= 80


def test_details_are_shown_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    Reporter().detail("what was decided")
    Reporter(verbose=True).detail("what was decided")
    assert capsys.readouterr().err == "what was decided\n"


def test_counts_are_one_line_when_done() -> None:
    shown, text = reporter(terminal=False)
    for done in (0, 500, 1000):
        shown.count("decoding", done, 1000)
    shown.count("predicting", 1, 1)
    assert text.getvalue() == "decoding: 1,000 images\npredicting: 1 image\n"


def test_quiet_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter(quiet=True) as shown:
        shown.say("a line")
        shown.count("decoding", 1, 1)
        shown.training(**training())
    assert capsys.readouterr() == ("", "")


def test_what_is_doubtful_is_said_though_a_call_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with shown_by(None, quiet=True) as shown:
        shown.say("a line")
        shown.warn("3 files are left out")
    assert capsys.readouterr() == ("", "3 files are left out\n")


def test_progress_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    Reporter().say("a line")
    assert capsys.readouterr() == ("", "a line\n")


def test_a_missing_tracker_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    assert trackers("none") is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert trackers("tensorboard") == "tensorboard"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "\.\[track\]"'):
        trackers("tensorboard")


def test_a_call_shows_its_progress_or_what_the_caller_has(capsys: pytest.CaptureFixture[str]) -> None:
    with shown_by(None, quiet=False) as own:
        own.say("a line")
    with shown_by(None, quiet=True) as own:
        own.say("not this")
    given, text = reporter(terminal=False)
    with shown_by(given, quiet=False) as same:
        assert same is given
        same.say("of the caller")
    assert capsys.readouterr().err == "a line\n"
    assert text.getvalue() == "of the caller\n"


def test_a_terminal_has_no_bar_for_what_only_says_a_line() -> None:
    shown, text = reporter(terminal=True)
    with shown:
        shown.say("a line")
    assert text.getvalue() == "a line\n"


def notebook(monkeypatch: pytest.MonkeyPatch, *, widgets: bool) -> Reporter:
    """A reporter whose console lies in a notebook, with the package that draws bars there or without it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if widgets else None)
    return Reporter(Console(file=io.StringIO(), force_jupyter=True))


def test_a_notebook_has_bars_where_it_can_draw_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert notebook(monkeypatch, widgets=True).live
    assert not notebook(monkeypatch, widgets=False).live


def test_lines_are_broken_where_a_cell_of_a_notebook_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    console = notebook(monkeypatch, widgets=False).console
    with console.capture() as shown:
        console.print("word " * 40)
    assert max(map(len, shown.get().splitlines())) <= 96


def test_another_thread_has_lines_in_place_of_bars() -> None:
    made: list[Reporter] = []
    thread = threading.Thread(target=lambda: made.append(reporter(terminal=True)[0]))
    thread.start()
    thread.join()
    assert reporter(terminal=True)[0].live
    assert not made[0].live
