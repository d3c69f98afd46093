"""The fast path of training on a CPU: MBConv blocks whose forward and backward pass are written out.

A training step of small networks is bound by memory, not by arithmetic: in eager torch every batch norm, GELU and
depthwise convolution reads and writes the wide maps again. Here each pass over a wide map does all that can be done to
it in one go (`native/mbconv.cpp`); the matrix products stay torch's. Under bf16 autocast wide maps are kept in
bfloat16, narrow ones and all sums in float32.

`fuse(network)` gives blocks this forward pass; parameters, buffers and state dict stay as they are, and so does what
is computed: `MBConv.forward` is the plain version, which a test compares with.

The batch norm between the expansion and the depthwise convolution, y1 = x We^T, is never undone pixel by pixel in the
backward pass. With h = a y1 + b the gradient of y1 is a (dh - m - n k), n = (y1 - mu) / sigma the normalized map, m and
k the means of dh and dh n. That is linear in dh, in y1 and so in x, and both gradients of the product follow from
narrow matrices:

    dx  = dh (a We) - x We^T (a k / sigma) We - const
    dWe = a dh^T x - (a k / sigma) We x^T x - const x^T 1

Legend: B images, H and W rows and columns, R = B·H·W pixels, M channels of the wide maps, I and O of the narrow input
and output, h hidden channels of the gate. T is the type of wide maps.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from astroformer.native import library, why_not
from astroformer.network.attention import SqueezeExcitation
from astroformer.network.blocks import MBConv

_LANES = 16  # channels that a kernel works on at once


def fuse(network: nn.Module) -> int:
    """Gives the MBConv blocks of `network` the fused forward pass where it applies; says how many have it.

    Blocks with CBAM keep the plain one, as do all blocks where there are no native kernels, on other devices than the
    CPU and in evaluation.
    """
    if library("mbconv") is None:
        return 0
    blocks = [block for block in network.modules() if type(block) is MBConv and _applies(block)]
    for block in blocks:
        block.__class__ = FusedMBConv  # unlike a replaced forward method, that survives copies of the network
    return len(blocks)


def unfuse(network: nn.Module) -> None:
    """The inverse of `fuse`."""
    for block in network.modules():
        if type(block) is FusedMBConv:
            block.__class__ = MBConv


def why_not_fused() -> str | None:
    """Why there is no fused path on this machine, as half a sentence; None where there is."""
    library("mbconv")
    return why_not("mbconv")


def _applies(block: MBConv) -> bool:
    gate = isinstance(block.attention, SqueezeExcitation | nn.Identity)
    return gate and block.expand.out_channels % _LANES == 0


class FusedMBConv(MBConv):
    """`MBConv` with the written-out training pass."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        bf16 = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
        plain = not self.training or x_BCHW.device.type != "cpu" or self.expand.weight.dtype != torch.float32
        if plain or x_BCHW.dtype not in (torch.float32, torch.bfloat16) or torch.compiler.is_compiling():
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
            dtype = torch.bfloat16 if bf16 else torch.float32
            y_BOHW = _Branch.apply(x_BCHW, self, dtype, *weights)
        return self.shortcut(x_BCHW) + self.drop(y_BOHW)


class _Norm(NamedTuple):
    """A batch norm on this batch: h = a y + b, with a = gamma rstd and b = beta - mean a; each (C,)."""

    mean: Tensor
    rstd: Tensor
    a: Tensor
    b: Tensor


