"""`distil`: one network that learns what a finished run's model answers, an ensemble above all.

An ensemble answers better than its members and takes as many times as long. One network that is shown the same images
and takes the ensemble's answers for its targets keeps a part of what was gained (Hinton et al., arXiv 1503.02531), most
of it where both see each image as it was augmented for this step, and for long (Beyer et al., arXiv 2106.05237).

It is an ordinary run on the split of the one before, so that no validation image was seen by either.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from astroformer import ownership
from astroformer.errors import UserError
from astroformer.progress import Reporter, shown_by
from astroformer.training.hooks import Hooks, OnEvaluation, OwnAugmentation
from astroformer.training.prepare import reopen
from astroformer.training.recipe import make_recipe
from astroformer.training.run import RunFolder
from astroformer.training.single import Trained, resume_run
from astroformer.training.study import Study
from astroformer.training.teacher import Teacher


def distil(
    run: str | Path,
    *,
    out: str | Path | None = None,
    epochs: int | None = None,
    minutes: float | None = None,
    seed: int | None = None,
    augment: OwnAugmentation | None = None,
    on_evaluation: OnEvaluation | None = None,
    quiet: bool = False,
    reporter: Reporter | None = None,
) -> Trained:
    """Trains one network on what the model of a run answers of its training images, and writes a run folder.

    The network, its recipe, images and split are those of the run (of an ensemble's first member), but for:

    - the targets, which are the answers to each batch as it was augmented and mixed, in place of labels, and are not
      smoothed;
    - the seed, the next one after the run's;
    - the length, if one is given.

    Args:
        run: folder of a finished run, or of a finished ensemble.
        out: run folder, new or empty; default `runs/NAME-1`, `-2`, …
        epochs: length in epochs, in place of the run's (a member's).
        minutes: length by the clock, in place of it.
        seed: in place of the next one.
        augment: the function that the run was trained with, if with one, as for `train`.
        on_evaluation: as for `train`.
        quiet: as for `train`.
        reporter: as for `train`.

    Raises:
        UserError: `run` holds no finished model; its images have changed; the length can't be.
        Interrupted: as `train`; `resume` goes on.

    Examples:
        >>> import astroformer
        >>> recipe = astroformer.Recipe(epochs=1, image_size=32, crop=1.0, device="cpu")
        >>> teacher = astroformer.train("mock-galaxies:20x32", recipe)
        >>> pupil = astroformer.distil(teacher.run)
        >>> pupil.validation.n == teacher.validation.n
        True
    """
    hooks, run = Hooks(augment, on_evaluation), Path(run)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("a model is distilled in one process; start it without torchrun.")
    members = [run]
    if Study.is_in(run):
        study = Study.open(run)
        if not study.ensemble:
            raise UserError(f"'{run}' holds several runs and no model of all; distil one of them, or an ensemble.")
        members = [run / name for name in study.runs]
    first = RunFolder(members[0])
    if not first.has_recipe:
        raise UserError(f"'{run}' is no run folder (no recipe.yaml in it); give that of a finished run or ensemble.")
    if not RunFolder(run).finished:
        raise UserError(f"'{run}' has no model to learn from yet; finish it first: astroformer train --resume {run}.")
    hooks.check_same(first.read_record().augmentation, first.path)
    teacher = Teacher.of(run / "model")
    recipe = first.read_recipe()
    changes: dict[str, Any] = {"split_seed": recipe.images_seed, "label_smoothing": 0.0}
    changes["seed"] = recipe.seed + len(members) if seed is None else seed
    if (epochs, minutes) != (None, None):
        changes |= {"epochs": epochs, "minutes": minutes}
    changed = make_recipe({**recipe.model_dump(), **changes})
    networks = "one network" if len(members) == 1 else f"an ensemble of {len(members)} networks"
    sentence = f"learns what the model of '{run}' answers ({networks}), in place of labels"
    with shown_by(reporter, quiet=quiet) as shown:
        reopen(first.path, shown, finished=True)  # that its images are there is known before there is a new folder
        made = first.successor(out, changed, teacher.record, sentence)
        shown.say(sentence)
        ownership.release(made.path)  # `resume_run` takes it
        return resume_run(made.path, shown, hooks)
