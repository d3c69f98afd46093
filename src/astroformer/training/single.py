"""One run from its first step, or its checkpoint, to its model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import ProjectConfiguration
from torch import nn

from astroformer import ownership
from astroformer.classifier import Classifier
from astroformer.errors import UserError, explained
from astroformer.evaluation.pictures import plot_history
from astroformer.images import ImageStore, Preprocessing, measure_statistics
from astroformer.metrics import Evaluation, score, score_lines
from astroformer.model_config import ModelRecord, ValidationScores
from astroformer.network import Answers, Astroformer, Tie, count_parameters
from astroformer.network.framing import Frame
from astroformer.progress import Reporter, shown_by, trackers
from astroformer.summaries import Summarized, Summary, some_of
from astroformer.system import pick_device
from astroformer.training.batches import smaller_size
from astroformer.training.hooks import Hooks
from astroformer.training.loop import Fit, Loop
from astroformer.training.machine import so_many_threads
from astroformer.training.objective import image_weights
from astroformer.training.prepare import Setup, final_answers, reopen
from astroformer.training.recipe import Recipe
from astroformer.training.run import RunFolder
from astroformer.training.stopping import Interrupted, stop_requests
from astroformer.training.validation import predict_batch, trust_of

_TOO_FEW_EPOCHS = 3  # of a run by the clock, whose length in epochs nobody has chosen


@dataclass(frozen=True, repr=False)
class Trained(Summarized):
    """What a run gives back.

    Attributes:
        run: the run folder.
        model: its model folder.
        validation: how well the model does on the validation images.
        classifier: the model.
        history: a row an evaluation on the way, as `history.csv` has them.
    """

    run: Path
    model: Path
    validation: Evaluation
    classifier: Classifier
    history: list[dict[str, float]]

    def summary(self) -> Summary:
        validation = self.validation
        lines = {"validation images": f"{validation.n:,}", **score_lines(validation.metrics)}
        lines |= {"trained on": self.classifier.info.training or "", "run": str(self.run), "model": str(self.model)}
        return Summary(f"Trained: {len(validation.classes)} classes ({some_of(validation.classes)})", lines)


def train_network(
    network: nn.Module,
    train: ImageStore,
    valid: ImageStore,
    recipe: Recipe,
    *,
    preprocessing: Preprocessing | None = None,
    teacher: Classifier | None = None,
    frame: Frame | None = None,
    run: RunFolder | None = None,
    restored: bool = True,
    hooks: Hooks | None = None,
    quiet: bool = False,
    reporter: Reporter | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Fit:
    """Trains any network in our loop: batches, augmentation, schedule and averaged weights as in every run.

    Args:
        network: maps images (B, C, H, W), normalised, to logits (B, K). It is trained in place.
        train: decoded images to train on.
        valid: decoded images to validate on, of the same classes.
        recipe: a decided one, see `rules.decide`.
        preprocessing: of the stores, with mean and deviation; by default that of `train`, measured on its images.
        teacher: of the same preprocessing and classes, whose answers are the targets in place of labels.
        frame: where the frame of an image begins; validation images are moved to there.
        run: folder for checkpoint and history. Without one nothing is written.
        restored: take up a checkpoint that lies in the folder.
        hooks: functions of a program that the run calls.
        quiet: show no progress.
        reporter: what shows the progress, in place of bars and lines on stderr.
        stop: asked at every step whether to save and raise `Interrupted`.

    Raises:
        UserError: the network can't do what the recipe says, the loss became non-finite, or a checkpoint is damaged.
        Interrupted: `stop` said so; the state is saved.

    Examples:
        >>> import torch
        >>> from astroformer import Recipe
        >>> from astroformer.cache import default_cache
        >>> from astroformer.training.rules import decide
        >>> from astroformer.images import ImageStore, Preprocessing, open_source
        >>> images = open_source("mock-galaxies:20x32")
        >>> store = ImageStore.build(images, Preprocessing((32, 32), 3), cache=default_cache())
        >>> recipe, _ = decide(Recipe(epochs=1, image_size=32, crop=1.0, device="cpu"), images)
        >>> linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10))
        >>> train_network(linear, store, store, recipe).state.images
        20
    """
    hooks = hooks or Hooks()
    if preprocessing is None:
        mean, std = measure_statistics(train.base, train.rows)
        preprocessing = replace(train.preprocessing, mean=mean, std=std)
    accelerator = _accelerator(recipe, run)
    if recipe.track != "none":
        hooks = hooks.also(lambda row: _logged(accelerator, dict(row)))
    try:
        with shown_by(reporter, quiet=quiet) as shown:
            loop = Loop(
                network,
                train,
                valid,
                preprocessing,
                recipe,
                accelerator=accelerator,
                run=run,
                teacher=teacher,
                frame=frame,
                hooks=hooks,
                reporter=shown,
                stop=stop,
            )
            if restored and run is not None and run.checkpoint.is_file():
                loop.restore()
                shown.say(f"resumed at epoch {loop.state.epoch}, step {loop.state.step}")
            return loop.fit()
    finally:
        accelerator.end_training()


def complete(setup: Setup, reporter: Reporter, hooks: Hooks | None = None) -> Trained:
    """Trains a prepared run to its end and writes its model folder. This process, the owner, gives the folder free.

    Raises:
        UserError: as `train_network`; or the disk is full, or fails in another way.
        Interrupted: SIGINT or SIGTERM came; the state is saved in the run folder.
    """
    path = setup.run.path
    with ownership.released(path):
        reporter.detail(_description(setup))
        if setup.fresh and setup.run.checkpoint.exists() and PartialState().is_main_process:
            raise UserError(f"'{path}' was new, and now holds a checkpoint of another run; start again elsewhere.")
        try:
            with stop_requests() as stop:
                try:
                    fit = train_network(
                        setup.network,
                        setup.train,
                        setup.valid,
                        setup.recipe,
                        preprocessing=setup.preprocessing,
                        teacher=None if setup.teacher is None else setup.teacher.classifier,
                        frame=setup.frame,
                        run=setup.run,
                        restored=not setup.fresh,
                        hooks=hooks,
                        reporter=reporter,
                        stop=stop,
                    )
                except Interrupted:
                    raise Interrupted.saved(path, stop.number) from None
            return _finish(setup, fit, reporter)
        except OSError as error:
            if (sentence := explained(error)) is None:
                raise
            how = f"What was saved before is kept; then continue with: astroformer train --resume {path}"
            raise UserError(f"{sentence} {how}") from None


def resume_run(
    run: str | Path,
    reporter: Reporter,
    hooks: Hooks | None = None,
    *,
    threads: int | None = None,
    patience: float = 0.0,
) -> Trained:
    """Continues a single run at its last checkpoint, on a CPU with the threads that it began with if there are cores.

    Args:
        run: its folder.
        reporter: what shows the progress.
        hooks: functions of a program that the run calls; with the augmentation that it began with, if with one.
        threads: that it began with, where the record of a study says it and not its own.
        patience: seconds to wait for another owner that is about to end.

    Raises:
        As `reopen` and `complete`; and `UserError` where the run began with another augmentation of a program's own.
    """
    folder, hooks = RunFolder.open(run), hooks or Hooks()
    record = folder.read_record()
    hooks.check_same(record.augmentation, folder.path)
    machine, device = record.machine, pick_device(folder.read_recipe().device)
    if threads is not None:
        machine = replace(machine, threads=threads)
    sentences = machine.sentences() if device == "cpu" else []
    with so_many_threads(machine.usable_threads()):
        setup = reopen(run, reporter, patience=patience)
        if PartialState().is_main_process:
            for sentence in sentences:
                reporter.say(sentence)
        return complete(setup, reporter, hooks)


def learned_from(train: ImageStore) -> str:
    """What is learned in place of labels, or weighs images, as the end of a sentence about them."""
    votes = " by the votes of people" if train.votes_NK is not None else ""
    return votes + (", weighted" if image_weights(train.weights_N) is not None else "")


def plan_of(setup: Setup) -> str:
    """How long a run will train and where, in a sentence."""
    recipe, path = setup.recipe, setup.run.path
    value, noun = (recipe.epochs, "epoch") if recipe.epochs is not None else (recipe.minutes, "minute")
    length = f"{value:,g} {noun}{'' if value == 1 else 's'}"
    threads = torch.get_num_threads()
    cpu = f"the CPU ({threads} thread{'' if threads == 1 else 's'})"
    where = cpu if pick_device(recipe.device) == "cpu" else "the GPU"
    return f"trains for {length} on {where}, in '{path}'; its recipe.yaml holds every setting"


def _description(setup: Setup) -> str:
    """What is about to be trained."""
    height, width = setup.preprocessing.image_size
    group = setup.network.config.group
    tied = "" if group == "none" else f" ({Tie(setup.network, group).free:,} free)"
    return (
        f"{setup.recipe.model}, {count_parameters(setup.network):,} parameters{tied}, {height} × {width} px, "
        f"{len(setup.train.classes)} classes; {len(setup.train):,} images to train on, {len(setup.valid):,} to "
        f"validate on, {pick_device(setup.recipe.device)}"
    )


def _accelerator(recipe: Recipe, run: RunFolder | None) -> Accelerator:
    """The device, precision and processes of a run."""
    on_cpu, folder = pick_device(recipe.device) == "cpu", None if run is None else str(run.path)
    if PartialState(cpu=on_cpu).num_processes == 1:
        AcceleratorState._reset_state(reset_partial_state=True)  # else the first run's device and precision would stay
        GradientState._reset_state()
    accelerator = Accelerator(
        cpu=on_cpu,
        mixed_precision=recipe.precision,
        gradient_accumulation_steps=recipe.parts,
        log_with=trackers(recipe.track),
        project_config=ProjectConfiguration(project_dir=folder, logging_dir=folder),
    )
    if recipe.track != "none":
        accelerator.init_trackers(recipe.track)
    return accelerator


def _logged(accelerator: Accelerator, row: dict[str, float]) -> None:
    """Sends an evaluation to the tracker that the recipe names."""
    updates = int(row.pop("updates"))
    accelerator.log(row, step=updates)


def _finish(setup: Setup, fit: Fit, reporter: Reporter) -> Trained:
    """Measures a finished run on its validation images and, in the first process, writes its model folder."""
    recipe, run, task, classes = setup.recipe, setup.run, setup.record.task, setup.train.classes
    assert isinstance(fit.network, Astroformer)
    frame = None if setup.frame is None else setup.frame.cpu()
    network = Answers.around(fit.network.cpu(), final_answers(recipe, frame), frame)
    classifier = Classifier(network, setup.preprocessing, classes, seen=np.unique(setup.train.digests))
    classifier.trust = trust_of(classifier, setup.valid, setup.train, predict_batch(recipe.batch, recipe.parts))
    probabilities_NK = classifier.trust.of_held_out()
    validation = score(setup.valid.labels, probabilities_NK, classes, votes_NK=setup.valid.votes_NK)
    if task.valid is not None:
        held_out = "given"
    elif recipe.folds is not None:
        held_out = f"fold {recipe.fold} of 0 to {recipe.folds - 1}, held out"
    else:
        held_out = f"{recipe.valid_fraction:.0%} held out of each class"
    taught = f", on the answers of '{setup.teacher.run_name}'" if setup.teacher else ""
    own = f", augmented by {setup.record.augmentation}" if setup.record.augmentation else ""
    classifier.info = ModelRecord(
        name=recipe.model,
        parameters=count_parameters(setup.network),
        training=f"{len(setup.train):,} images of '{task.source_name}'{learned_from(setup.train)}, "
        f"{fit.epochs:.3g} epochs, {fit.state.elapsed / 60:.1f} minutes, seed {recipe.seed}{taught}{own}",
        validation=held_out,
        metrics=ValidationScores.of(validation),
    )
    if recipe.minutes is not None and fit.epochs < _TOO_FEW_EPOCHS:
        reporter.warn(
            f"each image was seen {fit.epochs:.2g} times, from which a network learns little: give more minutes, or "
            "take other work off the machine"
        )
    if PartialState().is_main_process:
        small = smaller_size(setup.preprocessing.image_size, setup.network.config)
        whole_from = None if small is None else recipe.progressive
        failed = plot_history(fit.state.history, run.path / "history.png", classes=len(classes), whole_from=whole_from)
        if failed is not None:
            reporter.say(failed)
        classifier.save(run.model)  # last: its presence says that the run is finished
    return Trained(run.path, run.model, validation, classifier, fit.state.history)
