"""`TimmAstroformer` and `TimmAnswers`: our networks with what timm asks of a model beyond what they have anyway.
`TimmMaps` is what `features_only=True` gives.

The maps of the stages (`forward_intermediates`, `feature_info`), the groups of layers that decay at different rates
(`group_matcher`), a graph of torch.fx, and weights that say which file they are of (`timm_checkpoint.py`). Answers and
the names of the weights are those of `Astroformer` and `Answers`.
"""

# No annotations from the future: torch.fx writes that of `forward` into its graph, where TorchScript reads it.

import itertools
import operator
from collections.abc import Mapping, Sequence
from typing import Any

from timm.models import get_notrace_modules, register_notrace_module
from timm.models._features import FeatureGetterNet, feature_take_indices
from torch import Tensor, fx, nn

from astroformer.errors import UserError, unknown_name
from astroformer.network import Answers, Astroformer
from astroformer.network.answers import answers_of
from astroformer.network.attention import PositionBias
from astroformer.network.blocks import StochasticDepth
from astroformer.network.framing import Frame
from astroformer.network.torus import CircularConv2d
from astroformer.weights.adapters import require
from astroformer.weights.timm_checkpoint import FromFile, weights_for

# What decides by the sizes or values of a map is one node of a graph of torch.fx, which knows neither.
for _module in (CircularConv2d, Frame, PositionBias, StochasticDepth):
    register_notrace_module(_module)


class _TimmNetwork(nn.Module):
    """What both have."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) to logits (B, num_classes), as the network's own `forward`."""
        return super().forward(x_BCHW)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As torch's.

        Raises:
            UserError: the weights do not fit, or they are of a model folder whose network has other settings. Without
                `strict`, names may differ, as ever.
        """
        state_dict = weights_for(self, state_dict)
        if strict:
            require(state_dict, self.state_dict(), "this network")
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def __prepare_scriptable__(self: Any) -> nn.Module:
        """What `torch.jit.script` compiles in place of the network, whose settings TorchScript has no words for: the
        graph that torch.fx makes of it, without what refuses images.

        Raises:
            UserError: images are moved or turned, which TorchScript has no words for either.
        """
        answers = answers_of(self)
        if self.config.equivariance != "none" or answers.frame or answers.symmetry == "shift+d4":
            raise UserError(
                "TorchScript can't say how this network moves or turns images; `torch.export.export` can, or ask for "
                "equivariance 'none' and symmetry 'shift' or 'shift+mirror'."
            )
        traced = fx.GraphModule(self, _Tracer().trace(self))
        traced.graph.eliminate_dead_code()
        traced.recompile()
        return traced


class _Tracer(fx.Tracer):
    """That of torch.fx, to which the modules above are nodes."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, tuple(get_notrace_modules())) or super().is_leaf_module(m, module_qualified_name)


class TimmAstroformer(_TimmNetwork, Astroformer):
    """An `Astroformer` that is a model of timm."""

    @property
    def global_pool(self) -> str:
        """timm's word for what the head begins with: `avg`, or an empty string if maps stay whole."""
        return "avg" if self.head.pooled else ""

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """Of the maps of S0 to S4: channels, pixels from one place to the next, and the module that makes them."""
        widths = (self.config.stem_width, *self.config.widths)
        reductions = itertools.accumulate(self.config.strides, operator.mul)
        modules = ("stem", *(f"stages.{stage}" for stage in range(len(self.config.widths))))
        return [
            {"num_chs": width, "reduction": reduction, "module": module}
            for width, reduction, module in zip(widths, reductions, modules, strict=True)
        ]

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Images (B, in_chans, H, W) to the last map and those of some stages, each (B, C, h, w).

        Args:
            x: the images.
            indices: which of S0 to S4; a number means so many of the last ones, None all.
            norm: there for timm's sake: the one norm comes after the mean over the map, so none is of a map.
            stop_early: compute no stage after the last one that is asked for.
            output_fmt: `NCHW`.
            intermediates_only: leave the last map out.

        Raises:
            UserError: `output_fmt` is another, or as `forward`.
        """
        if output_fmt != "NCHW":
            raise unknown_name("output_fmt", output_fmt, ["NCHW"])
        wanted, last = feature_take_indices(1 + len(self.stages), indices)
        x, maps = self._laid_out(x), []
        for stage in range(1 + (last if stop_early else len(self.stages))):
            x, _ = self._stage(stage, x)
            if stage in wanted:
                maps.append(x)
        return maps if intermediates_only else (x, maps)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drops the stages after the last one of `indices`, and the head, which takes maps of the last stage alone.

        Args:
            indices: as for `forward_intermediates`.
            prune_norm: there for timm's sake: the norm goes with the head.
            prune_head: drop the head though all stages stay.

        Returns:
            the indices, none of them negative.
        """
        wanted, last = feature_take_indices(1 + len(self.stages), indices)
        if prune_head or last < len(self.stages):
            self.num_features = self.head.num_features = self.feature_info[last]["num_chs"]
            self.head.norm, self.head.hidden = nn.Identity(), None  # type: ignore[assignment]
            self.reset_classifier(0, "")
        self.stages = self.stages[:last]
        return list(wanted)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns of the weights' names, from the input to the head: a group for each block, or `coarse` each stage.

        timm decays learning rates by them.
        """
        return _groups(coarse, "")


class TimmAnswers(_TimmNetwork, Answers):
    """`Answers` that are a model of timm. Maps are those of the image itself, not of its views."""

    network: TimmAstroformer

    @property
    def global_pool(self) -> str:
        """As `TimmAstroformer.global_pool`."""
        return self.network.global_pool

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """As `TimmAstroformer.feature_info`."""
        return [{**info, "module": f"network.{info['module']}"} for info in self.network.feature_info]

    def forward_intermediates(self, x: Tensor, *args: Any, **words: Any) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """As `TimmAstroformer.forward_intermediates`, of images that are moved to where their frame began."""
        return self.network.forward_intermediates(self._framed(x)[0], *args, **words)

    def prune_intermediate_layers(self, *args: Any, **words: Any) -> list[int]:
        """As `TimmAstroformer.prune_intermediate_layers`."""
        return self.network.prune_intermediate_layers(*args, **words)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """As `TimmAstroformer.group_matcher`."""
        return _groups(coarse, r"network\.")


class TimmMaps(FeatureGetterNet):  # type: ignore[misc]
    """timm's module whose answers are the maps of some stages."""

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **words: Any) -> Any:
        """As torch's. Raises a UserError for weights of a file, which are those of whole networks."""
        if isinstance(state_dict, FromFile):
            raise UserError(
                f"checkpoint_path='{state_dict.file}', features_only=True: the file is of a whole network, and of this "
                "one layers are left out. Leave features_only out, and ask the network for its maps with "
                "forward_intermediates(images, indices=…, intermediates_only=True)."
            )
        return super().load_state_dict(state_dict, *args, **words)


def _groups(coarse: bool, within: str) -> dict[str, Any]:
    block = "" if coarse else r"\.(\d+)"
    return {"stem": rf"^{within}stem", "blocks": rf"^{within}stages\.(\d+){block}"}
