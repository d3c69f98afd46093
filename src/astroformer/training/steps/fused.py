"""The fast path of training on a CPU: blocks whose forward and backward pass are written out over native kernels.

A training step of a small network is bound by memory, not by arithmetic: in eager torch every batch norm, GELU and
depthwise convolution reads and writes the wide maps again. Here each pass over a wide map does as much as can be done
in one (`native/mbconv.cpp`). In float32 the matrix products are part of these passes (`native/products.cpp`). Under
bf16 autocast torch makes the products, wide maps are bfloat16, and narrow maps and all sums are float32.

Attention over few tokens works on one head of one image at a time, so that its scores never leave the processor's cache
(`native/attention.cpp`).

`fuse(network)` gives blocks these passes. Parameters, buffers, state dict and results stay the same. The plain versions
are the forward methods of `MBConv` and `RelativeAttention`, and tests compare the two.

Legend: B images; H and W rows and columns; R = B·H·W pixels of a block's input, Q those of its output; M channels of
the wide maps, I and O of the narrow input and output, h hidden channels of the gate; U units of pixels whose sums are
kept apart. In attention L tokens, N heads, D channels of a head, E = 3D. T is the type of wide maps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from astroformer.native import Kernels, library, why_not
from astroformer.network import AstroformerConfig
from astroformer.network.attention import RelativeAttention, SqueezeExcitation
from astroformer.network.blocks import MBConv
from astroformer.network.config import GROUPS

_CHANNELS = 16  # the kernels take wide maps whose channels are a multiple of this,
_HEAD_CHANNELS = 4  # and heads whose width is one of this
_TILE = 64  # pixels that a kernel multiplies at once
# Sums of the position bias's gradient over parts of the batch; a fixed number gives the same bits on any threads.
_BIAS_GRADIENTS = 8

_FLOAT32 = Kernels("mbconv", torch.float32)  # those of narrow maps and norms are float32 in any case
_PRODUCTS = Kernels("products", torch.float32)


def fuse(network: nn.Module) -> int:
    """Gives the blocks of `network` their fused passes where these apply.

    The gain: a step takes 0.72 of the plain one's time (astroformer_atto, 64 images of 64 px, float32, one thread of an
    AVX-512 processor; median of 9 pairs of processes in turn, CPU time).

    A block changes its class and nothing else, which is how torch's own parametrizations and `fully_shard` give a
    module another forward pass. So parameters, buffers, hooks and names stay, and deep, shallow and pickled copies are
    fused too; a forward method set on the object would work on the original's weights in a shallow copy. Tests fail
    if torch stops allowing this or if a copy loses it.

    Weights of a network with a group must be equal along its orbits (`network/group.py`), and stay so.

    Blocks with CBAM and heads whose width is no multiple of 4 keep the plain pass; so does everything where there are
    no native kernels. A fused block takes the plain pass itself in evaluation and on other devices than the CPU.

    Returns:
        How many MBConv blocks and attentions are fused.
    """
    if why_not_fused() is not None:
        return 0
    count = 0
    config = getattr(network, "config", None)
    # Flips and half turns are the elements of a group that commute with each other.
    elements = GROUPS[config.group if isinstance(config, AstroformerConfig) else "none"]
    mirrors = sum(turns % 2 == 0 for turns, _ in elements)
    for block in network.modules():
        if type(block) is MBConv and _applies(block):
            block.__class__ = FusedMBConv
            block.mirrors = mirrors  # type: ignore[assignment]
            count += 1
        elif type(block) is RelativeAttention and block.head_width % _HEAD_CHANNELS == 0:
            block.__class__ = FusedRelativeAttention
            count += 1
    return count


def unfuse(network: nn.Module) -> None:
    """The inverse of `fuse`."""
    for block in network.modules():
        if type(block) is FusedMBConv:
            del block.mirrors
            block.__class__ = MBConv  # type: ignore[assignment]
        elif type(block) is FusedRelativeAttention:
            block.__class__ = RelativeAttention  # type: ignore[assignment]


def why_not_fused() -> str | None:
    """Why there is no fused path on this machine, as half a sentence; None where there is one."""
    for name in ("mbconv", "products", "attention", "update"):
        if library(name) is None:
            return why_not(name)
    return None


def _applies(block: MBConv) -> bool:
    """Whether the kernels can do what this block does."""
    return (
        isinstance(block.attention, SqueezeExcitation | nn.Identity)
        and block.depthwise.padding_mode in ("zeros", "circular")
        and block.expand.out_channels % _CHANNELS == 0
    )


def _pads(depthwise: nn.Conv2d, x_BCHW: Tensor) -> bool:
    """Whether the kernels can pad this map as the convolution asks: a circular one must be whole strides long."""
    stride = depthwise.stride[0]
    return depthwise.padding_mode != "circular" or (x_BCHW.shape[2] % stride == 0 and x_BCHW.shape[3] % stride == 0)


def _wide_type() -> torch.dtype | None:
    """T: bfloat16 under bf16 autocast, float32 without autocast, None under any other, which has no kernels."""
    if not torch.is_autocast_enabled("cpu"):
        return torch.float32
    return torch.bfloat16 if torch.get_autocast_dtype("cpu") == torch.bfloat16 else None


def _takes_plain_pass(module: nn.Module, x: Tensor, weight: Tensor) -> bool:
    """Whether this call is for the plain version."""
    suits = x.dtype in (torch.float32, torch.bfloat16) and weight.dtype == torch.float32
    return not module.training or x.device.type != "cpu" or not suits or torch.compiler.is_compiling()


class FusedMBConv(MBConv):
    """`MBConv` with its training pass over native kernels.

    Attributes:
        mirrors: how many of the flips and half turns the weights of the two products commute with: 1, 2 or 4. The pass
            relies on that, and the gradients of these weights are means over these flips and half turns.
    """

    mirrors = 1

    def forward(self, x_BCHW: Tensor) -> Tensor:
        dtype = _wide_type()
        if dtype is None or _takes_plain_pass(self, x_BCHW, self.expand.weight) or not _pads(self.depthwise, x_BCHW):
            return super().forward(x_BCHW)
        with torch.autocast("cpu", enabled=False):
            x_BCHW = x_BCHW.float().contiguous(memory_format=torch.channels_last)
            gate = self.attention
            weights = (
                *(self.norm.weight, self.norm.bias, self.expand.weight),
                *(self.expand_norm.weight, self.expand_norm.bias, self.depthwise.weight),
                *(self.depthwise_norm.weight, self.depthwise_norm.bias),
                *(
                    (gate.reduce.weight, gate.reduce.bias, gate.restore.weight, gate.restore.bias)
                    if isinstance(gate, SqueezeExcitation)
                    else (None,) * 4
                ),
                *(self.project.weight, self.project.bias),
            )
            y_BOHW = _Branch.apply(x_BCHW, self, dtype, *weights)
        around_BCHW, project = self.shortcut.pool(x_BCHW), self.shortcut.project
        if isinstance(project, nn.Conv2d):  # of 1 x 1: a product, which takes less time to start than a convolution
            around_BHWO = F.linear(around_BCHW.permute(0, 2, 3, 1), project.weight.flatten(1), project.bias)
            around_BCHW = around_BHWO.permute(0, 3, 1, 2)
        return around_BCHW + self.drop(y_BOHW)


def _norm(layer: nn.BatchNorm2d, sums_U2C: Tensor, pixels: int) -> Tensor:
    """(4, C): a batch norm on this batch, as the kernels take it; its running statistics are updated.

    Args:
        sums_U2C: of y - running mean and of its square, over the pixels of each unit.
        pixels: their number in the batch.
    """
    units, _, channels = sums_U2C.shape
    assert layer.momentum is not None
    eps, momentum = float(layer.eps), float(layer.momentum)  # an int would be passed to C as one
    norm_4C = torch.empty(4, channels)
    _FLOAT32("norm", sums_U2C, layer.weight, layer.bias, layer.running_mean, layer.running_var,
            layer.num_batches_tracked, norm_4C, units, pixels, channels, eps, momentum)  # fmt: skip
    return norm_4C


def _norm_backward(norm_4C: Tensor, sums_UkC: Tensor, pixels: int, first: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Of a batch norm: what the kernels take for its backward pass, and the gradients of its weight and bias.

    Args:
        norm_4C: of `_norm`.
        sums_UkC: at `first` the sums of dh, the gradient of its result, and at the next place those of dh (y - mean).
        pixels: their number in the batch.
    """
    units, kinds, channels = sums_UkC.shape
    back_4C = torch.empty(4, channels)
    _FLOAT32("norm_backward", norm_4C, sums_UkC, back_4C, units, kinds, first, pixels, channels)
    return back_4C, back_4C[0], back_4C[1]


