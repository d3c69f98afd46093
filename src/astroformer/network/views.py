"""The views of an image under quarter turns and flips, and answers that do not depend on which of them is given.

The mean of a network's logits over all eight views is the same whichever of them is given, and so is the mean over an
image and its mirror image. A mean over fewer views has the same property if the views are counted from one that the
image itself chooses: when the image is turned, it chooses another view, which is the same picture. The choice may jump
between two views of nearly equal score, and the answer with it, by as much as the network's answers for two views of an
image differ anyway. The more views are averaged, the smaller is that jump.

Legend: B images, C channels, H and W rows and columns, V views.
"""

from __future__ import annotations

import torch
from torch import Tensor

from astroformer.network.phases import view_scores


def answer_views(x_BCHW: Tensor, symmetry: str, count: int) -> list[Tensor]:
    """The views whose logits are averaged for this `symmetry` (`AnswersConfig`); for "shift" the images alone.

    Args:
        count: of `shift+d4`, see `chosen_views`.
    """
    if symmetry == "shift+d4":
        return chosen_views(x_BCHW, count)
    return [x_BCHW, x_BCHW.flip(3)] if symmetry == "shift+mirror" else [x_BCHW]


def d4_views(x_BCHW: Tensor) -> list[Tensor]:
    """The eight views of square images under quarter turns and flips (the group D4), the image itself first."""
    turned = [x_BCHW.rot90(k, (2, 3)) for k in range(4)]
    return turned + [view.flip(3) for view in turned]


def chosen_views(x_BCHW: Tensor, count: int) -> list[Tensor]:
    """Some of the views of square images: the same set, in whatever order, for every view of an image.

    They are the view of largest `view_scores` and those that follow when it is turned. With 8 they are all views, and
    nothing is chosen.

    Args:
        count: 1, 2, 4 or 8.
    """
    if count == 8:
        return d4_views(x_BCHW)
    with torch.no_grad():
        best_B = view_scores(x_BCHW).argmax(0)
        mirrored_B, turns_B = best_B // 4, best_B % 4
    # A quarter turn of a mirrored view is that of a view turned the other way.
    return [
        _view(x_BCHW, mirrored_B, (turns_B + torch.where(mirrored_B == 1, -turn, turn)) % 4) for turn in range(count)
    ]


def _view(x_BCHW: Tensor, mirrored_B: Tensor, turns_B: Tensor) -> Tensor:
    """Each image turned by so many quarters (0 to 3) and then mirrored (1) or not (0)."""
    mirrored_B111, turns_B111 = mirrored_B.view(-1, 1, 1, 1), turns_B.view(-1, 1, 1, 1)
    x_BCHW = torch.where(turns_B111 % 2 == 1, x_BCHW.rot90(1, (2, 3)), x_BCHW)
    x_BCHW = torch.where(turns_B111 >= 2, x_BCHW.rot90(2, (2, 3)), x_BCHW)
    return torch.where(mirrored_B111 == 1, x_BCHW.flip(3), x_BCHW)
