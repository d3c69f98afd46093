"""Several runs as one program: K networks of one architecture, stacked along a new first dimension (`torch.func`).

A small network at a small batch leaves most of a GPU idle, and K of them in one program cost little more than one. Each
run keeps what makes it a run of its own: order, augmentation, draws of stochastic depth and dropout, batch statistics,
clipping, averaged weights, checkpoint. Results equal those of the runs alone but for rounding, since sums are taken in
another order (`tests/training/test_stacked.py` compares them in float64).

The K members are ordinary `Loop`s whose weights, batch statistics and averages are *views* of the stacked tensors, so
they evaluate and save themselves as if they were alone.

Legend: K runs, B batch, C classes.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from astroformer.errors import UserError
from astroformer.network.blocks import StochasticDepth
from astroformer.progress import Reporter
from astroformer.training.checkpoint import load_checkpoint
from astroformer.training.loop import Fit, Loop, seed_step, step_seed, training_loss
from astroformer.training.recipe import Recipe
from astroformer.training.steps.optimizer import create_optimizer
from astroformer.training.train import Setup, create_accelerator, create_loop, describe, finish

_SHARED = ("epoch", "step", "updates", "elapsed", "loss_images", "images", "evaluations", "evaluated")


def why_not_stacked(recipe: Recipe) -> str | None:
    """What of a recipe keeps its runs from being stacked; None if nothing does."""
    if recipe.optimizer == "muon":
        return "muon orthogonalises each matrix, and would take a stack of them for one"
    if recipe.parts > 1:
        return f"accumulate is {recipe.parts}, and a stack computes a batch whole"
    if recipe.checkpointing:
        return "checkpointing is on, and a stack computes no block again"
    if recipe.precision == "fp16":
        return "fp16 needs a scale of the loss for each run; bf16 does not"
    if recipe.track != "none":
        return f"track is {recipe.track}, which follows one run at a time"
    return None


class Stack(Loop):
    """K runs whose recipes differ in seed and fold alone and that have as many images to train on, step by step.

    Args:
        members: a loop of each, all at the same step, on one device.
        template: a network of their architecture, not one of theirs; its weights do not matter.

    Attributes:
        errors: by member, why it failed (its loss became non-finite); the others go on without it.
    """

    def __init__(self, members: list[Loop], template: nn.Module) -> None:
        first = members[0]
        self.members, self.recipe, self.train = members, first.recipe, first.train
        self.run_folder, self.reporter, self.stop = first.run_folder, first.reporter, first.stop
        self.accelerator, self.steps_per_epoch = first.accelerator, first.steps_per_epoch
        self.augmenter, self.small_augmenter = first.augmenter, first.small_augmenter
        self._expected_epochs = 0.0
        self.tie = first.tie
        self.state = copy.deepcopy(first.state)
        self.errors: dict[int, UserError] = {}
        device = self.accelerator.device

        plain = [m.plain for m in members]
        self.parameters = {k: nn.Parameter(v) for k, v in _stacked([dict(n.named_parameters()) for n in plain]).items()}
        self.buffers = _stacked([dict(n.named_buffers()) for n in plain])
        self.averages: dict[str, Tensor] = {}
        if self.recipe.ema:
            averages = [m.averaged() for m in members]
            self.averages = _stacked([{**dict(n.named_parameters()), **dict(n.named_buffers())} for n in averages])

        self.draws = _Draws(template.to(device).train())
        self.template = self.draws.network
        self.optimizer = self._stacked_optimizer()
        weights = [m.class_weights for m in members]
        self.weights_KC = None if weights[0] is None else torch.stack([w for w in weights if w is not None])
        self.labels = [torch.from_numpy(m.train.labels) for m in members]
        self.loss_sum_K = torch.zeros(len(members), dtype=torch.float64, device=device)
        self.bad_step_K = torch.full((len(members),), -1, dtype=torch.int64, device=device)
        for k, member in enumerate(members):
            member.loss_sum, member.bad_step = self.loss_sum_K[k], self.bad_step_K[k]

    def _stacked_optimizer(self) -> torch.optim.Optimizer:
        """The members' optimizer over stacked parameters: AdamW and SGD work number by number, so one serves all."""
        recipe, named = self.recipe, dict(self.template.named_parameters())
        assert recipe.learning_rate is not None
        optimizer = create_optimizer(
            self.template,
            recipe.optimizer,
            learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay or 0.0,
            momentum=recipe.momentum,
        )
        name_of = {id(p): name for name, p in named.items()}
        self.order: list[str] = []  # the parameters as an optimizer numbers them
        for group in optimizer.param_groups:
            names = [name_of[id(p)] for p in group["params"]]
            self.order += names
            group["params"] = [self.parameters[name] for name in names]
        saved = [self._optimizer_states(m) for m in self.members]
        for name, entries in saved[0].items():
            optimizer.state[self.parameters[name]] = {
                key: torch.stack([s[name][key] for s in saved]) if _per_run(key, value) else value
                for key, value in entries.items()
            }
        return optimizer

    def _optimizer_states(self, member: Loop) -> dict[str, dict[str, Any]]:
        """By parameter, what a restored member's optimizer remembers."""
        named = dict(member.plain.named_parameters())
        return {
            name: member.optimizer.state[named[name]] for name in self.order if named[name] in member.optimizer.state
        }

    # -- the whole of them -------------------------------------------------------------------------------------------

    def fit_all(self) -> list[Fit | UserError]:
        """Trains all members to the end of the recipe's length; a failed one gives its error.

        Raises:
            Interrupted: `stop` said so; the state of each is saved.
        """
        try:
            self._fit()
        except UserError:
            if len(self.errors) < len(self.members):
                raise
        self._share()
        return [self.errors.get(k) or m.finished() for k, m in enumerate(self.members)]

    def averaged(self) -> nn.Module:
        return self.members[0].averaged()

    def _ring(self) -> np.ndarray[Any, Any]:
        """(K, N + 1), as of a `Loop`, a row a run."""
        self._share()
        return np.stack([m._ring() for m in self.members])

    def _share(self) -> None:
        """Tells the members where they stand, and what their weights are."""
        state = self.state
        for k, member in enumerate(self.members):
            # Anew each time: who looks at a network may have changed its memory format, and so copied it.
            _point_to(member.plain, {**self.parameters, **self.buffers}, k)
            if self.averages:
                _point_to(member.averaged(), self.averages, k)
            if member.state.epoch != state.epoch:
                member.state.loss_sum = 0.0
            for name in _SHARED:
                setattr(member.state, name, getattr(state, name))
            for group, own in zip(self.optimizer.param_groups, member.optimizer.param_groups, strict=True):
                own["lr"], own["weight_decay"] = group["lr"], group["weight_decay"]
            member._started, member._expected_epochs = self._started, self._expected_epochs
            member._window = getattr(member, "_window", self._window)

    def _each(self, do: Callable[[Loop], None]) -> None:
        """`do` with every member that has not failed. Raises `UserError` when none is left."""
        self._share()
        for k, member in enumerate(self.members):
            if k not in self.errors:
                try:
                    do(member)
                except UserError as error:
                    self.errors[k] = error
                    self.reporter.say(f"{member.name} failed: {error}")
        if len(self.errors) == len(self.members):
            raise next(iter(self.errors.values()))

    def _look(self) -> None:
        self._each(Loop._look)

    def _evaluate(self) -> None:
        self._each(Loop._evaluate)
        self.state.evaluated = self.state.updates

    def save(self) -> None:
        self.state.elapsed = time.monotonic() - self._started
        for k, member in enumerate(self.members):
            named = dict(member.plain.named_parameters())
            for name in self.order:
                entries = self.optimizer.state.get(self.parameters[name], {})
                member.optimizer.state[named[name]] = {
                    key: value[k] if _per_run(key, value) else value for key, value in entries.items()
                }
        self._each(Loop.save)
        self._saved = time.monotonic()

    # -- one step ----------------------------------------------------------------------------------------------------

    def _step(self, keys: np.ndarray[Any, Any], labels_N: Tensor) -> None:
        """One update of every run, on the images of `keys[k, :-1]`."""
        state, recipe = self.state, self.recipe
        progress = self.progress()
        self._set_pace(progress)
        batches = []
        for k, member in enumerate(self.members):
            member._progress = progress
            batches.append(member._batch(keys[k], self.labels[k]))
        x_KBCHW, y_KBC = (torch.stack(parts) for parts in zip(*batches, strict=True))
        seeds = [step_seed(m.recipe.seed, state.epoch, state.step) for m in self.members]
        with torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
            factors = self.draws.draw(seeds, x_KBCHW)
            logits_KBC = vmap(self._forward)(self.parameters, self.buffers, x_KBCHW, factors)
        weighted = None if self.weights_KC is None else 0
        losses_K = vmap(training_loss, in_dims=(0, 0, weighted, None))(
            logits_KBC, y_KBC, self.weights_KC, recipe.label_smoothing
        )
        losses_K.sum().backward()
        if self.tie is not None:
            self.tie.tie([p.grad for p in self.parameters.values() if p.grad is not None])
        if recipe.clip is not None:
            _clip_each(list(self.parameters.values()), recipe.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        images = keys.shape[1] - 1
        detached_K = losses_K.detach()
        self.loss_sum_K += detached_K.double() * images
        first_K = (self.bad_step_K < 0) & ~torch.isfinite(detached_K)
        self.bad_step_K.masked_fill_(first_K, state.step)
        state.loss_images += images
        state.step += 1
        state.updates += 1
        state.images += images
        if self.averages:
            self._average(1.0 - self._decay(progress))

    def _forward(
        self, parameters: Mapping[str, Tensor], buffers: dict[str, Tensor], x_BCHW: Tensor, factors: list[Tensor]
    ) -> Tensor:
        """The logits of one run; within `vmap`."""
        self.draws.factors = iter(factors)
        # The fused kernels of attention know no stack of biases; a small network has few tokens, for which plain
        # products do as well.
        with sdpa_kernel(SDPBackend.MATH):
            return functional_call(self.template, ({**parameters}, buffers), (x_BCHW,))

    @torch.no_grad()
    def _average(self, weight: float) -> None:
        """As timm's `ModelEmaV3`: floating-point tensors are averaged, counts copied."""
        new = {**self.parameters, **self.buffers}
        floating = [name for name, value in self.averages.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.averages[n] for n in floating], [new[n] for n in floating], weight=weight)
        for name in self.averages.keys() - set(floating):
            self.averages[name].copy_(new[name])


