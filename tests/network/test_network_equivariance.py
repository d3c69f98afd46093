"""Exact equivariance to integer circular shifts, on the images that are hardest for it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from astroformer.errors import UserError
from astroformer.network import VARIANTS, Answers, Astroformer, AstroformerConfig, create_network
from astroformer.network.attention import PositionBias
from astroformer.network.config import split_words
from astroformer.network.framing import Canonicalize, centred
from astroformer.network.phases import anchored, phase_score, view_scores
from astroformer.network.torus import CircularConv2d, rolled
from astroformer.network.views import chosen_views, d4_views
from helpers.lively import lively

SETTINGS: dict[str, dict[str, Any]] = {
    "frame": {"equivariance": "frame"},
    "centre": {"equivariance": "centre"},
    "anchor": {"equivariance": "anchor"},
    "input": {"equivariance": "input"},
    "anchor CCTT": {"equivariance": "anchor", "layout": "CCTT", "strides": (2, 2, 1, 2, 1)},
    "anchor cbam": {"equivariance": "anchor", "layout": "CCCC", "channel_attention": "cbam"},
    "input TTTT": {"equivariance": "input", "layout": "TTTT"},
    "anchor hybrid": {"equivariance": "anchor", "transformer": "hybrid"},
}


def build(size: tuple[int, int] = (32, 48), **words: Any) -> Astroformer | Answers:
    """A small network (`lively`), asked as the words say."""
    config = AstroformerConfig(8, (16, 16, 32, 32), (1, 1, 1, 1), head_width=16, strides=(2, 2, 2, 1, 1), img_size=size)
    settings, answers = split_words(words)
    return lively(dataclasses.replace(config, **settings), answers)


def plain(network: Astroformer | Answers) -> Astroformer:
    return network.network if isinstance(network, Answers) else network


def images(kind: str, height: int, width: int, count: int = 4) -> Tensor:
    """Smooth 8-bit images, normalised, some of them equal to their own mirror images."""
    noise = np.random.default_rng(0).normal(size=(count, 3, height, width))
    frequency = np.fft.fftfreq(height)[:, None] ** 2 + np.fft.fftfreq(width) ** 2
    smooth = np.fft.ifft2(np.fft.fft2(noise) * np.exp(-300 * frequency)).real
    x = torch.from_numpy(smooth / smooth.std(axis=(1, 2, 3), keepdims=True))
    if kind == "left-right":
        x = (x + x.flip(3)) / 2
    if kind == "both mirrors":
        x = (x + x.flip(3)) / 2
        x = (x + x.flip(2)) / 2
    if kind == "point":
        x = (x + x.flip(2, 3).roll((1, 1), (2, 3))) / 2
    x = (128 + 40 * x).clamp(0, 255).round()
    if kind == "binary":
        x = (x > 140).double() * 255
    return (x - 128) / 64


KINDS = ("smooth", "left-right", "both mirrors", "point", "binary")


def shifts(height: int, width: int, count: int) -> list[tuple[int, int]]:
    """Odd and even, never (0, 0); the smallest ones first."""
    drawn = np.random.default_rng(1).integers(0, (height, width), (count, 2))
    return [(0, 1), (1, 0), (1, 1), *((int(a), int(b)) for a, b in drawn if (a, b) != (0, 0))]


def error(network: nn.Module, x: Tensor, count: int = 42) -> float:
    """Largest change of a logit under shifts, over the standard deviation of the logits."""
    with torch.no_grad():
        logits = network(x)
        moved = [network(x.roll(shift, (2, 3))) for shift in shifts(*x.shape[2:], count)]
    return max((other - logits).abs().max().item() for other in moved) / logits.std().item()


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_logits_do_not_change_under_shifts(setting: str, kind: str) -> None:
    x = images(kind, 32, 48)
    network = build(**SETTINGS[setting])
    assert error(network.double(), x) < 1e-12
    assert error(network.float(), x.float(), 12) < 1e-4


def test_the_plain_network_fails_where_these_pass() -> None:
    assert error(build(), images("smooth", 32, 48).float()) > 0.1
    circular = build(equivariance="anchor")
    circular.config = dataclasses.replace(circular.config, equivariance="none")  # no choice of phase
    assert error(circular, images("smooth", 32, 48).float()) > 0.01


@pytest.mark.parametrize("name", ["astroformer_0", "astroformer_atto"])
def test_whole_variants(name: str) -> None:
    network = create_network(name, equivariance="anchor", img_size=64).eval()
    assert error(network, images("both mirrors", 64, 96, 2).float(), 5) < 1e-4


@pytest.mark.parametrize("setting", ["frame", "centre", "anchor", "input"])
def test_classes_stay_under_bfloat16_autocast(setting: str) -> None:
    network = build(**SETTINGS[setting])
    x = images("smooth", 32, 48, 16).float()
    with torch.autocast("cpu", torch.bfloat16):
        # The last layer rounds to 8 bits; what its input is off by may move a logit to the next such number.
        assert error(network, x, 20) < 0.05
        assert error(build(), x, 20) > 0.1


@pytest.mark.parametrize("setting", ["frame", "centre", "anchor", "input"])
def test_an_image_chooses_for_itself(setting: str) -> None:
    network = build(**SETTINGS[setting]).double()
    x = images("smooth", 32, 48, 6)
    moved = torch.stack([image.roll(shift, (1, 2)) for image, shift in zip(x, shifts(32, 48, 3), strict=False)])
    with torch.no_grad():
        torch.testing.assert_close(network(moved), network(x), rtol=0, atol=1e-11)
        torch.testing.assert_close(network(x[2:3]), network(x)[2:3], rtol=0, atol=1e-11)


@pytest.mark.parametrize("period", [2, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_choices_move_with_the_image(kind: str, period: int) -> None:
    x = images(kind, 32, 48).float()
    anchored_x, phase = anchored(x, period)
    for image, kept, (row, column) in zip(x, anchored_x, phase.tolist(), strict=True):
        assert torch.equal(kept, image.roll((-row, -column), (1, 2)))
    for shift in shifts(32, 48, 20):
        moved, moved_phase = anchored(x.roll(shift, (2, 3)), period)
        assert torch.equal((phase + torch.tensor(shift)) % period, moved_phase)
        steps = torch.tensor(shift) + phase - moved_phase  # multiples of the period
        assert not (steps % period).any()
        expected = torch.stack(
            [kept.roll(tuple(s), (1, 2)) for kept, s in zip(anchored_x, steps.tolist(), strict=True)]
        )
        assert torch.equal(moved, expected)


def test_an_image_that_repeats_itself_may_choose_either_phase() -> None:
    # Rows and columns of a checkerboard or of stripes, and a constant image: phases tie, and are the same.
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(48), indexing="ij")
    x = torch.stack([(rows + columns) % 2, rows % 2, columns % 2, (rows // 2) % 2, 0 * rows])[:, None].expand(
        -1, 3, -1, -1
    )
    for setting in ("frame", "centre", "anchor", "input"):
        assert error(build(**SETTINGS[setting]).double(), 2 * x.double() - 1) < 1e-12


def test_the_score_is_nothing_but_the_surroundings() -> None:
    x = images("smooth", 32, 48)
    score = phase_score(x)
    energy = (x + 0.5).square().sum(1).numpy()
    r = np.empty_like(energy)
    for row in range(32):
        for column in range(48):
            r[:, row, column] = 3.94 * energy[:, row, column]
            for weight, a, b in ((1.37, -1, 0), (0.61, 1, 0), (1.13, 0, -1), (0.83, 0, 1)):
                r[:, row, column] -= weight * energy[:, (row + a) % 32, (column + b) % 48]
    r = np.maximum(r, -0.83 * r)
    share = (r / r.max((1, 2), keepdims=True)) ** 4
    np.testing.assert_allclose(score.numpy() / 2**40, share, atol=1e-9)
    assert score.amax((1, 2)).tolist() == [2**40] * 4


@pytest.mark.parametrize("size", [(8, 6), (3, 5), (2, 1)])
def test_circular_convolution_equals_torch(size: tuple[int, int]) -> None:
    x = torch.randn(2, 4, *size, dtype=torch.float64).requires_grad_()
    layer = CircularConv2d(4, 4, 7, padding=3, groups=4, dtype=torch.float64)
    tiled = x.tile(1, 1, 9, 9)[:, :, 4 * size[0] - 3 : 5 * size[0] + 3, 4 * size[1] - 3 : 5 * size[1] + 3]
    torch.testing.assert_close(layer(x), nn.functional.conv2d(tiled, layer.weight, layer.bias, groups=4))
    assert torch.autograd.gradcheck(layer, x)


def test_rolled_equals_torch_roll() -> None:
    x = torch.randn(6, 2, 5, 7)
    first = torch.tensor([[0, 0], [1, 6], [4, 3], [2, 2], [3, 5], [4, 6]])
    expected = torch.stack([one.roll((-a, -b), (1, 2)) for one, (a, b) in zip(x, first.tolist(), strict=True)])
    assert torch.equal(rolled(x, first, (5, 7)), expected)
    assert torch.equal(torch.compile(rolled, backend="eager")(x, first, (5, 7)), expected)  # it has its own way there
    assert torch.autograd.gradcheck(lambda x: rolled(x, first, (5, 7)), x.double().requires_grad_())


def test_gradients_flow_through_the_choice() -> None:
    network = build(equivariance="anchor").double()
    x = images("smooth", 32, 48, 2).requires_grad_()
    network(x)[:, 0].sum().backward()
    assert x.grad is not None
    gradient, x.grad = x.grad.clone(), None
    network(x.roll((3, 5), (2, 3)))[:, 0].sum().backward()
    torch.testing.assert_close(x.grad, gradient, rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("setting", ["frame", "centre", "anchor", "input"])
def test_several_networks_as_one_program_have_their_own_gradients(setting: str) -> None:
    networks = [build(**SETTINGS[setting]).double() for _ in range(2)]
    with torch.no_grad():
        plain(networks[1]).stem.conv1.weight.mul_(-0.5)
    x = torch.stack([images("smooth", 32, 48, 2), images("point", 32, 48, 2)])

    def loss(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x_BCHW: Tensor) -> Tensor:
        return torch.func.functional_call(networks[0], (parameters, buffers), (x_BCHW,)).square().sum()

    gradients = torch.func.vmap(torch.func.grad(loss))(*torch.func.stack_module_state(networks), x)
    for i, network in enumerate(networks):
        network(x[i]).square().sum().backward()
        for name, parameter in network.named_parameters():
            scale = parameter.grad.abs().max().item()
            torch.testing.assert_close(gradients[name][i], parameter.grad, rtol=0, atol=1e-10 * scale)


@pytest.mark.parametrize("setting", ["frame", "centre", "anchor", "input", "anchor CCTT"])
def test_maps_lie_where_their_offsets_say(setting: str) -> None:
    network = build(**SETTINGS[setting]).double()
    x = images("smooth", 32, 48)
    with torch.no_grad():
        maps, offsets = network.feature_maps_with_offsets(x)
        assert torch.equal(maps[-1], network.forward_features(x))
        for shift in shifts(32, 48, 6):
            moved_maps, moved_offsets = network.feature_maps_with_offsets(x.roll(shift, (2, 3)))
            apart = 1
            for stride, before, after, o, moved_o in zip(
                network.config.strides, maps, moved_maps, offsets, moved_offsets, strict=True
            ):
                apart *= stride
                steps = torch.tensor(shift) + o - moved_o
                assert not (steps % apart).any()
                for one, other, (a, b) in zip(before, after, (steps // apart).tolist(), strict=True):
                    torch.testing.assert_close(other, one.roll((a, b), (1, 2)), rtol=0, atol=1e-11)


def test_an_impulse_is_found_at_its_pixel() -> None:
    network = build((32, 32), equivariance="anchor").double()
    x = torch.zeros(1, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        for row, column in ((0, 0), (1, 0), (13, 30), (31, 31), (16, 17)):
            impulse = x.clone()
            impulse[0, :, row, column] = 9
            maps, offsets = network.feature_maps_with_offsets(impulse)
            empty, _ = network.feature_maps_with_offsets(x)
            place = (maps[0] - empty[0]).abs().sum(1)[0].flatten().argmax().item()
            m = torch.tensor([place // 16, place % 16])
            away = (2 * m + offsets[0][0] - torch.tensor([row, column]) + 16) % 32 - 16
            assert away.abs().max() <= 3  # two 3x3 convolutions, one on each side of the stride: they reach 3 pixels


def test_without_equivariance_offsets_are_zero() -> None:
    maps, offsets = build().feature_maps_with_offsets(torch.zeros(2, 3, 32, 48))
    assert len(maps) == len(offsets) == 5
    assert not torch.stack(offsets).any()


@pytest.mark.parametrize("setting", ["frame", "centre", "anchor", "input"])
@pytest.mark.parametrize("views", [1, 2, 4, 8])
def test_views_make_turns_and_flips_exact_too(setting: str, views: int) -> None:
    network = build((32, 32), symmetry="shift+d4", views=views, **SETTINGS[setting])
    x = images("smooth", 32, 32).float()
    with torch.no_grad():
        logits = network(x)
        for view, shift in zip(d4_views(x), shifts(32, 32, 5), strict=True):
            torch.testing.assert_close(
                network(view.roll(shift, (2, 3))), logits, rtol=0, atol=1e-5 * logits.std().item()
            )
        single = torch.stack([build((32, 32), **SETTINGS[setting])(view) for view in d4_views(x)])
        if views == 8:
            torch.testing.assert_close(single.mean(0), logits)
            assert (single[0] - logits).abs().max() > 0.05  # a view alone is something else
        if views == 1:
            assert ((single - logits).abs().amax(2) < 1e-5).any(0).all()  # one of the eight
    network.train()
    torch.manual_seed(0)
    trained = network(x)
    torch.manual_seed(0)
    assert torch.equal(trained, build((32, 32), **SETTINGS[setting]).train()(x))  # in training one view, as augmented


@pytest.mark.parametrize("setting", ["frame", "centre", "anchor", "input"])
def test_the_mirror_image_gets_the_same_answer(setting: str) -> None:
    network, alone = build(symmetry="shift+mirror", **SETTINGS[setting]), build(**SETTINGS[setting])
    x = images("smooth", 32, 48).float()
    with torch.no_grad():
        logits = network(x)
        mean = (alone(x) + alone(x.flip(3))) / 2
        torch.testing.assert_close(logits, mean)
        assert (alone(x) - logits).abs().max() > 0.01
        for shift in shifts(32, 48, 3):
            torch.testing.assert_close(
                network(x.flip(3).roll(shift, (2, 3))), logits, rtol=0, atol=1e-5 * logits.std().item()
            )
    network.train()
    torch.manual_seed(0)
    trained = network(x)
    torch.manual_seed(0)
    assert torch.equal(trained, alone.train()(x))  # in training the image alone


def test_view_scores_are_phase_scores_of_the_views() -> None:
    x = images("smooth", 32, 32).float()
    scores = view_scores(x)
    assert torch.equal(scores, torch.stack([phase_score(view).sum((1, 2)) for view in d4_views(x)]))
    assert torch.equal(scores, view_scores(x.roll((3, 8), (2, 3))))
    assert all(len(set(of_an_image)) == 8 for of_an_image in scores.T.tolist())


@pytest.mark.parametrize("count", [1, 2, 4])
def test_every_view_chooses_the_same_views(count: int) -> None:
    x = images("smooth", 32, 32, 12).float()

    def pictures(of: Tensor) -> list[set[bytes]]:
        views = [view.numpy() for view in chosen_views(of, count)]
        return [{np.ascontiguousarray(view[i]).tobytes() for view in views} for i in range(len(x))]

    expected = pictures(x)
    assert all(len(some) == count for some in expected)
    assert all(pictures(view.contiguous()) == expected for view in d4_views(x))


def test_the_eight_views_are_the_group() -> None:
    x = torch.arange(9.0).view(1, 1, 3, 3)
    views = {tuple(view.flatten().tolist()) for view in d4_views(x)}
    assert len(views) == 8
    assert torch.equal(d4_views(x)[0], x)
    assert views == {tuple(other.flatten().tolist()) for view in d4_views(x)[5:6] for other in d4_views(view)}


@pytest.mark.parametrize("kind", KINDS)
def test_canonicalize_is_exact_to_the_bit_for_any_network(kind: str) -> None:
    x = images(kind, 33, 47).float()  # nothing asks for even sizes
    torch.manual_seed(0)
    for network in (timm.create_model("resnet18", num_classes=5), build((33, 47))):
        network = Canonicalize(network).eval()
        with torch.no_grad():
            logits = network(x)
            assert all(torch.equal(network(x.roll(shift, (2, 3))), logits) for shift in shifts(33, 47, 6))


def test_canonicalize_brings_what_is_seen_to_the_middle() -> None:
    x = torch.zeros(1, 1, 32, 48)
    x[0, 0, 3:6, 40:43] = 1
    moved, first = centred(x)
    assert torch.equal(moved, rolled(x, first, (32, 48)))
    rows, columns = moved[0, 0].nonzero().T
    assert abs(rows.float().mean() - 16) <= 2
    assert abs(columns.float().mean() - 24) <= 2


def test_exact_when_compiled_and_exported() -> None:
    x = images("smooth", 32, 48, 2).float()
    for setting in ("frame", "centre", "anchor", "input"):
        network = build(**SETTINGS[setting])
        torch._dynamo.reset()
        compiled = torch.compile(network, fullgraph=True, backend="eager")
        exported = torch.export.export(network, (x,)).module()
        assert error(compiled, x, 5) < 1e-4
        assert error(exported, x, 5) < 1e-4
        with torch.no_grad():
            torch.testing.assert_close(exported(x), network(x), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["frame", "centre", "anchor", "input"])
def test_exact_when_compiled_by_inductor(setting: str) -> None:
    torch._dynamo.reset()
    assert error(torch.compile(build(**SETTINGS[setting]), fullgraph=True), images("smooth", 32, 48).float()) < 1e-4


@pytest.mark.parametrize(
    "setting",
    [
        "anchor hybrid",
        "d4",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("frame", "centre", "anchor", "input")),
    ],
)
def test_exact_in_onnxruntime(setting: str) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    settings = {"equivariance": "anchor", "symmetry": "shift+d4"} if setting == "d4" else SETTINGS[setting]
    network = build((32, 32), **settings)
    x = images("smooth", 32, 32, 3).float()
    batch = torch.export.Dim("batch", min=1, max=1024)
    with sdpa_kernel(SDPBackend.MATH):
        program = torch.onnx.export(network, (x,), dynamo=True, dynamic_shapes=({0: batch},), verbose=False)
    assert program is not None
    session = runtime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(x: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: x.numpy()})[0])

    with torch.no_grad():
        logits = network(x)
    scale = logits.std().item()
    torch.testing.assert_close(run(x), logits, rtol=0, atol=1e-4 * scale)
    torch.testing.assert_close(run(x[:1]), logits[:1], rtol=0, atol=1e-4 * scale)
    for shift in shifts(32, 32, 5):
        torch.testing.assert_close(run(x.roll(shift, (2, 3))), logits, rtol=0, atol=1e-4 * scale)
    if setting == "d4":
        torch.testing.assert_close(run(x.rot90(1, (2, 3)).contiguous()), logits, rtol=0, atol=1e-4 * scale)


def test_the_bias_on_the_torus_is_circulant_at_any_size() -> None:
    bias = PositionBias(2, (4, 6), torus=True)
    for height, width in ((4, 6), (8, 6), (3, 9), (2, 2)):
        full = bias(height, width).view(2, height, width, height, width)
        moved = full.roll((1, 1), (1, 3)).roll((1, 1), (2, 4))
        torch.testing.assert_close(moved, full, rtol=0, atol=1e-6)
    for i in range(24):
        for j in range(24):
            a, b = (i // 6 - j // 6) % 4, (i % 6 - j % 6) % 6
            assert torch.equal(bias(4, 6)[:, i, j], bias.table[:, a, b])


def test_a_constant_or_smooth_table_survives_resampling_on_the_torus() -> None:
    bias = PositionBias(1, (8, 8), torus=True)
    angle = torch.arange(8) * (2 * np.pi / 8)
    with torch.no_grad():
        bias.table.copy_((angle.cos()[:, None] + angle.sin())[None])
    fine = torch.arange(16) * (2 * np.pi / 16)
    torch.testing.assert_close(bias(16, 16)[0, :, 0].view(16, 16), fine.cos()[:, None] + fine.sin(), rtol=0, atol=0.03)


def test_sizes_that_cannot_be_exact_are_refused_with_those_that_can() -> None:
    network = build(equivariance="anchor")
    with pytest.raises(UserError, match=r"36x48 pixels.*multiple of.*8.*nearest such size is 32x48"):
        network(torch.zeros(1, 3, 36, 48))
    with pytest.raises(UserError, match=r"img_size is 100x100.*32.*96x96"):
        dataclasses.replace(VARIANTS["astroformer_0"], equivariance="input", img_size=100)
    with pytest.raises(UserError, match=r"32x48.*shift\+d4.*square"):
        build(equivariance="anchor", symmetry="shift+d4")(torch.zeros(1, 3, 32, 48))
    with pytest.raises(UserError, match="anchor"):
        dataclasses.replace(network.config, equivariance="anchr")
