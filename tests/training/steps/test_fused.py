"""The fused training pass equals the plain one: outputs, gradients and running statistics."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from astroformer import native
from astroformer.network import VARIANTS, Astroformer, Tie, create_network
from astroformer.network.attention import RelativeAttention
from astroformer.network.blocks import MBConv
from astroformer.training.steps.fused import FusedMBConv, FusedRelativeAttention, fuse, unfuse, why_not_fused
from helpers.circular import made_circular

pytestmark = pytest.mark.skipif(why_not_fused() is not None, reason=f"no native kernels: {why_not_fused()}")

# Small blocks of each kind; the gate's bias and the norms' are drawn too, so that nothing is 0 by chance.
SETTINGS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "no gate": {"channel_attention": "none"},
    "no position bias": {"relative_bias": False},
    "all convolutions": {"layout": "CCCC"},
    "two Transformer stages": {"layout": "CCTT"},
    "every stride 2": {"strides": (2, 2, 2, 2, 2)},
    "odd widths": {"widths": (20, 36, 44, 48), "stem_width": 7},
    "mirror": {"group": "mirror"},
    "mirror, odd widths": {"group": "mirror", "widths": (20, 36, 44, 48), "stem_width": 6},
    "hybrid": {"transformer": "hybrid", "head_width": 8},
    "hybrid, d4": {"transformer": "hybrid", "head_width": 4, "group": "d4", "channel_attention": "none"},
    "hybrid, mirror, two stages": {"transformer": "hybrid", "head_width": 4, "group": "mirror", "layout": "CCTT"},
    "d4": {"group": "d4"},
    "d4, all convolutions without a gate": {"group": "d4", "layout": "CCCC", "channel_attention": "none"},
}


def network(seed: int = 0, **settings: Any) -> Astroformer:
    torch.manual_seed(seed)
    made = create_network("astroformer_atto", img_size=(48, 48), num_classes=5, **settings).train()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    tie(made, list(made.parameters()))
    return made.to(memory_format=torch.channels_last)


def tie(made: nn.Module, tensors: list[Tensor]) -> None:
    """Along the orbits of the network's group, if it has one."""
    assert isinstance(made, Astroformer)
    if made.config.group != "none":
        Tie(made, made.config.group).tie(tensors)


def pass_through(made: nn.Module, x_BCHW: Tensor, *, bf16: bool = False) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Logits, gradients of all parameters, and buffers after one training pass; float64."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits_BK = made(x_BCHW)
    direction_BK = torch.linspace(-1, 1, logits_BK.numel()).view_as(logits_BK).to(logits_BK.dtype)
    made.zero_grad()
    (logits_BK * direction_BK).sum().backward()
    gradients = [p.grad.double() for p in made.parameters() if p.grad is not None]
    assert len(gradients) == len(list(made.parameters()))
    tie(made, gradients)  # as training does: the fused pass gives means over a part of the group
    return logits_BK.detach().double(), gradients, [b.double() for b in made.buffers()]


def distance(a: list[Tensor], b: list[Tensor]) -> float:
    """Relative to the size of `b` as a whole: some gradients are 0 by symmetry."""
    off = sum(float(((x - y) ** 2).sum()) for x, y in zip(a, b, strict=True))
    return (off / sum(float((y**2).sum()) for y in b)) ** 0.5


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
@pytest.mark.parametrize(
    ("size", "wraps"), [((48, 48), False), ((45, 38), False), ((64, 64), True), ((32, 96), True), ((36, 41), True)]
)
def test_it_equals_the_plain_pass_in_float64(settings: dict[str, Any], size: tuple[int, int], wraps: bool) -> None:
    plain = network(**settings)
    if wraps:
        made_circular(plain)
    fused = copy.deepcopy(plain)
    assert fuse(fused) == sum(isinstance(layer, MBConv | RelativeAttention) for layer in plain.modules())
    x_BCHW = torch.randn(5, 3, *size)
    exact = pass_through(copy.deepcopy(plain).double(), x_BCHW.double())
    found, own = pass_through(fused, x_BCHW), pass_through(plain, x_BCHW)
    for what in range(3):
        mine, theirs = ([x] if isinstance(x, Tensor) else x for x in (found[what], exact[what]))
        plains = [own[what]] if isinstance(own[what], Tensor) else own[what]
        error = distance(list(mine), list(theirs))
        assert error < 5e-6
        assert error < 3 * distance(list(plains), list(theirs)) + 1e-7  # as exact as torch's own float32


