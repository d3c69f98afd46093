"""The fast path of training on a CPU: blocks whose forward and backward pass are written out over native kernels.

A training step of small networks is bound by memory, not by arithmetic: in eager torch every batch norm, GELU and
depthwise convolution reads and writes the wide maps again. Here each pass over a wide map does all that can be done to
it in one go (`native/mbconv.cpp`); the matrix products stay torch's. Under bf16 autocast wide maps are kept in
bfloat16, narrow ones and all sums in float32.

Attention over few tokens works on one head of one image at a time, so that its scores never leave the cache
(`native/attention.cpp`).

`fuse(network)` gives blocks these passes; parameters, buffers and state dict stay as they are, and so does what is
computed: the forward methods of `MBConv` and `RelativeAttention` are the plain versions, which tests compare with.

Legend: B images, H and W rows and columns, R = B·H·W pixels, M channels of the wide maps, I and O of the narrow input
and output, h hidden channels of the gate; in attention L tokens, N heads,
D channels of a head, E = 3D. T is the type of wide maps.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from astroformer.native import Kernels, library, why_not
from astroformer.network.attention import RelativeAttention, SqueezeExcitation
from astroformer.network.blocks import MBConv

_LANES = 16  # channels that a kernel works on at once
_GROUPS = 8  # of images, whose gradients of the position bias are added up apart: the same for any number of threads


def fuse(network: nn.Module) -> int:
    """Gives the blocks of `network` their fused passes where these apply; says how many have one.

    Blocks with CBAM and heads whose width is no multiple of 16 keep the plain pass, as do all where there are no
    native kernels, on other devices than the CPU and in evaluation.
    """
    if why_not_fused() is not None:
        return 0
    count = 0
    for block in network.modules():
        if type(block) is MBConv and _applies(block):
            block.__class__ = FusedMBConv  # unlike a replaced forward method, that survives copies of the network
            count += 1
        elif type(block) is RelativeAttention and block.head_width % _LANES == 0:
            block.__class__ = FusedRelativeAttention
            count += 1
    return count


def unfuse(network: nn.Module) -> None:
    """The inverse of `fuse`."""
    for block in network.modules():
        if type(block) is FusedMBConv:
            block.__class__ = MBConv  # type: ignore[assignment]
        elif type(block) is FusedRelativeAttention:
            block.__class__ = RelativeAttention  # type: ignore[assignment]


def why_not_fused() -> str | None:
    """Why there is no fused path on this machine, as half a sentence; None where there is."""
    for name in ("mbconv", "attention"):
        if library(name) is None:
            return why_not(name)
    return None


def _applies(block: MBConv) -> bool:
    gate = isinstance(block.attention, SqueezeExcitation | nn.Identity)
    known = gate and block.depthwise.padding_mode in ("zeros", "circular")
    return known and block.expand.out_channels % _LANES == 0


def _wraps(depthwise: nn.Conv2d, x_BCHW: Tensor) -> bool:
    """Whether the kernels know how to wrap this map round, if that is asked for: strides must not cut it short."""
    stride = depthwise.stride[0]
    return depthwise.padding_mode != "circular" or (x_BCHW.shape[2] % stride == 0 and x_BCHW.shape[3] % stride == 0)


def _wide_type() -> torch.dtype | None:
    """T as autocast wants it: bfloat16, float32 without autocast; None for what the kernels don't know."""
    if not torch.is_autocast_enabled("cpu"):
        return torch.float32
    return torch.bfloat16 if torch.get_autocast_dtype("cpu") == torch.bfloat16 else None


def _plain(module: nn.Module, x: Tensor, weight: Tensor) -> bool:
    """Whether this call is for the plain version."""
    known = x.dtype in (torch.float32, torch.bfloat16) and weight.dtype == torch.float32
    return not module.training or x.device.type != "cpu" or not known or torch.compiler.is_compiling()


