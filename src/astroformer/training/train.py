"""The doors to training: `train` begins a run, `resume` continues whatever a folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from astroformer import ownership
from astroformer.progress import Reporter
from astroformer.training.ensemble import TrainedEnsemble, complete_ensemble
from astroformer.training.prepare import prepare
from astroformer.training.recipe import Recipe
from astroformer.training.single import Trained, complete, plan_of, resume_run
from astroformer.training.study import Study, TrainedStudy
from astroformer.training.task import Task, TaskWords


def train(
    source: str | Path,
    recipe: Recipe | None = None,
    *,
    out: str | Path | None = None,
    reporter: Reporter | None = None,
    **words: Unpack[TaskWords],
) -> Trained:
    """Trains a classifier and writes a run folder.

    Args:
        source: folder of class folders, `.npz`, catalog (CSV, Parquet) or named set; see `open_source`.
        recipe: settings; what it leaves open is decided by `rules.decide`.
        out: run folder, new or empty; default `runs/NAME-1`, `-2`, …
        reporter: what shows the progress.
        words: of a `Task`: `valid` (validation source; without it images are held out), `init_from` (model folder whose
            weights start this run), `strict` (make a file that can't be read an error instead of leaving it out),
            `only_known` (leave images of `valid` out whose class the source does not have), `allow_shared` (go on where
            images of `valid` are trained on as well), `cache` (where decoded images are kept).

    Raises:
        UserError: anything about the input that the user can mend.
        Interrupted: SIGINT or SIGTERM came; the state is saved in the run folder.

    Example:
        >>> import astroformer
        >>> recipe = astroformer.Recipe(epochs=1, image_size=32, crop=1.0, device="cpu")
        >>> trained = astroformer.train("mock-galaxies:20x32", recipe)
        >>> trained.validation.n
        10
        >>> astroformer.load(trained.model).classes == trained.classifier.classes
        True
    """
    reporter = reporter or Reporter(quiet=True)
    setup = prepare(Task(source, **words), recipe or Recipe(), out=out, reporter=reporter)
    reporter.say(plan_of(setup))
    return complete(setup, reporter)


def resume(run: str | Path, *, reporter: Reporter | None = None) -> Trained | TrainedStudy | TrainedEnsemble:
    """Continues what was stopped, with its own sources, splits and recipe: a run, a study or an ensemble.

    On CPU the result has the same weights, to the bit, as the uninterrupted run (with a length in epochs; by the
    clock, the time that had passed counts). A run that was stopped before its first checkpoint begins.

    Raises:
        UserError: the folder holds nothing of the kind, or what is finished; or its images have changed.
        Interrupted: as `train`.

    Example:
        >>> import astroformer
        >>> recipe = astroformer.Recipe(epochs=1, image_size=32, crop=1.0, device="cpu")
        >>> finished = astroformer.train("mock-galaxies:20x32", recipe)
        >>> try:
        ...     astroformer.resume(finished.run)
        ... except astroformer.UserError as error:
        ...     print("is finished" in str(error))
        True
    """
    reporter = reporter or Reporter(quiet=True)
    if not Study.is_in(run):
        return resume_run(run, reporter)
    study = Study.open(run)
    with ownership.owned(study.folder):
        return complete_ensemble(study, reporter) if study.ensemble else study.resume(reporter)