@pytest.mark.parametrize("settings", [SETTINGS["as it is"], SETTINGS["no gate"]])
@pytest.mark.parametrize("wraps", [False, True])
def test_in_bfloat16_it_is_as_exact_as_autocast(settings: dict[str, Any], wraps: bool) -> None:
    plain = made_circular(network(**settings)) if wraps else network(**settings)
    fused = copy.deepcopy(plain)
    fuse(fused)
    x_BCHW = torch.randn(8, 3, 48, 48)
    exact = pass_through(copy.deepcopy(plain).double(), x_BCHW.double())
    found, own = pass_through(fused, x_BCHW, bf16=True), pass_through(plain, x_BCHW, bf16=True)
    for what in (1, 2):
        error = distance(found[what], exact[what])
        assert 1e-5 < error < 1.5 * distance(own[what], exact[what])  # above 1e-5: it is bfloat16 indeed


def test_images_of_any_brightness_have_exact_statistics() -> None:
    """Sums of squares far from 0 would lose the variance, were they not taken about the running mean."""
    plain = network()
    for layer in plain.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    fused = copy.deepcopy(plain)
    fuse(fused)
    with torch.no_grad():
        for made in (plain, fused):
            made.stages[0][0].depthwise_norm.running_mean += 0.3
    x_BCHW = 30 + torch.randn(4, 3, 48, 48)
    exact = pass_through(copy.deepcopy(plain).double(), x_BCHW.double())
    assert distance(pass_through(fused, x_BCHW)[2], exact[2]) < 1e-4