class FusedMBConv(MBConv):
    """`MBConv` with the written-out training pass."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        dtype = _wide_type()
        if dtype is None or _plain(self, x_BCHW, self.expand.weight) or not _wraps(self.depthwise, x_BCHW):
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
        return self.shortcut(x_BCHW) + self.drop(y_BOHW)


class _Norm(NamedTuple):
    """A batch norm on this batch: h = a y + b, with a = gamma rstd and b = beta - mean a; (C,), the rows of `made`."""

    made_4C: Tensor
    mean: Tensor
    rstd: Tensor
    a: Tensor
    b: Tensor


def _norm(call: Kernels, layer: nn.BatchNorm2d, sums_B2C: Tensor, pixels: int) -> _Norm:
    """Statistics from the sums of y - running mean and of its square, and the running ones brought up to date."""
    batch, _, channels = sums_B2C.shape
    assert layer.momentum is not None
    eps, momentum = float(layer.eps), float(layer.momentum)  # a whole number would be passed as one
    made_4C = torch.empty(4, channels)
    call("norm", sums_B2C, layer.weight, layer.bias, layer.running_mean, layer.running_var,
         layer.num_batches_tracked, made_4C, batch, pixels, channels, eps, momentum)  # fmt: skip
    return _Norm(made_4C, *made_4C.unbind(0))


class _Branch(torch.autograd.Function):
    """The residual branch of an MBConv block in training: (B, I, H, W) to (B, O, Ho, Wo), float32, channels last."""

    @staticmethod
    def forward(ctx: Any, x_BIHW: Tensor, block: MBConv, dtype: torch.dtype, *weights: Tensor | None) -> Tensor:
        expand, depthwise, project = (layer.weight for layer in (block.expand, block.depthwise, block.project))
        batch, inner, height, width = x_BIHW.shape
        stride = block.depthwise.stride[0]
        out_height, out_width = -(-height // stride), -(-width // stride)
        middle, outer = expand.shape[0], project.shape[0]
        pixels, out_pixels = height * width, out_height * out_width
        x_RI = x_BIHW.permute(0, 2, 3, 1).reshape(-1, inner)
        call = Kernels("mbconv", dtype)
        sums = torch.empty

        # Moments are taken about the running mean, a guess at the mean of this batch.
        sums_B2I = sums(batch, 2, inner)
        call("narrow_moments", x_RI, block.norm.running_mean, sums_B2I, batch, pixels, inner)
        norm0 = _norm(call, block.norm, sums_B2I, pixels)
        n_RI = torch.empty(batch * pixels, inner, dtype=dtype)
        call("narrow_apply", x_RI, norm0.a, norm0.b, n_RI, batch * pixels, inner)

        expand_MI, project_OM = expand.view(middle, inner).to(dtype), project.view(outer, middle).to(dtype)
        y1_RM = n_RI @ expand_MI.t()
        sums_B2M = sums(batch, 2, middle)
        call("moments", y1_RM, block.expand_norm.running_mean, sums_B2M, batch, pixels, middle)
        norm1 = _norm(call, block.expand_norm, sums_B2M, pixels)

        kernel_9M = depthwise.view(middle, 9).t().contiguous()
        y2_QM = torch.empty(batch * out_pixels, middle, dtype=dtype)
        shift_M = block.depthwise_norm.running_mean
        sums_B2M = sums(batch, 2, middle)
        shape = (batch, height, width, middle, stride, block.depthwise.padding_mode == "circular")
        call("depthwise", y1_RM, norm1.a, norm1.b, kernel_9M, shift_M, y2_QM, sums_B2M, *shape)
        norm2 = _norm(call, block.depthwise_norm, sums_B2M, out_pixels)

        gate = block.attention
        if isinstance(gate, SqueezeExcitation):
            assert gate.reduce.bias is not None
            assert gate.restore.bias is not None
            pooled_BM = torch.empty(batch, middle)
            call("pooled", y2_QM, norm2.a, norm2.b, pooled_BM, batch, out_pixels, middle)
            hidden_Bh = F.linear(pooled_BM, gate.reduce.weight.flatten(1), gate.reduce.bias)
            gate_BM = F.linear(F.silu(hidden_Bh), gate.restore.weight.flatten(1), gate.restore.bias).sigmoid_()
        else:
            pooled_BM = hidden_Bh = torch.empty(0)
            gate_BM = torch.ones(batch, middle)
        z_QM = torch.empty_like(y2_QM)
        call("gated", y2_QM, norm2.a, norm2.b, gate_BM, z_QM, batch, out_pixels, middle)
        assert block.project.bias is not None
        out_QO = torch.addmm(block.project.bias.to(dtype), z_QM, project_OM.t())

        ctx.save_for_backward(
            x_RI,
            n_RI,
            y1_RM,
            y2_QM,
            z_QM,
            expand_MI,
            project_OM,
            norm0.made_4C,
            norm1.made_4C,
            norm2.made_4C,
            pooled_BM,
            hidden_Bh,
            gate_BM,
            *weights,
        )
        ctx.shape, ctx.out_pixels, ctx.dtype = shape, out_pixels, dtype
        return out_QO.float().view(batch, out_height, out_width, outer).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_BOHW: Tensor) -> tuple[Tensor | None, ...]:
        x_RI, n_RI, y1_RM, y2_QM, z_QM, expand_MI, project_OM, *rest = ctx.saved_tensors
        norm0, norm1, norm2 = (_Norm(made_4C, *made_4C.unbind(0)) for made_4C in rest[:3])
        pooled_BM, hidden_Bh, gate_BM, *weights = rest[3:]
        _, _, expand, _, _, depthwise, _, _, reduce, _, restore, _, project, _ = weights
        batch, height, width, middle, *_ = ctx.shape
        pixels, out_pixels, dtype = height * width, ctx.out_pixels, ctx.dtype
        inner, outer = expand.shape[1], project.shape[0]
        call = Kernels("mbconv", dtype)

        with torch.autocast("cpu", enabled=False):
            d_QO = d_BOHW.permute(0, 2, 3, 1).reshape(-1, outer)
            d_project_bias = d_QO.sum(0)
            d_QO = d_QO.to(dtype)
            d_project_OM = (d_QO.t() @ z_QM).float()
            dz_QM = d_QO @ project_OM

            sums_B5M = torch.empty(batch, 5, middle)
            call("gradient_sums", dz_QM, y2_QM, norm2.a, norm2.b, norm2.mean, norm2.rstd, sums_B5M,
                 batch, out_pixels, middle)  # fmt: skip
            d_gate_BM, dz_slope_BM, slope_BM, dz_slope_n_BM, slope_n_BM = sums_B5M.unbind(1)
            if reduce is None:
                spread_BM = torch.zeros_like(gate_BM)
                d_reduce = d_reduce_bias = d_restore = d_restore_bias = None
            else:
                # Gate = sigmoid(restore(silu(reduce(pooled)))), backwards.
                d_restored_BM = d_gate_BM * gate_BM * (1 - gate_BM)
                sigmoid_Bh = hidden_Bh.sigmoid()
                d_restore, d_restore_bias = d_restored_BM.t() @ (hidden_Bh * sigmoid_Bh), d_restored_BM.sum(0)
                d_hidden_Bh = d_restored_BM @ restore.flatten(1)
                d_hidden_Bh *= sigmoid_Bh * (1 + hidden_Bh * (1 - sigmoid_Bh))
                d_reduce, d_reduce_bias = d_hidden_Bh.t() @ pooled_BM, d_hidden_Bh.sum(0)
                spread_BM = (d_hidden_Bh @ reduce.flatten(1)) / out_pixels
                d_reduce, d_restore = d_reduce.view_as(reduce), d_restore.view_as(restore)
            d_beta2_M = (gate_BM * dz_slope_BM + spread_BM * slope_BM).sum(0)
            d_gamma2_M = (gate_BM * dz_slope_n_BM + spread_BM * slope_n_BM).sum(0)

            p_M, q_M = _pq(call, norm2, d_beta2_M, d_gamma2_M, batch * out_pixels)
            kernel_9M = depthwise.view(middle, 9).t().contiguous()
            dh_RM = torch.empty_like(y1_RM)
            sums_BkM = torch.empty(batch, 11, middle)
            call("depthwise_backward", dz_QM, y2_QM, y1_RM, norm2.a, norm2.b, gate_BM, spread_BM, p_M, q_M,
                 norm1.a, norm1.b, norm1.mean, kernel_9M, dh_RM, sums_BkM, *ctx.shape)  # fmt: skip
            sums_kM = sums_BkM.sum(0)
            d_depthwise = sums_kM[:9].t().reshape(depthwise.shape)
            d_beta1_M, d_gamma1_M = sums_kM[9], sums_kM[10] * norm1.rstd

            p_M, q_M = _pq(call, norm1, d_beta1_M, d_gamma1_M, batch * pixels)
            call("normalized_backward", dh_RM, y1_RM, norm1.a, p_M, q_M, batch * pixels, middle)
            d_expand_MI = (dh_RM.t() @ n_RI).float()
            dn_RI = dh_RM @ expand_MI

            sums_B2I = torch.empty(batch, 2, inner)
            call("narrow_gradient_sums", x_RI, dn_RI, norm0.mean, sums_B2I, batch, pixels, inner)
            sums_2I = sums_B2I.sum(0)
            d_beta0_I, d_gamma0_I = sums_2I[0], sums_2I[1] * norm0.rstd
            p_I, q_I = _pq(call, norm0, d_beta0_I, d_gamma0_I, batch * pixels)
            dx_RI = torch.empty_like(x_RI)
            call("narrow_backward", dn_RI, x_RI, norm0.a, p_I, q_I, dx_RI, batch * pixels, inner)
        return (
            *(dx_RI.view(batch, height, width, inner).permute(0, 3, 1, 2), None, None),
            *(d_gamma0_I, d_beta0_I, d_expand_MI.view_as(expand), d_gamma1_M, d_beta1_M, d_depthwise),
            *(d_gamma2_M, d_beta2_M, d_reduce, d_reduce_bias, d_restore, d_restore_bias),
            *(d_project_OM.view_as(project), d_project_bias),
        )


def _pq(call: Kernels, norm: _Norm, d_beta_C: Tensor, d_gamma_C: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """p and q of batch norm's backward pass, dy = a dh - p - q y."""
    pq_2C = torch.empty(2, len(d_beta_C))
    call("norm_backward", norm.made_4C, d_beta_C, d_gamma_C, pq_2C, count, len(d_beta_C))
    p_C, q_C = pq_2C.unbind(0)
    return p_C, q_C


