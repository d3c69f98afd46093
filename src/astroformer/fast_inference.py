"""The fast path of inference: the network with its batch norms folded and its maps visited as few times as possible.

`FastInference` holds its own copy of an `Astroformer`'s weights, laid out for that, and computes what the network's
`forward` does in eval mode, which is the plain version that tests compare with:

- a batch norm is a scale and a shift a channel, so it goes into the weights before or after it: those of the stem and
  of the expansion (a 1x1 convolution pads nothing, so the norm before it folds too), and of the depthwise convolution;
- maps are (B, H, W, C) in memory and 1x1 convolutions are matrix products;
- on a CPU with a compiler, all that lies between the two matrix products of an MBConv block is one pass over the wide
  map (`native/inference.cpp`); elsewhere it is torch's own operations;
- in each stage a batch is cut into pieces whose wide maps stay in the processor's cache.

In bfloat16 the matrix products and the wide maps are in that type, all else is float32.

Legend: B images, C channels or classes, D features, H and W rows and columns, M channels of wide maps, I and
O of narrow ones.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from astroformer.native import Kernels, library
from astroformer.network.astroformer import Astroformer, check_images
from astroformer.network.attention import ConvBlockAttention, RelativeAttention, SqueezeExcitation
from astroformer.network.blocks import EXPANSION, HybridBlock, MBConv, Shortcut, Stem, TransformerBlock
from astroformer.network.framing import centred
from astroformer.network.phases import anchored
from astroformer.network.torus import wrapped
from astroformer.network.traced import Traced

_LANES = 16  # channels that a kernel works on at once
_HEAD_CHANNELS = 4  # the attention kernel takes heads whose width is a multiple of this
_MOST_TOKENS = 256  # for our attention kernel: up to here one head's scores stay in the cache, and it beats torch's
_MAP_VALUES = 4 << 20  # in the widest map of a stage, for the images that are computed together


class FastInference:
    """An `Astroformer` made ready to classify: images (B, in_chans, H, W) to logits (B, num_classes), all float32.

    Args:
        network: its weights are copied as they are now, on the device where they are now.
        dtype: of the matrix products, torch.float32 or torch.bfloat16.
    """

    def __init__(self, network: Astroformer, dtype: torch.dtype = torch.float32) -> None:
        config = self._config = network.config
        on_cpu = next(network.parameters()).device.type == "cpu"
        with torch.no_grad():
            ops = _Operations(dtype, on_cpu)
            self._stem = _Stem(network.stem, ops)
            self._stages: list[list[Callable[[Tensor], Tensor]]] = []
            for stage, blocks in enumerate(network.stages, start=1):
                period = config.anchor_period(stage)
                self._stages.append([_Anchor(period)] if period > 1 else [])
                for block in blocks.children():
                    self._stages[-1].append(_made(block, ops))
            self._head = copy.deepcopy(network.head).eval()
        # Channels that the first block of each stage makes of the map before it.
        self._wide = [
            EXPANSION * width if kind == "C" or config.transformer == "hybrid" else width
            for kind, width in zip(config.layout, config.widths, strict=True)
        ]

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        return self.traced(x_BCHW).logits

    @torch.inference_mode()
    def traced(self, x_BCHW: Tensor) -> Traced:
        check_images(x_BCHW, self._config)
        maps = self._config.map_sizes((x_BCHW.shape[2], x_BCHW.shape[3]))
        on_cpu = x_BCHW.device.type == "cpu"

        def pieces(x: Tensor, values: int) -> tuple[Tensor, ...]:
            """The batch in parts whose images, of so many values in their widest map, stay in the cache together."""
            return x.split(max(1, _MAP_VALUES // values)) if on_cpu else (x,)

        period = self._config.anchor_period(0)
        if period > 1:
            x_BCHW, _ = anchored(x_BCHW, period)
        elif self._config.equivariance == "centre":
            x_BCHW, _ = centred(x_BCHW)
        rows, columns = maps[0]
        x_BHWC = torch.cat([self._stem(some) for some in pieces(x_BCHW, rows * columns * self._config.stem_width)])
        means = [x_BHWC.mean((1, 2))]
        for blocks, (rows, columns), wide in zip(self._stages, maps, self._wide, strict=False):
            done = []
            for some in pieces(x_BHWC, rows * columns * wide):
                for block in blocks:
                    some = block(some)
                done.append(some)
            x_BHWC = torch.cat(done)
            means.append(x_BHWC.mean((1, 2)))
        features_BD = self._head(x_BHWC.permute(0, 3, 1, 2), pre_logits=True)
        return Traced(self._head.classifier(features_BD), features_BD, torch.cat([m.float() for m in means], 1))


class _Operations:
    """Products in one type, and GELU and gates by the kernels or by torch. Narrow maps are float32, wide ones dtype."""

    def __init__(self, dtype: torch.dtype, on_cpu: bool) -> None:
        self.dtype, self.on_cpu = dtype, on_cpu
        self.kernels, self.attention_kernels = (
            Kernels(source, dtype) if on_cpu and library(source) else None for source in ("inference", "attention")
        )

    def weight(self, weight_OI: Tensor) -> Tensor:
        """A copy of a weight as `product` takes it: of dtype, and where oneDNN is at hand packed for its products."""
        weight_OI = weight_OI.detach().to(self.dtype, copy=True)
        return _pack(weight_OI) if self.on_cpu and _can_pack(self.dtype) else weight_OI

    def product(self, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
        """x (..., I) of any type times what `weight` made: (..., O) of dtype."""
        x = x.to(self.dtype)
        return _packed_product(x, weight_OI, bias_O) if weight_OI.is_mkldnn else F.linear(x, weight_OI, bias_O)

    def gelu(self, x: Tensor, bias_C: Tensor) -> Tensor:
        """gelu(x + bias) for x (..., C) of dtype, a map of our own that may be overwritten; bias float32."""
        channels = len(bias_C)
        if self.kernels is None or channels % _LANES:
            return F.gelu((x + bias_C).to(x.dtype))
        self.kernels("gelu", x, bias_C, x.numel() // channels, channels)
        return x

    def middle(
        self, y_BHWM: Tensor, before_M: Tensor, kernel_9M: Tensor, after_M: Tensor, stride: int, circular: bool
    ) -> tuple[Tensor, Tensor]:
        """gelu(depthwise(gelu(y + before)) + after), (B, Ho, Wo, M) of dtype, and its means (B, M), float32."""
        batch, height, width, channels = y_BHWM.shape
        out_height, out_width = -(-height // stride), -(-width // stride)
        if self.kernels is None or channels % _LANES:
            z_BMHW = F.gelu(y_BHWM.float() + before_M).permute(0, 3, 1, 2)
            # In float32 whatever dtype is: torch's bfloat16 kernel takes ten times as long at stride 2.
            weight_M133 = kernel_9M.t().reshape(channels, 1, 3, 3)
            z_BMHW = _convolve(z_BMHW, weight_M133, after_M, stride, circular, groups=channels)
            z_BHWM = F.gelu(z_BMHW).permute(0, 2, 3, 1).contiguous()
            return z_BHWM.to(self.dtype), z_BHWM.mean((1, 2))
        out_BHWM = torch.empty(batch, out_height, out_width, channels, dtype=self.dtype)
        means_BM = torch.empty(batch, channels)
        self.kernels("middle", y_BHWM, before_M, kernel_9M, after_M, out_BHWM, means_BM,
                     batch, height, width, channels, stride, circular)  # fmt: skip
        return out_BHWM, means_BM

    def scale(self, z_BHWM: Tensor, gate_BM: Tensor) -> Tensor:
        """z times its gate, which is float32; z is overwritten."""
        batch, height, width, channels = z_BHWM.shape
        if self.kernels is None or channels % _LANES:
            return z_BHWM.mul_(gate_BM[:, None, None])
        self.kernels("scale", z_BHWM, gate_BM.contiguous(), batch, height * width, channels)
        return z_BHWM

    def attention(self, qkv_BLNE: Tensor, bias_NLL: Tensor | None) -> Tensor:
        """Attention of N heads, query, key and value side by side in E: (B, L, N·D) of dtype; bias float32."""
        batch, tokens, heads, width = qkv_BLNE.shape
        head_width = width // 3
        scale = head_width**-0.5
        if self.attention_kernels is None or head_width % _HEAD_CHANNELS or tokens > _MOST_TOKENS:
            q_BNLD, k_BNLD, v_BNLD = qkv_BLNE.transpose(1, 2).chunk(3, dim=-1)
            mask = None if bias_NLL is None else bias_NLL[None].to(self.dtype)
            y_BNLD = F.scaled_dot_product_attention(q_BNLD, k_BNLD, v_BNLD, attn_mask=mask, scale=scale)
            return y_BNLD.transpose(1, 2).flatten(2)
        y_BLC = torch.empty(batch, tokens, heads * head_width, dtype=self.dtype)
        self.attention_kernels("forward", qkv_BLNE, bias_NLL, y_BLC, scale, batch, tokens, heads, head_width)
        return y_BLC


# What torch's compiler uses for linear layers: without packing, float32 products go through MKL, which on AMD's
# processors runs a tenth slower, and a third where there are few input channels.
def _pack(weight_OI: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight_OI)
    return packed


def _packed_product(x: Tensor, packed: Tensor, bias_O: Tensor | None) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias_O, "none", [], "")
    return y


@functools.cache
def _can_pack(dtype: torch.dtype) -> bool:
    """Whether this torch on this processor multiplies by packed weights; they are none of its public names."""
    x_BI, weight_OI, bias_O = torch.ones(3, 16, dtype=dtype), torch.ones(8, 16, dtype=dtype), torch.ones(8, dtype=dtype)
    try:
        y_BO = _packed_product(x_BI, _pack(weight_OI), bias_O)
    except (AttributeError, RuntimeError, TypeError):
        return False
    return torch.equal(y_BO, F.linear(x_BI, weight_OI, bias_O))


def _scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """a and b (C,), float64, of what a batch norm does in eval mode: x -> a x + b."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    a_C = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    return a_C, norm.bias.double() - norm.running_mean.double() * a_C


