"""`train_ensemble`: several networks trained on the same images, kept as one model.

An ensemble is a group of runs (`training/study.py`) that differ in their seed alone and share the split, so that no
member has seen what the ensemble is validated on. Its folder is that of the group, and the members in it are ordinary
runs; when all are done, `RUN/model` is made of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astroformer.classifier import Classifier
from astroformer.errors import UserError
from astroformer.metrics import Evaluation, evaluate
from astroformer.progress import Reporter
from astroformer.training.loop import predict_batch, predict_store
from astroformer.training.recipe import Recipe
from astroformer.training.study import (
    Together,
    TrainedMany,
    is_ensemble,
    prepare_many,
    resume_many,
    seeds_and_folds,
    summed_up,
    unfinished_runs,
)
from astroformer.training.train import reopen


@dataclass(frozen=True)
class TrainedEnsemble:
    """What `train_ensemble` gives back.

    Attributes:
        classifier: answers with the mean of the members' probabilities.
        run: the run folder, in which each member's lies.
        model: its model folder.
        validation: how well the ensemble does on the validation images.
        members: the same of each member, and mean ± standard deviation.
    """

    classifier: Classifier
    run: Path
    model: Path
    validation: Evaluation
    members: TrainedMany


def train_ensemble(
    source: str | Path,
    recipe: Recipe | None = None,
    *,
    members: int,
    valid: str | Path | None = None,
    out: str | Path | None = None,
    init_from: str | Path | None = None,
    strict: bool = False,
    cache: str | Path | None = None,
    together: Together = "auto",
    reporter: Reporter | None = None,
) -> TrainedEnsemble:
    """Trains an ensemble (Lakshminarayanan et al. 2017, arXiv 1612.01474) and writes a run folder with its model.

    The members have the seeds from the recipe's own on, and all the split of the first. A length in minutes is that of
    each process, or of a stack as a whole: on a CPU members side by side have a share of the cores each, and those for
    which there is none left come after.

    Args:
        recipe: of every member, but for the seed.
        members: how many, 2 or more.
        Others: as for `train_many`.

    Raises:
        UserError: as `train_many`; fewer than two members; or one of them failed, and the others are kept.
        Interrupted: SIGINT or SIGTERM came; all members have saved their state, and `resume_ensemble` goes on.
    """
    if members < 2:
        raise UserError(f"an ensemble of {members} can't be; give 2 members or more, or train one network without it.")
    reporter, recipe = reporter or Reporter(quiet=True), recipe or Recipe()
    recipes = seeds_and_folds(recipe.model_copy(update={"split_seed": recipe.images_seed}), seeds=members)
    options: Any = {"valid": valid, "out": out, "init_from": init_from, "strict": strict, "cache": cache}
    run = prepare_many(source, recipes, together=together, ensemble=True, reporter=reporter, **options)
    return resume_ensemble(run, reporter=reporter)


def resume_ensemble(run: str | Path, *, reporter: Reporter | None = None) -> TrainedEnsemble:
    """Trains those members that are not finished, and makes the model of all.

    Raises:
        UserError: as `resume_many`; `run` holds no ensemble; the ensemble is finished; or a member failed.
        Interrupted: as `train_ensemble`.
    """
    reporter, run = reporter or Reporter(quiet=True), Path(run)
    if not is_ensemble(run):
        raise UserError(f"'{run}' holds no ensemble (its runs.json names none), so it can't be resumed as one.")
    if (run / "model" / "config.json").is_file():
        raise UserError(f"ensemble '{run}' is finished, its model is {run / 'model'}.")
    # A run that was stopped just before its end may have no member left to train.
    many = resume_many(run, reporter=reporter) if unfinished_runs(run) else summed_up(run, {})
    if many.errors:
        name, why = next(iter(many.errors.items()))
        raise UserError(
            f"{len(many.errors)} of {len(many.errors) + len(many.models)} members failed, {name}: {why.rstrip('.')}; "
            f"astroformer train --resume {run} tries again."
        )
    return _finish(run, many, reporter)


def _finish(run: Path, many: TrainedMany, reporter: Reporter) -> TrainedEnsemble:
    """Measures an ensemble on the validation images of its members and writes its model folder."""
    names = list(many.models)
    splits = [[(run / name / "splits" / part).read_bytes() for part in ("train.csv", "valid.csv")] for name in names]
    for name, split in zip(names, splits, strict=True):
        if split != splits[0]:
            raise UserError(
                f"member {name} of '{run}' was trained on another split than {names[0]}, so no image is held out of "
                "both; train the ensemble anew."
            )
    members = [Classifier.load(model) for model in many.models.values()]
    classifier = Classifier.ensemble(members)
    setup = reopen(run / names[0], reporter, finished=True)
    recipe = setup.recipe
    probabilities_NK = predict_store(classifier, setup.valid, predict_batch(recipe))
    validation = evaluate(setup.valid.labels, probabilities_NK, classifier.classes)
    length = (
        f"{recipe.minutes:g} minutes" if recipe.epochs is None else f"{recipe.epochs} epoch{'s' * (recipe.epochs > 1)}"
    )
    classifier.info |= {
        "training": f"{len(setup.train):,} images of '{Path(setup.record['source']).name}', {length} for each of "
        f"{len(names)} members, seeds {recipe.seed} to {recipe.seed + len(names) - 1}",
        "validation": members[0].info["validation"],
        "metrics": {"n": validation.n, **{k: v.to_dict() for k, v in validation.metrics.items()}},
        "member_metrics": {k: v for k, v in many.summary.items() if k != "runs"},
    }
    classifier.save(run / "model")  # last: its presence says that the ensemble is finished
    return TrainedEnsemble(classifier, run, run / "model", validation, many)
