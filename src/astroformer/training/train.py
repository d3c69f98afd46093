"""The doors to training: `train` begins a run, `resume` continues whatever a folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from astroformer import ownership
from astroformer.errors import UserError
from astroformer.files import check_is_path
from astroformer.images.labelled import LabelledImages
from astroformer.progress import Reporter, shown_by
from astroformer.training.ensemble import TrainedEnsemble, complete_ensemble
from astroformer.training.hooks import Hooks, OnEvaluation, OwnAugmentation
from astroformer.training.prepare import prepare
from astroformer.training.recipe import Recipe, as_recipe
from astroformer.training.run import RunFolder
from astroformer.training.single import Trained, complete, plan_of, resume_run
from astroformer.training.splitting import split_of
from astroformer.training.study import Study, TrainedStudy
from astroformer.training.task import Task, TaskWords


def train(
    source: str | Path,
    recipe: Recipe | str | Path | None = None,
    *,
    out: str | Path | None = None,
    augment: OwnAugmentation | None = None,
    on_evaluation: OnEvaluation | None = None,
    quiet: bool = False,
    reporter: Reporter | None = None,
    **words: Unpack[TaskWords],
) -> Trained:
    """Trains a classifier and writes a run folder.

    Args:
        source: folder of class folders, `.npz`, catalog (CSV, Parquet) or named set; see `open_source`.
        recipe: settings, or the name or the path of a recipe, see `as_recipe`; what it leaves open is decided by
            `rules.decide`.
        out: run folder, new or empty; default `runs/NAME-1`, `-2`, …
        augment: a function (x_BCHW, generator) -> x_BCHW of a program's own, which changes every batch after the
            augmentation of the recipe; see `Hooks` of `training.hooks`.
        on_evaluation: a function that is given the new row of the history, a dict, after each evaluation; see there.
        quiet: show no progress: no bars in a terminal or a notebook, no lines elsewhere. What is left out or
            doubtful is said nevertheless.
        reporter: what shows the progress, in place of those.
        words: of a `Task`: `valid` (validation source; without it images are held out), `init_from` (model folder whose
            weights start this run), `strict` (make a file that can't be read an error instead of leaving it out),
            `only_known` (leave images of `valid` out whose class the source does not have), `allow_shared` (go on where
            images of `valid`, or the sky that they show, are trained on as well), `cache` (where decoded images are
            kept).

    Raises:
        UserError: anything about the input that the user can mend.
        Interrupted: SIGINT or SIGTERM came; the state is saved in the run folder.

    Examples:
        >>> import astroformer
        >>> recipe = astroformer.Recipe(epochs=1, image_size=32, crop=1.0, device="cpu")
        >>> trained = astroformer.train("mock-galaxies:20x32", recipe)
        >>> trained.validation.n
        10
        >>> astroformer.load(trained.model).classes == trained.classifier.classes
        True
    """
    hooks, recipe = Hooks(augment, on_evaluation), as_recipe(recipe)
    with shown_by(reporter, quiet=quiet) as shown:
        task = Task(source, **words)
        setup = prepare(task, recipe, out=out, reporter=shown, augmentation=hooks.augmentation)
        shown.say(plan_of(setup))
        return complete(setup, shown, hooks)


def resume(
    run: str | Path,
    *,
    augment: OwnAugmentation | None = None,
    on_evaluation: OnEvaluation | None = None,
    quiet: bool = False,
    reporter: Reporter | None = None,
) -> Trained | TrainedStudy | TrainedEnsemble:
    """Continues what was stopped, with its own sources, splits and recipe: a run, a study or an ensemble.

    On CPU the result has the same weights, to the bit, as the uninterrupted run (with a length in epochs; by the
    clock, the time that had passed counts). A run that was stopped before its first checkpoint begins.

    Args:
        run: its folder.
        augment: as for `train`; a run that was begun with one needs the same function again.
        on_evaluation: as for `train`.
        quiet: as for `train`.
        reporter: as for `train`.

    Raises:
        UserError: the folder holds nothing of the kind, or what is finished; or its images have changed.
        Interrupted: as `train`.

    Examples:
        >>> import astroformer
        >>> recipe = astroformer.Recipe(epochs=1, image_size=32, crop=1.0, device="cpu")
        >>> finished = astroformer.train("mock-galaxies:20x32", recipe)
        >>> try:
        ...     astroformer.resume(finished.run)
        ... except astroformer.UserError as error:
        ...     print("is finished" in str(error))
        True
    """
    check_is_path(run, "a run folder")
    hooks = Hooks(augment, on_evaluation)
    with shown_by(reporter, quiet=quiet) as shown:
        if not Study.is_in(run):
            return resume_run(run, shown, hooks)
        study = Study.open(run)
        with ownership.owned(study.folder):
            return complete_ensemble(study, shown, hooks) if study.ensemble else study.resume(shown, hooks)


def held_out_images(model: str | Path, *, reporter: Reporter | None = None) -> LabelledImages:
    """The labelled images that a model was validated on, as the run folder records them in which it lies.

    Args:
        model: a run folder, or the model folder in it; of an ensemble too.
        reporter: what shows the progress of a download.

    Raises:
        UserError: the model lies in no run folder, a record is damaged, or images are not there any more.

    Examples:
        >>> import astroformer
        >>> recipe = astroformer.Recipe(epochs=1, image_size=32, crop=1.0, device="cpu")
        >>> trained = astroformer.train("mock-galaxies:20x32", recipe)
        >>> len(held_out_images(trained.run)) == trained.validation.n
        True
    """
    check_is_path(model, "a run folder or the model folder in it")
    reporter = reporter or Reporter(quiet=True)
    run = run_of(model)
    if run is None:
        raise UserError(
            f"'{model}' lies in no run folder, so nothing is known of images that were held out; name labelled images."
        )
    run.check_files(reporter.say)
    split = split_of(run, run.read_record(), run.read_recipe(), reporter)
    return split.valid_images.subset(split.valid_rows)


def run_of(model: str | Path) -> RunFolder | None:
    """The run that made a model, of an ensemble that of its first member; None where the model lies in no run folder.

    Args:
        model: a run folder, or the model folder in it.

    Raises:
        UserError: the record of an ensemble is damaged.
    """
    places = (Path(model), Path(model).absolute().parent)
    folder = next((place for place in places if Study.is_in(place) or RunFolder(place).has_recipe), None)
    if folder is None:
        return None
    return RunFolder.open(folder / Study.open(folder).runs[0] if Study.is_in(folder) else folder)
