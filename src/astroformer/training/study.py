"""A `Study`: several runs of one question (seeds, folds, the members of an ensemble) in one folder.

```
STUDY/
  runs.json       the names of the runs, in order, and how they share the device
  seed-0/         the run folder of each (`training/run.py`)
  seed-1/
  summary.json    scores of every run, mean, standard deviation and n; written when all are done
  out_of_fold.csv where the runs are all folds: the answers about each image by the run that was not trained on it
  model/          of an ensemble alone (`training/ensemble.py`), whose members the runs are
```
All run folders are prepared first, so that every image is decoded once and what is wrong is said before the work. Then
the runs share the device in one of two ways:

- `processes`: side by side, as many as there are cores, a process and an equal share of the cores each. Every run has
  the weights, to the bit, that it would have alone with so many threads. On several GPUs, one run on each.
- `in-turn`: one after the other, each with the whole device.
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Unpack, get_args

import torch

from astroformer import ownership
from astroformer.errors import UserError, brief, unknown_name
from astroformer.evaluation.scores import metrics_text
from astroformer.files import read_json, write_json
from astroformer.metrics import Evaluation, score_lines
from astroformer.model_config import Spread, block_hash
from astroformer.model_folder import ModelFolder
from astroformer.progress import Reporter, shown_by
from astroformer.summaries import METRICS, Summarized, Summary, metric_name, metric_text, percent, some_of
from astroformer.system import cuda_devices, pick_device
from astroformer.training.hooks import Hooks, OnEvaluation, OwnAugmentation
from astroformer.training.memory import footprint, free_memory
from astroformer.training.out_of_fold import FILE as OUT_OF_FOLD
from astroformer.training.out_of_fold import answer_out_of_fold, folds_by_seed
from astroformer.training.prepare import Setup, prepare
from astroformer.training.recipe import MOST_RUNS, Recipe, as_recipe
from astroformer.training.run import RunFolder
from astroformer.training.side_by_side import run_side_by_side
from astroformer.training.single import resume_run
from astroformer.training.stopping import Interrupted, stop_requests
from astroformer.training.task import Task, TaskWords

Way = Literal["processes", "in-turn"]
Together = Literal["auto"] | Way
_PROCESS = 2**29  # bytes that Python and torch take before a run begins
_RECORD = "runs.json"
_MOST_AT_ONCE = 4096  # processes, and threads of each


@dataclass(frozen=True, repr=False)
class TrainedStudy(Summarized):
    """What several runs give back.

    Attributes:
        run: the folder of all runs.
        model: None, since the runs have a model each; an ensemble's result has one (`TrainedEnsemble`).
        validation: by score (`top1`, `balanced_accuracy`, `macro_f1`, `nll`), its spread over the finished runs.
        models: the model folder of every finished run, by its name.
        errors: why a run failed, by its name.
        rows: of each run its name and scores, or its error, as `summary.json` has them.
        out_of_fold: where the runs are all folds, by seed the scores over all images, each answered by the run that was
            not trained on it; `out_of_fold.csv` in the folder has the answers (`training/out_of_fold.py`).
    """

    run: Path
    validation: dict[str, Spread]
    models: dict[str, Path]
    errors: dict[str, str]
    rows: list[dict[str, Any]]
    out_of_fold: dict[int, Evaluation] = field(default_factory=dict)
    model: None = None

    def summary(self) -> Summary:
        lines = {}
        for metric in ("top1", "balanced_accuracy", "votes_cross_entropy"):
            if (spread := self.validation.get(metric)) is not None:
                sd = "" if spread.sd is None else metric_text(metric, spread.sd)
                beside = f" ± {sd}   (mean and deviation of {spread.n})" if sd else ""
                lines[metric_name(metric)] = metric_text(metric, spread.mean) + beside
        for seed, measured in self.out_of_fold.items():
            which = f"accuracy out of fold, seed {seed}" if len(self.out_of_fold) > 1 else "accuracy out of fold"
            lines[which] = f"{score_lines(measured.metrics)[metric_name('top1')]}, n = {measured.n:,}"
        if self.errors:
            lines["failed"] = some_of(self.errors)
        lines |= {"finished": some_of(self.models), "folder": str(self.run)}
        return Summary(f"TrainedStudy: {len(self.rows)} runs", lines)

    def table(self) -> str:
        """The scores as text: a line a run, mean ± standard deviation, and the scores out of fold."""
        width = max(len(name) for name in [*self.models, *self.errors, "mean ± sd"])
        lines = [f"{'run':<{width}}  {'top-1':>7}{'':<11}balanced accuracy"]
        for row in self.rows:
            if "error" in row:
                lines.append(f"{row['run']:<{width}}  failed: {row['error']}")
            else:
                top1, balanced = percent(row["top1"]), percent(row["balanced_accuracy"])
                lines.append(f"{row['run']:<{width}}  {top1:>7}{'':<11}{balanced:>7}")
        n = len(self.models)
        if n > 1:
            spreads = [self.validation[name] for name in ("top1", "balanced_accuracy")]
            cells = [f"{percent(s.mean):>7} ± {percent(s.sd or 0.0)}" for s in spreads]
            lines.append(f"{'mean ± sd':<{width}}  {cells[0]:<18}{cells[1]}   (n = {n})")
        for seed, measured in self.out_of_fold.items():
            which = f", seed {seed}" if len(self.out_of_fold) > 1 else ""
            lines += ["", f"each image by the run that was not trained on it{which} ({self.run / OUT_OF_FOLD}):"]
            lines.append(metrics_text(measured))
        return "\n".join(lines)


@dataclass(frozen=True)
class Study:
    """A folder of several runs, as its `runs.json` has it.

    Attributes:
        folder: of the study.
        runs: the names of the runs, in order; their folders lie in it.
        together: how they share the device.
        at_once: how many run at a time.
        threads: of each.
        ensemble: whether the runs are the members of one.
    """

    folder: Path
    runs: list[str]
    together: Way
    at_once: int
    threads: int
    ensemble: bool = False

    @staticmethod
    def is_in(folder: str | Path) -> bool:
        """Whether a folder holds a study."""
        return (Path(folder) / _RECORD).is_file()

    @classmethod
    def open(cls, folder: str | Path) -> Study:
        """The study in a folder. Raises `UserError` where there is none, or its record is damaged."""
        folder = Path(folder)
        if not cls.is_in(folder):
            raise UserError(f"'{folder}' holds no study (no {_RECORD} in it), so it can't be resumed as one.")
        record = read_json(folder / _RECORD)
        own_hash = record.pop("sha256", None)  # which versions before 0.2 did not write
        if own_hash is not None and own_hash != block_hash(record):
            raise UserError(
                f"'{folder / _RECORD}' was changed since the runs began (its SHA-256 differs); bring it back from a "
                "copy, or start anew."
            )
        try:
            # One that was begun as a stack goes on in turn.
            together: Way = "processes" if record["together"] == "processes" else "in-turn"
            ensemble = bool(record.get("ensemble", False))
            names, at_once, threads = record["runs"], record["at_once"], record["threads"]
            if not isinstance(names, list) or not names or not all(_is_name(name) for name in names):
                raise TypeError(f"its runs are {brief(names)}")
            for number in (at_once, threads):
                if type(number) is not int or not 1 <= number <= _MOST_AT_ONCE:
                    raise TypeError(f"a number of processes or threads is {brief(number)}")
            return cls(folder, names, together, at_once, threads, ensemble)
        except (KeyError, TypeError) as error:
            raise UserError(f"'{folder / _RECORD}' is damaged ({error}); bring it back, or start anew.") from None

    def write(self) -> None:
        """Writes `runs.json`."""
        record: dict[str, Any] = {name: value for name, value in vars(self).items() if name != "folder"}
        if not self.ensemble:
            del record["ensemble"]
        write_json(self.folder / _RECORD, {**record, "sha256": block_hash(record)})

    def unfinished(self) -> list[str]:
        """The names of the runs that have no model yet."""
        return [name for name in self.runs if not RunFolder(self.folder / name).finished]

    def resume(self, reporter: Reporter, hooks: Hooks | None = None) -> TrainedStudy:
        """`complete` of a study that was stopped. Raises `UserError` too where all is finished."""
        if not self.unfinished() and ((self.folder / OUT_OF_FOLD).is_file() or not self._folds()):
            scores = self.folder / "summary.json"
            raise UserError(f"all runs of '{self.folder}' are finished; {scores} holds their scores.")
        return self.complete(reporter, hooks)

    def complete(self, reporter: Reporter, hooks: Hooks | None = None) -> TrainedStudy:
        """Trains the runs that are not finished, in the way and with the threads that they began with.

        Raises:
            UserError: functions of a program are given, or lacking, where the runs need others.
            Interrupted: SIGINT or SIGTERM came; all runs have saved their state.
        """
        names, hooks = self.unfinished(), hooks or Hooks()
        if names:
            _refuse_processes(self.together, hooks)
            first = RunFolder.open(self.folder / names[0])
            hooks.check_same(first.read_record().augmentation, self.folder)
        errors: dict[str, str] = {}
        if names:
            with stop_requests() as stop:
                if self.together == "processes":
                    gpus = _gpus(first.read_recipe())
                    at_once = min(len(gpus) or self.at_once, len(names))
                    each = "a GPU each" if gpus else f"{self.threads} thread{'s' * (self.threads > 1)} each"
                    reporter.say(f"{len(names)} runs, {at_once} at a time, {each}")
                    folders = [self.folder / name for name in names]
                    errors = run_side_by_side(folders, at_once, self.threads, reporter, stop, gpus)
                else:
                    errors = self._in_turn(names, reporter, hooks)
                left = self.unfinished()
                if stop() and set(left) - set(errors):
                    raise Interrupted.saved(self.folder, stop.number)
            errors.update({name: "it was stopped from outside" for name in left if name not in errors})
        return self._summed_up(errors, reporter)

    def _in_turn(self, names: list[str], reporter: Reporter, hooks: Hooks) -> dict[str, str]:
        """Runs one after the other; why runs failed, by name."""
        errors: dict[str, str] = {}
        for number, name in enumerate(names, 1):
            reporter.say(f"{name} ({number} of {len(names)})")
            try:
                resume_run(self.folder / name, reporter, hooks, threads=self.threads)
            except UserError as error:
                errors[name] = str(error)
            except Interrupted as stopped:
                raise Interrupted.saved(self.folder, stopped.number) from None
        return errors

    def _summed_up(self, errors: dict[str, str], reporter: Reporter) -> TrainedStudy:
        """Writes `summary.json` of the finished runs, and of those that failed with their reason; and, where all folds
        are there, `out_of_fold.csv`."""
        models = {name: self.folder / name / "model" for name in self.runs if name not in errors}
        rows: list[dict[str, Any]] = []
        for name in self.runs:
            if name in errors:
                rows.append({"run": name, "error": errors[name]})
            else:
                scores = ModelFolder(models[name]).config().record.metrics
                assert scores is not None, "a finished run was validated"
                rows.append(
                    {"run": name, "n": scores.n, **{k: m.value for k, m in scores.intervals.items() if k in METRICS}}
                )
        spreads: dict[str, Spread] = {}
        for score in METRICS:
            each = [row[score] for row in rows if score in row]
            if each:
                sd = statistics.stdev(each) if len(each) > 1 else None
                spreads[score] = Spread(statistics.fmean(each), sd, len(each))
        summary: dict[str, Any] = {"runs": rows, **{k: vars(v) for k, v in spreads.items()}}
        write_json(self.folder / "summary.json", summary)
        measured: dict[int, Evaluation] = {}
        if not errors and (folds := self._folds()):
            try:
                measured = answer_out_of_fold(self.folder, folds, reporter)
            except UserError as error:  # the runs are whole, whatever has become of their images
                reporter.say(f"there is no {OUT_OF_FOLD}: {error}")
            else:
                summary["out_of_fold"] = [{"seed": seed, **scores.to_dict()} for seed, scores in measured.items()]
                write_json(self.folder / "summary.json", summary)
        return TrainedStudy(self.folder, spreads, models, errors, rows, measured)

    def _folds(self) -> dict[int, list[Path]]:
        return folds_by_seed([self.folder / name for name in self.runs])


def seeds_and_folds(recipe: Recipe, *, seeds: int = 1, all_folds: bool = False) -> list[Recipe]:
    """The recipes of `seeds` seeds from the recipe's own on and, with `all_folds`, of every fold of each.

    Raises:
        UserError: fewer than one seed, more runs than can be, or all folds of a recipe without `folds`.
    """
    if not 1 <= seeds <= MOST_RUNS:
        raise UserError(f"seeds is {seeds}; 1 to {MOST_RUNS} can be.")
    if all_folds and recipe.folds is None:
        raise UserError("all folds are asked for, but not how many there are; give --folds, for instance --folds 5.")
    runs = seeds * (recipe.folds or 1 if all_folds else 1)
    if runs > MOST_RUNS:
        raise UserError(
            f"{seeds} seeds of {recipe.folds} folds are {runs:,} runs; at most {MOST_RUNS:,} can be at once."
        )
    if recipe.seed + seeds > 2**31:
        raise UserError(
            f"{seeds} seeds from {recipe.seed} on go beyond the largest, {2**31 - 1}; begin with a smaller --seed."
        )
    folds = range(recipe.folds) if all_folds and recipe.folds else [recipe.fold]
    return [
        recipe.model_copy(update={"seed": seed, "fold": fold})
        for seed in range(recipe.seed, recipe.seed + seeds)
        for fold in folds
    ]


def train_many(
    source: str | Path,
    recipes: Sequence[Recipe | str | Path],
    *,
    out: str | Path | None = None,
    together: Together = "auto",
    augment: OwnAugmentation | None = None,
    on_evaluation: OnEvaluation | None = None,
    quiet: bool = False,
    reporter: Reporter | None = None,
    **words: Unpack[TaskWords],
) -> TrainedStudy:
    """Trains several classifiers from one source, each into a run folder within the study's folder `out`.

    A run that fails does not stop the others; `errors` of what is given back tells. A length in minutes is that of
    each process.

    Args:
        source: what to train on, see `open_source`.
        recipes: one a run, or its name or path; see `seeds_and_folds`.
        out: the study's folder, new or empty; default `runs/NAME-1`, `-2`, …
        together: how the runs share the devices: `processes` (side by side; on GPUs one run on each) or `in-turn`;
            `auto` is the first on a CPU and on several GPUs, and the second on one GPU, or with functions of a program.
        augment: a function of a program for all runs, as for `train`; not with `processes`.
        on_evaluation: another one, likewise.
        quiet: as for `train`.
        reporter: as for `train`.
        words: `valid`, `init_from`, `strict`, `cache` of a `Task`, for all runs.

    Raises:
        UserError: as `train`, before any run has begun.
        Interrupted: SIGINT or SIGTERM came; all runs have saved their state, and `resume` goes on.

    Examples:
        >>> import astroformer
        >>> recipe = astroformer.Recipe(epochs=1, image_size=32, crop=1.0, device="cpu")
        >>> recipes = [recipe.model_copy(update={"seed": seed}) for seed in (0, 1)]
        >>> study = astroformer.train_many("mock-galaxies:20x32", recipes, together="in-turn")
        >>> study.validation["top1"].n
        2
    """
    if isinstance(recipes, Recipe | str | Path):
        raise UserError("train_many needs a list of recipes, one a run; astroformer.train makes a single run.")
    hooks, made = Hooks(augment, on_evaluation), [as_recipe(recipe) for recipe in recipes]
    with shown_by(reporter, quiet=quiet) as shown:
        study = prepare_study(Task(source, **words), made, out=out, together=together, hooks=hooks, reporter=shown)
        with ownership.released(study.folder):
            return study.complete(shown, hooks)


def prepare_study(
    task: Task,
    recipes: Sequence[Recipe],
    *,
    out: str | Path | None,
    together: Together,
    ensemble: bool = False,
    hooks: Hooks | None = None,
    reporter: Reporter,
) -> Study:
    """The folder of a study, which this process owns, with every run prepared in it.

    Raises:
        UserError: as `prepare`; no recipe is given, or `together` can't be.
    """
    if not recipes:
        raise UserError("no recipe is given; train_many needs one a run.")
    if str(together) == "stacked":
        raise UserError(
            "runs can't be stacked into one program any more: in it they made a tenth of the steps of runs in turn; "
            "choose auto, processes or in-turn."
        )
    if together != "auto" and together not in get_args(Way):
        raise unknown_name("way to run together", together, ("auto", *get_args(Way)))
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("several runs at once can't be split over processes as well; start them without torchrun.")
    hooks = hooks or Hooks()
    if together == "auto":
        side_by_side = pick_device(recipes[0].device) == "cpu" or len(_gpus(recipes[0])) > 1
        together = "processes" if side_by_side and not hooks.any else "in-turn"
    _refuse_processes(together, hooks)
    created = RunFolder.create(out, str(task.source), task.valid)
    folder, names, setups = created.path, _names(recipes), list[Setup]()
    try:
        for name, recipe in zip(names, recipes, strict=True):
            # What was decided is said for the first run alone; it is in the run.json of each.
            quiet = reporter if name == names[0] else Reporter(quiet=True)
            augmentation = hooks.augmentation
            setups.append(prepare(task, recipe, out=folder / name, reporter=quiet, augmentation=augmentation))
        cores = _cores()
        at_once = min(len(recipes), _places(recipes[0], cores, setups)) if together == "processes" else 1
        study = Study(folder, names, together, at_once, max(1, cores // at_once), ensemble)
        for setup in setups:  # so that each says with how many threads it is trained, whoever resumes it
            setup.run.write_record(replace(setup.record, machine=replace(setup.record.machine, threads=study.threads)))
        study.write()
    except BaseException:
        for run in (*(setup.run for setup in setups), created):
            run.abandon()
        raise
    for setup in setups:  # whoever trains them owns them
        ownership.release(setup.run.path)
    return study


def _refuse_processes(together: Way, hooks: Hooks) -> None:
    """Raises `UserError` where functions of a program would have to go to processes of their own."""
    if together == "processes" and hooks.any:
        raise UserError(
            "augment and on_evaluation are functions of this program, which runs in processes of their own can't call; "
            "train the runs with together='in-turn'."
        )


def _is_name(name: object) -> bool:
    """Whether it can be the folder of a run within its study."""
    return isinstance(name, str) and name not in ("", ".", "..") and not {"/", "\0"} & set(name)


def _names(recipes: Sequence[Recipe]) -> list[str]:
    """`seed-0`, `seed-0-fold-1`; numbers where those would not tell the runs apart."""
    names = [f"seed-{r.seed}" + ("" if r.folds is None else f"-fold-{r.fold}") for r in recipes]
    return names if len(set(names)) == len(names) else [f"run-{i + 1}" for i in range(len(names))]


def _gpus(recipe: Recipe) -> list[str]:
    """The GPUs that the runs of such recipes are dealt to; none on a CPU."""
    return cuda_devices() if pick_device(recipe.device) == "cuda" else []


def _places(recipe: Recipe, cores: int, setups: list[Setup]) -> int:
    """How many runs go on side by side: one on each GPU, or as many as there are cores and memory for."""
    return len(_gpus(recipe)) or min(cores, _fitting(setups))


def _cores() -> int:
    return torch.get_num_threads()  # the cores of this process, or what OMP_NUM_THREADS grants it


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