class _Anchor:
    """The choice of a phase: (B, H, W, C) to the same."""

    def __init__(self, period: int) -> None:
        self.period = period

    def __call__(self, x_BHWC: Tensor) -> Tensor:
        return anchored(x_BHWC.permute(0, 3, 1, 2), self.period)[0].permute(0, 2, 3, 1)


def _convolve(
    x_BCHW: Tensor, weight: Tensor, bias: Tensor | None, stride: int, circular: bool, groups: int = 1
) -> Tensor:
    """A 3x3 convolution of a map that has its channels last in memory."""
    if not circular:
        return F.conv2d(x_BCHW, weight, bias, stride, 1, groups=groups)
    return F.conv2d(wrapped(x_BCHW.permute(0, 2, 3, 1), 1, 1).permute(0, 3, 1, 2), weight, bias, stride, groups=groups)


def _circular(layer: nn.Conv2d) -> bool:
    assert layer.padding_mode in ("zeros", "circular")
    return layer.padding_mode == "circular"


class _Stem:
    """S0: (B, C, H, W) to (B, H, W, C)."""

    def __init__(self, stem: Stem, ops: _Operations) -> None:
        self.ops, self.stride = ops, int(stem.conv1.stride[0])
        self.circular1, self.circular2 = _circular(stem.conv1), _circular(stem.conv2)
        a_C, b_C = _scale_and_shift(stem.norm)
        weight1 = (stem.conv1.weight.double() * a_C[:, None, None, None]).float()
        self.weight1 = weight1.contiguous(memory_format=torch.channels_last)
        self.bias1 = b_C.float()
        self.weight2 = stem.conv2.weight.detach().to(ops.dtype, memory_format=torch.channels_last, copy=True)

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        # The first convolution in float32: it is cheap, and the image is rounded to bfloat16 nowhere.
        x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
        y_BCHW = _convolve(x_BCHW, self.weight1, None, self.stride, self.circular1).to(self.ops.dtype)
        y_BHWC = self.ops.gelu(y_BCHW.permute(0, 2, 3, 1).contiguous(), self.bias1)
        y_BCHW = _convolve(y_BHWC.permute(0, 3, 1, 2), self.weight2, None, 1, self.circular2)
        return y_BCHW.permute(0, 2, 3, 1).float().contiguous()