def _stacked(values: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([v[name].detach() for v in values]) for name in values[0]}


def _point_to(network: nn.Module, stacked: dict[str, Tensor], k: int) -> None:
    """Makes the tensors of `network` views of row k."""
    for name, parameter in network.named_parameters():
        parameter.data = stacked[name].detach()[k]
    for path, module in network.named_modules():
        for name in module._buffers:
            full = f"{path}.{name}" if path else name
            if full in stacked:
                module._buffers[name] = stacked[full][k]


def _per_run(key: str, value: Any) -> bool:
    """Whether an entry of an optimizer's state has a row a run; the count of steps is the same for all."""
    return isinstance(value, Tensor) and key != "step"


@torch.no_grad()
def _clip_each(parameters: list[nn.Parameter], largest: float) -> None:
    """`clip_grad_norm_` of every run by its own norm."""
    grads = [p.grad for p in parameters if p.grad is not None]
    norms = torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1) for g in grads])
    factor_K = (largest / (torch.linalg.vector_norm(norms, dim=0) + 1e-6)).clamp(max=1.0)
    for g in grads:
        g.mul_(factor_K.view(-1, *[1] * (g.ndim - 1)))


class _Given(nn.Module):
    """Stands for a layer that multiplies by a random factor, and takes the factor from `_Draws`."""

    def __init__(self, layer: nn.Module, draws: _Draws) -> None:
        super().__init__()
        self._hidden = (layer, draws)  # not as submodules: neither has parameters, and `draws` holds the network

    def forward(self, x: Tensor) -> Tensor:
        layer, draws = self._hidden
        return x * draws.next(layer, x)


