"""The batches of a run: where images lie, how they are augmented, and who prepares the next batch.

An epoch is an order of the images, cut into steps. What a batch holds follows from (seed, epoch, step) and from the
augmentation alone, whoever makes it and when:

- on a CPU a batch is made when it is asked for; where a teacher answers it too, which takes as long as to learn from
  it, a thread makes it one step ahead;
- on a GPU the batches of some steps to come are made at once: the hundreds of small operations of the augmentation take
  as long for one batch as for several;
- images that the device can't hold are read one step ahead.

Shape letters: N images, B batch, K classes, C channels, H and W pixels.
"""

from __future__ import annotations

import math
from collections import Counter
from contextlib import ExitStack
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from astroformer.augmentation.augmenter import Augmenter
from astroformer.augmentation.settings import Augment
from astroformer.classifier import Classifier
from astroformer.images.preprocessing import Preprocessing
from astroformer.images.store import ImageStore
from astroformer.network import AstroformerConfig
from astroformer.training.defaults import FIRST_SIDE, LEAST_SIDE, RULES
from astroformer.training.hooks import OwnAugmentation, augmented
from astroformer.training.objective import image_weights, soft_targets
from astroformer.training.order import Integers, count_steps, draw_keys, epoch_order, even_parts
from astroformer.training.placed_images import Streamed, place_images, to_device
from astroformer.training.prefetcher import Prefetcher, halved_threads
from astroformer.training.recipe import Recipe

_AT_ONCE_BYTES = 2**26  # of float32 images that are augmented at once for steps to come, on a GPU


class Processes(NamedTuple):
    """Which of how many processes of a run this is, and in how many parts each computes its share of a batch."""

    rank: int = 0
    world: int = 1
    parts: int = 1


_ALONE = Processes()


class Batch(NamedTuple):
    """Images (B, C, H, W), normalised, and their targets (B, K), class probabilities, times the weight of an image
    where images have weights.

    `images` counts those of the whole batch, `own` those of this process. A process without any of them has one image
    that stands in, since every process takes part in every step.
    """

    x_BCHW: Tensor
    y_BK: Tensor
    images: int
    own: int


class _Request(NamedTuple):
    """All that a batch follows from."""

    epoch: int
    step: int
    augmenter: Augmenter


class _AtOnce(NamedTuple):
    """Augmented images of several steps, those from `first` to before `last` in the order of the epoch."""

    augmenter: Augmenter
    first: int
    last: int
    x_NCHW: Tensor
    y_NK: Tensor


