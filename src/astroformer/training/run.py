"""`RunFolder`: everything that made a model, in one folder.

```
RUN/
  recipe.yaml         the decided recipe, complete
  run.json            sources, package versions, platform, command line, what was decided and left out
  splits/train.csv    file and label of every image trained on; valid.csv likewise
  left_out.csv        files that could not be read, with the reason (only when there are any)
  history.csv         one row an evaluation; history.png and history.pdf the same as a picture
  checkpoint.safetensors   the state to resume from
  model/              the model folder, written last: its presence says that the run is finished
  .lock               the process that writes to the folder, while it does (`ownership.py`)
```
run.json is the last file of a start: without it nothing has begun, and with it `--resume` goes on.

`hashes` in run.json holds the SHA-256 of recipe.yaml, of both splits and of run.json's other words (but for the places
of images and cache, which may move: what the images contain is proved by `content`). The checkpoint keeps a digest of
its own. So nothing that decides how a run goes on changes unnoticed. Runs that began before 0.2 have no hashes; whoever
resumes one is told so.
"""

from __future__ import annotations

import contextlib
import csv
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from astroformer import ownership
from astroformer.errors import UserError
from astroformer.files import check_is_path, is_url, read_json, replacing, sha256_of, write_json
from astroformer.model_config import block_hash
from astroformer.outputs import make_folder, numbered, refuse_inside, remove_empty
from astroformer.system import versions
from astroformer.training.machine import Machine
from astroformer.training.recipe import Recipe, make_recipe
from astroformer.training.recipe_file import read_settings
from astroformer.training.run_record import RunRecord, TeacherRecord