def depthwise_pass(
    y1: Tensor, d: Tensor, weight_9C: Tensor, stride: int, *, wraps: bool, plain: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Of gelu(y1) convolved: the result, the gradients of y1 and weight, by the kernels or by torch in float64.

    Maps are (B, H, W, C). The norms and the gate that the kernels fuse are made the identity.
    """
    batch, height, width, channels = y1.shape
    if plain:
        y1, weight_9C = y1.double().requires_grad_(), weight_9C.double().requires_grad_()
        z = nn.functional.gelu(y1)
        if wraps:
            rows, columns = (torch.arange(-1, size + 1) % size for size in (height, width))
            z = z[:, rows][:, :, columns]
        kernel = weight_9C.t().reshape(channels, 1, 3, 3)
        out = nn.functional.conv2d(z.permute(0, 3, 1, 2), kernel, None, stride, 0 if wraps else 1, groups=channels)
        out = out.permute(0, 2, 3, 1)
        slope = torch.autograd.functional.jvp(nn.functional.gelu, out, torch.ones_like(out))[1]
        return out.detach(), *torch.autograd.grad(out, (y1, weight_9C), d.double() * slope.detach())
    call = native.Kernels("mbconv", y1.dtype)
    norm_4C = torch.tensor([[0.0], [1.0], [1.0], [0.0]]).repeat(1, channels)  # the identity
    back_4C, zero_C, shape = torch.zeros(4, channels), torch.zeros(channels), (batch, height, width, channels, stride)
    out, gradient = torch.empty_like(d), torch.empty_like(y1)
    sums, one_BC, zero_BC = torch.empty(batch, 11, channels), torch.ones(batch, channels), torch.zeros(batch, channels)
    call("depthwise", y1, norm_4C, weight_9C, zero_C, out, torch.empty(batch, 2, channels), *shape, wraps)
    call("depthwise_backward", d, out, y1, norm_4C, norm_4C, one_BC, zero_BC, back_4C, weight_9C,
         gradient, sums, *shape, wraps)  # fmt: skip
    return out, gradient, sums[:, :9].sum(0)


MAPS = [(1, 1, 1), (1, 2, 1), (2, 1, 1), (2, 2, 1), (1, 5, 1), (7, 3, 1), (9, 10, 1)]
MAPS += [(2, 2, 2), (2, 6, 2), (4, 2, 2), (8, 10, 2)]


@pytest.mark.parametrize(("height", "width", "stride"), MAPS)
@pytest.mark.parametrize("wraps", [False, True])
def test_the_depthwise_kernels_on_small_maps(height: int, width: int, stride: int, wraps: bool) -> None:
    """A pixel may be under several taps of one window, and above a row there may be that row itself."""
    torch.manual_seed(0)
    y1, weight_9C = torch.randn(2, height, width, 48), torch.randn(9, 48)
    d = torch.randn(2, -(-height // stride), -(-width // stride), 48)
    found = depthwise_pass(y1, d, weight_9C, stride, wraps=wraps)
    exact = depthwise_pass(y1, d, weight_9C, stride, wraps=wraps, plain=True)
    for mine, theirs in zip(found, exact, strict=True):
        assert distance([mine], [theirs]) < 1e-6


@pytest.mark.parametrize(("height", "width", "stride"), [(7, 9, 1), (8, 2, 1), (8, 12, 2), (2, 4, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_circular_kernels_shift_with_the_map_to_the_bit(
    height: int, width: int, stride: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    y1, weight_9C = torch.randn(2, height, width, 48).to(dtype), torch.randn(9, 48)
    d = torch.randn(2, height // stride, width // stride, 48).to(dtype)
    out, gradient, d_weight = depthwise_pass(y1, d, weight_9C, stride, wraps=True)
    for down in range(height // stride):
        for right in range(width // stride):
            there, pixels = (down, right), (down * stride, right * stride)
            shifted = depthwise_pass(y1.roll(pixels, (1, 2)), d.roll(there, (1, 2)), weight_9C, stride, wraps=True)
            assert torch.equal(shifted[0], out.roll(there, (1, 2)))
            assert torch.equal(shifted[1], gradient.roll(pixels, (1, 2)))
            torch.testing.assert_close(shifted[2], d_weight, rtol=1e-4, atol=1e-4)


_KERNELS = """
import sys, torch
torch.set_num_threads(int(sys.argv[1]))
from astroformer.native import Kernels
torch.manual_seed(0)
B, H, W, C, L, N, D = 7, 12, 11, 48, 36, 2, 16
out = []
for dtype in (torch.float32, torch.bfloat16):
    call = Kernels("mbconv", dtype)
    y1, y2, d = (torch.randn(B, H, W, C).to(dtype) for _ in range(3))
    norm, other, back = (torch.rand(4, C) for _ in range(3))
    gate, spread, weight, shift = torch.rand(B, C), torch.rand(B, C), torch.randn(9, C), torch.zeros(C)
    def new(*shape, of=torch.float32):
        out.append(torch.zeros(*shape, dtype=of))
        return out[-1]
    call("moments", y1, shift, new(B, 2, C), B, H * W, C)
    for wraps in (False, True):
        call("depthwise", y1, norm, weight, shift, new(B, H, W, C, of=dtype), new(B, 2, C), B, H, W, C, 1, wraps)
        for gates in ((gate, spread), (None, None)):
            call("depthwise_backward", d, y2, y1, norm, other, *gates, back, weight,
                 new(B, H, W, C, of=dtype), new(B, 11, C), B, H, W, C, 1, wraps)
    call("pooled", y2, norm, new(B, C), B, H * W, C)
    call("gated", y2, norm, gate, new(B, H, W, C, of=dtype), B, H * W, C)
    call("gradient_sums", d, y2, norm, new(B, 5, C), B, H * W, C)
    x = torch.randn(B, H, W, C)
    call("narrow_gradient_sums", x, d, shift, new(B, 2, C), B, H * W, C)
    if dtype == torch.float32:
        call("narrow_moments", x, shift, new(B, 2, C), B, H * W, C)
        N, products, some = 16, Kernels("products", dtype), torch.empty(16 * C)  # gradients of weights depend on them
        narrow, narrow_norm = torch.randn(B, H, W, N), torch.rand(4, N)
        w_CN, w_NC = torch.randn(C, N), torch.randn(N, C)
        for mirrors in (1, 2, 4):
            of = B * H * W, H * W
            products("expand", narrow, narrow_norm, w_CN, shift, new(B, H, W, C), new(B, 2, C), *of, N, C, mirrors)
            for gates in (gate, None):
                products("project", y2, norm, gates, w_NC, torch.rand(N), new(B, H, W, N), *of, C, N, mirrors)
                products("project_backward", narrow, y2, norm, gates, w_NC, new(B, H, W, C),
                         new(B, 2 if gates is None else 5, C), some, *of, C, N, mirrors)
            products("expand_backward", d, y1, norm, back, narrow, narrow_norm, w_CN, new(B, H, W, N), new(B, 2, N),
                     some, *of, N, C, mirrors)
    call = Kernels("attention", dtype)
    qkv, bias, dy = torch.randn(B, L, N, 3 * D).to(dtype), torch.randn(N, L, L), torch.randn(B, L, N * D).to(dtype)
    call("forward", qkv, bias, new(B, L, N * D, of=dtype), 0.25, B, L, N, D)
    call("backward", qkv, bias, dy, new(B, L, N, 3 * D, of=dtype), new(4, N, L, L), 0.25, B, L, N, D, 4)
assert all(tensor.abs().sum() > 0 for tensor in out)
torch.save(out, sys.argv[2])
"""


def test_the_kernels_do_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    made = []
    for threads in (1, 2, 3):
        file = tmp_path / f"{threads}.pt"
        subprocess.run([sys.executable, "-c", _KERNELS, str(threads), str(file)], check=True, env=os.environ)
        made.append(torch.load(file, weights_only=True))
    for other in made[1:]:
        assert all(torch.equal(a, b) for a, b in zip(made[0], other, strict=True))


def test_tied_weights_take_the_smaller_products() -> None:
    """They read one column of each orbit alone; so of weights that are not tied they make something else."""
    made = network(group="mirror")
    fuse(made)
    assert {block.mirrors for block in made.modules() if isinstance(block, FusedMBConv)} == {2}
    x_RI, norm_4I = torch.randn(64, 16), torch.rand(4, 16)
    untied_MI, shift_M = torch.randn(64, 16), torch.zeros(64)
    tied_MI = (untied_MI + untied_MI.view(32, 2, 8, 2).flip(1, 3).reshape(64, 16)) / 2
    for weight_MI, same in ((tied_MI, True), (untied_MI, False)):
        outs = []
        for mirrors in (1, 2):
            outs.append(torch.empty(64, 64))
            native.Kernels("products", torch.float32)(
                "expand", x_RI, norm_4I, weight_MI, shift_M, outs[-1], torch.empty(1, 2, 64), 64, 64, 16, 64, mirrors
            )
        assert torch.allclose(outs[0], outs[1], atol=1e-4) == same


@pytest.mark.parametrize("settings", [SETTINGS["as it is"], SETTINGS["no gate"]])
def test_more_threads_than_there_is_work_for_give_the_same(settings: dict[str, Any]) -> None:
    """They add the gradients of a product's weights up in groups, as many as there are threads."""
    one = network(**settings)
    fuse(one)
    several = copy.deepcopy(one)
    x_BCHW = torch.randn(5, 3, 48, 48)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = pass_through(one, x_BCHW)
        torch.set_num_threads(7)
        found = pass_through(several, x_BCHW)
    finally:
        torch.set_num_threads(threads)
    for a, b in zip(found[1:], expected[1:], strict=True):
        assert distance(a, b) < 5e-6  # torch's own products differ by threads too


def test_a_pass_repeats_to_the_bit() -> None:
    made = network()
    fuse(made)
    x_BCHW = torch.randn(7, 3, 48, 48)
    first, second = (pass_through(copy.deepcopy(made), x_BCHW) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first[1], second[1], strict=True))


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in ("astroformer_4", "astroformer_5")])
def test_every_variant_has_it_throughout(name: str) -> None:
    with torch.device("meta"):
        made = create_network(name)
    assert fuse(made) == sum(made.config.depths)
    assert sum(type(layer) is FusedMBConv for layer in made.modules()) == sum(made.config.depths[:3])
    assert sum(type(layer) is FusedRelativeAttention for layer in made.modules()) == made.config.depths[3]


