"""What a cross-validation answers of every image: each by the run that was not trained on it.

Shape letters: N images, K classes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from astroformer.classifier import Classifier
from astroformer.evaluation.tables import PredictionWriter, judged
from astroformer.metrics import Evaluation, score
from astroformer.predictions import Predictions
from astroformer.progress import Reporter
from astroformer.training.prepare import reopen
from astroformer.training.run import RunFolder
from astroformer.training.validation import predict_batch, predict_store

FILE = "out_of_fold.csv"
_Answers = tuple[Predictions, NDArray[np.int64], NDArray[np.float64] | None]  # with labels, and votes if there are some


def folds_by_seed(runs: Sequence[Path]) -> dict[int, list[Path]]:
    """The run folders of each seed in the order of their folds; empty unless every seed has each of its folds once."""
    recipes = [RunFolder(run).read_recipe() for run in runs]
    of_seed: defaultdict[int, dict[int, Path]] = defaultdict(dict)
    folds = recipes[0].folds
    for run, recipe in zip(runs, recipes, strict=True):
        if recipe.folds is None or recipe.folds != folds or recipe.fold in of_seed[recipe.seed]:
            return {}
        of_seed[recipe.seed][recipe.fold] = run
    if any(len(found) != folds for found in of_seed.values()):
        return {}
    return {seed: [found[fold] for fold in range(len(found))] for seed, found in of_seed.items()}


def answer_out_of_fold(folder: Path, runs: dict[int, list[Path]], reporter: Reporter) -> dict[int, Evaluation]:
    """Writes `out_of_fold.csv`, and measures each seed's answers on all images at once.

    The columns are those of predictions, and behind them `label`, `correct`, `fold` and `seed`. There is a row for each
    image and seed: a seed has a split and networks of its own, and each image is in one of its folds. Images that could
    not be read are in no fold; `left_out.csv` of each run names them.

    Args:
        folder: of the study, where the file is written.
        runs: finished ones, see `folds_by_seed`.
        reporter: what shows the progress.

    Returns:
        By seed its scores over all images. Their intervals tell how much they would vary with other images, for these
        networks.
    """
    parts, folds, seeds = list[_Answers](), list[int](), list[int]()
    measured: dict[int, Evaluation] = {}
    for seed, of_seed in runs.items():
        answers = [_answers(run, reporter) for run in of_seed]
        for fold, (part, *_) in enumerate(answers):
            folds += [fold] * len(part)
            seeds += [seed] * len(part)
        whole, labels_N, votes_NK = _joined(answers)
        measured[seed] = score(labels_N, whole.probabilities_NK, whole.classes, votes_NK=votes_NK)
        parts += answers
    whole, labels_N, votes_NK = _joined(parts)
    beside = {**judged(whole, labels_N, votes_NK), "fold": folds, "seed": seeds}
    with PredictionWriter(folder / FILE, whole.classes, beside=beside) as writer:
        writer.write(whole)
    return measured


def _answers(run: Path, reporter: Reporter) -> _Answers:
    """What the model of a finished run answers of the images that it was not trained on, and their labels."""
    setup = reopen(run, reporter, finished=True)
    recipe, valid = setup.recipe, setup.valid
    classifier = Classifier.load(setup.run.model)
    probabilities_NK = predict_store(classifier, valid, predict_batch(recipe.batch, recipe.parts))
    return Predictions(valid.files, valid.classes, probabilities_NK, [""] * len(valid)), valid.labels, valid.votes_NK


def _joined(answers: Sequence[_Answers]) -> _Answers:
    predictions = Predictions.joined([part for part, *_ in answers], answers[0][0].classes)
    labels_N = np.concatenate([labels_N for _, labels_N, _ in answers])
    votes = [votes_NK for *_, votes_NK in answers if votes_NK is not None]
    return predictions, labels_N, np.concatenate(votes) if votes else None
