"""`RunFolder`: everything that made a model, in one folder.

```
RUN/
  recipe.yaml         the decided recipe, complete
  run.json            sources, package versions, platform, command line, what was decided and left out
  splits/train.csv    file and label of every image trained on; valid.csv likewise
  left_out.csv        files that could not be read, with the reason (only when there are any)
  history.csv         one row an evaluation; history.png the same as a picture
  checkpoint.safetensors   the state to resume from
  model/              the model folder
```
"""

from __future__ import annotations

import csv
import platform
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

from astroformer.errors import UserError
from astroformer.files import read_json, replacing, write_json
from astroformer.system import versions
from astroformer.training.recipe import Recipe, make_recipe


class RunFolder:
    """The paths of a run and how its records are written; nothing in it is a pickle."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoint = self.path / "checkpoint.safetensors"
        self.model = self.path / "model"
        self.history = self.path / "history.csv"

    @classmethod
    def create(cls, path: str | Path | None, source: str) -> RunFolder:
        """A new run folder; without a `path`, the next free `runs/NAME-1, -2 …` after the source's name.

        Raises:
            UserError: `path` holds files already (a run is never overwritten) or can't be made.
        """
        if path is None:
            name = Path(source.split("@")[0].split(":")[0]).stem or "run"
            number = 1
            while (Path("runs") / f"{name}-{number}").exists():
                number += 1
            path = Path("runs") / f"{name}-{number}"
        path = Path(path)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UserError(
                f"run folder '{path}' is not empty; give another --out, or continue it with --resume {path}."
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"run folder '{path}' can't be made: {error.strerror}.") from None
        return cls(path)

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """An existing run, to resume. Raises `UserError` when `path` holds none."""
        run = cls(path)
        if not (run.path / "recipe.yaml").is_file() or not (run.path / "run.json").is_file():
            raise UserError(f"'{path}' is no run folder (no recipe.yaml and run.json in it), so it can't be resumed.")
        return run

    def write_recipe(self, recipe: Recipe) -> None:
        (self.path / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")

    def read_recipe(self) -> Recipe:
        return make_recipe(yaml.safe_load((self.path / "recipe.yaml").read_text(encoding="utf-8")))

    def write_record(self, record: dict[str, Any]) -> None:
        """`run.json`: `record` and where it was made."""
        made = {
            "versions": versions(),
            "platform": platform.platform(),
            "threads": torch.get_num_threads(),
            "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "command": sys.argv,
        }
        write_json(self.path / "run.json", {**record, **made})

    def read_record(self) -> dict[str, Any]:
        return read_json(self.path / "run.json")

    def write_left_out(self, failures: list[tuple[str, str]]) -> None:
        """`left_out.csv`: every file that could not be read and why. Written only when there are any."""
        if failures:
            with (self.path / "left_out.csv").open("w", newline="", encoding="utf-8") as stream:
                writer = csv.writer(stream)
                writer.writerow(["file", "reason"])
                writer.writerows(failures)

    def write_history(self, rows: list[dict[str, float]]) -> None:
        """`history.csv`, whole, so that a resumed run leaves no doubled rows."""
        with replacing(self.history) as part, part.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(rows[0]) if rows else [])
            writer.writeheader()
            writer.writerows(rows)
