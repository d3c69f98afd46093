"""`distil`: one network that learns what a finished run's model answers, an ensemble above all.

An ensemble answers better than its members and takes as many times as long. One network that is shown the same images
and takes the ensemble's answers for its targets keeps a part of what was gained (Hinton et al., arXiv 1503.02531), most
of it where both see each image as it was augmented for this step, and for long (Beyer et al., arXiv 2106.05237).

It is an ordinary run on the split of the one before, so that no validation image was seen by either.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from astroformer.errors import UserError
from astroformer.files import read_json
from astroformer.progress import Reporter
from astroformer.training.recipe import make_recipe
from astroformer.training.run import RunFolder
from astroformer.training.study import is_ensemble, is_group
from astroformer.training.train import Teacher, Trained, reopen, resume


def distil(
    run: str | Path,
    *,
    out: str | Path | None = None,
    epochs: int | None = None,
    minutes: float | None = None,
    seed: int | None = None,
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
        epochs, minutes: length, in place of the run's (a member's).
        seed: in place of the next one.

    Raises:
        UserError: `run` holds no finished model; its images have changed; the length can't be.
        Interrupted: as `train`; `resume` goes on.
    """
    reporter, run = reporter or Reporter(quiet=True), Path(run)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("a model is distilled in one process; start it without torchrun.")
    members = [run]
    if is_group(run):
        if not is_ensemble(run):
            raise UserError(f"'{run}' holds several runs and no model of all; distil one of them, or an ensemble.")
        members = [run / name for name in read_json(run / "runs.json")["runs"]]
    first, model = RunFolder(members[0]), run / "model"
    if not (first.path / "recipe.yaml").is_file():
        raise UserError(f"'{run}' is no run folder (no recipe.yaml in it); give that of a finished run or ensemble.")
    if not (model / "config.json").is_file():
        raise UserError(f"'{run}' has no model to learn from yet; finish it first: astroformer train --resume {run}.")
    teacher = Teacher.of(model)
    recipe = first.read_recipe()
    changes: dict[str, Any] = {"split_seed": recipe.images_seed, "label_smoothing": 0.0}
    changes["seed"] = recipe.seed + len(members) if seed is None else seed
    if (epochs, minutes) != (None, None):
        changes |= {"epochs": epochs, "minutes": minutes}
    changed = make_recipe({**recipe.model_dump(), **changes})
    record = first.read_record()
    sentence = f"learns what the model of '{run}' answers ({_networks(len(members))}), in place of labels"
    record |= {"init_from": None, "teacher": teacher.record(), "decisions": [*record["decisions"], sentence]}
    reopen(members[0], reporter, finished=True)  # that its images are there is known before there is a new folder
    made = RunFolder.create(out, record["source"])
    shutil.copytree(first.path / "splits", made.path / "splits")
    if (left_out := first.path / "left_out.csv").exists():
        shutil.copy(left_out, made.path)
    made.write_record(record)
    made.write_recipe(changed)
    reporter.say(sentence)
    return resume(made.path, reporter=reporter)


def _networks(count: int) -> str:
    return "one network" if count == 1 else f"an ensemble of {count} networks"