class FusedRelativeAttention(RelativeAttention):
    """`RelativeAttention` with the written-out training pass."""

    def forward(self, x_BHWC: Tensor) -> Tensor:
        dtype = _wide_type()
        if dtype is None or _plain(self, x_BHWC, self.qkv.weight):
            return super().forward(x_BHWC)
        batch, height, width, _ = x_BHWC.shape
        bias_NLL = None if self.position_bias is None else self.position_bias(height, width)
        qkv_BLNE = self.qkv(x_BHWC).view(batch, height * width, self.heads, 3 * self.head_width)
        y_BLC = _Attention.apply(qkv_BLNE.to(dtype), bias_NLL, self.head_width**-0.5)
        return self.project(y_BLC.view(batch, height, width, -1))


class _Attention(torch.autograd.Function):
    """qkv (B, L, N, 3D) and bias (N, L, L) float32, or None, to (B, L, N·D)."""

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
        groups = min(batch, _GROUPS)
        d_bias_GNLL = None if bias_NLL is None else torch.empty(groups, heads, tokens, tokens)
        call = Kernels("attention", qkv_BLNE.dtype)
        call("backward", qkv_BLNE, bias_NLL, dy_BLC, d_qkv_BLNE, d_bias_GNLL, ctx.scale,
             batch, tokens, heads, width // 3, groups)  # fmt: skip
        return d_qkv_BLNE, None if d_bias_GNLL is None else d_bias_GNLL.sum(0), None