class Batches:
    """The batches of a run, epoch by epoch. Used as a context, which ends its threads.

    Args:
        store: the images to train on.
        preprocessing: its image size is that of the batches, its mean and deviation normalise them.
        recipe: a decided one.
        device: that trains.
        smaller: (height, width) of the images in the first share of the run; None for whole ones from the start.
        teacher: answers each batch in place of the labels; on the device.
        own: a program's own augmentation, see `Hooks`.
        processes: see there.

    Attributes:
        steps: of an epoch.
        teacher: as it is asked.
        weighted: whether images have weights, so that targets sum to these.
        seen: images so far in this process, counted by their (height, width).
    """

    def __init__(
        self,
        store: ImageStore,
        preprocessing: Preprocessing,
        recipe: Recipe,
        device: torch.device,
        *,
        smaller: tuple[int, int] | None = None,
        teacher: Classifier | None = None,
        own: OwnAugmentation | None = None,
        processes: Processes = _ALONE,
    ) -> None:
        self._store, self._preprocessing, self._device = store, preprocessing, device
        self._seed, self._balanced, self.teacher = recipe.seed, recipe.balanced_sampling, teacher
        self._own, self._processes = own, processes
        self.weighted = image_weights(store.weights_N) is not None
        soft_NK = soft_targets(store.votes_NK, store.weights_N, store.labels, len(store.classes))
        self._targets = torch.from_numpy(store.labels) if soft_NK is None else soft_NK
        self._images = place_images(store, device)
        seed, rgb = recipe.seed, preprocessing.rgb
        self._whole = Augmenter(recipe.augment, seed=seed, size=preprocessing.image_size, rgb=rgb)
        self._smaller = None if smaller is None else Augmenter(recipe.augment, seed=seed, size=smaller, rgb=rgb)
        self._small_share = recipe.progressive
        self._epochs = 0.0  # of the whole run: as many as it ever seemed to have
        self.steps = count_steps(len(store), recipe.batch)
        self.seen: Counter[tuple[int, int]] = Counter()
        self._epoch = 0
        self._ring = np.empty(0, np.int64)
        self._bounds = even_parts(len(store), self.steps)
        alone = processes.world == processes.parts == 1
        self._in_thread = teacher is not None and device.type == "cpu" and alone and torch.get_num_threads() > 1
        # An augmentation of a program's own is given a batch at a time: what it draws follows from the step.
        together = device.type == "cuda" and alone and own is None
        self._several_at_once = together and not isinstance(self._images, Streamed)
        self._at_once: _AtOnce | None = None
        self._prefetcher: Prefetcher[_Request, tuple[Tensor, Tensor]] | None = None
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self._open.callback(self._images.close)
        if self._in_thread:
            self._open.enter_context(halved_threads())
            self._prefetcher = Prefetcher(self._made)
            self._open.callback(self._prefetcher.close)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
        self._prefetcher = None

    def expect_epochs(self, epochs: float) -> list[str]:
        """Takes up, for good, a policy and mixing that are for runs of at least so many epochs.

        By the clock nobody knows the length before. Returns a sentence for each that was taken up now.
        """
        before = self._epochs
        if epochs <= before:
            return []
        self._epochs = epochs
        settings: Augment = self._whole.settings
        mixing = "mixing of images" if self._whole.mixes else "none"
        return [
            RULES["policy and mixing"].said.format(what=name, epochs=epochs)
            for name, least in ((settings.policy, settings.policy_epochs), (mixing, settings.mix_epochs))
            if name != "none" and before < least <= epochs
        ]

    def begin_epoch(self, epoch: int) -> None:
        """Puts the images into the order of this epoch."""
        order_N = epoch_order(self._seed, epoch, self._store.labels, balanced=self._balanced)
        keys_N = draw_keys(order_N)
        # The first once more at the end: mixing takes the next image of the order as partner, whatever its batch.
        self._ring = np.concatenate([keys_N, keys_N[:1]])
        self._epoch, self._at_once = epoch, None

    def take(self, step: int, progress: float) -> Batch:
        """The batch of a step of the epoch that was begun, at this progress of the run."""
        early = progress < self._small_share
        augmenter = (self._smaller if early and self._smaller else self._whole).at_length(self._epochs)
        request = _Request(self._epoch, step, augmenter)
        if self._prefetcher is not None:
            following = request._replace(step=step + 1) if step + 1 < self.steps else None
            x_BCHW, y_BK = self._prefetcher.take(request, following)
        elif self._several_at_once:
            x_BCHW, y_BK = self._of_several(request)
        else:
            x_BCHW, y_BK = self._made(request)
        *_, own = self._share(step)
        self.seen[(x_BCHW.shape[2], x_BCHW.shape[3])] += own
        return Batch(x_BCHW, y_BK, int(self._bounds[step + 1] - self._bounds[step]), own)

    def _share(self, step: int) -> tuple[int, int, int]:
        """Where this process's images of a step begin and end in the ring, and how many of them count."""
        first, last = (int(bound) for bound in self._bounds[step : step + 2])
        rank, world, parts = self._processes
        if world == 1:
            return first, last, last - first
        cuts = first + even_parts(last - first, world * parts)
        begin, end = int(cuts[rank * parts]), int(cuts[(rank + 1) * parts])
        return (begin, end, end - begin) if end > begin else (first, first + 1, 0)

    def _of_several(self, request: _Request) -> tuple[Tensor, Tensor]:
        """A batch out of those that were made at once; makes them anew where it is not among them."""
        step, augmenter = request.step, request.augmenter
        first, last = (int(bound) for bound in self._bounds[step : step + 2])
        ready = self._at_once
        if ready is None or ready.augmenter is not augmenter or last > ready.last:
            each = 4 * self._preprocessing.channels * math.prod(augmenter.size)
            fits = int(np.searchsorted(self._bounds, first + _AT_ONCE_BYTES // each, side="right")) - 1
            end = int(self._bounds[max(fits, step + 1)])
            ready = self._at_once = _AtOnce(augmenter, first, end, *self._augmented(request, first, end))
        some = slice(first - ready.first, last - ready.first)
        return ready.x_NCHW[some], ready.y_NK[some]

    def _made(self, request: _Request) -> tuple[Tensor, Tensor]:
        """This process's share of a batch, made now."""
        first, last, _ = self._share(request.step)
        following = None
        if request.step + 1 < self.steps:
            then = self._share(request.step + 1)
            following = self._positions(request.augmenter, *then[:2])[1]
        return self._augmented(request, first, last, following)

    def _positions(self, augmenter: Augmenter, first: int, last: int) -> tuple[Integers, Integers]:
        """Draw keys of the images from `first` to before `last` of the ring, and their positions in the store.

        Where images are mixed, the partner of the last one comes behind it.
        """
        keys = self._ring[first : last + augmenter.mixes]
        return keys, keys % len(self._store)

    def _augmented(
        self, request: _Request, first: int, last: int, following: Integers | None = None
    ) -> tuple[Tensor, Tensor]:
        """Augmented, mixed and normalised images, and their targets: of the labels, or what the teacher answers."""
        keys, positions = self._positions(request.augmenter, first, last)
        stored_MCHW, row_B = self._images(positions, following)
        x_BCHW, y_BK = request.augmenter.batch(
            stored_MCHW,
            row_B,
            to_device(keys, self._device),
            request.epoch,
            to_device(self._targets[positions], self._device),
            classes=len(self._store.classes),
            preprocessing=self._preprocessing,
        )
        if self._own is not None:
            address = {"epoch": request.epoch, "step": request.step, "rank": self._processes.rank}
            x_BCHW = augmented(self._own, x_BCHW, seed=self._seed, **address)
        if self.teacher is None:
            return x_BCHW, y_BK
        answers_BK = self.teacher.answers(x_BCHW)
        return x_BCHW, answers_BK * y_BK.sum(1, keepdim=True) if self.weighted else answers_BK


def smaller_size(size: tuple[int, int], config: AstroformerConfig | None) -> tuple[int, int] | None:
    """(height, width) of the images in the first share of a run: three quarters of each side, or near them.

    Args:
        size: of whole images, in px.
        config: of the network, whose symmetry needs certain sizes; None for any other network.

    Returns:
        None where that would be less than 32 px a side, or no less than `size`.
    """
    if config is not None and config.group != "none":
        small = config.nearest_size(size[0] * FIRST_SIDE), config.nearest_size(size[1] * FIRST_SIDE)
    else:
        multiple = math.lcm(4, 1 if config is None else config.size_multiple)
        small = (
            round(size[0] * FIRST_SIDE / multiple) * multiple,
            round(size[1] * FIRST_SIDE / multiple) * multiple,
        )
    return small if min(small) >= LEAST_SIDE and small != size else None