def _norm(layer: nn.BatchNorm2d, shift_C: Tensor, sums_B2C: Tensor, pixels: int) -> _Norm:
    """Statistics from the sums of y - shift and of its square, and the layer's running ones brought up to date."""
    sums_2C = sums_B2C.sum(0, dtype=torch.float64)
    count = pixels * len(sums_B2C)
    offset_C = sums_2C[0] / count
    variance_C = (sums_2C[1] / count - offset_C**2).clamp_(min=0.0)
    mean_C = (shift_C + offset_C).float()
    if layer.track_running_stats and layer.running_mean is not None and layer.running_var is not None:
        if layer.num_batches_tracked is not None:
            layer.num_batches_tracked.add_(1)
        momentum = layer.momentum
        assert momentum is not None, "the networks' batch norms have a fixed momentum"
        layer.running_mean.lerp_(mean_C, momentum)
        layer.running_var.lerp_((variance_C * (count / max(count - 1, 1))).float(), momentum)
    rstd_C = torch.rsqrt(variance_C + layer.eps).float()
    a_C = layer.weight * rstd_C
    return _Norm(mean_C, rstd_C, a_C, layer.bias - mean_C * a_C)


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
        call = _Kernels(dtype)
        sums = torch.empty

        shift_I = block.norm.running_mean.clone()
        sums_B2I = sums(batch, 2, inner)
        call("narrow_moments", x_RI, shift_I, sums_B2I, batch, pixels, inner)
        norm0 = _norm(block.norm, shift_I, sums_B2I, pixels)
        n_RI = torch.empty(batch * pixels, inner, dtype=dtype)
        call("narrow_apply", x_RI, norm0.a, norm0.b, n_RI, batch * pixels, inner)

        expand_MI = expand.view(middle, inner)
        y1_RM = n_RI @ expand_MI.to(dtype).t()
        shift_M = block.expand_norm.running_mean.clone()
        sums_B2M = sums(batch, 2, middle)
        call("moments", y1_RM, shift_M, sums_B2M, batch, pixels, middle)
        norm1 = _norm(block.expand_norm, shift_M, sums_B2M, pixels)

        kernel_9M = depthwise.view(middle, 9).t().contiguous()
        y2_QM = torch.empty(batch * out_pixels, middle, dtype=dtype)
        shift_M = block.depthwise_norm.running_mean.clone()
        sums_B2M = sums(batch, 2, middle)
        shape = (batch, height, width, middle, stride)
        call("depthwise", y1_RM, norm1.a, norm1.b, kernel_9M, shift_M, y2_QM, sums_B2M, *shape)
        norm2 = _norm(block.depthwise_norm, shift_M, sums_B2M, out_pixels)

        gate = block.attention
        if isinstance(gate, SqueezeExcitation):
            pooled_BM = torch.empty(batch, middle)
            call("pooled", y2_QM, norm2.a, norm2.b, pooled_BM, batch, out_pixels, middle)
            hidden_Bh = F.linear(pooled_BM, gate.reduce.weight.flatten(1), gate.reduce.bias)
            gate_BM = F.linear(F.silu(hidden_Bh), gate.restore.weight.flatten(1), gate.restore.bias).sigmoid_()
        else:
            pooled_BM = hidden_Bh = torch.empty(0)
            gate_BM = torch.ones(batch, middle)
        z_QM = torch.empty_like(y2_QM)
        call("gated", y2_QM, norm2.a, norm2.b, gate_BM, z_QM, batch, out_pixels, middle)
        out_QO = torch.addmm(block.project.bias.to(dtype), z_QM, project.view(outer, middle).to(dtype).t())

        ctx.save_for_backward(
            x_RI, n_RI, y1_RM, y2_QM, z_QM, *norm0, *norm1, *norm2, pooled_BM, hidden_Bh, gate_BM, *weights
        )
        ctx.shape, ctx.out_pixels, ctx.dtype = shape, out_pixels, dtype
        return out_QO.float().view(batch, out_height, out_width, outer).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable  # type: ignore[misc]
    def backward(ctx: Any, d_BOHW: Tensor) -> tuple[Tensor | None, ...]:
        x_RI, n_RI, y1_RM, y2_QM, z_QM, *rest = ctx.saved_tensors
        norm0, norm1, norm2 = _Norm(*rest[0:4]), _Norm(*rest[4:8]), _Norm(*rest[8:12])
        pooled_BM, hidden_Bh, gate_BM, *weights = rest[12:]
        _, _, expand, _, _, depthwise, _, _, reduce, _, restore, _, project, _ = weights
        batch, height, width, middle, stride = ctx.shape
        pixels, out_pixels, dtype = height * width, ctx.out_pixels, ctx.dtype
        inner, outer = expand.shape[1], project.shape[0]
        call = _Kernels(dtype)

        with torch.autocast("cpu", enabled=False):
            d_QO = d_BOHW.permute(0, 2, 3, 1).reshape(-1, outer)
            d_project_bias = d_QO.sum(0)
            d_QO = d_QO.to(dtype)
            d_project_OM = (d_QO.t() @ z_QM).float()
            dz_QM = d_QO @ project.view(outer, middle).to(dtype)

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

            p_M, q_M = _pq(norm2, d_beta2_M, d_gamma2_M, batch * out_pixels)
            kernel_9M = depthwise.view(middle, 9).t().contiguous()
            dh_RM = torch.empty_like(y1_RM)
            sums_BkM = torch.empty(batch, 11, middle)
            call("depthwise_backward", dz_QM, y2_QM, y1_RM, norm2.a, norm2.b, gate_BM, spread_BM, p_M, q_M,
                 norm1.a, norm1.b, norm1.mean, kernel_9M, dh_RM, sums_BkM, *ctx.shape)  # fmt: skip
            sums_kM = sums_BkM.sum(0)
            d_depthwise = sums_kM[:9].t().reshape(depthwise.shape)
            d_beta1_M, d_gamma1_M = sums_kM[9], sums_kM[10] * norm1.rstd

            # dy1 = a dh - p - q y1, y1 = n We^T: see the head of this file.
            p_M, q_M = _pq(norm1, d_beta1_M, d_gamma1_M, batch * pixels)
            expand_MI = expand.view(middle, inner)
            mixing_II = (expand_MI.t() * q_M) @ expand_MI
            dn_RI = torch.addmm(-(p_M @ expand_MI).to(dtype), n_RI, -mixing_II.to(dtype))
            dn_RI.addmm_(dh_RM, (norm1.a[:, None] * expand_MI).to(dtype))
            n_sum_I = n_RI.sum(0, dtype=torch.float32)
            gram_II = (n_RI.t() @ n_RI).float()
            d_expand_MI = norm1.a[:, None] * (dh_RM.t() @ n_RI).float()
            d_expand_MI -= q_M[:, None] * (expand_MI @ gram_II)
            d_expand_MI -= torch.outer(p_M, n_sum_I)

            sums_B2I = torch.empty(batch, 2, inner)
            call("narrow_gradient_sums", x_RI, dn_RI, norm0.mean, sums_B2I, batch, pixels, inner)
            sums_2I = sums_B2I.sum(0)
            d_beta0_I, d_gamma0_I = sums_2I[0], sums_2I[1] * norm0.rstd
            p_I, q_I = _pq(norm0, d_beta0_I, d_gamma0_I, batch * pixels)
            dx_RI = torch.empty_like(x_RI)
            call("narrow_backward", dn_RI, x_RI, norm0.a, p_I, q_I, dx_RI, batch * pixels, inner)
        return (
            *(dx_RI.view(batch, height, width, inner).permute(0, 3, 1, 2), None, None),
            *(d_gamma0_I, d_beta0_I, d_expand_MI.view_as(expand), d_gamma1_M, d_beta1_M, d_depthwise),
            *(d_gamma2_M, d_beta2_M, d_reduce, d_reduce_bias, d_restore, d_restore_bias),
            *(d_project_OM.view_as(project), d_project_bias),
        )


def _pq(norm: _Norm, d_beta_C: Tensor, d_gamma_C: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """p and q of batch norm's backward pass, dy = a dh - p - q y (Ioffe & Szegedy, arXiv 1502.03167, section 3)."""
    q_C = norm.a * norm.rstd * d_gamma_C / count
    return norm.a * d_beta_C / count - q_C * norm.mean, q_C


class _Kernels:
    """Calls of the kernels for one type of wide maps; tensors are passed by address, so they must be contiguous."""

    def __init__(self, dtype: torch.dtype) -> None:
        found = library("mbconv")
        assert found is not None, "blocks are fused only where there are kernels"
        self._library, self._suffix = found, str(dtype).removeprefix("torch.")

    def __call__(self, name: str, *arguments: Tensor | int) -> None:
        plain: list[ctypes.c_void_p | ctypes.c_int64] = []
        for argument in arguments:
            if isinstance(argument, Tensor):
                assert argument.is_contiguous(), name
                plain.append(ctypes.c_void_p(argument.data_ptr()))
            else:
                plain.append(ctypes.c_int64(argument))
        self._library[f"{name}_{self._suffix}"](*plain)
