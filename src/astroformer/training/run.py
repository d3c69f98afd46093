"""`RunFolder`: everything that made a model, in one folder.

```
RUN/
  recipe.yaml         the decided recipe, complete
  run.json            sources, package versions, platform, command line, what was decided and left out
  splits/train.csv    file and label of every image trained on; valid.csv likewise
  left_out.csv        files that could not be read, with the reason (only when there are any)
  history.csv         one row an evaluation; history.png the same as a picture
  checkpoint.safetensors   the state to resume from
  model/              the model folder, written last: its presence says that the run is finished
```
"""

from __future__ import annotations

import csv
import platform
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
import yaml

from astroformer.errors import UserError
from astroformer.files import read_json, replacing, write_json
from astroformer.images.labelled import SetRecord
from astroformer.images.preprocessing import Preprocessing
from astroformer.network import AnswersConfig, AstroformerConfig
from astroformer.network.config import joined_words, split_words
from astroformer.system import versions
from astroformer.training.machine import Machine
from astroformer.training.recipe import Recipe, make_recipe
from astroformer.training.task import Task

Value = TypeVar("Value")
_READ_APART = ("task", "answers", "teacher", "machine")  # fields of `RunRecord` that run.json has in another way


@dataclass(frozen=True)
class Parts(Generic[Value]):
    """Something of the images to train on and of those to validate on."""

    train: Value
    valid: Value


@dataclass(frozen=True)
class TeacherRecord:
    """Which model a run learns from: its folder, and the hash of its weights when the run began."""

    model: str
    weights_sha256: str


@dataclass(frozen=True)
class RunRecord:
    """What `run.json` says of a run, but for where it was made.

    Attributes:
        task: what it is trained on, by absolute paths.
        images: how many there are.
        content: name of each store, a hash of what its images contain.
        left_out: number of files that could not be read.
        data_sets: what a published set says of itself, for each that was used.
        ignored: files of the source that are no images, with the reason.
        counts: images a class.
        decisions: the sentences of the rules.
        parameters: of the network.
        network: that is trained.
        preprocessing: of the images.
        answers: how the network is asked while it is trained: with a frame or without.
        teacher: the model that answers in place of labels, if there is one.
        machine: that the run begins on, with the threads that it is trained with.
    """

    task: Task
    images: Parts[int]
    content: Parts[str]
    left_out: int
    data_sets: list[SetRecord]
    ignored: list[str]
    counts: dict[str, int]
    decisions: list[str]
    parameters: int
    network: AstroformerConfig
    preprocessing: Preprocessing
    answers: AnswersConfig = field(default_factory=AnswersConfig)
    teacher: TeacherRecord | None = None
    machine: Machine = field(default_factory=Machine.here)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; the task's words stand beside the others."""
        fields = {**vars(self), "network": joined_words(self.network, self.answers)}
        del fields["answers"], fields["machine"]
        fields |= {"threads": self.machine.threads, "instructions": self.machine.instructions}
        fields["preprocessing"] = self.preprocessing.to_dict()
        fields |= {"images": asdict(self.images), "content": asdict(self.content)}
        fields["teacher"] = None if self.teacher is None else asdict(self.teacher)
        return {**vars(fields.pop("task")), **fields}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> RunRecord:
        """What `to_dict` gave. Raises `KeyError` or `TypeError` where something is missing or of another kind."""
        fields = {"allow_shared": False, "only_known": False, **fields}  # runs of before know of neither
        task = Task(**{name: fields[name] for name in Task.__dataclass_fields__})
        own = {name: fields[name] for name in cls.__dataclass_fields__ if name not in _READ_APART}
        network, answers = split_words(own["network"])
        teacher = fields.get("teacher")  # runs of before know of none
        own |= {
            "images": Parts(**own["images"]),
            "content": Parts(**own["content"]),
            "network": AstroformerConfig.from_dict(network),
            "answers": answers,
            "preprocessing": Preprocessing.from_dict(own["preprocessing"]),
            "teacher": None if teacher is None else TeacherRecord(**teacher),
            "machine": Machine.from_record(fields),
        }
        return cls(task=task, **own)


class RunFolder:
    """The paths of a run and how its records are written; nothing in it is a pickle."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoint = self.path / "checkpoint.safetensors"
        self.model = self.path / "model"
        self.history = self.path / "history.csv"
        self.splits = self.path / "splits"
        self.left_out = self.path / "left_out.csv"
        self._recipe, self._record = self.path / "recipe.yaml", self.path / "run.json"

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
        if not run._recipe.is_file() or not run._record.is_file():
            raise UserError(f"'{path}' is no run folder (no recipe.yaml and run.json in it), so it can't be resumed.")
        return run

    @property
    def has_recipe(self) -> bool:
        """Whether there is a run in the folder."""
        return self._recipe.is_file()

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end."""
        return (self.model / "config.json").is_file()

    def successor(self, out: str | Path | None, recipe: Recipe, teacher: TeacherRecord, decision: str) -> RunFolder:
        """A new run on the images and the split of this one, which learns from a teacher.

        Args:
            out: its folder, see `create`.
            recipe: its recipe, a decided one.
            decision: the sentence that its record says of the teacher.

        Raises:
            UserError: as `create`.
        """
        record = self.read_record()
        made = RunFolder.create(out, str(record.task.source))
        shutil.copytree(self.splits, made.splits)
        if self.left_out.exists():
            shutil.copy(self.left_out, made.path)
        made.write_record(
            replace(
                record,
                task=replace(record.task, init_from=None),
                decisions=[*record.decisions, decision],
                teacher=teacher,
                machine=Machine.here(),
            )
        )
        made.write_recipe(recipe)
        return made

    def write_recipe(self, recipe: Recipe) -> None:
        with replacing(self._recipe) as part:
            part.write_text(recipe.to_yaml(), encoding="utf-8")

    def read_recipe(self) -> Recipe:
        """The decided recipe. Raises `UserError` when the file is damaged."""
        with self._damage_is_said(self._recipe):
            return make_recipe(yaml.safe_load(self._recipe.read_text(encoding="utf-8")))

    def write_record(self, record: RunRecord) -> None:
        """`run.json`: the record, and where it was made."""
        made = {
            "versions": versions(),
            "platform": platform.platform(),
            "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "command": sys.argv,
        }
        write_json(self._record, {**record.to_dict(), **made})

    def read_record(self) -> RunRecord:
        """The record. Raises `UserError` when the file is damaged."""
        with self._damage_is_said(self._record):
            return RunRecord.from_dict(read_json(self._record))

    @contextmanager
    def _damage_is_said(self, file: Path) -> Iterator[None]:
        try:
            yield
        except (KeyError, TypeError, AttributeError, yaml.YAMLError, UnicodeDecodeError) as error:
            what = f"it lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
            raise UserError(f"'{file}' is damaged ({what}); bring it back from a copy, or start anew.") from None

    def write_left_out(self, failures: list[tuple[str, str]]) -> None:
        """`left_out.csv`: every file that could not be read and why. Written only when there are any."""
        if failures:
            with self.left_out.open("w", newline="", encoding="utf-8") as stream:
                writer = csv.writer(stream)
                writer.writerow(["file", "reason"])
                writer.writerows(failures)

    def write_history(self, rows: list[dict[str, float]]) -> None:
        """`history.csv`, whole, so that a resumed run leaves no doubled rows."""
        with replacing(self.history) as part, part.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(rows[0]) if rows else [])
            writer.writeheader()
            writer.writerows(rows)