def test_what_it_does_not_know_stays_plain() -> None:
    made = network(channel_attention="cbam", head_width=6)
    assert fuse(made) == 0
    made = network()
    x_BCHW = torch.randn(2, 3, 48, 48)
    expected_BK = made.eval()(x_BCHW)
    fuse(made)
    assert torch.equal(made(x_BCHW), expected_BK)  # evaluation is the plain pass
    assert made.double().train()(x_BCHW.double()).dtype == torch.float64
    unfuse(made)
    assert not any(isinstance(layer, FusedMBConv | FusedRelativeAttention) for layer in made.modules())


COPIES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda made: pickle.loads(pickle.dumps(made)),
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("stage", [0, 3], ids=["MBConv", "attention"])
def test_a_copy_of_a_fused_block_is_fused_and_has_weights_of_its_own(how: str, stage: int) -> None:
    """Fails if torch or Python stop copying a module by its class."""
    made = network(group="mirror")
    fuse(made)
    kinds = (FusedMBConv, FusedRelativeAttention)
    block = next(layer for layer in made.stages[stage].modules() if isinstance(layer, kinds))
    x = torch.randn(2, 3, 3, block.qkv.in_features) if stage else torch.randn(2, block.norm.num_features, 6, 6)
    expected = block(x)
    copied = COPIES[how](block)
    assert type(copied) is type(block)
    torch.testing.assert_close(copied(x), expected)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.fill_(0.5)
    assert not torch.allclose(copied(x), expected)
    torch.testing.assert_close(block(x), expected)


