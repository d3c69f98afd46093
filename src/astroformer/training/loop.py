"""The training loop: an epoch is a batched tensor program over a resident store.

Order of an epoch: permutation of the images → batches → augment (uint8 in, float out) → mix → normalise → network →
loss → step → average the weights. Everything random is a function of (seed, epoch, image) or, inside the network,
of (seed, epoch, step), so a run resumed at any step equals an uninterrupted one to the bit on CPU.

Legend: N images, B batch, K classes, C channels, H height, W width.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import broadcast, reduce
from torch import Tensor, nn

from astroformer.allocator import keep_freed_memory
from astroformer.augmentation.augmenter import Augmenter
from astroformer.classifier import Classifier
from astroformer.errors import UserError
from astroformer.images.preprocessing import Preprocessing
from astroformer.images.store import ImageStore
from astroformer.metrics import balanced_accuracy, nll_N
from astroformer.network import AstroformerConfig, Tie
from astroformer.progress import Reporter
from astroformer.randomness import permutation, uniforms
from astroformer.training.ahead import Ahead
from astroformer.training.checkpoint import load_checkpoint, restore_optimizer, save_checkpoint
from astroformer.training.memory import PREDICT_BATCH
from astroformer.training.recipe import Recipe
from astroformer.training.resident import Streamed, resident, to_device
from astroformer.training.run import RunFolder
from astroformer.training.steps.averaging import AveragedNetwork
from astroformer.training.steps.fused import fuse, unfuse, why_not_fused
from astroformer.training.steps.graphed import GraphedStep, Pace, why_not_graphed
from astroformer.training.steps.optimizer import cosine_with_warmup, create_optimizer, decay_by_length
from astroformer.training.steps.update import FusedUpdate, why_no_fused_update

_SAMPLING_STREAM = 7_001  # keeps the draws of balanced sampling apart from those of the augmentation
_SMALL = 0.75  # of each side, while a run is on smaller images
_CHECK_EVERY = 20  # steps between two looks at the loss: each look waits for the device
_READY_BYTES = 2**26  # of float32 images that are augmented at once for steps to come, on a GPU


class Interrupted(Exception):
    """The run was asked to stop, by the signal `number` if by one, and has saved its state."""

    def __init__(self, message: str = "", number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.number = number


@dataclass
class State:
    """Where a run stands: what a checkpoint keeps beside tensors. Times are seconds of training so far."""

    epoch: int = 0
    step: int = 0  # within the epoch
    updates: int = 0
    elapsed: float = 0.0
    loss_sum: float = 0.0  # of the epoch so far, over `loss_images` images
    loss_images: int = 0
    images: int = 0  # seen in all
    evaluations: int = 0
    evaluated: int = -1  # updates at the last evaluation
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass
class Fit:
    """A finished run: the averaged network (what was evaluated) and its history."""

    network: nn.Module
    state: State


def epoch_order(recipe: Recipe, labels_N: np.ndarray[Any, Any], epoch: int) -> np.ndarray[Any, Any]:
    """(N,) positions of the images in the order of this epoch.

    A permutation; with balanced sampling N draws with replacement in which every class is equally likely.
    """
    n = len(labels_N)
    order_N = permutation(recipe.seed, epoch, n).numpy()
    if not recipe.balanced_sampling:
        return order_N
    counts_K = np.bincount(labels_N)
    weight_N = 1.0 / counts_K[labels_N]
    cumulative_N = np.cumsum(weight_N)
    draws_N = uniforms(recipe.seed, epoch, torch.arange(n), _SAMPLING_STREAM, 1)[:, 0].double().numpy()
    return np.minimum(np.searchsorted(cumulative_N, draws_N * cumulative_N[-1], side="right"), n - 1)


def draw_keys(order_N: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(N,) what the augmentation of each place of the order is drawn from; modulo N it is the image.

    That is the image itself the first time that it comes in an epoch, and another number each further time, so that
    balanced sampling shows a rare image in different ways.
    """
    n = len(order_N)
    by_image_N = np.argsort(order_N, kind="stable")
    sorted_N = order_N[by_image_N]
    time_N = np.empty(n, np.int64)
    time_N[by_image_N] = np.arange(n) - np.searchsorted(sorted_N, sorted_N)
    return order_N + n * time_N