class _Draws:
    """The random factors within a network (stochastic depth, dropout), drawn outside of it for every run alone.

    `vmap` would draw from one generator for all runs; here each run's factors come from its own seed, in the order and
    shapes in which its layers would draw them.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self._calls: dict[tuple[int, ...], list[tuple[nn.Module, tuple[int, ...], torch.dtype]]] = {}
        self._record: list[tuple[nn.Module, tuple[int, ...], torch.dtype]] | None = None
        self.factors: Iterator[Tensor] = iter(())  # of the pass that is made
        for parent in list(network.modules()):
            for name, layer in parent.named_children():
                if (isinstance(layer, StochasticDepth) and layer.rate > 0) or (
                    isinstance(layer, nn.Dropout) and layer.p > 0
                ):
                    setattr(parent, name, _Given(layer, self))

    def next(self, layer: nn.Module, x: Tensor) -> Tensor:
        if self._record is not None:
            shape = (1,) * (x.ndim - 1) if isinstance(layer, StochasticDepth) else tuple(x.shape[1:])
            self._record.append((layer, shape, x.dtype))
            return torch.ones((), dtype=x.dtype, device=x.device)
        return next(self.factors)

    def draw(self, seeds: list[int], x_KBCHW: Tensor) -> list[Tensor]:
        """A factor (K, B, …) for every call of such a layer, in their order."""
        shape = tuple(x_KBCHW.shape[2:])
        if shape not in self._calls:
            self._record = []
            with torch.no_grad():
                self.network(x_KBCHW[0, :2])
            self._calls[shape], self._record = self._record, None
        rows = []
        for seed in seeds:
            batch, device = x_KBCHW.shape[1], x_KBCHW.device
            seed_step(seed, device)
            rows.append(
                [layer(torch.ones(batch, *s, dtype=dtype, device=device)) for layer, s, dtype in self._calls[shape]]
            )
        return [torch.stack(factors) for factors in zip(*rows, strict=True)]


def resume_stacked(setups: dict[str, Setup], reporter: Reporter, stop: Callable[[], bool]) -> dict[str, str]:
    """Trains the runs of a group to their end; runs that can't share steps with others make stacks of their own.

    Returns:
        Why runs failed, by name.

    Raises:
        Interrupted: `stop` said so; the state of the runs is saved.
    """
    errors: dict[str, str] = {}
    stacks: dict[Any, dict[str, Setup]] = {}
    for name, setup in setups.items():
        stacks.setdefault(_alike(setup), {})[name] = setup
    for number, stack in enumerate(stacks.values(), 1):
        reporter.say(f"stack {number} of {len(stacks)}: {', '.join(stack)}")
        first = next(iter(stack.values()))
        describe(first, reporter)
        accelerator = create_accelerator(first)
        template = copy.deepcopy(first.network)
        members = []
        for name, setup in stack.items():
            member = create_loop(setup, accelerator, reporter, stop)
            member.name = name
            if setup.run.checkpoint.is_file():
                member.restore()
            members.append(member)
        loop = Stack(members, template)
        for (name, setup), fit in zip(stack.items(), loop.fit_all(), strict=True):
            if isinstance(fit, UserError):
                errors[name] = str(fit)
            else:
                finish(setup, fit, loop.steps_per_epoch)
    return errors


def _alike(setup: Setup) -> tuple[Any, ...]:
    """Equal for runs that can share their steps."""
    recipe = setup.recipe.model_copy(update={"seed": 0, "fold": 0})
    at = (0, 0)
    if setup.run.checkpoint.is_file():
        state = load_checkpoint(setup.run.checkpoint)[2]
        at = (state["epoch"], state["step"])
    return recipe.to_yaml(), len(setup.train), len(setup.train.classes), at
