"""`train_ensemble`: several networks trained on the same images, kept as one model.

An ensemble is a study (`training/study.py`) whose runs differ in their seed alone and share the split, so that no
member has seen what the ensemble is validated on. The members in its folder are ordinary runs; when all are done,
`RUN/model` is made of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Unpack

from astroformer import ownership
from astroformer.classifier import Classifier
from astroformer.errors import UserError
from astroformer.metrics import Evaluation, score, score_lines
from astroformer.model_config import ValidationScores
from astroformer.progress import Reporter, shown_by
from astroformer.summaries import Summarized, Summary, some_of
from astroformer.training.hooks import Hooks, OnEvaluation, OwnAugmentation
from astroformer.training.prepare import reopen
from astroformer.training.recipe import MOST_RUNS, Recipe, as_recipe
from astroformer.training.single import learned_from
from astroformer.training.study import Study, Together, TrainedStudy, prepare_study, seeds_and_folds
from astroformer.training.task import Task, TaskWords
from astroformer.training.validation import predict_batch, trust_of


@dataclass(frozen=True, repr=False)
class TrainedEnsemble(Summarized):
    """What an ensemble gives back.

    Attributes:
        run: the run folder, in which each member's lies.
        model: its model folder.
        validation: how well the ensemble does on the validation images.
        classifier: the model, which answers with the mean of the members' probabilities.
        members: the same of each member, and mean ± standard deviation.
    """

    run: Path
    model: Path
    validation: Evaluation
    classifier: Classifier
    members: TrainedStudy

    def summary(self) -> Summary:
        validation, members = self.validation, self.members.summary().lines
        lines = {"validation images": f"{validation.n:,}", **score_lines(validation.metrics)}
        lines |= {"accuracy of a member": members["accuracy"], "run": str(self.run), "model": str(self.model)}
        networks = len(self.members.models)
        return Summary(f"TrainedEnsemble of {networks} networks ({some_of(validation.classes)})", lines)


def train_ensemble(
    source: str | Path,
    recipe: Recipe | str | Path | None = None,
    *,
    members: int,
    out: str | Path | None = None,
    together: Together = "auto",
    augment: OwnAugmentation | None = None,
    on_evaluation: OnEvaluation | None = None,
    quiet: bool = False,
    reporter: Reporter | None = None,
    **words: Unpack[TaskWords],
) -> TrainedEnsemble:
    """Trains an ensemble (Lakshminarayanan et al. 2017, arXiv 1612.01474) and writes a run folder with its model.

    The members have the seeds from the recipe's own on, and all the split of the first. A length in minutes is that of
    each process: on a CPU members side by side have a share of the cores each, and those for which there is none left
    come after.

    Args:
        source: what to train on, see `open_source`.
        recipe: of every member, but for the seed; or its name or path, as for `train`.
        members: how many, 2 or more.
        out: as for `train_many`.
        together: as for `train_many`.
        augment: as for `train_many`.
        on_evaluation: as for `train_many`.
        quiet: as for `train_many`.
        reporter: as for `train_many`.
        words: as for `train_many`.

    Raises:
        UserError: as `train_many`; fewer than two members; or one of them failed, and the others are kept.
        Interrupted: SIGINT or SIGTERM came; all members have saved their state, and `resume` goes on.

    Examples:
        >>> import astroformer
        >>> recipe = astroformer.Recipe(epochs=1, image_size=32, crop=1.0, device="cpu")
        >>> ensemble = astroformer.train_ensemble("mock-galaxies:20x32", recipe, members=2, together="in-turn")
        >>> ensemble.model == ensemble.run / "model"
        True
    """
    if not 2 <= members <= MOST_RUNS:
        raise UserError(
            f"an ensemble of {members} can't be; give 2 to {MOST_RUNS} members, or train one network without it."
        )
    hooks, recipe = Hooks(augment, on_evaluation), as_recipe(recipe)
    recipes = seeds_and_folds(recipe.model_copy(update={"split_seed": recipe.images_seed}), seeds=members)
    task = Task(source, **words)
    with shown_by(reporter, quiet=quiet) as shown:
        study = prepare_study(task, recipes, out=out, together=together, ensemble=True, hooks=hooks, reporter=shown)
        with ownership.released(study.folder):
            return complete_ensemble(study, shown, hooks)


def complete_ensemble(study: Study, reporter: Reporter, hooks: Hooks | None = None) -> TrainedEnsemble:
    """Trains those members that are not finished, and makes the model of all.

    Raises:
        UserError: the ensemble is finished; a member failed; or members were trained on different splits.
        Interrupted: as `train_ensemble`.
    """
    run = study.folder
    if (run / "model" / "config.json").is_file():
        raise UserError(f"ensemble '{run}' is finished, its model is {run / 'model'}.")
    members = study.complete(reporter, hooks)
    if members.errors:
        name, why = next(iter(members.errors.items()))
        raise UserError(
            f"{len(members.errors)} of {len(study.runs)} members failed, {name}: {why.rstrip('.')}; "
            f"astroformer train --resume {run} tries again."
        )
    return _finish(study, members, reporter)


def _finish(study: Study, members: TrainedStudy, reporter: Reporter) -> TrainedEnsemble:
    """Measures an ensemble on the validation images of its members and writes its model folder."""
    run, names = study.folder, study.runs
    splits = [[(run / name / "splits" / part).read_bytes() for part in ("train.csv", "valid.csv")] for name in names]
    for name, split in zip(names, splits, strict=True):
        if split != splits[0]:
            raise UserError(
                f"member {name} of '{run}' was trained on another split than {names[0]}, so no image is held out of "
                "both; train the ensemble anew."
            )
    models = [Classifier.load(model) for model in members.models.values()]
    classifier = Classifier.ensemble(models)
    setup = reopen(run / names[0], reporter, finished=True)
    recipe = setup.recipe
    classifier.trust = trust_of(classifier, setup.valid, setup.train, predict_batch(recipe.batch, recipe.parts))
    probabilities_NK = classifier.trust.of_held_out()
    validation = score(setup.valid.labels, probabilities_NK, classifier.classes, votes_NK=setup.valid.votes_NK)
    length = (
        f"{recipe.minutes:g} minutes" if recipe.epochs is None else f"{recipe.epochs} epoch{'s' * (recipe.epochs > 1)}"
    )
    classifier.info = replace(
        classifier.info,
        training=f"{len(setup.train):,} images of '{setup.record.task.source_name}'{learned_from(setup.train)}, "
        f"{length} for each of "
        f"{len(names)} members, seeds {recipe.seed} to {recipe.seed + len(names) - 1}",
        validation=models[0].info.validation,
        metrics=ValidationScores.of(validation),
        member_metrics=members.validation,
    )
    classifier.save(run / "model")  # last: its presence says that the ensemble is finished
    return TrainedEnsemble(run, run / "model", validation, classifier, members)
