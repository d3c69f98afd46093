"""Canonicalization: an image moved, circularly, to a place that moves along with what it shows, before any network.

All circular shifts of an image then are one and the same image, to the bit, and so are any network's answers about them
(canonicalization: Kaba et al., arXiv 2211.06489). `centre` moves what is brightest to the middle. `frame` learns from
images, without labels, where their frame begins, and brings it back to there: a photograph that was rolled has a
seam, a cutout has an object that belongs in the middle, and the network sees the image as it was taken. What is learned
is a linear score of each row and of each column as the first one of the frame:

    score(t) = Σ_ki u_ki seam_k(t + i)  +  Σ_x Σ_km (a_km cos 2πm(x - t + ½)/N + b_km sin …) light_k(x) / N
               +  c Σ_x min(light_1(t + x), light_1(t - 1 - x)) / N

with the profiles of `_profiles`: where the seams are, where the light lies, and how far its first profile mirrors
itself. The weights are the conditional logit of "which of the N rows is the first?", a convex problem. All is computed
in integers (levels of grey, profiles, weights), where sums have no order and no rounding.

Legend: B images, C channels, H and W rows and columns, N either of them, S seam profiles, L light profiles, K terms.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from astroformer.network.torus import rolled

_OFFSET = 0.5  # so that bright and dark places never score alike, as those of a checkerboard would
_NEAR, _FAR = (0.5, 0.485), (0.01, 0.0077)  # shares of the places before and after in blurring
_SEAMS, _LIGHTS = 2, 3
_REACH = 2  # rows on either side of a seam whose profile counts
_WAVES = 2  # waves a side
_TERMS = _SEAMS * (2 * _REACH + 1) + _LIGHTS * 2 * _WAVES + 1
# Whole numbers throughout, and products and sums below 2^53: exact in float64, in whatever order a device adds.
_LEVELS = 1023.0  # of a channel, from its image's darkest to its brightest pixel
_SEAM_GRAINS, _LIGHT_GRAINS, _WAVE_GRAINS, _WEIGHT_GRAINS = 2.0**12, 2.0**8, 2.0**8, 2.0**8
_LARGEST = 2.0**17  # of a weight, in grains
_DECAY = 1e-3  # of the weights in units of their terms' standard deviation
FRAME_IMAGES = 1024  # as many as `Frame.fit` has a use for


class Frame(nn.Module):
    """Images brought to the place where they lie by themselves; see `fit`.

    A network is trained without: training images lie as they were taken, and one that was misplaced would teach nothing
    about another.

    Before `fit` all weights are 0, and what is brightest is moved to the middle (`centred`). Afterwards that decides
    between places that score alike.
    """

    weights_2K: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Integers, which no conversion of the network to another type touches.
        self.register_buffer("weights_2K", torch.zeros(2, _TERMS, dtype=torch.int32))

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) of any size as they lie by themselves.

        Returns:
            (B, C, H, W), and (B, 2) of int64: row and column of the image that are first now.
        """
        with torch.no_grad():
            score_BHW = _share_of_brightest(x_BCHW)
            for axis, terms_BKN in enumerate(_terms(x_BCHW)):
                score_BN = (self.weights_2K[axis].double()[:, None] * terms_BKN).sum(1)
                score_BN = score_BN - score_BN.amax(1, keepdim=True)  # so that the best stay apart by the share
                score_BHW = score_BHW + score_BN.unsqueeze(2 - axis)
        return _moved(x_BCHW, score_BHW)

    def fit(self, x_BCHW: Tensor) -> None:
        """Learns where the frame of images begins, from images (B, C, H, W) that lie as they were taken.

        No labels are needed, and a few hundred images are enough.
        """
        parts = [_terms(some) for some in x_BCHW.split(64)]
        for axis, terms in enumerate(zip(*parts, strict=True)):
            self.weights_2K[axis] = _conditional_logit(torch.cat(terms)).to(self.weights_2K)