def test_only_the_class_of_a_block_changes() -> None:
    """Parameters, buffers, their names and hooks stay; unfused, a network is what it was."""
    made = network(group="mirror")
    state = made.state_dict(keep_vars=True)
    attributes = [set(vars(layer)) for layer in made.modules()]
    called: list[str] = []
    block = made.stages[0][0]
    block.register_forward_hook(lambda *_: called.append("hook"))
    fuse(made)
    assert type(block) is FusedMBConv
    made(torch.randn(2, 3, 48, 48))
    assert called == ["hook"]
    fused = made.state_dict(keep_vars=True)
    assert fused.keys() == state.keys()
    assert all(fused[name] is tensor for name, tensor in state.items())
    unfuse(made)
    assert type(block) is MBConv
    assert [set(vars(layer)) for layer in made.modules()] == attributes


def test_torch_swaps_classes_too() -> None:
    """If it does not any more, look at how it gives a module another forward pass, and do that."""
    layer = nn.Linear(2, 2)
    nn.utils.parametrizations.weight_norm(layer)
    assert type(layer) is not nn.Linear
    assert isinstance(layer, nn.Linear)


def test_checkpointing_counts_the_statistics_once() -> None:
    plain = network()
    again = copy.deepcopy(plain)
    for made in (plain, again):
        fuse(made)
    again.set_grad_checkpointing()
    x_BCHW = torch.randn(4, 3, 48, 48)
    for a, b in zip(pass_through(plain, x_BCHW)[1:], pass_through(again, x_BCHW)[1:], strict=True):
        assert distance(a, b) < 1e-6  # the repeated pass takes its sums about the new running mean


def test_a_diverged_run_shows() -> None:
    made = network()
    fuse(made)
    x_BCHW = torch.randn(4, 3, 48, 48)
    x_BCHW[1, 0, 5, 5] = float("nan")
    assert made(x_BCHW).isnan().any()


def test_without_a_compiler_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASTROFORMER_NATIVE", "0")
    native.library.cache_clear()
    try:
        assert why_not_fused() == "ASTROFORMER_NATIVE=0 forbids them"
        assert fuse(network()) == 0
    finally:
        monkeypatch.undo()
        native.library.cache_clear()
