"""Networks whose answers depend on all of their parts, which those of a fresh network do not."""

from __future__ import annotations

import torch
from torch import nn

from astroformer.network import Answers, AnswersConfig, Astroformer, AstroformerConfig, Tie
from astroformer.network.framing import Frame


def lively(config: AstroformerConfig, answers: AnswersConfig | None = None) -> Astroformer | Answers:
    """In eval mode, with statistics, norms, tables, gammas and frame that are not the neutral ones."""
    torch.manual_seed(0)
    plain = Astroformer(config).eval()
    network = Answers.around(plain, answers or AnswersConfig())
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
        if isinstance(module, Frame):
            module.weights_2K.random_(-9000, 9000)
    for name, parameter in network.named_parameters():
        if "norm" in name or name.endswith(("table", "gamma")):
            nn.init.normal_(parameter, mean=float(name.endswith(("norm.weight", "gamma"))), std=0.5)
    if config.group != "none":
        Tie(plain, config.group).even(plain)
    return network
