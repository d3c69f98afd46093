"""Where a frame begins: learned from images, found again in rolled ones, and computed without rounding."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from astroformer.images.sets.mock_galaxies import mock_galaxies
from astroformer.network.framing import Canonicalize, Frame, centred


def photographs(count: int, height: int, width: int, seed: int) -> Tensor:
    """Smooth colour fields of 8 bits, cut out of larger ones: opposite sides have nothing to do with each other."""
    rng = np.random.default_rng(seed)
    shape = (4 * height, 4 * width)
    frequency = np.fft.fftfreq(shape[0])[:, None] ** 2 + np.fft.fftfreq(shape[1]) ** 2
    field = np.fft.ifft2(np.fft.fft2(rng.normal(size=(count, 3, *shape))) * np.exp(-150 * frequency)).real
    field = field[:, :, :height, :width] / field.std(axis=(1, 2, 3), keepdims=True)
    return torch.from_numpy((128 + 40 * field).clip(0, 255).round() / 64 - 2).float()


def galaxies(count: int, seed: int) -> Tensor:
    images, _ = mock_galaxies(count, size=48, seed=seed)
    return torch.from_numpy(images).permute(0, 3, 1, 2) / 32 - 1


def away(first_B2: Tensor, size: tuple[int, int]) -> Tensor:
    """Pixels from (0, 0) around the torus, the longer of the two sides."""
    return torch.minimum(first_B2, torch.tensor(size) - first_B2).amax(1)


def moved(x: Tensor, seed: int) -> Tensor:
    """Each image by a circular shift of its own."""
    drawn = np.random.default_rng(seed).integers(0, x.shape[2:], (len(x), 2)).tolist()
    return torch.stack([image.roll(tuple(shift), (1, 2)) for image, shift in zip(x, drawn, strict=True)])


def test_rolled_photographs_are_put_back_as_they_were_taken() -> None:
    frame = Frame()
    frame.fit(photographs(64, 32, 48, 0))
    new = photographs(64, 32, 48, 1)
    found, _ = frame(moved(new, 2))
    assert (found == new).flatten(1).all(1).float().mean() > 0.9
    again, its_first = frame(new)
    assert torch.equal(found, again)
    assert (its_first == 0).all(1).float().mean() > 0.9
    # A frame that is learned at one size is found at another.
    assert (away(frame(photographs(64, 40, 40, 3))[1], (40, 40)) == 0).float().mean() > 0.9


def test_cutouts_come_to_lie_nearly_as_they_did() -> None:
    frame = Frame()
    frame.fit(galaxies(200, 0))
    assert away(frame(moved(galaxies(100, 1), 2))[1], (48, 48)).float().mean() > 5  # rolled, they lie elsewhere
    distance = away(frame(galaxies(100, 1))[1], (48, 48))
    assert (distance <= 3).float().mean() > 0.9
    none, _ = Frame()(galaxies(100, 1))
    assert torch.equal(none, centred(galaxies(100, 1))[0])  # without having learned: the brightest to the middle


def test_scores_are_those_of_the_docstrings() -> None:
    frame = Frame()
    torch.manual_seed(0)
    frame.weights_2K.random_(-500, 500)
    x = photographs(3, 33, 40, 4)
    _, first_B2 = frame(x)
    weights = frame.weights_2K.double().numpy()
    for image, first in zip(x.double().numpy(), first_B2.tolist(), strict=True):
        level = np.round((image - image.min()) / (image.max() - image.min()) * 1023)
        for axis in (0, 1):
            rows = level if axis == 0 else level.transpose(0, 2, 1)
            n = rows.shape[1]
            jump = [abs(rows[:, t] - rows[:, t - 1]) for t in range(n)]
            above = [abs(2 * rows[:, t - 1] - rows[:, t - 2] - rows[:, t]) for t in range(n)]
            below = [abs(2 * rows[:, t] - rows[:, (t + 1) % n] - rows[:, t - 1]) for t in range(n)]
            unexplained = [np.minimum(np.minimum(a, b), j) for a, b, j in zip(above, below, jump, strict=True)]
            grey = rows.sum(0)
            lights = [grey, np.round(grey**2 / (3 * 1023)), abs(grey - np.round(grey.mean()))]

            def ratio(profile: np.ndarray) -> np.ndarray:
                return profile / profile.mean()

            seams = [ratio(np.array([p.sum() for p in some])) for some in (jump, unexplained)]
            seams = [np.round(j / (1 + j) * 2**12) / 2**12 for j in seams]
            lights = [np.round(ratio(p.sum(1)) * 2**8) / 2**8 for p in lights]
            scores = np.zeros(n)
            for t in range(n):
                terms = [profile[(t + i) % n] for i in (-2, -1, 0, 1, 2) for profile in seams]
                for profile in lights:
                    for m in (1, 2):
                        for wave in (np.cos, np.sin):
                            turn = 2 * math.pi * m * ((np.arange(n) - t) % n + 0.5) / n
                            terms.append((profile * np.round(wave(turn) * 2**8) / 2**8).sum() / n)
                half = range((n + 1) // 2)
                terms.append(sum(min(lights[0][(t + i) % n], lights[0][t - 1 - i]) for i in half) / n)
                scores[t] = weights[axis] @ np.array(terms)
            assert scores[first[axis]] == pytest.approx(scores.max(), rel=1e-12)


@pytest.mark.parametrize("channels", [1, 3, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_largest_weights_and_images_are_still_exact(channels: int, dtype: torch.dtype) -> None:
    frame = Frame()
    signs = torch.randint(0, 2, frame.weights_2K.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    frame.weights_2K.copy_(signs * 2**17)
    x = torch.randint(0, 2**16, (2, channels, 512, 300), generator=torch.Generator().manual_seed(1)).to(dtype)
    found, _ = frame(x)
    for shift in ((1, 0), (0, 1), (255, 77)):
        assert torch.equal(frame(x.roll(shift, (2, 3)))[0], found)


def test_images_without_a_frame_are_no_error() -> None:
    frame = Frame()
    frame.fit(photographs(16, 32, 32, 0))
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    flat = torch.stack([0.0 * rows, (rows + columns) % 2, columns % 2, (rows + columns) % 4 < 2])[:, None]
    found, _ = frame(flat)
    for shift in ((1, 0), (0, 1), (5, 18)):
        assert torch.equal(frame(flat.roll(shift, (2, 3)))[0], found)
    frame.fit(torch.zeros(8, 3, 32, 32))  # nothing to learn from
    assert not frame.weights_2K.any()


def test_canonicalize_learns_from_images() -> None:
    model = torch.nn.Flatten()  # an answer that shows where everything lies
    canonical = Canonicalize(model, photographs(64, 32, 32, 0))
    new = photographs(32, 32, 32, 1)
    assert torch.equal(canonical(moved(new, 2)), canonical(new))
    assert (canonical(moved(new, 2)) == model(new)).all(1).float().mean() > 0.8


def test_what_was_learned_is_kept_whatever_the_type() -> None:
    frame = Frame()
    frame.fit(photographs(32, 32, 32, 0))
    other = Frame()
    other.load_state_dict(frame.state_dict())
    x = photographs(8, 32, 32, 1)
    assert torch.equal(other.half().double()(x)[1], frame(x)[1])
    assert other.weights_2K.dtype == torch.int32
