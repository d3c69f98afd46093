"""mixup and CutMix against timm's, and the Beta law against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from timm.data.mixup import Mixup, mixup_target

from astroformer.augmentation.mixing import Beta, Mixer, box_mask
from astroformer.randomness import uniforms

ALPHAS = [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.5, 4.0, 50.0]


@pytest.mark.parametrize("alpha", ALPHAS)
def test_beta_quantiles_are_exact(alpha: float) -> None:
    u = torch.linspace(0, 1, 2001, dtype=torch.float64)
    expected = stats.beta.ppf(u.numpy(), alpha, alpha)
    np.testing.assert_allclose(Beta(alpha).quantile(u).numpy(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_beta_samples_follow_the_law(alpha: float) -> None:
    u = uniforms(0, 0, torch.arange(50_000), 1, 1)[:, 0]
    # Below 1e-7 float32 near 1 is a step; both tails are folded together.
    sample = Beta(alpha).quantile(u).double().numpy()
    sample = np.minimum(sample, 1 - sample)
    law = stats.beta(alpha, alpha)
    reach = sample > 1e-6
    assert abs(reach.mean() - (1 - 2 * law.cdf(1e-6))) < 0.01
    low = 2 * law.cdf(1e-6)
    assert stats.kstest(sample[reach], lambda x: (2 * law.cdf(x) - low) / (1 - low)).pvalue > 1e-3


def _batch(n: int = 6, size: tuple[int, int] = (12, 20)) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.rand(n, 3, *size, generator=generator),
        torch.eye(5)[torch.randint(5, (n,), generator=generator)],
        torch.arange(100, 100 + n),
    )


def _timm(lam: np.ndarray, cut: bool) -> Mixup:
    """timm's mixing per image with given shares; the partner of an image is then its mirror in the batch."""
    timm_mixup = Mixup(mode="elem", label_smoothing=0.0, num_classes=5)
    timm_mixup._params_per_elem = lambda n: (lam.astype(np.float32), np.full(n, cut))
    return timm_mixup


def test_mixup_blends_as_timm() -> None:
    x, y, index = _batch()
    mixer = Mixer(mixup=0.8, cutmix=0, seed=1)
    share = mixer.draw(index, 3, (12, 20)).blend_B
    expected = x.clone()
    reference = _timm(share.numpy(), cut=False)
    lam = torch.as_tensor(reference._mix_elem(expected)).flatten()
    out, target = mixer.mix(x, x.flip(0), y, y.flip(0), index, 3)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(target, mixup_target(y.argmax(1), 5, lam[:, None]), rtol=0, atol=1e-6)
    assert share.unique().numel() == 6


def test_cutmix_boxes_and_shares_are_timms(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, index = _batch(64)
    mixer = Mixer(mixup=0, cutmix=1.0, seed=1)
    drawn = mixer.draw(index, 3, (12, 20))
    u = uniforms(1, 3, index, 4, 5)
    side_share = 1 - Beta(1.0).quantile(u[:, 2])  # timm's λ is one minus the box's area
    centres = iter(torch.stack((u[:, 3] * 12, u[:, 4] * 20), 1).long().flatten().tolist())
    monkeypatch.setattr(np.random, "randint", lambda low, high, size=None: next(centres))
    expected = x.clone()
    lam = torch.as_tensor(_timm(1 - side_share.numpy(), cut=True)._mix_elem(expected)).flatten()
    out, target = mixer.mix(x, x.flip(0), y, y.flip(0), index, 3)
    assert torch.equal(out, expected)
    torch.testing.assert_close(drawn.own_B, lam.float(), rtol=0, atol=1e-6)
    torch.testing.assert_close(target, mixup_target(y.argmax(1), 5, lam[:, None].float()), rtol=0, atol=1e-6)


def test_label_share_is_the_share_of_pixels() -> None:
    x, y, index = _batch(40)
    mixer = Mixer(mixup=0.5, cutmix=0.7, seed=2)
    drawn = mixer.draw(index, 0, (12, 20))
    out, target = mixer.mix(torch.ones_like(x), torch.zeros_like(x), y, torch.zeros_like(y), index, 0)
    torch.testing.assert_close(out.mean((1, 2, 3)), drawn.own_B, rtol=0, atol=1e-6)
    torch.testing.assert_close(target.sum(1), drawn.own_B, rtol=0, atol=1e-6)
    cut = (drawn.box_B4[:, 1] > drawn.box_B4[:, 0]) & (drawn.box_B4[:, 3] > drawn.box_B4[:, 2])
    assert 0 < cut.sum() < 40  # both kinds occur
    assert set(drawn.blend_B[cut].tolist()) == {1.0}


def test_probability_and_switch() -> None:
    index = torch.arange(20_000)
    mixer = Mixer(mixup=1.0, cutmix=1.0, probability=0.6, switch=0.3, seed=0)
    drawn = mixer.draw(index, 0, (32, 32))
    blended = (drawn.blend_B < 1).double().mean()
    assert abs(blended - 0.6 * 0.7) < 0.015
    untouched = (drawn.own_B == 1).double().mean()
    assert abs(untouched - 0.4) < 0.015  # a CutMix box of no pixels is rare at 32×32


def test_result_does_not_depend_on_the_batch() -> None:
    x, y, index = _batch(9)
    mixer = Mixer(mixup=0.8, cutmix=1.0, seed=3)
    out, target = mixer.mix(x, x.roll(1, 0), y, y.roll(1, 0), index, 2)
    for i in range(9):
        alone = mixer.mix(x[i : i + 1], x[i - 1][None], y[i : i + 1], y[i - 1][None], index[i : i + 1], 2)
        assert torch.equal(alone[0][0], out[i])
        assert torch.equal(alone[1][0], target[i])
    assert not torch.equal(mixer.mix(x, x.roll(1, 0), y, y.roll(1, 0), index, 4)[0], out)


def test_off_changes_nothing() -> None:
    x, y, index = _batch()
    for mixer in (Mixer(mixup=0, cutmix=0, seed=0), Mixer(mixup=1, cutmix=1, probability=0, seed=0)):
        assert not mixer.active
        out, target = mixer.mix(x, x.flip(0), y, y.flip(0), index, 0)
        assert torch.equal(out, x)
        assert torch.equal(target, y)


def test_inputs_stay_as_they_are() -> None:
    x, y, index = _batch()
    before = x.clone(), y.clone()
    Mixer(mixup=1.0, cutmix=1.0, seed=0).mix(x, x.flip(0), y, y.flip(0), index, 0)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])


def test_box_mask() -> None:
    mask = box_mask(torch.tensor([[1, 3, 0, 2], [0, 0, 0, 0]]), (4, 3))
    assert mask[0, 0].int().tolist() == [[0, 0, 0], [1, 1, 0], [1, 1, 0], [0, 0, 0]]
    assert not mask[1].any()