class _Shortcut:
    """The way around a residual branch: (B, H, W, I) to (B, Ho, Wo, O)."""

    def __init__(self, shortcut: Shortcut, ops: _Operations) -> None:
        self.ops, self.pool = ops, shortcut.pool
        project = shortcut.project
        self.projects = isinstance(project, nn.Conv2d)
        if isinstance(project, nn.Conv2d):
            assert project.bias is not None
            self.weight_OI = ops.weight(project.weight.flatten(1))
            self.bias_O = project.bias.detach().to(ops.dtype, copy=True)

    def __call__(self, x_BHWI: Tensor) -> Tensor:
        x_BHWI = _pooled(x_BHWI, self.pool)
        return self.ops.product(x_BHWI, self.weight_OI, self.bias_O).float() if self.projects else x_BHWI


def _pooled(x_BHWC: Tensor, pool: nn.Module) -> Tensor:
    return x_BHWC if isinstance(pool, nn.Identity) else pool(x_BHWC.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class _MBConv:
    def __init__(self, block: MBConv, ops: _Operations) -> None:
        self.ops, self.stride, self.circular = ops, int(block.depthwise.stride[0]), _circular(block.depthwise)
        self.shortcut = _Shortcut(block.shortcut, ops)
        a0_I, b0_I = _scale_and_shift(block.norm)
        a1_M, b1_M = _scale_and_shift(block.expand_norm)
        a2_M, b2_M = _scale_and_shift(block.depthwise_norm)
        expand_MI = block.expand.weight.double().flatten(1)
        self.before_M = (a1_M * (expand_MI @ b0_I) + b1_M).float()
        self.expand_MI = ops.weight(a1_M[:, None] * expand_MI * a0_I)
        self.kernel_9M = (block.depthwise.weight.double().flatten(1).t() * a2_M).float().contiguous()
        self.after_M = b2_M.float()
        self.gate = _gate(block.attention)
        self.cbam = copy.deepcopy(block.attention) if isinstance(block.attention, ConvBlockAttention) else None
        assert block.project.bias is not None
        self.project_OM = ops.weight(block.project.weight.flatten(1))
        self.bias_O = block.project.bias.detach().to(ops.dtype, copy=True)

    def __call__(self, x_BHWI: Tensor) -> Tensor:
        y_BHWM = self.ops.product(x_BHWI, self.expand_MI)
        z_BHWM, means_BM = self.ops.middle(
            y_BHWM, self.before_M, self.kernel_9M, self.after_M, self.stride, self.circular
        )
        if self.gate is not None:
            z_BHWM = self.ops.scale(z_BHWM, self.gate(means_BM))
        elif self.cbam is not None:
            z_BHWM = self.cbam(z_BHWM.float().permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.shortcut(x_BHWI) + self.ops.product(z_BHWM, self.project_OM, self.bias_O)


def _gate(attention: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """From the means (B, M) of the map to the gate (B, M) of squeeze and excitation."""
    if not isinstance(attention, SqueezeExcitation):
        return None
    reduce_hM, restore_Mh = (
        layer.weight.detach().flatten(1).clone() for layer in (attention.reduce, attention.restore)
    )
    bias_h, bias_M = (_bias(layer).clone() for layer in (attention.reduce, attention.restore))

    def gate(means_BM: Tensor) -> Tensor:
        return torch.sigmoid(F.linear(F.silu(F.linear(means_BM, reduce_hM, bias_h)), restore_Mh, bias_M))

    return gate


def _made(block: nn.Module, ops: _Operations) -> Callable[[Tensor], Tensor]:
    """A block of a stage: (B, H, W, I) to (B, Ho, Wo, O)."""
    if isinstance(block, MBConv):
        return _MBConv(block, ops)
    return _Hybrid(block, ops) if isinstance(block, HybridBlock) else _Transformer(block, ops)


class _Hybrid:
    def __init__(self, block: HybridBlock, ops: _Operations) -> None:
        self.mbconv, self.norm = _MBConv(block.mbconv, ops), copy.deepcopy(block.norm)
        self.attention = _Attention(block.attention, ops, block.gamma)

    def __call__(self, x_BHWI: Tensor) -> Tensor:
        x_BHWO = self.mbconv(x_BHWI)
        return x_BHWO + self.attention(self.norm(x_BHWO))


class _Transformer:
    def __init__(self, block: nn.Module, ops: _Operations) -> None:
        assert isinstance(block, TransformerBlock)
        self.ops = ops
        self.shortcut, self.pool = _Shortcut(block.shortcut, ops), block.pool
        self.norm1, self.norm2 = copy.deepcopy(block.norm1), copy.deepcopy(block.norm2)
        self.attention = _Attention(block.attention, ops)
        expand, project = block.mlp.expand, block.mlp.project
        self.expand, self.expand_bias = ops.weight(expand.weight), _bias(expand).clone()
        self.project = ops.weight(project.weight)
        self.project_bias = _bias(project).to(ops.dtype, copy=True)

    def __call__(self, x_BHWI: Tensor) -> Tensor:
        y_BHWI = _pooled(self.norm1(x_BHWI), self.pool)
        x_BHWO = self.shortcut(x_BHWI) + self.attention(y_BHWI)
        y_BHWM = self.ops.gelu(self.ops.product(self.norm2(x_BHWO), self.expand), self.expand_bias)
        return x_BHWO + self.ops.product(y_BHWM, self.project, self.project_bias)


class _Attention:
    """Relative attention whose position bias is kept for the map size that it was last asked for.

    Args:
        gamma_C: what its result is multiplied by, a number a channel; it goes into the last product.
    """

    def __init__(self, attention: RelativeAttention, ops: _Operations, gamma_C: Tensor | None = None) -> None:
        self.ops, self.heads, self.head_width = ops, attention.heads, attention.head_width
        self.qkv = ops.weight(attention.qkv.weight)
        self.qkv_bias = _bias(attention.qkv).to(ops.dtype, copy=True)
        weight_OI, bias_O = attention.project.weight, _bias(attention.project)
        if gamma_C is not None:
            weight_OI, bias_O = gamma_C[:, None] * weight_OI, gamma_C * bias_O
        self.project, self.project_bias = ops.weight(weight_OI), bias_O.to(ops.dtype, copy=True)
        self.position_bias = copy.deepcopy(attention.position_bias)
        self.kept: tuple[tuple[int, int], Tensor] | None = None

    def __call__(self, x_BHWC: Tensor) -> Tensor:
        batch, height, width, _ = x_BHWC.shape
        kept = self.kept  # one look: other threads may ask for another size
        if self.position_bias is not None and (kept is None or kept[0] != (height, width)):
            self.kept = kept = ((height, width), self.position_bias(height, width).detach().contiguous())
        qkv_BLC = self.ops.product(x_BHWC, self.qkv, self.qkv_bias)
        qkv_BLNE = qkv_BLC.view(batch, height * width, self.heads, 3 * self.head_width)
        y_BLNC = self.ops.attention(qkv_BLNE, None if kept is None else kept[1])
        return self.ops.product(y_BLNC.view(batch, height, width, -1), self.project, self.project_bias)


def _bias(layer: nn.Conv2d | nn.Linear) -> Tensor:
    assert layer.bias is not None
    return layer.bias.detach()