class _Branch(torch.autograd.Function):
    """The residual branch of an MBConv block in training: (B, I, H, W) to (B, O, Ho, Wo), float32, channels last.

    In float32 the two products are made tile by tile together with the passes around them (`native/products.cpp`). In
    bfloat16 torch makes them, which uses the processor's instructions for that.
    """

    @staticmethod
    def forward(ctx: Any, x_BIHW: Tensor, block: FusedMBConv, dtype: torch.dtype, *weights: Tensor | None) -> Tensor:
        expand, depthwise, project = (layer.weight for layer in (block.expand, block.depthwise, block.project))
        batch, inner, height, width = x_BIHW.shape
        stride = block.depthwise.stride[0]
        out_height, out_width = -(-height // stride), -(-width // stride)
        middle, outer = expand.shape[0], project.shape[0]
        pixels, out_pixels = batch * height * width, batch * out_height * out_width
        x_RI = x_BIHW.permute(0, 2, 3, 1).reshape(-1, inner)
        call, new, tiled = Kernels("mbconv", dtype), torch.empty, dtype == torch.float32

        # Moments are taken about the running mean, which is near the mean of this batch.
        sums_B2I = new(batch, 2, inner)
        _FLOAT32("narrow_moments", x_RI, block.norm.running_mean, sums_B2I, batch, height * width, inner)
        norm0 = _norm(block.norm, sums_B2I, pixels)

        y1_RM = new(pixels, middle, dtype=dtype)
        shift_M = block.expand_norm.running_mean
        n_RI = expand_MI = None
        if tiled:
            unit = _unit_pixels(height * width)
            sums_U2M = new(-(-pixels // unit), 2, middle)
            _PRODUCTS(
                "expand", x_RI, norm0, expand, shift_M, y1_RM, sums_U2M, pixels, unit, inner, middle, block.mirrors
            )
        else:
            n_RI, sums_U2M = new(pixels, inner, dtype=dtype), new(batch, 2, middle)
            call("narrow_apply", x_RI, norm0, n_RI, pixels, inner)
            expand_MI = expand.view(middle, inner).to(dtype)
            torch.mm(n_RI, expand_MI.t(), out=y1_RM)
            call("moments", y1_RM, shift_M, sums_U2M, batch, height * width, middle)
        norm1 = _norm(block.expand_norm, sums_U2M, pixels)

        kernel_9M = depthwise.view(middle, 9).t().contiguous()
        y2_QM, sums_B2M = new(out_pixels, middle, dtype=dtype), new(batch, 2, middle)
        shift_M = block.depthwise_norm.running_mean
        shape = (batch, height, width, middle, stride, block.depthwise.padding_mode == "circular")
        call("depthwise", y1_RM, norm1, kernel_9M, shift_M, y2_QM, sums_B2M, *shape)
        norm2 = _norm(block.depthwise_norm, sums_B2M, out_pixels)

        gate = block.attention
        pooled_BM = hidden_Bh = gate_BM = None
        if isinstance(gate, SqueezeExcitation):
            assert gate.reduce.bias is not None
            assert gate.restore.bias is not None
            pooled_BM = new(batch, middle)
            call("pooled", y2_QM, norm2, pooled_BM, batch, out_pixels // batch, middle)
            hidden_Bh = F.linear(pooled_BM, gate.reduce.weight.flatten(1), gate.reduce.bias)
            gate_BM = F.linear(F.silu(hidden_Bh), gate.restore.weight.flatten(1), gate.restore.bias).sigmoid_()
        elif not tiled:
            gate_BM = torch.ones(batch, middle)

        assert block.project.bias is not None
        z_QM = project_OM = None
        if tiled:
            out_QO, unit = new(out_pixels, outer), _unit_pixels(out_pixels // batch, gate_BM)
            _PRODUCTS("project", y2_QM, norm2, gate_BM, project, block.project.bias, out_QO,
                      out_pixels, unit, middle, outer, block.mirrors)  # fmt: skip
        else:
            z_QM = torch.empty_like(y2_QM)
            call("gated", y2_QM, norm2, gate_BM, z_QM, batch, out_pixels // batch, middle)
            project_OM = project.view(outer, middle).to(dtype)
            out_QO = torch.addmm(block.project.bias.to(dtype), z_QM, project_OM.t()).float()

        maps = x_RI, n_RI, y1_RM, y2_QM, z_QM
        norms = norm0, norm1, norm2
        ctx.save_for_backward(
            *maps, expand_MI, kernel_9M, project_OM, *norms, pooled_BM, hidden_Bh, gate_BM, *weights
        )  # fmt: skip
        ctx.shape, ctx.out_pixels, ctx.dtype, ctx.mirrors = shape, out_pixels, dtype, block.mirrors
        return out_QO.view(batch, out_height, out_width, outer).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_BOHW: Tensor) -> tuple[Tensor | None, ...]:
        x_RI, n_RI, y1_RM, y2_QM, z_QM, expand_MI, kernel_9M, project_OM, norm0, norm1, norm2, *rest = ctx.saved_tensors
        pooled_BM, hidden_Bh, gate_BM, *weights = rest
        _, _, expand, _, _, depthwise, _, _, reduce, _, restore, _, project, _ = weights
        batch, height, width, middle, *_ = ctx.shape
        pixels, out_pixels, dtype = batch * height * width, ctx.out_pixels, ctx.dtype
        inner, outer = expand.shape[1], project.shape[0]
        call, new, tiled = Kernels("mbconv", dtype), torch.empty, dtype == torch.float32

        with torch.autocast("cpu", enabled=False):
            d_QO = d_BOHW.permute(0, 2, 3, 1).reshape(-1, outer)
            d_project_bias = d_QO.sum(0)
            dz_QM = torch.empty_like(y2_QM)
            if tiled:
                unit = _unit_pixels(out_pixels // batch, gate_BM)
                sums_UkM = new(-(-out_pixels // unit), 2 if gate_BM is None else 5, middle)
                d_project_OM = new(outer, middle)
                _PRODUCTS("project_backward", d_QO, y2_QM, norm2, gate_BM, project, dz_QM, sums_UkM, d_project_OM,
                          out_pixels, unit, middle, outer, ctx.mirrors)  # fmt: skip
            else:
                d_QO, sums_UkM = d_QO.to(dtype), new(batch, 5, middle)
                d_project_OM = (d_QO.t() @ z_QM).float()
                torch.mm(d_QO, project_OM, out=dz_QM)
                call("gradient_sums", dz_QM, y2_QM, norm2, sums_UkM, batch, out_pixels // batch, middle)

            spread_BM = d_reduce = d_reduce_bias = d_restore = d_restore_bias = None
            if gate_BM is not None:
                d_gate_BM, dz_slope_BM, slope_BM, dz_slope_n_BM, slope_n_BM = sums_UkM.unbind(1)
                spread_BM = torch.zeros_like(gate_BM)
                if reduce is not None:
                    # Gate = sigmoid(restore(silu(reduce(pooled)))), backwards.
                    d_restored_BM = d_gate_BM * gate_BM * (1 - gate_BM)
                    sigmoid_Bh = hidden_Bh.sigmoid()
                    d_restore, d_restore_bias = d_restored_BM.t() @ (hidden_Bh * sigmoid_Bh), d_restored_BM.sum(0)
                    d_hidden_Bh = d_restored_BM @ restore.flatten(1)
                    d_hidden_Bh *= sigmoid_Bh * (1 + hidden_Bh * (1 - sigmoid_Bh))
                    d_reduce, d_reduce_bias = d_hidden_Bh.t() @ pooled_BM, d_hidden_Bh.sum(0)
                    torch.div(d_hidden_Bh @ reduce.flatten(1), out_pixels // batch, out=spread_BM)
                    d_reduce, d_restore = d_reduce.view_as(reduce), d_restore.view_as(restore)
                dh_BM = gate_BM * dz_slope_BM + spread_BM * slope_BM
                dh_n_BM = gate_BM * dz_slope_n_BM + spread_BM * slope_n_BM
                sums_UkM = torch.stack([dh_BM, dh_n_BM], 1)

            back2, d_gamma2_M, d_beta2_M = _norm_backward(norm2, sums_UkM, out_pixels)
            dh_RM, sums_BkM = torch.empty_like(y1_RM), new(batch, 11, middle)
            call("depthwise_backward", dz_QM, y2_QM, y1_RM, norm2, norm1, gate_BM, spread_BM, back2, kernel_9M,
                 dh_RM, sums_BkM, *ctx.shape)  # fmt: skip
            d_depthwise = torch.empty_like(depthwise, memory_format=torch.contiguous_format)
            _FLOAT32("kernel_gradient", sums_BkM, d_depthwise, batch, middle)

            back1, d_gamma1_M, d_beta1_M = _norm_backward(norm1, sums_BkM, pixels, first=9)
            dn_RI = new(pixels, inner, dtype=dtype)
            if tiled:
                unit = _unit_pixels(height * width)
                sums_U2I = new(-(-pixels // unit), 2, inner)
                d_expand_MI = new(middle, inner)
                _PRODUCTS("expand_backward", dh_RM, y1_RM, norm1, back1, x_RI, norm0, expand, dn_RI, sums_U2I,
                          d_expand_MI, pixels, unit, inner, middle, ctx.mirrors)  # fmt: skip
            else:
                call("normalized_backward", dh_RM, y1_RM, norm1, back1, pixels, middle)
                d_expand_MI = (dh_RM.t() @ n_RI).float()
                torch.mm(dh_RM, expand_MI, out=dn_RI)
                sums_U2I = new(batch, 2, inner)
                call("narrow_gradient_sums", x_RI, dn_RI, norm0, sums_U2I, batch, height * width, inner)
            back0, d_gamma0_I, d_beta0_I = _norm_backward(norm0, sums_U2I, pixels)
            dx_RI = torch.empty_like(x_RI)
            call("narrow_backward", dn_RI, x_RI, norm0, back0, dx_RI, pixels, inner)
        return (
            *(dx_RI.view(batch, height, width, inner).permute(0, 3, 1, 2), None, None),
            *(d_gamma0_I, d_beta0_I, d_expand_MI.reshape(expand.shape), d_gamma1_M, d_beta1_M, d_depthwise),
            *(d_gamma2_M, d_beta2_M, d_reduce, d_reduce_bias, d_restore, d_restore_bias),
            *(d_project_OM.reshape(project.shape), d_project_bias),
        )


def _unit_pixels(pixels: int, gate_BM: Tensor | None = None) -> int:
    """Pixels of a unit, whose sums are kept apart, where an image has `pixels`.

    With a gate a unit is an image, since each has a gate of its own. Otherwise it is as many images as can be
    multiplied at once, and at least one.
    """
    return pixels if gate_BM is not None else pixels * max(1, _TILE // pixels)


class FusedRelativeAttention(RelativeAttention):
    """`RelativeAttention` with its training pass over native kernels."""

    def forward(self, x_BHWC: Tensor) -> Tensor:
        dtype = _wide_type()
        if dtype is None or _takes_plain_pass(self, x_BHWC, self.qkv.weight):
            return super().forward(x_BHWC)
        batch, height, width, _ = x_BHWC.shape
        bias_NLL = None if self.position_bias is None else self.position_bias(height, width)
        qkv_BLNE = self.qkv(x_BHWC).view(batch, height * width, self.heads, 3 * self.head_width)
        y_BLC = _Attention.apply(qkv_BLNE.to(dtype), bias_NLL, self.head_width**-0.5)
        return self.project(y_BLC.view(batch, height, width, -1))


class _Attention(torch.autograd.Function):
    """From qkv (B, L, N, 3D) and a position bias (N, L, L) float32, or None, to (B, L, N·D)."""

    @staticmethod
    def forward(ctx: Any, qkv_BLNE: Tensor, bias_NLL: Tensor | None, scale: float) -> Tensor:
        batch, tokens, heads, width = qkv_BLNE.shape
        qkv_BLNE = qkv_BLNE.contiguous()
        bias_NLL = None if bias_NLL is None else bias_NLL.float().contiguous()
        y_BLC = torch.empty(batch, tokens, heads * width // 3, dtype=qkv_BLNE.dtype)
        call = Kernels("attention", qkv_BLNE.dtype)
        call("forward", qkv_BLNE, bias_NLL, y_BLC, scale, batch, tokens, heads, width // 3)
        ctx.save_for_backward(qkv_BLNE, bias_NLL)
        ctx.scale = scale
        return y_BLC

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_BLC: Tensor) -> tuple[Tensor | None, ...]:
        qkv_BLNE, bias_NLL = ctx.saved_tensors
        batch, tokens, heads, width = qkv_BLNE.shape
        dy_BLC, d_qkv_BLNE = dy_BLC.contiguous(), torch.empty_like(qkv_BLNE)
        parts = min(batch, _BIAS_GRADIENTS)
        d_bias_PNLL = None if bias_NLL is None else torch.empty(parts, heads, tokens, tokens)
        call = Kernels("attention", qkv_BLNE.dtype)
        call("backward", qkv_BLNE, bias_NLL, dy_BLC, d_qkv_BLNE, d_bias_PNLL, ctx.scale,
             batch, tokens, heads, width // 3, parts)  # fmt: skip
        return d_qkv_BLNE, None if d_bias_PNLL is None else d_bias_PNLL.sum(0), None
