"""`train_many`: several runs of one source at once (seeds, folds), each with a run folder as if it had been alone.

```
GROUP/
  runs.json       the names of the runs, in order, and how they share the device
  seed-0/         the run folder of each (`training/run.py`)
  seed-1/
  summary.json    scores of every run, mean, standard deviation and n; written when all are done
  model/          of an ensemble alone (`training/ensemble.py`), whose members the runs are
```
All run folders are prepared first, so that every image is decoded once and what is wrong is said before the work. Then
the runs share the device in one of three ways:

- `processes`: side by side, as many as there are cores, a process and an equal share of the cores each. Every run has
  the weights, to the bit, that it would have alone with so many threads.
- `stacked`: as one program (`training/stacked.py`), for a GPU that one small network can't fill.
- `in-turn`: one after the other, each with the whole device.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from astroformer.classifier import Classifier
from astroformer.errors import UserError, unknown_name
from astroformer.files import read_json, write_json
from astroformer.progress import Reporter
from astroformer.system import pick_device
from astroformer.training.loop import Interrupted
from astroformer.training.memory import footprint, free_memory
from astroformer.training.recipe import Recipe
from astroformer.training.run import RunFolder
from astroformer.training.stacked import resume_stacked, why_not_stacked
from astroformer.training.train import Setup, prepare, reopen, resume, stop_requests

Together = Literal["auto", "processes", "stacked", "in-turn"]
_PROCESS = 2**29  # bytes that Python and torch take before a run begins
_RECORD = "runs.json"
_SCORES = ("top1", "balanced_accuracy", "macro_f1", "nll")


@dataclass(frozen=True)
class TrainedMany:
    """What `train_many` gives back.

    Attributes:
        group: the folder of all runs.
        models: the model folder of every finished run, by its name.
        errors: why a run failed, by its name.
        summary: what `summary.json` holds: `runs` (a row each), and for every score `mean`, `sd` and `n`.
    """

    group: Path
    models: dict[str, Path]
    errors: dict[str, str]
    summary: dict[str, Any]

    def table(self) -> str:
        """The summary as text: a line a run, and mean ± standard deviation."""
        width = max(len(name) for name in [*self.models, *self.errors, "mean ± sd"])
        lines = [f"{'run':<{width}}   {'top-1':<14}balanced accuracy"]
        for row in self.summary["runs"]:
            if "error" in row:
                lines.append(f"{row['run']:<{width}}  failed: {row['error']}")
            else:
                lines.append(f"{row['run']:<{width}}  {row['top1']:6.1%}        {row['balanced_accuracy']:6.1%}")
        n = len(self.models)
        if n > 1:
            cells = [
                f"{s['mean']:6.1%} ± {s['sd']:.1%}" for s in (self.summary["top1"], self.summary["balanced_accuracy"])
            ]
            lines.append(f"{'mean ± sd':<{width}}  {cells[0]:<14}{cells[1]}   (n = {n})")
        return "\n".join(lines)


def seeds_and_folds(recipe: Recipe, *, seeds: int = 1, all_folds: bool = False) -> list[Recipe]:
    """The recipes of `seeds` seeds from the recipe's own on and, with `all_folds`, of every fold of each.

    Raises:
        UserError: fewer than one seed, or all folds of a recipe without `folds`.
    """
    if seeds < 1:
        raise UserError(f"seeds is {seeds}; 1 or more are needed.")
    if all_folds and recipe.folds is None:
        raise UserError("all folds are asked for, but not how many there are; give --folds, for instance --folds 5.")
    folds = range(recipe.folds) if all_folds and recipe.folds else [recipe.fold]
    return [
        recipe.model_copy(update={"seed": seed, "fold": fold})
        for seed in range(recipe.seed, recipe.seed + seeds)
        for fold in folds
    ]


def train_many(
    source: str | Path,
    recipes: Sequence[Recipe],
    *,
    valid: str | Path | None = None,
    out: str | Path | None = None,
    init_from: str | Path | None = None,
    strict: bool = False,
    cache: str | Path | None = None,
    together: Together = "auto",
    reporter: Reporter | None = None,
) -> TrainedMany:
    """Trains several classifiers from one source, each into a run folder within the group folder `out`.

    A run that fails does not stop the others; `errors` of what is given back tells. A length in minutes is that of
    each process, or of a stack as a whole.

    Args:
        recipes: one a run; see `seeds_and_folds`.
        out: group folder, new or empty; default `runs/NAME-1`, `-2`, …
        together: how the runs share the device; `auto` is `processes` on a CPU, on a GPU `stacked` where the recipes
            allow it and else `in-turn`.
        Others: as for `train`, for all runs.

    Raises:
        UserError: as `train`, before any run has begun; or stacking is asked for and can't be done.
        Interrupted: SIGINT or SIGTERM came; all runs have saved their state, and `resume_many` goes on.
    """
    reporter = reporter or Reporter(quiet=True)
    options: Any = {"valid": valid, "out": out, "init_from": init_from, "strict": strict, "cache": cache}
    return resume_many(
        prepare_many(source, recipes, together=together, reporter=reporter, **options), reporter=reporter
    )


def prepare_many(
    source: str | Path,
    recipes: Sequence[Recipe],
    *,
    valid: str | Path | None = None,
    out: str | Path | None = None,
    init_from: str | Path | None = None,
    strict: bool = False,
    cache: str | Path | None = None,
    together: Together = "auto",
    ensemble: bool = False,
    reporter: Reporter,
) -> Path:
    """All of `train_many` that comes before the first step: the group folder, with every run prepared in it.

    Arguments and errors as for `train_many`; `ensemble` is noted in the folder's record, for who resumes it.
    """
    if not recipes:
        raise UserError("no recipe is given; train_many needs one a run.")
    if together not in get_args(Together):
        raise unknown_name("way to run together", together, get_args(Together))
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("several runs at once can't be split over processes as well; start them without torchrun.")
    device = pick_device(recipes[0].device)
    reasons = [reason for recipe in recipes if (reason := why_not_stacked(recipe))]
    if together == "stacked" and reasons:
        raise UserError(f"these runs can't be stacked: {reasons[0]}; choose processes or in-turn.")
    if together == "auto":
        together = "processes" if device == "cpu" else "in-turn" if reasons else "stacked"
    group = RunFolder.create(out, str(source)).path
    names, setups = _names(recipes), list[Setup]()
    options: Any = {"valid": valid, "init_from": init_from, "strict": strict, "cache": cache}
    try:
        for name, recipe in zip(names, recipes, strict=True):
            # What was decided is said for the first run alone; it is in the run.json of each.
            quiet = reporter if name == names[0] else Reporter(quiet=True)
            setups.append(prepare(source, recipe, out=group / name, reporter=quiet, **options))
    except UserError:
        if not any(group.iterdir()):
            group.rmdir()  # so that the next attempt is not number 2
        raise
    if together == "stacked" and (reason := why_not_stacked(setups[0].recipe)):
        reporter.say(f"one after the other, since {reason}")
        together = "in-turn"
    at_once = min(len(recipes), _cores(), _fitting(setups)) if together == "processes" else 1
    record = {"runs": names, "together": together, "at_once": at_once, "threads": max(1, _cores() // at_once)}
    write_json(group / _RECORD, {**record, "ensemble": True} if ensemble else record)
    return group


def is_group(folder: str | Path) -> bool:
    """Whether a folder holds several runs that `resume_many` can continue."""
    return (Path(folder) / _RECORD).is_file()


def is_ensemble(folder: str | Path) -> bool:
    """Whether the runs of a group are the members of an ensemble. Raises `UserError` where its record is damaged."""
    return is_group(folder) and bool(read_json(Path(folder) / _RECORD).get("ensemble"))


def unfinished_runs(group: Path) -> list[str]:
    """The names of the runs of a group that have no model yet."""
    names: list[str] = read_json(group / _RECORD)["runs"]
    return [name for name in names if not (group / name / "model" / "config.json").is_file()]


def resume_many(group: str | Path, *, reporter: Reporter | None = None) -> TrainedMany:
    """Continues the runs of a group that are not finished, in the way and with the threads that they began with.

    Raises:
        UserError: `group` holds no runs, or all are finished.
        Interrupted: as `train_many`.
    """
    reporter = reporter or Reporter(quiet=True)
    group = Path(group)
    if not is_group(group):
        raise UserError(f"'{group}' holds no group of runs (no {_RECORD} in it), so it can't be resumed.")
    record = read_json(group / _RECORD)
    unfinished = unfinished_runs(group)
    if not unfinished:
        raise UserError(f"all runs of '{group}' are finished; {group / 'summary.json'} holds their scores.")
    with stop_requests() as stop:
        if record["together"] == "processes":
            at_once, threads = record["at_once"], record["threads"]
            cores = f"{threads} thread{'s' * (threads > 1)} each"
            reporter.say(f"{len(unfinished)} runs, {min(at_once, len(unfinished))} at a time, {cores}")
            errors = _in_processes(group, unfinished, at_once, threads, reporter, stop)
        elif record["together"] == "stacked":
            setups = {name: reopen(group / name, reporter) for name in unfinished}
            errors = resume_stacked(setups, reporter, stop)
        else:
            errors = _in_turn(group, unfinished, reporter)
        left = unfinished_runs(group)
        if stop() and set(left) - set(errors):
            how = f"stopped and saved; continue with: astroformer train --resume {group}"
            raise Interrupted(how, stop.number)
    errors.update({name: "it was stopped from outside" for name in left if name not in errors})
    return summed_up(group, errors)


def summed_up(group: Path, errors: dict[str, str]) -> TrainedMany:
    """Writes the summary of a group whose runs are finished, but for those that `errors` names with their reason."""
    names: list[str] = read_json(group / _RECORD)["runs"]
    models = {name: group / name / "model" for name in names if name not in errors}
    summary = _summary(models, errors, names)
    write_json(group / "summary.json", summary)
    return TrainedMany(group, models, errors, summary)


def _names(recipes: Sequence[Recipe]) -> list[str]:
    """`seed-0`, `seed-0-fold-1`; numbers where those would not tell the runs apart."""
    names = [f"seed-{r.seed}" + ("" if r.folds is None else f"-fold-{r.fold}") for r in recipes]
    return names if len(set(names)) == len(names) else [f"run-{i + 1}" for i in range(len(names))]


def _fitting(setups: list[Setup]) -> int:
    """How many of the runs fit into the memory at once; at least one."""
    free = free_memory("cpu")
    if free is None:
        return len(setups)
    needs = [
        _PROCESS + footprint(s.recipe, s.network.config, s.preprocessing.image_size).of(
            math.ceil(s.recipe.batch / s.recipe.parts))
        for s in setups
    ]  # fmt: skip
    return max(1, int(free // max(needs)))


def _cores() -> int:
    return torch.get_num_threads()  # the cores of this process, or what OMP_NUM_THREADS grants it


def _summary(models: dict[str, Path], errors: dict[str, str], names: list[str]) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    for name in names:
        if name in errors:
            rows.append({"run": name, "error": errors[name]})
        else:
            metrics = Classifier.load(models[name]).info["metrics"]
            rows.append({"run": name, "n": metrics["n"], **{k: metrics[k]["value"] for k in _SCORES}})
    summary: dict[str, Any] = {"runs": rows}
    for score in _SCORES:
        values = [row[score] for row in rows if "error" not in row]
        if values:
            spread = statistics.stdev(values) if len(values) > 1 else None
            summary[score] = {"mean": statistics.fmean(values), "sd": spread, "n": len(values)}
    return summary


def _in_turn(group: Path, names: list[str], reporter: Reporter) -> dict[str, str]:
    """Runs one after the other; why runs failed, by name."""
    errors: dict[str, str] = {}
    for number, name in enumerate(names, 1):
        reporter.say(f"{name} ({number} of {len(names)})")
        try:
            resume(group / name, reporter=reporter)
        except UserError as error:
            errors[name] = str(error)
        except Interrupted as stopped:
            how = f"stopped and saved; continue with: astroformer train --resume {group}"
            raise Interrupted(how, stopped.number) from None
    return errors


class _Worker:
    """A run in a process of its own; what it says arrives in `events` as (name, kind, content)."""

    def __init__(self, folder: Path, threads: int, events: queue.Queue[tuple[str, str, Any]]) -> None:
        self.name = folder.name
        self.told: str | None = None  # the error that the run itself names
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the worker)
        command = [sys.executable, "-m", "astroformer.training.worker", str(folder), str(threads)]
        # In a session of its own, so that Ctrl-C reaches the parent alone, which then asks each worker once.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            start_new_session=True,
        )
        threading.Thread(target=self._listen, args=(events,), daemon=True).start()

    def _listen(self, events: queue.Queue[tuple[str, str, Any]]) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
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


def _in_processes(
    group: Path, names: list[str], at_once: int, threads: int, reporter: Reporter, stop: Callable[[], bool]
) -> dict[str, str]:
    """Runs side by side, `at_once` at a time; why runs failed, by name."""
    events: queue.Queue[tuple[str, str, Any]] = queue.Queue()
    waiting, running, errors = list(names), dict[str, _Worker](), dict[str, str]()
    asked = False
    try:
        while running or (waiting and not asked):
            while waiting and len(running) < at_once and not asked:
                name = waiting.pop(0)
                running[name] = _Worker(group / name, threads, events)
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
            elif kind == "end" and (error := running.pop(name).error()) is not None:
                errors[name] = error
                reporter.say(f"{name} failed: {error}")
    finally:
        for worker in running.values():  # only if something went wrong here, or Ctrl-C came a second time
            worker.kill()
    return errors
