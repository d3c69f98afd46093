"""The snippets of docs/tracking.md, with modules that stand in for those that nobody needs to install for a test."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import astroformer.training.train  # and accelerate with it, which looks for the modules that are stood in for
from helpers.pages import blocks

SMALL = (
    "epochs=2, evaluations=2, image_size=32, model='astroformer_atto', device='cpu', "
    "network={'widths': (8, 8, 8, 8), 'depths': (1, 1, 1, 1), 'layout': 'CCCC', 'channel_attention': 'none'}"
)


class Board:
    """What wandb.init gives: a context with `log` and `summary`."""

    def __init__(self, **words: Any) -> None:
        self.words, self.summary = words, dict[str, float]()
        self.logged: list[tuple[int, dict[str, float]]] = []

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def log(self, data: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        self.logged.append((step, data))


def snippet(module: str, folder: Path, stand_in: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Runs the block of the page that imports a module, in a folder with images, as short as a run can be."""
    program = next(text for _, text in blocks("docs/tracking.md", "python") if f"import {module}\n" in text)
    program, shortened = re.subn(r"minutes=\d+", SMALL, program)
    assert shortened == 1
    (folder / "galaxies").symlink_to(folder / "images")
    monkeypatch.chdir(folder)
    monkeypatch.setitem(sys.modules, module, stand_in)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(program, "docs/tracking.md", "exec"), names)
    return names


@pytest.fixture
def folder(galaxy_folder: Path, tmp_path: Path) -> Path:
    (tmp_path / "images").symlink_to(galaxy_folder)
    return tmp_path


def test_wandb(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Board] = []
    stand_in = types.ModuleType("wandb")

    def init(**words: Any) -> Board:
        made.append(Board(**words))
        return made[-1]

    stand_in.init = init  # type: ignore[attr-defined]
    trained = snippet("wandb", folder, stand_in, monkeypatch)["trained"]
    (board,) = made
    assert board.words["project"] == "galaxies"
    assert board.words["config"]["epochs"] == 2
    assert [step for step, _ in board.logged] == [row["updates"] for row in trained.history]
    assert board.logged[-1][1]["valid_top1"] == pytest.approx(trained.history[-1]["valid_top1"], abs=1e-6)
    assert board.summary == {"validation accuracy": trained.validation["top1"]}


def test_mlflow(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, Any]] = []
    stand_in = types.ModuleType("mlflow")

    @contextmanager
    def start_run() -> Iterator[None]:
        told.append(("begin", None))
        yield
        told.append(("end", None))

    def log_metrics(metrics: dict[str, float], step: int | None = None) -> None:
        assert all(isinstance(value, int | float) for value in metrics.values())
        told.append(("metrics", step))

    def log_artifacts(local_dir: str, artifact_path: str | None = None) -> None:
        told.append(("artifacts", (local_dir, artifact_path)))

    for function in (start_run, log_metrics, log_artifacts):
        setattr(stand_in, function.__name__, function)
    trained = snippet("mlflow", folder, stand_in, monkeypatch)["trained"]
    steps = [("metrics", row["updates"]) for row in trained.history]
    assert len(steps) == 2
    assert told == [("begin", None), *steps, ("artifacts", (str(trained.run), "run")), ("end", None)]


def test_the_page_names_every_number_of_a_row(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    told: list[dict[str, float]] = []
    recipe = eval(f"astroformer.Recipe({SMALL})", {"astroformer": astroformer})
    astroformer.train("images", recipe, on_evaluation=told.append, quiet=True)
    page = Path(__file__).parents[1] / "docs" / "tracking.md"
    table = [line.split("|")[1] for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert re.findall(r"`(\w+)`", " ".join(table)) == list(told[0])
