"""`fast_pass`: whatever a classifier asks, by the fast path of its networks: one, one that averages views, or several.

Legend: B images, V views, C classes, D features, M means of maps.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from astroformer.fast_inference import FastInference
from astroformer.network.answers import Answers, moved_to_frame
from astroformer.network.astroformer import Astroformer, check_images
from astroformer.network.ensemble import Ensemble, log_mean_probabilities
from astroformer.network.traced import Traced
from astroformer.network.views import answer_views


class FastPass(Protocol):
    """Images (B, in_chans, H, W) to logits (B, num_classes)."""

    def __call__(self, x_BCHW: Tensor, /) -> Tensor: ...

    def traced(self, x_BCHW: Tensor, /) -> Traced:
        """The logits with what they are made of, see `network.traced`."""
        ...


def fast_pass(network: Astroformer | Answers | Ensemble, dtype: torch.dtype = torch.float32) -> FastPass:
    """What is asked in place of a network for the same logits: `FastInference`, inside of `Answers` and `Ensemble`.

    Args:
        network: what it answers with is copied as it is now.
        dtype: of the matrix products, torch.float32 or torch.bfloat16.
    """
    if isinstance(network, Astroformer):
        return FastInference(network, dtype)
    if isinstance(network, Answers):
        return _FastAnswers(network, dtype)
    return _FastEnsemble([fast_pass(member, dtype) for member in network.networks])


class _FastEnsemble:
    """`Ensemble`, by the fast paths of its members."""

    def __init__(self, members: Sequence[FastPass]) -> None:
        self._members = members

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        return log_mean_probabilities([member(x_BCHW) for member in self._members])

    def traced(self, x_BCHW: Tensor) -> Traced:
        return Traced.of_members([member.traced(x_BCHW) for member in self._members])


class _FastAnswers:
    """`Answers` in eval mode, by the fast path of its network."""

    def __init__(self, asked: Answers, dtype: torch.dtype) -> None:
        self._network, self._answers = FastInference(asked.network, dtype), asked.answers
        self._config, self._frame = asked.config, copy.deepcopy(asked.frame)

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        return self.traced(x_BCHW).logits

    @torch.inference_mode()
    def traced(self, x_BCHW: Tensor) -> Traced:
        check_images(x_BCHW, self._config)
        self._answers.check_size(x_BCHW.shape[2], x_BCHW.shape[3])
        # One view after the other: a batch of all of them would take as many times the memory.
        views = answer_views(x_BCHW, self._answers.symmetry, self._answers.views)
        answers = [self._network.traced(moved_to_frame(view_BCHW, self._frame)) for view_BCHW in views]
        return Traced(*(torch.stack(of_views).mean(0) for of_views in zip(*answers, strict=True)))
