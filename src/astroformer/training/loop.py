"""The training loop: the order of a run, from its first step or from a checkpoint, to its end.

An epoch is a batched tensor program: the order of the images → batches (augment, mix, normalise) → steps (network,
loss, backward pass, update, average of the weights). Everything random is a function of (seed, epoch, image) or, inside
the network, of (seed, epoch, step), so a run resumed at any step equals an uninterrupted one to the bit on CPU.

Legend: N images, B batch, K classes, C channels, H height, W width.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, reduce
from torch import Tensor, nn

from astroformer.allocator import keep_freed_memory
from astroformer.classifier import Classifier
from astroformer.errors import UserError
from astroformer.images.preprocessing import Preprocessing
from astroformer.images.store import ImageStore
from astroformer.network import Answers, AnswersConfig, Astroformer, AstroformerConfig, Tie
from astroformer.network.framing import Frame
from astroformer.progress import Reporter
from astroformer.training.batches import Batch, Batches, Processes, smaller_size
from astroformer.training.checkpoint import FRAME, load_checkpoint, restore_optimizer, save_checkpoint
from astroformer.training.hooks import Hooks
from astroformer.training.objective import Objective, class_weights, smoothing_of, soft_targets
from astroformer.training.order import seed_step, step_seed
from astroformer.training.pace import Schedule
from astroformer.training.recipe import Recipe
from astroformer.training.run import RunFolder
from astroformer.training.state import State
from astroformer.training.steps.averaging import AveragedNetwork
from astroformer.training.steps.choose import choose_step
from astroformer.training.steps.optimizer import create_optimizer
from astroformer.training.steps.step import Tally
from astroformer.training.stopping import Interrupted
from astroformer.training.teacher import ready_to_teach
from astroformer.training.validation import predict_batch, scores

_CHECK_EVERY = 20  # steps between two checks of the loss: each one waits for the device
_SPEED_SECONDS = 2.0  # that the images a second that are shown are measured over, at least


@dataclass
class Fit:
    """A finished run.

    Attributes:
        network: the averaged network, which is what was evaluated.
        state: where the run ended, with its history.
        epochs: that were trained, with the share of the last one.
        seen: images that this process was trained on since it began, counted by their (height, width).
    """

    network: nn.Module
    state: State
    epochs: float
    seen: Counter[tuple[int, int]]


class _Moment(NamedTuple):
    """When so many images had been seen."""

    time: float
    images: int


class Loop:
    """One run of `recipe` on `network`. `train_network` is the simple way to one.

    Attributes:
        state: where the run stands.
        network: that is trained.
        optimizer: of its weights.
        batches: of the run.
        step: what makes an update of the weights.
    """

    def __init__(
        self,
        network: nn.Module,
        train: ImageStore,
        valid: ImageStore,
        preprocessing: Preprocessing,
        recipe: Recipe,
        *,
        accelerator: Accelerator,
        run: RunFolder | None = None,
        teacher: Classifier | None = None,
        frame: Frame | None = None,
        hooks: Hooks | None = None,
        reporter: Reporter | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """
        Args:
            network: maps (B, C, H, W) to logits (B, K).
            train, valid: images to train on and to validate on.
            preprocessing: of both stores, with the mean and deviation that normalise them.
            recipe: a decided one, see `rules.decide`.
            accelerator: the device, precision and processes.
            run: folder to write to; without one nothing is written.
            teacher: of the same preprocessing and classes, whose answers are the targets in place of labels.
            frame: where the frame of an image begins; validation images are moved to there. The checkpoint keeps it.
            hooks: functions of a program that the run calls.
            reporter: what shows the progress.
            stop: asked at every step whether to save and raise `Interrupted`.

        Raises:
            UserError: the network can't do what the recipe says; or the teacher's preprocessing or classes differ.
        """
        assert recipe.learning_rate is not None, "the recipe is not decided"
        self.recipe, self.train, self.valid, self.preprocessing = recipe, train, valid, preprocessing
        self.run_folder, self.reporter, self.stop = run, reporter or Reporter(quiet=True), stop
        self.accelerator, self.state, self._hooks = accelerator, State(), hooks or Hooks()
        device = accelerator.device
        if device.type == "cpu":
            keep_freed_memory()

        # 1. The network where it is trained, its ties, and its average, copied before any of its passes change.
        if recipe.checkpointing:
            _recompute_blocks(network)
        self.network = network.to(device).to(memory_format=torch.channels_last)
        config = getattr(network, "config", None)
        config = config if isinstance(config, AstroformerConfig) else None
        self._tie = None if config is None or config.group == "none" else Tie(network, config.group)
        if self._tie is not None:
            self._tie.start(network)  # changes nothing in a network that is tied already, and its steps need that
        self._average = AveragedNetwork(network) if recipe.ema else None
        self._frame = None if frame is None else frame.to(device)

        # 2. Batches.
        smaller = smaller_size(preprocessing.image_size, config)
        self.batches = Batches(
            train,
            preprocessing,
            recipe,
            device,
            smaller=smaller,
            teacher=None if teacher is None else ready_to_teach(teacher, preprocessing, train.classes, recipe, device),
            own=self._hooks.augment,
            processes=Processes(accelerator.process_index, accelerator.num_processes, recipe.parts),
        )

        # 3. Pace and steps.
        pixels = math.prod(preprocessing.image_size)
        self._schedule = Schedule(
            steps_per_epoch=self.batches.steps,
            epochs=recipe.epochs,
            learning_rate=recipe.learning_rate,
            warmup=recipe.warmup,
            final=recipe.final_learning_rate,
            weight_decay=recipe.weight_decay,
            momentum=recipe.momentum if recipe.optimizer == "sgd" else 0.0,
            memory=recipe.ema,
            small_share=recipe.progressive,
            small_speed=1.0 if smaller is None else pixels / math.prod(smaller),
        )
        self.optimizer = create_optimizer(
            network,
            recipe.optimizer,
            learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay or 0.0,  # by the length of the run: from the first step on
            momentum=recipe.momentum,
        )
        targets_NK = soft_targets(train.votes_NK, train.weights_N, train.labels, len(train.classes))
        weights_K = class_weights(recipe.class_weights, train.labels, train.classes, targets_NK=targets_NK)
        weights_K = None if weights_K is None else weights_K.to(device)
        smoothing = smoothing_of(recipe, train.votes_NK is not None)
        self._tally = Tally(device)
        self.step, sentence = choose_step(
            recipe,
            network,
            self.optimizer,
            objective=Objective(weights_K, smoothing, weighted=self.batches.weighted),
            tally=self._tally,
            average=self._average,
            tie=self._tie,
            accelerator=accelerator,
            say=self.reporter.say,
        )
        if sentence is not None:
            self.reporter.say(sentence)

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps of an epoch."""
        return self.batches.steps

    def averaged(self) -> nn.Module:
        """The network that is evaluated and saved: of averaged weights, or the one that is trained."""
        return self._average.module if self._average else self.network

    # -- the whole run -----------------------------------------------------------------------------------------------

    def fit(self) -> Fit:
        """Trains to the end of the recipe's length.

        Raises:
            UserError: the loss became non-finite.
            Interrupted: `stop` said so; the state is saved.
        """
        with self.batches:
            self._train()
        self.even_averaged()
        self.step.close()
        epochs = self.state.epoch + self.state.step / self.batches.steps
        return Fit(self.averaged(), self.state, epochs, self.batches.seen)

    def _train(self) -> None:
        state, recipe, steps = self.state, self.recipe, self.batches.steps
        self._started = time.monotonic() - state.elapsed
        self._saved = time.monotonic()
        self._speed_since = _Moment(time.monotonic(), state.images)
        if self.run_folder and not self.run_folder.checkpoint.exists():
            self.save()  # so that a run can be resumed from its first moment on
        progress = self.progress()  # read once a step: the clock must not end the run between two decisions
        while progress < 1 or state.evaluated != state.updates:
            epochs = self._schedule.length(progress, state.updates) / steps
            for sentence in self.batches.expect_epochs(epochs):
                self.reporter.say(sentence)
            self.batches.begin_epoch(state.epoch)
            while state.step < steps and progress < 1:
                self._make_step()
                if state.step % _CHECK_EVERY == 0 or state.step == steps:
                    self._report()
                if self._asked_to_stop():
                    self.save()
                    raise Interrupted
                if time.monotonic() - self._saved >= recipe.checkpoint_seconds:
                    self.save()
                progress = self.progress()
            self._report()
            due = math.floor(progress * recipe.evaluations)
            if (due > state.evaluations or progress >= 1) and state.evaluated != state.updates:
                state.evaluations = due
                self._evaluate()
                progress = self.progress()
            if state.step >= steps:
                state.epoch, state.step = state.epoch + 1, 0
                state.loss_sum, state.loss_images = 0.0, 0
        self.save()

    def progress(self) -> float:
        """Share of the run that is done, by steps or by the clock; equal on all processes."""
        state, recipe, steps = self.state, self.recipe, self.batches.steps
        if recipe.epochs is not None:
            return (state.epoch * steps + state.step) / (recipe.epochs * steps)
        assert recipe.minutes is not None, "the recipe is not decided"
        state.elapsed = time.monotonic() - self._started
        share = state.elapsed / (60 * recipe.minutes)
        if self.accelerator.num_processes > 1:  # the first process's clock rules
            share = float(broadcast(torch.tensor(share, device=self.accelerator.device)))
        return min(share, 1.0)

    def _make_step(self) -> None:
        """One update of the weights."""
        state, progress = self.state, self.progress()
        self.train.array_file.check()
        batch: Batch = self.batches.take(state.step, progress)
        pace = self._schedule.at(progress, updates=state.updates, step=state.step, images=batch.images)
        seed = step_seed(self.recipe.seed, state.epoch, state.step, self.accelerator.process_index)
        seed_step(seed, self.accelerator.device)
        self.step(batch.x_BCHW, batch.y_BK, pace)
        state.step += 1
        state.updates += 1
        state.images += batch.images
        state.loss_images += batch.own

    def _asked_to_stop(self) -> bool:
        """Whether any process was asked to stop; of several, they agree on it where they wait for the device anyway."""
        if self.accelerator.num_processes == 1:
            return self.stop()
        if self.state.step % _CHECK_EVERY and self.state.step != self.batches.steps:
            return False
        return bool(reduce(torch.tensor(float(self.stop()), device=self.accelerator.device), "sum") > 0)

    # -- telling, evaluating, saving ---------------------------------------------------------------------------------

    def _report(self) -> None:
        """Waits for the device, stops on a non-finite loss, and tells how far the run is."""
        state = self.state
        self._collect_loss()
        now, since = _Moment(time.monotonic(), state.images), self._speed_since
        if now.time - since.time > _SPEED_SECONDS:
            self._speed_since = now
        progress = self.progress()
        self.reporter.training(
            progress=progress,
            epoch=state.epoch,
            loss=state.mean_loss,
            images_per_second=(now.images - since.images) / max(now.time - since.time, 1e-9),
            valid=state.history[-1]["valid_balanced_accuracy"] if state.history else None,
            left=(now.time - self._started) / max(progress, 1e-6) * (1 - progress),
        )

    def _collect_loss(self) -> None:
        """Brings the loss from the device; raises `UserError` when it was not finite."""
        loss_sum, bad_step = self._tally.collect()
        if bad_step >= 0:
            raise UserError(
                f"the loss is not finite since epoch {self.state.epoch}, step {bad_step} (learning rate "
                f"{self.optimizer.param_groups[0]['lr']:.2g}); lower learning_rate, set clip, or use precision: no."
            )
        self.state.loss_sum += loss_sum

    def even_averaged(self) -> None:
        """Takes the rounding, and what batches said of one channel of a group alone, out of `averaged()`."""
        if self._tie is not None:
            self._tie.even(self.averaged())

    def _evaluate(self) -> None:
        """Adds a row on the validation images to the history, by the averaged network."""
        state = self.state
        state.evaluated = state.updates
        progress = self.progress()  # outside of the branch: with several processes each has to ask
        self.even_averaged()
        if self.accelerator.is_main_process:
            self.valid.array_file.check()
            asked = _asked(self.averaged(), self._frame)
            classifier = Classifier(asked, self.preprocessing, self.train.classes)
            measured = scores(classifier, self.valid, predict_batch(self.recipe.batch, self.recipe.parts))
            row = {
                "epoch": state.epoch + state.step / self.batches.steps,
                "updates": state.updates,
                "minutes": (time.monotonic() - self._started) / 60,
                "progress": progress,
                "learning_rate": self.optimizer.param_groups[0]["lr"],
                "train_loss": state.mean_loss,
                **measured,
                "images_per_second": state.images / max(time.monotonic() - self._started, 1e-9),
            }
            state.history.append({k: round(v, 6) for k, v in row.items()})
            if self.run_folder:
                self.run_folder.write_history(state.history)
            if self._hooks.on_evaluation is not None:
                self._hooks.on_evaluation(dict(row))
        self.step.weights_were_used()
        self._speed_since = _Moment(time.monotonic(), state.images)
        self.accelerator.wait_for_everyone()

    def save(self) -> None:
        """Writes the checkpoint (first process only), never one of weights that are not finite."""
        state = self.state
        state.elapsed = time.monotonic() - self._started
        self._collect_loss()
        if self.run_folder and self.accelerator.is_main_process:
            # A frame lies beside the network's tensors under the name that it had when it was a part of the network.
            frame = {} if self._frame is None else self._frame.state_dict(prefix=FRAME)
            tensors = {"network": {**frame, **self.network.state_dict()}}
            if self._average:
                tensors["average"] = dict(self._average.module.state_dict())
            save_checkpoint(
                self.run_folder.checkpoint,
                tensors=tensors,
                optimizer=self.optimizer.state_dict(),
                state=vars(state),
                run=self.run_folder.identity,
            )
        self._saved = time.monotonic()

    def restore(self) -> None:
        """Takes up the run at its checkpoint.

        Raises:
            UserError: there is none, or it is damaged, or not one that this run can have written.
        """
        assert self.run_folder is not None
        path = self.run_folder.checkpoint
        groups, optimizer, kept = load_checkpoint(path, run=self.run_folder.identity, say=self.reporter.say)
        try:
            state = State.of_checkpoint(kept, self.recipe, self.batches.steps)
            _restore_frame(self._frame, groups)
            self.network.load_state_dict(groups["network"])
            if self._average:
                self._average.module.load_state_dict(groups["average"])
            restore_optimizer(self.optimizer, optimizer)
        except UserError as error:
            raise UserError(f"checkpoint '{path}' does not fit its run: {error}; start the run again.") from None
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            what = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"checkpoint '{path}' does not fit its run ({what}); start the run again.") from None
        self.state = state


def _asked(network: nn.Module, frame: Frame | None) -> nn.Module:
    """The network as it is asked about validation images."""
    if frame is None:
        return network
    assert isinstance(network, Astroformer), "only our own networks are asked with a frame"
    return Answers(network, AnswersConfig(frame=True), frame)


def _restore_frame(frame: Frame | None, groups: dict[str, dict[str, Tensor]]) -> None:
    """Moves what the frame has learned, if there is one, from the tensors of a checkpoint into it."""
    kept = {name: groups["network"].pop(name) for name in list(groups["network"]) if name.startswith(FRAME)}
    if frame is not None:
        frame.load_state_dict({name.removeprefix(FRAME): tensor for name, tensor in kept.items()})
    for name in kept:
        groups.get("average", {}).pop(name, None)  # versions before 0.2 wrote it there too


def _recompute_blocks(network: nn.Module) -> None:
    """Lets a network compute its blocks again in the backward pass. Raises `UserError` if it has none."""
    enable: Callable[[], None] | None = getattr(network, "set_grad_checkpointing", None)
    if enable is None:
        kind = type(network).__name__
        raise UserError(f"checkpointing: {kind} has no blocks to compute again; set it to false.")
    enable()