def count_steps(images: int, batch_size: int) -> int:
    """Steps an epoch, of nearly equal size: every image is used, a set smaller than a batch is one batch, and no
    batch is a single image unless that is asked for."""
    steps = round(images / batch_size)
    return max(1, steps if batch_size == 1 else min(steps, images // 2))


def class_weights(recipe: Recipe, labels_N: np.ndarray[Any, Any], classes: tuple[str, ...]) -> Tensor | None:
    """(K,) weights of the loss with mean 1 over the images, or None.

    Raises:
        UserError: a weight for a class that the images don't have, or none above 0.
    """
    if recipe.class_weights == "none":
        return None
    counts_K = np.bincount(labels_N, minlength=len(classes))
    if recipe.class_weights == "auto":
        weights_K = 1.0 / np.maximum(counts_K, 1)
    else:
        unknown = sorted(set(recipe.class_weights) - set(classes))
        if unknown:
            raise UserError(f"class_weights names '{unknown[0]}', which is no class; classes: {', '.join(classes)}.")
        weights_K = np.array([recipe.class_weights.get(name, 1.0) for name in classes])
        if not (weights_K * counts_K).any():
            raise UserError("class_weights are 0 for every class that has images; give one of them a weight above 0.")
    return torch.tensor(weights_K / (weights_K * counts_K).sum() * counts_K.sum(), dtype=torch.float32)


def training_loss(logits_BK: Tensor, y_BK: Tensor, weights_K: Tensor | None, label_smoothing: float) -> Tensor:
    """Mean cross-entropy over a batch, in float32 or better; `y_BK` are class probabilities."""
    logits_BK = logits_BK.to(torch.promote_types(logits_BK.dtype, torch.float32))
    return F.cross_entropy(logits_BK, y_BK, weight=weights_K, label_smoothing=label_smoothing)


def step_seed(seed: int, epoch: int, step: int, rank: int = 0) -> int:
    """What torch's generator starts a step from: all that is random within the network follows from it."""
    return (((seed * 1_000_003 + epoch) * 1_000_003 + step) * 64 + rank) % 2**63  # torch takes 64 bits


def seed_step(seed: int, device: torch.device) -> None:
    """Sets the generators that a step on `device` draws from. `torch.manual_seed` asks every kind of device that torch
    knows, and where one isn't there it notes the whole stack for later, at every step."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def predict_batch(recipe: Recipe) -> int:
    """Images a forward pass over the validation images: as many as fit where a part of a batch trains."""
    return min(PREDICT_BATCH, 2 * math.ceil(recipe.batch / recipe.parts))


def predict_store(classifier: Classifier, store: ImageStore, batch_size: int = PREDICT_BATCH) -> np.ndarray[Any, Any]:
    """(N, K) probabilities of a whole store through the one predict path."""
    parts = [
        classifier.probabilities(store.take(np.arange(start, min(start + batch_size, len(store)))))
        for start in range(0, len(store), batch_size)
    ]
    return np.concatenate(parts)


class _Ready(NamedTuple):
    """Batches of the steps on the images [first, last) of an epoch's ring, one after the other."""

    augmenter: Augmenter
    first: int
    last: int
    x_NCHW: Tensor
    y_NK: Tensor


class _Shown(NamedTuple):
    """All that the batch of a step of the epoch that is planned follows from."""

    epoch: int
    step: int
    augmenter: Augmenter


class Loop:
    """One run of `recipe` on `network`, from its first step or from a checkpoint, to its end."""

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
        reporter: Reporter | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """`recipe` must be decided (see `rules.decide`). Without a `run` nothing is written; `stop` is asked at
        every step whether to save and raise `Interrupted`. With a `teacher` of the same preprocessing and classes the
        targets are its answers, in place of labels.

        Raises:
            UserError: the network can't do what the recipe says; or the teacher's preprocessing or classes differ.
        """
        self.recipe, self.train, self.valid, self.run_folder = recipe, train, valid, run
        self.preprocessing = preprocessing
        self.reporter = reporter or Reporter(quiet=True)
        self.name = "training"  # in what is shown of the progress
        self.stop = stop
        self.accelerator = accelerator
        device = accelerator.device
        if device.type == "cpu":
            keep_freed_memory()
        if recipe.checkpointing:
            enable: Callable[[], None] | None = getattr(network, "set_grad_checkpointing", None)
            if enable is None:
                kind = type(network).__name__
                raise UserError(f"checkpointing: {kind} has no blocks to compute again; set it to false.")
            enable()
        network = network.to(device).to(memory_format=torch.channels_last)
        config = getattr(network, "config", None)
        self._config = config if isinstance(config, AstroformerConfig) else None
        group = "none" if self._config is None else self._config.group
        self.tie = None if group == "none" else Tie(network, group)
        if self.tie is not None:
            self.tie.start(network)  # nothing new to one that is tied, and its steps need that
        self.average = AveragedNetwork(network, decay=0.0) if recipe.ema else None
        if recipe.speed == "fused" and not fuse(network) and (reason := why_not_fused()):
            self.reporter.say(f"speed: plain, not fused as the recipe says: {reason}")  # resumed on another machine
        learning_rate = recipe.learning_rate
        assert learning_rate is not None, "the recipe is not decided"
        optimizer = create_optimizer(
            network,
            recipe.optimizer,
            learning_rate=learning_rate,
            weight_decay=recipe.weight_decay or 0.0,  # by the length of the run: from the first step on
            momentum=recipe.momentum,
        )
        if teacher is not None and (teacher.preprocessing, teacher.classes) != (preprocessing, train.classes):
            raise UserError("the model to learn from has another preprocessing or other classes than this run.")
        # Asked in the precision that the network is trained in.
        precision = "bfloat16" if recipe.precision == "bf16" else "float32"
        self.teacher = None if teacher is None else replace(teacher.to(device), precision=precision)
        self.plain = network
        self._parameters = list(network.parameters())  # to find them takes longer than to clip them
        # Both are where they belong; to place them, accelerate imports torch's distributed tensors: half a second.
        self.network, self.optimizer = accelerator.prepare(network, optimizer, device_placement=[False, False])
        self.update = None
        if recipe.speed == "fused" and accelerator.scaler is None and why_no_fused_update(network, optimizer) is None:
            self.update = FusedUpdate(network, optimizer, clip=recipe.clip, tie=self.tie)
        if recipe.speed == "compiled":
            # Dynamic sizes, since a progressive run has two and the last batch may differ: one compilation for all.
            self.network = torch.compile(self.network, dynamic=True)
        self.stored = resident(train, device)
        full = preprocessing.image_size
        self.augmenter = Augmenter(recipe.augment, seed=recipe.seed, size=full)
        small = self._smaller(full)
        smaller = min(small) >= 32 and small != full
        self.small_augmenter = Augmenter(recipe.augment, seed=recipe.seed, size=small) if smaller else None
        weights = class_weights(recipe, train.labels, train.classes)
        self.class_weights = None if weights is None else weights.to(device)
        self.steps_per_epoch = count_steps(len(train), recipe.batch)
        self.state = State()
        self._progress = 0.0  # at the step being made
        self._expected_epochs = 0.0  # of the whole run; as many as it ever seemed to have
        self._plan = np.empty(0, np.int64), np.zeros(1, np.int64)  # of the epoch: its ring, and where steps begin
        self._ready: _Ready | None = None  # images of this step and of some that come, on a GPU
        self._ahead: Ahead[_Shown, tuple[Tensor, Tensor]] | None = None  # on a CPU, where a teacher is asked
        self._readies = device.type == "cuda" and not isinstance(self.stored, Streamed) and recipe.parts == 1
        # The step of the epoch with the first non-finite loss, on the device, so that nothing waits for it.
        self.bad_step = torch.full((), -1, dtype=torch.int64, device=device)
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self.graphed = self._recorder() if recipe.speed == "graph" else None

    def _smaller(self, size: tuple[int, int]) -> tuple[int, int]:
        """Three quarters of each side, or near them what suits the network."""
        config = self._config
        if config is not None and config.group != "none":
            return config.nearest_size(size[0] * _SMALL), config.nearest_size(size[1] * _SMALL)
        step = math.lcm(4, 1 if config is None else config.size_multiple)
        return round(size[0] * _SMALL / step) * step, round(size[1] * _SMALL / step) * step

    def _recorder(self) -> GraphedStep | None:
        """What records steps as a CUDA graph, if that can be here."""
        recipe, accelerator = self.recipe, self.accelerator
        reason = why_not_graphed(recipe, accelerator.device.type, accelerator.num_processes)
        if reason is not None:
            self.reporter.say(f"speed: plain, not graph as the recipe says: {reason}")  # resumed on another machine
            return None
        return GraphedStep(
            self.network,
            self.optimizer.optimizer,
            self.average,
            lambda logits_BK, y_BK: training_loss(logits_BK, y_BK, self.class_weights, recipe.label_smoothing),
            recipe.clip,
            loss_sum=self.loss_sum,
            bad_step=self.bad_step,
            say=self.reporter.say,
            tie=self.tie,
        )

    # -- the whole run -----------------------------------------------------------------------------------------------

    def fit(self) -> Fit:
        """Trains to the end of the recipe's length.

        Raises:
            UserError: the loss became non-finite.
            Interrupted: `stop` said so; the state is saved.
        """
        alone = self.accelerator.num_processes == self.recipe.parts == 1
        if self.teacher is None or self.accelerator.device.type != "cpu" or not alone or torch.get_num_threads() == 1:
            return self._fit()
        with Ahead(self._batch_of) as self._ahead:
            return self._fit()

    def _fit(self) -> Fit:
        state, recipe = self.state, self.recipe
        self._started = time.monotonic() - state.elapsed
        self._saved = time.monotonic()
        self._window = (time.monotonic(), state.images)
        if self.run_folder and not self.run_folder.checkpoint.exists():
            self.save()  # so that a run can be resumed from its first moment on
        labels_N = torch.from_numpy(self.train.labels)
        progress = self.progress()  # read once a step: the clock must not end the run between two decisions
        while True:
            self._choose_augmentation(progress)
            ring = self._ring()
            bounds = np.linspace(0, len(self.train), self.steps_per_epoch + 1).round().astype(int)
            self._plan, self._ready = (ring, bounds), None
            while state.step < self.steps_per_epoch and progress < 1:
                first, last = bounds[state.step : state.step + 2]
                self._step(ring[..., first : last + 1], labels_N)
                if state.step % _CHECK_EVERY == 0 or state.step == self.steps_per_epoch:
                    self._look()
                if self._asked_to_stop():
                    self.save()
                    raise Interrupted
                if time.monotonic() - self._saved >= recipe.checkpoint_seconds:
                    self.save()
                progress = self.progress()
            self._look()
            due = math.floor(progress * recipe.evaluations)
            if (due > state.evaluations or progress >= 1) and state.evaluated != state.updates:
                state.evaluations = due
                self._evaluate()
                progress = self.progress()
            if state.step >= self.steps_per_epoch:
                state.epoch, state.step = state.epoch + 1, 0
                state.loss_sum, state.loss_images = 0.0, 0
            if progress >= 1:
                break
        self.save()
        return self.finished()

    def finished(self) -> Fit:
        """What `fit` returns, its network an ordinary one again."""
        network = self.averaged()
        self._even()
        unfuse(network)
        return Fit(network, self.state)

    def _ring(self) -> np.ndarray[Any, Any]:
        """(N + 1,) draw keys of the epoch's images in their order, the first once more at the end.

        Mixing takes the next image of the order as partner, whatever the batch it falls into.
        """
        keys_N = draw_keys(epoch_order(self.recipe, self.train.labels, self.state.epoch))
        return np.concatenate([keys_N, keys_N[:1]])

    def progress(self) -> float:
        """Share of the run that is done, by steps or by the clock; equal on all processes."""
        state, recipe = self.state, self.recipe
        if recipe.epochs is not None:
            return (state.epoch * self.steps_per_epoch + state.step) / (recipe.epochs * self.steps_per_epoch)
        assert recipe.minutes is not None, "the recipe is not decided"
        state.elapsed = time.monotonic() - self._started
        share = state.elapsed / (60 * recipe.minutes)
        if self.accelerator.num_processes > 1:  # the first process's clock rules
            share = float(broadcast(torch.tensor(share, device=self.accelerator.device)))
        return min(share, 1.0)

    def _asked_to_stop(self) -> bool:
        """Whether any process was asked to stop; of several, they agree on it where they wait for the device anyway."""
        if self.accelerator.num_processes == 1:
            return self.stop()
        if self.state.step % _CHECK_EVERY and self.state.step != self.steps_per_epoch:
            return False
        return bool(reduce(torch.tensor(float(self.stop()), device=self.accelerator.device), "sum") > 0)

    def averaged(self) -> nn.Module:
        """The network that is evaluated and saved: averaged weights, or the raw ones without averaging."""
        return self.average.module if self.average else self.plain

    def _even(self) -> None:
        """Takes the rounding, and what batches said of one channel of a group alone, out of `averaged()`."""
        if self.tie is not None:
            self.tie.even(self.averaged())

    # -- one step ----------------------------------------------------------------------------------------------------

    def _step(self, keys: np.ndarray[Any, Any], labels_N: Tensor) -> None:
        """One update on the images of `keys[:-1]`; the last one is only the partner of the one before it."""
        state, recipe, accelerator = self.state, self.recipe, self.accelerator
        progress = self._progress = self.progress()
        self._set_pace(progress)
        rank, world = accelerator.process_index, accelerator.num_processes
        seed_step(step_seed(recipe.seed, state.epoch, state.step, rank), accelerator.device)
        if not self.network.training:
            self.network.train()
        images = len(keys) - 1
        if self.graphed is not None:
            group, step = self.optimizer.param_groups[0], state.step
            x_BCHW, y_BK = self._batch_of_step(keys, labels_N)
            self._count(images, images)
            pace = Pace(group["lr"], group["weight_decay"], 1.0 - self._decay(progress), step)
            self.graphed(x_BCHW, y_BK, pace)
            return
        parts = world * recipe.parts
        bounds = np.linspace(0, images, parts + 1).round().astype(int)
        counted = 0
        for part in range(rank * recipe.parts, (rank + 1) * recipe.parts):
            some = keys[bounds[part] : bounds[part + 1] + 1]
            # The gradient is the mean over the parts: each counts by its images. With fewer images than parts, one
            # of them stands in at weight 0, since every process has to take part in every step.
            share = (len(some) - 1) * parts / images
            if len(some) < 2:
                some = keys[:2]
            with accelerator.accumulate(self.network):
                whole = parts == 1
                x_BCHW, y_BK = self._batch_of_step(some, labels_N) if whole else self._batch(some, labels_N)
                logits_BK = self.network(x_BCHW)
                loss = training_loss(logits_BK, y_BK, self.class_weights, recipe.label_smoothing)
                accelerator.backward(loss * share)
                if accelerator.sync_gradients:  # the last part of the batch
                    self._update()
            detached = loss.detach()
            self.loss_sum += detached.double() * (share * images / parts)
            bad = (self.bad_step < 0) & ~torch.isfinite(detached)
            self.bad_step.masked_fill_(bad, state.step)
            counted += round(share * images / parts)
        self._count(images, counted)
        if self.average:
            self.average.decay = self._decay(progress)
            self.average.update(self.plain)

    def _update(self) -> None:
        """What follows the backward pass, and drops the gradients."""
        if self.update is not None:
            self.update()
            return
        if self.tie is not None:
            self.tie.tie([p.grad for p in self._parameters if p.grad is not None])
        if self.recipe.clip is not None:
            self.accelerator.unscale_gradients()
            # accelerate's own looks whether there are distributed tensors, and imports them for that.
            nn.utils.clip_grad_norm_(self._parameters, self.recipe.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _count(self, images: int, counted: int) -> None:
        """A step is made on so many `images`, `counted` of them in the sum of losses of this process."""
        state = self.state
        state.step += 1
        state.updates += 1
        state.images += images
        state.loss_images += counted

    def _set_pace(self, progress: float) -> None:
        """Learning rate and weight decay of the step at `progress`."""
        recipe = self.recipe
        factor = cosine_with_warmup(progress, warmup=recipe.warmup, final=recipe.final_learning_rate)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate * factor  # type: ignore[operator]
            if recipe.weight_decay is None and group["decays"]:
                group["weight_decay"] = decay_by_length(
                    self._length(progress),
                    learning_rate=recipe.learning_rate,  # type: ignore[arg-type]
                    momentum=recipe.momentum if recipe.optimizer == "sgd" else 0.0,
                )

    def _length(self, progress: float) -> float:
        """Updates of the whole run; by the clock, as many as there will be if it goes on as fast as until now, small
        images as much faster as they have fewer pixels."""
        if self.recipe.epochs is not None:
            return self.recipe.epochs * self.steps_per_epoch
        share, small = self.recipe.progressive, self.small_augmenter
        faster = 1.0 if small is None else math.prod(self.augmenter.size) / math.prod(small.size)
        seen = faster * min(progress, share) + max(progress - share, 0.0)
        return max(1.0, self.state.updates * (faster * share + 1.0 - share) / max(seen, 1e-6))

    def _decay(self, progress: float) -> float:
        """Share of the averaged weights that stays in this update.

        The memory is a share of the run. Young runs remember no more than a tenth of what they have seen.
        """
        updates = self.state.updates
        decay = math.exp(-1.0 / max(self.recipe.ema * self._length(progress), 1e-6))
        return min(decay, (1 + updates) / (10 + updates))

    def _choose_augmentation(self, progress: float) -> None:
        """Takes up the policy and mixing, for good, once the run is seen to be long enough for them: by the clock
        nobody knows before."""
        before, epochs = self._expected_epochs, self._length(progress) / self.steps_per_epoch
        if epochs <= before:
            return
        self._expected_epochs = epochs
        augment = self.recipe.augment
        mixing = "mixing of images" if self.augmenter.mixes else "none"
        for name, least in ((augment.policy, augment.policy_epochs), (mixing, augment.mix_epochs)):
            if name != "none" and before < least <= epochs:
                self.reporter.say(f"{name}: on, since the run has some {epochs:.0f} epochs")

    def _augmenter_now(self) -> Augmenter:
        early = self._progress < self.recipe.progressive
        augmenter = self.small_augmenter if early and self.small_augmenter else self.augmenter
        return augmenter.at_length(self._expected_epochs)

    def _batch_of_step(self, keys: np.ndarray[Any, Any], labels_N: Tensor) -> tuple[Tensor, Tensor]:
        """`_batch` of all images of this step.

        On a GPU those of some steps to come are made with them: what an image becomes does not depend on its batch, and
        the hundreds of small operations take as long for one batch as for several. On a CPU with a teacher another
        thread makes the next one while this one is learned.
        """
        if self._ahead is not None:
            epoch, step, augmenter = self.state.epoch, self.state.step, self._augmenter_now()
            more = step + 1 < self.steps_per_epoch
            return self._ahead.take(
                _Shown(epoch, step, augmenter), _Shown(epoch, step + 1, augmenter) if more else None
            )
        if not self._readies:
            return self._batch(keys, labels_N)
        (ring, bounds), step, augmenter = self._plan, self.state.step, self._augmenter_now()
        first, last = bounds[step : step + 2]
        ready = self._ready
        if ready is None or ready.augmenter is not augmenter or last > ready.last:
            each = 4 * self.preprocessing.channels * math.prod(augmenter.size)
            fits = np.searchsorted(bounds, first + _READY_BYTES // each, side="right") - 1
            end = bounds[max(fits, step + 1)]
            ready = self._ready = _Ready(augmenter, first, end, *self._batch(ring[first : end + 1], labels_N))
        some = slice(first - ready.first, last - ready.first)
        return ready.x_NCHW[some], ready.y_NK[some]

    def _batch_of(self, shown: _Shown) -> tuple[Tensor, Tensor]:
        """`_batch` of a step of the epoch that is planned, whatever step is being made."""
        ring, bounds = self._plan
        first, last = bounds[shown.step : shown.step + 2]
        return self._batch(ring[first : last + 1], torch.from_numpy(self.train.labels), shown)

    def _batch(
        self, keys: np.ndarray[Any, Any], labels_N: Tensor, shown: _Shown | None = None
    ) -> tuple[Tensor, Tensor]:
        """Augmented, mixed and normalised images (B, C, H, W) and soft targets (B, K) of `keys[:-1]`: what was mixed of
        their labels, or what the teacher answers of them. They are of the step being made unless another is given."""
        device = self.accelerator.device
        epoch, step, augmenter = shown or _Shown(self.state.epoch, self.state.step, self._augmenter_now())
        keys = np.ascontiguousarray(keys if augmenter.mixes else keys[:-1])
        taken = keys % len(labels_N)
        stored_MCHW, row_B = self.stored(taken)
        ring, bounds = self._plan
        following = bounds[step + 1 : step + 3]
        if isinstance(self.stored, Streamed) and len(following) == 2:  # parts of a batch are not foreseen
            self.stored.prefetch(ring[following[0] : following[1] + augmenter.mixes] % len(labels_N))
        x_BCHW, y_BK = augmenter.batch(
            stored_MCHW,
            row_B,
            to_device(keys, device),
            epoch,
            to_device(labels_N[taken], device),
            classes=len(self.train.classes),
            preprocessing=self.preprocessing,
        )
        return x_BCHW, y_BK if self.teacher is None else self.teacher.answers(x_BCHW)

    def _look(self) -> None:
        """Waits for the device, stops on a non-finite loss, and tells how far the run is."""
        state = self.state
        self._collect_loss()
        now, seen = time.monotonic(), state.images
        then, seen_then = self._window
        speed = (seen - seen_then) / max(now - then, 1e-9)
        if now - then > 2:
            self._window = (now, seen)
        progress = self.progress()
        elapsed = now - self._started
        self.reporter.training(
            progress=progress,
            epoch=state.epoch,
            loss=state.loss_sum / max(state.loss_images, 1),
            images_per_second=speed,
            valid=state.history[-1]["valid_balanced_accuracy"] if state.history else None,
            left=elapsed / max(progress, 1e-6) * (1 - progress),
            name=self.name,
        )

    def _collect_loss(self) -> None:
        """Brings the loss from the device; raises `UserError` when it was not finite."""
        state = self.state
        bad = int(self.bad_step)
        if bad >= 0:
            raise UserError(
                f"the loss is not finite since epoch {state.epoch}, step {bad} (learning rate "
                f"{self.optimizer.param_groups[0]['lr']:.2g}); lower learning_rate, set clip, or use precision: no."
            )
        state.loss_sum += float(self.loss_sum)
        self.loss_sum.zero_()

    # -- looking back ------------------------------------------------------------------------------------------------

    def _evaluate(self) -> None:
        """Adds a row on the validation images to the history, by the averaged network."""
        state = self.state
        state.evaluated = state.updates
        progress = self.progress()  # outside of the branch: with several processes each has to ask
        self._even()
        if self.accelerator.is_main_process:
            classifier = Classifier(self.averaged(), self.preprocessing, self.train.classes)
            probabilities_NK = predict_store(classifier, self.valid, predict_batch(self.recipe))
            predicted_N = probabilities_NK.argmax(1)
            row = {
                "epoch": state.epoch + state.step / self.steps_per_epoch,
                "updates": state.updates,
                "minutes": (time.monotonic() - self._started) / 60,
                "progress": progress,
                "learning_rate": self.optimizer.param_groups[0]["lr"],
                "train_loss": state.loss_sum / max(state.loss_images, 1),
                "valid_top1": float((predicted_N == self.valid.labels).mean()),
                "valid_balanced_accuracy": balanced_accuracy(self.valid.labels, predicted_N, len(self.train.classes)),
                "valid_nll": float(nll_N(self.valid.labels, probabilities_NK).mean()),
                "images_per_second": state.images / max(time.monotonic() - self._started, 1e-9),
            }
            state.history.append({k: round(v, 6) for k, v in row.items()})
            if self.run_folder:
                self.run_folder.write_history(state.history)
            self.accelerator.log({k: v for k, v in row.items() if k != "updates"}, step=state.updates)
        if self.graphed is not None:
            self.graphed.check()
        self._window = (time.monotonic(), state.images)
        self.accelerator.wait_for_everyone()

    def save(self) -> None:
        """Writes the checkpoint (first process only), never one of weights that are not finite."""
        state = self.state
        state.elapsed = time.monotonic() - self._started
        self._collect_loss()
        if self.run_folder and self.accelerator.is_main_process:
            tensors = {"network": dict(self.plain.state_dict())}
            if self.average:
                tensors["average"] = dict(self.average.module.state_dict())
            save_checkpoint(
                self.run_folder.checkpoint,
                tensors=tensors,
                optimizer=self.optimizer.state_dict(),
                state=vars(state),
            )
        self._saved = time.monotonic()

    def restore(self) -> None:
        """Takes up the run at its checkpoint.

        Raises:
            UserError: there is none, or it is damaged.
        """
        assert self.run_folder is not None
        groups, optimizer, state = load_checkpoint(self.run_folder.checkpoint)
        self.plain.load_state_dict(groups["network"])
        if self.average:
            self.average.module.load_state_dict(groups["average"])
        restore_optimizer(self.optimizer, optimizer)
        self.state = State(**state)