_STARTED = ("recipe.yaml", "run.json", "left_out.csv", "splits")  # what a start writes, before the first step
_COVERED = ("recipe.yaml", "splits/train.csv", "splits/valid.csv")
_PLACES = ("source", "valid", "cache")


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
        self._made: list[Path] = []  # folders that did not exist before this run
        self.identity: str | None = None
        """A hash of all that run.json covers; None before it is read or written, and where it has no hashes."""

    @classmethod
    def create(cls, path: str | Path | None, source: str, valid: str | Path | None = None) -> RunFolder:
        """A new run folder, which this process owns; without a `path`, the next free `runs/NAME-1, -2 …` after the
        source's name.

        What a start has left that was killed before it had begun is removed.

        Raises:
            UserError: `path` holds files already (a run is never overwritten), it lies inside the images, another
                process owns it, or it can't be made.
        """
        if path is not None:
            check_is_path(path, "a run folder")
        refuse_inside(Path(path or "runs"), [source, valid])
        if path is not None:
            return cls._claimed(Path(path))
        path_name = source.split("@")[0]
        name = Path(path_name if is_url(path_name) else path_name.split(":")[0]).stem or "run"
        for free in numbered(Path("runs") / name):
            if not free.exists():
                with contextlib.suppress(ownership.InUse):
                    return cls._claimed(free)
        raise AssertionError("numbers do not end")

    @classmethod
    def _claimed(cls, path: Path) -> RunFolder:
        run, was_left = cls(path), (path / ownership.LOCK).exists()
        if not was_left and path.is_dir() and any(path.iterdir()):
            raise run._not_empty()
        run._made = make_folder(path)
        ownership.take(path)
        if was_left and run._was_cut_off():
            run._remove_start()
        if any(entry.name != ownership.LOCK for entry in path.iterdir()):
            ownership.release(path)
            raise run._not_empty()
        return run

    def _not_empty(self) -> UserError:
        what = "it holds a finished run; give another --out."
        if not self.finished:
            what = "it holds files that are no run; give another --out."
            if self._record.is_file() or (self.path / "runs.json").is_file():
                what = f"it holds a run; give another --out, or continue it with --resume {self.path}."
        return UserError(f"run folder '{self.path}' is not empty: {what}")

    def _was_cut_off(self) -> bool:
        """Whether all in the folder is of a start that was killed before it had begun, of one run or of several."""
        if self._record.exists() or (self.path / "runs.json").exists():
            return False
        return all(entry.name in _STARTED or _is_start(entry) for entry in self._entries())

    def _entries(self) -> list[Path]:
        entries = (entry.with_name(entry.name.removesuffix(".part")) for entry in self.path.iterdir())
        return [entry for entry in entries if entry.name != ownership.LOCK]

    def _remove_start(self) -> None:
        """Removes what a start has written, and nothing else."""
        for entry in self._entries():
            if entry.name in _STARTED and entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name in _STARTED:
                entry.unlink(missing_ok=True)
                entry.with_name(f"{entry.name}.part").unlink(missing_ok=True)
            elif _is_start(entry):
                RunFolder(entry)._remove_start()
                (entry / ownership.LOCK).unlink(missing_ok=True)
                remove_empty([entry])

    @contextlib.contextmanager
    def begun_or_removed(self) -> Iterator[None]:
        """A start: if it fails, nothing of it is left in the way of the next one."""
        try:
            yield
        except BaseException:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Removes what a start has written, and the folders that it made, if this process owns the folder."""
        if ownership.is_held(self.path):
            self._remove_start()
            ownership.release(self.path)
            remove_empty(self._made)

    def own(self, *, patience: float = 0.0) -> None:
        """Makes this process the owner; of several processes of one run it is the first. See `ownership.take`."""
        if os.environ.get("RANK", "0") == "0":
            ownership.take(self.path, patience=patience)

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """An existing run, to resume. Raises `UserError` when `path` holds none."""
        run = cls(path)
        if not run._recipe.is_file() or not run._record.is_file():
            what = "no recipe.yaml and run.json in it"
            if (run.path / ownership.LOCK).exists() and run._was_cut_off():
                raise UserError(
                    f"'{path}' can't be resumed: its start was ended before the run had begun ({what}). Start it again "
                    f"with --out {path}."
                )
            raise UserError(f"'{path}' is no run folder ({what}), so it can't be resumed.")
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
        with made.begun_or_removed():
            shutil.copytree(self.splits, made.splits)
            if self.left_out.exists():
                shutil.copy(self.left_out, made.path)
            made.write_recipe(recipe)
            made.write_record(
                replace(
                    record,
                    task=replace(record.task, init_from=None),
                    decisions=[*record.decisions, decision],
                    teacher=teacher,
                    machine=Machine.here(),
                )
            )
        return made

    def write_recipe(self, recipe: Recipe) -> None:
        with replacing(self._recipe) as part:
            part.write_text(recipe.to_yaml(), encoding="utf-8")

    def read_recipe(self) -> Recipe:
        """The decided recipe. Raises `UserError` when the file is damaged."""
        with self._damage_is_said(self._recipe):
            return make_recipe(read_settings(self._recipe))

    def write_record(self, record: RunRecord) -> None:
        """`run.json`: the record, where it was made, and the hashes, of recipe and splits too: these come before it."""
        made = {
            "versions": versions(),
            "platform": platform.platform(),
            "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "command": sys.argv,
        }
        fields = {**record.to_dict(), **made}
        hashes = {name: sha256_of(self.path / name) for name in _COVERED if (self.path / name).is_file()}
        hashes["run.json"] = _own_hash(fields)
        write_json(self._record, {**fields, "hashes": hashes})
        self.identity = block_hash(hashes)

    def read_record(self) -> RunRecord:
        """The record. Raises `UserError` when the file is damaged, or not the one that the run began with."""
        with self._damage_is_said(self._record):
            fields = read_json(self._record)
            hashes = fields.pop("hashes", None)
            record = RunRecord.from_dict(fields)
            if hashes is not None:
                if hashes["run.json"] != _own_hash(fields):
                    raise self._changed("run.json")
                self.identity = block_hash(hashes)
            return record

    def check_files(self, say: Callable[[str], None]) -> None:
        """Proves that what the run goes on from is what it began with.

        Args:
            say: is told where the run has no hashes.

        Raises:
            UserError: a file is not the one that run.json names, or something else is in its place.
        """
        for path, is_kind, kind in (
            (self.checkpoint, Path.is_file, "file"),
            (self.history, Path.is_file, "file"),
            (self.splits, Path.is_dir, "folder"),
            (self.model, Path.is_dir, "folder"),
        ):
            if os.path.lexists(path) and not is_kind(path):
                raise UserError(f"'{path}' is no {kind}; remove it, or bring the {kind} back that the run wrote.")
        for name in _COVERED:
            if not (self.path / name).is_file():
                raise UserError(f"run '{self.path}' lacks {name}; bring it back from a copy, or start a new run.")
        with self._damage_is_said(self._record):
            hashes = read_json(self._record).get("hashes")
            if hashes is None:
                say(
                    f"run '{self.path}' has no hashes, as versions before 0.2 wrote it: a change of its recipe, record "
                    "or splits may not show"
                )
                return
            for name in _COVERED:
                if sha256_of(self.path / name) != hashes[name]:
                    raise self._changed(name)

    def _changed(self, name: str) -> UserError:
        new = f"astroformer train SOURCE --recipe {self._recipe}" if name == "recipe.yaml" else "astroformer train"
        return UserError(
            f"{name} of run '{self.path}' was changed since the run began (its SHA-256 differs), and a run goes on "
            f"only as it began; bring the file back from a copy, or start a new run: {new}"
        )

    @contextlib.contextmanager
    def _damage_is_said(self, file: Path) -> Iterator[None]:
        try:
            yield
        except UserError as error:
            raise UserError(str(error) if str(self.path) in str(error) else f"'{file}': {error}") from None
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            what = f"it lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
            raise UserError(f"'{file}' is damaged ({what}); bring it back from a copy, or start anew.") from None

    def write_left_out(self, failures: list[tuple[str, str]]) -> None:
        """`left_out.csv`: every file that could not be read and why. Written only when there are any."""
        if failures:
            with replacing(self.left_out) as part, part.open("w", newline="", encoding="utf-8") as stream:
                writer = csv.writer(stream)
                writer.writerow(["file", "reason"])
                writer.writerows(failures)

    def write_history(self, rows: list[dict[str, float]]) -> None:
        """`history.csv`, whole, so that a resumed run leaves no doubled rows."""
        with replacing(self.history) as part, part.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(rows[0]) if rows else [])
            writer.writeheader()
            writer.writerows(rows)


def _is_start(folder: Path) -> bool:
    """Whether all in a folder is of a start that was killed, of one of several runs."""
    if not folder.is_dir():
        return False
    names = (entry.name.removesuffix(".part") for entry in folder.iterdir())
    return all(name in (*_STARTED, ownership.LOCK) for name in names)


def _own_hash(fields: dict[str, Any]) -> str:
    """The hash of run.json itself, but for where images and cache lie."""
    return block_hash({name: value for name, value in fields.items() if name not in _PLACES})
