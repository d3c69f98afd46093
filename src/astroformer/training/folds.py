"""`train_folds`: cross-validation, a run for each fold."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from astroformer.progress import Reporter
from astroformer.training.hooks import OnEvaluation, OwnAugmentation
from astroformer.training.recipe import Recipe, as_recipe
from astroformer.training.study import Together, TrainedStudy, seeds_and_folds, train_many
from astroformer.training.task import TaskWords


def train_folds(
    source: str | Path,
    recipe: Recipe | str | Path | None = None,
    *,
    folds: int = 5,
    seeds: int = 1,
    out: str | Path | None = None,
    together: Together = "auto",
    augment: OwnAugmentation | None = None,
    on_evaluation: OnEvaluation | None = None,
    quiet: bool = False,
    reporter: Reporter | None = None,
    **words: Unpack[TaskWords],
) -> TrainedStudy:
    """Cross-validation: trains a classifier for each fold of the images, on all others.

    So each image is answered by a run that was not trained on it. `out_of_fold.csv` in the study's folder has these
    answers, with the columns of predictions and `label`, `correct`, `fold` and `seed`; `out_of_fold` of what is given
    back has the scores over all images.

    Args:
        source: what to train on, see `open_source`.
        recipe: of all runs, or its name or path; its own `folds` and `fold` do not count.
        folds: into how many parts the images are split, 2 or more.
        seeds: so many times, with the seeds from the recipe's own on; each has a split of its own, unless the recipe
            says `split_seed`, and rows and scores of its own.
        out: as for `train_many`.
        together: as for `train_many`.
        augment: as for `train_many`.
        on_evaluation: as for `train_many`.
        quiet: as for `train_many`.
        reporter: as for `train_many`.
        words: as for `train_many`; `valid` can't be given.

    Raises:
        UserError: as `train_many`; or there are not as many folds or seeds as can be.
        Interrupted: SIGINT or SIGTERM came; all runs have saved their state, and `resume` goes on.

    Examples:
        >>> import astroformer
        >>> recipe = astroformer.Recipe(epochs=1, image_size=32, crop=1.0, device="cpu")
        >>> study = astroformer.train_folds("mock-galaxies:40x32", recipe, folds=2, together="in-turn", quiet=True)
        >>> study.out_of_fold[0].n, (study.run / "out_of_fold.csv").is_file()
        (40, True)
    """
    checked = Recipe(folds=folds)
    recipe = as_recipe(recipe).model_copy(update={"folds": checked.folds, "fold": 0})
    return train_many(
        source,
        seeds_and_folds(recipe, seeds=seeds, all_folds=True),
        out=out,
        together=together,
        augment=augment,
        on_evaluation=on_evaluation,
        quiet=quiet,
        reporter=reporter,
        **words,
    )
