"""`Answers`: how a trained network is asked, as a module around it.

What a network is and how it is asked are two things: the same weights may answer about an image alone, about the image
moved to where its frame began (`framing.py`), or by the mean over several views of it (`views.py`). Training knows
nothing of that, since training images lie as they were taken, and views would cost as many times more.

Legend: B images, C channels, H and W rows and columns, V views.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from astroformer.errors import UserError
from astroformer.network.astroformer import Astroformer, check_images, create_network
from astroformer.network.config import AnswersConfig, AstroformerConfig, split_words
from astroformer.network.framing import Frame
from astroformer.network.views import answer_views

fx.wrap("check_images")  # see astroformer.py


class Answers(nn.Module):
    """A network with the way it is asked: images (B, in_chans, H, W) to logits (B, num_classes).

    In eval mode an image is replaced by its views, each view is moved to where its frame began, and the logits of the
    views are averaged (`AnswersConfig` says which of that is done). In training mode the images go to the network as
    they are.

    Args:
        network: what is asked; kept as `.network`.
        answers: how it is asked; kept as `.answers`.
        frame: where a frame begins, if that is learned already; kept as `.frame`, which is None unless `answers.frame`.

    Raises:
        UserError: `answers` doesn't go with the network's equivariance or image size.

    Examples:
        >>> network = create_network("astroformer_atto", img_size=32)
        >>> answers = Answers(network, AnswersConfig(symmetry="shift+d4")).eval()
        >>> x_BCHW = torch.randn(1, 3, 32, 32)
        >>> torch.allclose(answers(x_BCHW), answers(x_BCHW.rot90(1, (2, 3))), atol=1e-5)
        True
    """

    frame: Frame | None

    def __init__(self, network: Astroformer, answers: AnswersConfig, frame: Frame | None = None) -> None:
        super().__init__()
        if answers.frame and network.config.equivariance != "none":
            raise UserError(
                f"the network has equivariance '{network.config.equivariance}' already; frame one that has none."
            )
        answers.check_size(*network.config.img_size, what="img_size is")
        self.answers = answers
        self.frame = (frame or Frame()) if answers.frame else None
        self.network = network
        self.training = network.training

    @classmethod
    def around(cls, network: Astroformer, answers: AnswersConfig, frame: Frame | None = None) -> Astroformer | Answers:
        """`Answers`, or the network itself where it is asked about the image alone. Arguments as for the class."""
        return network if answers.changes_nothing else cls(network, answers, frame)

    @property
    def config(self) -> AstroformerConfig:
        """That of the network."""
        return self.network.config

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) to logits (B, num_classes).

        Raises:
            UserError: the network doesn't take images of this shape, or they can't be turned as `symmetry` says.
        """
        if self.training:
            self.check_images(x_BCHW)
            return self.network(x_BCHW)
        return self.over_views(x_BCHW, lambda view_BCHW: (self.network(view_BCHW),))[0]

    def over_views(self, x_BCHW: Tensor, ask: Callable[[Tensor], Sequence[Tensor]]) -> list[Tensor]:
        """Each of what `ask` makes of images (B, …), averaged over their views. Errors as in `forward`."""
        self.check_images(x_BCHW)
        views = answer_views(x_BCHW, self.answers.symmetry, self.answers.views)
        # All views are one batch, so that an exported graph holds the network once.
        found = ask(moved_to_frame(views[0] if len(views) == 1 else torch.cat(views), self.frame))
        return [of_views if len(views) == 1 else of_views.unflatten(0, (len(views), -1)).mean(0) for of_views in found]

    def check_images(self, x_BCHW: Tensor) -> None:
        """Raise a UserError unless the network takes these images, and they can be turned as `symmetry` says."""
        check_images(x_BCHW, self.config)
        self.answers.check_size(x_BCHW.shape[2], x_BCHW.shape[3])

    # The methods that follow are those that timm and the measures of symmetry ask of a network. Maps are those of the
    # image itself, not of its views.

    @property
    def num_classes(self) -> int:
        """Number of logits."""
        return self.network.num_classes

    @property
    def in_chans(self) -> int:
        """Channels of an image."""
        return self.network.in_chans

    @property
    def num_features(self) -> int:
        """Channels of the map of S4."""
        return self.network.num_features

    @property
    def head_hidden_size(self) -> int:
        """Width of what `forward_head(..., pre_logits=True)` returns; timm's word for it."""
        return self.network.head_hidden_size

    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        """Images (B, in_chans, H, W), moved to where their frame began, to the map of S4, (B, num_features, h, w)."""
        return self.network.forward_features(self._framed(x_BCHW)[0])

    def forward_head(self, x_BCHW: Tensor, pre_logits: bool = False) -> Tensor:
        """As `Astroformer.forward_head`."""
        return self.network.forward_head(x_BCHW, pre_logits)

    def feature_maps(self, x_BCHW: Tensor) -> list[Tensor]:
        """As `Astroformer.feature_maps`, of images that are moved to where their frame began."""
        return self.feature_maps_with_offsets(x_BCHW)[0]

    def feature_maps_with_offsets(self, x_BCHW: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """As `Astroformer.feature_maps_with_offsets`, of images that are moved to where their frame began."""
        seen_BCHW, first_B2 = self._framed(x_BCHW)
        maps, offsets = self.network.feature_maps_with_offsets(seen_BCHW)
        if first_B2 is not None:
            size_2 = torch.tensor(x_BCHW.shape[2:], device=x_BCHW.device)
            offsets = [(offset_B2 + first_B2) % size_2 for offset_B2 in offsets]
        return maps, offsets

    def _framed(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor | None]:
        """Images moved to where their frame began, and the row and column (B, 2) that are first then."""
        self.check_images(x_BCHW)
        return (x_BCHW, None) if self.frame is None or self.training else self.frame(x_BCHW)

    def get_classifier(self) -> nn.Module:
        """As `Astroformer.get_classifier`."""
        return self.network.get_classifier()

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """As `Astroformer.reset_classifier`.

        Raises:
            UserError: `global_pool` is impossible, or leaves maps whole whose views could not be averaged.
        """
        if global_pool == "" and self.answers.symmetry != "shift":
            raise UserError(
                f"global_pool is '', and symmetry '{self.answers.symmetry}': the maps of turned views do not lie on "
                "each other; give global_pool 'avg', or symmetry 'shift'."
            )
        self.network.reset_classifier(num_classes, global_pool)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """As `Astroformer.set_grad_checkpointing`."""
        self.network.set_grad_checkpointing(enable)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay spares; see `Astroformer.no_weight_decay`."""
        return {f"network.{name}" for name in self.network.no_weight_decay()}


def moved_to_frame(x_BCHW: Tensor, frame: Frame | None) -> Tensor:
    """Images (B, C, H, W), each rolled to where its frame began; without a frame as they are."""
    return x_BCHW if frame is None else frame(x_BCHW)[0]


def create_answers(name: str, **words: Any) -> Astroformer | Answers:
    """The network of a variant, with some of its settings changed, asked as the words say.

    Args:
        name: one of `VARIANTS`.
        words: fields of `AstroformerConfig`, and those of `split_words`.

    Raises:
        UserError: the name or a word is unknown, or a value is impossible.

    Examples:
        >>> type(create_answers("astroformer_atto", img_size=32)).__name__
        'Astroformer'
        >>> type(create_answers("astroformer_atto", img_size=32, equivariance="frame")).__name__
        'Answers'
    """
    settings, answers = split_words(words)
    return Answers.around(create_network(name, **settings), answers)


def answers_of(network: nn.Module) -> AnswersConfig:
    """How a network is asked: what `Answers` and `Ensemble` hold, and about the image alone for any other module."""
    answers = getattr(network, "answers", None)
    return answers if isinstance(answers, AnswersConfig) else AnswersConfig()