class Canonicalize(nn.Module):
    """Any network made exactly invariant to circular shifts, to the bit, by a `Frame` in front of it.

    The network itself need not know anything of shifts.

    Args:
        network: any module that takes images (B, C, H, W).
        images: (B, C, H, W) as the network takes them, which tell where the frame of an image begins; without them,
            what is brightest in an image is moved to its middle.
    """

    def __init__(self, network: nn.Module, images: Tensor | None = None) -> None:
        super().__init__()
        self.network = network
        self.frame = Frame()
        if images is not None:
            self.frame.fit(images)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.network(self.frame(x_BCHW)[0])


def centred(x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Images moved circularly so that what is brightest in each lies at row H // 2 and column W // 2.

    The brightest place is that of the largest energy E = Σ_c (x_c + 1/2)² after blurring over an eighth of each side.
    It is computed place by place in the same order of operations, so that it moves with the image to the bit.

    Returns:
        (B, C, H, W), and (B, 2) of int64: row and column of the image that are first now.
    """
    with torch.no_grad():
        score_BHW = _share_of_brightest(x_BCHW)
    return _moved(x_BCHW, score_BHW)


def _moved(x_BCHW: Tensor, score_BHW: Tensor) -> tuple[Tensor, Tensor]:
    """Images rolled so that the place of largest score comes first, and that place."""
    height, width = x_BCHW.shape[2:]
    best_B = score_BHW.flatten(1).argmax(1)
    first_B2 = torch.stack([best_B // width, best_B % width], 1)
    return rolled(x_BCHW, first_B2, (height, width)), first_B2


def _share_of_brightest(x_BCHW: Tensor) -> Tensor:
    """(B, H, W) up to 1, how bright it is half an image further down and to the right; see `centred`."""
    height, width = x_BCHW.shape[2:]
    # Channel by channel: a sum over an axis may take another order for another place.
    score_BHW = sum((x_BHW + _OFFSET).square() for x_BHW in _exact(x_BCHW).unbind(1))
    assert isinstance(score_BHW, Tensor)
    for axis, size in ((1, height), (2, width)):
        for step in (1 << bit for bit in range((size // 2).bit_length())):
            # Unequal weights, or a mirror-symmetric image would have two brightest places; and a little of what
            # lies far away, or two equal objects would be.
            before, after = _NEAR if step <= size // 16 else _FAR
            score_BHW = score_BHW + before * score_BHW.roll(step, axis) + after * score_BHW.roll(-step, axis)
    score_BHW = score_BHW.roll((-(height // 2), -(width // 2)), (1, 2))
    return score_BHW / score_BHW.amax((1, 2), keepdim=True).clamp_min(torch.finfo(score_BHW.dtype).tiny)


def _terms(x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """What the score weighs, for each row and for each column as the first: (B, K, H) and (B, K, W), whole numbers."""
    terms = []
    for seams_BSN, lights_BLN in _profiles(x_BCHW):
        size = seams_BSN.shape[2]
        waves = _waves(size, seams_BSN.device)
        near = [seams_BSN.roll(-step, 2) for step in range(-_REACH, _REACH + 1)]
        # As large as a sum over N rows is.
        seams_BKN = torch.cat(near, 1) * (size * _LIGHT_GRAINS * _WAVE_GRAINS / _SEAM_GRAINS)
        lights_BKN = torch.einsum("blx,wxt->blwt", lights_BLN, waves).flatten(1, 2)
        mirrored_BN = _mirrored(lights_BLN[:, 0]) * _WAVE_GRAINS
        terms.append(torch.cat([seams_BKN, lights_BKN, mirrored_BN[:, None]], 1))
    return terms[0], terms[1]


def _mirrored(light_BN: Tensor) -> Tensor:
    """(B, N), what a profile has in common with its mirror image in the frame that begins at each row."""
    size = light_BN.shape[1]
    first_N = torch.arange(size, device=light_BN.device)
    step_X1 = torch.arange((size + 1) // 2, device=light_BN.device)[:, None]
    light_BN = light_BN.float()  # exact: a sum is no more than 2^8 N
    common_BXN = torch.minimum(light_BN[:, (first_N + step_X1) % size], light_BN[:, (first_N - 1 - step_X1) % size])
    return common_BXN.sum(1).double()


def _waves(size: int, device: torch.device) -> Tensor:
    """cos and sin of 2πm(x - t + ½)/N, m = 1 …, for row x seen from the first one t: (2 · waves, N, N)."""
    place_N = torch.arange(size, device=device)
    turn_N = (2 * math.pi / size) * (place_N.double() + 0.5)
    waves = [wave for m in range(1, _WAVES + 1) for wave in ((m * turn_N).cos(), (m * turn_N).sin())]
    seen_NN = (place_N[:, None] - place_N[None]) % size
    return (torch.stack(waves) * _WAVE_GRAINS).round()[:, seen_NN]


def _profiles(x_BCHW: Tensor) -> list[tuple[Tensor, Tensor]]:
    """For rows and for columns, seam (B, S, N) and light profiles (B, L, N), whole numbers that move with the image.

    Seams, of a row and the one before it: the mean jump from one to the other, and the mean of what a slope on neither
    side explains of it, each as j / (1 + j) of its ratio j to the mean over all rows. Light, of a row: the mean level,
    its square, and its distance from the image's mean, as shares of the mean over all rows.
    """
    channels, height, width = x_BCHW.shape[1:]
    x_BCHW = _exact(x_BCHW)
    if channels * max(height, width) * _LEVELS >= 2**24:  # float32 is exact up to there
        x_BCHW = x_BCHW.double()
    low_B111, high_B111 = x_BCHW.amin((1, 2, 3), keepdim=True), x_BCHW.amax((1, 2, 3), keepdim=True)
    range_B111 = (high_B111 - low_B111).clamp_min(torch.finfo(x_BCHW.dtype).tiny)
    x_BCHW = ((x_BCHW - low_B111) / range_B111 * _LEVELS).round()
    grey_BHW = x_BCHW.sum(1)  # whole numbers too
    middle_B11 = grey_BHW.double().mean((1, 2), keepdim=True).round().to(grey_BHW)
    squares_BHW = (grey_BHW.square() / (channels * _LEVELS)).round()
    maps = (grey_BHW, squares_BHW, (grey_BHW - middle_B11).abs())
    found = []
    for axis in (2, 3):
        jump_BCHW = x_BCHW - x_BCHW.roll(1, axis)
        bend_BCHW = (jump_BCHW - jump_BCHW.roll(1, axis)).abs()
        jump_BCHW = jump_BCHW.abs()
        unexplained_BCHW = torch.minimum(torch.minimum(bend_BCHW, bend_BCHW.roll(-1, axis)), jump_BCHW)
        across = 5 - axis
        seams = [_ratio(map_BCHW.sum(across).sum(1)) for map_BCHW in (jump_BCHW, unexplained_BCHW)]
        seams_BSN = torch.stack([(j / (1 + j) * _SEAM_GRAINS).round() for j in seams], 1)
        lights = [_ratio(map_BHW.sum(across - 1)) for map_BHW in maps]
        found.append((seams_BSN, (torch.stack(lights, 1) * _LIGHT_GRAINS).round()))
    return found


def _exact(x: Tensor) -> Tensor:
    """x of float32 or float64."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _ratio(sums_BN: Tensor) -> Tensor:
    """Whole numbers to their ratio to the mean over N, of float64; all 0 stay 0."""
    sums_BN = sums_BN.double()
    return sums_BN * sums_BN.shape[1] / sums_BN.sum(1, keepdim=True).clamp_min(1)


def _conditional_logit(terms_BKN: Tensor) -> Tensor:
    """Weights (K,), in grains, that make place 0 of the N the likeliest one, over images."""
    scale_K = terms_BKN.std((0, 2)).clamp_min(1)
    terms_BKN = terms_BKN / scale_K[:, None]
    weights_K = torch.zeros_like(scale_K, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights_K], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        likelihood_B = (weights_K @ terms_BKN).log_softmax(1)[:, 0]
        value = _DECAY * weights_K.square().sum() - likelihood_B.mean()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    # In units in which a term of one wave of one image is about 1.
    unit = _LIGHT_GRAINS * _WAVE_GRAINS * terms_BKN.shape[2]
    weights_K = (weights_K.detach() / scale_K * unit * _WEIGHT_GRAINS).round()
    return weights_K.clamp(-_LARGEST, _LARGEST)
